"""Looking on: `on_step`, watchers and the log are told what happens, and nothing they do changes a run."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from contextlib import suppress

import pytest
from driving import Draft, Maker, go, grow, scripted, size, until

from loomc_runner import BestScore, Budget, Done, Retry, RunStatus, SpecError, StepRecord, ask, call, spend, tool
from loomc_runner.errors import StepError
from loomc_runner.store.memory import MemoryStore
from loomc_runner.watching import Watcher, traced_by, watched_by


class Notebook(Watcher):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.notes: list[tuple[object, ...]] = []

    def began(self, run):
        """A run began."""
        self.notes.append(("began", run.ledger.run_id, run.ledger.steps))

    def committed(self, run_id, step):
        """A step."""
        self.notes.append(("committed", run_id, step.step_n))

    def failed(self, run_id, attempt, delay):
        """A try."""
        self.notes.append(("failed", run_id, attempt.step_n))

    def called(self, run_id, call):
        """A call."""
        self.notes.append(("called", run_id, call.status.value))

    def ended(self, run_id, status, reason):
        """A run ended."""
        self.notes.append(("ended", run_id, status.value))


@pytest.fixture
def notes() -> Notebook:
    """What is told meanwhile."""
    notebook = Notebook()
    with watched_by(notebook):
        yield notebook


def fails(draft: Draft) -> Draft:
    """A step that only fails."""
    raise TimeoutError("the model is \x1b[31mslow")


# on_step


def test_on_step_is_given_each_committed_step(make):
    """With its number, its score and its state, in order; several callbacks one after the other."""
    told, again = [], []
    refine = make(grow, scorer=size, converge_on=until(2), on_step=[told.append, lambda s: again.append(s.state.n)])
    go(refine.run(Draft()))
    assert [(step.step_n, step.score) for step in told] == [(0, 1.0), (1, 2.0)]
    assert all(isinstance(step, StepRecord) for step in told)
    assert again == [1, 2]


def test_a_stream_tells_on_step_too(make):
    """Before the reader gets the step."""
    told = []
    steps = go(make(grow, converge_on=until(2), on_step=told.append).stream(Draft()))
    assert told == steps


def test_an_async_loop_waits_for_an_async_on_step(memory):
    """The next step comes after it."""
    told = []

    async def note(step: StepRecord) -> None:
        await asyncio.sleep(0)
        told.append(step.step_n)

    def step(draft: Draft) -> Draft:
        assert len(told) == draft.n
        return grow(draft)

    refine = Maker(memory, is_async=True)(step, converge_on=until(3), on_step=note)
    assert go(refine.run(Draft())).steps == 3
    assert told == [0, 1, 2]


def test_what_on_step_raises_is_logged_and_stops_nothing(make, caplog):
    """Once for each time, with its run and its step; the callbacks after it are told."""
    told = []

    def breaks(step: StepRecord) -> None:
        raise ValueError("no disk")

    refine = make(grow, converge_on=until(2), on_step=[breaks, told.append])
    assert go(refine.run(Draft(), run_id="r")).status is RunStatus.COMPLETED
    messages = [record.getMessage() for record in caplog.records if record.exc_info]
    assert messages == [f"run r: on_step failed after step {n}; the run goes on" for n in (0, 1)]
    assert len(told) == 2


def test_a_sync_loop_logs_an_on_step_that_wants_to_be_awaited(memory, caplog):
    """Where that shows only when it is called."""

    async def note(step: StepRecord) -> None:
        await asyncio.sleep(0)

    refine = Maker(memory, is_async=False)(grow, converge_on=until(1), on_step=lambda step: note(step))
    assert refine.run(Draft()).status is RunStatus.COMPLETED
    assert "the loop is not async" in caplog.text


async def later(step: StepRecord) -> None:
    """An async callback."""


@pytest.mark.parametrize(("value", "words"), [(later, "later is async"), (3, "on_step=3"), ([print, "x"], "'x'")])
def test_an_on_step_that_cannot_work_is_refused_at_decoration(memory, value, words):
    """An async one on a sync loop, and what is no function."""
    with pytest.raises(SpecError, match=words):
        Maker(memory, is_async=False)(grow, on_step=value)


def test_ctrl_c_in_on_step_pauses_the_run(memory):
    """It is no mistake of the callback, and the step is committed."""

    def interrupted(step: StepRecord) -> None:
        raise KeyboardInterrupt

    refine = Maker(memory, is_async=False)(grow, converge_on=until(3), on_step=interrupted)
    with pytest.raises(KeyboardInterrupt):
        refine.run(Draft(), run_id="r")
    run = memory.get_run("r")
    assert (run.status, run.steps) == (RunStatus.PAUSED, 1)


# Watchers


def test_a_watcher_is_told_all_of_a_run_and_its_children(make, notes):
    """What began, was called, failed, was committed and ended, in order."""
    child = make(grow, name="child", converge_on=until(1))
    tried = []

    @tool
    def look(n: int) -> int:
        return n

    def step(draft: Draft) -> Draft:
        tried.append(1)
        if len(tried) == 1:
            raise TimeoutError
        look(draft.n)
        return grow(draft)

    go(make(step, retry=Retry(attempts=2, wait=0), converge_on=until(1)).run(Draft(), run_id="r"))
    told = [("began", "r", 0), ("failed", "r", 0), ("called", "r", "started"), ("called", "r", "done")]
    assert notes.notes == [*told, ("committed", "r", 0), ("ended", "r", "completed")]
    go(child.run(Draft(), run_id="c"))
    assert notes.notes[6:] == [("began", "c", 0), ("committed", "c", 0), ("ended", "c", "completed")]


def test_child_runs_in_threads_are_told_of(memory, notes):
    """Between the beginning and the end of their parent."""
    make = Maker(memory, is_async=False)
    child = make(grow, name="child", converge_on=until(1))
    make(lambda draft: child.map([Draft(), Draft()]) and grow(draft), converge_on=until(1)).run(Draft(), run_id="r")
    assert notes.notes[0] == ("began", "r", 0)
    assert sorted(notes.notes[1:-2]) == sorted(
        (event, f"r.0.{n}", *more)
        for n in (0, 1)
        for event, *more in (("began", 0), ("committed", 0), ("ended", "completed"))
    )
    assert notes.notes[-2:] == [("committed", "r", 0), ("ended", "r", "completed")]


def test_a_watcher_that_raises_changes_nothing(make, caplog):
    """It is logged, and the other watchers are told."""
    notebook = Notebook()
    with watched_by(Watcher()), watched_by(object()), watched_by(notebook):
        result = go(make(grow, converge_on=until(1)).run(Draft(), run_id="r"))
    assert result.status is RunStatus.COMPLETED
    assert [note[0] for note in notebook.notes] == ["began", "committed", "ended"]
    assert caplog.text.count("object could not be told") == 3


def test_a_watcher_is_told_once_however_often_it_looks_on(memory, notes):
    """Nested contexts add nothing."""
    with watched_by(notes), watched_by(notes):
        Maker(memory, is_async=False)(grow, converge_on=until(1)).run(Draft(), run_id="r")
    assert len(notes.notes) == 3


@pytest.mark.parametrize("read", [1, 2, 3])
def test_a_stream_tells_its_end_once_wherever_its_reader_leaves(memory, notes, read):
    """In the middle, after the last step, and after the end."""
    steps = Maker(memory, is_async=False)(grow, converge_on=until(2)).stream(Draft(), run_id="r")
    for _ in range(read):
        next(steps, None)
    steps.close()
    steps.close()
    ends = [note for note in notes.notes if note[0] == "ended"]
    assert ends == [("ended", "r", "paused" if read == 1 else "completed")]


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_a_torn_stream_tells_its_end_once(memory, notes, error):
    """Whatever tears it apart."""

    def tears(draft: Draft) -> Draft:
        raise error

    steps = Maker(memory, is_async=False)(tears).stream(Draft(), run_id="r")
    with pytest.raises(type(error)):
        next(steps)
    steps.close()
    assert [note[0] for note in notes.notes].count("ended") == 1


def test_a_run_that_is_torn_apart_tells_its_end(memory, notes):
    """Also where it goes on and ends for good later."""

    def tears(draft: Draft) -> Draft:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Maker(memory, is_async=False)(tears).run(Draft(), run_id="r")
    assert notes.notes == [("began", "r", 0), ("ended", "r", "paused")]


# The log


def test_the_log_tells_each_step_and_the_end(make, caplog):
    """At INFO, with score, cost and decision."""
    caplog.set_level(logging.INFO, "loomc_runner")
    refine = make(scripted(2, 1, 3), scorer=size, backtrack=BestScore(), converge_on=until(3), cost_fn=lambda _: 0.25)
    go(refine.run(Draft(), run_id="r"))
    assert [record.getMessage() for record in caplog.records] == [
        "run r of tests:draft begins at step 0",
        "run r step 0 committed, score 2, $0.2500",
        "run r step 1 committed, score 1, $0.2500, restore 0",
        "run r step 2 committed, score 3, $0.2500, stop",
        "run r completed: converged: enough",
    ]


def test_failed_tries_are_warnings_on_one_line(memory, caplog):
    """What the error says cannot steer a terminal."""
    with pytest.raises(TimeoutError):
        Maker(memory, is_async=False)(fails, retry=Retry(attempts=2, wait=0)).run(Draft(), run_id="r")
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", "run r step 0: TimeoutError: the model is \\x1b[31mslow; tried again in 0.0s"),
        ("WARNING", "run r step 0: TimeoutError: the model is \\x1b[31mslow"),
    ]


def test_calls_are_told_at_debug_and_failed_ones_as_warnings(memory, caplog):
    """So that a log at INFO is not full of them."""
    caplog.set_level(logging.DEBUG, "loomc_runner")

    def step(draft: Draft) -> Draft | Done[Draft, None]:
        call(len, "abc", key="length")
        with pytest.raises(ZeroDivisionError):
            call(lambda: 1 / 0, key="broken")
        return Done(draft)

    step.__annotations__ = {"draft": Draft}
    Maker(memory, is_async=False)(step).run(Draft(), run_id="r")
    levels = [(record.levelname, record.getMessage().split()[5:7]) for record in caplog.records if "call" in record.msg]
    assert [level for level, _ in levels] == ["DEBUG", "DEBUG", "DEBUG", "WARNING"]
    assert levels[0][1] == ["builtins.len", "started"]


SILENT = """
from loomc_runner import Retry, loop

@loop(checkpoint="memory", retry=Retry(attempts=2, wait=0))
def fails(n: int) -> int:
    raise TimeoutError("slow")

try:
    fails(1)
except TimeoutError:
    pass
"""


def test_a_program_that_asks_for_no_log_gets_none():
    """Not even warnings of a failing run that is tried again."""
    ended = subprocess.run([sys.executable, "-c", SILENT], capture_output=True, text=True, check=True)
    assert ended.stdout + ended.stderr == ""


def test_what_nobody_asked_to_see_costs_no_words(memory, caplog):
    """Below the level that is set nothing is told."""
    caplog.set_level(logging.ERROR, "loomc_runner")
    with pytest.raises(TimeoutError):
        Maker(MemoryStore(), is_async=False)(fails).run(Draft())
    assert caplog.records == []


# Nothing that looks on reaches the run


class Broken(logging.Handler):
    """A log handler whose line is cut."""

    def emit(self, record):
        """Fail, as a handler that sends its records elsewhere may."""
        raise ConnectionError("the log server is gone")


@pytest.fixture
def broken_log():
    """The logger of the library writes to a handler that fails."""
    logger, handler = logging.getLogger("loomc_runner"), Broken()
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


def test_a_log_that_fails_stops_no_run(make, broken_log):
    """Neither when it is told, nor when an error of `on_step` is to be told."""
    steps = [TimeoutError("slow"), None, None]

    def step(draft: Draft) -> Draft:
        if error := steps.pop(0):
            raise error
        return call(grow, draft, key="k")

    options = {"retry": Retry(attempts=2), "converge_on": until(2), "on_step": lambda _: 1 / 0}
    assert go(make(step, **options).run(Draft())).status is RunStatus.COMPLETED


@pytest.mark.parametrize("act", [lambda: ask("Go?", bool), lambda: spend(usd=5), lambda: call(grow, Draft(), key="x")])
def test_what_on_step_of_a_child_does_is_no_part_of_its_parents_step(memory, act):
    """It asks, spends and calls outside of any step, as in a run of its own, and the parent is none the wiser."""
    make = Maker(memory, is_async=False)
    child = make(grow, name="child", converge_on=until(1), on_step=lambda _: act())
    parent = make(lambda draft: (child(Draft()), grow(draft))[1], budget=Budget(iterations=1), name="parent")
    parent.run(Draft(), run_id="r")
    run = memory.get_run("r")
    assert (run.steps, run.nano_usd, [*memory.calls("r"), *memory.questions("r")]) == (1, 0, [])


def test_a_stray_cancellation_in_on_step_is_logged(make):
    """Only somebody who cancels the run itself stops it."""

    def callback(_step):
        raise asyncio.CancelledError

    assert go(make(grow, converge_on=until(2), on_step=callback).run(Draft())).status is RunStatus.COMPLETED


def test_cancelling_a_run_while_on_step_waits_pauses_it(memory):
    """The cancellation is for the run, and reaches it."""

    async def cancel_me(_step):
        asyncio.current_task().cancel()
        await asyncio.sleep(0)

    refine = Maker(memory, is_async=True)(grow, converge_on=until(9), on_step=cancel_me)
    with pytest.raises(asyncio.CancelledError):
        go(refine.run(Draft(), run_id="r"))
    assert (memory.get_run("r").status, memory.get_run("r").steps) == (RunStatus.PAUSED, 1)


def test_what_is_put_around_a_step_and_swallows_its_error_makes_no_state_of_it(memory):
    """The step has returned nothing then, and says so."""

    def failing(_draft):
        raise ValueError("no")

    refine = Maker(memory, is_async=False)(failing)
    with traced_by(lambda *_: suppress(ValueError)), pytest.raises(StepError, match="returned None"):
        refine.run(Draft(), run_id="r")
    assert memory.get_run("r").steps == 0
