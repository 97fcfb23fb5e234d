"""Which store a `checkpoint=` option, `LOOMC_DB` or a path names."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from loomc_runner import SpecError, loop
from loomc_runner.store import default_path, open_reader, open_store
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import a_run


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder without LOOMC_DB."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LOOMC_DB", raising=False)
    return tmp_path


def path_of(checkpoint: Any) -> Path:
    """Open a store and say where it is; nothing is written by that."""
    store = open_store(checkpoint)
    assert isinstance(store, SQLite)
    return store.path


def test_the_default_is_a_hidden_folder_here(here: Path) -> None:
    """Without LOOMC_DB "sqlite" is .loomc/checkpoints.db in the current folder; naming it makes nothing."""
    assert path_of("sqlite") == here / ".loomc" / "checkpoints.db"
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("value", ["elsewhere/my.db", "sqlite:///elsewhere/my.db"])
def test_loomc_db_names_another_place(here: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """LOOMC_DB replaces the default, as a path or as a URL, and is read at the time of use."""
    assert path_of("sqlite") == here / ".loomc" / "checkpoints.db"
    monkeypatch.setenv("LOOMC_DB", value)
    assert path_of("sqlite") == here / "elsewhere" / "my.db"
    assert default_path() == Path("elsewhere/my.db")


def test_a_path_is_meant_as_it_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path, a Path, and sqlite:/// with a relative or an absolute path name a file, whatever LOOMC_DB says."""
    monkeypatch.setenv("LOOMC_DB", "elsewhere/my.db")
    names = ["a/b.db", Path("a/b.db"), "sqlite:///a/b.db", f"sqlite:///{here}/a/b.db"]
    assert {path_of(name) for name in names} == {here / "a" / "b.db"}


@pytest.mark.parametrize("bad", [None, "", "sqlite:///", "sqlite://x", "postgres://host/db", 7, object()])
def test_what_names_no_store_is_refused_at_decoration(bad: Any) -> None:
    """A `checkpoint=` that cannot work raises SpecError with its value when the function is decorated."""
    with pytest.raises(SpecError, match="checkpoint="):
        loop(checkpoint=bad)(lambda state: state)


def test_one_file_has_one_store_in_a_process(here: Path) -> None:
    """The same file gives the same store, in all threads; so does "memory"."""
    with ThreadPoolExecutor(8) as pool:
        stores = set(pool.map(open_store, ["x.db", here / "x.db", "sqlite:///x.db"] * 8))
        memories = set(pool.map(open_store, ["memory"] * 8))
    assert (len(stores), len(memories)) == (1, 1)


def test_a_store_of_ones_own_is_taken_as_it_is() -> None:
    """An object that is a store is used itself."""
    store = SQLite("x.db")
    assert open_store(store) is store


@pytest.mark.parametrize("name", [None, "a.db", "sqlite:///a.db", Path("a.db")])
def test_a_reader_reads_the_same_places(monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    """A reader takes LOOMC_DB, a path or a URL, and sees what was written there."""
    monkeypatch.setenv("LOOMC_DB", "a.db")
    writer, reader = SQLite("a.db"), open_reader(name)
    writer.create_run(a_run(), "0")
    assert [run.id for run in reader.list_runs()] == ["r"]
    writer.close()
    reader.close()
