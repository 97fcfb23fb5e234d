"""A pytest plugin that reports, for each test, how it ended and which lines of the module under repair it ran.

It is copied beside the tests of every trial and reads its orders from the environment. It also holds the limits
that must work when nobody is watching: a test that spins is failed after some seconds of processor time, and the
whole process ends by itself even when the program that started it was killed.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Generator
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

REPORT = Path(os.environ["FIXING_REPORT"])
TARGET = os.environ.get("FIXING_TRACE", "")
TEST_SECONDS = float(os.environ["FIXING_TEST_SECONDS"])
RUN_SECONDS = float(os.environ["FIXING_RUN_SECONDS"])
MEMORY_BYTES = 4 * 2**30

outcomes: dict[str, str] = {}
seconds: dict[str, float] = {}
imported: set[int] = set()
lines: dict[str, set[int]] = {}
running = [imported]  # the set that takes the lines run now


def _limit_process() -> None:
    """Let the kernel end this process in any case: a candidate may eat memory or hang inside C code."""
    if sys.platform == "win32":
        return
    import resource

    # SIGALRM keeps its default action: the kernel kills, whatever Python is doing. CPU-time signals, in contrast,
    # are handled below; processor time is the same on a busy machine, so scores do not depend on its load.
    signal.alarm(int(RUN_SECONDS) + 1)
    signal.signal(signal.SIGPROF, _stop_test)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _stop_test(_signal: int, _frame: FrameType | None) -> None:
    pytest.fail(f"stopped after {TEST_SECONDS} s of processor time", pytrace=False)


def _arm(after: float) -> None:
    if sys.platform != "win32":
        # The interval fires again and again, in case the code under test swallowed the first signal.
        signal.setitimer(signal.ITIMER_PROF, after, after)


def _trace() -> None:
    if TARGET:
        sys.settrace(_tracer)


def _tracer(frame: FrameType, event: str, _value: object) -> Any:
    if frame.f_code.co_filename != TARGET:
        return None
    if event == "line":
        running[0].add(frame.f_lineno)
    return _tracer


_limit_process()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Watch the imports too: a wrong constant at module level runs before any test does."""
    _trace()
    try:
        return (yield)
    finally:
        sys.settrace(None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Run one test under its limit, noting its time and its lines."""
    running[0] = lines.setdefault(item.nodeid, set())
    _trace()
    began = time.process_time()
    _arm(TEST_SECONDS)
    try:
        return (yield)
    finally:
        _arm(0)
        sys.settrace(None)
        seconds[item.nodeid] = time.process_time() - began
        running[0] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Keep the worst outcome of a test's setup, call and teardown."""
    if report.failed:
        outcomes[report.nodeid] = "failed"
    elif report.skipped:
        outcomes.setdefault(report.nodeid, "skipped")
    elif report.when == "call":
        outcomes.setdefault(report.nodeid, "passed")


def pytest_sessionfinish() -> None:
    """Write the report; a process that dies before has none, and its code scores 0."""
    tests = {
        name: {"outcome": outcome, "seconds": seconds.get(name, 0.0), "lines": sorted(lines.get(name, ()))}
        for name, outcome in outcomes.items()
    }
    REPORT.write_text(json.dumps({"tests": tests, "imported": sorted(imported)}), encoding="utf-8")
