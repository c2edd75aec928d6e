#!/usr/bin/env python3
"""What more of everything costs, on this machine: CPU time of a request and memory, with 1 to 10,000 connections, with 1 to 2,000 guests at
once that wait for a backend, and with 1 to 1,000 services. A native pingora handler shows what connections cost whatever is behind them.
Prints tables, and with --write puts them into docs/performance.md.

Needs wrk and the guests of tests/guests/build.sh, and 12,000 open files. Everything listens on loopback and ends with this script.

SKIP_BUILD=1 takes the binaries in target/dist as they are, SIDELIGHT_BIN=FILE another sidelight.
"""

import argparse
import os
import resource
import socket
import statistics
import sys
import time
from contextlib import ExitStack
from datetime import date

from common import GUESTS, build, commit, free_port, machine, need, positive, publish, rounds, say, spread, start, write, wrk

CONNECTIONS = (1, 10, 100, 1_000, 10_000)
GUESTS_AT_ONCE = (1, 10, 100, 1_000, 2_000)
# What is asked of the server with any number of guests, in requests a second: their backend answers after that much later.
RATE = 4_000
SERVICES = (1, 10, 100, 1_000)


def sidelight(binaries, manifest, *more):
    port = free_port()
    command = [os.environ.get("SIDELIGHT_BIN", binaries / "sidelight"), "serve", "-C", manifest, "--addr", f"127.0.0.1:{port}", *more]
    return start("sidelight", command, port, {"RUST_LOG": "error"})


def native(binaries):
    port = free_port()
    return start("native", [binaries / "bench-native", f"127.0.0.1:{port}"], port)


def cost(server, seconds, connections, path="/", script=None, warm=1):
    """CPU time of a request, in µs: of the server, which computes nothing else."""
    wrk(server.url(path), warm, connections, script=script)
    before = server.cpu()
    load = wrk(server.url(path), seconds, connections, script=script)
    return (server.cpu() - before) / load.count * 1e6


def lines_of(unit, sizes, results, more):
    """A table: a row for each size, with the cost of a request, its ratio to the first, and the cells of `more`."""
    names = list(results[sizes[0]])
    head = " | ".join(f"{name}, µs of CPU a request | of the first" for name in names)
    lines = [f"| {unit} | {head} | {more[0]} |", "|---" * (2 * len(names) + 2) + "|"]
    for size in sizes:
        cells = []
        for name in names:
            first = statistics.median(results[sizes[0]][name])
            values = results[size][name]
            cells += [spread(values, 1), f"{statistics.median(values) / first:.2f}"]
        lines.append(f"| {size:,} | {' | '.join(cells)} | {more[1][size]} |")
        say("  " + lines[-1])
    return "\n".join(lines)


def by_name(results, names, sizes):
    return {size: {name: results[name, size] for name in names} for size in sizes}


def connections(binaries, options):
    manifest = write("bare/fastly.toml", 'manifest_version = 3\nname = "bench"\n')
    hello = GUESTS / "rust/hello.wasm"
    memory = {}
    for size in CONNECTIONS:
        # Each has had an answer and waits for what comes next.
        with sidelight(binaries, manifest, hello) as server, ExitStack() as stack:
            server.wait()
            time.sleep(1)
            before = server.rss()
            for _ in range(size):
                client = stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
                client.sendall(b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n")
                if not client.recv(1000).startswith(b"HTTP/1.1 200"):
                    sys.exit("a connection got no answer")
            memory[size] = f"{server.rss():.0f} MiB" + (f", {(server.rss() - before) * 1024 / size:.1f} KiB each" if size >= 100 else "")
    with sidelight(binaries, manifest, hello) as ours, native(binaries) as theirs:
        servers = {"sidelight": ours, "native": theirs}
        for server in servers.values():
            server.wait()
        turns = [(name, size) for size in CONNECTIONS for name in servers]
        results = rounds(turns, lambda turn: cost(servers[turn[0]], options.seconds, turn[1]), options.rounds)
    return lines_of("connections", CONNECTIONS, by_name(results, servers, CONNECTIONS), ("memory, idle after an answer", memory))


def guests(binaries, options):
    memory = {}

    def turn(turn):
        size = turn[1]
        path = f"/sleep/{size * 1000 // RATE}"
        with native(binaries) as origin:
            manifest = write("through/fastly.toml", f'manifest_version = 3\nname = "bench"\n[local_server.backends.origin]\nurl = "{origin.url("")}"\n')
            # More than there are, for those that are about to end.
            with sidelight(binaries, manifest, "--max-sandboxes", "2100", GUESTS / "rust/passthrough.wasm") as server:
                server.wait("/sleep/0")
                time.sleep(1)
                before = server.rss()
                # Each of them has many turns; the first in a place that nobody had before is dear.
                spent = cost(server, max(options.seconds, 20 * size // RATE), size, path, warm=1 + 4 * size // RATE)
                memory[size] = f"{server.rss():.0f} MiB" + (f", {(server.rss() - before) * 1024 / size:.0f} KiB each" if size >= 100 else "")
                return spent

    results = rounds([("sidelight", size) for size in GUESTS_AT_ONCE], turn, options.rounds)
    return lines_of("guests at once", GUESTS_AT_ONCE, by_name(results, ["sidelight"], GUESTS_AT_ONCE), ("memory after it", memory))


def services(binaries, options):
    memory = {}
    with ExitStack() as stack:
        servers = {}
        for size in SERVICES:
            table = "".join(
                f'[services.s{n}]\nhosts = ["s{n}.test"]\nmodule = "{GUESTS}/rust/hello.wasm"\nbackends.origin.url = "http://127.0.0.1:9"\n' for n in range(size)
            )
            server = stack.enter_context(sidelight(binaries, write(f"services-{size}/sidelight.toml", table)))
            # All of them in turn.
            script = write(
                f"services-{size}.lua",
                "local requests, n = {}, 0\n"
                f'function init() for i = 1, {size} do requests[i] = wrk.format("GET", "/", {{ Host = "s" .. (i - 1) .. ".test" }}) end end\n'
                f"function request() n = n % {size} + 1; return requests[n] end\n",
            )
            servers[size] = server, script
            server.wait_for_port()
        results = rounds([("sidelight", size) for size in SERVICES], lambda turn: cost(servers[turn[1]][0], options.seconds, options.connections, script=servers[turn[1]][1]), options.rounds)
        first = servers[SERVICES[0]][0].rss()
        for size, (server, _) in servers.items():
            memory[size] = f"{server.rss():.0f} MiB" + (f", {(server.rss() - first) * 1024 / (size - 1):.0f} KiB for each more" if size > 1 else "")
    return lines_of("services", SERVICES, by_name(results, ["sidelight"], SERVICES), ("memory after it", memory))


PARTS = {"connections": connections, "guests": guests, "services": services}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"what to measure: {', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=positive, default=3)
    parser.add_argument("--seconds", type=positive, default=3, help="of each turn")
    parser.add_argument("--connections", type=positive, default=32, help="to the services")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md; only all of them")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is named {', '.join(sorted(unknown))}")
    if options.write and options.parts:
        parser.error("--write is for a whole run")
    need("wrk")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and most < 12_000:
        sys.exit(f"at most {most} files may be open here (ulimit -Hn); 12,000 are needed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    binaries = build("sidelight", "bench-native")
    tables = [PARTS[part](binaries, options) for part in options.parts or PARTS]
    command = " ".join(["benches/growth.py", *sys.argv[1:]])
    head = (
        f"`{command}`, {date.today()}, commit {commit()}: {machine()}. {options.rounds} interleaved rounds of {options.seconds} s at least; median"
        " (lowest to highest)."
    )
    text = "\n\n".join([head, *tables])
    print(text)
    if options.write:
        publish("growth", text)


if __name__ == "__main__":
    main()
