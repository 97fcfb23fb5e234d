"""Who looks on while runs work: the log, a live display, a trace. Nothing they do or raise changes a run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from loomc_runner.clock import format_duration
from loomc_runner.history import History
from loomc_runner.ledger import Ledger
from loomc_runner.records import Attempt, Call, CallStatus, RunStatus, StepRecord
from loomc_runner.report import printable

log = logging.getLogger("loomc_runner")
log.addHandler(logging.NullHandler())  # silent, unless a program asks for it


@dataclass(frozen=True, slots=True)
class AtWork:
    """A run at work, as a watcher sees it: the name of its loop, what it has used, and its committed steps."""

    loop: str
    ledger: Ledger
    history: History[Any]


class Watcher:
    """Looks on while runs work, child runs too; override what you want to be told.

    It is told by whichever thread works on the run, at once, and the run waits meanwhile: be quick. What it raises
    is logged. `call` is told when it starts and when it has ended; an `attempt` that is tried again comes with a delay.
    """

    def began(self, run: AtWork) -> None:
        """A run begins, or goes on."""

    def committed(self, run_id: str, step: StepRecord[Any]) -> None:
        """A step is committed."""

    def failed(self, run_id: str, attempt: Attempt, delay: float | None) -> None:
        """A try of a step did not become one."""

    def called(self, run_id: str, call: Call) -> None:
        """A durable call starts, or has ended."""

    def ended(self, run_id: str, status: RunStatus, reason: str) -> None:
        """A run has stopped."""


class Logbook(Watcher):
    """Writes what happens to the logger `loomc_runner`."""

    def began(self, run: AtWork) -> None:
        """Say which run, and where it starts."""
        log.info("run %s of %s begins at step %d", run.ledger.run_id, run.loop, run.ledger.steps)

    def committed(self, run_id: str, step: StepRecord[Any]) -> None:
        """Say the step with its score and its cost."""
        if log.isEnabledFor(logging.INFO):
            score = "" if step.score is None else f", score {step.score:g}"
            decision = f", {step.decision}" if step.decision else ""
            log.info("run %s step %d committed%s, $%.4f%s", run_id, step.step_n, score, step.cost_usd, decision)

    def failed(self, run_id: str, attempt: Attempt, delay: float | None) -> None:
        """Say the error, and whether it is tried again."""
        again = "" if delay is None else f"; tried again in {format_duration(delay)}"
        level = logging.INFO if attempt.was_left else logging.WARNING
        log.log(level, "run %s step %d: %s%s", run_id, attempt.step_n, printable(attempt.error), again)

    def called(self, run_id: str, call: Call) -> None:
        """Say the call and how it stands."""
        level = logging.WARNING if call.status is CallStatus.FAILED else logging.DEBUG
        if not log.isEnabledFor(level):
            return
        words = f": {printable(call.error)}" if call.error else ""
        log.log(
            level, "run %s step %d call %s %s%s", run_id, call.step_n, printable(call.name), call.status.value, words
        )

    def ended(self, run_id: str, status: RunStatus, reason: str) -> None:
        """Say why the run stopped."""
        log.info("run %s %s: %s", run_id, status.value, printable(reason))


Tracer = Callable[[str, int, int | None], AbstractContextManager[None]]
"""What is put around user code: given the run, the step and the `seq` of the call, None for the step itself."""

_THE_LOG: Final[tuple[Watcher, ...]] = (Logbook(),)
_watchers: ContextVar[tuple[Watcher, ...]] = ContextVar("loomc_runner_watchers", default=_THE_LOG)
_tracer: ContextVar[Tracer | None] = ContextVar("loomc_runner_tracer", default=None)
current_tracer: Callable[[], Tracer | None] = _tracer.get
"""What is put around user code here, if anything."""

_NOTHING = nullcontext()


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Let a watcher look on at every run of this context, and at those that they start; one that does is told once."""
    known = _watchers.get()
    token = _watchers.set(known if watcher in known else (*known, watcher))
    try:
        yield
    finally:
        _watchers.reset(token)


@contextmanager
def traced_by(tracer: Tracer) -> Iterator[None]:
    """Put something around the user code of every run of this context, and of those that they start."""
    token = _tracer.set(tracer)
    try:
        yield
    finally:
        _tracer.reset(token)


def around(run_id: str, step_n: int, seq: int | None = None) -> AbstractContextManager[None]:
    """What is to be put around this user code."""
    tracer = current_tracer()
    return _NOTHING if tracer is None else tracer(run_id, step_n, seq)


def note(message: str, *about: Any, exc_info: bool = False) -> None:
    """Write a warning to the log; a handler that fails there stops no run, and there is nobody left to tell."""
    with suppress(Exception):
        log.warning(message, *about, exc_info=exc_info)


def is_watched() -> bool:
    """Whether anybody is told of a committed step here; the log of most programs is not read at that level."""
    return _watchers.get() is not _THE_LOG or log.isEnabledFor(logging.INFO)


def tell(event: str, *about: Any) -> None:
    """Tell all who look on; `event` is the name of a method of `Watcher`."""
    for watcher in _watchers.get():
        try:
            getattr(watcher, event)(*about)
        except Exception:  # noqa: BLE001 - it changes nothing
            note("%s could not be told that a run has %s", type(watcher).__name__, event, exc_info=True)
