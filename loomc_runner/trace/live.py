"""What users' own functions under `@flow_xray.trace` do in the steps of runs at work."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from loomc_runner.trace.nodes import MOST_NODES, Node, counted, ends
from loomc_runner.trace.texts import as_text, count_of
from loomc_runner.watching import log

DEEPEST = 50
"""Functions inside of each other that are shown; Python and browsers have their limits, too."""

COUNTS = ("prompt_tokens", "completion_tokens")


@dataclass(slots=True)
class _Tries:
    """The tries of a step in this process: how many there were, and what functions did in each."""

    step_n: int
    count: int = 0
    functions: dict[int, list[Node]] = field(default_factory=dict)


class Live:
    """A tracer that keeps what functions did in each try of a step and in each durable call.

    It keeps the first ones and the last ones, as many as a page has room for, so that long runs cost no more memory.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._offset = time.time() - time.perf_counter()  # flow_xray measures with a clock that knows no date
        self._now: dict[str, _Tries] = {}
        self._kept: dict[tuple[str, int, int | None], _Tries] = {}
        self._first = 0
        self._last: deque[tuple[tuple[str, int, int | None], int, int]] = deque()
        self._in_last = 0

    @contextmanager
    def __call__(self, run_id: str, step_n: int, seq: int | None) -> Iterator[None]:
        """Look on while user code runs."""
        from flow_xray import trace

        key = (run_id, step_n, seq)
        tries = self._begun(run_id, step_n) if seq is None else _Tries(step_n, 1)
        number, session = tries.count, trace.capture()
        try:
            with session:
                yield
        finally:
            try:
                ended = time.perf_counter() * 1000
                self._keep(key, tries, number, self._copied([*session.roots], ended, MOST_NODES))
            except Exception:  # noqa: BLE001 - what looks on changes nothing in a run
                log.exception("what functions did in step %d of run %s cannot be traced", step_n, run_id)

    def of_try(self, run_id: str, step_n: int, tries_after: int) -> list[Node]:
        """What functions did in a try of a step, named by how many tries of it came later."""
        tries = self._kept.get((run_id, step_n, None))
        return [] if tries is None else tries.functions.get(tries.count - tries_after, [])

    def of_call(self, run_id: str, step_n: int, seq: int) -> list[Node]:
        """What functions did in a durable call."""
        tries = self._kept.get((run_id, step_n, seq))
        return [] if tries is None else tries.functions.get(1, [])

    def _begun(self, run_id: str, step_n: int) -> _Tries:
        with self._lock:
            tries = self._now.get(run_id)
            if tries is None or tries.step_n != step_n:
                tries = self._now[run_id] = _Tries(step_n)
            tries.count += 1
            return tries

    def _keep(self, key: tuple[str, int, int | None], tries: _Tries, number: int, nodes: list[Node]) -> None:
        size = sum(node.size for node in nodes)
        if not size:
            return
        with self._lock:
            self._kept[key] = tries
            tries.functions[number] = nodes
            if self._first < MOST_NODES:
                self._first += size
                return
            self._last.append((key, number, size))
            self._in_last += size
            while self._in_last > MOST_NODES and len(self._last) > 1:
                self._forget(*self._last.popleft())

    def _forget(self, key: tuple[str, int, int | None], number: int, size: int) -> None:
        self._in_last -= size
        tries = self._kept[key]
        del tries.functions[number]
        if not tries.functions:
            del self._kept[key]

    def _copied(self, traced: Sequence[Any], ended: float, room: int, depth: int = DEEPEST) -> list[Node]:
        """Functions as nodes, of very many the first and the last; `ended` is when the code around them had ended."""
        if not traced:
            return []
        if not depth:
            return [self._left_out(traced)]
        first, last = ends(lambda index, left: self._node(traced[index], ended, left, depth), len(traced), room)
        middle = traced[len(first) : len(traced) - len(last)]
        return [*first, *([self._left_out(middle)] if middle else []), *last]

    def _node(self, traced: Any, ended: float, room: int, depth: int) -> Node:
        is_open = not traced.latency_ms and traced.output is None and traced.error is None
        meta, model = traced.meta, traced.meta.get("model")
        return Node(
            traced.name,
            "function" if traced.kind is None else f"function: {as_text(traced.kind)}",
            self._since_1970(traced.start_ms),
            (max(ended - traced.start_ms, 0.0) if is_open else traced.latency_ms) / 1000,
            _texts(traced.inputs),
            as_text(traced.output),
            as_text(traced.error),
            {**({"did not end": ""} if is_open else {}), **_tags(traced.tags), **_tags(_others(meta))},
            model=as_text(model),
            tokens=count_of(meta.get("total_tokens")) or 0,
            meta={name: count for name in COUNTS if (count := count_of(meta.get(name))) is not None},
            children=self._copied([*traced.children], ended, room - 2, depth - 1),
        )

    def _left_out(self, traced: Sequence[Any]) -> Node:
        start = self._since_1970(traced[0].start_ms)
        end = self._since_1970(traced[-1].start_ms + traced[-1].latency_ms)
        return Node(f"… {counted(len(traced), 'function')}", "folded", start, max(end - start, 0.0))

    def _since_1970(self, ms: float) -> float:
        return float(ms) / 1000 + self._offset


def _others(meta: Mapping[Any, Any]) -> dict[Any, Any]:
    """What a function has noted besides model, tokens and costs; money is counted from the run's own records."""
    known = {"model", "total_tokens", "estimated_cost_usd", *COUNTS}
    return {key: value for key, value in meta.items() if key not in known}


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    return {as_text(key) or "": as_text(value) or "null" for key, value in values.items()}


def _tags(values: Mapping[Any, Any]) -> dict[str, str]:
    return {as_text(key) or "": "" if value is True else as_text(value) or "null" for key, value in values.items()}
