"""The compose file for laptops: checked by Docker Compose, and its parts run with the very files that it mounts."""

from __future__ import annotations

import json
import os
import re
import time
import urllib.parse
from pathlib import Path
from typing import Any

import yaml

import kit
from containers import Network

FOLDER = kit.DEPLOY / "compose"
FILE = FOLDER / "compose.yaml"

# Debian's program for an image's, and what the image's own entry point adds to a command.
PROGRAMS = {
    "nginx": ["nginx", "-g", "daemon off;"],
    "redis": [],
    "prom/prometheus": ["prometheus"],
}


def compose(**environment: str) -> dict[str, Any]:
    """The file as Docker Compose understands it."""
    command = [kit.TOOLS / "venv" / "bin" / "docker-compose", "--file", FILE, "--profile", "*", "config", "--format", "json"]
    return dict(json.loads(kit.run(command, env={"PATH": os.environ["PATH"], **environment}).stdout))


class Document(kit.Case):
    def test_docker_compose_takes_it(self) -> None:
        services = compose()["services"]
        self.assertEqual(set(services), {"sidelight", "origin", "redis", "prometheus", "grafana", "collector"})
        self.assertEqual(services["collector"]["profiles"], ["traces"])
        self.assertTrue(all("profiles" not in service for name, service in services.items() if name != "collector"))
        self.assertEqual(services["sidelight"]["image"], "sidelight/sidelight:latest")
        self.assertEqual(compose(SIDELIGHT_IMAGE="mine:1")["services"]["sidelight"]["image"], "mine:1")
        # It finds faults at all.
        wrong = self.write("compose.yaml", FILE.read_text().replace("stop_grace_period", "stop_grace"))
        said = kit.run([kit.TOOLS / "venv" / "bin" / "docker-compose", "--file", wrong, "config"], expect=None)
        self.assertNotEqual(said.returncode, 0)

    def test_every_mounted_file_is_there(self) -> None:
        volumes = compose()["volumes"]
        for name, service in compose()["services"].items():
            for mount in service.get("volumes", []):
                if mount["type"] == "bind":
                    self.assertTrue(Path(mount["source"]).exists(), f"{name}: {mount['source']}")
                    self.assertTrue(mount["read_only"], f"{name}: {mount['source']}")
                else:
                    self.assertIn(mount["source"], volumes)

    def test_images_are_of_one_version(self) -> None:
        for name, service in compose()["services"].items():
            if name != "sidelight":
                self.assertRegex(service["image"], r"^[a-z0-9./-]+:v?\d+\.?\d*", name)

    def test_sidelight_runs_as_in_a_cluster(self) -> None:
        service = compose()["services"]["sidelight"]
        self.assertTrue(service["read_only"])
        self.assertEqual((service["cap_drop"], service["security_opt"]), (["ALL"], ["no-new-privileges:true"]))
        self.assertNotIn("user", service)
        # Operators' addresses are open to this machine alone.
        published = {port["target"]: port.get("host_ip") for port in service["ports"]}
        self.assertEqual(published, {8080: None, 9090: "127.0.0.1", 9091: "127.0.0.1"})
        grace = int(re.fullmatch(r"(\d+)s", service["stop_grace_period"]).group(1))  # type: ignore[union-attr]
        self.assertGreater(grace, 30 + 5)

    def test_grafana_finds_what_it_is_given(self) -> None:
        service = compose()["services"]["grafana"]
        mounted = {mount["target"]: Path(mount["source"]) for mount in service["volumes"]}
        provisioning = mounted["/etc/grafana/provisioning"]
        source = yaml.safe_load((provisioning / "datasources" / "prometheus.yaml").read_text())["datasources"][0]
        prometheus = yaml.safe_load((FOLDER / "prometheus" / "prometheus.yml").read_text())
        self.assertEqual((source["type"], source["url"]), ("prometheus", "http://prometheus:9090"))
        self.assertEqual(source["jsonData"]["timeInterval"], prometheus["global"]["scrape_interval"])
        provider = yaml.safe_load((provisioning / "dashboards" / "sidelight.yaml").read_text())["providers"][0]
        dashboard = Path(service["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
        self.assertEqual(str(dashboard.parent), provider["options"]["path"])
        self.assertEqual(mounted[str(dashboard)].resolve(), kit.DASHBOARD)

    def test_the_collector_takes_what_is_sent(self) -> None:
        config = yaml.safe_load((FOLDER / "collector" / "config.yaml").read_text())
        self.assertEqual(config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].split(":")[1], "4318")
        for pipeline in config["service"]["pipelines"].values():
            for kind in ("receivers", "processors", "exporters"):
                self.assertLessEqual(set(pipeline[kind]), set(config[kind]))
        with_traces = compose(OTEL_EXPORTER_OTLP_ENDPOINT="http://collector:4318")["services"]["sidelight"]["environment"]
        self.assertEqual(with_traces["OTEL_EXPORTER_OTLP_ENDPOINT"], "http://collector:4318")

    def test_prometheus_takes_its_configuration(self) -> None:
        """With the rules where the compose file puts them."""
        folder = self.folder / "prometheus"
        folder.mkdir()
        for mount in compose()["services"]["prometheus"]["volumes"]:
            if mount["type"] == "bind":
                self.assertEqual(str(Path(mount["target"]).parent), "/etc/prometheus")
                (folder / Path(mount["target"]).name).write_text(Path(mount["source"]).read_text())
        said = kit.run([kit.tool("promtool"), "check", "config", folder / "prometheus.yml"])
        self.assertIn("rules found", said.stdout + said.stderr)


class Parts(kit.Case):
    """nginx, Redis, Prometheus and Sidelight, each on its own, with the mounts and commands of the file."""

    network: Network
    address: dict[str, str]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        services = compose()["services"]
        cls.network = network = Network(cls)
        cls.address = {name: network.join(name) for name in ("origin", "redis", "prometheus", "sidelight")}
        network.serve_names()
        cls.processes = {name: cls.member(name, services[name]) for name in cls.address}
        cls.processes["sidelight"].ready("answer of Sidelight", lambda: cls.get("sidelight", 9091, "/readyz")[0] == 200)
        cls.processes["prometheus"].ready("answer of Prometheus", lambda: cls.get("prometheus", 9090, "/-/ready")[0] == 200)

    @classmethod
    def member(cls, name: str, service: dict[str, Any]) -> kit.Process:
        mounts: dict[str, tuple[Path, str]] = {}
        for mount in service.get("volumes", []):
            source = Path(mount["source"]) if mount["type"] == "bind" else cls.folder / "volumes" / mount["source"]
            source.mkdir(parents=True, exist_ok=True) if mount["type"] != "bind" else None
            if name == "sidelight" and mount["type"] != "bind":
                # As Docker has it: a new volume is as the image's folder is there.
                os.chown(source, 65532, 65532)
            mounts[mount["target"]] = (source, "ro" if mount.get("read_only") else "rw")
        command = list(service.get("command") or [])
        user = "root"
        if name == "sidelight":
            mounts["/usr/bin/sidelight"] = (kit.binary(), "ro")
            command, user = ["/usr/bin/sidelight", *command], "65532:65532"
        else:
            program = PROGRAMS[service["image"].split(":")[0]]
            command = [*program, *command]
            command[0] = kit.tool(command[0])
        if name == "origin":
            # The image's own nginx.conf has this; Debian's has more.
            conf = cls.write("nginx.conf", "events {}\nhttp { include /etc/nginx/conf.d/*.conf; }\n")
            mounts["/etc/nginx/nginx.conf"] = (conf, "ro")
        environment = {key: value or "" for key, value in (service.get("environment") or {}).items()}
        return cls.network.run(name, command, mounts, environment, user)

    @classmethod
    def get(cls, name: str, port: int, path: str, *more: str) -> tuple[int, str]:
        said = cls.network.curl("--write-out", "\n%{http_code}", *more, f"http://{cls.address[name]}:{port}{path}", expect=None)
        body, _, code = said.rpartition("\n")
        return int(code or 0), body

    def test_a_request_through_all(self) -> None:
        status, body = self.get("sidelight", 8080, "/origin/a/path")
        self.assertEqual((status, body), (200, "This is nginx. I was asked: GET /a/path\n"))
        self.assertEqual(self.get("sidelight", 8080, "/hello?name=you"), (200, "Hello, you!\n"))
        self.assertEqual(self.get("sidelight", 8080, "/origin/broken")[0], 503)
        # By the cache: the second of two is a hit, but not of what is private.
        for path, second in (("/cached/once", "HIT"), ("/cached/private", "MISS")):
            self.get("sidelight", 8080, path)
            headers = self.get("sidelight", 8080, path, "--head", "--request", "GET")[1]
            self.assertRegex(headers, f"(?i)x-cache: {second}")
        self.assertRegex(self.processes["sidelight"].text(), r"(method|path)=.*/a/path")

    def test_redis_is_reached(self) -> None:
        kit.wait_for("Redis", lambda: 'sidelight_state_up{part="redis"} 1' in self.get("sidelight", 9091, "/metrics")[1])
        kit.wait_for("readiness without a but", lambda: self.get("sidelight", 9091, "/readyz")[1].strip() == "ok")

    def test_prometheus_sees_it(self) -> None:
        def targets() -> dict[str, str]:
            found = json.loads(self.get("prometheus", 9090, "/api/v1/targets")[1])["data"]["activeTargets"]
            return {target["labels"]["job"]: target["health"] for target in found}

        kit.wait_for("all targets up", lambda: targets() == {"sidelight": "up", "prometheus": "up"})
        self.get("sidelight", 8080, "/hello")

        def counted() -> bool:
            query = urllib.parse.quote('sum(sidelight_requests_total{service="demo",job="sidelight"})')
            result = json.loads(self.get("prometheus", 9090, f"/api/v1/query?query={query}")[1])["data"]["result"]
            return bool(result) and float(result[0]["value"][1]) > 0

        kit.wait_for("requests in Prometheus", counted)
        rules = json.loads(self.get("prometheus", 9090, "/api/v1/rules")[1])["data"]["groups"]
        self.assertGreater(len([rule for group in rules for rule in group["rules"]]), 10)

    def test_operators_reach_it_by_localhost(self) -> None:
        """As through the published port: the browser says `localhost`."""
        self.assertEqual(self.get("sidelight", 9090, "/inspector/", "--header", "host: localhost:9090")[0], 200)
        self.assertEqual(self.get("sidelight", 9090, "/status", "--header", "host: elsewhere.test")[0], 421)

    def test_the_configuration_is_checked(self) -> None:
        """By `sidelight check`, where it is mounted."""
        pid = self.processes["sidelight"].pid
        enter = [kit.tool("nsenter"), f"--target={pid}", "--mount", "--net", "--root", "--"]
        kit.run([*enter, "/usr/bin/sidelight", "check", "/etc/sidelight/sidelight.toml"])

    def test_health(self) -> None:
        """Docker's question, asked where Docker asks it."""
        test = compose()["services"]["sidelight"]["healthcheck"]["test"]
        self.assertEqual(test[0], "CMD")
        enter = [kit.tool("nsenter"), f"--target={self.processes['sidelight'].pid}", "--mount", "--net", "--root", "--"]
        kit.run([*enter, *test[1:]])
        kit.run([*enter, *test[1:-1], test[-1].replace("readyz", "elsewhere")], expect=1)

    def test_z_it_ends_in_time(self) -> None:
        process = self.processes["sidelight"]
        begun = time.monotonic()
        self.assertEqual(process.stop(patience=40), 0)
        self.assertLess(time.monotonic() - begun, 40)


if __name__ == "__main__":
    kit.unittest.main()
