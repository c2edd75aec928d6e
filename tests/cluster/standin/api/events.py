"""Events: one store, two groups that spell them differently."""

from __future__ import annotations

from .model import Obj, Resource, invalid

_NEW_TO_OLD = {
    "regarding": "involvedObject",
    "note": "message",
    "reportingController": "reportingComponent",
    "deprecatedSource": "source",
    "deprecatedFirstTimestamp": "firstTimestamp",
    "deprecatedLastTimestamp": "lastTimestamp",
    "deprecatedCount": "count",
}
_OLD_TO_NEW = {old: new for new, old in _NEW_TO_OLD.items()}


def to_stored(obj: Obj) -> Obj:
    return {_NEW_TO_OLD.get(k, k): v for k, v in obj.items()}


def to_new(obj: Obj) -> Obj:
    return {**{_OLD_TO_NEW.get(k, k): v for k, v in obj.items()}, "apiVersion": "events.k8s.io/v1", "kind": "Event"}


def present(resource: Resource, obj: Obj) -> Obj:
    if resource.kind != "Event":
        return obj
    if resource.group:
        return to_new(obj)
    return {**obj, "apiVersion": "v1", "kind": "Event"}


def check(obj: Obj, old: Obj | None) -> None:
    """What events.k8s.io/v1 asks of an event, in the spelling of that group."""
    causes: list[tuple[str, str]] = []
    meta = obj.get("metadata", {})
    where = (obj.get("regarding") or {}).get("namespace", "")
    if where != meta.get("namespace") and not (not where and meta.get("namespace") == "default"):
        causes.append(("involvedObject.namespace", f'Invalid value: "{where}": does not match event.namespace'))
    if not obj.get("eventTime"):
        causes.append(("eventTime", "Required value"))
    if obj.get("type") not in ("Normal", "Warning"):
        causes.append(("type", f'Invalid value: "{obj.get("type", "")}": has invalid value'))
    for key, most in (("reportingController", 128), ("reportingInstance", 128), ("action", 128), ("reason", 128)):
        if not obj.get(key):
            causes.append((key, "Required value"))
        elif len(obj[key]) > most:
            causes.append((key, f"Invalid value: can have at most {most} characters"))
    if len(obj.get("note", "").encode()) > 1024:
        causes.append(("message", "Invalid value: can have at most 1024 characters"))
    if old is not None:
        before = to_new(old)
        for key in ("regarding", "reason", "note", "type", "action", "related", "reportingController", "reportingInstance", "eventTime"):
            if before.get(key) != obj.get(key):
                causes.append((key, "Invalid value: field is immutable"))
    if causes:
        raise invalid("Event", "events.k8s.io", meta.get("name", ""), causes)
