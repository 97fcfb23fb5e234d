"""What is said twice, and sections in an order that makes the reader wait."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from refining.prose import Block, numbers_in, paragraphs_of, sentences_of, words_of
from refining.words import LITTLE, NEGATIONS, SECTIONS

FEWEST = 4
"""Words with a meaning that a sentence must have to be compared."""

RANK = {title: rank for rank, titles in enumerate(SECTIONS) for title in titles}


class Said(NamedTuple):
    """What a sentence says: its words that mean something, without their endings, its numbers and its negations."""

    words: set[str]
    numbers: set[str]
    negations: set[str]

    @classmethod
    def by(cls, sentence: str) -> "Said":
        """What this sentence says."""
        words = {word.lower() for word in words_of(sentence)}
        return cls({_stem(word) for word in words - LITTLE}, numbers_in(sentence), words & NEGATIONS)


def repeats_in(blocks: list[Block]) -> Iterator[str]:
    """Sentences that say what an earlier one has said."""
    yield from (f"“{sentence}”" for gone in _repeated(blocks) for sentence in gone.values())


def without_repeats(blocks: list[Block]) -> list[Block]:
    """The same, each thing said once; a heading that nothing is left under goes too."""
    repeated, left = iter(_repeated(blocks)), list[Block]()
    for block, following in zip(blocks, [*blocks[1:], None], strict=True):
        if block.kind != "prose":
            left.append(block)
            continue
        gone = next(repeated)
        kept = [sentence for n, sentence in enumerate(sentences_of(block.text)) if n not in gone]
        if kept:
            left.append(Block("prose", " ".join(kept)))
        elif left and left[-1].kind == "heading" and (following is None or following.kind == "heading"):
            left.pop()
    return left


def _repeated(blocks: list[Block]) -> list[dict[int, str]]:
    """For each paragraph the sentences that say nothing new, by their number."""
    seen, found = list[Said](), list[dict[int, str]]()
    for paragraph in paragraphs_of(blocks):
        found.append({})
        for n, sentence in enumerate(sentences_of(paragraph)):
            said = Said.by(sentence)
            is_full = len(said.words) >= FEWEST and not sentence.endswith(":")  # what follows a colon would hang
            if is_full and any(_says_nothing_new(said, earlier) for earlier in seen):
                found[-1][n] = sentence
            else:
                seen.append(said)
    return found


def _says_nothing_new(one: Said, earlier: Said) -> bool:
    """Whether all its words and numbers were there in one sentence, with the same negations."""
    return one.words <= earlier.words and one.numbers <= earlier.numbers and one.negations == earlier.negations


def _stem(word: str) -> str:
    return re.sub(r"(?:ing|ed|es|s|ly)$", "", word) if len(word) > 4 else word


def misplaced_in(blocks: list[Block]) -> Iterator[str]:
    """Sections that stand behind one which should follow them."""
    highest = -1
    for section in _sections(blocks):
        rank = _rank(section)
        if rank is not None and rank < highest:
            yield f"“{_title(section)}”"
        highest = max(highest, -1 if rank is None else rank)


def in_order(blocks: list[Block]) -> list[Block]:
    """The same with its sections sorted; one whose place is not known stays behind the one before it."""
    keyed, rank = list[tuple[int, list[Block]]](), -1
    for section in _sections(blocks):
        rank = rank if (own := _rank(section)) is None else own
        keyed.append((rank, section))
    return [block for _, section in sorted(keyed, key=lambda pair: pair[0]) for block in section]


def _sections(blocks: list[Block]) -> list[list[Block]]:
    """What stands before the first section, then the sections of the second level, or of the first if there is none."""
    marks = [mark for mark in ("## ", "# ") if sum(block.text.startswith(mark) for block in blocks) > 1]
    sections = list[list[Block]]([[]])
    for block in blocks:
        if marks and block.kind == "heading" and block.text.startswith(marks[0]):
            sections.append([])
        sections[-1].append(block)
    return sections


def _title(section: list[Block]) -> str:
    return section[0].text.lstrip("# ").rstrip() if section and section[0].kind == "heading" else ""


def _rank(section: list[Block]) -> int | None:
    return RANK.get(re.sub(r"^[\d.)\s]+", "", _title(section)).lower())
