"""A clock moved by hand, and a store that fails on purpose."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar

from loomc_runner.errors import StoreError
from loomc_runner.records import Claim, Control, Lease, Run, Transition
from loomc_runner.store import Resumption, Store

T = TypeVar("T")

AT = datetime(2026, 1, 1, tzinfo=UTC)
"""When everything happens that does not say otherwise."""


class FakeClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, start: datetime = AT) -> None:
        self._start, self._seconds = start, 0.0

    def now(self) -> datetime:
        """The date and time."""
        return self._start + timedelta(seconds=self._seconds)

    def monotonic(self) -> float:
        """Seconds since the start."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._seconds += seconds


class FaultyStore:
    """A store around another one, in which something goes wrong at a chosen write; `writes` counts them by verb.

    `FaultyStore(store, at=3, when="after", act=StoreError("disk gone"))` makes the third write and then raises.

    Args:
        store: The store that does the work.
        at: The write at which it happens, counted from 1 over `create_run`, `claim` and `commit`; None: never.
        when: `before` that write, which is not made if `act` raises, or `after` it.
        act: An error to raise, or a function to call, such as `lambda: os.kill(os.getpid(), signal.SIGKILL)`.
        verb: Count this verb only.
    """

    def __init__(
        self,
        store: Store,
        *,
        at: int | None = None,
        when: Literal["before", "after"] = "before",
        act: BaseException | Callable[[], object] = StoreError("a test made this store fail"),  # noqa: B008
        verb: Literal["create_run", "claim", "commit"] | None = None,
    ) -> None:
        self.writes: Counter[str] = Counter()
        self._store, self._at, self._when, self._act, self._lock = store, at, when, act, threading.Lock()
        self._counted = ("create_run", "claim", "commit") if verb is None else (verb,)
        self.get_run, self.list_runs, self.state, self.steps = store.get_run, store.list_runs, store.state, store.steps
        self.attempts, self.charges, self.subtree = store.attempts, store.charges, store.subtree
        self.calls, self.questions, self.breakers = store.calls, store.questions, store.breakers
        self.answer, self.request = store.answer, store.request
        self.tag, self.delete, self.drop_states = store.tag, store.delete, store.drop_states
        self.close = store.close

    def create_run(self, run: Run, state: str) -> Lease:
        """Create the run, unless it goes wrong."""
        return self._write("create_run", self._store.create_run, run, state)

    def claim(self, run_id: str, resumption: Resumption) -> Claim:
        """Claim the run, unless it goes wrong."""
        return self._write("claim", self._store.claim, run_id, resumption)

    def commit(self, lease: Lease, transition: Transition) -> Control | None:
        """Commit the transition, unless it goes wrong."""
        return self._write("commit", self._store.commit, lease, transition)

    def _write(self, verb: str, write: Callable[..., T], *args: Any) -> T:
        with self._lock:
            self.writes[verb] += 1
            due = verb in self._counted and sum(self.writes[name] for name in self._counted) == self._at
        if due and self._when == "before":
            self._go_wrong()
        result = write(*args)
        if due and self._when == "after":
            self._go_wrong()
        return result

    def _go_wrong(self) -> None:
        if isinstance(self._act, BaseException):
            raise self._act
        self._act()
