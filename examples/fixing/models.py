"""Let a language model propose the repair."""

import os
import re
from collections.abc import Mapping

from fixing.search import Attempt, Proposal, Proposer
from fixing.vendors import Model, ask_model, choose_model, model_of

MOST_TOKENS = 16_000
"""Tokens of an answer, the model's thinking included."""

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


def choose_proposer(environ: Mapping[str, str]) -> Proposer:
    """Take the first model there is a key for, else the search.

    Raises:
        RuntimeError: There is a key, but its package is not installed.
        ValueError: The price of the model is not known, or is none.
    """
    model = choose_model(environ, "CODE_FIXER")
    return model.vendor if model else "search"


def chosen_model(proposer: Proposer) -> Model:
    """Give the model that proposes.

    Raises:
        ValueError: The price of the model is not known, or is none.
    """
    assert proposer != "search"  # it asks no model
    return model_of(proposer, os.environ, "CODE_FIXER")


def repair(attempt: Attempt) -> Proposal:
    """Ask for a corrected version of the best code so far.

    Raises:
        BudgetExhausted: What the answer may cost does not fit what is left; nothing was sent then.
        ValueError: The price of the model is not known, or is none.
    """
    model = chosen_model(attempt.proposer)
    code = extract_code(ask_model(model, prompt_for(attempt), MOST_TOKENS).text)
    label = model.name if code else f"{model.name}, an answer without code"
    return Proposal(code, attempt.fronts.index(attempt.best), attempt.best.cursor, label)


def prompt_for(attempt: Attempt) -> str:
    """Describe the best code, its tests, how they fail and what was tried in vain."""
    case, best = attempt.case, attempt.best
    return PROMPT.format(
        failing=round((1 - best.score) * case.expected),
        expected=case.expected,
        module=case.module,
        test_module=case.test_module,
        code=best.code,
        tests=case.tests,
        report=attempt.report,
        rejected=f"\nThis did not help:\n```diff\n{attempt.rejected}\n```\n" if attempt.rejected else "",
    )


def extract_code(text: str) -> str:
    """Return the longest fenced block of an answer, or nothing."""
    blocks = re.findall(r"^```[^\n`]*\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    return max(blocks, key=len, default="")
