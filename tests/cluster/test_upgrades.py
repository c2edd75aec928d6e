"""Changes under load: every request is answered, by one of the configurations that were meant."""

from __future__ import annotations

import base64
import json
import time

from kit.harness import HELMS, Case, module
from kit.values import inline, merged, registry, stores
from kit.wasm import answering
from standin.api.model import Obj


class Live(Case):
    """Changes that running Pods take over."""

    order = 9

    def _manifest(self, version: str) -> None:
        self.with_registry()
        self.world.registry.push("live/stores", "1", module("rust/stores.wasm"))
        program = merged(registry("live/stores", "1"), {"replicas": 2})
        self.install("a", merged(program, stores("one")), version=version)
        url = self.url("a-sidelight", "/config?store=settings&key=word")
        self.answers(url, "one")
        pods = {p["metadata"]["uid"] for p in self.proxies()}
        with self.load(url) as load:
            self.upgrade("a", merged(program, stores("two")), version=version)
            self._everywhere("/config?store=settings&key=word", "two")
            self.helm("rollback", "a", "1", "--wait", "--timeout", "60s", version=version)
            self._everywhere("/config?store=settings&key=word", "one")
        self.unharmed(load, "one", "two")
        self.assertEqual({p["metadata"]["uid"] for p in self.proxies()}, pods, "no Pod was replaced")
        self.assertEqual([p["status"]["containerStatuses"][0]["restartCount"] for p in self.proxies()], [0, 0])

    def _last_reload(self, pod: Obj, successful: int) -> None:
        self.until(
            lambda: self.metric(pod, "sidelight_config_last_reload_successful") == successful,
            f"sidelight_config_last_reload_successful is {successful}",
        )

    def _everywhere(self, path: str, body: str) -> None:
        for pod in self.proxies():
            self.answers(f"http://{pod['status']['podIP']}:8080{path}", body)

    def test_manifest_helm_3(self) -> None:
        self._manifest(HELMS[0])

    def test_manifest_helm_4(self) -> None:
        self._manifest(HELMS[1])

    def test_module_with_new_tag(self) -> None:
        self.with_registry()
        for word in ("one", "two"):
            self.world.registry.push("live/tags", word, answering(f"generation {word}"))
        self.install("a", merged(registry("live/tags", "one"), {"replicas": 2}))
        url = self.url("a-sidelight")
        self.answers(url, "generation one")
        with self.load(url) as load:
            self.upgrade("a", merged(registry("live/tags", "two"), {"replicas": 2}))
            self._everywhere("/", "generation two")
        seen = self.unharmed(load, "generation one", "generation two")
        self.assertLess(seen["generation one"][0], seen["generation two"][0])

    def test_module_whose_tag_moves(self) -> None:
        self.with_registry()
        self.world.registry.push("live/moving", "main", answering("before"))
        self.install("a", merged(registry("live/moving", "main", poll="1s"), {"replicas": 2}))
        url = self.url("a-sidelight")
        self.answers(url, "before")
        with self.load(url) as load:
            self.world.registry.push("live/moving", "main", answering("after"))
            self._everywhere("/", "after")
        self.unharmed(load, "before", "after")

    def test_faulty_manifest(self) -> None:
        """What was good serves on, and everybody who asks learns of it."""
        program = merged(inline("good"), {"replicas": 2})
        self.install("a", merged(program, {"manifest": {"toml": "manifest_version = 3\n"}}), version=HELMS[0])
        url = self.url("a-sidelight")
        self.answers(url, "good")
        with self.load(url) as load:
            self.upgrade(
                "a",
                merged(program, {"manifest": {"toml": "manifest_version = 3\n[local_server.backends.origin]\nurl = 7\n"}}),
                version=HELMS[0],
            )
            for pod in self.proxies():
                self._last_reload(pod, 0)
                status = json.loads(self.admin(pod, "/status").body)
                self.assertTrue(status["degraded"])
                self.assertIn("fastly.toml", json.dumps(status["reloads"][0]) + json.dumps(status["reloads"][-1]))
                self.assertEqual(self.ask(f"http://{pod['status']['podIP']}:9091/readyz").status, 200)
            self.assertIn("fastly.toml", self.output())
            self.helm("rollback", "a", "1", "--wait", "--timeout", "60s", version=HELMS[0])
            for pod in self.proxies():
                self._last_reload(pod, 1)
        self.unharmed(load, "good")
        self.assertEqual(self.get("deployments", "a-sidelight", "apps")["status"]["readyReplicas"], 2)

    def test_trial(self) -> None:
        """A program that fails its requests in a trial is given up by itself."""
        self.with_registry()
        self.world.registry.push("live/trial", "good", answering("good"))
        self.world.registry.push("live/trial", "bad", answering("bad", 500))
        settings = {"program": {"settings": {"rollout": {"smoke": {"path": "/", "status": 200}}}}}
        self.install("a", merged(registry("live/trial", "good"), settings))
        url = self.url("a-sidelight")
        self.answers(url, "good")
        with self.load(url) as load:
            self.upgrade("a", merged(registry("live/trial", "bad"), settings))
            pod = self.proxies()[0]
            self._last_reload(pod, 0)
        self.unharmed(load, "good")

    def test_secret(self) -> None:
        """The contents of a Secret change in place."""

        def secret(word: str) -> Obj:
            return {
                "apiVersion": "v1",
                "kind": "Secret",
                "metadata": {"name": "vault"},
                "data": {"token": base64.b64encode(word.encode()).decode()},
            }

        self.apply(secret("first"))
        self.with_registry()
        self.world.registry.push("live/secrets", "1", module("rust/stores.wasm"))
        self.install(
            "a",
            merged(
                registry("live/secrets", "1"),
                {
                    "secrets": [{"name": "vault"}],
                    "manifest": {
                        "json": {
                            "manifest_version": 3,
                            "sidelight": {"secret_stores": {"vault": {"directory": "/etc/sidelight-secrets/vault"}}},
                        }
                    },
                },
            ),
        )
        url = self.url("a-sidelight", "/secret?store=vault&key=token")
        self.answers(url, "first")
        with self.load(url) as load:
            self.apply(secret("second"))
            self.answers(url, "second")
        self.unharmed(load, "first", "second")


class Rolling(Case):
    """Changes for which Pods are replaced."""

    order = 10

    def _rolled(self, version: str) -> None:
        self.install("a", merged(inline("steady"), {"replicas": 2}), version=version)
        url = self.url("a-sidelight")
        self.answers(url, "steady")
        old = {p["metadata"]["uid"] for p in self.proxies()}
        with self.load(url) as load:
            self.upgrade(
                "a",
                merged(
                    inline("steady"),
                    {"replicas": 3, "image": {"tag": "0.1.1"}, "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "768Mi"}}},
                ),
                version=version,
            )
            self.assertEqual(self.get("deployments", "a-sidelight", "apps")["status"]["updatedReplicas"], 3)
            self.assertFalse(old & {p["metadata"]["uid"] for p in self.proxies()})
            self.assertEqual({p["spec"]["containers"][0]["image"] for p in self.proxies()}, {"sidelight/sidelight:0.1.1"})
            self.helm("rollback", "a", "1", "--wait", "--timeout", "60s", version=version)
            self.assertEqual({p["spec"]["containers"][0]["image"] for p in self.proxies()}, {"sidelight/sidelight:0.1.0"})
            self.until(lambda: len(self.list("pods")) == 2, "the old Pods are gone", 30)
        self.unharmed(load, "steady")
        for pod in {
            c.obj["metadata"]["name"]
            for c in self.cluster.store.since(0, {("", "pods")})
            if c.obj["metadata"]["namespace"] == self.namespace
        }:
            self.assertIn(self.exit_codes(pod, "sidelight"), ([], [0]), pod)

    def test_helm_3(self) -> None:
        self._rolled(HELMS[0])

    def test_helm_4(self) -> None:
        self._rolled(HELMS[1])

    def test_image_that_is_not_there(self) -> None:
        """The new Pods never come up: the old ones serve on, and Helm goes back by itself."""
        self.install("a", merged(inline("steady"), {"replicas": 2}))
        url = self.url("a-sidelight")
        self.answers(url, "steady")
        with self.load(url) as load:
            said = self.helm(
                "upgrade",
                "a",
                str(self.chart),
                "--wait",
                "--rollback-on-failure",
                "--timeout",
                "8s",
                check=False,
                values=merged(inline("steady"), {"replicas": 2, "image": {"repository": "nowhere.test/sidelight"}}),
            )
            self.assertIn("UPGRADE FAILED", said)
            self.assertTrue(
                any(
                    "ImagePullBackOff" in json.dumps(c.obj.get("status", {}))
                    for c in self.cluster.store.since(0, {("", "pods")})
                    if c.obj["metadata"]["namespace"] == self.namespace
                )
            )
            self.until(
                lambda: {p["spec"]["containers"][0]["image"] for p in self.proxies()} == {"sidelight/sidelight:0.1.0"},
                "it is as it was",
                30,
            )
        self.unharmed(load, "steady")

    def test_restart_mode(self) -> None:
        """reload.mode restart: a change of the configuration replaces Pods."""

        def values(word: str) -> Obj:
            return merged(inline(word), {"replicas": 2, "reload": {"mode": "restart"}, "extraArgs": ["--no-watch"]})

        self.install("a", values("one"))
        url = self.url("a-sidelight")
        self.answers(url, "one")
        old = {p["metadata"]["uid"] for p in self.proxies()}
        with self.load(url) as load:
            self.upgrade("a", values("two"))
            self.assertFalse(old & {p["metadata"]["uid"] for p in self.proxies()})
            self.until(lambda: len(self.list("pods")) == 2, "the old Pods are gone", 30)
            time.sleep(0.5)
        self.unharmed(load, "one", "two")

    def test_scale_to_one_and_back(self) -> None:
        self.install("a", merged(inline("steady"), {"replicas": 3}))
        url = self.url("a-sidelight")
        self.answers(url, "steady")
        with self.load(url) as load:
            self.kubectl("scale", "deployment/a-sidelight", "--replicas=1")
            self.until(lambda: len(self.list("pods")) == 1, "two Pods go", 30)
            self.kubectl("scale", "deployment/a-sidelight", "--replicas=2")
            self.kubectl("rollout", "status", "deployment/a-sidelight", "--timeout=30s")
        self.unharmed(load, "steady")
