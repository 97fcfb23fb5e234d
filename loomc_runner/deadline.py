"""Call user code under a deadline, and interrupt it there.

A sync function on the main thread is interrupted by SIGALRM, an async one by a cancellation. Where neither is
possible the function is simply called, and the caller looks at the clock afterwards.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections import defaultdict
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import FrameType

R = TypeVar("R")

RETRY: Final = 0.002  # our own code held the thread: look again this much later
AGAIN: Final = 1.0  # user code was interrupted: time for its clean-up before the next one
AT_ONCE: Final = 1e-6  # a timer set to zero would be off
DAY: Final = 86_400.0  # no timer is set further ahead: an infinite one would overflow


class DeadlineReached(BaseException):
    """The time limit passed while user code ran.

    Private to the library, and a BaseException so that `except Exception` in user code does not swallow it.
    """


def can_interrupt() -> bool:
    """Say whether a sync function called right here can be interrupted.

    It can on the main thread of the main interpreter, where the platform has SIGALRM and interval timers.
    """
    return threading.get_ident() == threading.main_thread().ident and _handler_can_be_set()


def call(
    fn: Callable[..., R], /, *args: Any, deadline: float | None, left: Callable[[], float | None] | None = None
) -> R:
    """Call a function, and interrupt it when the deadline passes.

    `deadline` is an instant of `time.monotonic()`; `left` is asked then how many seconds are left all the same. The
    earliest of it and all enclosing deadlines counts, and a result that was returned always wins. With no deadline at
    all this is a plain call.

    Raises:
        DeadlineReached: this deadline or an enclosing one passed while `fn` ran.
    """
    outer, awaited = _alarm.watch, _awaited.get()
    if (deadline is None and outer is None and not awaited) or not can_interrupt():
        return fn(*args)
    own = () if deadline is None else (_Limit(deadline, left),)
    limits, foreign = (outer.limits, outer.foreign) if outer else ((), _Foreign())
    box: defaultdict[int, R] = defaultdict(partial(fn, *args))
    watch = _Watch(box, (*own, *awaited, *limits), outer, foreign)
    try:
        _alarm.enter(watch)
        return _hand_over(box)
    finally:
        _alarm.watch = None  # first and in one step, so that Ctrl-C cannot leave a watch behind either
        _alarm.leave(watch)


async def call_async(
    fn: Callable[..., Awaitable[R]],
    /,
    *args: Any,
    deadline: float | None,
    left: Callable[[], float | None] | None = None,
) -> R:
    """Await what a function returns, and cancel the task when the deadline passes.

    As with `call`, a returned result wins. The cancellation arrives wherever the task waits just then: code of
    ours that awaits below a step must survive it there, as it must survive anybody's.

    Raises:
        DeadlineReached: the deadline passed first.
        asyncio.CancelledError: somebody else cancelled the task.
    """
    if deadline is None:
        return await fn(*args)
    return await _cancel_at(_Limit(deadline, left), fn, args)


async def _cancel_at(limit: _Limit, fn: Callable[..., Awaitable[R]], args: tuple[Any, ...]) -> R:
    """Do what `asyncio.timeout` does, and do it again when the cancellation is swallowed."""
    import asyncio

    loop, task, requests = asyncio.get_running_loop(), asyncio.current_task(), 0
    if task is None:
        raise RuntimeError("a deadline needs an asyncio task that it can cancel")
    timer: asyncio.TimerHandle

    def expire() -> None:
        nonlocal requests, timer
        if limit.is_over(time.monotonic()):  # else a sync call below was interrupted first, and moved it on
            limit.due = time.monotonic() + AGAIN
            requests += 1
            task.cancel()
        timer = loop.call_later(_seconds_until(limit.due), expire)

    timer = loop.call_later(_seconds_until(limit.due), expire)
    before = task.cancelling()
    token = _awaited.set((limit, *_awaited.get()))
    try:
        return await call_async(fn, *args, deadline=None)
    except asyncio.CancelledError as error:
        if requests and task.cancelling() - requests <= before:
            raise DeadlineReached from error
        raise
    finally:
        timer.cancel()
        limit.due = math.inf  # tasks that outlive the step have inherited it
        # The event loop runs `expire` between two steps of the task, so its cancellation has arrived inside `fn`
        # or was absorbed below: none is scheduled (task._must_cancel) to hit the next await. Only the count is left.
        for _ in range(requests):
            task.uncancel()
        _awaited.reset(token)


@cache
def _handler_can_be_set() -> bool:
    """Try it: only the main interpreter may, and a handler that C code had installed could not be put back."""
    try:
        signal.signal(signal.SIGALRM, signal.getsignal(signal.SIGALRM))
        return hasattr(signal, "setitimer")
    except (AttributeError, TypeError, ValueError):
        return False


def _hand_over(box: defaultdict[int, R]) -> R:
    """Call the user's function, which is the factory of `box`.

    C code stores the result before Python looks at signals again, so "has it returned?" has an exact answer. It
    has one for functions without a Python frame, too: `time.sleep` is interrupted, a `partial` loses no result.
    """
    return box[0]


def _seconds_until(due: float) -> float:
    return min(max(due - time.monotonic(), AT_ONCE), DAY)


@dataclass(slots=True)
class _Limit:
    """A deadline, and when it next wants to interrupt: moved on each time it has."""

    due: float
    left: Callable[[], float | None] | None = None

    def is_over(self, now: float) -> bool:
        """Say whether it has passed; one whose owner has waited meanwhile, which does not count, is moved on."""
        if self.due > now:
            return False
        seconds = None if self.left is None else self.left()
        if seconds is None or seconds <= 0:
            return True
        self.due = now + max(seconds, RETRY)
        return False


@dataclass(slots=True)
class _Foreign:
    """Whoever had the alarm before us; pytest-timeout, for one."""

    handler: Any = signal.SIG_DFL
    due: float = math.inf
    interval: float = 0.0

    def displace(self) -> None:
        """Stop its timer, note what is left of it, and install our handler."""
        delay, self.interval = signal.setitimer(signal.ITIMER_REAL, 0)
        self.due = time.monotonic() + (delay or self.interval or math.inf)
        self.handler = signal.getsignal(signal.SIGALRM)
        if self.handler == _alarm.ring:  # left over: user code kept it and put it back when we had gone
            self.handler, self.due, self.interval = signal.SIG_DFL, math.inf, 0.0
        signal.signal(signal.SIGALRM, _alarm.ring)

    def put_back(self) -> None:
        """Install its handler and its timer, as if we had never been there."""
        # In this order: an alarm of ours that is still pending meets our handler, which by now does nothing.
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self.handler)
        self.start_timer()

    def start_timer(self) -> None:
        """Set the timer to what is left of its own."""
        delay = _seconds_until(self.due) if self.due < math.inf else 0
        signal.setitimer(signal.ITIMER_REAL, delay, self.interval)

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """Let its alarm happen, with its own handler and timer in place: the handler may set both anew."""
        late = time.monotonic() - self.due
        self.due = self.due + self.interval * (late // self.interval + 1) if self.interval else math.inf
        self.put_back()
        try:
            if callable(self.handler):
                self.handler(signum, frame)
            elif self.handler == signal.SIG_DFL:
                signal.raise_signal(signum)
        finally:
            self.displace()


@dataclass(slots=True)
class _Watch:
    """A `call` under way on the main thread."""

    box: defaultdict[int, Any]
    limits: tuple[_Limit, ...]  # with those of the enclosing calls
    outer: _Watch | None
    foreign: _Foreign

    def user_code_runs(self, frame: FrameType | None) -> bool:
        """Say whether user code holds the thread: the innermost frame of ours is one that calls it."""
        if frame is not None and frame.f_globals.get("__name__") == "coverage.collector":
            return False  # coverage takes a lock there at every call: interrupted, the next call would wait for ever
        ours = frame
        while ours is not None and (
            not ours.f_code.co_filename.startswith(_PACKAGE) or ours.f_code.co_filename == _ON_TERMINAL
        ):
            ours = ours.f_back
        code = ours and ours.f_code
        if code is _hand_over.__code__:
            return not self.box
        return code is call_async.__code__ and ours is not frame


class _Alarm:
    """The one alarm of the process, and the calls that it watches."""

    watch: _Watch | None = None  # the innermost; while there is none, an alarm does nothing
    armed: float = math.inf  # what the timer is set to
    retry: float = 0.0  # our code held the thread: no new try before this, or many short calls would starve it

    def installed(self) -> bool:
        """Say whether our handler is in place; user code may have installed its own."""
        return signal.getsignal(signal.SIGALRM) == self.ring

    def arm(self, watch: _Watch) -> None:
        """Set the timer to the next instant at which something is due."""
        self.armed = min(max(min(limit.due for limit in watch.limits), self.retry), watch.foreign.due)
        signal.setitimer(signal.ITIMER_REAL, _seconds_until(self.armed))

    def enter(self, watch: _Watch) -> None:
        """Watch a call that is about to begin."""
        if watch.outer is None or not self.installed():
            watch.foreign = _Foreign()
            watch.foreign.displace()
        self.watch = watch
        self.arm(watch)

    def leave(self, watch: _Watch) -> None:
        """Go back to the outer call, or give the alarm back."""
        outer = watch.outer
        if not self.installed():  # user code has installed a handler; it stays, but our timer must not ring it
            delay, interval = signal.getitimer(signal.ITIMER_REAL)
            if not interval and abs(time.monotonic() + delay - self.armed) < RETRY:
                watch.foreign.start_timer()
            self.watch = outer
        elif outer is not None and outer.foreign is watch.foreign:
            self.watch = outer
            self.arm(outer)
        else:
            watch.foreign.put_back()
            self.watch = outer

    def ring(self, signum: int, frame: FrameType | None) -> None:
        """Handle SIGALRM: pass on the alarm that we displaced, then interrupt user code if its time is up."""
        watch, now = self.watch, time.monotonic()
        if watch is None:
            return
        if watch.foreign.due <= now:
            self.watch = None
            try:
                watch.foreign.ring(signum, frame)
            finally:
                self.watch = watch
                self.arm(watch)
        overdue = [limit for limit in watch.limits if limit.is_over(now)]
        interrupt = overdue and watch.user_code_runs(frame)
        if interrupt:
            for limit in overdue:
                limit.due = now + AGAIN
        elif overdue:
            self.retry = now + RETRY
        self.arm(watch)
        if interrupt:
            raise DeadlineReached

    def forget(self) -> None:
        """Leave a forked child alone: it inherits our handler, but no timer, and perhaps none of the calls."""
        watch, self.watch = self.watch, None
        if watch is not None and self.installed():
            watch.foreign.due = math.inf
            watch.foreign.put_back()


_PACKAGE: Final = call.__code__.co_filename.removesuffix("deadline.py")
_ON_TERMINAL: Final = f"{_PACKAGE}{os.path.join('progress', 'footer.py')}"  # noqa: PTH118 - a name, no path to open
"""Stands between a step that prints and its terminal, which may not take anything for as long as it likes."""
_awaited: ContextVar[tuple[_Limit, ...]] = ContextVar("_awaited", default=())  # of enclosing `call_async`s
_alarm: Final = _Alarm()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_alarm.forget)
