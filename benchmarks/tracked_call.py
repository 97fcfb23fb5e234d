"""What `track` adds to a call of a vendor's SDK, beside what the SDK itself takes, and beside two bare commits.

The SDK answers itself through a transport in the process, so that no network is measured. A tracked call writes twice:
what it may cost before it is sent, and what it has cost after; on disk each is a commit with power-loss durability. All
are measured in fresh processes, in turn:

    python benchmarks/tracked_call.py                  # 300 calls, 5 rounds
"""

from __future__ import annotations

import argparse
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-sonnet-5-5",
    "content": [{"type": "text", "text": "At six."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 1200, "output_tokens": 300},
}
CASES = ("sdk", "memory", "disk", "commits")


def client() -> Any:
    """A real client, whose requests are answered in the process."""
    import anthropic
    import httpx2

    transport = httpx2.MockTransport(lambda _: httpx2.Response(200, json=ANSWER))
    return anthropic.Anthropic(api_key="none", http_client=httpx2.Client(transport=transport))


def ask(sdk: Any) -> None:
    """One request with a prompt of about 2 KB."""
    messages = [{"role": "user", "content": "When does the harbour open? " * 75}]
    sdk.messages.create(model="claude-sonnet-5-5", max_tokens=1024, messages=messages)


def calls(count: int, checkpoint: str | None) -> float:
    """Seconds for so many calls: bare, or tracked in one step of a loop."""
    sdk = client()
    ask(sdk)  # what is built once
    if checkpoint is None:
        begun = time.perf_counter()
        for _ in range(count):
            ask(sdk)
        return time.perf_counter() - begun
    from loomc_runner import Budget, loop, track

    track(sdk)
    taken: list[float] = []

    @loop(checkpoint=checkpoint, budget=Budget(usd=1000, iterations=1))
    def step(n: int) -> int:
        ask(sdk)
        begun = time.perf_counter()
        for _ in range(count):
            ask(sdk)
        taken.append(time.perf_counter() - begun)
        return n

    step.run(0)
    return taken[0]


def commits(count: int, path: Path) -> float:
    """Seconds for two bare commits a call."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute("CREATE TABLE charges (id INTEGER PRIMARY KEY, label TEXT, nano INTEGER)")
    begun = time.perf_counter()
    for n in range(2 * count):
        db.execute("BEGIN IMMEDIATE")
        db.execute("INSERT INTO charges (label, nano) VALUES ('a label', ?)", (n,))
        db.execute("COMMIT")
    taken = time.perf_counter() - begun
    db.close()
    return taken


def measure(case: str, count: int) -> float:
    """Seconds for a case, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        if case == "commits":
            return commits(count, Path(folder) / "bare.db")
        return calls(count, {"sdk": None, "memory": "memory", "disk": f"{folder}/runs.db"}[case])


def main() -> None:
    """Measure every case in turn, several times, and print microseconds a call and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.calls)))
        return
    found: dict[str, list[float]] = {case: [] for case in CASES}
    for _ in range(options.rounds):
        for case in CASES:
            command = [sys.executable, __file__, "--case", case, "--calls", str(options.calls)]
            seconds = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
            found[case].append(seconds / options.calls * 1e6)
    for case, micro in found.items():
        print(f"{case:8} {statistics.median(micro):7.0f} us a call ({min(micro):.0f}-{max(micro):.0f})")
    middle = {case: statistics.median(micro) for case, micro in found.items()}
    added, on_disk = middle["memory"] - middle["sdk"], middle["disk"] - middle["sdk"]
    print(f"track in memory adds {added:.0f} us, {added / middle['sdk']:.2f} times what the SDK takes")
    print(f"track on disk adds {on_disk / middle['commits']:.2f} times two bare commits")


if __name__ == "__main__":
    main()
