"""Every error a user can meet, under one root."""

from __future__ import annotations

from typing import Any


class LoomcError(Exception):
    """Something went wrong in loomc_runner.

    Attributes:
        run_id: The run it happened in, or None when there was none yet.
        state: The state the run had reached, decoded as the loop's own type.
        best_state: The state with the best score so far, or None when nothing was scored.
    """

    run_id: str | None = None
    state: Any = None
    best_state: Any = None


class SpecError(LoomcError, ValueError):
    """An option of `@loop`, `Budget` or another declaration has a value that cannot work."""


class StateError(LoomcError, TypeError):
    """A state cannot be stored and read back as it was."""


class StepError(LoomcError, TypeError):
    """A step returned something that is not the next state."""


class ScoreError(LoomcError, ValueError):
    """A scorer gave something that is not a finite number."""


class JudgeError(LoomcError, ValueError):
    """A judge gave an answer that is neither yes nor no."""


class CostError(LoomcError, ValueError):
    """A cost is not a finite number of dollars, zero or more; or a strict budget saw none recorded."""


class NotInStep(LoomcError, RuntimeError):
    """`spend` or `ask` was called where no step is running.

    A new thread starts without the step's context; start it with
    `contextvars.copy_context().run(fn, ...)`.
    """


class BudgetExhausted(LoomcError):
    """A limit of the budget is reached; `resume` with a higher one goes on.

    Attributes:
        limit: `usd`, `tokens`, `iterations` or `wall_clock`.
        used: What was used, in dollars, tokens, iterations or seconds.
        max_val: The limit, in the same unit.
        would_cost_usd: What the call that was refused might have cost at most; None when it was no call.
    """

    would_cost_usd: float | None = None

    def __init__(self, limit: str, used: float, max_val: float, *, run_id: str | None = None, note: str = "") -> None:
        self.limit = limit
        self.used = used
        self.max_val = max_val
        self.run_id = run_id
        self.note = note
        super().__init__(self.reason)

    @property
    def reason(self) -> str:
        """The limit in words, as it stands in a run's stop reason."""
        cents = ".2f" if round(self.max_val, 2) == self.max_val else ".4f"
        unit = {"wall_clock": ".2f", "usd": cents}.get(self.limit, "g")
        used, limit = format(self.used, unit), format(self.max_val, unit)
        if self.limit == "wall_clock":
            used, limit = used.rstrip("0").rstrip("."), limit.rstrip("0").rstrip(".")
        if used == limit and self.used != self.max_val:  # a crossing too small for so many decimals
            used, limit = f"{self.used:.9g}", f"{self.max_val:.9g}"
        return f"{self.limit} {used} of {limit}{self.note}"

    def __str__(self) -> str:
        where = f" in run {self.run_id}" if self.run_id else ""
        return f"budget exhausted{where}: {self.reason}"


class StallError(LoomcError):
    """The score has not improved for `iterations` steps."""

    def __init__(self, iterations: int) -> None:
        self.iterations = iterations
        super().__init__(f"no better score for {iterations} steps")


class NotResumable(LoomcError):
    """The run was ended on purpose or stalled, and goes on only with `force=True`."""


class RunMismatch(LoomcError):
    """The run exists, but belongs to another function or another initial state."""


class RunNotFound(LoomcError, LookupError):
    """There is no such run, step or database."""


class StateDropped(LoomcError, LookupError):
    """The state of the step was dropped to save room, by `keep=` of the loop or `loomc prune --states`.

    Attributes:
        step_n: The step.
        nearest: The steps before and after it whose states are kept; -1 is the initial state.
    """

    def __init__(self, run_id: str, step_n: int, nearest: tuple[int, ...] = ()) -> None:
        self.run_id = run_id
        self.step_n = step_n
        self.nearest = nearest
        super().__init__(run_id, step_n, nearest)

    def __str__(self) -> str:
        names = [f"that of step {n}" if n >= 0 else "the initial state" for n in self.nearest]
        kept = f"the nearest kept is {' or '.join(names)}" if names else "none is kept"
        return f"the state of step {self.step_n} of run {self.run_id} was dropped to save room; {kept}"


class RunLocked(LoomcError):
    """Another process or thread is working on the run."""


class RunLost(LoomcError):
    """The run was taken over by another process; nothing more can be committed to it from here."""


class RunStopped(LoomcError):
    """The run was paused or cancelled by request; `resume` goes on (after a cancellation with `force=True`)."""


class RunHalted(RunStopped):
    """The run was paused, since another one that ran beside it in the same `map` has failed."""


class WaitingForAnswer(LoomcError):
    """The run waits for an answer to a question; it goes on with `resume` once that is given.

    Attributes:
        prompt: The question, the oldest when there are several.
    """

    def __init__(self, run_id: str, prompt: str) -> None:
        self.run_id = run_id
        self.prompt = prompt
        super().__init__(f"run {run_id} waits for an answer: {prompt}")


class AnswerRefused(LoomcError, ValueError):
    """An answer does not fit its question, or the question is not open any more."""


class QuestionExpired(LoomcError, TimeoutError):
    """Nobody answered in time, and the question has no default."""


class RequestRefused(LoomcError):
    """The run cannot be paused or cancelled as it stands."""


class CallError(LoomcError):
    """A durable call cannot be made again: it failed before, and is declared `once=True`."""


class CircuitOpenError(LoomcError):
    """The function has failed too often and is not called for now; come again later.

    Attributes:
        name: The breaker's name, which is the function's unless another was chosen.
        retry_after: Seconds until a call is let through again; 0 while a trial call is under way.
        category: Always `transient`: it passes.
    """

    category = "transient"

    def __init__(self, name: str, retry_after: float) -> None:
        self.name = name
        self.retry_after = retry_after
        super().__init__(name, retry_after)

    def __str__(self) -> str:
        if not self.retry_after:
            return f"{self.name} has failed too often, and one call is trying it now; come again when that is over"
        return f"{self.name} has failed too often and is not called; come again in {self.retry_after:.3g}s"


class LoopNotFound(LoomcError, ImportError):
    """The function a run belongs to cannot be imported."""


class StoreError(LoomcError):
    """The database cannot be used: not ours, too new, read-only, or full."""


class StoreBusy(StoreError):
    """The database is locked by another writer; the call may be made again."""


class LoomcWarning(UserWarning):
    """Something is likely not what was meant, such as a dollar budget for which no cost is recorded."""


def in_words(error: BaseException) -> str:
    """An error as one line of a record."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - a broken error is still the error of the step
        text = "its message cannot be shown"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
