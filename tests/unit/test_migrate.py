"""A state that changes shape: `@loop(migrate=...)` brings stored ones over, and nothing else touches them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from driving import go, make_async
from pydantic import BaseModel

from loomc_runner import BestScore, Budget, Done, RunMismatch, RunStatus, SpecError, StateError, loop
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore


@dataclass
class Old:
    """The state as it was: words in one text."""

    n: int = 0
    text: str = ""


@dataclass
class New:
    """The state as it is: words apart, and a name that is needed."""

    n: int
    words: list[str]
    name: str = field(kw_only=True)


def split(old: dict[str, Any]) -> dict[str, Any]:
    """From the old to the new shape."""
    return {"n": old["n"], "words": old["text"].split(), "name": "unnamed"}


def old_step(state: Old) -> Old:
    """Grow, and stop a run of two steps."""
    return Old(state.n + 1, f"{state.text} w{state.n}")


def new_step(state: New) -> New:
    """The same for the new shape."""
    return New(state.n + 1, [*state.words, f"w{state.n}"], name=state.name)


def enough(history: Any) -> bool:
    """Four steps."""
    return len(history) >= 4


class Shop:
    """A run of two old steps that stopped at its limit, and loops over the new shape."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.is_async, self.migrated = store, is_async, list[dict[str, Any]]()
        old = self.loop(old_step, budget=Budget(iterations=2))
        self.before = go(old.run(Old(), run_id="r1"))
        assert self.before.status is RunStatus.BUDGET_EXHAUSTED
        self.old = old

    def loop(self, fn: Callable[..., Any], **options: Any) -> Any:
        """A loop under the same name."""
        options = {"checkpoint": self.store, "name": "tests:shop", "converge_on": enough, **options}
        options.setdefault("scorer", lambda state: -abs(state.n - 2))
        return loop(**options)(make_async(fn) if self.is_async else fn)

    def new(self, migrate: Callable[..., Any] | None = None, fn: Any = new_step, **options: Any) -> Any:
        """A loop over the new shape; every call of `migrate` is noted."""

        def noted(old: dict[str, Any]) -> Any:
            self.migrated.append(old)
            return (migrate or split)(old)

        noted.__qualname__ = getattr(migrate or split, "__qualname__", "noted")
        return self.loop(fn, migrate=noted, **options)


@pytest.fixture(params=["sync", "async"])
def shop(request: pytest.FixtureRequest, store: Store) -> Shop:
    """A run in the old shape."""
    return Shop(store, is_async=request.param == "async")


MORE = Budget(iterations=9)


# --- without it


def test_a_state_that_no_longer_fits_is_refused(shop: Shop) -> None:
    """The error names the field and how to bring it over; the run stays as it was, and can go on with the old loop."""
    with pytest.raises(StateError, match=r"state\.words: Field required; bring it over with @loop\(migrate=\.\.\.\)"):
        go(shop.loop(new_step).resume("r1", budget=MORE))
    run = shop.store.get_run("r1")
    assert (run.status, run.steps, run.owner) == (RunStatus.BUDGET_EXHAUSTED, 2, None)
    assert go(shop.old.resume("r1", budget=MORE)).n == 4


def test_a_result_that_no_longer_fits_is_refused(shop: Shop) -> None:
    """A completed run is read by the same rule."""
    go(shop.old.resume("r1", budget=MORE))
    with pytest.raises(StateError, match=r"state\.words"):
        go(shop.loop(new_step).resume("r1"))


def test_another_type_of_a_field_is_named(memory: MemoryStore) -> None:
    """It is not only missing fields."""

    class Strict(BaseModel):
        n: int
        items: list[dict[str, int]]

    store_text = {"n": 1, "items": [{"a": 1}, {"a": "many"}]}

    @loop(checkpoint=memory, name="x", budget=Budget(iterations=1))
    def before(state: dict[str, Any]) -> dict[str, Any]:
        return state

    @loop(checkpoint=memory, name="x")
    def after(state: Strict) -> Strict:
        return state

    before.run(store_text, run_id="r1")
    with pytest.raises(StateError, match=r"state\.items\[1\]\.a: "):
        after.resume("r1", budget=Budget(iterations=2))


# --- with it


def test_a_resume_brings_the_state_over(shop: Shop) -> None:
    """The run goes on from where it was; new steps are stored in the new shape, old ones stay as they were."""
    done = go(shop.new().resume("r1", budget=MORE))
    assert done == New(4, ["w0", "w1", "w2", "w3"], name="unnamed")
    assert shop.migrated[0] == {"n": 2, "text": " w0 w1"}
    stored = [set(json.loads(shop.store.state("r1", n))) for n in range(-1, 4)]
    assert stored == [{"n", "text"}] * 3 + [{"n", "words", "name"}] * 2


def test_only_what_does_not_fit_is_brought_over(shop: Shop) -> None:
    """`migrate` sees states of the old shape only, and none at all in a run of the new."""
    refine = shop.new()
    go(refine(New(0, [], name="a"), run_id="r2"))
    assert shop.migrated == []
    go(refine.resume("r1", budget=MORE))
    assert all(set(old) == {"n", "text"} for old in shop.migrated)
    seen = len(shop.migrated)
    assert go(refine.resume("r1")).n == 4  # its newest state is of the new shape, its best one is old
    assert all(set(old) == {"n", "text"} for old in shop.migrated[seen:])


def test_detectors_see_old_states_in_the_new_shape(shop: Shop) -> None:
    """`history[0].state` is brought over when it is looked at."""
    seen: list[Any] = []

    def watch(history: Any) -> bool:
        seen.append([record.state for record in history])
        return len(history) == 3

    go(shop.new(converge_on=watch).resume("r1", budget=MORE))
    (states,) = seen
    assert [state.words for state in states] == [["w0"], ["w0", "w1"], ["w0", "w1", "w2"]]
    assert {type(state) for state in states} == {New}


def test_a_strategy_goes_back_to_an_old_state(shop: Shop) -> None:
    """A restore to a step of the old shape brings it over; so does the best state of the result."""
    result = go(shop.new(backtrack=BestScore(), converge_on=enough).run(New(0, [], name="unnamed"), run_id="r2"))
    assert result.best_state.n == 2
    refine = shop.new(backtrack=BestScore())
    assert go(refine.resume("r1", budget=MORE)).words == ["w0", "w1"]
    assert shop.store.steps("r1")[3].parent_n == 1


def test_the_best_state_is_brought_over(shop: Shop) -> None:
    """Of a stored result and of one that has just come about."""
    refine = shop.new()
    go(refine.resume("r1", budget=MORE))
    stream = refine.stream(run_id="r1")
    assert go(stream) == []
    assert stream.result.best_state == New(2, ["w0", "w1"], name="unnamed")


def test_a_run_that_waits_at_its_limit_is_told_in_the_new_shape(shop: Shop) -> None:
    """The state that comes with the error is of the new type as well."""
    refine = shop.new()
    stream = refine.stream(run_id="r1")
    assert go(stream) == []
    assert stream.result.state == New(2, ["w0", "w1"], name="unnamed")


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_a_fork_begins_in_the_new_shape(shop: Shop, step: int) -> None:
    """The state of the step it branches off from is brought over, and stored like that."""
    refine = shop.new()
    fork = refine.fork("r1", step=step)
    assert json.loads(shop.store.state(fork, -1)) == {
        "n": step + 1,
        "words": [f"w{n}" for n in range(step + 1)],
        "name": "unnamed",
    }
    shop.migrated.clear()
    assert go(refine.resume(fork, budget=MORE)).n == step + 1 + 4
    assert shop.migrated == []


def test_a_fork_without_it_is_refused(shop: Shop) -> None:
    """The error is that of a resume, and no run is made."""
    with pytest.raises(StateError, match=r"state\.words.*migrate"):
        shop.loop(new_step).fork("r1", step=1)
    assert len(shop.store.list_runs()) == 1


def test_a_call_with_the_id_of_an_old_run_goes_on_with_it(shop: Shop) -> None:
    """The initial state it is called with is compared in the new shape."""
    refine = shop.new()
    go(refine.resume("r1", budget=MORE))
    assert go(refine(New(0, [], name="unnamed"), run_id="r1")).n == 4
    with pytest.raises(RunMismatch):
        go(refine(New(1, [], name="unnamed"), run_id="r1"))


def test_a_state_that_is_a_model(memory: MemoryStore) -> None:
    """Models, plain dicts and lists are brought over by the same rule."""

    class Model(BaseModel):
        items: list[str]

    @loop(checkpoint=memory, name="x", budget=Budget(iterations=1))
    def before(state: list[str]) -> list[str]:
        return [*state, "a"]

    @loop(checkpoint=memory, name="x", migrate=lambda old: {"items": old})
    def after(state: Model) -> Any:
        return Done(Model(items=[*state.items, "b"]))

    before.run([], run_id="r1")
    assert after.resume("r1", budget=Budget(iterations=2)) == Model(items=["a", "b"])


def test_it_may_give_the_new_state_itself(shop: Shop) -> None:
    """An object of the new type is as good as its JSON."""
    assert go(shop.new(lambda old: New(old["n"], old["text"].split(), name="x")).resume("r1", budget=MORE)).name == "x"


# --- when it goes wrong


def test_a_migration_that_fails_is_named(shop: Shop) -> None:
    """The error names the function and what went wrong, and the run stays as it was."""

    def broken(old: dict[str, Any]) -> Any:
        return {"n": old["nn"]}

    with pytest.raises(StateError, match=r"migrate .*broken failed on the stored state: KeyError: 'nn'") as caught:
        go(shop.new(broken).resume("r1", budget=MORE))
    assert isinstance(caught.value.__cause__, KeyError)
    assert shop.store.get_run("r1").status is RunStatus.BUDGET_EXHAUSTED
    assert go(shop.new().resume("r1", budget=MORE)).n == 4


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"n": 1, "words": "w0"}, r"state\.words: "),
        ({}, r"state\.n: Field required"),
        (None, "state: "),
        ({"n": 1, "words": [], "name": 7}, r"state\.name: "),
    ],
)
def test_a_migration_that_gives_a_misfit_is_named(shop: Shop, given: Any, named: str) -> None:
    """The error names the function and the field of what it gave."""

    def misfit(_: dict[str, Any]) -> Any:
        return given

    with pytest.raises(StateError, match=rf"migrate .*misfit gave what does not fit New: {named}"):
        go(shop.new(misfit).resume("r1", budget=MORE))
    assert shop.store.get_run("r1").status is RunStatus.BUDGET_EXHAUSTED


def test_a_migration_that_gives_no_json_is_named(shop: Shop) -> None:
    """Whatever it is, it must be written down."""

    def odd(_: dict[str, Any]) -> Any:
        return {"n": object()}

    with pytest.raises(StateError, match=r"migrate .*odd failed on the stored state"):
        go(shop.new(odd).resume("r1", budget=MORE))


def test_what_it_does_to_the_old_state_stays_with_it(shop: Shop) -> None:
    """It gets a copy: the stored text is the same afterwards, and the next look begins from it."""

    def spoiling(old: dict[str, Any]) -> Any:
        new = split(old)
        old.clear()
        return new

    text = shop.store.state("r1", 1)
    assert go(shop.new(spoiling).resume("r1", budget=MORE)).n == 4
    assert shop.store.state("r1", 1) == text


async def async_migrate(old: Any) -> Any:
    """No plain function."""
    return old


@pytest.mark.parametrize("migrate", [7, "split", {"n": "m"}, True, async_migrate])
def test_a_migration_must_be_a_plain_function(migrate: Any) -> None:
    """The error comes at decoration, and names the value."""
    with pytest.raises(SpecError, match="migrate="):
        loop(migrate=migrate, checkpoint="memory")(old_step)
    with pytest.raises(SpecError, match="migrate="):
        loop(checkpoint="memory")(old_step).with_options(migrate=migrate)


def test_it_may_be_added_with_options(shop: Shop) -> None:
    """`with_options(migrate=...)` makes the same loop."""
    assert go(shop.loop(new_step).with_options(migrate=split).resume("r1", budget=MORE)).n == 4
