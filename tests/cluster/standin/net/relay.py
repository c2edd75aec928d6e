"""Connections from outside of the cluster's network to something in it."""

from __future__ import annotations

import contextlib
import socket
import threading


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def _join(client: socket.socket, address: tuple[str, int]) -> None:
    with client:
        try:
            server = socket.create_connection(address, 5)
        except OSError:
            return
        with server:
            server.settimeout(None)
            back = threading.Thread(target=_pump, args=(server, client), daemon=True)
            back.start()
            _pump(client, server)
            back.join()


def relay(listener: socket.socket, address: tuple[str, int]) -> None:
    """In threads of its own, as long as the process lives."""

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_join, args=(client, address), daemon=True).start()

    threading.Thread(target=accept, daemon=True, name="relay").start()
