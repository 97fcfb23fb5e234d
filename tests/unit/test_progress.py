"""Progress: one line that moves on a terminal, plain lines elsewhere, and nothing left at the end."""

from __future__ import annotations

import asyncio
import io
import re
import sys

import pytest
from driving import Draft, Maker, grow, scripted, size, until
from rich.console import Console

from loomc_runner import Budget, loop, spend
from loomc_runner.progress import track, watch


def terminal(width=120) -> Console:
    """A terminal whose text can be looked at."""
    return Console(file=io.StringIO(), force_terminal=True, width=width, _environ={"TERM": "xterm"})


def pipe() -> Console:
    """No terminal."""
    return Console(file=io.StringIO(), force_terminal=False)


def text_of(console) -> str:
    """What was written."""
    return console.file.getvalue()


def screen_of(console) -> str:
    """What a terminal shows after all that was written: each erased line is gone."""
    lines, at = [""], 0
    for part in re.findall(r"\x1b\[\d*A|\x1b\[2K|\x1b\[[^A-Za-z]*[A-Za-z]|\r|\n|[^\x1b\r\n]+", text_of(console)):
        if part.endswith("A") and part.startswith("\x1b"):
            at = max(at - int(part[2:-1] or 1), 0)
        elif part == "\x1b[2K":
            lines[at] = ""
        elif part == "\n":
            at += 1
            lines.extend([""] * (at + 1 - len(lines)))
        elif part != "\r" and not part.startswith("\x1b"):
            lines[at] += part
    return "\n".join(lines).strip()


def paid(draft: Draft) -> Draft:
    """A step that costs something."""
    spend(usd=0.25)
    return grow(draft)


def run_through(handle, console) -> list[int]:
    """Read a stream to its end under `track`, sync or async; the numbers of its steps."""
    stream = handle.stream(Draft(), run_id="r")

    async def read() -> list[int]:
        return [step.step_n async for step in track(stream, console=console)]

    return (
        asyncio.run(read()) if hasattr(stream, "aclose") else [step.step_n for step in track(stream, console=console)]
    )


def test_track_gives_every_step_and_writes_a_plain_line_for_each(make):
    """Off a terminal, a line holds step, score, best, steps, money and time left, against their limits."""
    console, budget = pipe(), Budget(usd=2, iterations=9, wall_clock="10m")
    refine = make(scripted(2, 1, 3), scorer=size, converge_on=until(3), cost_fn=lambda _: 0.25, budget=budget)
    assert run_through(refine, console) == [0, 1, 2]
    lines = [re.sub(r"\d+m\d\ds left", "9m59s left", line) for line in text_of(console).splitlines()]
    assert lines == [
        "run r · step 0 · score 2 · best 2 (step 0) · 1/9 steps · $0.25 of $2.00 · 9m59s left",
        "run r · step 1 · score 1 · best 2 (step 0) · 2/9 steps · $0.50 of $2.00 · 9m59s left",
        "run r · step 2 · score 3 · best 3 (step 2) · 3/9 steps · $0.75 of $2.00 · 9m59s left",
    ]


def test_on_a_terminal_one_line_moves_and_is_gone_at_the_end(make):
    """While it works the newest step is there; after the end the terminal is as it was."""
    console = terminal()
    run_through(make(paid, converge_on=until(3), budget=Budget(usd=2, iterations=9)), console)
    assert "run r · step 2 · 3/9 steps · $0.75 of $2.00 · 0." in text_of(console)
    assert screen_of(console) == ""


def test_a_narrow_terminal_leaves_out_the_run_id(memory):
    """What changes is worth more than what the caller knows."""
    console = terminal(width=46)
    run_through(Maker(memory, is_async=False)(paid, converge_on=until(1), budget=Budget(usd=2, iterations=9)), console)
    assert "step 0 · 1/9 steps · $0.25 of $2.00 · 0." in text_of(console)
    assert "run r · step" not in text_of(console)


def test_a_step_that_fails_leaves_no_line_behind(memory):
    """The error comes through, and the terminal is clean."""
    console = terminal()

    def fails(draft: Draft) -> Draft:
        raise RuntimeError("overloaded")

    with pytest.raises(RuntimeError):
        run_through(Maker(memory, is_async=False)(fails), console)
    assert screen_of(console) == ""


def test_a_reader_who_leaves_early_leaves_no_line_behind(memory):
    """Breaking out of the loop ends the progress at once."""
    console = terminal()
    stream = Maker(memory, is_async=False)(grow).stream(Draft(), run_id="r")
    for _ in track(stream, console=console):
        break
    stream.close()
    assert screen_of(console) == ""


def test_watch_is_for_streams_that_are_read_by_hand(make):
    """Call what it gives with each step."""
    console = pipe()
    stream = make(grow, converge_on=until(2)).stream(Draft(), run_id="r")

    async def read() -> None:
        with watch(stream, console=console) as show:
            async for step in stream:
                show(step)

    if hasattr(stream, "aclose"):
        asyncio.run(read())
    else:
        with watch(stream, console=console) as show:
            for step in stream:
                show(step)
    assert [line.split(" · ")[1] for line in text_of(console).splitlines()] == ["step 0", "step 1"]


def test_what_steps_print_stays_above_the_line(memory, monkeypatch):
    """On a terminal a step may print; its lines stay, the progress goes."""
    console = terminal()
    monkeypatch.setattr(console.file, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdout", console.file)

    def talks(draft: Draft) -> Draft:
        print(f"thinking {draft.n}")
        return grow(draft)

    run_through(Maker(memory, is_async=False)(talks, converge_on=until(2)), console)
    assert screen_of(console) == "thinking 0\nthinking 1"


def test_the_best_step_of_earlier_days_is_named(memory):
    """A resumed run knows its best step, though its score was not seen here."""
    refine = Maker(memory, is_async=False)(scripted(5, 1, 2), scorer=size, converge_on=lambda history: len(history) > 2)
    with refine.stream(Draft(), run_id="r") as stream:
        next(stream)
    console = pipe()
    list(track(refine.stream(run_id="r"), console=console))
    assert "step 1 · score 1 · best: step 0 · 2/1000 steps" in text_of(console)


def test_a_completed_run_shows_nothing(memory):
    """There is no step to show."""
    refine = Maker(memory, is_async=False)(grow, converge_on=until(1))
    refine.run(Draft(), run_id="r")
    console = pipe()
    assert list(track(refine.stream(run_id="r"), console=console)) == []
    assert text_of(console) == ""


def test_without_a_console_standard_error_is_used(memory, capsys):
    """Standard output stays the caller's own."""
    list(track(loop(checkpoint=memory, converge_on=until(1))(typed).stream(Draft(), run_id="r")))
    out, err = capsys.readouterr()
    assert (out, err.startswith("run r · step 0 · ")) == ("", True)


def typed(draft: Draft) -> Draft:
    """The plainest step, with its types."""
    return grow(draft)
