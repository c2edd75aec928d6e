"""What controllers have in common."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
import traceback
import uuid
from collections.abc import Callable

from ..api.model import ApiError, Obj, Resource, micro_now, now
from ..api.store import Store

Key = tuple[str, str]


class Controller:
    """Looks at everything of its kinds again whenever one of them changes, and once every `tick` seconds."""

    watches: tuple[Key, ...] = ()
    tick = 1.0

    def __init__(self, store: Store) -> None:
        self.store = store
        self.stopping = threading.Event()

    def sync(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name=type(self).__name__).start()

    def _run(self) -> None:
        keys = set(self.watches)
        while not self.stopping.is_set():
            version = self.store.version
            try:
                self.sync()
            except ApiError as e:
                if e.code not in (404, 409):
                    print(f"{type(self).__name__}: {e}", file=sys.stderr)
            except Exception:
                traceback.print_exc(file=sys.stderr)
            self.store.wait(lambda: bool(self.store.since(version, keys)), self.tick)

    # ---- helpers

    def kind(self, plural: str, group: str = "") -> Resource:
        return self.store.catalog.of(plural, group)

    def owned(self, resource: Resource, owner: Obj) -> list[Obj]:
        uid = owner["metadata"]["uid"]
        return [o for o in self.store.list(resource, owner["metadata"].get("namespace", "")) if controller_of(o) == uid]

    def set_status(self, resource: Resource, obj: Obj, status: Obj) -> None:
        if obj.get("status") != status:
            self.store.mutate(
                resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], lambda o: o.update(status=status), status=True
            )

    def event(self, obj: Obj, kind: str, reason: str, message: str) -> None:
        emit(self.store, obj, kind, reason, message, type(self).__name__)


def emit(store: Store, obj: Obj, kind: str, reason: str, message: str, component: str) -> None:
    """An Event, or one more of the same."""
    meta = obj["metadata"]
    namespace = meta.get("namespace") or "default"
    ref = {
        "kind": obj["kind"],
        "apiVersion": obj["apiVersion"],
        "namespace": meta.get("namespace", ""),
        "name": meta["name"],
        "uid": meta["uid"],
    }
    name = f"{meta['name']}.{hashlib.sha256(json.dumps([ref, kind, reason, message]).encode()).hexdigest()[:16]}"
    resource = store.catalog.of("events")

    def again(e: Obj) -> None:
        e["count"] = e.get("count", 1) + 1
        e["lastTimestamp"] = now()

    try:
        if store.mutate(resource, namespace, name, again) is None:
            store.create(
                resource,
                {
                    "metadata": {"name": name, "namespace": namespace},
                    "involvedObject": ref,
                    "reason": reason,
                    "message": message,
                    "type": kind,
                    "source": {"component": component},
                    "reportingComponent": component,
                    "reportingInstance": "",
                    "firstTimestamp": now(),
                    "lastTimestamp": now(),
                    "count": 1,
                    "eventTime": micro_now(),
                },
            )
    except ApiError:
        pass  # The namespace is going.


def controller_of(obj: Obj) -> str:
    return next((str(r["uid"]) for r in obj["metadata"].get("ownerReferences") or [] if r.get("controller")), "")


def owner_reference(owner: Obj) -> Obj:
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def template_hash(template: Obj) -> str:
    return hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]


def from_template(template: Obj, owner: Obj, labels: dict[str, str] | None = None) -> Obj:
    """A Pod as a workload makes it."""
    meta = template.get("metadata") or {}
    name = f"{owner['metadata']['name'][:57]}-{uuid.uuid4().hex[:5]}"
    return {
        "metadata": {
            "name": name,
            "namespace": owner["metadata"]["namespace"],
            "labels": {**(meta.get("labels") or {}), **(labels or {})},
            "annotations": dict(meta.get("annotations") or {}),
            "ownerReferences": [owner_reference(owner)],
        },
        "spec": json.loads(json.dumps(template["spec"])),
    }


def condition(obj: Obj, kind: str) -> Obj | None:
    return next((c for c in (obj.get("status") or {}).get("conditions") or [] if c["type"] == kind), None)


def is_ready(pod: Obj) -> bool:
    found = condition(pod, "Ready")
    return found is not None and found["status"] == "True" and "deletionTimestamp" not in pod["metadata"]


def is_over(pod: Obj) -> bool:
    return pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def set_condition(conditions: list[Obj], kind: str, status: str, reason: str, message: str, *, touch: bool = False) -> list[Obj]:
    """The list with that condition; its times change when it does, or (`touch`) the time of the last update."""
    old = next((c for c in conditions if c["type"] == kind), None)
    stamp = now()
    new: Obj = {
        "type": kind,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": old["lastTransitionTime"] if old and old["status"] == status else stamp,
    }
    same = old is not None and all(old.get(k) == new[k] for k in ("status", "reason", "message"))
    new["lastUpdateTime"] = old["lastUpdateTime"] if old and same and not touch and "lastUpdateTime" in old else stamp
    return [c for c in conditions if c["type"] != kind] + [new]


def amount(value: int | str, total: int, up: bool) -> int:
    """Of maxSurge and the like: a number, or a part of the whole."""
    if isinstance(value, int):
        return value
    share = total * int(value.rstrip("%"))
    return -(-share // 100) if up else share // 100


def each(objects: list[Obj], what: Callable[[Obj], None]) -> None:
    """What goes wrong with one leaves the others alone."""
    for obj in objects:
        try:
            what(obj)
        except ApiError as e:
            if e.code not in (404, 409):
                print(f"{obj['kind']} {obj['metadata']['name']}: {e}", file=sys.stderr)
