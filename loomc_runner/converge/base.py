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
        """All the reasons in words, or None."""
        answers = [detect(history) for detect in self.detectors]
        return self._wait(answers) if any(map(isawaitable, answers)) else self._join(answers)

    async def _wait(self, answers: list[Any]) -> Answer:
        return self._join([await answer if isawaitable(answer) else answer for answer in answers])

    def _join(self, answers: list[Any]) -> Answer:
        reasons = [_in_words(detect, answer) for detect, answer in zip(self.detectors, answers, strict=True)]
        return " and ".join(reason for reason in reasons if reason) if all(reasons) else None


@dataclass(frozen=True)
class _ShouldStop:
    """A detector of the older form, a class with `should_stop(history)`."""

    detector: Any

    def __call__(self, history: History, /) -> Answer:
        return bool(self.detector.should_stop(history))

    def __str__(self) -> str:
        return type(self.detector).__name__


def as_detector(value: Any) -> Detector:
    """The value as a detector.

    Raises:
        SpecError: When it is neither callable nor has `should_stop(history)`.
    """
    if hasattr(value, "should_stop"):
        return _ShouldStop(value)
    if not callable(value) or isinstance(value, type):
        raise SpecError(f"converge_on={value!r}: give a detector, such as score_plateau(patience=3)")
    detector: Detector = value
    return detector


def parts_of(value: Any) -> Iterator[Any]:
    """The value and everything it is declared with: a detector in `all_of`, a function in `judge`."""
    yield value
    if isinstance(value, tuple | list):
        for item in value:
            yield from parts_of(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for item in fields(value):
            yield from parts_of(getattr(value, item.name))


def name_of(fn: Callable[..., Any]) -> str:
    """A callable's name as it stands in a stop reason."""
    words = str(fn)
    return getattr(fn, "__name__", None) or (type(fn).__name__ if words.startswith("<") else words)


def _in_words(detect: Detector, answer: Any) -> str | None:
    if answer is None or answer is False:
        return None
    if answer is True:
        return name_of(detect)
    if isinstance(answer, str):
        return answer or None
    try:  # numpy's bool and the like
        return name_of(detect) if bool(answer) else None
    except (TypeError, ValueError):
        raise SpecError(f"{name_of(detect)} must return a reason, True, False or None, not {answer!r}") from None
