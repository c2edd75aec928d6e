"""DaemonSet, sidecars, state that replicas share."""

from __future__ import annotations

import base64
import json
import shutil

import yaml

from kit.harness import HELMS, ROOT, Case, module
from kit.parts import Redis
from kit.values import inline, merged, registry, stores
from standin.api.model import Obj


class Daemons(Case):
    order = 6

    def _on_each_node(self, version: str) -> None:
        self.install("a", merged(inline("one"), {"mode": "daemonset"}), version=version)
        nodes = [n["metadata"]["name"] for n in self.cluster.store.list(self.cluster.catalog.of("nodes"))]
        self.assertEqual(sorted(p["spec"]["nodeName"] for p in self.proxies()), nodes)
        url = self.url("a-sidelight")
        self.answers(url, "one")
        old = {p["metadata"]["uid"] for p in self.proxies()}
        with self.load(url) as load:
            self.upgrade("a", merged(inline("one"), {"mode": "daemonset", "podAnnotations": {"changed": "yes"}}), version=version)
            self.until(lambda: len(self.list("pods")) == 2, "the old Pods are gone", 30)
        self.assertEqual(sorted(p["spec"]["nodeName"] for p in self.proxies()), nodes)
        self.assertFalse(old & {p["metadata"]["uid"] for p in self.proxies()})
        self.unharmed(load, "one")

    def test_helm_3(self) -> None:
        self._on_each_node(HELMS[0])

    def test_helm_4(self) -> None:
        self._on_each_node(HELMS[1])


class Sidecars(Case):
    """The container before and after the application's, in a chart that includes it and in manifests that kustomize puts it into."""

    order = 6
    PROXY = "http://127.0.0.1:8080/"

    def _chart(self) -> str:
        folder = self.home / "app"
        if not folder.exists():
            shutil.copytree(ROOT / "tests/cluster/charts/app", folder)
            shutil.copytree(self.chart, folder / "charts/sidelight")
        return str(folder)

    def _values(self, script: str, **more: object) -> Obj:
        return {"script": script, "sidelight": inline("through the sidecar"), **more}

    def _sidecar(self, pod: Obj) -> Obj:
        return next(c for c in pod["status"]["initContainerStatuses"] if c["name"] == "sidelight")

    def _job(self, version: str) -> None:
        # The application asks once and ends: it finds the proxy ready, and the Job is complete although the proxy would run on.
        self.helm(
            "install",
            "a",
            self._chart(),
            "--wait",
            "--wait-for-jobs",
            "--timeout",
            "40s",
            version=version,
            values=self._values(f"curl -sS --max-time 5 {self.PROXY}", job=True),
        )
        self.kubectl("wait", "--for=condition=Complete", "job/a-app", "--timeout=30s")
        pod = self.pods(app="a")[0]
        self.assertEqual(pod["status"]["phase"], "Succeeded")
        self.assertEqual(self._sidecar(pod)["state"]["terminated"]["exitCode"], 0)
        self.assertEqual(self._sidecar(pod)["restartCount"], 0)
        self.assertEqual(self.kubectl("logs", pod["metadata"]["name"], "-c", "app"), "through the sidecar")

    def test_job_helm_3(self) -> None:
        self._job(HELMS[0])

    def test_job_helm_4(self) -> None:
        self._job(HELMS[1])

    def test_outlives_the_application(self) -> None:
        """The last thing the application does, after SIGTERM, goes through the proxy, which ends when the application has."""
        script = f"trap 'sleep 1; curl -sS --max-time 5 {self.PROXY}; exit 0' TERM; echo begun; while :; do sleep 0.1; done"
        self.helm("install", "a", self._chart(), "--wait", "--timeout", "40s", values=self._values(script))
        pod = self.pods(app="a")[0]
        name = pod["metadata"]["name"]
        self.until(lambda: "begun" in self.output(), "the application runs")
        # Both listen on every address of the Pod; the sidecar's readiness counts for it.
        self.assertEqual(self.ask(f"http://{pod['status']['podIP']}:8080/").body, "through the sidecar")
        self.kubectl("delete", "pod", name)
        self.assertIn("through the sidecar", self.output())
        self.assertEqual(self.exit_codes(name, "sidelight"), [0])
        self.assertEqual(self.exit_codes(name, "app"), [0])

    def test_not_before_it_is_ready(self) -> None:
        """While the program cannot be had, the application does not start."""
        values = self._values("echo begun; sleep 1000")
        values["sidelight"] = {"module": {"configMap": {"name": "program", "key": "main.wasm"}}}
        self.helm("install", "a", self._chart(), values=values)
        self.until(lambda: any("program" in e.get("message", "") for e in self.list("events")), "an event says what is missing")
        self.assertNotIn("begun", self.output())
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "program"},
                "binaryData": {"main.wasm": inline("late")["module"]["inline"]},
            }
        )
        self.until(lambda: "begun" in self.output(), "the application starts")
        pod = self.pods(app="a")[0]
        self.until(lambda: self.pods(app="a")[0]["status"]["phase"] == "Running", "the Pod runs")
        self.assertEqual(self.ask(f"http://{pod['status']['podIP']}:8080/").body, "late")

    def test_changes_while_it_runs(self) -> None:
        self.helm("install", "a", self._chart(), "--wait", "--timeout", "40s", values=self._values("sleep 1000"))
        pod = self.pods(app="a")[0]
        url = f"http://{pod['status']['podIP']}:8080/"
        self.answers(url, "through the sidecar")
        with self.load(url) as load:
            self.helm(
                "upgrade", "a", self._chart(), "--wait", "--timeout", "40s", values={"script": "sleep 1000", "sidelight": inline("another")}
            )
            self.answers(url, "another")
        self.unharmed(load, "through the sidecar", "another")
        self.assertEqual(self.pods(app="a")[0]["metadata"]["uid"], pod["metadata"]["uid"])

    def test_kustomize(self) -> None:
        folder = self.home / "overlay"
        shutil.copytree(ROOT / "deploy/kustomize/sidecar", folder / "sidecar")
        host = {
            "listen": ["0.0.0.0:8080"],
            "probes": "0.0.0.0:9091",
            "admin": "127.0.0.1:9090",
            "cache_dir": "/var/cache/sidelight/programs",
            "services": {"app": {"module": "/etc/program/main.wasm"}},
        }
        (folder / "sidelight.json").write_text(json.dumps(host))
        own = {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}}
        (folder / "app.yaml").write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "batch/v1",
                    "kind": "Job",
                    "metadata": {"name": "app", "labels": {"sidelight.dev/sidecar": "true"}},
                    "spec": {
                        "backoffLimit": 0,
                        "template": {
                            "metadata": {"labels": {"app": "a"}},
                            "spec": {
                                "restartPolicy": "Never",
                                "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
                                "volumes": [{"name": "program", "configMap": {"name": "program"}}],
                                "initContainers": [
                                    {"name": "sidelight", "volumeMounts": [{"name": "program", "mountPath": "/etc/program"}]}
                                ],
                                "containers": [
                                    {
                                        "name": "app",
                                        "image": "host.test/tools:1",
                                        "command": ["curl", "-sS", "--max-time", "5", self.PROXY],
                                        "securityContext": own,
                                    }
                                ],
                            },
                        },
                    },
                }
            )
        )
        (folder / "kustomization.yaml").write_text(
            yaml.safe_dump(
                {
                    "resources": ["app.yaml"],
                    "components": ["sidecar"],
                    "configMapGenerator": [{"name": "sidelight", "files": ["sidelight.json"], "options": {"disableNameSuffixHash": True}}],
                }
            )
        )
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "program"},
                "binaryData": {"main.wasm": inline("by kustomize")["module"]["inline"]},
            }
        )
        self.kubectl("apply", "-k", str(folder))
        self.kubectl("wait", "--for=condition=Complete", "job/app", "--timeout=30s")
        pod = self.pods(app="a")[0]
        self.assertEqual(self.kubectl("logs", pod["metadata"]["name"], "-c", "app"), "by kustomize")
        self.assertEqual(self._sidecar(pod)["state"]["terminated"]["exitCode"], 0)


class Shared(Case):
    """Redis: what one replica stores, the other finds, also after both were replaced."""

    order = 6

    def test_redis(self) -> None:
        redis = Redis(self.home / "redis", "a-password")
        self.addCleanup(redis.stop)
        self.with_registry()
        self.world.registry.push("modes/stores", "1", module("rust/stores.wasm"))
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "redis"},
                "data": {"password": base64.b64encode(redis.password.encode()).decode()},
            }
        )
        values = merged(
            registry("modes/stores", "1"),
            stores("x"),
            {"replicas": 2, "redis": {"url": f"redis://10.244.0.1:{redis.port}", "existingSecret": "redis", "settings": {"timeout": "10s"}}},
        )
        self.install("a", values)
        one, two = (f"http://{p['status']['podIP']}:8080" for p in self.proxies())
        self.assertEqual(self.ask(f"{one}/kv?store=notes&key=k", method="PUT", body=b"from the first").status, 200)
        self.assertEqual(self.ask(f"{two}/kv?store=notes&key=k").body.strip(), "from the first")
        url = self.url("a-sidelight", "/kv?store=notes&key=k")
        self.answers(url, "from the first")
        with self.load(url) as load:
            self.kubectl("rollout", "restart", "deployment/a-sidelight")
            self.kubectl("rollout", "status", "deployment/a-sidelight", "--timeout=60s")
            self.until(lambda: len(self.list("pods")) == 2, "the old Pods are gone", 30)
        self.unharmed(load, "from the first")
        self.assertEqual(
            self.ask(f"http://{self.proxies()[0]['status']['podIP']}:8080/kv?store=notes&key=k").body.strip(), "from the first"
        )


class Kept(Case):
    """persistence: KV stores on a claim survive their Pod."""

    def test_claim(self) -> None:
        self.with_registry()
        self.world.registry.push("modes/kept", "1", module("rust/stores.wasm"))
        values = merged(registry("modes/kept", "1"), stores("x"), {"persistence": {"enabled": True}, "preStopSleepSeconds": 0})
        self.install("a", values)
        url = self.url("a-sidelight", "/kv?store=notes&key=k")
        self.until(lambda: self.ask(url).status == 404, "it serves")
        self.assertEqual(self.ask(url, method="PUT", body=b"kept").status, 200)
        self.kubectl("rollout", "restart", "deployment/a-sidelight")
        self.kubectl("rollout", "status", "deployment/a-sidelight", "--timeout=60s")
        self.answers(url, "kept")
