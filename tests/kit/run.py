"""Runs the tests and counts them: the last line is `N passed, N failed`."""

from __future__ import annotations

import sys
import time
import unittest
from pathlib import Path

HERE = Path(__file__).parent


class Result(unittest.TextTestResult):
    """A line for each test, with its time. A subtest that fails makes its test one that failed."""

    def startTest(self, test: unittest.TestCase) -> None:
        self.begun = time.monotonic()
        super().startTest(test)

    def stopTest(self, test: unittest.TestCase) -> None:
        super().stopTest(test)
        self.stream.writeln(f"    {time.monotonic() - self.begun:.1f} s")


def main() -> int:
    loader = unittest.TestLoader()
    names = sys.argv[1:] or sorted(path.stem for path in HERE.glob("test_*.py"))
    suite = loader.loadTestsFromNames(names)
    begun = time.monotonic()
    result = unittest.TextTestRunner(verbosity=2, resultclass=Result).run(suite)
    bad = {str(test).split(" [")[0].split(" (")[0] + str(getattr(test, "test_case", test).__class__) for test, _ in [*result.failures, *result.errors]}
    failed = len(bad) + len(result.unexpectedSuccesses) + len(result.skipped)
    print(f"{time.monotonic() - begun:.0f} s", flush=True)
    # What is left out is not passed, either.
    print(f"{max(result.testsRun - failed, 0)} passed, {failed} failed", flush=True)
    return 1 if failed or not result.testsRun else 0


if __name__ == "__main__":
    sys.exit(main())
