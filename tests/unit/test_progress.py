"""Progress: lines that move on a terminal and are gone at the end, plain lines anywhere else."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from driving import Draft, Maker, go, grow, scripted, size, until
from rich.cells import cell_len
from terminals import Terminal

from loomc_runner import Budget, Done, Retry, RunStatus, loop, spend, tool
from loomc_runner.progress import CallAtWork, RunAtWork, as_text, shown, sparkline
from loomc_runner.report import Limit

NASTY = "[bold]no[/bold] \x1b[31mred\x1b[0m \x9b31m\nline two \u202egnp.exe \ud800 \x07\t部屋" + "and so on " * 100_000


@pytest.fixture
def sync(memory) -> Maker:
    """What makes sync loops, which are shown while they work."""

    class Shown(Maker):
        def __call__(self, fn, **options):
            return super().__call__(fn, progress=True, **options)

    return Shown(memory, is_async=False)


@pytest.fixture
def terminal(monkeypatch) -> Iterator[Terminal]:
    """A terminal of 100 columns; standard output and standard error are both there."""
    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    yield terminal
    terminal.close()


def work(run_id: str = "r", **changes) -> RunAtWork:
    """A run at work in its third step."""
    limits = (Limit("iterations", 2, 15), Limit("usd", 0.32, 2.0), Limit("wall_clock", 12.0, 600.0))
    known = {"loop": "tests:draft", "step_n": 2, "score": 0.5, "scores": (0.25, 0.5)}
    return RunAtWork(run_id, **{**known, "best_step": 1, "best_score": 0.5, "limits": limits, **changes})


def text_of(views, width=100, height=24, others=0) -> str:
    """Runs at work as they are shown."""
    return as_text(views, others, width, height).plain


def paid(draft: Draft) -> Draft:
    """A step that costs something."""
    spend(usd=0.25)
    return grow(draft)


def is_untouched(terminal: Terminal) -> bool:
    """Whether the streams are what they were, and the cursor is to be seen."""
    terminal.await_text(r"(?s)\x1b\[\?25h(?!.*\x1b\[\?25l)")
    return "write" not in vars(terminal.stream)


# What is shown


@pytest.mark.parametrize(
    ("scores", "bars"),
    [
        ([1, 2, 3, 4, 5, 6, 7, 8], "▁▂▃▄▅▆▇█"),
        ([3, None, 1], "█ ▁"),
        ([2, 2], "▅▅"),
        ([1], ""),
        ([], ""),
        ([1, float("inf"), 2], "▁ █"),
        ([-1.7e308, 1.7e308], "▁█"),
        ([5e-324, 0.0], "▅▅"),
    ],
)
def test_a_sparkline_lies_between_the_lowest_and_the_highest_score(scores, bars):
    """Every score is a bar, whatever floats they are; one score alone tells nothing."""
    assert sparkline(scores) == bars


def test_a_run_is_told_with_everything_against_its_limit():
    """Step, score and sparkline, best, steps, money, time; then the calls under way, and the newest failure."""
    calls = tuple(CallAtWork(f"ask_{n}", 3.2) for n in range(5))
    lines = text_of([work(calls=calls, failure="TimeoutError: slow; tried again in 2.0s")]).splitlines()
    assert lines == [
        "run r draft · step 2 · score 0.5 ▁█ · best 0.5 (step 1) · 2/15 steps · $0.32 of $2.00",
        "  12s of 10m00s",
        "  → ask_0 3.2s, ask_1 3.2s, ask_2 3.2s and 2 more",
        "  ✘ TimeoutError: slow; tried again in 2.0s",
    ]


def test_without_a_limit_only_what_was_used_is_told():
    """An infinite limit is none."""
    limits = tuple(Limit(name, 7.0, float("inf")) for name in ("iterations", "usd", "tokens", "wall_clock"))
    told = text_of([work(limits=limits, score=None, best_score=None, loop="A loop: by name")], width=200)
    assert told == "run r A loop: by name · step 2 · best: step 1 · 7 steps · $7.00 · 7 tokens · 7.0s"


@pytest.mark.parametrize("width", [20, 60, 80, 200])
@pytest.mark.parametrize("height", [3, 10, 50])
def test_whatever_is_stored_it_fits_the_terminal_and_does_not_steer_it(width, height):
    """No line is too wide, where some characters take two columns; there are not too many, and nothing is a code."""
    children = tuple(work(NASTY, failure=NASTY) for _ in range(20))
    view = work(NASTY, loop=NASTY, calls=(CallAtWork(NASTY, 1.0),), failure=NASTY, note=NASTY, children=children)
    text = text_of([view, view], width, height)
    lines = text.splitlines()
    assert max(map(cell_len, lines)) < width
    assert len(lines) < height
    assert "".join(lines).isprintable()
    text.encode()


@pytest.mark.parametrize(("height", "shown_ones"), [(12, 9), (50, 30)])
def test_very_many_child_runs_are_counted(height, shown_ones):
    """Two hundred of them do not fill the screen: those with room are shown, and the others told as a number."""
    children = tuple(work(f"r.2.{n}") for n in range(30))
    lines = text_of([work(children=children, others=170, ended=7)], 120, height).splitlines()
    assert sum("r.2." in line for line in lines) == shown_ones
    rest = f"  └ {170} more at work, 7 ended" if height == 50 else f"  … and {200 - shown_ones} more at work"
    assert lines[-1] == rest


def test_child_runs_stand_below_their_parents_and_many_runs_take_a_line_each():
    """A child of a child is further in; with many runs side by side there are no second lines."""
    family = work("a", children=(work("a.1", children=(work("a.1.1"),), calls=(CallAtWork("ask", 1.0),)),))
    assert [line[:9] for line in text_of([family]).splitlines()] == ["run a dra", "  12s of ", "  └ a.1 ·", "    └ a.1"]
    crowd = text_of([work(str(n)) for n in range(4)], 80, others=9).splitlines()
    assert [line[:7] for line in crowd] == ["run 0 ·", "run 1 ·", "run 2 ·", "run 3 ·", "… and 9"]


# On a terminal


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_on_a_terminal_the_run_is_shown_while_it_works_and_gone_at_the_end(memory, monkeypatch, columns):
    """Everything is there at some time; no line is wider than the terminal; afterwards it is as it was."""
    terminal = Terminal(columns)
    monkeypatch.setattr(sys, "stderr", terminal.stream)
    monkeypatch.setenv("TERM", "xterm")

    @tool(name="look_up")
    def look_up(n: int) -> int:
        terminal.await_text(
            r"→ look_up \d", rf"step {n} ·", rf"{n}/9 steps", rf"\${n * 0.25:.2f} of \$2\.00", "of 1m00s"
        )
        return n

    def step(draft: Draft) -> Draft:
        look_up(draft.n)
        return paid(draft)

    refine = Maker(memory, is_async=False)(
        step, scorer=size, converge_on=until(3), budget=Budget(usd=2, iterations=9, wall_clock="1m")
    )
    assert refine.run(Draft(), run_id="r", progress=True).steps == 3
    assert terminal.screen() == ""
    assert "score 2 ▁█ · best 2 (step 1)" in terminal.plain
    lines = re.split(r"\n|\x1b\[\d*[AJ]|\r", terminal.plain)
    assert max(len(line.replace("\x1b[?25l", "")) for line in lines) < columns


def test_child_runs_of_threads_are_lines_below_their_parent(sync, terminal):
    """Those at work are shown, and those that have ended counted; all of it in one display."""
    child = sync(lambda draft: Done(ends(draft)), name="child")

    def ends(draft: Draft) -> Draft:
        if draft.n == 5:  # the last of all: the others have ended
            terminal.await_text(r"run r parent · step 0", r"└ r\.0\.5 · step 0", r"└ 5 ended")
        return draft

    def step(draft: Draft) -> Draft:
        child.map([Draft(n) for n in range(6)], max_workers=2)
        return grow(draft)

    sync(step, name="tests:parent", converge_on=until(1)).run(Draft(), run_id="r")
    assert terminal.screen() == ""


def test_runs_side_by_side_share_one_display(memory, terminal):
    """Tasks of one event loop are shown together, and the last that ends takes it away."""

    @loop(checkpoint=memory, converge_on=until(1), progress=True)
    async def slow(draft: Draft) -> Draft:
        await asyncio.to_thread(terminal.await_text, r"run a (.*\n)+run b |run b (.*\n)+run a ")
        return grow(draft)

    async def both() -> None:
        await asyncio.gather(slow.run(Draft(), run_id="a"), slow.run(Draft(), run_id="b"))

    asyncio.run(both())
    assert terminal.screen() == ""
    assert terminal.text.count("\x1b[?25l") == terminal.text.count("\x1b[?25h") == 1


def test_what_is_printed_and_logged_stands_above_in_order(sync, terminal):
    """Also through a handler that was made before, with markup and half lines as they are."""
    handler = logging.StreamHandler()
    log = logging.getLogger("tests.progress")
    log.addHandler(handler)

    def talks(draft: Draft) -> Draft:
        terminal.await_text(rf"step {draft.n} ·")
        print(f"[bold]thinking[/bold] {draft.n}: ", end="")
        print("one", "two")
        log.warning("logged %d", draft.n)
        print("x" * 250, file=sys.stderr)
        return grow(draft)

    try:
        sync(talks, converge_on=until(2)).run(Draft())
    finally:
        log.removeHandler(handler)
    print("after")
    told = [line for n in (0, 1) for line in (f"[bold]thinking[/bold] {n}: one two", f"logged {n}", "x" * 250)]
    assert terminal.screen().splitlines() == [*told, "after"]


def test_half_a_line_is_written_at_the_end(sync, terminal):
    """Nothing that was printed is lost, not even what cannot be encoded."""

    def talks(draft: Draft) -> Draft:
        terminal.await_text("step 0")
        print("half \ud800\na line", end="")
        return grow(draft)

    sync(talks, converge_on=until(1)).run(Draft())
    assert terminal.screen() == "half \\ud800\na line"


def test_what_goes_to_a_file_stays_there(sync, terminal, monkeypatch, tmp_path):
    """With standard output in a file, what a step prints is not moved to the terminal."""
    with (tmp_path / "out").open("w") as file:
        monkeypatch.setattr(sys, "stdout", file)

        def talks(draft: Draft) -> Draft:
            terminal.await_text("step 0")
            print("kept")
            return grow(draft)

        sync(talks, converge_on=until(1)).run(Draft())
    assert (tmp_path / "out").read_text() == "kept\n"
    assert terminal.screen() == ""


@pytest.mark.parametrize("error", [RuntimeError("overloaded"), KeyboardInterrupt(), SystemExit(3)])
def test_however_a_run_ends_the_terminal_is_as_it_was(sync, terminal, error):
    """The error comes through; nothing is left on the screen, and the cursor is to be seen."""

    def fails(draft: Draft) -> Draft:
        terminal.await_text("step 0")
        raise error

    with pytest.raises(type(error)):
        sync(fails).run(Draft())
    assert is_untouched(terminal)
    assert terminal.screen() == ""


def test_a_failed_try_is_shown_until_the_next_one_is_done(sync, terminal):
    """It says the error, and that it is tried again."""
    tried = []

    def flaky(draft: Draft) -> Draft:
        if not tried:
            tried.append(1)
            raise TimeoutError("\x1b[31mslow\u202e")
        terminal.await_text(r"✘ TimeoutError: \\x1b\[31mslow\\u202e; tried again")
        return grow(draft)

    sync(flaky, retry=Retry(attempts=2, wait=0), converge_on=until(1)).run(Draft())
    assert terminal.screen() == ""


def test_a_call_that_is_over_is_shown_no_more(sync, terminal):
    """Only what is under way now is told."""
    look = tool(name="look_up")(lambda n: terminal.await_text("→ look_up") or n)

    def step(draft: Draft) -> Draft:
        look(draft.n)
        before = len(terminal.plain)
        terminal.await_text(rf"(?s)\A.{{{before}}}.*run r draft[^→]*\Z")
        return grow(draft)

    sync(step, converge_on=until(1)).run(Draft(), run_id="r")
    assert terminal.plain.rindex("run r draft") > terminal.plain.rindex("→ look_up")


@pytest.mark.parametrize(("no_color", "codes"), [("1", False), ("", True)])
def test_colours_are_for_those_who_want_them(sync, terminal, monkeypatch, no_color, codes):
    """With NO_COLOR the lines move without any."""
    monkeypatch.setenv("NO_COLOR", no_color)
    sync(lambda draft: terminal.await_text("step 0") or grow(draft), converge_on=until(1)).run(Draft())
    assert ("\x1b[36m" in terminal.text) is codes


def test_a_forked_process_prints_as_ever(sync, terminal):
    """It has no display, and no lock of the one it was forked from."""

    def forks(draft: Draft) -> Draft:
        terminal.await_text("step 0")
        child = os.fork()
        if not child:
            print("the child")
            with shown():
                pass
            terminal.stream.flush()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        terminal.await_text("the child")
        return grow(draft)

    sync(forks, converge_on=until(1)).run(Draft())
    assert is_untouched(terminal)


def test_a_stream_is_shown_until_it_ends_or_is_closed(memory, terminal):
    """Also while its reader has the steps; a reader who leaves early leaves nothing behind."""
    refine = Maker(memory, is_async=False)(grow, progress=True, budget=Budget(iterations=9))
    with refine.stream(Draft(), run_id="r") as steps:
        next(steps)
        terminal.await_text("1/9 steps")
    assert is_untouched(terminal)
    for _ in refine.stream(run_id="r", budget=Budget(iterations=3)):
        pass
    assert is_untouched(terminal)
    assert terminal.screen() == ""


def test_a_run_that_goes_on_knows_its_scores(memory, terminal):
    """The sparkline begins with the scores of earlier days, and the best of them is named."""
    refine = Maker(memory, is_async=False)(scripted(5, 1, 2), scorer=size, converge_on=lambda h: len(h) > 2)
    with refine.stream(Draft(), run_id="r") as steps:
        next(steps), next(steps)
    waits = refine.with_options(on_step=lambda _: terminal.await_text(r"score 2 █▁. · best 5 \(step 0\)"))
    waits.resume("r", progress=True)


# Anywhere else


def test_off_a_terminal_each_step_is_a_plain_line(make, capsys):
    """With step, score, best, steps, money and time, against their limits."""
    budget = Budget(usd=2, iterations=9, wall_clock="10m")
    refine = make(scripted(2, 1, 3), scorer=size, converge_on=until(3), cost_fn=lambda _: 0.25, budget=budget)
    go(refine.run(Draft(), run_id="r", progress=True))
    assert re.sub(r"\d\.\ds of", "0.0s of", capsys.readouterr().err).splitlines() == [
        "run r · step 0 · score 2 · best 2 (step 0) · 1/9 steps · $0.25 of $2.00 · 0.0s of 10m00s",
        "run r · step 1 · score 1 · best 2 (step 0) · 2/9 steps · $0.50 of $2.00 · 0.0s of 10m00s",
        "run r · step 2 · score 3 · best 3 (step 2) · 3/9 steps · $0.75 of $2.00 · 0.0s of 10m00s",
    ]


def test_failed_tries_are_lines_too(sync, capsys):
    """They say what went wrong, on one line; how the outermost run ends is left to its caller."""

    def fails(draft: Draft) -> Draft:
        raise TimeoutError(NASTY)

    child = sync(fails, name="child")
    with pytest.raises(TimeoutError):
        sync(lambda draft: child(draft), retry=Retry(attempts=2, wait=0)).run(Draft(), run_id="r")
    lines = capsys.readouterr().err.splitlines()
    starts = [
        f"run {run_id} · step 0 · TimeoutError: [bold]no[/bold] \\x1b[31mred" for run_id in ("r.0.0", "r", "r.0.0")
    ]
    assert [line[: len(start)] for line, start in zip(lines, starts, strict=True)] == starts
    assert [line.endswith("… · tried again") for line in lines] == [False, True, False]
    assert max(map(len, lines)) < 700


def test_a_step_is_told_once_however_many_ask_for_it(sync, capsys):
    """A child run says its id, also when it asks for progress itself, and its parent does."""
    child = sync(grow, name="child", converge_on=until(1))
    sync(lambda draft: child(draft) and grow(draft), converge_on=until(1)).run(Draft(), run_id="r")
    assert [line.split(" · ")[:2] for line in capsys.readouterr().err.splitlines()] == [
        ["run r.0.0", "step 0"],
        ["run r", "step 0"],
    ]


def test_a_child_may_ask_for_progress_alone(memory, capsys):
    """Then only the child is shown."""
    make = Maker(memory, is_async=False)
    child = make(grow, name="child", progress=True, converge_on=until(1))
    make(lambda draft: child(draft) and grow(draft), converge_on=until(1)).run(Draft(), run_id="r")
    assert [line.split(" · ")[0] for line in capsys.readouterr().err.splitlines()] == ["run r.0.0"]


def test_what_the_caller_says_counts_more_than_the_loop(sync, capsys):
    """With `progress=False` a loop that would be shown is not."""
    sync(grow, converge_on=until(1)).run(Draft(), progress=False)
    assert capsys.readouterr().err == ""


def test_a_stream_gives_its_lines_too(make, capsys):
    """A loop that is to be shown is shown however it is run."""
    go(make(grow, progress=True, converge_on=until(2)).stream(Draft(), run_id="r"))
    assert [line.split(" · ")[1] for line in capsys.readouterr().err.splitlines()] == ["step 0", "step 1"]


@pytest.mark.parametrize("kind", ["dumb", "unknown"])
def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(sync, terminal, monkeypatch, kind):
    """There is no code in them."""
    monkeypatch.setenv("TERM", kind)
    sync(grow, converge_on=until(2)).run(Draft(), run_id="r")
    terminal.close()
    assert [line[:14] for line in terminal.text.splitlines()] == ["run r · step 0", "run r · step 1"]
    assert "\x1b" not in terminal.text


def test_a_run_goes_on_without_standard_error(sync, monkeypatch):
    """A program without a console has none."""
    monkeypatch.setattr(sys, "stderr", None)
    assert sync(grow, converge_on=until(1)).run(Draft()).status is RunStatus.COMPLETED


def test_a_run_goes_on_when_standard_error_is_closed(sync, monkeypatch, tmp_path):
    """Nobody reads what is shown, and that is no mistake of the run."""
    with (tmp_path / "err").open("w") as file:
        monkeypatch.setattr(sys, "stderr", file)
        refine = sync(lambda draft: file.close() or grow(draft), converge_on=until(1))
        assert refine.run(Draft()).status is RunStatus.COMPLETED


def test_a_run_goes_on_when_its_terminal_is_closed(sync, terminal):
    """The display gives up, and the step does not notice."""

    def closes(draft: Draft) -> Draft:
        terminal.await_text("step 0")
        terminal.close()
        return grow(draft)

    assert sync(closes, converge_on=until(1)).run(Draft()).status is RunStatus.COMPLETED


def test_a_line_that_has_only_begun_is_seen(sync, terminal):
    """A prompt stands right over the lines until it is answered; the newest of what overwrites itself, too."""

    def asking(draft: Draft) -> Draft:
        print("10%\r20%\rAre you sure? ", end="", flush=True)
        terminal.await_text(r"Are you sure\?")
        print("yes")
        return grow(draft)

    with terminal:
        sync(asking, converge_on=until(1)).run(Draft())
    assert "Are you sure? yes" in terminal.screen()


def test_somebody_elses_way_to_write_is_kept_and_used(sync, terminal):
    """A stream that was given its own `write` gets its lines there, and has it afterwards."""
    copies, write = [], terminal.stream.write

    def tee(text: str) -> int:
        copies.append(text)
        return write(text)

    terminal.stream.write = tee
    with terminal:
        sync(lambda draft: print("hello") or grow(draft), converge_on=until(1)).run(Draft())
    assert terminal.stream.write is tee
    assert "hello\n" in copies
    assert not any("\x1b" in text for text in copies)


class Bare:
    """What some programs put in the place of standard error: it can only be written to."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, text):
        """Keep it."""
        self.lines.append(text)

    def flush(self):
        """Nothing to do."""


@pytest.mark.parametrize("is_closed", [False, True])
def test_a_run_needs_no_full_stream_to_be_shown_on(sync, monkeypatch, tmp_path, is_closed):
    """Where there is only `write` there are plain lines; a closed stream gets nothing, and the run goes on."""
    bare = Bare()
    if is_closed:
        bare = (tmp_path / "closed").open("w")
        bare.close()
    monkeypatch.setattr(sys, "stderr", bare)
    assert sync(grow, converge_on=until(2)).run(Draft()).status is RunStatus.COMPLETED
    assert is_closed or len(bare.lines) == 2


ABANDONED = """
import gc, sys
from loomc_runner import Budget, loop
@loop(checkpoint="memory", budget=Budget(iterations=3), progress=True)
def inner(n: int) -> int:
    return n + 1
@loop(checkpoint="memory", budget=Budget(iterations=150), progress=True)
def outer(n: int) -> int:
    stream = inner.stream(0)
    next(stream)
    cycle = [stream]
    cycle.append(cycle)
    return n + 1
gc.set_threshold(int(sys.argv[1]))
outer.run(0)
print("done")
"""


@pytest.mark.parametrize("threshold", ["700", "20", "1"])
def test_streams_that_are_collected_as_garbage_hold_nothing_up(threshold):
    """They end in the middle of whatever runs just then."""
    command = [sys.executable, "-c", ABANDONED, threshold]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == "done\n", ended.stderr[-2000:]


STALLED = """
import os, pty, sys, time
ours, theirs = pty.openpty()
os.dup2(theirs, 1); os.dup2(theirs, 2)
os.environ["TERM"] = "xterm"
from loomc_runner import Budget, loop
@loop(checkpoint="memory", budget=Budget(wall_clock="1s"), progress=True)
def chatty(n: int) -> int:
    while True:
        print("x" * 1000)
result = chatty.run(0)
os.write(int(sys.argv[1]), str(result.status).encode())
os._exit(0)
"""


def test_a_terminal_that_takes_nothing_does_not_hold_the_clock(tmp_path):
    """A step that prints to a stalled terminal is interrupted by its wall clock, with a display as without."""
    reader, writer = os.pipe()
    command = [sys.executable, "-c", STALLED, str(writer)]
    process = subprocess.Popen(command, pass_fds=[writer], cwd=tmp_path)
    os.close(writer)
    assert process.wait(timeout=30) == 0
    assert os.read(reader, 100) == b"budget_exhausted"
    os.close(reader)
