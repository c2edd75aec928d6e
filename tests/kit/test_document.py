"""The commands of docs/deploy.md that need no cluster, as a reader would type them: on a machine of its own."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import kit
from machine import Machine

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import documents  # noqa: E402


class Document(kit.Case):
    machine: Machine
    checkout: Path
    program: Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        # Within the project, which the machine sees; its /tmp begins empty.
        home = kit.TOOLS / f"document-{os.getpid()}"
        cls.addClassCleanup(shutil.rmtree, home)
        cls.program, binary = home / "program", home / "sidelight"
        (cls.program / "bin").mkdir(parents=True)
        (cls.program / "bin" / "main.wasm").write_bytes(kit.guest("hello").read_bytes())
        (cls.program / "fastly.toml").write_text('manifest_version = 3\nname = "shop"\n')
        shutil.copy(kit.binary(), binary)
        cls.checkout = documents.checkout(home / "checkout", binary)
        cls.machine = Machine(cls)

    def do(self, name: str, path: str) -> str:
        script = documents.script(documents.blocks()[name], {"SIDELIGHT": str(self.checkout)})
        return self.machine.shell(f"cd {self.program}\nexport PATH={path}\n{script}")

    SYSTEM = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

    def test_laptop(self) -> None:
        # A reader has the binary somewhere on the path.
        self.machine.install(kit.binary(), "/opt/sidelight/bin/sidelight", 0o755)
        said = self.do("laptop", f"/opt/sidelight/bin:{self.SYSTEM}")
        self.assertIn("Hello, world!", said)
        self.assertIn('"generation"', said)
        there = self.machine.run("ls", "/root/.local/share/bash-completion/completions", "/root/.local/share/man/man1").stdout
        self.assertIn("sidelight-serve.1", there)

    def test_machine(self) -> None:
        said = self.do("machine", self.SYSTEM)
        self.assertIn("Hello, world!", said)
        self.assertIn("active (running)", said)
        self.assertIn("configuration in force", said)
        self.assertEqual(self.machine.run("systemctl", "is-active", "sidelight", expect=None).stdout.strip(), "inactive")

    def test_image(self) -> None:
        """It needs git and cargo, so that it runs on this machine; what it makes is looked at in test_image.py."""
        script = documents.script(documents.blocks()["image"], {"SIDELIGHT": str(self.checkout), "SOURCE_DATE_EPOCH": "1767225600"})
        said = kit.run(["bash", "-c", script.replace("/tmp/sidelight-image", str(self.folder / "sidelight-image"))], env=dict(os.environ))
        self.assertRegex(said.stdout, r"digest sha256:[0-9a-f]{64}\n")


if __name__ == "__main__":
    kit.unittest.main()
