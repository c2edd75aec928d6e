"""Who set which field (metadata.managedFields), and server-side apply, which is made of that."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable
from typing import Any

from .model import ApiError, Obj, Resource, now
from .patch import is_set, merge_keys

# A field is the path to it, in the spelling of FieldsV1: "f:spec", 'k:{"name":"app"}', 'v:"x"'; "." is an item or a map itself.
Path = tuple[str, ...]

_NEVER = {"apiVersion", "kind"}
_NEVER_META = {
    "name",
    "namespace",
    "uid",
    "resourceVersion",
    "creationTimestamp",
    "generation",
    "managedFields",
    "selfLink",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
}
_KEY_DEFAULTS = {"protocol": "TCP"}


def _item(item: Obj, keys: tuple[str, ...]) -> str:
    named = {k: item.get(k, _KEY_DEFAULTS.get(k)) for k in sorted(keys)}
    return "k:" + json.dumps({k: v for k, v in named.items() if v is not None}, separators=(",", ":"))


def _names(path: Path) -> tuple[str, ...]:
    return tuple(p[2:] for p in path if p.startswith("f:"))


def leaves(value: Any, kind: str, path: Path = (), custom: bool = False) -> dict[Path, Any]:
    """Every field with its value, lists that are one value as one."""
    out: dict[Path, Any] = {}
    if isinstance(value, dict) and (value or not path):
        for key, part in value.items():
            if not path and key in _NEVER or path == ("f:metadata",) and key in _NEVER_META:
                continue
            out.update(leaves(part, kind, (*path, f"f:{key}"), custom))
        return out
    if isinstance(value, list) and not custom:
        keys = merge_keys(kind, _names(path))
        if keys and all(isinstance(x, dict) for x in value):
            for x in value:
                here = (*path, _item(x, keys))
                out[(*here, ".")] = None
                out.update(leaves(x, kind, here))
            return out
        if is_set(_names(path)):
            return {(*path, "v:" + json.dumps(x)): x for x in value}
    return {path: value}


def pack(paths: Iterable[Path]) -> Obj:
    out: Obj = {}
    for path in sorted(paths):
        here = out
        for part in path:
            here = here.setdefault(part, {})
    return out


def unpack(tree: Obj, path: Path = ()) -> set[Path]:
    if not tree:
        return {path} if path else set()
    out: set[Path] = set()
    for part, inner in tree.items():
        if part == ".":
            # Of a map or list it says nothing here; of an item, that the item is there.
            if path and path[-1].startswith("k:"):
                out.add((*path, "."))
        else:
            out |= unpack(inner, (*path, part))
    return out


class Managers:
    """The entries of managedFields, as sets of paths."""

    def __init__(self, obj: Obj | None) -> None:
        self.entries: dict[tuple[str, str, str], set[Path]] = {}
        self.times: dict[tuple[str, str, str], str] = {}
        for e in (obj or {}).get("metadata", {}).get("managedFields") or []:
            key = (e.get("manager", ""), e.get("operation", ""), e.get("subresource", ""))
            self.entries[key] = self.entries.get(key, set()) | unpack(e.get("fieldsV1") or {})
            self.times[key] = e.get("time", now())

    def give(self, key: tuple[str, str, str], paths: set[Path], *, only: bool = False) -> None:
        """`only`: nobody else has them from now on."""
        if only:
            for other in self.entries:
                if other != key:
                    self.entries[other] -= paths
        self.entries[key] = paths
        self.times[key] = now()

    def write(self, obj: Obj, api_version: str) -> None:
        out = []
        for (manager, operation, subresource), paths in self.entries.items():
            if not paths:
                continue
            e: Obj = {
                "manager": manager,
                "operation": operation,
                "apiVersion": api_version,
                "time": self.times[(manager, operation, subresource)],
                "fieldsType": "FieldsV1",
                "fieldsV1": pack(paths),
            }
            if subresource:
                e["subresource"] = subresource
            out.append(e)
        if out:
            obj["metadata"]["managedFields"] = out
        else:
            obj["metadata"].pop("managedFields", None)


def track(resource: Resource, old: Obj | None, new: Obj, manager: str, subresource: str = "") -> None:
    """After a write that is no apply: what it changed belongs to who wrote. `managedFields: [{}]` resets, as the API has it."""
    given = new["metadata"].get("managedFields")
    if given is not None and (given == [] or given == [{}]):
        new["metadata"].pop("managedFields")
        return
    if old is not None and given is not None and given != old["metadata"].get("managedFields"):
        return
    managers = Managers(new if old is None else old)
    if old is None:
        managers = Managers(None)
    before = leaves(old, resource.kind, custom=resource.custom) if old else {}
    after = leaves(new, resource.kind, custom=resource.custom)
    if not subresource:
        before = {p: v for p, v in before.items() if p[0] != "f:status"}
        after = {p: v for p, v in after.items() if p[0] != "f:status"}
    changed = {p for p, v in after.items() if p not in before or before[p] != v}
    gone = set(before) - set(after)
    key = (manager, "Update", subresource)
    for k in managers.entries:
        managers.entries[k] -= gone | (changed if k != key else set())
    if changed:
        managers.give(key, managers.entries.get(key, set()) | changed)
    managers.write(new, resource.api_version)


def apply(resource: Resource, live: Obj | None, config: Obj, manager: str, force: bool) -> Obj:
    """What is there after `manager` applied `config`: what it said before and no longer says is gone, unless others say it too."""
    custom = resource.custom
    config = copy.deepcopy(config)
    config.setdefault("metadata", {}).pop("managedFields", None)
    wanted = leaves(config, resource.kind, custom=custom)
    key = (manager, "Apply", "")
    if live is None:
        out = config
        managers = Managers(None)
    else:
        have = leaves(live, resource.kind, custom=custom)
        managers = Managers(live)
        contested: dict[Path, tuple[str, str]] = {}
        for other, paths in managers.entries.items():
            if other == key or other[2]:
                continue
            for path in paths & set(wanted):
                if path[-1] != "." and have.get(path) != wanted[path]:
                    contested[path] = (other[0], other[1])
        if contested and not force:
            raise _conflict(contested)
        out = _merge(copy.deepcopy(live), config, resource.kind, (), custom)
        kept = set().union(*(p for k, p in managers.entries.items() if k != key)) if managers.entries else set()
        for path in sorted(managers.entries.get(key, set()) - set(wanted) - kept, key=len, reverse=True):
            if path[-1] == "." and any(p[: len(path) - 1] == path[:-1] for p in kept):
                continue
            if not any(p[: len(path)] == path for p in kept | set(wanted)):
                _drop(out, path, resource.kind)
        if contested:
            for k in managers.entries:
                managers.entries[k] -= set(contested)
    managers.give(key, set(wanted))
    managers.write(out, resource.api_version)
    return out


def _conflict(contested: dict[Path, tuple[str, str]]) -> ApiError:
    def spell(path: Path) -> str:
        out = ""
        for part in path:
            if part.startswith("f:"):
                out += "." + part[2:]
            elif part.startswith("k:"):
                out += "[" + ",".join(f"{k}={json.dumps(v)}" for k, v in json.loads(part[2:]).items()) + "]"
        return out

    fields = "\n".join(f"- {spell(p)}" for p in sorted(contested))
    who = next(iter(contested.values()))[0]
    count = "1 conflict" if len(contested) == 1 else f"{len(contested)} conflicts"
    return ApiError(
        409,
        "Conflict",
        f'Apply failed with {count}: conflicts with "{who}":\n{fields}',
        {
            "causes": [
                {"reason": "FieldManagerConflict", "message": f'conflict with "{m}"', "field": spell(p)}
                for p, (m, _) in sorted(contested.items())
            ]
        },
    )


def _merge(live: Any, config: Any, kind: str, path: Path, custom: bool) -> Any:
    if isinstance(config, dict):
        if not isinstance(live, dict):
            live = {}
        out = dict(live)
        for k, v in config.items():
            if v is None:
                out.pop(k, None)
            else:
                out[k] = _merge(live.get(k), v, kind, (*path, f"f:{k}"), custom)
        return out
    if isinstance(config, list) and not custom:
        have = live if isinstance(live, list) else []
        keys = merge_keys(kind, _names(path))
        if keys and all(isinstance(x, dict) for x in config):
            by_name = {_item(x, keys): x for x in have}
            named = [_item(x, keys) for x in config]
            merged = {n: _merge(by_name.get(n), x, kind, (*path, n), custom) for n, x in zip(named, config)}
            rest = [x for n, x in by_name.items() if n not in merged]
            return [merged[n] for n in named] + rest
        if is_set(_names(path)):
            return list(have) + [x for x in config if x not in have]
    return copy.deepcopy(config)


def _drop(obj: Any, path: Path, kind: str) -> None:
    """Takes one field out, and maps that are empty then."""
    trail: list[tuple[Any, Any]] = []
    here = obj
    names: tuple[str, ...] = ()
    for i, part in enumerate(path):
        if part == ".":
            break
        if part.startswith("f:"):
            names = (*names, part[2:])
            if not isinstance(here, dict) or part[2:] not in here:
                return
            trail.append((here, part[2:]))
            here = here[part[2:]]
        else:
            if not isinstance(here, list):
                return
            if part.startswith("v:"):
                value = json.loads(part[2:])
                at = here.index(value) if value in here else None
            else:
                keys = merge_keys(kind, names) or ()
                at = next((n for n, x in enumerate(here) if _item(x, keys) == part), None)
            if at is None:
                return
            trail.append((here, at))
            here = here[at]
    holder, last = trail[-1]
    del holder[last]
    for (outer, key), (inner, _) in zip(reversed(trail[:-1]), reversed(trail[1:])):
        if inner or not isinstance(outer, dict):
            break
        del outer[key]
