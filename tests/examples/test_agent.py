"""The agent as its user meets it: its report, its question, its deaths, and a model in the place of the script."""

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from textwrap import dedent
from typing import NamedTuple

import pytest

from exploring.tools import python_files, users_in
from vendor import Reply, Script

ROOT = Path(__file__).parents[2]
AGENT = [sys.executable, str(ROOT / "examples" / "agent.py")]
LOOMC = [sys.executable, "-c", "from loomc_runner.cli import main; main()"]
FOREIGN = ("PYTEST_", "COV_", "LOOMC_")
ENVIRONMENT = {k: v for k, v in os.environ.items() if not k.endswith("_API_KEY") and not k.startswith(FOREIGN)}
ENVIRONMENT |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", "COLUMNS": "200"}

FILES = {
    "conftest.py": """
        import os, signal, time
        from pathlib import Path

        HERE = Path(__file__).parent

        def pytest_sessionstart(session):  # counts what really runs; waits, or dies, when a test of the agent says so
            with (HERE / "ran.txt").open("a") as log:
                log.write(f"{Path(session.config.args[0]).name}\\n")
            begun = len((HERE / "ran.txt").read_text().splitlines())
            due = time.monotonic() + 60
            while (HERE / f"hold_{begun}").exists() and time.monotonic() < due:
                time.sleep(0.01)
            if (HERE / f"die_{begun}").exists():
                os.kill(os.getpid(), signal.SIGKILL)
        """,
    "shop/pricing.py": """
        def price(net, rate=0.2):
            return round(net * (1 + rate), 2)
        """,
    "shop/cart.py": """
        from shop.pricing import price as gross

        class Cart:
            def total(self, nets):
                return sum(gross(net) for net in nets)
        """,
    "tests/test_pricing.py": """
        import shop.pricing

        class TestPrice:
            def test_rate(self):
                assert shop.pricing.price(10) == 12

        def test_nothing():
            assert shop
        """,
    "tests/test_cart.py": """
        from shop import cart, pricing

        def test_total():
            assert cart.Cart().total([10, 20]) == pricing.price(30)
        """,
    "tests/test_other.py": """
        def test_other():
            assert True  # has no price
        """,
    ".venv/lib.py": "price = 1\n",
}
ANSWER = """\
price is defined in
  shop/pricing.py:1: def price(net, rate=0.2):
    | def price(net, rate=0.2):
    |     return round(net * (1 + rate), 2)
    | \nused by
  shop/cart.py: Cart.total
exercised by
  tests/test_cart.py: test_total
  tests/test_pricing.py: TestPrice.test_rate
tests
"""
PASSED = f"{ANSWER}  tests/test_cart.py: 1 passed, 0 failed\n  tests/test_pricing.py: 2 passed, 0 failed\n"


class Repository(NamedTuple):
    """A small repository to explore, and a folder beside it to work in."""

    root: Path
    cwd: Path

    @property
    def question(self) -> list[str]:
        """What the agent is started with."""
        return ["price", "--root", str(self.root), "--tests", str(self.root / "tests")]

    def run(self, command: list[str], *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        env = ENVIRONMENT | environment
        return subprocess.run(
            [*command, *arguments], cwd=self.cwd, env=env, capture_output=True, text=True, check=False
        )

    def ran(self) -> list[str]:
        """The test files that pytest was really started with, in order."""
        log = self.root / "ran.txt"
        return log.read_text(encoding="utf-8").split() if log.exists() else []

    def rows(self, query: str) -> list[tuple[object, ...]]:
        """What the database says; nothing while there is none."""
        try:
            with closing(sqlite3.connect(f"file:{self.cwd}/.loomc/checkpoints.db?mode=ro", uri=True)) as database:
                return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []

    def kill_when(self, moment: Callable[["Repository"], bool], **environment: str) -> str:
        """Start the agent, kill it at a moment, and give the id of its run."""
        agent = subprocess.Popen(
            [*AGENT, *self.question, "--yes"],
            cwd=self.cwd,
            env=ENVIRONMENT | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        due = time.monotonic() + 60
        while not moment(self):
            assert agent.poll() is None, agent.communicate()
            assert time.monotonic() < due
            time.sleep(0.001)
        assert agent.poll() is None, "it was too fast to be killed"
        agent.kill()
        return run_id_in(agent.communicate()[0])

    def release(self) -> None:
        """Let the tests go on that wait."""
        for hold in self.root.glob("hold_*"):
            hold.unlink()


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    """A repository with two source files and three test files."""
    root, cwd = tmp_path / "repository", tmp_path / "work"
    for name, text in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text).lstrip(), encoding="utf-8")
    cwd.mkdir()
    return Repository(root, cwd)


def run_id_in(output: str) -> str:
    """The id that the agent prints before it begins."""
    return next(line for line in output.splitlines() if line.startswith("run ")).split()[1]


def report_in(output: str) -> str:
    """The report at the end of what the agent prints."""
    return output[output.index("price is defined in") :]


def test_the_whole_way(repository: Repository) -> None:
    """With --yes it goes from the symbol to the report in one go, runs each test file once, and writes nowhere else."""
    done = repository.run(AGENT, *repository.question, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert report_in(done.stdout) == PASSED
    assert repository.ran() == ["test_cart.py", "test_pricing.py"]
    left = {str(path.relative_to(repository.root)) for path in repository.root.rglob("*") if path.is_file()}
    assert left == {*FILES, "ran.txt"}
    children = repository.rows("select status from runs where parent_run_id is not null")
    assert children == [("completed",)] * 5  # each file that mentions the symbol, a comment included


def test_it_waits_for_a_yes(repository: Repository) -> None:
    """Without --yes it ends well before any test is run, says what to do, and goes on after the approval."""
    waiting = repository.run(AGENT, *repository.question)
    run_id = run_id_in(waiting.stdout)
    assert (waiting.returncode, waiting.stderr, repository.ran()) == (0, "", [])
    assert "Run 2 test files with your rights: tests/test_cart.py, tests/test_pricing.py?" in waiting.stdout
    assert f"loomc approve {run_id} --by YOU" in waiting.stdout
    again = repository.run(AGENT, "--resume", run_id)
    assert (again.returncode, repository.ran()) == (0, [])
    assert "loomc approve" in again.stdout
    approved = repository.run(LOOMC, "approve", run_id, "--by", "anna")
    assert approved.returncode == 0, approved.stderr
    done = repository.run(AGENT, "--resume", run_id)
    assert (done.returncode, report_in(done.stdout)) == (0, PASSED)
    shown = repository.run(AGENT, "--resume", run_id)  # once more: nothing is executed
    assert (shown.returncode, report_in(shown.stdout)) == (0, PASSED)
    assert len(repository.ran()) == 2


def test_a_no_ends_the_run_well(repository: Repository) -> None:
    """After a denial there is a report, without test results and with the reason; no test was run."""
    run_id = run_id_in(repository.run(AGENT, *repository.question).stdout)
    denied = repository.run(LOOMC, "deny", run_id, "--by", "anna", "--note", "not today")
    assert denied.returncode == 0, denied.stderr
    resumed = repository.run(LOOMC, "resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    shown = repository.run(AGENT, "--resume", run_id, "--yes")
    assert (shown.returncode, repository.ran()) == (0, [])
    assert report_in(shown.stdout) == f"{ANSWER}  not run: denied by anna (not today)\n"


def test_what_fails_is_shown_and_what_died_is_tried_again(repository: Repository) -> None:
    """A failing test is a result, with what pytest said; a pytest that was killed is run once more."""
    (repository.root / "die_1").touch()
    (repository.root / "shop/pricing.py").write_text("def price(net, rate=0):\n    return net\n", encoding="utf-8")
    done = repository.run(AGENT, *repository.question, "--yes")
    assert done.returncode == 0, done.stderr
    assert "tests/test_cart.py: 1 passed, 0 failed" in done.stdout
    assert "tests/test_pricing.py: 1 passed, 1 failed\n" in done.stdout
    assert "assert 10 == 12" in done.stdout
    assert repository.ran() == ["test_cart.py", "test_cart.py", "test_pricing.py"]


def calls_done(count: int) -> Callable[[Repository], bool]:
    """Whether so many calls have ended."""
    return lambda repository: len(repository.rows("select 1 from calls where status = 'done'")) >= count


def between_children(repository: Repository) -> bool:
    """Whether some child runs have ended, and another one is in its middle."""
    runs = repository.rows("select status, steps from runs where parent_run_id is not null")
    return ("completed", 2) not in runs and sum(status == "completed" for status, _ in runs) >= 3


DEATHS: dict[str, tuple[str, Callable[[Repository], bool]]] = {
    "in a search": ("", lambda repository: bool(repository.rows("select 1 from calls"))),
    "after the first search": ("", calls_done(1)),
    "between children": ("", between_children),
    "after the approval": (
        "hold_1",
        lambda repository: bool(repository.rows("select 1 from questions where answer is not null")),
    ),
    "in the first tests": ("hold_1", lambda repository: len(repository.ran()) == 1),
    "in the second tests": ("hold_2", lambda repository: len(repository.ran()) == 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_run_is_finished_by_loomc_resume(death: str, repository: Repository) -> None:
    """After `kill -9` the report is that of an undisturbed run, and what had ended is not executed again."""
    hold, moment = DEATHS[death]
    if hold:
        (repository.root / hold).touch()
    if death == "between children":  # one that takes so long that the others end before it
        big = "from shop.pricing import price\n" + "x = 1\n" * 20_000
        (repository.root / "shop/big.py").write_text(big, encoding="utf-8")
    run_id = repository.kill_when(moment)
    ended = repository.rows("select run_id, step_n, key, name from calls where status = 'done'")
    tests_ended = sum(name == "exploring.tools.run_tests" for *_, name in ended)
    ran = len(repository.ran())
    whole = "select id, resumes from runs where parent_run_id is not null and status = 'completed' order by id"
    children = repository.rows(whole)
    assert len(children) >= 3 or death != "between children"
    repository.release()
    resumed = repository.run(LOOMC, "resume", run_id)
    if "waiting" in resumed.stderr:  # it died before its question, or before the answer
        assert repository.run(LOOMC, "approve", run_id, "--by", "anna").returncode == 0
        resumed = repository.run(LOOMC, "resume", run_id)
    assert resumed.returncode == 0, resumed.stderr
    assert report_in(repository.run(AGENT, "--resume", run_id).stdout) == PASSED
    assert len(repository.ran()) == ran + 2 - tests_ended
    assert set(children) <= set(repository.rows(whole))
    done = Counter(repository.rows("select run_id, step_n, key, name from calls where status = 'done'"))
    assert set(ended) <= set(done)
    assert set(done.values()) == {1}


@pytest.mark.slow
def test_a_model_chooses_and_is_not_asked_twice(repository: Repository, script: Script) -> None:
    """It is told what is not possible, its cost is counted, and a killed step does not ask and pay again."""
    tests = [str(repository.root / name) for name in ("tests/test_cart.py", "tests/test_pricing.py")]
    sources = [str(repository.root / name) for name in ("shop/pricing.py", "shop/cart.py")]
    actions = [
        {"do": "search", "pattern": r"\bprice\b", "folder": str(repository.root)},
        {"do": "read", "path": "/etc/passwd", "first": 1, "last": 9},
        {"do": "run_tests", "paths": sources},
        {"do": "examine", "paths": [*sources, *tests]},
        {"do": "read", "path": sources[0], "first": 1, "last": 3},
        {"do": "run_tests", "paths": tests},
        {"do": "finish"},
    ]
    texts = ["I cannot choose.", *(f"Next:\n```json\n{json.dumps(action)}\n```" for action in actions)]
    script.next(*(Reply(text=text, usage={"input_tokens": 1000, "output_tokens": 300}) for text in texts))
    environment = {"ANTHROPIC_BASE_URL": script.url, "ANTHROPIC_API_KEY": script.key}
    (repository.root / "hold_2").touch()
    run_id = repository.kill_when(lambda repository: len(repository.ran()) == 2, **environment)
    repository.release()
    resumed = repository.run(LOOMC, "resume", run_id, "--json", **environment)
    assert resumed.returncode == 0, resumed.stderr
    result = json.loads(resumed.stdout)
    assert (result["steps"], result["cost_usd"]) == (8, pytest.approx(8 * 0.005))
    assert report_in(repository.run(AGENT, "--resume", run_id, **environment).stdout) == PASSED
    assert Counter(repository.ran()) == {"test_cart.py": 1, "test_pricing.py": 2}
    prompts = [seen.body["messages"][0]["content"] for seen in script.seen]
    assert len(prompts) == len(texts)
    for said in ("that is not possible", "/etc/passwd is neither below", "give test files below", "Cart.total"):
        assert said in prompts[-1]
    assert "root:" not in prompts[-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a symbol, or a run to resume"),
        (["a.b"], "a.b is no Python name"),
        (["price", "--root", "nowhere"], "nowhere is no folder"),
        (["--resume", "nothing"], "nothing"),
    ],
)
def test_a_mistake_on_the_command_line_is_told(arguments: list[str], message: str, repository: Repository) -> None:
    """What cannot begin says why, with status 2."""
    done = repository.run(AGENT, *arguments)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]


def test_importing_the_example_writes_nothing(repository: Repository) -> None:
    """A loop at module level is only declared; a run makes the database."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'examples')!r}); import agent"
    assert repository.run([sys.executable, "-c", script]).returncode == 0
    assert list(repository.cwd.iterdir()) == []


def test_what_is_hidden_is_not_searched(repository: Repository) -> None:
    """Hidden folders, caches, virtual environments and links are left out."""
    for name in ("__pycache__/a.py", "env/pyvenv.cfg", "env/b.py", "notes.txt"):
        (repository.root / name).parent.mkdir(exist_ok=True)
        (repository.root / name).touch()
    (repository.root / "shop/loop").symlink_to(repository.root)
    found = {str(path.relative_to(repository.root)) for path in python_files(repository.root)}
    assert found == {name for name in FILES if not name.startswith(".")}


@pytest.mark.parametrize(
    ("source", "users"),
    [
        ("def f(): return it()\nasync def g(): x.it\n", ["f", "g"]),
        ("class C:\n    def m(self):\n        def n(): it\n", ["C.m.n"]),
        ("from a import it as that\nthat()\ndef f(): item\n", ["module"]),
        ("from a import it\n# it\n'it'\n", []),
        ("@mark(it)\ndef f(): pass\n", ["f"]),
    ],
)
def test_users_are_named_by_their_functions(source: str, users: list[str]) -> None:
    """Uses count by the syntax tree, under other names too; imports, comments and texts do not."""
    assert users_in(source, "it") == users
