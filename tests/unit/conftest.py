"""The stores and the kinds of loops that the tests of loops go through."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import pytest
from driving import Maker

from loomc_runner.records import RunStatus
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite

NUMBERS = count()
"""Of databases in one folder: counting the files there would give a name twice once a test has removed one."""


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """A test that takes a `terminal` runs on it; here, since pytest takes the streams anew after its fixtures."""
    with pyfuncitem.funcargs.get("terminal") or nullcontext():
        return (yield)


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """One folder for all databases: in memory where there is room, since no power fails here."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as name:
        yield Path(name)


@pytest.fixture
def memory() -> MemoryStore:
    """A store in memory, where the kind of store makes no difference."""
    return MemoryStore()


@pytest.fixture
def disk(folder: Path) -> Iterator[SQLite]:
    """A store on disk, where only that can show the rule."""
    store = SQLite(folder / f"{next(NUMBERS)}.db")
    yield store
    store.close()


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store of each kind; at the end no run is left at work."""
    store: Store = request.getfixturevalue(request.param)
    yield store
    assert not [run.id for run in store.list_runs() if run.status is RunStatus.RUNNING]


@pytest.fixture(params=["sync", "async"])
def make_in_memory(request: pytest.FixtureRequest, memory: MemoryStore) -> Maker:
    """What makes sync loops, and async ones, for long tables of values that no store sees."""
    return Maker(memory, is_async=request.param == "async")


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest, store: Store) -> Maker:
    """What makes sync loops, and async ones."""
    return Maker(store, is_async=request.param == "async")
