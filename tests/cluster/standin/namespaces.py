"""Namespaces of the machine: the cluster has a network, mounts and processes of its own, which end with it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from .node import linux
from .node.runtime import remove_empty_groups

_NEW_MOUNTS, _NEW_PROCESSES = 0x20000, 0x20000000
_PARENT_DEATH_SIGNAL = 1


def enter() -> None:
    """Goes on in a new process within namespaces of its own. This process waits for that one, hands on what it is told, and ends as it does."""
    if os.geteuid() != 0:
        sys.exit("the stand-in cluster makes namespaces and mounts: it needs root")
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(linux.CLONE_NEWNET | _NEW_MOUNTS | _NEW_PROCESSES) != 0:
        sys.exit(f"no namespaces can be made here: {os.strerror(ctypes.get_errno())}")
    if first := os.fork():
        code = _stand_by(first)
        remove_empty_groups()
        os._exit(code)
    libc.prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    linux.mount("none", "/", "", linux.MS_REC | linux.MS_PRIVATE)
    linux.mount("proc", "/proc", "proc")
    # The first process of the namespace takes over orphans. Were they not waited for, a container whose probe was cut short would never end.
    if second := os.fork():
        os._exit(_stand_by(second))


def _stand_by(child: int) -> int:
    """Waits for every child, hands on signals to one, and has that one's exit code. Nothing else of this copy of the program is to be done."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda n, _: os.kill(child, n))
    while True:
        pid, status = os.wait()
        if pid == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
