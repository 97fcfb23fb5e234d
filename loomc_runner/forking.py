"""How a run branches off: a new one from an old step."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from loomc_runner.clock import SystemClock
from loomc_runner.errors import RunNotFound, StateError
from loomc_runner.opening import check_owner, new_run_id, stored_type
from loomc_runner.records import INITIAL, Run, RunStatus, Transition
from loomc_runner.spec import LoopSpec
from loomc_runner.state import Codec
from loomc_runner.store import Store, block, finish, patiently


def fork(spec: LoopSpec[Any] | None, store: Store, run_id: str, step: int, update: Mapping[str, Any] | None) -> str:
    """Make a new run, paused, whose initial state is that of a step of another; its id is returned.

    Without a spec (from the terminal) the new state is taken as it is; with one it is checked against its type.
    """
    origin = store.get_run(run_id)
    if spec is not None:
        check_owner(spec, origin)
    if isinstance(step, bool) or not isinstance(step, int) or not INITIAL <= step < max(origin.steps, 1):
        raise RunNotFound(f"run {run_id} has no step {step!r}; loomc show {run_id} lists them (-1: initial state)")
    text = store.state(run_id, step)
    if update is not None:
        text = _updated(text, update)
    if spec is not None:
        codec: Codec[Any] = Codec(stored_type(spec, origin), spec.migrate)
        text = codec.encode_checked(codec.decode(text))
    return _insert_fork(store, origin, step, text, spec)


def _insert_fork(store: Store, origin: Run, step: int, text: str, spec: LoopSpec[Any] | None) -> str:
    at = (spec.clock if spec else SystemClock()).now()
    run = Run(
        id=new_run_id(),
        loop=origin.loop,
        source=origin.source,
        spec_hash=origin.spec_hash,
        code_hash=origin.code_hash,
        state_type=origin.state_type,
        created_at=at,
        updated_at=at,
        forked_from=f"{origin.id}:{step}",
        budget=origin.budget,
        direction=origin.direction,
        tags=origin.tags,
    )
    lease = finish(patiently(block, store.create_run, run, text))
    reason = f"paused: forked from step {step} of {origin.id}, not begun"
    finish(patiently(block, store.commit, lease, Transition(at, status=RunStatus.PAUSED, stop_reason=reason)))
    return run.id


def _updated(text: str, update: Mapping[str, Any]) -> str:
    from pydantic_core import to_jsonable_python

    state = json.loads(text)
    if not isinstance(state, dict):
        raise StateError(f"update={dict(update)!r}: the state is {state!r}, which has no fields to update")
    if unknown := set(update) - set(state):
        raise StateError(f"update names {', '.join(sorted(unknown))}, but the state has {', '.join(state)}")
    return json.dumps({**state, **to_jsonable_python(dict(update))}, ensure_ascii=False, allow_nan=False)
