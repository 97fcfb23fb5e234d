"""The place of a child run: which one of its parent's step it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from loomc_runner.context import current_scope
from loomc_runner.spec import LoopSpec
from loomc_runner.state import state_codec


@dataclass(frozen=True, slots=True)
class Place:
    """Which child run of the step it is; `begun` when an earlier try of the step began it."""

    run_id: str
    key: str
    begun: bool


def place(spec: LoopSpec[Any], state: Any) -> Place | None:
    """The place of a child run in the step that calls it; None outside of a step.

    A child is known by its loop, its initial state and its occurrence among equals in the step, so that it is found
    again when the step is tried again. Its id is `PARENT.STEP.K`, where K is the next free number.
    """
    if (scope := current_scope()) is None:
        return None
    record = scope.record
    key = scope.key_of("child", spec.recorded_name, state_codec(spec.annotations[0], state).encode(state))
    known = record.child(key)
    run_id = known or f"{scope.lease.run_id}.{scope.step_n}.{record.next_number('child')}"
    record.note_child(key, run_id)
    return Place(run_id, key, known is not None)
