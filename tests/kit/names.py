"""A name server for tests: `names.py ADDRESS NAME=ADDRESS…`, on port 53. It knows the A records that it is given, and that there are no others."""

from __future__ import annotations

import socketserver
import struct
import sys
from collections.abc import Mapping


class Server(socketserver.ThreadingUDPServer):
    daemon_threads = True

    def __init__(self, address: str, records: Mapping[str, str]) -> None:
        self.records = {name.encode(): bytes(int(part) for part in to.split(".")) for name, to in records.items()}
        super().__init__((address, 53), Query)


class Query(socketserver.BaseRequestHandler):
    server: Server

    def handle(self) -> None:
        query, socket = self.request
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += query[at] + 1
        question = query[12 : at + 5]
        address = self.server.records.get(b".".join(labels).lower())
        wants_address = struct.unpack("!H", question[-4:-2])[0] == 1
        # The name is where the question has it; class IN; a short life, as container runtimes have it.
        answer = struct.pack("!HHHIH", 0xC00C, 1, 1, 1, 4) + address if address and wants_address else b""
        flags = 0x8580 if address else 0x8583
        socket.sendto(query[:2] + struct.pack("!HHHHH", flags, 1, 1 if answer else 0, 0, 0) + question + answer, self.client_address)


if __name__ == "__main__":
    with Server(sys.argv[1], dict(record.split("=", 1) for record in sys.argv[2:])) as server:
        server.serve_forever()
