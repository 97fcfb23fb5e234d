"""The story of a run as data."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from contextvars import copy_context

import pytest
from driving import Draft, Maker, grow, scripted, size

from loomc_runner import (
    Approval,
    BestScore,
    Budget,
    Escalate,
    LastGood,
    Retry,
    ask,
    circuit_breaker,
    judge,
    spend,
    tool,
)
from loomc_runner.export import plain
from loomc_runner.report import story as story_of
from loomc_runner.report.explain import Best, Share, explain
from loomc_runner.store.memory import MemoryStore


@pytest.fixture
def make(memory: MemoryStore) -> Maker:
    """What makes sync loops in memory."""
    return Maker(memory, is_async=False)


def told(memory: MemoryStore, handle, run_id: str = "r"):
    """What there is to tell of a run of it."""
    with suppress(Exception):
        handle.run(Draft(), run_id=run_id)
    return explain(memory, memory.get_run(run_id))


@tool
def search(n: int) -> int:
    """A call that pays."""
    spend(usd=0.02, label="tokens")
    return n


def test_money_is_told_by_what_became_of_it_and_by_what_asked_for_it(memory, make):
    """The parts of the first add up to the whole; calls, children and labels tell the same money another way."""
    child = make(lambda draft: (spend(usd=0.25), grow(draft))[1], name="child", budget=Budget(iterations=1))
    failures = [TimeoutError("slow")]

    def step(draft: Draft) -> Draft:
        search(draft.n)
        spend(usd=0.5)
        if failures:
            raise failures.pop()
        child.run(Draft(draft.n))
        return grow(draft)

    story = told(memory, make(step, retry=Retry(attempts=2), budget=Budget(iterations=2)))
    assert story.spent_on == (Share("committed steps", 2, 1.52), Share("failed tries", 1, 0.52))
    assert story.spent_usd == pytest.approx(sum(share.usd for share in story.spent_on)) == 2.04
    search_calls, children, tokens, rest = story.sources
    assert search_calls == Share(f"calls of {search.__module__}.search", 2, 0.04)
    assert (children.name, children.count, children.usd) == ("child runs of child", 2, 0.5)
    assert (tokens, rest) == (Share("charges: tokens", 2, 0.04), Share("charges: no label", 3, 1.5))
    assert [(each.step_n, each.tries, each.error) for each in story.retried] == [(0, 1, "TimeoutError: slow")]


@pytest.mark.parametrize("role", ["scorer", "judge"])
def test_what_a_scorer_or_a_judge_pays_is_told_as_theirs(memory, make, role):
    """Money that is spent after the function has returned has the label of who asked for it."""

    def paying(draft: Draft) -> bool:
        spend(usd=0.01)
        return draft.n == 2

    options = {"scorer": paying} if role == "scorer" else {"converge_on": judge(paying)}
    story = told(memory, make(grow, budget=Budget(iterations=2), **options))
    assert story.sources == (Share(f"charges: {role}", 2, 0.02),)


def test_the_best_step_stands_beside_the_first_and_the_newest(memory, make):
    """And every return is told with where it went."""
    loop = make(scripted(1, 3, 2, 2.5), scorer=size, backtrack=BestScore(), budget=Budget(iterations=4))
    story = told(memory, loop)
    assert story.best == Best(1, 3, 0, 1, 3, 2)
    assert story.restores == ((2, 1), (3, 1))


def test_failures_that_were_absorbed_and_escalations_are_told(memory, make):
    """They are steps of the run, and no reason why it stopped."""
    left = [ValueError("no")]

    def step(draft: Draft) -> Draft:
        if left and draft.n == 1:
            raise left.pop()
        return Draft(1)

    stall = Escalate(after=2, handler=lambda state, _: state)
    options = {"scorer": size, "on_stall": stall, "backtrack": LastGood(2), "budget": Budget(iterations=5)}
    story = told(memory, make(step, **options))
    assert (story.absorbed, story.retried) == ((1,), ())
    assert story.escalations == (3,)


def test_questions_are_told_with_their_answers(memory, make):
    """Who was asked what, and what they said."""

    def step(draft: Draft) -> Draft:
        return grow(draft) if ask("Deploy?", Approval) else draft

    loop = make(step, budget=Budget(iterations=1))
    assert told(memory, loop).reason == "waiting: Deploy?"
    loop.answer("r", True, by="anna")
    story = told(memory, loop)
    (question,) = story.questions
    assert (question.answered_by, json.loads(question.answer or "")["approved"], len(story.left)) == ("anna", True, 1)


def test_a_breaker_that_opened_is_told(memory, make):
    """With the step in which it did."""

    @circuit_breaker(fail_threshold=1)
    def broken() -> None:
        raise OSError("down")

    def step(_draft: Draft) -> Draft:
        broken()
        return Draft()

    story = told(memory, make(step))
    assert [(change.state, change.step_n) for change in story.breakers] == [("open", 0)]


def test_a_story_is_plain_json(memory, make):
    """Its keys are the names of its fields."""
    loop = make(scripted(1, 2), scorer=size, budget=Budget(usd=1, iterations=2), cost_fn=lambda _: 0.25)
    parts = plain(told(memory, loop))
    assert json.loads(json.dumps(parts["best"])) == {
        "step_n": 1,
        "score": 2.0,
        "first_step": 0,
        "first_score": 1.0,
        "newest_step": 1,
        "newest_score": 2.0,
    }
    assert parts["spent_on"] == [{"name": "committed steps", "count": 2, "usd": 0.5, "failed": 0}]
    assert parts["limits"][0] == {"name": "usd", "used": 0.5, "limit": 1.0, "left": 0.5}


def test_a_try_that_somebody_stopped_is_no_failure(memory, make):
    """Ctrl-C ends a try, and what it had paid is told apart from that of failures."""

    def step(draft: Draft) -> Draft:
        spend(usd=0.5)
        raise KeyboardInterrupt

    loop = make(step, budget=Budget(usd=2))
    for again in (False, True):
        with suppress(KeyboardInterrupt):
            loop.resume("r") if again else loop.run(Draft(), run_id="r")
    story = explain(memory, memory.get_run("r"))
    assert (story.retried, [each.category for each in story.left]) == ((), ["interrupted"])
    assert story.spent_on[1:] == (Share("tries that were left", 1, 0.5), Share("the step under way", 1, 0.5))


def test_a_call_that_somebody_stopped_keeps_what_it_has_cost(memory, make):
    """Its row says so, though it has no result."""

    @tool(name="pay")
    def pay() -> None:
        spend(usd=0.5)
        raise KeyboardInterrupt

    def step(draft: Draft) -> Draft:
        pay()
        return grow(draft)

    with suppress(KeyboardInterrupt):
        make(step, budget=Budget(usd=2)).run(Draft(), run_id="r")
    assert explain(memory, memory.get_run("r")).sources[0] == Share("calls of pay", 1, 0.5, 1)


def test_money_that_came_late_is_a_line_of_its_own(memory, make):
    """What a thread spends after its step had ended belongs to no try, and is in the totals."""
    late, ended = [], threading.Event()

    def step(draft: Draft) -> Draft:
        context = copy_context()
        thread = threading.Thread(target=lambda: ended.wait(10) and context.run(spend, usd=0.07))
        late.append(thread)
        thread.start()
        return grow(draft)

    make(step, budget=Budget(iterations=1)).run(Draft(), run_id="r")
    ended.set()
    late[0].join()
    run = memory.get_run("r")
    newest = list(story_of(memory, run))[-1]
    assert (newest.total_usd, newest.marks) == (0.07, ("⧗ spent after its step had ended",))
    assert explain(memory, run).spent_on[-1] == Share("after their step had ended", 1, 0.07)
