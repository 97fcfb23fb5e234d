"""Binary search in a sorted list."""

from collections.abc import Sequence


def find(items: Sequence[int], wanted: int) -> int:
    """Return an index at which `wanted` stands in the sorted items, or -1."""
    low, high = 0, len(items) - 1
    while low <= high:
        middle = (low + high) // 2
        if items[middle] == wanted:
            return middle
        if items[middle] < wanted:
            low = middle  # go on in the upper half
        else:
            high = middle - 1  # go on in the lower half
    return -1


def contains(items: Sequence[int], wanted: int) -> bool:
    """Tell whether `wanted` is among the sorted items."""
    return find(items, wanted) >= 0
