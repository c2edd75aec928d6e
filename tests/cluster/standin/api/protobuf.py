"""Kubernetes' protobuf, as typed clients send it: Helm's storage driver, and kubectl where it makes objects by itself."""

from __future__ import annotations

import base64
import datetime
import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .model import ApiError, Obj

MAGIC = b"k8s\x00"
CONTENT_TYPE = "application/vnd.kubernetes.protobuf"

_PACKAGES = {
    "v1": "core",
    "apps/v1": "apps",
    "batch/v1": "batch",
    "rbac.authorization.k8s.io/v1": "rbac",
    "autoscaling/v1": "as1",
    "autoscaling/v2": "as2",
    "policy/v1": "policy",
    "networking.k8s.io/v1": "net",
    "authentication.k8s.io/v1": "authn",
    "authorization.k8s.io/v1": "authz",
    "events.k8s.io/v1": "events",
    "coordination.k8s.io/v1": "coord",
    "discovery.k8s.io/v1": "disc",
    "meta.k8s.io/v1": "meta",
}


@dataclass(frozen=True)
class Field:
    name: str
    type: str
    how: str  # One of the marks of protobuf_fields.txt, or nothing.


def _read() -> dict[str, dict[int, Field]]:
    out: dict[str, dict[int, Field]] = {}
    message: dict[int, Field] = {}
    for line in Path(__file__).with_name("protobuf_fields.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        words = line.split()
        if not line.startswith(" "):
            message = out[words.pop(0)] = {}
        for word in words:
            number, _, rest = word.partition(":")
            name, _, kind = rest.partition("=")
            how = kind[0] if kind[0] in "*%^?" else ""
            message[int(number)] = Field(name, kind.removeprefix(how) if how else kind, how)
    return out


MESSAGES = _read()


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    out: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        wire = tag & 7
        value: int | bytes
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 2, 5):
            size = 8 if wire == 1 else 4
            if wire == 2:
                size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise ApiError(400, "BadRequest", f"protobuf of wire type {wire}")
        out.append((tag >> 3, value))
    return out


def _part(data: bytes, number: int) -> bytes:
    return next((v for n, v in _fields(data) if n == number and isinstance(v, bytes)), b"")


def _whole(data: bytes, number: int) -> int:
    return next((v - (1 << 64) if v >> 63 else v for n, v in _fields(data) if n == number and isinstance(v, int)), 0)


def _time(raw: bytes, digits: str) -> str | None:
    if not raw:
        return None
    at = datetime.datetime.fromtimestamp(_whole(raw, 1), datetime.timezone.utc).replace(microsecond=_whole(raw, 2) // 1000)
    return at.strftime(f"%Y-%m-%dT%H:%M:%S{digits}Z")


def _value(kind: str, raw: int | bytes) -> Any:
    if isinstance(raw, int):
        return bool(raw) if kind == "b" else raw - (1 << 64) if raw >> 63 else raw
    if kind == "s":
        return raw.decode()
    if kind == "y":
        return base64.b64encode(raw).decode()
    if kind == "d":
        return struct.unpack("<d", raw)[0]
    if kind == "time":
        return _time(raw, "")
    if kind == "microtime":
        return _time(raw, ".%f")
    if kind == "intorstring":
        return _part(raw, 3).decode() if _whole(raw, 1) else _whole(raw, 2)
    if kind == "quantity":
        return _part(raw, 1).decode()
    if kind == "raw":
        return json.loads(_part(raw, 1) or b"{}")
    if kind == "duration":
        return f"{_whole(raw, 1) / 1e9}s"
    return _message(kind, raw)


def _message(name: str, data: bytes) -> Obj:
    known = MESSAGES[name]
    out: Obj = {}
    for number, raw in _fields(data):
        f = known.get(number)
        if f is None:
            continue  # What the list leaves out: status, managedFields.
        if f.how == "%":
            assert isinstance(raw, bytes)
            out.setdefault(f.name, {})[_part(raw, 1).decode()] = _value(f.type, _part(raw, 2))
            continue
        value = _value(f.type, raw)
        if f.how == "*":
            out.setdefault(f.name, []).append(value)
        elif f.how == "^":
            out.update(value)
        elif f.how == "?" or value not in ("", 0, False, None, {}):
            # A field that is always written is left out in JSON when it is zero.
            out[f.name] = value
    return out


def decode(body: bytes) -> Obj:
    """An object in the JSON form, from its envelope."""
    if not body.startswith(MAGIC):
        raise ApiError(400, "BadRequest", "the body does not begin as Kubernetes' protobuf does")
    envelope = body[len(MAGIC) :]
    meta = _part(envelope, 1)
    api_version, kind = _part(meta, 1).decode(), _part(meta, 2).decode()
    package = "meta" if kind == "DeleteOptions" else _PACKAGES.get(api_version, "")
    if f"{package}.{kind}" not in MESSAGES:
        raise ApiError(415, "UnsupportedMediaType", f"a {kind} of {api_version} in protobuf is not understood here; send JSON")
    return {"apiVersion": api_version, "kind": kind, **_message(f"{package}.{kind}", _part(envelope, 2))}
