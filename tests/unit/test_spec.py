"""Every option of `@loop` is checked when the function is decorated, and the message names its value."""

from __future__ import annotations

import functools
import pathlib
from dataclasses import replace
from typing import Any

import pytest

import refinements
from loomc_runner import (
    BestScore,
    Budget,
    Done,
    Escalate,
    LastGood,
    all_of,
    judge,
    loop,
    predicate,
    score_plateau,
    target,
)
from loomc_runner.errors import SpecError
from loomc_runner.records import Run
from loomc_runner.spec import LoopSpec
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import AT, a_run


def step(state: dict[str, Any]) -> dict[str, Any]:
    """One iteration."""
    return state


async def async_step(state: dict[str, Any]) -> dict[str, Any]:
    """One iteration that may wait."""
    return state


def grade(state: Any) -> float:
    """A score."""
    return float(state["n"])


async def async_grade(state: Any) -> float:
    """A score that is waited for."""
    return float(state["n"])


async def async_judge(state: Any) -> bool:
    """An answer that is waited for."""
    return True


async def async_handler(state: Any, history: Any) -> Any:
    """A change that is waited for."""
    return state


def good_enough(state: Any) -> bool:
    """Tell that it is."""
    return True


class AsyncGrader:
    async def __call__(self, state: Any) -> float:
        """Grade, or give a reason to stop."""
        return 0.0

    async def should_stop(self, history: Any) -> bool:
        """Tell whether to stop."""
        return False


class Refiner:
    def step(self, state: dict[str, Any]) -> dict[str, Any]:
        """One iteration of an object."""
        return state

    async def async_step(self, state: dict[str, Any]) -> dict[str, Any]:
        """One iteration of an object that may wait."""
        return state

    @staticmethod
    def static_step(state: dict[str, Any]) -> dict[str, Any]:
        """One iteration of a class."""
        return state


def spec_of(fn: Any = step, **options: Any) -> LoopSpec[Any]:
    """The validated options of a loop."""
    return loop(**options)(fn).spec  # type: ignore[no-any-return]


def refusal(fn: Any = step, **options: Any) -> str:
    """Why a declaration is refused."""
    with pytest.raises(SpecError) as caught:
        loop(**options)(fn)
    return str(caught.value)


BAD: dict[str, list[Any]] = {
    "budget": ["10x", 2.0, {"usd": 1}, Budget, False],
    "checkpoint": [None, "", "postgres://host/db", "sqlite:/x://", 5, object(), MemoryStore],
    "converge_on": [5, "plateau", score_plateau, [score_plateau(), 5], AsyncGrader, object(), False, {"a": 1}],
    "backtrack": [5, "best", BestScore, [LastGood(), None], async_grade, object()],
    "on_stall": [5, Escalate, score_plateau(), LastGood(), [Escalate()]],
    "scorer": [5, "len", [grade]],
    "cost_fn": [0.1, "free", [grade]],
    "name": ["", " ", "a\nb", "\x1b[1m", 5, b"refine"],
    "tags": ["draft", 5, None, ["a", 5], ["a\nb"], [""], {"a": 1}],
}


@pytest.mark.parametrize(("option", "value"), [(option, value) for option, values in BAD.items() for value in values])
def test_an_option_that_cannot_work_is_refused_with_its_value(option: str, value: Any) -> None:
    """The error names the option and shows the value, or the part of it, that cannot work."""
    message = refusal(**{option: value})
    shown = [item for item in value if repr(item) in message] if isinstance(value, list) else [value]
    assert message.startswith(option)
    assert repr(value) in message or shown


def test_no_checkpoint_is_said_in_one_of_two_words() -> None:
    """`None` could mean either the default or _nothing, so the error names both words."""
    message = refusal(checkpoint=None)
    assert '"sqlite"' in message
    assert '"memory"' in message


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (lambda: score_plateau(patience=0), "score_plateau(patience=0"),
        (lambda: score_plateau(min_delta=-1), "score_plateau(min_delta=-1"),
        (lambda: score_plateau(min_delta=float("nan")), "score_plateau(min_delta=nan"),
        (lambda: score_plateau(direction="up"), "score_plateau(direction='up'"),  # type: ignore[arg-type]
        (lambda: target("high"), "target(score='high'"),  # type: ignore[arg-type]
        (lambda: target(float("inf")), "target(score=inf"),
        (lambda: target(1, direction="down"), "target(direction='down'"),  # type: ignore[arg-type]
        (lambda: predicate(5), "predicate(5"),  # type: ignore[arg-type]
        (lambda: judge(None), "judge(None"),  # type: ignore[arg-type]
        (lambda: all_of(score_plateau()), "all_of needs two or more"),
        (lambda: all_of(score_plateau(), 5), "converge_on=5"),
        (lambda: BestScore(metric=5), "BestScore(metric=5"),  # type: ignore[arg-type]
        (lambda: BestScore(tolerance=-0.1), "BestScore(tolerance=-0.1"),
        (lambda: BestScore(tolerance=True), "BestScore(tolerance=True"),
        (lambda: BestScore(direction=""), "BestScore(direction=''"),  # type: ignore[arg-type]
        (lambda: LastGood(max_failures=0), "LastGood(max_failures=0"),
        (lambda: LastGood(max_failures=1.5), "LastGood(max_failures=1.5"),  # type: ignore[arg-type]
        (lambda: Escalate(after=0), "Escalate(after=0"),
        (lambda: Escalate(handler="stop"), "Escalate(handler='stop'"),  # type: ignore[arg-type]
        (lambda: Escalate(direction=None), "Escalate(direction=None"),  # type: ignore[arg-type]
    ],
)
def test_a_part_that_cannot_work_is_refused_when_it_is_made(part: Any, message: str) -> None:
    """Detectors, strategies and the stall rule check their own options and name the bad one."""
    with pytest.raises(SpecError) as caught:
        part()
    assert str(caught.value).startswith(message)


def _nothing() -> None: ...
def _two(state: Any, config: Any) -> Any: ...
def _three(self: Any, state: Any, config: Any) -> Any: ...
def _only_named(*, state: Any) -> Any: ...
def _also_named(state: Any, *, config: Any) -> Any: ...
def _anything_named(**options: Any) -> Any: ...
def _yields(state: Any) -> Any:
    yield state


async def _yields_async(state: Any) -> Any:
    yield state


class CallableObject:
    def __call__(self, state: Any) -> Any:
        """One iteration without a name."""


@pytest.mark.parametrize(
    "fn",
    [
        *(_nothing, _two, _three, _only_named, _also_named, _anything_named, _yields, _yields_async),
        *(Refiner, CallableObject(), functools.partial(_two, config=1), max, 5, "step", Budget(usd=1)),
    ],
    ids=lambda fn: getattr(fn, "__name__", type(fn).__name__),
)
@pytest.mark.parametrize("bare", [True, False])
def test_what_is_not_one_iteration_is_refused(fn: Any, bare: bool) -> None:
    """A step is a function of one state: nothing else to pass, nothing to yield; also options by position end here."""
    with pytest.raises(SpecError, match="@loop"):
        loop(fn) if bare else loop(tags=["a"])(fn)


def _with_default(state: Any = None, retries: int = 3, *, verbose: bool = False) -> Any: ...
def _any_number(*states: Any) -> Any: ...


@pytest.mark.parametrize(
    ("fn", "is_async", "is_method"),
    [
        (step, False, False),
        (async_step, True, False),
        (_with_default, False, False),
        (_any_number, False, False),
        (lambda state: state, False, False),
        (functools.wraps(async_step)(functools.partial(async_step)), True, False),
        (Refiner.step, False, True),
        (Refiner.async_step, True, True),
        (Refiner.static_step, False, False),
        (Refiner().step, False, False),
        (Refiner().async_step, True, False),
    ],
)
def test_functions_and_methods_sync_and_async_can_be_loops(fn: Any, is_async: bool, is_method: bool) -> None:
    """One positional parameter is enough, in a class after self; bare or with options makes no difference."""
    for spec in (loop(fn).spec, loop()(fn).spec, spec_of(fn, budget=Budget(usd=1))):
        assert (spec.is_async, spec.is_method) == (is_async, is_method)


@pytest.mark.parametrize(
    "options",
    [
        {"scorer": async_grade},
        {"scorer": AsyncGrader()},
        {"cost_fn": async_grade},
        {"converge_on": async_judge},
        {"converge_on": AsyncGrader()},
        {"converge_on": judge(async_judge)},
        {"converge_on": [target(1), all_of(predicate(async_judge), target(2))], "scorer": grade},
        {"on_stall": Escalate(handler=async_handler), "scorer": grade},
        {"backtrack": BestScore(metric=async_grade)},
    ],
)
def test_a_sync_loop_takes_no_async_functions(options: dict[str, Any]) -> None:
    """Nobody would await them; an async loop takes the same options."""
    assert "is async, but the loop step is not" in refusal(step, **options)
    spec_of(async_step, **options)


@pytest.mark.parametrize(
    "options",
    [
        {"converge_on": score_plateau()},
        {"converge_on": all_of(predicate(bool), target(1))},
        {"backtrack": BestScore()},
        {"backtrack": [LastGood(), BestScore(direction="minimize")]},
        {"on_stall": Escalate()},
    ],
)
def test_what_compares_scores_needs_a_scorer(options: dict[str, Any]) -> None:
    """Without a scorer a detector of scores would never say anything; with one, or a metric, all is well."""
    assert "add scorer=" in refusal(**options)
    assert spec_of(scorer=grade, **options).scorer is grade


def test_a_metric_is_the_scorer_and_there_is_only_one() -> None:
    """`BestScore(metric=...)` scores for all; given together with `scorer` nobody could tell which counts."""
    assert spec_of(backtrack=BestScore(metric=grade), converge_on=score_plateau()).scorer is grade
    assert "given twice" in refusal(backtrack=BestScore(metric=grade), scorer=len)


@pytest.mark.parametrize(
    ("detector", "strategy"),
    [
        (score_plateau(direction="minimize"), BestScore()),
        (target(1), BestScore(direction="minimize")),
        (all_of(target(1), score_plateau(direction="minimize")), LastGood()),
    ],
)
def test_two_directions_disagree(detector: Any, strategy: Any) -> None:
    """A score that is maximized here and minimized there is a mistake; the error shows both."""
    message = refusal(converge_on=detector, backtrack=strategy, scorer=grade)
    assert "disagree: one maximizes, the other minimizes" in message


def test_the_direction_of_one_part_holds_for_the_loop() -> None:
    """What is best is decided in the direction that the parts declare."""
    assert spec_of(scorer=grade).direction == "maximize"
    assert spec_of(scorer=grade, converge_on=score_plateau(direction="minimize")).direction == "minimize"


def test_one_part_or_a_list_of_them() -> None:
    """Detectors and strategies are given alone, in a list or in a tuple."""
    assert spec_of(converge_on=len).detectors == spec_of(converge_on=[len]).detectors == (len,)
    assert spec_of(backtrack=(LastGood(), LastGood(2))).strategies == (LastGood(), LastGood(2))
    assert (spec_of().detectors, spec_of(converge_on=[]).detectors) == ((), ())


def test_decorating_writes_nothing(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a module with loops leaves no file behind, whatever store they name."""
    monkeypatch.chdir(tmp_path)
    for checkpoint in ("sqlite", "memory", "runs.db", tmp_path / "a" / "runs.db", f"sqlite:///{tmp_path}/b.db"):
        loop(checkpoint=checkpoint)(step)
    assert list(tmp_path.iterdir()) == []


def test_a_loop_is_named_by_its_module_and_qualname() -> None:
    """Runs find their function again by `module:qualname`, unless a name was chosen; the file is noted too."""
    spec = spec_of(Refiner.step)
    assert (spec.name, spec.source) == (f"{__name__}:Refiner.step", str(pathlib.Path(__file__).absolute()))
    assert spec_of(name="refine").name == "refine"


@pytest.mark.parametrize(
    ("run", "owned"),
    [
        (a_run(loop=f"{__name__}:step"), True),
        (a_run(loop=f"{__name__}:other"), False),
        (a_run(loop="elsewhere:step"), False),
        (a_run(loop="__main__:step", source=__file__), True),
        (a_run(loop="__main__:step", source="/elsewhere.py"), False),
        (a_run(loop="__main__:other", source=__file__), False),
        (a_run(loop=None, spec_hash="no such hash"), False),
    ],
)
def test_a_loop_owns_the_runs_that_name_it(run: Run, owned: bool) -> None:
    """The name decides; a script that is imported or moved into `__main__` is known by its file."""
    assert spec_of().owns(run) is owned


def test_a_loop_adopts_the_run_that_somebody_says_is_its_own() -> None:
    """`loomc resume RUN module:loop` overrules what the run itself says."""
    spec = replace(spec_of(), adopts="r")
    assert [spec.owns(a_run(name, loop="elsewhere:step")) for name in ("r", "another")] == [True, False]


@pytest.mark.parametrize(("strategy", "best"), [(LastGood(), False), ([LastGood(), BestScore()], True)])
def test_under_best_score_the_result_is_the_best_state(strategy: Any, best: bool) -> None:
    """Whoever goes back to the best state also wants to end with it."""
    assert spec_of(backtrack=strategy, scorer=grade).returns_best is best


def test_options_are_changed_by_their_names() -> None:
    """`with_options` changes what it names and keeps the rest; the name of an option that there is not is told."""
    older: Any = AsyncGrader()
    first = loop(budget=Budget(usd=1), tags=["a"], backtrack=BestScore(metric=grade), converge_on=older)(async_step)
    spec = first.with_options(tags=["b"], checkpoint="memory").spec
    assert (spec.tags, spec.checkpoint, spec.budget, spec.scorer) == (("b",), "memory", Budget(usd=1), grade)
    assert spec.detectors == first.spec.detectors
    with pytest.raises(TypeError, match="a loop has no option retries; it has budget, "):
        first.with_options(retries=3)


def test_a_run_of_loomc_0_3_0_is_known_by_the_hash_of_its_name() -> None:
    """Old runs kept nothing but eight digits of a hash of `module.qualname`."""
    old = Run(id="old", loop=None, created_at=AT, updated_at=AT, spec_hash="da19e408")  # as the golden database has it
    assert spec_of(refinements.polish).owns(old)
    assert not spec_of(refinements.expand).owns(old)


def test_the_fingerprint_of_the_options_is_the_same_in_every_process() -> None:
    """It tells options apart, and holds no address of a function that the next process puts elsewhere."""

    def fingerprint() -> str:
        def part(state: Any) -> Any:
            return 0.0

        return spec_of(converge_on=[judge(part), part], backtrack=BestScore(metric=part)).spec_hash

    assert fingerprint() == fingerprint()
    hashes = [spec_of(**o).spec_hash for o in ({}, {"budget": Budget(usd=1)}, {"converge_on": len}, {"scorer": len})]
    assert len(set(hashes)) == 4


def test_the_fingerprint_of_the_code_changes_with_the_code() -> None:
    """A resume notes when the function is not the one that was run before."""
    specs = [
        spec_of(step),
        spec_of(_with_default),
        spec_of(eval("lambda state: state")),
        spec_of(eval("lambda s: [s]")),
    ]
    assert len({spec.code_hash for spec in specs}) == 4
    assert spec_of(step).code_hash == spec_of(step, tags=["a"]).code_hash


def test_a_class_defined_further_down_is_found_at_the_first_use() -> None:
    """With postponed annotations the state's class may come after the loop."""
    scope: dict[str, Any] = {"Done": Done}
    exec("def later(state: 'Later') -> 'Later | Done[Later, int]': ...", scope)
    spec = spec_of(scope["later"])
    found = [spec.annotations]
    scope["Later"] = Refiner
    assert [*found, spec.annotations] == [(None, None), (Refiner, int)]


def test_the_state_of_a_method_is_what_follows_self() -> None:
    """The annotation of the state is found in functions, methods and bound methods alike."""
    declared = {spec_of(fn).annotations[0] for fn in (step, Refiner.step, Refiner().step, Refiner.static_step)}
    assert declared == {dict[str, Any]}
