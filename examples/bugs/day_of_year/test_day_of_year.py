from day_of_year import day_of_year, days_in, is_leap


def test_leap_years() -> None:
    assert is_leap(2024)


def test_ordinary_years() -> None:
    assert not is_leap(2023)


def test_a_century_is_not_a_leap_year() -> None:
    assert not is_leap(1900)


def test_a_fourth_century_is_a_leap_year() -> None:
    assert is_leap(2000)


def test_february_in_a_leap_year() -> None:
    assert days_in(2024, 2) == 29


def test_february_in_an_ordinary_year() -> None:
    assert days_in(2023, 2) == 28


def test_april() -> None:
    assert days_in(2023, 4) == 30


def test_new_year() -> None:
    assert day_of_year(2023, 1, 1) == 1


def test_first_of_february() -> None:
    assert day_of_year(2023, 2, 1) == 32


def test_first_of_march_in_a_leap_year() -> None:
    assert day_of_year(2024, 3, 1) == 61


def test_last_day() -> None:
    assert day_of_year(2023, 12, 31) == 365


def test_last_day_of_a_leap_year() -> None:
    assert day_of_year(2024, 12, 31) == 366
