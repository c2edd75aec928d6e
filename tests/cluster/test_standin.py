"""The stand-in cluster itself: what Helm, kubectl and programs rely on is as in Kubernetes."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import time

import yaml

from kit.harness import HELMS, HERE, ROOT, Case, Failed
from standin.api.model import Obj

DEMO = HERE / "charts/demo"
TOOLS = "host.test/tools:1"


class Free(Case):
    """Without Pod Security: helpers run as root here."""

    labels: dict[str, str] = {}

    def pod(self, name: str, script: str, **spec: object) -> Obj:
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 5,
                "containers": [{"name": "main", "image": TOOLS, "command": ["/bin/sh", "-c", script]}],
                **spec,
            },
        }

    def phase(self, name: str, phase: str, seconds: float = 20) -> Obj:
        self.until(lambda: (self.find("pods", name) or {}).get("status", {}).get("phase") == phase, f"Pod {name} is {phase}", seconds)
        return self.get("pods", name)

    def ends(self, name: str) -> Obj:
        self.until(lambda: self.get("pods", name)["status"].get("phase") in ("Succeeded", "Failed"), f"Pod {name} ends")
        return self.get("pods", name)


class Helm(Free):
    """The demo chart through both Helms."""

    order = 6

    def _life(self, version: str) -> None:
        self.install("d", {"extra": {"gone": "later", "kept": "on"}}, version=version, chart=DEMO)
        deployment = self.get("deployments", "d", "apps")
        self.assertEqual(deployment["status"]["availableReplicas"], 2)
        url = self.url("d")
        self.answers(url, "first")
        self.assertIn("Succeeded", self.helm("test", "d", "--timeout", "30s", version=version))
        self.upgrade(
            "d", {"file": "second", "extra": {"kept": "on"}, "replicas": 3, "annotations": {"changed": "1"}}, version=version, chart=DEMO
        )
        self.assertEqual(set(self.get("configmaps", "d")["data"]), {"file", "kept"}, "a key that is not said any more is gone")
        self.assertEqual(base64.b64decode(self.get("secrets", "d")["data"]["word"]), b"second")
        self.assertEqual(len(self.pods(app="d")), 3)
        self.assertEqual({p["metadata"]["annotations"].get("changed") for p in self.pods(app="d")}, {"1"})
        self.answers(url, "second")
        self.helm("rollback", "d", "1", "--wait", "--timeout", "40s", version=version)
        self.assertEqual(set(self.get("configmaps", "d")["data"]), {"file", "kept", "gone"})
        self.assertEqual(len(self.pods(app="d")), 2)
        self.answers(url, "first")
        history = json.loads(self.helm("history", "d", "-o", "json", version=version))
        self.assertEqual([(h["revision"], h["status"]) for h in history], [(1, "superseded"), (2, "superseded"), (3, "deployed")])
        self.assertEqual(self.get("deployments", "d", "apps")["metadata"]["annotations"]["deployment.kubernetes.io/revision"], "3")
        self.helm("uninstall", "d", "--wait", "--timeout", "30s", version=version)
        self.assertIsNone(self.find("configmaps", "d"))
        self.until(lambda: not self.list("replicasets", "apps") and not self.pods(app="d"), "what belonged to the Deployment goes")
        self.assertEqual([s["metadata"]["name"] for s in self.list("secrets")], [])

    def test_helm_3(self) -> None:
        self._life(HELMS[0])

    def test_helm_4(self) -> None:
        self._life(HELMS[1])

    def _never_ready(self, version: str) -> None:
        with self.assertRaises(Failed):
            self.helm(
                "install", "d", str(DEMO), "--wait", "--timeout", "4s", version=version, values={"readiness": "exit 1", "replicas": 1}
            )
        self.assertEqual(self.get("deployments", "d", "apps")["status"].get("readyReplicas"), 0)
        self.assertEqual(
            [e["conditions"]["ready"] for s in self.list("endpointslices", "discovery.k8s.io") for e in s["endpoints"]], [False]
        )
        self.assertRaises(ConnectionRefusedError, self.ask, self.url("d"))
        with self.assertRaises(Failed):
            self.helm("test", "d", "--timeout", "20s", version=version, values=None)

    def test_never_ready_helm_3(self) -> None:
        self._never_ready(HELMS[0])

    def test_never_ready_helm_4(self) -> None:
        self._never_ready(HELMS[1])

    def test_server_dry_run_and_unknown_kinds(self) -> None:
        self.helm("install", "d", str(DEMO), "--dry-run=server")
        self.assertEqual(self.list("deployments", "apps"), [])
        said = self.run_(
            [str(ROOT / "target/tools/helm-4.3.1/kubectl"), "-n", self.namespace, "apply", "-f", "-"],
            check=False,
            stdin="apiVersion: keda.sh/v1alpha1\nkind: ScaledObject\nmetadata: {name: a}\nspec: {}\n",
        )
        self.assertIn('no matches for kind "ScaledObject"', said)


class Kubectl(Free):
    """Commands of kubectl."""

    order = 3

    def test_apply(self) -> None:
        def config(**data: str) -> str:
            return yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data})

        for flags in ([], ["--server-side"]):
            self.kubectl("apply", *flags, "-f", "-", stdin=config(a="1", b="2"))
            self.kubectl("apply", *flags, "-f", "-", stdin=config(a="1", c="3"))
            self.assertEqual(self.get("configmaps", "c")["data"], {"a": "1", "c": "3"})
            self.kubectl("delete", "configmap", "c")
        self.kubectl("apply", "--server-side", "-f", "-", stdin=config(a="1"))
        said = self.kubectl("apply", "--server-side", "--field-manager=other", "-f", "-", stdin=config(a="2"), check=False)
        self.assertIn('conflicts with "kubectl"', said)
        self.assertIn(".data.a", said)
        self.kubectl("apply", "--server-side", "--field-manager=other", "--force-conflicts", "-f", "-", stdin=config(a="2"))
        self.assertEqual(self.get("configmaps", "c")["data"], {"a": "2"})
        self.kubectl("annotate", "configmap", "c", "sidelight.dev/ttl=72h")
        self.kubectl("label", "configmap", "c", "x=y")
        self.assertEqual(self.get("configmaps", "c")["metadata"]["annotations"], {"sidelight.dev/ttl": "72h"})
        self.assertIn("c ", self.kubectl("get", "configmaps", "-l", "x=y"))
        self.assertNotIn("c ", self.kubectl("get", "configmaps", "-l", "x!=y"))

    def test_workloads(self) -> None:
        self.install("d", {"replicas": 1}, chart=DEMO)
        self.kubectl("set", "env", "deployment/d", "MORE=1")
        self.assertIn("successfully rolled out", self.kubectl("rollout", "status", "deployment/d", "--timeout=30s"))
        pod = self.pods(app="d")[0]
        self.assertEqual([e["name"] for e in pod["spec"]["containers"][0]["env"]], ["WORD", "ADDRESS", "MEMORY", "BOTH", "MORE"])
        address = pod["status"]["podIP"]
        self.until(lambda: f"listens; first at {address}, $(WORD); 64 MiB" in self.kubectl("logs", "deployment/d"), "its log")
        self.kubectl("scale", "deployment/d", "--replicas=2")
        self.kubectl("wait", "--for=jsonpath={.status.readyReplicas}=2", "deployment/d", "--timeout=20s")
        self.assertIn("Started container main", self.kubectl("describe", "pod", pod["metadata"]["name"]))
        self.assertRegex(self.kubectl("get", "deployment", "d"), r"2/2")
        self.kubectl("delete", "deployment", "d")
        self.kubectl("wait", "--for=delete", f"pod/{pod['metadata']['name']}", "--timeout=20s")

    def test_port_forward(self) -> None:
        self.install("d", {"replicas": 1}, chart=DEMO)
        command = [str(ROOT / "target/tools/helm-4.3.1/kubectl"), "-n", self.namespace, "port-forward", "service/d", ":80"]
        with subprocess.Popen(command, env=self.environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
            try:
                assert p.stdout
                line = p.stdout.readline()
                self.assertIn("Forwarding from", line)
                port = line.split("127.0.0.1:")[1].split(" ")[0]
                for _ in range(3):
                    self.assertEqual(self.ask(f"http://127.0.0.1:{port}/").body, "first")
            finally:
                p.terminate()

    def test_cronjob(self) -> None:
        self.apply(
            {
                "apiVersion": "batch/v1",
                "kind": "CronJob",
                "metadata": {"name": "c"},
                "spec": {
                    "schedule": "*/2 * * * *",
                    "concurrencyPolicy": "Forbid",
                    "successfulJobsHistoryLimit": 1,
                    "jobTemplate": {
                        "spec": {
                            "template": {
                                "spec": {
                                    "restartPolicy": "Never",
                                    "containers": [{"name": "main", "image": TOOLS, "command": ["/bin/echo", "tick"]}],
                                }
                            }
                        }
                    },
                },
            }
        )
        self.kubectl("create", "job", "by-hand", "--from=cronjob/c")
        self.kubectl("wait", "--for=condition=Complete", "job/by-hand", "--timeout=20s")
        self.assertEqual(self.kubectl("logs", "job/by-hand"), "tick\n")
        self.until(
            lambda: len({p["metadata"]["labels"]["job-name"] for p in self.list("pods")} - {"by-hand"}) >= 1,
            "it runs by itself, every two minutes of its clock",
        )
        self.until(
            lambda: (
                sum(
                    c.kind == "ADDED" and c.obj["metadata"]["namespace"] == self.namespace
                    for c in self.cluster.store.since(0, {("batch", "jobs")})
                )
                >= 4
            ),
            "again and again",
        )
        self.kubectl("delete", "cronjob", "c")
        self.until(lambda: [j["metadata"]["name"] for j in self.list("jobs", "batch")] == [], "its Jobs go with it")


class Access(Free):
    """Accounts may do what roles say, and nothing else."""

    def test_roles(self) -> None:
        self.kubectl("create", "serviceaccount", "reader")
        token = self.kubectl("create", "token", "reader").strip()
        config = self.cluster.kubeconfig(self.home / "reader", token=token, namespace=self.namespace)
        said = self.kubectl("get", "configmaps", check=False, kubeconfig=config)
        self.assertIn(
            f'configmaps is forbidden: User "system:serviceaccount:{self.namespace}:reader" cannot list resource "configmaps" in API group "" '
            f'in the namespace "{self.namespace}"',
            said,
        )
        self.kubectl("create", "role", "read", "--verb=get,list,watch", "--resource=configmaps")
        self.kubectl("create", "rolebinding", "read", "--role=read", f"--serviceaccount={self.namespace}:reader")
        self.assertIn("kube-root-ca.crt", self.kubectl("get", "configmaps", kubeconfig=config))
        self.assertIn("Forbidden", self.kubectl("delete", "configmap", "kube-root-ca.crt", check=False, kubeconfig=config))
        self.assertIn("Forbidden", self.kubectl("get", "secrets", check=False, kubeconfig=config))
        self.assertIn("Forbidden", self.kubectl("get", "configmaps", "--namespace", "default", check=False, kubeconfig=config))
        self.assertEqual(self.kubectl("auth", "can-i", "list", "configmaps", kubeconfig=config).strip(), "yes")
        self.assertEqual(self.kubectl("auth", "can-i", "list", "secrets", check=False, kubeconfig=config).splitlines()[0], "no")
        self.assertIn(
            "Unauthorized",
            self.kubectl("get", "pods", check=False, kubeconfig=self.cluster.kubeconfig(self.home / "nobody", token=token[:-4] + "AAAA")),
        )
        self.kubectl("delete", "serviceaccount", "reader")
        self.assertIn("Unauthorized", self.kubectl("get", "configmaps", check=False, kubeconfig=config))

    def test_names_in_rules(self) -> None:
        self.kubectl("create", "serviceaccount", "one")
        self.kubectl("create", "role", "one", "--verb=get,delete", "--resource=secrets", "--resource-name=mine")
        self.kubectl("create", "rolebinding", "one", "--role=one", f"--serviceaccount={self.namespace}:one")
        self.kubectl("create", "secret", "generic", "mine", "--from-literal=a=b")
        self.kubectl("create", "secret", "generic", "other", "--from-literal=a=b")
        config = self.cluster.kubeconfig(self.home / "one", token=self.kubectl("create", "token", "one").strip(), namespace=self.namespace)
        self.kubectl("delete", "secret", "mine", "--wait=false", kubeconfig=config)
        self.assertIn("Forbidden", self.kubectl("delete", "secret", "other", check=False, kubeconfig=config))
        self.assertIn("Forbidden", self.kubectl("get", "secrets", check=False, kubeconfig=config))

    def test_token_in_the_pod(self) -> None:
        self.kubectl("create", "role", "read", "--verb=list", "--resource=pods")
        self.kubectl("create", "rolebinding", "read", "--role=read", f"--serviceaccount={self.namespace}:default")
        script = (
            'T=/var/run/secrets/kubernetes.io/serviceaccount; curl -sS --cacert $T/ca.crt -H "Authorization: Bearer $(cat $T/token)" '
            '"https://$KUBERNETES_SERVICE_HOST:$KUBERNETES_SERVICE_PORT/api/v1/namespaces/$(cat $T/namespace)/%s" | head -c 200; '
            "curl -sS --cacert $T/ca.crt https://kubernetes.default.svc/version | head -c 300"
        )
        self.apply(
            self.pod("in", script % "pods"),
            self.pod("no", "ls /var/run/secrets/kubernetes.io/serviceaccount", automountServiceAccountToken=False),
        )
        self.phase("in", "Succeeded")
        self.assertIn('"kind":"PodList"', self.kubectl("logs", "in"))
        self.assertIn('"gitVersion"', self.kubectl("logs", "in"))
        self.phase("no", "Failed")


class Refused(Free):
    """What the API server and kubelet do not take."""

    def refuses(self, obj: Obj, why: str) -> None:
        said = self.kubectl("create", "-f", "-", stdin=json.dumps(obj), check=False)
        self.assertRegex(said, why)

    def test_objects(self) -> None:
        config: Obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}}
        self.refuses({**config, "data": {"a": "x" * 1_100_000}}, "Too long: may not be more than 1048576 bytes")
        self.refuses({**config, "data": {"a/b": "x"}}, "a valid config key")
        self.refuses({**config, "metadata": {"name": "A_b"}}, "RFC 1123")
        self.refuses({**config, "metadata": {"name": "c", "labels": {"a": "b c"}}}, "valid label")
        self.refuses({**config, "kind": "Nothing"}, "no matches for kind")
        self.refuses(self.pod("p", "true", volumes=[{"name": "a"}, {"name": "a"}]), "Duplicate value")
        broken = self.pod("p", "true")
        broken["spec"]["containers"][0]["volumeMounts"] = [{"name": "nowhere", "mountPath": "/x"}]
        self.refuses(broken, "Not found")
        self.refuses(
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": "d"},
                "spec": {
                    "selector": {"matchLabels": {"a": "b"}},
                    "template": {"metadata": {"labels": {"a": "c"}}, "spec": self.pod("p", "x")["spec"]},
                },
            },
            "does not match template",
        )
        self.refuses(
            {
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": "e"},
                "regarding": {"kind": "Pod", "name": "p", "namespace": self.namespace},
                "type": "Normal",
                "reason": "Because",
            },
            "eventTime: Required",
        )

    def test_pod_security(self) -> None:
        self.kubectl("label", "namespace", self.namespace, "pod-security.kubernetes.io/enforce=restricted")
        self.refuses(self.pod("p", "true"), "violates PodSecurity.*allowPrivilegeEscalation != false.*runAsNonRoot != true.*seccompProfile")

    def test_root_and_images(self) -> None:
        self.apply(self.pod("root", "true", securityContext={"runAsNonRoot": True}))
        gone = self.pod("gone", "true")
        gone["spec"]["containers"][0]["image"] = "nowhere.test/x:1"
        self.apply(gone)
        self.until(lambda: self._waits("root") == "CreateContainerConfigError", "it is not started")
        self.until(lambda: self._waits("gone") == "ImagePullBackOff", "its image is not found")
        self.assertIn("runAsNonRoot and image will run as root", self.kubectl("describe", "pod", "root"))

    def _waits(self, pod: str) -> str:
        statuses = self.get("pods", pod)["status"].get("containerStatuses") or [{"state": {}}]
        return str(statuses[0]["state"].get("waiting", {}).get("reason", ""))


class Pods(Free):
    """Containers and their volumes."""

    order = 4

    def test_volumes_are_written_as_kubelet_does(self) -> None:
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "one", "b": "two"}})
        spec = self.pod(
            "p", "for i in $(seq 600); do sleep 0.1; cat /c/a /sub/a; echo $A; done", volumes=[{"name": "c", "configMap": {"name": "c"}}]
        )
        spec["spec"]["containers"][0]["volumeMounts"] = [
            {"name": "c", "mountPath": "/c"},
            {"name": "c", "mountPath": "/sub/a", "subPath": "a"},
        ]
        spec["spec"]["containers"][0]["env"] = [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "a"}}}]
        self.apply(spec)
        self.phase("p", "Running")
        worker = self.cluster.kubelet.worker(self.namespace, "p")
        assert worker is not None
        folder = worker.volumes.paths["c"][0]
        first = (folder / "..data").readlink()
        self.assertEqual(sorted(f.name for f in folder.iterdir()), sorted(["..data", str(first), "a", "b"]))
        self.assertEqual(str((folder / "a").readlink()), "..data/a")
        changed = time.monotonic()
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "three"}})
        self.until(lambda: (folder / "..data").readlink() != first, "the link leads to new files")
        self.assertLess(time.monotonic() - changed, 4)
        self.assertEqual(sorted(f.name for f in folder.iterdir()), sorted(["..data", str((folder / "..data").readlink()), "a"]))
        # What is mounted as a file, and what is in a variable, stays as it was.
        self.until(lambda: "threeoneone" in self.kubectl("logs", "p"), "the container sees it")

    def test_native_sidecars_in_order(self) -> None:
        def container(name: str, script: str, **more: object) -> Obj:
            return {
                "name": name,
                "image": TOOLS,
                "command": ["/bin/sh", "-c", script],
                "volumeMounts": [{"name": "log", "mountPath": "/log"}],
                **more,
            }

        def sidecar(name: str) -> Obj:
            script = f"echo {name} begins >>/log/all; trap 'echo {name} ends >>/log/all; exit 0' TERM; sleep 0.5; touch /log/{name}; while :; do sleep 0.05; done"
            return container(
                name, script, restartPolicy="Always", startupProbe={"exec": {"command": ["test", "-e", f"/log/{name}"]}, "periodSeconds": 1}
            )

        self.apply(
            {
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {"name": "log"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {}},
            }
        )
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": "p"},
                "spec": {
                    "restartPolicy": "Never",
                    "volumes": [{"name": "log", "persistentVolumeClaim": {"claimName": "log"}}],
                    "initContainers": [
                        container("before", "echo before >>/log/all"),
                        sidecar("one"),
                        container("between", "test -e /log/one && echo between >>/log/all"),
                        sidecar("two"),
                    ],
                    "containers": [container("main", "test -e /log/two && echo main >>/log/all; sleep 0.3")],
                },
            }
        )
        self.phase("p", "Succeeded")
        text = (self.cluster.claim_folder(self.namespace, "log") / "all").read_text()
        self.assertEqual(text.splitlines(), ["before", "one begins", "between", "two begins", "main", "two ends", "one ends"])

    def test_probes(self) -> None:
        """Liveness: the container starts again. Readiness: the Pod gets no requests."""
        spec = self.pod("p", "touch /tmp/ok; sleep 1; rm /tmp/ok; sleep 1000", restartPolicy="Always", terminationGracePeriodSeconds=0)
        spec["spec"]["containers"][0]["livenessProbe"] = {
            "exec": {"command": ["test", "-e", "/tmp/ok"]},
            "periodSeconds": 1,
            "failureThreshold": 1,
            "initialDelaySeconds": 1,
        }
        self.apply(spec)
        self.until(lambda: self.get("pods", "p")["status"].get("containerStatuses", [{}])[0].get("restartCount", 0) >= 1, "it starts again")
        self.assertIn("Liveness probe failed", self.kubectl("describe", "pod", "p"))

    def test_end(self) -> None:
        """preStop first, then SIGTERM, and SIGKILL when the grace period is over."""
        stubborn = self.pod("stubborn", "trap 'echo asked' TERM; while :; do sleep 0.1; done", terminationGracePeriodSeconds=3)
        stubborn["spec"]["containers"][0]["lifecycle"] = {
            "preStop": {"exec": {"command": ["/bin/sh", "-c", "echo prepares >/proc/1/fd/1"]}}
        }
        self.apply(stubborn)
        self.phase("stubborn", "Running")
        time.sleep(0.3)
        began = time.monotonic()
        self.kubectl("delete", "pod", "stubborn")
        self.assertAlmostEqual(time.monotonic() - began, 3.3, delta=1)
        self.assertEqual(self.output().split(), ["prepares", "asked"])
        self.assertEqual(self.exit_codes("stubborn", "main"), [137])

    def test_what_a_container_may(self) -> None:
        script = (
            "id -u; id -G; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; touch /x 2>&1 | grep -o 'Read-only file system'; touch /tmp/y && echo wrote; "
            "stat -c %g /shared; ls /proc | grep -c '^[0-9]'; cat /sys/class/net/eth0/operstate"
        )
        spec = self.pod(
            "p",
            script,
            securityContext={"runAsUser": 1234, "runAsGroup": 1234, "fsGroup": 4321, "seccompProfile": {"type": "RuntimeDefault"}},
            volumes=[{"name": "tmp", "emptyDir": {}}, {"name": "shared", "emptyDir": {}}],
        )
        spec["spec"]["containers"][0].update(
            securityContext={"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]}},
            volumeMounts=[{"name": "tmp", "mountPath": "/tmp"}, {"name": "shared", "mountPath": "/shared"}],
        )
        self.apply(spec)
        self.ends("p")
        lines = self.kubectl("logs", "p").splitlines()
        self.assertEqual(
            lines[:9],
            [
                "1234",
                "1234 4321",
                "CapEff:0000000000000000",
                "CapBnd:0000000000000000",
                "NoNewPrivs:1",
                "Seccomp:2",
                "Read-only file system",
                "wrote",
                "4321",
            ],
        )
        self.assertLess(int(lines[9]), 8, "its own processes only")
        self.assertEqual(lines[10:], ["up"])

    def test_memory_limit(self) -> None:
        if not self.cluster.kubelet.runtime.limits:
            self.skipTest("no cgroups can be made here")
        spec = self.pod("p", "exec perl -e '$x = \"a\" x (200 << 20); sleep 5'")
        spec["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
        self.apply(spec)
        self.assertEqual(self.ends("p")["status"]["containerStatuses"][0]["state"]["terminated"]["reason"], "OOMKilled")

    def test_balanced_and_private(self) -> None:
        """A Service leads to all of its Pods; what listens on a Pod's loopback is its own."""
        self.install("d", {"replicas": 2}, chart=DEMO)
        pods = {p["status"]["podIP"] for p in self.pods(app="d")}
        self.assertEqual(len(pods), 2)
        self.answers(self.url("d"), "first")
        host, port = self.url("d").removeprefix("http://").rstrip("/").split(":")
        with socket.create_connection((host, int(port))):
            self.kubectl("delete", "pod", "-l", "app=d", "--wait=false")
        self.apply(
            self.pod(
                "alone",
                "exec perl -e 'use IO::Socket::INET; my $l = IO::Socket::INET->new(LocalAddr => \"127.0.0.1\", LocalPort => 9090, Listen => 5); sleep 1000'",
            )
        )
        pod = self.phase("alone", "Running")
        self.until(lambda: self.cluster.kubelet.dial(self.namespace, "alone", 9090), "it listens")
        self.assertRaises(OSError, socket.create_connection, (pod["status"]["podIP"], 9090), 2)


class Loads(Free):
    """What tests under load rely on: every request that fails is counted."""

    def test_failures_are_counted(self) -> None:
        self.install("d", {"replicas": 1}, chart=DEMO)
        self.answers(self.url("d"), "first")
        with self.load(self.url("d")) as load:
            self.kubectl("delete", "pod", "-l", "app=d", "--force", "--grace-period=0")
            self.until(lambda: self.get("deployments", "d", "apps")["status"]["readyReplicas"] == 1, "another comes")
            self.answers(self.url("d"), "first")
        self.assertTrue(load.stop()["failures"])
        self.assertRaises(AssertionError, self.unharmed, load, "first")
        self.assertRaises(AssertionError, self.unharmed, load, "first", "second")


class Names(Free):
    def test_deleting_a_namespace(self) -> None:
        self.install("d", {"replicas": 1}, chart=DEMO)
        self.kubectl("delete", "namespace", self.namespace, "--timeout=30s")
        self.assertEqual(self.list("pods") + self.list("secrets") + self.list("deployments", "apps"), [])
        self.cluster.store.create(self.cluster.catalog.of("namespaces"), {"metadata": {"name": self.namespace}})
