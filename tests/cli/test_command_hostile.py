"""Whatever is stored: what reading commands write steers no terminal, fits it, and is never a traceback."""

from __future__ import annotations

import json
import re
import sys
import unicodedata
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len

from loomc_runner.cli.index import all_commands
from loomc_runner.records import (
    Attempt,
    BreakerChange,
    Call,
    CallStatus,
    Charge,
    Question,
    Run,
    RunStatus,
    StepRecord,
    Transition,
)
from loomc_runner.store.sqlite import SQLite

NOW = datetime(2026, 1, 1, tzinfo=UTC)

SEQUENCES = re.compile(r"\x1b\[(\d+(;\d+)*)?m")
"""The colours that the command itself uses."""

PAYLOAD = (
    "\x1b]0;owned\x07\x1b[2J\x9b31m[bold red]markup[/] <script>alert(1)</script> "
    "\u202egnp.exe \u2066\x00\r\n\t\x85\u2028"
)
LONG = "x" * 1_000_000

READING = {
    "runs": [],
    "runs-tree": ["runs", "--tree"],
    "show": ["RUN"],
    "explain": ["RUN"],
    "history": ["RUN"],
    "attempts": ["RUN"],
    "calls": ["RUN"],
    "state": ["RUN"],
    "diff": ["RUN", "0", "1"],
    "compare": ["RUN", "other"],
    "questions": [],
    "verify": ["RUN"],
    "doctor": [],
    "plot": ["RUN"],
    "what-if": ["RUN", "--patience", "1"],
    "tag": ["RUN"],
    "export": ["RUN"],
    "resume-plan": ["resume", "RUN", "--plan"],
    "recover-plan": ["recover", "--dry-run"],
    "delete-plan": ["delete", "RUN", "--dry-run"],
    "prune-plan": ["prune", "--older-than", "1s", "--dry-run"],
}
"""What reads only, and how it is called."""

ACTING = {
    "resume",
    "run",
    "fork",
    "answer",
    "approve",
    "deny",
    "pause",
    "cancel",
    "recover",
    "delete",
    "prune",
    "trace",
}
"""What writes; their own tests see to what they print."""


def command(name: str) -> list[str]:
    """The command line of an entry, for the run `r`."""
    args = READING[name]
    line = args if args and args[0] in {"runs", "resume", "recover", "delete", "prune"} else [name, *args]
    return ["r" if arg == "RUN" else arg for arg in line]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A database in which every text that a user, a model or an error can choose is hostile."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / ".loomc").mkdir()
    fill(folder)
    return folder


def fill(folder) -> None:
    """Make the runs through the store itself."""
    store = SQLite(folder / ".loomc/checkpoints.db")
    state = json.dumps({PAYLOAD: PAYLOAD + "\ud800", "text": f"{PAYLOAD}\nline", "long": LONG})
    for run_id, status in (("r", RunStatus.WAITING), ("other", RunStatus.FAILED)):
        hostile = {"loop": PAYLOAD, "source": PAYLOAD, "tags": (PAYLOAD, LONG), "notes": (PAYLOAD,)}
        lease = store.create_run(Run(run_id, created_at=NOW, updated_at=NOW, **hostile), state)
        for n in range(2):
            text = state.replace("markup", f"markup {n}")
            step = StepRecord(n, n - 1, float(n), 5, 1, NOW, 0.5, error=PAYLOAD + LONG if n else None, best_n=n)
            charge = Charge(n, 5, 1, PAYLOAD, NOW, False, f"{n}", PAYLOAD + LONG, {PAYLOAD: 1})
            store.commit(lease, Transition(NOW, step=step, state=text, charges=(charge,), best_step=n))
        store.commit(lease, Transition(NOW, attempt=Attempt(2, 0, PAYLOAD + LONG, PAYLOAD, 0, NOW, 0.1)))
        call = Call(2, 0, PAYLOAD, PAYLOAD, CallStatus.FAILED, NOW, json.dumps(PAYLOAD), PAYLOAD, PAYLOAD)
        question = Question(run_id, 2, 0, PAYLOAD, PAYLOAD, {"title": PAYLOAD}, NOW)
        store.commit(lease, Transition(NOW, call=call, keep_in_flight=True))
        store.commit(lease, Transition(NOW, question=question, keep_in_flight=True))
        store.commit(lease, Transition(NOW, breaker=BreakerChange(2, PAYLOAD, PAYLOAD, 1, 1, NOW), keep_in_flight=True))
        store.commit(lease, Transition(NOW, status=status, stop_reason=PAYLOAD, result=json.dumps(PAYLOAD)))
    store.close()


def assert_harmless(text: str) -> None:
    """Nothing but what can be seen, line ends and our own colours."""
    bare = SEQUENCES.sub("", text)
    bad = {char for char in bare if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}} - {"\n"}
    assert bad == set(), {f"U+{ord(char):04X}" for char in bad}
    assert "Traceback" not in bare


def test_every_command_is_in_one_of_the_two_lists():
    """A command that is added is tried on hostile runs, too."""
    reading = {command(name)[0] for name in READING}
    assert {*all_commands().commands} == reading | ACTING


@pytest.mark.parametrize("name", READING)
def test_nothing_hostile_reaches_a_pipe(here, hostile, name):
    """As text nothing steers a terminal; as JSON all of it is plain ASCII."""
    outcome = here(hostile, *command(name))
    assert_harmless(outcome.out + outcome.err)
    assert "\x1b" not in outcome.out + outcome.err
    if name != "export":
        told = here(hostile, *command(name), "--json")
        assert_harmless(told.out + told.err)
        assert told.out == "" or (told.out.isascii() and json.loads(told.out) is not None)


EACH = """
import sys
from loomc_runner.cli import main
for line in sys.argv[1:]:
    print("---", line)
    try:
        main(line.split())
    except SystemExit as end:
        print(">>>", end.code, flush=True)
"""
"""All commands one after the other in one process, since a new one takes a quarter of a second."""


COPIED = {"state", "diff", "doctor"}
"""What writes texts to be copied, such as a state or a path, as long as they are."""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_nothing_hostile_reaches_a_terminal_and_what_is_told_fits_it(on_terminal, hostile, columns):
    """Every reading command on a terminal of that width: no line is wider, save texts to be copied and complaints."""
    lines = [" ".join(command(name)) for name in READING if name != "export"]
    text = on_terminal(hostile, columns, "-c", EACH, *lines, program=sys.executable)
    assert_harmless(text)
    assert text.count(">>>") == len(lines)
    for part in SEQUENCES.sub("", text).split("--- ")[1:]:
        name, *told = part.splitlines()
        if name.split()[0] not in COPIED:
            assert [line for line in told if cell_len(line) > columns and not line.startswith("loomc: ")] == [], name
