"""The documentation is run: every Python block, every command, every public name."""

import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from command_page import COMMANDS, made, section, written
from pydantic import BaseModel

import loomc_runner
from loomc_runner.cli import main
from loomc_runner.store.schema import VERSION, prepare

ROOT = Path(__file__).parents[2]
LOOMC = Path(sys.executable).with_name("loomc")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


class Draft(BaseModel):
    text: str


README_NAMES = {
    "Draft": Draft,
    "grade": lambda draft: len(draft.text),
    "prompt": lambda draft: [{"role": "user", "content": f"Make this better: {draft.text}"}],
}


def blocks(page: Path) -> list[str]:
    """The Python blocks of a page, in order."""
    return BLOCK.findall(page.read_text())


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=lambda page: page.name)
def test_every_python_block_of_a_page_runs(page, tmp_path, monkeypatch, vendor):
    """The blocks of a page run one after the other, as a reader would type them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", vendor.url)
    monkeypatch.setenv("OPENAI_BASE_URL", f"{vendor.url}/v1")
    monkeypatch.delenv("LOOMC_DB", raising=False)
    names = {"__name__": "a_page_of_the_docs", **(README_NAMES if page.name == "README.md" else {})}
    for block in blocks(page):
        exec(compile(block, str(page), "exec"), names)


def test_the_tutorial_prints_what_it_says(tmp_path):
    """The first example, saved as a file and run, prints the line the tutorial shows and can be shown afterwards."""
    page = ROOT / "docs/tutorial/first-loop.md"
    (tmp_path / "shorten.py").write_text(blocks(page)[0])
    ran = subprocess.run([sys.executable, "shorten.py"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() in page.read_text()
    shown = subprocess.run([LOOMC, "runs"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "completed" in shown.stdout
    assert "__main__:shorten" in shown.stdout


@pytest.mark.parametrize("name", sorted(set(loomc_runner.__all__)))
def test_every_public_name_is_in_the_reference(name):
    """What users can import is documented by name, errors on the page of errors."""
    reference = "\n".join(page.read_text() for page in (ROOT / "docs/reference").glob("*.md"))
    value = getattr(loomc_runner, name)
    is_error = isinstance(value, type) and issubclass(value, Exception | Warning)
    assert f"loomc_runner.{name}\n" in reference or is_error or f".{name}\n" in reference
    assert value.__doc__


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_is_documented_with_its_options(command, capsys):
    """Each command stands in the manual with every option that its help names."""
    with pytest.raises(SystemExit):
        main([command, "--help"])
    helped = capsys.readouterr().out
    assert "--db" in helped
    for option in set(re.findall(r"--[a-z-]+", helped)) - {"--help"}:
        assert option in section(command), f"{option} of loomc {command}"


def test_the_manual_says_what_the_help_says():
    """The part that is made of the help is up to date; `python tests/docs/command_page.py` writes it anew."""
    assert written() == made()


def test_the_readme_names_two_commands_that_exist():
    """The README's two commands install from here and start files that are here."""
    commands = re.findall(r"^pip install -e .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert len(commands) == 2
    assert "examples/code_fixer.py" in commands[0]
    assert (ROOT / "examples/code_fixer.py").exists()
    assert commands[1].endswith("python -m pytest")


def test_the_changelog_tells_of_this_version():
    """The version that is installed has its own entry."""
    assert f"## {loomc_runner.__version__} " in (ROOT / "CHANGELOG.md").read_text()


def test_the_page_of_the_database_names_its_version_and_every_column():
    """Whoever reads the file with another tool finds there what is in it."""
    page = (ROOT / "docs/reference/database.md").read_text()
    assert f"is the version of the tables, {VERSION}." in page
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
        prepare(db, ROOT / "none.db")
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        columns = {row[1] for table in tables for row in db.execute(f"PRAGMA table_info({table})")}
    assert [name for name in [*tables, *columns] if not re.search(rf"\b{name}\b", page)] == []
