"""The code fixer's models: what is asked, what is charged, and the real SDKs against a server on this machine."""

import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import code_fixer
from fixing.models import choose_proposer, extract_code, prompt_for
from fixing.search import Attempt, Proposal, Proposer, begin, learn
from fixing.trial import Case, Trial, examine, open_case
from fixing.vendors import KEYS, Model, model_of
from loomc_runner import Budget, Price
from vendor import Reply, Script

GCD = code_fixer.BUGS / "gcd" / "gcd.py"
FIXED = GCD.read_text(encoding="utf-8").replace("gcd(a % b, b)", "gcd(b, a % b)")
ANSWER = "It must not be negative:\n```python\ndef one():\n    return 1\n```\n"
RIGHT = f"```python\n{FIXED}```\n"


class Paid(NamedTuple):
    """A vendor's default model, what its answers report, and what one of them costs."""

    name: str
    usage: dict[str, Any]
    usd: float


PAID: dict[Proposer, Paid] = {
    "anthropic": Paid(
        "claude-sonnet-5-5",
        {
            "input_tokens": 1000,
            "cache_creation_input_tokens": 400,
            "cache_creation": {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 0},
            "output_tokens": 200,
        },
        (1000 * 2.00 + 400 * 2.50 + 200 * 10.00) / 1e6,
    ),
    "openai": Paid(
        "gpt-6.1-terra",
        {"prompt_tokens": 1400, "completion_tokens": 200, "total_tokens": 1600},
        (1400 * 1.00 + 200 * 5.00) / 1e6,
    ),
}


@pytest.fixture(params=["anthropic", "openai"])
def proposer(request: pytest.FixtureRequest, script: Script, monkeypatch: pytest.MonkeyPatch) -> Proposer:
    """Each vendor, asked on the local server."""
    for name in ("CODE_FIXER_MODEL", "CODE_FIXER_USD_PER_MTOK"):
        monkeypatch.delenv(name, raising=False)
    vendor = request.param.upper()
    monkeypatch.setenv(f"{vendor}_API_KEY", script.key)
    monkeypatch.setenv(f"{vendor}_BASE_URL", script.url if vendor == "ANTHROPIC" else f"{script.url}/v1")
    proposer: Proposer = request.param
    return proposer


@pytest.fixture
def broken(proposer: Proposer) -> Attempt:
    """A repair of a shipped bug that has just begun."""
    case, code = open_case(GCD, GCD.with_name("test_gcd.py"))
    case, trial = examine(case, code)
    return begin(case, code, trial, seed=0, proposer=proposer)


def attempt_of(proposer: Proposer, code: str = "def one():\n    return -1\n") -> Attempt:
    """A repair that has just begun: one of two tests fails."""
    case = Case(module="thing.py", test_module="test_thing.py", tests="TESTS", folders=(), expected=2)
    trial = Trial(2, {"a": "failed", "b": "passed"}, output="E assert -1 == 1")
    return begin(case, code, trial, seed=0, proposer=proposer)


def test_a_run_with_a_model_is_charged_what_it_costs(proposer: Proposer, broken: Attempt, script: Script) -> None:
    """The real SDK sends the prompt, and each answer is charged with its model, also one that did not help."""
    paid = PAID[proposer]
    script.next(*(Reply(text=text, usage=paid.usage) for text in (ANSWER, RIGHT)))
    result = code_fixer.fix.with_options(checkpoint="memory").run(broken)
    assert (result.status, result.best_score, result.steps) == ("completed", 1, 2)
    assert result.state.best.code == FIXED
    assert result.state.tried == f"{paid.name}, 1.00"
    assert result.tokens == 2 * 1600
    assert result.cost_usd == pytest.approx(2 * paid.usd)
    assert [seen.body["model"] for seen in script.seen] == [paid.name] * 2
    first, second = (seen.body["messages"][0]["content"] for seen in script.seen)
    assert first == prompt_for(broken)
    assert "+def one():" in second


def test_what_may_cost_too_much_is_not_asked(proposer: Proposer, broken: Attempt, script: Script) -> None:
    """The second request does not fit what is left: it is not sent, and the run ends with the best code so far."""
    paid = PAID[proposer]
    script.always(Reply(text=ANSWER, usage=paid.usage))
    usd = {"anthropic": 0.17, "openai": 0.085}[proposer]  # 16,000 tokens of an answer, and the prompt
    fix = code_fixer.fix.with_options(checkpoint="memory", budget=Budget(usd=usd))
    result = fix.run(broken)
    assert (result.status, result.steps, len(script.seen)) == ("budget_exhausted", 1, 1)
    assert f"{paid.name} was not asked: it may cost $" in (result.stop_reason or "")
    assert result.cost_usd == pytest.approx(paid.usd)
    assert result.state.best == broken.best


def test_a_model_of_your_own_costs_what_you_say(
    proposer: Proposer, broken: Attempt, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that is in no list is charged by the price that is given; without one it is not asked."""
    monkeypatch.setenv("CODE_FIXER_MODEL", "mine")
    with pytest.raises(ValueError, match="price of mine is not known: set CODE_FIXER_USD_PER_MTOK"):
        code_fixer.fix.with_options(checkpoint="memory").run(broken)
    assert script.seen == []
    monkeypatch.setenv("CODE_FIXER_USD_PER_MTOK", "0.5, 4")
    script.next(Reply(text=RIGHT, usage=PAID[proposer].usage))
    result = code_fixer.fix.with_options(checkpoint="memory").run(broken)
    assert (result.status, script.seen[0].body["model"]) == ("completed", "mine")
    assert result.cost_usd == pytest.approx((1400 * 0.5 + 200 * 4) / 1e6)


def test_a_model_that_was_paid_is_not_asked_again(
    proposer: Proposer, broken: Attempt, script: Script, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When a step fails after the answer, the run goes on with it, and it costs once."""
    monkeypatch.chdir(tmp_path)
    script.next(Reply(text=RIGHT, usage=PAID[proposer].usage))
    with monkeypatch.context() as without_room:
        without_room.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        with pytest.raises(FileNotFoundError):
            code_fixer.fix.run(broken, run_id="fix")
    result = code_fixer.fix.run(broken, run_id="fix")
    assert (result.status, len(script.seen)) == ("completed", 1)
    assert result.cost_usd == pytest.approx(PAID[proposer].usd)


@pytest.mark.parametrize("vendor", KEYS)
def test_a_key_without_its_package_is_an_error(vendor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line and says what to install."""
    monkeypatch.setitem(sys.modules, vendor, None)
    with pytest.raises(RuntimeError, match=f"_API_KEY is set but .*: pip install {vendor}$"):
        choose_proposer({f"{vendor.upper()}_API_KEY": "k"})


def test_without_a_key_the_search_proposes() -> None:
    """Nothing leaves the machine unless a key is set; an empty one is none."""
    assert choose_proposer({"ANTHROPIC_API_KEY": ""}) == "search"


def test_a_key_alone_is_enough() -> None:
    """The first model there is a key for is asked; the default models are in the list of prices."""
    assert choose_proposer({"OPENAI_API_KEY": "k"}) == "openai"
    assert choose_proposer({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}) == "anthropic"


def test_a_price_is_two_numbers() -> None:
    """Dollars for a million tokens, in and out."""
    given = {"CODE_FIXER_MODEL": "mine", "CODE_FIXER_USD_PER_MTOK": "0.5, 4"}
    assert model_of("openai", given, "CODE_FIXER") == Model("openai", "mine", Price(0.5, 4.0))


@pytest.mark.parametrize("text", ["3", "a,b", "-1,2", "nan,1", "inf,1", "1,2,3"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    """Nothing else could be charged."""
    with pytest.raises(ValueError, match="write the prices as"):
        choose_proposer({"OPENAI_API_KEY": "k", "CODE_FIXER_USD_PER_MTOK": text})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nx = 1\n```", "x = 1\n"),
        ("Instead of\n```\nx\n```\nwrite\n```py\nx = 1\ny = 2\n```\n", "x = 1\ny = 2\n"),
        ("I cannot do that.", ""),
        ("```python\nx = 1\n", ""),
    ],
)
def test_the_longest_whole_block_is_the_file(text: str, code: str) -> None:
    """Prose and short quotes around the file are left out; an answer that was cut off gives none."""
    assert extract_code(text) == code


def test_the_prompt_tells_what_fails_and_what_did_not_help() -> None:
    """A model sees the best code, the tests, what pytest says, and its last answer if that was rejected."""
    attempt = attempt_of("anthropic")
    prompt = prompt_for(attempt)
    for part in ("1 of the 2 tests", "thing.py", "return -1", "TESTS", "E assert -1 == 1"):
        assert part in prompt
    assert "did not help" not in prompt
    rejected = Proposal("def one():\n    return 0\n", 0, 0, "model")
    attempt = learn(attempt, rejected, Trial(2, {"a": "failed", "b": "passed"}), adopt=False)
    assert "+    return 0" in prompt_for(attempt)
