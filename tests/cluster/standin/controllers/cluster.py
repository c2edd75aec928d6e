"""Namespaces, garbage, scheduling, Services' endpoints, volumes' claims, disruption budgets and custom kinds."""

from __future__ import annotations

import uuid

from ..api.model import ApiError, Obj, Resource, now
from ..api.selectors import of_spec
from ..api.store import Store
from .base import Controller, amount, each, is_over, is_ready, owner_reference, set_condition

RBAC = "rbac.authorization.k8s.io"


class Namespaces(Controller):
    """Gives namespaces what each has, and empties those that are deleted."""

    watches = (("", "namespaces"), ("", "pods"), ("", "serviceaccounts"), ("", "configmaps"))
    ca = ""

    def sync(self) -> None:
        each(self.store.list(self.kind("namespaces")), self._one)

    def _one(self, namespace: Obj) -> None:
        name = namespace["metadata"]["name"]
        if "deletionTimestamp" not in namespace["metadata"]:
            for kind, obj in (
                (self.kind("serviceaccounts"), {"metadata": {"name": "default", "namespace": name}}),
                (self.kind("configmaps"), {"metadata": {"name": "kube-root-ca.crt", "namespace": name}, "data": {"ca.crt": self.ca}}),
            ):
                if self.store.find(kind, name, obj["metadata"]["name"]) is None:
                    self.store.create(kind, obj)
            return
        left = 0
        for resource in self.store.catalog.resources:
            if not resource.namespaced or resource.group == "events.k8s.io":
                continue
            for obj in self.store.list(resource, name):
                left += 1
                if "deletionTimestamp" not in obj["metadata"]:
                    self.store.delete(resource, name, obj["metadata"]["name"])
        if left == 0:
            self.store.mutate(self.kind("namespaces"), "", name, lambda o: o["spec"].update(finalizers=[]))


class Garbage(Controller):
    """Deletes what belongs to nobody any more; keeps what is said of dependents at deletion."""

    tick = 0.5

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.watches = tuple({r.key for r in store.catalog.resources} - {("", "events")})

    def sync(self) -> None:
        catalog = list(self.store.catalog.resources)
        with self.store.changed:
            everything = [(r, o) for r in catalog if r.plural != "events" for o in self.store.list(r)]
        uids = {o["metadata"]["uid"] for _, o in everything}
        waiting = [
            (r, o)
            for r, o in everything
            if "deletionTimestamp" in o["metadata"] and set(o["metadata"].get("finalizers") or []) & {"orphan", "foregroundDeletion"}
        ]
        for resource, obj in everything:
            owners = obj["metadata"].get("ownerReferences") or []
            if owners and not any(o["uid"] in uids for o in owners) and "deletionTimestamp" not in obj["metadata"]:
                self._delete(resource, obj)
        for resource, obj in waiting:
            self._dependents(resource, obj, everything)

    def _delete(self, resource: Resource, obj: Obj) -> None:
        try:
            self.store.delete(resource, obj["metadata"].get("namespace", ""), obj["metadata"]["name"], uid=obj["metadata"]["uid"])
        except ApiError:
            pass  # It went by itself.

    def _dependents(self, resource: Resource, owner: Obj, everything: list[tuple[Resource, Obj]]) -> None:
        uid = owner["metadata"]["uid"]
        theirs = [(r, o) for r, o in everything if any(x["uid"] == uid for x in o["metadata"].get("ownerReferences") or [])]
        orphan = "orphan" in owner["metadata"]["finalizers"]
        for r, o in theirs:
            if orphan:

                def leave(x: Obj) -> None:
                    x["metadata"]["ownerReferences"] = [y for y in x["metadata"]["ownerReferences"] if y["uid"] != uid]

                self.store.mutate(r, o["metadata"].get("namespace", ""), o["metadata"]["name"], leave)
            elif "deletionTimestamp" not in o["metadata"]:
                self._delete(r, o)
        if orphan or not theirs:

            def release(x: Obj) -> None:
                x["metadata"]["finalizers"] = [f for f in x["metadata"]["finalizers"] if f not in ("orphan", "foregroundDeletion")]

            self.store.mutate(resource, owner["metadata"].get("namespace", ""), owner["metadata"]["name"], release)


class Scheduler(Controller):
    watches = (("", "pods"), ("", "nodes"), ("", "persistentvolumeclaims"))

    def sync(self) -> None:
        waiting = [
            p for p in self.store.list(self.kind("pods")) if not p["spec"].get("nodeName") and "deletionTimestamp" not in p["metadata"]
        ]
        each(waiting, self._one)

    def _one(self, pod: Obj) -> None:
        nodes = self.store.list(self.kind("nodes"))
        fits = of_spec({"matchLabels": pod["spec"].get("nodeSelector") or {}})
        fitting = [n["metadata"]["name"] for n in nodes if fits(n["metadata"].get("labels") or {})]
        missing = [c for c in self._claims(pod) if self._unbound(pod, c)]
        if not fitting or missing:
            why = (
                f'persistentvolumeclaim "{missing[0]}" not found or not bound'
                if missing
                else f"0/{len(nodes)} nodes are available: {len(nodes)} node(s) didn't match Pod's node affinity/selector."
            )

            def tell(p: Obj) -> None:
                p["status"]["conditions"] = set_condition(
                    p["status"].get("conditions") or [], "PodScheduled", "False", "Unschedulable", why
                )

            self.store.mutate(self.kind("pods"), pod["metadata"]["namespace"], pod["metadata"]["name"], tell)
            return self.event(pod, "Warning", "FailedScheduling", why)
        load = {n: 0 for n in fitting}
        for p in self.store.list(self.kind("pods")):
            if p["spec"].get("nodeName") in load and not is_over(p):
                load[p["spec"]["nodeName"]] += 1
        node = min(fitting, key=lambda n: (load[n], n))

        def bind(p: Obj) -> None:
            p["spec"]["nodeName"] = node
            p["status"]["conditions"] = set_condition(p["status"].get("conditions") or [], "PodScheduled", "True", "Scheduled", "")

        self.store.mutate(self.kind("pods"), pod["metadata"]["namespace"], pod["metadata"]["name"], bind)
        return self.event(
            pod, "Normal", "Scheduled", f"Successfully assigned {pod['metadata']['namespace']}/{pod['metadata']['name']} to {node}"
        )

    def _claims(self, pod: Obj) -> list[str]:
        return [v["persistentVolumeClaim"]["claimName"] for v in pod["spec"].get("volumes") or [] if "persistentVolumeClaim" in v]

    def _unbound(self, pod: Obj, claim: str) -> bool:
        found = self.store.find(self.kind("persistentvolumeclaims"), pod["metadata"]["namespace"], claim)
        return found is None or found.get("status", {}).get("phase") != "Bound"


class Claims(Controller):
    """Every claim gets a volume at once; kubelet makes its folder."""

    watches = (("", "persistentvolumeclaims"),)

    def sync(self) -> None:
        each([c for c in self.store.list(self.kind("persistentvolumeclaims")) if c.get("status", {}).get("phase") != "Bound"], self._one)

    def _one(self, claim: Obj) -> None:
        meta = claim["metadata"]
        name = f"pvc-{meta['uid']}"

        def bind(c: Obj) -> None:
            c["spec"]["volumeName"] = name
            c["status"] = {
                "phase": "Bound",
                "accessModes": c["spec"].get("accessModes", []),
                "capacity": c["spec"].get("resources", {}).get("requests", {}),
            }

        self.store.mutate(self.kind("persistentvolumeclaims"), meta["namespace"], meta["name"], bind)


class Endpoints(Controller):
    watches = (("", "services"), ("", "pods"))

    def sync(self) -> None:
        each(self.store.list(self.kind("services")), self._one)

    def _one(self, service: Obj) -> None:
        selector = service["spec"].get("selector")
        if not selector or "deletionTimestamp" in service["metadata"]:
            return
        meta = service["metadata"]
        fits = of_spec({"matchLabels": selector})
        pods = [
            p
            for p in self.store.list(self.kind("pods"), meta["namespace"])
            if fits(p["metadata"].get("labels") or {}) and p.get("status", {}).get("podIP") and not is_over(p)
        ]
        endpoints, ports = [], self._ports(service, pods)
        for pod in pods:
            leaving = "deletionTimestamp" in pod["metadata"]
            conditions = pod["status"].get("conditions") or []
            serving = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
            if service["spec"].get("publishNotReadyAddresses"):
                serving = True
            endpoints.append(
                {
                    "addresses": [pod["status"]["podIP"]],
                    "nodeName": pod["spec"]["nodeName"],
                    "conditions": {"ready": serving and not leaving, "serving": serving, "terminating": leaving},
                    "targetRef": {
                        "kind": "Pod",
                        "namespace": meta["namespace"],
                        "name": pod["metadata"]["name"],
                        "uid": pod["metadata"]["uid"],
                    },
                }
            )
        self._write(service, endpoints, ports)

    def _ports(self, service: Obj, pods: list[Obj]) -> list[Obj]:
        out = []
        for p in service["spec"].get("ports") or []:
            target = p["targetPort"]
            if isinstance(target, str):
                found = next(
                    (
                        c["containerPort"]
                        for pod in pods
                        for k in ("containers", "initContainers")
                        for box in pod["spec"].get(k) or []
                        for c in box.get("ports") or []
                        if c.get("name") == target
                    ),
                    None,
                )
                if found is None:
                    continue
                target = found
            e = {"name": p.get("name", ""), "port": target, "protocol": p["protocol"]}
            if p.get("appProtocol"):
                e["appProtocol"] = p["appProtocol"]
            out.append(e)
        return out

    def _write(self, service: Obj, endpoints: list[Obj], ports: list[Obj]) -> None:
        meta, kind = service["metadata"], self.kind("endpointslices", "discovery.k8s.io")
        old = next((s for s in self.owned(kind, service)), None)
        body = {"addressType": "IPv4", "endpoints": endpoints, "ports": ports}
        if old is None:
            self.store.create(
                kind,
                {
                    "metadata": {
                        "name": f"{meta['name']}-{uuid.uuid4().hex[:5]}",
                        "namespace": meta["namespace"],
                        "ownerReferences": [owner_reference(service)],
                        "labels": {
                            "kubernetes.io/service-name": meta["name"],
                            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
                        },
                    },
                    **body,
                },
            )
        elif any(old.get(k) != v for k, v in body.items()):
            self.store.mutate(kind, meta["namespace"], old["metadata"]["name"], lambda o: o.update(body))
        listed = [
            {"ip": e["addresses"][0], "nodeName": e["nodeName"], "targetRef": e["targetRef"]} for e in endpoints if e["conditions"]["ready"]
        ]
        subsets = [{"addresses": listed, "ports": ports}] if listed else []
        legacy = self.kind("endpoints")
        have = self.store.find(legacy, meta["namespace"], meta["name"])
        if have is None:
            self.store.create(
                legacy,
                {
                    "metadata": {"name": meta["name"], "namespace": meta["namespace"], "ownerReferences": [owner_reference(service)]},
                    "subsets": subsets,
                },
            )
        elif have.get("subsets") != subsets:
            self.store.mutate(legacy, meta["namespace"], meta["name"], lambda o: o.update(subsets=subsets))


class LoadBalancers(Controller):
    """Services and Ingresses that somebody outside would give an address."""

    watches = (("", "services"), ("networking.k8s.io", "ingresses"))
    gateway = ""

    def sync(self) -> None:
        for s in self.store.list(self.kind("services")):
            if s["spec"].get("type") == "LoadBalancer":
                self.set_status(self.kind("services"), s, {"loadBalancer": {"ingress": [{"ip": s["spec"]["clusterIP"]}]}})
        for i in self.store.list(self.kind("ingresses", "networking.k8s.io")):
            if self.gateway:
                self.set_status(self.kind("ingresses", "networking.k8s.io"), i, {"loadBalancer": {"ingress": [{"ip": self.gateway}]}})


class Budgets(Controller):
    watches = (("policy", "poddisruptionbudgets"), ("", "pods"))

    def sync(self) -> None:
        each(self.store.list(self.kind("poddisruptionbudgets", "policy")), self._one)

    def _one(self, budget: Obj) -> None:
        fits = of_spec(budget["spec"].get("selector"))
        pods = [
            p
            for p in self.store.list(self.kind("pods"), budget["metadata"]["namespace"])
            if fits(p["metadata"].get("labels") or {}) and not is_over(p)
        ]
        healthy, expected = sum(is_ready(p) for p in pods), len(pods)
        if budget["spec"].get("maxUnavailable") is not None:
            wanted = expected - amount(budget["spec"]["maxUnavailable"], expected, True)
        else:
            wanted = amount(budget["spec"].get("minAvailable", 1), expected, True)
        allowed = max(healthy - wanted, 0)
        conditions = set_condition(
            list(budget.get("status", {}).get("conditions") or []),
            "DisruptionAllowed",
            "True" if allowed else "False",
            "SufficientPods" if allowed else "InsufficientPods",
            "",
        )
        self.set_status(
            self.kind("poddisruptionbudgets", "policy"),
            budget,
            {
                "currentHealthy": healthy,
                "desiredHealthy": wanted,
                "expectedPods": expected,
                "disruptionsAllowed": allowed,
                "conditions": conditions,
                "observedGeneration": budget["metadata"]["generation"],
            },
        )


class CustomKinds(Controller):
    """Serves the kinds that CustomResourceDefinitions describe."""

    watches = (("apiextensions.k8s.io", "customresourcedefinitions"),)

    def sync(self) -> None:
        kind = self.kind("customresourcedefinitions", "apiextensions.k8s.io")
        for crd in self.store.list(kind):
            spec = crd["spec"]
            names = spec["names"]
            for v in spec["versions"]:
                if v.get("served", True):
                    self.store.catalog.add(
                        Resource(
                            spec["group"],
                            v["name"],
                            names["plural"],
                            names["kind"],
                            spec.get("scope") == "Namespaced",
                            tuple(names.get("shortNames") or ()),
                            ("status",) if "status" in (v.get("subresources") or {}) else (),
                            custom=True,
                        )
                    )
            conditions = list(crd.get("status", {}).get("conditions") or [])
            if not any(c["type"] == "Established" for c in conditions):
                conditions = set_condition(conditions, "NamesAccepted", "True", "NoConflicts", "no conflicts found")
                conditions = set_condition(
                    conditions, "Established", "True", "InitialNamesAccepted", "the initial names have been accepted"
                )
                self.set_status(
                    kind, crd, {"conditions": conditions, "acceptedNames": names, "storedVersions": [spec["versions"][0]["name"]]}
                )


def bootstrap(store: Store, nodes: list[str]) -> None:
    """What a cluster has from the start."""
    catalog = store.catalog
    for name in ("default", "kube-system", "kube-public", "kube-node-lease"):
        store.create(catalog.of("namespaces"), {"metadata": {"name": name}})
    every = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["*"]}, {"nonResourceURLs": ["*"], "verbs": ["*"]}]
    store.create(catalog.of("clusterroles", RBAC), {"metadata": {"name": "cluster-admin"}, "rules": every})
    read = [{"apiGroups": ["*"], "resources": ["*"], "verbs": ["get", "list", "watch"]}]
    store.create(catalog.of("clusterroles", RBAC), {"metadata": {"name": "view"}, "rules": read})
    store.create(catalog.of("clusterroles", RBAC), {"metadata": {"name": "edit"}, "rules": every[:1]})
    store.create(catalog.of("clusterroles", RBAC), {"metadata": {"name": "admin"}, "rules": every[:1]})
    store.create(
        catalog.of("clusterrolebindings", RBAC),
        {
            "metadata": {"name": "cluster-admin"},
            "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "cluster-admin"},
            "subjects": [{"apiGroup": RBAC, "kind": "Group", "name": "system:masters"}],
        },
    )
    store.create(
        catalog.of("storageclasses", "storage.k8s.io"),
        {
            "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
            "provisioner": "stand-in/folder",
        },
    )
    for name in nodes:
        store.create(
            catalog.of("nodes"),
            {
                "metadata": {
                    "name": name,
                    "labels": {"kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64"},
                },
                "spec": {},
                "status": {
                    "capacity": {"cpu": "2", "memory": "8Gi", "pods": "110"},
                    "allocatable": {"cpu": "2", "memory": "8Gi", "pods": "110"},
                    "conditions": [
                        {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "", "lastTransitionTime": now()}
                    ],
                },
            },
        )
