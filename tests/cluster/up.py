"""An empty cluster that people and other tests can use; up.sh says how."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from standin import namespaces  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(usage="up.sh FOLDER [OPTION …]")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--image", action="append", default=[], metavar="NAME=PROGRAM")
    parser.add_argument("--custom", action="append", default=[], metavar="GROUP")
    parser.add_argument("--registry", action="store_true")
    parser.add_argument("--kubernetes", default="v1.35.2", metavar="VERSION")
    parser.add_argument("--cron-speed", type=float, default=60.0, metavar="N")
    args = parser.parse_args()

    # Listeners that are opened here stay in this network: through them, the cluster is reached from outside of its own.
    listeners = {name: socket.create_server(("127.0.0.1", 0), backlog=128) for name in ("api", "gateway", "registry")}
    namespaces.enter()

    from kit.harness import binary
    from kit.parts import PASSWORD, REGISTRY, USER, Registry
    from standin.cluster import Cluster, Settings
    from standin.net.relay import relay
    from standin.node.images import HOST, Images, of_binary

    folder = args.folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        sys.exit(f"up.sh: {folder} is not empty")
    images = Images()
    images.add("sidelight/sidelight:*", of_binary(binary(), "/usr/bin/sidelight", folder / "images/sidelight"))
    images.add("host.test/tools:*", HOST)
    for n, image in enumerate(args.image):
        name, _, program = image.partition("=")
        images.add(name, of_binary(Path(program), "/usr/bin/" + Path(program).name, folder / f"images/{n}"))
    over = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: over.set())
    cluster = Cluster(
        Settings(
            folder,
            version=args.kubernetes,
            custom=args.custom,
            cron_speed=args.cron_speed,
            images=images,
            api_outside=[listeners["api"]],
            gateway_outside=[listeners["gateway"]],
        )
    )
    said = {"GATEWAY": "http://127.0.0.1:%d" % listeners["gateway"].getsockname()[1]}
    registry = None
    if args.registry:
        registry = Registry(folder / "registry")
        cluster.services.names[REGISTRY.split(":")[0]] = registry.address[0]
        relay(listeners["registry"], registry.address)
        said.update(
            REGISTRY=REGISTRY,
            REGISTRY_OUTSIDE="127.0.0.1:%d" % listeners["registry"].getsockname()[1],
            REGISTRY_CA=str(registry.ca),
            REGISTRY_USER=USER,
            REGISTRY_PASSWORD=PASSWORD,
        )
    cluster.start()
    said["KUBECONFIG"] = str(cluster.kubeconfig(folder / "kubeconfig", "https://127.0.0.1:%d" % listeners["api"].getsockname()[1]))
    for key, value in {**said, "READY": "1"}.items():
        print(f"{key}={value}", flush=True)
    over.wait()
    if registry:
        registry.stop()
    cluster.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
