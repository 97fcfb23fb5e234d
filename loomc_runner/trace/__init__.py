"""Pages of runs: what they did, as a tree, for a browser."""

from __future__ import annotations

import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from loomc_runner.errors import LoomcError, LoomcWarning, RunNotFound, SpecError, in_words
from loomc_runner.records import Run
from loomc_runner.report import printable
from loomc_runner.store import Store, block, finish, patiently
from loomc_runner.trace.live import Live
from loomc_runner.watching import traced_by


@dataclass(frozen=True, slots=True)
class Written:
    """A page that was written: how many nodes it has, and how many steps are folded in it."""

    nodes: int
    folded_steps: int


def write_page(store: Store, run: Run, path: Path, live: Live | None = None) -> Written:
    """Write the page of a run; the file is there as a whole or not at all."""
    from loomc_runner.trace.page import html
    from loomc_runner.trace.tree import tree

    root = finish(patiently(block, tree, store, run, live or Live()))
    nodes = [*root.walk()]
    _replace(path, html(root))
    return Written(len(nodes), sum(node.folded_steps for node in nodes))


def page_path(path: str | os.PathLike[str]) -> Path:
    """Where a page is to be written, looked at before anything is paid for.

    Raises:
        SpecError: When no file can be made there.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        raise SpecError(f"no page can be written to {os.fspath(path)}, which is no file; name one, such as trace.html")
    if not place.parent.is_dir():
        raise SpecError(f"no page can be written to {os.fspath(path)}: make the folder {place.parent} first")
    if not os.access(place.parent, os.W_OK):
        raise SpecError(f"no page can be written to {os.fspath(path)}: the folder {place.parent} is not writable")
    return place


@contextmanager
def traced(store: Store, run_id: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Look on at a run, with what users' own traced functions do in it, and write its page when it stops, however.

    What goes wrong with the page does not hide what went wrong with the run.

    Raises:
        SpecError: When no file can be made there; before the run begins.
        LoomcError: When the page cannot be written, and the run itself went well.
    """
    place, live = page_path(path), Live()
    try:
        with traced_by(live):
            yield
    except BaseException:
        if trouble := _trouble(store, run_id, place, live):
            with suppress(LoomcWarning):  # where warnings are errors, the run's own one is more important
                warnings.warn(trouble, LoomcWarning, stacklevel=2)
        raise
    if trouble := _trouble(store, run_id, place, live):
        raise LoomcError(trouble)


def _trouble(store: Store, run_id: str, path: Path, live: Live) -> str | None:
    """Write the page of a run that has stopped; what went wrong with that, in words."""
    try:
        write_page(store, store.get_run(run_id), path, live)
    except RunNotFound:  # it never began, and its own error says why
        return None
    except Exception as error:  # noqa: BLE001 - whatever it is, the run is more important than its page
        again = f"loomc trace {run_id} -o {path} writes it from the records"
        return f"the page of run {run_id} could not be written: {printable(in_words(error))}; {again}"
    return None


def _replace(path: Path, text: str) -> None:
    """Write a file beside the old one, and put it in its place."""
    new = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}")
    try:
        new.write_text(text, encoding="utf-8")
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
