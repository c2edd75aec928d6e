"""Mounts and namespaces, which Python 3.11 has no functions for."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

MS_RDONLY, MS_BIND, MS_REMOUNT, MS_REC, MS_PRIVATE = 1, 4096, 32, 16384, 1 << 18
MNT_DETACH = 2
CLONE_NEWNET = 0x40000000


def mount(source: str, target: Path | str, kind: str = "", flags: int = 0, data: str = "") -> None:
    if _libc.mount(source.encode(), str(target).encode(), kind.encode() or None, flags, data.encode() or None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"mount {kind or source} on {target}: {os.strerror(error)}")


def unmount(target: Path | str) -> None:
    _libc.umount2(str(target).encode(), MNT_DETACH)


def ip(*lines: str) -> None:
    """Commands for iproute2, all or none of them understood."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    if done.returncode != 0:
        raise OSError(f"ip: {done.stderr.strip()} (of {lines})")


def dial_in(netns: Path, address: tuple[str, int], timeout: float) -> socket.socket:
    """A connection made from within a network namespace."""
    out: list[socket.socket | OSError] = []

    def work() -> None:
        # A namespace belongs to a thread: this one is used for nothing else.
        with netns.open() as n:
            if _libc.setns(n.fileno(), CLONE_NEWNET) != 0:
                out.append(OSError(ctypes.get_errno(), f"setns {netns}"))
                return
        try:
            out.append(socket.create_connection(address, timeout))
        except OSError as e:
            out.append(e)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if isinstance(out[0], OSError):
        raise out[0]
    return out[0]
