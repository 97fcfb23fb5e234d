from intervals import covered, merge


def test_nothing() -> None:
    assert merge([]) == []


def test_one_interval_stays() -> None:
    assert merge([(2, 5)]) == [(2, 5)]


def test_overlapping() -> None:
    assert merge([(1, 4), (3, 6)]) == [(1, 6)]


def test_apart() -> None:
    assert merge([(1, 2), (4, 6)]) == [(1, 2), (4, 6)]


def test_touching() -> None:
    assert merge([(1, 3), (3, 5)]) == [(1, 5)]


def test_one_inside_the_other() -> None:
    assert merge([(1, 9), (3, 4)]) == [(1, 9)]


def test_any_order() -> None:
    assert merge([(8, 9), (1, 3), (2, 5)]) == [(1, 5), (8, 9)]


def test_a_chain_of_touching_intervals() -> None:
    assert merge([(0, 1), (1, 2), (2, 3)]) == [(0, 3)]


def test_the_same_twice() -> None:
    assert merge([(4, 7), (4, 7)]) == [(4, 7)]


def test_covered_length() -> None:
    assert covered([(1, 3), (2, 6), (10, 11)]) == 6
