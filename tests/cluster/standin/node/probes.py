"""Probes and hooks."""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
from collections.abc import Callable

from ..api.model import Obj
from .runtime import Container


def port_number(port: int | str, container: Obj) -> int:
    if isinstance(port, int) or port.isdigit():
        return int(port)
    return next(int(p["containerPort"]) for p in container.get("ports") or [] if p.get("name") == port)


def attempt(handler: Obj, container: Obj, address: str, timeout: float, run: Container) -> tuple[bool, str]:
    """Whether it went well, and what is to be said if not."""
    try:
        if "httpGet" in handler:
            return _get(handler["httpGet"], container, address, timeout)
        if "tcpSocket" in handler:
            port = port_number(handler["tcpSocket"]["port"], container)
            socket.create_connection((handler["tcpSocket"].get("host") or address, port), timeout).close()
            return True, ""
        if "exec" in handler:
            code, out = run.execute(handler["exec"]["command"], timeout)
            return code == 0, out.strip() or f"exit code {code}"
    except (OSError, http.client.HTTPException, StopIteration) as e:
        return False, f"{type(e).__name__}: {e}"
    return False, f"a probe by {sorted(handler)} is not known here"


def _get(spec: Obj, container: Obj, address: str, timeout: float) -> tuple[bool, str]:
    host, port = spec.get("host") or address, port_number(spec["port"], container)
    if spec.get("scheme") == "HTTPS":
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(host, port, timeout=timeout, context=context)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    headers = {"User-Agent": "kube-probe/1.35", "Connection": "close", "Accept": "*/*"}
    headers.update({h["name"]: h["value"] for h in spec.get("httpHeaders") or []})
    try:
        connection.request("GET", spec.get("path") or "/", headers=headers)
        response = connection.getresponse()
        response.read(10 << 10)
        if 200 <= response.status < 400:
            return True, ""
        return False, f"HTTP probe failed with statuscode: {response.status}"
    finally:
        connection.close()


class Prober(threading.Thread):
    """One probe of one run of a container, until it is stopped. `speed`: how much sooner than the manifest says it is done again."""

    def __init__(
        self,
        probe: Obj,
        container: Obj,
        address: str,
        run: Container,
        speed: float,
        tell: Callable[[bool, str], None],
        initially: bool | None,
        patient: bool = False,
    ) -> None:
        super().__init__(daemon=True, name=f"probe-{container['name']}")
        self.probe, self.container, self.address, self.run_ = probe, container, address, run
        self.speed, self.tell, self.result = speed, tell, initially
        # Those whose failure costs the container its life are as patient as the manifest says, whatever the speed.
        self.patient = patient
        self.stopping = threading.Event()

    def run(self) -> None:
        if self.stopping.wait(self.probe.get("initialDelaySeconds", 0) / self.speed):
            return
        good = bad = 0
        while not self.stopping.is_set():
            began = time.monotonic()
            ok, why = attempt(self.probe, self.container, self.address, self.probe["timeoutSeconds"], self.run_)
            if self.stopping.is_set():
                return
            good, bad = (good + 1, 0) if ok else (0, bad + 1)
            if ok and good >= self.probe["successThreshold"] and self.result is not True:
                self.result = True
                self.tell(True, "")
            elif not ok and bad >= self.probe["failureThreshold"] * (self.speed if self.patient else 1) and self.result is not False:
                self.result = False
                self.tell(False, why)
            if self.stopping.wait(max(self.probe["periodSeconds"] / self.speed - (time.monotonic() - began), 0.02)):
                return


def hook(handler: Obj, container: Obj, address: str, run: Container, timeout: float, hurry: threading.Event) -> str:
    """Runs preStop or postStart; what went wrong, if anything."""
    if "sleep" in handler:
        # Ends early when the container does.
        end = time.monotonic() + min(handler["sleep"]["seconds"], timeout)
        while time.monotonic() < end and run.process.poll() is None and not hurry.wait(0.02):
            pass
        return ""
    ok, why = attempt(handler, container, address, timeout, run)
    return "" if ok else why
