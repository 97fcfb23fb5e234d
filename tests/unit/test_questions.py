"""A question to a person: the run waits, the answer is stored once, and nothing else gets past it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Annotated, Any
from uuid import UUID

import pytest
from driving import Draft, Maker, columns, dying, go, grow, pull, size, timed, until
from pydantic import AfterValidator, BaseModel, Field

from loomc_runner import (
    AnswerRefused,
    Approval,
    Budget,
    BudgetExhausted,
    Done,
    Escalate,
    LastGood,
    LoomcError,
    NotInStep,
    QuestionExpired,
    Retry,
    RunNotFound,
    RunStatus,
    SpecError,
    WaitingForAnswer,
    ask,
    judge,
    loop,
    spend,
    tool,
)
from loomc_runner.outside import ask_to_stop, find_question, give_answer
from loomc_runner.records import INITIAL, Control
from loomc_runner.store import Store
from loomc_runner.store.memory import MemoryStore
from loomc_runner.store.sqlite import SQLite
from loomc_runner.testing import AT, FakeClock

GO = "Go on?"


@dataclass
class Choice:
    """An answer that is a dataclass."""

    name: str
    weight: int = 1


class Plan(BaseModel):
    """An answer that is a model, with rules of its own."""

    steps: list[str]
    cost: float = Field(ge=0)


class Named(BaseModel):
    """An answer whose JSON has another name for its field."""

    kind: str = Field(alias="Kind")


def asking(draft: Draft) -> Draft:
    """Pay a cent, ask, and keep the answer."""
    spend(usd=0.01)
    return Draft(draft.n + 1, [*draft.words, ask(GO)])


def the_question(store: Store, run_id: str = "r1") -> Any:
    """The only question of a run."""
    (question,) = store.questions(run_id)
    return question


def standing(store: Store, run_id: str = "r1") -> tuple[RunStatus, str | None, int]:
    """Where a run is."""
    run = store.get_run(run_id)
    return run.status, run.stop_reason, run.steps


WAITS = (RunStatus.WAITING, f"waiting: {GO}", 0)


def wait_at_gate(refine: Any, run_id: str = "r1") -> WaitingForAnswer:
    """Run until it waits; what it says then."""
    with pytest.raises(WaitingForAnswer) as caught:
        go(refine(Draft(), run_id=run_id))
    return caught.value


# --- to wait


def test_a_run_that_asks_waits(make: Maker) -> None:
    """The call raises with the run, the question and its state; what was spent before the question stays spent."""
    refine = make(asking, converge_on=until(1), budget=Budget(usd=1))
    error = wait_at_gate(refine)
    assert (error.run_id, error.prompt, error.state) == ("r1", GO, Draft())
    assert "resume r1" in error.__notes__[0]
    run = make.store.get_run("r1")
    assert standing(make.store) == WAITS
    assert (run.owner, run.in_flight, run.cost_usd) == (None, None, 0.01)


def test_a_run_that_asks_gives_a_normal_result(make: Maker) -> None:
    """`run` tells how it stands and raises nothing."""
    result = go(make(asking).run(Draft(), run_id="r1"))
    assert (result.status, result.stop_reason, result.steps) == (*WAITS,)
    assert (result.state, result.cost_usd) == (Draft(), 0.01)


def test_a_stream_ends_where_the_run_asks(make: Maker) -> None:
    """The steps before it are given, and the result says that it waits; so does a stream of the run that waits."""

    def step(draft: Draft) -> Draft:
        return asking(draft) if draft.n == 1 else grow(draft)

    refine = make(step, converge_on=until(2))
    stream = refine.stream(Draft(), run_id="r1")
    assert columns(go(stream), "step_n") == [(0,)]
    assert (stream.result.status, stream.result.steps) == (RunStatus.WAITING, 1)
    again = refine.stream(run_id="r1")
    assert (go(again), again.result.status) == ([], RunStatus.WAITING)
    refine.answer("r1", "yes", by="anna")
    last = refine.stream(run_id="r1")
    assert columns(go(last), "step_n") == [(1,)]
    assert last.result.state == Draft(2, ["yes"])


def test_a_resume_without_an_answer_executes_nothing(make: Maker) -> None:
    """However often and in whatever way: the step does not run, and the run is as it was."""
    executed: list[int] = []

    def step(draft: Draft) -> Draft:
        executed.append(draft.n)
        return asking(draft)

    refine = make(step)
    wait_at_gate(refine)
    before = make.store.get_run("r1")
    for again in (lambda: refine.resume("r1"), lambda: refine(Draft(), run_id="r1")):
        with pytest.raises(WaitingForAnswer, match=r"Go on\?"):
            go(again())
    assert go(refine.run(Draft(), run_id="r1")).status is RunStatus.WAITING
    assert (executed, make.store.get_run("r1")) == ([0], before)


def test_an_answer_lets_the_run_go_on(make: Maker) -> None:
    """The step runs again, `ask` gives the answer, and the run ends; each pass is paid for."""
    refine = make(asking, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    assert standing(make.store) == WAITS  # an answer resumes nothing
    assert go(refine.resume("r1")) == Draft(1, ["yes"])
    assert make.store.get_run("r1").cost_usd == 0.02
    (attempt,) = make.store.attempts("r1")
    assert (attempt.step_n, attempt.error, attempt.category, attempt.nano_usd) == (
        0,
        f"waiting: {GO}",
        "waiting",
        10_000_000,
    )


def test_a_question_says_what_it_is(make: Maker) -> None:
    """What is stored before it is answered: where, what, since when, and what an answer looks like."""
    refine = timed(make(asking), FakeClock())
    wait_at_gate(refine)
    question = the_question(make.store)
    assert (question.run_id, question.step_n, question.seq, question.prompt) == ("r1", 0, 0, GO)
    assert (question.schema, question.asked_at, question.expires_at) == ({"type": "string"}, AT, None)
    assert (question.answer, question.answered_by, question.is_open) == (None, None, True)


def test_a_waiting_step_is_no_iteration(make: Maker) -> None:
    """A limit of one iteration holds the step back neither before nor after the answer."""
    refine = make(asking, budget=Budget(iterations=1), converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    assert go(refine.run(Draft(), run_id="r1")).steps == 1


def test_time_spent_waiting_for_a_person_does_not_count(make: Maker) -> None:
    """A day between question and answer is no working time."""
    clock = FakeClock()
    refine = timed(make(asking, budget=Budget(wall_clock="1m"), converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(86_400)
    refine.answer("r1", "yes", by="anna")
    assert go(refine.run(Draft(), run_id="r1")).elapsed == 0.0


# --- answers by type

GOOD = [
    pytest.param(str, "yes", "yes", id="str"),
    pytest.param(bool, False, False, id="bool"),
    pytest.param(Approval, Approval(False, "too dear", "anna"), Approval(False, "too dear", "anna"), id="approval"),
    pytest.param(Approval, {"approved": True}, Approval(True), id="approval as JSON"),
    pytest.param(Approval, True, Approval(True, by="anna"), id="yes for approval"),
    pytest.param(Approval, False, Approval(False, by="anna"), id="no for approval"),
    pytest.param(Choice, Choice("a", 2), Choice("a", 2), id="dataclass"),
    pytest.param(Choice, {"name": "a"}, Choice("a"), id="dataclass as JSON"),
    pytest.param(Plan, Plan(steps=["x"], cost=1), Plan(steps=["x"], cost=1), id="model"),
    pytest.param(Plan, {"steps": [], "cost": 0}, Plan(steps=[], cost=0), id="model as JSON"),
    pytest.param(list[int], [1, 2], [1, 2], id="list"),
    pytest.param(Named, Named(Kind="a"), Named(Kind="a"), id="alias"),
    pytest.param(Named, {"Kind": "a"}, Named(Kind="a"), id="alias as JSON"),
    pytest.param(datetime, AT, AT, id="moment"),
    pytest.param(datetime, "2026-01-01T00:00:00Z", AT, id="moment as JSON"),
    pytest.param(timedelta, timedelta(hours=2), timedelta(hours=2), id="duration"),
]

BAD = [
    pytest.param(str, 7, id="str"),
    pytest.param(str, None, id="nothing"),
    pytest.param(bool, "yes", id="bool"),
    pytest.param(bool, 1, id="number for bool"),
    pytest.param(Approval, "yes", id="text for approval"),
    pytest.param(Approval, {"note": "go"}, id="approval without its point"),
    pytest.param(Choice, {"name": "a", "weight": "heavy"}, id="dataclass"),
    pytest.param(Plan, {"steps": ["x"], "cost": -1}, id="model with a rule"),
    pytest.param(Plan, {"steps": "x", "cost": 1}, id="model"),
    pytest.param(list[int], [1, "2"], id="list"),
    pytest.param(datetime, "soon", id="moment"),
    pytest.param(date, "2026-13-01", id="day"),
    pytest.param(timedelta, "long", id="duration"),
    pytest.param(UUID, "nobody", id="uuid"),
]


def even(n: int) -> int:
    """A rule in Python."""
    if n % 2:
        raise ValueError("not even")
    return n


def asking_for(schema: Any) -> tuple[Callable[[Draft], Draft], list[Any]]:
    """A step that asks for an answer of a type, and the answers it got."""
    answers: list[Any] = []

    def step(draft: Draft) -> Draft:
        answers.append(ask(GO, schema))
        return grow(draft)

    return step, answers


@pytest.mark.parametrize(("schema", "given", "got"), GOOD)
def test_an_answer_comes_as_its_type(make: Maker, schema: Any, given: Any, got: Any) -> None:
    """It may be given as the type itself or as plain JSON, and `ask` gives it as the type."""
    step, answers = asking_for(schema)
    refine = make(step, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", given, by="anna")
    go(refine.resume("r1"))
    assert (answers, type(answers[0])) == ([got], type(got))


@pytest.mark.parametrize(("schema", "given"), BAD)
def test_an_answer_that_does_not_fit_is_refused(make_in_memory: Maker, schema: Any, given: Any) -> None:
    """The refusal names the question and its schema, and the question stays open."""
    refine = make_in_memory(asking_for(schema)[0])
    wait_at_gate(refine)
    with pytest.raises(AnswerRefused, match=r"does not answer 'Go on\?' of run r1: answer.*its schema is \{"):
        refine.answer("r1", given, by="anna")
    assert the_question(make_in_memory.store).is_open
    assert standing(make_in_memory.store) == WAITS


@pytest.mark.parametrize(
    ("schema", "given"),
    [(float, float("nan")), (list[float], [float("inf")]), (str, "half a \ud83d"), (int, 10**5000)],
    ids=["NaN", "infinity", "half a character", "a number too long"],
)
def test_an_answer_that_is_not_json_is_refused(make: Maker, schema: Any, given: Any) -> None:
    """What could be stored but not read back is refused, and the question stays open."""
    refine = make(asking_for(schema)[0])
    wait_at_gate(refine)
    with pytest.raises(AnswerRefused, match=r"does not answer 'Go on\?' of run r1"):
        refine.answer("r1", given, by="anna")
    assert the_question(make.store).is_open


def test_an_answer_that_breaks_a_rule_of_python_fails_its_step(make: Maker) -> None:
    """A rule that no JSON schema tells of is checked where the answer is read; the error says what is wrong."""
    refine = make(asking_for(Annotated[int, AfterValidator(even)])[0])
    wait_at_gate(refine)
    refine.answer("r1", 3, by="anna")
    with pytest.raises(AnswerRefused, match=r"3 does not answer 'Go on\?'.*not even"):
        go(refine.resume("r1"))
    assert make.store.get_run("r1").steps == 0


def test_an_approval_counts_as_its_yes_or_no() -> None:
    """A refusal with a note is false in an `if`."""
    assert Approval(True)
    assert not Approval(False, "yes, but no")


# --- once, by whom


def test_an_answer_is_stored_with_who_and_when(make: Maker) -> None:
    """The name and the moment stand beside the answer."""
    clock = FakeClock()
    refine = timed(make(asking, converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(60)
    refine.answer("r1", "ja, bitte: ü", by="anna")
    question = the_question(make.store)
    assert (question.answer, question.answered_by) == ('"ja, bitte: ü"', "anna")
    assert (question.answered_at - AT).total_seconds() == 60


def test_the_first_answer_counts(make: Maker) -> None:
    """A second one is refused and told who was faster, before and after the run has gone on."""
    refine = make(asking, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    with pytest.raises(AnswerRefused, match=r"no open question.*answered by anna"):
        refine.answer("r1", "no", by="bert")
    assert go(refine.resume("r1")).words == ["yes"]
    with pytest.raises(AnswerRefused, match="answered by anna"):
        refine.answer("r1", "no", by="bert")
    question = the_question(make.store)
    assert (question.answer, question.answered_by) == ('"yes"', "anna")


def test_of_two_who_answer_at_once_one_is_refused(store: Store) -> None:
    """Both had found the question open; only one answer is stored."""
    wait_at_gate(Maker(store, is_async=False)(asking))
    found = [find_question(store, "r1") for _ in range(8)]
    refused: list[AnswerRefused] = []

    def give(n: int) -> None:
        try:
            give_answer(store, found[n], [str(n)], f"person {n}", AT)
        except AnswerRefused as error:
            refused.append(error)

    threads = [threading.Thread(target=give, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    question = the_question(store)
    assert len(refused) == 7
    assert f"person {question.answer.strip(chr(34))}" == question.answered_by


@pytest.mark.parametrize("by", ["", " \n", None, 7])
def test_an_answer_says_whose_it_is(make_in_memory: Maker, by: Any) -> None:
    """Without a name it is refused, and the question stays open."""
    refine = make_in_memory(asking)
    wait_at_gate(refine)
    with pytest.raises(AnswerRefused, match="say who answers"):
        refine.answer("r1", "yes", by=by)
    assert the_question(make_in_memory.store).is_open
    with pytest.raises(TypeError):
        refine.answer("r1", "yes")


def test_a_run_that_asks_nothing_takes_no_answer(make: Maker) -> None:
    """Neither a run that never asked nor one that does not exist can be answered."""
    refine = make(grow, converge_on=until(1))
    go(refine(Draft(), run_id="r1"))
    with pytest.raises(AnswerRefused, match="run r1 has no open question"):
        refine.answer("r1", "yes", by="anna")
    with pytest.raises((AnswerRefused, RunNotFound), match="nobody"):
        refine.answer("nobody", "yes", by="anna")


# --- which question it is


def test_an_answer_to_an_older_question_is_refused(make: Maker) -> None:
    """A step that asks something else now has withdrawn what it asked before; only the new question can be answered."""
    prompts = ["Delete one file?", "Delete all files?"]

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [ask(prompts[0])])

    refine = make(step, converge_on=until(1))
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    old = find_question(make.store, "r1")
    ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, AT)
    prompts.pop(0)
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1", force=True))
    with pytest.raises(AnswerRefused, match="not open any more"):
        give_answer(make.store, old, ["yes"], "anna", AT)
    assert [(q.prompt, q.withdrawn, q.answer) for q in make.store.questions("r1")] == [
        ("Delete one file?", True, None),
        ("Delete all files?", False, None),
    ]
    with pytest.raises(AnswerRefused):
        refine.answer("r1", "yes", by="anna", question="0.0")
    refine.answer("r1", "sure", by="anna", question="0.1")
    assert go(refine.resume("r1")).words == ["sure"]


def test_an_answer_to_an_older_question_answers_no_other(make: Maker) -> None:
    """Answered in time, but the step asks something else by then: it still waits, for the new answer."""
    prompts = ["Delete one file?", "Delete all files?"]

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [ask(prompts[0])])

    refine = make(step, converge_on=until(1))
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    refine.answer("r1", "yes", by="anna")
    prompts.pop(0)
    with pytest.raises(WaitingForAnswer, match="all files"):
        go(refine.resume("r1"))
    assert standing(make.store)[::2] == (RunStatus.WAITING, 0)


def test_a_question_that_is_asked_again_after_all_can_be_answered(make: Maker) -> None:
    """A withdrawn question is open again once the step asks it again; it is still the same question."""
    prompts = ["One?", "Two?", "One?"]

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [ask(prompts[0])])

    refine = make(step, converge_on=until(1))
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    for _ in range(2):
        prompts.pop(0)
        ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, AT)
        with pytest.raises(WaitingForAnswer):
            go(refine.resume("r1", force=True))
    assert [(q.prompt, q.is_open) for q in make.store.questions("r1")] == [("One?", True), ("Two?", False)]
    refine.answer("r1", "yes", by="anna")
    assert go(refine.resume("r1")).words == ["yes"]


def test_another_schema_is_another_question(make: Maker) -> None:
    """A yes to a question does not answer the same words with another type."""
    types: list[Any] = [bool, Approval]

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [repr(ask(GO, types[0]))])

    refine = make(step, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", True, by="anna")
    types.pop(0)
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))


def test_each_step_asks_anew(make: Maker) -> None:
    """The answer to the question of one step does not answer the same words in the next."""
    refine = make(asking, converge_on=until(2))
    wait_at_gate(refine)
    refine.answer("r1", "one", by="anna")
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    assert standing(make.store) == (RunStatus.WAITING, f"waiting: {GO}", 1)
    refine.answer("r1", "two", by="anna")
    assert go(refine.resume("r1")).words == ["one", "two"]


def test_an_answered_question_outlives_a_retry(make: Maker) -> None:
    """A step that fails after its answer is tried again with the same answer."""
    failures = [ConnectionError()]

    def step(draft: Draft) -> Draft:
        word = ask(GO)
        if failures:
            raise failures.pop()
        return Draft(draft.n + 1, [word])

    refine = make(step, retry=Retry(wait=0), converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    assert (go(refine.resume("r1")).words, failures) == (["yes"], [])


# --- several questions in one step


def test_questions_one_after_the_other(make: Maker) -> None:
    """Each is asked once the one before is answered, also when their words are the same."""

    def step(draft: Draft) -> Draft:
        return Draft(1, [ask("Name?"), ask("Again?"), ask("Again?")])

    refine = make(step, converge_on=until(1))
    for n, word in enumerate(("a", "b", "c")):
        with pytest.raises(WaitingForAnswer):
            go(refine(Draft(), run_id="r1"))
        assert len(make.store.questions("r1")) == n + 1
        refine.answer("r1", word, by="anna")
    assert go(refine.resume("r1")).words == ["a", "b", "c"]


async def in_gather(*tasks: Any) -> list[Any]:
    """All at once, the first error ends it."""
    return await asyncio.gather(*tasks)


async def in_gather_with_errors(*tasks: Any) -> list[Any]:
    """All at once, errors among the results."""
    return await asyncio.gather(*tasks, return_exceptions=True)


async def in_group(*tasks: Any) -> list[Any]:
    """All at once in a TaskGroup."""
    async with asyncio.TaskGroup() as group:
        made = [group.create_task(task) for task in tasks]
    return [task.result() for task in made]


@pytest.mark.parametrize("together", [in_gather, in_gather_with_errors, in_group])
def test_questions_at_the_same_time(memory: MemoryStore, together: Any) -> None:
    """All of them are open at once, answered by their numbers, and the step waits for the last."""

    async def one(prompt: str) -> str:
        return ask(prompt)

    async def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, await together(*(one(f"{n}?") for n in range(3))))

    refine = loop(checkpoint=memory, converge_on=until(1))(step)
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    waiting = [q for q in memory.questions("r1") if q.is_open]
    with pytest.raises(AnswerRefused, match="more than one thing"):
        refine.answer("r1", "yes", by="anna")
    while waiting:
        question = waiting[-1]
        refine.answer("r1", f"to {question.prompt}", by="anna", question=f"0.{question.seq}")
        result = go(refine.run(Draft(), run_id="r1"))
        waiting = [q for q in memory.questions("r1") if q.is_open]
        assert result.status is (RunStatus.WAITING if waiting else RunStatus.COMPLETED)
    assert result.state == Draft(1, ["to 0?", "to 1?", "to 2?"])


def test_equal_questions_at_the_same_time_are_several(memory: MemoryStore) -> None:
    """Two that ask with the same words are two questions, and each gets its own answer."""

    async def one() -> str:
        return ask(GO)

    async def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, await in_gather_with_errors(one(), one()))

    refine = loop(checkpoint=memory, converge_on=until(1))(step)
    go(refine.run(Draft(), run_id="r1"))
    for word in ("a", "b"):
        refine.answer("r1", word, by="anna", question=f"0.{'ab'.index(word)}")
    assert go(refine.resume("r1")).words == ["a", "b"]


# --- what a step does not get past


def swallowing(draft: Draft) -> Draft:
    """Ask, and go on as if all were well."""
    with suppress(BaseException):
        ask(GO)
    return Draft(draft.n + 1, ["APPROVED"])


def swallowing_and_done(draft: Draft) -> Any:
    """Ask, and say that all is done."""
    return Done(swallowing(draft), result="APPROVED")


def swallowing_and_failing(draft: Draft) -> Draft:
    """Ask, and fail with something else."""
    swallowing(draft)
    raise ConnectionError("gone")


def swallowing_and_crossing(draft: Draft) -> Draft:
    """Ask, and spend more than there is."""
    swallowing(draft)
    spend(usd=9)
    return draft


SWALLOWERS = [swallowing, swallowing_and_done, swallowing_and_failing, swallowing_and_crossing]


@pytest.mark.parametrize("step", SWALLOWERS)
def test_a_step_that_swallows_its_question_is_not_committed(make: Maker, step: Any) -> None:
    """Whatever it returns or raises then, the run waits, and resuming does not help."""
    refine = make(step, retry=Retry(wait=0), backtrack=LastGood(), scorer=size, budget=Budget(usd=1))
    wait_at_gate(refine)
    assert standing(make.store) == WAITS
    with pytest.raises((WaitingForAnswer, BudgetExhausted)):
        go(refine.resume("r1"))
    assert standing(make.store) == WAITS
    assert (list(make.store.steps("r1")), the_question(make.store).is_open) == ([], True)


def test_a_step_that_swallows_has_its_answer_after_all(make: Maker) -> None:
    """Once it is answered the same step is committed."""
    refine = make(swallowing, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "no", by="anna")
    assert go(refine.resume("r1")) == Draft(1, ["APPROVED"])


@pytest.mark.parametrize("option", ["scorer", "cost_fn", "converge_on", "judge", "on_stall"])
def test_everybody_about_a_step_may_ask(make: Maker, option: str) -> None:
    """A question of the scorer, a detector, a judge or an escalation holds its step back until it is answered."""

    def asked(*_: Any) -> Any:
        word = ask(GO)
        return {"on_stall": Draft(9, [word]), "cost_fn": 0.25}.get(option, word == "yes")

    options: dict[str, Any] = {
        "on_stall": {"scorer": lambda _: 1, "on_stall": Escalate(1, asked)},
        "judge": {"converge_on": judge(asked)},
        "converge_on": {"converge_on": asked},
    }.get(option, {option: asked})
    refine = make(grow, **{"budget": Budget(iterations=3), "converge_on": until(10), **options})
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    steps = make.store.get_run("r1").steps
    for _ in range(2):
        assert go(refine.run(Draft(), run_id="r1")).status is RunStatus.WAITING
    assert make.store.get_run("r1").steps == steps
    refine.answer("r1", "yes", by="anna")
    go(refine.run(Draft(), run_id="r1"))
    assert make.store.get_run("r1").steps > steps


def test_a_strategy_does_not_absorb_a_question(make: Maker) -> None:
    """`LastGood` goes back after failures; to wait is none."""

    def step(draft: Draft) -> Draft:
        return asking(draft) if draft.n == 1 else grow(draft)

    refine = make(step, backtrack=LastGood(), scorer=size)
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    assert columns(make.store.steps("r1"), "step_n", "error") == [(0, None)]


def test_a_question_is_not_tried_again(make: Maker) -> None:
    """`Retry` waits for nobody: the step is left at once, and is asked once."""
    executed: list[int] = []

    def step(draft: Draft) -> Draft:
        executed.append(draft.n)
        return asking(draft)

    refine = make(step, retry=Retry(attempts=5, on=lambda _: True, wait="60s"))
    wait_at_gate(refine)
    assert (executed, len(make.store.questions("r1"))) == ([0], 1)


# --- in time


def expiring(default: Any = ...) -> tuple[Callable[[Draft], Draft], list[str]]:
    """A step with a question that is open for a minute; and what it got."""
    got: list[str] = []

    def step(draft: Draft) -> Draft:
        got.append(ask(GO, str, expires="1m", default=default) if default is not ... else ask(GO, expires="1m"))
        return grow(draft)

    return step, got


def test_a_default_counts_when_the_time_is_over(make: Maker) -> None:
    """Before that the run waits; after it a resume goes on with the default, and it stands there as the answer."""
    clock = FakeClock()
    step, got = expiring("nobody said no")
    refine = timed(make(step, converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(59.9)
    wait_at_gate(refine)
    clock.advance(0.1)
    assert go(refine.resume("r1")) == Draft(1)
    question = the_question(make.store)
    assert got == ["nobody said no"]
    assert (question.answer, question.answered_by, question.answered_at) == (
        '"nobody said no"',
        "default",
        clock.now(),
    )


def test_a_default_may_be_a_model(make: Maker) -> None:
    """It comes back as the model, also when its JSON has other names."""
    clock, got = FakeClock(), list[Named]()

    def step(draft: Draft) -> Draft:
        got.append(ask(GO, Named, expires=60, default=Named(Kind="a")))
        return grow(draft)

    refine = timed(make(step, converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(60)
    go(refine.resume("r1"))
    assert got == [Named(Kind="a")]


def test_a_question_that_nobody_answers_fails_its_step(make: Maker) -> None:
    """Without a default the step gets QuestionExpired, which it may handle; else the run has failed."""
    clock = FakeClock()
    refine = timed(make(expiring()[0], converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(60)
    with pytest.raises(QuestionExpired, match=r"Go on\? \(run r1\)"):
        go(refine.resume("r1"))
    assert standing(make.store)[0] is RunStatus.FAILED


def test_a_step_may_handle_that_nobody_answered(make: Maker) -> None:
    """It is an ordinary error inside the step."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        try:
            return Draft(1, [ask(GO, expires=60)])
        except QuestionExpired:
            return Draft(1, ["expired"])

    refine = timed(make(step, converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(60)
    assert go(refine.resume("r1")).words == ["expired"]


@pytest.mark.parametrize("default", [..., "no"])
def test_a_late_answer_is_refused(make: Maker, default: Any) -> None:
    """Once the time is over no answer is stored, whether the default has been taken by then or not."""
    clock = FakeClock()
    refine = timed(make(expiring(default)[0], converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(60)
    with pytest.raises(AnswerRefused, match="expired"):
        refine.answer("r1", "yes", by="anna")
    assert the_question(make.store).answer is None
    with suppress(QuestionExpired):
        go(refine.resume("r1"))
    with pytest.raises(AnswerRefused):
        refine.answer("r1", "yes", by="anna")


def test_an_answer_in_time_counts_also_later(make: Maker) -> None:
    """It was given before the end; that the run goes on after it changes nothing."""
    clock = FakeClock()
    step, got = expiring("no")
    refine = timed(make(step, converge_on=until(1)), clock)
    wait_at_gate(refine)
    clock.advance(59)
    refine.answer("r1", "yes", by="anna")
    clock.advance(600)
    go(refine.resume("r1"))
    assert got == ["yes"]


def test_the_time_runs_from_the_first_asking(make: Maker) -> None:
    """Asking again does not give the person more time."""
    clock = FakeClock()

    def step(draft: Draft) -> Draft:
        return Draft(1, [ask("First?"), ask(GO, expires="1m", default="no")])

    refine = timed(make(step, converge_on=until(1)), clock)
    with pytest.raises(WaitingForAnswer):
        go(refine(Draft(), run_id="r1"))
    refine.answer("r1", "a", by="anna")
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1"))
    clock.advance(40)
    ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, clock.now())
    with pytest.raises(WaitingForAnswer):
        go(refine.resume("r1", force=True))
    clock.advance(20)
    assert go(refine.resume("r1")).words == ["a", "no"]


# --- children


class Family:
    """A parent whose step calls a child that asks."""

    def __init__(self, store: Store, *, is_async: bool, step: Any = asking) -> None:
        self.store, self.executed = store, list[str]()
        make = Maker(store, is_async=is_async)
        self.child = make(step, name="child", converge_on=until(1))

        def sync_step(draft: Draft) -> Draft:
            self.executed.append("parent")
            return Draft(draft.n + 1, self.child(Draft()).words)

        async def async_step(draft: Draft) -> Draft:
            self.executed.append("parent")
            return Draft(draft.n + 1, (await self.child(Draft())).words)

        parent: Any = async_step if is_async else sync_step
        parent.__annotations__ = {"draft": Draft}
        self.parent = loop(name="parent", checkpoint=store, converge_on=until(1), budget=Budget(usd=1))(parent)


@pytest.fixture(params=["sync", "async"])
def family(request: pytest.FixtureRequest, store: Store) -> Family:
    """A parent and a child that asks, both sync or both async."""
    return Family(store, is_async=request.param == "async")


def test_a_parent_waits_with_its_child(family: Family) -> None:
    """The parent says whose question it is; both rows wait, and a resume of either executes nothing."""
    error = wait_at_gate(family.parent)
    assert (error.run_id, error.prompt) == ("r1", GO)
    assert standing(family.store) == WAITS
    assert standing(family.store, "r1.0.0") == WAITS
    wait_at_gate(family.parent)
    with pytest.raises(LoomcError, match=r"r1\.0\.0"):
        go(family.child.resume("r1.0.0"))
    assert family.executed == ["parent"]


def test_a_childs_question_is_answered_through_its_parent(family: Family) -> None:
    """Either id names it; then the parent's step and the child's go on to the end."""
    wait_at_gate(family.parent)
    family.parent.answer("r1", "yes", by="anna")
    assert go(family.parent.resume("r1")) == Draft(1, ["yes"])
    assert standing(family.store, "r1.0.0")[::2] == (RunStatus.COMPLETED, 1)
    assert family.store.subtree("r1")[0] == 20_000_000


def test_a_childs_question_is_answered_by_its_own_id(family: Family) -> None:
    """The child's id names it as well."""
    wait_at_gate(family.parent)
    family.parent.answer("r1.0.0", "yes", by="anna")
    assert go(family.parent.resume("r1")) == Draft(1, ["yes"])


def test_a_parent_that_swallows_its_childs_question_waits_all_the_same(memory: MemoryStore) -> None:
    """Nothing a parent does with the error of its child gets it past the question."""
    child = Maker(memory, is_async=False)(asking, name="child", converge_on=until(1))

    def step(draft: Draft) -> Draft:
        with suppress(BaseException):
            child(Draft())
        return Draft(draft.n + 1, ["APPROVED"])

    parent = Maker(memory, is_async=False)(step, name="parent", converge_on=until(1))
    for _ in range(2):
        wait_at_gate(parent)
    assert standing(memory) == WAITS


@pytest.mark.parametrize("how", ["run", "stream"])
def test_a_parent_that_runs_or_streams_its_child_waits_too(memory: MemoryStore, how: str) -> None:
    """A result or a stream that says `waiting` does not let the parent's step be committed."""
    make = Maker(memory, is_async=False)
    child = make(asking, name="child", converge_on=until(1))

    def step(draft: Draft) -> Draft:
        if how == "run":
            child.run(Draft())
        else:
            list(child.stream(Draft()))
        return Draft(draft.n + 1, ["APPROVED"])

    parent = make(step, name="parent", converge_on=until(1))
    for _ in range(2):
        wait_at_gate(parent)
    assert standing(memory) == WAITS


def test_a_grandchilds_question_is_answered_through_the_top(memory: MemoryStore) -> None:
    """Every level waits, and the answer lets all of them go on."""
    make = Maker(memory, is_async=False)
    inner = make(asking, name="inner", converge_on=until(1))
    middle = make(lambda draft: inner(Draft()), name="middle", converge_on=until(1))
    outer = make(lambda draft: middle(Draft()), name="outer", converge_on=until(1), budget=Budget(usd=1))
    wait_at_gate(outer)
    assert {run.status for run in memory.list_runs()} == {RunStatus.WAITING}
    wait_at_gate(outer)
    outer.answer("r1", "yes", by="anna")
    assert outer.resume("r1") == Draft(1, ["yes"])
    assert {run.status for run in memory.list_runs()} == {RunStatus.COMPLETED}


def test_a_childs_default_counts_when_the_time_is_over(memory: MemoryStore) -> None:
    """The parent waits until then, and goes on with the default when it is resumed."""
    clock, make = FakeClock(), Maker(memory, is_async=False)
    step, got = expiring("nobody said no")
    child = timed(make(step, name="child", converge_on=until(1)), clock)
    parent = timed(make(lambda draft: child(Draft()), name="parent", converge_on=until(1)), clock)
    wait_at_gate(parent)
    clock.advance(59)
    wait_at_gate(parent)
    clock.advance(1)
    assert (parent.resume("r1"), got) == (Draft(1), ["nobody said no"])


class Team:
    """A parent whose step maps a child over 0..3; the odd ones ask, the others take two steps."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.grown, self.barrier = store, list[int](), threading.Barrier(2)

        def act(draft: Draft) -> Draft:
            if draft.words[0] in {"1", "3"}:
                return Draft(2, [draft.words[0], ask(f"{draft.words[0]}?")])
            self.grown.append(draft.n)
            return grow(draft)

        self.child = Maker(store, is_async=is_async)(act, name="child", converge_on=until(2))
        states = [Draft(0, [str(n)]) for n in range(4)]

        def sync_step(draft: Draft) -> Draft:
            return Draft(1, [" ".join(done.words) for done in self.child.map(states)])

        async def async_step(draft: Draft) -> Draft:
            return Draft(1, [" ".join(done.words) for done in await self.child.map(states)])

        step: Any = async_step if is_async else sync_step
        step.__annotations__ = {"draft": Draft}
        self.parent = loop(name="parent", checkpoint=store, converge_on=until(1))(step)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_questions_asked_side_by_side(store: Store, is_async: bool) -> None:
    """Two children ask at once, their siblings run to their ends, and the parent waits for one answer after another."""
    team = Team(store, is_async=is_async)
    with pytest.raises(WaitingForAnswer):
        go(team.parent(Draft(), run_id="r1"))
    ends = {run.id: run.status for run in store.list_runs(parent="r1")}
    assert ends == {f"r1.0.{n}": (RunStatus.WAITING if n % 2 else RunStatus.COMPLETED) for n in range(4)}
    assert sorted(q.prompt for q in store.questions("r1")) == ["1?", "3?"]
    with pytest.raises(AnswerRefused, match="more than one thing"):
        team.parent.answer("r1", "x", by="anna")
    team.parent.answer("r1.0.3", "drei", by="anna")
    assert go(team.parent.run(Draft(), run_id="r1")).status is RunStatus.WAITING
    assert store.get_run("r1.0.3").status is RunStatus.COMPLETED
    team.parent.answer("r1", "eins", by="bert")
    assert go(team.parent.resume("r1")).words == ["0", "1 eins", "2", "3 drei"]
    assert sorted(team.grown) == [0, 0, 1, 1]


# --- what was done before


def test_calls_before_the_question_are_not_made_again(make: Maker) -> None:
    """A completed call gives its recorded result however often the step runs again."""
    made: list[str] = []

    @tool
    def send(what: str) -> str:
        made.append(what)
        spend(usd=0.1)
        return what.upper()

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [send("a"), ask("One?"), send("b"), ask("Two?"), send("c")])

    refine = make(step, converge_on=until(1), budget=Budget(usd=1))
    for word in ("yes", "no"):
        with pytest.raises(WaitingForAnswer):
            go(refine(Draft(), run_id="r1"))
        refine.answer("r1", word, by="anna")
    assert go(refine.resume("r1")).words == ["A", "yes", "B", "no", "C"]
    assert (made, make.store.get_run("r1").nano_usd) == (["a", "b", "c"], 300_000_000)


def test_a_question_inside_of_a_call(make: Maker) -> None:
    """A tool may ask; it runs again once it is answered, and is recorded then."""
    begun: list[str] = []

    @tool
    def deploy(what: str) -> str:
        begun.append(what)
        return f"{what}: {ask(GO)}"

    def step(draft: Draft) -> Draft:
        return Draft(draft.n + 1, [deploy("a")])

    refine = make(step, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    assert (go(refine.resume("r1")).words, begun) == (["a: yes"], ["a", "a"])


def test_a_question_inside_of_a_call_that_runs_once_is_refused(make: Maker) -> None:
    """It could not be answered without running the call twice."""

    @tool(once=True)
    def deploy() -> str:
        return ask(GO)

    refine = make(lambda draft: Draft(1, [deploy()]))
    with pytest.raises(SpecError, match="ask before the call"):
        go(refine(Draft(), run_id="r1"))
    assert list(make.store.questions("r1")) == []


def test_money_of_the_waiting_pass_stays_counted(make: Maker) -> None:
    """Every pass is paid for, and once the next does not fit the run is exhausted."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.4)
        return Draft(draft.n + 1, [ask("One?"), ask("Two?")])

    refine = make(step, budget=Budget(usd=1), converge_on=until(1))
    for _ in range(2):
        with pytest.raises(WaitingForAnswer):
            go(refine(Draft(), run_id="r1"))
        refine.answer("r1", "yes", by="anna")
    result = go(refine.run(Draft(), run_id="r1"))
    assert (result.status, result.cost_usd) == (RunStatus.BUDGET_EXHAUSTED, 0.8)  # another pass does not fit


# --- the gate under attack


class Gate:
    """A run that waits with 'Go on?', and what people try to get it past that."""

    def __init__(self, store: Store, *, is_async: bool) -> None:
        self.store, self.passed = store, list[str]()

        def step(draft: Draft) -> Draft:
            spend(usd=0.01)
            self.passed.append(ask(GO))
            return grow(draft)

        self.refine = Maker(store, is_async=is_async)(step, converge_on=until(1), budget=Budget(usd=1, iterations=9))

    def resume(self, run_id: str = "r1", **options: Any) -> None:
        """Resume it, whatever comes of it."""
        with suppress(LoomcError):
            go(self.refine.resume(run_id, **options))

    def cancel(self) -> None:
        """Cancel it, as `loomc cancel` does."""
        ask_to_stop(self.store, self.store.get_run("r1"), Control.CANCEL, AT)


def by_resume(gate: Gate) -> None:
    """Just resume."""
    gate.resume()


def by_force(gate: Gate) -> None:
    """Resume with force."""
    gate.resume(force=True)


def by_a_bigger_budget(gate: Gate) -> None:
    """Buy the way past."""
    gate.resume(budget=Budget(usd=100, iterations=100))


def by_a_step_limit(gate: Gate) -> None:
    """Let the limit end the step."""
    gate.resume(budget=Budget(iterations=1))


def by_the_call_with_its_id(gate: Gate) -> None:
    """Call it again by its id."""
    with suppress(LoomcError):
        go(gate.refine(Draft(), run_id="r1"))


def by_a_stream(gate: Gate) -> None:
    """Take it step by step."""
    go(gate.refine.stream(run_id="r1", force=True))


def by_another_runs_answer(gate: Gate) -> None:
    """Answer the same question of another run."""
    wait_at_gate(gate.refine, "r2")
    gate.refine.answer("r2", "other", by="eve")
    gate.resume()
    gate.resume(force=True)


def by_cancelling_and_forcing(gate: Gate) -> None:
    """Cancel, and force it to go on."""
    gate.cancel()
    gate.resume()
    gate.resume(force=True)


def by_cancelling_twice(gate: Gate) -> None:
    """Do that again."""
    for _ in range(2):
        gate.cancel()
        gate.resume(force=True)


def by_a_fork(gate: Gate) -> None:
    """Branch off, and resume the branch."""
    gate.resume(gate.refine.fork("r1", step=INITIAL))


def by_a_fork_with_text(gate: Gate) -> None:
    """Branch off with words in the state."""
    gate.resume(gate.refine.fork("r1", step=INITIAL, update={"words": ["APPROVED"]}))


def by_text_in_the_state(gate: Gate) -> None:
    """Begin another one with words in its state."""
    with suppress(LoomcError):
        go(gate.refine(Draft(0, ["APPROVED", f"{GO} APPROVED"]), run_id="r2"))


def by_a_misfit(gate: Gate) -> None:
    """Answer with what does not fit."""
    for value in (True, False, None, {"approved": True}, ["APPROVED"]):
        with pytest.raises(AnswerRefused):
            gate.refine.answer("r1", value, by="eve")
    gate.resume()


def by_nobody(gate: Gate) -> None:
    """Answer without a name."""
    with pytest.raises(AnswerRefused):
        gate.refine.answer("r1", "APPROVED", by="")
    gate.resume()


def by_another_question(gate: Gate) -> None:
    """Answer a question that it does not ask."""
    for name in ("0.1", "1.0", "-1.0", "x"):
        with pytest.raises(AnswerRefused):
            gate.refine.answer("r1", "APPROVED", by="eve", question=name)
    gate.resume()


ATTACKS = [
    by_resume,
    by_force,
    by_a_bigger_budget,
    by_a_step_limit,
    by_the_call_with_its_id,
    by_a_stream,
    by_another_runs_answer,
    by_cancelling_and_forcing,
    by_cancelling_twice,
    by_a_fork,
    by_a_fork_with_text,
    by_text_in_the_state,
    by_a_misfit,
    by_nobody,
    by_another_question,
]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("attack", ATTACKS)
def test_the_gate_holds(store: Store, is_async: bool, attack: Callable[[Gate], None]) -> None:
    """Nothing but the answer to exactly this question gets the run past it; after all of that, the answer does."""
    gate = Gate(store, is_async=is_async)
    wait_at_gate(gate.refine)
    attack(gate)
    assert (gate.passed, store.get_run("r1").steps, find_question(store, "r1").prompt) == ([], 0, GO)
    gate.refine.answer("r1", "anna says yes", by="anna")
    go(gate.refine.resume("r1", force=True))
    assert gate.passed == ["anna says yes"]


def test_the_gate_takes_no_second_answer(make: Maker) -> None:
    """The first answer said no; a later yes does not turn it round, also when the run is forced again."""
    refine = make(asking, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "no", by="anna")
    ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, AT)
    with pytest.raises(AnswerRefused):
        refine.answer("r1", "yes", by="eve")
    assert go(refine.resume("r1", force=True)).words == ["no"]


def test_the_gate_of_a_fork_is_its_own(make: Maker) -> None:
    """The answer to the first run does not answer its fork."""
    refine = make(asking, converge_on=until(1))
    wait_at_gate(refine)
    fork = refine.fork("r1", step=INITIAL)
    refine.answer("r1", "yes", by="anna")
    with pytest.raises(WaitingForAnswer) as caught:
        go(refine.resume(fork))
    assert caught.value.run_id == fork
    assert go(refine.resume("r1")).words == ["yes"]


def test_a_cancelled_run_does_not_wait(make: Maker) -> None:
    """Its question may still be answered, but nothing goes on without `force`."""
    refine = make(asking, converge_on=until(1))
    wait_at_gate(refine)
    run = ask_to_stop(make.store, make.store.get_run("r1"), Control.CANCEL, AT)
    assert (run.status, run.stop_reason) == (RunStatus.CANCELLED, "cancelled: by request")


# --- where and how one may ask


def test_a_question_needs_a_step() -> None:
    """Outside of one nobody could wait; the error says how threads take the step along."""
    with pytest.raises(NotInStep, match=r"ask\('Go on\?'\) was called where no step is running"):
        ask(GO)


def test_a_thread_of_its_own_has_no_question(make: Maker) -> None:
    """A thread that did not take the context along is refused, and the run does not wait."""
    errors: list[BaseException] = []

    def apart() -> None:
        try:
            ask(GO)
        except BaseException as error:
            errors.append(error)

    def step(draft: Draft) -> Draft:
        thread = threading.Thread(target=apart)
        thread.start()
        thread.join()
        return grow(draft)

    go(make(step, converge_on=until(1))(Draft()))
    assert [type(error) for error in errors] == [NotInStep]


@pytest.mark.parametrize(
    ("args", "options", "named"),
    [
        (("",), {}, "a question is a text"),
        ((" \t",), {}, "a question is a text"),
        ((None,), {}, "a question is a text"),
        ((b"Go?",), {}, "a question is a text"),
        ((GO, threading.Lock), {}, "schema="),
        ((GO, threading.Thread), {}, "schema="),
        ((GO, "nonsense"), {}, "schema="),
        ((GO, Callable[[], int]), {}, "schema="),
        ((GO,), {"expires": "soon"}, "soon"),
        ((GO,), {"expires": 0}, "0"),
        ((GO,), {"expires": -1}, "-1"),
        ((GO,), {"expires": True}, "True"),
        ((GO,), {"default": "no"}, "expires="),
        ((GO, str), {"expires": "1h", "default": 7}, "default="),
        ((GO, bool), {"expires": "1h", "default": "no"}, "default="),
    ],
)
def test_what_cannot_be_asked_is_refused(make_in_memory: Maker, args: Any, options: Any, named: str) -> None:
    """The error names what is wrong, and no question is stored."""
    refine = make_in_memory(lambda draft: Draft(1, [str(ask(*args, **options))]))
    with pytest.raises(LoomcError, match=named) as caught:
        go(refine(Draft(), run_id="r1"))
    assert isinstance(caught.value, SpecError)
    assert list(make_in_memory.store.questions("r1")) == []
    assert make_in_memory.store.get_run("r1").status is RunStatus.FAILED


def test_a_thread_that_takes_the_step_along_may_ask(memory: MemoryStore) -> None:
    """The error is lost with the thread, and the step waits all the same."""
    answers: list[str] = []

    def apart() -> None:
        with suppress(BaseException):
            answers.append(ask(GO))

    def step(draft: Draft) -> Draft:
        thread = threading.Thread(target=copy_context().run, args=(apart,))
        thread.start()
        thread.join()
        return grow(draft)

    refine = Maker(memory, is_async=False)(step, converge_on=until(1))
    wait_at_gate(refine)
    refine.answer("r1", "yes", by="anna")
    assert (refine.resume("r1"), answers) == (Draft(1), ["yes"])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_an_answer_comes_from_another_process(disk: SQLite) -> None:
    """It goes through the database; the process that asked need not be there any more."""
    path = disk.path

    def answering() -> None:
        make = Maker(SQLite(path), is_async=False)
        make(asking).answer("r1", "yes", by="anna")
        os.kill(os.getpid(), signal.SIGKILL)

    def asking_elsewhere() -> None:
        make = Maker(SQLite(path), is_async=False)
        make(asking).run(Draft(), run_id="r1")
        os.kill(os.getpid(), signal.SIGKILL)

    assert [dying(asking_elsewhere), dying(answering)] == [signal.SIGKILL] * 2
    assert Maker(disk, is_async=False)(asking, converge_on=until(1)).resume("r1").words == ["yes"]


def test_a_stream_is_pulled_to_its_question(make: Maker) -> None:
    """The stream gives the steps before the question one by one, and then ends without an error."""

    async def read() -> list[int]:
        stream = make(lambda draft: asking(draft) if draft.n == 2 else grow(draft)).stream(Draft(), run_id="r1")
        seen = [(await pull(stream)).step_n for _ in range(2)]
        with pytest.raises(StopAsyncIteration):
            await pull(stream)
        return seen

    assert asyncio.run(read()) == [0, 1]
    assert standing(make.store) == (RunStatus.WAITING, f"waiting: {GO}", 2)


def test_an_answer_given_while_the_step_still_works_counts(make: Maker) -> None:
    """A person may be faster than the step that swallowed its question and asks again."""

    def step(draft: Draft) -> Draft:
        with suppress(BaseException):
            ask(GO)
        if not draft.words and not make.store.get_run("r1").resumes:
            give_answer(make.store, find_question(make.store, "r1"), ["fast"], "anna", AT)
        return Draft(draft.n + 1, [ask(GO)])

    refine = make(step, converge_on=until(1))
    wait_at_gate(refine)  # the second is another question
    refine.answer("r1", "slow", by="anna")
    assert go(refine.resume("r1")).words == ["slow"]
