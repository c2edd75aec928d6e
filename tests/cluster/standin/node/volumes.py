"""Volumes as kubelet makes them."""

from __future__ import annotations

import base64
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..api.model import ApiError, Obj
from ..api.rbac import Tokens
from ..api.store import Store
from .images import Images

Payload = dict[str, tuple[bytes, int]]


class NotYet(Exception):
    """A volume's source is missing: the Pod waits."""


def write_atomically(folder: Path, payload: Payload, prepare: Callable[[Path], None] | None = None) -> bool:
    """As kubelet's AtomicWriter: the files in a folder with a new name, `..data` a link to it that is put in place of the old one, and links
    through `..data` beside it. Whether anything changed."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "..data"
    old = folder / os.readlink(data) if data.is_symlink() else None
    if old is not None and _read(old) == {k: v[0] for k, v in payload.items()}:
        return False
    stamp = time.strftime("..%Y_%m_%d_%H_%M_%S.", time.gmtime())
    new = Path(tempfile.mkdtemp(prefix=stamp, dir=folder))
    new.chmod(0o755)
    for name, (content, mode) in payload.items():
        file = new / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        file.chmod(mode)
    if prepare:
        prepare(new)
    fresh = folder / "..data_tmp"
    fresh.symlink_to(new.name)
    os.replace(fresh, data)
    tops = {name.split("/")[0] for name in payload}
    for top in tops:
        link = folder / top
        if not link.is_symlink():
            link.symlink_to(f"..data/{top}")
    for link in folder.iterdir():
        if not link.name.startswith("..") and link.name not in tops:
            link.unlink()
    if old is not None:
        shutil.rmtree(old)
    return True


def _read(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


def field_value(pod: Obj, path: str) -> str:
    """What a fieldRef names."""
    if "[" in path:
        part, key = path.rstrip("]").split("[", 1)
        return str((pod["metadata"].get(part.removeprefix("metadata.")) or {}).get(key.strip("'\""), ""))
    if path in ("metadata.labels", "metadata.annotations"):
        return "\n".join(f'{k}="{v}"' for k, v in sorted((pod["metadata"].get(path.split(".")[1]) or {}).items()))
    status = pod.get("status", {})
    special = {"status.hostIP": "10.244.0.1", "status.hostIPs": "10.244.0.1", "status.podIPs": status.get("podIP", "")}
    if path in special:
        return str(special[path])
    value: object = pod
    for part in path.split("."):
        value = value.get(part, "") if isinstance(value, dict) else ""
    return str(value)


class Volumes:
    """The volumes of one Pod, under a folder."""

    def __init__(self, store: Store, tokens: Tokens, images: Images, state: Path, shared: Path, pod: Obj) -> None:
        self.store, self.tokens, self.images = store, tokens, images
        self.state, self.shared, self.pod = state, shared, pod
        self.paths: dict[str, tuple[Path, bool]] = {}
        self._token: dict[str, tuple[str, float]] = {}

    @property
    def group(self) -> int | None:
        return (self.pod["spec"].get("securityContext") or {}).get("fsGroup")

    def make(self) -> None:
        for v in self.pod["spec"].get("volumes") or []:
            self.paths[v["name"]] = self._one(v)

    def refresh(self, pod: Obj) -> bool:
        """Writes anew what has changed since."""
        self.pod = pod
        changed = False
        for v in pod["spec"].get("volumes") or []:
            if any(k in v for k in ("configMap", "secret", "projected", "downwardAPI")):
                try:
                    changed |= write_atomically(self.state / v["name"], self._payload(v), self._own)
                except NotYet:
                    pass  # What was there stays.
        return changed

    def _one(self, v: Obj) -> tuple[Path, bool]:
        """The folder, and whether it can only be read."""
        folder = self.state / v["name"]
        if any(k in v for k in ("configMap", "secret", "projected", "downwardAPI")):
            write_atomically(folder, self._payload(v), self._own)
            return folder, True
        if "emptyDir" in v:
            folder.mkdir(parents=True, exist_ok=True)
            folder.chmod(0o777)
            self._own(folder)
            return folder, False
        if "persistentVolumeClaim" in v:
            claim = v["persistentVolumeClaim"]
            found = self.store.find(self.store.catalog.of("persistentvolumeclaims"), self.pod["metadata"]["namespace"], claim["claimName"])
            if found is None or not found["spec"].get("volumeName"):
                raise NotYet(f'persistentvolumeclaim "{claim["claimName"]}" not bound')
            folder = self.shared / found["spec"]["volumeName"]
            if not folder.exists():
                folder.mkdir(parents=True)
            self._own(folder)
            return folder, bool(claim.get("readOnly"))
        if "hostPath" in v:
            host = self.shared / "nodes" / self.pod["spec"]["nodeName"] / v["hostPath"]["path"].lstrip("/")
            if v["hostPath"].get("type") == "DirectoryOrCreate" or not v["hostPath"].get("type"):
                host.mkdir(parents=True, exist_ok=True)
            elif not host.exists():
                raise NotYet(f"hostPath type check failed: {v['hostPath']['path']} is not there")
            return host, False
        if "image" in v:
            image = self.images.volume(v["image"]["reference"])
            if image is None:
                raise NotYet(f'failed to pull image "{v["image"]["reference"]}" of volume {v["name"]}')
            return image, True
        raise NotYet(f"a volume of kind {sorted(set(v) - {'name'})} cannot be made here")

    def _own(self, folder: Path) -> None:
        """The Pod's fsGroup gets what is there."""
        group = self.group
        if group is None:
            return
        for path in (folder, *folder.rglob("*")):
            if path.is_symlink():
                continue
            os.chown(path, -1, group)
            mode = path.stat().st_mode & 0o7777
            path.chmod(mode | (0o2770 if path.is_dir() else 0o660))

    # ---- what is in files

    def _payload(self, v: Obj) -> Payload:
        if "projected" in v:
            out: Payload = {}
            for source in v["projected"].get("sources") or []:
                out.update(self._source(source, v["projected"]["defaultMode"]))
            return out
        if "secret" in v:
            spec = {**v["secret"], "name": v["secret"]["secretName"]}
            return self._items("secrets", spec, spec["defaultMode"])
        if "configMap" in v:
            return self._items("configmaps", v["configMap"], v["configMap"]["defaultMode"])
        return self._source({"downwardAPI": v["downwardAPI"]}, v["downwardAPI"]["defaultMode"])

    def _source(self, source: Obj, mode: int) -> Payload:
        if "configMap" in source:
            return self._items("configmaps", source["configMap"], mode)
        if "secret" in source:
            return self._items("secrets", source["secret"], mode)
        if "serviceAccountToken" in source:
            spec = source["serviceAccountToken"]
            return {spec["path"]: (self._account_token(spec["path"], spec.get("expirationSeconds", 3600)).encode(), self._token_mode(mode))}
        out: Payload = {}
        for item in source["downwardAPI"].get("items") or []:
            value = (
                field_value(self.pod, item["fieldRef"]["fieldPath"])
                if "fieldRef" in item
                else resource_value(self.pod, item["resourceFieldRef"])
            )
            out[item["path"]] = (value.encode(), item.get("mode", mode))
        return out

    def _token_mode(self, mode: int) -> int:
        return 0o640 if self.group is not None else mode

    def _account_token(self, path: str, seconds: int) -> str:
        token, end = self._token.get(path, ("", 0.0))
        if time.time() > end:
            meta = self.pod["metadata"]
            token = self.tokens.issue(meta["namespace"], self.pod["spec"]["serviceAccountName"], seconds, self.pod)
            self._token[path] = (token, time.time() + 0.8 * seconds)
        return token

    def _items(self, plural: str, spec: Obj, mode: int) -> Payload:
        namespace, name = self.pod["metadata"]["namespace"], spec["name"]
        found = self.store.find(self.store.catalog.of(plural), namespace, name)
        if found is None:
            if spec.get("optional"):
                return {}
            raise NotYet(f'{plural[:-1]} "{name}" not found')
        data: dict[str, bytes] = {}
        for key, value in (found.get("data") or {}).items():
            data[key] = base64.b64decode(value) if plural == "secrets" else value.encode()
        for key, value in (found.get("binaryData") or {}).items():
            data[key] = base64.b64decode(value)
        items = spec.get("items")
        if items is None:
            return {k: (v, mode) for k, v in data.items()}
        out: Payload = {}
        for item in items:
            if item["key"] in data:
                out[item["path"]] = (data[item["key"]], item.get("mode", mode))
            elif not spec.get("optional"):
                raise NotYet(f"references non-existent {plural[:-1]} key: {item['key']}")
        return out


def resource_value(pod: Obj, ref: Obj, container: Obj | None = None) -> str:
    """What a resourceFieldRef names, rounded up in units of its divisor."""
    from .runtime import quantity

    boxes = [*(pod["spec"].get("initContainers") or []), *pod["spec"]["containers"]]
    box = next((c for c in boxes if c["name"] == ref.get("containerName")), container or {})
    kind, name = ref["resource"].split(".", 1)
    amount = ((box.get("resources") or {}).get(kind) or {}).get(name)
    if amount is None:
        amount = {"cpu": "2", "memory": "8Gi"}.get(name, "0")
    divisor = quantity(ref.get("divisor") or "1") or 1
    return str(-int(-quantity(amount) // divisor))


__all__ = ["ApiError", "NotYet", "Volumes", "field_value", "resource_value", "write_atomically"]
