"""Kinds of objects, and the errors that the API answers with."""

from __future__ import annotations

import datetime
from dataclasses import dataclass, field
from typing import Any

Obj = dict[str, Any]


class ApiError(Exception):
    """An answer other than success: a Status of the API."""

    def __init__(self, code: int, reason: str, message: str, details: Obj | None = None) -> None:
        super().__init__(message)
        self.code, self.reason, self.message, self.details = code, reason, message, details or {}

    def status(self) -> Obj:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def not_found(resource: "Resource", name: str) -> ApiError:
    return ApiError(
        404, "NotFound", f'{resource.qualified} "{name}" not found', {"name": name, "group": resource.group, "kind": resource.plural}
    )


def already_exists(resource: "Resource", name: str) -> ApiError:
    return ApiError(
        409,
        "AlreadyExists",
        f'{resource.qualified} "{name}" already exists',
        {"name": name, "group": resource.group, "kind": resource.plural},
    )


def conflict(resource: "Resource", name: str, why: str = "") -> ApiError:
    why = why or "the object has been modified; please apply your changes to the latest version and try again"
    return ApiError(
        409,
        "Conflict",
        f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}',
        {"name": name, "group": resource.group, "kind": resource.plural},
    )


def invalid(kind: str, group: str, name: str, causes: list[tuple[str, str]]) -> ApiError:
    text = ", ".join(f"{path}: {what}" for path, what in causes)
    if len(causes) > 1:
        text = f"[{text}]"
    return ApiError(
        422,
        "Invalid",
        f'{kind}{"." + group if group else ""} "{name}" is invalid: {text}',
        {
            "name": name,
            "group": group,
            "kind": kind,
            "causes": [{"reason": "FieldValueInvalid", "field": path, "message": what} for path, what in causes],
        },
    )


def bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def forbidden(message: str) -> ApiError:
    return ApiError(403, "Forbidden", message)


ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class Resource:
    """A kind under its plural name, as discovery lists it."""

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    # Kinds of custom resources have no strategic merge patch.
    custom: bool = False

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def singular(self) -> str:
        return self.kind.lower()

    @property
    def key(self) -> tuple[str, str]:
        """Where objects are stored: the two groups of events share them."""
        return ("" if self.group == "events.k8s.io" else self.group), self.plural

    @property
    def list_path(self) -> str:
        root = f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"
        return f"{root}/namespaces/{{namespace}}/{self.plural}" if self.namespaced else f"{root}/{self.plural}"


def r(
    group: str,
    version: str,
    plural: str,
    kind: str,
    *,
    namespaced: bool = True,
    short: str = "",
    sub: str = "",
    all_: bool = False,
    custom: bool = False,
) -> Resource:
    return Resource(
        group, version, plural, kind, namespaced, tuple(short.split()), tuple(sub.split()), ("all",) if all_ else (), custom=custom
    )


BUILT_IN: tuple[Resource, ...] = (
    r("", "v1", "namespaces", "Namespace", namespaced=False, short="ns", sub="status finalize"),
    r("", "v1", "nodes", "Node", namespaced=False, short="no", sub="status"),
    r("", "v1", "pods", "Pod", short="po", sub="status log exec portforward binding eviction", all_=True),
    r("", "v1", "services", "Service", short="svc", sub="status", all_=True),
    r("", "v1", "configmaps", "ConfigMap", short="cm"),
    r("", "v1", "secrets", "Secret"),
    r("", "v1", "serviceaccounts", "ServiceAccount", short="sa", sub="token"),
    r("", "v1", "events", "Event", short="ev"),
    r("", "v1", "endpoints", "Endpoints", short="ep"),
    r("", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", short="pvc", sub="status"),
    r("", "v1", "persistentvolumes", "PersistentVolume", namespaced=False, short="pv", sub="status"),
    r("", "v1", "limitranges", "LimitRange", short="limits"),
    r("", "v1", "resourcequotas", "ResourceQuota", short="quota", sub="status"),
    r("apps", "v1", "deployments", "Deployment", short="deploy", sub="status scale", all_=True),
    r("apps", "v1", "replicasets", "ReplicaSet", short="rs", sub="status scale", all_=True),
    r("apps", "v1", "daemonsets", "DaemonSet", short="ds", sub="status", all_=True),
    r("apps", "v1", "statefulsets", "StatefulSet", short="sts", sub="status scale", all_=True),
    r("apps", "v1", "controllerrevisions", "ControllerRevision"),
    r("batch", "v1", "jobs", "Job", sub="status", all_=True),
    r("batch", "v1", "cronjobs", "CronJob", short="cj", sub="status", all_=True),
    r("autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short="hpa", sub="status", all_=True),
    r("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short="pdb", sub="status"),
    r("networking.k8s.io", "v1", "ingresses", "Ingress", short="ing", sub="status"),
    r("networking.k8s.io", "v1", "ingressclasses", "IngressClass", namespaced=False),
    r("networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", short="netpol"),
    r("rbac.authorization.k8s.io", "v1", "roles", "Role"),
    r("rbac.authorization.k8s.io", "v1", "rolebindings", "RoleBinding"),
    r("rbac.authorization.k8s.io", "v1", "clusterroles", "ClusterRole", namespaced=False),
    r("rbac.authorization.k8s.io", "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    r("discovery.k8s.io", "v1", "endpointslices", "EndpointSlice"),
    r("events.k8s.io", "v1", "events", "Event", short="ev"),
    r("coordination.k8s.io", "v1", "leases", "Lease"),
    r("scheduling.k8s.io", "v1", "priorityclasses", "PriorityClass", namespaced=False, short="pc"),
    r("storage.k8s.io", "v1", "storageclasses", "StorageClass", namespaced=False, short="sc"),
    r(
        "apiextensions.k8s.io",
        "v1",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        short="crd crds",
        sub="status",
    ),
)

# Made at the start only when asked for; or by creating a CustomResourceDefinition.
KNOWN_CUSTOM: tuple[Resource, ...] = (
    r("monitoring.coreos.com", "v1", "servicemonitors", "ServiceMonitor", short="smon", custom=True),
    r("monitoring.coreos.com", "v1", "podmonitors", "PodMonitor", short="pmon", custom=True),
    r("monitoring.coreos.com", "v1", "prometheusrules", "PrometheusRule", short="promrule", custom=True),
    r("gateway.networking.k8s.io", "v1", "httproutes", "HTTPRoute", sub="status", custom=True),
    r("gateway.networking.k8s.io", "v1", "grpcroutes", "GRPCRoute", sub="status", custom=True),
    r("gateway.networking.k8s.io", "v1", "gateways", "Gateway", short="gtw", sub="status", custom=True),
    r("gateway.networking.k8s.io", "v1", "gatewayclasses", "GatewayClass", namespaced=False, sub="status", custom=True),
    r("keda.sh", "v1alpha1", "scaledobjects", "ScaledObject", short="so", sub="status", custom=True),
    r("keda.sh", "v1alpha1", "triggerauthentications", "TriggerAuthentication", short="ta", custom=True),
    r("cert-manager.io", "v1", "certificates", "Certificate", short="cert", sub="status", custom=True),
)


@dataclass
class Catalog:
    """The kinds that are served now."""

    resources: list[Resource] = field(default_factory=lambda: list(BUILT_IN))

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return next((x for x in self.resources if (x.group, x.version, x.plural) == (group, version, plural)), None)

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        return next((x for x in self.resources if (x.api_version, x.kind) == (api_version, kind)), None)

    def of(self, plural: str, group: str = "") -> Resource:
        """A kind that is known to be served."""
        for x in self.resources:
            if x.plural == plural and x.group == group:
                return x
        raise KeyError(f"{plural}.{group}")

    def add(self, resource: Resource) -> None:
        if not self.find(resource.group, resource.version, resource.plural):
            self.resources.append(resource)

    def remove(self, group: str, plural: str) -> None:
        self.resources = [x for x in self.resources if x.key != (group, plural)]

    def groups(self) -> dict[str, list[str]]:
        """Group to its versions, in order of discovery."""
        out: dict[str, list[str]] = {}
        for x in self.resources:
            if x.version not in out.setdefault(x.group, []):
                out[x.group].append(x.version)
        out.setdefault("authorization.k8s.io", ["v1"])
        out.setdefault("authentication.k8s.io", ["v1"])
        return out


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def micro_now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_time(text: str) -> float:
    """Seconds since 1970 of an RFC 3339 time."""
    return datetime.datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
