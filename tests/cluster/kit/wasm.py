"""Programs for Compute that answer every request alike, so that a test knows of each response which of them made it."""

from __future__ import annotations


def _number(n: int) -> bytes:
    out = bytearray()
    while True:
        byte, n = n & 0x7F, n >> 7
        out.append(byte | (0x80 if n else 0))
        if not n:
            return bytes(out)


def _signed(n: int) -> bytes:
    out = bytearray()
    while True:
        byte, n = n & 0x7F, n >> 7
        over = n == 0 and not byte & 0x40
        out.append(byte | (0 if over else 0x80))
        if over:
            return bytes(out)


def _list(items: list[bytes]) -> bytes:
    return _number(len(items)) + b"".join(items)


def _text(s: str) -> bytes:
    return _number(len(s.encode())) + s.encode()


def _section(number: int, body: bytes) -> bytes:
    return bytes([number]) + _number(len(body)) + body


# What the program imports: module, name, how many i32 parameters.
_IMPORTS = [
    ("fastly_http_resp", "new", 1),
    ("fastly_http_body", "new", 1),
    ("fastly_http_body", "write", 5),
    ("fastly_http_resp", "status_set", 2),
    ("fastly_http_resp", "send_downstream", 3),
]
_TEXT_AT = 64


def answering(text: str, status: int = 200) -> bytes:
    """A module whose answer is that text."""
    body = text.encode()
    counts = sorted({n for _, _, n in _IMPORTS})
    types = [b"\x60" + _list([b"\x7f"] * n) + _list([b"\x7f"]) for n in counts] + [b"\x60\x00\x00"]
    imports = [_text(m) + _text(n) + b"\x00" + _number(counts.index(c)) for m, n, c in _IMPORTS]

    def const(n: int) -> bytes:
        return b"\x41" + _signed(n)

    def call(index: int, *arguments: bytes) -> bytes:
        return b"".join(arguments) + b"\x10" + _number(index) + b"\x1a"  # The result is dropped.

    response, sink = const(0) + b"\x28\x02\x00", const(4) + b"\x28\x02\x00"  # Handles, as the host left them at 0 and 4.
    code = (
        call(0, const(0))
        + call(1, const(4))
        + call(2, sink, const(_TEXT_AT), const(len(body)), const(0), const(8))
        + call(3, response, const(status))
        + call(4, response, sink, const(0))
        + b"\x0b"
    )
    function = _number(0) + code
    return b"\0asm\x01\0\0\0" + b"".join(
        [
            _section(1, _list(types)),
            _section(2, _list(imports)),
            _section(3, _list([_number(len(counts))])),
            _section(5, _list([b"\x00\x01"])),
            _section(7, _list([_text("memory") + b"\x02\x00", _text("_start") + b"\x00" + _number(len(_IMPORTS))])),
            _section(10, _list([_number(len(function)) + function])),
            _section(11, _list([b"\x00" + const(_TEXT_AT) + b"\x0b" + _number(len(body)) + body])),
        ]
    )
