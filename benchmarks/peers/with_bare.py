"""The floor: `sqlite3` alone, one insert, one update and one commit a step."""

from __future__ import annotations

import json
import sqlite3

from child import RUN, TINY, Child, main

JOURNAL = {"delete": "DELETE", "append": "WAL", "full": "WAL", "normal": "WAL"}
SYNCHRONOUS = {"delete": "FULL", "append": "FULL", "full": "FULL", "normal": "NORMAL"}


def work(child: Child) -> None:
    db = sqlite3.connect(child.path, isolation_level=None)
    db.execute(f"PRAGMA journal_mode = {JOURNAL[child.variant]}")
    db.execute(f"PRAGMA synchronous = {SYNCHRONOUS[child.variant]}")
    if child.resuming:
        resume(child, db)
    db.execute("CREATE TABLE runs (id TEXT PRIMARY KEY, status TEXT, steps INTEGER, updated_at TEXT)")
    db.execute(
        "CREATE TABLE steps (run_id TEXT, step_n INTEGER, state_blob TEXT, cost_usd REAL, score REAL, timestamp TEXT, "
        "PRIMARY KEY (run_id, step_n))"
    )
    db.execute("INSERT INTO runs VALUES (?, 'running', 0, '')", (RUN,))
    state = {"n": 0, "items": []} if child.growing else TINY
    for n in range(child.steps + 1):
        child.begin_step(n)
        if child.growing:
            item = child.item()
            state = {"n": n + 1, "items": [*state["items"], item]}
        else:
            state = {**state, "n": n + 1}
        stored = {"n": n + 1, "item": item} if child.variant == "append" else state
        db.execute("BEGIN IMMEDIATE")
        row = (RUN, n, json.dumps(stored), 0.0, None, "2026-01-01T00:00:00.000000+00:00")
        db.execute("INSERT INTO steps VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute("UPDATE runs SET steps = ?, updated_at = ? WHERE id = ?", (n + 1, row[-1], row[0]))
        db.execute("COMMIT")


def resume(child: Child, db: sqlite3.Connection) -> None:
    (steps,) = db.execute("SELECT steps FROM runs WHERE id = ?", (RUN,)).fetchone()
    if child.variant == "append":
        blobs = db.execute("SELECT state_blob FROM steps WHERE run_id = ? ORDER BY step_n", (RUN,))
        items = [json.loads(blob)["item"] for (blob,) in blobs]
    else:
        newest = "SELECT state_blob FROM steps WHERE run_id = ? AND step_n = ?"
        items = json.loads(db.execute(newest, (RUN, steps - 1)).fetchone()[0]).get("items")
    if child.growing:
        child.check(len(items))
    child.begin_step(steps)


if __name__ == "__main__":
    main(None, work)
