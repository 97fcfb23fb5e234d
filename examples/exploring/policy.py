"""What the agent can do next, what it has seen so far, and the two that choose: a script, and a model."""

import os
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field, TypeAdapter

from exploring.tools import Hit, Outcome
from fixing.models import chosen_model
from fixing.search import Proposer
from fixing.vendors import ask_model
from loomc_runner import Approval

MOST_SEEN = 100_000
"""Characters of what was seen that a model is shown."""

MOST_TOKENS = 4_000
"""Tokens of an answer, the model's thinking included."""


class Search(BaseModel):
    """Find the lines of Python files below a folder that match a regular expression."""

    do: Literal["search"] = "search"
    pattern: re.Pattern[str]
    folder: str


class Read(BaseModel):
    """Read some lines of a file, counted from 1, such as those of a definition."""

    do: Literal["read"] = "read"
    path: str
    first: int = Field(ge=1)
    last: int


class Examine(BaseModel):
    """Find out which functions of these files use the symbol; for source files and for test files."""

    do: Literal["examine"] = "examine"
    paths: list[str]


class RunTests(BaseModel):
    """Run these test files, if the user allows it."""

    do: Literal["run_tests"] = "run_tests"
    paths: list[str]


class Finish(BaseModel):
    """End with a report of all that was observed."""

    do: Literal["finish"] = "finish"


Action = Annotated[Search | Read | Examine | RunTests | Finish, Field(discriminator="do")]
ACTIONS: TypeAdapter[Action] = TypeAdapter(Action)


class Observation(BaseModel):
    """What was done and what came of it."""

    action: Action | None
    summary: str
    hits: list[Hit] = []
    lines: list[str] = []
    users: dict[str, list[str]] = {}
    outcomes: list[Outcome] = []
    verdict: Approval | None = None


class Exploration(BaseModel):
    """The goal, and the observations so far: the agent's state."""

    symbol: str
    root: str
    tests: str
    policy: Proposer = "search"
    seen: list[Observation] = []

    @property
    def folder(self) -> str:
        """The folder of the repository: what the sources and the tests have in common."""
        return os.path.commonpath([self.root, self.tests])

    @property
    def hits(self) -> list[Hit]:
        """Every mention of the symbol, in order."""
        hits = [hit for seen in self.seen for hit in seen.hits if re.search(rf"\b{self.symbol}\b", hit.text)]
        return list(dict.fromkeys(hits))

    @property
    def definitions(self) -> list[Hit]:
        """The mentions that define it."""
        definition = re.compile(rf"(async )?(def|class) {self.symbol}\b|{self.symbol}(: [^=]+)? = ")
        return [hit for hit in self.hits if definition.match(hit.text) and not self.is_test(hit.path)]

    @property
    def users(self) -> dict[str, list[str]]:
        """The functions that use it, by file."""
        return {path: names for seen in self.seen for path, names in seen.users.items() if names}

    def is_test(self, path: str) -> bool:
        """Whether it is a file that pytest runs."""
        return Path(path).is_relative_to(self.tests) and bool(re.fullmatch(r"test_.*\.py|.*_test\.py", Path(path).name))


def follow_script(state: Exploration) -> Action:
    """Search, read the definition, search the tests, examine the files and run those tests that use the symbol."""
    done = [seen.action for seen in state.seen]
    pattern = re.compile(rf"\b{state.symbol}\b")
    tests = [path for path in state.users if state.is_test(path)]
    plan: list[Action] = [Search(pattern=pattern, folder=folder) for folder in dict.fromkeys((state.root, state.tests))]
    plan += [Read(path=hit.path, first=hit.line, last=hit.line + 4) for hit in state.definitions[:1]]
    plan += [Examine(paths=paths)] if (paths := list(dict.fromkeys(hit.path for hit in state.hits))) else []
    plan += [RunTests(paths=tests)] if tests else []
    return next((action for action in plan if action not in done), Finish())


PROMPT = """\
Find out where the Python symbol {symbol} is defined, which functions use it, which tests exercise it, and whether
they pass. The sources are below {root}, the tests below {tests}; nothing else can be read.

Answer with your next action and nothing else: one JSON object that fits this schema. The report is made of what the
actions observe, so search both folders, examine the files found, run the tests that use the symbol, then finish.
{schema}

What you have done and observed so far:
{seen}
"""


def follow_model(state: Exploration) -> Action:
    """Let a model choose among the same actions.

    Raises:
        ValidationError: Its answer is none of them.
        BudgetExhausted: What the answer may cost does not fit what is left; nothing was sent then.
    """
    seen = "\n".join(seen.model_dump_json(exclude_defaults=True) for seen in state.seen)[:MOST_SEEN]
    schema = ACTIONS.json_schema()
    prompt = PROMPT.format(
        symbol=state.symbol, root=state.root, tests=state.tests, schema=schema, seen=seen or "nothing"
    )
    answer = ask_model(chosen_model(state.policy), prompt, MOST_TOKENS).text
    return ACTIONS.validate_json(answer[answer.find("{") : answer.rfind("}") + 1])


def choose_action(state: Exploration) -> Action:
    """Think: choose what to do next."""
    return follow_script(state) if state.policy == "search" else follow_model(state)
