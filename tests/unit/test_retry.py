"""Which errors are tried again, and how long the wait before that is."""

from __future__ import annotations

import asyncio
import math
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum
from http import HTTPStatus
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from loomc_runner import BudgetExhausted, LoomcError, RunNotFound, SpecError, StateError, StoreBusy
from loomc_runner.retry import CATEGORIES, Retry, category_of, retry_after_of

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)
SPENT = BudgetExhausted("usd", 2, 1)


class Word(StrEnum):
    """Categories as an SDK may have them."""

    BUSINESS = "business"


class OldWord(str, Enum):  # noqa: UP042 - how enums of words were written before StrEnum
    """The same, in older code."""

    PERMISSION = "permission"


class Unhelpful(Exception):
    """An error that raises whatever it is asked."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)

    @property
    def category(self) -> str:
        """Nothing but trouble."""
        raise KeyError

    @property
    def retry_after(self) -> float:
        """Nothing but trouble."""
        raise KeyError


class RefusedResponse:
    """A response as that of `requests`: not true when the status is an error."""

    status_code = 429
    headers: ClassVar = {"Retry-After": "7"}

    def __bool__(self) -> bool:
        return False


class BrokenHeaders:
    """Headers that cannot be read."""

    def items(self) -> Any:
        """Fail."""
        raise OSError


class Strict(BaseModel):
    """Something to be invalid."""

    n: int


def error_with(error: BaseException | None = None, /, **fields: Any) -> BaseException:
    """An error that carries these attributes."""
    error = Exception("failed") if error is None else error
    vars(error).update(fields)
    return error


def response(**fields: Any) -> BaseException:
    """An error with a response that carries these attributes."""
    return error_with(response=SimpleNamespace(**fields))


def named(name: str, base: type[BaseException] = Exception) -> BaseException:
    """An error of a class with this name."""
    kind: type[BaseException] = type(name, (base,), {})
    return kind("failed")


def invalid() -> ValidationError:
    """What pydantic raises."""
    with pytest.raises(ValidationError) as caught:
        Strict(n="x")  # type: ignore[arg-type]
    return caught.value


@pytest.mark.parametrize("word", CATEGORIES)
def test_an_error_that_names_its_category_is_believed(word: str) -> None:
    """The error's own word comes before its status and its type, for errors of loomc_runner too."""
    assert category_of(error_with(ConnectionError(), category=word, status_code=403)) == word
    assert category_of(error_with(LoomcError("x"), category=word)) == word


@pytest.mark.parametrize(("own", "category"), [(Word.BUSINESS, "business"), (OldWord.PERMISSION, "permission")])
def test_a_category_may_be_a_member_of_an_enum(own: str, category: str) -> None:
    """The answer is the plain word."""
    found = category_of(error_with(category=own))
    assert (found, type(found)) == (category, str)


@pytest.mark.parametrize("own", ["Transient", "", None, 3, [], {"transient"}])
def test_any_other_word_is_no_category(own: Any) -> None:
    """What a vendor calls a category in words of its own says nothing."""
    assert category_of(error_with(ValueError(), category=own)) == "validation"


@pytest.mark.parametrize(
    ("statuses", "category"),
    [
        ([408, 425, 429, 500, 502, 503, 504, 529, 599, HTTPStatus.BAD_GATEWAY], "transient"),
        ([401, 403, 407], "permission"),
        ([400, 413, 415, 422], "validation"),
        ([402, 404, 409, 410], "business"),
        ([100, 200, 302, 418, 99, 600, 0, -500, True, 1006, "503", 503.0, None], "unknown"),
    ],
)
def test_a_status_decides(statuses: list[Any], category: str) -> None:
    """The status of HTTP, on the error or on its response under any of its names, gives the category."""
    for status in statuses:
        for name in ("status_code", "status", "code"):
            assert category_of(error_with(**{name: status})) == category
            assert category_of(response(**{name: status})) == category


def test_a_status_comes_before_the_type() -> None:
    """A timeout that a server reports as a bad request is a bad request."""
    assert category_of(error_with(TimeoutError(), status_code=400)) == "validation"


def test_a_code_of_another_kind_does_not_hide_the_status() -> None:
    """A number that is no error status is passed over."""
    assert category_of(error_with(code=190, response=SimpleNamespace(status_code=429))) == "transient"


def test_a_response_that_is_not_true_is_still_a_response() -> None:
    """`requests` says False of a refused response; its status and its headers count."""
    error = error_with(response=RefusedResponse())
    assert (category_of(error), retry_after_of(error)) == ("transient", 7.0)


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (ConnectionResetError(), "transient"),
        (TimeoutError(), "transient"),
        (asyncio.TimeoutError(), "transient"),  # noqa: UP041 - the older name
        (socket.gaierror(-3, "Temporary failure in name resolution"), "transient"),
        (named("APIConnectionError"), "transient"),
        (named("ConnectError"), "transient"),
        (named("APITimeoutError"), "transient"),
        (named("ReadTimeout"), "transient"),
        (named("TimeoutException"), "transient"),
        (named("TransportError"), "transient"),
        (named("NetworkError"), "transient"),
        (named("RateLimitError"), "transient"),
        (named("OverloadedError"), "transient"),
        (named("ServiceUnavailableError"), "transient"),
        (named("Sub", type(named("ReadTimeout", ValueError))), "transient"),
        (named("TimeoutReached"), "unknown"),
        (PermissionError(), "permission"),
        (ValueError(), "validation"),
        (TypeError(), "validation"),
        (invalid(), "validation"),
        (Exception(), "unknown"),
        (OSError("disk full"), "unknown"),
        (KeyError("x"), "unknown"),
        (KeyboardInterrupt(), "unknown"),
        (asyncio.CancelledError(), "unknown"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_type_decides_where_nothing_else_does(error: BaseException, category: str) -> None:
    """Without a status the type tells, and for SDKs the name of it or of a base class."""
    assert category_of(error) == category


@pytest.mark.parametrize(
    ("error", "category"),
    [
        (SPENT, "unknown"),
        (StoreBusy("locked"), "unknown"),
        (RunNotFound("r"), "unknown"),
        (SpecError("x"), "validation"),
        (StateError("x"), "validation"),
        (named("UpstreamTimeout", LoomcError), "unknown"),
    ],
)
def test_errors_of_the_library_are_not_transient_by_name(error: LoomcError, category: str) -> None:
    """A mistake or a limit does not pass, whatever the class is called."""
    assert category_of(error) == category


@pytest.mark.parametrize(
    ("parts", "category"),
    [
        ([TimeoutError(), ConnectionError()], "transient"),
        ([TimeoutError(), ValueError(), PermissionError()], "validation"),
        ([PermissionError(), ValueError()], "permission"),
        ([TimeoutError(), ExceptionGroup("inner", [TimeoutError(), KeyError()])], "unknown"),
        ([TimeoutError(), ExceptionGroup("inner", [TimeoutError()])], "transient"),
    ],
)
def test_a_group_is_transient_only_as_a_whole(parts: list[Exception], category: str) -> None:
    """One part that does not pass makes the group what that part is."""
    assert category_of(ExceptionGroup("several", parts)) == category


def test_errors_that_cannot_be_looked_at_are_unknown() -> None:
    """Properties that raise hide neither the error nor its type."""
    error = Unhelpful("x")
    assert (category_of(error), retry_after_of(error), Retry().delay(error, 1)) == ("unknown", None, None)
    assert category_of(named("PoolTimeout", Unhelpful)) == "transient"


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (error_with(retry_after=3), 3.0),
        (error_with(retry_after=0), 0.0),
        (error_with(retry_after=2.5), 2.5),
        (error_with(retry_after="12"), 12.0),
        (error_with(retry_after=" 1.5 "), 1.5),
        (error_with(headers={"Retry-After": "20"}), 20.0),
        (error_with(headers={"retry-after": 20}), 20.0),
        (response(headers={"RETRY-AFTER": "20"}), 20.0),
        (response(headers={"retry-after-ms": "1500", "retry-after": "20"}), 1.5),
        (response(headers={"retry-after-ms": "soon", "retry-after": "20"}), 20.0),
        (response(headers={"Retry-After": "Thu, 01 Jan 2026 12:00:30 GMT"}), 30.0),
        (response(headers={"Retry-After": "Thu, 01 Jan 2026 12:00:30 -0000"}), 30.0),
        (response(headers={"Retry-After": "Thu, 01 Jan 2026 11:00:00 GMT"}), 0.0),
        (error_with(retry_after=9, headers={"retry-after": "1"}), 9.0),
        (error_with(retry_after=-1, headers={"retry-after": "1"}), 1.0),
        (error_with(response=SimpleNamespace(headers={"retry-after": "5"}), headers={"retry-after": "1"}), 5.0),
    ],
)
def test_an_error_says_how_long_to_wait(error: BaseException, seconds: float) -> None:
    """The error's own number comes first, then the headers of its response, in milliseconds, seconds or as a date."""
    assert retry_after_of(error, NOW) == seconds


SENSELESS: list[Any] = [
    -1,
    math.nan,
    math.inf,
    True,
    None,
    "soon",
    "",
    "-3",
    "1e3",
    "٣",
    "9" * 400,
    10**400,
    1e300,
    [],
    b"3",
]


@pytest.mark.parametrize("value", SENSELESS, ids=lambda value: repr(value)[:12])
def test_a_wait_that_makes_no_sense_is_none(value: Any) -> None:
    """Negative, endless and unreadable waits are not obeyed."""
    assert retry_after_of(error_with(retry_after=value), NOW) is None
    assert retry_after_of(response(headers={"retry-after": value, "retry-after-ms": value}), NOW) is None


@pytest.mark.parametrize("headers", [None, {}, {3: "x"}, {b"retry-after": "3"}, [("a", "3")], BrokenHeaders()])
def test_headers_of_any_shape_do_no_harm(headers: Any) -> None:
    """What is no mapping of names says nothing."""
    assert retry_after_of(response(headers=headers)) is None


@given(st.text() | st.from_regex(r"\w{3}, \d{1,9} Jan \d{1,6} \d\d:\d\d:\d\d (GMT|[+-]\d{1,9})", fullmatch=True))
def test_any_text_in_the_header_is_survived(text: str) -> None:
    """A server may write what it likes."""
    seconds = retry_after_of(response(headers={"retry-after": text}), NOW)
    assert seconds is None or 0 <= seconds <= 1e9


def test_a_date_is_measured_from_the_present_unless_told() -> None:
    """A date long past asks for no wait."""
    assert retry_after_of(response(headers={"retry-after": "Thu, 01 Jan 1998 00:00:00 GMT"})) == 0.0


def test_a_group_waits_for_the_slowest() -> None:
    """The longest wait that any part asks for holds."""
    inner = BaseExceptionGroup("inner", [Exception(), error_with(retry_after=8)])
    group = BaseExceptionGroup("several", [error_with(retry_after=2), inner])
    assert retry_after_of(group) == 8.0
    assert retry_after_of(ExceptionGroup("none", [Exception()])) is None


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 0},
        {"attempts": 1.5},
        {"attempts": True},
        {"attempts": "3"},
        {"wait": -1},
        {"wait": "soon"},
        {"wait": True},
        {"wait": math.nan},
        {"wait": None},
        {"wait": "90s"},
        {"factor": 0.5},
        {"factor": math.inf},
        {"factor": math.nan},
        {"factor": "2"},
        {"factor": 10**400},
        {"max_wait": 0},
        {"max_wait": "0s"},
        {"max_wait": math.inf},
        {"jitter": 1},
        {"on": ()},
        {"on": "TimeoutError"},
        {"on": int},
        {"on": KeyboardInterrupt},
        {"on": (TimeoutError, BaseException)},
        {"on": [TimeoutError]},
        {"on": asyncio.sleep},
    ],
)
def test_options_that_cannot_work_are_named(options: dict[str, Any]) -> None:
    """The message has the option, and the class it belongs to."""
    with pytest.raises(SpecError, match=rf"^Retry\({next(iter(options))}="):
        Retry(**options)


@pytest.mark.parametrize("wait", [0, 0.0, "0s", "0ms", "0.0s", "0m 0s", timedelta(0)])
def test_a_wait_may_be_zero(wait: Any) -> None:
    """Then there is none, however many tries have failed."""
    retry = Retry(attempts=10**6, wait=wait)
    assert {retry.delay(TimeoutError(), tried) for tried in (1, 2, 10_000)} == {0.0}


@pytest.mark.parametrize(
    ("options", "tried", "seconds"),
    [
        ({}, 1, 1.0),
        ({}, 2, 2.0),
        ({}, 3, 4.0),
        ({}, 6, 32.0),
        ({}, 7, 60.0),
        ({}, 10_000, 60.0),
        ({"factor": 1}, 10_000, 1.0),
        ({"factor": 3, "wait": "500ms"}, 3, 4.5),
        ({"factor": 10**300, "max_wait": "1h"}, 2, 3600.0),
        ({"wait": "60s"}, 1, 60.0),
        ({"wait": timedelta(seconds=2), "max_wait": timedelta(seconds=3)}, 2, 3.0),
    ],
)
def test_the_wait_grows_up_to_its_limit(options: dict[str, Any], tried: int, seconds: float) -> None:
    """Each wait is `factor` times the one before, and none is longer than `max_wait`."""
    assert Retry(attempts=10**6, jitter=False, **options).delay(TimeoutError(), tried) == seconds


@given(
    tried=st.integers(1, 10_000),
    wait=st.floats(1e-6, 1e3),
    factor=st.floats(1, 1e6),
    max_wait=st.floats(1e3, 1e6),
    asked=st.none() | st.floats(0, 1e7),
)
def test_a_delay_keeps_its_bounds(tried: int, wait: float, factor: float, max_wait: float, asked: float | None) -> None:
    """Between half the wait and all of it, and never shorter than the error asks for."""
    options: dict[str, Any] = {"attempts": 10**6, "wait": wait, "factor": factor, "max_wait": max_wait}
    error = error_with(TimeoutError(), retry_after=asked)
    full, some = (Retry(**options, jitter=jitter).delay(error, tried) for jitter in (False, True))
    assert full is not None
    assert some is not None
    least = asked or 0.0
    plain = Retry(**options, jitter=False).delay(TimeoutError(), tried)
    assert plain is not None
    assert min(wait, max_wait) <= plain <= max_wait
    assert full == max(plain, least)
    assert max(plain / 2, least) <= some <= full


def test_jitter_spreads_the_waits() -> None:
    """Many who fail together do not come back together."""
    delays = {Retry().delay(TimeoutError(), 1) for _ in range(50)}
    assert len(delays) > 25


def test_a_rate_limit_is_obeyed_beyond_the_longest_wait() -> None:
    """What the server asks for holds, also when `max_wait` is shorter, and jitter takes nothing off it."""
    error = error_with(status_code=429, retry_after=300)
    assert {Retry(jitter=jitter).delay(error, 1) for jitter in (True, False)} == {300.0}


def test_a_date_in_the_answer_is_measured_from_the_given_time() -> None:
    """Whoever has a clock of their own may hand its time in."""
    error = error_with(TimeoutError(), headers={"retry-after": "Thu, 01 Jan 2026 12:02:00 GMT"})
    assert Retry().delay(error, 1, NOW) == 120.0


@pytest.mark.parametrize(("attempts", "tried", "again"), [(1, 1, False), (3, 2, True), (3, 3, False), (3, 9, False)])
def test_there_are_so_many_tries_in_all(attempts: int, tried: int, again: bool) -> None:
    """The first try counts."""
    assert (Retry(attempts=attempts).delay(TimeoutError(), tried) is not None) is again


@pytest.mark.parametrize(
    ("on", "error", "again"),
    [
        (None, TimeoutError(), True),
        (None, ValueError(), False),
        (None, Exception(), False),
        (None, ExceptionGroup("several", [TimeoutError(), ConnectionError()]), True),
        (None, ExceptionGroup("several", [TimeoutError(), ValueError()]), False),
        (ValueError, ValueError(), True),
        (ValueError, UnicodeError(), True),
        (ValueError, TimeoutError(), False),
        ((KeyError, ValueError), KeyError(), True),
        ((KeyError, ValueError), TimeoutError(), False),
        (ValueError, ExceptionGroup("several", [ValueError(), UnicodeError()]), True),
        (ValueError, ExceptionGroup("several", [ValueError(), KeyError()]), False),
        (ExceptionGroup, ExceptionGroup("several", [ValueError(), KeyError()]), True),
        (lambda error: "busy" in str(error), Exception("too busy"), True),
        (lambda error: "busy" in str(error), TimeoutError("slow"), False),
        (None, KeyboardInterrupt(), False),
        (None, error_with(KeyboardInterrupt(), category="transient"), False),
        (lambda _: True, KeyboardInterrupt(), False),
        (lambda _: True, asyncio.CancelledError(), False),
        (lambda _: True, BaseExceptionGroup("several", [KeyboardInterrupt(), TimeoutError()]), False),
        (None, SPENT, False),
        (None, error_with(BudgetExhausted("usd", 2, 1), category="transient"), False),
        (Exception, SPENT, False),
        (LoomcError, SPENT, False),
        (lambda _: True, SPENT, False),
        (Exception, ExceptionGroup("several", [TimeoutError(), SPENT]), False),
        (BudgetExhausted, SPENT, True),
        ((ValueError, BudgetExhausted), SPENT, True),
        ((Exception, BudgetExhausted), ExceptionGroup("several", [TimeoutError(), SPENT]), True),
    ],
)
def test_only_what_is_chosen_is_tried_again(on: Any, error: BaseException, again: bool) -> None:
    """Transient errors, or what `on` says; never what ends a program, and a used-up budget only when it is named."""
    assert (Retry(on=on).delay(error, 1) is not None) is again


def test_a_choice_that_fails_shows_the_first_error() -> None:
    """The error of the function in `on` comes out, with the one it was asked about as its context."""
    first = TimeoutError("first")

    def choose(error: Exception) -> bool:
        raise KeyError(str(error))

    with pytest.raises(KeyError, match="first") as caught:
        Retry(on=choose).delay(first, 1)
    assert caught.value.__context__ is first


def test_a_choice_may_raise_the_error_again() -> None:
    """Then it is its own only error."""
    first = TimeoutError("first")

    def choose(error: Exception) -> bool:
        raise error

    with pytest.raises(TimeoutError) as caught:
        Retry(on=choose).delay(first, 1)
    assert (caught.value, first.__context__) == (first, None)


def test_the_module_loads_nothing_heavy() -> None:
    """A program that declares a retry does not wait for what only some errors need."""
    code = "import loomc_runner.retry, loomc_runner.breaker, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & {"asyncio", "pydantic", "sqlite3", "socket", "email.utils"} == set()
