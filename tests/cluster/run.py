"""Runs the tests of this folder in a cluster of their own: run.py [WORD …] (only tests with one of the words in their names).

Classes run side by side, since most of their time is waiting."""

from __future__ import annotations

import concurrent.futures
import os
import sys
import threading
import time
import traceback
import unittest
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from standin import namespaces  # noqa: E402


Exc = Any  # What sys.exc_info() has.


class Result(unittest.TestResult):
    """A result that says a line for each test as it ends."""

    lock = threading.Lock()

    def __init__(self) -> None:
        super().__init__()
        self.passed = 0
        self.began: dict[unittest.TestCase, float] = {}

    def startTest(self, test: unittest.TestCase) -> None:
        super().startTest(test)
        self.began[test] = time.monotonic()

    def _say(self, test: unittest.TestCase, how: str, why: str = "") -> None:
        seconds = time.monotonic() - self.began.get(test, time.monotonic())
        with self.lock:
            print(f"{how:6} {seconds:5.1f} s  {test.id()}", flush=True)
            if why:
                print("\n".join("    " + line for line in why.rstrip().splitlines()), flush=True)

    def addSuccess(self, test: unittest.TestCase) -> None:
        self.passed += 1
        self._say(test, "ok")

    def addFailure(self, test: unittest.TestCase, err: Exc) -> None:
        super().addFailure(test, err)
        self._say(test, "FAILED", self.failures[-1][1])

    def addError(self, test: unittest.TestCase, err: Exc) -> None:
        super().addError(test, err)
        self._say(test, "FAILED", self.errors[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self._say(test, "left out", reason)


def classes(suite: unittest.TestSuite, words: list[str]) -> list[list[unittest.TestCase]]:
    """Tests by class, those that take longest first."""
    found: dict[type, list[unittest.TestCase]] = {}

    def collect(part: unittest.TestSuite | unittest.TestCase) -> None:
        if isinstance(part, unittest.TestCase):
            if not words or any(w.lower() in part.id().lower() for w in words):
                found.setdefault(type(part), []).append(part)
        else:
            for p in part:
                collect(p)

    collect(suite)
    return [found[c] for c in sorted(found, key=lambda c: getattr(c, "order", 0), reverse=True)]


def run_class(tests: list[unittest.TestCase]) -> Result:
    result = Result()
    unittest.TestSuite(tests).run(result)
    return result


def main() -> int:
    began = time.monotonic()
    from kit import harness

    loader = unittest.TestLoader()
    suite = loader.discover(str(HERE), pattern="test_*.py", top_level_dir=str(HERE))
    if loader.errors:
        print("\n".join(map(str, loader.errors)), file=sys.stderr)
        return 1
    chosen = classes(suite, sys.argv[1:])
    results: list[Result] = []
    try:
        harness.world()
        with concurrent.futures.ThreadPoolExecutor(int(os.environ.get("CLUSTER_JOBS", "4"))) as pool:
            for done in pool.map(run_class, chosen):
                results.append(done)
    except Exception:
        traceback.print_exc()
        print("0 passed, 1 failed")
        return 1
    finally:
        harness.end_world()
    failed = sum(len(r.failures) + len(r.errors) for r in results)
    skipped = sum(len(r.skipped) for r in results)
    passed = sum(r.passed for r in results)
    print(f"cluster: {time.monotonic() - began:.0f} s" + (f", {skipped} left out" if skipped else ""))
    print(f"{passed} passed, {failed} failed")
    return 1 if failed or not passed else 0


if __name__ == "__main__":
    namespaces.enter()
    sys.exit(main())
