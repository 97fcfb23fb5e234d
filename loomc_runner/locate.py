"""Import a loop from where a run says it lives."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from loomc_runner.decorator import AsyncLoopMethod, LoopMethod
from loomc_runner.errors import LoopNotFound, RunMismatch
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.records import Run
from loomc_runner.running import importing

Handle = Loop[Any] | AsyncLoop[Any]


def loop_of(run: Run) -> Handle:
    """The loop a run belongs to, imported from the file it was defined in, else by its module's name.

    Raises:
        LoopNotFound: When the run does not name it, or it cannot be imported; it tells how to name it.
    """
    if run.loop is None:
        raise LoopNotFound(f"run {run.id} was written by loomc 0.3.0, which kept no name of its loop; {_name_it(run)}")
    module = _module_of(run)
    for handle in _handles(module):
        if handle.spec.owns(run):
            return handle
    place, _, qualname = run.loop.rpartition(":")
    if not place:
        raise LoopNotFound(f"{module.__name__} has no loop with the name {run.loop!r} any more; {_name_it(run)}")
    return _resolve(module, qualname, f"{run.loop} (of run {run.id})")


def loop_named(target: str, run: Run) -> Handle:
    """The loop that somebody names as `module:loop` or `file.py:loop`, for a run.

    Raises:
        LoopNotFound: When there is no such module, file or loop.
        RunMismatch: When the run says itself that it belongs to another loop, and that one is there.
    """
    handle = loop_at(target)
    if handle.spec.owns(run):
        return handle
    try:
        own = loop_of(run)
    except LoopNotFound:  # it has moved, or was never named: then it is as we are told
        return type(handle)(dataclasses.replace(handle.spec, adopts=run.id))
    raise RunMismatch(f"run {run.id} belongs to {own.spec.name}, not to {handle.spec.name}; loomc resume {run.id}")


def loop_at(target: str) -> Handle:
    """The loop that somebody names as `module:loop` or `file.py:loop`.

    Raises:
        LoopNotFound: When there is no such module, file or loop.
    """
    place, _, qualname = target.rpartition(":")
    if not place or not qualname:
        raise LoopNotFound(f"{target!r} names no loop; write module:loop or file.py:loop")
    module = _import_file(Path(place)) if place.endswith(".py") else _import(place, Path.cwd())
    return _resolve(module, qualname, target)


def _module_of(run: Run) -> ModuleType:
    place, _, qualname = (run.loop or "").rpartition(":")
    if "<locals>" in qualname:
        raise LoopNotFound(
            f"{run.loop} is defined inside a function, so nobody else can import it; resume it in Python, where it is, "
            f'with .resume("{run.id}")'
        )
    source = Path(run.source) if run.source else None
    if source is not None and source.is_file():
        module = _import_file(source, place)
        if place == "__main__":  # where the types of its states say they live; multiprocessing does the same
            sys.modules[place] = module
        return module
    if place and place != "__main__":
        return _import(place, Path.cwd())
    raise LoopNotFound(f"{run.loop} cannot be imported: {source or 'its file'} is not there any more; {_name_it(run)}")


def _import_file(path: Path, name: str = "") -> ModuleType:
    """Import a Python file: under the name it had, or as part of its package, or as a module of its own."""
    path = path.absolute()
    if not path.is_file():
        raise LoopNotFound(f"there is no file {path}")
    root, dotted = _root_of(path, name)
    if root != path.parent:
        module = _import(dotted, root)
        if (found := module.__file__) is None or not path.samefile(found):
            raise LoopNotFound(f"{path} cannot be imported: its name {dotted} is taken by {found}")
        return module
    return _import_alone(path)


def _root_of(path: Path, name: str) -> tuple[Path, str]:
    """The folder to import a file from, and its name there."""
    inside = path.parent if path.name == "__init__.py" else path.with_suffix("")
    parts = name.split(".")
    if inside.parts[-len(parts) :] == tuple(parts):
        return inside.parents[len(parts) - 1], name
    root = inside.parent
    while (root / "__init__.py").exists():
        root = root.parent
    return root, ".".join(inside.relative_to(root).parts)


def _import_alone(path: Path) -> ModuleType:
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    name = path.stem if known is None else str(path)  # a script may be called like a module that is loaded
    loader = SourceFileLoader(name, str(path))  # named, since a script need not end in .py
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    module = importlib.util.module_from_spec(cast("ModuleSpec", spec))
    sys.modules[name] = module
    _search(path.parent)
    try:
        _guarded(str(path), loader.exec_module, module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _import(name: str, root: Path) -> ModuleType:
    _search(root)
    if not all(name.split(".")):
        raise LoopNotFound(f"{name!r} is no name of a module; write module:loop or file.py:loop")
    return cast("ModuleType", _guarded(name, importlib.import_module, name))


def _guarded(name: str, load: Callable[..., Any], *args: Any) -> Any:
    """Run the code of a module; whatever it raises is told in one line."""
    try:
        with importing(name):
            return load(*args)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise LoopNotFound(
                f"there is no module {name} to import from {sys.path[0]}; file.py:loop names a file"
            ) from None
        raise LoopNotFound(f"{name} cannot be imported: {type(error).__name__}: {error}") from error


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _handles(module: ModuleType) -> Iterator[Handle]:
    return (value for value in vars(module).values() if isinstance(value, Loop | AsyncLoop))


def _resolve(module: ModuleType, qualname: str, target: str) -> Handle:
    found: Any = module
    for part in qualname.split("."):
        found = getattr(found, part, None)
    if found is None:
        names = ", ".join(handle.spec.fn.__qualname__ for handle in _handles(module)) or "none"
        raise LoopNotFound(f"{target}: {module.__name__} has no loop {qualname}; its loops: {names}")
    if isinstance(found, LoopMethod | AsyncLoopMethod):
        name = qualname.rpartition(".")[2]
        raise LoopNotFound(f"{target} is a method; resume it in Python, through its instance: obj.{name}.resume(...)")
    if not isinstance(found, Loop | AsyncLoop):
        raise LoopNotFound(f"{target} is no loop, but {type(found).__name__}; put @loop over it")
    return found


def _name_it(run: Run) -> str:
    return f"name it: loomc resume {run.id} module:loop (or file.py:loop)"
