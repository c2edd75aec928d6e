"""A systemd of its own: a second system on this machine, with the machine's files (its own changes are in memory) and nothing else of it.

Its first process is Debian's systemd, in namespaces of processes, mounts, network, cgroups and so on; its network is loopback alone. What a
reader of docs/deploy.md does by hand, a test does with `run`. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import kit

# What would reach the machine itself, or waits for devices that there are not.
MASKED = [
    "systemd-binfmt.service",
    "systemd-hwdb-update.service",
    "systemd-logind.service",
    "systemd-machine-id-commit.service",
    "systemd-modules-load.service",
    "systemd-networkd.service",
    "systemd-remount-fs.service",
    "systemd-resolved.service",
    "systemd-sysctl.service",
    "systemd-udev-trigger.service",
    "systemd-udevd.service",
    "systemd-udevd-control.socket",
    "systemd-udevd-kernel.socket",
    "getty.target",
]

BOOT = """
set -eu
folder=$1
root=$folder/root
mount -t tmpfs -o mode=755 tmpfs "$folder"
mkdir "$folder/upper" "$folder/work" "$root"
mount -t overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" overlay "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
# The kernel is the machine's: nobody here changes its settings.
mount --bind "$root/proc/sys" "$root/proc/sys"
mount -o remount,bind,ro "$root/proc/sys"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
for memory in run var/log; do mount -t tmpfs -o mode=755 tmpfs "$root/$memory"; done
# The project may be on a file system of its own, which the overlay does not show.
mkdir -p "$root$3"
mount --bind "$3" "$root$3"
ip link set lo up
tr -d - <"$root/proc/sys/kernel/random/uuid" >"$root/etc/machine-id"
# Services of the machine are not this one's.
rm -rf "$root"/etc/systemd/system/*.wants
for unit in $2; do ln -sfn /dev/null "$root/etc/systemd/system/$unit"; done
exec env --ignore-environment container=kit PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    chroot "$root" /lib/systemd/systemd --system --unit=basic.target --log-target=console --show-status=no
"""


def unified() -> Path:
    """Where the second version of cgroups is mounted: alone, or beside the first."""
    for line in Path("/proc/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    raise RuntimeError("no cgroup2 is mounted")


class Machine:
    def __init__(self, case: type[kit.Case]) -> None:
        folder = case.folder / "machine"
        folder.mkdir()
        self.cgroup = unified() / f"sidelight-kit-{os.getpid()}-{time.monotonic_ns()}"
        self.cgroup.mkdir()
        case.addClassCleanup(self.gone)
        # The cgroup first, so that the second system takes it for the root of all; systemd ends itself for no signal but KILL.
        enter = 'echo $$ >"$0/cgroup.procs" && exec "$@"'
        spaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "--fork", "--kill-child"]
        command = ["sh", "-c", enter, self.cgroup, kit.tool("unshare"), *spaces, "sh", "-c", BOOT, "boot", folder, " ".join(MASKED), kit.ROOT]
        self.process = kit.Process("machine", command, case.folder)
        case.addClassCleanup(lambda: self.process.stop(kit.signal.SIGKILL))
        self.first = self.process.ready("first process", self.child)
        self.process.ready("system that is up", lambda: self.run("systemctl", "is-system-running", expect=None).stdout.strip() == "running")

    def child(self) -> int | None:
        """The second system's first process, as the machine numbers it, once it is systemd."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text().strip() == "systemd":
            return int(children[0])
        return None

    def gone(self) -> None:
        """Removes the cgroups, when the kernel has seen the end of all that was in them."""

        def removed() -> bool:
            for folder in sorted(self.cgroup.glob("**/"), key=lambda path: -len(path.parts)):
                folder.rmdir()
            return True

        kit.wait_for("end of the cgroups", removed)

    def run(self, *command: str | Path, expect: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command there, as root at its shell would."""
        enter = [kit.tool("nsenter"), f"--target={self.first}", "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root"]
        environment = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LC_ALL": "C.UTF-8"}
        return kit.run([*enter, "env", "--chdir=/", *command], expect=expect, env=environment, **more)

    def install(self, file: Path, to: str, mode: int = 0o644) -> None:
        """Copies a file of the machine's."""
        target = Path(f"/proc/{self.first}/root{to}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
        target.chmod(mode)

    def shell(self, text: str, expect: int | None = 0) -> str:
        """Runs lines of a document there; what they print."""
        return self.run("bash", "-euo", "pipefail", "-c", text, expect=expect).stdout

    def curl(self, *arguments: str) -> str:
        return self.run("curl", "--silent", "--show-error", "--max-time", "20", *arguments).stdout
