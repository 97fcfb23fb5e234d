"""What is typed, as the values that commands take: typer converts it with pydantic, which takes long to import."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any, TypeVar

Command = TypeVar("Command")


def convert_plainly(command: Command) -> Command:
    """Let a command convert by itself what is plain; typer still converts the rest, and refuses what is wrong."""
    params: list[Any] = command.params  # type: ignore[attr-defined]
    for param in params:
        param.process_value = partial(_process, param, param.process_value)
    return command


def _process(param: Any, by_typer: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    kind = getattr(getattr(param, "type_descriptor", None), "annotation", None)  # releases before 0.29 have none
    if param.callback is None and not param.required and value is param.default:
        return value
    if param.callback is None and isinstance(value, str):
        if kind is str and value.isprintable():  # what is not may be no text at all
            return value
        if kind is int and len(value) < 16 and value.isascii() and value.isdecimal() and _lies_within(int(value), param):
            return int(value)
        if isinstance(kind, type) and issubclass(kind, StrEnum) and value in list(kind):
            return kind(value)
    return by_typer(context, value)


def _lies_within(number: int, param: Any) -> bool:
    return (param.min is None or param.min <= number) and (param.max is None or number <= param.max)
