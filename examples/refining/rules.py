"""The rewriter without a model: kinds of faults that a rule can find and mend."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from refining import grammar, structure, wording
from refining.prose import Block, blocks_of, each_prose, joined, paragraphs_of


@dataclass(frozen=True)
class Rule:
    """One kind of fault: how to find it, and how to mend it."""

    kind: str
    find: Callable[[list[Block]], Iterator[str]]
    mend: Callable[[list[Block]], list[Block]]


def _in_prose(kind: str, find: Callable[[str], Iterator[str]], mend: Callable[[str], str]) -> Rule:
    """A rule that looks at one paragraph at a time."""
    return Rule(
        kind,
        lambda blocks: (found for paragraph in paragraphs_of(blocks) for found in find(paragraph)),
        lambda blocks: each_prose(blocks, mend),
    )


RULES = (
    _in_prose("slips", wording.slips_in, wording.without_slips),
    _in_prose("wordy phrases", wording.wordy_in, wording.without_wordy),
    _in_prose("passives", grammar.passives_in, grammar.without_passives),
    _in_prose("long sentences", grammar.long_in, grammar.without_long),
    Rule("repetitions", structure.repeats_in, structure.without_repeats),
    Rule("misplaced sections", structure.misplaced_in, structure.in_order),
)


def rewrite(text: str, score: Callable[[str], float]) -> str:
    """Mend the kind of fault whose mending gains most by the score; the same text when none gains anything."""
    blocks = blocks_of(text)
    return max([text, *(joined(rule.mend(blocks)) for rule in RULES)], key=score)


def polish(text: str) -> str:
    """Mend the slips only, which takes no thinking."""
    return joined(RULES[0].mend(blocks_of(text)))
