"""The code fixer as its user meets it: the command line, and a run that is killed and resumed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FIXER = [sys.executable, str(ROOT / "examples" / "code_fixer.py")]
LOOMC = [sys.executable, "-c", "from loomc_runner.cli import main; main()"]
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.endswith("_API_KEY")}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}


def run(command: list[str], *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in an empty folder of its own."""
    return subprocess.run(
        [*command, *arguments], cwd=cwd, env=ENVIRONMENT | environment, capture_output=True, text=True, check=False
    )


def run_id_in(output: str) -> str:
    """The id that the fixer prints before it begins."""
    return next(line for line in output.splitlines() if line.startswith("run ")).split()[1]


def test_a_bug_is_fixed_and_its_patch_shown(tmp_path: Path) -> None:
    """The run id comes first, progress goes to standard error, the patch to standard output; status 0."""
    done = run(FIXER, "gcd", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"loomc resume {run_id_in(done.stdout)}" in done.stdout
    assert "-    return gcd(a % b, b)\n+    return gcd(b, a % b)\n" in done.stdout
    for part in ("step 0", "score 0.25", "$0.00 of $1.00", "of 5m00s"):
        assert part in done.stderr
    assert "Warning" not in done.stderr


def test_a_pair_of_files_is_repaired_into_another_file(tmp_path: Path) -> None:
    """Any file and its tests can be given; the file stays as it is, and --out takes the repaired one."""
    source, tests, out = (tmp_path / name for name in ("mine.py", "test_mine.py", "fixed.py"))
    source.write_text("def most(a, b):  # of two\n    return min(a, b)\n", encoding="utf-8")
    tests.write_text("from mine import most\ndef test_most(): assert most(1, 2) == 2\n", encoding="utf-8")
    done = run(FIXER, str(source), str(tests), "--out", str(out), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "min" in source.read_text(encoding="utf-8")
    assert run([sys.executable, "-c", "from fixed import most; print(most(1, 2))"], cwd=tmp_path).stdout == "2\n"


def test_what_cannot_be_fixed_ends_with_status_1(tmp_path: Path) -> None:
    """When every patch was tried in vain the run ends, and says so."""
    source, tests = tmp_path / "mine.py", tmp_path / "test_mine.py"
    source.write_text("def word():\n    return 'a'\n", encoding="utf-8")
    tests.write_text("from mine import word\ndef test_word(): assert word() == 'b'\n", encoding="utf-8")
    done = run(FIXER, str(source), str(tests), cwd=tmp_path)
    assert (done.returncode, "Warning" in done.stderr) == (1, False), done.stderr
    assert "no patch helped\n(done: " in done.stdout


def test_what_needs_no_fixing_starts_no_run(tmp_path: Path) -> None:
    """Code that passes its tests is left alone, and nothing is stored."""
    source, tests = tmp_path / "mine.py", tmp_path / "test_mine.py"
    source.write_text("def one():\n    return 1\n", encoding="utf-8")
    tests.write_text("from mine import one\ndef test_one(): assert one() == 1\n", encoding="utf-8")
    done = run(FIXER, str(source), str(tests), cwd=tmp_path)
    assert (done.returncode, (tmp_path / ".loomc").exists()) == (0, False), done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no_such_bug"], "give a file and its test file, or one of: binary_search, "),
        (["no_such.py", "test_no_such.py"], "no_such.py"),
        (["--out", "x.py"], "--out takes one repaired file"),
        (["--resume", "nothing"], "nothing"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(arguments: list[str], message: str, tmp_path: Path) -> None:
    """What cannot begin says why in one line, with status 2."""
    done = run(FIXER, *arguments, cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert done.stderr.startswith("code_fixer: ")
    assert message in done.stderr


def test_the_input_is_never_overwritten(tmp_path: Path) -> None:
    """--out may name neither the file nor its tests."""
    source, tests = tmp_path / "mine.py", tmp_path / "test_mine.py"
    source.write_text("x = 1\n", encoding="utf-8")
    tests.write_text("def test_a(): pass\n", encoding="utf-8")
    done = run(FIXER, str(source), str(tests), "--out", "mine.py", cwd=tmp_path)
    assert (done.returncode, "would overwrite" in done.stderr) == (2, True)


def test_the_shipped_bugs_are_listed(tmp_path: Path) -> None:
    """--list names them, one a line."""
    names = run(FIXER, "--list", cwd=tmp_path).stdout.split()
    assert len(names) >= 6
    assert {"gcd", "binary_search", "wrap"} <= set(names)


def test_importing_the_example_writes_nothing(tmp_path: Path) -> None:
    """A loop at module level is only declared; a run makes the database."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import code_fixer"
    assert run([sys.executable, "-c", script], cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_killed_run_is_finished_by_loomc_resume(tmp_path: Path) -> None:
    """After `kill -9`, resume goes on with the next patch and ends where an undisturbed run ends."""
    one, two = tmp_path / "killed", tmp_path / "undisturbed"
    one.mkdir()
    two.mkdir()
    fixer = subprocess.Popen(
        [*FIXER, "day_of_year"], cwd=one, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert fixer.stderr is not None
    while "step 2" not in (line := fixer.stderr.readline()):
        assert line
    fixer.kill()
    run_id = run_id_in(fixer.communicate()[0])
    resumed = run(LOOMC, "resume", run_id, cwd=one)
    assert resumed.returncode == 0, resumed.stderr
    shown = run(FIXER, "--resume", run_id, cwd=one).stdout
    whole = run(FIXER, "day_of_year", cwd=two).stdout
    patch = whole[whole.index("---") : whole.index("\nfile ")]
    assert patch in shown
    assert shown.split()[-4:-3] == whole.split()[-4:-3]  # as many patches: none was tried twice
