"""What the tests of the operations kit share: where things are, processes that end with their test, requests, waiting."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
GUESTS = ROOT / "tests" / "guests" / "out" / "rust"
TOOLS = ROOT / "target" / "tools" / "kit"
DASHBOARD = ROOT / "charts" / "sidelight" / "files" / "dashboard.json"

# How long anything may take before a test gives up. Not a claim about speed.
PATIENCE = 60.0

T = TypeVar("T")


def binary() -> Path:
    """The binary to test."""
    named = os.environ.get("SIDELIGHT_BIN")
    if named:
        return Path(named).resolve()
    for profile in ("release", "debug"):
        path = ROOT / "target" / profile / "sidelight"
        if path.exists():
            return path
    raise FileNotFoundError("no binary: SIDELIGHT_BIN, target/release/sidelight or target/debug/sidelight")


def guest(name: str) -> Path:
    """A compiled Rust guest of tests/guests."""
    path = GUESTS / f"{name}.wasm"
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there: tests/guests/build.sh rust")
    return path


def tool(name: str) -> str:
    """A program of the system; its absence fails the test, since a check that is left out is not a check."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found is None:
        raise FileNotFoundError(f"{name} is not there: tests/kit/run.sh names the Debian packages")
    return found


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for(what: str, probe: Callable[[], T | None], patience: float = PATIENCE, pause: float = 0.1) -> T:
    """The first answer of `probe` that is true. What it raises for want of a listener counts as no answer."""
    deadline = time.monotonic() + patience
    last: object = None
    while time.monotonic() < deadline:
        try:
            last = found = probe()
            if found:
                return found
        except (OSError, http.client.HTTPException, ValueError) as error:
            last = error
        time.sleep(pause)
    raise TimeoutError(f"no {what} within {patience:.0f} s: {last!r}")


class Answer:
    """A response with its whole body."""

    def __init__(self, status: int, fields: http.client.HTTPMessage, body: bytes) -> None:
        self.status = status
        self.fields = fields
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"{self.status} {self.text[:300]!r}"


def request(
    port: int,
    path: str,
    method: str = "GET",
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    address: str = "127.0.0.1",
    timeout: float = 30.0,
) -> Answer:
    connection = http.client.HTTPConnection(address, port, timeout=timeout)
    try:
        connection.request(method, path, body=body, headers=dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read())
    finally:
        connection.close()


class Process:
    """A process with its output in a file."""

    def __init__(self, name: str, command: Sequence[str | Path], folder: Path, **more: Any) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        with self.log.open("ab") as out:
            more.setdefault("stdin", subprocess.DEVNULL)
            self.child = subprocess.Popen([str(word) for word in command], stdout=out, stderr=subprocess.STDOUT, **more)

    @property
    def pid(self) -> int:
        return self.child.pid

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def ready(self, what: str, probe: Callable[[], T | None]) -> T:
        """Waits for `probe`, and not for longer than the process lives."""

        def alive() -> T | None:
            if self.child.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.child.returncode}:\n{self.text()[-4000:]}")
            return probe()

        try:
            return wait_for(what, alive)
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.name} said:\n{self.text()[-4000:]}") from error

    def send(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, patience: float = 20.0) -> int:
        """Ends it; the exit code."""
        if self.child.poll() is None:
            self.child.send_signal(number)
            try:
                self.child.wait(patience)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait(patience)
        return self.child.returncode


class Case(unittest.TestCase):
    """A test case with a folder and processes of its own, which go with it. Longer messages than unittest's."""

    maxDiff = None
    folder: Path
    _processes: list[Process]

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        temporary = tempfile.TemporaryDirectory(prefix="sidelight-kit-", ignore_cleanup_errors=True)
        cls.addClassCleanup(temporary.cleanup)
        cls.folder = Path(temporary.name)
        cls._processes = []
        cls.addClassCleanup(cls._end)

    @classmethod
    def _end(cls) -> None:
        for process in reversed(cls._processes):
            process.stop(patience=5.0)

    @classmethod
    def start(cls, name: str, command: Sequence[str | Path], folder: Path | None = None, **more: Any) -> Process:
        process = Process(name, command, folder or cls.folder, **more)
        cls._processes.append(process)
        return process

    @classmethod
    def write(cls, name: str, text: str) -> Path:
        path = cls.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


def run(command: Sequence[str | Path], expect: int | None = 0, **more: Any) -> subprocess.CompletedProcess[str]:
    """Runs a command to its end. Another exit code than `expect` raises, with everything that was said."""
    more.setdefault("timeout", 300)
    more.setdefault("stdin", subprocess.DEVNULL)
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **more)
    if expect is not None and done.returncode != expect:
        words = " ".join(str(word) for word in command)
        raise AssertionError(f"{words}: exit code {done.returncode} and not {expect}\n{done.stdout}\n{done.stderr}")
    return done
