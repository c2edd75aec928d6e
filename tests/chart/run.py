#!/usr/bin/env python3
"""What run.sh runs: static tests of the Helm chart and of the kustomize component.

A case is a file of values. Comments at its top say what it shows, and with `# key: value`:

    release, namespace    what the release is called (rel), and where it is (edge)
    kube                  for which versions of Kubernetes (>=1.31, <1.31, =1.30); default: all
    set-file              one more option of helm's, KEY=FILE below tests/chart
    golden                what it renders is compared with golden/NAME.yaml
    notes                 text that NOTES.txt must have
    not-restricted        Pod Security "restricted" refuses its Pods, as it should
    invalid               what Kubernetes' schema says against it
    checkov               what checkov finds, and must find (CKV_K8S_1 CKV_K8S_2)
    error                 (values/err) what the chart, or its schema, refuses it with
"""

from __future__ import annotations

import base64
import functools
import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import yaml
from kubernetes_validate import utils as kubernetes_schemas

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CHART = ROOT / "charts" / "sidelight"
EXPIRE = ROOT / "src" / "app" / "expire.rs"
COMPONENT = ROOT / "deploy" / "kustomize" / "sidecar"
TOOLS = Path(os.environ["CHART_TOOLS"])
SIDELIGHT = os.environ["SIDELIGHT_BIN"]
HELMS = {"3": TOOLS / "helm3" / "helm", "4": TOOLS / "helm4" / "helm"}
KUBECTLS = {"1.32": TOOLS / "helm3" / "kubectl", "1.37": TOOLS / "helm4" / "kubectl"}
VERSIONS = [f"1.{minor}" for minor in range(29, 38)]
# The version whose renders are the golden ones, go to checkov, and have their host file checked.
USUAL = "1.33"
PROGRAM = ROOT / "manifests" / "demo" / "bin" / "main.wasm"
ONLY = os.environ.get("ONLY", "")
BLESS = os.environ.get("BLESS") == "1"

# Reading and parsing 3 MB of schemas for every object would take minutes.
kubernetes_schemas.schema_contents = functools.lru_cache(maxsize=None)(kubernetes_schemas.schema_contents)

Object = dict[str, Any]
Result = tuple[str, str]
"""What was tried, and what is wrong: nothing if it is as it should be."""


# --- Helm -------------------------------------------------------------------------------------------------------------------


def run(*command: str | Path, text: str | None = None, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command's output, whatever its exit code."""
    return subprocess.run([str(word) for word in command], input=text, capture_output=True, text=True, timeout=120, **options)


@dataclass
class Case:
    """A file of values."""

    path: Path
    said: dict[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What it is called."""
        return self.path.relative_to(HERE / "values").with_suffix("").as_posix()

    @property
    def release(self) -> str:
        """The release's name."""
        return self.said.get("release", "rel")

    @property
    def namespace(self) -> str:
        """The release's namespace."""
        return self.said.get("namespace", "edge")

    @property
    def versions(self) -> list[str]:
        """The versions of Kubernetes that it is for."""
        bound = self.said.get("kube", ">=1.0")
        relation, wanted = re.fullmatch(r"([<>=]+)1\.(\d+)", bound).groups()  # type: ignore[union-attr]
        tests: dict[str, Callable[[int, int], bool]] = {">=": int.__ge__, "<": int.__lt__, "=": int.__eq__}
        return [f"1.{minor}" for minor in range(29, 38) if tests[relation](minor, int(wanted))]

    @property
    def arguments(self) -> list[str]:
        """Helm's arguments, after the command."""
        options = [self.release, str(CHART), "--namespace", self.namespace, "--values", str(self.path)]
        if given := self.said.get("set-file"):
            key, file = given.split("=")
            options += ["--set-file", f"{key}={HERE / file}"]
        return options


def read_case(path: Path) -> Case:
    """A case, with what its comments say."""
    case = Case(path)
    for line in path.read_text().split("\n"):
        if not line.startswith("#"):
            break
        if match := re.fullmatch(r"# ([a-z-]+)(?:: (.+))?", line):
            case.said[match.group(1)] = match.group(2) or "yes"
    return case


def cases() -> list[Case]:
    """All cases that render."""
    return [case for path in sorted((HERE / "values").glob("*.yaml")) if ONLY in (case := read_case(path)).name]


def refused() -> list[Case]:
    """All cases that are refused."""
    return [case for path in sorted((HERE / "values" / "err").glob("*.yaml")) if ONLY in (case := read_case(path)).name]


def template(helm: str, version: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`helm template` for a version of Kubernetes."""
    return run(HELMS[helm], "template", *arguments, "--kube-version", f"{version}.0")


def without_blanks(text: str) -> str:
    """Without empty lines: Helm 4 puts one behind each document, and that is all in which the two differ."""
    return "".join(line + "\n" for line in text.split("\n") if line.strip())


def objects_of(text: str) -> list[Object]:
    """The objects of a rendered stream. No key may be there twice: YAML takes the last, Kubernetes refuses it."""
    return [document for document in yaml.load_all(text, Loader=Strict) if document]


class Strict(yaml.CSafeLoader):
    """A loader that refuses a key that is there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if twice := {key for key in keys if keys.count(key) > 1}:
            raise yaml.YAMLError(f"twice, at line {node.start_mark.line + 1}: {', '.join(sorted(twice))}")
        return super().construct_mapping(node, deep)


def title(thing: Object) -> str:
    """An object in a message."""
    return f"{thing['kind']} {thing['metadata'].get('name')}"


# --- Rules about what is rendered ---------------------------------------------------------------------------------------------


def pod_templates(things: list[Object]) -> Iterator[tuple[str, Object, Object]]:
    """All Pods: title, metadata and spec."""
    for thing in things:
        spec = thing.get("spec", {})
        if thing["kind"] == "CronJob":
            spec = spec["jobTemplate"]["spec"]
        if thing["kind"] == "Pod":
            yield title(thing), thing["metadata"], spec
        elif thing["kind"] in ("Deployment", "DaemonSet", "StatefulSet", "Job", "CronJob"):
            yield title(thing), spec["template"].get("metadata", {}), spec["template"]["spec"]


def containers_of(spec: Object) -> list[Object]:
    """All containers of a Pod."""
    return [*spec.get("initContainers", []), *spec["containers"]]


RESTRICTED_VOLUMES = {
    "name", "configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "image", "persistentVolumeClaim", "projected", "secret",
}


def against_restricted(spec: Object) -> Iterator[str]:
    """What Pod Security "restricted" (and "baseline" within it) has against a Pod."""
    pod = spec.get("securityContext", {})
    for key in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(key):
            yield key
    for volume in spec.get("volumes", []):
        if kinds := set(volume) - RESTRICTED_VOLUMES:
            yield f"volume {volume['name']} is a {kinds.pop()}"
    for container in containers_of(spec):
        own, name = container.get("securityContext", {}), container["name"]
        if not own.get("runAsNonRoot", pod.get("runAsNonRoot")):
            yield f"{name} may run as root"
        if own.get("runAsUser", pod.get("runAsUser", 1)) == 0:
            yield f"{name} runs as root"
        if own.get("allowPrivilegeEscalation") is not False:
            yield f"{name} may escalate privileges"
        if own.get("privileged"):
            yield f"{name} is privileged"
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", []) or set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            yield f"{name} has capabilities"
        if own.get("seccompProfile", pod.get("seccompProfile", {})).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{name} has no seccomp profile"
        if any(port.get("hostPort") for port in container.get("ports", [])):
            yield f"{name} has a port of the node"


def pod_faults(where: str, spec: Object) -> Iterator[str]:
    """What we want of every Pod beyond that."""
    volumes = [volume["name"] for volume in spec.get("volumes", [])]
    if len(volumes) != len(set(volumes)):
        yield f"{where}: a volume is there twice"
    for volume in spec.get("volumes", []):
        if "emptyDir" in volume and not volume["emptyDir"].get("sizeLimit"):
            yield f"{where}: emptyDir {volume['name']} has no bound"
    mounted = set()
    for container in containers_of(spec):
        paths = [mount["mountPath"] for mount in container.get("volumeMounts", [])]
        if len(paths) != len(set(paths)):
            yield f"{where}: two mounts at one path"
        for mount in container.get("volumeMounts", []):
            mounted.add(mount["name"])
            if mount["name"] not in volumes:
                yield f"{where}: {mount['name']} is mounted and is no volume"
            if "subPath" in mount:
                yield f"{where}: {mount['name']} is a subPath, which is never updated"
        if len({port["name"] for port in container.get("ports", [])}) != len(container.get("ports", [])):
            yield f"{where}: a port's name is there twice"
        if "sidelight" in container["image"]:
            if not container.get("securityContext", {}).get("readOnlyRootFilesystem"):
                yield f"{where}: {container['name']} can write to its root file system"
            if not container.get("resources", {}).get("limits", {}).get("memory"):
                yield f"{where}: {container['name']} has no memory limit"
        for variable in container.get("env", []):
            if re.search(r"password|secret|token", variable["name"], re.IGNORECASE) and "value" in variable:
                yield f"{where}: {variable['name']} is a secret in the environment"
    if left := set(volumes) - mounted:
        yield f"{where}: volumes that nobody mounts: {', '.join(sorted(left))}"
    if spec.get("enableServiceLinks") is not False:
        yield f"{where}: a Service named sidelight would set SIDELIGHT_… variables"
    for container in spec.get("initContainers", []):
        if container.get("restartPolicy") == "Always" and "lifecycle" in container:
            yield f"{where}: a sidecar with a preStop ends before the application"


def names_by_kind(things: list[Object]) -> dict[str, set[str]]:
    """Names of objects, by kind."""
    names: dict[str, set[str]] = {}
    for thing in things:
        names.setdefault(thing["kind"], set()).add(thing["metadata"]["name"])
    return names


def chart_faults(things: list[Object], case: Case, values: Object, version: str) -> Iterator[str]:
    """What is wrong with what this chart has rendered."""
    names = names_by_kind(things)
    places = [(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"]["name"]) for thing in things]
    for place in {place for place in places if places.count(place) > 1}:
        yield f"{place[0]} {place[2]} is there twice"
    for thing in things:
        metadata, extra = thing["metadata"], "helm.sh/chart" not in thing["metadata"].get("labels", {})
        if extra:
            if thing["metadata"]["name"] not in str(values.get("extraObjects", "")).replace("{{ .Release.Name }}", case.release):
                yield f"{title(thing)} has no labels of the chart"
            continue
        if not metadata.get("namespace"):
            yield f"{title(thing)} has no namespace"
        limit = 52 if thing["kind"] == "CronJob" else 63
        if len(metadata["name"]) > limit or not re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", metadata["name"]):
            yield f"{title(thing)}: no name for an object"
        for key, value in metadata["labels"].items():
            if len(value) > 63 or not re.fullmatch(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?", value):
                yield f"{title(thing)}: {key}={value} is no label"
        if metadata["labels"]["app.kubernetes.io/instance"] != case.release:
            yield f"{title(thing)} is not labelled with its release"
        for key, value in values.get("commonLabels", {}).items():
            if metadata["labels"].get(key) != value:
                yield f"{title(thing)} lacks the common label {key}"

    pods = list(pod_templates(things))
    for where, metadata, spec in pods:
        against = list(against_restricted(spec))
        if "not-restricted" in case.said and where.startswith("D"):
            if not against:
                yield f"{where} is not refused by Pod Security, which the case says"
        elif against:
            yield f"{where}: Pod Security restricted: {', '.join(against)}"
        yield from pod_faults(where, spec)
        asks_kubernetes = where.startswith("CronJob") or (where.startswith("Deployment") and values.get("previews", {}).get("enabled", False))
        if spec.get("automountServiceAccountToken") is not asks_kubernetes:
            yield f"{where}: a token of its service account is {'needed' if asks_kubernetes else 'too much'}"
        for volume in spec.get("volumes", []):
            for source in [volume, *volume.get("projected", {}).get("sources", [])]:
                name = source.get("configMap", {}).get("name", "")
                if name.startswith(names.get("Deployment", {"?"}).copy().pop()) and name not in names["ConfigMap"]:
                    yield f"{where}: there is no ConfigMap {name}"

    for where, metadata, spec in pods:
        if not where.startswith(("Deployment", "DaemonSet")):
            continue
        container = next(container for container in spec["containers"] if container["name"] == "sidelight")
        for probe, path in (("startupProbe", "/readyz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/livez")):
            wanted_path = path if values.get(probe, {}).get("enabled", True) else None
            if container.get(probe, {}).get("httpGet", {}).get("path") != wanted_path:
                yield f"{where}: {probe} is not for {wanted_path}"
        sleep = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        wanted = values.get("preStopSleepSeconds", 5) if int(version.split(".")[1]) >= 30 else 0
        if sleep != wanted:
            yield f"{where}: preStop sleeps {sleep} s and not {wanted}"
        host = json.loads(next(thing for thing in things if thing["kind"] == "ConfigMap" and "sidelight.json" in thing["data"])["data"]["sidelight.json"])
        drain = sum(int(number) * {"s": 1, "m": 60}[unit] for number, unit in re.findall(r"(\d+)(s|m)", host["drain_timeout"]))
        if spec["terminationGracePeriodSeconds"] <= sleep + drain:
            yield f"{where}: {spec['terminationGracePeriodSeconds']} s of grace for {sleep} s of sleep and {drain} s of draining"
        listening = {int(address.rsplit(":", 1)[1]) for address in [*host["listen"], host["probes"], *([host["tls"]["listen"]] if "tls" in host else [])]}
        if listening != {port["containerPort"] for port in container["ports"]}:
            yield f"{where}: ports of the container are not those of the host file"
        admin = host.get("admin")
        if admin and not admin.startswith("127.0.0.1:"):
            yield f"{where}: the admin port is reachable from elsewhere"
        # Those who find Pods by labels find these.
        for thing in things:
            selector = thing.get("spec", {}).get("selector", {}) if thing["kind"] in ("Service", "PodDisruptionBudget", "PodMonitor") else {}
            selector = selector.get("matchLabels", selector)
            if not selector.items() <= metadata["labels"].items():
                yield f"{title(thing)} does not find the Pods of {where}"

    for thing in things:
        spec = thing.get("spec", {})
        if thing["kind"] == "ServiceMonitor":
            found = [service for service in things if service["kind"] == "Service" and spec["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()]
            if len(found) != 1 or spec["endpoints"][0]["port"] not in {port["name"] for port in found[0]["spec"]["ports"]}:
                yield f"{title(thing)} finds {len(found)} Services"
        if thing["kind"] in ("HorizontalPodAutoscaler", "ScaledObject"):
            if spec["scaleTargetRef"]["name"] not in names["Deployment"]:
                yield f"{title(thing)} scales what is not there"
            if "replicas" in next(other for other in things if other["kind"] == "Deployment")["spec"]:
                yield f"{title(thing)}: the Deployment sets its replicas as well"
        if thing["kind"] in ("HTTPRoute", "GRPCRoute", "Ingress"):
            yield from route_faults(thing, things)
        if thing["kind"] == "NetworkPolicy":
            yield from policy_faults(thing, things, values)
        if thing["kind"] in ("RoleBinding",):
            if spec_role := thing["roleRef"]["name"]:
                if spec_role not in names["Role"]:
                    yield f"{title(thing)} binds a Role that is not there"
    if {"ClusterRole", "ClusterRoleBinding", "Secret"} & names.keys():
        yield "a ClusterRole or a Secret: the chart makes neither"
    if values.get("mode") == "preview" and values.get("preview", {}).get("delete", "release") == "release":
        yield from expire_faults(things, case)


def route_faults(thing: Object, things: list[Object]) -> Iterator[str]:
    """Whether a route leads to a port of the Service that it means."""
    service = next(other for other in things if other["kind"] == "Service" and other["metadata"]["labels"]["app.kubernetes.io/component"] == "proxy")
    ports = {port["port"]: port for port in service["spec"]["ports"]}
    for rule in thing["spec"]["rules"]:
        if thing["kind"] == "Ingress":
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                if backend["name"] != service["metadata"]["name"] or backend["port"]["name"] not in {port["name"] for port in ports.values()}:
                    yield f"{title(thing)} leads to no Service of ours"
            continue
        ours = [backend for backend in rule["backendRefs"] if backend["name"] == service["metadata"]["name"]]
        if not ours or any(backend["port"] not in ports for backend in ours):
            yield f"{title(thing)} leads to no port of the Service"
        elif thing["kind"] == "GRPCRoute" and ports[ours[0]["port"]].get("appProtocol") != "kubernetes.io/h2c":
            yield f"{title(thing)} leads to a port whose appProtocol is not h2c"


def policy_faults(thing: Object, things: list[Object], values: Object) -> Iterator[str]:
    """Whether a NetworkPolicy is about Pods that there are, and closes the admin port."""
    wanted = thing["spec"]["podSelector"]["matchLabels"].items()
    found = [spec for _, metadata, spec in pod_templates(things) if wanted <= metadata.get("labels", {}).items()]
    if len(found) != 1:
        yield f"{title(thing)} is about {len(found)} kinds of Pods"
        return
    admin = values.get("admin", {}).get("port", 9090)
    named = {port["name"] for container in found[0]["containers"] for port in container.get("ports", [])}
    for rule in thing["spec"].get("ingress", []):
        if not rule.get("ports"):
            yield f"{title(thing)}: a rule lets in everything"
        for port in rule.get("ports", []):
            if port["port"] == admin or (isinstance(port["port"], str) and port["port"] not in named):
                yield f"{title(thing)}: a rule about port {port['port']}"
            if port["port"] == "probes" and not rule.get("from"):
                yield f"{title(thing)}: everybody may reach metrics"
    for rule in thing["spec"].get("egress", []):
        if not rule.get("ports"):
            yield f"{title(thing)}: a rule lets out everything"


PLURALS = {"NetworkPolicy": "networkpolicies", "Ingress": "ingresses", "HTTPRoute": "httproutes", "GRPCRoute": "grpcroutes"}


def expire_faults(things: list[Object], case: Case) -> Iterator[str]:
    """Whether what ends a preview may delete each of its objects, and nothing by a name that is not one of theirs."""
    role = next((thing for thing in things if thing["kind"] == "Role"), None)
    if role is None:
        yield "a preview that nobody may delete"
        return
    may_delete, may_list = set(), set()
    for rule in role["rules"]:
        for group in rule["apiGroups"]:
            for resource in rule["resources"]:
                if "list" in rule["verbs"]:
                    may_list.add((group, resource))
                if "delete" in rule["verbs"]:
                    if "resourceNames" not in rule and resource != "secrets":
                        yield f"{resource} of any name may be deleted"
                    may_delete |= {(group, resource, name) for name in rule.get("resourceNames", [])}
    there = set()
    for thing in things:
        if "test" in thing["metadata"].get("annotations", {}).get("helm.sh/hook", ""):
            continue
        group = thing["apiVersion"].rpartition("/")[0]
        there.add((group, PLURALS.get(thing["kind"], thing["kind"].lower() + "s"), thing["metadata"]["name"]))
    # What the binary lists; one that it may not list fails it.
    lists = set(re.findall(r'^    \("([a-z0-9.]*)", "v[0-9a-z]+", "[A-Za-z]+", "([a-z]+)"\),$', EXPIRE.read_text(), re.MULTILINE))
    if len(lists) < 15 or lists != may_list:
        yield f"may be listed and is not, or the other way round: {sorted(lists ^ may_list)}"
    # What it does this with is collected with its CronJob, which it makes the owner.
    name_of_all = next((thing["metadata"]["name"] for thing in things if thing["kind"] == "CronJob"), "")
    collected = {("", "serviceaccounts", name_of_all), *(("rbac.authorization.k8s.io", resource, name_of_all) for resource in ("roles", "rolebindings"))}
    if may_delete & collected:
        yield f"may be deleted, and is collected: {sorted(may_delete & collected)}"
    for group, resource, name in there - may_delete - collected:
        yield f"{resource} {name} is left when the preview ends"
    for group, resource, name in may_delete - there:
        if not name.endswith("-extra"):
            yield f"{resource} {name} may be deleted, and is not there"


# --- One case -----------------------------------------------------------------------------------------------------------------


def merged(base: Any, over: Any) -> Any:
    """Values put over values, as Helm does."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base.get(key), value) for key, value in over.items()}
    return over


def try_case(case: Case) -> tuple[list[Result], str]:
    """Everything about a case that needs nothing else. With the usual render."""
    results: list[Result] = []
    usual = ""
    values = merged(yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(case.path.read_text()))
    seen: set[str] = set()
    for version in case.versions:
        what = f"{case.name} {version}"
        renders = {helm: template(helm, version, *case.arguments) for helm in HELMS}
        failed = [f"Helm {helm}: {render.stderr.strip()}" for helm, render in renders.items() if render.returncode]
        if failed:
            results.append((f"{what}: renders", "; ".join(failed)))
            continue
        texts = {helm: without_blanks(render.stdout) for helm, render in renders.items()}
        results.append((f"{what}: both Helms alike", "" if texts["3"] == texts["4"] else first_difference(texts["3"], texts["4"])))
        try:
            things = objects_of(renders["4"].stdout)
        except yaml.YAMLError as error:
            results.append((f"{what}: is YAML", str(error)))
            continue
        if version == USUAL or not usual:
            usual = texts["4"]
        results.append((f"{what}: Kubernetes' schema", schema_verdict(things, version, case.said.get("invalid", ""))))
        if texts["4"] not in seen:
            seen.add(texts["4"])
            try:
                faults = "; ".join(chart_faults(things, case, values, version))
            except (KeyError, StopIteration, TypeError, ValueError) as error:
                faults = f"the rules do not find their way: {error!r}"
            results.append((f"{what}: rules", faults))
    for helm, binary in HELMS.items():
        version = case.versions[-1]
        # lint takes no release's name.
        lint = run(binary, "lint", "--strict", *case.arguments[1:], "--kube-version", f"{version}.0")
        results.append((f"{case.name}: lint with Helm {helm}", "" if lint.returncode == 0 else lint.stdout + lint.stderr))
    if wanted := case.said.get("notes"):
        # Helm 4 has the only dry run without a cluster.
        notes = run(HELMS["4"], "install", *case.arguments, "--dry-run=client")
        said = notes.stdout.partition("NOTES:")[2]
        results.append((f"{case.name}: notes", "" if wanted in said else f"{wanted!r} is not in: {said or notes.stderr}"))
    return results, usual


def schema_verdict(things: list[Object], version: str, invalid: str) -> str:
    """What Kubernetes' own schemas say, strictly. Custom resources are crds.mjs's."""
    messages = []
    for thing in things:
        try:
            kubernetes_validate.validate(thing, version, strict=True)
        except kubernetes_validate.SchemaNotFoundError as error:
            if thing["apiVersion"].split("/")[0] not in CUSTOM:
                messages.append(f"{title(thing)}: {error.message}")
        except kubernetes_validate.ValidationError as error:
            messages.append(f"{title(thing)}: {'/'.join(map(str, error.path))}: {error.message}")
    if invalid:
        return "" if len(messages) == 1 and invalid in messages[0] else f"{invalid!r} expected, and this is said: {messages}"
    return "; ".join(messages)


CUSTOM = {"monitoring.coreos.com", "gateway.networking.k8s.io", "keda.sh"}


def first_difference(one: str, other: str) -> str:
    """Where two texts part."""
    for number, (a, b) in enumerate(zip(one.split("\n"), other.split("\n"))):
        if a != b:
            return f"line {number + 1}: {a!r}, {b!r}"
    return "one is longer"


def try_refused(case: Case) -> list[Result]:
    """A case that both Helms must refuse, with the right words."""
    results = []
    for helm in HELMS:
        version = case.versions[0] if "kube" in case.said else USUAL
        render = template(helm, version, *case.arguments)
        wrong = ""
        if render.returncode == 0:
            wrong = "it is rendered"
        elif case.said["error"] not in render.stderr:
            wrong = f"it says: {render.stderr.strip()}"
        results.append((f"{case.name}: refused by Helm {helm}", wrong))
    return results


# --- The host file ------------------------------------------------------------------------------------------------------------


def config_of(things: list[Object]) -> Object | None:
    """The ConfigMap with the host file."""
    for thing in things:
        if thing["kind"] == "ConfigMap" and "sidelight.json" in thing.get("data", {}) and "helm.sh/hook" not in thing["metadata"].get("annotations", {}):
            return thing
    return None


def try_host_file(name: str, text: str, schema: Object, pems: Path) -> list[Result]:
    """The host file of a render: by the binary's schema, and by the binary in a copy of the container's folders."""
    things = objects_of(text)
    config = config_of(things)
    if config is None:
        return [(f"{name}: host file", "there is none")]
    try:
        host = json.loads(config["data"]["sidelight.json"])
    except json.JSONDecodeError as error:
        return [(f"{name}: host file", f"it is no JSON: {error}")]
    faults = [f"{'/'.join(map(str, error.path))}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(host)]
    results = [(f"{name}: host file by schema", "; ".join(faults))]
    with tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        root = Path(folder)
        beside = root / "etc" / "sidelight"
        beside.mkdir(parents=True)
        for volume in ("etc", "var/lib", "var/cache/sidelight"):
            (root / volume).mkdir(parents=True, exist_ok=True)
        for key, content in config["data"].items():
            (beside / key).write_bytes(content.encode())
        for key, content in config.get("binaryData", {}).items():
            (beside / key).write_bytes(base64.b64decode(content))
        for name_, service in host.get("services", {}).items():
            # What is fetched is not there to be fetched: the demo's program stands for every program.
            service["module"] = str(PROGRAM)
            service.pop("poll", None)
            manifest = service.get("manifest")
            if manifest and not (beside / manifest).exists():
                (beside / manifest).write_text('manifest_version = 3\nname = "of another ConfigMap"\n')
        # One for all cases: the demo's program is compiled once.
        if host.get("cache_dir") == "/var/cache/sidelight/programs":
            host["cache_dir"] = str(pems / "cache")
        (beside / "sidelight.json").write_text(inside(json.dumps(host), root))
        fill_secrets(host, root, pems)
        check = run(SIDELIGHT, "check", beside / "sidelight.json", cwd=beside, env={"HOME": str(root), "PATH": os.environ["PATH"]})
        results.append((f"{name}: sidelight check", "" if check.returncode == 0 else f"exit {check.returncode}: {check.stdout}{check.stderr}"))
    return results


def inside(text: str, root: Path) -> str:
    """Absolute paths of the container, below another root."""
    return re.sub(r'"(/(?:etc/sidelight|var/lib/sidelight|var/cache/sidelight)[^"]*)"', lambda match: f'"{root}{match.group(1)}"', text)


def fill_secrets(host: Object, root: Path, pems: Path) -> None:
    """Writes what Secrets would be mounted as."""

    def put(path: str, content: str) -> None:
        (root / path.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
        (root / path.lstrip("/")).write_text(content)

    certificate, key = (pems / "tls.crt").read_text(), (pems / "tls.key").read_text()
    for entry in host.get("tls", {}).get("certificates", []):
        put(entry["certificate"], certificate)
        put(entry["key"], key)
    if authority := host.get("tls", {}).get("client_ca"):
        put(authority, certificate)
    if token := host.get("admin_token_file"):
        put(token, "a-token-that-is-long-enough")
    if password := host.get("redis", {}).get("password_file"):
        put(password, "a-password")
    if authorization := host.get("traces", {}).get("authorization_file"):
        put(authorization, "Bearer abc")
    if auth := host.get("registry_auth"):
        put(auth, '{"auths":{}}')


def make_pems(folder: Path) -> None:
    """A certificate that is good for a day, and a folder for compiled programs."""
    (folder / "cache").mkdir(mode=0o700)
    made = run(
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
        "-subj", "/CN=shop.example.com", "-keyout", folder / "tls.key", "-out", folder / "tls.crt",
    )
    if made.returncode:
        raise RuntimeError(made.stderr)


# --- Several cases together -----------------------------------------------------------------------------------------------------


def try_custom_resources(renders: dict[str, str]) -> list[Result]:
    """All custom resources, by the schemas of their projects."""
    found: list[tuple[str, Object]] = []
    for name, text in renders.items():
        found += [(name, thing) for thing in objects_of(text) if thing["apiVersion"].split("/")[0] in CUSTOM]
    # What must be refused, so that we know that anything would be.
    first = json.loads(json.dumps(found[0][1]))
    first["spec"]["nonsense"] = True
    second = json.loads(json.dumps(next(thing for _, thing in found if thing["kind"] == "ServiceMonitor")))
    second["spec"]["endpoints"] = {}
    objects = [first, second, *(thing for _, thing in found)]
    checked = run("node", HERE / "crds.mjs", TOOLS / "node", text=json.dumps(objects))
    if checked.returncode:
        return [("custom resources", checked.stderr)]
    verdicts = json.loads(checked.stdout)
    results = [
        ("custom resources: an unknown key is refused", "" if verdicts[0] else "it is not"),
        ("custom resources: a wrong type is refused", "" if verdicts[1] else "it is not"),
    ]
    kinds = {thing["kind"] for _, thing in found}
    lacking = {"ServiceMonitor", "PodMonitor", "PrometheusRule", "ScaledObject", "HTTPRoute", "GRPCRoute"} - kinds
    results.append(("custom resources: all kinds", f"no case has {lacking}" if lacking else ""))
    return results + [(f"{name}: {title(thing)}", "; ".join(verdict)) for (name, thing), verdict in zip(found, verdicts[2:], strict=True)]


def golden(name: str, text: str) -> str:
    """A render as it is kept: without dashboard and rules, which have tests of their own."""
    documents = re.split(r"^---\n", text, flags=re.MULTILINE)
    return "---\n".join(part for part in documents if not re.match(r"# Source: sidelight/templates/(dashboards|prometheusrule)\.yaml", part))


def try_golden(renders: dict[str, str]) -> list[Result]:
    """Renders that are kept, compared."""
    results = []
    wanted = {case.name for case in cases() if "golden" in case.said}
    for name in sorted(wanted):
        path, text = HERE / "golden" / f"{name}.yaml", golden(name, renders.get(name, ""))
        if BLESS:
            path.write_text(text)
        kept = path.read_text() if path.exists() else ""
        results.append((f"{name}: golden", "" if kept == text else f"{path.name} differs: {first_difference(kept, text)} (BLESS=1 writes it)"))
    if not ONLY:
        strangers = {path.stem for path in (HERE / "golden").glob("*.yaml")} - wanted
        results.append(("golden: no file without a case", ", ".join(sorted(strangers))))
    return results


def try_checkov(renders: dict[str, str]) -> list[Result]:
    """A policy scan of everything at once; what is passed over is in the chart's .checkov.yaml, with reasons."""
    with tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        for name, text in renders.items():
            (Path(folder) / f"{name}.yaml").write_text(text)
        # What must be refused.
        (Path(folder) / "bad.yaml").write_text(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: bad, namespace: x}\nspec: {hostPID: true, containers: [{name: a, image: 'x:1', securityContext: {privileged: true}}]}\n"
        )
        scan = run(
            sys.executable, "-m", "checkov.main", "--directory", folder, "--config-file", CHART / ".checkov.yaml", "--output", "json",
            env=os.environ | {"LOG_LEVEL": "ERROR"},
        )
        try:
            report = json.loads(scan.stdout)
        except json.JSONDecodeError:
            return [("checkov", scan.stdout + scan.stderr)]
    failed: dict[str, dict[str, str]] = {}
    for check in report["results"]["failed_checks"]:
        failed.setdefault(Path(check["file_path"]).stem, {}).setdefault(check["check_id"], f"{check['check_id']} {check['check_name']} ({check['resource']})")
    bad = failed.pop("bad", {})
    results = [("checkov: a privileged Pod is refused", "" if "CKV_K8S_16" in bad else f"it is not: {list(bad)}")]
    results.append(("checkov: reads the renders", "" if report["summary"]["passed"] > 1000 else str(report["summary"])))
    for case in cases():
        found, wanted = failed.get(case.name, {}), set(case.said.get("checkov", "").split())
        wrong = [message for check, message in sorted(found.items()) if check not in wanted] + [f"{check} is not found" for check in sorted(wanted - found.keys())]
        if case.name in renders:
            results.append((f"{case.name}: checkov", "; ".join(wrong)))
    return results


def try_reload() -> list[Result]:
    """What a change of the configuration does to the Pod template."""

    def pod(*sets: str) -> str:
        render = template("4", USUAL, "rel", str(CHART), "--set", "module.path=/app.wasm", *(word for value in sets for word in ("--set", value)))
        return next(json.dumps(thing["spec"]["template"], sort_keys=True) for thing in objects_of(render.stdout) if thing["kind"] == "Deployment")

    one, two = "manifest.toml=a = 1", "manifest.toml=a = 2"
    return [
        ("reload live: a new manifest leaves Pods alone", "" if pod(one) == pod(two) else "the Pod template changes"),
        ("reload restart: a new manifest replaces Pods", "" if pod(one, "reload.mode=restart") != pod(two, "reload.mode=restart") else "the Pod template does not change"),
        ("reload restart: the same one does not", "" if pod(one, "reload.mode=restart") == pod(one, "reload.mode=restart", "replicas=2") else "the Pod template changes"),
    ]


def try_texts(renders: dict[str, str]) -> list[Result]:
    """What is given on as it is."""
    results: list[Result] = []
    verbatim = config_of(objects_of(renders["module-package"]))
    wanted = (HERE / "values" / "verbatim.toml").read_bytes().decode()
    got = verbatim["data"]["fastly.toml"] if verbatim else None
    results.append(("manifest.toml: byte for byte", "" if got == wanted else f"{got!r} is not {wanted!r}"))
    structured = (config_of(objects_of(renders["manifest-json"])) or {})["data"]
    for number in ('"manifest_version": 3,', '"max_lifetime_ms": 1234567890123', '"connect_timeout_ms": 4294967295,', '"first_byte_timeout_ms": 1500,'):
        results.append((f"manifest.json: {number}", "" if number in structured["fastly.json"] else structured["fastly.json"]))
    for number in ('"threads": 12,', '"queue": 1000000'):
        results.append((f"config: {number}", "" if number in structured["sidelight.json"] else structured["sidelight.json"]))
    full = objects_of(renders["deployment-full"])
    dashboards = next(thing for thing in full if thing["metadata"]["name"].endswith("-dashboards"))
    file = (CHART / "files" / "dashboard.json").read_text()
    results.append(("dashboard: byte for byte", "" if dashboards["data"] == {"sidelight-dashboard.json": file} else f"keys: {list(dashboards['data'])}"))
    results.append(("dashboard: Grafana's label", "" if dashboards["metadata"]["labels"].get("grafana_dashboard") == "1" else str(dashboards["metadata"])))
    groups = yaml.safe_load((CHART / "files" / "rules.yml").read_text())["groups"]
    for group in groups:
        group["rules"] = [rule for rule in group["rules"] if rule.get("alert") != "SidelightTelemetryLost"]
    rendered = next(thing for thing in full if thing["kind"] == "PrometheusRule")["spec"]["groups"]
    results.append(("rules: those of files/rules.yml, one left out, one group more", "" if rendered[:-1] == groups and rendered[-1]["name"] == "own" else "they differ"))
    return results


def umbrella(folder: Path) -> Path:
    """The umbrella chart with the chart as its dependency."""
    chart = folder / "umbrella"
    shutil.copytree(HERE / "umbrella", chart)
    shutil.copytree(CHART, chart / "charts" / "sidelight")
    return chart


def try_umbrella() -> tuple[list[Result], str]:
    """Another chart with the sidecar in its Pods, and with the chart as a subchart."""
    results: list[Result] = []
    usual = ""
    with tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        chart = umbrella(Path(folder))
        for version in VERSIONS:
            renders = {helm: template(helm, version, "rel", str(chart), "--namespace", "shop", "--set", "proxy.enabled=true") for helm in HELMS}
            if failed := [render.stderr for render in renders.values() if render.returncode]:
                results.append((f"umbrella {version}: renders", failed[0]))
                continue
            texts = {helm: without_blanks(render.stdout) for helm, render in renders.items()}
            results.append((f"umbrella {version}: both Helms alike", "" if texts["3"] == texts["4"] else first_difference(texts["3"], texts["4"])))
            things = objects_of(texts["4"])
            results.append((f"umbrella {version}: Kubernetes' schema", schema_verdict(things, version, "")))
            faults = [fault for where, _, spec in pod_templates(things) for fault in [*against_restricted(spec), *(f for f in pod_faults(where, spec) if "SIDELIGHT_" not in f)]]
            results.append((f"umbrella {version}: rules", "; ".join(faults)))
            if version == USUAL:
                usual = texts["4"]
        things = objects_of(usual)
        results += sidecar_results("umbrella Deployment", next(thing for thing in things if title(thing) == "Deployment rel-app"), "sidelight", "rel-sidelight")
        results += sidecar_results("umbrella Job", next(thing for thing in things if title(thing) == "Job rel-export"), "egress", "rel-egress")
        monitor = next(thing for thing in things if thing["kind"] == "PodMonitor")
        pod = next(thing for thing in things if title(thing) == "Deployment rel-app")["spec"]["template"]
        finds = monitor["spec"]["selector"]["matchLabels"].items() <= pod["metadata"]["labels"].items()
        port = monitor["spec"]["podMetricsEndpoints"][0]["port"] in {port["name"] for port in pod["spec"]["initContainers"][0]["ports"]}
        results.append(("umbrella: the PodMonitor finds the sidecar", "" if finds and port else f"selector {finds}, port {port}"))
        checksum = next(thing for thing in things if title(thing) == "Job rel-export")["spec"]["template"]["metadata"]["annotations"]
        results.append(("umbrella: a checksum with reload.mode restart", "" if "checksum/egress" in checksum else str(checksum)))
        proxies = [thing for thing in things if thing["kind"] == "Deployment"]
        results.append(("umbrella: a proxy only where one is wanted", "" if len(proxies) == 2 else str([title(thing) for thing in proxies])))
        for what, sets, message in (
            ("a dependency that is no sidecar", ["sidelight.mode=deployment"], 'sidelight.mode is "deployment", so that a proxy of its own is deployed, too'),
            ("an unknown value", ["sidelight.modul.path=/x"], "dditional propert"),
        ):
            refusal = template("4", USUAL, "rel", str(chart), *(word for value in sets for word in ("--set", value)))
            results.append((f"umbrella: {what} is refused", "" if refusal.returncode and message in refusal.stderr else refusal.stderr or "it is rendered"))
        job = chart / "templates" / "job.yaml"
        job.write_text(job.read_text().replace('"name" "egress"', '"name" "nobody"'))
        refusal = template("4", USUAL, "rel", str(chart))
        results.append(("umbrella: an unknown alias is refused", "" if 'has no dependency called "nobody"' in refusal.stderr else refusal.stderr or "it is rendered"))
    return results, usual


def sidecar_results(what: str, workload: Object, container: str, config: str) -> list[Result]:
    """Whether a workload has the sidecar as it should be."""
    spec = workload["spec"]["template"]["spec"]
    found = [entry for entry in spec["initContainers"] if entry["name"] == container]
    wrong = []
    if len(found) != 1 or found[0].get("restartPolicy") != "Always":
        wrong.append("no native sidecar")
    elif not {"startupProbe", "readinessProbe", "livenessProbe"} <= found[0].keys() or "lifecycle" in found[0]:
        wrong.append(f"probes or lifecycle: {sorted(found[0])}")
    if {"name": f"{container}-config", "configMap": {"name": config}} not in spec["volumes"]:
        wrong.append("its ConfigMap is not mounted")
    return [(f"{what}: a native sidecar", "; ".join(wrong))]


def try_kustomize(umbrella_render: str) -> list[Result]:
    """The kustomize component, in an overlay."""
    results: list[Result] = []
    builds = {version: run(kubectl, "kustomize", HERE / "kustomize") for version, kubectl in KUBECTLS.items()}
    for version, build in builds.items():
        results.append((f"kustomize: kubectl {version} builds it", build.stderr if build.returncode else ""))
    if any(build.returncode for build in builds.values()):
        return results
    results.append(("kustomize: both alike", "" if builds["1.32"].stdout == builds["1.37"].stdout else first_difference(builds["1.32"].stdout, builds["1.37"].stdout)))
    things = objects_of(builds["1.37"].stdout)
    for version in VERSIONS:
        results.append((f"kustomize {version}: Kubernetes' schema", schema_verdict(things, version, "")))
    app = next(thing for thing in things if thing["kind"] == "Deployment")
    other = next(thing for thing in things if thing["kind"] == "StatefulSet")
    results += sidecar_results("kustomize", app, "sidelight", "sidelight")
    spec = app["spec"]["template"]["spec"]
    kept = [entry["name"] for entry in spec["initContainers"]] == ["sidelight", "migrate"] and any(volume["name"] == "data" for volume in spec["volumes"])
    results.append(("kustomize: what was there is still there", "" if kept else json.dumps(spec)))
    results.append(("kustomize: others are left alone", "" if "initContainers" not in other["spec"]["template"]["spec"] else "the StatefulSet has a sidecar, too"))
    ours = spec["initContainers"][0] | {"image": "", "resources": {}}
    job = next(thing for thing in objects_of(umbrella_render) if title(thing) == "Deployment rel-app")["spec"]["template"]["spec"]
    charts = job["initContainers"][0] | {"image": "", "resources": {}}
    charts["volumeMounts"] = [mount for mount in charts["volumeMounts"] if "secret" not in mount["name"]]
    results.append(("kustomize: the container is the chart's", "" if ours == charts else first_difference(json.dumps(ours, indent=1, sort_keys=True), json.dumps(charts, indent=1, sort_keys=True))))
    volumes = {volume["name"]: volume for volume in job["volumes"]}
    own = {volume["name"]: volume for volume in spec["volumes"] if volume["name"] != "data"}
    differ = [name for name, volume in own.items() if name != "sidelight-config" and volumes.get(name) != volume]
    results.append(("kustomize: the volumes are the chart's", ", ".join(differ)))
    patch = yaml.safe_load((COMPONENT / "patch.yaml").read_text())["spec"]["template"]["spec"]["initContainers"][0]
    default = yaml.safe_load((CHART / "values.yaml").read_text())
    wanted = f"{default['image']['repository']}:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
    results.append(("kustomize: image and resources are the chart's", "" if patch["image"] == wanted and patch["resources"] == default["resources"] else f"{patch['image']}, {patch['resources']}"))
    return results


def try_chart() -> list[Result]:
    """The chart as a whole: generated files, versions, packages, what Helm keeps of a release."""
    results: list[Result] = []
    generated = run(sys.executable, HERE / "generate.py", "--check")
    results.append(("values.schema.json and README.md are values.yaml's", generated.stderr))
    meta = yaml.safe_load((CHART / "Chart.yaml").read_text())
    cargo = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)  # type: ignore[union-attr]
    results.append(("appVersion is Cargo.toml's", "" if meta["appVersion"] == cargo else f"{meta['appVersion']}, {cargo}"))
    images = yaml.safe_load(meta["annotations"]["artifacthub.io/images"])
    results.append(("artifacthub's image is that version", "" if images[0]["image"] == f"sidelight/sidelight:{cargo}" else str(images)))
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    results.append(("values.yaml fits its own schema", "; ".join(error.message for error in jsonschema.Draft7Validator(schema).iter_errors(without_nulls(yaml.safe_load((CHART / "values.yaml").read_text()))))))
    for helm, binary in HELMS.items():
        lint = run(binary, "lint", "--strict", CHART)
        results.append((f"lint without values, Helm {helm}", "" if lint.returncode == 0 else lint.stdout + lint.stderr))
        old = run(binary, "template", "rel", CHART, "--set", "module.path=/a", "--kube-version", "1.28.0")
        results.append((f"Kubernetes 1.28 is refused by Helm {helm}", "" if old.returncode and "incompatible with Kubernetes v1.28" in old.stderr else old.stderr or "it is rendered"))
        vendor = run(binary, "template", "rel", CHART, "--set", "module.path=/a", "--kube-version", "1.29.4-gke.100")
        results.append((f"a vendor's 1.29 is taken by Helm {helm}", vendor.stderr if vendor.returncode else ""))
    results += try_packages()
    results += try_sizes()
    return results


def without_nulls(value: Any) -> Any:
    """Values as Helm has them: a key that is null is none."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return value


def try_packages() -> list[Result]:
    """`helm package` twice. Helm 3 writes the time into the archive: there, what is in it is compared."""
    results: list[Result] = []
    contents: dict[str, dict[str, bytes]] = {}
    with tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        for helm, binary in HELMS.items():
            sums = []
            for number in ("1", "2"):
                out = Path(folder) / helm / number
                # A copy, so that the times of files differ, as in two checkouts.
                copy = Path(folder) / helm / f"copy-{number}" / "sidelight"
                shutil.copytree(CHART, copy, copy_function=shutil.copyfile)
                made = run(binary, "package", copy, "--destination", out, env=os.environ | {"SOURCE_DATE_EPOCH": "1700000000"})
                if made.returncode:
                    return [*results, (f"package with Helm {helm}", made.stderr)]
                archive = next(out.glob("*.tgz"))
                sums.append(hashlib.sha256(archive.read_bytes()).hexdigest())
                with tarfile.open(archive) as tar:
                    found = {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]
                if contents.setdefault(helm, found) != found:
                    results.append((f"package with Helm {helm}", "what is in it differs from one time to the next"))
            if helm == "4":
                results.append(("package with Helm 4: the same bytes twice", "" if sums[0] == sums[1] else "they differ"))
        names = set(contents["4"])
        results.append(("package: both Helms have the same files", "" if names == set(contents["3"]) else str(names ^ set(contents["3"]))))
        results.append(("package: nothing in it that is for us", ", ".join(name for name in names if name.endswith((".checkov.yaml", ".helmignore", "~")))))
        lacking = {f"sidelight/{name}" for name in ("README.md", "values.schema.json", "files/rules.yml", "files/dashboard.json", "templates/NOTES.txt")} - names
        results.append(("package: everything in it", ", ".join(sorted(lacking))))
        # Without the dashboard, the template must say so.
        bare = Path(folder) / "bare"
        shutil.copytree(CHART, bare)
        for file in (bare / "files").glob("dashboard*.json"):
            file.unlink()
        render = template("4", USUAL, "rel", str(bare), "--set", "module.path=/a", "--set", "metrics.dashboards.enabled=true")
        results.append(("a chart without dashboard says so", "" if "packaged without files/dashboard.json" in render.stderr else render.stderr or "it is rendered"))
    return results


def try_sizes() -> list[Result]:
    """Programs in values: how large they may be, and that Helm's own record of the release then still fits into a Secret."""
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        file = Path(folder) / "main.b64"
        # What cannot be compressed, so the worst case.
        noise = b"".join(hashlib.sha256(str(number).encode()).digest() for number in range(10_000))

        def render(size: int) -> subprocess.CompletedProcess[str]:
            file.write_text(base64.b64encode((b"\0asm\1\0\0\0" + noise)[:size]).decode())
            return template("4", USUAL, "rel", str(CHART), "--set-file", f"module.inline={file}")

        over = render(301_000)
        results.append(("module.inline: 301 kB are refused", "" if "at most 300 kB fit" in over.stderr else over.stderr or "they are taken"))
        fits = render(299_000)
        results.append(("module.inline: 299 kB are taken", fits.stderr if fits.returncode else ""))
        release = {
            "name": "rel",
            "config": {"module": {"inline": file.read_text()}},
            "manifest": fits.stdout,
            "chart": {
                "values": yaml.safe_load((CHART / "values.yaml").read_text()),
                "schema": base64.b64encode((CHART / "values.schema.json").read_bytes()).decode(),
                "files": [base64.b64encode(path.read_bytes()).decode() for path in [CHART / "README.md", *sorted((CHART / "files").iterdir())]],
                "templates": [base64.b64encode(path.read_bytes()).decode() for path in sorted((CHART / "templates").rglob("*.*"))],
            },
        }
        size = len(base64.b64encode(gzip.compress(json.dumps(release).encode(), 9)))
        results.append(("module.inline: Helm's record of the release fits into a Secret", "" if size < 1_048_576 else f"it has {size} bytes"))
        large = Path(folder) / "large.toml"
        large.write_text("# " + "x" * 1_000_001)
        refusal = template("4", USUAL, "rel", str(CHART), "--set", "module.path=/a", "--set-file", f"manifest.toml={large}")
        results.append(("a manifest above 1 MB is refused", "" if "take more than 1 MB" in refusal.stderr else refusal.stderr[:300] or "it is rendered"))
    return results


def try_rules_of_ours() -> list[Result]:
    """Whether our own rules refuse what they should."""
    bad: Object = {
        "hostPID": True,
        "hostNetwork": True,
        "securityContext": {"runAsUser": 0},
        "volumes": [{"name": "a", "hostPath": {"path": "/"}}, {"name": "b", "emptyDir": {}}],
        "containers": [{"name": "x", "image": "sidelight:1", "securityContext": {"privileged": True}, "ports": [{"name": "p", "hostPort": 1}], "volumeMounts": [{"name": "c", "mountPath": "/c", "subPath": "d"}],
                        "env": [{"name": "REDIS_PASSWORD", "value": "x"}]}],
        "initContainers": [{"name": "s", "image": "x", "restartPolicy": "Always", "lifecycle": {}}],
    }
    against, faults = list(against_restricted(bad)), list(pod_faults("bad", bad))
    return [
        ("rules: a bad Pod is refused by restricted", "" if len(against) == 15 else str(against)),
        ("rules: a bad Pod is refused by ours", "" if len(faults) == 9 else str(faults)),
        ("rules: a key that is there twice is refused", "" if raises(lambda: objects_of("a: 1\na: 2\n")) else "it is not"),
        ("rules: Kubernetes' schema refuses an unknown key",
         "" if schema_verdict([{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"replicas": 3}}], USUAL, "") else "it does not"),
    ]


def raises(function: Callable[[], Any]) -> bool:
    """Whether a function fails with YAML's error."""
    try:
        function()
    except yaml.YAMLError:
        return True
    return False


# --- All of it ------------------------------------------------------------------------------------------------------------------


def outcome(what: str, future: Future[Any], otherwise: Any) -> Any:
    """What a task has found; a task that breaks has failed, and the others count on."""
    try:
        return future.result()
    except Exception as error:  # pylint: disable=broad-except
        return otherwise([(what, "".join(traceback.format_exception(error)))])


def main() -> int:
    """Runs everything; each of two processes renders, validates and scans."""
    results: list[Result] = []
    schema_text = run(SIDELIGHT, "schema", "host")
    if schema_text.returncode:
        print(f"{SIDELIGHT} schema host: {schema_text.stderr}", file=sys.stderr)
        return 1
    schema = json.loads(schema_text.stdout)
    with ProcessPoolExecutor(max_workers=2) as pool, tempfile.TemporaryDirectory(prefix="sidelight-chart-") as folder:
        make_pems(Path(folder))
        tried = {case.name: pool.submit(try_case, case) for case in cases()}
        others = {case.name: pool.submit(try_refused, case) for case in refused()}
        whole = {} if ONLY else {function.__name__: pool.submit(function) for function in (try_chart, try_reload, try_rules_of_ours)}
        umbrellas = None if ONLY else pool.submit(try_umbrella)
        renders: dict[str, str] = {}
        for name, future in tried.items():
            found, text = outcome(name, future, lambda wrong: (wrong, ""))
            results += found
            if text:
                renders[name] = text
        if umbrellas:
            others["checkov"] = pool.submit(try_checkov, renders)
            found, text = outcome("umbrella", umbrellas, lambda wrong: (wrong, ""))
            results += found
            others["kustomize"] = pool.submit(try_kustomize, text)
        for name, text in renders.items():
            others[f"{name}: host file"] = pool.submit(try_host_file, name, text, schema, Path(folder))
        if not ONLY:
            others["custom resources"] = pool.submit(try_custom_resources, renders)
            others["texts"] = pool.submit(try_texts, renders)
        for name, future in (others | whole).items():
            results += outcome(name, future, lambda wrong: wrong)
        results += try_golden(renders)
    failed = [(what, wrong) for what, wrong in results if wrong]
    for what, wrong in failed:
        print(f"FAILED {what}\n    " + wrong.strip().replace("\n", "\n    "))
    print(f"{len(results) - len(failed)} passed, {len(failed)} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
