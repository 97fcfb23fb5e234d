"""The detector that looks at what a text says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from inspect import isawaitable, iscoroutinefunction
from itertools import islice
from reprlib import repr as brief
from typing import Any

from loomc_runner.converge.base import Answer, name_of
from loomc_runner.converge.embedding import (
    Embed,
    Embedder,
    GivenEmbedder,
    cosine_distance,
    local_model,
    passages,
    vectors_of,
)
from loomc_runner.errors import SpecError
from loomc_runner.records import INITIAL, StepRecord
from loomc_runner.scores import History, check_count, check_number

AT_ONCE = 16
"""The most pairs of passages that an embedder is asked about at once; it begins with one, which often tells enough."""


@dataclass(frozen=True)
class semantic_delta:  # noqa: N801 - called like a function, as in loomc 0.3.0
    """Stop when the text says the same as before: its cosine distance from the result before is below `threshold`.

    A result is compared with the one its step started from; steps that failed, or that the run went back from, and
    the initial state are not compared. The same text needs no model. Of a text too long for the model the passages
    that differ are compared, and the one that differs most counts. Nothing is kept between steps but the model, which
    all runs of the process share.

    Args:
        threshold: The distance that is a change; 0 is the same, 1 has nothing in common, 2 is the most there is. Lower
            it to 0.02 when a sentence more or less matters.
        text_fn: A function of the state that gives the text. Without it a string is its own text, and the text of any
            other state is all the strings in it, one a line, without names of fields and numbers.
        model_name: A model of sentence-transformers, by its name or the path of its folder. It is loaded when two
            texts are first compared: from this machine when it is there, else it is downloaded.
        patience: How many comparisons in a row must be below the threshold.
        embed: A function that gives one vector for each text of a list, used in place of the model; `async def` on
            async loops. Texts are cut into passages of at most 1,000 characters.

    Raises `SpecError` for values that cannot work; in a run, when the model cannot be had, when there is no text, or
    when `embed` gives something else than vectors.
    """

    threshold: float = 0.05
    text_fn: Callable[[Any], str] | None = None
    model_name: str = "all-MiniLM-L6-v2"
    patience: int = 1
    embed: Embed | None = None

    def __post_init__(self) -> None:
        check_number("semantic_delta(threshold", self.threshold)
        if not 0 < self.threshold <= 2:
            raise SpecError(f"semantic_delta(threshold={self.threshold!r}): give a number above 0, at most 2")
        check_count("semantic_delta(patience", self.patience)
        if self.text_fn is not None and (not callable(self.text_fn) or iscoroutinefunction(self.text_fn)):
            raise SpecError(f"semantic_delta(text_fn={self.text_fn!r}): give a plain function of the state")
        if not isinstance(self.model_name, str) or not self.model_name.strip():
            raise SpecError(f"semantic_delta(model_name={self.model_name!r}): give a name, or the path of a folder")
        if self.embed is not None and not callable(self.embed):
            raise SpecError(f"semantic_delta(embed={self.embed!r}): give a function of a list of texts")

    @property
    def looks_back(self) -> int:
        """From how many steps before the newest it reads states."""
        return self.patience

    def __call__(self, history: History, /) -> Answer | Awaitable[Answer]:
        """The reason to stop with the distance, or None."""
        return self._go_on(self._question(history), None)

    def __str__(self) -> str:
        patience = f", patience={self.patience}" if self.patience > 1 else ""
        return f"semantic_delta(threshold={self.threshold:g}{patience})"

    def load(self) -> None:
        """Load the model now and not at the first comparison; with `embed` there is nothing to load.

        Before a run this tells whether the model can be had while nothing is spent yet. In a program with an event
        loop, `await asyncio.to_thread(detector.load)` keeps that free.

        Raises:
            SpecError: When the model cannot be had.
        """
        self._embedder()

    def _embedder(self) -> Embedder:
        if self.embed is None:
            return local_model(self.model_name)
        return GivenEmbedder(f"embed={name_of(self.embed)}", self.embed)

    def _go_on(self, question: Generator[list[str], Any, Answer], vectors: Any) -> Answer | Awaitable[Answer]:
        """Get the vectors it asks for, until it is answered."""
        while True:
            try:
                texts = question.send(vectors)
            except StopIteration as end:
                answer: Answer = end.value
                return answer
            vectors = self._embedder()(texts)
            if isawaitable(vectors):
                return self._wait(question, vectors)

    async def _wait(self, question: Generator[list[str], Any, Answer], vectors: Awaitable[Any]) -> Answer:
        answer = self._go_on(question, await vectors)
        return await answer if isawaitable(answer) else answer

    def _question(self, history: History) -> Generator[list[str], Any, Answer]:
        """The answer; what is yielded are texts whose vectors are wanted."""
        steps = list(islice(kept_steps(history), self.patience + 1))
        if len(steps) <= self.patience:
            return None
        known: dict[str, list[float]] = {}
        farthest, newer = 0.0, self._text(steps[0])
        for step in steps[1:]:
            older = self._text(step)
            distance = yield from self._distance(older, newer, known)
            if distance >= self.threshold:
                return None
            farthest, newer = max(farthest, distance), older
        return f"{self}: {_below(farthest, self.threshold)}{' at most' if self.patience > 1 else ''}"

    def _text(self, step: StepRecord[Any]) -> str:
        if self.text_fn is None:
            return text_of(step.state)
        text = self.text_fn(step.state)
        if not isinstance(text, str):
            raise SpecError(
                f"semantic_delta(text_fn={name_of(self.text_fn)}): give the text as a string, not {brief(text)}"
            )
        return text

    def _distance(self, old: str, new: str, known: dict[str, list[float]]) -> Generator[list[str], Any, float]:
        """How far apart two texts are, or if the threshold is reached, at least are; `known` are vectors so far."""
        if (told := _without_model(old, new)) is not None:
            return told
        embedder = self._embedder()
        pairs = passages(old, new, embedder)
        farthest, first, count = 0.0, 0, 1
        while first < len(pairs) and farthest < self.threshold:
            some = pairs[first : first + count]
            asked = {text: None for pair in some if _without_model(*pair) is None for text in pair}
            if texts := [text for text in asked if text not in known]:
                known.update(zip(texts, vectors_of((yield texts), texts, embedder.name), strict=True))
            for pair in some:
                told = _without_model(*pair)
                if told is None:
                    told = cosine_distance(known[pair[0]], known[pair[1]], embedder.name)
                farthest = max(farthest, told)
            first, count = first + count, min(2 * count, AT_ONCE)
        return farthest


def kept_steps(history: History) -> Iterator[StepRecord[Any]]:
    """The newest step and those it came from, newest first, without those that failed; none if it was not kept."""
    newest = history[-1] if history else None
    if newest is None or newest.error is not None or newest.restored_n is not None:
        return
    step_n = newest.step_n
    while step_n != INITIAL:
        step = history[step_n]
        if step.error is None:
            yield step
        step_n = step.parent_n


def text_of(state: Any) -> str:
    """A string itself; of any other state, all the strings in it, one a line.

    Raises:
        SpecError: When there is none.
    """
    texts = list(_strings(state))
    if not texts:
        raise SpecError(
            f"semantic_delta: there is no text in the state {brief(state)}; add text_fn=, a function of the state that "
            "gives it"
        )
    return "\n".join(texts)


def _strings(value: Any) -> Iterator[str]:
    """The strings in a state, in the order of its fields and items."""
    if isinstance(value, str):
        yield value
        return
    parts: Any = ()
    if isinstance(value, Mapping):
        parts = value.values()
    elif isinstance(value, list | tuple):
        parts = value
    elif isinstance(value, set | frozenset):  # in an order that is the same in every process
        parts = sorted(text for item in value for text in _strings(item))
    elif is_dataclass(value) and not isinstance(value, type):
        parts = [getattr(value, item.name) for item in fields(value)]
    elif hasattr(value, "model_fields_set"):  # a Pydantic model
        parts = [*(getattr(value, name) for name in type(value).model_fields), *(value.model_extra or {}).values()]
    for part in parts:
        yield from _strings(part)


def _without_model(old: str, new: str) -> float | None:
    """The distance of two texts that no model need be asked about, else None."""
    if old == new:
        return 0.0
    blank = (not old.strip(), not new.strip())
    return (0.0 if all(blank) else 1.0) if any(blank) else None


def _below(distance: float, threshold: float) -> str:
    """The distance in as few digits as show that it is below the threshold."""
    texts = (f"{distance:.{digits}g}" for digits in range(2, 17))
    return next((text for text in texts if float(text) < threshold), repr(distance))
