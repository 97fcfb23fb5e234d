"""What a run came to: records in, plain data out. Reads only, and imports no user code."""

from loomc_runner.report.direction import direction_of
from loomc_runner.report.limits import Limit, limits
from loomc_runner.report.pages import page_attempts, page_calls, page_charges, page_runs, page_steps
from loomc_runner.report.runs import (
    Branch,
    command_to_go_on,
    dropped_result,
    family,
    find_run,
    initial_state,
    inside,
    kept_state,
    reason,
)
from loomc_runner.report.story import Line, story
from loomc_runner.report.words import counted, dollars, place, printable, score_words

__all__ = [
    "Branch",
    "Limit",
    "Line",
    "command_to_go_on",
    "counted",
    "direction_of",
    "dollars",
    "dropped_result",
    "family",
    "find_run",
    "initial_state",
    "inside",
    "kept_state",
    "limits",
    "page_attempts",
    "page_calls",
    "page_charges",
    "page_runs",
    "page_steps",
    "place",
    "printable",
    "reason",
    "score_words",
    "story",
]
