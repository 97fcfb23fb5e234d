"""The report refiner as its user meets it: rules without a key, both vendors' SDKs, deaths, and money that ends."""

import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import report_refiner
from loomc_runner import Price
from refining.critic import faults_in, points, reading_ease, review
from refining.meaning import choose_embeddings, embed
from refining.models import choose_writer, unwrapped
from refining.prose import blocks_of, joined, laid_out, sentences_of
from refining.rules import RULES, rewrite
from vendor import Gate, Reply, Script

ROOT = Path(__file__).parents[2]
REPORTS = ROOT / "examples" / "reports"
LOOMC = [sys.executable, "-c", "from loomc_runner.cli import main; main()"]
FOREIGN = ("PYTEST_", "COV_", "LOOMC_")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith(FOREIGN)}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}

FERRY = joined(blocks_of((REPORTS / "ferry.md").read_text(encoding="utf-8")))


def mended(text: str, steps: int = 99) -> str:
    """What the rules make of a text in so many steps."""
    for _ in range(steps):
        text = rewrite(text, lambda other: points(other, FERRY))
    return text


BETTER, BEST = mended(FERRY, 2), mended(FERRY, 9)


class Done(NamedTuple):
    """What came of a command."""

    status: int
    out: str
    err: str

    @property
    def run_id(self) -> str:
        """The id that it prints before it begins."""
        return next(line for line in self.out.splitlines() if line.startswith("run ")).split()[1]

    def line(self, name: str) -> str:
        """One line of the summary."""
        return next(line for line in self.out.splitlines() if line.startswith(name)).removeprefix(name).strip()


class Refiner:
    """The example in a folder of its own, in this process or, to be killed, in another."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.environment: dict[str, str] = {}

    def __call__(self, *arguments: object) -> Done:
        """Run it here."""
        status = report_refiner.main(["--letters", *map(str, arguments)])
        return Done(status, *self.capsys.readouterr())

    def start(self, *arguments: object) -> "subprocess.Popen[str]":
        """Start it in another process."""
        command = [sys.executable, str(ROOT / "examples" / "report_refiner.py"), "--letters", *map(str, arguments)]
        env = ENVIRONMENT | self.environment
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=subprocess.PIPE, text=True)

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What the database says."""
        with closing(sqlite3.connect(f"file:{self.folder}/.loomc/checkpoints.db?mode=ro", uri=True)) as database:
            return database.execute(query).fetchall()


@pytest.fixture
def refiner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refiner:
    """The example without any key."""
    monkeypatch.chdir(tmp_path)
    for name in list(os.environ):
        if name.endswith("_API_KEY") or name.startswith(("LOOMC_", "REPORT_REFINER_")):
            monkeypatch.delenv(name)
    return Refiner(tmp_path, capsys)


def test_the_sample_is_refined_until_the_judge_is_satisfied(refiner: Refiner) -> None:
    """Without a key the rules improve it in a few steps, leave all numbers as they are, and cost nothing."""
    done = refiner("-o", "better.md")
    assert (done.status, done.err) == (0, "")
    assert done.line("stopped").startswith("converged: judge(by_rules): no faults")
    assert done.line("spent") == "$0.0000"
    before, after = map(float, re.findall(r"[\d.]+", done.line("score"))[:2])
    assert after > before + 20
    text = Path("better.md").read_text(encoding="utf-8")
    assert text == laid_out(BEST)
    assert text.index("## Summary") < text.index("## Operations") < text.index("## Recommendations")
    assert faults_in(text, FERRY) == ()
    assert len(refiner.rows("select 1 from steps")) <= 8


def test_what_only_a_person_can_mend_is_left_and_told(refiner: Refiner) -> None:
    """A report whose numbers are missing settles without the judge's consent, and they are named."""
    done = refiner(REPORTS / "cooling.md")
    assert (done.status, done.err) == (0, "")
    assert done.line("stopped") == "converged: semantic_delta(threshold=0.05): 0 and score_plateau(patience=2)"
    assert "missing numbers: “considerable” in “The loss was considerable.”" in done.out
    assert "wordy phrases 6 → 0" in done.out


def test_the_money_ends_and_is_wrapped_up(refiner: Refiner) -> None:
    """With a nominal price the last step runs on what was kept, and the run is complete with a report."""
    done = refiner("--price", "0.01", "--usd", "0.05")
    assert (done.status, done.err) == (0, "")
    assert done.line("spent") == "$0.0500"
    assert "the money came to its end" in done.line("stopped")
    assert "$0.0400 for 4 x rules" in done.out
    assert "$0.0100 for 1 x last polish" in done.out
    assert re.findall(r"\((\d+)% of the dollars", done.out) == ["50", "80", "100"]
    again = refiner("--resume", done.run_id)  # nothing is executed
    assert done.out[done.out.index("what was changed") :] == again.out[again.out.index("what was changed") :]
    assert refiner.rows("select status, steps from runs") == [("completed", 5)]


def killed_after(death: str, process: "subprocess.Popen[str]") -> str:
    """Kill the example once it has printed a line that begins so, and give the id of its run."""
    assert process.stdout is not None
    printed = [next(process.stdout)]
    while not printed[-1].startswith(death):
        printed.append(next(process.stdout))
    process.kill()
    process.communicate()
    return Done(0, "".join(printed), "").run_id


@pytest.mark.parametrize(("deaths", "slow"), [(["    0 "], 0), (["    2 "], 0), (["    1 ", "    3 "], 0.2)])
def test_a_killed_run_goes_on_to_the_same_text(deaths: list[str], slow: float, refiner: Refiner) -> None:
    """After `kill -9`, in a step or between two, the text is that of an undisturbed run, and no step counts twice."""
    arguments: list[object] = []
    for death in deaths:
        run_id = killed_after(death, refiner.start(*arguments, "--slow", slow))
        arguments = ["--resume", run_id]
    done = refiner(*arguments, "-o", "better.md")
    assert (done.status, Path("better.md").read_text(encoding="utf-8")) == (0, laid_out(BEST))
    assert refiner.rows("select status, steps from runs") == [("completed", 6)]


def test_loomc_resume_finds_the_loop(refiner: Refiner) -> None:
    """The command goes on with a run of the script."""
    run_id = killed_after("    0 ", refiner.start("--slow", 30))
    resumed = subprocess.run([*LOOMC, "resume", run_id], cwd=refiner.folder, env=ENVIRONMENT, check=False)
    assert resumed.returncode == 0
    assert refiner("--resume", run_id, "-o", "better.md").status == 0
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BEST)


MISTAKES: dict[str, tuple[list[str], str]] = {
    "missing": (["nowhere.md"], "No such file or directory: 'nowhere.md'"),
    "folder": (["."], ". is no file"),
    "empty": (["empty.md"], "empty.md has no sentence in it"),
    "no prose": (["list.md"], "list.md has no sentence in it"),
    "binary": (["binary.md"], "binary.md is no UTF-8 text"),
    "zeros": (["zeros.md"], "zeros.md is no text"),
    "large": (["large.md"], "large.md has 30,006 bytes: a report may have 30,000"),
    "overwriting": (["good.md", "-o", "good.md"], "--out good.md would overwrite what is refined"),
    "no folder": (["good.md", "-o", "no/good.md"], "--out no/good.md: give a file in a folder that is there"),
    "bad dollars": (["--usd", "much"], "--usd much: give a number, zero or more"),
    "negative dollars": (["--usd=-1"], "--usd -1: give a number, zero or more"),
    "no number": (["--usd", "nan"], "--usd nan: give a number, zero or more"),
    "more kept": (["--wrap-up", "9"], "Budget(wrap_up=9.0)"),
    "all kept": (["--usd", "1", "--wrap-up", "1"], "Budget(wrap_up=1.0)"),
    "price too high": (["--usd", "0.05", "--price", "0.03"], "--price 0.03: "),
    "no run": (["--resume", "nothing"], "nothing"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(mistake: str, refiner: Refiner) -> None:
    """What cannot begin says why, with status 2, and stores nothing."""
    for name, content in {
        "empty.md": b"",
        "list.md": b"# Title\n\n- one\n- two\n",
        "binary.md": b"\x89PNG\r\n\x1a\n\xff\xfe",
        "zeros.md": b"One sentence.\0 Another.\n",
        "large.md": b"Words. " * 4286 + b"End.",
        "good.md": b"One sentence.\n",
    }.items():
        Path(name).write_bytes(content)
    arguments, message = MISTAKES[mistake]
    done = refiner(*arguments)
    assert (done.status, done.err.count("\n")) == (2, 1), done
    assert done.err.startswith("report_refiner: ")
    assert message in done.err
    assert Path("good.md").read_bytes() == b"One sentence.\n"
    assert mistake == "no run" or not Path(".loomc").exists()


class Model(NamedTuple):
    """A vendor's model behind the example, and what it costs in dollars for a million tokens."""

    name: str
    script: Script
    usd_in: float
    usd_out: float

    def say(self, text: str, tokens_in: int = 1000, tokens_out: int = 400, **more: object) -> Reply:
        """Answer with a text, and these counts of tokens."""
        names = ("input_tokens", "output_tokens") if "claude" in self.name else ("prompt_tokens", "completion_tokens")
        usage = dict(zip(names, (tokens_in, tokens_out), strict=True))
        return Reply(text=text, usage=usage, **more)  # type: ignore[arg-type]

    def usd(self, tokens_in: int = 1000, tokens_out: int = 400) -> float:
        """What such an answer costs."""
        return (tokens_in * self.usd_in + tokens_out * self.usd_out) / 1e6

    @property
    def limits(self) -> list[int]:
        """How many tokens each request has allowed."""
        return [seen.body.get("max_tokens") or seen.body["max_completion_tokens"] for seen in self.script.seen]

    @property
    def rewrites(self) -> list[str]:
        """The requests to rewrite."""
        said = [seen.body["messages"][-1]["content"] for seen in self.script.seen]
        return [text for text in said if text.startswith("Rewrite this report")]


@pytest.fixture(params=["anthropic", "openai"])
def model(request: pytest.FixtureRequest, script: Script, refiner: Refiner, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The default model of each vendor, on the local server."""
    address = {"ANTHROPIC": script.url, "OPENAI": f"{script.url}/v1"}[request.param.upper()]
    refiner.environment = {
        f"{request.param.upper()}_{name}": value for name, value in (("API_KEY", script.key), ("BASE_URL", address))
    }
    for name, value in refiner.environment.items():
        monkeypatch.setenv(name, value)
    if request.param == "anthropic":
        return Model("claude-sonnet-5-5", script, 2.00, 10.00)
    return Model("gpt-6.1-terra", script, 1.00, 5.00)


def test_a_model_rewrites_until_its_judge_says_yes(model: Model, refiner: Refiner) -> None:
    """Rewrites are scored and judged, the judge's no goes on, its yes ends; each call costs what its tokens cost."""
    model.script.next(
        model.say(f"```markdown\n{BETTER}```"),
        model.say("NO, it says some things twice.", 800, 20),
        model.say(BEST, 900, 360),
        model.say("**Yes.** A reader finds everything at once.", 700, 40),
    )
    done = refiner("-o", "better.md")
    assert (done.status, done.err) == (0, "")
    reason = f"converged: judge({model.name}): A reader finds everything at once."
    assert done.line("stopped") == reason
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BEST)
    writing, judging = model.usd() + model.usd(900, 360), model.usd(800, 20) + model.usd(700, 40)
    assert f"${writing:.4f} for 2 x {model.name}, writing" in done.out
    assert f"${judging:.4f} for 2 x {model.name}, judging" in done.out
    ((nano,),) = refiner.rows("select sum(nano_usd) from charges")
    assert nano == pytest.approx((writing + judging) * 1e9)
    assert "- wordy phrases: “In order to”" in model.rewrites[0]
    assert "wordy phrases" not in model.rewrites[1].partition("<report>")[0].partition("found:")[2]
    assert BETTER in model.rewrites[1]


def test_a_rewrite_that_loses_numbers_is_thrown_away(model: Model, refiner: Refiner) -> None:
    """It scores worse, so the judge is not asked about it, and the next rewrite starts from the one before."""
    model.script.next(
        model.say(BETTER),
        model.say("no"),
        model.say("The ferry ran well. All was good."),
        model.say(BEST),
        model.say("yes"),
    )
    done = refiner("-o", "better.md")
    assert (done.status, done.line("stopped")) == (0, f"converged: judge({model.name})")
    assert "(worse: thrown away)" in done.out
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BEST)
    assert model.rewrites[1] == model.rewrites[2]
    assert done.line("spent") == f"${5 * model.usd():.4f}"


def test_an_answer_that_was_cut_off_is_not_used(model: Model, refiner: Refiner) -> None:
    """Half a report is no report; what does not get better settles."""
    field: dict[str, Any] = {"stop_reason": "max_tokens"}
    if "gpt" in model.name:
        message: dict[str, Any] = {"role": "assistant", "content": BEST[:500], "refusal": None, "annotations": []}
        field = {"choices": [{"index": 0, "finish_reason": "length", "message": message}]}
    model.script.always(Reply(text=BEST[:500] if "claude" in model.name else None, fields=field))
    done = refiner()
    assert (done.status, done.err) == (0, "")
    assert done.line("stopped").startswith("converged: semantic_delta")
    assert "nothing changed" in done.out


def test_a_last_polish_is_made_with_what_is_left(model: Model, refiner: Refiner) -> None:
    """A rewrite that may cost more than is left is not sent; a polish that fits is, and its corrections are made."""
    model.script.next(
        model.say(BETTER),
        model.say("no"),
        model.say("the weak point => the weak part\nfor 640 euros => for 650 euros\nhills => the hills\nthe => a"),
    )
    usd = {2.00: 0.08, 1.00: 0.04}[model.usd_in]
    done = refiner("--usd", usd, "--wrap-up", usd / 4, "-o", "better.md")
    assert (done.status, done.err) == (0, "")
    assert "the money came to its end" in done.line("stopped")
    assert done.line("spent") == f"${3 * model.usd():.4f}"
    text = BETTER.replace("the weak point", "the weak part")  # the others change a number, make it worse, stand often
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(text)
    assert model.limits[1:] == [1024, 1024]


@pytest.mark.parametrize(("kept", "limits"), [(0.0055, [256]), (0.0002, [])])
def test_less_is_asked_for_when_less_is_left(kept: float, limits: list[int], model: Model, refiner: Refiner) -> None:
    """What is left decides how long the polish may be; when none fits, the run ends with what is there, unpolished."""
    model.script.next(model.say(BETTER, 1000, 4600), model.say("nothing"))
    usd, kept = (dollars * model.usd_in / 2 for dollars in (0.0525 + kept, kept))
    done = refiner("--usd", usd, "--wrap-up", kept, "-o", "better.md")
    assert (done.status, done.err) == (0, "")
    assert "the money came to its end" in done.line("stopped")
    assert model.limits[1:] == limits
    assert ("not enough is left for it" in done.out) == (not limits)
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BETTER)


def test_what_does_not_fit_at_all_is_not_sent(model: Model, refiner: Refiner) -> None:
    """With too little money nothing is asked, nothing is spent and nothing achieved; it says what it would cost."""
    done = refiner("--usd", "0.002")
    assert (done.status, done.err, model.script.seen) == (1, "", [])
    assert f"{model.name} was not asked: it may cost $" in done.line("stopped")
    assert done.line("spent") == "$0.0000"
    assert "nothing was achieved" in done.out
    model.script.next(model.say(BEST), model.say("yes"))
    again = refiner("--resume", done.run_id, "--usd", "0.50")
    assert (again.status, again.line("stopped")) == (0, f"converged: judge({model.name})")


def killed_at(gate: Gate, refiner: Refiner) -> str:
    """Start the example, kill it when a request stands before the gate, and give the id of its run."""
    process = refiner.start()
    gate.await_requests()
    process.kill()
    out, _ = process.communicate()
    gate.open()
    return Done(0, out, "").run_id


def test_a_model_that_was_paid_is_not_asked_again(model: Model, refiner: Refiner) -> None:
    """Killed while the judge is asked, the run goes on with the rewrite that it has; only the judge is asked again."""
    gate = Gate()
    model.script.next(model.say(BEST), model.say("yes", hold=gate), model.say("yes", 700, 30))
    run_id = killed_at(gate, refiner)
    done = refiner("--resume", run_id, "-o", "better.md")
    assert (done.status, done.line("stopped")) == (0, f"converged: judge({model.name})")
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BEST)
    assert (len(model.rewrites), len(model.script.seen)) == (1, 3)
    assert f"${model.usd():.4f} for 1 x {model.name}, writing" in done.out
    assert f"${model.usd(700, 30):.4f} for 1 x {model.name}, judging\n" in done.out
    assert f"for 1 x {model.name}, judging (cut off: what it may have cost)" in done.out
    ((spent, assumed),) = refiner.rows("select sum(nano_usd), sum(nano_usd * estimated) from charges")
    assert spent - assumed == pytest.approx((model.usd() + model.usd(700, 30)) * 1e9)
    assert assumed > model.usd(700, 30) * 1e9
    assert refiner.rows("select sum(estimated), count(*) from charges") == [(1, 3)]


def test_a_model_of_your_own_costs_what_you_say(
    model: Model, refiner: Refiner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who names a model and its price is charged by it, for the rewrite and for the judge."""
    monkeypatch.setenv("REPORT_REFINER_MODEL", "mine")
    monkeypatch.setenv("REPORT_REFINER_USD_PER_MTOK", "4, 20")
    model.script.next(model.say(BEST), model.say("yes"))
    done = refiner()
    assert (done.status, done.line("stopped")) == (0, "converged: judge(mine)")
    assert [seen.body["model"] for seen in model.script.seen] == ["mine", "mine"]
    assert done.line("spent") == f"${2 * (1000 * 4 + 400 * 20) / 1e6:.4f}"


@pytest.mark.parametrize("model", ["openai"], indirect=True)
def test_a_rewrite_that_was_cut_off_is_asked_for_again(model: Model, refiner: Refiner) -> None:
    """Killed while the model writes, the run counts what that may have cost, and asks once more."""
    gate = Gate()
    model.script.next(model.say(BEST, hold=gate), model.say(BEST), model.say("yes"))
    run_id = killed_at(gate, refiner)
    done = refiner("--resume", run_id, "-o", "better.md")
    assert (done.status, done.line("stopped")) == (0, f"converged: judge({model.name})")
    assert Path("better.md").read_text(encoding="utf-8") == laid_out(BEST)
    assert (len(model.rewrites), len(model.script.seen)) == (2, 3)
    assert refiner.rows("select sum(estimated), count(*) from charges") == [(1, 3)]


def test_an_error_of_the_vendor_is_told_in_one_line(model: Model, refiner: Refiner) -> None:
    """A key that is refused ends the run as failed; it can be resumed."""
    model.script.always(Reply(status=401))
    done = refiner()
    assert (done.status, done.err.count("\n")) == (2, 1)
    assert "401" in done.err
    model.script.always(model.say("yes"))
    model.script.next(model.say(BEST))
    assert refiner("--resume", done.run_id).status == 0


MENDED = {
    "slips": {
        "The the boat left , and came  back.": "The boat left, and came back.",
        "He said that that was it, and had had enough.": None,
        "He wrote “the the boat” and `a  b`.": None,
    },
    "wordy phrases": {
        "In order to win, we utilise a really old boat.": "To win, we use an old boat.",
        "Basically, it should be noted that a very old boat sank.": "An old boat sank.",
        "It was, of course, late in fact.": "It was late.",
        "IN THE EVENT THAT it sinks, of course.": "IF it sinks.",
        "A total of 9 boats, and a total of 12 men, left.": "A total of 9 boats, and 12 men, left.",
        "It is not really good, and not very old.": None,
        "He said “basically nothing” to us.": None,
    },
    "passives": {
        "The winch was repaired by the crew in May.": "The crew repaired the winch in May.",
        "On Monday, the old boats were sold by us.": "On Monday, we sold the old boats.",
        "They were seen by Anna at 10:40.": "Anna saw them at 10:40.",
        "The boat was finished by Friday.": None,
        "The boat was found by accident.": None,
        "The list says the boat was sold by the crew.": None,
        "The boat was drawn by Anna from Oslo who liked it.": None,
        "The boat was built by hand.": None,
    },
    "long sentences": {
        "The ferry left the pier in the morning with all the passengers, and the crew counted the boxes that "
        "were still on the deck after the long night.": "The ferry left the pier in the morning with all the "
        "passengers. The crew counted the boxes that were still on the deck after the long night.",
        "The ferry left the pier in the morning with all of the passengers on it, which was a surprise to those "
        "who waited for the later boat there.": "The ferry left the pier in the morning with all of the passengers "
        "on it. It was a surprise to those who waited for the later boat there.",
        "We bought ropes and paint in the morning for the boats in the yard, and the oars that were needed for the "
        "one that is used at night.": None,
        "When the ferry left the pier in the morning with all the passengers, and the crew had counted the boxes, "
        "the office closed for the rest of the day.": None,
    },
    "repetitions": {
        "The ferry made 12 trips in May, and was late twice. In May the ferry made 12 trips. It was late.": "The "
        "ferry made 12 trips in May, and was late twice. It was late.",
        "The ferry made 12 trips in May. The ferry made 14 trips in May.": None,
        "The ferry was often late in May. The ferry was not often late in May.": None,
        "## Trips\n\nThe ferry made many trips.\n\n## Again\n\nThe ferry made many trips.": "## Trips\n\nThe ferry "
        "made many trips.",
    },
    "misplaced sections": {
        "# T\n\n## Costs\n\nB.\n\n## More\n\nC.\n\n## 1. Summary\n\nA.": "# T\n\n## 1. Summary\n\nA.\n\n## Costs\n\nB."
        "\n\n## More\n\nC.",
        "# T\n\n## Summary\n\nA.\n\n## Our cats\n\nB.\n\n## Next steps\n\nC.": None,
    },
}


@pytest.mark.parametrize(
    ("kind", "text", "better"), [(kind, *pair) for kind, pairs in MENDED.items() for pair in pairs.items()]
)
def test_a_rule_mends_what_it_finds_and_nothing_else(kind: str, text: str, better: str | None) -> None:
    """Each rule finds its fault and takes it away; what only looks like one, or what somebody else said, stays."""
    rule = next(rule for rule in RULES if rule.kind == kind)
    blocks = blocks_of(text)
    assert bool(list(rule.find(blocks))) == (better is not None or text.startswith(("We bought", "When the")))
    mended_blocks = rule.mend(blocks)
    assert joined(mended_blocks).strip() == (better or text)
    assert list(rule.find(mended_blocks)) == ([] if better else list(rule.find(blocks)))


def test_what_is_no_prose_stays_as_it_is() -> None:
    """Code, lists, tables and quotes are not touched, whatever stands in them; nor is what is on one line broken."""
    text = (
        "# Very very big\n\n- very\n\n```\nin order  to\n\nvery\n```\n\n| very | 1 |\n\n> really\n\nOslo, very late\n"
    )
    assert mended(text) == text == laid_out(text)
    assert faults_in(text, text) == ()


def test_sentences_end_where_a_reader_would_end_them() -> None:
    """An abbreviation, a name or a number ends none."""
    text = "Dr. A. Berg paid 1.50 euros, e.g. Monday. “Why?” (Nobody knows.) `x` is 3."
    assert sentences_of(text) == ["Dr. A. Berg paid 1.50 euros, e.g. Monday.", "“Why?”", "(Nobody knows.)", "`x` is 3."]


def test_the_reading_ease_is_that_of_flesch() -> None:
    """Six words in one sentence and two in another, twelve syllables: 206.835 - 1.015 * 4 - 84.6 * 12 / 8."""
    text = "The harbour office closed on Monday. Boats waited."
    assert reading_ease(text) == pytest.approx(206.835 - 1.015 * 4 - 84.6 * 12 / 8)
    assert reading_ease("# Only a title\n") == 0


def test_a_number_that_changes_costs_more_than_good_style_gains() -> None:
    """A rewrite that loses a number, or makes one up, scores worse than the text it was made from."""
    assert [fault.kind for fault in faults_in("We sold 9 boats.", "We sold 8 boats.")] == [
        "lost numbers",
        "made-up numbers",
    ]
    assert points(BEST.replace("1,104", "1,105"), FERRY) < points(BEST, FERRY) - 15
    assert not review("We sold 8 boats.", "We sold 9 boats.")
    assert review("We sold 9 boats.", "We sold 9 boats.")


def test_letters_are_the_same_in_every_process() -> None:
    """Vectors do not depend on the seed of Python's hashes, so a resumed run decides as an undisturbed one."""
    script = "from refining.meaning import embed; print(embed(['The ferry left.', '']))"
    env = ENVIRONMENT | {"PYTHONPATH": f"{ROOT}:{ROOT}/examples", "PYTHONHASHSEED": "7"}
    told = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert told.stdout.strip() == str(embed(["The ferry left.", ""]))
    assert sum(embed(["ferry"])[0]) == 5 + 4 + 3  # parts of three, four and five letters of " ferry "


def test_without_sentence_transformers_letters_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is loaded, and nothing downloaded."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    assert choose_embeddings("all-MiniLM-L6-v2") == ""


def test_a_model_needs_its_package_and_its_price(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent it is said what to install or to set; without a key the rules write."""
    assert choose_writer({"ANTHROPIC_API_KEY": ""}) == ("rules", "", None)
    key = {"OPENAI_API_KEY": "k", "REPORT_REFINER_MODEL": "mine"}
    with pytest.raises(ValueError, match="price of mine is not known: set REPORT_REFINER_USD_PER_MTOK"):
        choose_writer(key)
    with pytest.raises(ValueError, match="write the prices as"):
        choose_writer(key | {"REPORT_REFINER_USD_PER_MTOK": "3"})
    assert choose_writer(key | {"REPORT_REFINER_USD_PER_MTOK": "3, 4.5"}) == ("openai", "mine", Price(3.0, 4.5))
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(RuntimeError, match="pip install openai"):
        choose_writer(key)


@pytest.mark.parametrize("answer", ["A.\n", "```\nA.\n```", "<report>\nA.\n</report>\n", "```md\nA.\n```\n"])
def test_what_models_put_around_a_text_is_taken_away(answer: str) -> None:
    """A fence or the marks of the question are no part of the report."""
    assert unwrapped(answer).strip() == "A."
