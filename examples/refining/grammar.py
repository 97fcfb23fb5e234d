"""Sentences that name the one who acts last, and sentences that are too long."""

import itertools
import re
from collections.abc import Iterator

from refining.prose import capitalised, sentences_of, words_of
from refining.words import (
    DEPENDENT,
    DETERMINERS,
    NO_DEEDS,
    NO_NOUN,
    NOBODY,
    OBJECTS,
    PAST,
    RELATIVE,
    STARTS,
    SUBJECTS,
    VERBS,
)

LONGEST = 25
"""Words of a sentence that is read in one go; writers for the British government are asked for no more."""

SHORTEST = 4
"""Words of a part that may stand alone."""

PREPOSITION = r"of|in|for|at|on|from|between|under|near"
FOLLOWS = rf"{PREPOSITION}|after|before|during|within|to|with|without|because|and|as|when|until|since|while|over"
NOUN = r"[\w\u2019' -]"

PASSIVE = re.compile(
    r"(?P<lead>(?:(?:In|On|At|After|Last|During) [^,]{2,40}, )?)"
    rf"(?P<whom>{NOUN}{{1,60}}?) (?:was|were) (?P<deed>[a-z]+) by (?P<who>{NOUN}{{2,40}}?)"
    rf"(?P<rest>(?: (?:{FOLLOWS})\b(?:[^,;:“\"(]|(?<=\d):(?=\d))*)?[.!])"
)
JOINT = re.compile(
    r"(?:(?P<semicolon>; (?:and )?)|, (?P<word>and|but|so(?! that)) )(?=(?P<clause>[^,;:]+))"
    r"|, which (?P<verb>is|was|has|are|were|have) (?=[^,;:]+[.!?]$)"
)


def passives_in(paragraph: str) -> Iterator[str]:
    """Sentences in which somebody acts, and is named last."""
    yield from (f"“{sentence}”" for sentence in sentences_of(paragraph) if active(sentence))


def without_passives(paragraph: str) -> str:
    """The same with the one who acts at the beginning."""
    return " ".join(active(sentence) or sentence for sentence in sentences_of(paragraph))


def active(sentence: str) -> str | None:
    """Turn a sentence round, if it is a plain one: something was done by somebody. Others are left alone."""
    found = PASSIVE.fullmatch(sentence)
    if found is None or re.search(r"\bwh(?:o|ose|om|ich)\b", found["rest"]):
        return None
    lead, deed = found["lead"], found["deed"]
    whom, who = _as_object(found["whom"], is_first=not lead), _as_subject(found["who"])
    is_deed = deed in PAST or (deed.endswith("ed") and deed not in NO_DEEDS)
    if not is_deed or whom is None or who is None:
        return None
    return f"{lead}{who if lead else capitalised(who)} {PAST.get(deed, deed)} {whom}{found['rest']}"


def _as_object(text: str, *, is_first: bool) -> str | None:
    """What was the subject; None when it may be more than a noun with what belongs to it."""
    first, *others = text.split()
    if not others and first.lower() in OBJECTS:
        return OBJECTS[first.lower()]
    if not _is_noun([first, *others]):
        return None
    return " ".join([first.lower() if is_first and first.lower() in DETERMINERS else first, *others])


def _as_subject(text: str) -> str | None:
    """The one who acts; None when it is a time, or a way."""
    words = text.split()
    if text in SUBJECTS:
        return SUBJECTS[text]
    is_somebody = not {words[0].lower(), words[-1].lower()} & NOBODY and not words[0].endswith("ing")
    return text if is_somebody and not words[0].isdigit() and _is_noun(words) else None


def _is_noun(words: list[str]) -> bool:
    """Whether words look like one noun: a determiner or a name, up to four words, and again after a preposition."""
    part = 0
    for place, word in enumerate(words):
        if word.lower() in NO_NOUN or (place == 0 and word.lower() not in DETERMINERS and not word[0].isupper()):
            return False
        if re.fullmatch(PREPOSITION, word):
            part = 0
        elif part and word.lower() in DETERMINERS:  # a second noun without anything between them
            return False
        else:
            part += 1
        if part > 4:
            return False
    return part > 0 and (len(words) > 1 or words[0].lower() not in DETERMINERS)


def long_in(paragraph: str) -> Iterator[str]:
    """Sentences of too many words."""
    for sentence in sentences_of(paragraph):
        if (count := len(words_of(sentence))) > LONGEST:
            yield f"{count} words: “{sentence[:40]}…”"


def without_long(paragraph: str) -> str:
    """The same with long sentences cut where one clause ends and another begins."""
    return " ".join(part for sentence in sentences_of(paragraph) for part in _cut(sentence))


def _cut(sentence: str) -> Iterator[str]:
    """The sentence in as many parts as it takes, each cut as near to its middle as may be."""
    pairs = [pair for found in JOINT.finditer(sentence) if (pair := _parts(sentence, found))]
    if len(words_of(sentence)) <= LONGEST or not pairs:
        yield sentence
        return
    for part in min(pairs, key=lambda pair: abs(len(pair[0]) - len(pair[1]))):
        yield from _cut(part)


def _parts(sentence: str, found: re.Match[str]) -> tuple[str, str] | None:
    """The two sentences that a joint divides it into, if both can stand alone."""
    first, rest = sentence[: found.start()], sentence[found.end() :]
    if found["verb"]:
        rest = f"{'It' if found['verb'] in {'is', 'was', 'has'} else 'They'} {found['verb']} {rest}"
    elif found["semicolon"]:
        if not _is_clause(found["clause"], told_apart=not re.search("[:;]", first)):
            return None
    elif _is_side_clause(first) or _begins(rest) == "that" or not _is_clause(found["clause"], told_apart=False):
        return None
    elif found["word"] in {"but", "so"}:
        rest = f"{found['word']} {rest}"
    if _is_open(first) or min(len(words_of(first)), len(words_of(rest))) < SHORTEST:
        return None
    return f"{first}.", capitalised(rest)


def _is_clause(text: str, *, told_apart: bool) -> bool:
    """Whether it looks like a sentence of its own: with a verb near its beginning, not one of a remark in it.

    One that is told apart by a semicolon needs less to look like it.
    """
    first, *others = [word.strip(".!?").lower() for word in text.split()]
    own = itertools.takewhile(lambda word: word not in RELATIVE, others[:8])
    has_verb = any(word in VERBS or re.fullmatch(r"[a-z]{2,}ed", word) for word in own)
    return first not in DEPENDENT and (has_verb or first in STARTS if told_apart else has_verb and first in STARTS)


def _is_side_clause(text: str) -> bool:
    """Whether its main clause may be still to come."""
    return _begins(text) in DEPENDENT or _begins(text).endswith("ing")


def _begins(text: str) -> str:
    return text.partition(" ")[0].lower()


def _is_open(text: str) -> bool:
    """Whether a quote, a bracket or a mark has begun and not ended."""
    marks = any(text.count(mark) % 2 for mark in ('"', "*", "**", "`"))
    return marks or any(text.count(left) > text.count(right) for left, right in ("()", "[]", "“”"))
