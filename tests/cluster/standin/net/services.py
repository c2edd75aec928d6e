"""Tells the forwarder what Services, routes and names there are, as late as kube-proxy and ingress controllers are."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

from ..api.model import ApiError, Obj
from ..api.store import Store
from ..controllers.base import set_condition

GATEWAY = "10.96.0.2:80"
DNS = "10.96.0.10:53"
API = "10.96.0.1:443"
DOMAIN = "svc.cluster.local"
GROUP = "gateway.networking.k8s.io"


class Services:
    # From a change of endpoints to its effect.
    delay = 0.5

    def __init__(self, store: Store, api_port: int, outside: list[socket.socket]) -> None:
        self.store, self.api_port, self.outside = store, api_port, outside
        # Names beside those of Services, and their addresses.
        self.names: dict[str, str] = {}
        self.stopping = threading.Event()
        self.process: "subprocess.Popen[str] | None" = None

    def start(self) -> None:
        fds = [s.fileno() for s in self.outside]
        root = Path(__file__).resolve().parents[2]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "standin.net.forwarder", GATEWAY, DNS, *map(str, fds)],
            cwd=root,
            pass_fds=fds,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self.process.stdout
        if self.process.stdout.readline().strip() != "ready":
            raise RuntimeError("the forwarder did not start")
        threading.Thread(target=self._run, daemon=True, name="services").start()

    def stop(self) -> None:
        self.stopping.set()
        if self.process and self.process.stdin:
            self.process.stdin.close()
            self.process.wait(5)

    def _run(self) -> None:
        keys = {
            ("", "services"),
            ("discovery.k8s.io", "endpointslices"),
            ("networking.k8s.io", "ingresses"),
            (GROUP, "httproutes"),
            ("", "pods"),
        }
        last = ""
        while not self.stopping.is_set():
            version = self.store.version
            state = json.dumps(self._state())
            if state != last:
                # What is told then is what was so now.
                if self.stopping.wait(self.delay if last else 0):
                    return
                self._tell(state)
                last = state
            self._accept_routes()
            self.store.wait(lambda: bool(self.store.since(version, keys)), 1.0)

    def _tell(self, state: str) -> None:
        assert self.process and self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(state + "\n")
            self.process.stdin.flush()
            self.process.stdout.readline()
        except (OSError, ValueError):
            if not self.stopping.is_set():
                raise

    # ---- what there is

    def _state(self) -> Obj:
        catalog = self.store.catalog
        places: dict[str, list[str]] = {API: [f"127.0.0.1:{self.api_port}"]}
        names: dict[str, list[str]] = {f"kubernetes.default.{DOMAIN}": [API.split(":")[0]], **{n: [a] for n, a in self.names.items()}}
        endpoints: dict[tuple[str, str, int | str], list[str]] = {}
        slices = self.store.list(catalog.of("endpointslices", "discovery.k8s.io"))
        for service in self.store.list(catalog.of("services")):
            meta, spec = service["metadata"], service["spec"]
            mine = [
                s
                for s in slices
                if s["metadata"]["namespace"] == meta["namespace"]
                and s["metadata"].get("labels", {}).get("kubernetes.io/service-name") == meta["name"]
            ]
            ip = spec.get("clusterIP", "")
            fqdn = f"{meta['name']}.{meta['namespace']}.{DOMAIN}"
            if ip == "None":
                names[fqdn] = sorted({e["addresses"][0] for s in mine for e in s["endpoints"] if e["conditions"]["ready"]})
            elif ip:
                names[fqdn] = [ip]
            for p in spec.get("ports") or []:
                targets = self._endpoints(mine, p.get("name", ""))
                for key in (p["port"], p.get("name", "")):
                    if key:
                        endpoints[meta["namespace"], meta["name"], key] = targets
                if ip and ip != "None" and p["protocol"] == "TCP" and f"{ip}:{p['port']}" not in places:
                    places[f"{ip}:{p['port']}"] = targets
        return {"services": places, "names": names, "routes": self._http_routes(endpoints) + self._ingresses(endpoints)}

    def _endpoints(self, slices: list[Obj], port: str) -> list[str]:
        """Those that are ready; when none is, those that end but still serve."""
        out: dict[str, list[str]] = {"ready": [], "serving": []}
        for s in slices:
            for p in s.get("ports") or []:
                if p.get("name", "") == port:
                    for e in s["endpoints"]:
                        for how in out:
                            if e["conditions"][how]:
                                out[how].append(f"{e['addresses'][0]}:{p['port']}")
        return sorted(out["ready"] or out["serving"])

    def _http_routes(self, endpoints: dict[tuple[str, str, int | str], list[str]]) -> list[Obj]:
        out = []
        kind = self.store.catalog.find(GROUP, "v1", "httproutes")
        for route in self.store.list(kind) if kind else []:
            namespace = route["metadata"]["namespace"]
            for rule in route["spec"].get("rules") or []:
                targets: list[str] = []
                for ref in rule.get("backendRefs") or []:
                    targets += endpoints.get((ref.get("namespace", namespace), ref["name"], ref.get("port", 80)), [])
                for match in rule.get("matches") or [{}]:
                    path = match.get("path") or {}
                    out.append(
                        {
                            "hosts": route["spec"].get("hostnames") or [],
                            "path": path.get("value", "/"),
                            "exact": path.get("type") == "Exact",
                            "headers": {h["name"]: h["value"] for h in match.get("headers") or []},
                            "endpoints": targets,
                        }
                    )
        return out

    def _ingresses(self, endpoints: dict[tuple[str, str, int | str], list[str]]) -> list[Obj]:
        out = []
        for ingress in self.store.list(self.store.catalog.of("ingresses", "networking.k8s.io")):
            namespace = ingress["metadata"]["namespace"]
            for rule in ingress["spec"].get("rules") or []:
                for p in (rule.get("http") or {}).get("paths") or []:
                    service = p["backend"]["service"]
                    port = service["port"].get("number") or service["port"].get("name", "")
                    out.append(
                        {
                            "hosts": [rule["host"]] if rule.get("host") else [],
                            "path": p.get("path", "/"),
                            "exact": p["pathType"] == "Exact",
                            "headers": {},
                            "endpoints": endpoints.get((namespace, service["name"], port), []),
                        }
                    )
        return out

    def _accept_routes(self) -> None:
        kind = self.store.catalog.find(GROUP, "v1", "httproutes")
        if kind is None:
            return
        for route in self.store.list(kind):
            parents = []
            for ref in route["spec"].get("parentRefs") or []:
                before: list[Obj] = next(
                    (p["conditions"] for p in route.get("status", {}).get("parents") or [] if p["parentRef"] == ref), []
                )
                conditions = set_condition(before, "Accepted", "True", "Accepted", "")
                conditions = set_condition(conditions, "ResolvedRefs", "True", "ResolvedRefs", "")
                for c in conditions:
                    c["observedGeneration"] = route["metadata"]["generation"]
                parents.append({"parentRef": ref, "controllerName": "stand-in/gateway", "conditions": conditions})
            if [p["parentRef"] for p in route.get("status", {}).get("parents") or []] != [p["parentRef"] for p in parents]:
                try:
                    self.store.mutate(
                        kind,
                        route["metadata"]["namespace"],
                        route["metadata"]["name"],
                        lambda o: o.update(status={"parents": parents}),
                        status=True,
                    )
                except ApiError:
                    time.sleep(0.1)
