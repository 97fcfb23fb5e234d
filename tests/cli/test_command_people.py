"""What people do from the terminal: answer, pause, cancel, recover, and look before they resume."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from loomc_runner.store import open_reader


@pytest.fixture(scope="module")
def asked(tmp_path_factory, begin):
    """A folder in which one run waits for an approval, and one for two texts."""
    return begin(tmp_path_factory.mktemp("asked"), "ship", "survey")


@pytest.fixture
def gate(asked, tmp_path):
    """A copy of it to work in."""
    shutil.copytree(asked, tmp_path / "gate")
    return tmp_path / "gate"


def stored(folder, run):
    """A run as it is in the database of a folder."""
    return open_reader(folder / ".loomc/checkpoints.db").get_run(run)


def test_open_questions_are_listed(here, gate):
    """Each with its run, its number and its prompt, and how to answer; `--json` has the schema as well."""
    text = here(gate, "questions").out
    assert sorted(row.split()[:2] for row in text.splitlines()[1:4]) == [
        ["ship", "0.0"],
        ["survey.0.0", "1.0"],
        ["survey.0.1", "1.0"],
    ]
    assert "Deploy version 3?" in text
    assert "loomc approve RUN --by YOU" in text
    found = json.loads(here(gate, "questions", "ship", "--json").out)
    assert [(q["run_id"], q["question"], q["open"], q["schema"]["required"]) for q in found] == [
        ("ship", "0.0", True, ["approved"])
    ]


def test_a_question_does_not_steer_the_terminal(here, gate):
    """Whatever characters a prompt holds are written out, wherever it is shown."""
    with closing(sqlite3.connect(gate / ".loomc/checkpoints.db")) as db:
        db.execute("UPDATE questions SET prompt = ? WHERE run_id = 'ship'", ("\x1b[31mred\u202e\nline",))
        db.commit()
    shown = [["questions"], ["show", "ship"], ["resume", "ship", "--plan"], ["answer", "ship", "x", "--by", "me"]]
    for command in [*shown, ["approve", "ship", "--by", "me"]]:
        text = "".join(here(gate, *command)[1:])
        assert "red" in text
        assert not {"\x1b", "\u202e"} & set(text)


def test_show_tells_what_a_run_waits_for(here, gate):
    """The question, the calls that are done, the children, and the command that goes on."""
    text = here(gate, "show", "ship").out
    assert "? waiting: Deploy version 3?" in text
    assert "calls       1 done\n" in text
    assert "asks        Deploy version 3? (run ship, question 0.0)\n" in text
    assert "go on       loomc approve ship --by YOU\n" in text
    told = here(gate, "show", "survey").out  # whichever child was the first to ask
    assert re.search(r"^go on       loomc answer survey\.0\.[01] ANSWER --by YOU$", told, re.MULTILINE)


def test_an_approval_lets_the_run_go_on(here, gate):
    """It is stored with who gave it, once; the run does what it asked for, once."""
    text = here(gate, "approve", "ship", "--by", "anna", "--note", "go").out
    assert text == "run ship has its answer to 'Deploy version 3?': loomc resume ship\n"
    again = here(gate, "deny", "ship", "--by", "bob")
    assert (again.status, "was answered by anna" in again.err) == (1, True)
    assert here(gate, "resume", "ship").status == 0
    assert (json.loads(stored(gate, "ship").result), (gate / "deployed").read_text()) == ("deployed 3", "3\n")
    whole = json.loads(here(gate, "export", "ship").out)
    assert [(q["answered_by"], q["answer"]["note"]) for q in whole["questions"]] == [("anna", "go")]
    assert [(call["name"], call["status"]) for call in whole["calls"]] == [
        ("time.strftime", "done"),
        ("gate.deploy", "done"),
    ]


def test_a_denial_is_an_answer_too(here, gate):
    """The run goes on with the no, and the reason."""
    assert json.loads(here(gate, "deny", "ship", "--by", "eve", "--note", "friday", "--json").out)["answer"] == {
        "approved": False,
        "note": "friday",
        "by": "eve",
    }
    assert here(gate, "resume", "ship").status == 0
    assert json.loads(stored(gate, "ship").result) == "kept back by eve: friday"
    assert not (gate / "deployed").exists()


def test_resume_does_not_pass_an_open_question(here, gate):
    """It says what is asked and how to answer; nothing is executed, with `--force` neither."""
    for options in ([], ["--force"], ["--iterations", "1", "--usd", "5"]):
        refused = here(gate, "resume", "ship", *options)
        assert refused.status == 1
        assert refused.complaint == (
            "loomc: run ship waiting: Deploy version 3?; to go on: loomc approve ship --by YOU"
        )
    assert (stored(gate, "ship").resumes, (gate / "deployed").exists()) == (0, False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["answer", "ship", '"APPROVED"', "--by", "x"], "this does not answer 'Deploy version 3?' of run ship"),
        (["answer", "ship", '{"approved": "yes"}', "--by", "x"], "answer.approved: 'yes' is not of type 'boolean'"),
        (["approve", "ship", "--by", " "], "by=' ': say who answers"),
        (["approve", "ship", "--by", "x", "--question", "9.9"], "run ship has no open question 9.9"),
        (["answer", "survey", "A", "--by", "x"], "run survey asks more than one thing, name one: run survey.0."),
        (["approve", "survey.0.0", "--by", "x"], "this does not answer 'What is the name of 3?'"),
        (["pause", "ship"], "run ship is waiting (waiting: Deploy version 3?) and cannot be paused"),
        (["cancel", "survey.0.1"], "run survey.0.1 is part of run survey; only the outermost run can be cancelled"),
    ],
)
def test_what_cannot_be_is_refused(here, gate, args, message):
    """One line that names the run and what is wrong; the question stays open."""
    refused = here(gate, *args)
    assert (refused.status, refused.out) == (1, "")
    assert message in refused.err
    assert len(json.loads(here(gate, "questions", "--json").out)) == 3


def test_children_are_answered_one_by_one(here, gate):
    """A text needs no quotes; the parent goes on when each of its children has its answer."""
    here(gate, "answer", "survey.0.0", "Ada", "--by", "anna")
    assert here(gate, "resume", "survey").status == 1
    assert stored(gate, "survey.0.0").status == "completed"
    here(gate, "answer", "survey", '"Bob"', "--by", "anna")
    assert here(gate, "resume", "survey").status == 0
    assert [json.loads(stored(gate, f"survey.0.{n}").result) for n in (0, 1)] == ["Ada", "Bob"]
    assert stored(gate, "survey.0.0").steps == 2


def test_a_tree_shows_what_each_branch_costs(here, gate):
    """Child runs stand below their parent, each with what it and its own children cost."""
    text = here(gate, "runs", "--tree").out
    rows = text.splitlines()
    place = next(n for n, row in enumerate(rows) if row.startswith("survey "))
    assert [row.split()[1] for row in rows[place + 1 : place + 3]] == ["survey.0.0", "survey.0.1"]
    tree = {run["id"]: run for run in json.loads(here(gate, "runs", "--tree", "--json").out)}
    assert [child["id"] for child in tree["survey"]["children"]] == ["survey.0.0", "survey.0.1"]
    assert tree["survey"]["cost_usd"] == pytest.approx(sum(c["cost_usd"] for c in tree["survey"]["children"]))


def test_a_plan_tells_what_a_resume_would_do(here, gate):
    """It executes nothing, and names the question, the budget, the recorded results and what has changed."""
    text = here(gate, "resume", "ship", "--plan").out
    assert "resume      still waits for an answer: Deploy version 3?\n" in text
    assert "budget      $0.02 of $1.00, $0.98 left\n" in text
    assert "replayed    1 recorded results\n" in text
    here(gate, "approve", "ship", "--by", "anna")
    plan = json.loads(here(gate, "resume", "ship", "--plan", "--json").out)
    assert (plan["outcome"], plan["goes_on"], plan["changes"]) == ("goes on with step 0", True, [])
    assert stored(gate, "ship").resumes == 0


def test_a_plan_tells_of_changed_code(here, gate, begin):
    """Code that was edited since is named; code that is gone as well."""
    source = Path(stored(gate, "ship").source)
    before = source.read_text()
    try:
        source.write_text(before.replace("spend(usd=0.02)", "spend(usd=0.03)"))
        assert "changed     the code of the loop has changed\n" in here(gate, "resume", "ship", "--plan").out
        source.unlink()
        assert "resume      cannot go on: " in here(gate, "resume", "ship", "--plan").out
    finally:
        source.write_text(before)


def test_a_call_in_doubt_is_asked_about(here, loomc, gate):
    """A call that must not run twice and was cut off is named by the plan, and decided by a person."""
    here(gate, "approve", "ship", "--by", "anna")
    assert loomc(gate, "resume", "ship", BROKEN="1").status == -9
    assert "in doubt    gate.deploy was started 20" in here(gate, "resume", "ship", "--plan").out
    waits = here(gate, "resume", "ship")
    assert (waits.status, "its result is unknown: run it again" in waits.err) == (1, True)
    assert here(gate, "answer", "ship", '{"result": "by hand"}', "--by", "eve").status == 0
    assert here(gate, "resume", "ship").status == 0
    assert (json.loads(stored(gate, "ship").result), (gate / "deployed").read_text()) == ("by hand", "3\n")


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        (["pause"], "paused", "paused: by request"),
        (["pause", "--now"], "paused", "paused: by request"),
        (["cancel"], "cancelled", "cancelled: by request"),
    ],
)
def test_a_run_at_work_is_stopped_from_another_process(here, started, begin, gate, request_, status, reason):
    """It ends after its step, with nothing in flight; a paused run goes on, a cancelled one with `--force`."""
    begin(gate, "slow")
    worker = started(gate, "resume", "slow", "--iterations", "500")
    while "working" not in worker.stdout.readline():
        pass
    told = here(gate, *request_, "slow").out
    assert told.startswith("run slow will ")
    worker.communicate(timeout=30)
    run = stored(gate, "slow")
    assert (worker.returncode, run.status, run.stop_reason, run.in_flight, run.control) == (
        1,
        status,
        reason,
        None,
        None,
    )
    steps = run.steps
    assert here(gate, "resume", "slow", "--iterations", str(steps + 1), *(["--force"] * (status == "cancelled"))).status
    assert stored(gate, "slow").steps == steps + 1


def test_recover_goes_on_with_what_was_cut_off(here, loomc, gate, begin):
    """Each interrupted run whose code is there goes on in a process of its own; `--dry-run` only lists them."""
    died = begin(gate, "shaky", BROKEN="1", status=-9)
    assert died == gate
    assert stored(gate, "shaky").status == "interrupted"
    assert here(gate, "recover", "--dry-run").out == "run shaky: goes on with step 1\n"
    assert stored(gate, "shaky").status == "interrupted"
    recovered = here(gate, "recover")
    assert (recovered.status, recovered.out) == (0, "run shaky: done: the step said so\n")
    assert here(gate, "recover", "--json").out == "[]\n"


def test_recover_names_what_it_cannot_go_on_with(here, gate, begin):
    """A run whose code is gone is listed with the reason, and the command fails."""
    begin(gate, "shaky", BROKEN="1", status=-9)
    (gate / "gate.py").unlink()
    listed = json.loads(here(gate, "recover", "--dry-run", "--json").out)
    assert [(one["run_id"], one["ok"]) for one in listed] == [("shaky", False)]
    assert "cannot" in listed[0]["outcome"]
    assert here(gate, "recover").status == 1
