from binary_search import contains, find

ITEMS = [1, 3, 5, 7, 9, 11, 13]


def test_nothing_is_in_an_empty_list() -> None:
    assert find([], 3) == -1


def test_the_only_item() -> None:
    assert find([4], 4) == 0


def test_in_the_middle() -> None:
    assert find(ITEMS, 7) == 3


def test_the_first() -> None:
    assert find(ITEMS, 1) == 0


def test_the_last() -> None:
    assert find(ITEMS, 13) == 6


def test_every_item_is_found_at_its_index() -> None:
    assert [find(ITEMS, item) for item in ITEMS] == list(range(len(ITEMS)))


def test_smaller_than_all() -> None:
    assert not contains(ITEMS, 0)


def test_greater_than_all() -> None:
    assert not contains(ITEMS, 99)


def test_between_two_items() -> None:
    assert not contains(ITEMS, 6)
