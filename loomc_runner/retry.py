"""Which errors are worth another try, and how long to wait before it."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from inspect import iscoroutinefunction
from typing import Any, Literal, get_args

from loomc_runner.clock import LONGEST, parse_duration
from loomc_runner.errors import BudgetExhausted, LoomcError, SpecError
from loomc_runner.scores import check_count, check_number

Category = Literal["transient", "validation", "business", "permission", "unknown"]
CATEGORIES: tuple[Category, ...] = get_args(Category)

ErrorFilter = type[Exception] | tuple[type[Exception], ...] | Callable[[Any], bool]
"""How errors are chosen: a type, several types, or a function of the error that says yes or no."""

BY_STATUS: dict[int, Category] = {
    **dict.fromkeys((408, 425, 429), "transient"),
    **dict.fromkeys((401, 403, 407), "permission"),
    **dict.fromkeys((400, 413, 415, 422), "validation"),
    **dict.fromkeys((402, 404, 409, 410), "business"),
    **dict.fromkeys(range(500, 600), "transient"),
}

TRANSIENT_ENDINGS = (
    "ConnectionError",
    "ConnectError",
    "TimeoutError",
    "Timeout",
    "TimeoutException",
    "TransportError",
    "NetworkError",
    "RateLimitError",
    "OverloadedError",
    "ServiceUnavailableError",
    "gaierror",  # of `socket`, which is not imported for this
)
"""How the errors of vendors' SDKs are called that have no type in common."""

ZERO = re.compile(r"(?:0+(?:\.0+)?(?:ms|s|m|h|d)\s*)+")
NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")


@dataclass(frozen=True)
class Retry:
    """Try again after an error that may pass, with a wait in between that grows.

    Args:
        attempts: How many tries in all, the first included.
        on: What is tried again. Without it transient errors are: lost connections, timeouts, rate limits and
            servers in trouble. Else an exception type, a tuple of them, or a function of the error that returns
            True or False. A group of errors is tried again only if all of its parts are of such a type.
        wait: How long to wait before the second try, as `"500ms"`, `"2s"` or a timedelta; 0 is no wait.
        factor: How many times longer each further wait is.
        max_wait: No wait is longer than this, unless the error itself asks for more (`Retry-After`).
        jitter: Wait a random time between half of it and all of it, so that many who failed together do not come
            back together.

    A used-up budget is never tried again, unless `on` names `BudgetExhausted`; nor is what ends a program, such as
    `KeyboardInterrupt`. Raises `SpecError` for values that cannot work.
    """

    attempts: int = 3
    on: ErrorFilter | None = None
    wait: str | float | timedelta = "1s"
    factor: float = 2.0
    max_wait: str | float | timedelta = "60s"
    jitter: bool = True

    def __post_init__(self) -> None:
        check_count("Retry(attempts", self.attempts)
        if self.on is not None:
            check_filter("Retry(on", self.on)
        try:
            check_number("Retry(factor", self.factor, least=1)
        except OverflowError:
            raise SpecError("Retry(factor=...): a whole number beyond all floats") from None
        for name, value, hint in (("wait", self.wait, "; 0 is no wait"), ("max_wait", self.max_wait, "")):
            try:
                getattr(self, f"{name}_seconds")
            except SpecError as error:
                raise SpecError(f"Retry({name}={value!r}): {error}{hint}") from None
        if self.wait_seconds > self.max_wait_seconds:
            raise SpecError(
                f"Retry(wait={self.wait!r}, max_wait={self.max_wait!r}): the first wait is longer than the longest"
            )
        if not isinstance(self.jitter, bool):
            raise SpecError(f"Retry(jitter={self.jitter!r}): give True or False")

    @cached_property
    def wait_seconds(self) -> float:
        """The first wait in seconds."""
        return 0.0 if _is_zero(self.wait) else parse_duration(self.wait)

    @cached_property
    def max_wait_seconds(self) -> float:
        """The longest wait in seconds."""
        return parse_duration(self.max_wait)

    def delay(self, error: BaseException, tried: int, now: datetime | None = None) -> float | None:
        """Seconds to wait before the next try, or None when there is to be no other.

        Args:
            error: What the newest try failed with.
            tried: How many tries have failed.
            now: The date and time, for errors that name the moment to come back.
        """
        if tried >= self.attempts or not isinstance(error, Exception) or not self._covers(error):
            return None
        wait = self._grown(tried)
        if self.jitter:  # "equal jitter" of https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/
            wait = random.uniform(wait / 2, wait)
        return max(wait, retry_after_of(error, now) or 0.0)

    def _covers(self, error: Exception) -> bool:
        if any(isinstance(part, BudgetExhausted) for part in parts_of_error(error)) and not self._names_budget():
            return False
        return category_of(error) == "transient" if self.on is None else picks(self.on, error)

    def _names_budget(self) -> bool:
        named = self.on if isinstance(self.on, tuple) else (self.on,)
        return any(isinstance(kind, type) and issubclass(kind, BudgetExhausted) for kind in named)

    def _grown(self, tried: int) -> float:
        try:
            wait = self.wait_seconds * float(self.factor) ** max(tried - 1, 0)
        except OverflowError:
            wait = math.inf if self.wait_seconds else 0.0
        return min(wait, self.max_wait_seconds)


def category_of(error: BaseException) -> Category:
    """What kind of error it is: `transient`, `validation`, `business`, `permission` or `unknown`.

    The error's own `category` comes first, then the HTTP status it carries, then its type. A group is transient if
    all its parts are; else it is what the first of the others is.
    """
    own = _read(error, "category")
    if isinstance(own, str) and own in CATEGORIES:
        return next(word for word in CATEGORIES if word == own)
    if isinstance(error, BaseExceptionGroup):
        kinds = (category_of(part) for part in error.exceptions)
        return next((kind for kind in kinds if kind != "transient"), "transient")
    told = (BY_STATUS[status] for status in _statuses(error) if status in BY_STATUS)
    return next(told, None) or _category_by_type(error)


def retry_after_of(error: BaseException, now: datetime | None = None) -> float | None:
    """Seconds that a rate limit asks to wait, or None when it does not say; of a group, the longest.

    Args:
        error: Its `retry_after`, else the `retry-after-ms` or `retry-after` header of its response.
        now: The date and time that a header with a date is measured from; the machine's own, if left out.
    """
    own = next((seconds for seconds in _asked(error, now) if seconds is not None), None)
    parts = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    asked = [own, *(retry_after_of(part, now) for part in parts)]
    return max((seconds for seconds in asked if seconds is not None), default=None)


def parts_of_error(error: BaseException) -> Iterator[BaseException]:
    """The errors in a group, and in the groups in it; an error that is no group is its own only part."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from parts_of_error(part)
    else:
        yield error


def check_filter(name: str, value: Any) -> None:
    """Raise `SpecError` unless the value is an exception type, a tuple of them, or a function of the error."""
    kinds = value if isinstance(value, tuple) else (value,)
    if kinds and all(isinstance(kind, type) and issubclass(kind, Exception) for kind in kinds):
        return
    is_async = iscoroutinefunction(value) or iscoroutinefunction(getattr(value, "__call__", None))  # noqa: B004
    if isinstance(value, type) or not callable(value) or is_async:
        raise SpecError(
            f"{name}={value!r}): give a type of Exception, a tuple of them, or a function of the error"
            " that returns True or False"
        )


def picks(chosen: ErrorFilter, error: Exception, among: Callable[[Iterable[object]], bool] = all) -> bool:
    """Whether an error is one of the chosen; of a group, whether `all` or `any` of its parts are."""
    if isinstance(chosen, type | tuple):
        return isinstance(error, chosen) or among(isinstance(part, chosen) for part in parts_of_error(error))
    try:
        return bool(chosen(error))
    except Exception as second:
        if second is not error:
            second.__context__ = second.__context__ or error
        raise


def _is_zero(value: Any) -> bool:
    if isinstance(value, str):
        return ZERO.fullmatch(value.strip()) is not None
    if isinstance(value, timedelta):
        return not value
    return isinstance(value, int | float) and not isinstance(value, bool) and value == 0


def _read(thing: Any, name: str) -> Any:
    """An attribute, or None; what others' errors do when they are looked at must not hide the error."""
    try:
        return getattr(thing, name, None)
    except Exception:  # noqa: BLE001
        return None


def _statuses(error: BaseException) -> Iterator[int]:
    """The HTTP statuses found on the error and its response; other numbers are some other code."""
    for holder in (error, _read(error, "response")):
        for name in ("status_code", "status", "code"):
            status = _read(holder, name)
            if isinstance(status, int) and 100 <= status <= 599:
                yield int(status)


def _category_by_type(error: BaseException) -> Category:
    if isinstance(error, ConnectionError | TimeoutError):
        return "transient"
    if not isinstance(error, LoomcError) and any(
        kind.__name__.endswith(TRANSIENT_ENDINGS) for kind in type(error).__mro__
    ):
        return "transient"
    if isinstance(error, PermissionError):
        return "permission"
    return "validation" if isinstance(error, ValueError | TypeError) else "unknown"


def _asked(error: BaseException, now: datetime | None) -> Iterator[float | None]:
    """The seconds that each place names where an error may say how long to wait, best first."""
    yield _sensible(_read(error, "retry_after"))
    for headers in (_read(_read(error, "response"), "headers"), _read(error, "headers")):
        yield _sensible(_header(headers, "retry-after-ms"), unit=0.001)
        value = _header(headers, "retry-after")
        seconds = _sensible(value)
        yield _until(value, now) if seconds is None and isinstance(value, str) else seconds


def _header(headers: Any, name: str) -> Any:
    """The value of a header in whatever mapping; these are others' classes, hence the care."""
    try:
        return next((value for key, value in headers.items() if isinstance(key, str) and key.lower() == name), None)
    except Exception:  # noqa: BLE001
        return None


def _sensible(value: Any, unit: float = 1.0) -> float | None:
    if isinstance(value, str) and NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LONGEST:
        return None
    return float(value) * unit


def _until(date: str, now: datetime | None) -> float | None:
    """Seconds until an HTTP date, 0 when it is past, or None when it is no date."""
    from email.utils import parsedate_to_datetime  # imports `socket`, and is rarely needed

    try:
        then = parsedate_to_datetime(date)
        then = then if then.tzinfo else then.replace(tzinfo=UTC)
        return _sensible(max((then - (now or datetime.now(UTC))).total_seconds(), 0.0))
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
