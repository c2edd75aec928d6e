#!/usr/bin/env python3
"""Mixed load for a while, with faults, swaps and misbehaviour every few seconds, and then a look whether everything is as it was: no answer that
nothing explains, and memory, file descriptors, threads, tasks and sandboxes back to their level.

    benches/soak.py [--minutes 30]

Needs wrk and nginx, and the guests of tests/guests/build.sh. What is soaked is target/dist/sidelight (SKIP_BUILD=1: as it is), or SIDELIGHT_BIN.
Everything listens on loopback and ends with this script. Ends with 1 when something is not as it was, and says what.
"""

import argparse
import http.client
import json
import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import Counter

from common import GUESTS, ROOT, WORK, build, free_port, need, nginx, say, start, write

# Services whose every answer must be a success, whatever else happens: name, program, path.
CLEAN = [("hello", "rust/hello.wasm", "/"), ("reuse", "rust/hello_reuse.wasm", "/"), ("through", "rust/passthrough.wasm", "/small"), ("js", "js/hello.wasm", "/"),
         ("cached", "rust/cached.wasm", "/cached"), ("work", "rust/work.wasm", "/kv")]
# Those that something is done to, and what they may answer beside 200.
ROUGH = {
    "faulty": ("rust/passthrough.wasm", ["/small"], {500, 502, 503, 504}),
    "flapping": ("rust/passthrough.wasm", ["/small"], {500, 502, 503, 504}),
    "bad": ("rust/misbehave.wasm", ["/trap", "/loop", "/memory", "/exit?code=3", "/silent", "/late-trap", "/"], {500, 503}),
}


def manifest(name, origin, generation):
    return (
        f'manifest_version = 3\nname = "{name}"\n[local_server.backends.origin]\nurl = "http://127.0.0.1:{origin}"\nfirst_byte_timeout_ms = 2000\n'
        f'[[local_server.kv_stores.catalog]]\nkey = "apple"\ndata = "red {generation}"\n'
    )


class Rough(threading.Thread):
    """Asks a service that something is done to, and counts what it answers."""

    def __init__(self, port, host, paths, stop):
        super().__init__(daemon=True)
        self.port, self.host, self.paths, self.stop, self.statuses = port, host, paths, stop, Counter()

    def run(self):
        connection = None
        while not self.stop.is_set():
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("GET", random.choice(self.paths), headers={"Host": self.host})
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                if answer.will_close:
                    connection = None
            except (http.client.HTTPException, OSError) as error:
                # A response that breaks off, as traps and resets make it.
                self.statuses[type(error).__name__] += 1
                connection = None
            time.sleep(0.002)


def operate(port, method, path, body=""):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path, body=body, headers={"Host": "localhost"})
    answer = connection.getresponse()
    return answer.status, answer.read().decode()


def state(server, admin):
    """What must come back to its level."""
    text = operate(admin, "GET", "/metrics")[1]

    def metric(name):
        return sum(float(value) for value in re.findall(rf"^{name}(?:\{{[^}}]*\}})? (\S+)$", text, re.M))

    pid = server.process.pid
    return {
        "requests in flight": metric("sidelight_requests_in_flight"),
        "sandboxes": metric("sidelight_sandboxes"),
        "connections": metric("sidelight_connections"),
        "file descriptors": len(os.listdir(f"/proc/{pid}/fd")),
        "threads": len(os.listdir(f"/proc/{pid}/task")),
        "resident MiB": round(server.rss()),
    }


def settled(server, admin, level=None):
    """The same, once nothing is under way any more, and threads that are kept for a while are gone."""
    for _ in range(60):
        found = state(server, admin)
        idle = found["requests in flight"] == 0 and found["sandboxes"] == 0 and found["connections"] == 0
        if idle and (level is None or found["threads"] <= level["threads"]):
            return found
        time.sleep(1)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30, help="default 30")
    parser.add_argument("--seed", type=int, default=1, help="of what is done when")
    options = parser.parse_args()
    random.seed(options.seed)
    need("wrk", "nginx")
    binary = os.environ.get("SIDELIGHT_BIN") or build("sidelight") / "sidelight"
    write("www/small", "Hello, world!\n")
    write("www/cached", "Hello, world!\n")
    origin, flapping, port, admin = (free_port() for _ in range(4))

    def serve_files(name, at):
        return nginx(name, f"server {{ listen 127.0.0.1:{at}; root {WORK}/www; location /cached {{ alias {WORK}/www/small; add_header Cache-Control max-age=2; }} }}\n", at, workers=1)

    steady = serve_files("origin", origin)
    weak = serve_files("flapping", flapping)
    folder = WORK / "soak"
    services = ""
    for name, program in [(name, program) for name, program, _ in CLEAN] + [(name, rough[0]) for name, rough in ROUGH.items()]:
        write(f"soak/{name}.toml", manifest(name, flapping if name == "flapping" else origin, 0))
        (folder / f"{name}.wasm").write_bytes((GUESTS / program).read_bytes())
        services += f'[services.{name}]\nhosts = ["{name}.test"]\nmodule = "{name}.wasm"\nmanifest = "{name}.toml"\n'
        if name == "bad":
            services += 'limits = { sandboxes = 20, cpu = "100ms" }\n'
    hosts = write("soak/sidelight.toml", services)
    command = [binary, "serve", hosts, "--addr", f"127.0.0.1:{port}", "--admin", f"127.0.0.1:{admin}", "--data-dir", folder / "data", "--reuse-idle", "2s", "--idle-timeout", "5s", "--cache-dir", WORK / "code"]
    problems = []
    with steady, start("sidelight", command, port, {"RUST_LOG": "error"}) as server:
        server.wait_for_port(120)
        stop = threading.Event()

        # Everything once, so that what is made once is there when the level is taken.
        def clean(name, path, seconds):
            return subprocess.run(["wrk", "-t1", "-c4", f"-d{seconds}s", "--timeout", "10s", "-H", f"Host: {name}.test", f"http://127.0.0.1:{port}{path}"], capture_output=True, text=True).stdout

        def rough(seconds):
            begun = [Rough(port, f"{name}.test", paths, stop) for name, (_, paths, _) in ROUGH.items() for _ in range(3)]
            for one in begun:
                one.start()
            return begun

        for name, _, path in CLEAN:
            clean(name, path, 2)
        first = rough(0)
        time.sleep(5)
        stop.set()
        for one in first:
            one.join(40)
        stop.clear()
        level = settled(server, admin)
        say(f"level: {level}")

        until = time.monotonic() + options.minutes * 60
        callers = rough(0)
        totals, bad_answers = Counter(), []

        def steady_load(name, path):
            while time.monotonic() < until:
                seconds = max(1, min(20, int(until - time.monotonic())))
                said = clean(name, path, seconds)
                found = re.search(r"(\d+) requests in", said)
                totals[name] += int(found[1]) if found else 0
                if not found or re.search(r"Non-2xx|Socket errors", said):
                    bad_answers.append(f"{name}: {said.strip()}")

        loads = [threading.Thread(target=steady_load, args=(name, path), daemon=True) for name, _, path in CLEAN]
        for load in loads:
            load.start()
        done = Counter()
        generation, weak_is_up = 0, True
        while time.monotonic() < until:
            time.sleep(random.uniform(0.5, 2))
            generation += 1
            what = random.choice(["manifest", "program", "bad manifest", "bad program", "faults", "flap", "store", "purge", "reload"])
            name = random.choice([name for name, _, _ in CLEAN])
            done[what] += 1
            if what == "manifest":
                write(f"soak/{name}.toml", manifest(name, origin, generation))
            elif what == "program":
                file = folder / f"{name}.wasm"
                new = file.with_suffix(".new")
                new.write_bytes(file.read_bytes())
                new.rename(file)
            elif what == "bad manifest":
                good = (folder / f"{name}.toml").read_text()
                write(f"soak/{name}.toml", good + "\nthis is no manifest")
                time.sleep(1)
                write(f"soak/{name}.toml", good)
            elif what == "bad program":
                file = folder / f"{name}.wasm"
                good = file.read_bytes()
                file.write_bytes(good[: len(good) // 2])
                time.sleep(1)
                file.write_bytes(good)
            elif what == "faults":
                faults = random.choice([{"latency_ms": 50, "jitter_ms": 50}, {"errors": 50}, {"failures": 50, "failure": "connection_refused"}, {"resets": 50, "reset_after": 5}, {"bandwidth": 100}, {}])
                status, text = operate(admin, "PUT", "/faults/faulty/origin", json.dumps(faults))
                if status != 200:
                    problems.append(f"faults were refused: {status} {text}")
            elif what == "flap":
                if weak_is_up:
                    weak.__exit__()
                else:
                    weak = serve_files("flapping", flapping)
                weak_is_up = not weak_is_up
            elif what == "store":
                status, text = operate(admin, "PUT", f"/kv/work/catalog/keys/key-{generation % 50}", "x" * random.randrange(10_000))
                if status not in (200, 204):
                    problems.append(f"a write was refused: {status} {text}")
            elif what == "purge":
                operate(admin, "POST", "/service/cached/purge_all")
            elif what == "reload":
                operate(admin, "POST", "/reload")
            if server.process.poll() is not None:
                problems.append(f"the process ended with {server.process.returncode}")
                break
        for load in loads:
            load.join(60)
        stop.set()
        for one in callers:
            one.join(60)
        if weak_is_up:
            weak.__exit__()
        problems += bad_answers
        for name, (_, _, allowed) in ROUGH.items():
            seen = sum((one.statuses for one in callers if one.host == f"{name}.test"), Counter())
            say(f"{name}: {dict(seen)}")
            broken = {status: count for status, count in seen.items() if isinstance(status, int) and status != 200 and status not in allowed}
            if broken:
                problems.append(f"{name} answered {broken}")
            if not seen[200]:
                problems.append(f"{name} never answered well")
            odd = {status for status in seen if not isinstance(status, int)} - {"IncompleteRead", "RemoteDisconnected", "ConnectionResetError"}
            if odd:
                problems.append(f"{name}: {odd}")
        status, text = operate(admin, "POST", "/reload")
        if status != 200:
            problems.append(f"what is there in the end cannot be read: {text}")
        after = settled(server, admin, level)
        # What idles in pools ends by itself in time; memory that the allocator keeps is bounded.
        for what, most in (("requests in flight", 0), ("sandboxes", 0), ("connections", 0), ("file descriptors", level["file descriptors"] + 40), ("threads", level["threads"] + 4), ("resident MiB", level["resident MiB"] * 1.3 + 50)):
            if after[what] > most:
                problems.append(f"{what}: {after[what]} after it, {level[what]} before")
        say(f"after: {after}")
        log = server.log.read_text()
        unexpected = [line for line in log.splitlines() if "ERROR" in line and not re.search("cannot be used|cannot be read|no manifest|is not a valid|truncated|was not loaded", line)]
        problems += [f"log: {line}" for line in unexpected[:10]]
        if "panicked" in log:
            problems.append("something panicked: " + log[log.index("panicked") - 200 :][:1000])
        if problems:
            kept = ROOT / "target" / "soak.log"
            kept.write_text(log)
            problems.append(f"what the server logged is in {kept}")
    print(f"soak: {options.minutes:g} minutes, {sum(totals.values())} requests that had to go well, {sum(done.values())} changes ({', '.join(f'{n} {w}' for w, n in sorted(done.items()))})")
    print(f"soak: before {level}")
    print(f"soak: after  {after}")
    for problem in problems:
        print(f"soak: NOT WELL: {problem}")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
