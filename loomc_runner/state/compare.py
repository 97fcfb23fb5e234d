"""Whether a state that was read back is the one that was written, and what no text can carry."""

from __future__ import annotations

import dataclasses
import marshal
import math
from collections.abc import Mapping
from types import NoneType
from typing import Any

NOTHING = object()
"""Stands for a part that is not there at all."""

PLAIN_MARSHAL = 2
"""The newest format of marshal in which equal values give equal bytes; it takes no subclasses of the plain types."""

SCALARS = {bool, int, str, NoneType}


def difference(mine: Any, theirs: Any, *, at_once: bool) -> tuple[str, Any, Any] | None:
    """The first part in which two values differ, with its path; ints and floats compare by value.

    Plain containers are compared `at_once` where what was read back is known to hold finite numbers and no bytes.
    """
    if (kind := type(mine)) is not type(theirs):
        return None if {kind, type(theirs)} == {int, float} and mine == theirs else ("", mine, theirs)
    if kind in SCALARS or (parts := _parts(mine)) is None:
        return None if _is_same(mine, theirs) else ("", mine, theirs)
    if at_once and are_equal_json(mine, theirs):
        return None
    others = _parts(theirs) or {}
    for name, part in parts.items():
        other = others.get(name, NOTHING)
        if type(part) in SCALARS and type(other) is type(part) and part == other:
            continue  # as most are
        if found := difference(part, other, at_once=at_once):
            return _step(mine, name) + found[0], found[1], found[2]
    for name in others.keys() - parts.keys():
        return _step(mine, name), NOTHING, others[name]
    return None


def are_equal_json(mine: Any, theirs: Any) -> bool:
    """Whether two containers hold the same plain values, of the same types: asked at once for all that is in them."""
    if type(mine) not in {dict, list}:
        return False
    try:
        return marshal.dumps(mine, PLAIN_MARSHAL) == marshal.dumps(theirs, PLAIN_MARSHAL)
    except ValueError:  # something in it is no plain value, or it contains itself
        return False


def _is_same(mine: Any, theirs: Any) -> bool:
    if type(mine) in SCALARS:
        return bool(mine == theirs)
    if type(mine) is float:
        return bool(mine == theirs) and math.isfinite(mine)
    try:
        return bool(mine == theirs) and _is_finite(mine)
    except Exception:  # noqa: BLE001 - an array, a signalling NaN: what cannot be compared is not the same
        return False


def _is_finite(leaf: Any) -> bool:
    try:
        return bool(leaf == leaf and abs(leaf) != math.inf)  # noqa: PLR0124 - NaN is not equal to itself
    except (TypeError, ValueError, ArithmeticError):  # no number
        return True


def has_fields(cls: type) -> bool:
    """Whether a class is a model or a dataclass."""
    return hasattr(cls, "__pydantic_fields__") or dataclasses.is_dataclass(cls)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The named parts of a container, or None for a leaf."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, set | frozenset):
        return {repr(item): item for item in value}
    return _fields(value) if has_fields(type(value)) else None


def _fields(value: Any) -> dict[str, Any]:
    """The fields of a model or a dataclass, and what else is kept in it; not what a cached_property keeps."""
    cls, kept = type(value), getattr(value, "__dict__", {})
    pydantic = hasattr(cls, "__pydantic_fields__")
    names = cls.__pydantic_fields__ if pydantic else [item.name for item in dataclasses.fields(value)]
    parts = {name: kept[name] if name in kept else getattr(value, name, NOTHING) for name in names}
    for hidden in ("__pydantic_private__", "__pydantic_extra__"):
        parts |= getattr(value, hidden, None) or {}
    return parts | {name: kept[name] for name in kept.keys() - parts.keys() if not hasattr(cls, name)}


def _step(container: Any, name: Any) -> str:
    """How a path goes on from a container to a part of it."""
    if isinstance(container, set | frozenset):
        return f"{{{name}}}"
    return f".{name}" if isinstance(name, str) else f"[{name!r}]"


def first_flaw(state: Any) -> str | None:
    """The first part of a state that no text can carry, in words."""
    left: list[tuple[str | None, Any]] = [("state", state)]
    above: set[int] = set()
    while left:
        path, value = left.pop()
        if path is None:  # all parts of this container are done
            above.discard(value)
            continue
        if id(value) in above:
            return f"{path} contains itself"
        parts = _parts(value)
        if parts is None and not _is_finite(value):
            return f"{path} is {value}; a state holds finite numbers only"
        if parts is None and not _is_json(value):
            return f"{path} is not JSON: {short(value)}"
        for name in parts or ():
            if not _is_json({name: None}):
                return f"{path} has a key that is not JSON: {short(name)}"
        above.add(id(value))
        left.append((None, id(value)))
        left += [(path + _step(value, name), part) for name, part in reversed(list((parts or {}).items()))]
    return None


def _is_json(leaf: Any) -> bool:
    from pydantic_core import PydanticSerializationError, from_json, to_json

    try:
        from_json(to_json(leaf))
    except (PydanticSerializationError, ValueError):
        return False
    return True


def short(value: Any) -> str:
    """A value as it stands in an error, with its type."""
    if value is NOTHING:
        return "nothing"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int with too many digits, or a repr of the user's that fails
        text = object.__repr__(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
