"""States and results that are dropped from memory: what is left says so."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any

from loomc_runner.errors import RunNotFound, StateDropped
from loomc_runner.records import Call, StepRecord

States = dict[int, str | None]
"""The states of a run by step; None where one was dropped."""


def kept_state(run_id: str, states: States, step_n: int) -> str:
    """The state of a step.

    Raises:
        RunNotFound: When there is no such step.
        StateDropped: When it was dropped.
    """
    if step_n not in states:
        raise RunNotFound(f"run {run_id} has no step {step_n}")
    if (text := states[step_n]) is not None:
        return text
    kept = [n for n, other in states.items() if other is not None]
    below, above = [n for n in kept if n < step_n], [n for n in kept if n > step_n]
    raise StateDropped(run_id, step_n, (*below[-1:], *above[:1]))


def drop_states(states: States, rows: list[StepRecord[Any]], steps: Iterable[int]) -> None:
    """Drop the states of some steps; their rows say so."""
    for step_n in steps:
        if states.get(step_n) is not None:
            states[step_n] = None
            if 0 <= step_n < len(rows):
                rows[step_n] = rows[step_n]._replace(state_dropped=True)


def drop_results(calls: dict[tuple[int, int], Call], steps: Iterable[int], longest: int | None) -> None:
    """Drop the results of the calls of some steps that are longer than so many characters; None keeps them all."""
    for step_n in steps if longest is not None else ():
        for seq in count():
            if (call := calls.get((step_n, seq))) is None:
                break
            calls[step_n, seq] = call.without_long_result(longest or 0)
