"""The cluster of a run, and what tests do with it."""

from __future__ import annotations

import base64
import contextlib
import http.client
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from standin.api.model import Obj
from standin.cluster import Cluster, Settings
from standin.node.images import HOST, Images, of_binary
from .parts import Origin, Registry

HERE = Path(__file__).resolve().parents[1]
ROOT = HERE.parents[1]
CHART = Path(os.environ.get("SIDELIGHT_CHART") or ROOT / "charts" / "sidelight")
GUESTS = ROOT / "tests" / "guests" / "out"
HELMS = ("3.17.2", "4.3.1")
VERSION = "0.1.0"
Objects = list[Obj]


def binary() -> Path:
    given = os.environ.get("SIDELIGHT_BIN")
    places = [Path(given)] if given else [ROOT / "target/release/sidelight", ROOT / "target/debug/sidelight"]
    found = next((p for p in places if p.is_file() and os.access(p, os.X_OK)), None)
    if found is None:
        sys.exit(f"cluster: no program at {' or '.join(map(str, places))}: cargo build --release, or set SIDELIGHT_BIN")
    return found


@dataclass
class Answer:
    status: int
    body: str
    headers: dict[str, str]


class World:
    """Everything that is made once for a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # As they are now: neither chart nor binary changes while tests run.
        self.chart = Path(shutil.copytree(CHART, folder / "chart"))
        images = Images()
        self.image = of_binary(binary(), "/usr/bin/sidelight", folder / "images" / "sidelight")
        images.add("sidelight/sidelight:*", self.image)
        images.add("host.test/tools:*", HOST)
        self.cluster = Cluster(Settings(folder, images=images, custom=["gateway.networking.k8s.io", "monitoring.coreos.com"]))
        self.cluster.services.names["registry.test"] = "10.244.0.1"
        self.cluster.start()
        self.kubeconfig = self.cluster.kubeconfig(folder / "kubeconfig")
        self.registry = Registry(folder / "registry")
        self.origin = Origin()
        self._numbers = itertools.count(1)
        self._cache: dict[str, Path] = {}

    def stop(self) -> None:
        self.origin.stop()
        self.registry.stop()
        self.cluster.stop()

    def number(self) -> int:
        return next(self._numbers)

    @property
    def help(self) -> str:
        if not hasattr(self, "_help"):
            self._help = subprocess.run([str(binary()), "--help"], capture_output=True, text=True).stdout
        return self._help


_world: World | None = None
_lock = threading.Lock()


def world() -> World:
    global _world
    with _lock:
        if _world is None:
            _world = World(Path(tempfile.mkdtemp(prefix="sidelight-cluster-")))
        return _world


def end_world() -> None:
    if _world is not None:
        _world.stop()
        if not os.environ.get("KEEP"):
            shutil.rmtree(_world.folder, ignore_errors=True)


class Failed(AssertionError):
    """A command failed that should not have."""


class Load:
    """Requests all the time, from a process of its own."""

    def __init__(self, url: str, host: str = "", threads: int = 4, pause: float = 0.02) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "kit.load", url, host, str(threads), str(pause)],
            cwd=HERE,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self.result: dict[str, Any] = {}

    def stop(self) -> dict[str, Any]:
        if not self.result:
            out, _ = self.process.communicate(timeout=30)
            self.result = json.loads(out)
        return self.result


class Case(unittest.TestCase):
    """A test with a namespace of its own."""

    maxDiff = None
    chart: Path
    # Labels of the namespace. Everything of ours fits the strictest level.
    labels: dict[str, str] = {"pod-security.kubernetes.io/enforce": "restricted"}

    def setUp(self) -> None:
        self.world = world()
        self.cluster = self.world.cluster
        self.chart = self.world.chart
        self.namespace = f"{type(self).__name__.lower()}-{self.world.number()}"[:40]
        self.cluster.store.create(self.cluster.catalog.of("namespaces"), {"metadata": {"name": self.namespace, "labels": self.labels}})
        self.addCleanup(self._leave)
        self.home = Path(tempfile.mkdtemp(prefix="home-", dir=self.world.folder))
        self.until(
            lambda: self.cluster.store.find(self.cluster.catalog.of("serviceaccounts"), self.namespace, "default") is not None,
            "the namespace is made",
        )

    def _leave(self) -> None:
        if self._failed():
            self.explain()
        store, kind = self.cluster.store, self.cluster.catalog.of("pods")
        # One that expired is gone already.
        if store.find(self.cluster.catalog.of("namespaces"), "", self.namespace) is not None:
            store.delete(self.cluster.catalog.of("namespaces"), "", self.namespace)
        # What is left of it needs no time to end.
        for pod in store.list(kind, self.namespace):
            with contextlib.suppress(Exception):
                store.delete(kind, self.namespace, pod["metadata"]["name"], grace=0)

    def _failed(self) -> bool:
        outcome = getattr(self, "_outcome", None)
        result = getattr(outcome, "result", None)
        return any(test is self for test, _ in [*getattr(result, "failures", []), *getattr(result, "errors", [])]) or not getattr(
            outcome, "success", True
        )

    def explain(self) -> None:
        """What somebody who looks for the cause wants to see."""
        print(f"\n---- {self.id()}: namespace {self.namespace}", file=sys.stderr)
        for what in ("pods,deployments,daemonsets,jobs", "events"):
            print(self.kubectl("get", what, check=False), file=sys.stderr)
        for asked in list(self.cluster.api.audit):
            if asked.user.startswith(f"system:serviceaccount:{self.namespace}:") and asked.verb != "watch":
                print(f"-- asked by {asked.user}: {asked.verb} {asked.resource} {asked.name}: {asked.code}", file=sys.stderr)
        # The last words of the last containers say most.
        for name, text in list(self.cluster.kubelet.output(self.namespace).items())[-12:]:
            print(f"-- {name}\n{text[-3000:]}", file=sys.stderr)

    # ---- waiting

    def until(self, what: Callable[[], Any], why: str, seconds: float = 20) -> Any:
        """Until it holds; a connection that fails is no answer yet."""
        end = time.monotonic() + seconds
        while True:
            try:
                found = what()
            except (OSError, http.client.HTTPException) as e:
                found, why = None, f"{why} ({e})" if "(" not in why else why
            if found:
                return found
            if time.monotonic() > end:
                self.fail(f"not within {seconds} s: {why}")
            time.sleep(0.05)

    # ---- Helm and kubectl

    def environment(self, kubeconfig: Path | None = None) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "KUBECONFIG": str(kubeconfig or self.world.kubeconfig),
            "HELM_CACHE_HOME": str(self.home / "cache"),
            "HELM_CONFIG_HOME": str(self.home / "config"),
            "HELM_DATA_HOME": str(self.home / "data"),
            "KUBECACHEDIR": str(self.home / "kube"),
        }

    def run_(
        self, args: Sequence[str], *, check: bool = True, stdin: str = "", timeout: float = 180, kubeconfig: Path | None = None
    ) -> str:
        done = subprocess.run(
            args, capture_output=True, text=True, input=stdin, timeout=timeout, env=self.environment(kubeconfig), cwd=self.home
        )
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(args[1:])} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def helm(self, *args: str, version: str = HELMS[1], values: Obj | None = None, check: bool = True, timeout: float = 180) -> str:
        command = [str(ROOT / f"target/tools/helm-{version}/helm"), "--namespace", self.namespace, *args]
        if values is not None:
            with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=self.home, delete=False) as f:
                yaml.safe_dump(values, f)
            command += ["--values", f.name]
        return self.run_(command, check=check, timeout=timeout)

    def kubectl(self, *args: str, check: bool = True, stdin: str = "", kubeconfig: Path | None = None) -> str:
        return self.run_(
            [str(ROOT / "target/tools/helm-4.3.1/kubectl"), "--namespace", self.namespace, *args],
            check=check,
            stdin=stdin,
            kubeconfig=kubeconfig,
        )

    def apply(self, *objects: Obj) -> None:
        self.kubectl("apply", "-f", "-", stdin=yaml.safe_dump_all(objects))

    def install(self, name: str, values: Obj, *args: str, version: str = HELMS[1], chart: Path | None = None) -> None:
        self.helm("install", name, str(chart or self.chart), "--wait", "--timeout", "150s", *args, version=version, values=values)

    def upgrade(self, name: str, values: Obj, *args: str, version: str = HELMS[1], chart: Path | None = None) -> None:
        self.helm("upgrade", name, str(chart or self.chart), "--wait", "--timeout", "150s", *args, version=version, values=values)

    def with_registry(self) -> None:
        """What Pods need to fetch programs from the registry of the run."""
        config = base64.b64encode(self.world.registry.docker_config.encode()).decode()
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "registry"},
                "type": "kubernetes.io/dockerconfigjson",
                "data": {".dockerconfigjson": config},
            },
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "registry-ca"},
                "data": {"ca.crt": self.world.registry.ca.read_text()},
            },
        )

    # ---- objects

    def get(self, plural: str, name: str, group: str = "") -> Obj:
        return self.cluster.store.get(self.cluster.catalog.of(plural, group), self.namespace, name)

    def find(self, plural: str, name: str, group: str = "") -> Obj | None:
        return self.cluster.store.find(self.cluster.catalog.of(plural, group), self.namespace, name)

    def list(self, plural: str, group: str = "") -> Objects:
        return self.cluster.store.list(self.cluster.catalog.of(plural, group), self.namespace)

    def pods(self, **labels: str) -> Objects:
        """Those that are not about to go."""
        wanted = {k.replace("_", "-"): v for k, v in labels.items()}
        return [
            p
            for p in self.list("pods")
            if "deletionTimestamp" not in p["metadata"] and all((p["metadata"].get("labels") or {}).get(k) == v for k, v in wanted.items())
        ]

    def proxies(self) -> Objects:
        return [p for p in self.pods() if (p["metadata"].get("labels") or {}).get("app.kubernetes.io/component") == "proxy"]

    def output(self) -> str:
        """All that containers of this namespace have said."""
        return "\n".join(self.cluster.kubelet.output(self.namespace).values())

    # ---- requests

    def url(self, service: str, path: str = "/") -> str:
        spec = self.get("services", service)["spec"]
        return f"http://{spec['clusterIP']}:{spec['ports'][0]['port']}{path}"

    def ask(
        self,
        url: str,
        host: str = "",
        headers: dict[str, str] | None = None,
        timeout: float = 20,
        method: str = "GET",
        body: bytes | None = None,
    ) -> Answer:
        import urllib.parse

        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout)
        try:
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            connection.request(method, path, body, {"Connection": "close", **({"Host": host} if host else {}), **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"), {k.lower(): v for k, v in response.getheaders()})
        finally:
            connection.close()

    def answers(self, url: str, body: str, host: str = "", seconds: float = 20) -> None:
        """Until that is the answer."""
        last = ""

        def right() -> bool:
            nonlocal last
            try:
                last = self.ask(url, host).body.strip()
            except (OSError, http.client.HTTPException) as e:
                last = str(e)
            return last == body

        try:
            self.until(right, f"{url} answers {body!r}", seconds)
        except AssertionError:
            self.fail(f"{url} {host} answers {last!r} after {seconds} s, not {body!r}")

    def admin(self, pod: Obj, path: str, method: str = "GET") -> Answer:
        """The admin listener of a Pod, as `kubectl port-forward` reaches it."""
        sock = self.cluster.kubelet.dial(self.namespace, pod["metadata"]["name"], 9090)
        connection = http.client.HTTPConnection("127.0.0.1", 9090, timeout=20)
        connection.sock = sock
        try:
            connection.request(method, path, headers={"Connection": "close"})
            response = connection.getresponse()
            return Answer(response.status, response.read().decode(errors="replace"), {})
        finally:
            connection.close()

    def exit_codes(self, pod: str, container: str) -> Sequence[int]:
        """Of all runs of a container, also of a Pod that is gone."""
        codes: dict[str, int] = {}
        for change in self.cluster.store.since(0, {("", "pods")}):
            meta, status = change.obj["metadata"], change.obj.get("status", {})
            if (meta["namespace"], meta["name"]) == (self.namespace, pod):
                for c in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
                    over = c.get("state", {}).get("terminated")
                    if c["name"] == container and over:
                        codes[over.get("containerID", "")] = over["exitCode"]
        return list(codes.values())

    def metric(self, pod: Obj, name: str) -> float:
        text = self.ask(f"http://{pod['status']['podIP']}:9091/metrics").body
        found = [line for line in text.splitlines() if line.startswith((name + " ", name + "{"))]
        if not found:
            self.fail(f"no metric {name}")
        return sum(float(line.rsplit(" ", 1)[1]) for line in found)

    @contextlib.contextmanager
    def load(self, url: str, host: str = "", **settings: Any) -> Iterator[Load]:
        load = Load(url, host, **settings)
        try:
            time.sleep(0.5)
            yield load
            time.sleep(0.5)
        finally:
            load.stop()

    def unharmed(self, load: Load, *generations: str, least: int = 30) -> dict[str, Sequence[float]]:
        """Every request was answered, by one of the generations, and each of them has answered. When each did first and last."""
        result = load.stop()
        self.assertEqual(result["failures"], [], "requests failed")
        wanted = {f"200 {g}" for g in generations}
        others = {a: n for a, n in result["answers"].items() if a not in wanted}
        self.assertEqual(others, {}, "answers of none of the generations")
        self.assertEqual(set(result["answers"]), wanted, "every generation has answered")
        self.assertGreaterEqual(sum(result["answers"].values()), least, "enough requests to say anything")
        return {a.removeprefix("200 "): times for a, times in result["seen"].items()}

    # ---- the rest

    def needs(self, *words: str) -> None:
        """Fails where the binary is older than what the test is about; with CLUSTER_ALLOW_OLD=1 the test is left out instead."""
        missing = [w for w in words if w not in self.world.help]
        if missing and os.environ.get("CLUSTER_ALLOW_OLD"):
            self.skipTest(f"the binary has no {', '.join(missing)}")
        self.assertEqual(missing, [], "the binary is too old")

    def process_of(self, pod: Obj, container: str) -> int:
        """The number of a container's first process, as the node sees it."""
        worker = self.cluster.kubelet.worker(self.namespace, pod["metadata"]["name"])
        assert worker is not None
        box = next(b for b in worker.boxes if b.name == container)
        assert box.run is not None
        return box.run.pid

    def kill(self, pod: Obj, container: str, number: signal.Signals) -> None:
        os.kill(self.process_of(pod, container), number)


def module(name: str) -> bytes:
    """A program that tests/guests/build.sh has made."""
    path = GUESTS / name
    if not path.is_file():
        raise unittest.SkipTest(f"no {path}") if os.environ.get("CLUSTER_ALLOW_OLD") else Failed(f"no {path}: tests/guests/build.sh all")
    return path.read_bytes()
