"""The commands of docs/deploy.md for Kubernetes, as its reader runs them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from kit.harness import ROOT, Case, binary, module
from kit.parts import NODE_ADDRESS

sys.path.insert(0, str(ROOT / "tests"))
import documents  # noqa: E402

HOST = f"{NODE_ADDRESS}:5001"
TOOLS = ROOT / "target" / "tools" / "helm-4.3.1"


class PlainRegistry:
    """Debian's docker-registry as it is: plain http, for everybody."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        config = folder / "config.yml"
        config.write_text(json.dumps({"version": "0.1", "log": {"level": "error"}, "storage": {"filesystem": {"rootdirectory": str(folder / "data")}},
                                      "http": {"addr": HOST}}))
        self.process = subprocess.Popen(["docker-registry", "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                socket.create_connection((NODE_ADDRESS, 5001), 1).close()
                return
            except OSError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Document(Case):
    order = 9

    def setUp(self) -> None:
        super().setUp()
        self.needs("push ", "probe ", "expire ")
        registry = PlainRegistry(self.home / "registry")
        self.addCleanup(registry.stop)
        self.checkout = documents.checkout(self.home / "checkout", binary())
        project = self.home / "project"
        (project / "bin").mkdir(parents=True)
        (project / "bin" / "main.wasm").write_bytes(module("rust/behaviours.wasm"))
        (project / "fastly.toml").write_text('manifest_version = 3\nname = "shop"\n')
        self.project = project
        # The registry of this test has no TLS, and namespaces of the document are other tests', too.
        path = self.home / "path"
        path.mkdir()
        extra = f"--set-json=config.insecure_registries=[\"{HOST}\"]"
        (path / "helm").write_text(f"#!/bin/sh\ncase $1 in install|upgrade) set -- \"$@\" '{extra}' ;; esac\nexec {TOOLS}/helm \"$@\"\n")
        (path / "helm").chmod(0o755)
        (path / "kubectl").symlink_to(TOOLS / "kubectl")
        (path / "sidelight").symlink_to(binary())
        self.path = path

    def run_blocks(self, name: str, first: int = 0, count: int | None = None) -> str:
        parts = documents.blocks()[name]
        chosen = parts[first:] if count is None else parts[first:first + count]
        self.assertTrue(chosen, "there is something to run")
        text = "\n".join(chosen)
        for namespace in ("staging", "previews"):
            text = text.replace(f"--namespace {namespace}", f"--namespace {self.namespace}")
        # The cluster's gateway has another name.
        text = text.replace("httpRoute.parentRefs[0].name=gateway", "httpRoute.parentRefs[0].name=public")
        script = documents.script([text], {"SIDELIGHT": str(self.checkout), "REGISTRY": f"{HOST}/team"})
        environment = {**self.environment(), "PATH": f"{self.path}:{os.environ['PATH']}", "SIDELIGHT_INSECURE_REGISTRIES": HOST}
        done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=180, cwd=self.project, env=environment)
        self.assertEqual(done.returncode, 0, f"{done.stdout}\n{done.stderr}")
        return done.stdout + done.stderr

    def test_kubernetes(self) -> None:
        said = self.run_blocks("kubernetes")
        self.assertIn("oci://", said)
        self.assertIn('"generation": 1', said)
        self.assertIn("successfully rolled out", said)
        self.assertEqual(self.list("deployments", "apps"), [])

    def test_sidecar(self) -> None:
        subprocess.run([binary(), "push", self.project / "bin" / "main.wasm", f"oci://{HOST}/team/shop:v1", "--insecure-registry", HOST], check=True, capture_output=True)
        host = {"listen": ["0.0.0.0:8080"], "probes": "0.0.0.0:9091", "admin": "127.0.0.1:9090", "cache_dir": "/var/cache/sidelight/programs", "insecure_registries": [HOST],
                "services": {"shop": {"manifest": "fastly.toml", "module": f"oci://{HOST}/team/shop:v1"}}}
        (self.project / "sidelight.json").write_text(json.dumps(host))
        restricted = {"runAsNonRoot": True, "runAsUser": 65532, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}
        labels = {"app": "app"}
        (self.project / "app.yaml").write_text(yaml.safe_dump({
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "app", "labels": {"sidelight.dev/sidecar": "true"}},
            "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {"terminationGracePeriodSeconds": 5, "containers": [
                {"name": "app", "image": "host.test/tools:1", "command": ["sleep", "1000"], "securityContext": restricted}]}}}}))
        self.run_blocks("sidecar")
        pod = self.until(lambda: next(iter(self.pods(app="app")), None), "the Pod")
        self.assertEqual(self.ask(f'http://{pod["status"]["podIP"]}:8080/synthetic').status, 418)

    def test_preview(self) -> None:
        self.run_blocks("preview", count=1)
        self.until(lambda: self.ask("http://10.96.0.2:80/synthetic", "pr-123.preview.example.com").status == 418, "the preview answers on its host")
        said = self.run_blocks("preview", first=1)
        self.assertIn("condition met", said)
        self.assertEqual(self.list("deployments", "apps"), [])

    def test_shared(self) -> None:
        self.run_blocks("shared", count=1)
        parts = documents.blocks()["shared"]
        # What comes before the end of it is looked at while it is served.
        before, describe, _ = parts[1].rstrip("\n").rsplit("\n", 2)
        self.assertIn("describe", describe)
        self.assertIn("delete", parts[1].rstrip("\n").rsplit("\n", 1)[1])
        original = documents.blocks
        try:
            documents.blocks = lambda: {"shared": [before]}  # type: ignore[assignment]
            self.run_blocks("shared")
            self.until(lambda: self.ask("http://10.96.0.2:80/synthetic", "pr-124.preview.example.com").status == 418, "the preview answers on its host")
            time.sleep(1)
            documents.blocks = lambda: {"shared": [parts[1].removeprefix(before)]}  # type: ignore[assignment]
            said = self.run_blocks("shared")
        finally:
            documents.blocks = original
        self.assertIn("Served", said)
        self.until(lambda: self.ask("http://10.96.0.2:80/synthetic", "pr-124.preview.example.com").status == 404, "it is gone")
