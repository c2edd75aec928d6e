"""What the API server refuses: names, labels, sizes, and what of each kind cannot be or cannot change."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable

from .model import Obj, Resource, invalid

Causes = list[tuple[str, str]]

MAX_DATA = 1_048_576
_LABEL_NAME = re.compile(r"^[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?$")
_LABEL_VALUE = re.compile(r"^([A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$")
_SUBDOMAIN = re.compile(r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$")
_DNS_LABEL = re.compile(r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$")
_DATA_KEY = re.compile(r"^[-._a-zA-Z0-9]{1,253}$")
_ENV_NAME = re.compile(r"^[^=\s]+$")
_PORT_NAME = re.compile(r"^(?=.*[a-z])[a-z0-9]([a-z0-9-]{0,13}[a-z0-9])?$")
_QUANTITY = re.compile(r"^[+-]?\d+(\.\d+)?([eE][+-]?\d+|Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)?$")
# Kinds whose name becomes part of a DNS name.
_LABEL_NAMED = {("", "services"), ("", "namespaces")}


def _qualified(key: str) -> bool:
    prefix, _, name = key.rpartition("/")
    return bool(_LABEL_NAME.match(name)) and (not prefix or bool(_SUBDOMAIN.match(prefix)) and len(prefix) <= 253)


def _metadata(resource: Resource, meta: Obj, causes: Causes) -> None:
    name = meta.get("name")
    if not name or not isinstance(name, str):
        causes.append(("metadata.name", "Required value: name or generateName is required"))
        return
    if resource.group == "rbac.authorization.k8s.io":
        if "/" in name or "%" in name or name in (".", ".."):
            causes.append(("metadata.name", f'Invalid value: "{name}"'))
    elif not (_DNS_LABEL if resource.key in _LABEL_NAMED else _SUBDOMAIN).match(name) or len(name) > 253:
        causes.append(
            (
                "metadata.name",
                f'Invalid value: "{name}": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '
                "'-' or '.', and must start and end with an alphanumeric character",
            )
        )
    for key, value in (meta.get("labels") or {}).items():
        if not _qualified(key):
            causes.append(("metadata.labels", f'Invalid value: "{key}": name part is not valid'))
        if not isinstance(value, str) or not _LABEL_VALUE.match(value):
            causes.append(
                (
                    "metadata.labels",
                    f'Invalid value: "{value}": a valid label must be an empty string or consist of alphanumeric characters, '
                    "'-', '_' or '.', and must start and end with an alphanumeric character",
                )
            )
    for key, value in (meta.get("annotations") or {}).items():
        if not _qualified(key.lower()):
            causes.append(("metadata.annotations", f'Invalid value: "{key}": name part is not valid'))
        if not isinstance(value, str):
            causes.append(("metadata.annotations", f'Invalid value: "{key}": must be a string'))
    if sum(len(k) + len(str(v)) for k, v in (meta.get("annotations") or {}).items()) > 262_144:
        causes.append(("metadata.annotations", "Too long: may not be more than 262144 bytes"))


def _data(obj: Obj, causes: Causes) -> None:
    size = 0
    for field_name, encoded in (("data", obj["kind"] == "Secret"), ("binaryData", True)):
        for key, value in (obj.get(field_name) or {}).items():
            if not _DATA_KEY.match(key) or key in (".", "..") or key.startswith(".."):
                causes.append(
                    (
                        f"{field_name}[{key}]",
                        f"Invalid value: \"{key}\": a valid config key must consist of alphanumeric characters, '-', '_' or '.'",
                    )
                )
            if not isinstance(value, str):
                causes.append((f"{field_name}[{key}]", "must be a string"))
                continue
            try:
                size += len(key) + (len(base64.b64decode(value, validate=True)) if encoded else len(value.encode()))
            except binascii.Error:
                causes.append((f"{field_name}[{key}]", "illegal base64 data"))
    if size > MAX_DATA:
        causes.append(("data" if obj["kind"] == "Secret" else "", f"Too long: may not be more than {MAX_DATA} bytes"))


def _probe(probe: Obj, where: str, causes: Causes) -> None:
    if sum(h in probe for h in ("httpGet", "tcpSocket", "exec", "grpc")) != 1:
        causes.append((where, "Required value: must specify a handler type"))
    if "readiness" not in where and probe.get("successThreshold", 1) != 1:
        causes.append((f"{where}.successThreshold", "Invalid value: must be 1"))


def _container(c: Obj, where: str, volumes: set[str], init: bool, causes: Causes) -> None:
    if not _DNS_LABEL.match(str(c.get("name", ""))):
        causes.append((f"{where}.name", "Required value" if not c.get("name") else f'Invalid value: "{c["name"]}"'))
    if not c.get("image"):
        causes.append((f"{where}.image", "Required value"))
    names: set[str] = set()
    for i, p in enumerate(c.get("ports") or []):
        if p.get("name"):
            if not _PORT_NAME.match(p["name"]):
                causes.append((f"{where}.ports[{i}].name", f'Invalid value: "{p["name"]}": must be no more than 15 characters'))
            if p["name"] in names:
                causes.append((f"{where}.ports[{i}].name", f'Duplicate value: "{p["name"]}"'))
            names.add(p["name"])
        if not isinstance(p.get("containerPort"), int) or not 0 < p["containerPort"] < 65536:
            causes.append((f"{where}.ports[{i}].containerPort", "Invalid value: must be between 1 and 65535, inclusive"))
    for i, e in enumerate(c.get("env") or []):
        if not _ENV_NAME.match(e.get("name", "")):
            causes.append((f"{where}.env[{i}].name", "Required value"))
        if e.get("value") and e.get("valueFrom"):
            causes.append((f"{where}.env[{i}].valueFrom", "Invalid value: may not be specified when `value` is not empty"))
        if "value" in e and not isinstance(e["value"], (str, type(None))):
            causes.append((f"{where}.env[{i}].value", "Invalid value: must be a string"))
    paths: set[str] = set()
    for i, m in enumerate(c.get("volumeMounts") or []):
        if m.get("name") not in volumes:
            causes.append((f"{where}.volumeMounts[{i}].name", f'Not found: "{m.get("name")}"'))
        if m.get("mountPath") in paths:
            causes.append((f"{where}.volumeMounts[{i}].mountPath", f'Invalid value: "{m["mountPath"]}": must be unique'))
        paths.add(m.get("mountPath", ""))
    for kind in ("livenessProbe", "readinessProbe", "startupProbe"):
        if c.get(kind):
            if init and c.get("restartPolicy") != "Always":
                causes.append((f"{where}.{kind}", "Forbidden: may not be set for init containers without restartPolicy=Always"))
            _probe(c[kind], f"{where}.{kind}", causes)
    if c.get("restartPolicy") and not init:
        causes.append((f"{where}.restartPolicy", "Forbidden: may not be set for non-init containers"))
    if init and c.get("lifecycle") and c.get("restartPolicy") != "Always":
        causes.append((f"{where}.lifecycle", "Forbidden: may not be set for init containers without restartPolicy=Always"))
    limits, requests = c.get("resources", {}).get("limits") or {}, c.get("resources", {}).get("requests") or {}
    for kind, amounts in (("limits", limits), ("requests", requests)):
        for name, amount in amounts.items():
            if not _QUANTITY.match(str(amount)):
                causes.append(
                    (f"{where}.resources.{kind}[{name}]", f'Invalid value: "{amount}": quantities must match the regular expression')
                )
    context = c.get("securityContext") or {}
    if context.get("privileged") and context.get("allowPrivilegeEscalation") is False:
        causes.append(
            (f"{where}.securityContext", "Invalid value: cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
        )


def pod_spec(spec: Obj, where: str, causes: Causes) -> None:
    volumes: set[str] = set()
    for i, v in enumerate(spec.get("volumes") or []):
        name = v.get("name", "")
        if not _DNS_LABEL.match(name):
            causes.append((f"{where}.volumes[{i}].name", f'Invalid value: "{name}"'))
        if name in volumes:
            causes.append((f"{where}.volumes[{i}].name", f'Duplicate value: "{name}"'))
        if len([k for k in v if k != "name"]) > 1:
            causes.append((f"{where}.volumes[{i}]", "Forbidden: may not specify more than 1 volume type"))
        volumes.add(name)
    if not spec.get("containers"):
        causes.append((f"{where}.containers", "Required value"))
    seen: set[str] = set()
    for list_name in ("initContainers", "containers"):
        for i, c in enumerate(spec.get(list_name) or []):
            _container(c, f"{where}.{list_name}[{i}]", volumes, list_name == "initContainers", causes)
            if c.get("name") in seen:
                causes.append((f"{where}.{list_name}[{i}].name", f'Duplicate value: "{c.get("name")}"'))
            seen.add(c.get("name", ""))


def _template(obj: Obj, causes: Causes, policies: tuple[str, ...]) -> None:
    spec = obj["spec"]
    template = spec.get("template") or {}
    wanted = ((spec.get("selector") or {}).get("matchLabels") or {}) if obj["kind"] != "Job" else {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if obj["kind"] != "Job" and not spec.get("selector"):
        causes.append(("spec.selector", "Required value"))
    if any(labels.get(k) != v for k, v in wanted.items()):
        causes.append(("spec.template.metadata.labels", f"Invalid value: {labels}: `selector` does not match template `labels`"))
    pod_spec(template.get("spec") or {}, "spec.template.spec", causes)
    policy = (template.get("spec") or {}).get("restartPolicy")
    if policy not in policies:
        causes.append(("spec.template.spec.restartPolicy", f'Unsupported value: "{policy}": supported values: {", ".join(policies)}'))


def _service(obj: Obj, causes: Causes) -> None:
    ports = obj["spec"].get("ports") or []
    if not ports and obj["spec"].get("clusterIP") != "None" and obj["spec"].get("type") != "ExternalName":
        causes.append(("spec.ports", "Required value"))
    for i, p in enumerate(ports):
        if len(ports) > 1 and not p.get("name"):
            causes.append((f"spec.ports[{i}].name", "Required value"))
    if len({p.get("name") for p in ports}) < len(ports):
        causes.append(("spec.ports", "Duplicate value"))


def _disruption(obj: Obj, causes: Causes) -> None:
    if obj["spec"].get("minAvailable") is not None and obj["spec"].get("maxUnavailable") is not None:
        causes.append(("spec", "Invalid value: minAvailable and maxUnavailable cannot be both set"))


_BY_KIND: dict[tuple[str, str], Callable[[Obj, Causes], None]] = {
    ("", "configmaps"): _data,
    ("", "secrets"): _data,
    ("", "services"): _service,
    ("", "pods"): lambda o, c: pod_spec(o["spec"], "spec", c),
    ("apps", "deployments"): lambda o, c: _template(o, c, ("Always",)),
    ("apps", "replicasets"): lambda o, c: _template(o, c, ("Always",)),
    ("apps", "daemonsets"): lambda o, c: _template(o, c, ("Always",)),
    ("batch", "jobs"): lambda o, c: _template(o, c, ("OnFailure", "Never")),
    ("policy", "poddisruptionbudgets"): _disruption,
}

# What cannot change once it is there.
_FIXED: dict[tuple[str, str], tuple[str, ...]] = {
    ("apps", "deployments"): ("selector",),
    ("apps", "daemonsets"): ("selector",),
    ("apps", "replicasets"): ("selector",),
    ("batch", "jobs"): ("selector", "template", "completions"),
    ("", "services"): ("clusterIP",),
    ("", "pods"): ("containers.name", "volumes", "serviceAccountName", "nodeName"),
    ("", "persistentvolumeclaims"): ("accessModes", "storageClassName"),
}


def check(resource: Resource, obj: Obj, old: Obj | None) -> None:
    causes: Causes = []
    _metadata(resource, obj["metadata"], causes)
    if not causes:
        by_kind = _BY_KIND.get(resource.key)
        if by_kind:
            by_kind(obj, causes)
    if old is not None:
        for name in _FIXED.get(resource.key, ()):
            before, after = (o.get("spec", {}).get(name) for o in (old, obj))
            if before is not None and before != after:
                causes.append((f"spec.{name}", f"Invalid value: {after}: field is immutable"))
        if resource.group == "rbac.authorization.k8s.io" and "roleRef" in old and old["roleRef"] != obj.get("roleRef"):
            causes.append(("roleRef", "Invalid value: cannot change roleRef"))
        if old.get("immutable") and (old.get("data") != obj.get("data") or old.get("binaryData") != obj.get("binaryData")):
            causes.append(("data", "Forbidden: field is immutable when `immutable` is set"))
        if obj["kind"] == "Secret" and old.get("type") != obj.get("type"):
            causes.append(("type", f'Invalid value: "{obj.get("type")}": field is immutable'))
    if causes:
        raise invalid(resource.kind, resource.group, str(obj["metadata"].get("name", "")), causes)
