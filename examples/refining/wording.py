"""Slips of the keyboard, and phrases that say less than their length."""

import re
from collections.abc import Iterator

from refining.prose import QUOTED, capitalised
from refining.words import EMPTY, SHORTER

EMPTY_ONE = re.compile(
    rf"{QUOTED}|(?P<lead>,?\s)?(?P<article>\ban? )?(?<!\bnot )(?P<phrase>\b(?:{'|'.join(EMPTY)})(?!\w))"
    r"(?P<comma>,)?(?P<space>\s+(?=\w)|(?=[.!?;:]))",
    re.IGNORECASE,
)
LONGER_ONE = re.compile(
    rf"{QUOTED}|\b(?P<phrase>{'|'.join(sorted(SHORTER, key=len, reverse=True))})\b(?P<space>\s*)", re.IGNORECASE
)
SLIP = re.compile(
    rf"{QUOTED}|(?P<space> +(?=[,;:.!?](?:\s|$))|  +)|\b(?P<twice>(?!(?:that|had)\b)[a-z]+) (?P=twice)\b",
    re.IGNORECASE,
)
CAPITAL, SOUND = "\0", "\1"
"""Marks for what is mended when the phrase is gone: the next letter is a capital, the article fits the next word."""

TO_CAPITAL = re.compile(f"{CAPITAL}(.?)")
TO_SOUND = re.compile(rf"(?<=\b[Aa])n? {SOUND}+(?=(?P<vowel>(?!one\b|once\b|uni|use|usu|eu)[aeiou]|hour|hono|heir)?)")


def slips_in(paragraph: str) -> Iterator[str]:
    """Words typed twice, and spaces where none belong."""
    for found in SLIP.finditer(paragraph):
        if found["twice"]:
            yield f"“{found[0]}”"
        elif found["space"]:
            yield "a space too many"


def without_slips(paragraph: str) -> str:
    """The same without them."""

    def mended(found: re.Match[str]) -> str:
        if found["twice"]:
            return found["twice"]
        return (" " if found["space"].startswith("  ") else "") if found["space"] else found[0]

    return SLIP.sub(mended, paragraph)


def wordy_in(paragraph: str) -> Iterator[str]:
    """Phrases that can go, or be shorter."""
    for pattern in (EMPTY_ONE, LONGER_ONE):
        yield from (f"“{found['phrase']}”" for found in pattern.finditer(paragraph) if found["phrase"])


def without_wordy(paragraph: str) -> str:
    """The same in fewer words; again and again, since one phrase may stand inside of another."""
    before = ""
    while before != paragraph:
        before = paragraph
        marked = TO_CAPITAL.sub(lambda found: found[1].upper(), EMPTY_ONE.sub(_gone, paragraph))
        fitted = TO_SOUND.sub(lambda found: "n " if found["vowel"] else " ", marked)
        paragraph = LONGER_ONE.sub(_shorter, fitted)
    return paragraph


def _gone(found: re.Match[str]) -> str:
    """What stays in the place of an empty phrase."""
    if not found["phrase"]:
        return found[0]
    if not found["space"]:  # at the end of a sentence
        return ""
    lead = " " if found["comma"] and found["lead"] else found["lead"] or ""
    article = found["article"] + SOUND if found["article"] else ""
    return lead + article + (CAPITAL if found["phrase"][0].isupper() else "")


def _shorter(found: re.Match[str]) -> str:
    phrase = found["phrase"]
    if not phrase:
        return found[0]
    short = SHORTER[phrase.lower()]
    if phrase.isupper():
        return short.upper() + found["space"]
    return (capitalised(short) if phrase[0].isupper() else short) + found["space"]
