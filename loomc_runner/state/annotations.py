"""The declared types of a loop's state, and where they are found again."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from loomc_runner.errors import StateError


def annotation_of(fn: Callable[..., Any], position: int, names: Mapping[str, Any]) -> tuple[Any, Any]:
    """The declared types of the state and of a `Done` result; None for what is not declared.

    The state's type is that of the parameter at `position`, else that of the return value. `names` are
    those visible where the function was defined. Raises `NameError` while a class is not defined yet.
    """
    parameters = list(inspect.signature(fn).parameters)
    hints = get_type_hints(fn, localns=dict(names), include_extras=True)
    state, result = _split_done(hints.get("return"))
    return hints.get(parameters[position], state), result


def type_name(state: Any) -> str:
    """Where the type of a state can be found again, as `module:qualname`; empty for plain JSON."""
    cls = runtime_type(state)
    return "" if cls is Any else f"{cls.__module__}:{cls.__qualname__}"


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


def runtime_type(state: Any) -> Any:
    """The type that a state has where none is declared: its class if that has fields, else plain JSON."""
    return type(state) if hasattr(type(state), "__pydantic_core_schema__") or dataclasses.is_dataclass(state) else Any


def _split_done(annotation: Any) -> tuple[Any, Any]:
    """State and result type of a return annotation such as `Draft | Done[Draft, Report]`."""
    members = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    ends = [member for member in members if getattr(get_origin(member) or member, "__name__", "") == "Done"]
    states = tuple(member for member in members if member not in ends)
    declared = next((args for args in map(get_args, ends) if args), (None, None))
    return declared[0] if set(states) <= {None, NoneType} else Union[states], declared[1]  # noqa: UP007
