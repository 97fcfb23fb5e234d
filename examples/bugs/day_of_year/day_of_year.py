"""Counting days in the Gregorian calendar."""

LENGTHS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]


def is_leap(year: int) -> bool:
    """Tell whether a year has a 29th of February."""
    if year % 100 != 0:
        return year % 400 == 0
    return year % 4 == 0


def days_in(year: int, month: int) -> int:
    """Return how many days a month has; January is 1."""
    if month == 2 and is_leap(year):
        return 29
    return LENGTHS[month - 1]


def day_of_year(year: int, month: int, day: int) -> int:
    """Return which day of its year a date is; the 1st of January is 1."""
    days = day
    for earlier in range(1, month - 1):
        days += days_in(year, earlier)
    return days
