"""Durable loops around a one-iteration function: budgets that hold, checkpoints, resume, convergence."""

from importlib import import_module as _import_module
from typing import TYPE_CHECKING as _TYPE_CHECKING

if _TYPE_CHECKING:
    from loomc_runner.backtrack import BestScore, LastGood, Strategy
    from loomc_runner.breaker import CircuitBreaker, Guarded, circuit_breaker
    from loomc_runner.budget import Budget
    from loomc_runner.calls import call, tool
    from loomc_runner.context import spend
    from loomc_runner.converge import (
        Detector,
        Escalate,
        Judgement,
        all_of,
        diminishing_returns,
        judge,
        predicate,
        score_plateau,
        semantic_delta,
        target,
    )
    from loomc_runner.current import CurrentRun, current_run
    from loomc_runner.decorator import loop
    from loomc_runner.errors import (
        AnswerRefused,
        BudgetExhausted,
        CallError,
        CircuitOpenError,
        CostError,
        JudgeError,
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
        StateDropped,
        StateError,
        StepError,
        StoreBusy,
        StoreError,
        WaitingForAnswer,
    )
    from loomc_runner.handle import AsyncLoop, Loop
    from loomc_runner.keep import Keep
    from loomc_runner.notices import BudgetNotice
    from loomc_runner.providers import AnthropicAdapter, OpenAIAdapter, Price, cost_of, track
    from loomc_runner.questions import Approval, ask
    from loomc_runner.records import Done, RunResult, RunStatus, StepRecord
    from loomc_runner.retry import Retry
    from loomc_runner.store import Store
    from loomc_runner.store.sqlite import SQLite
    from loomc_runner.stream import AsyncStream, Stream
    from loomc_runner.whatif import WhatIf

__version__ = "0.1.0"

__all__ = [
    "AnswerRefused",
    "AnthropicAdapter",
    "Approval",
    "AsyncLoop",
    "AsyncStream",
    "BestScore",
    "Budget",
    "BudgetExhausted",
    "BudgetNotice",
    "CallError",
    "CircuitBreaker",
    "CircuitOpenError",
    "CostError",
    "CurrentRun",
    "Detector",
    "Done",
    "Escalate",
    "Guarded",
    "JudgeError",
    "Judgement",
    "Keep",
    "LastGood",
    "LoomcError",
    "LoomcWarning",
    "Loop",
    "LoopNotFound",
    "NotInStep",
    "NotResumable",
    "OpenAIAdapter",
    "Price",
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
    "SQLite",
    "ScoreError",
    "SpecError",
    "StallError",
    "StateDropped",
    "StateError",
    "StepError",
    "StepRecord",
    "Store",
    "StoreBusy",
    "StoreError",
    "Strategy",
    "Stream",
    "WaitingForAnswer",
    "WhatIf",
    "all_of",
    "ask",
    "call",
    "circuit_breaker",
    "cost_of",
    "current_run",
    "diminishing_returns",
    "judge",
    "loop",
    "predicate",
    "score_plateau",
    "semantic_delta",
    "spend",
    "target",
    "tool",
    "track",
]

_HOMES = {
    "backtrack": "BestScore LastGood Strategy",
    "breaker": "CircuitBreaker Guarded circuit_breaker",
    "budget": "Budget",
    "calls": "call tool",
    "context": "spend",
    "converge": (
        "Detector Escalate Judgement all_of diminishing_returns judge predicate score_plateau semantic_delta target"
    ),
    "current": "CurrentRun current_run",
    "decorator": "loop",
    "errors": (
        "AnswerRefused BudgetExhausted CallError CircuitOpenError CostError JudgeError LoomcError LoomcWarning "
        "LoopNotFound NotInStep NotResumable QuestionExpired RequestRefused RunLocked RunLost RunMismatch "
        "RunNotFound RunStopped ScoreError SpecError StallError StateDropped StateError StepError StoreBusy "
        "StoreError WaitingForAnswer"
    ),
    "handle": "AsyncLoop Loop",
    "keep": "Keep",
    "notices": "BudgetNotice",
    "providers": "AnthropicAdapter OpenAIAdapter Price cost_of track",
    "questions": "Approval ask",
    "records": "Done RunResult RunStatus StepRecord",
    "retry": "Retry",
    "store": "Store",
    "store.sqlite": "SQLite",
    "stream": "AsyncStream Stream",
    "whatif": "WhatIf",
}
"""Where each public name lives: looked up when it is first used, so that the command need not wait for the driver."""

_HOME_OF = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> object:
    if name not in _HOME_OF:
        from importlib.util import find_spec

        if name.startswith("_") or find_spec(f"{__name__}.{name}") is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return _import_module(f"{__name__}.{name}")  # a module of the package
    value: object = getattr(_import_module(f"{__name__}.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
