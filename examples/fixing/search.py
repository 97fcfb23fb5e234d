"""The search: which patch to try next, and what to keep of what was learnt.

Everything it knows is in `Attempt`, the state of the loop, so a run that was killed goes on where it was.
"""

import random
import warnings
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel

from fixing.edits import Patch, unified_diff
from fixing.mutations import mutate
from fixing.trial import Case, Trial

Proposer = Literal["search", "anthropic", "openai"]
MOST_FRONTS = 5


class Front(BaseModel, frozen=True):
    """A version of the code worth changing further, and how far the list of its patches has been tried.

    The list itself is not stored: it follows from the code, the suspicion and the seed.
    """

    code: str
    score: float
    failing: tuple[str, ...]
    suspicion: dict[int, float]
    cursor: int = 0


class Attempt(BaseModel, frozen=True):
    """The state of a repair. Its score never falls: a patch that makes things worse is not adopted."""

    case: Case
    seed: int
    proposer: Proposer
    before: float  # the score of the code as it was given
    fronts: tuple[Front, ...]
    tried: str = "nothing yet"  # the last patch, in words
    report: str = ""  # what pytest says about the best code, for a model to read
    rejected: str = ""  # a model's last answer that did not help, as a diff

    @property
    def best(self) -> Front:
        """The version of which most tests pass; of equals, the older."""
        return max(self.fronts, key=lambda front: front.score)


@dataclass(frozen=True)
class Proposal:
    """One changed version of a front's code."""

    code: str
    front: int  # which front it changes
    cursor: int  # where the search goes on in that front
    label: str


def begin(case: Case, code: str, trial: Trial, *, seed: int, proposer: Proposer) -> Attempt:
    """Make the first state from the trial of the code as it is."""
    return Attempt(
        case=case,
        seed=seed,
        proposer=proposer,
        before=trial.share,
        fronts=(_front(code, trial),),
        report=_report(trial, proposer),
    )


def propose(attempt: Attempt) -> Proposal | None:
    """Return the next patch that has not been tried, or None when there is none left.

    Fronts take equal turns, and a new one catches up first. The older ones stay in the race because a patch that
    helped a little can lead nowhere.
    """
    known = {front.code for front in attempt.fronts}
    turns = sorted(enumerate(attempt.fronts), key=lambda turn: turn[1].cursor)
    for place, front in turns:
        patches = ranked(front.code, front.suspicion, attempt.seed)
        for cursor in range(front.cursor, len(patches)):
            patch = patches[cursor]
            code = patch.apply(front.code)
            if code not in known and _compiles(code):
                return Proposal(code, place, cursor + 1, f"line {patch.first}: {patch.kind}")
    return None


def ranked(code: str, suspicion: dict[int, float], seed: int) -> list[Patch]:
    """Order the patches of some code: the most suspicious lines and the likeliest mistakes first.

    The seed decides between equals. A line that no failing test runs comes last, but it comes: the tests may reach
    it in a way that tracing does not see, in another thread for example.
    """
    chance = random.Random(seed)
    worth = {
        patch: weight * (0.01 + max(suspicion.get(line, 0.0) for line in range(patch.first, patch.last + 1)))
        for patch, weight in mutate(code)
    }
    return sorted(worth, key=lambda patch: (-worth[patch], chance.random()))


def promising(attempt: Attempt, proposal: Proposal, trial: Trial) -> bool:
    """Tell whether a tried version deserves to be changed further.

    It must beat the version it came from, and pass tests together that no version kept so far passes together.
    """
    better = trial.share > attempt.fronts[proposal.front].score
    return better and not any(set(front.failing) <= set(trial.failing) for front in attempt.fronts)


def learn(attempt: Attempt, proposal: Proposal, trial: Trial, *, adopt: bool) -> Attempt:
    """Return the next state: the search has moved on, and the new version is kept if it is adopted."""
    fronts = list(attempt.fronts)
    fronts[proposal.front] = fronts[proposal.front].model_copy(update={"cursor": proposal.cursor})
    changes: dict[str, object] = {"tried": f"{proposal.label}, {trial.share:.2f}"}
    if adopt:
        fronts = sorted([*fronts, _front(proposal.code, trial)], key=lambda front: -front.score)[:MOST_FRONTS]
        changes |= {"report": _report(trial, attempt.proposer), "rejected": ""}
    elif attempt.proposer != "search":
        before = attempt.fronts[proposal.front].code
        changes["rejected"] = unified_diff(before, proposal.code, attempt.case.module)[:2000]
    return attempt.model_copy(update=changes | {"fronts": tuple(fronts)})


def _front(code: str, trial: Trial) -> Front:
    return Front(code=code, score=trial.share, failing=trial.failing, suspicion=trial.suspicion())


def _report(trial: Trial, proposer: Proposer) -> str:
    return "" if proposer == "search" else trial.output[-3000:]


def _compiles(code: str) -> bool:
    """Tell whether Python accepts the code, which costs a thousandth of a trial."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            compile(code, "candidate", "exec")
        except (SyntaxError, ValueError):
            return False
    return True
