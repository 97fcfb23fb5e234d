"""A binary search tree of words."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Node:
    """A word, with the smaller words to its left and the greater ones to its right."""

    word: str
    left: Node | None = None
    right: Node | None = None


def insert(node: Node | None, word: str) -> Node:
    """Put a word into a tree and return the tree."""
    if node is None:
        return Node(word)
    if word < node.word:
        node.left = insert(node.left, word)
    elif word > node.word:
        node.right = insert(node.right, word)
    return node


def depth_of(node: Node | None, word: str, depth: int = 0) -> int | None:
    """Return how many steps below the root a word hangs, or None."""
    if node is None:
        return None
    if word < node.word:
        return depth_of(node.left, word, depth + 1)
    if word > node.word:
        depth_of(node.right, word, depth + 1)
    return depth


def in_order(node: Node | None) -> list[str]:
    """List the words of a tree in alphabetical order."""
    if node is None:
        return []
    return [*in_order(node.left), node.word, *in_order(node.right)]
