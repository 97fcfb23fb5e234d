"""The code fixer's own parts, without the library: mutations, trials, localisation and the search."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fixing.mutations import mutate
from fixing.search import Attempt, Proposal, begin, learn, promising, propose, ranked
from fixing.trial import Case, Trial, examine, observe, open_case, run_tests

EXAMPLES = Path(__file__).parents[2] / "examples"
BUGS = EXAMPLES / "bugs"
LONG = {"binary_search", "day_of_year", "run_length"}  # these take more than five seconds
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX process groups and signals")


def patched(code: str, kind: str) -> set[str]:
    """Every version of the code that one kind of mutation makes."""
    return {patch.apply(code) for patch, _ in mutate(code) if patch.kind == kind}


def small_case(tests: str, *, expected: int = 0, test_seconds: float = 1.0, run_seconds: float = 60.0) -> Case:
    """A case without files: `thing.py` and these tests of it."""
    limits = {"expected": expected, "test_seconds": test_seconds, "run_seconds": run_seconds}
    return Case.model_validate(
        {"module": "thing.py", "test_module": "test_thing.py", "tests": tests, "folders": (), **limits}
    )


def trial_of(failed: str, passed: str = "", lines: dict[str, set[int]] | None = None) -> Trial:
    """A trial as data: which tests, named by one letter each, failed and passed."""
    outcomes = dict.fromkeys(failed, "failed") | dict.fromkeys(passed, "passed")
    return Trial(len(outcomes), outcomes, {name: frozenset(ran) for name, ran in (lines or {}).items()})


def started(name: str, seed: int = 0) -> Attempt:
    """The first state of the repair of a shipped bug."""
    case, code = open_case(BUGS / name / f"{name}.py", BUGS / name / f"test_{name}.py")
    case, trial = examine(case, code)
    return begin(case, code, trial, seed=seed, proposer="search")


def steps(attempt: Attempt) -> Iterator[Attempt]:
    """Do what the loop does, without the loop."""
    while attempt.best.score < 1 and (proposal := propose(attempt)):
        trial = run_tests(attempt.case, proposal.code)
        adopt = promising(attempt, proposal, trial)
        if adopt:
            trial = observe(attempt.case, proposal.code, trial)
        attempt = learn(attempt, proposal, trial, adopt=adopt)
        yield attempt


# Mutations


@pytest.mark.parametrize(
    ("kind", "before", "after"),
    [
        ("other comparison", "x = a < b\n", "x = a <= b\n"),
        ("other comparison", "x = a < b >= c\n", "x = a < b > c\n"),
        ("other comparison", "x = a not  in b\n", "x = a in b\n"),
        ("other comparison", "x = a is b\n", "x = a is not b\n"),
        ("other operator", "x = a // b\n", "x = a / b\n"),
        ("other operator", "x = (a) + (b)\n", "x = (a) - (b)\n"),
        ("other operator", "x += 1\n", "x -= 1\n"),
        ("other boolean", "x = a and b and c\n", "x = a and b or c\n"),
        ("other constant", "x = 10\n", "x = 11\n"),
        ("other constant", "x = 10\n", "x = 9\n"),
        ("other constant", "x = True\n", "x = False\n"),
        ("without one", "x = f(n - 1)\n", "x = f(n)\n"),
        ("without one", "x = (n + m) - 1\n", "x = (n + m)\n"),
        ("one more or less", "x = a[i]\n", "x = a[i + 1]\n"),
        ("one more or less", "x = a[i:j]\n", "x = a[i:j - 1]\n"),
        ("one more or less", "r = range(0, n)\n", "r = range(0, n + 1)\n"),
        ("one more or less", "low = middle\n", "low = middle + 1\n"),
        ("swapped arguments", "x = f(a % b, b)\n", "x = f(b, a % b)\n"),
        ("swapped operands", "x = a - (b + c)\n", "x = (b + c) - (a)\n"),
        ("negation", "if a:\n    b()\n", "if not a:\n    b()\n"),
        ("negation", "x = not a\n", "x = a\n"),
        ("twin function", "x = min(a, b)\n", "x = max(a, b)\n"),
        ("twin function", "x.append(a)\n", "x.extend(a)\n"),
        ("missing return", "def f():\n    g()\n", "def f():\n    return g()\n"),
        ("missing return", "def f(a):\n    b = a\n", "def f(a):\n    b = a\n    return b\n"),
        ("other variable", "def f(a, b):\n    return a + a\n", "def f(a, b):\n    return a + b\n"),
        ("deletion", "a = 1\nb = 2  # two\nc = 3\n", "a = 1\nc = 3\n"),
        ("deletion", "if a:\n    b()\n", "if a:\n    pass\n"),
        ("deletion", "a(); b()\n", "pass; b()\n"),
        ("exchange", "a = b\nb = a  # why\n", "b = a\na = b  # why\n"),
    ],
)
def test_each_rule_undoes_its_mistake(kind: str, before: str, after: str) -> None:
    """A rule makes exactly the change it is there for, and leaves everything else as it was."""
    assert after in patched(before, kind)


def test_comments_and_layout_survive() -> None:
    """A patch changes its own characters only: the other lines stay as they were written."""
    code = "# Größe\ndef f( a,b ):   # odd   spacing\n    return a  <  b  # ä < b\n"
    assert code.replace("a  <  b", "a  <=  b") in patched(code, "other comparison")


def test_a_comment_between_operands_is_no_operator() -> None:
    """An operator is found where it stands, not in a comment before it."""
    code = "x = (a  # a < b\n     < b)\n"
    assert "x = (a  # a < b\n     <= b)\n" in patched(code, "other comparison")


def test_annotations_decorators_and_f_strings_are_left_alone() -> None:
    """What is no behaviour, or has no reliable position, is not mutated."""
    code = '@cached(1)\ndef f(a: Literal[2] = None) -> Literal[3]:\n    return f"{a + 1}"\n'
    assert {patch.kind for patch, _ in mutate(code)} == {"deletion"}


def test_statements_without_a_common_variable_stay_in_order() -> None:
    """Exchanging statements that have nothing to do with each other is not tried."""
    assert patched("a = 1\nb = 2\n", "exchange") == set()


@pytest.mark.parametrize("name", sorted(folder.name for folder in BUGS.iterdir() if folder.is_dir()))
def test_every_patch_is_a_different_change(name: str) -> None:
    """No patch gives the code back unchanged, and none is offered twice."""
    code = (BUGS / name / f"{name}.py").read_text(encoding="utf-8")
    patches = [patch for patch, _ in mutate(code)]
    assert code not in {patch.apply(code) for patch in patches}
    assert len({patch.edit for patch in patches}) == len(patches)


def test_a_patch_knows_the_statement_it_changes() -> None:
    """A change inside a statement of several lines belongs to all of its lines."""
    code = "a = 0\nx = [\n    1,\n    7,\n]\n"
    assert {(patch.first, patch.last) for patch, _ in mutate(code) if patch.apply(code).count("8")} == {(2, 5)}


# Trials


def test_the_score_is_the_share_of_tests_that_pass() -> None:
    """Two of three passing tests score 2/3; a skipped test does not count."""
    tests = (
        "import pytest, thing\n"
        "def test_a(): assert thing.one() == 1\n"
        "def test_b(): assert thing.one() > 0\n"
        "def test_c(): assert thing.one() == 2\n"
        "@pytest.mark.skip\ndef test_d(): assert False\n"
    )
    trial = run_tests(small_case(tests), "def one(): return 1\n")
    assert (trial.passed, trial.counted) == (2, 3)
    assert trial.share == pytest.approx(2 / 3)
    assert trial.failing == ("test_thing.py::test_c",)


@pytest.mark.parametrize("code", ["def one(:\n", "raise RuntimeError\n", "import os\nos._exit(0)\n"])
def test_code_that_cannot_be_imported_scores_nothing(code: str) -> None:
    """A syntax error, an error on import and a process that ends by itself all score 0."""
    assert run_tests(small_case("import thing\ndef test_a(): pass\n"), code).share == 0


def test_a_candidate_cannot_win_by_losing_tests() -> None:
    """The share is of the tests there were at the start, also when fewer are collected now."""
    tests = "import pytest, thing\n@pytest.mark.parametrize('n', thing.ALL)\ndef test_n(n): assert n < 2\n"
    assert run_tests(small_case(tests, expected=4), "ALL = [1]\n").share == 0.25


def test_a_test_that_spins_fails_and_the_others_count() -> None:
    """An endless loop costs its test, even one that swallows every error, and the run goes on."""
    tests = "import thing\ndef test_a(): thing.spin()\ndef test_b(): assert thing.one() == 1\n"
    code = (
        "def one(): return 1\n"
        "def spin():\n    while True:\n        try:\n            one()\n        except Exception:\n            pass\n"
    )
    trial = run_tests(small_case(tests, test_seconds=0.2), code)
    assert (trial.share, trial.seconds < 10) == (0.5, True)


@posix
def test_a_hanging_trial_is_killed_with_all_it_started(tmp_path: Path) -> None:
    """When the time is up, the tests and the processes that they started are gone."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    tests = "import thing\ndef test_a(): thing.hang()\n"
    code = (
        "import subprocess, sys, time\n"
        f"keep = open({str(alive)!r}, 'wb')\n"
        "def hang():\n"
        "    subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'], pass_fds=[keep.fileno()])\n"
        "    time.sleep(600)\n"
    )
    try:
        assert run_tests(small_case(tests, run_seconds=2.0), code).share == 0
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""  # the end of the file: nobody holds the other end any more
    finally:
        os.close(reader)


@posix
def test_tests_end_by_themselves_when_their_parent_was_killed(tmp_path: Path) -> None:
    """After `kill -9` of the fixer, the trial under way ends at its own deadline, inside C code as well."""
    alive = tmp_path / "alive"
    os.mkfifo(alive)
    code = f"keep = open({str(alive)!r}, 'wb')\nsum(range(10**12))\n"
    case = small_case("import thing\ndef test_a(): pass\n", run_seconds=2.0)
    script = f"from fixing.trial import *; run_tests(Case.model_validate_json({case.model_dump_json()!r}), {code!r})"
    environment = os.environ | {"TMPDIR": str(tmp_path)}  # a killed process leaves its folder behind
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=EXAMPLES, env=environment)
    reader = os.open(alive, os.O_RDONLY)  # waits until the candidate has begun
    try:
        parent.kill()
        parent.wait()
        assert os.read(reader, 1) == b""  # the end of the file, when the candidate has ended
    finally:
        os.close(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux limits the address space")
def test_a_candidate_that_eats_memory_fails_its_test() -> None:
    """Doubling a list without end must not take the machine down."""
    tests = "import thing\ndef test_a(): thing.eat()\ndef test_b(): pass\n"
    code = "def eat():\n    return bytearray(8 * 2**30)\n"
    assert run_tests(small_case(tests), code).failing == ("test_thing.py::test_a",)


def test_candidates_get_no_keys_and_no_foreign_options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the code decides: keys stay outside, and the caller's pytest options do not apply."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "secret")
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k nothing_at_all")
    tests = "import os, thing\ndef test_a(): assert 'ANTHROPIC_API_KEY' not in os.environ\n"
    assert run_tests(small_case(tests), "").share == 1


def test_neighbours_of_the_file_can_be_imported(tmp_path: Path) -> None:
    """The other modules of the file's own folder are found, the changed file before the one on disk."""
    (tmp_path / "helper.py").write_text("ONE = 1\n", encoding="utf-8")
    (tmp_path / "thing.py").write_text("ONE = 2\n", encoding="utf-8")
    (tmp_path / "test_thing.py").write_text("import thing\ndef test_a(): assert thing.ONE == 1\n", encoding="utf-8")
    case, code = open_case(tmp_path / "thing.py", tmp_path / "test_thing.py")
    assert [run_tests(case, text).share for text in (code, "from helper import ONE\n")] == [0, 1]


def test_tests_that_never_reach_the_file_are_refused() -> None:
    """Tests that import another module could never be satisfied, so the repair does not begin."""
    with pytest.raises(ValueError, match="import thing"):
        examine(small_case("import math\ndef test_a(): assert math.pi == 3\n"), "x = 1\n")


def test_tests_that_cannot_be_collected_are_refused() -> None:
    """Without a single test there is nothing to score."""
    with pytest.raises(ValueError, match=r"no test could be run(.|\n)*missing_module"):
        examine(small_case("import missing_module\n"), "x = 1\n")


# Localisation


def test_suspicion_is_ochiai() -> None:
    """A line that one of two failing tests and one passing test run scores 1 / sqrt(2 * 2)."""
    trial = trial_of("ab", "c", {"a": {1, 2}, "b": {1, 3}, "c": {1, 3, 4}})
    assert trial.suspicion() == {1: pytest.approx(2 / 6**0.5, abs=1e-4), 2: pytest.approx(0.7071), 3: 0.5}


def test_failing_tests_lead_to_the_faulty_line() -> None:
    """Real tests put the line that only the failing one runs first, and lines it never runs nowhere."""
    tests = "import thing\ndef test_a(): assert thing.size(-1) == 1\ndef test_b(): assert thing.size(1) == 1\n"
    code = "LIMIT = 0\n\n\ndef size(n):\n    if n < LIMIT:\n        return n\n    return n\n"
    _, trial = examine(small_case(tests), code)
    suspicion = trial.suspicion()
    assert max(suspicion, key=suspicion.__getitem__) == 6
    assert 7 not in suspicion
    assert suspicion[1] == suspicion[5] > 0  # what runs on import, runs for every test


# The search


def test_the_most_suspicious_and_the_likeliest_come_first() -> None:
    """Patches are tried by suspicion of their lines times the weight of their rule."""
    code = "def f(a, b):\n    c = a < b\n    d = a < b\n    return c, d\n"
    first = ranked(code, {2: 0.2, 3: 1.0, 4: 0.1}, seed=0)[:2]
    assert {patch.apply(code).splitlines()[2] for patch in first} == {"    d = a <= b", "    d = a > b"}


def test_the_seed_decides_between_equals_only() -> None:
    """The same seed gives the same order; another one shuffles patches that are worth the same."""
    code = (BUGS / "gcd" / "gcd.py").read_text(encoding="utf-8")
    suspicion = dict.fromkeys(range(1, 20), 0.5)
    weights = dict(mutate(code))
    one, again, other = (ranked(code, suspicion, seed) for seed in (1, 1, 2))
    assert one == again != other
    assert [weights[patch] for patch in one] == [weights[patch] for patch in other]


def test_the_place_in_the_search_survives_a_restart() -> None:
    """A state read back from JSON proposes what the living one would, and never what it has tried."""
    code = "def f(a, b):\n    return a < b\n"
    attempt = begin(small_case(""), code, trial_of("a", "b"), seed=3, proposer="search")
    seen = []
    while proposal := propose(attempt):
        assert propose(Attempt.model_validate_json(attempt.model_dump_json())) == proposal
        seen.append(proposal.code)
        attempt = learn(attempt, proposal, trial_of("ab"), adopt=False)
    assert len(seen) == len(set(seen)) > 3
    assert attempt.best.code == code


def test_a_worse_patch_is_not_adopted() -> None:
    """The score never falls, and a patch that fails the same tests as a kept version is not kept again."""
    attempt = begin(small_case(""), "x = 1\n", trial_of("abc", "d"), seed=0, proposer="search")
    proposal = Proposal("x = 2\n", 0, 1, "line 1: other constant")
    assert not promising(attempt, proposal, trial_of("abcd"))
    assert not promising(attempt, proposal, trial_of("abd", "c"))  # another test, not more of them
    better = trial_of("ab", "cd")
    assert promising(attempt, proposal, better)
    attempt = learn(attempt, proposal, better, adopt=True)
    assert attempt.best.code == "x = 2\n"
    assert not promising(attempt, Proposal("x = 3\n", 1, 2, ""), better)
    assert promising(attempt, Proposal("x = 3\n", 1, 2, ""), trial_of("c", "abd"))


def test_an_older_version_keeps_its_turns() -> None:
    """A patch that helped can lead nowhere: what it was made from is still changed, too."""
    attempt = begin(small_case(""), "x = 1\ny = 5\n", trial_of("abc", "d"), seed=0, proposer="search")
    attempt = learn(attempt, Proposal("x = 2\ny = 5\n", 0, 1, ""), trial_of("ab", "cd"), adopt=True)
    origins = set()
    while proposal := propose(attempt):
        origins.add(attempt.fronts[proposal.front].code)
        attempt = learn(attempt, proposal, trial_of("abcd"), adopt=False)
    assert origins == {"x = 1\ny = 5\n", "x = 2\ny = 5\n"}


def test_the_same_seed_walks_the_same_way() -> None:
    """Two searches with one seed try the same patches and see the same scores."""
    ways = [[(step.tried, step.best.score) for step in steps(started("gcd", seed=4))] for _ in range(2)]
    assert ways[0] == ways[1]


def test_two_faults_are_repaired_one_after_the_other() -> None:
    """The first patch raises the score, the second completes it, and the state stays small."""
    attempt = started("wrap")
    scores, size = [attempt.best.score], 0
    for step in steps(attempt):
        if step.best.score != scores[-1]:
            scores.append(step.best.score)
        size = max(size, len(step.model_dump_json()))
    assert len(scores) > 2
    assert scores == sorted(scores)
    assert scores[-1] == 1
    assert size < 20_000


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(folder.name, marks=[pytest.mark.slow] if folder.name in LONG else [])
        for folder in sorted(BUGS.iterdir())
        if folder.is_dir()
    ],
)
def test_every_shipped_bug_is_fixed_within_a_minute(name: str) -> None:
    """The bare search repairs each bug that comes with the example, and its tests really failed before."""
    began = time.monotonic()
    attempt = started(name)
    assert attempt.best.score < 1
    *_, last = steps(attempt)
    assert last.best.score == 1
    assert run_tests(last.case, last.best.code).share == 1
    assert time.monotonic() - began < 60
