"""Instructions that a request takes, of the server's process in user space, as valgrind's callgrind counts them.

A count does not depend on how fast the machine is today. It is the difference between a run with more requests and one with fewer, on one
connection and one thread; what threads do by the clock (guests make way every 5 ms, which is many requests natively and few under valgrind)
makes it differ by up to 5 % from run to run. What the processor counts as one
instruction that repeats (`rep stosb` of memset), callgrind counts as often as it repeats: the share of memset and memcpy stands beside it.
"""

import ctypes
import http.client
import re
import struct
import subprocess
import sys

from common import WORK, say

FEW, MANY = 100, 1100
GUESTS = (
    ("hello, Rust", "rust/hello.wasm", "/"),
    ("hello with sandbox reuse", "rust/hello_reuse.wasm", "/"),
    ("pass-through, 14 bytes", "rust/passthrough.wasm", "/small"),
    ("KV lookup", "rust/work.wasm", "/kv"),
    ("hit in the cache", "rust/cached.wasm", "/cached"),
)


def hide_auxv():
    """Makes prctl(PR_GET_AUXV) fail in this process and its children, on x86-64.

    valgrind unmaps the vDSO and says so in the auxiliary vector it shows in /proc, but lets this call of newer kernels through, whose answer
    still has the vDSO's address: who reads there dies (rustix does). Refused, they read /proc.
    """
    prctl, libc = 157, ctypes.CDLL(None)
    load, unless_equal, answer = 0x20, 0x15, 0x06
    program = [(load, 0, 0, 0), (unless_equal, 0, 3, prctl), (load, 0, 0, 16), (unless_equal, 0, 1, 0x41555856), (answer, 0, 0, 0x50016), (answer, 0, 0, 0x7FFF0000)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    set_no_new_privileges, set_seccomp, filtered = 38, 22, 2
    if libc.prctl(set_no_new_privileges, 1, 0, 0, 0) or libc.prctl(set_seccomp, filtered, ctypes.byref(Filter(len(program), ctypes.addressof(code))), 0, 0):
        raise OSError("seccomp is refused")


def count(begin, path, requests):
    """Instructions of a server that lived for so many requests: all, and those of memset and memcpy."""
    file = WORK / "callgrind.out"
    file.unlink(missing_ok=True)
    with begin(["valgrind", "--tool=callgrind", f"--callgrind-out-file={file}"], hide_auxv) as server:
        server.wait(path, patience=180)
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
        for _ in range(requests):
            connection.request("GET", path)
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                sys.exit(f"{server.name} answered {answer.status} under valgrind")
        connection.close()
    said = subprocess.run(["callgrind_annotate", "--threshold=100", file], check=True, capture_output=True, text=True).stdout
    total = re.search(r"^\s*([\d,]+) .*PROGRAM TOTALS", said, re.M)
    of_memory = re.findall(r"^\s*([\d,]+) \([^)]*\)\s+\S*:__mem(?:set|cpy|move)_\w+ \[", said, re.M)
    number = lambda text: int(text.replace(",", ""))  # noqa: E731
    return number(total[1]), sum(map(number, of_memory))


def per_request(begin, path):
    (few, few_memory), (many, many_memory) = count(begin, path, FEW), count(begin, path, MANY)
    return (many - few) / (MANY - FEW), (many_memory - few_memory) / (MANY - FEW)


def instructions(servers, options):
    lines = ["Instructions of a request, in user space, by callgrind: one connection, one thread, one run, which differ by up to 5 % (`rep` is counted as often as it repeats: most of memset and memcpy is that):", "",
             "| work | who | instructions | of those in memset and memcpy |", "|---|---|---|---|"]
    servers.take(servers.origin_port)
    extra = ("--threads", "1", "--max-sandboxes", "2", "--cache-dir", WORK / "code-valgrind")
    runs = [
        (title, "sidelight", lambda wrap, prepare, guest=guest: servers.sidelight(guest, extra=extra, wrap=wrap, prepare=prepare), path)
        for title, guest, path in GUESTS
    ]
    runs.append(("hello", "native", lambda wrap, prepare: servers.native(wrap=wrap, prepare=prepare), "/"))
    for title, who, begin, path in runs:
        if who not in options.peers:
            continue
        # The first leaves its code for those that are counted: compiled for what valgrind has of the processor.
        count(begin, path, 1)
        total, memory = per_request(begin, path)
        lines.append(f"| {title} | {who} | {total:.0f} | {memory:.0f} |")
        say(f"  count    {title}, {who}: {total:.0f}, {memory:.0f} in memset and memcpy")
    return "\n".join(lines)
