"""Detectors that ask a function of yours."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from inspect import isawaitable
from typing import Any

from loomc_runner.converge.base import Answer, name_of
from loomc_runner.errors import JudgeError, SpecError
from loomc_runner.scores import History, check_count


@dataclass(frozen=True)
class predicate:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when `fn(history)` says so: a reason in words, or True. `history[-1]` is the newest step."""

    fn: Callable[[History], Answer | Awaitable[Answer]]

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise SpecError(f"predicate({self.fn!r}): give a function of the history")

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The function's answer."""
        return self.fn(history)

    def __str__(self) -> str:
        return f"predicate({name_of(self.fn)})"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a judge says: yes or no, and why; true in an `if` when it is a yes.

    Raises `JudgeError` when `yes` is neither True nor False.
    """

    yes: bool
    reason: str = ""

    def __post_init__(self) -> None:
        if not _is_bool(self.yes):
            raise JudgeError(f"Judgement(yes={_cut(self.yes)}): give True or False")
        object.__setattr__(self, "yes", bool(self.yes))
        object.__setattr__(self, "reason", " ".join(str(self.reason or "").split()))

    def __bool__(self) -> bool:
        return self.yes


Said = bool | str | Judgement
"""What a judge may answer."""


@dataclass(frozen=True)
class judge:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when `fn(state)` says the newest state is good enough; steps that failed are not shown to it.

    It answers with True or False, with a text that begins with yes or no (as models are told to answer), or with a
    `Judgement`. Anything else is an error, and not a no: a judge that was not understood must not keep a loop going.
    What it spends is charged to the step it judges.

    Args:
        fn: The function; `async def` ones on async loops. An adapter's `judge(...)` makes one that asks a model.
        every: Ask after each so many steps only, for judges that are dear.
        agree: Ask until so many answers agree, for judges that are not sure; at most `2 * agree - 1` times.
    """

    fn: Callable[[Any], Said | Awaitable[Said]]
    every: int = 1
    agree: int = 1

    def __post_init__(self) -> None:
        if not callable(self.fn):
            raise SpecError(f"judge({self.fn!r}): give a function of the state")
        check_count("judge(every", self.every)
        check_count("judge(agree", self.agree)

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The judge's answer."""
        if not history or history[-1].error is not None or (history[-1].step_n + 1) % self.every:
            return None
        return self._ask(history[-1].state, ())

    def _ask(self, state: Any, said: tuple[Judgement, ...]) -> Answer | Awaitable[Answer]:
        """Ask, as often as it takes until enough answers agree."""
        while sum(each.yes == said[-1].yes for each in said) < self.agree if said else True:
            answer = self.fn(state)
            if isawaitable(answer):
                return self._wait(state, said, answer)
            said = (*said, _understood(self, answer))
        if not said[-1]:
            return None
        return f"{self}: {said[-1].reason}" if said[-1].reason else str(self)

    async def _wait(self, state: Any, said: tuple[Judgement, ...], answer: Awaitable[Any]) -> Answer:
        rest = self._ask(state, (*said, _understood(self, await answer)))
        return await rest if isawaitable(rest) else rest

    def __str__(self) -> str:
        return f"judge({name_of(self.fn)})"


QUOTES = r"*_#`\"'\u2018\u2019\u201c\u201d\xab\xbb"

WORDS = re.compile(
    rf"[\s{QUOTES}(\[]*(yes|no)(?![_-]*[^\W_])(?!\W*(?:[/|]|\bor\b)\W*(?:yes|no)\b)"
    rf"[\s{QUOTES})\].:,;!\u2026\u2013\u2014-]*",
    re.IGNORECASE,
)
"""A yes or a no as models write it, with the marks that they put around it; "yes or no" and "yes/no" are neither."""

LONGEST = 80
"""Characters of an answer that an error shows."""


def judgement_of(text: str) -> Judgement | None:
    """What a text says that begins with yes or no; None when it is neither."""
    found = WORDS.match(text)
    return None if found is None else Judgement(found[1].lower() == "yes", text[found.end() :])


def _understood(asked: judge, answer: Any) -> Judgement:
    """What a judge's function has answered.

    Raises:
        JudgeError: When it is neither yes nor no.
    """
    if isinstance(answer, Judgement):
        return answer
    if isinstance(answer, str):
        if (judgement := judgement_of(answer)) is not None:
            return judgement
    elif _is_bool(answer):
        return Judgement(answer)
    raise JudgeError(
        f"{asked} answered {_cut(answer)}, which is neither yes nor no; "
        "it must give True or False, or a text that begins with yes or no"
    )


def _is_bool(value: Any) -> bool:
    return type(value).__name__ in {"bool", "bool_"}  # numpy's too


def _cut(answer: Any) -> str:
    text = repr(answer)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
