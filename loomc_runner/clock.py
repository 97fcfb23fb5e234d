"""Time: the clock a run is measured by, and durations as people write them."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Protocol

from loomc_runner.errors import SpecError

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
LONGEST = 1e9
"""Seconds; a limit of more than thirty years is a mistake."""

DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d)\s*)+")
PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


class Clock(Protocol):
    """Where a run reads the time; tests hand in one they can move."""

    def now(self) -> datetime:
        """The date and time, in UTC."""
        ...

    def monotonic(self) -> float:
        """Seconds from some fixed instant; never goes back."""
        ...


class SystemClock:
    """The machine's own clock."""

    def now(self) -> datetime:
        """The date and time, in UTC."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds from some fixed instant; never goes back."""
        return time.monotonic()


_second = datetime.min.replace(tzinfo=UTC), ""
"""The second that was written last, and how."""


def in_iso(moment: datetime) -> str:
    """What `moment.isoformat()` gives, in less than half the time where it is of the same second as the last one."""
    global _second  # noqa: PLW0603 - replaced as a whole, so that threads may do it at the same time
    if moment.tzinfo is not UTC or not moment.microsecond:
        return moment.isoformat()
    second, text = _second
    since = moment - second
    if since.days or since.seconds:
        second = moment.replace(microsecond=0)
        since, text = moment - second, second.isoformat()[:19]
        _second = second, text
    fraction = str(1_000_000 + since.microseconds)  # with a one before its six digits
    return f"{text}.{fraction[1:]}+00:00"


def parse_duration(value: str | float | timedelta) -> float:
    """Seconds of a duration: `"90s"`, `"10m"`, `"1h30m"`, `"500ms"`, a timedelta or a number of seconds.

    Raises:
        SpecError: For anything else, and for a duration that is not more than zero.
    """
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
    elif isinstance(value, str) and DURATION.fullmatch(value.strip()):
        seconds = sum(float(number) * UNITS[unit] for number, unit in PART.findall(value))
    elif isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    else:
        raise SpecError(f'not a duration: {value!r}; write "90s", "10m", "1h30m" or a timedelta')
    if not 0 < seconds <= LONGEST:
        raise SpecError(f"a duration must be more than zero and at most thirty years, not {value!r}")
    return float(seconds)


def format_duration(seconds: float) -> str:
    """Seconds as a person reads them: `0.4s`, `12s`, `3m05s`, `1h20m`."""
    if seconds < 9.95:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"
