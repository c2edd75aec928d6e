"""The kubelets of all nodes: a worker for each Pod, and fresh contents for their volumes."""

from __future__ import annotations

import shutil
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path

from ..api.model import ApiError, Obj, not_found
from ..api.rbac import Tokens
from ..api.store import Store
from ..controllers.base import emit
from . import linux
from .images import Images
from .network import NAMESPACES, Network
from .pod import PodWorker
from .runtime import Runtime


class Kubelet:
    # How much sooner than manifests say probes are done again; the first wait before a container is started again; and how often mounted
    # ConfigMaps and Secrets are looked at.
    probe_speed = 5.0
    backoff = 1.0
    refresh_every = 1.0

    def __init__(self, store: Store, tokens: Tokens, images: Images, network: Network, state: Path, logs: Path) -> None:
        self.store, self.tokens, self.images, self.network = store, tokens, images, network
        self.state, self.logs_folder = state, logs
        state.mkdir(parents=True)
        linux.mount("kubelet", state, "tmpfs", 0, "mode=755")
        self.volumes_folder = state / "volumes"
        self.runtime = Runtime(state)
        self.pods_kind = store.catalog.of("pods")
        self.stopping = threading.Event()
        self._workers: dict[str, PodWorker] = {}
        self._lock = threading.Lock()

    def start(self) -> None:
        threading.Thread(target=self._follow, daemon=True, name="kubelet").start()
        threading.Thread(target=self._refresh, daemon=True, name="kubelet-volumes").start()

    def stop(self) -> None:
        self.stopping.set()
        with self._lock:
            workers = list(self._workers.values())
        for w in workers:
            w.hurry.set()
            w.wake()
        for w in workers:
            w.join(5)
        linux.unmount(self.state)

    def event(self, obj: Obj, kind: str, reason: str, message: str) -> None:
        emit(self.store, obj, kind, reason, message, "kubelet")

    def complain(self, e: Exception) -> None:
        traceback.print_exception(e, file=sys.stderr)

    # ---- Pods come and go

    def _follow(self) -> None:
        for pod in self.store.list(self.pods_kind):
            self._see(pod, False)
        for change in self.store.follow(0, {self.pods_kind.key}, self.stopping.is_set, 1.0):
            if not isinstance(change, int):
                try:
                    self._see(change.obj, change.kind == "DELETED")
                except ApiError:
                    pass  # It is gone by now.

    def _see(self, pod: Obj, gone: bool) -> None:
        uid = pod["metadata"]["uid"]
        with self._lock:
            worker = self._workers.get(uid)
            if worker is None:
                if gone or not pod["spec"].get("nodeName") or pod["status"].get("phase") in ("Succeeded", "Failed"):
                    if "deletionTimestamp" in pod["metadata"] and not gone:
                        self.store.delete(self.pods_kind, pod["metadata"]["namespace"], pod["metadata"]["name"], grace=0)
                    return
                current = self.store.find(self.pods_kind, pod["metadata"]["namespace"], pod["metadata"]["name"])
                if current is None or current["metadata"]["uid"] != uid:
                    return
                worker = self._workers[uid] = PodWorker(self, current)
                worker.start()
        worker.changed(pod, gone)

    def forget(self, worker: PodWorker) -> None:
        with self._lock:
            self._workers.pop(worker.pod["metadata"]["uid"], None)

    def _refresh(self) -> None:
        while not self.stopping.wait(self.refresh_every):
            with self._lock:
                workers = list(self._workers.values())
            for w in workers:
                if w.initialized or any(b.running for b in w.boxes):
                    try:
                        w.volumes.refresh(w.pod)
                    except (OSError, ApiError):
                        pass  # The Pod is going.

    def worker(self, namespace: str, name: str) -> PodWorker | None:
        with self._lock:
            found = [w for w in self._workers.values() if (w.pod["metadata"]["namespace"], w.pod["metadata"]["name"]) == (namespace, name)]
        return found[-1] if found else None

    # ---- what the API asks for

    def logs(self, namespace: str, pod: str, container: str, previous: bool) -> tuple[Path, Callable[[], bool]]:
        obj = self.store.get(self.pods_kind, namespace, pod)
        folder = self.logs_folder / f"{namespace}_{pod}_{obj['metadata']['uid']}" / container
        files = sorted(folder.glob("*.log"), key=lambda f: int(f.stem))
        if previous:
            files = files[:-1]
        if not files:
            raise ApiError(400, "BadRequest", f'container "{container}" in pod "{pod}" is waiting to start')
        worker = self.worker(namespace, pod)
        box = next((b for b in worker.boxes if b.name == container), None) if worker else None
        return files[-1], lambda: box is not None and box.running and box.log == files[-1]

    def dial(self, namespace: str, pod: str, port: int) -> socket.socket:
        worker = self.worker(namespace, pod)
        if worker is None or not worker.netns:
            raise not_found(self.pods_kind, pod)
        return linux.dial_in(NAMESPACES / worker.netns, ("127.0.0.1", port), 5)

    def output(self, namespace: str) -> dict[str, str]:
        """Everything that the containers of a namespace wrote, those of Pods that are gone too."""
        out = {}
        for log in sorted(self.logs_folder.glob(f"{namespace}_*/*/*.log")):
            pod = log.parts[-3].split("_")[1]
            out[f"{pod}/{log.parts[-2]}/{log.stem}"] = log.read_text(errors="replace")
        return out

    def clear_logs(self) -> None:
        shutil.rmtree(self.logs_folder, ignore_errors=True)
