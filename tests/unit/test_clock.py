"""Durations are read as people write them, and shown so."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.clock import SystemClock, format_duration, in_iso, parse_duration
from loomc_runner.errors import SpecError


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("1h30m", 5400),
        ("1h 30m", 5400),
        ("500ms", 0.5),
        ("1m500ms", 60.5),
        ("2d", 172_800),
        ("30d", 2_592_000),
        ("1.5h", 5400),
        (" 1s ", 1),
        (timedelta(minutes=2), 120),
        (30, 30),
        (0.25, 0.25),
    ],
)
def test_a_duration_is_read_in_seconds(value: Any, seconds: float) -> None:
    """Numbers with units, one after another, timedeltas and plain seconds are durations."""
    assert parse_duration(value) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "value",
    [
        *(
            "10x",
            "",
            " ",
            "s",
            "10",
            "-5s",
            "1h-30m",
            "5 s",
            "1e3s",
            "inf",
            "nan",
            "0s",
            "ten minutes",
            "9" * 400 + "s",
        ),
        *(0, -1, -0.5, math.nan, math.inf, 10**400, True, None, timedelta(0), timedelta(seconds=-1), [1], b"1s"),
    ],
    ids=str,
)
def test_what_is_no_duration_is_refused_by_its_value(value: Any) -> None:
    """Anything else, and anything not above zero or beyond thirty years, is refused; the message shows it."""
    with pytest.raises(SpecError) as caught:
        parse_duration(value)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0.0s"),
        (0.44, "0.4s"),
        (9.94, "9.9s"),
        (9.96, "10s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (185, "3m05s"),
        (3599.9, "1h00m"),
        (4800, "1h20m"),
        (360_000, "100h00m"),
    ],
)
def test_a_duration_is_shown_in_two_units_at_most(seconds: float, words: str) -> None:
    """Short times show tenths, long ones hours and minutes; rounding never shows sixty of anything."""
    assert format_duration(seconds) == words


def test_the_system_clock_tells_utc_and_never_goes_back() -> None:
    """Dates are in UTC; the seconds that runs are measured by only grow."""
    clock = SystemClock()
    assert clock.now().tzinfo is UTC
    assert clock.monotonic() <= clock.monotonic()


ZONES = st.sampled_from([UTC, timezone.utc, timezone(timedelta(hours=2)), None])  # noqa: UP017 - the same by both names
MOMENTS = st.datetimes(timezones=st.just(UTC)) | st.datetimes(timezones=ZONES)
STEPS = st.lists(st.sampled_from([0, 1, -1, 999_999, 1_000_000, -1_000_000, 86_400_000_000]), max_size=8)


@given(start=MOMENTS.filter(lambda moment: 2 < moment.year < 9998), steps=STEPS)
def test_a_moment_is_written_as_python_does(start: datetime, steps: list[int]) -> None:
    """Whatever moment was written before, in the same second or another one, the text is that of `isoformat`."""
    moments = [start, *(start + timedelta(microseconds=step) for step in steps)]
    assert [in_iso(moment) for moment in moments] == [moment.isoformat() for moment in moments]
