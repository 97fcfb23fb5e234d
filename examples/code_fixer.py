"""Repair a Python file until all of its tests pass.

    python examples/code_fixer.py                           every bug in examples/bugs, one after another
    python examples/code_fixer.py gcd                       one of them
    python examples/code_fixer.py mine.py test_mine.py      a file of yours and its pytest file
    python examples/code_fixer.py --resume RUN              go on with a run, and show its patch

Each iteration proposes one patch, runs the real tests in another process and keeps the patch when more of them pass.
Without a key nothing leaves this machine: the patches come from a search over small changes of the syntax tree, led
by the lines that the failing tests run. With ANTHROPIC_API_KEY or OPENAI_API_KEY set, that model is asked; each call is
held to the budget before it is sent, and charged by its client. A run that was killed goes on with `loomc resume RUN`.

CODE_FIXER_MODEL names another model; CODE_FIXER_USD_PER_MTOK="in,out" its price, when it is in no list.

The code under repair, and every candidate for it, is run with your rights: use it on code you would run yourself.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# `loomc resume` imports this file by its path, from any folder: its neighbours must be found then too.
sys.path.insert(0, str(HERE))

from fixing import models
from fixing.edits import unified_diff
from fixing.search import Attempt, Proposer, begin, learn, promising, propose
from fixing.trial import examine, observe, open_case, run_tests
from loomc_runner import Budget, Done, LoomcError, Stream, loop, spend, target

BUGS = HERE / "bugs"


def share_passing(attempt: Attempt) -> float:
    """Score an attempt: the share of the tests that its best code passes."""
    return attempt.best.score


# No `backtrack`: a patch that makes things worse is never adopted, so there is no worse state to return from.
@loop(
    budget=Budget(usd=1.00, iterations=400, wall_clock="5m"),
    checkpoint="sqlite",
    converge_on=target(1.0),
    scorer=share_passing,
    progress=True,
)
def fix(attempt: Attempt) -> Attempt | Done[Attempt, None]:
    """Propose one patch, run the tests, and keep it when more of them pass."""
    if attempt.proposer == "search":
        proposal = propose(attempt)
        spend(usd=0.0, label=proposal.label if proposal else "every patch was tried")  # a step says what it cost
    else:
        proposal = models.repair(attempt)  # its client says it
    if proposal is None:
        return Done(attempt)
    trial = run_tests(attempt.case, proposal.code)
    adopt = promising(attempt, proposal, trial)
    if adopt:
        trial = observe(attempt.case, proposal.code, trial)
    return learn(attempt, proposal, trial, adopt=adopt)


@dataclass(frozen=True)
class Outcome:
    """One line of the summary."""

    name: str
    before: float
    after: float
    patches: int = 0
    seconds: float = 0.0
    usd: float = 0.0
    run_id: str = "-"

    def __str__(self) -> str:
        verdict = "fixed" if self.after == 1 else "not fixed"
        scores = f"{self.before:6.2f} {self.after:6.2f}"
        work = f"{self.patches:8d} {self.seconds:7.1f}s  ${self.usd:.4f}"
        return f"{self.name:16} {verdict:10} {scores} {work}  {self.run_id}"


HEADINGS = f"{'file':16} {'':10} {'before':>6} {'after':>6} {'patches':>8} {'time':>8}  {'cost':7}  run"


def repair(source: Path, tests: Path, *, seed: int, proposer: Proposer, out: Path | None) -> Outcome:
    """Repair one file, show the progress and the patch."""
    began = time.monotonic()
    case, code = open_case(source, tests)
    case, trial = examine(case, code)
    print(f"\n{source.name}: {trial.passed} of {trial.counted} tests pass")
    if trial.share == 1:
        return Outcome(source.name, 1.0, 1.0)
    attempt = begin(case, code, trial, seed=seed, proposer=proposer)
    return follow(fix.stream(attempt), began, out)


def follow(stream: Stream[Attempt], began: float, out: Path | None) -> Outcome:
    """Show a run while it works, then its patch; the file itself is left alone."""
    print(f"run {stream.run_id} (if it is killed: loomc resume {stream.run_id})", flush=True)
    for _ in stream:
        pass
    result = stream.result
    assert result is not None  # a stream that was read to its end has one
    case, best = result.state.case, result.state.best
    original = Path(case.folders[0], case.module).read_text(encoding="utf-8")
    print(unified_diff(original, best.code, case.module) or "no patch helped", f"({result.stop_reason})", sep="\n")
    if out:
        out.write_text(best.code, encoding="utf-8")
    before = result.state.before
    seconds = time.monotonic() - began
    return Outcome(case.module, before, best.score, result.steps, seconds, result.cost_usd, result.run_id)


def shipped() -> dict[str, tuple[Path, Path]]:
    """Return the bugs that come with this example, by name: the file and its tests."""
    names = sorted(folder.name for folder in BUGS.iterdir() if folder.is_dir())
    return {name: (BUGS / name / f"{name}.py", BUGS / name / f"test_{name}.py") for name in names}


def chosen(words: Sequence[str]) -> list[tuple[Path, Path]]:
    """Return the pairs of file and tests that the command line names.

    Raises:
        ValueError: There is no such bug, or it is not a pair of files.
    """
    bugs = shipped()
    match words:
        case []:
            return list(bugs.values())
        case [name] if name in bugs:
            return [bugs[name]]
        case [source, tests] if source.endswith(".py") and tests.endswith(".py"):
            return [(Path(source), Path(tests))]
    raise ValueError(f"give a file and its test file, or one of: {', '.join(bugs)}")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Repair a Python file until all of its tests pass.")
    parser.add_argument(
        "what", nargs="*", help="a shipped bug, or a Python file and its pytest file; default: every bug"
    )
    parser.add_argument("--seed", type=int, default=0, help="decides between equally good patches (default: 0)")
    parser.add_argument("--offline", action="store_true", help="search, even if there is a key for a model")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the repaired file here (one bug only)")
    parser.add_argument("--resume", metavar="RUN", help="go on with this run")
    parser.add_argument("--list", action="store_true", help="list the shipped bugs")
    return parser.parse_args(arguments)


def work(options: argparse.Namespace) -> list[Outcome]:
    """Do what the command line asks for.

    Raises:
        ValueError: The options do not fit together or the files cannot be repaired.
        RuntimeError: A model cannot be asked.
        LoomcError: The run cannot go on.
    """
    if options.resume:
        return [follow(fix.stream(run_id=options.resume), time.monotonic(), options.out)]
    pairs = chosen(options.what)
    if options.out and len(pairs) > 1:
        raise ValueError("--out takes one repaired file: name one bug")
    if options.out and any(options.out.resolve() == path.resolve() for pair in pairs for path in pair):
        raise ValueError(f"--out {options.out} would overwrite what is repaired")
    proposer: Proposer = "search" if options.offline else models.choose_proposer(os.environ)
    return [repair(*pair, seed=options.seed, proposer=proposer, out=options.out) for pair in pairs]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit status: 0 = all fixed, 1 = not, 2 = could not start or go on."""
    options = parse(arguments)
    if options.list:
        print("\n".join(shipped()))
        return 0
    try:
        outcomes = work(options)
    except (ValueError, RuntimeError, OSError, SyntaxError, LoomcError) as error:
        print(f"code_fixer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ncode_fixer: stopped; the run can be resumed", file=sys.stderr)
        return 130
    print("", HEADINGS, *outcomes, sep="\n")
    return 0 if all(outcome.after == 1 for outcome in outcomes) else 1


if __name__ == "__main__":
    raise SystemExit(main())
