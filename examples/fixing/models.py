"""Ask a language model for a repair, and say what the answer cost."""

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fixing.search import Attempt, Proposal, Proposer

KEYS: dict[Proposer, str] = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
DEFAULT_MODELS: dict[Proposer, str] = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-terra"}
# US dollars for a million tokens, in and out, as listed in November 2026 on platform.claude.com/docs (models
# overview) and developers.openai.com/api/docs/pricing. Long prompts cost more, see LONGEST_PROMPT. Prices change:
# for other models, or newer prices, set CODE_FIXER_USD_PER_MTOK="in,out".
PRICES: dict[str, tuple[float, float]] = {
    "claude-fable-5-2": (8.00, 40.00),
    "claude-opus-5-5": (4.00, 20.00),
    "claude-sonnet-5-5": (2.00, 10.00),
    "claude-haiku-5-5": (0.10, 0.50),
    "gpt-6-astra": (10.00, 50.00),
    "gpt-6.1-sol": (2.00, 10.00),
    "gpt-6.1-terra": (1.00, 5.00),
    "gpt-6-luna": (0.10, 0.50),
}
LONGEST_PROMPT = 200_000  # characters: well below the 100,000 tokens up to which the prices above hold
CACHE_WRITE = 1.25  # what both charge for input they put into their cache; cached input is counted in full
MOST_OUTPUT = 16_000  # tokens, the model's thinking included
SECONDS = 120.0

PROMPT = """\
{failing} of the {expected} tests of the Python file {module} fail. Correct the file, changing as little as possible.
Answer with the complete corrected file in one fenced code block.

{module}:
```python
{code}
```

{test_module}:
```python
{tests}
```

What pytest says:
```
{report}
```
{rejected}"""


@dataclass(frozen=True)
class Answer:
    """What a model said, and the tokens it took; input that the provider stored in its cache costs more."""

    text: str
    tokens_in: int
    tokens_stored: int
    tokens_out: int

    def usd(self, prices: tuple[float, float]) -> float:
        """Return the cost, never less than the bill."""
        price_in, price_out = prices
        weighted = self.tokens_in + self.tokens_stored * CACHE_WRITE
        return (weighted * price_in + self.tokens_out * price_out) / 1_000_000


@dataclass(frozen=True)
class Reply:
    """What a model said, which one it was and what it cost."""

    text: str
    model: str
    usd: float
    tokens: int


def choose_proposer(environ: Mapping[str, str]) -> Proposer:
    """Take the first model there is a key for, else the search.

    Raises:
        RuntimeError: There is a key, but its package is not installed.
        ValueError: The price of the model is not known.
    """
    for proposer, key in KEYS.items():
        if environ.get(key):
            load_sdk(proposer)
            prices_of(model_of(proposer, environ), environ)
            return proposer
    return "search"


def load_sdk(proposer: Proposer) -> Any:
    """Import the provider's package; the search needs none."""
    try:
        return importlib.import_module(proposer)
    except ImportError:
        raise RuntimeError(f"{KEYS[proposer]} is set but its package is missing: pip install {proposer}") from None


def model_of(proposer: Proposer, environ: Mapping[str, str]) -> str:
    """Return the name of the model to ask."""
    return environ.get("CODE_FIXER_MODEL") or DEFAULT_MODELS[proposer]


def prices_of(model: str, environ: Mapping[str, str]) -> tuple[float, float]:
    """Return what a million tokens cost, in and out; an unknown price is an error, never zero.

    Raises:
        ValueError: The model is not in the table and no price is given.
    """
    given = environ.get("CODE_FIXER_USD_PER_MTOK")
    if given:
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*,\s*(\d+(?:\.\d+)?)\s*", given)
        if not match:
            raise ValueError(f'CODE_FIXER_USD_PER_MTOK={given}: write the prices as "in,out", such as "2.00,10.00"')
        return float(match[1]), float(match[2])
    if model not in PRICES:
        raise ValueError(f'the price of {model} is not known: set CODE_FIXER_USD_PER_MTOK="in,out"')
    return PRICES[model]


def ask_model(attempt: Attempt) -> Proposal:
    """Ask for a corrected version of the best code so far.

    Raises:
        RuntimeError: The provider's package is missing, or its answer does not say what it cost.
        ValueError: The price is not known, or the files are too long to ask about.
    """
    reply = consult(attempt.proposer, prompt_for(attempt))
    code = extract_code(reply.text)
    return Proposal(
        code=code,
        front=attempt.fronts.index(attempt.best),
        cursor=attempt.best.cursor,
        label=reply.model if code else f"{reply.model}, an answer without code",
        usd=reply.usd,
        tokens=reply.tokens,
    )


def consult(proposer: Proposer, prompt: str) -> Reply:
    """Ask the model of a provider.

    Raises:
        RuntimeError: The provider's package is missing, or its answer does not say what it cost.
        ValueError: The price is not known.
    """
    model = model_of(proposer, os.environ)
    prices = prices_of(model, os.environ)
    answer = ASK[proposer](load_sdk(proposer), model, prompt)
    tokens = answer.tokens_in + answer.tokens_stored + answer.tokens_out
    return Reply(answer.text, model, answer.usd(prices), tokens)


def prompt_for(attempt: Attempt) -> str:
    """Describe the best code, its tests, how they fail and what was tried in vain."""
    case, best = attempt.case, attempt.best
    prompt = PROMPT.format(
        failing=round((1 - best.score) * case.expected),
        expected=case.expected,
        module=case.module,
        test_module=case.test_module,
        code=best.code,
        tests=case.tests,
        report=attempt.report,
        rejected=f"\nThis did not help:\n```diff\n{attempt.rejected}\n```\n" if attempt.rejected else "",
    )
    if len(prompt) > LONGEST_PROMPT:
        raise ValueError(f"{case.module} and its tests are too long to ask a model about")
    return prompt


def extract_code(text: str) -> str:
    """Return the longest fenced block of an answer, or nothing."""
    blocks = re.findall(r"^```[^\n`]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return max(blocks, key=len, default="")


def ask_anthropic(sdk: Any, model: str, prompt: str) -> Answer:
    """Ask through the anthropic package."""
    client = sdk.Anthropic(timeout=SECONDS)
    message = client.messages.create(
        model=model, max_tokens=MOST_OUTPUT, messages=[{"role": "user", "content": prompt}]
    )
    usage = message.usage
    return Answer(
        text="".join(block.text for block in message.content if block.type == "text"),
        tokens_in=usage.input_tokens + (usage.cache_read_input_tokens or 0),
        tokens_stored=usage.cache_creation_input_tokens or 0,
        tokens_out=usage.output_tokens,
    )


def ask_openai(sdk: Any, model: str, prompt: str) -> Answer:
    """Ask through the openai package."""
    client = sdk.OpenAI(timeout=SECONDS)
    completion = client.chat.completions.create(
        model=model, max_completion_tokens=MOST_OUTPUT, messages=[{"role": "user", "content": prompt}]
    )
    usage = completion.usage
    if usage is None:
        raise RuntimeError(f"the answer of {model} does not say how many tokens it took, so its cost is not known")
    stored = getattr(usage.prompt_tokens_details, "cache_write_tokens", None) or 0
    return Answer(
        text=completion.choices[0].message.content or "",
        tokens_in=usage.prompt_tokens - stored,
        tokens_stored=stored,
        tokens_out=usage.completion_tokens,
    )


ASK = {"anthropic": ask_anthropic, "openai": ask_openai}
