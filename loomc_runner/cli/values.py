"""What is typed, as the values that commands take: typer makes them with pydantic, which takes long to import."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from functools import partial
from typing import Any

from typer.core import TyperCommand, TyperGroup


class PlainCommand(TyperCommand):
    """A command that takes plain values as they are; typer still converts the rest, and refuses what is wrong."""

    def get_params(self, ctx: Any) -> Any:
        """What it takes."""
        return [_plain(param) for param in super().get_params(ctx)]


class PlainGroup(TyperGroup):
    """The same for the command that has the others."""

    def get_params(self, ctx: Any) -> Any:
        """What it takes."""
        return [_plain(param) for param in super().get_params(ctx)]


def _plain(param: Any) -> Any:
    if hasattr(param, "type_descriptor") and "process_value" not in vars(param):  # before typer 0.29 it was quick
        param.process_value = partial(_process, param, param.process_value)
    return param


def _process(param: Any, by_typer: Callable[[Any, Any], Any], context: Any, value: Any) -> Any:
    plain = value if value is param.default and not param.required else _converted(param, value)
    if plain is None and (value is not None or param.required):
        return by_typer(context, value)
    return plain if param.callback is None else param.callback(context, param, plain)


def _converted(param: Any, value: Any) -> str | int | StrEnum | None:
    """A value that is beyond doubt; else None."""
    kind = param.type_descriptor.annotation
    if not isinstance(value, str) or not isinstance(kind, type):
        return None
    if kind is str and value.isprintable():  # what is not may be no text at all
        return value
    if kind is int and len(value) < 16 and value.isascii() and value.isdecimal():
        number = int(value)
        return number if (param.min or 0) <= number and (param.max is None or number <= param.max) else None
    if issubclass(kind, StrEnum) and value in list(kind):
        return kind(value)
    return None
