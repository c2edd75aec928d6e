"""The rules that an object meets on its way into the store: namespaces, defaults, validation, Pod security, addresses of Services."""

from __future__ import annotations

import ipaddress

from . import defaults, podsecurity, validate
from .model import ApiError, Obj, Resource, forbidden, invalid, not_found
from .store import Store

SERVICE_NET = ipaddress.ip_network("10.96.0.0/16")
FIRST_SERVICE = 100


class Admission:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __call__(self, resource: Resource, obj: Obj, old: Obj | None) -> None:
        meta = obj["metadata"]
        if resource.namespaced and old is None:
            self._namespace(resource, meta.get("namespace", ""))
        if not isinstance(obj.get("spec", {}), dict):
            raise invalid(resource.kind, resource.group, meta.get("name", ""), [("spec", "Invalid value: must be an object")])
        try:
            if resource.key == ("", "pods") and old is None:
                self._account(obj)
            defaults.fill(resource, obj)
        except (KeyError, TypeError, AttributeError) as e:
            raise invalid(resource.kind, resource.group, meta.get("name", ""), [(str(e).strip("'"), "Required value")]) from None
        if resource.key == ("", "services"):
            self._address(obj, old)
        validate.check(resource, obj, old)
        if resource.key == ("", "pods") and old is None:
            self._pod_security(obj)

    def _namespace(self, resource: Resource, name: str) -> None:
        catalog = self.store.catalog
        found = self.store.find(catalog.of("namespaces"), "", name)
        if found is None:
            raise not_found(catalog.of("namespaces"), name)
        if "deletionTimestamp" in found["metadata"]:
            raise ApiError(
                403,
                "Forbidden",
                f"unable to create new content in namespace {name} because it is being terminated",
                {
                    "causes": [
                        {
                            "reason": "NamespaceTerminating",
                            "message": f"namespace {name} is being terminated",
                            "field": "metadata.namespace",
                        }
                    ]
                },
            )

    def _account(self, pod: Obj) -> None:
        spec, namespace = pod["spec"], pod["metadata"]["namespace"]
        name = spec.setdefault("serviceAccountName", "default")
        spec["serviceAccount"] = name
        account = self.store.find(self.store.catalog.of("serviceaccounts"), namespace, name)
        if account is None:
            raise forbidden(f'error looking up service account {namespace}/{name}: serviceaccount "{name}" not found')
        mount = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken", True))
        if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
            spec["imagePullSecrets"] = list(account["imagePullSecrets"])
        path = "/var/run/secrets/kubernetes.io/serviceaccount"
        if not mount or any(v.get("name", "").startswith("kube-api-access-") for v in spec.get("volumes") or []):
            return
        volume = "kube-api-access-" + pod["metadata"]["uid"][:5]
        added = False
        for c in [*(spec.get("initContainers") or []), *(spec.get("containers") or [])]:
            if all(m.get("mountPath") != path for m in c.get("volumeMounts") or []):
                c.setdefault("volumeMounts", []).append({"name": volume, "readOnly": True, "mountPath": path})
                added = True
        if added:
            spec.setdefault("volumes", []).append(
                {
                    "name": volume,
                    "projected": {
                        "defaultMode": 0o644,
                        "sources": [
                            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                            {
                                "downwardAPI": {
                                    "items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]
                                }
                            },
                        ],
                    },
                }
            )

    def _pod_security(self, pod: Obj) -> None:
        namespace = self.store.get(self.store.catalog.of("namespaces"), "", pod["metadata"]["namespace"])
        level = (namespace["metadata"].get("labels") or {}).get(podsecurity.LABEL, "privileged")
        found = podsecurity.violations(level, pod["spec"])
        if found:
            raise forbidden(f'pods "{pod["metadata"]["name"]}" is forbidden: violates PodSecurity "{level}:latest": ' + ", ".join(found))

    def _address(self, service: Obj, old: Obj | None) -> None:
        spec = service["spec"]
        if spec.get("type") == "ExternalName":
            return
        if not spec.get("clusterIP") and old is not None:
            spec["clusterIP"] = old["spec"].get("clusterIP")
        taken = {s["spec"].get("clusterIP") for s in self.store.list(self.store.catalog.of("services"))}
        if not spec.get("clusterIP"):
            spec["clusterIP"] = next(str(a) for a in list(SERVICE_NET)[FIRST_SERVICE:5000] if str(a) not in taken)
        elif old is None and spec["clusterIP"] != "None" and spec["clusterIP"] in taken:
            raise invalid(
                "Service",
                "",
                service["metadata"]["name"],
                [("spec.clusterIPs", f'Invalid value: ["{spec["clusterIP"]}"]: provided IP is already allocated')],
            )
        spec["clusterIPs"] = [spec["clusterIP"]]
