"""Previews: a release for each, and many in shared Pods. What their accounts may do is what they need."""

from __future__ import annotations

import base64
import time

from kit.harness import HELMS, Case, module
from kit.values import GATEWAY, PARENTS, inline, merged, registry
from kit.wasm import answering
from standin.api.model import Obj
from standin.api.server import Asked

RBAC = "rbac.authorization.k8s.io"


class Permissions(Case):
    """What a Role grants and what was asked for."""

    def asked(self, account: str, since: float = 0) -> list[Asked]:
        return [a for a in list(self.cluster.api.audit) if a.user == f"system:serviceaccount:{self.namespace}:{account}" and a.at >= since]

    def needed(self, role: Obj, account: str) -> None:
        """Nothing was refused, and every verb that the Role grants on a kind was used on it."""
        granted: set[tuple[str, str]] = set()
        for rule in role["rules"]:
            for group in rule["apiGroups"]:
                for resource in rule["resources"]:
                    granted |= {(verb, f"{resource}.{group}" if group else resource) for verb in rule["verbs"]}

        def unused() -> list[tuple[str, str]]:
            return sorted(granted - {(a.verb, a.resource) for a in self.asked(account)})

        # The API server notes what it was asked after it has done it.
        end = time.monotonic() + 5
        while unused() and time.monotonic() < end:
            time.sleep(0.05)
        self.assertEqual(unused(), [], "granted, and not needed")
        self.assertEqual([a for a in self.asked(account) if a.code == 403], [], "refused")

    def without(self, role: str, drop: str) -> None:
        """Takes a kind out of all rules of a Role."""

        def change(o: Obj) -> None:
            for rule in o["rules"]:
                rule["resources"] = [r for r in rule["resources"] if r != drop]
            o["rules"] = [r for r in o["rules"] if r["resources"]]

        self.cluster.store.mutate(self.cluster.catalog.of("roles", RBAC), self.namespace, role, change)


class Releases(Permissions):
    """Mode preview."""

    order = 8

    def _values(self, number: int, tag: str, **preview: object) -> Obj:
        return merged(
            registry("previews/shop", tag),
            {
                "mode": "preview",
                "preview": {"id": number, "host": f"pr-{number}-{self.namespace}.preview.test", **preview},
                "httpRoute": {"enabled": True, "parentRefs": PARENTS},
                "preStopSleepSeconds": 1,
            },
        )

    def test_javascript(self) -> None:
        """A real program in JavaScript on its own host, replaced by a new tag."""
        self.with_registry()
        self.world.registry.push("previews/shop", "js", module("js/behaviours.wasm"))
        self.world.registry.push("previews/shop", "next", answering("the next commit"))
        host = f"pr-7-{self.namespace}.preview.test"
        self.install("pr-7", self._values(7, "js"), version=HELMS[0])
        self.until(lambda: self.ask(f"{GATEWAY}/synthetic", host).status == 418, "the preview answers on its host")
        self.assertEqual(self.ask(f"{GATEWAY}/synthetic", host).headers["x-guest"], "js")
        self.assertEqual(self.ask(f"{GATEWAY}/synthetic", "pr-8.preview.test").status, 404)
        self.upgrade("pr-7", self._values(7, "next"), version=HELMS[0])
        self.answers(f"{GATEWAY}/", "the next commit", host)

    def _expires(self, version: str) -> None:
        self.needs("expire ")
        self.with_registry()
        self.world.registry.push("previews/shop", "1", answering("short-lived"))
        host = f"pr-9-{self.namespace}.preview.test"
        self.install("pr-9", self._values(9, "1", ttl="720h", schedule="*/2 * * * *"), version=version)
        self.answers(f"{GATEWAY}/", "short-lived", host)
        self.until(
            lambda: any(j.get("status", {}).get("succeeded") for j in self.list("jobs", "batch")), "somebody looked whether it is over"
        )
        self.answers(f"{GATEWAY}/", "short-lived", host)
        role = self.get("roles", "pr-9-sidelight-expire", RBAC)
        began = time.time()
        self._shorten(version, ttl="5s")
        self.until(lambda: not self.list("deployments", "apps"), "it goes", 60)
        self.assertGreaterEqual(time.time() - began, 4.5, "counted from the last deployment")
        self.until(lambda: not self._rest(), "all of it goes", 30)
        self.assertEqual(self.ask(f"{GATEWAY}/", host).status, 404)
        self.assertNotIn("pr-9", self.helm("list", version=version))
        self.needed(role, "pr-9-sidelight-expire")

    def _shorten(self, version: str, **preview: object) -> None:
        """A deployment that lives for some seconds: Helm does not wait for what may be gone before it is there."""
        values = self._values(9, "1", schedule="*/2 * * * *", **preview)
        self.helm("upgrade", "pr-9", str(self.chart), version=version, values=values)

    def _rest(self) -> list[tuple[str, str]]:
        """What is left of releases: everything but what the tests put there, and what every namespace has."""
        ours = {("Secret", "registry"), ("ConfigMap", "registry-ca"), ("ConfigMap", "kube-root-ca.crt"), ("ServiceAccount", "default")}
        found = {
            (o["kind"], o["metadata"]["name"])
            for r in self.cluster.catalog.resources
            if r.namespaced and r.plural not in ("events",)
            for o in self.cluster.store.list(r, self.namespace)
        }
        return sorted(found - ours)

    def test_expires_helm_3(self) -> None:
        self._expires(HELMS[0])

    def test_expires_helm_4(self) -> None:
        self._expires(HELMS[1])

    def test_expires_with_its_namespace(self) -> None:
        self.needs("expire ")
        self.with_registry()
        self.world.registry.push("previews/shop", "1", answering("short-lived"))
        self.install("pr-9", self._values(9, "1", ttl="720h", delete="namespace"))
        self._shorten(HELMS[1], ttl="1s", delete="namespace")
        self.until(
            lambda: self.cluster.store.find(self.cluster.catalog.of("namespaces"), "", self.namespace) is None, "the namespace goes", 40
        )

    def test_expire_without_permission(self) -> None:
        """What it may not do it says, and nothing goes."""
        self.needs("expire ")
        self.with_registry()
        self.world.registry.push("previews/shop", "1", answering("stays"))
        self.install("pr-9", self._values(9, "1", ttl="720h"))
        self.without("pr-9-sidelight-expire", "secrets")
        began = time.time()
        self.kubectl("create", "job", "by-hand", "--from=cronjob/pr-9-sidelight-expire")
        self.until(lambda: any(a.code == 403 for a in self.asked("pr-9-sidelight-expire", began)), "it is refused")
        self.until(lambda: "forbidden" in self.output().lower() or "403" in self.output(), "the log says so")
        self.assertTrue(self.list("deployments", "apps"))


class Together(Permissions):
    """previews.enabled: ConfigMaps and Secrets that are services of shared Pods."""

    order = 8

    def setUp(self) -> None:
        super().setUp()
        self.needs("expire ")
        self.host = f"{self.namespace}.preview.test"
        self.install(
            "a",
            {
                "previews": {"enabled": True},
                "preStopSleepSeconds": 1,
                "replicas": 2,
                "httpRoute": {"enabled": True, "parentRefs": PARENTS, "hostnames": [f"*.{self.host}"]},
            },
        )

    def preview(
        self,
        name: str,
        text: str,
        *,
        kind: str = "ConfigMap",
        annotations: dict[str, str] | None = None,
        settings: str = "",
        manifest: str = "",
    ) -> Obj:
        files = {"service.toml": f'hosts = ["{name}.{self.host}"]\nmodule = "main.wasm"\n{settings}'}
        if manifest:
            files["fastly.toml"] = manifest
        obj: Obj = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "labels": {"sidelight.dev/service": name}, "annotations": annotations or {}},
        }
        program = base64.b64encode(answering(text)).decode()
        if kind == "Secret":
            obj["data"] = {**{k: base64.b64encode(v.encode()).decode() for k, v in files.items()}, "main.wasm": program}
        else:
            obj["data"], obj["binaryData"] = files, {"main.wasm": program}
        return obj

    def everywhere(self, name: str, text: str) -> None:
        for pod in (p for p in self.proxies() if p["metadata"]["labels"]["app.kubernetes.io/instance"] == "a"):
            self.answers(f"http://{pod['status']['podIP']}:8080/", text, f"{name}.{self.host}")

    def gone(self, name: str) -> None:
        self.until(lambda: self.ask(f"{GATEWAY}/", f"{name}.{self.host}").status == 404, f"{name} is not served any more")

    def test_comes_changes_and_goes(self) -> None:
        self.apply(self.preview("one", "first"))
        self.everywhere("one", "first")
        self.answers(f"{GATEWAY}/", "first", f"one.{self.host}")
        with self.load(f"{GATEWAY}/", f"one.{self.host}") as load:
            self.apply(self.preview("one", "second"), self.preview("two", "other", kind="Secret"))
            self.everywhere("one", "second")
            self.everywhere("two", "other")
        self.unharmed(load, "first", "second")
        self.kubectl("delete", "configmap/one", "secret/two")
        for name in ("one", "two"):
            self.gone(name)
        self.assertEqual(sum(c["restartCount"] for p in self.proxies() for c in p["status"]["containerStatuses"]), 0)

    def test_faulty_leaves_others_alone(self) -> None:
        self.apply(self.preview("good", "good"))
        self.everywhere("good", "good")
        self.answers(f"{GATEWAY}/", "good", f"good.{self.host}")
        with self.load(f"{GATEWAY}/", f"good.{self.host}") as load:
            self.apply(self.preview("bad", "bad", settings="no_such_key = 1\n"))
            event = self.until(
                lambda: next((e for e in self.list("events") if e["involvedObject"].get("name") == "bad" and e["type"] == "Warning"), None),
                "an Event says why",
            )
            self.assertIn("no_such_key", event["message"])
            self.assertIn("no_such_key", self.kubectl("describe", "configmap", "bad"))
            self.apply(self.preview("bad", "mended"))
            self.everywhere("bad", "mended")
            # What was good serves on when a change is faulty.
            self.apply(self.preview("bad", "worse", settings="no_such_key = 2\n"))
            self.until(
                lambda: any("no_such_key" in e["message"] and e["involvedObject"].get("name") == "bad" for e in self.list("events")),
                "an Event says why",
            )
            time.sleep(1)
            self.everywhere("bad", "mended")
        self.unharmed(load, "good")

    def test_expires(self) -> None:
        self.apply(
            self.preview("short", "short", annotations={"sidelight.dev/ttl": "10s"}),
            self.preview("long", "long", annotations={"sidelight.dev/ttl": "1h"}),
        )
        self.everywhere("short", "short")
        self.everywhere("long", "long")
        self.gone("short")
        self.until(lambda: self.find("configmaps", "short") is None, "its ConfigMap goes", 30)
        self.everywhere("long", "long")
        self.assertIsNotNone(self.find("configmaps", "long"))

    def test_role_is_enough_and_needed(self) -> None:
        short = {"sidelight.dev/ttl": "3s"}
        self.apply(
            self.preview("short", "short", annotations=short),
            self.preview("secret", "secret", kind="Secret", annotations=short),
            self.preview("bad", "bad", settings="no_such_key = 1\n"),
        )
        self.until(lambda: self.find("configmaps", "short") is None and self.find("secrets", "secret") is None, "they expire", 40)
        self.until(lambda: self._faults("bad"), "an Event")
        self.needed(self.get("roles", "a-sidelight-previews", RBAC), "a-sidelight")
        # Without a rule: it is refused, says so, and serves what else there is.
        began = time.time()
        self.without("a-sidelight-previews", "secrets")
        self.kubectl("rollout", "restart", "deployment/a-sidelight")
        self.until(lambda: any(a.code == 403 and a.resource == "secrets" for a in self.asked("a-sidelight", began)), "it is refused", 30)
        self.until(lambda: "forbidden" in self.output().lower() or "403" in self.output(), "the log says so")

    def _faults(self, name: str) -> list[Obj]:
        return [e for e in self.list("events") if e["involvedObject"].get("name") == name and e["type"] == "Warning"]

    def test_another_release_does_not_see_them(self) -> None:
        """Without previews.enabled there is no token, and a preview's ConfigMap is nothing to it."""
        self.install("b", inline("plain"))
        self.apply(self.preview("one", "first"))
        self.everywhere("one", "first")
        pod = next(p for p in self.proxies() if p["metadata"]["labels"]["app.kubernetes.io/instance"] == "b")
        self.assertEqual(self.ask(f"http://{pod['status']['podIP']}:8080/", f"one.{self.host}").body, "plain")
        self.assertEqual([a for a in self.asked("b-sidelight")], [])
