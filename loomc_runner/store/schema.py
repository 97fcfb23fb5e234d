"""The tables, how older ones become them, and how older ones are read as they are."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from loomc_runner.errors import RunNotFound, StoreError
from loomc_runner.store.sql import transaction

TABLES = """
CREATE TABLE runs (
    id TEXT PRIMARY KEY,
    loop TEXT,                      -- module:qualname, or name=; NULL in runs of loomc 0.3.0
    source TEXT,                    -- the file the loop was defined in
    spec_hash TEXT,
    code_hash TEXT,
    state_type TEXT,                -- module:qualname, where the loop does not declare it
    status TEXT NOT NULL,
    stop_reason TEXT,
    created_at TEXT NOT NULL,
    updated_at TEXT NOT NULL,
    parent_run_id TEXT,
    parent_step INTEGER,
    forked_from TEXT,               -- RUN:STEP
    owner TEXT,                     -- the name of a file in owners/, NULL when nobody works on it
    epoch INTEGER NOT NULL DEFAULT 0,
    resumes INTEGER NOT NULL DEFAULT 0,
    in_flight INTEGER,              -- the step that is running
    in_flight_mark INTEGER NOT NULL DEFAULT 0,  -- the newest charge when it began
    reserved_nano INTEGER NOT NULL DEFAULT 0,
    budget TEXT,
    steps INTEGER NOT NULL DEFAULT 0,
    nano_usd INTEGER NOT NULL DEFAULT 0,        -- without child runs
    tokens INTEGER NOT NULL DEFAULT 0,
    dearest_nano INTEGER NOT NULL DEFAULT 0,
    worked REAL NOT NULL DEFAULT 0,
    best_step INTEGER,
    result TEXT,
    tags TEXT NOT NULL DEFAULT '[]',
    notes TEXT NOT NULL DEFAULT '[]',
    cost_usd REAL GENERATED ALWAYS AS (nano_usd / 1e9) VIRTUAL
) WITHOUT ROWID;
CREATE INDEX runs_by_age ON runs (created_at, id);
CREATE INDEX runs_by_parent ON runs (parent_run_id) WHERE parent_run_id IS NOT NULL;
CREATE TABLE steps (
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,        -- -1 is the initial state
    parent_n INTEGER NOT NULL,
    state_blob TEXT,
    base_n INTEGER,
    encoding TEXT NOT NULL DEFAULT 'json',      -- or what it is built on, that of step base_n: see store/states.py
    nano_usd INTEGER,               -- with child runs; NULL when nobody recorded a cost
    tokens INTEGER NOT NULL DEFAULT 0,
    score REAL,
    timestamp TEXT NOT NULL,
    duration REAL NOT NULL DEFAULT 0,
    error TEXT,
    decision TEXT,
    best_n INTEGER,
    cost_usd REAL GENERATED ALWAYS AS (nano_usd / 1e9) VIRTUAL,
    PRIMARY KEY (run_id, step_n)
);
CREATE TABLE attempts (
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    error TEXT NOT NULL,
    category TEXT NOT NULL,
    nano_usd INTEGER NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL,
    duration REAL NOT NULL DEFAULT 0,
    cost_usd REAL GENERATED ALWAYS AS (nano_usd / 1e9) VIRTUAL,
    PRIMARY KEY (run_id, step_n, attempt)
) WITHOUT ROWID;
CREATE TABLE charges (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,
    nano_usd INTEGER NOT NULL,
    tokens INTEGER NOT NULL DEFAULT 0,
    label TEXT,
    at TEXT NOT NULL,
    estimated INTEGER NOT NULL DEFAULT 0,
    usd REAL GENERATED ALWAYS AS (nano_usd / 1e9) VIRTUAL
);
CREATE INDEX charges_by_run ON charges (run_id, step_n);
"""

INSIDE_A_STEP = """
ALTER TABLE runs ADD COLUMN control TEXT;
ALTER TABLE runs ADD COLUMN child_key TEXT;
ALTER TABLE runs ADD COLUMN progress INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN stuck INTEGER NOT NULL DEFAULT 0;
CREATE TABLE calls (
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    name TEXT NOT NULL,
    key TEXT NOT NULL,              -- hash of name and arguments and the occurrence among equals, or chosen
    status TEXT NOT NULL,           -- started, done or failed
    result,                         -- JSON as text; compressed with zlib where that is long
    error TEXT,
    category TEXT,
    nano_usd INTEGER NOT NULL DEFAULT 0,
    started_at TEXT NOT NULL,
    duration REAL NOT NULL DEFAULT 0,
    outer INTEGER,                  -- seq of the call it was made in
    cost_usd REAL GENERATED ALWAYS AS (nano_usd / 1e9) VIRTUAL,
    PRIMARY KEY (run_id, step_n, seq)
);
CREATE TABLE questions (
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    key TEXT NOT NULL,              -- hash of prompt and schema, and the occurrence among equals
    prompt TEXT NOT NULL,
    schema TEXT NOT NULL,
    asked_at TEXT NOT NULL,
    expires_at TEXT,
    default_answer TEXT,
    answer TEXT,
    answered_by TEXT,
    answered_at TEXT,
    withdrawn INTEGER NOT NULL DEFAULT 0,       -- the step was tried again and no longer asks it
    PRIMARY KEY (run_id, step_n, seq)
) WITHOUT ROWID;
CREATE INDEX questions_open ON questions (asked_at) WHERE answer IS NULL;
CREATE TABLE breakers (
    id INTEGER PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id),
    step_n INTEGER NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL,            -- closed, open or half_open
    failures INTEGER NOT NULL,
    openings INTEGER NOT NULL,
    at TEXT NOT NULL,
    retry_at TEXT
);
CREATE INDEX breakers_by_run ON breakers (run_id);
"""

DIRECTION = """
ALTER TABLE runs ADD COLUMN direction TEXT;
CREATE INDEX runs_by_origin ON runs (forked_from) WHERE forked_from IS NOT NULL;
"""

# `direction` is maximize or minimize, and NULL in runs that do not say it.

MODELS = """
ALTER TABLE charges ADD COLUMN key TEXT;
ALTER TABLE charges ADD COLUMN model TEXT;
ALTER TABLE charges ADD COLUMN usage TEXT;
CREATE UNIQUE INDEX charges_by_key ON charges (run_id, key) WHERE key IS NOT NULL;
ALTER TABLE steps ADD COLUMN scores TEXT;
"""

# A charge with a `key` is first what a call may cost, and then what it came to; `usage` is JSON, tokens by kind.
# `scores` is JSON, each answer of a scorer that was asked more than once.

STATES = """
ALTER TABLE calls ADD COLUMN result_hash TEXT;
ALTER TABLE calls ADD COLUMN result_size INTEGER;
CREATE INDEX steps_by_base ON steps (run_id, base_n) WHERE base_n IS NOT NULL;
"""

# `encoding` has more forms from here on (see loomc_runner.store.states). A call whose result was dropped keeps the hash
# and the size of it.

SCRIPTS = (TABLES, INSIDE_A_STEP, DIRECTION, MODELS, STATES)
"""What makes each version of the tables out of the one before, in order."""

VERSION = len(SCRIPTS)

# What loomc 0.3.0 wrote, in the shape of today's tables: {runs} and {steps} are its own two tables.
LOOMC_RUNS = """
SELECT id, NULL AS loop, NULL AS source, spec_hash, NULL AS code_hash, NULL AS state_type, status,
    CASE status WHEN 'completed' THEN 'completed (loomc 0.3.0 recorded no reason)' END AS stop_reason,
    created_at, updated_at, NULL AS parent_run_id, NULL AS parent_step, NULL AS forked_from, NULL AS owner,
    0 AS epoch, 0 AS resumes, NULL AS in_flight, 0 AS in_flight_mark, 0 AS reserved_nano, NULL AS budget,
    (SELECT count(*) FROM {steps} s WHERE s.run_id = r.id) AS steps,
    (SELECT coalesce(sum(cast(round(s.cost_usd * 1e9) AS INTEGER)), 0) FROM {steps} s WHERE s.run_id = r.id)
        AS nano_usd,
    0 AS tokens,
    (SELECT coalesce(max(cast(round(s.cost_usd * 1e9) AS INTEGER)), 0) FROM {steps} s WHERE s.run_id = r.id)
        AS dearest_nano,
    0.0 AS worked,
    (SELECT s.step_n FROM {steps} s WHERE s.run_id = r.id AND s.score IS NOT NULL
        ORDER BY s.score DESC, s.step_n LIMIT 1)
        AS best_step,
    NULL AS result, '[]' AS tags, '["written by loomc 0.3.0"]' AS notes
FROM {runs} r
"""
NO_DIRECTION = "NULL AS direction"
"""What the runs of the second version lack."""

NO_SCORES = "SELECT *, NULL AS scores FROM {steps}"
NO_MODELS = "SELECT *, NULL AS key, NULL AS model, NULL AS usage FROM {charges}"
"""What the steps and the charges of the third version lack."""

NO_HASHES = "SELECT *, NULL AS result_hash, NULL AS result_size FROM {calls}"
"""What the calls of the fourth version lack."""

NO_CONTROL = f"NULL AS control, NULL AS child_key, 0 AS progress, 0 AS stuck, {NO_DIRECTION}"
"""What the runs of the first version lack."""

LOOMC_STEPS = """
SELECT run_id, step_n, step_n - 1 AS parent_n, state_blob, NULL AS base_n, 'json' AS encoding,
    cast(round(cost_usd * 1e9) AS INTEGER) AS nano_usd, 0 AS tokens, score, timestamp, 0.0 AS duration, error,
    NULL AS decision,
    max(CASE WHEN score > coalesce(before, -9e999) THEN step_n END)
        OVER (PARTITION BY run_id ORDER BY step_n) AS best_n
FROM (SELECT *, max(score) OVER (PARTITION BY run_id ORDER BY step_n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
        AS before FROM {steps})
"""
LOOMC_CHARGES = """
SELECT NULL AS id, run_id, step_n, cast(round(cost_usd * 1e9) AS INTEGER) AS nano_usd, 0 AS tokens, NULL AS label,
    timestamp AS at, 0 AS estimated
FROM {steps} WHERE cost_usd > 0
"""
NO_ATTEMPTS = """
SELECT NULL AS run_id, 0 AS step_n, 0 AS attempt, '' AS error, '' AS category, 0 AS nano_usd, '' AS started_at,
    0.0 AS duration WHERE 0
"""
VIEWS = (
    {
        "steps": NO_SCORES.format(steps=f"({LOOMC_STEPS})"),
        "runs": f"SELECT *, {NO_CONTROL} FROM ({LOOMC_RUNS})",
        "charges": NO_MODELS.format(charges=f"({LOOMC_CHARGES})"),
        "attempts": NO_ATTEMPTS,
    },
    {"runs": f"SELECT *, {NO_CONTROL} FROM {{runs}}", "steps": NO_SCORES, "charges": NO_MODELS},
    {"runs": f"SELECT *, {NO_DIRECTION} FROM {{runs}}", "steps": NO_SCORES, "charges": NO_MODELS, "calls": NO_HASHES},
    {"steps": NO_SCORES, "charges": NO_MODELS, "calls": NO_HASHES},
    {"calls": NO_HASHES},
)
"""How the tables of each older version are read as today's."""

MAIN = {name: f"main.{name}" for name in ("runs", "steps", "charges", "calls")}
"""The tables that views stand before."""

COLUMNS = {
    "runs": {"id", "spec_hash", "status", "created_at", "updated_at"},
    "steps": {"run_id", "step_n", "state_blob", "cost_usd", "score", "timestamp", "error"},
}
"""What every version has, loomc 0.3.0 too."""


COPIES = ("before-migration", "unfinished-copy")
"""What is added to the name of a database for the copy of an older one, and for one that is being made."""


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring an older database up to date after keeping a copy of it beside it.

    Raises:
        StoreError: When it belongs to a newer version or to another program; it is left as it is.
    """
    if version_of(db, path) == VERSION:
        return
    with transaction(db):
        version = version_of(db, path)  # another process may have been faster
        if version < VERSION and _tables(db):
            _back_up(path)
        if version == 0:
            _create(db)
        for script in SCRIPTS[max(version, 1) :]:
            for statement in _statements(script):
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {VERSION}")


def read_as_today(db: sqlite3.Connection, path: Path) -> None:
    """Let an older database be read through today's names, by views that live in this connection only.

    Raises:
        RunNotFound: When it has no tables yet.
        StoreError: When it belongs to a newer version or to another program.
    """
    version = version_of(db, path)
    if version == 0 and not _tables(db):
        raise RunNotFound(f"there are no runs in {path} yet; a first run makes its tables")
    for name, query in VIEWS[version].items() if version < VERSION else ():
        db.execute(f"CREATE TEMP VIEW {name} AS {query.format(**MAIN)}")
    lacking = set[str]()
    for script in SCRIPTS[max(version, 1) :]:  # what it lacks is empty
        for statement in _statements(script):
            verb, _, table = statement.split(maxsplit=3)[:3]
            if verb == "CREATE" and statement.startswith("CREATE TABLE"):
                db.execute(statement.replace("CREATE TABLE", "CREATE TEMP TABLE", 1))
                lacking.add(table)
            elif verb == "ALTER" and table in lacking:
                db.execute(statement)


def version_of(db: sqlite3.Connection, path: Path) -> int:
    """The version of the tables: 0 for none yet and for loomc 0.3.0.

    Raises:
        StoreError: When it belongs to a newer version or to another program.
    """
    version: int = db.execute("PRAGMA user_version").fetchone()[0]
    if version or _tables(db):
        for table, wanted in COLUMNS.items():
            if not wanted <= {row[1] for row in db.execute(f"PRAGMA table_xinfo({table})")}:
                found = ", ".join(sorted(_tables(db))) or "none"
                raise StoreError(
                    f"{path} is a database of another program (tables: {found}); name another with LOOMC_DB or --db"
                )
    if version > VERSION:
        raise StoreError(
            f"{path} was written by a newer loomc_runner (its tables have version {version}, this one knows "
            f"{VERSION}); upgrade with: pip install -U loomc-runner"
        )
    return version


def _tables(db: sqlite3.Connection) -> set[str]:
    return {row[0] for row in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _create(db: sqlite3.Connection) -> None:
    """Make the tables of the first version, and fill them with what loomc 0.3.0 kept."""
    older = bool(_tables(db))
    if older:
        db.execute("ALTER TABLE runs RENAME TO loomc_runs")
        db.execute("ALTER TABLE steps RENAME TO loomc_steps")
    for statement in _statements(TABLES):
        db.execute(statement)
    if older:
        names = {"runs": "loomc_runs", "steps": "loomc_steps"}
        queries = {"runs": LOOMC_RUNS, "steps": LOOMC_STEPS, "charges": LOOMC_CHARGES}
        for table, query in queries.items():
            columns = [item[0] for item in db.execute(f"{query.format(**names)} LIMIT 0").description]
            db.execute(f"INSERT INTO {table} ({', '.join(columns)}) {query.format(**names)}")
        db.execute("DROP TABLE loomc_steps")
        db.execute("DROP TABLE loomc_runs")


def _statements(script: str) -> Iterator[str]:
    return (statement.strip() for statement in script.split(";\n") if statement.strip())


def _back_up(path: Path) -> None:
    """Keep a copy, through a connection of its own, which reads what was there before this transaction."""
    copy, unfinished = (path.with_name(f"{path.name}.{word}") for word in COPIES)
    if not copy.exists():
        unfinished.unlink(missing_ok=True)
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(unfinished)) as target:
            source.backup(target)
        unfinished.replace(copy)
