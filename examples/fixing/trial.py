"""A trial: run the real tests on one version of the code, in a process of its own."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import sqrt
from pathlib import Path

from pydantic import BaseModel

PROBE = Path(__file__).with_name("probe.py")
SECRETS = ("ANTHROPIC_API_KEY", "OPENAI_API_KEY")  # a candidate is code nobody has read: it gets no keys


class Case(BaseModel, frozen=True):
    """What stays the same while a file is repaired: its name, its tests and how long they may take.

    The tests travel as text, so that a run resumed later is judged by the tests it began with.
    """

    module: str
    test_module: str
    tests: str
    folders: tuple[str, ...]  # where the two files came from: their other imports are looked up there
    expected: int = 0  # how many tests there are; a candidate cannot score better by losing some
    test_seconds: float = 1.0  # processor time of one test
    run_seconds: float = 60.0  # wall clock of a whole trial, the last resort


@dataclass(frozen=True)
class Trial:
    """How the tests went, and per test the lines of the module it ran (only of a traced trial)."""

    expected: int
    outcomes: Mapping[str, str] = field(default_factory=dict)
    lines: Mapping[str, frozenset[int]] = field(default_factory=dict)
    slowest: float = 0.0
    seconds: float = 0.0
    output: str = ""

    @property
    def counted(self) -> int:
        """How many tests gave a verdict; skipped ones do not count."""
        return sum(outcome != "skipped" for outcome in self.outcomes.values())

    @property
    def passed(self) -> int:
        """How many tests passed."""
        return sum(outcome == "passed" for outcome in self.outcomes.values())

    @property
    def failing(self) -> tuple[str, ...]:
        """The tests that failed."""
        return tuple(sorted(name for name, outcome in self.outcomes.items() if outcome == "failed"))

    @property
    def share(self) -> float:
        """The share of the tests that pass: the score."""
        return self.passed / max(self.expected, self.counted, 1)

    def suspicion(self) -> dict[int, float]:
        """How strongly each line is linked to failing: 1.0 = run by all failing tests and by no other.

        Ochiai's coefficient: Abreu, Zoeteweij and van Gemund, "On the Accuracy of Spectrum-based Fault
        Localization", TAIC PART 2007.
        """
        bad = Counter(line for name in self.failing for line in self.lines.get(name, ()))
        every = Counter(line for ran in self.lines.values() for line in ran)
        return {line: round(hits / sqrt(len(self.failing) * every[line]), 4) for line, hits in sorted(bad.items())}


def open_case(source: Path, tests: Path) -> tuple[Case, str]:
    """Read a file and its tests; returns the case and the code to repair."""
    folders = tuple(dict.fromkeys(str(path.resolve().parent) for path in (source, tests)))
    case = Case(module=source.name, test_module=tests.name, tests=tests.read_text(encoding="utf-8"), folders=folders)
    return case, source.read_text(encoding="utf-8")


def examine(case: Case, code: str) -> tuple[Case, Trial]:
    """Run the tests once before anything is changed, and set the limits by how long they take.

    Raises:
        ValueError: No test could be run, or the tests never reach the file under repair.
    """
    trial = run_tests(case, code)
    limits = {
        "expected": trial.counted,
        "test_seconds": min(case.test_seconds, max(0.2, 10 * trial.slowest)),
        "run_seconds": min(case.run_seconds, max(5.0, 4 * trial.seconds)),
    }
    case = case.model_copy(update=limits)
    trial = observe(case, code, trial)
    if not trial.counted:
        raise ValueError(f"{case.test_module}: no test could be run:\n{trial.output}")
    if not any(trial.lines.values()):
        name = Path(case.module).stem
        raise ValueError(f"{case.test_module} never runs a line of {case.module}; it must say `import {name}`")
    return case, trial


def observe(case: Case, code: str, trial: Trial) -> Trial:
    """Add what takes longer to find out: the lines each test runs and what pytest says about the failures.

    The outcomes stay those of the plain trial: tracing makes code slow, and a slow test could be stopped.
    """
    traced = run_tests(case, code, trace=True)
    return replace(trial, lines=traced.lines, output=traced.output)


def run_tests(case: Case, code: str, *, trace: bool = False) -> Trial:
    """Run the case's tests on `code`; `trace` also notes lines and keeps what pytest says about failures."""
    with tempfile.TemporaryDirectory(prefix="code-fixer-") as name:
        folder = Path(name).resolve()
        (folder / case.module).write_text(code, encoding="utf-8")
        (folder / case.test_module).write_text(case.tests, encoding="utf-8")
        shutil.copy(PROBE, folder / "_fixing_probe.py")
        began = time.monotonic()
        _run_pytest(case, folder, trace=trace)
        return _read_trial(case, folder, time.monotonic() - began)


def _run_pytest(case: Case, folder: Path, *, trace: bool) -> None:
    style = ["--tb=short"] if trace else ["--tb=no", "--assert=plain"]  # plain asserts start faster
    command = [sys.executable, "-m", "pytest", "-q", *style, "-p", "no:cacheprovider", "-p", "_fixing_probe"]
    command += ["-c", os.devnull, f"--rootdir={folder}", str(folder / case.test_module)]
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env=_environment(case, folder, trace=trace),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a group of its own, so that what the tests start can be ended too
        )
        try:
            process.wait(timeout=case.run_seconds)
        except subprocess.TimeoutExpired:
            pass  # no report: it scores 0
        finally:
            _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    try:
        if sys.platform == "win32":
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # everything has ended already
    process.wait()


def _environment(case: Case, folder: Path, *, trace: bool) -> dict[str, str]:
    """Return an environment in which only the code decides how the tests end."""
    ours = {name: value for name, value in os.environ.items() if name not in SECRETS}
    for name in ("PYTEST_ADDOPTS", "PYTEST_PLUGINS"):
        ours.pop(name, None)
    return ours | {
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "PYTHONPATH": os.pathsep.join((str(folder), *case.folders)),
        "FIXING_REPORT": str(folder / "report.json"),
        "FIXING_TRACE": str(folder / case.module) if trace else "",
        "FIXING_TEST_SECONDS": str(case.test_seconds),
        "FIXING_RUN_SECONDS": str(case.run_seconds),
    }


def _read_trial(case: Case, folder: Path, seconds: float) -> Trial:
    output = (folder / "output.txt").read_text(encoding="utf-8", errors="replace")
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Trial(case.expected, seconds=seconds, output=output)
    tests = report["tests"]
    imported = frozenset(report["imported"])  # what runs on import runs for every test
    return Trial(
        expected=case.expected,
        outcomes={name: test["outcome"] for name, test in tests.items()},
        lines={name: imported | frozenset(test["lines"]) for name, test in tests.items()},
        slowest=max((test["seconds"] for test in tests.values() if test["outcome"] == "passed"), default=0.0),
        seconds=seconds,
        output=output,
    )
