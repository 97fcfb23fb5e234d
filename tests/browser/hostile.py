"""A run whose every text is hostile: markup, quotes, control characters, bidirectional marks and lone surrogates."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

import flow_xray

from loomc_runner import Budget, ask, loop, spend, tool

BAD = "</script><script>window.pwned=1</script>\"'`&\\<img src=x onerror=window.pwned=2>"

NASTY = f"{BAD} \x1b[31m\x07\u202e\u2028end"

TEXTS = {
    "runs": ("loop", "source", "stop_reason", "forked_from", "result"),
    "steps": ("error", "decision"),
    "attempts": ("error", "category"),
    "calls": ("name", "key", "result", "error", "category"),
    "charges": ("label", "model"),
    "questions": ("prompt", "answer", "answered_by"),
}
"""The texts that are stored of a run; ids, times and JSON that is decoded aside."""


def hostile_run(database: Path, page: Path) -> None:
    """Run a loop that says nothing but hostile things, write its page, and spoil each text that is stored."""

    def badly(text: str) -> str:
        return text + "\ud800"

    badly.__qualname__ = NASTY
    think_badly = flow_xray.trace(kind=NASTY)(badly)

    @tool(name=BAD)
    def look(text: str) -> str:
        think_badly(text + "\ud800")
        return NASTY

    @flow_xray.trace
    def model() -> str:
        flow_xray.trace.tag(NASTY, **{NASTY: NASTY, "__proto__": NASTY})
        flow_xray.trace.meta(model=NASTY, total_tokens=NASTY, prompt_tokens=NASTY, **{NASTY: NASTY})
        raise ValueError(NASTY + "\ud800")

    @loop(checkpoint=database, name=BAD, scorer=lambda _: 1.0, budget=Budget(usd=1, iterations=3))
    def refine(state: str) -> str:
        spend(usd=0.1, label=NASTY)
        look(NASTY)
        with suppress(ValueError):
            model()
        if len(state) > len(NASTY):
            ask(NASTY)
        return state + NASTY

    refine.run(NASTY, run_id="a", trace=page)
    with closing(sqlite3.connect(database)) as db:
        for table, columns in TEXTS.items():
            spoiled = ", ".join(f"{column} = ?1" for column in columns)
            assert db.execute(f"UPDATE {table} SET {spoiled}", (NASTY,)).rowcount
        db.commit()
