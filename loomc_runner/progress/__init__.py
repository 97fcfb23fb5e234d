"""Live progress of a run: one line that moves on a terminal, a plain line per step anywhere else."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload

from loomc_runner.budget import Budget
from loomc_runner.clock import format_duration
from loomc_runner.records import NANO, StepRecord
from loomc_runner.report import dollars

if TYPE_CHECKING:
    from rich.console import Console

S = TypeVar("S")


class Standing(Protocol):
    """How a run stands while it works: what a ledger knows."""

    budget: Budget
    steps: int
    spent: int

    @property
    def elapsed(self) -> float:
        """Seconds of working time."""
        ...


class Run(Protocol):
    """A stream of steps that can tell how its run stands while it works."""

    run_id: str

    def standing(self) -> Standing | None:
        """How the run stands now; None before its first step."""
        ...


class Steps(Run, Protocol[S]):
    """The stream of a sync loop."""

    def __iter__(self) -> Iterator[StepRecord[S]]:
        """The committed steps."""
        ...


class AsyncSteps(Run, Protocol[S]):
    """The stream of an async loop."""

    def __aiter__(self) -> AsyncIterator[StepRecord[S]]:
        """The committed steps."""
        ...


@overload
def track(steps: AsyncSteps[S], *, console: Console | None = None) -> AsyncIterator[StepRecord[S]]: ...
@overload
def track(steps: Steps[S], *, console: Console | None = None) -> Iterator[StepRecord[S]]: ...
def track(steps: Any, *, console: Console | None = None) -> Any:
    """Show the progress of a stream while you read it.

    Write `for step in track(refine.stream(state)): ...` where you would read the stream itself, and `async for`
    with an async loop. On a terminal one line is kept up to date: the newest step, its score and the best one,
    then steps, money and time against their limits. It is gone at the end. Elsewhere one plain line a step is
    written to standard error.

    Args:
        steps: What `stream` gave.
        console: Where to show it, instead of standard error.
    """
    return _track_async(steps, console) if hasattr(steps, "__aiter__") else _track(steps, console)


def _track(steps: Steps[S], console: Console | None) -> Iterator[StepRecord[S]]:
    with watch(steps, console=console) as show:
        for step in steps:
            show(step)
            yield step


async def _track_async(steps: AsyncSteps[S], console: Console | None) -> AsyncIterator[StepRecord[S]]:
    with watch(steps, console=console) as show:
        async for step in steps:
            show(step)
            yield step


@contextmanager
def watch(run: Run, *, console: Console | None = None) -> Iterator[Callable[[StepRecord[Any]], None]]:
    """Like `track`, for a stream that you read yourself: call what it gives with each step."""
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = console or Console(stderr=True, force_terminal=sys.stderr.isatty(), highlight=False)
    line = _Line(run)

    def moving() -> Text:
        return Text(line.within(console.width), no_wrap=True, overflow="ellipsis")

    def plain(step: StepRecord[Any]) -> None:
        line.add(step)
        console.print(Text(line.within(math.inf)), soft_wrap=True)

    if not console.is_terminal or console.is_dumb_terminal:
        yield plain
        return
    shared = sys.stdout.isatty()  # what a step prints goes above the line, but not out of its file
    with Live(get_renderable=moving, console=console, transient=True, redirect_stdout=shared):
        yield line.add


class _Line:
    """What there is to say about a run, after the steps it was told of."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.newest: StepRecord[Any] | None = None
        self.best: StepRecord[Any] | None = None

    def add(self, step: StepRecord[Any]) -> None:
        """Note the newest step, and the best one, if it was seen here."""
        self.newest = step
        if step.best_n == step.step_n:
            self.best = step

    def within(self, width: float) -> str:
        """The line; without the run's id where that makes it fit."""
        standing = self.run.standing()
        parts = [*self._about_steps(), *(() if standing is None else _against_limits(standing))]
        line = " · ".join([f"run {self.run.run_id}", *parts])
        return line if len(line) <= width else " · ".join(parts)

    def _about_steps(self) -> Iterator[str]:
        step = self.newest
        if step is None:
            return
        yield f"step {step.step_n}" + (" failed" if step.error else "")
        if step.score is not None:
            yield f"score {step.score:.4g}"
        if self.best is not None and self.best.score is not None:
            yield f"best {self.best.score:.4g} (step {self.best.step_n})"
        elif step.best_n is not None:
            yield f"best: step {step.best_n}"


def _against_limits(standing: Standing) -> Iterator[str]:
    budget = standing.budget
    yield f"{standing.steps}" + ("" if budget.iterations is None else f"/{budget.iterations}") + " steps"
    yield dollars(standing.spent / NANO) + ("" if budget.usd is None else f" of {dollars(budget.usd)}")
    if (limit := budget.wall_clock_seconds) is None:
        yield format_duration(standing.elapsed)
    else:
        yield f"{format_duration(max(limit - standing.elapsed, 0))} left"
