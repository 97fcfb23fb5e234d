"""What `loomc show --follow` does: tell a run's new steps as they are committed, until the run has ended."""

from __future__ import annotations

import dataclasses
import json
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from heapq import merge
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

import typer

from loomc_runner.cli import render
from loomc_runner.cli.database import next_command
from loomc_runner.cli.signals import leaving_on
from loomc_runner.clock import format_duration
from loomc_runner.errors import StoreBusy
from loomc_runner.export import attempt_json, run_json, step_json
from loomc_runner.progress import Footer, RunAtWork, as_text, can_move, shortened
from loomc_runner.progress.stored import Observer
from loomc_runner.records import Attempt, Run, RunStatus, StepRecord
from loomc_runner.report import (
    Line,
    dollars,
    inside,
    limits,
    page_attempts,
    page_steps,
    printable,
    reason,
    score_words,
    story,
)
from loomc_runner.store import open_reader
from loomc_runner.store.base import ENDED

if TYPE_CHECKING:
    from rich.text import Text

Record = Attempt | StepRecord[Any]

INTERVAL = 0.5
"""Seconds between two looks at the database."""

NEWEST = 20
"""Steps of the past that are told first."""


def follow(db: str | None, run: Run, *, as_json: bool) -> None:
    """Follow a run until it has ended; leaves with 0 when it completed, else with 1.

    When its process dies, or it is paused or waits for an answer, that is told, and it is followed on: somebody may
    resume it.
    """
    screen, follower = render.Screen.of_stdout(), Follower(db, run, as_json=as_json)
    if not as_json:
        render.show_head(screen, run)
        print(follower.beginning(), flush=True)
    footer = Footer(sys.stdout, follower.draw) if follower.moves else nullcontext()
    with leaving_on(signal.SIGTERM, signal.SIGHUP), footer:
        last = follower.until_ended()
    if not as_json:
        store, spent = follower.store, follower.store.subtree(last.id)[0]
        print()
        command = next_command(store, last, db)
        render.show_end(screen, last, limits(store, last), spent, inside(store, last), command)
    raise typer.Exit(0 if last.status is RunStatus.COMPLETED else 1)


def _in_order(record: Record) -> tuple[int, bool]:
    """A step comes after the tries of it that failed."""
    return record.step_n, isinstance(record, StepRecord)


class Follower:
    """Knows what of a run was told, and tells the rest."""

    def __init__(self, db: str | None, run: Run, *, as_json: bool) -> None:
        self.db, self.run_id, self.as_json = db, run.id, as_json
        self.store = open_reader(db)
        self.moves = not as_json and can_move(sys.stdout)
        self.screen = render.Screen.of_stdout()
        self._observer = Observer(self.store)
        self._view: RunAtWork | None = None
        self._steps = max(run.steps - NEWEST, 0)  # so many were told,
        self._tries = 0  # and so many tries of the step after them
        self._stopped: tuple[object, ...] | None = None

    def beginning(self) -> str:
        """What stands above the first step."""
        if not self._steps:
            return ""
        return f"\n... {self._steps} earlier steps (without --follow: all of them)"

    def draw(self, width: int, height: int) -> Text:
        """The run as it was when the database was last looked at."""
        return as_text([] if self._view is None else [self._view], 0, width, height)

    def until_ended(self) -> Run:
        """Tell all that happens; the run as it is when it has ended."""
        while True:
            try:
                run = self._look()
            except StoreBusy:  # the next look tells what this one missed
                run = None
            if run is not None and run.status in ENDED:
                return run
            time.sleep(INTERVAL)

    def _look(self) -> Run:
        run = self.store.get_run(self.run_id)
        if self.moves:
            working = run.status is RunStatus.RUNNING or run.status in ENDED
            self._view = self._observer.view(run, None if working else f"{run.status.value}: nobody works on it now")
        for text in self._news(run):
            print(text, flush=True)
        self._tell_stop(run)
        return run

    def _news(self, run: Run) -> Iterator[str]:
        """The lines that were not told yet; each is noted as told when it is given."""
        self._steps = min(self._steps, run.steps)  # an older copy of the database was put in its place
        for is_step, text in islice(self._told_from(run, self._steps), self._tries, None):
            self._steps, self._tries = (self._steps + 1, 0) if is_step else (self._steps, self._tries + 1)
            yield text

    def _told_from(self, run: Run, start: int) -> Iterator[tuple[bool, str]]:
        """The steps of a run and the tries that failed, from a step on, as text; and which of them are steps."""
        if not self.as_json:
            lines = story(self.store, dataclasses.replace(run, in_flight=None), start)
            known = takewhile(lambda line: line.step_n <= run.steps, lines)
            yield from ((line.committed, self._in_words(line)) for line in known)
            return
        tries: Iterator[Record] = page_attempts(self.store, run, start)
        records = merge(tries, page_steps(self.store, run, start), key=_in_order)
        for record in takewhile(lambda record: record.step_n <= run.steps, records):
            if isinstance(record, StepRecord):
                yield True, json.dumps({"type": "step", **step_json(record)})
            else:
                yield False, json.dumps({"type": "attempt", **attempt_json(record)})

    def _in_words(self, line: Line) -> str:
        parts = [
            f"step {line.step_n}",
            "" if line.score is None else f"score {score_words(line.score, line.scores)}",
            "" if line.cost_usd is None else dollars(line.cost_usd),
            "" if line.duration is None else format_duration(line.duration),
            *line.marks,
            f"✘ {line.error}" if line.error else "",
        ]
        words = " · ".join(part for part in parts if part)
        shown = shortened(words) if self.screen.width else printable(words)
        return self.screen.paint(shown, "red" if line.error else "")

    def _tell_stop(self, run: Run) -> None:
        """Say once that nobody works on the run, and how to go on; as JSON also how it ended."""
        stop = None if run.status is RunStatus.RUNNING else (run.status, run.stop_reason, run.epoch)
        if stop is None or stop == self._stopped:
            self._stopped = stop
            return
        self._stopped = stop
        command = next_command(self.store, run, self.db)
        if self.as_json:
            print(json.dumps({"type": "run", **run_json(self.store, run), "go_on": command}), flush=True)
        elif run.status not in ENDED:
            words = f"run {run.id} {reason(run) or run.status.value}" + (f"; to go on: {command}" if command else "")
            print(self.screen.paint(printable(words), "yellow"), flush=True)
