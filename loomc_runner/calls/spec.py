"""What a durable call is declared to be, and what it is known by."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, get_type_hints

from loomc_runner.clock import parse_duration
from loomc_runner.errors import SpecError
from loomc_runner.retry import Retry
from loomc_runner.spec import is_coroutine_function, recorded_name
from loomc_runner.state import Codec


@dataclass(frozen=True)
class ToolSpec:
    """A function whose calls are durable, and how: every option of `@tool`, checked once.

    `fn` is what is called, `declared` the function itself, without a breaker around it.
    """

    fn: Callable[..., Any]
    declared: Callable[..., Any]
    name: str
    retry: Retry | None = None
    timeout: float | None = None
    once: bool = False
    key: Callable[..., str] | None = None
    is_method: bool = False
    is_async: bool = False
    names: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @functools.cached_property
    def signature(self) -> inspect.Signature | None:
        """What the function takes; some in C do not tell."""
        try:
            return inspect.signature(self.declared)
        except (TypeError, ValueError):
            return None

    @functools.cached_property
    def _plain_names(self) -> tuple[str, ...]:
        """The parameters, where all of them may be given by their place."""
        parameters = self.signature.parameters.values() if self.signature else ()
        by_place = all(each.kind is each.POSITIONAL_OR_KEYWORD for each in parameters)
        return tuple(each.name for each in parameters) if by_place else ()

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """The arguments by name, with the defaults of those that are left out."""
        if not kwargs and args and len(args) == len(self._plain_names):  # the same, in a tenth of the time
            return dict(zip(self._plain_names, args, strict=True))
        bound = self.signature.bind(*args, **kwargs) if self.signature else inspect.Signature().bind()
        bound.apply_defaults()
        return dict(bound.arguments)

    @functools.cached_property
    def codec(self) -> Codec[Any]:
        """How its results are written and read: by the type it declares to return, else as plain JSON."""
        function = inspect.unwrap(self.declared)
        if not inspect.isroutine(function):
            function = type(function).__call__
        try:
            declared = getattr(function, "__annotations__", {})
            alone = SimpleNamespace(__annotations__={"return": declared.get("return", Any)})  # the others do not matter
            hints = get_type_hints(alone, getattr(function, "__globals__", {}), dict(self.names), include_extras=True)
        except (NameError, TypeError, AttributeError, SyntaxError):  # a class that is not to be found; a comment
            hints = {}
        return Codec(hints.get("return", Any))

    def as_json(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The arguments as JSON, the same for the same call in every process; `self` is not one of them.

        Raises:
            SpecError: When they are not JSON.
        """
        arguments: Any = [args[self.is_method :], kwargs]
        if self.signature is not None:
            arguments = dict(list(self._bound(args, kwargs).items())[self.is_method :])
        try:
            return ENCODER.encode(arguments)
        except Exception as error:
            raise SpecError(
                f"the arguments of {self.name} are not JSON ({error}); say what the call is known by: "
                f'call({self.name.rpartition(".")[2]}, ..., key="...") or @tool(key=...)'
            ) from error


def make_tool_spec(
    fn: Any,
    *,
    name: str | None = None,
    retry: Retry | None = None,
    timeout: str | float | timedelta | None = None,
    once: bool = False,
    key: Callable[..., str] | None = None,
) -> ToolSpec:
    """The checked options of a function whose calls are durable.

    Raises:
        SpecError: For the first that cannot work, naming its value.
    """
    if not callable(fn) or isinstance(fn, type | staticmethod):
        hint = "; put @tool below @staticmethod or @classmethod" if isinstance(fn, staticmethod | classmethod) else ""
        raise SpecError(f"a durable call is one of a function, not of {fn!r}{hint}")
    if isinstance(fn, functools.partial):  # what it holds would be no part of what its calls are known by
        raise SpecError(f"@tool on {fn!r}: give the function itself; call(...) takes a partial")
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    where = f"@tool on {named.__qualname__}"
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise SpecError(f"{where}: it yields, and a durable call has one result; return a list of what it yields")
    if retry is not None and not isinstance(retry, Retry):
        raise SpecError(f"{where}: retry={retry!r}: give Retry(...)")
    if retry is not None and once:
        raise SpecError(f"{where}: once=True forbids what retry={retry!r} would do")
    if not isinstance(once, bool):
        raise SpecError(f"{where}: once={once!r}: give True or False")
    if key is not None and not callable(key):
        raise SpecError(f"{where}: key={key!r}: give a function of the arguments; call(fn, ..., key=...) takes a text")
    if name is not None and not (isinstance(name, str) and name.strip() and name.isprintable()):
        raise SpecError(f"{where}: name={name!r}: give a name of printable characters")
    spec = ToolSpec(
        fn=fn,
        declared=fn,
        name=name or recorded_name(fn),
        retry=retry,
        timeout=None if timeout is None else parse_duration(timeout),
        once=once,
        key=key,
        is_async=is_coroutine_function(fn),
    )
    first = next(iter(spec.signature.parameters), None) if spec.signature else None
    return dataclasses.replace(spec, is_method=first in {"self", "cls"} and _is_in_class(fn))


def _is_in_class(fn: Any) -> bool:
    parent = getattr(fn, "__qualname__", "").rpartition(".")[0]
    return bool(parent) and not parent.endswith("<locals>")


def _plain(value: Any) -> Any:
    """A value that is not JSON by itself as one that is, the same in every process."""
    from pydantic import BaseModel
    from pydantic_core import to_jsonable_python

    if isinstance(value, Iterator):  # to look into it would use it up
        raise TypeError(f"a {type(value).__name__} can be read only once; give a list")
    if isinstance(value, BaseModel):
        return {"": type(value).__qualname__, **dict(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return {"": type(value).__qualname__, **named}
    if hasattr(value, "get_secret_value"):  # else all secrets would be the same
        return hashlib.sha256(str(value.get_secret_value()).encode()).hexdigest()
    if isinstance(value, set | frozenset):  # their order differs from process to process
        return sorted(json.dumps(item, sort_keys=True, default=_plain) for item in value)
    return to_jsonable_python(value, bytes_mode="base64")


ENCODER = json.JSONEncoder(sort_keys=True, default=_plain)
"""Made once: `json.dumps` with these options makes another one each time."""
