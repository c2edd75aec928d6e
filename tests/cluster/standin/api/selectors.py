"""Label and field selectors."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from .model import Obj, bad_request

Matcher = Callable[[Obj], bool]

_SET = re.compile(r"^\s*(?P<key>[^\s,()!=]+)\s+(?P<op>in|notin)\s*\((?P<values>[^)]*)\)\s*$")


def _split(text: str) -> list[str]:
    """At commas that are not within parentheses."""
    parts, depth, part = [], 0, ""
    for c in text:
        depth += (c == "(") - (c == ")")
        if c == "," and depth == 0:
            parts.append(part)
            part = ""
        else:
            part += c
    return [p.strip() for p in [*parts, part] if p.strip()]


def _one_label(term: str) -> Callable[[dict[str, str]], bool]:
    found = _SET.match(term)
    if found:
        key, values = found["key"], {v.strip() for v in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    for op in ("!=", "==", "="):
        if op in term:
            key, value = (s.strip() for s in term.split(op, 1))
            if op == "!=":
                return lambda labels: labels.get(key) != value
            return lambda labels: labels.get(key) == value
    if term.startswith("!"):
        return lambda labels: term[1:].strip() not in labels
    if " " in term:
        raise bad_request(f"unable to parse requirement: {term!r}")
    return lambda labels: term in labels


def labels(text: str) -> Matcher:
    terms = [_one_label(t) for t in _split(text)]
    return lambda obj: all(t(obj["metadata"].get("labels") or {}) for t in terms)


def _at(obj: Obj, path: str) -> Any:
    value: Any = obj
    for part in path.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def fields(text: str) -> Matcher:
    terms: list[tuple[str, str, bool]] = []
    for term in _split(text):
        op = next((o for o in ("!=", "==", "=") if o in term), None)
        if op is None:
            raise bad_request(f"invalid field selector: {term!r}")
        path, value = (s.strip() for s in term.split(op, 1))
        terms.append((path, value.replace("\\,", ",").replace("\\=", "="), op != "!="))

    def match(obj: Obj) -> bool:
        for path, value, equal in terms:
            found = _at(obj, path)
            text = "" if found is None else str(found).lower() if isinstance(found, bool) else str(found)
            if (text == value) != equal:
                return False
        return True

    return match


def both(label_selector: str, field_selector: str) -> Matcher:
    matchers = [m for m in (labels(label_selector) if label_selector else None, fields(field_selector) if field_selector else None) if m]
    return lambda obj: all(m(obj) for m in matchers)


def of_spec(selector: Obj | None) -> Callable[[dict[str, str]], bool]:
    """A LabelSelector, as workloads have one, over labels."""
    if selector is None:
        return lambda _: False
    wanted: dict[str, str] = selector.get("matchLabels") or {}
    expressions: list[Obj] = selector.get("matchExpressions") or []

    def match(have: dict[str, str]) -> bool:
        if any(have.get(k) != v for k, v in wanted.items()):
            return False
        for e in expressions:
            key, op, values = e["key"], e["operator"], e.get("values") or []
            if op == "In" and have.get(key) not in values or op == "NotIn" and have.get(key) in values:
                return False
            if op == "Exists" and key not in have or op == "DoesNotExist" and key in have:
                return False
        return True

    return match
