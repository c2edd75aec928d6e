"""The unit for systemd, run by a real one."""

from __future__ import annotations

import re
import subprocess
import threading
from pathlib import Path

import kit
from machine import Machine

UNITS = kit.DEPLOY / "systemd"


class Service(kit.Case):
    machine: Machine

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        cls.machine = machine = Machine(cls)
        # As docs/deploy.md has it; the configuration is the example, with a program and a store.
        machine.install(kit.binary(), "/usr/bin/sidelight", 0o755)
        machine.shell(f"""
            install -D -m 644 {UNITS}/sysusers.conf /usr/lib/sysusers.d/sidelight.conf
            install -D -m 644 {UNITS}/sidelight.service /etc/systemd/system/sidelight.service
            install -D -m 644 {UNITS}/sidelight.toml /etc/sidelight/sidelight.toml
            install -D -m 644 {kit.guest("behaviours")} /etc/sidelight/shop/bin/main.wasm
            install -D -m 644 {kit.guest("stores")} /etc/sidelight/stores.wasm
            systemd-sysusers
            systemctl daemon-reload
        """)
        cls.put("shop/fastly.toml", 'manifest_version = 3\nname = "shop"\n')
        cls.example = (UNITS / "sidelight.toml").read_text() + cls.stores()
        cls.put("sidelight.toml", cls.example)

    @classmethod
    def stores(cls) -> str:
        return '\n[services.stores]\nhosts = ["stores.test"]\nmodule = "stores.wasm"\nkv_stores.fruit = [{ key = "apple", data = "red" }]\n'

    @classmethod
    def put(cls, name: str, text: str) -> None:
        cls.machine.run("tee", f"/etc/sidelight/{name}", stdin=None, input=text)

    def setUp(self) -> None:
        self.put("sidelight.toml", self.example)
        self.machine.run("systemctl", "reset-failed")
        self.machine.run("systemctl", "enable", "--now", "sidelight")
        self.addCleanup(self.machine.run, "systemctl", "stop", "sidelight")
        self.ready()

    def ready(self) -> None:
        kit.wait_for("answer of Sidelight", lambda: self.code("http://127.0.0.1:9091/readyz") == "200")

    def code(self, *arguments: str) -> str:
        command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code}", "--max-time", "20", *arguments]
        return self.machine.run(*command, expect=None).stdout

    def show(self, name: str) -> str:
        return self.machine.run("systemctl", "show", "--value", f"--property={name}", "sidelight").stdout.strip()

    def journal(self) -> str:
        """What this start's process has said."""
        invocation = self.show("InvocationID")
        return self.machine.run("journalctl", f"_SYSTEMD_INVOCATION_ID={invocation}", "--no-pager", "--output=cat").stdout

    def test_it_serves(self) -> None:
        machine = self.machine
        self.assertEqual(self.code("-H", "host: shop.example.com", "http://127.0.0.1/synthetic"), "418")
        self.assertEqual(self.code("-H", "host: elsewhere.test", "http://127.0.0.1/"), "404")
        self.assertEqual(machine.curl("-H", "host: stores.test", "http://127.0.0.1/kv?store=fruit&key=apple"), "red")
        self.assertIn("active (running)", machine.run("systemctl", "status", "--no-pager", "sidelight").stdout)
        self.assertIn("Listening on http://0.0.0.0:80", self.journal())
        # What it looks at of /proc is there: each metric of the process has a value.
        scraped = machine.curl("http://127.0.0.1:9091/metrics")
        documented = re.findall(r"`(process_\w+)`", kit.run([kit.binary(), "metrics", "--docs"]).stdout)
        self.assertGreater(len(documented), 5)
        for name in documented:
            self.assertRegex(scraped, rf"(?m)^{name} (?!0$)\d", name)
        # Nothing was refused that it would have liked to do.
        self.assertNotRegex(self.journal(), "(?i)WARN|ERROR|not permitted|denied")

    def test_the_start_is_done_when_it_serves(self) -> None:
        """Without a moment in between."""
        for _ in range(3):
            self.machine.run("systemctl", "restart", "sidelight")
            self.assertEqual(self.code("-H", "host: shop.example.com", "http://127.0.0.1/synthetic"), "418")

    def test_what_it_may(self) -> None:
        pid = self.show("MainPID")
        status = self.machine.run("cat", f"/proc/{pid}/status").stdout
        values = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
        uid = self.machine.run("id", "-u", "sidelight").stdout.strip()
        self.assertEqual(set(values["Uid"].split()), {uid})
        # To bind ports below 1024, and nothing else.
        self.assertEqual({int(values[name], 16) for name in ("CapEff", "CapPrm", "CapBnd", "CapAmb")}, {1 << 10})
        self.assertEqual((values["NoNewPrivs"], values["Seccomp"]), ("1", "2"))
        # Threads that compute stand back behind those that serve.
        stats = self.machine.run("sh", "-c", f"cat /proc/{pid}/task/*/stat").stdout.splitlines()
        nice = {stat[stat.index("(") + 1 : stat.rindex(")")]: int(stat[stat.rindex(")") + 2 :].split()[16]) for stat in stats}
        self.assertEqual((nice["heavy guests"], nice["compiling"]), (10, 10))
        self.assertEqual({value for name, value in nice.items() if name.startswith("sidelight")}, {0})
        # Tried as that user among that process's mounts. /run/lock is everybody's.
        setpriv = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all"]
        find = ["find", "/", "-maxdepth", "4", "-type", "d", "(", "-path", "/proc", "-o", "-path", "/dev", ")", "-prune", "-o", "-type", "d", "-writable", "-prune", "-print"]
        places = self.machine.run("nsenter", f"--target={pid}", "--mount", "--root", *setpriv, *find, expect=None).stdout
        self.assertEqual(
            set(places.splitlines()),
            {"/run/lock", "/run/sidelight", "/tmp", "/var/cache/sidelight", "/var/lib/sidelight", "/var/tmp"},
        )
        owners = self.machine.run("stat", "--format=%U %a %n", "/var/lib/sidelight", "/var/cache/sidelight", "/run/sidelight", "/etc/sidelight").stdout
        self.assertEqual(
            owners.splitlines(),
            ["sidelight 700 /var/lib/sidelight", "sidelight 700 /var/cache/sidelight", "sidelight 755 /run/sidelight", "root 755 /etc/sidelight"],
        )
        self.assertTrue(self.machine.run("ls", "/var/cache/sidelight/programs").stdout)
        self.assertIn(".redb", self.machine.run("ls", "/var/lib/sidelight").stdout)

    def test_reload(self) -> None:
        pid = self.show("MainPID")
        self.put("sidelight.toml", self.example.replace("shop.example.com", "store.example.com"))
        self.machine.run("systemctl", "reload", "sidelight")
        kit.wait_for("the new host", lambda: self.code("-H", "host: store.example.com", "http://127.0.0.1/synthetic") == "418")
        # What cannot be used changes nothing, and says why.
        self.put("sidelight.toml", self.example.replace('manifest = "shop/fastly.toml"', "manifest = 7"))
        self.machine.run("systemctl", "reload", "sidelight")
        kit.wait_for("the fault in the journal", lambda: re.search(r"sidelight\.toml:\d+:\d+: expected a string", self.journal()))
        self.assertEqual(self.code("-H", "host: store.example.com", "http://127.0.0.1/synthetic"), "418")
        self.assertEqual((self.show("MainPID"), self.show("ActiveState")), (pid, "active"))

    def test_a_crash(self) -> None:
        pid = self.show("MainPID")
        self.machine.run("kill", "-KILL", pid)
        kit.wait_for("another process", lambda: self.show("MainPID") not in (pid, "0"))
        self.ready()
        self.assertEqual(self.show("NRestarts"), "1")

    def test_a_start_that_cannot_be(self) -> None:
        self.machine.run("systemctl", "stop", "sidelight")
        self.put("sidelight.toml", "[services.shop]\nmodule = 7\n")
        self.machine.run("systemctl", "start", "sidelight", expect=None)
        kit.wait_for("end of the attempt", lambda: self.show("ActiveState") == "failed")
        self.assertEqual((self.show("ExecMainStatus"), self.show("NRestarts")), ("3", "0"))
        self.assertRegex(self.machine.run("systemctl", "status", "--no-pager", "sidelight", expect=3).stdout, r"sidelight\.toml:2:10")

    def test_what_is_in_flight_at_the_end(self) -> None:
        answers: list[subprocess.CompletedProcess[str]] = []
        arguments = ["curl", "--silent", "--max-time", "20", "-H", "host: shop.example.com", "http://127.0.0.1/stream?n=10&ms=150"]
        client = threading.Thread(target=lambda: answers.append(self.machine.run(*arguments)))
        client.start()
        kit.wait_for("the request", lambda: "\nsidelight_requests_in_flight 1" in self.machine.curl("http://127.0.0.1:9091/metrics"))
        self.machine.run("systemctl", "stop", "sidelight")
        client.join(30)
        self.assertEqual(answers[0].stdout.splitlines()[-1], "piece 9")
        self.assertEqual((self.show("Result"), self.show("ExecMainStatus")), ("success", "0"))

    def test_memory_that_is_written_and_executed(self) -> None:
        """The unit says that this must be allowed. It must."""
        drop_in = "/run/systemd/system/sidelight.service.d/memory.conf"
        self.machine.shell(f'mkdir -p {Path(drop_in).parent}; printf "[Service]\\nMemoryDenyWriteExecute=yes\\n" >{drop_in}; systemctl daemon-reload')
        self.addCleanup(self.machine.shell, f"rm {drop_in}; systemctl daemon-reload")
        self.machine.run("systemctl", "restart", "sidelight", expect=None)
        kit.wait_for("end of the attempt", lambda: self.show("ActiveState") in ("failed", "activating") and self.show("ExecMainStatus") != "0")

    def test_verified(self) -> None:
        said = self.machine.run("systemd-analyze", "verify", "sidelight.service")
        self.assertEqual(said.stdout + said.stderr, "")

    def test_exposure(self) -> None:
        """Of ten points, less than two; a unit that says nothing has more than nine."""
        unit = UNITS / "sidelight.service"
        kit.run(["systemd-analyze", "security", "--offline=yes", "--threshold=15", unit])
        bare = self.write("bare.service", "[Service]\nExecStart=/usr/bin/true\n")
        kit.run(["systemd-analyze", "security", "--offline=yes", "--threshold=15", bare], expect=1)

    def test_time_to_stop(self) -> None:
        """The service has longer to end than its requests."""
        text = (UNITS / "sidelight.service").read_text()
        stop = int(re.findall(r"TimeoutStopSec=(\d+)s", text)[0])
        drain = int(re.findall(r'drain_timeout = "(\d+)s"', (UNITS / "sidelight.toml").read_text())[0])
        self.assertGreater(stop, drain + 5)


if __name__ == "__main__":
    kit.unittest.main()
