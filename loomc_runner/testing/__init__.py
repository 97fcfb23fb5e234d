"""For tests: a clock moved by hand, a store that fails on purpose, and what every store must do."""

from loomc_runner.testing.contract import StoreContract
from loomc_runner.testing.doubles import AT, FakeClock, FaultyStore
from loomc_runner.testing.samples import (
    PAUSED,
    a_call,
    a_charge,
    a_question,
    a_resumption,
    a_run,
    a_step,
)

__all__ = [
    "AT",
    "PAUSED",
    "FakeClock",
    "FaultyStore",
    "StoreContract",
    "a_call",
    "a_charge",
    "a_question",
    "a_resumption",
    "a_run",
    "a_step",
]
