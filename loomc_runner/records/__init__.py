"""The plain values that travel between the driver, the stores and the reports; all are frozen."""

from loomc_runner.records.inside import BreakerChange, Call, CallStatus, Charge, Question
from loomc_runner.records.result import Done, RunResult
from loomc_runner.records.run import (
    INITIAL,
    NANO,
    RUNNING,
    Attempt,
    Claim,
    Control,
    Lease,
    Run,
    RunStatus,
    StepRecord,
    Transition,
    no_state,
)

__all__ = [
    "INITIAL",
    "NANO",
    "RUNNING",
    "Attempt",
    "BreakerChange",
    "Call",
    "CallStatus",
    "Charge",
    "Claim",
    "Control",
    "Done",
    "Lease",
    "Question",
    "Run",
    "RunResult",
    "RunStatus",
    "StepRecord",
    "Transition",
    "no_state",
]
