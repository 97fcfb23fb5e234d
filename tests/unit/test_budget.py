"""Budgets are checked when they are declared; ledgers keep them to the nano-dollar, through all enclosing runs."""

from __future__ import annotations

import dataclasses
import json
import math
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.budget import LARGEST_USD, Budget, to_nano
from loomc_runner.errors import BudgetExhausted, CostError, SpecError
from loomc_runner.ledger import Ledger, OpenStep
from loomc_runner.records import NANO
from loomc_runner.testing import FakeClock


def a_ledger(budget: Budget | None = None, parent: OpenStep | None = None, *, run_id: str = "r") -> Ledger:
    """A ledger over a clock that stands still."""
    return Ledger(run_id, budget, FakeClock() if parent is None else parent.ledger.clock, parent)


def refused(step: Any) -> tuple[str, str | None, float, float]:
    """The limit, the run, and the figures of the refusal."""
    with pytest.raises(BudgetExhausted) as caught:
        step()
    error = caught.value
    return error.limit, error.run_id, error.used, error.max_val


BAD = {
    "usd": [-1, -0.01, math.nan, math.inf, LARGEST_USD * 2, "2.00", True, b"2", [2], 1j],
    "step_usd": [-1, math.nan, "0.1", False],
    "iterations": [0, -1, 1.5, 1.0, True, "10", math.inf],
    "tokens": [0, -5, 10.0, False, "1k"],
    "wall_clock": ["10x", "", "-5s", "0s", math.nan, 0, True, [], timedelta(0)],
    "strict": [1, "yes", None],
    "wrap_up": [-1, math.nan, math.inf, "0.25", True, b"1", [1], 0, 0.0, 0.25],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_limit_that_cannot_hold_is_refused_with_its_value(name: str, value: Any) -> None:
    """Every field of a budget is checked when it is declared; the message names the field and shows the value."""
    with pytest.raises(SpecError) as caught:
        Budget(**{name: value})
    assert str(caught.value).startswith(f"Budget({name}={value!r}): ")


@pytest.mark.parametrize("wrap_up", [0, 0.0, 1, 1.0, 1.01, Decimal(1), math.nan, -0.25, False])
def test_what_is_kept_to_wrap_up_is_a_part_of_the_dollars(wrap_up: Any) -> None:
    """All of them would leave nothing for other steps, nothing would wrap up nothing; the message shows the value."""
    with pytest.raises(SpecError) as caught:
        Budget(usd=1, wrap_up=wrap_up)
    assert str(caught.value).startswith(f"Budget(wrap_up={wrap_up!r}): ")


GOOD = [
    Budget(),
    Budget(usd=2.00, iterations=15, wall_clock="10m"),
    Budget(usd=0, tokens=1, step_usd=0.1, strict=True),
    Budget(wall_clock=timedelta(minutes=1, microseconds=1)),
    Budget(wall_clock="12d"),
    Budget(wall_clock="1s500ms"),
    Budget(usd=Decimal("0.10")),  # type: ignore[arg-type]
    Budget(usd=2, wrap_up=0.25),
    Budget(usd=Decimal("1.10"), wrap_up=Decimal("0.10"), strict=True),  # type: ignore[arg-type]
    Budget(usd=LARGEST_USD, wrap_up=1e-9),
]


@pytest.mark.parametrize("budget", GOOD, ids=repr)
def test_a_budget_comes_back_from_json(budget: Budget) -> None:
    """What is stored of a budget gives the same limits again, to the microsecond and the nano-dollar."""
    stored = Budget(**json.loads(json.dumps(budget.to_json())))
    names = ("nano_usd", "nano_kept", "iterations", "wall_clock_seconds", "tokens", "step_usd", "strict")
    assert [getattr(stored, name) for name in names] == [getattr(budget, name) for name in names]


def test_only_the_limits_that_are_set_are_stored() -> None:
    """A budget without a limit is an empty object, and no limit is stored as none."""
    assert Budget().to_json() == {}
    assert Budget(usd=1.5, wall_clock="2m").to_json() == {"usd": 1.5, "wall_clock": "120s"}


@pytest.mark.parametrize(
    ("newer", "expected"),
    [
        (Budget(), Budget(usd=1, iterations=5, strict=True)),
        (Budget(usd=3), Budget(usd=3, iterations=5, strict=True)),
        (Budget(tokens=10), Budget(usd=1, iterations=5, tokens=10, strict=True)),
        (Budget(usd=2, iterations=9, wall_clock="1m"), Budget(usd=2, iterations=9, wall_clock="1m", strict=True)),
    ],
    ids=str,
)
def test_a_newer_budget_changes_only_what_it_names(newer: Budget, expected: Budget) -> None:
    """On a resume the limits that are not named stay as they were, strictness too."""
    assert Budget(usd=1, iterations=5, strict=True).replaced_by(newer) == expected


@pytest.mark.parametrize(
    ("newer", "usd", "wrap_up"),
    [
        (Budget(iterations=5), 1, 0.25),
        (Budget(usd=3), 3, 0.25),
        (Budget(usd=3, wrap_up=0.5), 3, 0.5),
        (Budget(usd=1, wrap_up=0.1), 1, 0.1),
    ],
    ids=str,
)
def test_what_is_kept_to_wrap_up_stays_until_it_is_named(newer: Budget, usd: float, wrap_up: float) -> None:
    """A resume that raises the dollars keeps as many of them as before, unless it says how many."""
    merged = Budget(usd=1, wrap_up=0.25).replaced_by(newer)
    assert (merged.usd, merged.wrap_up) == (usd, wrap_up)


def test_a_total_that_is_no_more_than_what_is_kept_is_refused() -> None:
    """A resume cannot leave a budget in which all is kept to wrap up."""
    with pytest.raises(SpecError, match=r"Budget\(wrap_up=0.25\): give a part of usd=0.25"):
        Budget(usd=1, wrap_up=0.25).replaced_by(Budget(usd=0.25))


def test_a_budget_cannot_be_changed() -> None:
    """Budgets are frozen: what a run was promised holds."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        Budget(usd=1).usd = 2  # type: ignore[misc]


@pytest.mark.parametrize(("usd", "nano"), [(0, 0), (0.1, 10**8), (1e-9, 1), (2, 2 * NANO), (Decimal("0.3"), 3 * 10**8)])
def test_dollars_are_counted_in_whole_nano_dollars(usd: Any, nano: int) -> None:
    """Money is an integer inside, so that it adds up."""
    assert to_nano(usd) == nano
    assert isinstance(to_nano(usd), int)


@pytest.mark.parametrize(
    "usd",
    [-0.01, math.nan, -math.inf, "1", None, True, 1j, [], Decimal("NaN"), Decimal("sNaN"), 10**400],
    ids=lambda usd: repr(usd)[:9],
)
def test_a_cost_that_is_no_amount_is_refused_with_its_value(usd: Any) -> None:
    """NaN, infinite and negative costs, and what is no number, are errors."""
    with pytest.raises(CostError) as caught:
        to_nano(usd)
    assert repr(usd) in str(caught.value)


def test_twenty_dimes_are_exactly_two_dollars() -> None:
    """A cap of two dollars is reached by twenty dimes, not crossed by the rounding of their sum."""
    ledger = a_ledger(Budget(usd=2.00))
    for _ in range(20):
        step = ledger.open_step()
        step.reserved = 0  # each is as dear as the one before, but the last one still fits
        step.charge(to_nano(0.1), 0)
        step.settle()
        ledger.check_claims()
    assert ledger.spent == 2 * NANO
    assert refused(ledger.open_step)[:2] == ("usd", "r")


@given(st.lists(st.integers(0, 10**12), max_size=50))
def test_charges_add_up_to_the_nano_dollar(charges: list[int]) -> None:
    """What a ledger has spent and claims is the exact sum of its charges once its steps are settled."""
    ledger = a_ledger(Budget())
    for nano in charges:
        step = ledger.open_step()
        step.charge(nano, 1)
        assert step.settle() == nano
    assert (ledger.spent, ledger.claimed, ledger.tokens) == (sum(charges), sum(charges), len(charges))


def test_a_step_that_does_not_fit_is_not_opened() -> None:
    """No step starts when what it is expected to cost exceeds what is left; nothing stays reserved then."""
    ledger = a_ledger(Budget(usd=1.00, step_usd=0.40))
    for _ in range(2):
        step = ledger.open_step()
        step.charge(to_nano(0.40), 0)
        step.settle()
    limit, _, used, cap = refused(ledger.open_step)
    assert (limit, used, cap) == ("usd", 1.2, 1.0)
    assert ledger.claimed == ledger.spent == to_nano(0.80)


def test_an_undeclared_step_is_expected_to_cost_as_much_as_the_dearest() -> None:
    """Without `step_usd` the dearest step so far is reserved, children included."""
    ledger = a_ledger(Budget(usd=1.20))
    for usd in (0.10, 0.50, 0.20):
        step = ledger.open_step()
        child = a_ledger(parent=step, run_id="child").open_step()
        child.charge(to_nano(usd), 0)
        child.settle()
        step.settle()
    assert (ledger.dearest, ledger.expected()) == (to_nano(0.50), to_nano(0.50))
    assert refused(ledger.open_step)[2] == 1.3


def test_a_charge_across_the_cap_is_recorded_and_then_refused() -> None:
    """Money that is spent is spent: it is counted first, and stops the step after that."""
    ledger = a_ledger(Budget(usd=1.00))
    step = ledger.open_step()
    step.charge(to_nano(1.50), 0)
    assert refused(ledger.check_claims) == ("usd", "r", 1.5, 1.0)
    step.settle()
    assert ledger.spent == ledger.claimed == to_nano(1.50)


def test_a_childs_spending_reaches_every_ancestor() -> None:
    """Dollars and tokens of a child are its parent's and grandparent's too; its steps are not their iterations."""
    root = a_ledger(Budget(iterations=1))
    middle = a_ledger(parent=root.open_step(), run_id="middle")
    leaf = a_ledger(parent=middle.open_step(), run_id="leaf")
    leaf.open_step().charge(to_nano(0.25), 7)
    assert {(ledger.spent, ledger.claimed, ledger.tokens) for ledger in (root, middle, leaf)} == {
        (to_nano(0.25), to_nano(0.25), 7)
    }
    assert [ledger.steps for ledger in (root, middle, leaf)] == [0, 0, 0]


def test_children_side_by_side_share_what_the_parent_has_left() -> None:
    """Two children under five dollars stop together at five dollars."""
    root = a_ledger(Budget(usd=5.00), run_id="root")
    step = root.open_step()
    children = [a_ledger(Budget(step_usd=1.00), parent=step, run_id=f"child{n}") for n in range(2)]
    opened = [child.open_step() for _ in range(2) for child in children] + [children[0].open_step()]
    assert refused(children[1].open_step) == ("usd", "root", 6.0, 5.0)
    opened[0].settle()  # it cost nothing after all
    children[1].open_step()


def test_the_reservation_of_a_step_covers_its_children() -> None:
    """What a child claims is taken from its parent step's reservation before it counts on top."""
    root = a_ledger(Budget(usd=1.00, step_usd=0.60))
    step = root.open_step()
    child = a_ledger(Budget(step_usd=0.50), parent=step, run_id="child").open_step()
    assert (root.claimed, step.claimed) == (to_nano(0.60), to_nano(0.60))
    child.charge(to_nano(0.80), 0)
    assert root.claimed == to_nano(0.80)
    child.settle()
    assert step.settle() == to_nano(0.80)


@pytest.mark.parametrize(
    ("outer", "inner", "limit"),
    [
        (Budget(usd=1), Budget(usd=1), "usd"),
        (Budget(tokens=10), Budget(tokens=10), "tokens"),
    ],
)
def test_the_outermost_exhausted_limit_is_reported(outer: Budget, inner: Budget, limit: str) -> None:
    """When a child's and its parent's limits are both used up, the parent's is the one that raises."""
    root = a_ledger(outer, run_id="root")
    child = a_ledger(inner, parent=root.open_step(), run_id="child")
    child.open_step().charge(2 * NANO, 20)
    assert refused(child.check_claims)[:2] == (limit, "root")
    assert refused(child.open_step)[:2] == (limit, "root")


def test_iterations_end_at_the_limit() -> None:
    """As many steps are opened as the budget names, and no more."""
    ledger = a_ledger(Budget(iterations=2))
    for _ in range(2):
        ledger.open_step().settle()
        ledger.steps += 1
    assert refused(ledger.open_step) == ("iterations", "r", 2, 2)


def test_without_a_budget_a_safety_cap_holds_and_says_so() -> None:
    """A loop without any budget ends after a thousand iterations, and is told why."""
    ledger = a_ledger(None)
    ledger.steps = 999
    ledger.open_step()
    ledger.steps = 1000
    with pytest.raises(BudgetExhausted, match=r"iterations 1000 of 1000 \(the safety cap: this loop has no budget\)"):
        ledger.open_step()
    unlimited = a_ledger(Budget())
    unlimited.steps = 10**6
    unlimited.open_step()


def test_working_time_counts_only_while_the_clock_runs() -> None:
    """Waiting is not working: between `stop_clock` and `start_clock` no time is used."""
    ledger = a_ledger(Budget(wall_clock="10s"))
    clock = ledger.clock
    assert isinstance(clock, FakeClock)
    ledger.start_clock()
    clock.advance(6)
    ledger.stop_clock()
    clock.advance(100)
    assert (ledger.elapsed, ledger.seconds_left()) == (6, 4)
    ledger.start_clock()
    clock.advance(4)
    assert refused(ledger.check_time) == ("wall_clock", "r", 10, 10)


def test_the_shortest_wall_clock_of_the_enclosing_runs_counts() -> None:
    """A child has no more time than its parent has left; the parent's limit is the one that raises."""
    root = a_ledger(Budget(wall_clock="5s"), run_id="root")
    root.start_clock()
    child = a_ledger(Budget(wall_clock="1m"), parent=root.open_step(), run_id="child")
    child.start_clock()
    assert child.seconds_left() == 5
    child.clock.advance(70)  # type: ignore[attr-defined]
    assert refused(child.open_step)[:2] == ("wall_clock", "root")
    assert a_ledger(Budget()).seconds_left() is None


def test_the_limit_of_the_outermost_run_counts_whatever_its_kind() -> None:
    """A charge looks at money, tokens and time of each enclosing run, from the outside in."""
    root = a_ledger(Budget(wall_clock="5s"), run_id="root")
    root.start_clock()
    child = a_ledger(Budget(usd=1), parent=root.open_step(), run_id="child")
    step = child.open_step()
    child.check_limits()
    step.charge(2 * NANO, 0)
    assert refused(child.check_limits)[:2] == ("usd", "child")
    root.clock.advance(5)  # type: ignore[attr-defined]
    assert refused(child.check_limits)[:2] == ("wall_clock", "root")


def test_a_resumed_ledger_goes_on_from_what_was_used() -> None:
    """What was spent stays spent, in the enclosing run's account too only once it is spent there."""
    ledger = a_ledger(Budget(usd=1.00, iterations=5, wall_clock="1m"))
    ledger.restore(spent=to_nano(0.90), tokens=3, steps=4, dearest=to_nano(0.30), worked=50.0)
    assert (ledger.spent, ledger.claimed, ledger.tokens, ledger.steps, ledger.elapsed) == (
        *(to_nano(0.90), to_nano(0.90), 3, 4, 50.0),
    )
    assert refused(ledger.open_step)[:3] == ("usd", "r", 1.2)


@pytest.mark.parametrize(
    ("outer", "capped", "strict"),
    [(Budget(), False, False), (Budget(usd=1), True, False), (Budget(usd=1, strict=True), True, True)],
)
def test_a_dollar_cap_and_its_strictness_hold_for_children(outer: Budget, capped: bool, strict: bool) -> None:
    """A child without a budget of its own is under the caps of the enclosing runs."""
    child = a_ledger(Budget(), parent=a_ledger(outer).open_step())
    assert (child.dollar_capped, child.strict) == (capped, strict)


# --- what is kept to wrap up


def spent(ledger: Ledger, usd: float) -> Ledger:
    """The same ledger, after a step that has cost so much."""
    step = ledger.open_step()
    step.charge(to_nano(usd), 0)
    step.settle()
    ledger.steps += 1
    return ledger


def test_a_step_never_claims_what_is_kept_to_wrap_up() -> None:
    """The cap of every other step is the whole less what is kept; what fits there to the nano-dollar may start."""
    fits, does_not = (a_ledger(Budget(usd=1.00, wrap_up=0.25, step_usd=step_usd)) for step_usd in (0.75, 0.750000001))
    assert fits.open_step().reserved == to_nano(0.75)
    assert fits.wrap_step is None
    assert does_not.open_step().reserved == to_nano(0.25)
    assert does_not.wrap_step == 0


@pytest.mark.parametrize(("usd", "reserved"), [(0.60, 0.25), (0.80, 0.20), (0.999999999, 0.000000001)])
def test_the_step_that_wraps_up_reserves_what_is_kept_as_far_as_it_is_left(usd: float, reserved: float) -> None:
    """Where others have spent some of it, the rest is reserved."""
    ledger = spent(a_ledger(Budget(usd=1.00, wrap_up=0.25)), usd)
    assert ledger.open_step().reserved == to_nano(reserved)
    assert ledger.claimed == to_nano(min(usd + 0.25, 1))


@pytest.mark.parametrize("usd", [1.00, 1.50])
def test_where_nothing_is_left_there_is_no_wrapping_up(usd: float) -> None:
    """A step that has spent the whole cap has spent what was kept, too."""
    ledger = spent(a_ledger(Budget(usd=1.00, wrap_up=0.25)), usd)
    assert refused(ledger.open_step) == ("usd", "r", usd, 1.0)
    assert ledger.wrap_step is None


def test_after_the_step_that_wraps_up_no_other_is_opened() -> None:
    """It is the last one, though it has spent nothing; the reason says which one it was."""
    ledger = spent(spent(a_ledger(Budget(usd=1.00, wrap_up=0.25)), 0.60), 0.0)
    assert ledger.wrap_step == 1
    with pytest.raises(BudgetExhausted, match=r"usd 0\.60 of 1\.00 \(wrapped up in step 1\)"):
        ledger.open_step()


@pytest.mark.parametrize(
    "limit",
    [
        BudgetExhausted("iterations", 3, 3, run_id="r"),
        BudgetExhausted("tokens", 3, 3, run_id="r"),
        BudgetExhausted("wall_clock", 3, 3, run_id="r"),
        BudgetExhausted("usd", 3, 3, run_id="parent"),
        BudgetExhausted("usd", 3, 3),
    ],
    ids=lambda limit: f"{limit.limit} of {limit.run_id}",
)
def test_only_the_dollars_of_the_run_itself_begin_the_wrapping_up(limit: BudgetExhausted) -> None:
    """What is kept buys no iterations, tokens or time, and nothing where an enclosing run has no more."""
    ledger = a_ledger(Budget(usd=1.00, wrap_up=0.25))
    assert not ledger.can_wrap_up(limit)
    assert (ledger.wrap_step, ledger.cap) == (None, to_nano(0.75))


def test_a_run_that_keeps_nothing_does_not_wrap_up() -> None:
    """Without `wrap_up` the end is the end."""
    ledger = spent(a_ledger(Budget(usd=1.00)), 0.60)
    assert not ledger.can_wrap_up(BudgetExhausted("usd", 1.2, 1, run_id="r"))
    assert refused(ledger.open_step)[2] == 1.2
