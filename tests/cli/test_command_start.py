"""What a command waits for before it does anything: as little as can be."""

from __future__ import annotations

import inspect

import pytest
import typer

from loomc_runner.cli.app import app
from loomc_runner.cli.index import COMMANDS, all_commands

SLOW = {"asyncio", "email", "filelock", "flow_xray", "jsonschema", "loom", "pydantic", "pydantic_core", "rich.console"}
"""What takes long to import, and no command needs that only reads."""

LOADED = (
    "import atexit, sys; from loomc_runner.cli import main; "
    "atexit.register(lambda: print('loaded', *sys.modules)); main(sys.argv[1:])"
)


@pytest.fixture
def loaded(run_python, workshop):
    """The modules that a command in a process of its own has imported by its end."""

    def run(*args: str) -> set[str]:
        done = run_python(workshop, "-c", LOADED, *args)
        assert (done.returncode, done.stderr) == (0, "")
        return {*done.stdout.splitlines()[-1].split()[1:]}

    return run


@pytest.mark.parametrize(
    "line",
    [
        "runs",
        "runs --db .loomc/checkpoints.db --loop ig --status completed --limit 3 --offset 0",
        "runs --tree",
        "runs --json",
        "show climb --limit 3 --json",
        "calls master",
        "attempts climb",
        "questions",
    ],
)
def test_reading_imports_nothing_slow(loaded, line):
    """What lists and shows is there at once, with options, too, and loads no other command."""
    modules = loaded(*line.split())
    assert modules & SLOW == set()
    command = line.split()[0]
    others = {f"loomc_runner.cli.{module}" for module, lines in COMMANDS.items() if command not in lines}
    assert others & modules == set()
    assert not {"loomc_runner.driver", "loomc_runner.handle", "loomc_runner.decorator"} & modules


@pytest.mark.parametrize("line", ["--help", "", "--version"])
def test_the_help_imports_no_command(loaded, line):
    """The names and their lines are known without any of the modules, and without a database."""
    modules = loaded(*line.split())
    assert modules & (SLOW | {"sqlite3"}) == set()
    assert {name for name in modules if name.startswith("loomc_runner")} == {
        "loomc_runner",
        *(f"loomc_runner.{name}" for name in ("cli", "cli.app", "cli.index", "cli.values", "errors")),
    }


def test_every_line_of_the_help_is_what_its_command_says():
    """Each command is known by its name and the first sentence of its own help; none is left out."""
    commands = all_commands().commands
    for name, command in commands.items():
        sentence = " ".join(command.whole().help.split("\n\n")[0].split())
        assert (command.name, command.help) == (name, sentence)
    registered = [info.name or info.callback.__name__ for info in app.registered_commands]
    assert sorted(registered) == sorted(commands)


def by_typer(name: str) -> typer.core.TyperCommand:
    """A command that typer made with nothing of ours."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name)(inspect.unwrap(all_commands().commands[name].whole().callback))
    return typer.main.get_command(alone)


def parsed(command: typer.core.TyperCommand, args: list[str]) -> object:
    """The values that a command would be called with, and their types; or why it refuses."""
    try:
        values = command.make_context("loomc", [*args]).params
    except Exception as error:
        return type(error), error.format_message()
    return {name: (type(value), value) for name, value in values.items()}


NUMBERS = ["0", "7", "007", "1000000000", "1000000001", "-1", "+1", "1_0", " 1", "1.0", "1.5", "x", "", "٣", "9" * 5000]
TEXTS = ["", "climb", " climb ", "ä", "a\nb", "\x1b[31m", "\udcff", "\u200b"]


@pytest.mark.parametrize(
    "args",
    [
        [],
        *(["--limit", number] for number in NUMBERS),
        *(["--status", text] for text in ("completed", "COMPLETED", "sleeping", "")),
        *(["--loop", text] for text in TEXTS),
        ["--tree", "--json"],
        ["--limit"],
        ["--nothing"],
        ["more"],
    ],
)
def test_values_are_the_same_as_typer_makes_them(args):
    """What is converted without typer's help is what typer would have made of it; it also says what is wrong."""
    assert parsed(all_commands().commands["runs"].whole(), args) == parsed(by_typer("runs"), args)


@pytest.mark.parametrize("args", [[], *([text] for text in TEXTS), ["a", "b"], ["a", "--limit", "2", "--follow"]])
def test_arguments_are_the_same_as_typer_makes_them(args):
    """An argument that must be there is asked for, and is taken as it is."""
    assert parsed(all_commands().commands["show"].whole(), args) == parsed(by_typer("show"), args)


@pytest.mark.parametrize("args", [[], ["a"], ["a", "--yes"], ["a", "b", "--db", "x"], ["", "-y"]])
def test_lists_are_the_same_as_typer_makes_them(args):
    """So are several values of one argument."""
    assert parsed(all_commands().commands["delete"].whole(), args) == parsed(by_typer("delete"), args)
