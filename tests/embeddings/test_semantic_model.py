"""A real model tells where a text has settled."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from loomc_runner import Budget, RunStatus, SpecError, loop, semantic_delta
from loomc_runner.converge.embedding import TOKENS, cosine_distance, local_model, passages, vectors_of
from loomc_runner.records import StepRecord
from loomc_runner.store.memory import MemoryStore
from loomc_runner.testing import a_step

HERE = Path(__file__).parent

REVISIONS = [" ".join(text.split()) for text in (HERE / "revisions.txt").read_text().split("\n\n")]
"""One paragraph, written ten times: what happened is found out in the first four, and said better in the others."""

PAGE = HERE.parents[1] / "docs/how-to/stop-when-a-text-settles.md"

DISTANCES = [0.3455, 0.1046, 0.0526, 0.0171, 0.0300, 0.0150, 0.0001, 0.0016, 0.0012]
"""How far each revision is from the one before, as the page of the docs says."""

LONG = " ".join(f"On day {n} the ship made {60 + n} miles; the log says {text}" for n, text in enumerate(REVISIONS * 4))


class Draft(BaseModel):
    """A text, and how often it was revised."""

    text: str
    revision: int = -1


def revise(draft: Draft) -> Draft:
    """The next revision."""
    return Draft(text=REVISIONS[draft.revision + 1], revision=draft.revision + 1)


async def revise_later(draft: Draft) -> Draft:
    """The next revision, after a moment."""
    await asyncio.sleep(0)
    return revise(draft)


def distance(folder: str, one: str, other: str) -> float:
    """The distance of two texts that are not too long."""
    model = local_model(folder)
    return cosine_distance(*vectors_of(model([one, other]), [one, other], model.name), model.name)


def settled(folder: str, texts: Sequence[str], threshold: float = 0.05) -> bool:
    """Whether the last text is near the one before it."""
    history: list[StepRecord[Any]] = [a_step(n, read_state=lambda n: texts[n]) for n in range(len(texts))]
    return semantic_delta(threshold, model_name=folder)(history) is not None


def test_the_page_of_the_docs_shows_the_distances(model_folder):
    """Each row of the table is what the model says today."""
    found = [distance(model_folder, *pair) for pair in pairwise(REVISIONS)]
    assert found == pytest.approx(DISTANCES, abs=0.0003)
    for n, each in enumerate(DISTANCES, start=1):
        assert f"| {n} | {each:.4f} |" in PAGE.read_text()


@pytest.mark.parametrize(
    ("threshold", "patience", "revision"), [(0.05, 1, 4), (0.02, 1, 4), (0.05, 2, 5), (0.01, 1, 7), (0.11, 1, 2)]
)
@pytest.mark.parametrize("step", [revise, revise_later])
def test_a_loop_stops_where_a_reader_would(model_folder, step, threshold, patience, revision):
    """By default at revision 4, the first that only says the same in other words."""
    detect = semantic_delta(threshold, lambda draft: draft.text, model_folder, patience)
    refine = loop(converge_on=detect, checkpoint=MemoryStore(), budget=Budget(iterations=9))(step)
    result = refine.run(Draft(text="The shop was down yesterday."))
    result = asyncio.run(result) if step is revise_later else result
    assert result.state.revision == revision
    assert result.stop_reason.startswith(f"converged: {detect}: 0.")


@pytest.mark.parametrize("at", range(1, 6))
def test_a_resumed_run_stops_at_the_same_revision(model_folder, at):
    """The text before is read from the record, and its vector is the same as it was."""
    detect = semantic_delta(text_fn=lambda draft: draft.text, model_name=model_folder, patience=2)
    refine = loop(converge_on=detect, checkpoint=MemoryStore(), budget=Budget(iterations=at))(revise)
    first = refine.run(Draft(text=""))
    assert first.status == RunStatus.BUDGET_EXHAUSTED
    assert refine.resume(first.run_id, budget=Budget(iterations=9)).revision == 5


def test_a_recorded_run_is_asked_with_the_real_model(model_folder):
    """What another threshold would have done is found without a step."""
    refine = loop(checkpoint=MemoryStore(), budget=Budget(iterations=9))(revise)
    run = refine.run(Draft(text=""))
    asked = refine.what_if(run.run_id, converge_on=semantic_delta(0.01, model_name=model_folder))
    assert asked.stop_step == 7


BREAKDOWN = (
    "On Friday the warehouse could not print labels for an hour, because a printer driver was updated by mistake. "
    "Nobody's parcel was lost, and all were sent the same evening."
)
LAST = REVISIONS[9]


@pytest.mark.parametrize(
    ("change", "text", "shown"),
    [
        ("another paragraph about another breakdown", BREAKDOWN, "0.55"),
        ("the last two sentences of five left out", LAST.partition(" Because")[0], "0.07"),
        ("all sentences in the reverse order", ". ".join(LAST[:-1].split(". ")[::-1]) + ".", "0.04"),
        (
            "a sentence of six words added",
            LAST.replace("Cert", "Everybody concerned will receive a voucher. Cert"),
            "0.018",
        ),
        ("`no money` becomes `the money`", LAST.replace("no money", "the money"), "0.003"),
        ("`1,900` becomes `19,000`", LAST.replace("1,900", "19,000"), "0.003"),
    ],
)
def test_the_page_of_the_docs_shows_what_weighs_how_much(model_folder, change, text, shown):
    """What a text is about weighs much; a number or a "no" weighs no more than a comma, and the page says so."""
    assert text != LAST
    assert f"{distance(model_folder, LAST, text):.{len(shown) - 2}f}" == shown
    assert f"| {change} | {shown} |" in PAGE.read_text()


@pytest.mark.parametrize(
    ("one", "other", "least", "most"),
    [
        ("He gave up smoking last year.", "Last year he quit cigarettes.", 0.1, 0.3),
        ("The meeting was moved to Friday.", "The meeting will be on Friday instead.", 0.0, 0.3),
        ("The meeting was moved to Friday.", "Whales sing to each other over hundreds of miles.", 0.8, 1.2),
    ],
)
def test_the_distance_is_one_of_meaning(model_folder, one, other, least, most):
    """Paraphrases are near, and what has nothing to do with each other is far."""
    assert least <= distance(model_folder, one, other) <= most


@pytest.mark.parametrize("at", [0.0, 0.5, 1.0])
def test_a_passage_that_changes_in_a_long_text_keeps_the_loop_going(model_folder, at):
    """At the end, which the model would cut off, as at the beginning; a comma there does not."""
    place = LONG.rindex(" On day", 0, int(len(LONG) * at) + 8) if at else 0
    new = " The tide rises twice a day, since the moon pulls at the sea. Harbours keep tables of it, hour by hour, " * 2
    assert not settled(model_folder, [LONG, LONG[:place] + new + LONG[place + 200 :]])
    comma = LONG.index(",", place)
    assert settled(model_folder, [LONG, LONG[:comma] + LONG[comma + 1 :]])


def test_the_mean_over_a_long_text_would_hide_a_passage(model_folder):
    """The passage that changed most counts: the last paragraph of 3,400 words is written anew."""
    model = local_model(model_folder)
    changed = LONG[: LONG.rindex(" On day")] + (
        " The tide rises twice a day, because the moon pulls at the sea on the near side of the earth and less on "
        "the far side. Sailors have known this for three thousand years, and wrote it down in tables that every "
        "harbour kept."
    )
    ((old, new),) = passages(LONG, changed, model)
    assert distance(model_folder, old, new) == pytest.approx(0.15, abs=0.005)
    one, other = (mean_of_passages(model_folder, text) for text in (LONG, changed))
    assert cosine_distance(one, other, "") == pytest.approx(0.0002, abs=0.00005)
    assert "at 0.15; the mean over all passages would be at 0.0002" in " ".join(PAGE.read_text().split())


def mean_of_passages(folder: str, text: str) -> list[float]:
    """The mean of the vectors of so many words each, as the whole of a text is often compared."""
    words = text.split()
    parts = [" ".join(words[n : n + 170]) for n in range(0, len(words), 170)]
    vectors = vectors_of(local_model(folder)(parts), parts, "")
    columns = zip(*vectors, strict=True)
    summed = [sum(len(part) * number for part, number in zip(parts, column, strict=True)) for column in columns]
    return vectors_of([summed], [text], "")[0]


def test_no_passage_is_longer_than_the_model_takes(model_folder):
    """Measured in tokens of its own, also where there are no words to cut between."""
    model = local_model(model_folder)
    assert model.limit == TOKENS - 2
    for old in (LONG, "汉字" * 900, "x" * 9_000, "so " * 3_000, ";:!" * 900):
        pairs = passages(old, old[::-1], model)
        assert max(model.sizes([text for pair in pairs for text in pair])) <= model.limit
    assert len(passages(LONG, LONG[::-1], model)) > 10


def test_a_text_has_one_vector_whatever_it_is_asked_with(model_folder):
    """A run that was resumed asks in other company, and must decide the same."""
    model = local_model(model_folder)
    alone, together = model([REVISIONS[9]]), model([REVISIONS[0], LONG[:900], REVISIONS[9]])
    assert vectors_of(alone, ["a"], "") == vectors_of(together, ["a", "b", "c"], "")[2:]


def test_threads_that_ask_at_once_share_one_model(model_folder, tmp_path):
    """It is loaded once, and they get the vectors that they would get alone."""
    folder = tmp_path / "a model that nobody has loaded"
    folder.symlink_to(model_folder)
    start = threading.Barrier(8)

    def run(_: int) -> tuple[Any, str | None]:
        start.wait()
        refine = loop(converge_on=semantic_delta(model_name=str(folder)), checkpoint=MemoryStore())(revise)
        return local_model(str(folder)), refine.run(Draft(text="")).stop_reason

    with ThreadPoolExecutor(8) as pool:
        models, reasons = zip(*pool.map(run, range(8)), strict=True)
    assert len(set(map(id, models))) == 1
    assert set(reasons) == {"converged: semantic_delta(threshold=0.05): 0.017"}


@pytest.mark.parametrize("name", ["no-such-model-anywhere", "some/folder", "~/x", "{empty}"])
def test_a_model_that_cannot_be_had_is_an_error_that_says_what_to_do(name, tmp_path):
    """It names the model, why it is not to be had, and three ways out."""
    name = name.format(empty=tmp_path)
    for fails in (semantic_delta(model_name=name).load, lambda: settled(name, ["one", "other"])):
        with pytest.raises(SpecError, match=r"the model cannot be loaded \(.*load it once with a network") as caught:
            fails()
        assert f"model_name={name!r}" in str(caught.value)
        assert "embed=" in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_the_model_is_taken_from_the_cache_without_a_network(model_folder, tmp_path):
    """The default name finds what was downloaded before, and opens no connection, though it would be allowed to."""
    kept = tmp_path / "hub/models--sentence-transformers--all-MiniLM-L6-v2"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs/main").write_text("c0ffee")
    (kept / "snapshots").mkdir()
    (kept / "snapshots/c0ffee").symlink_to(model_folder)
    code = (
        "import sys\n"
        "calls = {'socket.connect', 'socket.getaddrinfo', 'socket.gethostbyname', 'socket.sendto'}\n"
        "sys.addaudithook(lambda event, args: event in calls and print(event, args))\n"
        "from loomc_runner import semantic_delta\n"
        "semantic_delta().load()\n"
        "print('loaded')\n"
    )
    online = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment = {**online, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "loaded\n"
    assert "it/s" not in done.stderr


def test_an_encoder_of_ones_own_is_an_embedder(model_folder):
    """Also one that is awaited, so that an event loop stays free."""
    from sentence_transformers import SentenceTransformer

    encode = SentenceTransformer(model_folder).encode

    async def embed(texts: list[str]) -> Any:
        return await asyncio.to_thread(encode, texts)

    refine = loop(converge_on=semantic_delta(embed=embed), checkpoint=MemoryStore())(revise_later)
    assert asyncio.run(refine(Draft(text=""))).revision == 4
