"""Live progress of a run: one line that moves on a terminal, a plain line per step anywhere else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from loomc_runner.budget import Budget
from loomc_runner.clock import format_duration
from loomc_runner.records import StepRecord

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

S = TypeVar("S")


class Steps(Protocol[S]):
    """A stream of steps that can tell how its run stands while it works."""

    run_id: str

    def standing(self) -> Standing:
        """How the run stands now."""
        ...

    def __iter__(self) -> Iterator[StepRecord[S]]:
        """The committed steps."""
        ...


class Standing(Protocol):
    """How a run stands while it works: what a ledger knows."""

    budget: Budget
    steps: int
    spent: int

    @property
    def elapsed(self) -> float:
        """Seconds of working time."""
        ...


def track(steps: Steps[S], *, console: Console | None = None) -> Iterator[StepRecord[S]]:
    """Show the progress of a stream while you read it.

    Write `for step in track(refine.stream(state)): ...` where you would read the stream itself. On a terminal
    one line is kept up to date: step, score, best, money, iterations and time, each against its limit. Elsewhere
    one plain line a step is written to standard error.
    """
    with watch(steps, console=console) as show:
        for step in steps:
            show(step)
            yield step


@contextmanager
def watch(steps: Any, *, console: Console | None = None) -> Iterator[Callable[[StepRecord[Any]], None]]:
    """Like `track`, for streams that you read yourself (async ones): call what it gives with each step."""
    from rich.console import Console
    from rich.live import Live

    console = console or Console(stderr=True)
    seen: list[StepRecord[Any]] = []
    if not console.is_terminal:

        def show(step: StepRecord[Any]) -> None:
            _remember(seen, step)
            console.print(_line(steps, seen), soft_wrap=True)

        yield show
        return
    with Live(get_renderable=lambda: _line(steps, seen), console=console, refresh_per_second=4, transient=True):
        yield lambda step: _remember(seen, step)


def _remember(seen: list[StepRecord[Any]], step: StepRecord[Any]) -> None:
    """Keep the newest step and, in front of it, the best one so far."""
    best = step if step.best_n == step.step_n else next((old for old in seen if old.step_n == step.best_n), None)
    seen[:] = [step] if best is None or best is step else [best, step]


def _line(steps: Any, seen: list[StepRecord[Any]]) -> Text:
    from rich.text import Text

    parts = [f"run {steps.run_id}"]
    if seen:
        parts += _about(seen[-1], seen[0])
    if (standing := steps.standing()) is not None:
        parts += _against_limits(standing)
    return Text(" · ".join(parts), overflow="ellipsis", no_wrap=True)


def _about(step: StepRecord[Any], best: StepRecord[Any]) -> list[str]:
    parts = [f"step {step.step_n}"]
    if step.score is not None:
        parts.append(f"score {step.score:.4g}")
    if step.error:
        parts.append("failed, going on")
    if best.score is not None and best.best_n == best.step_n:
        parts.append(f"best {best.score:.4g} (step {best.step_n})")
    return parts


def _against_limits(standing: Standing) -> list[str]:
    budget, spent = standing.budget, standing.spent / 1e9
    money = f"${spent:.2f}" + (f" of ${budget.usd:.2f}" if budget.usd is not None else "")
    count = f"{standing.steps}" + (f"/{budget.iterations}" if budget.iterations is not None else "") + " done"
    time = format_duration(standing.elapsed)
    if (limit := budget.wall_clock_seconds) is not None:
        time += f", {format_duration(max(limit - standing.elapsed, 0))} left"
    return [money, count, time]
