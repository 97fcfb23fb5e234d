"""User code is interrupted at its deadline, and nothing else ever is."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import math
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from loomc_runner import deadline
from loomc_runner.deadline import DeadlineReached, call, call_async, can_interrupt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType

LONG = 30.0  # what is never waited for: a test that waits for it fails

if not can_interrupt():
    pytest.skip("no SIGALRM here, or not the main thread", allow_module_level=True)


@pytest.fixture
def rung() -> list[float]:
    """List when the handler was called that every test begins with: somebody else's, for us."""
    return []


@pytest.fixture(autouse=True)
def alarm(request: pytest.FixtureRequest, rung: list[float]) -> Iterator[None]:
    """Keep the alarm of the test run out of the way, and see that a test ends with the alarm it began with.

    A test that asks for `rung` plays with the alarm itself, and checks it itself.
    """

    def ring(_signum: int, _frame: object) -> None:
        rung.append(time.monotonic())

    began, (delay, interval) = time.monotonic(), signal.setitimer(signal.ITIMER_REAL, 0)
    handler = signal.signal(signal.SIGALRM, ring)
    yield
    left = signal.setitimer(signal.ITIMER_REAL, 0), signal.signal(signal.SIGALRM, handler), rung
    if delay:
        signal.setitimer(signal.ITIMER_REAL, max(delay - (time.monotonic() - began), 0.001), interval)
    assert "rung" in request.function.__code__.co_varnames or left == ((0.0, 0.0), ring, [])


def soon(seconds: float = 0.05) -> float:
    """Give a deadline near enough to wait for."""
    return time.monotonic() + seconds


def spin(seconds: float = LONG) -> str:
    """Be user code that keeps the thread busy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass
    return "spun"


def of_ours(source: str) -> Any:
    """Compile a function `ours` as if it were written in a module of the package."""
    names = {"call": call, "call_async": call_async, "DeadlineReached": DeadlineReached, "time": time}
    file = Path(deadline.__file__).with_name("made_by_a_test.py")
    exec(compile(source, str(file), "exec"), names)
    return names["ours"]


def interrupted(error: BaseException) -> CodeType:
    """Say which code was interrupted: the last in the traceback is the signal handler, called by that code."""
    return [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)][-2]


def run_python(source: str, *arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    environment = os.environ | {
        "PYTHONPATH": str(Path(deadline.__file__).parents[1]),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
    }
    command = [sys.executable, *arguments, *(["-c", source] if source else [])]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def call_in_thread(fn: Callable[[], Any]) -> Any:
    """Call a function on a thread that is not the main one."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(fn()))
    thread.start()
    thread.join(LONG)
    return results[0]


# --- a sync function on the main thread


def test_a_busy_function_is_interrupted() -> None:
    """A Python function that never returns by itself is left at the deadline."""
    began = time.monotonic()
    with pytest.raises(DeadlineReached) as caught:
        call(spin, LONG, deadline=soon())
    assert 0.05 <= time.monotonic() - began < LONG / 2
    assert interrupted(caught.value) is spin.__code__


@pytest.mark.parametrize("fn", [time.sleep, partial(time.sleep), partial(time.sleep, LONG)])
def test_a_blocking_c_function_is_interrupted(fn: Callable[..., None]) -> None:
    """A function without a Python frame of its own is user code as well."""
    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(fn, *([] if getattr(fn, "args", ()) else [LONG]), deadline=soon())
    assert time.monotonic() - began < LONG / 2


def test_a_result_in_time_is_returned() -> None:
    """With time to spare a call is just a call."""
    assert call(divmod, 7, 2, deadline=soon(LONG)) == (3, 1)
    assert call(lambda *letters: letters, "a", "b", deadline=soon(LONG)) == ("a", "b")


@pytest.mark.parametrize("limit", [None, LONG])
@pytest.mark.parametrize("kind", [ValueError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_user_code_raises_passes_through(kind: type[BaseException], limit: float | None) -> None:
    """The very exception of the function arrives, whatever it is."""
    error = kind("mine")

    def fail() -> None:
        raise error

    with pytest.raises(kind) as caught:
        call(fail, deadline=None if limit is None else soon(limit))
    assert caught.value is error


def test_ctrl_c_arrives_as_itself() -> None:
    """A KeyboardInterrupt that comes from a signal has nothing to do with the deadline."""
    with pytest.raises(KeyboardInterrupt):
        call(lambda: signal.raise_signal(signal.SIGINT), deadline=soon(LONG))


def test_except_exception_does_not_swallow_the_deadline() -> None:
    """User code that handles every ordinary error is interrupted all the same."""

    def stubborn() -> None:
        while True:
            with contextlib.suppress(Exception):
                spin()

    with pytest.raises(DeadlineReached):
        call(stubborn, deadline=soon())


def test_a_swallowed_deadline_comes_again_with_time_to_clean_up() -> None:
    """User code that catches even this is interrupted again, but not at once."""
    hits = []

    def stubborn() -> None:
        while True:
            try:
                spin()
            except BaseException:
                hits.append(time.monotonic())
                spin(0.15)
                hits.append(time.monotonic())
                if len(hits) > 2:
                    raise

    with pytest.raises(DeadlineReached):
        call(stubborn, deadline=soon())
    assert len(hits) == 4


def test_a_deadline_that_has_passed_interrupts_at_once() -> None:
    """A caller that did not look at the clock first gets no free ride."""
    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(spin, LONG, deadline=began - 100)
    assert time.monotonic() - began < LONG / 2


def test_an_infinite_deadline_never_comes() -> None:
    """Infinity is an instant like any other."""
    assert call(spin, 0.01, deadline=math.inf) == "spun"


def test_without_a_deadline_nothing_is_installed() -> None:
    """The plain call leaves handler and timer alone."""
    before = signal.getsignal(signal.SIGALRM)
    assert call(signal.getsignal, signal.SIGALRM, deadline=None) is before
    assert call(signal.getsignal, signal.SIGALRM, deadline=soon(LONG)) is not before
    assert call(signal.getitimer, signal.ITIMER_REAL, deadline=None) == (0.0, 0.0)


# --- where it cannot interrupt


def test_on_another_thread_the_function_is_simply_called() -> None:
    """Off the main thread nothing can interrupt: the result arrives, late as it may be."""
    assert can_interrupt()
    assert call_in_thread(can_interrupt) is False
    assert call_in_thread(lambda: call(spin, 0.1, deadline=soon(0.01))) == "spun"


def test_a_thread_of_a_watched_function_is_left_alone() -> None:
    """The deadline of the main thread is none of a worker's business."""
    watched, results = threading.Event(), []

    def work() -> None:
        watched.wait(LONG)
        results.append(call(spin, 0.15, deadline=None))

    def step() -> None:
        watched.set()
        spin()

    worker = threading.Thread(target=work)
    worker.start()
    with pytest.raises(DeadlineReached):
        call(step, deadline=soon())
    worker.join(LONG)
    assert results == ["spun"]


def test_another_interpreter_cannot_interrupt() -> None:
    """Signals belong to the main interpreter, so in another one a function is simply called."""
    interpreters = pytest.importorskip("_interpreters" if sys.version_info >= (3, 13) else "_xxsubinterpreters")
    script = f"""import sys; sys.path[:] = {sys.path!r}
from loomc_runner import deadline
assert not deadline.can_interrupt()
assert deadline.call(int, "7", deadline=0.0) == 7"""
    other = interpreters.create()
    try:
        failure = interpreters.run_string(other, script)
    finally:
        interpreters.destroy(other)
    assert failure is None


# --- our own code is never interrupted


def test_code_of_ours_below_user_code_is_not_interrupted() -> None:
    """While user code is inside `spend` the deadline stays pending, and is raised soon after it leaves."""
    spend = of_ours("def ours(spin, book):\n    spin(0.15)\n    book.append('spent')")
    book: list[str] = []

    def step() -> None:
        spend(spin, book)
        spin()

    began = time.monotonic()
    with pytest.raises(DeadlineReached) as caught:
        call(step, deadline=soon())
    assert book == ["spent"]
    assert interrupted(caught.value) in (step.__code__, spin.__code__)
    assert time.monotonic() - began < LONG / 2


def test_a_result_wins_over_a_deadline_that_passed_inside_our_code() -> None:
    """User code that returns right after our code has held the thread has returned in time."""
    spend = of_ours("def ours(spin):\n    return spin(0.15)")
    assert call(partial(spend, spin), deadline=soon()) == "spun"


def test_user_code_that_our_code_calls_is_interrupted() -> None:
    """A scorer or a child's step is user code again, although our code called it."""
    drive = of_ours("def ours(fn):\n    return call(fn, deadline=None)")
    with pytest.raises(DeadlineReached) as caught:
        call(drive, spin, deadline=soon())
    assert interrupted(caught.value) is spin.__code__


def test_no_commit_is_lost_to_a_deadline() -> None:
    """Whatever a child's steps returned is committed, although the parent's deadline may pass at any instant."""
    drive = of_ours(
        "def ours(child, committed):\n"
        "    while True:\n"
        "        result = call(child, deadline=None)\n"
        "        end = time.monotonic() + 20e-6\n"
        "        while time.monotonic() < end:\n"
        "            pass\n"
        "        committed.append(result)\n"
    )
    steps = 0
    for _ in range(300):
        # A child is one step of C code: it spins, puts the result into the ledger and returns it.
        ledger: dict[int, str] = defaultdict(partial(spin, 100e-6))
        child, committed = partial(map(ledger.__getitem__, itertools.count()).__next__), list[str]()
        with pytest.raises(DeadlineReached):
            call(drive, child, committed, deadline=soon(random.uniform(100e-6, 500e-6)))
        assert len(ledger) == len(committed)
        steps += len(committed)
    assert steps > 300


# --- a result that was returned wins


def test_no_result_of_a_python_function_is_lost() -> None:
    """With deadlines aimed at the return, a function is interrupted before it or its result arrives.

    The interruption is raised in a frame of the function itself, or before it began.
    """
    began: list[float] = []

    def step(end: float) -> float:
        began.append(end)
        while time.monotonic() < end:
            pass
        return end

    returned = 0
    for _ in range(3_000):
        began.clear()
        end = soon(60e-6)
        try:
            assert call(step, end, deadline=end + random.uniform(-20e-6, 10e-6)) == end
            returned += 1
        except DeadlineReached as error:
            hit = interrupted(error)
            assert hit is step.__code__ or not began
    assert 0 < returned < 3_000


def test_no_result_of_a_c_function_is_lost() -> None:
    """The same for a function that records its result and returns in one step of C code, as the ledger here does."""
    returned = 0
    for _ in range(3_000):
        end = soon(60e-6)
        ledger: dict[int, str] = defaultdict(partial(spin, 50e-6))
        try:
            assert call(ledger.__getitem__, 1, deadline=end + random.uniform(-20e-6, 10e-6)) == "spun"
            returned += 1
        except DeadlineReached:
            assert not ledger
    assert 0 < returned < 3_000


@pytest.fixture
def on_profile() -> Iterator[Callable[[Callable[[str, str], None]], None]]:
    """Run code of a test between two instructions of ours, as a profiler would: on each call and each return."""
    before = sys.getprofile()
    yield lambda hook: sys.setprofile(lambda frame, event, _: hook(frame.f_code.co_name, event))
    sys.setprofile(before)


def test_a_result_wins_over_a_deadline_that_passes_in_a_profiler(
    on_profile: Callable[[Callable[[str, str], None]], None],
) -> None:
    """Other people's code may run when the function has returned and we have not; the result is safe by then."""

    def hook(name: str, event: str) -> None:
        if (name, event) == (deadline._hand_over.__name__, "return"):
            sys.setprofile(None)
            spin(0.15)

    on_profile(hook)
    assert call(int, "7", deadline=soon()) == 7


def test_ctrl_c_at_the_worst_moment_leaves_no_deadline_behind(
    on_profile: Callable[[Callable[[str, str], None]], None], rung: list[float]
) -> None:
    """A KeyboardInterrupt in our own code may leave our handler behind, but nobody is interrupted by it."""

    def hook(name: str, event: str) -> None:
        if (name, event) == ("leave", "call"):
            sys.setprofile(None)
            raise KeyboardInterrupt

    on_profile(hook)
    with pytest.raises(KeyboardInterrupt):
        call(int, "7", deadline=soon())
    assert call(spin, 0.15, deadline=None) == "spun"
    assert call(spin, 0.1, deadline=soon(LONG)) == "spun"
    assert not rung


# --- a call inside a call


def test_the_inner_deadline_interrupts_only_the_inner_call() -> None:
    """A child that runs into its own limit leaves the parent the rest of its time."""

    def parent() -> str:
        with pytest.raises(DeadlineReached):
            call(spin, deadline=soon())
        return spin(0.1)

    assert call(parent, deadline=soon(LONG)) == "spun"


@pytest.mark.parametrize("inner", [None, LONG, math.inf])
def test_the_outer_deadline_interrupts_the_inner_call(inner: float | None) -> None:
    """The earliest of all enclosing deadlines counts, and passes through every call on its way out."""
    passed = []

    def parent() -> None:
        try:
            call(spin, deadline=None if inner is None else soon(inner))
        except DeadlineReached:
            passed.append("inner")
            raise

    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(parent, deadline=soon())
    assert passed == ["inner"]
    assert time.monotonic() - began < LONG / 2


def test_the_outer_deadline_is_armed_again_after_the_inner_call() -> None:
    """A child that ends in time does not take its parent's deadline with it."""

    def parent() -> None:
        assert call(spin, 0.01, deadline=soon(0.2)) == "spun"
        spin()

    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(parent, deadline=soon())
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("inner", [0.1, LONG])
def test_clean_up_in_the_parent_is_not_interrupted_again_at_once(inner: float) -> None:
    """One interruption serves all the calls that it goes through, also when two limits are reached at once."""
    done = []
    began = time.monotonic()

    def parent() -> None:
        try:
            call(spin, deadline=began + inner)
        finally:
            done.append(spin(0.15))

    with pytest.raises(DeadlineReached):
        call(parent, deadline=began + 0.1)
    assert done == ["spun"]


def test_the_outer_deadline_survives_a_child_that_switches_the_timer_off() -> None:
    """A child may use the alarm and leave it off; on leaving the child the parent's deadline is armed again."""

    def child() -> None:
        ours = signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, ours)

    def parent() -> None:
        call(child, deadline=None)
        spin()

    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(parent, deadline=soon())
    assert time.monotonic() - began < LONG / 2


# --- somebody else's alarm


def test_a_foreign_timer_rings_when_due(rung: list[float]) -> None:
    """A timer that was there first keeps its rhythm while ours is armed, before, in and after the call."""
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.05)
    began = time.monotonic()
    assert call(spin, 0.25, deadline=soon(LONG)) == "spun"
    inside = len(rung)
    assert 2 <= inside <= (time.monotonic() - began) / 0.05 + 1
    spin(0.12)
    assert inside < len(rung) <= (time.monotonic() - began) / 0.05 + 1


def test_a_foreign_timer_does_not_delay_the_deadline(rung: list[float]) -> None:
    """Both alarms happen in one call."""
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(spin, deadline=soon(0.2))
    assert time.monotonic() - began < LONG / 2
    assert len(rung) >= 2


def test_a_foreign_timer_gets_back_what_is_left_of_it(rung: list[float]) -> None:
    """After the call handler, remaining time and interval are as if there had been no call."""
    handler = signal.getsignal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 20.0, 7.0)
    call(spin, 0.15, deadline=soon(LONG))
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    assert signal.getsignal(signal.SIGALRM) is handler
    assert 10 < left <= 19.86
    assert interval == pytest.approx(7.0, abs=0.01)
    assert not rung


def test_a_foreign_timer_rings_in_our_own_code(rung: list[float]) -> None:
    """Only our own deadlines wait until our code has left; others never did."""
    spend = of_ours("def ours(spin):\n    spin(0.15)\n    return time.monotonic()")
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert call(spend, spin, deadline=soon(LONG)) > rung[0]
    assert len(rung) == 1


def test_a_foreign_handler_may_raise(rung: list[float]) -> None:
    """That is how pytest-timeout ends a test; the handler is back in place when it has."""

    def give_up(_signum: int, _frame: object) -> None:
        rung.append(time.monotonic())
        raise TimeoutError

    signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    with pytest.raises(TimeoutError):
        call(spin, deadline=soon(LONG))
    assert signal.getsignal(signal.SIGALRM) is give_up
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_a_foreign_handler_may_set_its_timer_anew(rung: list[float]) -> None:
    """A handler that arms the next alarm itself goes on doing so."""

    def tick(_signum: int, _frame: object) -> None:
        rung.append(time.monotonic())
        signal.setitimer(signal.ITIMER_REAL, 0.05)

    signal.signal(signal.SIGALRM, tick)
    tick(0, None)
    assert call(spin, 0.4, deadline=soon(LONG)) == "spun"
    assert len(rung) >= 3
    assert signal.getitimer(signal.ITIMER_REAL)[0] > 0


def test_a_foreign_handler_is_not_interrupted_by_our_deadline(rung: list[float]) -> None:
    """What happens in somebody else's handler is not part of the step, even if a loop runs there."""

    def work(_signum: int, _frame: object) -> None:
        call(spin, 0.15, deadline=soon(LONG))
        rung.append(time.monotonic())

    signal.signal(signal.SIGALRM, work)
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    began = time.monotonic()
    with pytest.raises(DeadlineReached):
        call(spin, deadline=soon(0.1))
    assert time.monotonic() - began < LONG / 2
    assert len(rung) == 1


def test_an_ignored_foreign_alarm_stays_ignored(rung: list[float]) -> None:
    """A timer whose signal is ignored has no effect."""
    signal.signal(signal.SIGALRM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    assert call(spin, 0.2, deadline=soon(LONG)) == "spun"
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_IGN
    assert not rung


def test_a_foreign_alarm_without_a_handler_still_kills() -> None:
    """`signal.alarm` alone is somebody's last line of defence, and stays it."""
    done = run_python(
        "import signal, time\n"
        "from loomc_runner.deadline import call\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.2)\n"
        "call(time.sleep, 30, deadline=time.monotonic() + 30)"
    )
    assert done.returncode == -signal.SIGALRM, done.stderr


def test_a_handler_that_user_code_installs_stays(rung: list[float]) -> None:
    """What a step does to the alarm on purpose is not undone behind its back."""

    def mine(_signum: int, _frame: object) -> None:
        rung.append(time.monotonic())

    def step() -> None:
        signal.signal(signal.SIGALRM, mine)
        signal.setitimer(signal.ITIMER_REAL, 20.0, 7.0)

    call(step, deadline=soon(LONG))
    assert signal.getsignal(signal.SIGALRM) is mine
    assert signal.getitimer(signal.ITIMER_REAL)[1] == pytest.approx(7.0, abs=0.01)


def test_our_timer_never_rings_a_handler_that_user_code_left(rung: list[float]) -> None:
    """Of a step that installs only a handler, the timer that was there before the call comes back to it."""

    def step() -> None:
        signal.signal(signal.SIGALRM, lambda *_: rung.append(time.monotonic()))

    call(step, deadline=soon())
    spin(0.15)
    assert not rung
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    call(step, deadline=soon(LONG))
    spin(0.2)
    assert len(rung) == 1


def test_a_handler_that_user_code_installs_serves_inner_calls(rung: list[float]) -> None:
    """For a child, the alarm that its parent set up is the one to keep."""

    def mine(_signum: int, _frame: object) -> None:
        rung.append(time.monotonic())

    def parent() -> None:
        signal.signal(signal.SIGALRM, mine)
        signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
        assert call(spin, 0.2, deadline=soon(LONG)) == "spun"
        assert signal.getsignal(signal.SIGALRM) is mine

    call(parent, deadline=soon(LONG))
    assert len(rung) >= 2
    assert signal.getsignal(signal.SIGALRM) is mine
    assert signal.getitimer(signal.ITIMER_REAL)[1] == pytest.approx(0.05, abs=0.01)


def test_user_code_may_borrow_the_alarm(rung: list[float]) -> None:
    """A step that installs a handler for a while and puts ours back leaves the foreign one where it was."""
    foreign = signal.getsignal(signal.SIGALRM)

    def step() -> str:
        ours = signal.signal(signal.SIGALRM, lambda *_: None)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, ours)
        return call(spin, 0.01, deadline=soon(LONG))

    signal.setitimer(signal.ITIMER_REAL, 20.0)
    assert call(step, deadline=soon(LONG)) == "spun"
    assert signal.getsignal(signal.SIGALRM) is foreign
    assert 10 < signal.getitimer(signal.ITIMER_REAL)[0] < 20
    assert not rung


def test_our_handler_is_harmless_when_it_is_put_back_too_late(rung: list[float]) -> None:
    """Somebody who kept our handler and installs it after the call gets one that does nothing."""
    ours = call(signal.getsignal, signal.SIGALRM, deadline=soon(LONG))
    signal.signal(signal.SIGALRM, ours)
    signal.raise_signal(signal.SIGALRM)
    signal.setitimer(signal.ITIMER_REAL, 20.0)
    with pytest.raises(DeadlineReached):
        call(spin, deadline=soon())
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL
    assert not rung


def test_an_alarm_that_nobody_asked_for_is_ignored() -> None:
    """A signal that another process sends is not our deadline."""

    def step() -> str:
        signal.raise_signal(signal.SIGALRM)
        return "done"

    assert call(step, deadline=soon(LONG)) == "done"


def test_a_forked_child_starts_without_us() -> None:
    """A process that a watched function forks has neither our deadline nor our handler."""
    done = run_python(
        "import os, signal, time, threading\n"
        "from loomc_runner.deadline import call, DeadlineReached\n"
        "def child():\n"
        "    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL\n"
        "    call(time.sleep, 0.3, deadline=None)\n"
        "    try:\n"
        "        call(time.sleep, 30, deadline=time.monotonic() + 0.1)\n"
        "    except DeadlineReached:\n"
        "        os._exit(7)\n"
        "def fork():\n"
        "    if (pid := os.fork()) == 0:\n"
        "        try:\n"
        "            child()\n"
        "        finally:\n"
        "            os._exit(1)\n"
        "    codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
        "def fork_twice():\n"
        "    fork()\n"
        "    thread = threading.Thread(target=fork)\n"
        "    thread.start()\n"
        "    thread.join()\n"
        "codes = []\n"
        "spend = compile('def ours(fn): fn()', call.__code__.co_filename, 'exec')\n"
        "exec(spend)\n"
        "call(lambda: ours(fork_twice), deadline=time.monotonic() + 0.2)\n"
        "print(codes)"
    )
    assert done.stdout == "[7, 7]\n", done.stderr


def test_pytest_timeout_and_a_deadline_live_together(tmp_path: Path) -> None:
    """A test that hangs in a step is ended by pytest-timeout, and a deadline in a test with a timeout works."""
    (tmp_path / "test_hang.py").write_text(
        "import time, pytest\n"
        "from loomc_runner.deadline import call, DeadlineReached\n"
        "@pytest.mark.timeout(0.3, method='signal')\n"
        "def test_hangs_inside():\n"
        "    call(time.sleep, 30, deadline=time.monotonic() + 30)\n"
        "@pytest.mark.timeout(0.3, method='signal')\n"
        "def test_hangs_afterwards():\n"
        "    call(time.sleep, 0.01, deadline=time.monotonic() + 30)\n"
        "    time.sleep(30)\n"
        "@pytest.mark.timeout(20, method='signal')\n"
        "def test_is_in_time():\n"
        "    with pytest.raises(DeadlineReached):\n"
        "        call(time.sleep, 30, deadline=time.monotonic() + 0.1)\n"
    )
    done = run_python("", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "pytest_timeout", folder=tmp_path)
    assert "2 failed, 1 passed" in done.stdout, done.stdout + done.stderr
    assert done.stdout.count("Failed: Timeout (>0.3s)") >= 2


def test_user_code_is_interrupted_under_coverage(tmp_path: Path) -> None:
    """Coverage runs inside user code, with a lock: it is let go before the interruption, or the next call hangs."""
    pytest.importorskip("coverage")
    (tmp_path / "steps.py").write_text(
        "import time\n"
        "from loomc_runner.deadline import call, DeadlineReached\n"
        "def nothing(): pass\n"
        "def step():\n"
        "    while True: nothing()\n"
        "for _ in range(100):\n"
        "    try: call(step, deadline=time.monotonic() + 0.001)\n"
        "    except DeadlineReached: pass\n"
        "print('done')"
    )
    done = run_python("", "-m", "coverage", "run", "--data-file", str(tmp_path / "data"), "steps.py", folder=tmp_path)
    assert done.stdout == "done\n", done.stderr


def test_importing_the_module_does_not_import_asyncio() -> None:
    """A program that never runs an async loop does not pay for one."""
    done = run_python("import sys, loomc_runner.deadline\nprint('asyncio' in sys.modules)")
    assert done.stdout == "False\n", done.stderr


# --- a coroutine function


async def wait(seconds: float = LONG) -> str:
    """Be user code that waits."""
    await asyncio.sleep(seconds)
    return "waited"


async def unharmed() -> bool:
    """Say whether the current task is none the worse for what it has been through."""
    await asyncio.sleep(0)
    await asyncio.sleep(0.001)
    return current_task().cancelling() == 0


def current_task() -> asyncio.Task[Any]:
    """Give the task that runs right now."""
    task = asyncio.current_task()
    assert task is not None
    return task


def test_a_waiting_coroutine_is_interrupted() -> None:
    """A step that waits for something is cancelled at the deadline; its task is not, and goes on."""

    async def main() -> bool:
        with pytest.raises(DeadlineReached):
            await call_async(wait, LONG, deadline=soon())
        return await unharmed()

    began = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - began < LONG / 2


@pytest.mark.parametrize("limit", [None, LONG, math.inf])
def test_a_coroutine_in_time_gives_its_result(limit: float | None) -> None:
    """With time to spare, or no deadline, it is just awaited."""

    async def main() -> tuple[str, bool]:
        result = await call_async(wait, 0.01, deadline=None if limit is None else soon(limit))
        return result, await unharmed()

    assert asyncio.run(main()) == ("waited", True)


@pytest.mark.parametrize("kind", [ValueError, KeyError, asyncio.TimeoutError])
def test_what_a_coroutine_raises_passes_through(kind: type[Exception]) -> None:
    """The very exception of the coroutine arrives."""
    error = kind("mine")

    async def fail() -> None:
        raise error

    with pytest.raises(kind) as caught:
        asyncio.run(call_async(fail, deadline=soon(LONG)))
    assert caught.value is error


def test_a_coroutine_that_turns_the_cancellation_into_an_error_is_believed() -> None:
    """User code that raises its own error when it is cancelled gets that error, and the task is free again."""

    async def translate() -> None:
        try:
            await wait()
        except asyncio.CancelledError:
            raise ZeroDivisionError from None

    async def main() -> bool:
        with pytest.raises(ZeroDivisionError):
            await call_async(translate, deadline=soon())
        return await unharmed()

    assert asyncio.run(main())


def test_a_cancellation_by_somebody_else_stays_one() -> None:
    """Only our own cancellation is a deadline."""

    async def main() -> int:
        task = asyncio.create_task(call_async(wait, deadline=soon(LONG)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelling()

    assert asyncio.run(main()) == 1


def test_a_cancellation_by_somebody_else_wins_over_the_deadline() -> None:
    """A task that is cancelled while it is being interrupted ends cancelled."""

    async def clean_up_slowly() -> None:
        try:
            await wait()
        finally:
            await wait()

    async def main() -> int:
        task = asyncio.create_task(call_async(clean_up_slowly, deadline=soon(0.05)))
        await asyncio.sleep(0.15)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return task.cancelling()

    assert asyncio.run(main()) == 1


def test_somebody_elses_cancelled_task_is_not_a_deadline() -> None:
    """A step that waits for a task which was cancelled gets that CancelledError, and so does its caller."""

    async def step() -> None:
        task = asyncio.create_task(wait())
        task.cancel()
        await task

    async def main() -> bool:
        with pytest.raises(asyncio.CancelledError):
            await call_async(step, deadline=soon(LONG))
        return await unharmed()

    assert asyncio.run(main())


def test_a_finished_step_leaves_nothing_behind() -> None:
    """Neither a timer that keeps the task alive, nor a deadline that later sync calls would have to watch."""

    async def main() -> bool:
        task = asyncio.create_task(call_async(wait, 0.01, deadline=soon(LONG)))
        await task
        reference = weakref.ref(task)
        del task
        gc.collect()
        foreign = signal.getsignal(signal.SIGALRM)
        await call_async(wait, 0.01, deadline=soon(LONG))
        assert call(signal.getsignal, signal.SIGALRM, deadline=None) is foreign
        return reference() is None

    assert asyncio.run(main())


def test_a_swallowed_cancellation_comes_again_with_time_to_clean_up() -> None:
    """A coroutine that catches the cancellation is cancelled again, but not at once."""
    hits = []

    async def stubborn() -> None:
        while True:
            try:
                await wait()
            except asyncio.CancelledError:
                hits.append("interrupted")
                hits.append(await wait(0.15))
                if len(hits) > 2:
                    raise

    async def main() -> bool:
        with pytest.raises(DeadlineReached):
            await call_async(stubborn, deadline=soon())
        return await unharmed()

    assert asyncio.run(main())
    assert hits == ["interrupted", "waited"] * 2


def test_a_result_returned_in_spite_of_the_cancellation_wins() -> None:
    """What a coroutine makes of its cancellation is its result, and the cancellation hits nothing else."""

    async def finish() -> str:
        try:
            return await wait()
        except asyncio.CancelledError:
            return "finished"

    async def absorb() -> str:  # the cancellation goes to the inner task and never arrives here
        return await asyncio.create_task(finish())

    async def main() -> list[str | bool]:
        return [
            await call_async(finish, deadline=soon()),
            await unharmed(),
            await call_async(absorb, deadline=soon()),
            await unharmed(),
        ]

    assert asyncio.run(main()) == ["finished", True, "finished", True]


def test_a_coroutine_that_never_waits_cannot_be_cancelled() -> None:
    """Its result wins, however late, and the next await is not cancelled for it."""

    async def busy() -> str:
        return spin(0.1)

    async def main() -> tuple[str, bool]:
        return await call_async(busy, deadline=soon(0.01)), await unharmed()

    assert asyncio.run(main()) == ("spun", True)


def test_a_cancellation_that_user_code_asked_for_is_not_lost() -> None:
    """A step that cancels its own task and returns has returned; the cancellation hits the next await."""
    results = []

    async def step() -> str:
        current_task().cancel()
        return "done"

    async def main() -> None:
        results.append(await call_async(step, deadline=soon(LONG)))
        await asyncio.sleep(0)
        results.append("not reached")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert results == ["done"]


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        (0.1, LONG, {"inner"}),
        (LONG, 0.1, {"outer"}),
        (0.1, 0.1, {"inner", "outer"}),
        (0.1, 0.10001, {"inner", "outer"}),
        (0.10001, 0.1, {"inner", "outer"}),
    ],
)
def test_nested_coroutines_each_have_their_own_deadline(inner: float, outer: float, expected: set[str]) -> None:
    """Whichever comes first interrupts; when both come at once, the task is still free afterwards."""

    async def parent() -> str:
        try:
            return await call_async(wait, deadline=soon(inner))
        except DeadlineReached:
            return "inner"

    async def main() -> str:
        try:
            result = await call_async(parent, deadline=soon(outer))
        except DeadlineReached:
            result = "outer"
        assert await unharmed()
        return result

    assert asyncio.run(main()) in expected


def test_the_event_loop_is_free_while_a_deadline_runs() -> None:
    """Deadlines of tasks side by side do not disturb each other."""

    async def main() -> list[Any]:
        calls = [call_async(wait, seconds, deadline=soon(0.2)) for seconds in (0.01, LONG, 0.02, LONG)]
        return await asyncio.gather(*calls, return_exceptions=True)

    first, second, third, fourth = asyncio.run(main())
    assert (first, third) == ("waited", "waited")
    assert isinstance(second, DeadlineReached)
    assert isinstance(fourth, DeadlineReached)


def test_without_a_task_there_is_no_silent_deadline() -> None:
    """A coroutine driven by hand cannot be cancelled: that is an error, not a limit that is off."""

    async def main() -> None:
        failed = asyncio.get_running_loop().create_future()

        def drive() -> None:
            with pytest.raises(RuntimeError, match="task") as caught:
                call_async(wait, deadline=soon()).send(None)
            failed.set_result(caught.type)

        asyncio.get_running_loop().call_soon(drive)
        assert await failed is RuntimeError

    asyncio.run(main())


def test_without_a_deadline_a_coroutine_needs_no_task() -> None:
    """The plain await works in a coroutine that is driven by hand, with no event loop at all."""

    async def step() -> str:
        return "done"

    with pytest.raises(StopIteration) as caught:
        call_async(step, deadline=None).send(None)
    assert caught.value.value == "done"


def test_no_result_of_a_coroutine_is_lost() -> None:
    """With deadlines aimed at the return, the result arrives or the coroutine saw the cancellation."""
    seen = []

    async def step(seconds: float) -> str:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        return "done"

    async def one() -> str:
        for _ in range(20):
            await asyncio.sleep(0)
        try:
            result = await call_async(step, 0.01, deadline=soon(random.uniform(0.0098, 0.0104)))
        except DeadlineReached:
            result = "interrupted"
        assert await unharmed()
        return result

    async def main() -> list[str]:
        return [result for _ in range(30) for result in await asyncio.gather(*(one() for _ in range(20)))]

    results = asyncio.run(main())
    assert results.count("interrupted") == len(seen)
    assert results.count("done") == len(results) - len(seen)
    assert 0 < len(seen) < len(results)


# --- sync and async, one inside the other


def test_a_sync_call_inside_a_coroutine_is_interrupted_by_its_deadline() -> None:
    """A sync child blocks the event loop, so the signal does what no cancellation could."""

    async def step() -> str:
        return call(spin, deadline=None)

    async def main() -> bool:
        with pytest.raises(DeadlineReached):
            await call_async(step, deadline=soon())
        return await unharmed()

    began = time.monotonic()
    assert asyncio.run(main())
    assert time.monotonic() - began < LONG / 2


def test_a_sync_call_inside_a_coroutine_has_its_own_deadline_too() -> None:
    """Its own limit ends the sync child, and the coroutine goes on in what is left."""

    async def step() -> str:
        with pytest.raises(DeadlineReached):
            call(spin, deadline=soon())
        return await wait(0.1)

    async def main() -> tuple[str, bool]:
        return await call_async(step, deadline=soon(LONG)), await unharmed()

    assert asyncio.run(main()) == ("waited", True)


def test_clean_up_in_a_coroutine_is_not_interrupted_again_at_once() -> None:
    """The signal and the cancellation are one interruption, not two."""
    done = []

    async def step() -> None:
        try:
            call(spin, deadline=None)
        finally:
            done.append(await wait(0.15))

    async def main() -> bool:
        with pytest.raises(DeadlineReached):
            await call_async(step, deadline=soon())
        return await unharmed()

    assert asyncio.run(main())
    assert done == ["waited"]


def test_a_task_that_outlives_its_step_has_no_deadline() -> None:
    """The deadline ends with the step, also for a background task that the step has started."""

    async def background() -> str:
        await asyncio.sleep(0.1)
        return call(spin, 0.15, deadline=None)

    async def step() -> asyncio.Task[str]:
        return asyncio.create_task(background())

    async def main() -> str:
        return await (await call_async(step, deadline=soon(0.2)))

    assert asyncio.run(main()) == "spun"


def test_a_coroutine_inside_a_sync_call_is_interrupted_by_the_signal() -> None:
    """A sync step that runs an event loop is user code, also where a child loop calls a coroutine in it."""
    drive = of_ours("async def ours(fn):\n    return await call_async(fn, deadline=None)")

    async def busy() -> str:
        return spin()

    began = time.monotonic()
    with pytest.raises(DeadlineReached) as caught:
        call(asyncio.run, drive(busy), deadline=soon(0.2))
    assert time.monotonic() - began < LONG / 2
    assert interrupted(caught.value) is spin.__code__


def test_the_frame_of_ours_that_awaits_is_not_interrupted() -> None:
    """Torn out of the frame that awaits it, a coroutine would never learn why it ended."""
    coroutines: queue.SimpleQueue[Any] = queue.SimpleQueue()
    helper = threading.Timer(0.15, lambda: coroutines.put(wait()))
    helper.start()
    with pytest.raises(DeadlineReached) as caught:
        call(asyncio.run, call_async(coroutines.get, deadline=None), deadline=soon())
    helper.join(LONG)
    assert interrupted(caught.value) is not call_async.__code__


def test_code_of_ours_in_an_event_loop_is_not_interrupted() -> None:
    """The driver of an async child inside a sync step holds the thread: its commit is finished first."""
    drive = of_ours(
        "async def ours(fn, spin, book):\n"
        "    result = await call_async(fn, deadline=None)\n"
        "    spin(0.4)\n"
        "    book.append(result)\n"
        "    return await call_async(fn, deadline=None)"
    )
    book: list[str] = []

    def step() -> None:
        asyncio.run(drive(partial(wait, 0.01), spin, book))
        spin()

    with pytest.raises(DeadlineReached):
        call(step, deadline=soon(0.2))
    assert book == ["waited"]
