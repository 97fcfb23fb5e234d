"""What is wrong with a text, counted; how well it reads, as a number; and whether it may be sent."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from loomc_runner import Judgement
from refining.prose import Block, blocks_of, numbers_in, paragraphs_of, sentences_of, words_of
from refining.rules import RULES
from refining.words import VAGUE

READABLE = 60.0
"""The reading ease that a report should have; 60 and more is plain English, below 30 only specialists read on."""

CHANGED_NUMBER = 10
"""Points that each number costs which the given text has and this one has not, or the other way round."""

UNTOLD = re.compile(rf"\b(?:{'|'.join(VAGUE)})\b", re.IGNORECASE)


class Fault(NamedTuple):
    """One thing that is wrong: what kind of thing, and where."""

    kind: str
    where: str
    cost: int = 1

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


@lru_cache(maxsize=64)
def faults_in(text: str, given: str) -> tuple[Fault, ...]:
    """All that is wrong with a text that was made from a given one."""
    blocks = blocks_of(text)
    found = [Fault(rule.kind, where) for rule in RULES for where in rule.find(blocks)]
    return (*found, *_vague_in(blocks), *_numbers_changed(text, given))


def _vague_in(blocks: list[Block]) -> Iterator[Fault]:
    """Amounts and times that somebody knows as a number, and did not write down."""
    for paragraph in paragraphs_of(blocks):
        for sentence in sentences_of(paragraph):
            if not numbers_in(sentence) and (found := UNTOLD.search(sentence)):
                yield Fault("missing numbers", f"“{found[0]}” in “{sentence}”")


def _numbers_changed(text: str, given: str) -> Iterator[Fault]:
    kept, told = numbers_in(text), numbers_in(given)
    yield from (Fault("lost numbers", number, CHANGED_NUMBER) for number in sorted(told - kept))
    yield from (Fault("made-up numbers", number, CHANGED_NUMBER) for number in sorted(kept - told))


@lru_cache(maxsize=64)
def reading_ease(text: str) -> float:
    """How easy a text is to read: 100 is very easy, 0 very hard.

    206.835 - 1.015 * words per sentence - 84.6 * syllables per word: R. Flesch, "A new readability yardstick", Journal
    of Applied Psychology 32 (1948). Syllables are counted by their vowels, which is a little off for some words.
    """
    sentences = [sentence for paragraph in paragraphs_of(blocks_of(text)) for sentence in sentences_of(paragraph)]
    words = [word for sentence in sentences for word in words_of(sentence)]
    if not words:
        return 0.0
    return 206.835 - 1.015 * len(words) / len(sentences) - 84.6 * sum(map(_syllables, words)) / len(words)


def _syllables(word: str) -> int:
    spoken = re.sub(r"(?<=[^aeiouytd])ed$|(?<=[^aeiouyl])e$", "", word.lower())
    return max(len(re.findall(r"[aeiouy]+", spoken)), 1)


def points(text: str, given: str) -> float:
    """The score: the reading ease, less a point for each fault and ten for each number that is not as it was given."""
    return reading_ease(text) - sum(fault.cost for fault in faults_in(text, given))


def review(text: str, given: str) -> Judgement:
    """Judge by rules whether a text may be sent."""
    faults, ease = faults_in(text, given), reading_ease(text)
    if faults:
        return Judgement(yes=False, reason=f"{counted(faults)}, such as {faults[0]}")
    if ease < READABLE:
        return Judgement(yes=False, reason=f"its reading ease is {ease:.0f}, below {READABLE:.0f}")
    return Judgement(yes=True, reason=f"no faults, and a reading ease of {ease:.0f}")


def counted(faults: Sequence[Fault]) -> str:
    """Faults in words: how many of each kind."""
    counts = Counter(fault.kind for fault in faults)
    return ", ".join(f"{kind} {count}" for kind, count in counts.items()) or "no faults"


def difference(before: str, after: str, given: str) -> str:
    """What a rewrite has changed, as far as it can be counted."""
    if after == before:
        return "nothing changed"
    old, new = (Counter(fault.kind for fault in faults_in(text, given)) for text in (before, after))
    parts = [f"{kind} {old[kind]} → {new[kind]}" for kind in dict.fromkeys([*old, *new]) if old[kind] != new[kind]]
    words = [len(words_of(text)) for text in (before, after)]
    parts += [f"words {words[0]} → {words[1]}"] if words[0] != words[1] else []
    return ", ".join(parts) or "other words"
