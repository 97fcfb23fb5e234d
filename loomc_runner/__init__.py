"""Durable loops around a one-iteration function: budgets that hold, checkpoints, resume, convergence."""

from loomc_runner.backtrack import BestScore, LastGood, Strategy
from loomc_runner.budget import Budget
from loomc_runner.context import spend
from loomc_runner.converge import Detector, Escalate, all_of, judge, predicate, score_plateau, target
from loomc_runner.decorator import loop
from loomc_runner.errors import (
    BudgetExhausted,
    CostError,
    LoomcError,
    LoomcWarning,
    LoopNotFound,
    NotInStep,
    NotResumable,
    RunLocked,
    RunLost,
    RunMismatch,
    RunNotFound,
    ScoreError,
    SpecError,
    StallError,
    StateError,
    StepError,
    StoreBusy,
    StoreError,
)
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.records import Done, RunResult, RunStatus, StepRecord
from loomc_runner.store import Store
from loomc_runner.stream import AsyncStream, Stream

__version__ = "0.1.0"

__all__ = [
    "AsyncLoop",
    "AsyncStream",
    "BestScore",
    "Budget",
    "BudgetExhausted",
    "CostError",
    "Detector",
    "Done",
    "Escalate",
    "LastGood",
    "LoomcError",
    "LoomcWarning",
    "Loop",
    "LoopNotFound",
    "NotInStep",
    "NotResumable",
    "RunLocked",
    "RunLost",
    "RunMismatch",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "ScoreError",
    "SpecError",
    "StallError",
    "StateError",
    "StepError",
    "StepRecord",
    "Store",
    "StoreBusy",
    "StoreError",
    "Strategy",
    "Stream",
    "all_of",
    "judge",
    "loop",
    "predicate",
    "score_plateau",
    "spend",
    "target",
]
