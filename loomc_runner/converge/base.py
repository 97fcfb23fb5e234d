"""What a detector is, and how several are asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, fields, is_dataclass
from inspect import isawaitable
from typing import Any, Protocol

from loomc_runner.errors import SpecError
from loomc_runner.scores import History

Answer = str | bool | None


class Detector(Protocol):
    """Say why a loop may stop, or None to go on.

    Any callable with this signature is a detector, sync or async; no base class is needed. A string is
    the reason in words, True means "yes" and the detector's own name is the reason. `history[n]` is step n.
    """

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The reason to stop, or None."""
        ...


async def first_reason(detectors: Iterable[Detector], history: History) -> str | None:
    """Ask each detector in turn; the first reason wins."""
    for detect in detectors:
        answer = detect(history)
        reason = _in_words(detect, await answer if isawaitable(answer) else answer)
        if reason:
            return reason
    return None


@dataclass(frozen=True, init=False)
class all_of:  # noqa: N801 - called like a function, as its neighbours are
    """Stop when every one of the detectors says so."""

    detectors: tuple[Detector, ...]

    def __init__(self, *detectors: Any) -> None:
        if len(detectors) < 2:
            raise SpecError(f"all_of needs two or more detectors, not {len(detectors)}")
        object.__setattr__(self, "detectors", tuple(as_detector(detector) for detector in detectors))

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """All the reasons in words, or None; after the first "no" the others are not asked."""
        return self._go_on(history, ())

    def _go_on(self, history: History, reasons: tuple[str, ...]) -> Answer | Awaitable[Answer]:
        for detect in self.detectors[len(reasons) :]:
            answer = detect(history)
            if isawaitable(answer):
                return self._wait(history, reasons, answer)
            if (reason := _in_words(detect, answer)) is None:
                return None
            reasons = (*reasons, reason)
        return " and ".join(reasons)

    async def _wait(self, history: History, reasons: tuple[str, ...], answer: Awaitable[Answer]) -> Answer:
        reason = _in_words(self.detectors[len(reasons)], await answer)
        rest = None if reason is None else self._go_on(history, (*reasons, reason))
        return await rest if isawaitable(rest) else rest


@dataclass(frozen=True)
class _ShouldStop:
    """A detector of the older form, a class with `should_stop(history)`."""

    detector: Any

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        answer: Answer | Awaitable[Answer] = self.detector.should_stop(history)
        return answer

    def __str__(self) -> str:
        return type(self.detector).__name__


def as_detector(value: Any) -> Detector:
    """The value as a detector.

    Raises:
        SpecError: When it is neither callable nor has `should_stop(history)`.
    """
    if isinstance(value, type) or not (callable(value) or hasattr(value, "should_stop")):
        raise SpecError(f"converge_on={value!r}: give a detector, such as score_plateau(patience=3)")
    detector: Detector = _ShouldStop(value) if hasattr(value, "should_stop") else value
    return detector


def parts_of(value: Any) -> Iterator[Any]:
    """The value and everything it is declared with: a detector in `all_of`, a function in `judge`."""
    yield value
    if isinstance(value, _ShouldStop):
        yield value.detector.should_stop
    if isinstance(value, tuple | list):
        for item in value:
            yield from parts_of(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from parts_of(getattr(value, item.name))


def name_of(fn: Callable[..., Any]) -> str:
    """A callable's name as it stands in a stop reason."""
    words = str(fn)
    return getattr(fn, "__name__", None) or (type(fn).__name__ if " at 0x" in words else words)


def _in_words(detect: Detector, answer: Any) -> str | None:
    if answer is None or isinstance(answer, str):
        return answer or None
    try:
        yes = bool(answer)
        is_bool = bool(answer == yes)  # numpy's bool too
    except Exception:  # noqa: BLE001 - an array, or another value that is no answer
        is_bool = False
    if not is_bool:
        raise SpecError(f"{name_of(detect)} must return a reason, True, False or None, not {answer!r}")
    return name_of(detect) if yes else None
