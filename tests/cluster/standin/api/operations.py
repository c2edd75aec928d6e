"""Requests for objects, once they are known to be allowed: create, read, update, patch, delete."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field

import yaml

from . import events, fields, patch
from .model import ApiError, Obj, Resource, bad_request, invalid, not_found, now
from .rbac import Tokens
from .store import Store

PATCHES = {
    "application/json-patch+json": "json",
    "application/merge-patch+json": "merge",
    "application/strategic-merge-patch+json": "strategic",
    "application/apply-patch+yaml": "apply",
}


@dataclass
class Call:
    """A request for objects of one kind."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""
    query: dict[str, str] = field(default_factory=dict)
    agent: str = ""

    @property
    def dry_run(self) -> bool:
        return bool(self.query.get("dryRun"))

    @property
    def manager(self) -> str:
        return self.query.get("fieldManager") or self.agent.split("/")[0] or "unknown"


class Operations:
    def __init__(self, store: Store, tokens: Tokens) -> None:
        self.store, self.tokens = store, tokens

    def create(self, call: Call, obj: Obj) -> Obj:
        if call.subresource == "token":
            seconds = obj.get("spec", {}).get("expirationSeconds", 3600)
            token = self.tokens.issue(call.namespace, call.name, seconds)
            return {
                **obj,
                "kind": "TokenRequest",
                "apiVersion": "authentication.k8s.io/v1",
                "status": {"token": token, "expirationTimestamp": now()},
            }
        if call.subresource == "eviction":
            return self._evict(call)
        if call.subresource:
            raise not_found(call.resource, call.name)
        self._belongs(call, obj)
        meta = obj["metadata"]
        if call.resource.group == "events.k8s.io":
            events.check(obj, None)
        obj = events.to_stored(obj) if call.resource.kind == "Event" else obj
        if not meta.get("name") and not meta.get("generateName"):
            raise invalid(
                call.resource.kind, call.resource.group, "", [("metadata.name", "Required value: name or generateName is required")]
            )
        fields.track(call.resource, None, obj, call.manager)
        return self.store.create(call.resource, obj, call.dry_run)

    def _belongs(self, call: Call, obj: Obj) -> None:
        """The object is of the kind and namespace that the address says."""
        resource = call.resource
        if obj.get("kind", resource.kind) != resource.kind or obj.get("apiVersion", resource.api_version) != resource.api_version:
            raise bad_request(
                f"the API version in the data ({obj.get('apiVersion')}, {obj.get('kind')}) does not match the expected "
                f"({resource.api_version}, {resource.kind})"
            )
        meta = obj.setdefault("metadata", {})
        if not isinstance(meta, dict):
            raise bad_request("metadata must be an object")
        if resource.namespaced:
            if meta.setdefault("namespace", call.namespace) != call.namespace:
                raise bad_request(f"the namespace of the provided object does not match the namespace sent on the request")
        if call.name and meta.setdefault("name", call.name) != call.name:
            raise bad_request("the name of the object does not match the name on the URL")

    def _evict(self, call: Call) -> Obj:
        pod = self.store.get(call.resource, call.namespace, call.name)
        from .selectors import of_spec

        for budget in self.store.list(self.store.catalog.of("poddisruptionbudgets", "policy"), call.namespace):
            if of_spec(budget["spec"].get("selector"))(pod["metadata"].get("labels") or {}):
                if budget.get("status", {}).get("disruptionsAllowed", 0) < 1:
                    raise ApiError(429, "TooManyRequests", "Cannot evict pod as it would violate the pod's disruption budget.")
        self.store.delete(call.resource, call.namespace, call.name)
        return {"kind": "Status", "apiVersion": "v1", "status": "Success"}

    def read(self, call: Call) -> Obj:
        obj = self.store.get(call.resource, call.namespace, call.name)
        return self._scale(call, obj) if call.subresource == "scale" else obj

    def _scale(self, call: Call, obj: Obj) -> Obj:
        meta = {k: obj["metadata"].get(k) for k in ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")}
        labels = (obj["spec"].get("selector") or {}).get("matchLabels") or {}
        return {
            "kind": "Scale",
            "apiVersion": "autoscaling/v1",
            "metadata": meta,
            "spec": {"replicas": obj["spec"].get("replicas", 1)},
            "status": {"replicas": obj.get("status", {}).get("replicas", 0), "selector": ",".join(f"{k}={v}" for k, v in labels.items())},
        }

    def update(self, call: Call, obj: Obj) -> Obj:
        with self.store.changed:
            old = self.store.get(call.resource, call.namespace, call.name)
            if call.subresource == "scale":
                new = json.loads(json.dumps(old))
                new["spec"]["replicas"] = obj.get("spec", {}).get("replicas", 0)
                return self._scale(call, self._write(call, old, new, ""))
            self._belongs(call, obj)
            if call.resource.kind == "Event":
                if call.resource.group:
                    events.check(obj, old)
                obj = events.to_stored(obj)
            return self._write(call, old, obj, call.subresource)

    def _write(self, call: Call, old: Obj, new: Obj, subresource: str) -> Obj:
        if subresource == "status":
            new = {
                **old,
                "status": new.get("status", {}),
                "metadata": {**old["metadata"], "resourceVersion": new["metadata"].get("resourceVersion")},
            }
        elif "status" in call.resource.subresources and "status" in old:
            new = {**new, "status": old["status"]}
        new = json.loads(json.dumps(new))
        fields.track(call.resource, old, new, call.manager, subresource)
        return self.store.update(call.resource, new, status=subresource == "status", dry_run=call.dry_run)

    def patch(self, call: Call, kind: str, body: bytes) -> tuple[Obj, bool]:
        """The object, and whether it was made by this."""
        document = yaml.safe_load(body) if kind == "apply" else json.loads(body)
        with self.store.changed:
            if kind == "apply":
                return self._apply(call, document)
            old = self.store.get(call.resource, call.namespace, call.name)
            shown = self._scale(call, old) if call.subresource == "scale" else events.present(call.resource, old)
            if kind == "json":
                new = patch.json_patch(shown, document)
            elif kind == "merge":
                new = patch.merge_patch(shown, document)
            elif call.resource.custom:
                raise ApiError(
                    415,
                    "UnsupportedMediaType",
                    "the body of the request was in an unknown format - accepted media types include: "
                    "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
                )
            else:
                new = patch.strategic_merge(shown, document, call.resource.kind)
            if "resourceVersion" not in (document.get("metadata") or {} if isinstance(document, dict) else {}):
                new["metadata"]["resourceVersion"] = old["metadata"]["resourceVersion"]
            return self.update(call, new), False

    def _apply(self, call: Call, config: Obj) -> tuple[Obj, bool]:
        if not call.query.get("fieldManager"):
            raise bad_request('PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch')
        self._belongs(call, config)
        live = self.store.find(call.resource, call.namespace, call.name)
        if call.subresource == "status":
            config = {k: v for k, v in config.items() if k in ("apiVersion", "kind", "metadata", "status")}
        elif call.resource.key == ("", "secrets"):
            from .defaults import fill

            if "stringData" in config:
                kind = config.get("type")
                fill(call.resource, config)
                if kind is None:
                    config.pop("type")
        new = fields.apply(call.resource, live, config, call.query["fieldManager"], call.query.get("force") == "true")
        if live is None:
            return self.store.create(call.resource, new, call.dry_run), True
        new["metadata"].setdefault("resourceVersion", live["metadata"]["resourceVersion"])
        return self.store.update(call.resource, new, status=call.subresource == "status", dry_run=call.dry_run), False

    def delete(self, call: Call, options: Obj) -> tuple[Obj, bool]:
        for key in ("propagationPolicy", "gracePeriodSeconds"):
            if key in call.query:
                options.setdefault(key, int(call.query[key]) if key == "gracePeriodSeconds" else call.query[key])
        policy = options.get("propagationPolicy", "Background")
        if call.dry_run or options.get("dryRun"):
            return self.store.get(call.resource, call.namespace, call.name), True
        wanted = options.get("preconditions") or {}
        return self.store.delete(
            call.resource,
            call.namespace,
            call.name,
            grace=options.get("gracePeriodSeconds"),
            orphan=policy == "Orphan",
            foreground=policy == "Foreground",
            uid=wanted.get("uid", ""),
            version=wanted.get("resourceVersion", ""),
        )

    def delete_all(self, call: Call, options: Obj, match: Callable[[Obj], bool]) -> list[Obj]:
        gone = []
        for obj in self.store.list(call.resource, call.namespace):
            if match(obj):
                one = Call(call.resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], "", call.query, call.agent)
                gone.append(self.delete(one, dict(options))[0])
        return gone
