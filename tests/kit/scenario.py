"""A Sidelight under everything that its dashboard shows: real guests, an origin, Redis, a collector, clients, and faults of each kind."""

from __future__ import annotations

import http.client
import http.server
import itertools
import os
import signal
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import kit

HOST = """\
listen = ["127.0.0.1:{http}"]
admin = "127.0.0.1:{admin}"
probes = "127.0.0.1:{probes}"
threads = 2
cache_dir = "{modules}"
data_dir = "{folder}/data"
cache = {{ memory_mib = 2, disk_mib = 16, object_mib = 1 }}
redis = {{ url = "redis://127.0.0.1:{redis}" }}
dynamic_backends = ["127.0.0.0/8"]
services_dir = "services.d"

[tls]
listen = "127.0.0.1:{https}"
certificates = [{{ certificate = "edge.pem", key = "edge.key" }}]

[limits]
queue_timeout = "100ms"
head_kib = 256

[traces]
endpoint = "http://127.0.0.1:{collector}"
delay = "200ms"
timeout = "1s"

[services.shop]
hosts = ["shop.test"]
module = "{guests}/behaviours.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"
backends.one.url = "http://127.0.0.1:{origin}"
backends.two.url = "http://127.0.0.1:{origin}"
sidelight.backends.two.faults.latency_ms = 5
backends.three.url = "http://127.0.0.1:{origin}"
sidelight.logs.events = {{ kind = "http", url = "http://127.0.0.1:{collector}/logs", flush_ms = 100 }}

# Whose backend nobody answers for, and whose records nobody takes.
[services.broken]
hosts = ["broken.test"]
module = "{guests}/behaviours.wasm"
backends.origin.url = "http://127.0.0.1:{nobody}"
sidelight.logs.events = {{ kind = "http", url = "http://127.0.0.1:{collector}/refused", queue = 4, batch = 1, flush_ms = 100 }}

# Whose backend ends a connection that it has promised to keep.
[services.flaky]
hosts = ["flaky.test"]
module = "{guests}/behaviours.wasm"
backends.origin.url = "http://127.0.0.1:{forgetful}"

# Whose one sandbox is taken.
[services.narrow]
hosts = ["narrow.test"]
module = "{guests}/behaviours.wasm"
limits = {{ sandboxes = 1 }}

[services.stores]
hosts = ["stores.test"]
module = "{guests}/stores.wasm"
config_stores.settings = {{ format = "inline-toml", contents = {{ greeting = "hello" }} }}
secret_stores.vault = [{{ key = "token", data = "s3cret" }}]
kv_stores.shared = [{{ key = "apple", data = "red" }}]
sidelight.kv_stores = {{ local = {{ keep = "embedded" }}, volatile = {{ keep = "memory" }} }}

[services.cache]
hosts = ["cache.test"]
module = "{guests}/cache.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"

[services.faults]
hosts = ["faults.test"]
module = "{guests}/misbehave.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"
limits = {{ cpu = "200ms", memory_mib = 16 }}

[services.reuse]
hosts = ["reuse.test"]
module = "{guests}/reuse.wasm"

[services.dynamic]
hosts = ["dynamic.test"]
module = "{guests}/backends.wasm"

[services.checked]
hosts = ["checked.test"]
module = "{guests}/facts.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"
sidelight.backends.origin.health_check = {{ path = "/sick", interval_ms = 1000, window = 2, threshold = 1, initial = 1 }}

[services.socket]
hosts = ["socket.test"]
module = "{guests}/handoff.wasm"
backends.origin.url = "http://127.0.0.1:{upgrading}"

# Whose time is over before its response is.
[services.tardy]
hosts = ["tardy.test"]
module = "{guests}/behaviours.wasm"
limits = {{ wall = "300ms" }}

[services.slow]
hosts = ["slow.test"]
module = "{guests}/passthrough.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"
"""


class Origin(http.server.BaseHTTPRequestHandler):
    """Answers anything: `/large…` with more than the cache takes, `/fields…` with long fields, `/sick` with 500, `/slow` after a while."""

    protocol_version = "HTTP/1.1"
    # Without it the second of a connection's small writes waits for the first one's acknowledgement.
    disable_nagle_algorithm = True
    ill = False

    def answer(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        path = self.path.removeprefix("/plain").removeprefix("/guest")
        if path.startswith("/slow"):
            time.sleep(0.15)
        body = b"x" * (2 << 20 if path.startswith("/large") else 40_000 if path.startswith("/filler") else 200)
        self.send_response(500 if path.startswith("/sick") and Origin.ill else 200)
        self.send_header("content-type", "text/plain")
        self.send_header("content-length", str(len(body)))
        self.send_header("cache-control", "max-age=1, stale-while-revalidate=60" if path.startswith("/brief") else "max-age=60")
        if path.startswith("/fields"):
            for index in range(20):
                self.send_header(f"x-long-{index}", "y" * 4_000)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_HEAD = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


class Collector(http.server.BaseHTTPRequestHandler):
    """Takes traces (unless it is told not to) and records; not those to `/refused`."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    takes_traces = True

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.path == "/refused":
            time.sleep(0.2)
        refused = self.path == "/refused" or (self.path == "/v1/traces" and not Collector.takes_traces)
        self.send_response(400 if refused else 200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


class Forgetful(socketserver.BaseRequestHandler):
    """Answers one request of a connection and ends it at the next one, without a word."""

    request: socket.socket

    def handle(self) -> None:
        if self.request.recv(65536):
            self.request.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
            self.request.recv(65536)


class Silent(socketserver.BaseRequestHandler):
    """Takes what it is sent and says nothing."""

    request: socket.socket

    def handle(self) -> None:
        while self.request.recv(65536):
            pass


class Upgrading(socketserver.BaseRequestHandler):
    """Takes over any connection, and sends back what it gets."""

    request: socket.socket

    def handle(self) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self.request.recv(65536)
            if not piece:
                return
            head += piece
        # RFC 6455 §1.3 has the client's key and this answer to it.
        self.request.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        )
        while piece := self.request.recv(65536):
            self.request.sendall(piece)


class Threaded(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that go away are no news."""


def serve(case: type[kit.Case], handler: type[socketserver.BaseRequestHandler], port: int = 0) -> int:
    """Serves until the test case ends; the port."""
    server = Threaded(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True).start()
    case.addClassCleanup(server.server_close)
    case.addClassCleanup(server.shutdown)
    return int(server.server_address[1])


def certificate(folder: Path, name: str, days: int = 30) -> None:
    """A certificate for localhost in `name`.pem, its key in `name`.key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    names = ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"]
    subject = ["-subj", "/CN=localhost", *names]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days)]
    fresh = [folder / f"{name}.{end}.new" for end in ("pem", "key")]
    kit.run([*command, *subject, "-out", fresh[0], "-keyout", fresh[1]])
    os.replace(fresh[1], key)
    os.replace(fresh[0], certificate)


class Scenario:
    """Sidelight and what is around it. `traffic` keeps it busy; `faults` makes what is rare happen, once."""

    def __init__(self, case: type[kit.Case]) -> None:
        self.case = case
        folder = case.folder
        # It expires soon, which is an alert; the one that takes its place does not.
        certificate(folder, "edge", 3)
        # A program is compiled once for all tests of the kit; that takes longer than all requests of this one.
        modules = kit.TOOLS / "modules"
        modules.mkdir(parents=True, exist_ok=True)
        self.ports = {name: kit.free_port() for name in ("http", "https", "admin", "probes", "redis", "nobody")}
        self.ports["origin"] = serve(case, Origin)
        self.ports["collector"] = serve(case, Collector)
        self.ports["forgetful"] = serve(case, Forgetful)
        self.ports["upgrading"] = serve(case, Upgrading)
        self.ports["silent"] = serve(case, Silent)
        redis = ["redis-server", "--port", str(self.ports["redis"]), "--bind", "127.0.0.1", "--save", "", "--dir", folder]
        self.redis = case.start("redis", [kit.tool("redis-server"), *redis[1:]])
        self.text = HOST.format(folder=folder, modules=modules, guests=kit.GUESTS, **self.ports)
        self.host = case.write("sidelight.toml", self.text)
        # A service that was dropped in, and cannot be used.
        case.write("services.d/faulty/service.toml", 'hosts = ["faulty.test"]\nmodule = "nowhere.wasm"\n')
        kit.wait_for("Redis", lambda: socket.create_connection(("127.0.0.1", self.ports["redis"]), 1).close() or True)
        self.sidelight = case.start("sidelight", [kit.binary(), "serve", self.host, "--log-format", "json"])
        self.sidelight.ready("answer of Sidelight", lambda: kit.request(self.ports["probes"], "/readyz").status == 200)
        self.stopping = threading.Event()
        self.rounds = 0
        self.odd: list[str] = []

    # -- requests -----------------------------------------------------------------------------------------------------

    def ask(self, service: str, path: str, expect: int = 200, **more: object) -> kit.Answer:
        headers = {"host": f"{service}.test", **more.pop("headers", {})}  # type: ignore[dict-item]
        answer = kit.request(self.ports["http"], path, headers=headers, **more)  # type: ignore[arg-type]
        if answer.status != expect:
            self.odd.append(f"{service} {path}: {answer} and not {expect}")
        return answer

    def round(self, number: int) -> Iterator[Callable[[], object]]:
        """One of each request; `number` makes some of them new ones."""
        ask = self.ask
        yield lambda: ask("shop", "/synthetic", 418)
        yield lambda: ask("shop", "/echo", method="POST", body=b"a body")
        yield lambda: ask("shop", "/pass/a")
        yield lambda: ask("shop", "/fanout")
        yield lambda: ask("shop", f"/log?msg=m{number}")
        yield lambda: ask("slow", "/slow")
        yield lambda: ask("broken", "/pass/a", 502)
        yield lambda: ask("broken", "/log?msg=lost")
        yield lambda: ask("flaky", "/pass/a")
        yield lambda: ask("nowhere", "/", 404)
        yield lambda: ask("stores", "/config?store=settings&key=greeting")
        yield lambda: ask("stores", "/secret?store=vault&key=token")
        for store in ("shared", "local", "volatile"):
            yield lambda store=store: ask("stores", f"/kv?store={store}&key=k{number % 50}", method="PUT", body=b"value")
            yield lambda store=store: ask("stores", f"/kv?store={store}&key=k{number % 50}")
            yield lambda store=store: ask("stores", f"/kv-list?store={store}")
            yield lambda store=store: ask("stores", f"/kv?store={store}&key=k{number % 50}", method="DELETE")
        # Adding what is there fails its precondition.
        yield lambda: ask("stores", "/kv?store=shared&key=apple&mode=add", 412, method="PUT", body=b"green")
        yield lambda: ask("stores", f"/check?counter=c&entry=e{number % 5}&box=b&limit=1000")
        yield lambda: ask("cache", "/plain/same")
        yield lambda: ask("cache", "/plain/brief")
        yield lambda: ask("cache", "/plain/passed", headers={"x-test-pass": "1"})
        yield lambda: ask("cache", f"/plain/large/{number}")
        yield lambda: ask("cache", f"/core/set?key=k{number}&keys=group", method="POST", body=b"y" * 40_000)
        yield lambda: ask("cache", f"/core/get?key=k{number}")
        yield lambda: ask("cache", "/purge?key=group" + ("&soft=1" if number % 2 else ""))
        for index in range(12):
            yield lambda index=index: ask("cache", f"/plain/filler/{number * 12 + index}")
        yield lambda: ask("reuse", "/")
        yield lambda: ask("dynamic", f"/?target=127.0.0.1:{self.ports['origin']}&name=d{number}")
        yield lambda: ask("checked", "/health")
        yield lambda: ask("faults", "/")
        yield lambda: self.over_tls()

    def over_tls(self) -> None:
        context = ssl._create_unverified_context()
        with socket.create_connection(("127.0.0.1", self.ports["https"]), 5) as plain, context.wrap_socket(plain) as stream:
            stream.sendall(b"GET /synthetic HTTP/1.1\r\nhost: shop.test\r\nconnection: close\r\n\r\n")
            while stream.recv(65536):
                pass

    def traffic(self) -> None:
        """Rounds of requests, until `stop`."""

        def loop() -> None:
            for number in itertools.count():
                for one in self.round(number):
                    if self.stopping.is_set():
                        return
                    try:
                        one()
                    except OSError as error:
                        self.odd.append(f"round {number}: {error!r}")
                self.rounds = number + 1

        self.thread = threading.Thread(target=loop, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        self.thread.join(30)

    # -- faults -------------------------------------------------------------------------------------------------------

    def faults(self) -> None:
        """Everything that an operator would rather not see."""
        # Twice, a scrape apart: a series that begins with its first event has no rate before the second one.
        # A service that was dropped in is got ready as long as the server of its program does not answer.
        program = f"http://127.0.0.1:{self.ports['silent']}/x#sha256={'0' * 64}"
        self.case.write("services.d/pending/service.toml", f'hosts = ["pending.test"]\nmodule = "{program}"\n')
        self.failures()
        Origin.ill = True
        time.sleep(1.5)
        self.failures()
        self.websocket()
        self.reloads()
        Collector.takes_traces = False
        time.sleep(2.5)
        Collector.takes_traces = True

    def failures(self) -> None:
        ask = self.ask
        for path in ("/trap", "/memory", "/loop", "/exit?code=3", "/silent"):
            ask("faults", path, 500)
        try:
            ask("tardy", "/stream?n=10&ms=100")
        except http.client.IncompleteRead:
            pass
        # More records than the endpoint's queue has room for, and more bytes than the cache takes.
        for number in range(30):
            ask("broken", f"/log?msg=burst{number}")
        ask("cache", "/core/set?key=large", method="POST", body=b"y" * (2 << 20))
        self.overload()
        self.oversized()
        self.failed_handshake()
        self.many_lookups()

    def lose_redis(self) -> None:
        self.redis.stop()
        self.ask("stores", "/kv?store=shared&key=apple", 500)

    def overload(self) -> None:
        def one() -> None:
            # Who gets the one sandbox, and who gets 503, is all the same.
            kit.request(self.ports["http"], "/stream?n=5&ms=100", headers={"host": "narrow.test"})

        threads = [threading.Thread(target=one) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def oversized(self) -> None:
        self.ask("shop", "/synthetic", 418, headers={f"x-{index}": "z" * 4_000 for index in range(20)})
        self.ask("shop", "/pass/fields")

    def failed_handshake(self) -> None:
        with socket.create_connection(("127.0.0.1", self.ports["https"]), 5) as stream:
            stream.sendall(b"this is not TLS\r\n\r\n")
            stream.recv(1024)

    def websocket(self) -> None:
        """A connection that a backend takes over, held for two scrapes."""
        with socket.create_connection(("127.0.0.1", self.ports["http"]), 10) as stream:
            stream.sendall(
                b"GET /ws/origin HTTP/1.1\r\nHost: socket.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
                b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            )
            head = stream.recv(65536)
            if b" 101 " not in head.split(b"\r\n", 1)[0]:
                self.odd.append(f"no WebSocket: {head[:200]!r}")
            time.sleep(2.5)

    def many_lookups(self) -> None:
        self.ask("stores", "/configs?store=settings&key=greeting&n=40")
        self.ask("faults", "/many?n=40")
        self.ask("dynamic", f"/?target=127.0.0.1:{self.ports['origin']}&name=m&count=220")
        # Above production's CPU time, below this host's.
        self.ask("reuse", "/burn?n=80")

    def reloads(self) -> None:
        """One that is taken, one that is refused, the same again, and a certificate that is renewed."""
        reload = lambda expect: self.expect("/reload", expect)  # noqa: E731
        self.host.write_text(self.text.replace('greeting = "hello"', 'greeting = "good day"'))
        reload(200)
        self.host.write_text(self.text + "\n[services.wrong]\nmodule = 7\n")
        reload(422)
        # For as long as the alert's time, as the test of the rules has it, and two scrapes.
        time.sleep(7)
        # Another program for one of them.
        self.host.write_text(self.text.replace("passthrough.wasm", "hello.wasm"))
        reload(200)
        self.sidelight.send(signal.SIGHUP)
        certificate(self.case.folder, "edge", 60)

    def expect(self, path: str, status: int) -> None:
        answer = kit.request(self.ports["admin"], path, method="POST")
        # The watcher may have been quicker: then there is nothing new to be refused, or taken.
        if answer.status != status:
            self.odd.append(f"{path}: {answer} and not {status}")
