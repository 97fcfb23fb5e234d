"""The report on its way: the state of the loop, and what comes of it."""

from collections.abc import Awaitable
from typing import Literal

from pydantic import BaseModel

from loomc_runner import Price
from refining.critic import counted, difference, faults_in, points

Writer = Literal["rules", "anthropic", "openai"]

Answer = str | bool | None | Awaitable[str | bool | None]
"""What a detector says: why to stop, or None."""

MOST_NOTES = 30


class Draft(BaseModel, frozen=True):
    """A report that is being rewritten, with all that the next step must know."""

    name: str
    given: str  # as it was at the beginning
    text: str
    notes: tuple[str, ...] = ()  # what the critic finds wrong with it
    changes: tuple[str, ...] = ()  # what each step has done
    writer: Writer = "rules"
    model: str = ""
    price: Price | None = None  # of the model, when it is not the one in the list
    charge: float = 0.0  # dollars that a step of the rules counts as, to see how a budget works
    wraps: bool = False  # whether its lines are broken
    embeddings: str = ""  # the model that compares meanings; without one the letters are compared

    def noted(self) -> "Draft":
        """Give the same draft with what is wrong with it."""
        return self.model_copy(update={"notes": tuple(map(str, faults_in(self.text, self.given)[:MOST_NOTES]))})

    def after(self, text: str, who: str) -> "Draft":
        """Give the next draft, with what was changed and what is wrong with it now."""
        change = f"{who}: {difference(self.text, text, self.given)}"
        return self.unchanged(change).model_copy(update={"text": text}).noted()

    def unchanged(self, why: str) -> "Draft":
        """Give the same draft, with a word about it."""
        return self.model_copy(update={"changes": (*self.changes, why)})

    @property
    def score(self) -> float:
        """The points of its text."""
        return points(self.text, self.given)

    @property
    def is_better(self) -> bool:
        """Whether it reads better than what was given."""
        return self.score > points(self.given, self.given)


class Report(BaseModel, frozen=True):
    """What a run was for: the best text, what was changed on the way, and what is left for a person to do."""

    text: str
    before: float
    after: float
    was: str
    now: str
    changes: tuple[str, ...]
    left: tuple[str, ...]
    ended: str = ""  # why, when the run itself cannot tell


def report_of(draft: Draft, ended: str = "") -> Report:
    """Put the report together; of two texts that are equally good the given one is kept."""
    text = draft.text if draft.is_better else draft.given
    was, now = (faults_in(each, draft.given) for each in (draft.given, text))
    return Report(
        text=text,
        before=points(draft.given, draft.given),
        after=points(text, draft.given),
        was=counted(was),
        now=counted(now),
        changes=draft.changes if draft.is_better else (),
        left=tuple(map(str, now)),
        ended=ended,
    )


def text_of(draft: Draft) -> str:
    """The text of a draft."""
    return draft.text
