"""The process that Services' connections go through: run with -m, it is told by lines of JSON on stdin what there is.

A Service is a listener that hands each connection to one of its endpoints, as kube-proxy does: connections that exist are left alone when
endpoints change, and where there is no endpoint, nobody listens. The gateway reads the head of each request and looks for its route. DNS
answers with what names it was told."""

from __future__ import annotations

import asyncio
import fnmatch
import json
import os
import random
import socket
import struct
import sys
import threading
from dataclasses import dataclass, field
from typing import Any, cast

Address = tuple[str, int]


def address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    return host, int(port)


@dataclass
class State:
    services: dict[str, list[str]] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    routes: list[dict[str, Any]] = field(default_factory=list)


state = State()
listeners: dict[str, asyncio.AbstractServer] = {}
# asyncio holds tasks weakly; a connection is to live until it ends.
tasks: set["asyncio.Task[None]"] = set()


# ---- bytes


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except (OSError, RuntimeError):
        # RuntimeError: the other direction has closed it meanwhile.
        abort(writer)


def abort(writer: asyncio.StreamWriter) -> None:
    """Ends a connection in a way that nobody takes for a proper end."""
    sock = writer.get_extra_info("socket")
    if sock is not None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        except OSError:
            pass
    writer.transport.abort()


async def join(client: tuple[asyncio.StreamReader, asyncio.StreamWriter], targets: list[str], first: bytes = b"") -> None:
    """Hands a connection to one of the targets; a connection that cannot be made is the client's to see."""
    task = cast("asyncio.Task[None]", asyncio.current_task())
    tasks.add(task)
    task.add_done_callback(tasks.discard)
    try:
        if not targets:
            raise OSError("no endpoint")
        host, port = address(random.choice(targets))
        reader, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 5)
    except (OSError, asyncio.TimeoutError):
        abort(client[1])
        return
    try:
        writer.write(first)
        await asyncio.gather(pump(client[0], writer), pump(reader, client[1]))
    finally:
        for w in (client[1], writer):
            w.close()


# ---- Services


async def listen(place: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await join((reader, writer), state.services.get(place, []))

    host, port = address(place)
    listeners[place] = await asyncio.start_server(serve, host, port, backlog=512)


async def update(new: dict[str, Any]) -> None:
    state.services, state.names, state.routes = new["services"], new["names"], new["routes"]
    wanted = {place for place, endpoints in state.services.items() if endpoints}
    for place in set(listeners) - wanted:
        listeners.pop(place).close()
    for place in wanted - set(listeners):
        try:
            await listen(place)
        except OSError as e:
            print(f"forwarder: {place}: {e}", file=sys.stderr)


# ---- the gateway


def _fits_host(pattern: str, host: str) -> bool:
    return pattern == host or pattern.startswith("*.") and fnmatch.fnmatchcase(host, pattern) and host != pattern[2:]


def _fits_path(match: dict[str, Any], path: str) -> bool:
    value = match["path"]
    if match["exact"]:
        return bool(path == value)
    trimmed = value.rstrip("/")
    return bool(path == trimmed or path.startswith(trimmed + "/"))


def find(host: str, path: str, headers: dict[str, str]) -> list[str] | None:
    """The endpoints of the route that fits best: by host, then path, then how many headers it asks for."""
    best: tuple[Any, ...] = ()
    found = None
    for route in state.routes:
        hosts = [h for h in route["hosts"] if _fits_host(h, host)]
        if (
            route["hosts"]
            and not hosts
            or not _fits_path(route, path)
            or any(headers.get(k.lower()) != v for k, v in route["headers"].items())
        ):
            continue
        longest = max(hosts, key=len) if hosts else ""
        rank = (bool(longest) and not longest.startswith("*"), len(longest), route["exact"], len(route["path"]), len(route["headers"]))
        if found is None or rank > best:
            best, found = rank, route["endpoints"]
    return found


async def gateway(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One request for a connection: it is told to close, so that what follows the head need not be understood."""
    try:
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.TimeoutError, OSError):
        writer.close()
        return
    lines = head.decode("latin-1").split("\r\n")[:-2]
    fields = [(k.strip().lower(), v.strip()) for k, _, v in (line.partition(":") for line in lines[1:])]
    headers = dict(fields)
    target = lines[0].split(" ")[1]
    host = headers.get("host", "").rsplit(":", 1)[0]
    endpoints = find(host, target.split("?")[0], headers)
    if not endpoints:
        code = "404 Not Found" if endpoints is None else "503 Service Unavailable"
        body = f"stand-in gateway: {code} for {host}{target}\n"
        writer.write(
            f"HTTP/1.1 {code}\r\nserver: stand-in-gateway\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode()
        )
        await writer.drain()
        writer.close()
        return
    kept = [line for line, (k, _) in zip(lines[1:], fields) if k != "connection" or "upgrade" in headers.get("connection", "").lower()]
    peer = writer.get_extra_info("peername")[0]
    kept += [f"x-forwarded-for: {peer}", "x-forwarded-proto: http"]
    if "upgrade" not in headers.get("connection", "").lower():
        kept.append("connection: close")
    await join((reader, writer), endpoints, "\r\n".join([lines[0], *kept, "", ""]).encode("latin-1"))


# ---- names


class Dns(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # asyncio's own transport for datagrams is not of the type that its name says.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Address) -> None:
        try:
            self.transport.sendto(self.answer(data), addr)
        except (IndexError, struct.error, UnicodeDecodeError):
            pass  # Not a question.

    @staticmethod
    def answer(data: bytes) -> bytes:
        ident, flags = struct.unpack(">HH", data[:4])
        labels, at = [], 12
        while size := data[at]:
            labels.append(data[at + 1 : at + 1 + size].decode())
            at += 1 + size
        question = data[12 : at + 5]
        kind = struct.unpack(">H", data[at + 1 : at + 3])[0]
        addresses = state.names.get(".".join(labels).lower())
        answers = [struct.pack(">HHHIH", 0xC00C, 1, 1, 5, 4) + socket.inet_aton(a) for a in addresses or []] if kind in (1, 255) else []
        code = 0 if addresses is not None else 3
        return struct.pack(">HHHHHH", ident, 0x8480 | flags & 0x100 | code, 1, len(answers), 0, 0) + question + b"".join(answers)


# ---- the process


async def main(gateway_address: str, dns_address: str, fds: list[int]) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.start_server(gateway, *address(gateway_address), backlog=512)
    for fd in fds:
        await asyncio.start_server(gateway, sock=socket.socket(fileno=fd))
    await loop.create_datagram_endpoint(Dns, local_addr=address(dns_address))
    over = asyncio.Event()

    def follow() -> None:
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(update(json.loads(line)), loop).result()
            print("done", flush=True)
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=follow, daemon=True).start()
    print("ready", flush=True)
    await over.wait()
    # Connections that are left end with the process.
    os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], [int(a) for a in sys.argv[3:]]))
