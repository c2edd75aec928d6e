"""Values of the chart that tests share."""

from __future__ import annotations

import base64
from typing import Any

from standin.api.model import Obj
from .parts import REGISTRY
from .wasm import answering

# The gateway of the stand-in.
GATEWAY = "http://10.96.0.2:80"
PARENTS = [{"name": "public", "namespace": "gateways"}]


def inline(text: str) -> Obj:
    return {"module": {"inline": base64.b64encode(answering(text)).decode()}}


def registry(repository: str, tag: str = "", **more: Any) -> Obj:
    """A program from the run's registry: its certificate and password come from what `Case.with_registry` makes."""
    oci = {"repository": f"{REGISTRY}/{repository}", "pullSecret": "registry", **({"tag": tag} if tag else {}), **more}
    return {
        "module": {"oci": oci},
        "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/registry-ca/ca.crt"}],
        "extraVolumes": [{"name": "registry-ca", "configMap": {"name": "registry-ca"}}],
        "extraVolumeMounts": [{"name": "registry-ca", "mountPath": "/etc/registry-ca", "readOnly": True}],
    }


def merged(*parts: Obj) -> Obj:
    out: Obj = {}
    for part in parts:
        for key, value in part.items():
            out[key] = merged(out[key], value) if isinstance(value, dict) and isinstance(out.get(key), dict) else value
    return out


def stores(word: str) -> Obj:
    """The manifest of the guest `stores`: its config store has a word, its KV store nothing."""
    return {
        "manifest": {
            "json": {
                "manifest_version": 3,
                "local_server": {
                    "config_stores": {"settings": {"format": "inline-toml", "contents": {"word": word}}},
                    "kv_stores": {"notes": []},
                },
            }
        }
    }


def passthrough(url: str) -> Obj:
    return {"manifest": {"json": {"manifest_version": 3, "local_server": {"backends": {"origin": {"url": url}}}}}}
