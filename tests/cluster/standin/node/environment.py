"""The variables, arguments and identity of a container."""

from __future__ import annotations

import base64
import re

from ..api.model import Obj
from ..api.store import Store
from .images import Image
from .volumes import field_value, resource_value

_REFERENCE = re.compile(r"\$\$|\$\(([A-Za-z_.-][A-Za-z0-9_.-]*)\)")


class ConfigError(Exception):
    """What a container's manifest asks for is not there, or cannot be."""


def expand(text: str, env: dict[str, str]) -> str:
    """$(NAME) of known variables; `$$` is a dollar sign."""
    return _REFERENCE.sub(lambda m: "$" if m.group(0) == "$$" else env.get(m.group(1), m.group(0)), text)


def _data(store: Store, namespace: str, plural: str, ref: Obj) -> dict[str, str] | None:
    found = store.find(store.catalog.of(plural), namespace, ref["name"])
    if found is None:
        if ref.get("optional"):
            return None
        raise ConfigError(f'{plural[:-1]} "{ref["name"]}" not found')
    data = found.get("data") or {}
    return {k: base64.b64decode(v).decode() for k, v in data.items()} if plural == "secrets" else data


def _value_from(store: Store, pod: Obj, container: Obj, source: Obj) -> str | None:
    if "fieldRef" in source:
        return field_value(pod, source["fieldRef"]["fieldPath"])
    if "resourceFieldRef" in source:
        return resource_value(pod, source["resourceFieldRef"], container)
    for key, plural in (("configMapKeyRef", "configmaps"), ("secretKeyRef", "secrets")):
        if key in source:
            ref = source[key]
            data = _data(store, pod["metadata"]["namespace"], plural, ref)
            if data is None or ref["key"] not in data:
                if ref.get("optional"):
                    return None
                raise ConfigError(f"couldn't find key {ref['key']} in {plural[:-1]} {pod['metadata']['namespace']}/{ref['name']}")
            return data[ref["key"]]
    raise ConfigError(f"a variable cannot come from {sorted(source)}")


def _service_links(store: Store, pod: Obj) -> dict[str, str]:
    """The variables that Docker's links once had, for every Service of the namespace; those of the API always."""
    out: dict[str, str] = {}
    services: list[tuple[str, str, list[Obj]]] = [("kubernetes", "10.96.0.1", [{"name": "https", "port": 443, "protocol": "TCP"}])]
    if pod["spec"].get("enableServiceLinks", True):
        for s in store.list(store.catalog.of("services"), pod["metadata"]["namespace"]):
            address = s["spec"].get("clusterIP")
            if address and address != "None" and s["metadata"]["name"] != "kubernetes":
                services.append((s["metadata"]["name"], address, s["spec"].get("ports") or []))
    for name, address, ports in services:
        prefix = name.upper().replace("-", "_")
        if not ports:
            continue
        out[f"{prefix}_SERVICE_HOST"], out[f"{prefix}_SERVICE_PORT"] = address, str(ports[0]["port"])
        out[f"{prefix}_PORT"] = f"{ports[0]['protocol'].lower()}://{address}:{ports[0]['port']}"
        for p in ports:
            if p.get("name"):
                out[f"{prefix}_SERVICE_PORT_{p['name'].upper().replace('-', '_')}"] = str(p["port"])
            link = f"{prefix}_PORT_{p['port']}_{p['protocol'].upper()}"
            out[link] = f"{p['protocol'].lower()}://{address}:{p['port']}"
            out[f"{link}_PROTO"], out[f"{link}_PORT"], out[f"{link}_ADDR"] = p["protocol"].lower(), str(p["port"]), address
    return out


def variables(store: Store, pod: Obj, container: Obj, image: Image) -> dict[str, str]:
    env = dict(e.split("=", 1) for e in image.env)
    env["HOSTNAME"] = pod["metadata"]["name"]
    env.update(_service_links(store, pod))
    for source in container.get("envFrom") or []:
        for key, plural in (("configMapRef", "configmaps"), ("secretRef", "secrets")):
            if key in source:
                for k, v in (_data(store, pod["metadata"]["namespace"], plural, source[key]) or {}).items():
                    env[source.get("prefix", "") + k] = v
    for e in container.get("env") or []:
        if e.get("valueFrom"):
            value = _value_from(store, pod, container, e["valueFrom"])
            if value is not None:
                env[e["name"]] = value
        else:
            env[e["name"]] = expand(e.get("value") or "", env)
    return env


def command(container: Obj, image: Image, env: dict[str, str]) -> list[str]:
    entry = [expand(a, env) for a in container["command"]] if container.get("command") else list(image.entrypoint)
    if container.get("args"):
        return entry + [expand(a, env) for a in container["args"]]
    return entry if container.get("command") else entry + list(image.command)


def identity(pod: Obj, container: Obj, image: Image) -> tuple[int, int, list[int]]:
    """uid, gid and other groups; refused if it must not be root and is."""
    of_pod, own = pod["spec"].get("securityContext") or {}, container.get("securityContext") or {}
    of_image = (image.user or "0").split(":")
    uid = own.get("runAsUser", of_pod.get("runAsUser"))
    non_root = own.get("runAsNonRoot", of_pod.get("runAsNonRoot"))
    if uid is None:
        if not of_image[0].isdigit():
            if non_root:
                raise ConfigError(
                    f"container has runAsNonRoot and image has non-numeric user ({of_image[0]}), cannot verify user is non-root"
                )
            raise ConfigError(f"user {of_image[0]} of the image is not known here")
        uid = int(of_image[0])
    if non_root and uid == 0:
        raise ConfigError("container has runAsNonRoot and image will run as root")
    gid = own.get("runAsGroup", of_pod.get("runAsGroup"))
    if gid is None:
        gid = int(of_image[1]) if len(of_image) > 1 and str(uid) == of_image[0] else 0
    groups = list(of_pod.get("supplementalGroups") or [])
    if of_pod.get("fsGroup") is not None:
        groups.append(of_pod["fsGroup"])
    return uid, gid, groups
