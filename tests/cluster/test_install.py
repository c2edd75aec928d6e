"""The chart, installed by both Helms, and with each source of programs."""

from __future__ import annotations

import base64
import hashlib
import shutil
from pathlib import Path

from kit.harness import HELMS, Case, module
from kit.values import inline, merged, passthrough, registry
from kit.wasm import answering


class Lives(Case):
    """From install to uninstall."""

    order = 5

    def _whole_life(self, version: str) -> None:
        url = self.world.origin.url
        self.with_registry()
        self.world.registry.push("lives/behaviours", "1", module("rust/behaviours.wasm"))
        values = merged(
            registry("lives/behaviours", "1"),
            passthrough(url),
            {
                "replicas": 2,
                "program": {"settings": {"hosts": ["shop.test"]}},
                "podDisruptionBudget": {"enabled": True},
                "test": {"path": "/synthetic", "expectStatus": "418"},
            },
        )
        self.install("shop", values, version=version)
        # With --wait, everything is there when it returns; the Service follows within its delay.
        self.assertEqual(self.get("deployments", "shop-sidelight", "apps")["status"]["readyReplicas"], 2)
        self.until(lambda: self.ask(self.url("shop-sidelight", "/synthetic"), "shop.test").status == 418, "the Service leads there")
        answer = self.ask(self.url("shop-sidelight", "/synthetic"), "shop.test")
        self.assertEqual((answer.body, answer.headers["x-guest"]), ("a synthetic response\n", "rust"))
        self.assertEqual(self.ask(self.url("shop-sidelight", "/pass/abc?x=1"), "shop.test").body, "origin /abc?x=1\n")
        self.assertEqual(self.ask(self.url("shop-sidelight"), "other.test").status, 404)
        self.assertEqual(self.get("poddisruptionbudgets", "shop-sidelight", "policy")["status"]["disruptionsAllowed"], 1)
        self.helm("upgrade", "shop", str(self.chart), "--wait", "--timeout", "60s", "--reuse-values", version=version)
        said = self.helm("history", "shop", version=version)
        self.assertIn("superseded", said)
        self.helm("uninstall", "shop", "--wait", "--timeout", "60s", version=version)
        mine = [
            o
            for r in self.cluster.catalog.resources
            if r.namespaced and r.plural != "events"
            for o in self.cluster.store.list(r, self.namespace)
            if (o["metadata"].get("labels") or {}).get("app.kubernetes.io/instance") == "shop" and r.plural not in ("pods", "replicasets")
        ]
        self.assertEqual([(o["kind"], o["metadata"]["name"]) for o in mine], [])
        self.until(lambda: not self.list("pods"), "the Pods go", 30)

    def test_helm_3(self) -> None:
        self._whole_life(HELMS[0])

    def test_helm_4(self) -> None:
        self._whole_life(HELMS[1])


class HelmTest(Case):
    """`helm test` passes when the release works, and fails when it does not."""

    def _tested(self, version: str) -> None:
        self.needs("probe ")
        self.install("shop", merged(inline("here"), {"program": {"settings": {"hosts": ["*.shop.test"]}}}), version=version)
        self.assertIn("Succeeded", self.helm("test", "shop", "--timeout", "60s", version=version))
        self.assertEqual([p["metadata"]["name"] for p in self.pods() if "helm.sh/hook" in (p["metadata"].get("annotations") or {})], [])
        self.upgrade("shop", merged(inline("here"), {"test": {"expectStatus": "418", "timeoutSeconds": 2}}), version=version)
        self.assertIn("Failed", self.helm("test", "shop", "--timeout", "60s", version=version, check=False))

    def test_helm_3(self) -> None:
        self._tested(HELMS[0])

    def test_helm_4(self) -> None:
        self._tested(HELMS[1])


class Confined(Case):
    """What the container may do is what Pod Security "restricted" says, and it is enough."""

    def test_process(self) -> None:
        self.install("a", inline("x"))
        pod = self.proxies()[0]
        status = dict(line.split(":", 1) for line in Path(f"/proc/{self.process_of(pod, 'sidelight')}/status").read_text().splitlines())
        self.assertEqual(status["Uid"].split(), ["65532"] * 4)
        self.assertEqual(status["Gid"].split(), ["65532"] * 4)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            self.assertEqual(int(status[name], 16), 0, name)
        self.assertEqual((status["NoNewPrivs"].strip(), status["Seccomp"].strip()), ("1", "2"))
        mounts = {
            line.split()[4]: line.split()[5].split(",")
            for line in Path(f"/proc/{self.process_of(pod, 'sidelight')}/mountinfo").read_text().splitlines()
        }
        self.assertIn("ro", mounts["/"])
        self.assertIn("ro", mounts["/etc/sidelight"])
        self.assertIn("rw", mounts["/var/cache/sidelight"])
        self.assertNotIn("/var/run/secrets/kubernetes.io/serviceaccount", mounts)

    def test_compiled_programs_are_kept(self) -> None:
        """The cache folder can be written to: a container that starts again finds its program compiled."""
        self.install("a", inline("kept"))
        pod = self.proxies()[0]
        self.kubectl("wait", "--for=condition=Ready", f"pod/{pod['metadata']['name']}")
        self.kill(pod, "sidelight", __import__("signal").SIGKILL)
        self.until(lambda: self.proxies()[0]["status"]["containerStatuses"][0]["restartCount"] == 1, "the container starts again")
        self.answers(self.url("a-sidelight"), "kept")
        self.assertEqual(self.output().count("compiling the program"), 1)


class Sources(Case):
    """Where programs come from."""

    def test_claim(self) -> None:
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "programs"},
                "spec": {"accessModes": ["ReadOnlyMany"], "resources": {"requests": {"storage": "1Gi"}}},
            }
        )
        self.until(lambda: self.get("persistentvolumeclaims", "programs").get("status", {}).get("phase") == "Bound", "the claim is bound")
        folder = self.cluster.claim_folder(self.namespace, "programs")
        (folder / "shop").mkdir()
        shutil.copy(module_path(self, "rust/hello.wasm"), folder / "shop/main.wasm")
        self.install("a", {"module": {"existingClaim": {"name": "programs", "path": "shop/main.wasm"}}})
        self.answers(self.url("a-sidelight"), "Hello, world!")

    def test_configmap(self) -> None:
        program = base64.b64encode(answering("from a ConfigMap")).decode()
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "program"}, "binaryData": {"shop.wasm": program}})
        self.install("a", {"module": {"configMap": {"name": "program", "key": "shop.wasm"}}}, version=HELMS[0])
        self.answers(self.url("a-sidelight"), "from a ConfigMap")

    def test_image_volume(self) -> None:
        folder = self.home / "image"
        folder.mkdir()
        (folder / "app.wasm").write_bytes(answering("from an image"))
        self.cluster.images.volumes["images.test/shop:1"] = folder
        self.install("a", {"module": {"image": {"reference": "images.test/shop:1"}}})
        self.answers(self.url("a-sidelight"), "from an image")

    def test_registry_by_digest(self) -> None:
        self.with_registry()
        digest = self.world.registry.push("sources/shop", "1", answering("by digest"))
        self.install("a", registry("sources/shop", digest=digest))
        self.answers(self.url("a-sidelight"), "by digest")
        self.assertIn(hashlib.sha256(answering("by digest")).hexdigest(), self.admin(self.proxies()[0], "/status").body)

    def test_registry_that_refuses(self) -> None:
        """Without its password: the container says why it does not start, and Helm's --wait does not succeed."""
        self.with_registry()
        self.world.registry.push("sources/closed", "1", answering("never"))
        values = registry("sources/closed", "1")
        values["module"]["oci"].pop("pullSecret")
        said = self.helm("install", "a", str(self.chart), "--wait", "--timeout", "6s", values=values, check=False)
        self.assertIn("INSTALLATION FAILED", said)
        self.assertRegex(self.output(), "(?i)unauthorized|401|credentials")


class Checked(Case):
    """check.enabled: a faulty configuration is refused before anything is changed."""

    def _refused(self, version: str) -> None:
        good = merged(inline("good"), {"check": {"enabled": True}})
        self.install("a", good, version=version)
        self.answers(self.url("a-sidelight"), "good")
        before = self.get("configmaps", "a-sidelight")
        bad = merged(good, {"manifest": {"toml": "manifest_version = 3\n[local_server.backends.origin]\nurl = 7\n"}})
        said = self.helm("upgrade", "a", str(self.chart), "--wait", "--timeout", "30s", values=bad, version=version, check=False)
        self.assertIn("UPGRADE FAILED", said)
        self.assertEqual(self.get("configmaps", "a-sidelight")["data"], before["data"])
        self.assertRegex(self.output(), r"fastly\.toml")
        self.upgrade("a", merged(good, inline("better")), version=version)
        self.answers(self.url("a-sidelight"), "better")

    def test_helm_3(self) -> None:
        self._refused(HELMS[0])

    def test_helm_4(self) -> None:
        self._refused(HELMS[1])


def module_path(case: Case, name: str) -> Path:
    path = case.home / "module.wasm"
    path.write_bytes(module(name))
    return path
