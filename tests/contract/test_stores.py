"""Every store that ships, and stores that users write, keep the contract."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from loomc_runner import RunStatus, loop
from loomc_runner.store import Store, owners
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import FaultyStore, StoreContract

if TYPE_CHECKING:
    from collections.abc import Iterator

VERBS = [name for name, value in vars(Store).items() if callable(value) and not name.startswith("_")]


def of_plain_functions(_: Path) -> Any:
    """Make a store as a user may write it: no class of ours, no base class, just an object with the verbs."""
    memory = MemoryStore()
    return SimpleNamespace(**{verb: getattr(memory, verb) for verb in VERBS})


STORES = {
    "memory": lambda _: MemoryStore(),
    "sqlite": lambda folder: SQLite(folder / "runs.db"),
    "wrapped": lambda _: FaultyStore(MemoryStore()),
    "plain functions": of_plain_functions,
}


def open_files(folder: Path) -> list[str]:
    """Say which files of a folder this process has open, but for its lock, which it keeps for life."""
    files = [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    return [str(file) for file in files if file.is_relative_to(folder) and file.suffix != ".lock"]


@pytest.fixture(autouse=True)
def restless_threads() -> Iterator[None]:
    """Let threads take turns so often that what is not guarded comes to light."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Give each store in turn; in the end no file is open and no ended run is held."""
    made: Store = STORES[request.param](tmp_path)
    yield made
    ended = [run.id for run in made.list_runs() if run.status is not RunStatus.RUNNING]
    made.close()
    assert not Path("/proc/self/fd").exists() or open_files(tmp_path) == []
    for run_id in ended:
        owners.hold(str(tmp_path / "runs.db"), run_id)  # raises when somebody holds it still
        owners.let_go(str(tmp_path / "runs.db"), run_id)


class TestStores(StoreContract):
    """The published suite."""


def test_a_loop_runs_on_any_of_them(store: Store) -> None:
    """A loop stores its run in whatever store it is given, and finds it there again."""

    @loop(checkpoint=store, converge_on=lambda history: "long" if len(history) == 3 else None)
    def grow(state: list[int]) -> list[int]:
        return [*state, len(state)]

    assert grow([], run_id="r") == [0, 1, 2]
    assert grow.resume("r") == [0, 1, 2]
    assert [store.state("r", n) for n in (-1, 2)] == ["[]", "[0,1,2]"]


@pytest.mark.parametrize("verb", VERBS)
def test_what_lacks_a_verb_is_no_store(verb: str, tmp_path: Path) -> None:
    """An object without one of the verbs is refused when the function is decorated, and the verb is named."""
    partial = of_plain_functions(tmp_path)
    delattr(partial, verb)
    with pytest.raises(ValueError, match=rf"lacks {verb}"):
        loop(checkpoint=partial)(lambda state: state)
