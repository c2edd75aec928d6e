"""Deployments, ReplicaSets and DaemonSets."""

from __future__ import annotations

import time

from ..api.model import ApiError, Obj, parse_time
from ..api.selectors import of_spec
from .base import Controller, amount, condition, each, from_template, is_over, is_ready, owner_reference, set_condition, template_hash

REVISION = "deployment.kubernetes.io/revision"


class ReplicaSets(Controller):
    watches = (("apps", "replicasets"), ("", "pods"))

    def sync(self) -> None:
        each(self.store.list(self.kind("replicasets", "apps")), self._one)

    def _one(self, rs: Obj) -> None:
        pods_kind, rs_kind = self.kind("pods"), self.kind("replicasets", "apps")
        if "deletionTimestamp" in rs["metadata"]:
            return
        pods = [p for p in self.owned(pods_kind, rs) if "deletionTimestamp" not in p["metadata"] and not is_over(p)]
        wanted = rs["spec"].get("replicas", 1)
        status: Obj = dict(rs.get("status") or {})
        conditions = [c for c in status.get("conditions") or [] if c["type"] != "ReplicaFailure"]
        for _ in range(wanted - len(pods)):
            try:
                pod = self.store.create(pods_kind, from_template(rs["spec"]["template"], rs))
                pods.append(pod)
                self.event(rs, "Normal", "SuccessfulCreate", f"Created pod: {pod['metadata']['name']}")
            except ApiError as e:
                self.event(rs, "Warning", "FailedCreate", f"Error creating: {e}")
                conditions = set_condition(conditions, "ReplicaFailure", "True", "FailedCreate", str(e))
                break
        # Those that are not ready go first, then the youngest.
        order = sorted(pods, key=lambda p: (is_ready(p), -parse_time(p["metadata"]["creationTimestamp"])))
        for pod in order[: max(len(pods) - wanted, 0)]:
            self.store.delete(pods_kind, pod["metadata"]["namespace"], pod["metadata"]["name"])
            self.event(rs, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
            pods.remove(pod)
        ready = sum(is_ready(p) for p in pods)
        available = sum(_is_available(p, rs["spec"].get("minReadySeconds", 0)) for p in pods)
        new: Obj = {
            "replicas": len(pods),
            "fullyLabeledReplicas": len(pods),
            "readyReplicas": ready,
            "availableReplicas": available,
            "observedGeneration": rs["metadata"]["generation"],
        }
        if conditions:
            new["conditions"] = conditions
        self.set_status(rs_kind, rs, new)


def _is_available(pod: Obj, seconds: int) -> bool:
    found = condition(pod, "Ready")
    return is_ready(pod) and found is not None and time.time() - parse_time(found["lastTransitionTime"]) >= seconds


class Deployments(Controller):
    watches = (("apps", "deployments"), ("apps", "replicasets"), ("", "pods"))

    def sync(self) -> None:
        each(self.store.list(self.kind("deployments", "apps")), self._one)

    def _one(self, d: Obj) -> None:
        if "deletionTimestamp" in d["metadata"]:
            return
        sets = self.owned(self.kind("replicasets", "apps"), d)
        if not d["spec"].get("paused"):
            new = self._new_set(d, sets)
            if new not in sets:
                sets.append(new)
            old = [s for s in sets if s["metadata"]["uid"] != new["metadata"]["uid"]]
            if d["spec"]["strategy"]["type"] == "Recreate":
                self._recreate(d, new, old)
            else:
                self._roll(d, new, old)
            self._forget(d, old)
        self._status(d)

    def _new_set(self, d: Obj, sets: list[Obj]) -> Obj:
        kind = self.kind("replicasets", "apps")
        hash_ = template_hash(d["spec"]["template"])
        latest = max((int(s["metadata"].get("annotations", {}).get(REVISION, 0)) for s in sets), default=0)
        found = next((s for s in sets if s["metadata"]["labels"].get("pod-template-hash") == hash_), None)
        if found is None:
            template = d["spec"]["template"]
            labels = {**(template.get("metadata", {}).get("labels") or {}), "pod-template-hash": hash_}
            revision = latest + 1
            found = self.store.create(
                kind,
                {
                    "metadata": {
                        "name": f"{d['metadata']['name']}-{hash_}",
                        "namespace": d["metadata"]["namespace"],
                        "labels": labels,
                        "annotations": {REVISION: str(revision)},
                        "ownerReferences": [owner_reference(d)],
                    },
                    "spec": {
                        "replicas": 0,
                        "minReadySeconds": d["spec"].get("minReadySeconds", 0),
                        "selector": {"matchLabels": {**(d["spec"]["selector"].get("matchLabels") or {}), "pod-template-hash": hash_}},
                        "template": {**template, "metadata": {**template.get("metadata", {}), "labels": labels}},
                    },
                    "status": {"replicas": 0},
                },
            )
        else:
            revision = int(found["metadata"].get("annotations", {}).get(REVISION, 0))
            if revision < latest:
                revision = latest + 1

                def promote(o: Obj) -> None:
                    o["metadata"].setdefault("annotations", {})[REVISION] = str(revision)

                found = self.store.mutate(kind, found["metadata"]["namespace"], found["metadata"]["name"], promote) or found
        if d["metadata"].get("annotations", {}).get(REVISION) != str(revision):

            def mark(o: Obj) -> None:
                o["metadata"].setdefault("annotations", {})[REVISION] = str(revision)

            self.store.mutate(self.kind("deployments", "apps"), d["metadata"]["namespace"], d["metadata"]["name"], mark)
        return found

    def _scale(self, d: Obj, rs: Obj, replicas: int) -> None:
        before = rs["spec"].get("replicas", 0)
        if before == replicas:
            return

        def change(o: Obj) -> None:
            o["spec"]["replicas"] = replicas

        self.store.mutate(self.kind("replicasets", "apps"), rs["metadata"]["namespace"], rs["metadata"]["name"], change)
        self.event(
            d,
            "Normal",
            "ScalingReplicaSet",
            f"Scaled {'up' if replicas > before else 'down'} replica set {rs['metadata']['name']} from {before} to {replicas}",
        )

    def _roll(self, d: Obj, new: Obj, old: list[Obj]) -> None:
        wanted = d["spec"]["replicas"]
        rolling = d["spec"]["strategy"].get("rollingUpdate") or {}
        surge = amount(rolling.get("maxSurge", "25%"), wanted, True)
        unavailable = amount(rolling.get("maxUnavailable", "25%"), wanted, False)
        if surge == 0 and unavailable == 0:
            unavailable = 1
        have = new["spec"].get("replicas", 0)
        total = have + sum(s["spec"].get("replicas", 0) for s in old)
        if have > wanted:
            return self._scale(d, new, wanted)
        if have < wanted and total < wanted + surge:
            return self._scale(d, new, min(wanted, have + wanted + surge - total))
        least = wanted - unavailable
        spare = total - least - (have - new.get("status", {}).get("availableReplicas", 0))
        for rs in old:
            # Those of the old ones that never became available are no loss.
            count = rs["spec"].get("replicas", 0)
            dead = min(count - rs.get("status", {}).get("availableReplicas", 0), max(spare, 0))
            if count and dead > 0 and rs.get("status", {}).get("observedGeneration") == rs["metadata"]["generation"]:
                self._scale(d, rs, count - dead)
                return None
        available = sum(s.get("status", {}).get("availableReplicas", 0) for s in [new, *old])
        down = min(available - least, spare)
        for rs in sorted(old, key=lambda s: s["metadata"]["creationTimestamp"]):
            count = rs["spec"].get("replicas", 0)
            if down > 0 and count:
                self._scale(d, rs, count - min(count, down))
                return None
        return None

    def _recreate(self, d: Obj, new: Obj, old: list[Obj]) -> None:
        for rs in old:
            self._scale(d, rs, 0)
        if not any(p for rs in old for p in self.owned(self.kind("pods"), rs) if not is_over(p)):
            self._scale(d, new, d["spec"]["replicas"])

    def _forget(self, d: Obj, old: list[Obj]) -> None:
        idle = sorted(
            (s for s in old if not s["spec"].get("replicas") and not s.get("status", {}).get("replicas")),
            key=lambda s: int(s["metadata"].get("annotations", {}).get(REVISION, 0)),
        )
        for rs in idle[: max(len(idle) - d["spec"].get("revisionHistoryLimit", 10), 0)]:
            self.store.delete(self.kind("replicasets", "apps"), rs["metadata"]["namespace"], rs["metadata"]["name"])

    def _status(self, d: Obj) -> None:
        kind = self.kind("deployments", "apps")
        d = self.store.get(kind, d["metadata"]["namespace"], d["metadata"]["name"])
        sets = self.owned(self.kind("replicasets", "apps"), d)
        hash_ = template_hash(d["spec"]["template"])
        new = [s.get("status", {}) for s in sets if s["metadata"]["labels"].get("pod-template-hash") == hash_]
        statuses = [s.get("status", {}) for s in sets]
        wanted = d["spec"]["replicas"]
        old_status = d.get("status") or {}
        count = {k: sum(s.get(k, 0) for s in statuses) for k in ("replicas", "readyReplicas", "availableReplicas")}
        updated = sum(s.get("replicas", 0) for s in new)
        status: Obj = {
            **count,
            "updatedReplicas": updated,
            "unavailableReplicas": max(wanted - count["availableReplicas"], 0),
            "observedGeneration": d["metadata"]["generation"],
        }
        rolling = d["spec"]["strategy"].get("rollingUpdate") or {}
        least = wanted - amount(rolling.get("maxUnavailable", "25%"), wanted, False)
        conditions = list(old_status.get("conditions") or [])
        if count["availableReplicas"] >= least:
            conditions = set_condition(conditions, "Available", "True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        else:
            conditions = set_condition(
                conditions, "Available", "False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability."
            )
        done = updated == count["replicas"] == count["availableReplicas"] == wanted
        moved = any(status[k] != old_status.get(k, 0) for k in ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas"))
        before = next((c for c in conditions if c["type"] == "Progressing"), None)
        name = f"{d['metadata']['name']}-{hash_}"
        if done:
            conditions = set_condition(
                conditions, "Progressing", "True", "NewReplicaSetAvailable", f'ReplicaSet "{name}" has successfully progressed.'
            )
        elif (
            before
            and not moved
            and before["reason"] != "NewReplicaSetAvailable"
            and time.time() - parse_time(before["lastUpdateTime"]) > d["spec"].get("progressDeadlineSeconds", 600)
        ):
            conditions = set_condition(
                conditions, "Progressing", "False", "ProgressDeadlineExceeded", f'ReplicaSet "{name}" has timed out progressing.'
            )
        elif moved or before is None or before["reason"] == "NewReplicaSetAvailable":
            conditions = set_condition(
                conditions, "Progressing", "True", "ReplicaSetUpdated", f'ReplicaSet "{name}" is progressing.', touch=moved
            )
        failed = [c for s in new for c in s.get("conditions") or [] if c["type"] == "ReplicaFailure"]
        conditions = [c for c in conditions if c["type"] != "ReplicaFailure"] + failed
        status["conditions"] = conditions
        self.set_status(kind, d, status)


class DaemonSets(Controller):
    watches = (("apps", "daemonsets"), ("", "pods"), ("", "nodes"))

    def sync(self) -> None:
        each(self.store.list(self.kind("daemonsets", "apps")), self._one)

    def _one(self, ds: Obj) -> None:
        pods_kind = self.kind("pods")
        if "deletionTimestamp" in ds["metadata"]:
            return
        template = ds["spec"]["template"]
        hash_ = template_hash(template)
        fits = of_spec({"matchLabels": template["spec"].get("nodeSelector") or {}})
        nodes = [n["metadata"]["name"] for n in self.store.list(self.kind("nodes")) if fits(n["metadata"].get("labels") or {})]
        pods = [p for p in self.owned(pods_kind, ds) if not is_over(p)]
        for pod in self.owned(pods_kind, ds):
            if is_over(pod) and "deletionTimestamp" not in pod["metadata"]:
                self.store.delete(pods_kind, pod["metadata"]["namespace"], pod["metadata"]["name"])
        alive = [p for p in pods if "deletionTimestamp" not in p["metadata"]]
        rolling = ds["spec"]["updateStrategy"].get("rollingUpdate") or {}
        surge = amount(rolling.get("maxSurge", 0), len(nodes), True)
        unavailable = amount(rolling.get("maxUnavailable", 1), len(nodes), True)
        ready_nodes, updated = 0, 0
        old_ready: list[Obj] = []
        surging = sum(1 for n in nodes if len([p for p in alive if p["spec"]["nodeName"] == n]) > 1)
        for node in nodes:
            here = [p for p in alive if p["spec"]["nodeName"] == node]
            fresh = [p for p in here if p["metadata"]["labels"].get("controller-revision-hash") == hash_]
            stale = [p for p in here if p not in fresh]
            updated += bool(fresh)
            ready_nodes += any(is_ready(p) for p in here)
            if any(is_ready(p) for p in fresh):
                for p in stale:
                    self._delete(ds, p)
            elif stale and not fresh and ds["spec"]["updateStrategy"]["type"] == "RollingUpdate":
                if not any(is_ready(p) for p in stale):
                    for p in stale:
                        self._delete(ds, p)
                elif surge and surging < surge:
                    surging += 1
                    self._create(ds, node, hash_)
                elif not surge:
                    old_ready += stale
            leaving = [p for p in pods if p not in alive and p["spec"]["nodeName"] == node]
            if not here and (not leaving or surge):
                self._create(ds, node, hash_)
        for pod in old_ready[: max(unavailable - (len(nodes) - ready_nodes), 0)]:
            self._delete(ds, pod)
        now_there = [p for p in self.owned(pods_kind, ds) if "deletionTimestamp" not in p["metadata"]]
        on = {p["spec"]["nodeName"] for p in now_there}
        self.set_status(
            self.kind("daemonsets", "apps"),
            ds,
            {
                "currentNumberScheduled": len(on & set(nodes)),
                "desiredNumberScheduled": len(nodes),
                "numberMisscheduled": len(on - set(nodes)),
                "numberReady": ready_nodes,
                "numberAvailable": ready_nodes,
                "numberUnavailable": len(nodes) - ready_nodes,
                "updatedNumberScheduled": updated,
                "observedGeneration": ds["metadata"]["generation"],
            },
        )

    def _create(self, ds: Obj, node: str, hash_: str) -> None:
        pod = from_template(
            ds["spec"]["template"], ds, {"controller-revision-hash": hash_, "pod-template-generation": str(ds["metadata"]["generation"])}
        )
        pod["spec"]["nodeName"] = node
        try:
            made = self.store.create(self.kind("pods"), pod)
            self.event(ds, "Normal", "SuccessfulCreate", f"Created pod: {made['metadata']['name']}")
        except ApiError as e:
            self.event(ds, "Warning", "FailedCreate", f"Error creating: {e}")

    def _delete(self, ds: Obj, pod: Obj) -> None:
        self.store.delete(self.kind("pods"), pod["metadata"]["namespace"], pod["metadata"]["name"])
        self.event(ds, "Normal", "SuccessfulDelete", f"Deleted pod: {pod['metadata']['name']}")
