"""Whatever goes wrong is one clean line and a status; what only reads leaves everything as it is."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from loomc_runner.cli.index import all_commands

GOLDEN = Path(__file__).parents[1] / "golden" / "loomc-0.3.0.db"

READING = [
    ["runs"],
    ["runs", "--json"],
    ["runs", "--tree"],
    ["questions"],
    ["resume", "climb", "--plan"],
    ["show", "climb"],
    ["show", "climb", "--json"],
    ["export", "climb"],
]
ALL = [*READING, ["resume", "climb"], ["fork", "climb", "--step", "0"]]


def listing(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file below a folder, with its size and content."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def assert_refused(outcome, status: int, message: str) -> None:
    """One line on standard error, nothing on standard output."""
    assert (outcome.status, outcome.out) == (status, "")
    assert outcome.err.startswith(f"loomc: {message}"), outcome.err
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("args", ALL, ids=" ".join)
def test_a_missing_database_is_named_and_not_made(here, tmp_path, args):
    """No command but a first run makes a database."""
    assert_refused(here(tmp_path, *args), 1, f"there is no database at {tmp_path}/.loomc/checkpoints.db; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [args for args in ALL if args[0] != "runs"], ids=" ".join)
def test_a_run_that_does_not_exist_is_named(here, workshop, args):
    """The message tells where it was looked for, and which command lists the runs."""
    outcome = here(workshop, args[0], "nobody", *args[2:])
    assert_refused(outcome, 1, f"there is no run nobody in {workshop}/.loomc/checkpoints.db; loomc runs lists ")


def foreign(path: Path, statement: str) -> None:
    """A database of somebody else."""
    with closing(sqlite3.connect(path)) as db:
        db.execute(statement)
        db.commit()


@pytest.mark.parametrize("args", [["runs"], ["show", "climb"], ["resume", "climb"], ["export", "climb"]], ids=" ".join)
def test_a_file_that_is_no_database_of_ours_is_left_alone(here, tmp_path, args):
    """Text, nothing, a folder, another program's tables, a newer version: each has its message."""
    (tmp_path / "text").write_text("some text\n" * 200)
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    foreign(tmp_path / "other", "CREATE TABLE songs (title)")
    foreign(tmp_path / "alike", "CREATE TABLE runs (id)")
    foreign(tmp_path / "newer", "PRAGMA user_version = 99")
    before = listing(tmp_path)
    messages = {
        "text": "it is not an SQLite database; name the right file with LOOMC_DB or --db",
        "empty": "there are no runs in ",
        "folder": "it cannot be opened; check the folder, or name another place",
        "other": "is a database of another program (tables: songs)",
        "alike": "is a database of another program (tables: runs)",
        "newer": "",
    }
    for name, message in messages.items():
        outcome = here(tmp_path, *args, "--db", name)
        assert_refused(outcome, 1, "")
        assert message in outcome.err
    assert listing(tmp_path) == before


def test_commands_that_read_change_no_file(loomc, workshop):
    """Not even beside the database, once it has been closed."""
    loomc(workshop, "runs")  # a database whose writer was killed is put in order by whoever opens it first
    before = listing(workshop)
    for args in READING:
        assert loomc(workshop, *args).status == 0
        assert listing(workshop) == before


def test_a_database_of_loomc_0_3_0_is_read_as_it_is(here, tmp_path):
    """Only a run changes its tables."""
    shutil.copy(GOLDEN, tmp_path / "old.db")
    before = listing(tmp_path)
    for args in (["runs"], ["show", "a71"], ["export", "a71"]):
        assert here(tmp_path, *args, "--db", "old.db").status == 0
    assert listing(tmp_path) == before


def test_the_database_is_named_by_option_or_environment(here, workshop, tmp_path_factory):
    """`--db` wins over LOOMC_DB, which wins over the folder; a file may even be called `memory`."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    database = str(workshop / ".loomc" / "checkpoints.db")
    assert here(elsewhere, "show", "climb", LOOMC_DB=database).status == 0
    assert here(elsewhere, "show", "climb", "--db", database, LOOMC_DB="nowhere").status == 0
    shutil.copy(database, elsewhere / "memory")
    assert here(elsewhere, "show", "climb", "--db", "memory").status == 0
    assert here(elsewhere, "fork", "climb", "--step", "0", "--db", "memory").status == 0
    assert here(elsewhere, "resume", "climb", "--db", f"sqlite:///{elsewhere}/memory").status == 0


def test_the_next_command_names_the_database_that_was_named(here, workshop):
    """What is printed can be typed as it is."""
    (workshop / ".loomc").rename(workshop / "my runs")
    database = ("--db", "my runs/checkpoints.db")
    assert (
        "go on       loomc resume fragile --db 'my runs/checkpoints.db'\n"
        in here(workshop, "show", "fragile", *database).out
    )
    assert here(workshop, "resume", "poor", *database).err.endswith(
        "resume poor --usd 0.18 --db 'my runs/checkpoints.db'\n"
    )
    assert here(workshop, "fork", "poor", "--step", "0", *database).out.endswith(" --db 'my runs/checkpoints.db'\n")


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["paint"], "No such command 'paint'."),
        (["runs", "--colour"], "No such option"),  # and its name, with or without quotes
        (["show"], "Missing argument 'RUN'."),
        (["runs", "--limit", "99999999999999999999"], "Invalid value for '--limit'"),
        (["calls", "climb", "--offset", "99999999999999999999"], "Invalid value for '--offset'"),
        (["resume", "climb", "--usd", "much"], "Invalid value for '--usd': "),
    ],
)
def test_a_usage_error_is_one_line(here, workshop, args, message):
    """It says what was wrong, and where help is."""
    outcome = here(workshop, *args)
    assert_refused(outcome, 2, message)
    assert outcome.err.endswith("(loomc --help tells more)\n")


def test_help_is_for_everybody(here, tmp_path):
    """`loomc` alone, and `-h` on every command, print help and succeed."""
    assert "resume     Go on with a run that stopped, and show its progress." in here(tmp_path, *[]).out
    for command in all_commands().commands:
        status, out, err = here(tmp_path, command, "-h")
        assert (status, err) == (0, "")
        assert "--db" in out
    assert here(tmp_path, "--version").out.startswith("loomc_runner ")


def test_a_damaged_row_is_one_line_too(here, workshop):
    """A row that no release has written is told with its run, and with the command that tells more."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE runs SET status = 'painted\x1b' WHERE id = 'climb'")
        db.commit()
    outcome = here(workshop, "show", "climb")
    assert_refused(outcome, 1, "")
    assert r"a row of run climb is damaged (ValueError: 'painted\x1b' is not a valid RunStatus)" in outcome.err
    assert outcome.err.endswith("; loomc verify climb tells more\n")


def test_what_nobody_thought_of_is_one_line_too(here, workshop):
    """It ends like everything else; Python's development mode shows where it came from."""
    with closing(sqlite3.connect(workshop / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE steps SET state_blob = '{\x1b' WHERE run_id = 'climb' AND step_n = -1")
        db.commit()
    outcome = here(workshop, "export", "climb")
    assert outcome.status == 1
    assert outcome.err.startswith("loomc: JSONDecodeError: ")
    assert outcome.err.endswith("(PYTHONDEVMODE=1 shows where it came from)\n")


def test_a_long_message_keeps_its_end(here, workshop):
    """The next command stands at the end of a line that was cut in its middle."""
    outcome = here(workshop, "show", "x" * 5000)
    assert len(outcome.err) < 1100
    assert outcome.err.endswith("loomc runs lists those there are\n")
