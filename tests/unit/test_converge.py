"""Detectors say why a loop may stop, from the history alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from inspect import isawaitable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner.converge import (
    Escalate,
    all_of,
    as_detector,
    first_reason,
    judge,
    parts_of,
    predicate,
    score_plateau,
    target,
)
from loomc_runner.errors import SpecError
from loomc_runner.records import StepRecord
from loomc_runner.scores import Direction, gain
from loomc_runner.testing import a_step

Scores = Sequence[float | None]


def history_of(
    scores: Scores, direction: Direction = "maximize", decisions: dict[int, str] | None = None
) -> list[StepRecord[Any]]:
    """The steps of a run with these scores; a step without one has failed. The state of a step is its number."""
    steps: list[StepRecord[Any]] = []
    best: int | None = None
    for n, score in enumerate(scores):
        before = None if best is None else scores[best]
        if score is not None and (before is None or gain(score, before, direction) > 0):
            best = n
        error = "ValueError: failed" if score is None else None
        decision = (decisions or {}).get(n)
        steps.append(a_step(n, score=score, best_n=best, error=error, decision=decision, read_state=lambda n: n))
    return steps


def reason(detectors: Any, history: Sequence[StepRecord[Any]]) -> str | None:
    """What the first of the detectors says."""
    listed = detectors if isinstance(detectors, list) else [detectors]
    return asyncio.run(first_reason([as_detector(detector) for detector in listed], history))


@pytest.mark.parametrize(
    ("detector", "scores", "stops"),
    [
        (score_plateau(3), [], False),
        (score_plateau(3), [0.5], False),
        (score_plateau(3), [0.5, 0.5, 0.5], False),
        (score_plateau(3), [0.5, 0.5, 0.5, 0.5], True),
        (score_plateau(3), [0.5, 0.4, 0.6, 0.5], False),
        (score_plateau(3), [0.5, 0.6, 0.5, 0.5, 0.5], True),
        (score_plateau(3), [0.1, 0.2, 0.3, 0.4], False),
        (score_plateau(1), [0.5, 0.505], True),
        (score_plateau(1, min_delta=0), [0.5, 0.505], False),
        (score_plateau(1, min_delta=0), [0.5, 0.5], True),
        (score_plateau(1, min_delta=0.01), [0.28, 0.29], False),  # 0.29 - 0.28 is 0.009999...
        (score_plateau(1, min_delta=0.1), [0.2, 0.3], False),
        (score_plateau(1, min_delta=0.1), [0.2, 0.29], True),
        (score_plateau(2, direction="minimize"), [0.5, 0.4, 0.3], False),
        (score_plateau(2, direction="minimize"), [0.5, 0.6, 0.7], True),
        (score_plateau(2, min_delta=0.01), [0.500, 0.505, 0.510], False),  # small gains add up to one
        (score_plateau(2), [0.5, None, 0.5, None], False),
        (score_plateau(2), [0.5, None, 0.5, None, None, 0.5], True),
        (score_plateau(2), [None, 0.5, 0.5], False),
        (score_plateau(2), [None, None, None, None], False),
        (score_plateau(2), [-5.0, -5.0, -5.0], True),
        (target(0.9), [], False),
        (target(0.9), [0.95, 0.89], False),
        (target(0.9), [0.9], True),
        (target(0.9), [0.95, None], False),
        (target(3, direction="minimize"), [4], False),
        (target(3, direction="minimize"), [4, 2], True),
    ],
)
def test_scores_decide_whether_to_stop(detector: Any, scores: Scores, stops: bool) -> None:
    """A plateau is `patience` scored steps without a gain on the best before; a target is reached by the newest."""
    assert (reason(detector, history_of(scores, detector.direction)) is not None) is stops


def test_the_reasons_are_in_words() -> None:
    """A stop reason tells what was asked for and what was seen."""
    assert reason(score_plateau(patience=2), history_of([1, 1, 1])) == "score_plateau(patience=2)"
    assert reason(target(0.9), history_of([0.95])) == "target(0.9) reached with 0.95"


@given(st.lists(st.none() | st.integers(0, 3), max_size=12), st.integers(1, 4))
def test_a_plateau_is_decided_as_if_the_whole_history_were_looked_at(scores: list[float | None], patience: int) -> None:
    """The few records that are read decide the same as all scores together would."""
    scored = [score for score in scores if score is not None]
    recent, before = scored[-patience:], scored[:-patience]
    stops = bool(before) and max(recent) <= max(before)
    assert (reason(score_plateau(patience), history_of(scores)) is not None) is stops


class Yes:
    """A bool of another library, such as numpy's."""

    def __init__(self, yes: bool) -> None:
        self.yes = yes

    def __bool__(self) -> bool:
        return self.yes

    def __eq__(self, other: object) -> bool:
        return self.yes == other

    __hash__ = None  # type: ignore[assignment]


def good_enough(history: Any) -> bool:
    """Tell that it is."""
    return True


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("good enough", "good enough"),
        (True, "good_enough"),
        (False, None),
        (None, None),
        ("", None),
        (Yes(yes=True), "good_enough"),
        (Yes(yes=False), None),
    ],
)
def test_an_answer_is_a_reason_or_yes_or_no(answer: Any, expected: str | None) -> None:
    """A string is the reason; True, also of another library, is yes in the name of the detector."""

    def detect(history: Any) -> Any:
        return answer

    detect.__name__ = "good_enough"
    assert reason(detect, history_of([1])) == expected


class Several:
    """Several answers at once, such as numpy's array."""

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


@pytest.mark.parametrize("answer", [0.7, 2, {"stop": False}, [], object(), b"yes", {1}, Several()])
def test_any_other_answer_is_an_error_with_its_value(answer: Any) -> None:
    """An answer that is neither words nor yes nor no would stop or go on by accident."""
    with pytest.raises(SpecError, match="must return a reason, True, False or None, not ") as caught:
        reason(predicate(lambda _: answer), history_of([1]))
    assert repr(answer) in str(caught.value)


class Stopper:
    """A detector of the older form."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def should_stop(self, history: Any) -> Any:
        """Tell whether to stop after so many steps."""
        return len(history) >= self.answer


class AsyncStopper(Stopper):
    async def should_stop(self, history: Any) -> Any:
        """Tell whether to stop, after a while."""
        await asyncio.sleep(0)
        return super().should_stop(history)


class Watcher:
    def __call__(self, history: Any) -> bool:
        """Tell whether two steps were made."""
        return len(history) == 2


async def slowly(history: Any) -> str | None:
    """Answer after a while."""
    await asyncio.sleep(0)
    return f"after {len(history)} steps" if len(history) >= 2 else None


def change(state: Any, history: Any) -> Any:
    """Change something."""
    return state


@pytest.mark.parametrize(
    ("detector", "words"),
    [
        (good_enough, "good_enough"),
        (slowly, "after 2 steps"),
        (Watcher(), "Watcher"),
        (Stopper(2), "Stopper"),
        (AsyncStopper(2), "AsyncStopper"),
        (lambda history: len(history) == 2, "<lambda>"),
        (predicate(good_enough), "predicate(good_enough)"),
        (predicate(slowly), "after 2 steps"),
        (judge(lambda state: state == 1), "judge(<lambda>)"),
    ],
)
def test_any_callable_is_a_detector_and_so_is_a_class_with_should_stop(detector: Any, words: str) -> None:
    """Functions, objects and the older classes, sync or async, are asked alike; the reason bears their name."""
    assert reason(detector, history_of([0.1, 0.2])) == words


def test_a_detector_of_partial_arguments_has_a_readable_name() -> None:
    """A reason never holds the address of a function."""
    assert reason(partial(lambda least, history: len(history) >= least, 1), history_of([1])) == "partial"


def test_the_first_reason_of_a_list_wins() -> None:
    """Any detector of a list may stop the loop; those after it are not asked any more."""
    asked: list[Any] = []
    detectors = [lambda _: None, slowly, asked.append]
    assert reason(detectors, history_of([1, 1])) == "after 2 steps"
    assert asked == []
    assert reason(detectors, history_of([1])) is None
    assert len(asked) == 1


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([good_enough, target(0.5)], "good_enough and target(0.5) reached with 0.9"),
        ([slowly, good_enough], "after 2 steps and good_enough"),
        ([good_enough, slowly, good_enough], "good_enough and after 2 steps and good_enough"),
        ([all_of(slowly, slowly), good_enough], "after 2 steps and after 2 steps and good_enough"),
        ([Stopper(1), AsyncStopper(2)], "Stopper and AsyncStopper"),
        ([good_enough, target(1)], None),
        ([slowly, target(1), good_enough], None),
        ([target(1), slowly], None),
    ],
)
def test_all_of_stops_only_when_every_part_says_so(parts: list[Any], expected: str | None) -> None:
    """All the reasons are told, or there is none."""
    assert reason(all_of(*parts), history_of([0.1, 0.9])) == expected


@pytest.mark.parametrize("no", [lambda _: None, AsyncStopper(9)], ids=["sync", "async"])
def test_all_of_asks_nobody_after_the_first_no(no: Any) -> None:
    """A judge behind a cheap detector is paid only once that one says yes."""
    asked: list[Any] = []
    assert reason(all_of(no, asked.append), history_of([1])) is None
    assert asked == []


def test_all_of_needs_no_event_loop_when_its_parts_do_not() -> None:
    """In a sync loop the answer is there at once."""
    answer = all_of(good_enough, target(1))(history_of([1]))
    assert not isawaitable(answer)
    assert answer == "good_enough and target(1) reached with 1"


def test_the_parts_of_a_declaration_are_found_in_any_depth() -> None:
    """What is refused in an option is refused inside `all_of` and `judge` too."""
    parts = list(parts_of((all_of(judge(good_enough), AsyncStopper(1)), Escalate(handler=change))))
    assert good_enough in parts
    assert change in parts
    assert any(getattr(part, "__name__", "") == "should_stop" for part in parts)


@pytest.mark.parametrize(
    ("scores", "decisions", "stalled"),
    [
        ([0.5, 0.5], {}, False),
        ([0.5, 0.5, 0.5], {}, True),
        ([0.5, 0.5, 0.5001], {}, False),
        ([0.5, None, 0.5, None, 0.5], {}, True),
        ([0.5, 0.5, 0.5, 0.5], {2: "escalate"}, False),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {2: "escalate"}, True),
        ([0.5, 0.5, 0.5, 0.5], {2: "stalled"}, False),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {2: "stalled"}, True),
        ([0.5, 0.5, 0.5, None, 0.5], {2: "stalled"}, False),
        ([0.5, 0.5, 0.5, 0.5, 0.6, 0.6], {2: "escalate"}, False),
        ([0.5, 0.5, 0.5, 0.5, 0.5], {2: "restore 0"}, True),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], {2: "escalate", 4: "escalate"}, True),
        ([0.5, 0.5, 0.5, 0.5, 0.5, 0.5], {2: "stalled", 4: "escalate"}, False),
    ],
)
def test_a_stall_is_so_many_steps_without_a_better_score_since_the_last_one(
    scores: Scores, decisions: dict[int, str], stalled: bool
) -> None:
    """Any gain counts; after an escalation, and after a stalled run was resumed by force, the count begins anew."""
    assert Escalate(after=2)(history_of(scores, decisions=decisions)) is stalled
    mirrored = [None if score is None else -score for score in scores]
    assert Escalate(after=2, direction="minimize")(history_of(mirrored, "minimize", decisions)) is stalled


@pytest.mark.parametrize("detector", [score_plateau(2), target(2), Escalate(2)])
def test_a_detector_keeps_nothing_between_questions(detector: Any) -> None:
    """Detectors are functions of the history: asked in any order, and twice, they answer the same."""
    histories = [history_of([1, 1, 1][:n]) for n in range(1, 4)]
    answers = [detector(history) for history in histories]
    assert [detector(history) for history in reversed(histories)] == answers[::-1]
    assert [detector([step._replace() for step in history]) for history in histories] == answers
