"""The agent's report: what its observations come to."""

import os

from pydantic import BaseModel

from exploring.policy import Exploration
from exploring.tools import Hit, Outcome


class Report(BaseModel):
    """The answer."""

    symbol: str
    folder: str
    definitions: list[Hit]
    excerpt: list[str]
    users: dict[str, list[str]]
    tests: dict[str, list[str]]
    outcomes: list[Outcome]
    note: str

    def __str__(self) -> str:
        def short(path: str) -> str:
            return os.path.relpath(path, self.folder)

        lines = ["", f"{self.symbol} is defined in"]
        lines += [f"  {short(hit.path)}:{hit.line}: {hit.text}" for hit in self.definitions] or ["  (nowhere)"]
        lines += [f"    | {line}" for line in self.excerpt]
        for title, users in (("used by", self.users), ("exercised by", self.tests)):
            lines += [title, *(f"  {short(path)}: {', '.join(names)}" for path, names in users.items())]
            lines += [] if users else ["  (nothing)"]
        lines += ["tests"]
        for outcome in self.outcomes:
            lines += [f"  {short(outcome.path)}: {outcome.passed} passed, {outcome.failed} failed"]
            lines += [f"    | {line}" for line in outcome.tail.splitlines() if outcome.failed or not outcome.passed]
        return "\n".join([*lines, *([] if self.outcomes else [f"  not run: {self.note}"])])


def report_of(state: Exploration) -> Report:
    """Put together what was observed."""
    denials = [seen.verdict for seen in state.seen if seen.verdict is not None and not seen.verdict.approved]
    notes = [f"denied by {denial.by}{f' ({denial.note})' if denial.note else ''}" for denial in denials]
    return Report(
        symbol=state.symbol,
        folder=state.folder,
        definitions=state.definitions,
        excerpt=next((seen.lines for seen in state.seen if seen.lines), []),
        users={path: names for path, names in state.users.items() if not state.is_test(path)},
        tests={path: names for path, names in state.users.items() if state.is_test(path)},
        outcomes=[outcome for seen in state.seen for outcome in seen.outcomes],
        note=notes[0] if notes else "none was chosen",
    )
