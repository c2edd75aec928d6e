"""`kubectl port-forward`: SPDY/3.1 over a connection that was upgraded, as far as kubectl speaks it."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO

from .model import ApiError

if TYPE_CHECKING:
    from .server import Handler, Node

PROTOCOL = "portforward.k8s.io"

# The dictionary that SPDY/3 compresses fields with: names with their lengths, then text.
_NAMES = """options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age allow authorization
cache-control connection content-base content-encoding content-language content-length content-location content-md5 content-range content-type date
etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma
proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade user-agent vary via warning
www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin""".replace("_", " ")
_CODES = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 Non-Authoritative Information204 No Content"
    "301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
)
_REST = (
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,"
    "application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)


def _dictionary() -> bytes:
    words = [w.encode() for w in _NAMES.replace("200 OK", "200\0OK").split()]
    words = [w.replace(b"\0", b" ") for w in words]
    return b"".join(struct.pack(">I", len(w)) + w for w in words) + (_CODES + _REST).encode()


DICTIONARY = _dictionary()
assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2, "not the dictionary of SPDY/3"

_SYN_STREAM, _SYN_REPLY, _RST_STREAM, _PING, _GOAWAY = 1, 2, 3, 6, 7
_FIN = 1


@dataclass
class _Pair:
    """The two streams of one forwarded connection."""

    port: int = 0
    error: int = 0
    data: int = 0
    pod: socket.socket | None = None
    waiting: list[bytes] = field(default_factory=list)


class Session:
    def __init__(self, rfile: BinaryIO, wfile: BinaryIO, node: "Node", namespace: str, pod: str) -> None:
        self.rfile, self.wfile = rfile, wfile
        self.node, self.namespace, self.pod = node, namespace, pod
        self.inflate = zlib.decompressobj(zdict=DICTIONARY)
        self.deflate = zlib.compressobj(zdict=DICTIONARY)
        self.lock = threading.Lock()
        self.pairs: dict[str, _Pair] = {}
        self.by_stream: dict[int, _Pair] = {}

    # ---- frames

    def _control(self, kind: int, flags: int, body: bytes) -> None:
        with self.lock:
            self.wfile.write(struct.pack(">HHI", 0x8003, kind, flags << 24 | len(body)) + body)

    def _data(self, stream: int, data: bytes, fin: bool = False) -> None:
        with self.lock:
            self.wfile.write(struct.pack(">II", stream, (_FIN if fin else 0) << 24 | len(data)) + data)

    def _fields(self, block: bytes) -> dict[str, str]:
        text = self.inflate.decompress(block)
        count, at, out = struct.unpack(">I", text[:4])[0], 4, {}
        for _ in range(count):
            pair = []
            for _ in range(2):
                size = struct.unpack(">I", text[at : at + 4])[0]
                pair.append(text[at + 4 : at + 4 + size].decode())
                at += 4 + size
            out[pair[0].lower()] = pair[1]
        return out

    def run(self) -> None:
        try:
            while len(head := self.rfile.read(8)) == 8:
                first, second = struct.unpack(">II", head)
                body = self.rfile.read(second & 0xFFFFFF)
                if first & 0x80000000:
                    self._on_control(first & 0xFFFF, body)
                else:
                    self._on_data(first, body, bool(second >> 24 & _FIN))
        finally:
            for pair in self.pairs.values():
                if pair.pod:
                    pair.pod.close()

    def _on_control(self, kind: int, body: bytes) -> None:
        if kind == _PING:
            self._control(_PING, 0, body)
        elif kind == _SYN_STREAM:
            stream = struct.unpack(">I", body[:4])[0]
            fields = self._fields(body[10:])
            # An empty list of fields, with the compressor that all replies share.
            with self.lock:
                block = self.deflate.compress(struct.pack(">I", 0)) + self.deflate.flush(zlib.Z_SYNC_FLUSH)
            self._control(_SYN_REPLY, 0, struct.pack(">I", stream) + block)
            self._open(stream, fields)
        elif kind == _RST_STREAM:
            pair = self.by_stream.get(struct.unpack(">I", body[:4])[0])
            if pair and pair.pod:
                pair.pod.close()

    # ---- connections

    def _open(self, stream: int, fields: dict[str, str]) -> None:
        pair = self.pairs.setdefault(fields.get("requestid", ""), _Pair())
        self.by_stream[stream] = pair
        if fields.get("streamtype") == "error":
            pair.error = stream
        else:
            pair.data, pair.port = stream, int(fields["port"])
        if pair.error and pair.data:
            try:
                pair.pod = self.node.dial(self.namespace, self.pod, pair.port)
            except (OSError, ApiError) as e:
                self._data(pair.error, f"an error occurred forwarding {pair.port}: {e}".encode(), True)
                self._data(pair.data, b"", True)
                return
            for data in pair.waiting:
                pair.pod.sendall(data)
            threading.Thread(target=self._back, args=(pair, pair.pod), daemon=True, name="port-forward").start()

    def _back(self, pair: _Pair, pod: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := pod.recv(65536):
                self._data(pair.data, data)
        with contextlib.suppress(OSError, ValueError):
            self._data(pair.data, b"", True)
            self._data(pair.error, b"", True)

    def _on_data(self, stream: int, data: bytes, fin: bool) -> None:
        pair = self.by_stream.get(stream)
        if pair is None or stream != pair.data:
            return
        if pair.pod is None:
            pair.waiting.append(data)
            return
        with contextlib.suppress(OSError):
            if data:
                pair.pod.sendall(data)
            if fin:
                pair.pod.shutdown(socket.SHUT_WR)


def serve(handler: "Handler", node: "Node", namespace: str, pod: str) -> None:
    handler.api.store.get(handler.api.catalog.of("pods"), namespace, pod)
    if handler.headers.get("Upgrade", "").lower() != "spdy/3.1":
        # Newer clients begin with WebSocket, and go on with SPDY when that is not to be had.
        raise ApiError(400, "BadRequest", "Upgrade request required")
    handler.code = 101
    handler.send_response(101)
    handler.send_header("Connection", "Upgrade")
    handler.send_header("Upgrade", "SPDY/3.1")
    handler.send_header("X-Stream-Protocol-Version", PROTOCOL)
    handler.end_headers()
    handler.close_connection = True
    with contextlib.suppress(OSError):
        Session(handler.rfile, handler.wfile, node, namespace, pod).run()  # type: ignore[arg-type]
