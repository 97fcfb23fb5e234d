"""Durable loops around a one-iteration function: budgets that hold, checkpoints, resume, convergence."""

from loomc_runner.backtrack import BestScore, LastGood, Strategy
from loomc_runner.breaker import CircuitBreaker, Guarded, circuit_breaker
from loomc_runner.budget import Budget
from loomc_runner.calls import call, tool
from loomc_runner.context import spend
from loomc_runner.converge import Detector, Escalate, all_of, judge, predicate, score_plateau, target
from loomc_runner.decorator import loop
from loomc_runner.errors import (
    AnswerRefused,
    BudgetExhausted,
    CallError,
    CircuitOpenError,
    CostError,
    LoomcError,
    LoomcWarning,
    LoopNotFound,
    NotInStep,
    NotResumable,
    QuestionExpired,
    RequestRefused,
    RunLocked,
    RunLost,
    RunMismatch,
    RunNotFound,
    RunStopped,
    ScoreError,
    SpecError,
    StallError,
    StateError,
    StepError,
    StoreBusy,
    StoreError,
    WaitingForAnswer,
)
from loomc_runner.handle import AsyncLoop, Loop
from loomc_runner.questions import Approval, ask
from loomc_runner.records import Done, RunResult, RunStatus, StepRecord
from loomc_runner.retry import Retry
from loomc_runner.store import Store
from loomc_runner.stream import AsyncStream, Stream

__version__ = "0.1.0"

__all__ = [
    "AnswerRefused",
    "Approval",
    "AsyncLoop",
    "AsyncStream",
    "BestScore",
    "Budget",
    "BudgetExhausted",
    "CallError",
    "CircuitBreaker",
    "CircuitOpenError",
    "CostError",
    "Detector",
    "Done",
    "Escalate",
    "Guarded",
    "LastGood",
    "LoomcError",
    "LoomcWarning",
    "Loop",
    "LoopNotFound",
    "NotInStep",
    "NotResumable",
    "QuestionExpired",
    "RequestRefused",
    "Retry",
    "RunLocked",
    "RunLost",
    "RunMismatch",
    "RunNotFound",
    "RunResult",
    "RunStatus",
    "RunStopped",
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
    "WaitingForAnswer",
    "all_of",
    "ask",
    "call",
    "circuit_breaker",
    "judge",
    "loop",
    "predicate",
    "score_plateau",
    "spend",
    "target",
    "tool",
]
