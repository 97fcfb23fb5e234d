"""What is on record of the inside of a step, over all its tries: calls, questions and child runs."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict
from collections.abc import Iterator

from loomc_runner.records import Call, CallStatus, Question, Run
from loomc_runner.store import Store


class Journal:
    """What is on record of the inside of a step.

    Everything is known by a key: what it is, and its occurrence among equals in one try, so that threads and tasks
    may come in any order. Only a step that was `tried` before has a record to read, and it is read when first asked
    for: a step that goes well the first time costs no query.
    """

    def __init__(self, store: Store, run_id: str, step_n: int, *, tried: bool) -> None:
        self.step_n = step_n
        self._store, self._run_id, self._unread = store, run_id, tried
        self._lock = threading.RLock()
        self._calls: dict[str, Call] = {}
        self._questions: dict[str, Question] = {}
        self._children: dict[str, str] = {}
        self._next = defaultdict[str, int](int)
        self._seen = defaultdict[tuple[str, str], int](int)
        self._asked: set[str] = set()
        self._running: set[str] = set()

    def begin_try(self) -> None:
        """The step is tried again: its calls are counted anew."""
        with self._lock:
            self._seen.clear()
            self._asked.clear()

    def key_of(self, *parts: str, within: str = "") -> str:
        """What the next of its kind is known by: a hash of its parts, and its occurrence among equals in this try.

        Inside of a durable call, `within`, they are counted apart.
        """
        with self._lock:
            text = "\0".join((*parts, within))
            digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:20]
            self._seen[within, digest] += 1
            return f"{digest}:{self._seen[within, digest] - 1}"

    def begin_call_again(self, key: str) -> None:
        """A call is tried again: what is inside of it is counted anew, down to the last."""
        with self._lock:
            for within, digest in [place for place in self._seen if place[0] == key]:
                for occurrence in range(self._seen.pop((within, digest))):
                    self.begin_call_again(f"{digest}:{occurrence}")

    def begin(self, key: str) -> bool:
        """A call is under way from here; False where it was so already."""
        with self._lock:
            free = key not in self._running
            self._running.add(key)
            return free

    def end(self, key: str) -> None:
        """A call is not under way any more."""
        with self._lock:
            self._running.discard(key)

    def call(self, key: str) -> Call | None:
        """The newest try of a call, if it was started before."""
        with self._lock:
            self._read()
            self._asked.add(key)
            return self._calls.get(key)

    def note_call(self, call: Call) -> None:
        """Take note of a call that has been recorded."""
        with self._lock:
            self._calls[call.key] = call

    def question(self, key: str) -> Question | None:
        """A question that was asked before."""
        with self._lock:
            self._read()
            self._asked.add(key)
            return self._questions.get(key)

    def note_question(self, question: Question) -> None:
        """Take note of a question that has been recorded."""
        with self._lock:
            self._questions[question.key] = question

    def child(self, key: str) -> str | None:
        """The id of a child run that was begun before."""
        with self._lock:
            self._read()
            self._asked.add(key)
            return self._children.get(key)

    def note_child(self, key: str, run_id: str) -> None:
        """Take note of a child run that is begun."""
        with self._lock:
            self._children[key] = run_id

    def next_number(self, kind: str) -> int:
        """The next free number for a call, a question or a child run."""
        with self._lock:
            self._read()
            self._next[kind] += 1
            return self._next[kind] - 1

    def now_open(self) -> Iterator[Question]:
        """The questions of this try that have no answer yet."""
        with self._lock:
            return iter([q for key, q in self._questions.items() if key in self._asked and q.is_open])

    def withdrawn(self) -> tuple[tuple[int, int], ...]:
        """The open questions of earlier tries that this one did not ask."""
        with self._lock:
            open_ones = [q for key, q in self._questions.items() if q.is_open and key not in self._asked]
            return tuple((question.step_n, question.seq) for question in open_ones)

    def superseded(self) -> tuple[str, ...]:
        """The child runs of earlier tries that this one did not ask for."""
        with self._lock:
            return tuple(run_id for key, run_id in self._children.items() if key not in self._asked)

    def unused(self) -> list[Call]:
        """The results of earlier tries that this one did not ask for, but for those inside of a call that was used."""
        with self._lock:
            by_seq = {call.seq: call for call in self._calls.values()}

            def is_covered(call: Call) -> bool:
                outer = by_seq.get(-1 if call.outer is None else call.outer)
                return outer is not None and (outer.key in self._asked or is_covered(outer))

            done = (call for call in self._calls.values() if call.status is CallStatus.DONE)
            return [call for call in done if call.key not in self._asked and not is_covered(call)]

    def _read(self) -> None:
        if not self._unread:
            return
        calls = self._store.calls(self._run_id, self.step_n, self.step_n + 1)
        questions = [q for q in self._store.questions(self._run_id) if q.run_id == self._run_id]
        children = self._store.list_runs(parent=self._run_id, parent_step=self.step_n)
        self._calls = {call.key: call for call in calls}  # in order, so that the newest try of each counts
        self._questions = {question.key: question for question in questions if question.step_n == self.step_n}
        self._children = {run.child_key: run.id for run in children if run.child_key is not None}
        self._next["call"] = 1 + max((call.seq for call in calls), default=-1)
        self._next["question"] = 1 + max((q.seq for q in self._questions.values()), default=-1)
        self._next["child"] = 1 + max((_number(run) for run in children), default=-1)
        self._unread = False


def _number(child: Run) -> int:
    """K of `PARENT.STEP.K`; of a child with an id of somebody's choice, none."""
    last = child.id.rpartition(".")[2]
    return int(last) if last.isdecimal() else -1
