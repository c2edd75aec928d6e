"""Objects and their history, as etcd and the watch cache keep them."""

from __future__ import annotations

import collections
import copy
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .model import ApiError, Catalog, Obj, Resource, already_exists, conflict, not_found, now

HISTORY = 20_000


@dataclass(frozen=True)
class Change:
    """What happened to one object; `old` is what it was before."""

    version: int
    kind: str  # ADDED, MODIFIED, DELETED
    key: tuple[str, str]
    obj: Obj
    old: Obj | None


Objects = list[Obj]
Changes = list[Change]
Admit = Callable[[Resource, Obj, Obj | None], None]


class Store:
    """Stored objects are never changed in place: whoever changes one puts a copy in its place. Readers may so keep what they got."""

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.changed = threading.Condition(threading.RLock())
        self.version = 1
        self.admit: Admit = lambda resource, obj, old: None
        self._objects: dict[tuple[str, str], dict[tuple[str, str], Obj]] = {}
        self._history: collections.deque[Change] = collections.deque(maxlen=HISTORY)
        # Deleted kinds of Pods wait for kubelet; everything else goes at once.
        self.graceful: set[tuple[str, str]] = {("", "pods")}

    # ---- reading

    def get(self, resource: Resource, namespace: str, name: str) -> Obj:
        found = self.find(resource, namespace, name)
        if found is None:
            raise not_found(resource, name)
        return found

    def find(self, resource: Resource, namespace: str, name: str) -> Obj | None:
        with self.changed:
            return self._objects.get(resource.key, {}).get((namespace if resource.namespaced else "", name))

    def list(self, resource: Resource, namespace: str = "") -> Objects:
        return self.snapshot(resource, namespace)[0]

    def snapshot(self, resource: Resource, namespace: str = "") -> tuple[Objects, int]:
        """The objects in order of namespace and name, and the version at which they were so."""
        with self.changed:
            objects = self._objects.get(resource.key, {})
            return [objects[k] for k in sorted(objects) if not namespace or k[0] == namespace], self.version

    def since(self, version: int, keys: set[tuple[str, str]] | None = None) -> Changes:
        """What changed after that version; 410 when that is forgotten."""
        with self.changed:
            if self._history and version < self._history[0].version - 1 and len(self._history) == HISTORY:
                raise ApiError(410, "Expired", f"too old resource version: {version} ({self._history[0].version})")
            out = []
            for change in reversed(self._history):
                if change.version <= version:
                    break
                if keys is None or change.key in keys:
                    out.append(change)
            return out[::-1]

    def follow(self, version: int, keys: set[tuple[str, str]] | None, stopped: Callable[[], bool], tick: float) -> Iterator[Change | int]:
        """Changes as they come; after `tick` seconds without one, the version up to which all were told."""
        while not stopped():
            with self.changed:
                changes = self.since(version, keys)
                version = changes[-1].version if changes else self.version
                if not changes and self.changed.wait(tick):
                    continue
            if not changes:
                yield version
            yield from changes

    def wait(self, what: Callable[[], bool], seconds: float) -> bool:
        """Until it holds after some change, or the time is over."""
        end = time.monotonic() + seconds
        with self.changed:
            while not what():
                left = end - time.monotonic()
                if left <= 0:
                    return False
                self.changed.wait(left)
            return True

    # ---- writing

    def create(self, resource: Resource, obj: Obj, dry_run: bool = False) -> Obj:
        obj = copy.deepcopy(obj)
        meta = obj.setdefault("metadata", {})
        obj["apiVersion"], obj["kind"] = resource.api_version, resource.kind
        if not meta.get("name") and meta.get("generateName"):
            meta["name"] = meta["generateName"] + uuid.uuid4().hex[:5]
        meta.update(uid=str(uuid.uuid4()), creationTimestamp=now())
        for gone in ("deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"):
            meta.pop(gone, None)
        if not resource.namespaced:
            meta.pop("namespace", None)
        with self.changed:
            self.admit(resource, obj, None)
            if "spec" in obj:
                meta["generation"] = 1
            place = (meta.get("namespace", ""), meta["name"])
            if place in self._objects.get(resource.key, {}):
                raise already_exists(resource, meta["name"])
            if dry_run:
                meta["resourceVersion"] = str(self.version)
                return obj
            return self._put(resource, "ADDED", place, obj, None)

    def update(self, resource: Resource, obj: Obj, *, status: bool = False, dry_run: bool = False, system: bool = False) -> Obj:
        """Puts an object in place of what is there. `status`: that part alone is taken. `system`: who writes is trusted with metadata
        that users cannot set."""
        meta = obj["metadata"]
        with self.changed:
            place = (meta.get("namespace", "") if resource.namespaced else "", meta["name"])
            old = self._objects.get(resource.key, {}).get(place)
            if old is None:
                raise not_found(resource, meta["name"])
            if meta.get("resourceVersion") not in (None, "", old["metadata"]["resourceVersion"]):
                raise conflict(resource, meta["name"])
            if meta.get("uid") not in (None, "", old["metadata"]["uid"]):
                raise conflict(
                    resource,
                    meta["name"],
                    f"Precondition failed: UID in precondition: {meta['uid']}, UID in object meta: {old['metadata']['uid']}",
                )
            if status:
                new = copy.deepcopy(old)
                new["status"] = copy.deepcopy(obj.get("status", {}))
                if "managedFields" in meta:
                    new["metadata"]["managedFields"] = copy.deepcopy(meta["managedFields"])
            else:
                new = copy.deepcopy(obj)
                if "status" in old and not system and "status" in resource.subresources:
                    new["status"] = copy.deepcopy(old["status"])
            new["apiVersion"], new["kind"] = resource.api_version, resource.kind
            for fixed in ("uid", "creationTimestamp", "resourceVersion", "generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
                if fixed in old["metadata"] and not (system and fixed.startswith("deletion")):
                    new["metadata"][fixed] = old["metadata"][fixed]
                elif fixed not in old["metadata"] and not system:
                    new["metadata"].pop(fixed, None)
            if not status:
                self.admit(resource, new, old)
            if new.get("spec") != old.get("spec") and "generation" in old["metadata"]:
                new["metadata"]["generation"] = old["metadata"]["generation"] + 1
            if new == old or dry_run:
                return new
            if self._may_go(resource, new):
                return self._remove(resource, place, new)
            return self._put(resource, "MODIFIED", place, new, old)

    def mutate(self, resource: Resource, namespace: str, name: str, change: Callable[[Obj], None], *, status: bool = False) -> Obj | None:
        """For controllers: changes what is there now; None if it is gone."""
        with self.changed:
            old = self.find(resource, namespace, name)
            if old is None:
                return None
            new = copy.deepcopy(old)
            change(new)
            return self.update(resource, new, status=status, system=True)

    def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace: int | None = None,
        orphan: bool = False,
        foreground: bool = False,
        uid: str = "",
        version: str = "",
    ) -> tuple[Obj, bool]:
        """The object as it is then, and whether it is gone."""
        with self.changed:
            old = self.get(resource, namespace, name)
            place = (old["metadata"].get("namespace", ""), name)
            if uid and uid != old["metadata"]["uid"] or version and version != old["metadata"]["resourceVersion"]:
                raise conflict(resource, name, "Precondition failed")
            new = copy.deepcopy(old)
            meta = new["metadata"]
            if orphan or foreground:
                finalizer = "orphan" if orphan else "foregroundDeletion"
                if finalizer not in meta.setdefault("finalizers", []):
                    meta["finalizers"].append(finalizer)
            if resource.key in self.graceful and old.get("spec", {}).get("nodeName"):
                seconds = old["spec"].get("terminationGracePeriodSeconds", 30) if grace is None else grace
                if old.get("status", {}).get("phase") in ("Succeeded", "Failed"):
                    seconds = 0
                if "deletionTimestamp" in meta:
                    seconds = min(seconds, meta.get("deletionGracePeriodSeconds", seconds))
                if seconds > 0 or "deletionTimestamp" not in meta and grace != 0:
                    meta.setdefault("deletionTimestamp", now())
                    meta["deletionGracePeriodSeconds"] = seconds
                    if new == old:
                        return old, False
                    return self._put(resource, "MODIFIED", place, new, old), False
            if self._held(resource, new):
                if resource.key == ("", "namespaces"):
                    new["status"] = {**new.get("status", {}), "phase": "Terminating"}
                if "deletionTimestamp" not in meta:
                    meta["deletionTimestamp"] = now()
                    meta["deletionGracePeriodSeconds"] = 0
                    meta["generation"] = meta.get("generation", 0) + 1
                if new == old:
                    return old, False
                return self._put(resource, "MODIFIED", place, new, old), False
            return self._remove(resource, place, new), True

    def _may_go(self, resource: Resource, obj: Obj) -> bool:
        meta = obj["metadata"]
        return "deletionTimestamp" in meta and not self._held(resource, obj) and resource.key not in self.graceful

    def _held(self, resource: Resource, obj: Obj) -> bool:
        """Whether something is to be done before the object may go."""
        return bool(obj["metadata"].get("finalizers")) or resource.key == ("", "namespaces") and bool(obj.get("spec", {}).get("finalizers"))

    def _put(self, resource: Resource, kind: str, place: tuple[str, str], obj: Obj, old: Obj | None) -> Obj:
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._objects.setdefault(resource.key, {})[place] = obj
        self._tell(Change(self.version, kind, resource.key, obj, old))
        return obj

    def _remove(self, resource: Resource, place: tuple[str, str], obj: Obj) -> Obj:
        old = self._objects[resource.key].pop(place)
        self.version += 1
        obj["metadata"]["resourceVersion"] = str(self.version)
        self._tell(Change(self.version, "DELETED", resource.key, obj, old))
        return obj

    def _tell(self, change: Change) -> None:
        self._history.append(change)
        self.changed.notify_all()
