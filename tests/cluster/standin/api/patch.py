"""JSON Patch (RFC 6902), JSON Merge Patch (RFC 7396) and Kubernetes' strategic merge patch."""

from __future__ import annotations

import copy
from typing import Any

from .model import ApiError, Obj, bad_request

# Lists of built-in kinds that are merged item by item, by the field that names an item. A list that is not here is replaced.
_MERGED: dict[str, tuple[str, ...]] = {
    "containers": ("name",),
    "initContainers": ("name",),
    "ephemeralContainers": ("name",),
    "env": ("name",),
    "volumes": ("name",),
    "imagePullSecrets": ("name",),
    "volumeMounts": ("mountPath",),
    "volumeDevices": ("devicePath",),
    "hostAliases": ("ip",),
    "conditions": ("type",),
    "ownerReferences": ("uid",),
    "topologySpreadConstraints": ("topologyKey", "whenUnsatisfiable"),
    "ports": ("containerPort", "protocol"),
    "secrets": ("name",),
    "podIPs": ("ip",),
    "resourceClaims": ("name",),
    "schedulingGates": ("name",),
}
_SETS = {"finalizers"}
_ATOMIC_PORTS = {"NetworkPolicy", "EndpointSlice", "Endpoints"}


def merge_keys(kind: str, path: tuple[str, ...]) -> tuple[str, ...] | None:
    """The fields that name an item of the list at that path (names of fields only), or None if the list is one value."""
    name = path[-1] if path else ""
    if name == "ports":
        if kind in _ATOMIC_PORTS:
            return None
        if kind == "Service":
            return "port", "protocol"
    if name == "secrets" and kind != "ServiceAccount":
        return None
    if name in ("containers", "env") and "template" not in path and kind not in ("Pod",):
        return None
    return _MERGED.get(name)


def is_set(path: tuple[str, ...]) -> bool:
    return bool(path) and path[-1] in _SETS


# ---- JSON Patch


def _parts(pointer: str) -> list[str]:
    if pointer == "":
        return []
    if not pointer.startswith("/"):
        raise bad_request(f"JSON pointer {pointer!r} does not begin with a slash")
    return [p.replace("~1", "/").replace("~0", "~") for p in pointer[1:].split("/")]


def _walk(doc: Any, parts: list[str], pointer: str) -> Any:
    for part in parts:
        try:
            doc = doc[int(part)] if isinstance(doc, list) else doc[part]
        except (KeyError, IndexError, ValueError, TypeError):
            raise ApiError(
                422, "Invalid", f"the server rejected our request due to an error in our request: {pointer} is missing"
            ) from None
    return doc


def json_patch(doc: Obj, operations: list[Obj]) -> Obj:
    doc = copy.deepcopy(doc)
    for op in operations:
        pointer, what = op["path"], op["op"]
        parts = _parts(pointer)
        if not parts:
            raise bad_request("the whole object cannot be patched")
        parent, last = _walk(doc, parts[:-1], pointer), parts[-1]
        if what in ("move", "copy"):
            source = _parts(op["from"])
            value = copy.deepcopy(_walk(doc, source, op["from"]))
            if what == "move":
                holder = _walk(doc, source[:-1], op["from"])
                holder.pop(int(source[-1]) if isinstance(holder, list) else source[-1])
        else:
            value = copy.deepcopy(op.get("value"))
        if what == "test":
            if _walk(doc, parts, pointer) != value:
                raise ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: test of {pointer} failed")
        elif what == "remove":
            _walk(doc, parts, pointer)
            parent.pop(int(last) if isinstance(parent, list) else last)
        elif what in ("add", "replace", "move", "copy"):
            if isinstance(parent, list):
                at = len(parent) if last == "-" else int(last)
                if what == "replace":
                    parent[at] = value
                else:
                    parent.insert(at, value)
            else:
                if what == "replace":
                    _walk(doc, parts, pointer)
                parent[last] = value
        else:
            raise bad_request(f"unknown operation {what!r}")
    return doc


# ---- JSON Merge Patch


def merge_patch(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


# ---- strategic merge patch


def strategic_merge(target: Any, patch: Any, kind: str, path: tuple[str, ...] = ()) -> Any:
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    directive = patch.get("$patch")
    if directive == "replace":
        return {k: copy.deepcopy(v) for k, v in patch.items() if k != "$patch"}
    if directive == "delete":
        return {}
    out = dict(target) if isinstance(target, dict) else {}
    retain = patch.get("$retainKeys")
    if retain is not None:
        out = {k: v for k, v in out.items() if k in retain}
    orders: dict[str, list[Any]] = {}
    for key, value in patch.items():
        if key == "$retainKeys":
            continue
        if key.startswith("$setElementOrder/"):
            orders[key.split("/", 1)[1]] = value
        elif key.startswith("$deleteFromPrimitiveList/"):
            name = key.split("/", 1)[1]
            out[name] = [x for x in out.get(name, []) if x not in value]
        elif value is None:
            out.pop(key, None)
        elif isinstance(value, list):
            out[key] = _merge_list(out.get(key), value, kind, (*path, key))
        else:
            out[key] = strategic_merge(out.get(key), value, kind, (*path, key))
    for key, order in orders.items():
        if isinstance(out.get(key), list):
            out[key] = _ordered(out[key], order, kind, (*path, key))
    return out


def _name_of(item: Any, keys: tuple[str, ...]) -> Any:
    # The patch names an item by its first key; a protocol that is missing is TCP.
    return item.get(keys[0]) if isinstance(item, dict) else item


def _merge_list(target: Any, patch: list[Any], kind: str, path: tuple[str, ...]) -> list[Any]:
    keys = merge_keys(kind, path)
    have = list(target) if isinstance(target, list) else []
    if is_set(path):
        return have + [copy.deepcopy(x) for x in patch if x not in have]
    if keys is None:
        return [copy.deepcopy(x) for x in patch if not (isinstance(x, dict) and "$patch" in x)]
    if any(isinstance(x, dict) and x.get("$patch") == "replace" for x in patch):
        return [copy.deepcopy(x) for x in patch if x.get("$patch") != "replace"]
    for item in patch:
        name = _name_of(item, keys)
        at = next((i for i, x in enumerate(have) if _name_of(x, keys) == name), None)
        if isinstance(item, dict) and item.get("$patch") == "delete":
            have = [x for x in have if _name_of(x, keys) != name]
        elif at is None:
            have.append(strategic_merge({}, item, kind, path))
        else:
            have[at] = strategic_merge(have[at], item, kind, path)
    return have


def _ordered(items: list[Any], order: list[Any], kind: str, path: tuple[str, ...]) -> list[Any]:
    """Items that the order names, in that order; each of the others stays behind what it stood behind."""
    keys = merge_keys(kind, path)
    names = [_name_of(x, keys) if keys else x for x in order]
    rank = {repr(n): i for i, n in enumerate(names)}
    placed, last = [], -1
    for item in items:
        last = rank.get(repr(_name_of(item, keys) if keys else item), last)
        placed.append((last, item))
    return [item for _, item in sorted(placed, key=lambda p: p[0])]
