"""The shape of the package: imports point down, parts are small, and nobody reaches into another module."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loomc_runner

PACKAGE = Path(loomc_runner.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = {str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8") for path in MODULES}

LAYERS = (  # bottom first; design.md, section 4
    "errors",
    "clock records",
    "scores",
    "retry",
    "state budget converge backtrack deadline keep sigterm store",
    "journal ledger",
    "history context spec report outside notices",
    "watching works",
    "questions breaker current holds",
    "calls step export progress plot trace whatif",
    "providers",
    "interrupt",
    "cursor",
    "decide announce",
    "driver",
    "place opening",
    "forking running plan",
    "stream",
    "children",
    "handle",
    "decorator",
    "locate",
    "cli testing",
)
RANK = {unit: rank for rank, layer in enumerate(LAYERS) for unit in layer.split()}

EAGER = {"rich", "typer", "flow_xray", "filelock", "pydantic", "pydantic_core", "asyncio", "sqlite3"}
"""What a program that only imports `loomc_runner` shall not wait for."""


def unit_of(module: str) -> str:
    """The unit a module belongs to: its own name, or that of its folder."""
    return Path(module).parts[0].removesuffix(".py")


def imported_units(source: str) -> Iterator[str]:
    """The units that a source imports, also inside functions; `__init__` for names of the top, the version aside."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "loomc_runner":
            names = [f"loomc_runner.{alias.name}" for alias in node.names if alias.name != "__version__"]
        elif isinstance(node, ast.ImportFrom):
            names = ["." * node.level + (node.module or "")]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top in {"loomc_runner", ""}:
                unit = rest.partition(".")[0]
                yield unit if unit in RANK else "__init__"


def functions(source: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """The functions and methods of a source."""
    return (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """The lines of a function without its docstring."""
    first = function.body[0]
    is_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = (first.end_lineno or 0) - first.lineno + 1 if is_docstring else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def is_private(name: str | None) -> bool:
    """Whether a name is meant for its own module only."""
    return name is not None and name.startswith("_") and not name.endswith("__")


def private_names(source: str) -> set[str]:
    """The private names that a module makes: functions, classes, variables and attributes."""
    made: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            made.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            made.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            made.add(node.attr)
    return {name for name in made if is_private(name)}


def foreign_names(source: str) -> Iterator[str]:
    """The private names of others that a module uses; one's own, and those of one's base classes, are not."""
    own, standard = private_names(source), {"sys._getframe", "os._exit"}
    own |= {"_fields", "_replace"}  # what every named tuple has
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            inherited = isinstance(node.value, ast.Name) and node.value.id in {"self", "cls"}
            if not inherited and ast.unparse(node) not in standard:
                yield ast.unparse(node)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("loomc_runner"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names if is_private(alias.name))


def test_every_module_has_its_row() -> None:
    """A new unit is given a place in the rows, and a row names only units that there are."""
    units = {unit_of(module) for module in SOURCES} - {"__init__"}
    assert units == set(RANK)


@pytest.mark.parametrize("module", SOURCES)
def test_imports_only_point_down(module: str) -> None:
    """A unit may import lower rows only; units of one row never import each other, and nothing imports the top."""
    unit = unit_of(module)
    if unit == "__init__":
        return
    used = set(imported_units(SOURCES[module])) - {unit}
    assert [name for name in used if RANK.get(name, len(LAYERS)) >= RANK[unit]] == []


@pytest.mark.parametrize("module", SOURCES)
def test_modules_and_functions_are_small(module: str) -> None:
    """No module is longer than 400 lines, and no function than 50, docstrings aside."""
    assert len(SOURCES[module].splitlines()) <= 400
    assert [function.name for function in functions(SOURCES[module]) if lines_of(function) > 50] == []


@pytest.mark.parametrize("module", SOURCES)
def test_nobody_reaches_into_another_module(module: str) -> None:
    """A name with an underscore is used where it is made, and nowhere else."""
    assert list(foreign_names(SOURCES[module])) == []


@pytest.mark.parametrize("module", SOURCES)
def test_imports_are_absolute(module: str) -> None:
    """Every import says where it goes."""
    nodes = ast.walk(ast.parse(SOURCES[module]))
    assert [node.lineno for node in nodes if isinstance(node, ast.ImportFrom) and node.level] == []


def test_no_public_name_hides_a_module() -> None:
    """`import loomc_runner.spec` gives the module: no name of the package is the same as one."""
    assert set(loomc_runner.__all__) & set(RANK) == set()


def test_the_public_names_are_sorted_and_there() -> None:
    """`from loomc_runner import *` gives what is documented."""
    assert loomc_runner.__all__ == sorted(loomc_runner.__all__)
    assert [name for name in loomc_runner.__all__ if not hasattr(loomc_runner, name)] == []


DEFINITION = """
from loomc_runner import Budget, loop
@loop(budget=Budget(usd=1), checkpoint='memory')
def refine(n: int) -> int: return n + 1
"""


@pytest.mark.parametrize("code", ["import loomc_runner", DEFINITION])
def test_importing_the_package_loads_nothing_heavy(code: str) -> None:
    """Whoever imports a module with a loop in it does not wait for what only a run, a store or a terminal needs."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & EAGER == set()


@pytest.mark.parametrize(
    ("source", "units"),
    [
        ("from loomc_runner.store.base import Store", {"store"}),
        ("from loomc_runner import opening, Budget", {"opening", "__init__"}),
        ("import loomc_runner", {"__init__"}),
        ("def f():\n    from loomc_runner.state import Codec\n    import json", {"state"}),
        ("from . import errors", {"__init__"}),
        ("from loomc_runner import __version__", set()),
    ],
)
def test_the_rule_sees_every_kind_of_import(source: str, units: set[str]) -> None:
    """The check of the imports would notice each way to break it."""
    assert set(imported_units(source)) == units


def test_the_rule_sees_private_names_of_others() -> None:
    """The check of private names tells one's own from another's."""
    source = (
        "from loomc_runner.a import _b\nclass C:\n    _d = 1\nself._d\nself._inherited\nother._d\n"
        "other._e\nother.__len__\nsys._getframe(1)"
    )
    assert list(foreign_names(source)) == ["loomc_runner.a._b", "other._e"]


def test_a_module_is_there_after_a_bare_import():
    """Names of the top are looked up when they are used; so are the modules, and what is none is refused."""
    code = "import loomc_runner as m; print(m.records.__name__, m.Budget.__name__, hasattr(m, 'nothing'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["loomc_runner.records", "Budget", "False"]
