"""The codec of a loop's state: typed Python values to JSON text and back, refusing what would not come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_origin

from loomc_runner.errors import StateError
from loomc_runner.state.annotations import runtime_type
from loomc_runner.state.compare import are_equal_json, difference, first_flaw, has_fields, short
from loomc_runner.state.proof import (
    LONGEST_NUMBER,
    has_long_number,
    has_null,
    has_nullable_float,
    is_from_json,
    mentions,
    models,
)

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

S = TypeVar("S")


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

    @cached_property
    def _to_json(self) -> Callable[..., bytes]:
        return self.adapter.serializer.to_json  # what `adapter.dump_json` calls, which takes as long again

    @property
    def name(self) -> str:
        """The declared type in words."""
        is_class = isinstance(self.annotation, type) and get_origin(self.annotation) is None
        return self.annotation.__qualname__ if is_class else str(self.annotation)

    @cached_property
    def _inner(self) -> tuple[type, ...] | None:
        """The models in a type whose texts need no reading back, without the type itself; None where they need it."""
        found = tuple(models(self.adapter.core_schema, {}, frozenset()))
        known = tuple(model for model in found if model is not None)
        if len(known) < len(found):
            return None
        return known[1:] if self._is_model and known[:1] == (self.annotation,) else known

    def encode(self, state: S) -> str:
        """The state as JSON text; it is read back and compared where the serializer alone does not prove it.

        Raises:
            StateError: When part of it is not of the declared type, not JSON, or not a finite number.
        """
        to_json = self._to_json
        try:
            text = to_json(state, warnings="error", round_trip=True, by_alias=False).decode()
        except (ValueError, TypeError):  # pydantic's serialization errors are ValueErrors
            return self.encode_checked(state)
        if not self._is_proven(state) or (len(text) >= LONGEST_NUMBER and has_long_number(text)):
            self.compare(state, text)
        elif "null" in text and has_null(text):  # for a missing value, or a number that is not finite
            self._check_nulls(state, text)
        return text

    def encode_checked(self, state: S) -> str:
        """The state as JSON text, after reading it back and comparing every part."""
        to_json = self._to_json
        try:
            text = to_json(state, warnings="none", round_trip=True, by_alias=False).decode()
        except (ValueError, TypeError) as error:
            reason = str(error).splitlines()[-1].strip()
            raise self._refusal(state, f"the state cannot be stored as {self.name}: {reason}") from error
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
        if found := difference(state, back, at_once=self._is_finite_json):
            path, mine, theirs = found
            raise self._refusal(
                state,
                f"state{path} would not come back as it was: {short(mine)} is read back as {short(theirs)}; "
                "declare its type, or keep it out of the state",
            )

    def _is_proven(self, state: S) -> bool:
        """Whether a strict text proves what it stands for, but for nulls and long numbers."""
        if self._is_model and type(state) is not self.annotation:  # anything with attributes passes for a model
            return False
        if self._inner:  # a subclass in the place of its base would be stored as the base
            return not any(map(type.__subclasses__, self._inner))
        return self._inner is not None

    @cached_property
    def _is_model(self) -> bool:
        """Whether the declared type is one class of models."""
        return isinstance(self.annotation, type) and has_fields(self.annotation)

    @cached_property
    def _is_finite_json(self) -> bool:
        """Whether what is read back holds plain values only, and no number that is not finite: those become nulls."""
        schema = self.adapter.core_schema
        return is_from_json(schema) and not mentions(schema, {"ser_json_inf_nan", "serialization"})

    @cached_property
    def _tells_nulls(self) -> bool:
        """Whether reading a text refuses each null that stands for something else."""
        return not has_nullable_float(self.adapter.core_schema)

    def _check_nulls(self, state: S, text: str) -> None:
        import pydantic_core

        try:
            back = self.adapter.validate_json(text, by_name=True, by_alias=False)
        except pydantic_core.ValidationError:
            self.compare(state, text)  # tells which
        else:
            if not self._tells_nulls and not self._is_same_dump(state, back):
                self.compare(state, text)

    def _is_same_dump(self, state: S, back: S) -> bool:
        """Whether two states hold the same plain values, told without a look at each."""
        mine, theirs = (self.adapter.dump_python(value, round_trip=True) for value in (state, back))
        return are_equal_json(mine, theirs)

    def _refusal(self, state: S, reason: str) -> StateError:
        """Why a state is refused: another type, the first part that no text can carry, else the reason given."""
        if self._is_model and not isinstance(state, self.annotation):
            return StateError(f"the state must be of type {self.name}, not {short(state)}")
        return StateError(first_flaw(state) or reason)


def state_codec(annotation: Any, state: Any) -> Codec[Any]:
    """The codec for a first state: by the declared type, else by the type of the state itself."""
    return Codec(runtime_type(state) if annotation is None else annotation)


def _first_of(error: ValidationError) -> str:
    first = error.errors(include_url=False)[0]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"])
    return f"state{path}: {first['msg']}"
