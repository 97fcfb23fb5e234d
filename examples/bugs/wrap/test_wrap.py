from wrap import indent, wrap


def test_nothing() -> None:
    assert wrap("", 10) == []


def test_one_word() -> None:
    assert wrap("word", 10) == ["word"]


def test_words_that_fit() -> None:
    assert wrap("to be", 10) == ["to be"]


def test_a_line_may_be_full() -> None:
    assert wrap("to be or", 8) == ["to be or"]


def test_a_line_is_never_too_long() -> None:
    assert wrap("to be or", 7) == ["to be", "or"]


def test_three_lines() -> None:
    assert wrap("one two three four", 9) == ["one two", "three", "four"]


def test_full_lines() -> None:
    assert wrap("ab cd ef gh", 5) == ["ab cd", "ef gh"]


def test_a_long_word_stays_whole() -> None:
    assert wrap("a hippopotamus ran", 6) == ["a", "hippopotamus", "ran"]


def test_spaces_are_joined() -> None:
    assert wrap("  so   far ", 20) == ["so far"]


def test_indent() -> None:
    assert indent("to be or", 8, 2) == ["  to be", "  or"]


def test_indented_line_may_be_full() -> None:
    assert indent("to be", 7, 2) == ["  to be"]
