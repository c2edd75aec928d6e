"""The whole cluster."""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from pathlib import Path

from .api import pki
from .api.admission import Admission
from .api.model import KNOWN_CUSTOM, Catalog
from .api.rbac import Tokens
from .api.server import Api, Server
from .api.store import Store
from .controllers import batch, cluster, workloads
from .controllers.base import Controller
from .net.services import GATEWAY, Services
from .node.images import Images
from .node.kubelet import Kubelet
from .node.network import Network


@dataclass
class Settings:
    state: Path
    version: str = "v1.35.2"
    nodes: list[str] = field(default_factory=lambda: ["node-1", "node-2"])
    # Groups of custom kinds that are there from the start.
    custom: list[str] = field(default_factory=list)
    # How many seconds of cron's clock pass in one.
    cron_speed: float = 60.0
    # Listeners outside the cluster's network: of the API, and of the gateway.
    api_outside: list[socket.socket] = field(default_factory=list)
    gateway_outside: list[socket.socket] = field(default_factory=list)
    images: Images = field(default_factory=Images)
    port: int = 6443


class Cluster:
    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        settings.state.mkdir(parents=True, exist_ok=True)
        self.catalog = Catalog()
        for resource in KNOWN_CUSTOM:
            if resource.group in settings.custom:
                self.catalog.add(resource)
        self.store = Store(self.catalog)
        self.store.admit = Admission(self.store)
        self.tokens = Tokens(self.store)
        self.api = Api(self.store, self.tokens, settings.version)
        self.ca, cert, key = pki.make(
            settings.state / "pki",
            ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost"],
            ["127.0.0.1", "10.96.0.1"],
        )
        # The network comes first: what listens is to be in it.
        self.network = Network()
        self.network.start()
        own = socket.create_server(("0.0.0.0", settings.port), backlog=128)
        self.server = Server(self.api, [own, *settings.api_outside], cert, key)
        namespaces = cluster.Namespaces(self.store)
        namespaces.ca = self.ca.read_text()
        self.cron = batch.CronJobs(self.store)
        self.cron.speed = settings.cron_speed
        balancers = cluster.LoadBalancers(self.store)
        balancers.gateway = GATEWAY.split(":")[0]
        self.images = settings.images
        self.kubelet = Kubelet(self.store, self.tokens, self.images, self.network, settings.state / "kubelet", settings.state / "logs")
        self.api.node = self.kubelet
        self.services = Services(self.store, settings.port, settings.gateway_outside)
        self.controllers: list[Controller] = [
            namespaces,
            cluster.Garbage(self.store),
            cluster.Scheduler(self.store),
            cluster.Claims(self.store),
            cluster.Endpoints(self.store),
            balancers,
            cluster.Budgets(self.store),
            cluster.CustomKinds(self.store),
            workloads.ReplicaSets(self.store),
            workloads.Deployments(self.store),
            workloads.DaemonSets(self.store),
            batch.Jobs(self.store),
            self.cron,
        ]

    def start(self) -> None:
        cluster.bootstrap(self.store, self.settings.nodes)
        for controller in self.controllers:
            controller.start()
        self.server.start()
        self.services.start()
        self.kubelet.start()

    def stop(self) -> None:
        self.kubelet.stop()
        self.services.stop()
        self.api.stopping.set()
        for controller in self.controllers:
            controller.stopping.set()

    def claim_folder(self, namespace: str, claim: str) -> Path:
        """The folder that a bound claim stands for."""
        name = self.store.get(self.catalog.of("persistentvolumeclaims"), namespace, claim)["spec"]["volumeName"]
        folder = self.kubelet.volumes_folder / str(name)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def kubeconfig(self, path: Path, server: str = "", token: str = "", namespace: str = "default") -> Path:
        import yaml

        server = server or f"https://127.0.0.1:{self.settings.port}"
        path.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "stand-in",
                    "clusters": [{"name": "stand-in", "cluster": {"server": server, "certificate-authority": str(self.ca)}}],
                    "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in", "user": "user", "namespace": namespace}}],
                    "users": [{"name": "user", "user": {"token": token or self.tokens.admin}}],
                }
            )
        )
        path.chmod(0o600)
        return path
