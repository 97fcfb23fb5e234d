"""What texts mean, as vectors: the default model, the passages it is shown, and how far apart two vectors are."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import import_module
from numbers import Real
from operator import mul
from reprlib import repr as brief
from typing import Any, Protocol, TypeAlias

from loomc_runner.errors import SpecError, in_words

Vectors: TypeAlias = Iterable[Iterable[float]]
"""One vector for each text: lists, or an array."""

Embed: TypeAlias = Callable[[list[str]], Vectors | Awaitable[Vectors]]
"""What gives the vectors of texts."""

TOKENS = 256
"""The longest passage in tokens, also for a model that takes more: the longer it is, the less a change in it shows."""

CHARACTERS = 1_000
"""The longest passage for an embedder whose tokens are not known; about as long, in English."""

SENTENCE = re.compile(r"[^.!?\n。！？]*[.!?\n。！？]+\s*|[^.!?\n。！？]+")  # noqa: RUF001 - other scripts' stops
"""A sentence, a heading or the line of a table, with the space after it."""

PIECE = re.compile(r"\s*(?:[^\W\u2e80-\U0003ffff]{1,20}|\S)")
"""What is never cut: a word, if it is not too long, or one character of a script that does not part words."""


class Embedder(Protocol):
    """What gives the vectors of texts, none of them longer than it takes."""

    @property
    def name(self) -> str:
        """How errors call it."""
        ...

    @property
    def limit(self) -> int:
        """The size of the longest passage it takes."""
        ...

    def sizes(self, pieces: list[str]) -> list[int]:
        """How much of the limit each piece takes up."""
        ...

    def __call__(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]:
        """One vector for each text."""
        ...


@dataclass(frozen=True)
class GivenEmbedder:
    """A function of the user's; its passages are measured in characters."""

    name: str
    fn: Embed
    limit: int = CHARACTERS

    def sizes(self, pieces: list[str]) -> list[int]:
        """The characters of each piece."""
        return [len(piece) for piece in pieces]

    def __call__(self, texts: list[str], /) -> Vectors | Awaitable[Vectors]:
        """What the function gives."""
        return self.fn(texts)


class LocalModel:
    """A model that is loaded, for all runs and threads of the process; they take turns.

    A text has the same vector whatever it is asked together with, so that a resumed run decides the same.
    """

    def __init__(self, name: str, transformer: Any) -> None:
        self.name = f"model_name={name!r}"
        self._transformer = transformer
        self._tokenizer = transformer.tokenizer if callable(getattr(transformer, "tokenizer", None)) else None
        self._turn = threading.Lock()
        longest = min(getattr(transformer, "max_seq_length", None) or TOKENS, TOKENS)
        self.limit: int = max(longest - self._tokens([""])[0], 1)

    def sizes(self, pieces: list[str]) -> list[int]:
        """The tokens of each piece."""
        with self._turn:
            return self._tokens(pieces, add_special_tokens=False)

    def __call__(self, texts: list[str], /) -> Vectors:
        """One vector for each text."""
        with self._turn:  # tokenizers refuse two threads at once
            vectors: Vectors = self._transformer.encode(texts, batch_size=1, show_progress_bar=False)
            return vectors

    def _tokens(self, texts: list[str], **options: Any) -> list[int]:
        if self._tokenizer is None or not texts:
            return [len(text) for text in texts]
        return [len(ids) for ids in self._tokenizer(texts, **options)["input_ids"]]


_models: dict[str, LocalModel] = {}
_loading = threading.Lock()


def local_model(name: str) -> LocalModel:
    """The model of that name or in that folder, loaded when it is first asked for, and once in a process.

    Raises:
        SpecError: When sentence-transformers is not installed, or the model cannot be loaded.
    """
    with _loading:
        if name not in _models:
            _models[name] = LocalModel(name, _load(name))
        return _models[name]


def _load(name: str) -> Any:
    try:
        transformer = import_module("sentence_transformers").SentenceTransformer
    except ImportError as error:
        raise SpecError(
            f"semantic_delta needs sentence-transformers ({in_words(error)}): "
            'pip install "loomc-runner[embeddings]", or give a function of your own as embed='
        ) from error
    try:
        here = _from_this_machine(transformer, name)
        return transformer(name) if here is None else here
    except Exception as error:
        raise SpecError(
            f"semantic_delta(model_name={name!r}): the model cannot be loaded "
            f"({next(iter(in_words(error).splitlines()))}); "
            "load it once with a network, which keeps it on this machine, give the path of a folder that holds "
            "a model as model_name=, or a function of your own as embed="
        ) from error


def _from_this_machine(transformer: Any, name: str) -> Any:
    """The model without a network; None when it is not here, or not all of it."""
    with suppress(Exception), _no_progress_bar():
        return transformer(name, local_files_only=True)
    return None


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    """Load without the bar that would be drawn over the terminal for a fraction of a second."""
    bars = import_module("transformers.utils.logging")
    was_on = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            bars.enable_progress_bar()


def passages(old: str, new: str, embedder: Embedder) -> list[tuple[str, str]]:
    """The two texts; if they are too long, passages of both that belong together, those that differ only.

    They are cut between sentences that stand in both, so that a change moves no cut elsewhere.
    """
    before, after = SENTENCE.findall(old), SENTENCE.findall(new)
    size = _sizes([*before, *after], embedder)
    if max(_total(before, size), _total(after, size)) <= embedder.limit:
        return [(old, new)]
    pairs = _cut_between(before, after, size, embedder.limit)
    return [pair for one, other in pairs if one != other for pair in _cut_within(one, other, embedder)]


def _cut_between(before: list[str], after: list[str], size: dict[str, int], limit: int) -> Iterator[tuple[str, str]]:
    """Passages that end where both texts have the same sentence, and are too long only where they have none."""

    def fits(start: tuple[int, int], end: tuple[int, int]) -> bool:
        return max(_total(before[start[0] : end[0]], size), _total(after[start[1] : end[1]], size)) <= limit

    def passage(start: tuple[int, int], end: tuple[int, int]) -> tuple[str, str]:
        while min(start) and fits((start[0] - 1, start[1] - 1), end):  # a change is seen among what is around it
            start = (start[0] - 1, start[1] - 1)
        return "".join(before[start[0] : end[0]]), "".join(after[start[1] : end[1]])

    start = last = (0, 0)
    places = list(_common_places(before, after))
    for place in [*places, places[-1]]:
        if last != start and (not fits(start, place) or place == last):
            if before[start[0] : last[0]] != after[start[1] : last[1]]:
                yield passage(start, last)
            start = last
        last = place


def _common_places(before: list[str], after: list[str]) -> Iterator[tuple[int, int]]:
    """Where sentences that stand in both texts begin and end, as numbers of sentences, and where the texts end."""
    from difflib import SequenceMatcher

    for block in SequenceMatcher(None, before, after).get_matching_blocks():  # the last one is empty, at the end
        yield from ((block.a + n, block.b + n) for n in range(block.size + 1))


def _cut_within(one: str, other: str, embedder: Embedder) -> Iterator[tuple[str, str]]:
    """Two passages cut into as many parts as are not too long, each at the same share of the whole."""
    parts = [PIECE.findall(one), PIECE.findall(other)]
    size = _sizes([*parts[0], *parts[1]], embedder)
    most = max(_total(part, size) for part in parts)
    count = 1 if most <= embedder.limit else math.ceil(most / max(embedder.limit - max(size.values()), 1))
    shares = zip(*(_shares(part, count, size) for part in parts), strict=True)
    return (pair for pair in shares if pair[0] != pair[1])


def _shares(pieces: list[str], count: int, size: dict[str, int]) -> list[str]:
    total, seen = _total(pieces, size) or 1, 0
    parts: list[list[str]] = [[] for _ in range(count)]
    for piece in pieces:
        parts[min(seen * count // total, count - 1)].append(piece)
        seen += size[piece]
    return ["".join(part) for part in parts]


def _sizes(parts: list[str], embedder: Embedder) -> dict[str, int]:
    """What each part takes up."""
    different = list(dict.fromkeys(parts))
    return dict(zip(different, embedder.sizes(different), strict=True))


def _total(parts: Iterable[str], size: dict[str, int]) -> int:
    return sum(map(size.__getitem__, parts))


def vectors_of(answer: Any, texts: list[str], name: str) -> list[list[float]]:
    """What an embedder gave for some texts, each vector of the length 1.

    Raises:
        SpecError: When it is not one vector of finite numbers, not all zero, for each of them.
    """
    rows = _listed(answer)
    if rows is None or len(rows) != len(texts):
        given = f"{len(rows)} of them" if rows is not None else brief(answer)
        raise SpecError(f"semantic_delta({name}): give one vector for each of {len(texts)} texts, not {given}")
    return [_unit(row, text, name) for row, text in zip(rows, texts, strict=True)]


def _unit(row: Any, text: str, name: str) -> list[float]:
    numbers = _listed(row)
    if not numbers or not all(isinstance(number, Real) and math.isfinite(number) for number in numbers):
        raise SpecError(
            f"semantic_delta({name}): a vector is a list of finite numbers; for {brief(text)} it is {brief(row)}"
        )
    length = math.hypot(*numbers)
    if not 0 < length < math.inf:
        raise SpecError(
            f"semantic_delta({name}): the vector for {brief(text)} has the length {length}, so no direction"
        )
    return [number / length for number in numbers]


def _listed(value: Any) -> list[Any] | None:
    """The value as a list, if it is an array or can be gone through."""
    plain = value.tolist() if hasattr(value, "tolist") else value
    return list(plain) if isinstance(plain, Iterable) and not isinstance(plain, str) else None


def cosine_distance(one: list[float], other: list[float], name: str) -> float:
    """From 0 for the same direction to 2 for the opposite, of two vectors of the length 1.

    Raises:
        SpecError: When one has more numbers than the other.
    """
    if len(one) != len(other):
        raise SpecError(f"semantic_delta({name}): one vector has {len(one)} numbers, and another {len(other)}")
    return min(max(1.0 - math.fsum(map(mul, one, other)), 0.0), 2.0)
