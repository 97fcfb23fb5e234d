"""The one-iteration functions behind the golden databases; this module knows no loop package.

A golden database is written by running loops over these functions, and the tests put the loops of the package
under test over the same functions again. loomc 0.3.0 stores of a loop only a hash of module and qualname, so
neither this module nor a function in it may be renamed: make a new golden database if you must.
"""

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

from pydantic import BaseModel

State = dict[str, Any]
Model = Callable[[str, int], str]

POLISH_SCORES = (0.25, 0.5, 0.75, 0.74)
TIGHTEN_SCORES = (0.6, 0.6, 0.5)


def start(rounds: int) -> State:
    """Return the state that most loops begin with; they are finished after so many rounds."""
    return {"round": 0, "rounds": rounds, "drafts": []}


def answer(function: str, round_number: int) -> str:
    """Stand in for the paid model call."""
    return f"{function} {round_number}"


call_model: Model = answer
"""What every function calls in each round; replace it in this module to stage an outage or a kill."""


def next_round(function: str, state: State) -> State:
    """Return a new state that is one round further."""
    number = state["round"] + 1
    return {**state, "round": number, "drafts": [*state["drafts"], call_model(function, number)]}


def finished(state: State) -> bool:
    """Tell whether all rounds were made."""
    return bool(state["round"] >= state["rounds"])


def price(state: State) -> float:
    """Return what the latest round cost: one cent more each round."""
    return float(state["round"] / 100)


def polish(state: State) -> State:
    """Get better for three rounds, then a little worse."""
    return next_round("polish", state)


def polish_score(state: State) -> float:
    """Score a polished draft; round 4 is a regression."""
    return POLISH_SCORES[min(state["round"], len(POLISH_SCORES)) - 1]


def summarize(state: State) -> State:
    """Make one round of a loop that may fail."""
    return next_round("summarize", state)


def translate(state: State) -> State:
    """Make one round of a loop that recovers from a failure."""
    return next_round("translate", state)


def fact_check(state: State) -> State:
    """Make one round of a loop whose stop condition cannot digest a failure."""
    return next_round("fact_check", state)


def fact_check_score(state: State) -> float:
    """Score the facts checked so far."""
    return float(state["round"] / 10)


def expand(state: State) -> State:
    """Make one round of a loop that runs out of money."""
    return next_round("expand", state)


def tighten(state: State) -> State:
    """Make one round that does not get better."""
    return next_round("tighten", state)


def tighten_score(state: State) -> float:
    """Score a tightened draft: never above the first."""
    return TIGHTEN_SCORES[min(state["round"], len(TIGHTEN_SCORES)) - 1]


def outline(state: State) -> State:
    """Make one round of a loop that is killed on its way."""
    return next_round("outline", state)


def research(state: State) -> State:
    """Make one round of a loop that is killed before its first step is stored."""
    return next_round("research", state)


async def proofread(state: State) -> State:
    """Make one asynchronous round."""
    await asyncio.sleep(0)
    return next_round("proofread", state)


class Source(BaseModel):
    """One source that a review leans on."""

    title: str
    pages: tuple[int, int] | None = None


class Review(BaseModel):
    """A typed state with values that JSON does not have."""

    text: str
    due: date
    round: int = 0
    rounds: int = 3
    sources: list[Source] = []


def review(state: Review) -> Review:
    """Add one sentence and one source."""
    number = state.round + 1
    text = f"{state.text} {call_model('review', number)}."
    sources = [*state.sources, Source(title=f"Café nº {number}", pages=(number, number + 9))]
    return state.model_copy(update={"text": text, "round": number, "sources": sources})


def reviewed(state: Review) -> bool:
    """Tell whether all rounds of a review were made."""
    return state.round >= state.rounds


def review_price(state: Review) -> float:
    """Return what the latest round of a review cost."""
    return state.round / 100


def collect(state: dict[str, Any]) -> dict[str, Any]:
    """Add one finding to a plain dict that holds every kind of JSON value."""
    number = state["round"] + 1
    finding = {"title": f"Café nº {number}", "weight": number / 4, "checked": number % 2 == 0, "by": None}
    return {**state, "round": number, "findings": [*state["findings"], finding]}


def draft_section(state: State) -> State:
    """Make one round of a section: the child of write_report."""
    return next_round("draft_section", state)


section_loop: Callable[[State], State] = draft_section
"""What write_report calls for a section; replace it with a loop over draft_section."""


def write_report(state: State) -> State:
    """Write one more section, each in a child run of its own."""
    title = f"section {state['round'] + 1}"
    section = section_loop({**start(rounds=2), "title": title})
    return {**next_round("write_report", state), "sections": [*state.get("sections", []), section]}
