"""The words that the rules know, from `words.toml`."""

import tomllib
from pathlib import Path
from typing import Any

_LISTS: dict[str, Any] = tomllib.loads(Path(__file__).with_name("words.toml").read_text(encoding="utf-8"))

EMPTY: list[str] = _LISTS["empty"]
VAGUE: list[str] = _LISTS["vague"]
SECTIONS: list[list[str]] = _LISTS["sections"]
SHORTER: dict[str, str] = _LISTS["shorter"]
PAST: dict[str, str] = _LISTS["past"]
OBJECTS: dict[str, str] = _LISTS["objects"]
SUBJECTS: dict[str, str] = _LISTS["subjects"]
DETERMINERS = frozenset(_LISTS["determiners"])
STARTS = DETERMINERS | frozenset(_LISTS["starts"])
RELATIVE = frozenset(_LISTS["relative"])
DEPENDENT = frozenset(_LISTS["dependent"])
VERBS = frozenset(_LISTS["verbs"])
NO_NOUN = frozenset(_LISTS["no_noun"])
NOBODY = frozenset(_LISTS["nobody"])
NO_DEEDS = frozenset(_LISTS["no_deeds"])
LITTLE = frozenset(_LISTS["little"])
NEGATIONS = frozenset(_LISTS["negations"])
