from run_length import decode, encode


def test_nothing() -> None:
    assert encode("") == []


def test_one_character() -> None:
    assert encode("x") == [("x", 1)]


def test_one_run() -> None:
    assert encode("zzzz") == [("z", 4)]


def test_two_runs() -> None:
    assert encode("aab") == [("a", 2), ("b", 1)]


def test_no_two_alike() -> None:
    assert encode("abc") == [("a", 1), ("b", 1), ("c", 1)]


def test_a_character_comes_back() -> None:
    assert encode("abba") == [("a", 1), ("b", 2), ("a", 1)]


def test_decode() -> None:
    assert decode([("h", 1), ("o", 3)]) == "hooo"


def test_there_and_back() -> None:
    assert decode(encode("mississippi")) == "mississippi"
