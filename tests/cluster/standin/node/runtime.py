"""Containers under crun, with what kubelet and containerd make of a Pod's security context."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..api.model import Obj
from . import linux

SECCOMP = Path("/usr/share/containers/seccomp.json")
# What containerd gives a container that asks for nothing.
DEFAULT_CAPABILITIES = (
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
)
_MASKED = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
]
_READ_ONLY = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"]


@dataclass
class Mount:
    source: Path
    target: str
    read_only: bool = False


@dataclass
class Spec:
    """A container to be."""

    id: str
    rootfs: Path
    args: list[str]
    env: dict[str, str]
    cwd: str
    netns: str
    hostname: str
    uid: int
    gid: int
    groups: list[int] = field(default_factory=list)
    read_only: bool = False
    no_new_privileges: bool = False
    capabilities: list[str] = field(default_factory=list)
    seccomp: bool = False
    mounts: list[Mount] = field(default_factory=list)
    memory: int = 0
    cpu: float = 0
    shares: float = 0


def capabilities(context: Obj) -> list[str]:
    wanted = context.get("capabilities") or {}
    dropped = {c.removeprefix("CAP_") for c in wanted.get("drop") or []}
    kept = [] if "ALL" in dropped else [c for c in DEFAULT_CAPABILITIES if c not in dropped]
    return kept + [c.removeprefix("CAP_") for c in wanted.get("add") or [] if c.removeprefix("CAP_") not in kept]


def seccomp(have: list[str]) -> Obj:
    """The containers project's default profile, in the form that the runtime takes."""
    profile = json.loads(SECCOMP.read_text())
    release = tuple(int(x) for x in os.uname().release.split("-")[0].split(".")[:2])
    caps = {f"CAP_{c}" for c in have}

    def included(rule: Obj) -> bool:
        least = rule.get("minKernel")
        return (
            set(rule.get("caps") or ()) <= caps
            and ("amd64" in rule.get("arches", ["amd64"]))
            and (not least or release >= tuple(int(x) for x in least.split(".")))
        )

    def excluded(rule: Obj) -> bool:
        return bool(set(rule.get("caps") or ()) & caps) or "amd64" in rule.get("arches", [])

    calls = []
    for rule in profile["syscalls"]:
        if included(rule.get("includes") or {}) and not excluded(rule.get("excludes") or {}):
            e: Obj = {"names": rule["names"], "action": rule["action"]}
            if rule.get("errnoRet") is not None:
                e["errnoRet"] = rule["errnoRet"]
            if rule.get("args"):
                e["args"] = [{k: v for k, v in a.items() if k in ("index", "value", "valueTwo", "op")} for a in rule["args"]]
            calls.append(e)
    out: Obj = {
        "defaultAction": profile["defaultAction"],
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": calls,
    }
    if profile.get("defaultErrnoRet") is not None:
        out["defaultErrnoRet"] = profile["defaultErrnoRet"]
    return out


def _config(spec: Spec, rootfs: Path, group: str) -> Obj:
    caps = [f"CAP_{c}" for c in spec.capabilities]
    # As containerd has it: capabilities are effective for root, and only possible for others.
    sets = {
        "bounding": caps,
        "effective": caps if spec.uid == 0 else [],
        "permitted": caps if spec.uid == 0 else [],
        "inheritable": [],
        "ambient": [],
    }
    mounts: list[Obj] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ]
    if group:
        mounts.append(
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
            }
        )
    for m in spec.mounts:
        mounts.append(
            {
                "destination": m.target,
                "type": "bind",
                "source": str(m.source),
                "options": ["rbind", "rprivate", "ro" if m.read_only else "rw"],
            }
        )
    resources: Obj = {"devices": [{"allow": False, "access": "rwm"}]}
    if group and spec.memory:
        resources["memory"] = {"limit": spec.memory}
    if group and (spec.cpu or spec.shares):
        resources["cpu"] = {"shares": max(2, int((spec.shares or spec.cpu) * 1024))}
        if spec.cpu:
            resources["cpu"].update(quota=int(spec.cpu * 100_000), period=100_000)
    linux_: Obj = {
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "network", "path": f"/run/netns/{spec.netns}"},
        ],
        "resources": resources,
        "maskedPaths": _MASKED,
        "readonlyPaths": _READ_ONLY,
    }
    if group:
        linux_["cgroupsPath"] = f"/{group}/{spec.id}"
    if spec.seccomp:
        linux_["seccomp"] = seccomp(spec.capabilities)
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname,
        "root": {"path": str(rootfs), "readonly": spec.read_only},
        "mounts": mounts,
        "linux": linux_,
        "process": {
            "terminal": False,
            "args": spec.args,
            "cwd": spec.cwd,
            "env": [f"{k}={v}" for k, v in spec.env.items()],
            "user": {"uid": spec.uid, "gid": spec.gid, "additionalGids": spec.groups},
            "capabilities": sets,
            "noNewPrivileges": spec.no_new_privileges,
            "oomScoreAdj": 0,
        },
    }


def remove_empty_groups() -> None:
    """Removes cgroups of clusters that nothing runs in any more."""
    root = Path("/sys/fs/cgroup")
    for group in [*root.glob("stand-in-*"), *root.glob("*/stand-in-*")]:
        with contextlib.suppress(OSError):
            for folder in [*group.iterdir(), group]:
                if folder.is_dir():
                    folder.rmdir()


class StartError(Exception):
    """The container could not be started."""


class Container:
    """One run of a container: started once, over once."""

    def __init__(self, runtime: "Runtime", spec: Spec, folder: Path, process: "subprocess.Popen[bytes]") -> None:
        self.runtime, self.spec, self.folder, self.process = runtime, spec, folder, process
        self.killed = False

    @property
    def pid(self) -> int:
        try:
            return int((self.folder / "pid").read_text())
        except (OSError, ValueError):
            return 0

    def kill(self, number: signal.Signals) -> None:
        if number == signal.SIGKILL:
            self.killed = True
        if self.process.poll() is None and self.pid:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                pass

    def wait(self) -> int:
        """The exit code, 128 and more for signals. What is left is cleared away."""
        code = self.process.wait()
        started = bool(self.pid)
        self.runtime.clear(self.spec.id, self.folder)
        if not started:
            said = (self.folder / "crun.log").read_text() if (self.folder / "crun.log").exists() else ""
            raise StartError(said.strip() or f"crun ended with {code}")
        return code

    def execute(self, args: list[str], timeout: float) -> tuple[int, str]:
        """Runs a command in the container, as probes and hooks do; 124 when its time is over."""
        process = self.runtime.crun("exec", self.spec.id, *args)
        with subprocess.Popen(process, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as p:
            try:
                out, _ = p.communicate(timeout=timeout)
                return p.returncode, out.decode(errors="replace")
            except subprocess.TimeoutExpired:
                p.kill()
                return 124, "timed out"


class Runtime:
    def __init__(self, state: Path) -> None:
        """`state`: on a file system of ours in memory."""
        self.state = state
        # The cgroup that all containers of this cluster are in.
        self.group = f"stand-in-{uuid.uuid4().hex[:8]}"
        self.limits = self._has_cgroups()

    def _has_cgroups(self) -> bool:
        """Whether limits can be set. crun refuses hosts that mix both versions: the second one is taken out of our sight then."""
        root = Path("/sys/fs/cgroup")
        linux.unmount(root / "unified")
        try:
            probe = (root if (root / "cgroup.controllers").exists() else root / "memory") / self.group
            probe.mkdir()
            probe.rmdir()
            return True
        except OSError:
            return False

    def crun(self, *args: str) -> list[str]:
        manager = "cgroupfs" if self.limits else "disabled"
        return ["crun", "--root", str(self.state / "crun"), f"--cgroup-manager={manager}", *args]

    def start(self, spec: Spec, log: Path) -> Container:
        folder = self.state / "containers" / spec.id
        for part in ("upper", "work", "rootfs"):
            (folder / part).mkdir(parents=True)
        linux.mount("overlay", folder / "rootfs", "overlay", 0, f"lowerdir={spec.rootfs},upperdir={folder}/upper,workdir={folder}/work")
        (folder / "config.json").write_text(json.dumps(_config(spec, folder / "rootfs", self.group if self.limits else "")))
        log.parent.mkdir(parents=True, exist_ok=True)
        args = self.crun(f"--log={folder}/crun.log", "run", "--bundle", str(folder), "--pid-file", str(folder / "pid"), spec.id)
        with log.open("ab") as out:
            process = subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True)
        return Container(self, spec, folder, process)

    def clear(self, id_: str, folder: Path) -> None:
        subprocess.run(self.crun("delete", "--force", id_), capture_output=True)
        linux.unmount(folder / "rootfs")
        for part in ("upper", "work"):
            shutil.rmtree(folder / part, ignore_errors=True)


def quantity(text: Any) -> float:
    """The number that a quantity of Kubernetes stands for."""
    s = str(text)
    for suffix, factor in (
        ("Ki", 1 << 10),
        ("Mi", 1 << 20),
        ("Gi", 1 << 30),
        ("Ti", 1 << 40),
        ("k", 1e3),
        ("M", 1e6),
        ("G", 1e9),
        ("T", 1e12),
        ("m", 1e-3),
    ):
        if s.endswith(suffix):
            return float(s[: -len(suffix)]) * factor
    return float(s)
