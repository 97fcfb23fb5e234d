"""Edits of source text: a change touches only its own characters, so comments and layout survive."""

import ast
import difflib
import re
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

Edit = tuple[int, int, str]  # from this byte, up to this byte, the new text


@dataclass(frozen=True)
class Patch:
    """One edit, the kind of mutation it is and the lines whose behaviour it changes."""

    edit: Edit
    kind: str
    first: int
    last: int

    def apply(self, code: str) -> str:
        """Return the code with this patch in it."""
        start, end, text = self.edit
        raw = code.encode()
        return (raw[:start] + text.encode() + raw[end:]).decode()


class Source:
    """Source text by the positions that `ast` reports, which count UTF-8 bytes."""

    def __init__(self, code: str) -> None:
        self.raw = code.encode()
        self.tree = ast.parse(code)
        self._statements = {
            line: (node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.stmt) and not hasattr(node, "body")
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        self._starts = [0]
        for line in self.raw.split(b"\n"):  # not splitlines(): ast knows no form feeds or Unicode line ends
            self._starts.append(self._starts[-1] + len(line) + 1)

    def start(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node begins."""
        return self._starts[node.lineno - 1] + node.col_offset

    def end(self, node: ast.expr | ast.stmt) -> int:
        """Return where a node ends."""
        return self._starts[(node.end_lineno or node.lineno) - 1] + (node.end_col_offset or 0)

    def text(self, node: ast.expr | ast.stmt) -> str:
        """Return a node's own text."""
        return self.between(self.start(node), self.end(node))

    def between(self, start: int, end: int) -> str:
        """Return the text between two positions."""
        return self.raw[start:end].decode()

    def line_start(self, line: int) -> int:
        """Return where a line begins, counted from 1."""
        return self._starts[line - 1]

    def whole_lines(self, node: ast.stmt) -> tuple[int, int] | None:
        """Return the span of a statement's lines, or None where it shares one with other code."""
        start, end = self.line_start(node.lineno), min(self._starts[node.end_lineno or 0], len(self.raw))
        rest = self.between(self.end(node), end).strip()
        alone = not self.between(start, self.start(node)).strip() and (not rest or rest.startswith("#"))
        return (start, end) if alone else None

    def replace(self, node: ast.expr | ast.stmt, text: str) -> Edit:
        """Put `text` in the place of a node."""
        return self.start(node), self.end(node), text

    def operators(self, left: ast.expr, right: ast.expr, old: str, new: str) -> Iterator[Edit]:
        """Change the operator that stands between two operands."""
        start, end = self.end(left), self.start(right)
        # A comment between the operands may hold the same characters: blank it, keeping the positions.
        gap = re.sub(rb"#[^\n]*", lambda comment: b" " * len(comment[0]), self.raw[start:end])
        found = re.search(rb"\s+".join(re.escape(word.encode()) for word in old.split()), gap)
        if found:
            yield start + found.start(), start + found.end(), new

    def exchange(self, left: ast.expr | ast.stmt, right: ast.expr | ast.stmt) -> Edit:
        """Put two nodes in each other's place, keeping what stands between them."""
        gap = self.between(self.end(left), self.start(right))
        return self.start(left), self.end(right), self.text(right) + gap + self.text(left)

    def lines(self, edit: Edit) -> tuple[int, int]:
        """Return the lines whose behaviour an edit changes: those of the simple statements it touches."""
        start, end, _ = edit
        first, last = bisect_right(self._starts, start), bisect_right(self._starts, max(start, end - 1))
        return self._statements.get(first, (first, first))[0], self._statements.get(last, (last, last))[1]


def unified_diff(before: str, after: str, name: str) -> str:
    """Return what changed between two versions of a file, as `diff -u` shows it."""
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), f"a/{name}", f"b/{name}", lineterm="")
    return "\n".join(lines)
