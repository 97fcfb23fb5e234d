"""Detectors: pure functions of the history that say why a loop may stop."""

from loomc_runner.converge.ask import judge, predicate
from loomc_runner.converge.base import Detector, all_of, as_detector, first_reason, parts_of
from loomc_runner.converge.score import Escalate, score_plateau, target

__all__ = [
    "Detector",
    "Escalate",
    "all_of",
    "as_detector",
    "first_reason",
    "judge",
    "parts_of",
    "predicate",
    "score_plateau",
    "target",
]
