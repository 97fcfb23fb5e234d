"""The codec of a loop's state: typed Python values to JSON text and back, refusing what would not come back."""

from __future__ import annotations

import dataclasses
import inspect
import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Generic, TypeVar, Union, get_args, get_origin, get_type_hints

from loomc_runner.errors import StateError

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

S = TypeVar("S")

NOTHING = object()
"""Stands for a part that is not there at all."""

DOUBTS = ("null", "NaN", "Infinity")
"""What a text holds when the serializer may have let something pass: a missing value, or no finite number."""

LONGEST_NUMBER = 4000
"""Digits; a number that is somewhat longer can be written, but not read back."""

PLAIN = {
    "bool": {"metadata"},
    "default": {"copy_default", "default", "default_factory", "default_factory_takes_data", "metadata", "schema"},
    "dict": {"keys_schema", "metadata", "values_schema"},
    "float": {"metadata"},
    "int": {"metadata"},
    "list": {"items_schema", "metadata"},
    "model": {"cls", "config", "custom_init", "generic_origin", "metadata", "ref", "root_model", "schema"},
    "model-field": {"frozen", "metadata", "schema", "serialization_alias", "validation_alias"},
    "model-fields": {"computed_fields", "fields", "model_name"},
    "nullable": {"metadata", "schema"},
    "str": {"metadata"},
}
"""Pydantic's schemas, with the only keys they may have, for which strict serialization proves that all comes back."""

PLAIN_CONFIG = {"title", "validate_by_alias", "validate_by_name"}

STR = {"type": "str"}

SCALARS = {bool, int, str, NoneType}


class Codec(Generic[S]):
    """Turns states of one declared type into JSON text and back.

    Pydantic does the work, with the type the function declares; field names are used, never aliases. Any number in
    a field declared as float comes back as a float.
    """

    def __init__(self, annotation: Any, migrate: Callable[[Any], Any] | None = None) -> None:
        self.annotation = annotation
        self.migrate = migrate

    @cached_property
    def adapter(self) -> TypeAdapter[S]:
        """Pydantic's adapter for the declared type, built at the first use."""
        from pydantic import TypeAdapter
        from pydantic.errors import PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError

        try:
            adapter: TypeAdapter[S] = TypeAdapter(self.annotation)
            adapter.rebuild()
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            reason = str(error).splitlines()[0]
            raise StateError(f"a state of type {self.name} cannot be stored: {reason}") from error
        return adapter

    @property
    def name(self) -> str:
        """The declared type in words."""
        is_class = isinstance(self.annotation, type) and get_origin(self.annotation) is None
        return self.annotation.__qualname__ if is_class else str(self.annotation)

    @cached_property
    def _models(self) -> tuple[type | None, ...]:
        """The models of a type whose texts need no reading back; with a None in it, that is not so."""
        return tuple(_models(self.adapter.core_schema, {}, frozenset()))

    def encode(self, state: S) -> str:
        """The state as JSON text; it is read back and compared where the serializer alone does not prove it.

        Raises:
            StateError: When part of it is not of the declared type, not JSON, or not a finite number.
        """
        text, strict = self._dump(state)
        if not strict or not self._is_proven(text):
            self.compare(state, text)
        return text

    def encode_checked(self, state: S) -> str:
        """The state as JSON text, after reading it back and comparing every part."""
        text, _ = self._dump(state)
        self.compare(state, text)
        return text

    def decode(self, text: str) -> S:
        """The state that the text stands for; one that no longer fits goes through `migrate` first.

        Raises:
            StateError: When the text does not fit the declared type (any more), naming the field.
        """
        import pydantic_core  # not `from ... import`, which takes ten times as long

        try:
            return self.adapter.validate_json(text, by_name=True, by_alias=False)
        except pydantic_core.ValidationError as error:
            if self.migrate is None:
                raise StateError(
                    f"the stored state does not fit {self.name}: {_first_of(error)}; "
                    "bring it over with @loop(migrate=...), a function of the old state as JSON that gives the new one"
                ) from error
        return self._migrated(text, self.migrate)

    def parse(self, text: str) -> S:
        """The state that somebody has written as JSON.

        Raises:
            StateError: When the text does not fit the declared type, naming the field.
        """
        import pydantic_core

        try:
            return self.adapter.validate_json(text, by_name=True, by_alias=False)
        except pydantic_core.ValidationError as error:
            raise StateError(f"this is no {self.name}: {_first_of(error)}") from error

    def _migrated(self, text: str, migrate: Callable[[Any], Any]) -> S:
        import pydantic_core

        named = getattr(migrate, "__qualname__", migrate)
        try:
            return self.adapter.validate_json(
                pydantic_core.to_json(migrate(json.loads(text))), by_name=True, by_alias=False
            )
        except pydantic_core.ValidationError as error:
            raise StateError(f"migrate {named} gave what does not fit {self.name}: {_first_of(error)}") from error
        except Exception as error:
            raise StateError(f"migrate {named} failed on the stored state: {type(error).__name__}: {error}") from error

    def compare(self, state: S, text: str) -> None:
        """Raise `StateError` with the path of the first part that the text does not bring back as it was."""
        import pydantic_core

        try:
            back = self.adapter.validate_json(text, by_name=True, by_alias=False)
        except pydantic_core.ValidationError as error:
            raise self._refusal(state, f"{_first_of(error)}; it would not come back from storage") from error
        if found := _difference(state, back):
            path, mine, theirs = found
            raise self._refusal(
                state,
                f"state{path} would not come back as it was: {_short(mine)} is read back as {_short(theirs)}; "
                "declare its type, or keep it out of the state",
            )

    def _dump(self, state: S) -> tuple[str, bool]:
        """The text, and whether the serializer found everything as it was declared."""
        dump = self.adapter.serializer.to_json  # what `adapter.dump_json` calls, which takes as long again
        try:
            return dump(state, warnings="error", round_trip=True, by_alias=False).decode(), True
        except (ValueError, TypeError):  # pydantic's serialization errors are ValueErrors
            try:
                return dump(state, warnings="none", round_trip=True, by_alias=False).decode(), False
            except (ValueError, TypeError) as error:
                reason = str(error).splitlines()[-1].strip()
                raise self._refusal(state, f"the state cannot be stored as {self.name}: {reason}") from error

    def _is_proven(self, text: str) -> bool:
        for model in self._models:
            if model is None or model.__subclasses__():
                return False  # a subclass in the place of its base would be stored as the base
        for word in DOUBTS:
            if word in text:
                return False
        return len(text) < LONGEST_NUMBER or not _has_long_number(text)

    def _refusal(self, state: S, reason: str) -> StateError:
        """Why a state is refused: another type, the first part that no text can carry, else the reason given."""
        declared = self.annotation
        if isinstance(declared, type) and _has_fields(declared) and not isinstance(state, declared):
            return StateError(f"the state must be of type {self.name}, not {_short(state)}")
        return StateError(_first_flaw(state) or reason)


def annotation_of(fn: Callable[..., Any], position: int, names: Mapping[str, Any]) -> tuple[Any, Any]:
    """The declared types of the state and of a `Done` result; None for what is not declared.

    The state's type is that of the parameter at `position`, else that of the return value. `names` are
    those visible where the function was defined. Raises `NameError` while a class is not defined yet.
    """
    parameters = list(inspect.signature(fn).parameters)
    hints = get_type_hints(fn, localns=dict(names), include_extras=True)
    state, result = _split_done(hints.get("return"))
    return hints.get(parameters[position], state), result


def state_codec(annotation: Any, state: Any) -> Codec[Any]:
    """The codec for a first state: by the declared type, else by the type of the state itself."""
    return Codec(_runtime_type(state) if annotation is None else annotation)


def type_name(state: Any) -> str:
    """Where the type of a state can be found again, as `module:qualname`; empty for plain JSON."""
    cls = _runtime_type(state)
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


def _runtime_type(state: Any) -> Any:
    return type(state) if hasattr(type(state), "__pydantic_core_schema__") or dataclasses.is_dataclass(state) else Any


def _split_done(annotation: Any) -> tuple[Any, Any]:
    """State and result type of a return annotation such as `Draft | Done[Draft, Report]`."""
    members = get_args(annotation) if get_origin(annotation) in {Union, UnionType} else (annotation,)
    ends = [member for member in members if getattr(get_origin(member) or member, "__name__", "") == "Done"]
    states = tuple(member for member in members if member not in ends)
    declared = next((args for args in map(get_args, ends) if args), (None, None))
    return declared[0] if set(states) <= {None, NoneType} else Union[states], declared[1]  # noqa: UP007


def _models(schema: Mapping[str, Any], known: Mapping[str, Any], above: frozenset[str]) -> Iterator[type | None]:
    """The models in a schema; a None for each part of which strict serialization does not prove enough."""
    kind = schema["type"]
    if kind == "definitions":
        yield from _models(schema["schema"], {part["ref"]: part for part in schema["definitions"]}, above)
    elif kind == "definition-ref" and (ref := schema["schema_ref"]) not in above:
        yield from _models(known[ref], known, above | {ref})
    elif not _is_plain(schema):
        yield None
    else:
        if kind == "model":
            yield schema["cls"]
        parts = (schema.get(name) for name in ("schema", "items_schema", "values_schema"))
        for part in (*filter(None, parts), *schema.get("fields", {}).values()):
            yield from _models(part, known, above)


def _is_plain(schema: Mapping[str, Any]) -> bool:
    known = schema["type"] in PLAIN and schema.keys() <= PLAIN[schema["type"]] | {"type"}
    ordinary = not schema.get("custom_init") and schema.get("config", {}).keys() <= PLAIN_CONFIG
    return known and ordinary and schema.get("keys_schema", STR) == STR


def _has_long_number(text: str) -> bool:
    # A run of this many digits covers a whole block of half as many; most blocks are settled by their first letter.
    half = LONGEST_NUMBER // 2
    return any(text[at : at + half].isdigit() for at in range(0, len(text) - half + 1, half))


def _difference(mine: Any, theirs: Any) -> tuple[str, Any, Any] | None:
    """The first part in which two values differ, with its path; ints and floats compare by value."""
    if (kind := type(mine)) is not type(theirs):
        return None if {kind, type(theirs)} == {int, float} and mine == theirs else ("", mine, theirs)
    if kind in SCALARS or (parts := _parts(mine)) is None:
        return None if _is_same(mine, theirs) else ("", mine, theirs)
    others = _parts(theirs) or {}
    for name, part in parts.items():
        other = others.get(name, NOTHING)
        if type(part) in SCALARS and type(other) is type(part) and part == other:
            continue  # as most are
        if found := _difference(part, other):
            return _step(mine, name) + found[0], found[1], found[2]
    for name in others.keys() - parts.keys():
        return _step(mine, name), NOTHING, others[name]
    return None


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


def _has_fields(cls: type) -> bool:
    return hasattr(cls, "__pydantic_fields__") or dataclasses.is_dataclass(cls)


def _parts(value: Any) -> Mapping[Any, Any] | None:
    """The named parts of a container, or None for a leaf."""
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if isinstance(value, set | frozenset):
        return {repr(item): item for item in value}
    return _fields(value) if _has_fields(type(value)) else None


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


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"state{path}: {first['msg']}"


def _first_flaw(state: Any) -> str | None:
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
            return f"{path} is not JSON: {_short(value)}"
        for name in parts or ():
            if not _is_json({name: None}):
                return f"{path} has a key that is not JSON: {_short(name)}"
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


def _short(value: Any) -> str:
    if value is NOTHING:
        return "nothing"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - an int with too many digits, or a repr of the user's that fails
        text = object.__repr__(value)
    return f"{text if len(text) <= 80 else text[:77] + '...'} ({type(value).__name__})"
