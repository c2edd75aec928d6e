"""What reaches a release: HTTPS with certificates that are renewed, Ingress, routes by header, metrics; and what does not."""

from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from pathlib import Path

from kit.harness import HELMS, Case
from kit.parts import Files
from kit.values import GATEWAY, PARENTS, inline, merged
from kit.wasm import answering
from standin.api import pki
from standin.api.model import Obj


class Certificates(Case):
    order = 4

    def _secret(self, folder: str) -> Path:
        """A kubernetes.io/tls Secret for shop.test; the root that made it."""
        ca, cert, key = pki.make(self.home / folder, ["shop.test"], [])
        data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in (("tls.crt", cert), ("tls.key", key))}
        self.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "shop"}, "type": "kubernetes.io/tls", "data": data})
        return ca

    def _asked(self, ca: Path) -> str:
        spec = self.get("services", "a-sidelight")["spec"]
        port = next(p["port"] for p in spec["ports"] if p["name"] == "https")
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((spec["clusterIP"], port), 5) as plain,
            context.wrap_socket(plain, server_hostname="shop.test") as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: shop.test\r\nConnection: close\r\n\r\n")
            answer = b""
            while piece := tls.recv(65536):
                answer += piece
        return answer.decode()

    def test_renewed(self) -> None:
        first = self._secret("first")
        self.install("a", merged(inline("over TLS"), {"tls": {"secretNames": ["shop"]}}))
        self.until(lambda: "over TLS" in self._asked(first), "HTTPS is served")
        second = self._secret("second")
        self.until(lambda: "over TLS" in self._asked(second), "the new certificate is served")
        self.assertRaises(ssl.SSLCertVerificationError, self._asked, first)
        self.assertEqual(self.proxies()[0]["status"]["containerStatuses"][0]["restartCount"], 0)


class Ways(Case):
    order = 4

    def test_ingress(self) -> None:
        host = f"{self.namespace}.shop.test"
        self.install(
            "a", merged(inline("by Ingress"), {"ingress": {"enabled": True, "className": "any", "hosts": [host]}}), version=HELMS[0]
        )
        self.answers(f"{GATEWAY}/", "by Ingress", host)
        self.assertEqual(self.ask(f"{GATEWAY}/", "other.test").status, 404)

    def test_header(self) -> None:
        """A release that takes requests with a header from another one, on the same host."""
        host = f"{self.namespace}.shop.test"
        route = {"enabled": True, "parentRefs": PARENTS, "hostnames": [host]}
        matches = [{"headers": [{"name": "x-preview", "value": "7"}]}]
        self.install("staging", merged(inline("staging"), {"httpRoute": route}))
        self.install("seven", merged(inline("seven"), {"httpRoute": {**route, "matches": matches}}))
        self.answers(f"{GATEWAY}/", "staging", host)
        self.until(lambda: self.ask(f"{GATEWAY}/", host, {"x-preview": "7"}).body == "seven", "the header chooses")
        self.assertEqual(self.ask(f"{GATEWAY}/", host, {"x-preview": "8"}).body, "staging")

    def test_ports(self) -> None:
        """Metrics and probes are for the cluster, the admin listener for nobody but `kubectl port-forward`."""
        self.install("a", inline("x"))
        self.answers(self.url("a-sidelight"), "x")
        # The Service of metrics has no address of its own: Prometheus finds every Pod by it.
        self.assertEqual(self.get("services", "a-sidelight-metrics")["spec"]["clusterIP"], "None")
        pod = self.proxies()[0]
        found = next(
            s
            for s in self.list("endpointslices", "discovery.k8s.io")
            if s["metadata"]["labels"]["kubernetes.io/service-name"] == "a-sidelight-metrics"
        )
        self.assertEqual([e["addresses"] for e in found["endpoints"]], [[pod["status"]["podIP"]]])
        self.assertEqual([p["port"] for p in found["ports"]], [9091])
        self.assertIn("sidelight_requests_total", self.ask(f"http://{pod['status']['podIP']}:9091/metrics").body)
        address = pod["status"]["podIP"]
        self.assertEqual(self.ask(f"http://{address}:9091/livez").status, 200)
        self.assertEqual(self.ask(f"http://{address}:9091/status").status, 404)
        self.assertRaises(ConnectionRefusedError, socket.create_connection, (address, 9090), 5)
        self.assertIn('"services"', self.admin(pod, "/status").body)


class Address(Case):
    """A program at https://…, known by its digest."""

    def test_url(self) -> None:
        folder = self.home / "files"
        folder.mkdir()
        program = answering("from an address")
        (folder / "shop.wasm").write_bytes(program)
        files = Files(self.home / "pki", folder)
        self.addCleanup(files.stop)
        self.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots"}, "data": {"ca.crt": files.ca.read_text()}})
        values: Obj = {
            "module": {"url": f"{files.url}/shop.wasm", "sha256": hashlib.sha256(program).hexdigest()},
            "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/etc/roots/ca.crt"}],
            "extraVolumes": [{"name": "roots", "configMap": {"name": "roots"}}],
            "extraVolumeMounts": [{"name": "roots", "mountPath": "/etc/roots", "readOnly": True}],
        }
        self.install("a", values)
        self.answers(self.url("a-sidelight"), "from an address")
        # What is there now is not what was meant: a Pod that starts afterwards does not serve it.
        (folder / "shop.wasm").write_bytes(answering("something else"))
        self.kubectl("rollout", "restart", "deployment/a-sidelight")
        self.until(lambda: "sha256" in self.output().lower() and len(self.proxies()) == 2, "the new Pod says what is wrong")
        self.assertEqual(self.ask(self.url("a-sidelight")).body, "from an address")
