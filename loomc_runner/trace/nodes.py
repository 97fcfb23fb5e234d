"""The tree that a page shows, as plain data, and how a tree that is too large is folded."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from loomc_runner.trace.texts import named, shown

MOST_NODES = 2_000
"""Nodes that a page has; beyond that, the middle of what is long is folded into one node with its count."""

LEAST = 8
"""Room that a run in a run is given in any case, so that its first and last steps are there."""


@dataclass(slots=True)
class Node:
    """Something that took its time: a run, a step, an attempt, a call, or what a user's own function did.

    Whoever makes one need not clean its texts: they are, when it is made.

    Attributes:
        name, kind: What it is.
        start, duration: In seconds; since 1970 (UTC).
        inputs, output, error: As text, cut.
        tags: Short facts, by name; an empty one is a mark.
        model, tokens, usd: What it used itself, its children left out.
        meta: Numbers that a user's own function has noted besides.
        children: What happened in it.
        folded_steps: How many steps it stands for.
    """

    name: str
    kind: str
    start: float
    duration: float = 0.0
    inputs: dict[str, str] = field(default_factory=dict)
    output: str | None = None
    error: str | None = None
    tags: dict[str, str] = field(default_factory=dict)
    model: str | None = None
    tokens: int = 0
    usd: float = 0.0
    meta: dict[str, int] = field(default_factory=dict)
    children: list[Node] = field(default_factory=list)
    folded_steps: int = 0

    def __post_init__(self) -> None:
        self.name = named(self.name)
        self.kind = named(self.kind)
        self.inputs = {named(key): shown(text) for key, text in self.inputs.items()}
        self.output = None if self.output is None else shown(self.output)
        self.error = None if self.error is None else shown(self.error)
        self.tags = {named(key): shown(text) for key, text in self.tags.items()}
        self.model = named(self.model) if self.model else None

    @property
    def end(self) -> float:
        """When it ended."""
        return self.start + self.duration

    @property
    def size(self) -> int:
        """How many nodes it is, with all below it."""
        return 1 + sum(child.size for child in self.children)

    def walk(self) -> Iterator[Node]:
        """It and all below it."""
        yield self
        for child in self.children:
            yield from child.walk()


def ends(build: Callable[[int, int], Node], total: int, room: int, least: int = LEAST) -> tuple[list[Node], list[Node]]:
    """All of `total` nodes when there is room for them, else the first and the last of them.

    `build` makes one, given its number and the room it may take, `least` in any case. Those between the two lists are
    left out.
    """
    share = room * 3 // 4
    first, used = list[Node](), 0
    while len(first) < total and (used < (room if total <= room else share) or not first):
        first.append(build(len(first), max(room - used, least)))
        used += first[-1].size
    if len(first) == total:
        return first, []
    while used > share and len(first) > 1:
        used -= first.pop().size
    left = room - pruned(first[0], max(share, least)).size if len(first) == 1 else room - used
    last = list[Node]()
    while len(first) + len(last) < total and (left > 0 or not last):
        last.append(build(total - 1 - len(last), max(left, least)))
        left -= last[-1].size
    if left < 0 and len(last) > 1:
        last.pop()
    return first, last[::-1]


def counted(number: int, what: str) -> str:
    """So many of something, in words."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def folded(nodes: Sequence[Node]) -> Node:
    """One node that stands for several."""
    inside = [node for top in nodes for node in top.walk()]
    kinds = {node.kind.partition(":")[0] for node in nodes}
    words = counted(len(nodes), "node" if len(kinds) > 1 or "folded" in kinds else kinds.pop())
    start, steps = min(node.start for node in nodes), sum(node.kind == "step" for node in inside)
    return Node(
        f"… {words}",
        "folded",
        start,
        max(node.end for node in nodes) - start,
        tags={"folded": words},
        tokens=sum(node.tokens for node in inside),
        usd=sum(node.usd for node in inside),
        folded_steps=steps + sum(node.folded_steps for node in inside),
    )


def pruned(node: Node, room: int) -> Node:
    """The node, brought within its room: the middle of what is below it is folded."""
    if node.size <= room or not node.children:
        return node
    if room < LEAST:
        node.children = [folded(node.children)]
        return node
    below = node.children
    first, last = ends(lambda index, left: pruned(below[index], left), len(below), room - 2, least=1)
    middle = below[len(first) : len(below) - len(last)]
    node.children = [*first, *([folded(middle)] if middle else []), *last]
    return node
