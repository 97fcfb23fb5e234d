from tree_search import Node, depth_of, in_order, insert


def tree_of(*words: str) -> Node | None:
    tree = None
    for word in words:
        tree = insert(tree, word)
    return tree


TREE = tree_of("m", "f", "t", "b", "h", "p", "w")


def test_an_empty_tree_holds_nothing() -> None:
    assert depth_of(None, "a") is None


def test_the_root() -> None:
    assert depth_of(TREE, "m") == 0


def test_left_of_the_root() -> None:
    assert depth_of(TREE, "f") == 1


def test_right_of_the_root() -> None:
    assert depth_of(TREE, "t") == 1


def test_right_below_left() -> None:
    assert depth_of(TREE, "h") == 2


def test_leftmost() -> None:
    assert depth_of(TREE, "b") == 2


def test_rightmost() -> None:
    assert depth_of(TREE, "w") == 2


def test_missing_words() -> None:
    assert [depth_of(TREE, word) for word in ("a", "n", "z")] == [None, None, None]


def test_words_come_out_sorted() -> None:
    assert in_order(TREE) == ["b", "f", "h", "m", "p", "t", "w"]


def test_a_word_is_inserted_once() -> None:
    assert in_order(tree_of("x", "x")) == ["x"]
