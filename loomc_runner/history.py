"""What detectors and strategies get to see: the committed steps, read when they are looked at."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar, overload

from loomc_runner.errors import RunNotFound
from loomc_runner.records import INITIAL, StepRecord
from loomc_runner.state import Codec
from loomc_runner.store import Store

S = TypeVar("S")

RECENT = 128
"""Steps read at once, and kept since they were made."""

WINDOW = 512
"""Steps read at once where all of a window is wanted, and older ones that are kept."""


class History(Sequence[StepRecord[S]]):
    """The steps of a run, `history[n]` being step n; recent ones are kept, older ones read from the store.

    States are not kept, save the newest: `.state` reads and decodes when it is asked for. So a long history
    costs no memory, and a look at its end costs no query.
    """

    def __init__(self, store: Store, run_id: str, codec: Codec[S], length: int) -> None:
        self._store = store
        self._run_id = run_id
        self._codec = codec
        self._length = length
        self._recent: deque[StepRecord[S]] = deque(maxlen=RECENT)
        self._older: dict[int, StepRecord[S]] = {}
        self._newest: tuple[int, str] | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, index: int) -> StepRecord[S]: ...
    @overload
    def __getitem__(self, index: slice) -> list[StepRecord[S]]: ...
    def __getitem__(self, index: int | slice) -> StepRecord[S] | list[StepRecord[S]]:
        if isinstance(index, slice):
            chosen = range(*index.indices(self._length))
            if chosen.step == 1:
                return list(self._window(chosen.start, chosen.stop))
            return [self._at(step_n) for step_n in chosen]
        step_n = index + self._length if index < 0 else index
        if not 0 <= step_n < self._length:
            raise IndexError(f"step {index} of {self._length}")
        return self._at(step_n)

    def __iter__(self) -> Iterator[StepRecord[S]]:
        return self._window(0, self._length)

    @property
    def newest(self) -> StepRecord[S] | None:
        """The newest step, if there is one."""
        if self._recent:
            return self._recent[-1]
        return self._at(self._length - 1) if self._length else None

    def record(self, row: StepRecord[Any]) -> StepRecord[S]:
        """A stored row as a step whose `.state` is read through this history."""
        return row._replace(read_state=self.state)

    def append(self, step: StepRecord[S], text: str | None) -> None:
        """Add the step that is about to be committed; without a text it has its parent's state."""
        recent = self._recent
        if len(recent) == RECENT:
            self._make_room()
            self._older[recent[0].step_n] = recent[0]
        recent.append(step)
        self._length += 1
        self._newest = None if text is None else (step.step_n, text)

    def drop_newest(self) -> None:
        """Take the newest step back: it failed, and is not committed."""
        self._recent.pop()
        self._length -= 1
        self._newest = None

    def replace_newest(self, step: StepRecord[S]) -> None:
        """Put in the newest step's place the same step with more known about it."""
        self._recent[-1] = step

    def is_dropped(self, step_n: int) -> bool:
        """Whether the state after an earlier step was dropped; of those that are always kept nothing is read."""
        newest = self[-1]
        if step_n in {INITIAL, newest.step_n, newest.parent_n, newest.best_n}:
            return False
        return any(step.state_dropped for step in self._store.steps(self._run_id, step_n, step_n + 1))

    def state(self, step_n: int) -> S:
        """The state after a step, decoded anew; -1 is the initial state."""
        return self._codec.decode(self._text(step_n))

    def _text(self, step_n: int) -> str:
        if self._newest and self._newest[0] == step_n:
            return self._newest[1]
        try:
            return self._store.state(self._run_id, step_n)
        except RunNotFound:  # a failed step that is not committed yet has its parent's state
            newest = self._recent[-1] if self._recent else None
            if newest is None or newest.step_n != step_n:
                raise
            return self._store.state(self._run_id, newest.parent_n)

    def _at(self, step_n: int) -> StepRecord[S]:
        first = self._recent[0].step_n if self._recent else self._length
        if step_n >= first:
            return self._recent[step_n - first]
        if step_n not in self._older:
            begin = step_n - step_n % RECENT
            self._make_room()
            rows = self._store.steps(self._run_id, begin, min(begin + RECENT, first))
            self._older.update((row.step_n, self.record(row)) for row in rows)
        return self._older[step_n]

    def _make_room(self) -> None:
        """Before more of the older steps are kept."""
        if len(self._older) >= WINDOW:
            self._older.clear()

    def _window(self, start: int, stop: int) -> Iterator[StepRecord[S]]:
        first = self._recent[0].step_n if self._recent else self._length
        for begin in range(start, min(stop, first), WINDOW):
            yield from map(self.record, self._store.steps(self._run_id, begin, min(stop, first, begin + WINDOW)))
        for step_n in range(max(start, first), stop):
            yield self._at(step_n)
