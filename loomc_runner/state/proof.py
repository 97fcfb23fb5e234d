"""What a declared type and the words of a JSON text prove of the state that was written."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

MOST_LOOKS = 100
"""Times that the word null is looked at in a text, before it is taken for one that is no part of a string."""

NULL_AFTER, NULL_BEFORE = {"", "[", ",", ":"}, {"", "]", ",", "}"}
"""What stands around a null that is no part of a string."""

NO_FLOATS = {"bool", "dict", "int", "list", "model", "str"}
"""Schemas that take no number with a fraction for themselves; what is in them is looked at on its own."""

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

NEVER_NULL = {"bool", "dict", "int", "list", "str"}
"""Roots of root models that are no nulls in a text; another one may be, and come back as None in the model's place."""

FROM_JSON = {
    *("any", "bool", "default", "definition-ref", "definitions", "dict", "float", "int", "list", "literal", "none"),
    *("dataclass", "dataclass-args", "dataclass-field", "model", "model-field", "model-fields", "nullable", "str"),
    *("tagged-union", "tuple", "typed-dict", "typed-dict-field", "union"),
    *("date", "datetime", "decimal", "enum", "frozenset", "set", "time", "timedelta", "uuid"),
}
"""Schemas that give back what JSON has and nothing else: no bytes, no complex numbers, nothing of the user's."""

KEYS_FROM_JSON = {"any", "int", "str"}
"""Those of keys; one of a float could be NaN."""

STR = {"type": "str"}


def models(schema: Mapping[str, Any], known: Mapping[str, Any], above: frozenset[str]) -> Iterator[type | None]:
    """The models in a schema; a None for each part of which strict serialization does not prove enough."""
    kind = schema["type"]
    if kind == "definitions":
        yield from models(schema["schema"], {part["ref"]: part for part in schema["definitions"]}, above)
    elif kind == "definition-ref" and (ref := schema["schema_ref"]) not in above:
        yield from models(known[ref], known, above | {ref})
    elif not _is_plain(schema):
        yield None
    else:
        if kind == "model":
            yield schema["cls"]
        parts = (schema.get(name) for name in ("schema", "items_schema", "values_schema"))
        for part in (*filter(None, parts), *schema.get("fields", {}).values()):
            yield from models(part, known, above)


def _is_plain(schema: Mapping[str, Any]) -> bool:
    known = schema["type"] in PLAIN and schema.keys() <= PLAIN[schema["type"]] | {"type"}
    ordinary = not schema.get("custom_init") and schema.get("config", {}).keys() <= PLAIN_CONFIG
    if schema.get("root_model") and schema["schema"]["type"] not in NEVER_NULL:
        return False
    return known and ordinary and schema.get("keys_schema", STR) == STR


def mentions(schema: Any, keys: set[str]) -> bool:
    """Whether one of the keys stands anywhere in a schema."""
    if isinstance(schema, Mapping):
        return not keys.isdisjoint(schema) or any(mentions(part, keys) for part in schema.values())
    return isinstance(schema, list | tuple) and any(mentions(part, keys) for part in schema)


def is_from_json(schema: Any) -> bool:
    """Whether what is read back are plain values of JSON, in containers and models."""
    if isinstance(schema, Mapping):
        kind, keys = schema.get("type"), schema.get("keys_schema", STR)
        is_other = (isinstance(kind, str) and kind not in FROM_JSON) or keys["type"] not in KEYS_FROM_JSON
        return not is_other and all(map(is_from_json, schema.values()))
    return not isinstance(schema, list | tuple) or all(map(is_from_json, schema))


def has_nullable_float(schema: Any) -> bool:
    """Whether a null may stand for a number: one that is not finite would come back as None."""
    if isinstance(schema, Mapping):
        inner = schema.get("schema")
        may_be = schema.get("type") == "nullable" and isinstance(inner, Mapping) and inner.get("type") not in NO_FLOATS
        return may_be or any(map(has_nullable_float, schema.values()))
    return isinstance(schema, list | tuple) and any(map(has_nullable_float, schema))


def has_long_number(text: str) -> bool:
    """Whether a text may hold a number too long to be read back.

    A run of that many digits covers a whole block of half as many, and the first letter of each settles most texts.
    """
    half = LONGEST_NUMBER // 2
    if not any(map(str.isdigit, text[::half])):
        return False
    return any(text[at : at + half].isdigit() for at in range(0, len(text) - half + 1, half))


def has_null(text: str) -> bool:
    """Whether a JSON text holds a null, and not only in strings; as far as a look around the word tells."""
    at = -1
    for _ in range(MOST_LOOKS):
        at = text.find("null", at + 1)
        if at < 0:
            return False
        if text[at - 1 : at] in NULL_AFTER and text[at + 4 : at + 5] in NULL_BEFORE:
            return True
    return True
