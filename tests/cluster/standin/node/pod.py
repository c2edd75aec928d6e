"""One Pod: its containers from the first to the last."""

from __future__ import annotations

import shutil
import signal
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

from ..api.model import ApiError, Obj, now
from ..controllers.base import set_condition
from . import environment, probes
from .images import Image
from .runtime import Container, Mount, Spec, StartError, capabilities, quantity
from .volumes import NotYet, Volumes

if TYPE_CHECKING:
    from .kubelet import Kubelet

# What a container gets to end after SIGTERM, however little of the grace period is left.
LEAST_GRACE = 2.0


class Box:
    """A container of the Pod over all its runs."""

    def __init__(self, pod: "PodWorker", spec: Obj, init: bool) -> None:
        self.pod, self.spec, self.init = pod, spec, init
        self.name: str = spec["name"]
        self.sidecar = init and spec.get("restartPolicy") == "Always"
        self.run: Container | None = None
        self.restarts = 0
        self.started = self.ready = self.stopping = False
        self.state: Obj = {"waiting": {"reason": "PodInitializing" if not init else "ContainerCreating"}}
        self.last: Obj = {}
        self.exit: int | None = None
        self.not_before = 0.0
        self.reason = ""
        self._probers: list[probes.Prober] = []

    @property
    def running(self) -> bool:
        return self.run is not None

    @property
    def log(self) -> Path:
        return self.pod.log_folder / self.name / f"{self.restarts}.log"

    # ---- starting

    def start(self) -> None:
        kubelet, pod = self.pod.kubelet, self.pod.pod
        image = kubelet.images.find(self.spec["image"])
        if image is None:
            return self._wait_for(
                "ErrImagePull" if self.state.get("waiting", {}).get("reason") != "ErrImagePull" else "ImagePullBackOff",
                f'failed to pull and unpack image "{self.spec["image"]}": not found',
                "Failed",
            )
        try:
            spec = self._spec(image)
        except (environment.ConfigError, NotYet) as e:
            return self._wait_for("CreateContainerConfigError", str(e), "Failed")
        try:
            self.run = kubelet.runtime.start(spec, self.log)
        except OSError as e:
            return self._wait_for("CreateContainerError", str(e), "Failed")
        self.exit, self.reason, self.stopping = None, "", False
        self.state = {"running": {"startedAt": now()}}
        self.started = self.spec.get("startupProbe") is None
        self.ready = self.started and self.spec.get("readinessProbe") is None
        threading.Thread(target=self._watch, args=(self.run,), daemon=True, name=f"container-{self.name}").start()
        kubelet.event(pod, "Normal", "Started", f"Started container {self.name}")
        self._probe(self.run)
        return self._post_start(self.run)

    def _post_start(self, run: Container) -> None:
        handler = (self.spec.get("lifecycle") or {}).get("postStart")
        if handler:
            why = probes.hook(handler, self.spec, self.pod.address, run, 30, self.pod.hurry)
            if why:
                self.pod.kubelet.event(self.pod.pod, "Warning", "FailedPostStartHook", why)
                self.stop(0)

    def _wait_for(self, reason: str, message: str, event: str) -> None:
        if self.state.get("waiting", {}).get("reason") != reason:
            self.pod.kubelet.event(self.pod.pod, "Warning", event, f"Error: {reason}: {message}")
        self.state = {"waiting": {"reason": reason, "message": message}}
        self.not_before = time.monotonic() + self.pod.kubelet.backoff

    def _spec(self, image: Image) -> Spec:
        pod, kubelet = self.pod.pod, self.pod.kubelet
        env = environment.variables(kubelet.store, pod, self.spec, image)
        args = environment.command(self.spec, image, env)
        if not args:
            raise environment.ConfigError("no command specified")
        uid, gid, groups = environment.identity(pod, self.spec, image)
        of_pod, own = pod["spec"].get("securityContext") or {}, self.spec.get("securityContext") or {}
        caps = capabilities(own)
        profile = own.get("seccompProfile") or of_pod.get("seccompProfile") or {}
        limits = self.spec["resources"].get("limits") or {}
        requests = self.spec["resources"].get("requests") or {}
        mounts = [Mount(self.pod.folder / "etc" / n, f"/etc/{n}") for n in ("hosts", "hostname", "resolv.conf")]
        message = self.pod.folder / "termination" / f"{self.name}-{self.restarts}"
        message.parent.mkdir(exist_ok=True)
        message.touch()
        message.chmod(0o666)
        mounts.append(Mount(message, self.spec["terminationMessagePath"]))
        for m in self.spec.get("volumeMounts") or []:
            source, read_only = self.pod.volumes.paths[m["name"]]
            sub = m.get("subPath") or environment.expand(m.get("subPathExpr") or "", env)
            if sub:
                source = source / sub
                if not source.exists():
                    source.mkdir(parents=True)
                source = source.resolve()
            mounts.append(Mount(source, m["mountPath"], read_only or m.get("readOnly", False)))
        return Spec(
            id=f"{pod['metadata']['uid'][:8]}-{self.name}-{self.restarts}-{uuid.uuid4().hex[:4]}",
            rootfs=image.rootfs,
            args=args,
            env=env,
            cwd=self.spec.get("workingDir") or image.cwd,
            netns=self.pod.netns,
            hostname=pod["spec"].get("hostname") or pod["metadata"]["name"],
            uid=uid,
            gid=gid,
            groups=groups,
            read_only=own.get("readOnlyRootFilesystem", False),
            no_new_privileges=own.get("allowPrivilegeEscalation") is False,
            capabilities=caps,
            seccomp=profile.get("type") == "RuntimeDefault",
            mounts=mounts,
            memory=int(quantity(limits.get("memory", 0))),
            cpu=quantity(limits.get("cpu", 0)),
            shares=quantity(requests.get("cpu", 0)),
        )

    def _probe(self, run: Container) -> None:
        speed, address = self.pod.kubelet.probe_speed, self.pod.address
        self._probers = []

        def after_start() -> None:
            if self.spec.get("readinessProbe"):
                self._add(probes.Prober(self.spec["readinessProbe"], self.spec, address, run, speed, self._readiness, False))
            if self.spec.get("livenessProbe"):
                self._add(probes.Prober(self.spec["livenessProbe"], self.spec, address, run, speed, self._liveness, True, patient=True))

        def startup(ok: bool, why: str) -> None:
            if ok:
                self.started = True
                self.ready = self.spec.get("readinessProbe") is None
                self._probers[0].stopping.set()
                after_start()
                self.pod.wake()
            else:
                self._unhealthy("Startup", why)

        if self.spec.get("startupProbe"):
            self._add(probes.Prober(self.spec["startupProbe"], self.spec, address, run, speed, startup, None, patient=True))
        else:
            after_start()

    def _add(self, prober: probes.Prober) -> None:
        self._probers.append(prober)
        prober.start()

    def _readiness(self, ok: bool, why: str) -> None:
        self.ready = ok
        if not ok:
            self.pod.kubelet.event(self.pod.pod, "Warning", "Unhealthy", f"Readiness probe failed: {why}")
        self.pod.wake()

    def _liveness(self, ok: bool, why: str) -> None:
        if not ok:
            self._unhealthy("Liveness", why)

    def _unhealthy(self, kind: str, why: str) -> None:
        kubelet = self.pod.kubelet
        kubelet.event(self.pod.pod, "Warning", "Unhealthy", f"{kind} probe failed: {why}")
        kubelet.event(self.pod.pod, "Normal", "Killing", f"Container {self.name} failed {kind.lower()} probe, will be restarted")
        grace = (self.spec.get(f"{kind.lower()}Probe") or {}).get(
            "terminationGracePeriodSeconds", self.pod.pod["spec"]["terminationGracePeriodSeconds"]
        )
        threading.Thread(target=self.stop, args=(grace,), daemon=True, name=f"kill-{self.name}").start()

    # ---- ending

    def _watch(self, run: Container) -> None:
        try:
            code, reason, message = run.wait(), "", ""
            if code == 137 and not run.killed and run.spec.memory:
                reason = "OOMKilled"
        except StartError as e:
            code, reason, message = 128, "StartError", str(e)
        for prober in self._probers:
            prober.stopping.set()
        if not message:
            told = self.pod.folder / "termination" / f"{self.name}-{self.restarts}"
            message = told.read_text(errors="replace")[:4096] if told.exists() else ""
        begun = self.state.get("running", {}).get("startedAt", now())
        over: Obj = {
            "exitCode": code,
            "reason": reason or ("Completed" if code == 0 else "Error"),
            "startedAt": begun,
            "finishedAt": now(),
            "containerID": f"crun://{run.spec.id}",
        }
        if message:
            over["message"] = message
        self.state = {"terminated": over}
        self.exit, self.reason, self.ready, self.started, self.run = code, over["reason"], False, False, None
        self.pod.wake()

    def stop(self, grace: float, turn: threading.Event | None = None) -> None:
        """preStop, its turn among the others, SIGTERM, and SIGKILL when the time is over. Returns when it has ended."""
        run = self.run
        if run is None or self.stopping:
            return
        self.stopping = True
        end = time.monotonic() + grace
        for prober in self._probers:
            prober.stopping.set()
        handler = (self.spec.get("lifecycle") or {}).get("preStop")
        if handler and grace > 0:
            why = probes.hook(handler, self.spec, self.pod.address, run, grace, self.pod.hurry)
            if why:
                self.pod.kubelet.event(self.pod.pod, "Warning", "FailedPreStopHook", why)
        while turn is not None and time.monotonic() < end and not self.pod.hurry.is_set() and not turn.wait(0.05):
            pass
        end = max(end, time.monotonic() + (LEAST_GRACE if grace > 0 else 0))
        if grace > 0:
            run.kill(signal.SIGTERM)
            while self.run is run and time.monotonic() < end and not self.pod.hurry.is_set():
                time.sleep(0.02)
        if self.run is run:
            run.kill(signal.SIGKILL)
            while self.run is run:
                time.sleep(0.02)

    def again(self) -> None:
        """A restart, after a while that grows."""
        backoff = self.pod.kubelet.backoff
        self.last, self.restarts = self.state, self.restarts + 1
        self.not_before = time.monotonic() + (0 if self.restarts == 1 else min(backoff * 2 ** (self.restarts - 2), 30 * backoff))
        if self.restarts > 1:
            self.state = {"waiting": {"reason": "CrashLoopBackOff", "message": f"back-off restarting failed container {self.name}"}}
            self.pod.kubelet.event(self.pod.pod, "Warning", "BackOff", f"Back-off restarting failed container {self.name}")
        self.exit = None

    def status(self) -> Obj:
        out: Obj = {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": f"stand-in://{self.spec['image']}",
            "ready": self.ready,
            "restartCount": self.restarts,
            "state": self.state,
            "lastState": self.last,
        }
        if self.init and not self.sidecar:
            out["ready"] = self.exit == 0
        out["started"] = self.started and self.running
        return out


class PodWorker(threading.Thread):
    def __init__(self, kubelet: "Kubelet", pod: Obj) -> None:
        super().__init__(daemon=True, name=f"pod-{pod['metadata']['name']}")
        self.kubelet, self.pod = kubelet, pod
        meta = pod["metadata"]
        self.folder = kubelet.state / "pods" / meta["uid"]
        self.log_folder = kubelet.logs_folder / f"{meta['namespace']}_{meta['name']}_{meta['uid']}"
        self.volumes = Volumes(kubelet.store, kubelet.tokens, kubelet.images, self.folder / "volumes", kubelet.volumes_folder, pod)
        self.inits = [Box(self, c, True) for c in pod["spec"].get("initContainers") or []]
        self.mains = [Box(self, c, False) for c in pod["spec"]["containers"]]
        self.netns = self.address = self.phase = ""
        self.begun = now()
        self.deleted = False
        self.hurry = threading.Event()
        self.initialized = False
        self._wake = threading.Event()
        self._waiting = ""

    @property
    def boxes(self) -> list[Box]:
        return [*self.inits, *self.mains]

    @property
    def sidecars(self) -> list[Box]:
        return [b for b in self.inits if b.sidecar]

    def wake(self) -> None:
        self._wake.set()

    def changed(self, pod: Obj, gone: bool) -> None:
        """The object is another now."""
        self.pod = pod
        self.deleted = self.deleted or gone or "deletionTimestamp" in pod["metadata"]
        if gone:
            self.hurry.set()
        self.wake()

    def run(self) -> None:
        try:
            self._run()
        except Exception as e:
            if not self.kubelet.stopping.is_set():
                self.kubelet.complain(e)
        finally:
            self._clear()

    def _run(self) -> None:
        if not self._prepare():
            return
        while not self.deleted and not self.kubelet.stopping.is_set():
            self._wake.clear()
            over = self._step()
            self._report()
            if over:
                break
            now_ = time.monotonic()
            soon = [b.not_before - now_ for b in self.boxes if not b.running and b.not_before > now_]
            self._wake.wait(min([*soon, 1.0]))
        while not self.deleted and not self.kubelet.stopping.is_set():
            self._wake.wait(1.0)
            self._wake.clear()
        self._end(float(self.pod["metadata"].get("deletionGracePeriodSeconds", self.pod["spec"]["terminationGracePeriodSeconds"])))

    # ---- before the first container

    def _prepare(self) -> bool:
        (self.folder / "etc").mkdir(parents=True)
        meta = self.pod["metadata"]
        if not self.pod["spec"].get("hostNetwork"):
            self.netns, self.address = self.kubelet.network.add()
        aliases = "".join(f"{a['ip']}\t{' '.join(a['hostnames'])}\n" for a in self.pod["spec"].get("hostAliases") or [])
        (self.folder / "etc/hosts").write_text(
            f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n{self.address}\t{meta['name']}\n{aliases}"
        )
        (self.folder / "etc/hostname").write_text(meta["name"] + "\n")
        search = " ".join((f"{meta['namespace']}.svc.cluster.local", "svc.cluster.local", "cluster.local"))
        (self.folder / "etc/resolv.conf").write_text(f"search {search}\nnameserver 10.96.0.10\noptions ndots:5\n")
        while not self.deleted and not self.kubelet.stopping.is_set():
            self._wake.clear()
            try:
                self.pod = {**self.pod, "status": {**self.pod.get("status", {}), "podIP": self.address}}
                self.volumes.pod = self.pod
                self.volumes.make()
                return True
            except NotYet as e:
                if str(e) != self._waiting:
                    self._waiting = str(e)
                    self.kubelet.event(self.pod, "Warning", "FailedMount", f"MountVolume.SetUp failed: {e}")
                self._report()
                self._wake.wait(0.5)
        return not self.deleted

    # ---- while it runs

    def _step(self) -> bool:
        """Starts what is to be started now. True when the Pod is over."""
        policy = self.pod["spec"]["restartPolicy"]
        for box in self.inits:
            if box.sidecar:
                if not box.running and not self._revive(box):
                    return False
                if not box.started and not self.initialized:
                    return False
            elif not self.initialized and box.exit != 0:
                if box.running:
                    return False
                if box.exit is not None:
                    if policy == "Never":
                        return self._finish("Failed")
                    box.again()
                self._due(box)
                return False
        self.initialized = True
        for box in self.mains:
            if box.running:
                continue
            if box.exit is not None and (policy == "Always" or policy == "OnFailure" and box.exit != 0):
                box.again()
            if box.exit is None:
                self._due(box)
        if policy != "Always" and all(not b.running and b.exit is not None for b in self.mains):
            return self._finish("Failed" if any(b.exit for b in self.mains) else "Succeeded")
        return False

    def _revive(self, box: Box) -> bool:
        if box.exit is not None:
            box.again()
        self._due(box)
        return box.running

    def _due(self, box: Box) -> None:
        if time.monotonic() >= box.not_before:
            box.start()

    def _finish(self, phase: str) -> bool:
        """All that the Pod is for is done: the sidecars end, the last one first."""
        self._stop_all(float(self.pod["spec"]["terminationGracePeriodSeconds"]))
        self.phase = phase
        return True

    # ---- its end

    def _end(self, grace: float) -> None:
        if any(b.running for b in self.boxes):
            for box in self.boxes:
                if box.running:
                    self.kubelet.event(self.pod, "Normal", "Killing", f"Stopping container {box.name}")
            self._stop_all(0.0 if self.kubelet.stopping.is_set() else grace)
        if not self.phase:
            self.phase = "Failed" if any(b.exit for b in self.mains) else "Succeeded"
        self._report()

    def _stop_all(self, grace: float) -> None:
        """Ordinary containers at once; a sidecar when they and the sidecars behind it have ended."""
        turns = {box.name: threading.Event() for box in self.sidecars}
        threads = {}
        for box in self.boxes:
            thread = threading.Thread(target=box.stop, args=(grace, turns.get(box.name)), daemon=True, name=f"stop-{box.name}")
            threads[box.name] = thread
            thread.start()
        for box in self.boxes:
            if not box.sidecar:
                threads[box.name].join()
        for box in reversed(self.sidecars):
            turns[box.name].set()
            threads[box.name].join()

    def _clear(self) -> None:
        kubelet, meta = self.kubelet, self.pod["metadata"]
        if self.netns:
            kubelet.network.remove(self.netns)
        kubelet.forget(self)
        if not kubelet.stopping.is_set():
            try:
                kubelet.store.delete(kubelet.pods_kind, meta["namespace"], meta["name"], grace=0, uid=meta["uid"])
            except ApiError:
                pass  # It was deleted with force.
        shutil.rmtree(self.folder, ignore_errors=True)

    # ---- what the API shows

    def _report(self) -> None:
        kubelet, meta = self.kubelet, self.pod["metadata"]
        ready = bool(self.mains) and all(b.ready for b in [*self.mains, *self.sidecars]) and not self.phase
        phase = self.phase or (
            "Running" if self.initialized and any(b.running or b.exit is not None or b.restarts for b in self.mains) else "Pending"
        )

        def change(o: Obj) -> None:
            old = o.get("status", {})
            conditions = list(old.get("conditions") or [])

            def put(kind: str, holds: bool, reason: str) -> None:
                nonlocal conditions
                conditions = set_condition(conditions, kind, "True" if holds else "False", "" if holds else reason, "")

            over = "PodCompleted" if phase == "Succeeded" else "ContainersNotReady"
            put("PodReadyToStartContainers", bool(self.address) and not self.phase, "")
            put("Initialized", self.initialized, "ContainersNotInitialized")
            put("ContainersReady", ready, over)
            put("Ready", ready, over)
            status = {
                **old,
                "phase": phase,
                "conditions": conditions,
                "hostIP": "10.244.0.1",
                "startTime": self.begun,
                "containerStatuses": [b.status() for b in self.mains],
            }
            if self.address:
                status["podIP"], status["podIPs"] = self.address, [{"ip": self.address}]
            if self.inits:
                status["initContainerStatuses"] = [b.status() for b in self.inits]
            o["status"] = status

        try:
            new = kubelet.store.mutate(kubelet.pods_kind, meta["namespace"], meta["name"], change, status=True)
        except ApiError:
            return
        if new is not None and new["metadata"]["uid"] == meta["uid"]:
            self.pod = new
