"""A run as a tree: its steps, and in each its attempts, calls, questions and child runs, as the records tell."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from loomc_runner.clock import SystemClock
from loomc_runner.errors import RunNotFound, StateDropped
from loomc_runner.records import INITIAL, NANO, Call, Question, Run, RunStatus, StepRecord
from loomc_runner.report import dollars, page_attempts, page_steps, reason, score_words
from loomc_runner.store import Store
from loomc_runner.trace.inside import Spent, asked, called, in_order, tried
from loomc_runner.trace.live import Live
from loomc_runner.trace.nodes import LEAST, MOST_NODES, Node, counted, ends, folded, pruned

REMEMBERED = 3
"""States that are kept at hand while a tree is made."""

FAILED = {RunStatus.FAILED, RunStatus.INTERRUPTED}


def tree(store: Store, run: Run, live: Live, room: int = MOST_NODES) -> Node:
    """The run with all that is in it, within so many nodes; of steps that are not shown no state is read."""
    questions = defaultdict[tuple[str, int], list[Question]](list)
    for question in store.questions(run.id):
        questions[question.run_id, question.step_n].append(question)
    return pruned(_Trees(store, live, questions).of_run(run, room), room)


@dataclass(slots=True)
class _Stretch:
    """Steps in a row that are shown as one node."""

    first: StepRecord[Any] | None = None
    count: int = 0
    nano: int = 0
    tokens: int = 0
    newest: StepRecord[Any] | None = None

    def add(self, step: StepRecord[Any], failed_tries: int) -> None:
        """One more, and what its failed tries have cost in nano-dollars."""
        self.first, self.newest = self.first or step, step
        self.count, self.tokens = self.count + 1, self.tokens + step.tokens
        self.nano += (step.nano_usd or 0) + failed_tries

    def node(self) -> Iterator[Node]:
        """The node, if there are any."""
        if self.first is None or self.newest is None:
            return
        start, end = self.first.timestamp.timestamp() - self.first.duration, self.newest.timestamp.timestamp()
        words = counted(self.count, "step")
        tags = {"folded": words, "from": f"step {self.first.step_n}", "to": f"step {self.newest.step_n}"}
        if self.nano:
            tags["cost"] = dollars(self.nano / NANO)
        yield Node(
            f"… {words}",
            "folded",
            start,
            end - start,
            tags=tags,
            tokens=self.tokens,
            usd=self.nano / NANO,
            folded_steps=self.count,
        )


class _Trees:
    """Makes trees of the runs of one store."""

    def __init__(self, store: Store, live: Live, questions: dict[tuple[str, int], list[Question]]) -> None:
        self._store, self._live, self._asked = store, live, questions
        self._now = SystemClock().now().timestamp()
        self._states: dict[tuple[str, int], str | None] = {}

    def of_run(self, run: Run, room: int) -> Node:
        """A run with its steps."""
        steps = self._steps(run, room - 1)
        begun, ended = run.created_at.timestamp(), run.updated_at.timestamp()
        start = min([begun, *(step.start for step in steps)])
        end = max([self._now if run.status is RunStatus.RUNNING else ended, *(step.end for step in steps)])
        initial = self._state(run.id, INITIAL)
        inputs = {"initial state": initial} if initial is not None else {}
        if run.notes:
            inputs["notes"] = "\n".join(run.notes)
        why = reason(run)
        return Node(
            f"run {run.id} {run.loop or ''}",
            "run",
            start,
            end - start,
            inputs,
            run.result if run.result is not None else why or None,
            why if run.status in FAILED else None,
            self._tags_of_run(run, why),
            children=steps,
        )

    def _tags_of_run(self, run: Run, why: str) -> dict[str, str]:
        spent, tokens = self._store.subtree(run.id)
        facts = {
            "status": run.status.value,
            "stopped": why,
            "steps": str(run.steps),
            "cost": dollars(spent / NANO) if spent else "",
            "tokens": f"{tokens:,}" if tokens else "",
            "best": "" if run.best_step is None else f"step {run.best_step}",
            "resumed": str(run.resumes) if run.resumes else "",
            "forked from": run.forked_from or "",
            "tags": ", ".join(run.tags),
        }
        return {name: fact for name, fact in facts.items() if fact}

    def _steps(self, run: Run, room: int) -> list[Node]:
        """The steps of a run; the middle of a long one is folded, but for its best step and those that failed."""
        total = run.steps + self._is_begun(run)
        kept = room // (10 * LEAST)
        spare = (kept + 1) * (LEAST + 1)
        first, last = ends(
            lambda index, left: self._step(run, index, left), total, room if total <= room else room - spare
        )
        if len(first) + len(last) == total:
            return first + last
        size = sum(node.size for node in first + last)
        while size + spare > room and len(last) > 1:
            size -= last.pop(0).size
        return [*first, *self._middle(run, len(first), total - len(last), kept), *last]

    def _is_begun(self, run: Run) -> bool:
        """Whether there is a step that is not committed: it is under way, was cut off, or failed."""
        step_n = run.steps
        return run.in_flight is not None or bool(self._store.attempts(run.id, step_n, step_n + 1))

    def _middle(self, run: Run, begin: int, end: int, kept: int) -> Iterator[Node]:
        """The steps from `begin` up to `end`, folded; the best one and so many that failed are shown."""
        stretch = _Stretch()
        attempts = page_attempts(self._store, run, begin)
        attempt = next(attempts, None)
        for step in takewhile(lambda step: step.step_n < end, page_steps(self._store, run, begin)):
            failed_tries = 0
            while attempt is not None and attempt.step_n <= step.step_n:
                failed_tries += attempt.nano_usd
                attempt = next(attempts, None)
            if step.step_n == run.best_step or (step.error is not None and kept > 0):
                kept -= step.error is not None
                yield from stretch.node()
                stretch = _Stretch()
                yield self._step(run, step.step_n, LEAST)
            else:
                stretch.add(step, failed_tries)
        yield from stretch.node()

    def _step(self, run: Run, step_n: int, room: int) -> Node:
        """A step, committed or not, with what is in it, in the order in which that began."""
        window = (run.id, step_n, step_n + 1)
        (step,) = self._store.steps(*window) or (None,)
        attempts = self._store.attempts(*window)
        calls = self._calls(run.id, self._store.calls(*window))
        questions = [asked(question) for question in self._asked.get((run.id, step_n), ())]
        last = int(step is not None or run.in_flight == step_n)
        tries = [
            tried(attempt, self._live.of_try(run.id, step_n, len(attempts) - 1 - index + last))
            for index, attempt in enumerate(attempts)
        ]
        own = [*calls, *questions, *(self._live.of_try(run.id, step_n, 0) if last else [])]
        left = room - 2 - sum(node.size for node in (*tries, *own))
        inside = in_order(tries, [*own, *self._children(run, step_n, left)])
        spent = Spent.of(self._store.charges(*window), inside)
        node = self._begun(run, step_n, inside, spent) if step is None else self._committed(run, step, inside, spent)
        return pruned(node, room)

    def _committed(self, run: Run, step: StepRecord[Any], inside: list[Node], spent: Spent) -> Node:
        committed = step.timestamp.timestamp()
        start = min([committed - step.duration, *(node.start for node in inside)])
        was_tried = any(node.kind == "attempt" for node in inside)
        before, origin = self._state(run.id, step.parent_n), f"the state after step {step.parent_n}"
        facts = {
            "best": "yes" if step.step_n == run.best_step else "",
            "score": score_words(step.score, step.scores),
            "cost": dollars(step.cost_usd) if step.priced else "",
            "tokens": f"{step.tokens:,}" if step.tokens else "",
            "decision": step.decision or "",
            "state": "dropped" if step.state_dropped else "",
            "estimated": "its cost" if spent.estimated else "",
        }
        return Node(
            f"step {step.step_n}",
            "step",
            start,
            committed - start if was_tried else step.duration,
            {} if before is None else {"the initial state" if step.parent_n == INITIAL else origin: before},
            None if step.state_dropped else self._state(run.id, step.step_n),
            step.error,
            {name: fact for name, fact in facts.items() if fact},
            **spent.counted(),
            children=inside,
        )

    def _begun(self, run: Run, step_n: int, inside: list[Node], spent: Spent) -> Node:
        """A step that is not committed: under way, cut off, or one whose tries failed."""
        last, at_work = run.updated_at.timestamp(), run.status is RunStatus.RUNNING
        in_flight = run.in_flight == step_n
        mark = ("under way" if at_work else "cut off") if in_flight else "not committed"
        start = min([node.start for node in inside] or [last])
        end = max([(self._now if at_work else last) if in_flight else start, *(node.end for node in inside)])
        newest = self._state(run.id, run.steps - 1)
        return Node(
            f"step {step_n}",
            "step",
            start,
            end - start,
            {} if newest is None else {"the newest state": newest},
            None,
            mark if mark == "cut off" else next((node.error for node in reversed(inside) if node.error), None),
            {mark: ""},
            **spent.counted(),
            children=inside,
        )

    def _calls(self, run_id: str, calls: Iterable[Call]) -> list[Node]:
        """The durable calls of a step, those that were made in others below them."""
        top, by_number = list[Node](), dict[int, Node]()
        for call in calls:
            node = by_number[call.seq] = called(call, self._live.of_call(run_id, call.step_n, call.seq))
            outer = None if call.outer is None else by_number.get(call.outer)
            (top if outer is None else outer.children).append(node)
        return top

    def _children(self, run: Run, step_n: int, room: int) -> list[Node]:
        """The child runs of a step; of very many the first and the last."""
        runs = self._store.list_runs(parent=run.id, parent_step=step_n)[::-1]
        if not runs:
            return []

        def child(index: int, left: int) -> Node:
            return self.of_run(runs[index], max(left // (len(runs) - index), LEAST))

        first, last = ends(child, len(runs), room)
        middle = runs[len(first) : len(runs) - len(last)]
        return [*first, *([self._folded_runs(middle)] if middle else []), *last]

    def _folded_runs(self, runs: Iterable[Run]) -> Node:
        nodes = []
        for run in runs:
            nano, tokens = self._store.subtree(run.id)
            start, end = run.created_at.timestamp(), run.updated_at.timestamp()
            nodes.append(
                Node("", "child run", start, end - start, tokens=tokens, usd=nano / NANO, folded_steps=run.steps)
            )
        return folded(nodes)

    def _state(self, run_id: str, step_n: int) -> str | None:
        """A state as JSON text; None where it is not kept. The last ones are remembered: steps begin with them."""
        key = (run_id, step_n)
        if key not in self._states:
            try:
                self._states[key] = self._store.state(run_id, step_n)
            except (RunNotFound, StateDropped):
                self._states[key] = None
            if len(self._states) > REMEMBERED:
                del self._states[next(iter(self._states))]
        return self._states[key]
