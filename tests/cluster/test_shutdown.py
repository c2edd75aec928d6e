"""The end of a Pod: what is in flight is answered, as long as there is time."""

from __future__ import annotations

import threading
import time

from kit.harness import Answer, Case, module
from kit.values import merged, passthrough, registry


class Shutdown(Case):
    order = 7

    def _slow(self, name: str, ms: int, values: dict[str, object]) -> tuple[str, list[Answer | Exception], threading.Thread]:
        """A release whose only Pod has a request in flight that takes `ms`."""
        self.with_registry()
        self.world.registry.push("shutdown/passthrough", "1", module("rust/passthrough.wasm"))
        self.install(name, merged(registry("shutdown/passthrough", "1"), passthrough(self.world.origin.url), values))
        url = self.url(f"{name}-sidelight", f"/slow?ms={ms}")
        self.until(lambda: self.ask(self.url(f"{name}-sidelight", "/warm")).status == 200, "it serves")
        got: list[Answer | Exception] = []

        def ask() -> None:
            try:
                got.append(self.ask(url, timeout=30))
            except Exception as e:
                got.append(e)

        thread = threading.Thread(target=ask)
        thread.start()
        pod = self.until(
            lambda: next((p for p in self.proxies() if self.metric(p, "sidelight_requests_in_flight") >= 1), None),
            "the request is in flight",
        )
        return pod["metadata"]["name"], got, thread

    def test_answered_in_time(self) -> None:
        pod, got, thread = self._slow("a", 4000, {"preStopSleepSeconds": 1, "drainTimeout": "20s"})
        began = time.monotonic()
        self.kubectl("delete", "pod", pod)
        took = time.monotonic() - began
        thread.join()
        assert isinstance(got[0], Answer), got
        self.assertEqual((got[0].status, got[0].body), (200, "origin /slow?ms=4000\n"))
        self.assertEqual(self.exit_codes(pod, "sidelight"), [0])
        self.assertLess(took, 12, "it ends when the last request has, and waits for no time limit")

    def test_cut_off_by_the_drain_timeout(self) -> None:
        pod, got, thread = self._slow("a", 9000, {"preStopSleepSeconds": 0, "drainTimeout": "2s"})
        began = time.monotonic()
        self.kubectl("delete", "pod", pod)
        self.assertLess(time.monotonic() - began, 6)
        thread.join()
        self.assertFalse(isinstance(got[0], Answer) and got[0].status == 200, got)
        self.assertEqual(self.exit_codes(pod, "sidelight"), [6])

    def test_killed_when_the_grace_period_ends(self) -> None:
        pod, got, thread = self._slow("a", 12000, {"preStopSleepSeconds": 0, "drainTimeout": "20s"})
        began = time.monotonic()
        self.kubectl("delete", "pod", pod, "--grace-period=3")
        took = time.monotonic() - began
        self.assertGreater(took, 2.5)
        self.assertLess(took, 8)
        thread.join()
        self.assertIsInstance(got[0], Exception)
        self.assertEqual(self.exit_codes(pod, "sidelight"), [137])

    def test_not_sent_more_while_it_ends(self) -> None:
        """After the sleep, the Service does not lead there any more: that is what the sleep is for."""
        pod, got, thread = self._slow("a", 3000, {"preStopSleepSeconds": 2, "replicas": 2})
        url = self.url("a-sidelight", "/load")
        with self.load(url) as load:
            self.kubectl("delete", "pod", pod)
            thread.join()
        self.unharmed(load, "origin /load")
        assert isinstance(got[0], Answer), got
        self.assertEqual(got[0].status, 200)
