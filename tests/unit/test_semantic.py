"""A text that says the same as before has settled."""

from __future__ import annotations

import asyncio
import math
import sys
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from driving import Draft, Maker, go, make_async, size
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from loomc_runner import BestScore, Budget, LastGood, SpecError, all_of, loop, semantic_delta, spend, target
from loomc_runner.converge import first_reason
from loomc_runner.converge.embedding import CHARACTERS, GivenEmbedder, passages
from loomc_runner.converge.text import text_of
from loomc_runner.records import StepRecord
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import a_step


def facing(texts: list[str]) -> list[list[float]]:
    """Embed texts that are angles: 10 degrees apart is a distance of 0.015, 20 are 0.06, 180 are 2."""
    return [[math.cos(math.radians(float(text))), math.sin(math.radians(float(text)))] for text in texts]


def lettered(texts: list[str]) -> list[list[int]]:
    """Embed texts by how often each letter is in them, the space included."""
    return [[text.lower().count(letter) for letter in " abcdefghijklmnopqrstuvwxyz.,"] for text in texts]


class Asked:
    """An embedder that keeps the lists of texts it was asked about."""

    def __init__(self, embed: Any = facing) -> None:
        self.embed, self.lists = embed, list[list[str]]()

    def __call__(self, texts: list[str]) -> Any:
        """What the embedder says."""
        self.lists.append(texts)
        return self.embed(texts)


class Raising:
    """An embedder that must not be asked."""

    def __call__(self, texts: list[str]) -> Any:
        """Fail the test."""
        raise AssertionError(f"asked about {texts}")


def history_of(texts: Sequence[Any], **steps: dict[int, Any]) -> list[StepRecord[Any]]:
    """The steps of a run with these states; `error`, `decision` and `parent_n` are given by number of step."""

    def read(n: int) -> Any:
        assert n >= 0, "the initial state is no result"
        return texts[n]

    fields = [{name: values[n] for name, values in steps.items() if n in values} for n in range(len(texts))]
    return [a_step(n, read_state=read, **fields[n]) for n in range(len(texts))]


def ask(detector: Any, history: Sequence[StepRecord[Any]]) -> str | None:
    """What the detector says."""
    return asyncio.run(first_reason([detector], history))


SAME = "semantic_delta(threshold=0.05): "
TWICE = "semantic_delta(threshold=0.05, patience=2): "


@pytest.mark.parametrize(
    ("patience", "texts", "reason"),
    [
        (1, [], None),
        (1, ["0"], None),
        (1, ["0", "30"], None),
        (1, ["0", "10"], SAME + "0.015"),
        (1, ["0", "18"], SAME + "0.049"),
        (1, ["0", "18.194"], SAME + "0.049995"),  # in as many digits as it takes to be below
        (1, ["0", "18.195"], None),
        (1, ["0", "90", "91"], SAME + "0.00015"),
        (1, ["0", "1", "90"], None),
        (1, ["0", "0"], SAME + "0"),
        (2, ["0", "10"], None),
        (2, ["0", "10", "20"], TWICE + "0.015 at most"),
        (2, ["0", "1", "15"], TWICE + "0.03 at most"),
        (2, ["0", "90", "91"], None),
        (2, ["0", "90", "91", "91"], TWICE + "0.00015 at most"),
        (2, ["0", "1", "90", "91"], None),
    ],
)
def test_a_text_that_stays_near_the_one_before_stops_the_loop(patience, texts, reason):
    """The distance of so many results in a row, each from the one before, is below the threshold."""
    assert ask(semantic_delta(patience=patience, embed=facing), history_of(texts)) == reason


@pytest.mark.parametrize(
    ("threshold", "texts", "reason"),
    [
        (2, ["0", "179"], "semantic_delta(threshold=2): 1.9998"),
        (2, ["0", "180"], None),
        (1, ["0", " "], None),
        (1.5, ["0", " "], "semantic_delta(threshold=1.5): 1"),
        (1e-9, ["0", "0"], "semantic_delta(threshold=1e-09): 0"),
    ],
)
def test_the_threshold_is_a_cosine_distance(threshold, texts, reason):
    """It goes from 0 for the same direction to 2 for the opposite one; a distance must be below it."""
    assert ask(semantic_delta(threshold, embed=facing), history_of(texts)) == reason


@pytest.mark.parametrize(
    ("texts", "settled"),
    [
        (["so", "so"], True),
        (["", ""], True),
        (["", " \n"], True),
        (["", "so"], False),
        (["so", "\t"], False),
        (["so " * 5000, "so " * 5000], True),
    ],
)
def test_the_same_text_and_no_text_need_no_model(texts, settled):
    """Nothing has changed in the one, and everything in the other."""
    assert (ask(semantic_delta(embed=Raising()), history_of(texts)) is not None) == settled
    assert (ask(semantic_delta(model_name="no such model"), history_of(texts)) is not None) == settled


AWAY = {2: "ConnectionError: away"}


@pytest.mark.parametrize(
    ("texts", "steps", "settled"),
    [
        (["0", "90", "0", "91"], {"error": AWAY, "decision": {2: "restore 1"}, "parent_n": {3: 1}}, True),
        (["0", "90", "90", "0"], {"error": AWAY, "decision": {2: "restore 1"}, "parent_n": {3: 1}}, False),
        (["0", "90", "0", "91"], {"error": AWAY}, True),  # a scorer failed, and the run went on from there by resume
        (["0", "90", "91"], {"error": AWAY}, False),
        (["0", "90", "180", "91"], {"decision": {2: "restore 1"}, "parent_n": {3: 1}}, True),
        (["0", "90", "180", "179"], {"decision": {2: "restore 1"}, "parent_n": {3: 1}}, False),
        (["0", "90", "180", "1"], {"decision": {2: "restore 0"}, "parent_n": {3: 0}}, True),
        (["0", "1"], {"decision": {0: "restore -1"}, "parent_n": {1: -1}}, False),
        (["0", "90", "91"], {"decision": {2: "restore 0"}}, False),
        (["0", "90", "91"], {"decision": {2: "stop"}}, True),
        (["0", "90", "180", "90"], {"decision": {2: "restore 1", 3: "escalate"}, "parent_n": {3: 1}}, True),
    ],
)
def test_a_result_is_compared_with_the_one_its_step_started_from(texts, steps, settled):
    """Results that a run went back from, and those of failed steps, are not compared; nor is the initial state."""
    assert (ask(semantic_delta(embed=facing), history_of(texts, **steps)) is not None) == settled


def test_patience_counts_along_the_lineage():
    """What was gone back from neither counts nor breaks the row."""
    went_back = {"decision": {1: "restore 0", 3: "restore 2"}, "parent_n": {2: 0, 4: 2}}
    history = history_of(["0", "90", "5", "180", "10"], **went_back)
    assert ask(semantic_delta(patience=2, embed=facing), history) == TWICE + "0.0038 at most"
    assert ask(semantic_delta(patience=3, embed=facing), history) is None


def test_no_more_is_read_and_asked_than_decides():
    """The newest pair is asked about first; a history that is too short is not asked about, and no text twice."""
    asked = Asked()
    detect = semantic_delta(patience=3, embed=asked)
    read: list[int] = []
    texts = ["7", "0", "90", "91", "92", "93"]
    history = [a_step(n, read_state=lambda n: (read.append(n), texts[n])[1]) for n in range(6)]
    assert [detect(history[:length]) for length in range(1, 6)] == [None] * 5
    assert asked.lists == [["90", "91"], ["0"], ["91", "92"], ["90"], ["0"]]
    asked.lists.clear()
    read.clear()
    assert ask(detect, history) is not None
    assert asked.lists == [["92", "93"], ["91"], ["90"]]
    assert read == [5, 4, 3, 2]


def test_it_keeps_nothing_between_questions():
    """Asked in any order, and twice, it answers the same."""
    detect = semantic_delta(patience=2, embed=facing)
    histories = [history_of(["0", "90", "91", "92", "0"][:n]) for n in range(1, 6)]
    answers = [ask(detect, history) for history in histories]
    assert [ask(detect, history) for history in reversed(histories)] == answers[::-1]
    assert [answer is not None for answer in answers] == [False, False, False, True, False]


@dataclass
class Page:
    title: str
    body: str
    number: int = 0


class Report(BaseModel):
    model_config = ConfigDict(extra="allow")
    title: str
    pages: list[Page] = []
    done: bool = False


class Pair(NamedTuple):
    question: str
    answer: str | None


@dataclass
class Nothing:
    count: int = 3
    names: list[str] = field(default_factory=list)


@pytest.mark.parametrize(
    ("state", "text"),
    [
        ("as it is\n", "as it is\n"),
        ("", ""),
        ({"text": "one", "n": 3, "more": ["two", {"deep": "three"}], "none": None}, "one\ntwo\nthree"),
        (["b", "a"], "b\na"),
        ({"names": {"b", "c", "a"}}, "a\nb\nc"),
        (Page("Tides", "Twice a day.", 4), "Tides\nTwice a day."),
        (Report(title="Sea", pages=[Page("Tides", "Twice a day.")], note="draft"), "Sea\nTides\nTwice a day.\ndraft"),
        (Pair("Why?", None), "Why?"),
    ],
)
def test_the_text_of_a_state_is_all_the_strings_in_it(state, text):
    """Names of fields, numbers and flags say nothing, and would change the distance."""
    assert text_of(state) == text


@pytest.mark.parametrize("state", [3, None, [], {}, {"n": 1}, Nothing(), b"bytes"])
def test_a_state_without_text_is_an_error(state):
    """Nothing compared with nothing would end the loop at its second step."""
    with pytest.raises(SpecError, match=r"there is no text in the state .*; add text_fn="):
        ask(semantic_delta(embed=facing), history_of([state, state]))


def test_text_fn_chooses_the_text():
    """What else is in the state makes no difference."""
    pages = [Page("0", "0"), Page("180", "1"), Page("0", "2")]
    assert ask(semantic_delta(text_fn=lambda page: page.body, embed=facing), history_of(pages)) == SAME + "0.00015"


@pytest.mark.parametrize("text", [None, 3, ["a"], b"a"])
def test_a_text_fn_that_gives_no_string_is_an_error(text):
    """It names what was given."""

    def body(state: Any) -> Any:
        return text

    with pytest.raises(SpecError, match=r"text_fn=body\): give the text as a string, not ") as caught:
        ask(semantic_delta(text_fn=body, embed=facing), history_of(["a", "b"]))
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("given_vectors", "complaint"),
    [
        ([[1.0]], "one vector for each of 2 texts, not 1 of them"),
        ([[1.0]] * 3, "one vector for each of 2 texts, not 3 of them"),
        (None, "one vector for each of 2 texts, not None"),
        (1.5, "one vector for each of 2 texts, not 1.5"),
        ("ab", "one vector for each of 2 texts, not 'ab'"),
        ({"data": [1], "model": 2}, "for 'old' it is 'data'"),
        ([1.0, 2.0], "for 'old' it is 1.0"),
        ([[1.0, math.nan], [1.0, 1.0]], r"finite numbers; for 'old' it is \[1.0, nan\]"),
        ([[1.0, 1.0], [math.inf, 1.0]], r"finite numbers; for 'new' it is \[inf, 1.0\]"),
        ([["1.0"], ["1.0"]], r"finite numbers; for 'old' it is \['1.0'\]"),
        ([[[1.0]], [[1.0]]], r"finite numbers; for 'old' it is \[\[1.0\]\]"),
        ([[], []], r"finite numbers; for 'old' it is \[\]"),
        ([[1.0, 0.0], [0.0, 0.0]], "the vector for 'new' has the length 0.0, so no direction"),
        ([[1.7e308, 1.7e308], [1.0, 1.0]], "the vector for 'old' has the length inf"),
        ([[1.0, 2.0], [1.0, 2.0, 3.0]], "one vector has 2 numbers, and another 3"),
    ],
)
def test_vectors_that_are_none_are_an_error(given_vectors, complaint):
    """A wrong distance would stop the loop, or never, and nobody would know why."""

    def fetch(texts: list[str]) -> Any:
        return given_vectors

    with pytest.raises(SpecError, match=rf"semantic_delta\(embed=fetch\): .*{complaint}"):
        ask(semantic_delta(embed=fetch), history_of(["old", "new"]))


@pytest.mark.parametrize(
    "shape",
    [
        lambda vectors: vectors,
        tuple,
        iter,
        lambda vectors: [tuple(vector) for vector in vectors],
        lambda vectors: [array("f", vector) for vector in vectors],
        lambda vectors: [[round(1000 * number) for number in vector] for vector in vectors],
        lambda vectors: [[1e-300 * number for number in vector] for vector in vectors],
        lambda vectors: [[1e300 * number for number in vector] for vector in vectors],
    ],
)
def test_vectors_may_be_of_any_kind_and_length(shape):
    """Lists, tuples and arrays of numbers; only their directions count."""
    reason = ask(semantic_delta(embed=lambda texts: shape(facing(texts))), history_of(["0", "10"]))
    assert reason == SAME + "0.015"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"threshold": 0}, r"threshold=0\): give a number above 0, at most 2"),
        ({"threshold": -0.1}, r"threshold=-0.1\)"),
        ({"threshold": 2.1}, r"threshold=2.1\)"),
        ({"threshold": math.nan}, "threshold=nan"),
        ({"threshold": True}, "threshold=True"),
        ({"threshold": "0.05"}, "threshold='0.05'"),
        ({"patience": 0}, "patience=0"),
        ({"patience": 1.0}, "patience=1.0"),
        ({"text_fn": "text"}, r"text_fn='text'\): give a plain function of the state"),
        ({"text_fn": make_async(str)}, "give a plain function of the state"),
        ({"model_name": None}, r"model_name=None\): give a name, or the path of a folder"),
        ({"model_name": " "}, "model_name=' '"),
        ({"embed": [0.1]}, r"embed=\[0.1\]\): give a function of a list of texts"),
    ],
)
def test_values_that_cannot_work_are_refused_when_it_is_made(options, complaint):
    """The message names the value and what to give."""
    with pytest.raises(SpecError, match=rf"semantic_delta\(.*{complaint}"):
        semantic_delta(**options)


def test_without_the_package_the_error_says_what_to_install(monkeypatch):
    """So it does before a run, when the model is loaded on purpose."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)  # as Python marks what cannot be imported
    detect = semantic_delta(model_name="a model that no test has loaded")
    for fails in (detect.load, lambda: ask(detect, history_of(["old", "new"]))):
        with pytest.raises(SpecError, match=r'pip install "loomc-runner\[embeddings\]", or give .* embed='):
            fails()
    semantic_delta(embed=facing).load()


SENTENCES = [f"Sentence {n} says that {n * n} is the square of {n}." for n in range(200)]
LONG = " ".join(SENTENCES)
EMBEDDER = GivenEmbedder("letters", lettered)


@pytest.mark.parametrize("place", [0, 100, 199])
def test_a_change_anywhere_in_a_long_text_is_seen(place):
    """It is compared with what is around it, as in a short text, and the rest is not asked about."""
    asked = Asked(lettered)
    changed = [*SENTENCES]
    changed[place] = "Quite zany jazz quiz buzz; vexed hazy wizards quizzed a fuzzy lynx."
    assert ask(semantic_delta(0.001, embed=asked), history_of([LONG, " ".join(changed)])) is None
    (texts,) = asked.lists
    assert len(texts) == 2
    assert all(500 < len(text) <= CHARACTERS for text in texts)
    assert ask(semantic_delta(0.001, embed=lettered), history_of([LONG, LONG.replace("100 is", "100, is")])) is not None


@pytest.mark.parametrize("more", ["Now. ", "x" * 500 + ". ", "y" * 3000, "", "z " * 300])
def test_one_more_passage_moves_no_cut_elsewhere(more):
    """Passages after it are the same, and those that differ hold the change."""
    pairs = passages(LONG, LONG[:3000] + more + LONG[3000:], EMBEDDER)
    assert len(pairs) <= len(more) // 900 + 1
    assert all(max(map(len, pair)) <= CHARACTERS for pair in pairs)


WORDS = st.lists(st.sampled_from(["so", "tide", "moon.", "sea, ", "\n", "潮汐。", "x" * 45, "it is", ""]), max_size=60)


@given(WORDS, WORDS, WORDS, st.integers(1, 12), st.integers(40, 200))
def test_passages_fit_and_hold_what_differs(start, one, other, times, limit):
    """No passage is too long, none is the same in both texts, and no word that only one text has is left out."""
    old, new = " ".join([*start, *one] * times), " ".join([*start, *other] * times)
    pairs = passages(old, new, GivenEmbedder("any", lettered, limit))
    assert all(len(text) <= limit for pair in pairs for text in pair) or pairs == [(old, new)]
    assert len(old) > limit or len(new) > limit or pairs == [(old, new)]
    for mine, others, side in ((old, new, 0), (new, old, 1)):
        only = set(mine.split()) - set(others.split())
        shown = "".join(pair[side] for pair in pairs)
        assert all(word in shown for word in only if len(word) <= 20)


def test_a_text_that_was_written_anew_is_asked_about_only_until_it_tells():
    """An embedder gets the first passage of both; when they differ, the rest decides nothing."""
    asked = Asked(lettered)
    text = "Quite zany jazz quiz buzz. " * 2000
    assert ask(semantic_delta(embed=asked), history_of([LONG * 5, text])) is None
    assert list(map(len, asked.lists)) == [2]


def test_a_text_in_which_little_changes_everywhere_settles():
    """Each passage is compared with its counterpart, all of them, in questions that grow to 32 texts."""
    asked = Asked(lettered)
    old = LONG * 5
    assert ask(semantic_delta(embed=asked), history_of([old, old.replace(" is", ", is")])) is not None
    assert list(map(len, asked.lists))[:6] == [2, 4, 8, 16, 32, 32]


ANGLES = [0, 90, 140, 170, 180, 185, 187, 188, 188]
"""Nine results, as angles; 185 is the first within a distance of 0.01 of the one before."""


def turn(draft: Draft) -> Draft:
    """The step that gives the next result."""
    return Draft(draft.n + 1, [str(ANGLES[draft.n])])


@pytest.mark.parametrize(("patience", "steps"), [(1, 6), (2, 7), (3, 8)])
def test_a_loop_ends_when_its_text_settles(make, patience, steps):
    """Sync and async, in memory and on disk; the reason tells the distance."""
    refine = make(turn, converge_on=semantic_delta(0.01, patience=patience, embed=facing))
    result = go(refine.run(Draft()))
    assert (result.status, result.steps) == ("completed", steps)
    assert result.stop_reason.startswith("converged: semantic_delta(threshold=0.01")
    assert ": 0.0038" in result.stop_reason


@pytest.mark.parametrize("at", range(1, 8))
def test_a_resumed_run_stops_where_an_undisturbed_one_does(make, at):
    """Wherever the run was cut off, the detector reads what it needs from the record."""
    refine = make(turn, converge_on=semantic_delta(0.01, patience=3, embed=facing), budget=Budget(iterations=at))
    run = go(refine.run(Draft()))
    assert run.steps == at
    result = go(refine.resume(run.run_id, budget=Budget(iterations=9)))
    assert (result.n, go(refine.resume(run.run_id)).n) == (8, 8)
    assert refine.spec.checkpoint.get_run(run.run_id).stop_reason.endswith("patience=3): 0.0038 at most")


def test_an_async_embedder_is_awaited_on_async_loops(memory):
    """Also inside `all_of`, and when several comparisons are made."""
    embed = make_async(facing)
    both = all_of(semantic_delta(0.01, patience=3, embed=embed), target(1))
    refine = Maker(memory, is_async=True)(turn, converge_on=both, scorer=size)
    result = go(refine.run(Draft()))
    assert (result.steps, result.status) == (8, "completed")
    assert "0.0038 at most and target(1) reached with 8" in result.stop_reason


class AwaitableEmbedder:
    async def __call__(self, texts: list[str]) -> list[list[float]]:
        """Embed the texts after a moment."""
        await asyncio.sleep(0)
        return facing(texts)


@pytest.mark.parametrize("embed", [make_async(facing), AwaitableEmbedder()])
@pytest.mark.parametrize("wrap", [lambda detect: detect, lambda detect: all_of(detect, target(1))])
def test_an_async_embedder_is_refused_by_sync_loops(memory, embed, wrap):
    """When the loop is declared, and not when its second step was paid for."""
    with pytest.raises(SpecError, match="is async, but the loop turn is not"):
        loop(checkpoint=memory, converge_on=wrap(semantic_delta(embed=embed)), scorer=size)(turn)


def test_a_run_that_goes_back_compares_what_it_kept(make):
    """With `BestScore` a worse result is dropped, and the next is compared with the best one."""
    results = iter([(1, "0"), (3, "90"), (2, "180"), (2, "181"), (4, "95")])

    def step(draft: Draft) -> Draft:
        score, text = next(results)
        return Draft(score, [text])

    detect = semantic_delta(embed=facing)
    result = go(make(step, converge_on=detect, scorer=size, backtrack=BestScore()).run(Draft()))
    assert (result.steps, result.stop_reason) == (5, "converged: " + SAME + "0.0038")


def test_a_failed_step_is_passed_over(make):
    """With `LastGood` its record has the state of the step before, which is not compared with that step."""
    results = iter(["0", "90", None, None, "180", None, "181"])

    def step(draft: Draft) -> Draft:
        if (text := next(results)) is None:
            raise ConnectionError("away")
        return Draft(draft.n + 1, [text])

    result = go(make(step, converge_on=semantic_delta(embed=facing), backtrack=LastGood()).run(Draft()))
    assert (result.steps, result.stop_reason) == (7, "converged: " + SAME + "0.00015")


def test_an_embedder_that_fails_loses_no_step(make):
    """The run fails with its error; resumed, it goes on, and what the step before the failure said is not lost."""
    fails = [True]

    def fragile(texts: list[str]) -> Any:
        if fails and "185" in texts:
            raise ConnectionError("no answer")
        return facing(texts)

    refine = make(turn, converge_on=semantic_delta(0.01, embed=fragile))
    with pytest.raises(ConnectionError, match="no answer"):
        go(refine.run(Draft(), run_id="r"))
    run = refine.spec.checkpoint.get_run("r")
    assert (run.status, run.steps, run.stop_reason) == ("failed", 6, "failed: ConnectionError: no answer")
    fails.clear()
    assert go(refine.resume("r")).words == ["187"]


def test_what_an_embedder_spends_is_charged_to_the_step(make):
    """An API for embeddings costs money, and its charge counts."""

    def paid(texts: list[str]) -> Any:
        spend(usd=0.01 * len(texts))
        return facing(texts)

    result = go(make(turn, converge_on=semantic_delta(0.01, embed=paid)).run(Draft()))
    assert result.cost_usd == pytest.approx(0.01 * 2 * 5)


@pytest.mark.parametrize("detect", [semantic_delta(0.01, embed=facing), semantic_delta(0.1, patience=2, embed=facing)])
def test_a_recorded_run_can_be_asked_where_it_would_have_stopped(detect):
    """`what_if` says what a run with the detector does, and refuses an embedder that would have to be awaited."""
    step = Maker(MemoryStore(), is_async=True)
    refine = step(turn, budget=Budget(iterations=9))
    go(refine.run(Draft(), run_id="r"))
    asked = go(refine.what_if("r", converge_on=detect))
    run = go(step(turn, converge_on=detect).run(Draft()))
    assert (asked.stop_step, asked.stop_reason) == (run.steps - 1, run.stop_reason)
    with pytest.raises(SpecError, match="is async: nothing is waited for over a record"):
        go(refine.what_if("r", converge_on=semantic_delta(embed=make_async(facing))))
