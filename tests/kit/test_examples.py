"""The examples: schemas of those who read them, and what can be run of them is run."""

from __future__ import annotations

import json
import os
import re
import tomllib
from pathlib import Path
from typing import Any

import yaml

import kit

EXAMPLES = kit.DEPLOY / "examples"
CHART = kit.ROOT / "charts" / "sidelight"
HELMS = [kit.ROOT / "target" / "tools" / f"helm-{version}" / "helm" for version in ("3.17.2", "4.3.1")]
# What Argo CD has the charts' templates believe: the routes of the Gateway API are there.
GATEWAY = ["--kube-version", "1.33", "--api-versions", "gateway.networking.k8s.io/v1"]


def schema(name: str, file: Path, expect: int = 0) -> None:
    kit.run([kit.TOOLS / "venv" / "bin" / "check-jsonschema", "--builtin-schema", f"vendor.{name}", file], expect=expect)


def node(*arguments: str | Path, text: str | None = None) -> list[str]:
    more: dict[str, Any] = {"input": text, "stdin": None} if text is not None else {}
    return list(json.loads(kit.run(["node", Path(__file__).with_name("examples.mjs"), kit.TOOLS / "node", *arguments], **more).stdout))


def objects(text: str) -> dict[str, dict[str, Any]]:
    """Rendered objects by kind; of several, the last."""
    return {one["kind"]: one for one in yaml.safe_load_all(text) if one}


class GitHub(kit.Case):
    FILE = EXAMPLES / "github" / "preview.yaml"

    def test_it_is_a_workflow(self) -> None:
        schema("github-workflows", self.FILE)
        self.assertEqual(node("actions", self.FILE), [])
        # Both find faults at all.
        wrong = self.write("wrong.yaml", self.FILE.read_text().replace("runs-on:", "run-on:"))
        schema("github-workflows", wrong, expect=1)
        wrong = self.write("wrong.yaml", self.FILE.read_text().replace("steps.deploy.outputs", "steps.deployed.outputs"))
        self.assertIn("deployed", "".join(node("actions", wrong)))

    def test_it_runs_the_scripts(self) -> None:
        text = self.FILE.read_text()
        for name in ("deploy.sh", "remove.sh"):
            self.assertIn(f".github/preview/{name}", text)
            self.assertTrue(os.access(EXAMPLES / "ci" / name, os.X_OK))
        for variable in re.findall(r'"\$\{(\w+):\?\}"', (EXAMPLES / "ci" / "deploy.sh").read_text()):
            self.assertIn(variable, yaml.safe_load(text)["env"])

    def test_forks_have_no_say(self) -> None:
        """Secrets are for pull requests of the repository itself."""
        for name, job in yaml.safe_load(self.FILE.read_text())["jobs"].items():
            self.assertIn("github.event.pull_request.head.repo.full_name == github.repository", job["if"], name)
            for step in job["steps"]:
                # Texts that others write are no part of a script.
                self.assertNotIn("${{", step.get("run", ""), step)


class GitLab(kit.Case):
    FILE = EXAMPLES / "gitlab" / "preview.gitlab-ci.yml"

    def test_it_is_a_pipeline(self) -> None:
        schema("gitlab-ci", self.FILE)
        wrong = self.write("wrong.yml", self.FILE.read_text().replace("auto_stop_in: 3 days", "auto_stop_in: [3]"))
        schema("gitlab-ci", wrong, expect=1)

    def test_it_runs_the_scripts(self) -> None:
        jobs = yaml.safe_load(self.FILE.read_text())
        self.assertIn(".gitlab/preview/deploy.sh", jobs["preview:deploy"]["script"])
        self.assertEqual(jobs["preview:remove"]["script"], [".gitlab/preview/remove.sh"])
        for variable in re.findall(r'"\$\{(\w+):\?\}"', (EXAMPLES / "ci" / "deploy.sh").read_text()):
            self.assertIn(variable, jobs[".preview"]["variables"])
        self.assertEqual(jobs["preview:deploy"]["environment"]["on_stop"], "preview:remove")
        self.assertEqual(jobs["preview:remove"]["environment"]["name"], jobs["preview:deploy"]["environment"]["name"])


class Scripts(kit.Case):
    """deploy.sh with a real registry and the real chart; in place of the cluster, Helm renders."""

    def test_deploy(self) -> None:
        port = kit.free_port()
        config = {
            "version": 0.1,
            "log": {"level": "error"},
            "storage": {"filesystem": {"rootdirectory": str(self.folder / "registry")}},
            "http": {"addr": f"127.0.0.1:{port}"},
        }
        registry = self.start("registry", [kit.tool("docker-registry"), "serve", self.write("registry.json", json.dumps(config))])
        registry.ready("answer of the registry", lambda: kit.request(port, "/v2/").status == 200)
        program = self.folder / "program"
        (program / "bin").mkdir(parents=True)
        (program / "bin" / "main.wasm").write_bytes(kit.guest("hello").read_bytes())
        (program / "fastly.toml").write_text('manifest_version = 3\nname = "shop"\n')
        tools = self.folder / "tools"
        tools.mkdir()
        (tools / "sidelight").symlink_to(kit.binary())
        for helm in HELMS:
            with self.subTest(helm.parent.name):
                rendered = self.folder / "rendered.yaml"
                # `upgrade --install` becomes `template`, without the options that are about a cluster.
                (tools / "helm").write_text(
                    f"""#!/bin/bash
                    printf '%s\\n' "$*" >>{self.folder}/called
                    [[ $1 == upgrade ]] || exit 0
                    [[ $2 == --install ]] || exit 9
                    words=()
                    shift 2
                    while (($#)); do
                        case $1 in --create-namespace | --wait) ;; --timeout) shift ;; *) words+=("$1") ;; esac
                        shift
                    done
                    exec {helm} template {" ".join(GATEWAY)} "${{words[@]}}" >{rendered}
                    """
                )
                (tools / "helm").chmod(0o755)
                environment = {
                    "PATH": f"{tools}:{os.environ['PATH']}",
                    "HOME": str(self.folder),
                    "PREVIEW_ID": "123",
                    "PREVIEW_HOST": "pr-123.preview.example.com",
                    "PROGRAM": f"127.0.0.1:{port}/team/shop",
                    "CHART": str(CHART),
                }
                said = kit.run([EXAMPLES / "ci" / "deploy.sh"], env=environment, cwd=program)
                self.assertEqual(said.stdout.splitlines()[-1], "https://pr-123.preview.example.com/")
                accept = "application/vnd.oci.image.manifest.v1+json"
                pushed = kit.request(port, "/v2/team/shop/manifests/pr-123", headers={"accept": accept}).fields["docker-content-digest"]
                made = objects(rendered.read_text())
                self.assertIn(f"oci://127.0.0.1:{port}/team/shop@{pushed}", json.dumps(made["ConfigMap"]))
                self.assertIn('name = "shop"', json.dumps(made["ConfigMap"]["data"]["fastly.toml"]).replace('\\"', '"'))
                self.assertEqual(made["HTTPRoute"]["spec"]["hostnames"], ["pr-123.preview.example.com"])
                self.assertIn("72h", json.dumps(made["CronJob"]))
                kit.run([EXAMPLES / "ci" / "remove.sh"], env=environment, cwd=program)
                called = (self.folder / "called").read_text().splitlines()
                self.assertEqual(called[-2:], ["test pr-123 --namespace previews", "uninstall pr-123 --namespace previews --ignore-not-found --wait"])

    def test_what_is_not_said(self) -> None:
        for name in ("deploy.sh", "remove.sh"):
            said = kit.run([EXAMPLES / "ci" / name], env={"PATH": os.environ["PATH"]}, expect=None)
            self.assertNotEqual(said.returncode, 0)
            self.assertIn("PREVIEW_ID", said.stderr)


class ArgoCd(kit.Case):
    FILE = EXAMPLES / "argocd" / "applicationset.yaml"
    # Of the generator's parameters, those that are used.
    PULL_REQUEST = {"number": "123", "head_sha": "0123456789abcdef0123456789abcdef01234567"}

    def test_its_schema(self) -> None:
        document = yaml.safe_load(self.FILE.read_text())
        self.assertEqual(node("argo", text=json.dumps(document)), [])
        document["spec"]["generators"][0]["pullRequest"]["requeueAfterSeconds"] = "soon"
        self.assertNotEqual(node("argo", text=json.dumps(document)), [])

    def test_what_an_application_deploys(self) -> None:
        """The chart, with the values of an Application that is made for a pull request."""

        def one(found: re.Match[str]) -> str:
            return self.PULL_REQUEST[found.group(1)]

        text = re.sub(r"{{ \.(\w+) }}", one, self.FILE.read_text())
        self.assertNotIn("{{", text)
        spec = yaml.safe_load(text)["spec"]["template"]["spec"]
        chart, program = spec["sources"]
        self.assertEqual(chart["path"], str(CHART.relative_to(kit.ROOT)))
        self.assertEqual(program["targetRevision"], self.PULL_REQUEST["head_sha"])
        values = self.write("values.yaml", yaml.safe_dump(chart["helm"]["valuesObject"]))
        manifest = self.write("fastly.toml", 'manifest_version = 3\nname = "shop"\n')
        files = []
        for parameter in chart["helm"]["fileParameters"]:
            self.assertEqual(parameter["path"], f"${program['ref']}/fastly.toml")
            files += ["--set-file", f"{parameter['name']}={manifest}"]
        for helm in HELMS:
            with self.subTest(helm.parent.name):
                command = [helm, "template", *GATEWAY, chart["helm"]["releaseName"], CHART, "--namespace", spec["destination"]["namespace"]]
                made = objects(kit.run([*command, "--values", values, *files]).stdout)
                self.assertEqual(made["HTTPRoute"]["spec"]["hostnames"], ["pr-123.preview.example.com"])
                self.assertIn(f"oci://registry.example.com/team/shop:{self.PULL_REQUEST['head_sha']}", json.dumps(made["ConfigMap"]))
                # Argo CD sees to the end, and would put back what somebody else removes.
                self.assertNotIn("CronJob", made)
        self.assertIn("CreateNamespace=true", spec["syncPolicy"]["syncOptions"])
        self.assertTrue(spec["syncPolicy"]["automated"]["prune"])


class Shared(kit.Case):
    def test_it_is_served(self) -> None:
        """The ConfigMap's keys are what a folder of `services_dir` has; the program comes from here and not from a registry."""
        made = objects(kit.run([kit.tool("kubectl"), "kustomize", EXAMPLES / "shared"]).stdout)["ConfigMap"]
        self.assertEqual(made["metadata"]["labels"], {"sidelight.dev/service": "pr-123"})
        self.assertEqual(made["metadata"]["annotations"], {"sidelight.dev/ttl": "72h"})
        service = tomllib.loads(made["data"]["service.toml"])
        self.assertTrue(service["module"].startswith("oci://"))
        folder = self.folder / "services" / "pr-123"
        folder.mkdir(parents=True)
        for name, text in made["data"].items():
            (folder / name).write_text(text.replace(service["module"], "main.wasm").replace('poll = "15s"\n', ""))
        (folder / "main.wasm").write_bytes(kit.guest("hello").read_bytes())
        port, probes = kit.free_port(), kit.free_port()
        host = self.write(
            "sidelight.toml",
            f'listen = ["127.0.0.1:{port}"]\nprobes = "127.0.0.1:{probes}"\nservices_dir = "services"\n'
            f'services_hosts = ["*.preview.example.com"]\ncache_dir = "{kit.TOOLS / "modules"}"\n',
        )
        kit.run([kit.binary(), "check", host])
        sidelight = self.start("sidelight", [kit.binary(), "serve", host])
        headers = {"host": service["hosts"][0]}
        sidelight.ready("answer of the preview", lambda: kit.request(port, "/", headers=headers).text == "Hello, world!\n")
        self.assertEqual(kit.request(port, "/", headers={"host": "elsewhere.test"}).status, 404)


if __name__ == "__main__":
    kit.unittest.main()
