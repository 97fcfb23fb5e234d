"""A judge says yes or no; whatever else it says is an error, and keeps no loop going."""

from __future__ import annotations

import asyncio
import itertools
import pickle
from collections.abc import Callable, Iterable
from copy import deepcopy
from typing import Any

import pytest
from driving import Draft, Maker, columns, doing, go, grow, make_async, size, until
from hypothesis import given
from hypothesis import strategies as st

from loomc_runner import (
    BestScore,
    Budget,
    BudgetExhausted,
    Done,
    JudgeError,
    Judgement,
    LastGood,
    LoomcError,
    RunStatus,
    SpecError,
    all_of,
    call,
    judge,
    spend,
    target,
)
from loomc_runner.converge import as_detector, first_reason, judgement_of
from loomc_runner.records import StepRecord
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import a_step

DETECTORS = {"sync": lambda fn: fn, "async": make_async}


@pytest.fixture(params=DETECTORS.values(), ids=DETECTORS)
def kind(request: pytest.FixtureRequest) -> Callable[[Any], Any]:
    """What makes a function sync, or async."""
    made: Callable[[Any], Any] = request.param
    return made


def history_of(*errors: str | None) -> list[StepRecord[Any]]:
    """As many steps, of which some have failed; the state of a step is its number."""
    return [a_step(n, error=error, read_state=lambda n: n) for n, error in enumerate(errors)]


def reason(detector: Any, history: list[StepRecord[Any]]) -> str | None:
    """What the detector says."""
    return asyncio.run(first_reason([as_detector(detector)], history))


def answering(*answers: Any) -> tuple[Callable[[Any], Any], list[Any]]:
    """A judge's function that gives these answers one after the other, and the states it was asked about."""
    left, asked = iter(answers), list[Any]()

    def approve(state: Any) -> Any:
        asked.append(state)
        return next(left)

    return approve, asked


# --- what is a yes, and what is a no

YES = [
    *("yes", "Yes", "YES", "yEs", "Yes.", "Yes!", "yes\n", " \n yes", "**Yes**", "*yes*", "_Yes_", "__YES__", "`yes`"),
    *('"Yes"', "'yes'", "\u201cYes\u201d", "\u2018yes.\u2019", "(yes)", "[Yes]", "# Yes", "**Yes.**", "Yes,", "YES:"),
]
NO = [yes.replace("yes", "no").replace("Yes", "No").replace("YES", "NO").replace("yEs", "nO") for yes in YES]
NEITHER: list[Any] = [
    *("", " ", ".", "**", "maybe", "nothing", "Nope", "nobody", "Yesterday", "yess", "yes1", "no_one", "not yet"),
    *("no-brainer, yes", "Note: yes", "The answer is yes", "I say no", "y", "n", "true", "1", "ja", "ok", "yes/no"),
    *("Yes or no?", "yes | no", "No / Yes", "NaN"),
    *(None, 1, 0, 1.0, b"yes", [], ["yes"], {"yes": True}, object(), (True, "because"), Ellipsis),
]


class bool_:
    """A bool of another library, such as numpy's."""

    def __init__(self, yes: bool) -> None:
        self.yes = yes

    def __bool__(self) -> bool:
        return self.yes

    def __repr__(self) -> str:
        return f"bool_({self.yes})"


@pytest.mark.parametrize("answer", [*YES, True, bool_(yes=True), Judgement(True)], ids=repr)
def test_a_yes_is_understood_however_it_is_written(answer: Any, kind: Callable[[Any], Any]) -> None:
    """With the marks that models put around it; and as a bool, also of another library."""
    approve, asked = answering(answer)
    assert reason(judge(kind(approve)), history_of(None)) == "judge(approve)"
    assert asked == [0]


@pytest.mark.parametrize("answer", [*NO, False, bool_(yes=False), Judgement(False), Judgement(False, "x")], ids=repr)
def test_a_no_is_understood_however_it_is_written(answer: Any, kind: Callable[[Any], Any]) -> None:
    """And stops nothing, whatever its reason."""
    approve, asked = answering(answer)
    assert reason(judge(kind(approve)), history_of(None)) is None
    assert asked == [0]


@pytest.mark.parametrize("answer", NEITHER, ids=lambda answer: repr(answer)[:20])
def test_any_other_answer_is_an_error(answer: Any, kind: Callable[[Any], Any]) -> None:
    """It says who has answered what, and what would have been understood."""
    approve, _ = answering(answer)
    with pytest.raises(JudgeError) as caught:
        reason(judge(kind(approve)), history_of(None))
    assert str(caught.value).startswith(
        f"judge(approve) answered {answer!r}, which is neither yes nor no; it must give "
    )
    assert isinstance(caught.value, LoomcError)


@pytest.mark.parametrize("length", [70, 10**6])
def test_an_error_shows_of_a_long_answer_its_beginning(length: int) -> None:
    """It stands in the record of the run."""
    approve, _ = answering("x" * length)
    with pytest.raises(JudgeError, match=r"answered 'x{70}") as caught:
        reason(judge(approve), history_of(None))
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ("**No**, because", "because"),
        ("yes - good", "good"),
        ("Yes \u2014 it reads well.", "it reads well."),
        ("YES:\n\n  It is short,\n  and clear.", "It is short, and clear."),
        ("\u201cYes\u201d. Fine", "Fine"),
        ("yes, but no more of it", "but no more of it"),
        ("No: yes would be too kind", "yes would be too kind"),
        ("Yes (mostly)", "(mostly)"),
    ],
)
def test_what_comes_after_the_word_is_the_reason(answer: str, words: str) -> None:
    """Without the marks between them, and on one line."""
    judgement = judgement_of(answer)
    assert judgement is not None
    assert judgement.reason == words


@given(st.text(max_size=40), st.sampled_from(["yes", "no"]))
def test_a_word_that_only_begins_like_one_is_neither(text: str, word: str) -> None:
    """The reason is always one line, and an answer is never both."""
    after = judgement_of(f"{word}{text}")
    if text[:1].isalnum():
        assert after is None
    if after is not None:
        assert after.yes is (word == "yes")
        assert after.reason == " ".join(after.reason.split())


@pytest.mark.parametrize("answer", ["Yes: it is short", Judgement(True, "it is\n short")], ids=["text", "judgement"])
def test_the_reason_stands_in_the_stop_reason(make: Maker, answer: Any) -> None:
    """After the name of the judge."""
    approve, _ = answering(False, answer)
    result = go(make(grow, converge_on=judge(approve)).run(Draft(), run_id="r1"))
    assert (result.status, result.stop_reason) == (RunStatus.COMPLETED, "converged: judge(approve): it is short")
    assert make.store.get_run("r1").stop_reason == result.stop_reason


def test_the_reason_is_told_with_those_of_other_detectors(kind: Callable[[Any], Any]) -> None:
    """In `all_of` too."""
    approve, _ = answering("Yes, fine")
    history = [a_step(0, score=1.0, best_n=0, read_state=lambda n: n)]
    assert reason(all_of(target(1), judge(kind(approve))), history) == (
        "target(1) reached with 1 and judge(approve): fine"
    )


# --- a judgement


def test_a_judgement_is_true_when_it_is_a_yes() -> None:
    """So that it can stand in an `if`; it compares and is copied by what it says."""
    assert Judgement(yes=True)
    assert not Judgement(yes=False, reason="no")
    assert Judgement(bool_(yes=True)) == Judgement(True, "")  # type: ignore[arg-type]
    assert deepcopy(Judgement(True, "a")) == pickle.loads(pickle.dumps(Judgement(True, "a"))) == Judgement(True, "a")


@pytest.mark.parametrize("yes", ["no", "yes", None, 0, 1, [], b"no"])
def test_a_judgement_is_a_yes_or_a_no(yes: Any) -> None:
    """The text "no" would be a yes for Python."""
    with pytest.raises(JudgeError, match=r"Judgement\(yes=.*\): give True or False"):
        Judgement(yes)


def test_a_judgement_is_kept_by_a_durable_call(make: Maker) -> None:
    """With its reason: it is not asked for again when the step is judged again."""
    asked: list[int] = []

    def ask(n: int) -> Judgement:
        asked.append(n)
        return Judgement(n == 2, "two is enough")

    result = go(make(grow, converge_on=judge(lambda draft: call(ask, draft.n))).run(Draft(), run_id="r1"))
    assert (result.stop_reason, asked) == ("converged: judge(<lambda>): two is enough", [1, 2])
    assert [known.result for known in make.store.calls("r1")] == [
        '{"yes":false,"reason":"two is enough"}',
        '{"yes":true,"reason":"two is enough"}',
    ]


# --- when it is asked


def test_a_judge_sees_the_newest_state_unless_the_step_failed(kind: Callable[[Any], Any]) -> None:
    """A judge costs money: it is asked about a state, and not about one that a failed step left as it was."""
    approve, asked = answering(False)
    detect = judge(kind(approve))
    for history in (history_of(), history_of(None, "ValueError: failed"), history_of(None, None)):
        assert reason(detect, history) is None
    assert asked == [1]


def test_a_dear_judge_is_asked_after_each_so_many_steps(kind: Callable[[Any], Any]) -> None:
    """By the number of the step; where that one failed it waits for the next turn."""
    approve, asked = answering(*[False] * 9)
    detect = judge(kind(approve), every=3)
    errors: list[str | None] = [None] * 5 + ["ValueError: failed"] + [None] * 6
    for length in range(len(errors) + 1):
        assert reason(detect, history_of(*errors[:length])) is None
    assert asked == [2, 8, 11]


def test_a_run_that_is_resumed_asks_as_one_that_was_not(make: Maker) -> None:
    """The judge keeps nothing between steps, and decides as if nothing had happened."""

    def made() -> tuple[Any, list[Any]]:
        approve, asked = answering(*[False] * 3, "yes: done")
        options: dict[str, Any] = {"budget": Budget(iterations=2), "converge_on": judge(approve, every=3)}
        return make(grow, **options), asked

    (whole, at_once), (parts, bit_by_bit) = made(), made()
    expected = go(whole.with_options(budget=Budget(iterations=20)).run(Draft(), run_id="whole"))
    go(parts.run(Draft(), run_id="parts"))
    for iterations in (5, 8, 11, 20):
        try:
            go(parts.resume("parts", budget=Budget(iterations=iterations)))
        except BudgetExhausted:
            continue
    assert [draft.n for draft in at_once] == [draft.n for draft in bit_by_bit] == [3, 6, 9, 12]
    run = make.store.get_run("parts")
    assert (run.status, run.steps, run.stop_reason) == (expected.status, expected.steps, expected.stop_reason)


# --- until so many agree

ASKED = [
    (1, [True], True),
    (1, [False], False),
    (2, [True, True], True),
    (2, [False, False], False),
    (2, [True, False, False], False),
    (2, [False, True, True], True),
    (2, ["yes", "no", "Yes: good"], True),
    (3, [True, False, True, False, False], False),
    (3, [True, True, True], True),
]


@pytest.mark.parametrize(("agree", "answers", "says"), ASKED)
def test_it_is_asked_until_so_many_agree(
    agree: int, answers: list[Any], says: bool, kind: Callable[[Any], Any]
) -> None:
    """And not once more."""
    approve, asked = answering(*answers)
    assert bool(reason(judge(kind(approve), agree=agree), history_of(None))) is says
    assert len(asked) == len(answers)


@given(st.integers(1, 6), st.lists(st.booleans(), min_size=11, max_size=11))
def test_it_is_never_asked_more_often_than_it_takes(agree: int, answers: list[bool]) -> None:
    """At most `2 * agree - 1` times; the answer that was given so often first is the one that counts."""
    approve, asked = answering(*answers)
    says = bool(reason(judge(approve, agree=agree), history_of(None)))
    counts = [answers[: len(asked)].count(each) for each in (True, False)]
    assert max(counts) == agree > min(counts)
    assert says is (counts[0] == agree)
    assert len(asked) <= 2 * agree - 1
    assert answers[len(asked) - 1] is says


def test_the_reason_is_that_of_the_last_answer(kind: Callable[[Any], Any]) -> None:
    """That one has settled it."""
    approve, _ = answering("yes: first", "no: second", "yes: third")
    assert reason(judge(kind(approve), agree=2), history_of(None)) == "judge(approve): third"


@pytest.mark.parametrize("before", [[], ["yes"], ["yes", "no"]], ids=len)
def test_one_answer_that_is_neither_is_an_error_whatever_the_others_say(
    before: list[str], kind: Callable[[Any], Any]
) -> None:
    """It is not left out, and not asked for again."""
    approve, asked = answering(*before, "perhaps", "yes", "yes")
    with pytest.raises(JudgeError, match="'perhaps'"):
        reason(judge(kind(approve), agree=2), history_of(None))
    assert len(asked) == len(before) + 1


def test_it_may_answer_at_once_at_one_time_and_later_at_another() -> None:
    """As a function does that finds some answers in a cache."""
    later: Iterable[bool] = itertools.cycle([True, False])

    def approve(state: Any) -> Any:
        return make_async(lambda: True)() if next(later) else True  # type: ignore[call-overload]

    assert reason(judge(approve, agree=3), history_of(None)) == "judge(approve)"


@pytest.mark.parametrize("option", ["every", "agree"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True, "2", None])
def test_how_often_is_a_whole_number(option: str, value: Any) -> None:
    """At least one."""
    with pytest.raises(SpecError, match=rf"judge\({option}={value!r}"):
        judge(size, **{option: value})


# --- in a run


def test_what_it_spends_is_charged_to_the_step_it_judges(make: Maker) -> None:
    """Each time that it is asked; it is what the money was for where it does not say so itself."""
    answers = iter(["no", "yes", "yes", "yes", "yes"])

    def approve(draft: Draft) -> str:
        spend(usd=0.10)
        return next(answers)

    options: dict[str, Any] = {"budget": Budget(usd=9, iterations=1), "converge_on": judge(approve, agree=2)}
    result = go(make(doing(lambda: spend(usd=0.01)), **options).run(Draft(), run_id="r1"))
    assert (result.status, result.cost_usd) == (RunStatus.COMPLETED, pytest.approx(0.31))
    assert columns(make.store.charges("r1"), "step_n", "label") == [(0, None), *[(0, "judge")] * 3]


def test_a_judge_that_cannot_pay_for_another_answer_ends_the_run(make: Maker) -> None:
    """The step is committed, and it is not asked more."""
    asked: list[int] = []

    def approve(draft: Draft) -> bool:
        asked.append(draft.n)
        spend(usd=0.60)
        return True

    options: dict[str, Any] = {"budget": Budget(usd=1), "converge_on": judge(approve, agree=3)}
    result = go(make(grow, **options).run(Draft(), run_id="r1"))
    assert (result.status, result.steps, asked) == (RunStatus.BUDGET_EXHAUSTED, 1, [1, 1])
    assert result.stop_reason == "budget: usd 1.20 of 1.00"


def test_a_failing_step_is_not_judged(make: Maker) -> None:
    """Nor is it when a strategy has absorbed it."""
    asked: list[int] = []

    def step(draft: Draft) -> Draft:
        if len(asked) == 1 and make.store.get_run("r1").steps == 1:
            raise ValueError("this one fails")
        return grow(draft)

    def approve(draft: Draft) -> bool:
        asked.append(draft.n)
        return draft.n == 2

    result = go(make(step, converge_on=judge(approve), backtrack=LastGood()).run(Draft(), run_id="r1"))
    assert (result.steps, asked) == (3, [1, 2])


def test_an_answer_that_is_neither_fails_the_run_and_loses_nothing(make: Maker) -> None:
    """The step it was asked about is committed with the error, its money and its score; a resume goes on behind it."""
    approve, asked = answering("no", "well...", "no", "yes")
    options: dict[str, Any] = {"converge_on": judge(approve), "scorer": size, "backtrack": [BestScore(), LastGood()]}
    refine = make(doing(lambda: spend(usd=0.1)), budget=Budget(usd=9), **options)
    with pytest.raises(JudgeError, match=r"judge\(approve\) answered 'well\.\.\.'") as caught:
        go(refine(Draft(), run_id="r1"))
    assert (caught.value.run_id, caught.value.state) == ("r1", Draft(2))
    run, steps = make.store.get_run("r1"), make.store.steps("r1")
    assert (run.status, run.steps, run.cost_usd) == (RunStatus.FAILED, 2, 0.2)
    assert run.stop_reason == f"failed: JudgeError: {caught.value}"
    assert columns(steps, "score", "cost_usd", "error") == [
        (1.0, 0.1, None),
        (2.0, 0.1, f"JudgeError: {caught.value}"),
    ]
    assert go(refine.resume("r1")) == Draft(4)
    assert [draft.n for draft in asked] == [1, 2, 3, 4]


def test_a_step_that_is_done_is_not_judged(make: Maker) -> None:
    """It has said so itself."""
    approve, asked = answering()
    result = go(make(lambda draft: Done(draft), converge_on=judge(approve)).run(Draft()))
    assert (result.status, asked) == (RunStatus.COMPLETED, [])


def test_what_a_judge_would_have_said_is_not_on_record(memory: MemoryStore) -> None:
    """`what_if` refuses it, alone and inside of others, however often it is to be asked."""
    refine = Maker(memory, is_async=False)(grow, converge_on=until(2))
    refine.run(Draft(), run_id="r1")
    for detector in (judge(bool), judge(bool, every=9), all_of(until(1), judge(bool, agree=2))):
        with pytest.raises(SpecError, match=r"judge\(bool\) asks a model.*the record does not tell its answers"):
            refine.what_if("r1", converge_on=detector)
