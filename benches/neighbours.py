#!/usr/bin/env python3
"""What a service's requests notice of what the programs and clients of another do: latency at a fixed rate of a small Rust program, alone and
beside attacks, in turns; and the same with what is attacked in another process, which shows how much of it is the machine's. With --write the table goes into docs/performance.md.

Needs wrk, go (for vegeta) and the guests of tests/guests/build.sh. Everything listens on loopback and ends with this script.

SKIP_BUILD=1 takes the binary in target/dist as it is, SIDELIGHT_BIN=FILE another one.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import date

from common import GUESTS, PEERS, WORK, build, commit, free_port, machine, need, positive, publish, ratios, rounds, say, spread, start, write
from peers import vegeta_is_there

# Of the service that is watched, in requests a second.
RATE = 500


def ask(port, host, path, rate, seconds):
    """Latencies in ms."""
    results = WORK / f"vegeta-{host}.bin"
    target = f"GET http://127.0.0.1:{port}{path}\nHost: {host}\n"
    with results.open("wb") as file:
        command = [PEERS / "bin/vegeta", "attack", f"-rate={rate}", f"-duration={seconds}s", "-workers=8", "-max-workers=64", "-timeout=10s"]
        subprocess.run([str(word) for word in command], input=target.encode(), stdout=file, check=True)
    report = json.loads(subprocess.run([str(PEERS / "bin/vegeta"), "report", "-type=json", str(results)], capture_output=True, check=True).stdout)
    if report["success"] < 1:
        sys.exit(f"the service that is watched failed: {report['status_codes']} {report['errors'][:3]}")
    return {p: report["latencies"][p] / 1e6 for p in ("50th", "99th")}


@contextmanager
def programs(port, path, connections):
    """Clients that ask for a program that misbehaves, one request after another each, whatever it answers."""
    command = ["wrk", "-t1", f"-c{connections}", "-d60s", "-H", "Host: loud.test", f"http://127.0.0.1:{port}{path}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


@contextmanager
def clients(port, begin, piece, count):
    """Clients that begin like this, and then send a piece every 50 ms."""
    stop = threading.Event()
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]

    def drip():
        for one in sockets:
            one.sendall(begin)
        while not stop.wait(0.05):
            for one in sockets:
                try:
                    one.sendall(piece)
                except OSError:
                    pass

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for one in sockets:
            one.close()


@contextmanager
def nobody(port):
    yield


# Paced where what is shown would be the load generator's share of two cores otherwise.
ATTACKS = {
    "nobody": nobody,
    "loops to the CPU limit (50 ms), 8 at once": lambda port: programs(port, "/loop", 8),
    "takes all memory, 2 at once": lambda port: programs(port, "/memory", 2),
    "writes 100 MiB with one instruction, 2 at once": lambda port: programs(port, "/fill", 2),
    "traps, one after another": lambda port: programs(port, "/trap", 1),
    "never answers, 8 at once": lambda port: programs(port, "/silent", 8),
    "200 clients whose heads drip": lambda port: clients(port, b"GET / HTTP/1.1\r\nHost: loud.test\r\nX: ", b"x", 200),
    "200 clients whose bodies drip": lambda port: clients(port, b"POST /heavy HTTP/1.1\r\nHost: loud.test\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", 200),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=positive, default=5, help="default 5")
    parser.add_argument("--seconds", type=positive, default=4, help="of each turn; default 4")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md")
    options = parser.parse_args()
    need("wrk")
    if not vegeta_is_there():
        sys.exit("vegeta could not be had: it needs go and the Go module proxy")
    binaries = build("sidelight")
    port, other = free_port(), free_port()
    loud = f'[services.loud]\nhosts = ["loud.test"]\nmodule = "{GUESTS}/rust/misbehave.wasm"\nlimits = {{ sandboxes = 50, cpu = "50ms" }}\n'
    both = write("neighbours/sidelight.toml", f'[services.quiet]\nhosts = ["quiet.test"]\nmodule = "{GUESTS}/rust/hello.wasm"\n{loud}')
    apart = write("neighbours/apart.toml", loud)

    def serve(name, file, port):
        command = [os.environ.get("SIDELIGHT_BIN", binaries / "sidelight"), "serve", file, "--addr", f"127.0.0.1:{port}", "--head-timeout", "60s"]
        return start(name, command, port, {"RUST_LOG": "off"})

    with serve("sidelight", both, port) as server, serve("apart", apart, other) as second:
        server.wait_for_port()
        second.wait_for_port()
        ask(port, "quiet.test", "/", RATE, 2)

        def turn(what):
            name, attacked = what
            with ATTACKS[name](attacked):
                time.sleep(0.3)
                return ask(port, "quiet.test", "/", RATE, options.seconds)

        turns = [(name, at) for name in ATTACKS for at in ((port,) if name == "nobody" else (port, other))]
        results = rounds(turns, turn, options.rounds)
    head = "| beside it | p50, ms | p99, ms | p99 to that alone | p99 with that in a process of its own, ms | p99 to that |"
    lines = [head, "|---|---|---|---|---|---|"]
    alone = [one["99th"] for one in results[("nobody", port)]]
    for name in ATTACKS:
        values = results[(name, port)]
        own = [one["99th"] for one in values]
        line = f"| {name} | {spread([one['50th'] for one in values])} | {spread(own)} |"
        if name == "nobody":
            line += " | | |"
        else:
            away = [one["99th"] for one in results[(name, other)]]
            line += f" {spread(ratios(own, alone))} | {spread(away)} | {spread(ratios(own, away))} |"
        lines.append(line)
        say(f"  {line}")
    head = f"`benches/neighbours.py`, {date.today()}, commit {commit()}: {machine()}. {RATE} requests a second to a Rust hello, {options.rounds} interleaved rounds of {options.seconds} s; median (lowest to highest)."
    text = "\n\n".join([head, "\n".join(lines)])
    print(text)
    if options.write:
        publish("neighbours", text)


if __name__ == "__main__":
    main()
