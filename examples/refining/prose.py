"""A text as blocks, sentences and words; what is no prose (lists, tables, code) is left as it stands."""

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

WIDTH = 88

BLOCK = re.compile(
    r"^(?P<fence>```|~~~)[\s\S]*?(?:^(?P=fence).*$|\Z)"  # code between fences
    r"|^#{1,6} .*$"  # a heading
    r"|(?:^(?!#{1,6} |```|~~~).*\S.*$\n?)+",  # lines without a blank one between them
    re.MULTILINE,
)
NO_PROSE = re.compile(r"```|~~~|\s{4}|\t|[-*+] |[>|]|\d+[.)] ")
UNDERLINE = re.compile(r"^(=+|-+)$", re.MULTILINE)
QUOTED = r"“[^”]*”|\"[^\"]*\"|`[^`]*`"
"""What somebody else has said, or what a program reads: nobody may change it."""

END = re.compile(r"[.!?]+[\"'”\u2019)\]*_]*\s+(?=[\"'“\u2018(\[*_]*(?:[A-Z0-9]|`))")
NO_END = re.compile(r"\b(?:e\.g|i\.e|vs|cf|approx|Dr|Mr|Mrs|Ms|Prof|No|St|Fig|[A-Z])\.\s+$")
WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")
NUMBER = re.compile(r"\d+(?:[.,:/]\d+)*%?")


class Block(NamedTuple):
    """A paragraph of prose on one line, a heading, or something else with its lines as they are."""

    kind: Literal["prose", "heading", "other"]
    text: str


def blocks_of(text: str) -> list[Block]:
    """Take a text apart."""
    return [_block(found[0].strip("\n").rstrip()) for found in BLOCK.finditer(text.replace("\r\n", "\n"))]


def _block(lines: str) -> Block:
    if lines.startswith("#"):
        return Block("heading", lines)
    line = " ".join(line.strip() for line in lines.split("\n"))
    is_label = not re.search(r"[.!?:][\"'”\u2019)]*$", line)  # such as a date, or a name
    if NO_PROSE.match(lines) or UNDERLINE.search(lines) or is_label:
        return Block("other", lines)
    return Block("prose", line)


def joined(blocks: Iterable[Block]) -> str:
    """Put a text together."""
    return "\n\n".join(block.text for block in blocks) + "\n"


def is_broken(text: str) -> bool:
    """Whether the prose of a text is broken into lines."""
    return any(block.kind == "prose" and block.text not in text for block in blocks_of(text))


def laid_out(text: str) -> str:
    """Break the prose of a text into lines."""
    blocks = (block._replace(text=_filled(block.text)) if block.kind == "prose" else block for block in blocks_of(text))
    return joined(blocks)


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)


def each_prose(blocks: Iterable[Block], change: Callable[[str], str]) -> list[Block]:
    """Change every paragraph; one that nothing is left of goes."""
    changed = (block._replace(text=change(block.text)) if block.kind == "prose" else block for block in blocks)
    return [block for block in changed if block.text]


def paragraphs_of(blocks: Iterable[Block]) -> list[str]:
    """The prose alone."""
    return [block.text for block in blocks if block.kind == "prose"]


def sentences_of(paragraph: str) -> list[str]:
    """Take a paragraph apart."""
    return list(_sentences(paragraph))


def _sentences(paragraph: str) -> Iterator[str]:
    start = 0
    for end in END.finditer(paragraph):
        if not NO_END.search(paragraph[start : end.end()]):
            yield paragraph[start : end.end()].rstrip()
            start = end.end()
    if start < len(paragraph):
        yield paragraph[start:]


def words_of(text: str) -> list[str]:
    """The words, without numbers."""
    return WORD.findall(text)


def numbers_in(text: str) -> set[str]:
    """The numbers, as they are written."""
    return set(NUMBER.findall(text))


def capitalised(text: str) -> str:
    """With a capital at the beginning, behind quotes and marks; code stays as it is."""
    return re.sub(r"^[*_\"'“(]*[^\W\d_]", lambda found: found[0].upper(), text)
