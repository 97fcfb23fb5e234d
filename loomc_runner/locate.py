"""Import a loop from where a run says it lives."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from loomc_runner.decorator import AsyncLoop, AsyncLoopMethod, Loop, LoopMethod
from loomc_runner.errors import LoopNotFound
from loomc_runner.records import Run

Handle = Loop[Any] | AsyncLoop[Any]


def load_loop(target: str) -> Handle:
    """The loop named as `module:loop` or `file.py:loop`.

    Raises:
        LoopNotFound: When there is no such module, file or loop.
    """
    place, _, qualname = target.rpartition(":")
    if not place or not qualname:
        raise LoopNotFound(f"{target!r} names no loop; write module:loop or file.py:loop")
    module = load_file(Path(place)) if place.endswith(".py") else _import(place)
    return _resolve(module, qualname, target)


def loop_of(run: Run) -> Handle:
    """The loop a run belongs to.

    Raises:
        LoopNotFound: When the run does not name it, or it cannot be imported; it tells how to name it.
    """
    if run.loop is None:
        raise LoopNotFound(f"run {run.id} was written by loomc 0.3.0, which kept no name of its loop; {_name_it(run)}")
    place, _, qualname = run.loop.rpartition(":")
    if "<locals>" in qualname:
        raise LoopNotFound(f"{run.loop} is defined inside a function and cannot be imported; {_name_it(run)}")
    try:
        module = _import(place) if place and place != "__main__" else None
    except LoopNotFound:
        module = None
    if module is None and run.source and Path(run.source).exists():
        module = load_file(Path(run.source))
    if module is None:
        raise LoopNotFound(f"{run.loop} cannot be imported from here; {_name_it(run)}")
    for handle in _handles(module):
        if handle.spec.owns(run):
            return handle
    return _resolve(module, qualname, f"{run.loop} (of run {run.id})")


def load_file(path: Path) -> ModuleType:
    """Import a Python file: as part of its package when it lies in one, else as a module of its own."""
    path = path.absolute()
    if not path.is_file():
        raise LoopNotFound(f"there is no file {path}")
    root, name = path.parent, path.stem
    while (root / "__init__.py").exists():
        root, name = root.parent, f"{root.name}.{name}"
    _search(root)
    if "." in name:
        return _import(name)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__file__", None) == str(path):
        return loaded
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise LoopNotFound(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _import(name: str) -> ModuleType:
    _search(Path.cwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and not name.startswith(error.name):
            raise  # the module is there; something that it needs is not
        raise LoopNotFound(f"there is no module {name} to import from {Path.cwd()}") from error


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _handles(module: ModuleType) -> Iterator[Handle]:
    return (value for value in vars(module).values() if isinstance(value, Loop | AsyncLoop))


def _resolve(module: ModuleType, qualname: str, target: str) -> Handle:
    found: Any = module
    for part in qualname.split("."):
        found = found.__dict__.get(part) if isinstance(found, type) else getattr(found, part, None)
        if found is None:
            names = ", ".join(handle.spec.fn.__qualname__ for handle in _handles(module)) or "none"
            raise LoopNotFound(f"{target}: {module.__name__} has no loop {qualname}; its loops: {names}")
    if isinstance(found, LoopMethod | AsyncLoopMethod):
        raise LoopNotFound(f"{target} is a method; resume it in Python, through its instance: obj.{part}.resume(...)")
    if not isinstance(found, Loop | AsyncLoop):
        raise LoopNotFound(f"{target} is no loop, but {type(found).__name__}; put @loop over it")
    return found


def _name_it(run: Run) -> str:
    return f"name it: loomc resume {run.id} module:loop (or file.py:loop)"
