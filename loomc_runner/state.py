"""The codec of a loop's state: typed Python values to JSON text and back, refusing what would not come back."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from loomc_runner.errors import StateError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

S = TypeVar("S")

UNNAMED = "<locals>"


class Codec(Generic[S]):
    """Turns states of one declared type into JSON text and back.

    Pydantic does the work, with the type the function declares; field names are used, never aliases.
    """

    def __init__(self, annotation: Any) -> None:
        self.annotation = annotation

    @cached_property
    def adapter(self) -> TypeAdapter[S]:
        """Pydantic's adapter for the declared type, built at the first use."""
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

        try:
            return TypeAdapter(self.annotation)
        except (PydanticSchemaGenerationError, PydanticUserError) as error:
            reason = str(error).splitlines()[0]
            raise StateError(f"a state of type {self.annotation!r} cannot be stored: {reason}") from error

    @cached_property
    def open(self) -> bool:
        """Whether the type leaves parts undeclared (`dict`, `Any`): those must be compared to be trusted."""
        return _has_open_part(self.adapter.core_schema)

    def encode(self, state: S) -> str:
        """The state as JSON text.

        Raises:
            StateError: When part of it is not of the declared type, not JSON, or not a finite number.
        """
        try:
            text = self.adapter.dump_json(state, warnings="error", round_trip=True, by_alias=False).decode()
        except (ValueError, TypeError, RecursionError) as error:  # pydantic's serialization errors are ValueErrors
            raise self._refusal(state, error) from error
        if "null" in text or "NaN" in text or "Infinity" in text:  # all that NaN can have become
            _refuse_non_finite(state)
        if self.open and self.decode(text) != state:
            self.compare(state, text)
        return text

    def decode(self, text: str) -> S:
        """The state that the text stands for.

        Raises:
            StateError: When the text does not fit the declared type (any more), naming the field.
        """
        from pydantic import ValidationError

        try:
            return self.adapter.validate_json(text, by_name=True, by_alias=False)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = _path(first["loc"])
            raise StateError(f"the stored state does not fit {self._name}: {where}: {first['msg']}") from error

    def encode_checked(self, state: S) -> str:
        """The state as JSON text, after reading it back and comparing every part."""
        text = self.encode(state)
        self.compare(state, text)
        return text

    def compare(self, state: S, text: str) -> None:
        """Raise `StateError` with the path of the first part that the text does not bring back as it was."""
        try:
            back = self.decode(text)
        except StateError as error:
            raise StateError(f"this state would not come back from storage: {error}") from error
        for path, mine, theirs in _differences(state, back, "state"):
            raise StateError(
                f"{path} would not come back as it was: {_short(mine)} is read back as {_short(theirs)}; "
                f"declare its type in {self._name}, or keep it out of the state"
            )

    @property
    def _name(self) -> str:
        return getattr(self.annotation, "__name__", None) or str(self.annotation)

    def _refusal(self, state: S, error: Exception) -> StateError:
        if inspect.isclass(self.annotation) and not isinstance(state, self.annotation):
            return StateError(f"the state must be a {self._name}, not {_short(state)}")
        for path, leaf in _leaves(state, "state", set()):
            if not _is_json(leaf):
                return StateError(f"{path} is not JSON: {_short(leaf)}")
        lines = str(error).splitlines()
        return StateError(f"the state cannot be stored as {self._name}: {lines[-1].strip()}")


def annotation_of(fn: Callable[..., Any], position: int, names: Mapping[str, Any]) -> tuple[Any, Any]:
    """The declared types of the state and of a `Done` result; None for what is not declared.

    The state's type is that of the parameter at `position`, else that of the return value. `names` are
    those visible where the function was defined.
    """
    parameters = list(inspect.signature(fn).parameters)
    try:
        hints = get_type_hints(fn, localns=dict(names), include_extras=True)
    except NameError:  # a class that is defined further down: looked up again at the first use
        return None, None
    state, result = _split_done(hints.get("return"))
    return hints.get(parameters[position], state), result


def state_codec(annotation: Any, state: Any) -> Codec[Any]:
    """The codec for a first state: by the declared type, else by the type of the state itself."""
    return Codec(_runtime_type(state) if annotation is None else annotation)


def type_name(state: Any) -> str:
    """Where the type of a state can be found again, as `module:qualname`."""
    cls = _runtime_type(state)
    return "" if get_origin(cls) or cls is Any else f"{cls.__module__}:{cls.__qualname__}"


def type_named(name: str | None) -> Any:
    """The type a stored run names; plain JSON when it names none.

    Raises:
        StateError: When it cannot be imported.
    """
    if not name:
        return Any
    module, _, qualname = name.partition(":")
    try:
        found: Any = import_module(module)
        for part in qualname.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as error:
        raise StateError(
            f"the state of this run is a {name}, which cannot be imported; annotate the loop's parameter with its type"
        ) from error
    return found


def _runtime_type(state: Any) -> Any:
    return type(state) if hasattr(type(state), "__pydantic_core_schema__") or dataclasses.is_dataclass(state) else Any


def _split_done(annotation: Any) -> tuple[Any, Any]:
    """State and result type of a return annotation such as `Draft | Done[Draft, Report]`."""
    state = result = None
    members = [annotation] if annotation is None or get_origin(annotation) is None else _members(annotation)
    for member in members:
        if getattr(get_origin(member) or member, "__name__", "") == "Done":
            inner = get_args(member)
            state, result = state or (inner[0] if inner else None), inner[1] if len(inner) > 1 else None
        elif member is not None:
            state = member
    return state, result


def _members(annotation: Any) -> tuple[Any, ...]:
    import types
    import typing

    return get_args(annotation) if get_origin(annotation) in {typing.Union, types.UnionType} else (annotation,)


OPEN_UNLESS = {"dict": "values_schema", "list": "items_schema", "set": "items_schema", "tuple": "items_schema"}


def _has_open_part(schema: Any) -> bool:
    if isinstance(schema, Mapping):
        kind = schema.get("type")
        if kind == "any" or (isinstance(kind, str) and OPEN_UNLESS.get(kind, kind) not in {*schema, kind}):
            return True
        return any(_has_open_part(value) for key, value in schema.items() if key not in {"metadata", "serialization"})
    return isinstance(schema, list | tuple) and any(_has_open_part(item) for item in schema)


def _parts(value: Any) -> list[tuple[str, Any]] | None:
    """The named parts of a container, or None for a leaf."""
    if hasattr(value, "__pydantic_fields__"):
        hidden = (getattr(value, "__pydantic_private__", None) or {}) | (
            getattr(value, "__pydantic_extra__", None) or {}
        )
        return [(f".{name}", part) for name, part in {**value.__dict__, **hidden}.items()]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{item.name}", getattr(value, item.name)) for item in dataclasses.fields(value)]
    if isinstance(value, dict):
        return [(f"[{key!r}]" if not isinstance(key, str) else f".{key}", part) for key, part in value.items()]
    if isinstance(value, list | tuple):
        return [(f"[{index}]", part) for index, part in enumerate(value)]
    return None


def _leaves(value: Any, path: str, above: set[int]) -> Iterator[tuple[str, Any]]:
    parts = _parts(value)
    if parts is None:
        yield path, value
        return
    if id(value) in above:
        yield path, _Cycle()
        return
    for name, part in parts:
        yield from _leaves(part, path + name, above | {id(value)})


class _Cycle:
    """Stands for a container that contains itself."""

    def __repr__(self) -> str:
        return "a container that contains itself"


def _is_json(leaf: Any) -> bool:
    from pydantic_core import PydanticSerializationError, to_json

    try:
        to_json(leaf)
    except PydanticSerializationError:
        return False
    return True


def _refuse_non_finite(state: Any) -> None:
    for path, leaf in _leaves(state, "state", set()):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            raise StateError(f"{path} is {leaf}; a state holds finite numbers only")


def _differences(mine: Any, theirs: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """The parts in which two values differ, each with its path; ints and floats compare by value."""
    ours, others = _parts(mine), _parts(theirs)
    if isinstance(mine, int | float) and isinstance(theirs, int | float):
        same = mine == theirs and isinstance(mine, bool) == isinstance(theirs, bool)
    else:
        same = type(mine) is type(theirs) and (ours is not None or bool(mine == theirs))
    if not same:
        yield path, mine, theirs
    elif ours is not None and others is not None:
        right = dict(others)
        for name, part in ours:
            if name not in right:
                yield path + name, part, None
            else:
                yield from _differences(part, right.pop(name), path + name)
        for name, part in right.items():
            yield path + name, None, part


def _path(location: tuple[int | str, ...]) -> str:
    return "state" + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)


def _short(value: Any) -> str:
    text = repr(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
