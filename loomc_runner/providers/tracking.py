"""`track`: the user's own client, whose calls inside a step are held to the budget and charged."""

from __future__ import annotations

import functools
import inspect
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, TypeVar
from urllib.parse import urlsplit

from loomc_runner import deadline
from loomc_runner.context import Scope, current_scope
from loomc_runner.errors import LoomcWarning, SpecError
from loomc_runner.providers.estimate import LIMITS, limit_field
from loomc_runner.providers.meter import Metered, Terms, was_never_sent
from loomc_runner.providers.prices import Price, PriceList
from loomc_runner.providers.stream import watch
from loomc_runner.works import under_way

C = TypeVar("C")

VENDORS = ("anthropic", "openai")

KINDS = {
    "anthropic": {"/messages": "messages"},
    "openai": {"/chat/completions": "chat", "/responses": "responses", "/embeddings": "embeddings"},
}
"""What is asked for, by the end of the address it is asked at."""

FREE = re.compile(
    r"/(?:conversations|files|file_batches|moderations|organization|organizations|skills|uploads)(?:/|$)"
    r"|/(?:assistants|vector_stores)(?:/[^/]+)?$"
    r"|/(?:cancel|count_tokens|input_tokens)$"
    r"|/threads(?:/(?!runs$)[^/]+(?:/messages(?:/[^/]+)?)?)?$"
    r"|/chat/completions/[^/]+$"
)
"""What is not paid for when it is asked for, by its address; all else that cannot be charged here is warned of."""

STANDS_ON = ("_prepare_options", "_prepare_request", "_sleep_for_retry")
"""Where the SDKs let their own kinds of clients look on: before a try, as it is sent, and between two of them."""

_under_way: ContextVar[_Asked | None] = ContextVar("loomc_runner_request", default=None)


def track(
    client: C,
    *,
    prices: Mapping[str, Price] | None = None,
    unknown_price: Price | None = None,
    max_tokens: int | None = None,
    stream_usage: bool = True,
) -> C:
    """Let the calls of a vendor's client charge the step they are made in, and refuse those that do not fit the budget.

    It gives back the same client, of `anthropic` (Messages) or `openai` (Chat Completions, Responses, embeddings; also
    with the address of a compatible server), sync or async. Before a request is sent, what it may cost at most is held:
    its input, estimated upwards, and all the output it allows. What it has cost by the usage it reports is charged when
    it is answered, or when its stream has ended. Outside of a step its calls are as they were.

    Args:
        client: The client. Copies that are made of it (`with_options`) are tracked with it.
        prices: Dollars for a million tokens by model name, for models whose price differs from the list of
            `genai-prices`, or is not in it.
        unknown_price: What models cost that no price is known for. Without it such a model is an error.
        max_tokens: The output that is asked for where a request sets no limit itself. Under a dollar cap a request
            needs one, since what it may cost is not known else.
        stream_usage: Ask streamed chats for their usage, which OpenAI does not tell otherwise. False for a compatible
            server that refuses `stream_options`: its streams are charged as they report by themselves, or estimated.

    Raises:
        SpecError: When it is no client of theirs, or an option cannot work.

    Inside a step the client's calls raise `BudgetExhausted`, unsent, when they do not fit, here or in an enclosing run;
    and `CostError`, unsent, when what they may cost cannot be known.
    """
    vendor = vendor_of(client)
    if vendor is None:
        raise SpecError(
            f"track({client!r}): give a client of anthropic or openai; "
            "for others, charge what their answers cost: spend(usd=cost_of(response))"
        )
    if max_tokens is not None and (not isinstance(max_tokens, int) or isinstance(max_tokens, bool) or max_tokens < 1):
        raise SpecError(f"track(max_tokens={max_tokens!r}): give a whole number, at least 1")
    base_url = str(getattr(client, "base_url", "")) or None
    if missing := [name for name in STANDS_ON if not callable(getattr(client, name, None))]:
        raise SpecError(
            f"track({client!r}): this version of {vendor} has no {missing[0]}, which track stands on; "
            f"upgrade it: pip install -U {vendor}"
        )
    terms = Terms(PriceList(prices or {}, unknown_price, vendor, base_url), max_tokens, stream_usage)
    _install(client, vendor, terms)
    return client


def is_tracked(client: Any) -> bool:
    """Whether the calls of a client charge the steps they are made in."""
    return hasattr(getattr(client, "request", None), "loomc_terms")


def vendor_of(client: Any) -> str | None:
    """Whose SDK a client is of: `anthropic` or `openai`; None when it is no client of theirs."""
    if isinstance(client, type) or not all(callable(getattr(client, name, None)) for name in ("request", "copy")):
        return None
    modules = [kind.__module__.partition(".")[0] for kind in type(client).__mro__]
    return next((vendor for vendor in VENDORS if vendor in modules), None)


def is_official(client: Any) -> bool:
    """Whether a client asks OpenAI itself, or Azure, and not a server that is compatible with it."""
    host = urlsplit(str(getattr(client, "base_url", ""))).hostname or ""
    return host.endswith((".openai.com", ".azure.com", ".azure.us", ".azure.cn"))


def _install(client: Any, vendor: str, terms: Terms) -> None:
    """Put functions of ours before those that every request of the client passes."""
    is_async = inspect.iscoroutinefunction(type(client).request)
    request = _async_request if is_async else _request
    _wrap(client, "request", functools.partial(request, client, vendor, terms), terms)
    _wrap(client, "_prepare_options", _prepare, terms)
    _wrap(client, "_prepare_request", _send_async if is_async else _send, terms)
    _wrap(client, "_sleep_for_retry", _sleep_async if is_async else _sleep, terms)
    for name in ("copy", "with_options"):
        _wrap(client, name, functools.partial(_copy, vendor, terms), terms)


def _wrap(client: Any, name: str, wrapper: Callable[..., Any], terms: Terms) -> None:
    """Let a method of one client go through the wrapper, which gets the method first; a later `track` replaces it."""
    present = getattr(client, name)
    original = getattr(present, "loomc_original", present)
    wrapped: Any = functools.partial(wrapper, original)
    wrapped.loomc_original, wrapped.loomc_terms = original, terms
    setattr(client, name, wrapped)


def _copy(vendor: str, terms: Terms, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    copied = original(*args, **kwargs)
    base_url = str(getattr(copied, "base_url", "")) or None
    prices = replace(terms.prices, base_url=base_url)
    _install(copied, vendor, replace(terms, prices=prices))
    return copied


def _request(client: Any, vendor: str, terms: Terms, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    asked = _Asked.of(client, vendor, terms, args, kwargs)
    with _metered(asked):
        result = _as_user_code(original, *args, **kwargs)
        return result if asked is None else asked.read(result)


def _as_user_code(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Let the time limit of a step interrupt what the client does, as if nobody stood between it and the user."""
    return deadline.call(functools.partial(fn, *args, **kwargs), deadline=None)


async def _async_request(
    client: Any, vendor: str, terms: Terms, original: Callable[..., Any], *args: Any, **kwargs: Any
) -> Any:
    asked = _Asked.of(client, vendor, terms, args, kwargs)
    with _metered(asked):
        result = await original(*args, **kwargs)
        return result if asked is None else asked.read(result)


@contextmanager
def _metered(asked: _Asked | None) -> Iterator[None]:
    """Let the client's tries be held and counted, and charge the request when it fails; if it is one to be charged."""
    with nullcontext() if asked is None else under_way(asked.scope):
        token = _under_way.set(asked)
        try:
            yield
        except BaseException as error:
            if asked is not None:
                asked.call.failed(error)
            raise
        finally:
            _under_way.reset(token)


def _prepare(original: Callable[..., Any], options: Any) -> Any:
    """The client has made plain data of a request, for one try to send it; sync and async."""
    if (asked := _under_way.get()) is not None:
        asked.prepare(options)
    return _as_user_code(original, options)


def _send(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = _as_user_code(original, *args, **kwargs)
    if (asked := _under_way.get()) is not None:
        asked.call.record()
        asked.call.sent += 1
    return result


async def _send_async(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    result = await original(*args, **kwargs)
    if (asked := _under_way.get()) is not None:
        await asked.call.record_async()
        asked.call.sent += 1
    return result


def _sleep(original: Callable[..., Any], **kwargs: Any) -> Any:
    with _between_tries(kwargs):
        return _as_user_code(original, **kwargs)


async def _sleep_async(original: Callable[..., Any], **kwargs: Any) -> Any:
    with _between_tries(kwargs):
        return await original(**kwargs)


@contextmanager
def _between_tries(kwargs: Mapping[str, Any]) -> Iterator[None]:
    """The client waits before it sends a request again: no working time, and what got no answer is charged.

    Raises:
        BudgetExhausted: When another try does not fit; it is not made.
    """
    asked, error = _under_way.get(), sys.exc_info()[1]
    if asked is None:
        yield
        return
    if kwargs.get("response") is not None or (error is not None and was_never_sent(error)):
        asked.call.refused()
    else:
        asked.call.lost()
    account = asked.call.scope.account
    account.rest(1)
    try:
        yield
    finally:
        account.rest(-1)


class _Asked:
    """A request that is asked for inside a step."""

    def __init__(self, scope: Scope, terms: Terms, kind: str, *, is_stream: bool, is_official: bool) -> None:
        self.scope, self.terms, self.kind = scope, terms, kind
        self.is_stream, self.is_official, self.hides_usage = is_stream, is_official, False
        self.call = Metered(scope, terms, kind)

    @classmethod
    def of(cls, client: Any, vendor: str, terms: Terms, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Asked | None:
        """The request, if it is one that is paid for in a step; one that is and cannot be charged is warned of."""
        options = kwargs["options"] if "options" in kwargs else args[1]
        scope = current_scope()
        if scope is None or options.method.lower() != "post":
            return None
        path = urlsplit(str(options.url)).path.rstrip("/")
        kind = next((kind for end, kind in KINDS[vendor].items() if path.endswith(end)), None)
        if kind is None or not isinstance(options.json_data, Mapping):
            if (kind or not FREE.search(path)) and scope.account.ledger.dollar_capped:
                message = f"track cannot charge POST {path}: record what it costs with spend(usd=...)"
                warnings.warn(message, LoomcWarning, stacklevel=2)
            return None
        asked = cls(scope, terms, kind, is_stream=bool(kwargs.get("stream")), is_official=is_official(client))
        if callable(parse := options.post_parser) and not asked.is_stream:
            options.post_parser = functools.partial(asked.parsed, parse)
        return asked

    def prepare(self, options: Any) -> None:
        """Add to one try what is needed to charge it, and hold what it may cost."""
        body = {**(options.json_data or {}), **(options.extra_json or {})}
        added: dict[str, Any] = {}
        if self.terms.max_tokens is not None and all(body.get(name) is None for name in LIMITS[self.kind]):
            limited = limit_field(self.kind, is_official=self.is_official)
            added |= {} if limited is None else {limited: self.terms.max_tokens}
        if self.kind == "chat" and self.is_stream and self.terms.stream_usage:
            wanted = body.get("stream_options") or {}
            self.hides_usage = not wanted.get("include_usage")
            added["stream_options"] = {**wanted, "include_usage": True}
        place = "extra_json" if options.extra_json else "json_data"  # the former comes last
        setattr(options, place, {**(getattr(options, place) or {}), **added})
        self.call.prepare({**body, **added})

    def parsed(self, parse: Callable[[Any], Any], response: Any) -> Any:
        """Charge an answer before it is made into what the user wants, which may fail."""
        self.call.answered(response)
        return parse(response)

    def read(self, result: Any) -> Any:
        """Charge an answer, at once or while it is read."""
        places = (getattr(result, "http_response", None), getattr(result, "response", None), result)
        http: Any = next((place for place in places if hasattr(place, "iter_bytes")), None)
        if http is None:
            self.call.answered(result)
        elif self.is_stream or not http.is_closed:
            watch(http, self.call, hides_usage=self.hides_usage)
        else:
            try:
                answer = http.json()
            except ValueError:
                answer = http.text
            self.call.answered(answer)
        return result
