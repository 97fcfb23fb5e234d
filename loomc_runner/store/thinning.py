"""Dropping states that are not wanted any more, without breaking those that are built on them."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import lru_cache

from loomc_runner.records import Call
from loomc_runner.store import rows, sql
from loomc_runner.store.chains import rewritten
from loomc_runner.store.states import Known, Written

AT_HAND = 4
"""States that were read and may be asked for again."""


def drop_states(db: sqlite3.Connection, run_id: str, steps: Collection[int], read: Callable[[int], Known]) -> None:
    """Drop the states of some steps of a run; what is built on one of them is built on what that was built on."""
    read = lru_cache(AT_HAND)(read)  # several may be built on the same one
    gone = {n: base for n in steps for base in db.execute(sql.BASE, (run_id, n))}
    changed = [(step_n, *_rebuilt(step_n, _lasting(base_n, gone), read)) for step_n, base_n in _built(db, run_id, gone)]
    for step_n, *written in changed:
        db.execute(sql.REWRITE_STATE, (*written, run_id, step_n))
    found = [row for n in gone for row in db.execute(sql.ROW, (run_id, n))]
    for step_n in gone:  # taken out and put back, since rows that shrink where they are leave their pages half empty
        db.execute(sql.DELETE_ROW, (run_id, step_n))
    db.executemany(sql.INSERT_DROPPED, found)


def _built(db: sqlite3.Connection, run_id: str, gone: dict[int, tuple[int | None]]) -> Iterator[tuple[int, int]]:
    """The steps that stay and are built on one that goes, with the one they are built on."""
    for base_n in gone:
        for (step_n,) in db.execute(sql.BUILT_ON, (run_id, base_n)).fetchall():
            if step_n not in gone:
                yield step_n, base_n


def _lasting(step_n: int, gone: dict[int, tuple[int | None]]) -> int | None:
    """The nearest step below that stays; None where it is whole down there."""
    base: int | None = step_n
    while base in gone:
        (base,) = gone[base]
    return base


def _rebuilt(step_n: int, base_n: int | None, read: Callable[[int], Known]) -> Written:
    return rewritten(read(step_n).text, base_n, None if base_n is None else read(base_n))


def drop_results(db: sqlite3.Connection, run_id: str, calls: Iterable[Call], longest: int) -> None:
    """Drop the results of calls that are longer than so many characters, but for their hash and their size."""
    for call in calls:
        if (dropped := call.without_long_result(longest)) is not call:
            db.execute(sql.DELETE_CALL, (run_id, call.step_n, call.seq))
            db.execute(sql.PUT_CALL, rows.call_values(run_id, dropped))
