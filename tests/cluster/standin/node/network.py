"""Pods' addresses: a bridge, and for each Pod a network namespace with a pair of interfaces."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path

from . import linux

BRIDGE = "cluster0"
NODE_ADDRESS = "10.244.0.1"
SERVICES = "10.96.0.0/16"
API_ADDRESS, DNS_ADDRESS = "10.96.0.1", "10.96.0.10"
NAMESPACES = Path("/run/netns")


class Network:
    def __init__(self) -> None:
        self._numbers = itertools.count(2)
        self._lock = threading.Lock()

    def start(self) -> None:
        # Ours alone: what is mounted here is not seen outside.
        NAMESPACES.mkdir(parents=True, exist_ok=True)
        linux.mount("netns", NAMESPACES, "tmpfs")
        linux.ip(
            "link set lo up",
            # With an address of its own: else it has the lowest of its Pods', which changes as they come and go, and who knew the one before is heard no more.
            f"link add {BRIDGE} address 02:00:0a:f4:00:01 type bridge",
            f"addr add {NODE_ADDRESS}/16 dev {BRIDGE}",
            f"link set {BRIDGE} up",
            f"route add local {SERVICES} dev lo",
        )
        # Service addresses are local to the node: whoever listens on one is the Service.
        for name in ("ip_forward", "ip_nonlocal_bind"):
            Path(f"/proc/sys/net/ipv4/{name}").write_text("1")

    def add(self) -> tuple[str, str]:
        """The name of a new namespace, and its address."""
        with self._lock:
            n = next(self._numbers)
        name, address = f"pod{n}", f"10.244.{n >> 8}.{n & 255}"
        linux.ip(f"netns add {name}")
        linux.ip(f"link add veth{n} type veth peer name eth0 netns {name}", f"link set veth{n} master {BRIDGE} up")
        import subprocess

        done = subprocess.run(
            ["ip", "-n", name, "-batch", "-"],
            text=True,
            capture_output=True,
            input=(f"link set lo up\naddr add {address}/16 dev eth0\nlink set eth0 up\nroute add default via {NODE_ADDRESS}\n"),
        )
        if done.returncode != 0:
            raise OSError(f"ip: {done.stderr.strip()}")
        return name, address

    def remove(self, name: str) -> None:
        try:
            linux.ip(f"netns del {name}")
        except OSError:
            pass  # It went with its Pod.
