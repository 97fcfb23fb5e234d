"""`loomc resume`: the loop is found where it was defined, and the run really goes on."""

from __future__ import annotations

import json
import shutil
import signal
import time
from pathlib import Path

import pytest

from loomc_runner.records import Run, RunStatus
from loomc_runner.store import open_reader

GOLDEN = Path(__file__).parents[1] / "golden"

OLD = {run["name"]: run["id"] for run in json.loads((GOLDEN / "loomc-0.3.0.json").read_text())["runs"]}


def stored(folder: Path, run_id: str) -> Run:
    """The run as it is stored."""
    return open_reader(folder / ".loomc" / "checkpoints.db").get_run(run_id)


def wait_until_it_hangs(process) -> None:
    """Read what the steps print until the one that waits."""
    assert process.stdout.readline() == "hanging\n"


def assert_completed(outcome, steps: int) -> None:
    """The command succeeded and says so in one line."""
    assert outcome.status == 0, outcome.err
    assert f" completed after {steps} steps, " in outcome.out
    assert len(outcome.out.splitlines()) == 1


@pytest.mark.parametrize(("run", "kept", "steps"), [("fragile", 2, 4), ("mortal", 3, 6)])
def test_a_run_that_failed_or_was_killed_goes_on(loomc, workshop, run, kept, steps):
    """From any folder: committed steps are not run again, and the loop keeps the name it has."""
    before = stored(workshop, run)
    outcome = loomc(workshop, "resume", run)
    assert_completed(outcome, steps)
    assert [line.split(" · ")[1] for line in outcome.err.splitlines()] == [f"step {n}" for n in range(kept, steps)]
    after = stored(workshop, run)
    assert (after.status, after.steps, after.loop) == (RunStatus.COMPLETED, steps, before.loop)
    assert after.nano_usd > before.nano_usd


def test_the_result_as_json_stands_alone_on_standard_output(here, workshop):
    """`--json` is the whole result; progress, and whatever the steps print, goes to standard error."""
    outcome = here(workshop, "resume", "fragile", "--json", CHATTY="1")
    keys = "run_id status stop_reason state result best_state best_score best_step steps cost_usd tokens elapsed"
    result = json.loads(outcome.out)
    assert "working\n" in outcome.err
    assert list(result) == keys.split()
    assert (result["status"], result["state"], result["result"]) == ("completed", {"n": 3, "text": "x"}, {"found": 7})


def test_a_completed_run_gives_its_stored_result(here, workshop):
    """Nothing is executed."""
    outcome = here(workshop, "resume", "climb", BROKEN="1")
    assert_completed(outcome, 5)
    assert outcome.out.endswith("best score 0 at step 1: converged: score_plateau(patience=3)\n")
    assert outcome.err == ""
    assert stored(workshop, "climb").resumes == 0


def test_an_exhausted_run_needs_a_higher_limit(here, workshop):
    """Without one it stays where it is, and the message has the command; that command works."""
    refused = here(workshop, "resume", "poor")
    assert refused.status == 1
    assert refused.err == (
        "loomc: run poor budget: usd 0.12 of 0.10 ($0.09 spent, the rest expected); "
        "to go on: loomc resume poor --usd 0.18\n"
    )
    assert_completed(here(workshop, "resume", "poor", "--usd", "0.18"), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--usd", "0.05"], "Budget(usd=0.05): run poor has used 0.09 already"),
        (["--usd", "-1"], "Budget(usd=-1.0): give dollars, zero or more"),
        (["--usd", "nan"], "Budget(usd=nan): give dollars, zero or more"),
        (["--iterations", "2"], "Budget(iterations=2): run poor has used 3 already"),
        (["--wall-clock", "soon"], "Budget(wall_clock='soon'): not a duration: 'soon'"),
        (["--tokens", "0"], "Budget(tokens=0): give a whole number, at least 1"),
    ],
)
def test_a_limit_that_cannot_be_is_refused(here, workshop, options, message):
    """The message names the value; the run is left as it is."""
    status, out, err = here(workshop, "resume", "poor", *options)
    assert (status, out) == (1, "")
    assert err.startswith(f"loomc: {message}")
    assert stored(workshop, "poor").resumes == 0


def test_every_limit_can_be_raised(here, workshop):
    """The new totals are stored, and those not named stay."""
    options = ("--usd", "0.12", "--iterations", "30", "--tokens", "9000", "--wall-clock", "1h")
    assert here(workshop, "resume", "poor", *options).status == 1
    assert stored(workshop, "poor").budget == {"usd": 0.12, "iterations": 30, "tokens": 9000, "wall_clock": "3600s"}


def test_a_stalled_run_goes_on_only_when_forced(here, workshop):
    """It stalled for a reason; the message has the command that goes on all the same."""
    refused = here(workshop, "resume", "stubborn")
    assert refused.status == 1
    assert "loomc resume stubborn --force" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert here(workshop, "resume", "stubborn", "--force").status == 1
    assert stored(workshop, "stubborn").steps > 3


def test_a_step_that_fails_ends_in_one_clean_line(here, workshop):
    """The line names the run, the error without its control characters, and the command to go on."""
    outcome = here(workshop, "resume", "fragile", BROKEN="1")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint.startswith(r"loomc: run fragile failed: ValueError: [bold]no[/bold] \x1b[31mred")
    assert outcome.err.endswith("; to go on: loomc resume fragile (--traceback shows where it came from)\n")
    assert len(outcome.err.splitlines()) == 1


def test_a_traceback_is_shown_on_request(here, workshop):
    """`--traceback` shows the line of the step that raised, before the same message."""
    outcome = here(workshop, "resume", "fragile", "--traceback", BROKEN="1")
    assert "raise ValueError(NASTY)" in outcome.err
    assert outcome.complaint.startswith("loomc: run fragile failed: ValueError: ")


def test_a_run_of_a_script_finds_the_types_of_its_states(here, workshop):
    """A state type that only the running script knew as `__main__:Draft` is found in its file, again and again."""
    assert stored(workshop, "undeclared").state_type == "__main__:Draft"
    for iterations in (4, 5):
        assert "iterations" in here(workshop, "resume", "undeclared", "--iterations", str(iterations)).err
        assert stored(workshop, "undeclared").steps == iterations


def test_a_loop_with_a_name_of_its_own_is_found_by_it(here, workshop):
    """The name need not look like a module."""
    here(workshop, "resume", "named", "--iterations", "4")
    assert (stored(workshop, "named").steps, stored(workshop, "named").loop) == (4, "A loop: called by name")


def test_a_loop_of_an_imported_module_goes_on(here, run_python, fresh):
    """A run names its loop as module:loop, and is resumed from the same folder and from another."""
    run_python(fresh, "-c", "import lab; lab.leave('fragile')", BROKEN="1")
    assert stored(fresh, "fragile").loop == "lab:fragile"
    assert here(fresh, "resume", "fragile", BROKEN="1").status == 1
    database = str(fresh / ".loomc" / "checkpoints.db")
    assert_completed(here(fresh.parent, "resume", "fragile", "--db", database), 4)


@pytest.mark.parametrize(
    "args",
    [
        ("-m", "studio.painting"),
        ("-c", "from studio.painting import stroke as s; s.run({'strokes': 0}, run_id='stroke')"),
    ],
)
def test_a_module_of_a_package_may_use_relative_imports(loomc, run_python, fresh, args):
    """Whether it was run with -m or imported, the file is imported as a part of its package."""
    run_python(fresh, *args)
    (fresh / "elsewhere").mkdir()
    outcome = loomc(fresh / "elsewhere", "resume", "stroke", "--iterations", "9", LOOMC_DB="../.loomc/checkpoints.db")
    assert_completed(outcome, 3)


def test_a_file_that_has_moved_is_named_by_hand(here, fresh, run_python):
    """Where the record cannot find the loop, the message says how to name it, and then it goes on."""
    run_python(fresh, "lab.py", "leave", "fragile", BROKEN="1")
    (fresh / "lab.py").rename(fresh / "laboratory.py")
    refused = here(fresh, "resume", "fragile")
    assert refused.status == 1
    assert "lab.py is not there any more; name it: loomc resume fragile module:loop (or file.py:loop)" in refused.err
    assert_completed(here(fresh, "resume", "fragile", "laboratory:fragile"), 4)
    assert stored(fresh, "fragile").loop == "laboratory:fragile"


def test_a_run_is_not_given_to_another_loop(here, workshop, finished):
    """A loop that is named by mistake is refused while the run's own is there."""
    outcome = here(workshop, "resume", "fragile", f"{finished}/lab.py:poor")
    assert outcome.err == "loomc: run fragile belongs to lab:fragile, not to lab:poor; loomc resume fragile\n"
    assert stored(workshop, "fragile").resumes == 0


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lab", "'lab' names no loop; write module:loop or file.py:loop"),
        ("nowhere:climb", "there is no module nowhere to import from "),
        ("no/where.py:climb", "there is no file "),
        ("{lab}:nobody", "{lab}:nobody: lab has no loop nobody; its loops: climb, zigzag, "),
        ("{lab}:Draft", "{lab}:Draft is no loop, but type; put @loop over it"),
        ("..:x", "'..' is no name of a module; write module:loop or file.py:loop"),
    ],
)
def test_a_loop_that_is_not_there_is_named_in_the_message(here, workshop, finished, target, message):
    """Each way to miss it has its own message, in one line."""
    lab = str(finished / "lab.py")
    outcome = here(workshop, "resume", "fragile", target.format(lab=lab))
    assert outcome.status == 1
    assert outcome.err.startswith(f"loomc: {message.format(lab=lab)}")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("method", "__main__:Painter.paint (of run method) is a method; resume it in Python, through its instance: "),
        ("inner", "__main__:make_inner.<locals>.inner is defined inside a function, so nobody else can import it; "),
        ("master-0", "run master-0 is a child of run master, which pays for it; go on with that one, or branch off: "),
    ],
)
def test_a_run_that_the_terminal_cannot_resume_says_where_it_can(here, workshop, run, message):
    """A method needs its instance, a function in a function its caller, and a child run the parent that pays."""
    outcome = here(workshop, "resume", run, "--iterations", "9")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.startswith(f"loomc: {message}")
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_like_it", "ModuleNotFoundError: No module named 'nothing_like_it'"),
        ("def", "SyntaxError: invalid syntax"),
        ("raise SystemExit(3)", "SystemExit: 3"),
    ],
)
def test_a_file_that_cannot_be_imported_says_why(here, fresh, run_python, code, message):
    """An error in the user's own module is one line too, unless its traceback is asked for."""
    run_python(fresh, "lab.py", "leave", "fragile", BROKEN="1")
    lab = fresh / "lab.py"
    lab.write_text(f"{lab.read_text()}\n{code}\n")
    outcome = here(fresh, "resume", "fragile")
    assert outcome.err.startswith(f"loomc: {lab} cannot be imported: {message}")
    assert len(outcome.err.splitlines()) == 1
    assert "Traceback" in here(fresh, "resume", "fragile", "--traceback").err


def test_a_script_that_runs_its_loop_when_it_is_imported_is_refused(here, fresh, run_python):
    """Importing it must not begin another run and pay for it."""
    (fresh / "bare.py").write_text(
        (fresh / "lab.py").read_text().partition("if __name__")[0] + "leave('fragile')\nfragile.run(Draft())\n"
    )
    run_python(fresh, "bare.py", BROKEN="1")
    before = here(fresh, "runs", "--json").out
    outcome = here(fresh, "resume", "fragile")
    assert 'bare.py runs a loop when it is imported; put that under: if __name__ == "__main__"' in outcome.err
    assert here(fresh, "runs", "--json").out == before


@pytest.mark.parametrize("target", ["{file}:summarize", "refinements_loops:summarize"])
def test_a_run_of_loomc_0_3_0_goes_on_with_the_loop_that_is_named(here, tmp_path, target):
    """It kept no name of its loop: without one the message asks for it, with one the run goes on."""
    shutil.copy(GOLDEN / "loomc-0.3.0.db", tmp_path / "old.db")
    file = tmp_path / "refinements_loops.py"
    file.write_text(
        f"import sys; sys.path.insert(0, {str(GOLDEN)!r})\nimport refinements as work\n"
        "from loomc_runner import Budget, judge, loop\n"
        "options = {'cost_fn': work.price, 'converge_on': judge(work.finished)}\n"
        "summarize = loop(budget=Budget(iterations=20), **options)(work.summarize)\n"
    )
    refused = here(tmp_path, "resume", OLD["failed"], "--db", "old.db")
    assert "written by loomc 0.3.0, which kept no name of its loop; name it: loomc resume " in refused.err
    assert_completed(here(tmp_path, "resume", OLD["failed"], target.format(file=file), "--db", "old.db"), 6)


def test_a_run_of_loomc_0_3_0_without_any_state_is_refused(here, tmp_path):
    """It was killed before its first step, and its initial state is nowhere."""
    shutil.copy(GOLDEN / "loomc-0.3.0.db", tmp_path / "old.db")
    (tmp_path / "lab.py").write_text("from loomc_runner import loop\n@loop\ndef any(state: dict) -> dict: ...\n")
    outcome = here(tmp_path, "resume", OLD["killed_before_first_step"], "lab:any", "--db", "old.db")
    assert outcome.status == 1
    assert "has no stored initial state" in outcome.complaint
    assert len(outcome.err.splitlines()) == 1


@pytest.mark.parametrize("run", ["patient", "gentle"])
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_and_sigterm_pause_the_run(here, started, workshop, run, number, status):
    """The command says how to go on, its status tells the signal, and the run goes on from there, sync or async."""
    process = started(workshop, "resume", run, BROKEN="1", PYTHONUNBUFFERED="1")
    wait_until_it_hangs(process)
    process.send_signal(number)
    if number == signal.SIGTERM:  # the first one lets the step finish, which this one never does
        time.sleep(0.3)
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert process.returncode == status
    assert err.splitlines()[-1].startswith(f"loomc: run {run} paused: ")
    assert err.splitlines()[-1].endswith(f"; to go on: loomc resume {run}")
    assert (stored(workshop, run).status, stored(workshop, run).steps) == (RunStatus.PAUSED, 2)
    assert_completed(here(workshop, "resume", run), 4)


def test_a_run_that_is_being_worked_on_is_refused_at_once(here, started, workshop):
    """The message names the process that has it; meanwhile the run is shown as running."""
    worker = started(workshop, "resume", "patient", BROKEN="1", PYTHONUNBUFFERED="1")
    wait_until_it_hangs(worker)
    refused = here(workshop, "resume", "patient")
    shown = here(workshop, "show", "patient").out
    worker.kill()
    worker.communicate(timeout=30)
    assert refused.status == 1
    assert f"run patient is being worked on by process {worker.pid}" in refused.err
    assert shown.startswith("run patient  running\n")
    assert "… under way" in shown
