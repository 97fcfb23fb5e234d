"""The code fixer's models: what is asked, what is charged, and the real SDKs against a server on this machine."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import repeat
from typing import Any, ClassVar

import pytest

import code_fixer
from fixing.models import Answer, ask_model, choose_proposer, extract_code, model_of, prices_of, prompt_for
from fixing.search import Attempt, Proposal, Proposer, begin, learn
from fixing.trial import Case, Trial, examine, open_case

ANSWER = "It must not be negative:\n```python\ndef one():\n    return 1\n```\n"
USAGE = {
    "anthropic": {"input_tokens": 1000, "output_tokens": 200, "cache_creation_input_tokens": 400},
    "openai": {
        "prompt_tokens": 1400,
        "completion_tokens": 200,
        "total_tokens": 1600,
        "prompt_tokens_details": {"cache_write_tokens": 400},
    },
}


class Server(BaseHTTPRequestHandler):
    """Answers as both providers do, and remembers what was asked."""

    asked: ClassVar[list[dict[str, Any]]] = []
    texts: ClassVar[Iterator[str]] = iter(())
    usage: ClassVar[dict[str, Any]] = USAGE

    def do_POST(self) -> None:
        """Answer a request by its path."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append(request)
        if self.path.endswith("/messages"):
            thought = {"type": "thinking", "thinking": "```python\nnot this\n```\n" + "x\n" * 99, "signature": ""}
            content = [thought, {"type": "text", "text": next(self.texts)}]
            body: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "content": content}
            body |= {"model": request["model"], "stop_reason": "end_turn", "usage": self.usage["anthropic"]}
        else:
            message = {"role": "assistant", "content": next(self.texts)}
            body = {"id": "c", "object": "chat.completion", "created": 0, "model": request["model"]}
            body |= {"choices": [{"index": 0, "finish_reason": "stop", "message": message}]}
            body |= {"usage": self.usage["openai"]}
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Server]]:
    """A server that both SDKs are pointed at."""
    http = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    base = f"http://127.0.0.1:{http.server_port}"
    for name, value in {
        "ANTHROPIC_BASE_URL": base,
        "OPENAI_BASE_URL": f"{base}/v1",
        "ANTHROPIC_API_KEY": "k",
        "OPENAI_API_KEY": "k",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("CODE_FIXER_MODEL", raising=False)
    monkeypatch.setattr(Server, "asked", [])
    monkeypatch.setattr(Server, "texts", repeat(ANSWER))
    yield Server
    http.shutdown()
    thread.join()
    http.server_close()


def attempt_of(proposer: Proposer, code: str = "def one():\n    return -1\n") -> Attempt:
    """A repair that has just begun: one of two tests fails."""
    case = Case(module="thing.py", test_module="test_thing.py", tests="TESTS", folders=(), expected=2)
    trial = Trial(2, {"a": "failed", "b": "passed"}, output="E assert -1 == 1")
    return begin(case, code, trial, seed=0, proposer=proposer)


@pytest.mark.parametrize("proposer", ["anthropic", "openai"])
def test_a_model_is_asked_and_its_price_is_known(
    proposer: Proposer, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real SDK sends the prompt; the answer's code, tokens and cost come back, cache writes included."""
    pytest.importorskip(proposer)
    monkeypatch.setenv("CODE_FIXER_USD_PER_MTOK", "2.00,10.00")
    attempt = attempt_of(proposer)
    proposal = ask_model(attempt)
    assert proposal.code == "def one():\n    return 1\n"
    assert proposal.tokens == 1600
    assert proposal.usd == pytest.approx((1000 * 2 + 400 * 2.5 + 200 * 10) / 1e6)
    assert proposal.label == server.asked[0]["model"] == model_of(proposer, {})
    assert server.asked[0]["messages"][0]["content"] == prompt_for(attempt)


def test_an_answer_without_usage_is_an_error(server: type[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be priced is not taken for free."""
    pytest.importorskip("openai")
    monkeypatch.setattr(server, "usage", {"openai": None})
    with pytest.raises(RuntimeError, match="cost is not known"):
        ask_model(attempt_of("openai"))


@pytest.mark.parametrize("proposer", ["anthropic", "openai"])
def test_a_run_with_a_model_counts_what_it_costs(
    proposer: Proposer, server: type[Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop's ledger holds the price of every answer, also of one that did not help."""
    pytest.importorskip(proposer)
    monkeypatch.setenv("CODE_FIXER_USD_PER_MTOK", "2.00,10.00")
    source = code_fixer.BUGS / "gcd" / "gcd.py"
    case, code = open_case(source, source.with_name("test_gcd.py"))
    case, trial = examine(case, code)
    attempt = begin(case, code, trial, seed=0, proposer=proposer)
    fixed = f"```python\n{code.replace('gcd(a % b, b)', 'gcd(b, a % b)')}```\n"
    monkeypatch.setattr(server, "texts", iter([ANSWER, fixed]))
    result = code_fixer.fix.with_options(checkpoint="memory").run(attempt)
    assert (result.status, result.best_score, result.steps) == ("completed", 1, 2)
    assert result.tokens == 3200
    assert result.cost_usd == pytest.approx(2 * 0.005)
    assert "+def one():" in server.asked[1]["messages"][0]["content"]


@pytest.mark.parametrize("proposer", ["anthropic", "openai"])
def test_a_key_without_its_package_is_an_error(proposer: Proposer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one line and says what to install."""
    monkeypatch.setitem(sys.modules, proposer, None)
    with pytest.raises(RuntimeError, match=f"_API_KEY is set but .*: pip install {proposer}$"):
        choose_proposer({f"{proposer.upper()}_API_KEY": "k"})


def test_without_a_key_the_search_proposes() -> None:
    """Nothing leaves the machine unless a key is set; an empty one is none."""
    assert choose_proposer({"ANTHROPIC_API_KEY": ""}) == "search"


def test_an_unknown_price_is_an_error() -> None:
    """A model that is not in the table needs its price, which then holds."""
    with pytest.raises(ValueError, match="price of new-model is not known: set CODE_FIXER_USD_PER_MTOK"):
        prices_of("new-model", {})
    assert prices_of("new-model", {"CODE_FIXER_USD_PER_MTOK": "0.5, 4"}) == (0.5, 4.0)


@pytest.mark.parametrize("text", ["3", "a,b", "-1,2", "nan,1", "1,2,3"])
def test_a_price_that_is_none_is_refused(text: str) -> None:
    """A price is two plain numbers: nothing else could be charged."""
    with pytest.raises(ValueError, match="write the prices as"):
        prices_of("claude-sonnet-5-5", {"CODE_FIXER_USD_PER_MTOK": text})


def test_the_default_models_have_prices() -> None:
    """Whoever sets only a key is charged by the table."""
    assert all(prices_of(model_of(proposer, {}), {}) > (0, 0) for proposer in ("anthropic", "openai"))


def test_cost_counts_every_token() -> None:
    """A million tokens in and out cost what the table says, and writing the cache a quarter more."""
    assert Answer("", 1_000_000, 0, 1_000_000).usd((2.0, 10.0)) == 12.0
    assert Answer("", 0, 1_000_000, 0).usd((2.0, 10.0)) == 2.5


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


def test_a_prompt_beyond_the_known_prices_is_refused() -> None:
    """Long prompts cost more than the table says, so they are not sent."""
    with pytest.raises(ValueError, match="too long"):
        prompt_for(attempt_of("openai", code="#" * 300_000))
