"""The ledgers of a tree of runs against their formula, worked out from nothing each time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from loomc_runner import Budget, BudgetExhausted
from loomc_runner.ledger import Ledger, OpenStep
from loomc_runner.records import NANO
from loomc_runner.testing import FakeClock

CENT = NANO // 100

caps = st.none() | st.integers(0, 30)
cents = st.integers(0, 8)


class Step:
    """A step of a run, what it paid itself, what its calls under way may cost, and the runs inside it."""

    def __init__(self, run: Run, account: OpenStep) -> None:
        self.run, self.account, self.reserved = run, account, account.reserved
        self.own, self.held, self.calls, self.is_open = 0, 0, 0, True
        self.runs: list[Run] = []
        run.steps.append(self)

    @property
    def spent(self) -> int:
        """What it and the runs inside it paid."""
        return self.own + sum(run.spent for run in self.runs)

    @property
    def used(self) -> int:
        """What it paid, what it holds, and what the runs inside it claim."""
        return self.own + self.held + sum(run.claimed for run in self.runs)

    @property
    def claimed(self) -> int:
        """The larger of its reservation, which ends with it, and what it uses."""
        return max(self.reserved if self.is_open else 0, self.used)

    def covers(self, nano: int) -> bool:
        """Whether it can pay that without costing more than it said."""
        return self.is_open and self.used + nano <= self.reserved

    def hold(self, nano: int) -> bool:
        """Hold so much, if that fits; the outermost run in which it does not is the one that refuses it."""
        self.held += nano
        refused = [run for run in self.run.lineage if run.is_overdrawn]
        if not refused:
            self.account.hold(nano, 1)
            self.calls += 1
            return True
        self.held -= nano
        with pytest.raises(BudgetExhausted) as caught:
            self.account.hold(nano, 1)
        assert caught.value.run_id == refused[0].ledger.run_id
        return False

    def release(self, nano: int) -> None:
        """Give it back."""
        self.account.release(nano, 1)
        self.held -= nano
        self.calls -= 1


class Run:
    """A run and its steps."""

    def __init__(self, cap: int | None, parent: Step | None = None) -> None:
        budget = Budget(usd=None if cap is None else cap / 100)
        self.cap, self.parent = budget.nano_usd, parent
        self.ledger = Ledger(str(id(self)), budget, FakeClock(), parent.account if parent else None)
        self.steps: list[Step] = []
        if parent is not None:
            parent.runs.append(self)

    @property
    def spent(self) -> int:
        """What its steps paid."""
        return sum(step.spent for step in self.steps)

    @property
    def claimed(self) -> int:
        """What its steps claim, the settled and the open ones."""
        return sum(step.claimed for step in self.steps)

    @property
    def calls(self) -> int:
        """How many calls are under way in its steps, and in the runs inside them."""
        return sum(step.calls + sum(run.calls for run in step.runs) for step in self.steps)

    @property
    def is_used_up(self) -> bool:
        """Whether nothing is left."""
        return self.cap is not None and 0 < self.spent >= self.cap

    @property
    def is_overdrawn(self) -> bool:
        """Whether more is claimed than there is."""
        return self.cap is not None and self.claimed > self.cap

    @property
    def lineage(self) -> list[Run]:
        """The enclosing runs and this one, outermost first."""
        return [*(self.parent.run.lineage if self.parent else []), self]


class LedgerTree(RuleBasedStateMachine):
    """Any order of opening, paying and settling, in any tree."""

    runs: Bundle[Run] = Bundle("runs")
    steps: Bundle[Step] = Bundle("steps")
    holds: Bundle[tuple[Step, int]] = Bundle("holds")
    is_honest = False

    def __init__(self) -> None:
        super().__init__()
        self.tree: list[Run] = []

    @initialize(target=runs, cap=caps)
    def begin(self, cap: int | None) -> Run:
        """There is a run that all others are in."""
        self.tree.append(Run(cap))
        return self.tree[-1]

    @rule(target=runs, step=steps, cap=caps)
    def begin_inside(self, step: Step, cap: int | None) -> Run:
        """A run begins inside a step."""
        self.tree.append(Run(cap, step))
        return self.tree[-1]

    @rule(target=steps, run=runs, expected=cents)
    def open(self, run: Run, expected: int) -> object:
        """A step is opened, or refused by the outermost run in which it does not fit."""
        run.ledger.declared = expected * CENT
        used_up = [other for other in run.lineage if other.is_used_up]
        step = Step(run, OpenStep(run.ledger, expected * CENT))
        refused = used_up or [other for other in run.lineage if other.is_overdrawn]
        if not refused:
            step.account = run.ledger.open_step()
            return step
        run.steps.remove(step)
        with pytest.raises(BudgetExhausted) as caught:
            run.ledger.open_step()
        assert caught.value.run_id == refused[0].ledger.run_id
        return multiple()

    @rule(step=steps, amount=cents)
    def pay(self, step: Step, amount: int) -> None:
        """A step pays."""
        if step.covers(amount * CENT) or not self.is_honest:
            step.account.charge(amount * CENT, amount)
            step.own += amount * CENT

    @rule(target=holds, step=steps, amount=cents)
    def hold(self, step: Step, amount: int) -> object:
        """What a call may cost is held, or refused by the outermost run in which it does not fit."""
        return (step, amount * CENT) if step.hold(amount * CENT) else multiple()

    @rule(held=consumes(holds), part=st.integers(0, 4))
    def end_call(self, held: tuple[Step, int], part: int) -> None:
        """A call is over, perhaps after its step: it has cost some of what was held for it, and that is paid."""
        step, nano = held
        step.release(nano)
        step.account.charge(nano * part // 4, part)
        step.own += nano * part // 4

    @rule(step=steps)
    def fill(self, step: Step) -> None:
        """What there is room for can be held, and not a nano-dollar more."""
        room = step.account.room()
        assert (room is None) == all(run.cap is None for run in step.run.lineage)
        if room is None:
            room = 10**6 * NANO
        elif room or not any(run.is_overdrawn for run in step.run.lineage):
            assert not step.hold(room + 1)
        else:  # where more is claimed than there is, nothing fits: not even nothing
            assert not step.hold(0)
            return
        assert step.hold(room)
        step.release(room)

    @rule(step=consumes(steps))
    def settle(self, step: Step) -> None:
        """A step ends, perhaps before the runs inside it; it costs what was paid."""
        step.is_open = False
        assert step.account.settle() == step.spent

    @invariant()
    def every_ledger_claims_what_the_formula_says(self) -> None:
        """Also after steps that were refused."""
        for run in self.tree:
            assert (run.ledger.claimed, run.ledger.spent) == (run.claimed, run.spent)
            assert run.ledger.held_tokens == run.calls

    @invariant()
    def no_honest_run_spends_more_than_it_has(self) -> None:
        """Nor does any that encloses it."""
        assert not self.is_honest or not any(run.is_overdrawn for run in self.tree)


class HonestLedgerTree(LedgerTree):
    """The same, where no step costs more than it said it would, but for what its calls have held."""

    is_honest = True


often = settings(max_examples=100, stateful_step_count=30, deadline=None)
LedgerTree.TestCase.settings = HonestLedgerTree.TestCase.settings = often


class TestLedgerTree(LedgerTree.TestCase):
    """Every ledger claims what the formula says, whatever happens below it."""


class TestHonestLedgerTree(HonestLedgerTree.TestCase):
    """No cap in a tree is crossed where no step costs more than it said, and no call more than it held."""


def test_the_outermost_crossed_limit_is_named_whichever_kind_it_is() -> None:
    """A run whose time is up says so only when no enclosing run is out of money, and the other way round."""
    clock = FakeClock()
    outer = Ledger("outer", Budget(usd=1, wall_clock="1m"), clock)
    inner = Ledger("inner", Budget(usd=9, wall_clock="1s"), clock, outer.open_step())
    for ledger in (outer, inner):
        ledger.start_clock()
    step = inner.open_step()
    clock.advance(2)
    step.charge(2 * NANO, 0)
    for verb in (inner.open_step, inner.check_limits):
        with pytest.raises(BudgetExhausted) as caught:
            verb()
        assert (caught.value.run_id, caught.value.limit) == ("outer", "usd")
