"""How two states differ."""

from __future__ import annotations

import difflib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.report.diff import Change, differences

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after", "changes"),
    [
        ({"n": 1}, {"n": 2}, [Change("state.n", "changed", 1, 2)]),
        ({"n": 1}, {"m": 1}, [Change("state.n", "removed", 1), Change("state.m", "added", after=1)]),
        ({"a b": 1}, {"a b": None}, [Change('state["a b"]', "changed", 1, None)]),
        ([1, 2, 3], [0, 1, 2, 3], [Change("state[0]", "added", after=0)]),
        ([1, 2, 3], [1, 3], [Change("state[1]", "removed", 2)]),
        ([{"x": 1}, 5], [{"x": 2}, 5], [Change("state[0].x", "changed", 1, 2)]),
        ({"a": {"b": [1]}}, {"a": {"b": [1, {"c": 2}]}}, [Change("state.a.b[1]", "added", after={"c": 2})]),
        (1, True, [Change("state", "changed", 1, True)]),
        (1, 1.0, [Change("state", "changed", 1, 1.0)]),
        ("a", "a", []),
    ],
)
def test_a_change_says_where_and_what(before, after, changes):
    """The path of the smallest part that differs; a list with one item more has one change."""
    assert list(differences(before, after)) == changes


@given(JSON, JSON)
def test_only_equal_states_have_no_difference(before, after):
    """Nothing that differs is passed over, and nothing is made up."""
    changes = list(differences(before, after))
    assert (changes == []) == (repr(sorted_(before)) == repr(sorted_(after)))
    assert list(differences(before, before)) == []


def sorted_(value):
    """The same JSON with the names of its objects in order."""
    if isinstance(value, dict):
        return {name: sorted_(value[name]) for name in sorted(value)}
    return [sorted_(item) for item in value] if isinstance(value, list) else value


def test_texts_of_several_lines_are_compared_line_by_line():
    """As diff writes it; a text of one line is not."""
    (change,) = differences({"text": "a\nb\nc"}, {"text": "a\nB\nc"})
    assert change.unified[2:] == ["@@ -1,3 +1,3 @@", " a", "-b", "+B", " c"]
    (short,) = differences({"text": "a"}, {"text": "b"})
    assert short.unified == []


@pytest.mark.parametrize(
    ("before", "after", "count"),
    [
        ([0] * 5000, [0] * 4999 + [1], 1),
        ([*range(5000)], [-1, *range(5000)], 1),
        ([*range(4000)], [n if n % 2 else -n - 1 for n in range(4000)], 2000),
    ],
)
def test_long_lists_are_compared_in_reasonable_time(before, after, count, monkeypatch):
    """What is equal at both ends is not matched, and in very long rests items are compared at their place."""
    most = []
    monkeypatch.setattr(difflib, "SequenceMatcher", lambda _, a, b, **__: most.append(len(a) * len(b)) or _Same(a, b))
    assert len(list(differences(before, after))) == count
    assert max(most, default=0) <= 1_000_000


class _Same:
    """Stands for the matcher where only its cost matters."""

    def __init__(self, old, new) -> None:
        self.old, self.new = old, new

    def get_opcodes(self):
        """All of the one became all of the other."""
        return [("replace", 0, len(self.old), 0, len(self.new))]
