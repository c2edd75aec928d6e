"""What `kubectl get` prints: the columns that the server makes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from .model import Obj, Resource, parse_time

Columns = list[tuple[str, Callable[[Obj], Any]]]


def _age(obj: Obj) -> str:
    seconds = int(time.time() - parse_time(obj["metadata"]["creationTimestamp"]))
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 0)}s"


def _pod_status(pod: Obj) -> str:
    status = pod.get("status", {})
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    inits = status.get("initContainerStatuses") or []
    sidecars = {c["name"] for c in pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"}
    for i, c in enumerate(inits):
        if c["name"] in sidecars and c.get("started") or c.get("state", {}).get("terminated", {}).get("exitCode") == 0:
            continue
        waiting = c.get("state", {}).get("waiting", {}).get("reason")
        return f"Init:{waiting}" if waiting and waiting != "PodInitializing" else f"Init:{i}/{len(inits)}"
    for c in status.get("containerStatuses") or []:
        state = c.get("state", {})
        for kind in ("waiting", "terminated"):
            if state.get(kind, {}).get("reason"):
                return str(state[kind]["reason"])
    return str(status.get("reason") or status.get("phase", "Pending"))


def _pod_ready(pod: Obj) -> str:
    sidecars = [c["name"] for c in pod["spec"].get("initContainers") or [] if c.get("restartPolicy") == "Always"]
    statuses = [
        *(pod.get("status", {}).get("containerStatuses") or []),
        *(c for c in pod.get("status", {}).get("initContainerStatuses") or [] if c["name"] in sidecars),
    ]
    return f"{sum(bool(c.get('ready')) for c in statuses)}/{len(pod['spec']['containers']) + len(sidecars)}"


def _of(kind: str, key: str) -> Callable[[Obj], Any]:
    return lambda o: o.get(kind, {}).get(key, 0)


def _ports(service: Obj) -> str:
    return ",".join(f"{p['port']}/{p['protocol']}" for p in service["spec"].get("ports") or []) or "<none>"


_COLUMNS: dict[str, Columns] = {
    "Pod": [
        ("Ready", _pod_ready),
        ("Status", _pod_status),
        ("Restarts", lambda o: sum(c.get("restartCount", 0) for c in o.get("status", {}).get("containerStatuses") or [])),
    ],
    "Deployment": [
        ("Ready", lambda o: f"{o.get('status', {}).get('readyReplicas', 0)}/{o['spec'].get('replicas', 1)}"),
        ("Up-to-date", _of("status", "updatedReplicas")),
        ("Available", _of("status", "availableReplicas")),
    ],
    "ReplicaSet": [("Desired", _of("spec", "replicas")), ("Current", _of("status", "replicas")), ("Ready", _of("status", "readyReplicas"))],
    "DaemonSet": [
        ("Desired", _of("status", "desiredNumberScheduled")),
        ("Current", _of("status", "currentNumberScheduled")),
        ("Ready", _of("status", "numberReady")),
        ("Up-to-date", _of("status", "updatedNumberScheduled")),
        ("Available", _of("status", "numberAvailable")),
    ],
    "Job": [
        ("Status", lambda o: next((c["type"] for c in o.get("status", {}).get("conditions") or [] if c["status"] == "True"), "Running")),
        ("Completions", lambda o: f"{o.get('status', {}).get('succeeded', 0)}/{o['spec'].get('completions', 1)}"),
    ],
    "CronJob": [
        ("Schedule", _of("spec", "schedule")),
        ("Suspend", _of("spec", "suspend")),
        ("Active", lambda o: len(o.get("status", {}).get("active") or [])),
        ("Last Schedule", lambda o: o.get("status", {}).get("lastScheduleTime", "<none>")),
    ],
    "Service": [
        ("Type", _of("spec", "type")),
        ("Cluster-IP", _of("spec", "clusterIP")),
        ("External-IP", lambda o: "<none>"),
        ("Port(s)", _ports),
    ],
    "ConfigMap": [("Data", lambda o: len(o.get("data") or {}) + len(o.get("binaryData") or {}))],
    "Secret": [("Type", lambda o: o.get("type", "")), ("Data", lambda o: len(o.get("data") or {}))],
    "Namespace": [("Status", _of("status", "phase"))],
    "Node": [("Status", lambda o: "Ready"), ("Roles", lambda o: "<none>")],
    "Event": [
        ("Type", lambda o: o.get("type", "")),
        ("Reason", lambda o: o.get("reason", "")),
        (
            "Object",
            lambda o: "{kind}/{name}".format(**{"kind": "", "name": "", **(o.get("involvedObject") or o.get("regarding") or {})}).lower(),
        ),
        ("Message", lambda o: o.get("message") or o.get("note") or ""),
    ],
    "Ingress": [
        ("Class", lambda o: o["spec"].get("ingressClassName", "<none>")),
        ("Hosts", lambda o: ",".join(r.get("host", "*") for r in o["spec"].get("rules") or []) or "*"),
    ],
    "HTTPRoute": [("Hostnames", lambda o: ",".join(o["spec"].get("hostnames") or []) or "*")],
    "HorizontalPodAutoscaler": [("MinPods", _of("spec", "minReplicas")), ("MaxPods", _of("spec", "maxReplicas"))],
}


def table(resource: Resource, objects: list[Obj], version: str, columns: bool = True) -> Obj:
    made = _COLUMNS.get(resource.kind, [])
    definitions = [
        {"name": n, "type": "string", "format": "name" if n == "Name" else "", "description": "", "priority": 0}
        for n in ["Name", *(n for n, _ in made), "Age"]
    ]
    rows = [
        {
            "cells": [o["metadata"]["name"], *(f(o) for _, f in made), _age(o)],
            "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": o["metadata"]},
        }
        for o in objects
    ]
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {"resourceVersion": version},
        "columnDefinitions": definitions if columns else [],
        "rows": rows,
    }
