"""Where a loop is imported from: its file first, under the name it had."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loomc_runner.errors import LoopNotFound, RunMismatch
from loomc_runner.locate import loop_named, loop_of
from loomc_runner.records import Run

NOW = datetime(2026, 1, 1, tzinfo=UTC)

LOOP = """
from loomc_runner import loop

@loop
def refine(state: dict) -> dict:
    return state
"""


@pytest.fixture(autouse=True)
def _forgotten_modules(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """What a test imports is gone after it."""
    monkeypatch.chdir(tmp_path)
    path, modules = [*sys.path], dict(sys.modules)
    yield
    sys.path[:] = path
    for name in {*sys.modules} - {*modules}:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]
    sys.modules["__main__"] = modules["__main__"]


def write(folder: Path, files: dict[str, str]) -> None:
    """Write files below a folder."""
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def run_of(loop: str | None, source: Path | None = None, **fields) -> Run:
    """A run of a loop."""
    return Run("r", loop, NOW, NOW, source=None if source is None else str(source), **fields)


def test_a_script_is_imported_from_its_file(tmp_path):
    """Its folder is searched for what it imports, and its types are found where they said they live."""
    write(tmp_path / "far", {"script.py": f"from helper import X\n{LOOP}", "helper.py": "X = 1"})
    handle = loop_of(run_of("__main__:refine", tmp_path / "far/script.py"))
    assert handle.spec.name == "script:refine"
    assert sys.modules["__main__"].refine is handle


@pytest.mark.parametrize("name", ["script", "my-script.py", "my.script.py"])
def test_a_script_may_have_any_name(tmp_path, name):
    """Any file that Python ran can be imported again."""
    write(tmp_path, {name: LOOP})
    assert loop_of(run_of("__main__:refine", tmp_path / name)).spec.source == str(tmp_path / name)


def test_a_script_named_like_a_loaded_module_leaves_that_alone(tmp_path):
    """A file may be called json.py; nobody else gets it instead of the real one."""
    import json

    write(tmp_path, {"json.py": LOOP})
    assert loop_of(run_of("__main__:refine", tmp_path / "json.py")).spec.owns(
        run_of("__main__:refine", tmp_path / "json.py")
    )
    assert sys.modules["json"] is json


@pytest.mark.parametrize("name", ["outer.inner.work:refine", "__main__:refine"])
def test_a_module_of_a_package_is_imported_as_such(tmp_path, name):
    """Its root is found from its name, or from the __init__.py beside it; relative imports work."""
    write(tmp_path, {"outer/__init__.py": "", "outer/inner/__init__.py": "", "outer/inner/tool.py": "X = 1"})
    write(tmp_path, {"outer/inner/work.py": f"from .tool import X\n{LOOP}"})
    assert loop_of(run_of(name, tmp_path / "outer/inner/work.py")).spec.name == "outer.inner.work:refine"


def test_a_namespace_package_is_found_by_the_name_of_its_module(tmp_path):
    """Without any __init__.py the recorded name tells the root."""
    write(tmp_path, {"space/work.py": f"from .tool import X\n{LOOP}", "space/tool.py": "X = 1"})
    assert loop_of(run_of("space.work:refine", tmp_path / "space/work.py")).spec.name == "space.work:refine"


def test_a_loop_in_the_file_of_a_package_itself(tmp_path):
    """An __init__.py is imported as its package."""
    write(tmp_path, {"box/__init__.py": LOOP})
    assert loop_of(run_of("box:refine", tmp_path / "box/__init__.py")).spec.name == "box:refine"


def test_a_file_is_imported_once(tmp_path):
    """Two looks give the same loop."""
    write(tmp_path, {"once.py": LOOP})
    run = run_of("once:refine", tmp_path / "once.py")
    assert loop_of(run) is loop_of(run)


def test_a_file_that_is_gone_is_looked_for_by_its_name(tmp_path):
    """The project was moved: from its new folder the module is found."""
    write(tmp_path, {"moved.py": LOOP})
    assert loop_of(run_of("moved:refine", tmp_path / "gone.py")).spec.name == "moved:refine"
    with pytest.raises(LoopNotFound, match=r"gone\.py is not there any more; name it: loomc resume r module:loop"):
        loop_of(run_of("__main__:refine", tmp_path / "gone.py"))
    with pytest.raises(LoopNotFound, match="there is no module nowhere to import from"):
        loop_of(run_of("nowhere:refine"))


def test_another_module_of_the_same_name_is_not_taken_for_it(tmp_path):
    """Where a name is taken already, the message says by which file."""
    for folder in ("one", "two"):
        write(tmp_path / folder, {"pack/__init__.py": "", "pack/work.py": LOOP})
    loop_of(run_of("pack.work:refine", tmp_path / "one/pack/work.py"))
    with pytest.raises(LoopNotFound, match=r"two/pack/work\.py cannot be imported: its name pack\.work is taken by "):
        loop_of(run_of("pack.work:refine", tmp_path / "two/pack/work.py"))


def test_a_loop_with_a_name_of_its_own_is_found_in_its_file(tmp_path):
    """Any name will do; when nobody has it any more the message says so."""
    write(tmp_path, {"named.py": LOOP.replace("@loop", "@loop(name='My: own')")})
    assert loop_of(run_of("My: own", tmp_path / "named.py")).spec.fn.__name__ == "refine"
    with pytest.raises(LoopNotFound, match="named has no loop with the name 'Yours' any more; name it: "):
        loop_of(run_of("Yours", tmp_path / "named.py"))


def test_a_static_method_is_a_loop_like_any_other(tmp_path):
    """It needs no instance."""
    method = textwrap.indent(LOOP.replace("@loop", "@staticmethod\n@loop"), "    ")
    write(tmp_path, {"static.py": f"class A:{method}"})
    assert loop_of(run_of("static:A.refine", tmp_path / "static.py")).spec.name == "static:A.refine"


def test_a_module_that_fails_can_be_imported_again(tmp_path):
    """Half a module does not stay behind."""
    write(tmp_path, {"flaky.py": f"import nothing_like_it\n{LOOP}"})
    run = run_of("flaky:refine", tmp_path / "flaky.py")
    with pytest.raises(
        LoopNotFound, match=r"flaky\.py cannot be imported: ModuleNotFoundError: No module named 'nothing"
    ):
        loop_of(run)
    write(tmp_path, {"flaky.py": LOOP})
    assert loop_of(run).spec.name == "flaky:refine"


def test_what_a_module_of_a_package_lacks_is_not_taken_for_the_module(tmp_path):
    """`No module named x` inside it is its own trouble."""
    write(tmp_path, {"part/__init__.py": "", "part/work.py": f"import part.missing\n{LOOP}"})
    with pytest.raises(
        LoopNotFound, match=r"part\.work cannot be imported: ModuleNotFoundError: No module named 'part\.missing'"
    ):
        loop_of(run_of("part.work:refine", tmp_path / "part/work.py"))


def test_a_named_loop_takes_a_run_only_where_the_run_has_none(tmp_path):
    """It owns the run, or the run's own loop is nowhere; else it is another loop's run."""
    write(tmp_path, {"new.py": LOOP + LOOP.replace("refine", "different"), "old.py": LOOP})
    assert loop_named("new:refine", run_of("new:refine", tmp_path / "new.py")).spec.adopts is None
    assert loop_named("new:refine", run_of("gone:refine", tmp_path / "gone.py")).spec.adopts == "r"
    assert loop_named("new.py:refine", run_of(None)).spec.adopts == "r"
    with pytest.raises(RunMismatch, match="run r belongs to old:refine, not to new:different; loomc resume r"):
        loop_named("new:different", run_of("old:refine", tmp_path / "old.py"))
