"""The ledger that keeps budgets: a tree, so that children spend what their parents have."""

from __future__ import annotations

import threading

from loomc_runner.budget import SAFETY_CAP, SAFETY_NOTE, Budget
from loomc_runner.clock import Clock
from loomc_runner.errors import BudgetExhausted
from loomc_runner.records import NANO


class Ledger:
    """What one run has spent and may still spend.

    `claimed` is what counts against the dollar cap: all that was spent, and for the open step the larger of
    its reservation and what it, its calls under way and its children claim. `cap` is that cap in nano-dollars, less
    what is kept for wrapping up; `wrap_step` is the step that may spend that, once it has come to it. Every change
    travels to the root, under one lock for the whole tree. `lineage` is outermost first, so the outermost exhausted
    limit is the one that raises; `limited` are those in it that limit more than their own iterations, and `timed` those
    that have a wall clock.
    """

    def __init__(self, run_id: str, budget: Budget | None, clock: Clock, parent: OpenStep | None = None) -> None:
        self.run_id = run_id
        self.budget = SAFETY_CAP if budget is None else budget
        self.note = SAFETY_NOTE if budget is None else ""
        self.clock = clock
        self.parent = parent
        self.lock: threading.RLock = parent.ledger.lock if parent else threading.RLock()
        self.lineage: tuple[Ledger, ...] = (*(parent.ledger.lineage if parent else ()), self)
        self.timed = tuple(ledger for ledger in self.lineage if ledger.budget.wall_clock is not None)
        self.limited = tuple(ledger for ledger in self.lineage if _is_limited(ledger.budget))
        self.dollar_capped = any(ledger.budget.usd is not None for ledger in self.lineage)
        self.strict = any(ledger.budget.strict for ledger in self.lineage)
        """Whether an enclosing dollar limit insists on recorded costs."""
        self.spent = self.claimed = self.tokens = self.held_tokens = self.steps = self.dearest = 0
        self.cap = None if self.budget.nano_usd is None else self.budget.nano_usd - self.budget.nano_kept
        self.declared = None if self.budget.step_usd is None else round(self.budget.step_usd * NANO)
        self.may_wrap_up = self.budget.wrap_up is not None
        self.wrap_step: int | None = None
        self.worked = 0.0
        self.started: float | None = None
        self.rests_since: float | None = None
        self.recalled: set[str] = set()
        """The circuit breakers that were looked up for this run."""

    def restore(self, *, spent: int, tokens: int, steps: int, dearest: int, worked: float) -> None:
        """Take over what the run had used before it was resumed, up to the parent's account too."""
        self.steps, self.dearest, self.worked = steps, dearest, worked
        with self.lock:
            self.spent += spent
            self.claimed += spent
            self.tokens += tokens

    @property
    def elapsed(self) -> float:
        """Seconds of working time so far, all resumes together."""
        started, since = self.started, self.rests_since
        if started is None:
            return self.worked
        return self.worked + (self.clock.monotonic() if since is None else since) - started

    def start_clock(self) -> None:
        """Working time runs from here."""
        self.started = self.clock.monotonic()

    def add_up_time(self) -> None:
        """What was worked so far counts; the clock runs on, and no more rests of the step stop it."""
        if self.started is not None:
            now = self.clock.monotonic()
            self.worked += (now if self.rests_since is None else self.rests_since) - self.started
            self.started, self.rests_since = now, None

    def stop_clock(self) -> None:
        """Working time stands still: the step is over, and its account settled."""
        self.add_up_time()
        self.started = None

    def doze(self) -> None:
        """The clock stands still: all that is at work in the step waits."""
        if self.rests_since is None and self.started is not None:
            self.rests_since = self.clock.monotonic()

    def wake(self) -> None:
        """It goes on; the time in between was no working time."""
        since, self.rests_since = self.rests_since, None
        if since is not None and self.started is not None:
            self.started += self.clock.monotonic() - since

    def seconds_left(self) -> float | None:
        """Working time until the first wall clock of the lineage is used up; None when there is none."""
        if not self.timed:
            return None
        return min((ledger.budget.wall_clock_seconds or 0.0) - ledger.elapsed for ledger in self.timed)

    def expected(self) -> int:
        """Nano-dollars the next step is expected to cost: declared, else the dearest so far."""
        expected = self.dearest if self.declared is None else self.declared
        if self.wrap_step is not None and self.budget.nano_usd is not None:
            return min(expected, self.budget.nano_kept, max(self.budget.nano_usd - self.spent, 0))
        return expected

    def open_step(self) -> OpenStep:
        """Reserve the next step here and in every enclosing run; when it does not fit, a last one for wrapping up.

        Raises:
            BudgetExhausted: When it does not fit; nothing stays reserved then.
        """
        try:
            return self._open_step()
        except BudgetExhausted as limit:
            if not self.can_wrap_up(limit):
                raise
            self.wrap_up()
        return self._open_step()

    def _open_step(self) -> OpenStep:
        step = OpenStep(self, self.expected())
        if self.limited or step.reserved:
            with self.lock:
                self._reserve(step)
        else:  # nothing is shared
            self._check_iterations()
        return step

    def _reserve(self, step: OpenStep) -> None:
        for ledger in self.limited:
            if ledger is self:
                self._check_wrapped_up()
            ledger.check_used_up()
        self._check_iterations()
        step.update()
        try:
            self.check_claims()
        except BudgetExhausted:
            step.reserved = 0
            step.update()
            raise

    def _check_iterations(self) -> None:
        most = self.budget.iterations
        if most is not None and self.steps >= most:
            raise BudgetExhausted("iterations", self.steps, most, run_id=self.run_id, note=self.note)

    def can_wrap_up(self, limit: BudgetExhausted) -> bool:
        """Whether one more step may wrap up where the limit would end the run."""
        mine = limit.limit == "usd" and limit.run_id == self.run_id
        return mine and self.may_wrap_up and self.wrap_step is None and self.spent < (self.budget.nano_usd or 0)

    def wrap_up(self) -> None:
        """The next step is the last one, and what was kept for it is free from now."""
        self.wrap_step, self.cap = self.steps, self.budget.nano_usd

    def _check_wrapped_up(self) -> None:
        """Raise when the last step, for wrapping up, is over: here, or before the run was resumed."""
        cap, note = self.budget.nano_usd or 0, ""
        if self.wrap_step is not None and self.steps > self.wrap_step:
            note = f" (wrapped up in step {self.wrap_step})"
        elif self.budget.wrap_up is not None and not self.may_wrap_up and self.spent < cap:
            note = " (wrapped up)"
        if note:
            raise BudgetExhausted("usd", self.spent / NANO, cap / NANO, run_id=self.run_id, note=note)

    def check_used_up(self) -> None:
        """Raise when no time, dollar or token of this run is left, so that nothing more may start."""
        self.check_own_time()
        tokens = self.budget.tokens
        if self.cap is not None and self.spent >= self.cap and self.spent:
            raise self._too_dear(self.spent)
        if tokens is not None and self.tokens >= tokens:
            raise BudgetExhausted("tokens", self.tokens, tokens, run_id=self.run_id)

    def check_own_claim(self) -> None:
        """Raise when the dollars or tokens of this run are overdrawn."""
        if self.cap is not None and self.claimed > self.cap:
            raise self._too_dear(self.claimed)
        tokens = self.tokens + self.held_tokens
        if self.budget.tokens is not None and tokens > self.budget.tokens:
            raise BudgetExhausted("tokens", tokens, self.budget.tokens, run_id=self.run_id)

    def _too_dear(self, claimed: int) -> BudgetExhausted:
        """The dollars of this run are used up, by what is spent and what is expected of it."""
        cap, notes = self.cap or 0, []
        if self.spent <= cap < claimed:
            notes.append(f"${self.spent / NANO:.2f} spent, the rest expected")
        if self.wrap_step is not None:
            notes.append(f"wrapping up in step {self.wrap_step}")
        elif self.spent >= (self.budget.nano_usd or 0):
            cap = self.budget.nano_usd or 0
        elif self.budget.nano_kept:
            notes.append(f"${self.budget.wrap_up:.2f} more kept for wrapping up")
        note = f" ({'; '.join(notes)})" if notes else ""
        return BudgetExhausted("usd", claimed / NANO, cap / NANO, run_id=self.run_id, note=note)

    def check_own_time(self) -> None:
        """Raise when the wall clock of this run is used up."""
        seconds = self.budget.wall_clock_seconds
        if seconds is not None and (elapsed := self.elapsed) >= seconds:
            raise BudgetExhausted("wall_clock", elapsed, seconds, run_id=self.run_id)

    def check_claims(self) -> None:
        """Raise for the outermost run whose dollars or tokens are overdrawn."""
        for ledger in self.limited:
            ledger.check_own_claim()

    def check_time(self) -> None:
        """Raise for the outermost run whose wall clock is used up."""
        for ledger in self.timed:
            ledger.check_own_time()

    def check_limits(self) -> None:
        """Raise for the outermost run of which any limit is crossed."""
        for ledger in self.limited:
            ledger.check_own_claim()
            ledger.check_own_time()


def _is_limited(budget: Budget) -> bool:
    """Whether it limits more than iterations, which are counted in a run of its own alone."""
    return budget.usd is not None or budget.tokens is not None or budget.wall_clock is not None


class OpenStep:
    """The account of a step while it runs: what is reserved for it, held for its calls, spent by all in it."""

    __slots__ = (
        *("at_work", "children", "claimed", "dozes", "held", "ledger", "priced", "reserved", "resting", "settled"),
        *("spent", "tokens", "total"),
    )

    def __init__(self, ledger: Ledger, reserved: int) -> None:
        self.ledger = ledger
        self.reserved = reserved
        self.spent = self.claimed = self.held = self.children = self.total = self.tokens = 0
        self.priced = False
        self.at_work = self.resting = 0
        self.dozes = self.settled = False

    def work(self, change: int) -> None:
        """So many calls and child runs more, or fewer, are at work in the step."""
        with self.ledger.lock:
            self.at_work += change
            self._look_at_the_clock()

    def rest(self, change: int) -> None:
        """So many of them more, or fewer, wait: for a quota, or before another try."""
        with self.ledger.lock:
            self.resting += change
            self._look_at_the_clock()

    def _look_at_the_clock(self) -> None:
        """The clock stands still while all that is at work waits, here and so in the enclosing step."""
        dozes = not self.settled and self.resting > 0 and self.resting >= self.at_work
        if dozes == self.dozes:
            return
        self.dozes = dozes
        (self.ledger.doze if dozes else self.ledger.wake)()
        if self.ledger.parent is not None:
            self.ledger.parent.rest(1 if dozes else -1)

    def hold(self, nano_usd: int, tokens: int) -> None:
        """Claim what a call may cost, here and in every enclosing run, until `release`.

        Raises:
            BudgetExhausted: When that does not fit; nothing is held then.
        """
        with self.ledger.lock:
            self._hold(nano_usd, tokens)
            try:
                self.ledger.check_limits()
            except BudgetExhausted:
                self._hold(-nano_usd, -tokens)
                raise

    def room(self) -> int | None:
        """Nano-dollars that a call may hold now; None where no dollar cap is above it."""
        slack, rooms, step = 0, list[int](), self
        with self.ledger.lock:
            while True:
                slack += step.claimed - (step.spent + step.held + step.children)
                if step.ledger.cap is not None:
                    left = step.ledger.cap - step.ledger.claimed
                    rooms.append(left + slack if left >= 0 else 0)  # overdrawn, nothing fits, also what is reserved
                if step.ledger.parent is None:
                    return min(rooms) if rooms else None
                step = step.ledger.parent

    def release(self, nano_usd: int, tokens: int) -> None:
        """Give back what was held for a call."""
        with self.ledger.lock:
            self._hold(-nano_usd, -tokens)

    def _hold(self, nano_usd: int, tokens: int) -> None:
        self.held += nano_usd
        for ledger in self.ledger.lineage:
            ledger.held_tokens += tokens
        self.update()

    def charge(self, nano_usd: int, tokens: int) -> None:
        """Add what was spent, here and in every enclosing run; checks nothing, since it is spent already."""
        with self.ledger.lock:
            step: OpenStep | None = self
            self.priced = True
            while step is not None:
                step.total += nano_usd
                step.tokens += tokens
                step.ledger.tokens += tokens
                step.ledger.spent += nano_usd
                if step is not self:
                    step.priced = True
                step = step.ledger.parent
            self.spent += nano_usd
            self.update()

    def settle(self) -> int:
        """Close the step, add up its working time, and return what the step and its children have spent.

        A child that outlives the step (a task nobody waited for) goes on claiming what it has reserved.
        """
        with self.ledger.lock:
            self.settled = True
            if self.dozes:
                self._look_at_the_clock()
            self.ledger.add_up_time()
            self.reserved = 0
            if self.claimed:
                self.update()
            if self.total > self.ledger.dearest:  # noqa: PLR1730 - every step comes here
                self.ledger.dearest = self.total
            return self.total

    def update(self) -> None:
        """Work out the claim anew, and pass the difference on to every enclosing step and run."""
        step: OpenStep | None = self
        while step is not None:
            claim = max(step.reserved, step.spent + step.held + step.children)
            difference, step.claimed = claim - step.claimed, claim
            if not difference:
                return
            step.ledger.claimed += difference
            step = step.ledger.parent
            if step is not None:
                step.children += difference
