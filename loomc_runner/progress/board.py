"""What is known of the runs at work in this process: filled by events, read at any time, from any thread."""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from loomc_runner.budget import Budget
from loomc_runner.clock import format_duration
from loomc_runner.errors import LoomcError
from loomc_runner.ledger import Ledger
from loomc_runner.progress.view import MOST_CHILDREN, RECENT, CallAtWork, RunAtWork
from loomc_runner.records import NANO, Attempt, Call, CallStatus, RunStatus, StepRecord
from loomc_runner.report import Limit
from loomc_runner.watching import AtWork, Watcher


class Entry:
    """What is known of one run at work."""

    def __init__(self, run: AtWork) -> None:
        self.loop, self.ledger = run.loop, run.ledger
        self.parent = None if run.ledger.parent is None else run.ledger.parent.ledger.run_id
        self.children: dict[str, Entry] = {}
        self.ended = 0
        self.scores: deque[float | None] = deque(maxlen=RECENT)
        self.best_step: int | None = None
        self.best_score: float | None = None
        self.calls: dict[tuple[int, int], tuple[str, float]] = {}
        self.failure: tuple[str, float | None] | None = None

    def remember(self, run: AtWork) -> None:
        """Take over the scores of a run that goes on."""
        with suppress(LoomcError):  # a database that is busy just now costs the sparkline its beginning
            for step in run.history[-RECENT:]:
                self.add(step)
            if self.best_step is not None and self.best_score is None:
                self.best_score = run.history[self.best_step].score

    def add(self, step: StepRecord[Any]) -> None:
        """Note a committed step."""
        self.scores.append(step.score)
        if step.best_n is not None and step.best_n != self.best_step:
            self.best_step, self.best_score = step.best_n, step.score if step.best_n == step.step_n else None

    def begin_try(self) -> None:
        """Nothing is under way in the step that comes now."""
        self.calls.clear()
        self.failure = None

    def view(self, step_n: int) -> RunAtWork:
        """The run as it stands now."""
        now = time.monotonic()
        at_work = [child.view(child.ledger.steps) for child in list(self.children.values())[:MOST_CHILDREN]]
        return RunAtWork(
            run_id=self.ledger.run_id,
            loop=self.loop,
            step_n=step_n,
            score=self.scores[-1] if self.scores else None,
            scores=tuple(self.scores),
            best_step=self.best_step,
            best_score=self.best_score,
            limits=used_of(self.ledger.budget, *_used(self.ledger)),
            calls=tuple(CallAtWork(name, now - began) for name, began in list(self.calls.values())),
            failure=self._failure(now),
            children=tuple(at_work),
            others=len(self.children) - len(at_work),
            ended=self.ended,
        )

    def _failure(self, now: float) -> str | None:
        if self.failure is None:
            return None
        error, due = self.failure
        left = 0.0 if due is None else due - now
        return f"{error}; tried again" + (f" in {format_duration(left)}" if left > 0 else "")


class Board(Watcher):
    """The runs at work, each with its child runs below it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()  # a stream that is collected as garbage ends, also in the middle of a look
        self._entries: dict[str, Entry] = {}
        self._roots: dict[str, Entry] = {}

    def forget(self) -> None:
        """Take everything down, and any lock that somebody held: this process is a fork."""
        self._lock = threading.RLock()
        self._entries, self._roots = {}, {}

    def views(self) -> tuple[list[RunAtWork], int]:
        """The outermost runs as they stand now, and how many more there are."""
        with self._lock:
            shown = [entry.view(entry.ledger.steps) for entry in list(self._roots.values())[:MOST_CHILDREN]]
            return shown, len(self._roots) - len(shown)

    def view(self, run_id: str, step_n: int) -> RunAtWork | None:
        """One run as it stands after or in a step; None when it is not at work."""
        with self._lock:
            entry = self._entries.get(run_id)
            return None if entry is None else entry.view(step_n)

    def has_parent(self, run_id: str) -> bool:
        """Whether a run is a child of one that is here too."""
        with self._lock:
            entry = self._entries.get(run_id)
            return entry is not None and entry.parent in self._entries

    def began(self, run: AtWork) -> None:
        """Put up a run, below its parent when that is here too."""
        entry = Entry(run)
        entry.remember(run)
        with self._lock:
            self._entries[run.ledger.run_id] = entry
            self._siblings(entry)[run.ledger.run_id] = entry

    def committed(self, run_id: str, step: StepRecord[Any]) -> None:
        """Note the newest step; what was under way in it is over."""
        with self._lock:
            if entry := self._entries.get(run_id):
                entry.add(step)
                entry.begin_try()
                entry.ended = 0

    def failed(self, run_id: str, attempt: Attempt, delay: float | None) -> None:
        """Note why a try failed, and when the next one comes."""
        with self._lock:
            if entry := self._entries.get(run_id):
                entry.begin_try()
                entry.failure = None if delay is None else (attempt.error, time.monotonic() + delay)

    def called(self, run_id: str, call: Call) -> None:
        """Note a call that begins, or that is over."""
        with self._lock:
            if entry := self._entries.get(run_id):
                key = (call.step_n, call.seq)
                if call.status is not CallStatus.STARTED:
                    entry.calls.pop(key, None)
                elif key in entry.calls:  # told a second time: it was cut off
                    del entry.calls[key]
                else:
                    entry.calls[key] = (call.name, time.monotonic())

    def ended(self, run_id: str, status: RunStatus, reason: str) -> None:  # noqa: ARG002 - only that it ended counts
        """Take a run down; its parent counts it."""
        with self._lock:
            entry = self._entries.pop(run_id, None)
            if entry is None:
                return
            self._siblings(entry).pop(run_id, None)
            if parent := self._entries.get(entry.parent or ""):
                parent.ended += 1

    def _siblings(self, entry: Entry) -> dict[str, Entry]:
        parent = self._entries.get(entry.parent or "")
        return self._roots if parent is None else parent.children


def used_of(budget: Budget, spent: int, steps: int, tokens: int, seconds: float) -> tuple[Limit, ...]:
    """What was used of money, steps, tokens and time, each against its limit; tokens only where they matter."""
    pairs: Iterable[tuple[str, float, float | None]] = (
        ("iterations", steps, budget.iterations),
        ("usd", spent / NANO, budget.usd),
        ("tokens", tokens, budget.tokens),
        ("wall_clock", seconds, budget.wall_clock_seconds),
    )
    named = ((name, float(used), math.inf if limit is None else float(limit)) for name, used, limit in pairs)
    return tuple(Limit(*limit) for limit in named if limit[0] != "tokens" or limit[1] or math.isfinite(limit[2]))


def _used(ledger: Ledger) -> tuple[int, int, int, float]:
    return ledger.spent, ledger.steps, ledger.tokens, ledger.elapsed
