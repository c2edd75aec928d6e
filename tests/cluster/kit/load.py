"""A load generator that knows of every request what became of it: run with -m, it works until stdin ends, and prints JSON then.

Of the threads, half make a connection for each request. The others keep theirs, as a proxy in front would: a GET on a connection that was
used before and is closed without a byte of an answer is sent once more on a new one (RFC 9110, 9.2.2), and counted as such."""

from __future__ import annotations

import collections
import http.client
import json
import socket
import sys
import threading
import time
import urllib.parse


class Work(threading.Thread):
    def __init__(self, url: str, host: str, keep: bool, pause: float, over: threading.Event) -> None:
        super().__init__(daemon=True)
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname or "", parts.port or 80)
        self.path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self.host, self.keep, self.pause, self.over = host or parts.netloc, keep, pause, over
        self.answers: collections.Counter[str] = collections.Counter()
        self.seen: dict[str, list[float]] = {}
        self.failures: list[str] = []
        self.again = 0
        self.slowest = 0.0

    def run(self) -> None:
        connection: http.client.HTTPConnection | None = None
        used = False
        while not self.over.is_set():
            began = time.time()
            try:
                if connection is None:
                    connection, used = self._connect(), False
                try:
                    answer, close = self._ask(connection)
                except (http.client.RemoteDisconnected, BrokenPipeError, ConnectionResetError):
                    connection.close()
                    if not used:
                        raise
                    self.again += 1
                    connection, used = self._connect(), False
                    answer, close = self._ask(connection)
                used = True
                self.answers[answer] += 1
                self.seen.setdefault(answer, [began, began])[1] = time.time()
                if close or not self.keep:
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as e:
                self.failures.append(f"{began:.3f} after {time.time() - began:.3f} s: {type(e).__name__}: {e}")
                if connection is not None:
                    connection.close()
                connection = None
            self.slowest = max(self.slowest, time.time() - began)
            self.over.wait(self.pause)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(*self.address, timeout=10)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def _ask(self, connection: http.client.HTTPConnection) -> tuple[str, bool]:
        connection.request("GET", self.path, headers={"Host": self.host} if self.keep else {"Host": self.host, "Connection": "close"})
        response = connection.getresponse()
        body = response.read().decode(errors="replace")
        return f"{response.status} {body.strip()}", (response.getheader("connection") or "").lower() == "close"


def main() -> None:
    url, host, threads, pause = sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
    over = threading.Event()
    workers = [Work(url, host, i % 2 == 1, pause, over) for i in range(threads)]
    for w in workers:
        w.start()
    sys.stdin.read()
    over.set()
    for w in workers:
        w.join(15)
    answers: collections.Counter[str] = collections.Counter()
    seen: dict[str, list[float]] = {}
    for w in workers:
        answers.update(w.answers)
        for answer, (first, last) in w.seen.items():
            have = seen.setdefault(answer, [first, last])
            seen[answer] = [min(have[0], first), max(have[1], last)]
    print(
        json.dumps(
            {
                "answers": answers,
                "seen": seen,
                "failures": [f for w in workers for f in w.failures],
                "again": sum(w.again for w in workers),
                "slowest": max(w.slowest for w in workers),
            }
        )
    )


if __name__ == "__main__":
    main()
