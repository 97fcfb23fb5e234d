"""Whether a text still changes what it says: by a model on this machine, else by the letters of its words."""

import os
import zlib
from collections.abc import Sequence
from importlib.util import find_spec

from loomc_runner import Detector, SpecError, StepRecord, all_of, score_plateau, semantic_delta
from refining.draft import Answer, Draft, text_of

SIZES = (3, 4, 5)
DIRECTIONS = 1024


def embed(texts: list[str]) -> list[list[float]]:
    """Give a vector for each text: how often each three to five letters in a row are in it, words apart.

    It knows nothing of meaning: other words for the same are far apart, and a "not" is a small change.
    """
    return [_counts(text) for text in texts]


def _counts(text: str) -> list[float]:
    vector = [0.0] * DIRECTIONS
    for word in text.lower().split():
        letters = f" {word.strip('.,;:!?()')} "
        for size in SIZES:
            for start in range(max(len(letters) - size, 0) + 1):
                part = letters[start : start + size]
                vector[zlib.crc32(part.encode()) % DIRECTIONS] += 1  # `hash` would differ from process to process
    return vector


def choose_embeddings(name: str) -> str:
    """Give the model if it is on this machine, it is never downloaded; else an empty text: then `embed` does it."""
    if find_spec("sentence_transformers") is None:
        return ""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        semantic_delta(model_name=name).load()
    except SpecError:
        return ""
    return name


def settled(history: Sequence[StepRecord[Draft]]) -> Answer:
    """Say when the newest text says the same as the one before, and two steps in a row were no better.

    Both, since a text may be far from well written and yet say all that it will ever say.
    """
    model = history[-1].state.embeddings
    says_the_same: Detector = semantic_delta(text_fn=text_of, embed=embed)
    if model:
        says_the_same = semantic_delta(text_fn=text_of, model_name=model)
    return all_of(says_the_same, score_plateau(patience=2, min_delta=0.5))(history)
