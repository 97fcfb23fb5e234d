"""The vendors' server on this machine, for the examples that ask a model."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from vendor import Script, Vendor


@pytest.fixture(scope="session")
def vendor() -> Iterator[Vendor]:
    """A server that both SDKs are pointed at."""
    with Vendor() as vendor:
        yield vendor


@pytest.fixture
def script(vendor: Vendor) -> Iterator[Script]:
    """What the model says in this test."""
    script = vendor.script(f"key-{uuid4().hex}")
    yield script
    script.close()
    failures, vendor.failures = vendor.failures, []
    assert failures == []
