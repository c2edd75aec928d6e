"""The load kit, against a real Sidelight."""

from __future__ import annotations

import json
import re
import socket
from pathlib import Path
from typing import Any

import yaml

import kit
import scenario

FOLDER = kit.DEPLOY / "load"
LOAD = FOLDER / "load.sh"

HOST = """\
listen = ["127.0.0.1:{http}"]
probes = "127.0.0.1:{probes}"
cache_dir = "{modules}"

[services.hello]
hosts = ["hello.test"]
module = "{guests}/hello.wasm"

[services.slow]
hosts = ["slow.test"]
module = "{guests}/passthrough.wasm"
backends.origin.url = "http://127.0.0.1:{origin}"
"""


class Origin(scenario.Origin):
    """Remembers a field."""

    seen: set[str | None] = set()

    def answer(self) -> None:
        Origin.seen.add(self.headers.get("x-field"))
        super().answer()

    do_GET = answer


class Load(kit.Case):
    ports: dict[str, int]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.ports = {name: kit.free_port() for name in ("http", "probes")}
        cls.ports["origin"] = scenario.serve(cls, Origin)
        modules = kit.TOOLS / "modules"
        modules.mkdir(parents=True, exist_ok=True)
        host = cls.write("sidelight.toml", HOST.format(guests=kit.GUESTS, modules=modules, **cls.ports))
        sidelight = cls.start("sidelight", [kit.binary(), "serve", host])
        sidelight.ready("answer of Sidelight", lambda: kit.request(cls.ports["probes"], "/readyz").status == 200)

    def load(self, *arguments: str, path: str = "/", expect: int | None = 0) -> dict[str, Any]:
        said = kit.run([LOAD, "--duration", "1s", *arguments, f"http://127.0.0.1:{self.ports['http']}{path}"], expect=expect)
        return dict(json.loads(said.stdout.splitlines()[-1]))

    def served(self, service: str) -> int:
        metrics = kit.request(self.ports["probes"], "/metrics").text
        return sum(int(count) for count in re.findall(rf'sidelight_requests_total{{.*service="{service}"}} (\d+)', metrics))

    def test_each_tool(self) -> None:
        for name, arguments in {
            "wrk": ["--tool", "wrk"],
            "h2load": ["--tool", "h2load"],
            "h2load and HTTP/2": ["--http2"],
        }.items():
            with self.subTest(name):
                before = self.served("hello")
                found = self.load(*arguments, "--connections", "8", "--host", "hello.test")
                there = self.served("hello") - before
                self.assertEqual(found["tool"], name.split()[0])
                self.assertEqual((found["ok"], found["error_percent"]), (True, 0))
                # What is in flight at the end, the tool does not count; the host does.
                self.assertGreater(found["requests"], 100)
                self.assertLessEqual(abs(there - found["requests"]), 16)
                self.assertTrue(0 < found["p50_ms"] <= found["p90_ms"] <= found["p99_ms"] <= found["max_ms"], found)
                self.assertLess(abs(found["requests_per_second"] - found["requests"]), found["requests"] * 0.2)

    def test_figures_are_right(self) -> None:
        """The origin takes 150 ms: so does each request, and eight connections make some fifty a second."""
        for tool in ("wrk", "h2load"):
            with self.subTest(tool):
                found = self.load("--tool", tool, "--connections", "8", "--duration", "2s", "--host", "slow.test", path="/slow")
                self.assertTrue(150 <= found["p50_ms"] < 300, found)
                self.assertTrue(20 <= found["requests_per_second"] <= 54, found)

    def test_a_rate(self) -> None:
        found = self.load("--rate", "200", "--connections", "10", "--duration", "3s", "--host", "hello.test")
        self.assertEqual(found["tool"], "h2load")
        self.assertTrue(150 <= found["requests_per_second"] <= 230, found)

    def test_bounds(self) -> None:
        for tool in ("wrk", "h2load"):
            with self.subTest(tool):
                slow = ("--tool", tool, "--connections", "4", "--host", "slow.test")
                self.assertFalse(self.load(*slow, "--max-p99", "100", path="/slow", expect=1)["ok"])
                self.assertTrue(self.load(*slow, "--max-p99", "20000", "--min-rate", "1", path="/slow")["ok"])
                self.assertFalse(self.load(*slow, "--min-rate", "1000", path="/slow", expect=1)["ok"])
                # No service of that name: 404 for each.
                nobody = ("--tool", tool, "--connections", "4", "--host", "nobody.test")
                found = self.load(*nobody, "--max-errors", "1", expect=1)
                self.assertEqual((found["ok"], found["error_percent"]), (False, 100))

    def test_fields(self) -> None:
        for tool in ("wrk", "h2load"):
            Origin.seen.clear()
            self.load("--tool", tool, "--connections", "1", "--header", f"x-field: by {tool}", "--host", "slow.test")
            self.assertEqual(Origin.seen, {f"by {tool}"})

    def test_a_service_that_hangs(self) -> None:
        """What is not answered in time is an error, and the tool ends."""
        for tool in ("wrk", "h2load"):
            with self.subTest(tool), socket.create_server(("127.0.0.1", 0)) as listener:
                port = listener.getsockname()[1]
                said = kit.run([LOAD, "--tool", tool, "--connections", "2", "--duration", "1s", f"http://127.0.0.1:{port}/"], expect=None, timeout=60)
                self.assertIn(said.returncode, (1, 3), said)

    def test_nobody_there(self) -> None:
        for tool in ("wrk", "h2load"):
            kit.run([LOAD, "--tool", tool, "--duration", "1s", f"http://127.0.0.1:{kit.free_port()}/"], expect=3)

    def test_arguments(self) -> None:
        self.assertIn("--max-p99 MS", kit.run([LOAD, "--help"]).stdout)
        for arguments in (
            ["--rates", "1", "http://a/"],
            ["ftp://a/"],
            [],
            ["--duration", "soon", "http://a/"],
            ["--tool", "wrk", "--rate", "10", "http://a/"],
            ["--rate", "1", "--connections", "10", "http://a/"],
            ["--max-p99", "fast", "http://a/"],
            ["--host"],
        ):
            with self.subTest(arguments):
                kit.run([LOAD, *arguments], expect=2)


class Job(kit.Case):
    def test_kustomize_makes_it(self) -> None:
        made = list(yaml.safe_load_all(kit.run([kit.tool("kubectl"), "kustomize", FOLDER / "job"]).stdout))
        self.assertEqual([one["kind"] for one in made], ["Job"])
        rendered = self.write("job.yaml", yaml.safe_dump_all(made))
        kit.run([kit.TOOLS / "venv" / "bin" / "kubernetes-validate", "--kubernetes-version", "1.33", "--strict", rendered])
        wrong = self.write("wrong.yaml", rendered.read_text().replace("backoffLimit", "backOffLimit"))
        kit.run([kit.TOOLS / "venv" / "bin" / "kubernetes-validate", "--kubernetes-version", "1.33", "--strict", wrong], expect=1)
        # The command line of the Job is one that load.sh takes: with a name that leads nowhere, it is the load that fails.
        container = made[0]["spec"]["template"]["spec"]["containers"][0]
        kit.run([LOAD, *container["args"][:-1], "--duration", "1s", "http://127.0.0.1:9/"], expect=3)
        self.assertNotIn("command", container)
        self.assertIn(f'ENTRYPOINT ["/usr/local/bin/{LOAD.name}"]', (FOLDER / "Dockerfile").read_text())

    def test_the_dockerfile(self) -> None:
        kit.run([kit.TOOLS / "venv" / "bin" / "hadolint", "--failure-threshold", "style", FOLDER / "Dockerfile"])


class Shell(kit.Case):
    def test_scripts(self) -> None:
        scripts = [path for path in [*kit.DEPLOY.rglob("*.sh"), *Path(__file__).parent.glob("*.sh")]]
        self.assertGreaterEqual(len(scripts), 3)
        kit.run([kit.tool("shellcheck"), *scripts])


if __name__ == "__main__":
    kit.unittest.main()
