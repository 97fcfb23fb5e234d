"""States that are big or change much, and the steps that make them: the cases of `growing.py`."""

from __future__ import annotations

import base64
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gauge import words
from pydantic import BaseModel


class First(BaseModel):
    """A transcript before the other fields."""

    items: list[str] = []
    n: int = 0
    summary: str = "s" * 200


class Middle(BaseModel):
    """A transcript between the other fields."""

    n: int = 0
    items: list[str] = []
    summary: str = "s" * 200
    left: int = 1000


class Last(BaseModel):
    """A transcript after the other fields."""

    n: int = 0
    summary: str = "s" * 200
    items: list[str] = []


class Numbers(BaseModel):
    """A long list of numbers."""

    n: int = 0
    numbers: list[float] = []


class Text(BaseModel):
    """One long text."""

    n: int = 0
    text: str = ""


class Tiny(BaseModel):
    """A state of about 250 bytes."""

    text: str = "x" * 200
    n: int = 0
    notes: list[str] = []


State = Any
Step = Callable[[State, random.Random], State]


def add(size: int, make: Callable[[int, random.Random], str] = words) -> Step:
    """A step that adds an item to a transcript."""

    def step(state: State, chance: random.Random) -> State:
        fields = state.__dict__ | {"n": state.n + 1, "items": [*state.items, make(size, chance)]}
        if "left" in fields:
            fields |= {"left": state.left - 1, "summary": words(200, chance)}
        return type(state)(**fields)

    return step


def noise(size: int, chance: random.Random) -> str:
    """A text that cannot be compressed further than its alphabet allows."""
    return base64.b64encode(chance.randbytes(size * 3 // 4)).decode()


def scatter(state: Numbers, chance: random.Random) -> Numbers:
    """A hundred of the numbers change."""
    numbers = list(state.numbers)
    for _ in range(100):
        numbers[chance.randrange(len(numbers))] = chance.random()
    return Numbers(n=state.n + 1, numbers=numbers)


def reword(state: Text, chance: random.Random) -> Text:
    """One word becomes another all over the text."""
    found = state.text.split(" ")
    old, new = chance.choice(found), f"{chance.choice(found)}{state.n}"
    return Text(n=state.n + 1, text=" ".join(new if word == old else word for word in found))


def shrink(state: Middle, chance: random.Random) -> Middle:
    """The oldest item goes."""
    return Middle(n=state.n + 1, items=state.items[1:], summary=words(200, chance), left=state.left - 1)


def replace(state: Text, chance: random.Random) -> Text:
    """All of it is new."""
    return Text(n=state.n + 1, text=noise(len(state.text), chance))


def nothing(state: Tiny, _: random.Random) -> Tiny:
    """Only the counter changes."""
    return Tiny(n=state.n + 1)


@dataclass(frozen=True)
class Case:
    """What the states of a run look like.

    Attributes:
        kind: Their type.
        step: Makes the next one.
        begin: Makes the first one, for so many steps.
        limits: What should hold, by what `taken` names it; those with a store's name are ratios to it.
        times: How many times as many steps as the others have.
        rounds: At most so many.
        back: Whether every step but the first is worse than it, and the loop goes back.
        big: The field that the second floor writes first, where that is to its advantage.
    """

    kind: type[BaseModel]
    step: Step
    begin: Callable[[random.Random, int], State]
    limits: dict[str, float]
    times: float = 1
    rounds: int = 1000
    back: bool = False
    big: str = "items"


GROWING = {"us / changed middle": 1.25, "db_mb": 4, "memory_mb": 25, "read_max": 20, "resume_ms": 30, "resume_mb": 20}
GREAT = {"us / changed middle": 1.25, "db_mb": 40, "read_max": 100}
HARD = {"us / full copy": 1.05, "db_mb / full copy": 1.05, "read_max": 20}
SMALL = {"resume_ms": 10.0}


def _empty(kind: type[BaseModel]) -> Callable[[random.Random, int], State]:
    return lambda _chance, _steps: kind()


def _filled(chance: random.Random, steps: int) -> Middle:
    return Middle(items=[words(1000, chance) for _ in range(steps + 1)])


CASES: dict[str, Case] = {
    "list first": Case(First, add(1000), _empty(First), GROWING),
    "list in the middle": Case(Middle, add(1000), _empty(Middle), GROWING),
    "list last": Case(Last, add(1000), _empty(Last), GROWING),
    "random items": Case(Last, add(1000, noise), _empty(Last), {**GROWING, "db_mb": 1000}),
    "to 10 MB": Case(Middle, add(10_000), _empty(Middle), GREAT, rounds=1),
    "numbers": Case(
        Numbers,
        scatter,
        lambda chance, _: Numbers(numbers=[chance.random() for _ in range(50_000)]),
        HARD,
        times=0.2,
        big="numbers",
    ),
    "words replaced": Case(
        Text, reword, lambda chance, _: Text(text=words(1_000_000, chance)), HARD, times=0.2, big="text"
    ),
    "shrinking": Case(Middle, shrink, _filled, HARD),
    "restored": Case(Middle, add(1000), _filled, HARD, times=0.5, back=True),
    "all new": Case(Text, replace, lambda chance, _: Text(text=noise(1_000_000, chance)), HARD, times=0.2, big="text"),
    "tiny, 1k": Case(Tiny, nothing, _empty(Tiny), SMALL, big="text"),
    "tiny, 10k": Case(Tiny, nothing, _empty(Tiny), SMALL, times=10, big="text"),
    "tiny, 100k": Case(Tiny, nothing, _empty(Tiny), SMALL, times=100, rounds=1, big="text"),
}


def score(state: State) -> float:
    """How good a state is that is gone back to: the first step is the best."""
    return float(state.n == 1)
