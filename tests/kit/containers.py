"""Services of a compose file as processes, as near to containers as a machine without Docker comes: each with an address and a name of its own on
a network of their own, a root of its own (the machine's files; changes are in memory), and the mounts, the environment and the command that the
file gives it. In place of an image's program, Debian's is run."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kit

GATEWAY = "10.99.0.1"

NETWORK = """
set -eu
mount -t tmpfs tmpfs /run/netns 2>/dev/null || { mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns; }
ip link set lo up
ip link add bridge type bridge
ip address add 10.99.0.1/24 dev bridge
ip link set bridge up
exec sleep infinity
"""

JOIN = """
set -eu
name=$1 address=$2 number=$3
ip netns add "$name"
ip link add "veth$number" type veth peer name eth0 netns "$name"
ip link set "veth$number" master bridge up
ip -n "$name" link set lo up
ip -n "$name" address add "$address/24" dev eth0
ip -n "$name" link set eth0 up
"""

RUN = """
set -eu
folder=$1 mounts=$2 user=$3
shift 3
mkdir -p "$folder/root"
mount -t tmpfs -o mode=755 tmpfs "$folder/root"
mkdir "$folder/root/upper" "$folder/root/work" "$folder/root/merged"
root=$folder/root/merged
mount -t overlay -o "lowerdir=/,upperdir=$folder/root/upper,workdir=$folder/root/work" overlay "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
printf 'nameserver 10.99.0.1\\n' >"$folder/resolv.conf"
printf '127.0.0.1 localhost\\n' >"$folder/hosts"
for file in resolv.conf hosts; do
    rm -f "$root/etc/$file"
    touch "$root/etc/$file"
    mount --bind "$folder/$file" "$root/etc/$file"
done
while IFS='|' read -r source target options; do
    [ -n "$target" ] || continue
    if [ -d "$source" ]; then mkdir -p "$root$target"; else mkdir -p "$root${target%/*}"; rm -rf "$root$target"; touch "$root$target"; fi
    mount --bind "$source" "$root$target"
    [ "$options" != ro ] || mount -o remount,bind,ro "$root$target"
done <"$mounts"
if [ "$user" = root ]; then exec chroot "$root" "$@"; fi
exec chroot --userspec="$user" --groups= "$root" "$@"
"""


class Network:
    """A bridge, and whoever is joined to it."""

    def __init__(self, case: type[kit.Case]) -> None:
        self.case = case
        self.members: dict[str, str] = {}
        self.holder = case.start("network", [kit.tool("unshare"), "--mount", "--net", "sh", "-c", NETWORK])
        self.holder.ready("network", lambda: "10.99.0.1" in self.inside("ip", "address", expect=None).stdout)

    def enter(self) -> list[str]:
        return [kit.tool("nsenter"), f"--target={self.holder.pid}", "--mount", "--net"]

    def inside(self, *command: str | Path, expect: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        """Runs a command that reaches every member."""
        return kit.run([*self.enter(), *command], expect=expect, **more)

    def join(self, name: str) -> str:
        """A place on the network; its address."""
        number = len(self.members) + 2
        self.members[name] = f"10.99.0.{number}"
        self.inside("sh", "-c", JOIN, "join", name, self.members[name], str(number))
        return self.members[name]

    def serve_names(self) -> None:
        """Names of all who have joined, as Docker's own name server has them."""
        records = [f"{name}={address}" for name, address in self.members.items()]
        script = Path(__file__).with_name("names.py")
        self.case.start("names", [*self.enter(), kit.sys.executable, script, GATEWAY, *records])

    def run(
        self,
        name: str,
        command: Sequence[str | Path],
        mounts: Mapping[str, tuple[Path, str]],
        environment: Mapping[str, str] | None = None,
        user: str = "root",
    ) -> kit.Process:
        """Starts a member's command. Mounts: where to, what, and `ro` or `rw`."""
        folder = self.case.folder / "members" / name
        folder.mkdir(parents=True)
        table = folder / "mounts"
        table.write_text("".join(f"{source}|{target}|{options}\n" for target, (source, options) in mounts.items()))
        words = [*self.enter(), "ip", "netns", "exec", name, kit.tool("unshare"), "--mount", "sh", "-c", RUN, "run", folder, table, user, *command]
        surroundings = {"PATH": os.environ["PATH"], **(environment or {})}
        return self.case.start(name, words, env=surroundings)

    def curl(self, *arguments: str, expect: int | None = 0) -> str:
        return self.inside("curl", "--silent", "--show-error", "--max-time", "10", *arguments, expect=expect).stdout
