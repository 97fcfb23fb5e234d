"""Detectors: pure functions of the history that say why a loop may stop."""

from loomc_runner.converge.ask import Judgement, judge, judgement_of, predicate
from loomc_runner.converge.base import Detector, all_of, as_detector, first_reason, parts_of
from loomc_runner.converge.returns import diminishing_returns
from loomc_runner.converge.score import Escalate, score_plateau, target
from loomc_runner.converge.text import semantic_delta

__all__ = [
    "Detector",
    "Escalate",
    "Judgement",
    "all_of",
    "as_detector",
    "diminishing_returns",
    "first_reason",
    "judge",
    "judgement_of",
    "parts_of",
    "predicate",
    "score_plateau",
    "semantic_delta",
    "target",
]
