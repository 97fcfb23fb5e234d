"""Find out where a Python symbol is defined, who uses it, which tests exercise it, and whether they pass.

    python examples/agent.py parse_duration                          in the folder at hand
    python examples/agent.py fix --root src --tests tests            sources here, tests there
    python examples/agent.py fix --yes                               run the tests without asking
    python examples/agent.py --resume RUN                            go on with a run, and show its report

An agent that thinks, acts and observes, one action an iteration: a policy chooses among a search, a look at a file, an
examination of many files (each a child run), and a run of the tests. Before any test is run the run waits for your
approval, and this program may end: `loomc approve RUN --by YOU`, then --resume. What was done is not done again.

Without a key nothing leaves this machine: a script chooses. With ANTHROPIC_API_KEY or OPENAI_API_KEY set, that model
chooses, and sees what the actions find; each call is held to the budget before it is sent, and charged by its client.
CODE_FIXER_MODEL names another model; CODE_FIXER_USD_PER_MTOK="in,out" its price, when it is in no list. A run that was
killed goes on with `loomc resume RUN`.

The tests are run with your rights: approve what you would run yourself.
"""

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

# `loomc resume` imports this file by its path, from any folder: its neighbours must be found then too.
sys.path.insert(0, str(Path(__file__).resolve().parent))

from exploring.policy import Action, Examine, Exploration, Finish, Observation, Read, RunTests, Search, choose_action
from exploring.report import Report, report_of
from exploring.tools import read, run_tests, search, users_in
from fixing.models import choose_proposer
from loomc_runner import Approval, Budget, Done, LoomcError, RunResult, Stream, ask, loop, spend

LINES = 400  # how much of a file is read at a time


class Refused(Exception):
    """An action that is not allowed; the policy is told, and chooses again."""


class Page(BaseModel):
    """A file that is being read, and at its end the functions in it that use the symbol."""

    path: str
    symbol: str
    text: list[str] = []
    users: list[str] = []


@loop(budget=Budget(iterations=100, wall_clock="1m"))
def examine(page: Page) -> Page | Done[Page, None]:
    """Read the next part of a file that mentions the symbol; at its end say which functions use it."""
    spend(usd=0.0, label="reading")
    if not page.text and not search(rf"\b{page.symbol}\b", page.path):
        return Done(page)
    begun = len(page.text)
    part = read(page.path, begun + 1, begun + LINES)
    text = [*page.text, *part.lines]
    if begun + LINES < part.of:
        return page.model_copy(update={"text": text})
    try:
        users = users_in("\n".join(text), page.symbol)
    except SyntaxError:
        users = ["(it is not valid Python)"]
    return Done(page.model_copy(update={"text": [], "users": users}))


@loop(budget=Budget(usd=0.50, iterations=30, wall_clock="30m"), checkpoint="sqlite")
def explore(state: Exploration) -> Exploration | Done[Exploration, Report]:
    """Think, act, observe."""
    action = None
    try:
        action = choose_action(state)
        spend(usd=0.0, label="acting")  # only thinking costs; under a cap in dollars each step says what it cost
        seen = act(state, action)
    except (ValidationError, Refused, OSError) as error:
        seen = Observation(action=action, summary=f"that is not possible: {error}")
    state = state.model_copy(update={"seen": [*state.seen, seen]})
    denied = seen.verdict is not None and not seen.verdict.approved
    return Done(state, result=report_of(state)) if denied or isinstance(action, Finish) else state


def act(state: Exploration, action: Action) -> Observation:
    """Do what was chosen, and tell what came of it.

    Raises:
        Refused: It reaches beyond the two folders, or would run what is no test.
    """
    match action:
        case Search():
            hits = search(action.pattern.pattern, allowed(state, action.folder))
            summary = f"{len(hits)} lines in {len({hit.path for hit in hits})} files match {action.pattern.pattern}"
            return Observation(action=action, hits=hits, summary=summary)
        case Read():
            part = read(allowed(state, action.path), action.first, action.last)
            return Observation(action=action, lines=list(part.lines), summary=f"read {len(part.lines)} lines")
        case Examine():
            pages = [Page(path=allowed(state, path), symbol=state.symbol) for path in dict.fromkeys(action.paths)]
            users = {page.path: page.users for page in examine.map(pages)}
            summary = f"{sum(map(len, users.values()))} functions in {len(users)} files examined use {state.symbol}"
            return Observation(action=action, users=users, summary=summary)
        case RunTests():
            return run_approved(state, action)
        case Finish():
            return Observation(action=action, summary="finished")


def run_approved(state: Exploration, action: RunTests) -> Observation:
    """Ask the user, and run the tests after a yes."""
    paths = [allowed(state, path) for path in dict.fromkeys(action.paths)]
    if not paths or not all(map(state.is_test, paths)):
        raise Refused(f"give test files below {state.tests}")
    names = ", ".join(os.path.relpath(path, state.folder) for path in paths)
    count = f"{len(paths)} test file{'s' if len(paths) > 1 else ''}"
    verdict = ask(f"Run {count} with your rights: {names}?", Approval)
    if not verdict.approved:
        return Observation(action=action, verdict=verdict, summary=f"denied by {verdict.by}")
    outcomes = [run_tests(path, state.folder) for path in paths]
    passed, failed = (sum(getattr(outcome, name) for outcome in outcomes) for name in ("passed", "failed"))
    return Observation(
        action=action, verdict=verdict, outcomes=outcomes, summary=f"{passed} tests passed, {failed} failed"
    )


def allowed(state: Exploration, path: str) -> str:
    """Give a path as it is known, if it is one of the user's two folders or below.

    Raises:
        Refused: It is elsewhere.
    """
    full = Path(state.folder, path).resolve()
    if not any(full.is_relative_to(folder) for folder in (state.root, state.tests)):
        raise Refused(f"{path} is neither below {state.root} nor below {state.tests}")
    return str(full)


def follow(stream: Stream[Exploration]) -> RunResult[Exploration]:
    """Show what the agent observes while it works."""
    for step in stream:
        print(f"{step.step_n:3}  {step.state.seen[-1].summary.splitlines()[0]}", flush=True)
    assert stream.result is not None  # a stream that was read to its end has one
    return stream.result


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Where is a symbol defined, who uses it, and do its tests pass?")
    parser.add_argument("symbol", nargs="?", help="the name of a function, a class or a variable")
    parser.add_argument("--root", type=Path, default=Path(), help="the folder of the sources (default: this one)")
    parser.add_argument("--tests", type=Path, help="the folder of the tests (default: the sources')")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run")
    parser.add_argument("--yes", action="store_true", help="run the tests without asking")
    options = parser.parse_args(arguments)
    if (options.symbol is None) == (options.resume is None):
        parser.error("give a symbol, or a run to resume")
    return options


def begin(options: argparse.Namespace) -> Stream[Exploration]:
    """Open the run that the command line asks for.

    Raises:
        ValueError: There is no such symbol or folder.
        RuntimeError: A model cannot be asked.
    """
    if options.resume:
        return explore.stream(run_id=options.resume)
    folders = [folder.resolve() for folder in (options.root, options.tests or options.root)]
    if missing := [folder for folder in folders if not folder.is_dir()]:
        raise ValueError(f"{missing[0]} is no folder")
    if not options.symbol.isidentifier():
        raise ValueError(f"{options.symbol} is no Python name")
    root, tests = map(str, folders)
    policy = choose_proposer(os.environ)
    return explore.stream(Exploration(symbol=options.symbol, root=root, tests=tests, policy=policy))


def work(options: argparse.Namespace) -> int:
    """Do what the command line asks for; 0 when there is a report, or a question to answer first."""
    stream = begin(options)
    print(f"run {stream.run_id} (if it is killed: loomc resume {stream.run_id})", flush=True)
    result = follow(stream)
    while result.status == "waiting" and options.yes:
        me = getpass.getuser()
        explore.answer(stream.run_id, Approval(approved=True, note="--yes", by=me), by=me)
        result = follow(explore.stream(run_id=stream.run_id))
    if result.status == "waiting":
        print(f"{result.stop_reason}\nloomc approve {stream.run_id} --by YOU    (or: loomc deny ...), then")
        print(f"loomc resume {stream.run_id}    or, to see the report: agent.py --resume {stream.run_id}")
        return 0
    print(result.result if result.status == "completed" else f"{result.status}: {result.stop_reason}")
    return 0 if result.status == "completed" else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 = a report or a question, 1 = neither, 2 = could not start or go on."""
    try:
        return work(parse(arguments))
    except (ValueError, RuntimeError, OSError, LoomcError) as error:
        print(f"agent: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nagent: stopped; the run can be resumed", file=sys.stderr)
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
