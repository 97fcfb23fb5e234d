"""What is inside a step as nodes: attempts, calls, questions, and what all of it has cost."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from loomc_runner.records import NANO, Attempt, Call, CallStatus, Charge, Question
from loomc_runner.report import dollars, dropped_result
from loomc_runner.trace.nodes import Node


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent in a step itself, child runs left out."""

    usd: float
    tokens: int
    labels: tuple[str, ...]
    estimated: bool

    @classmethod
    def of(cls, charges: Iterable[Charge], inside: Iterable[Node]) -> Spent:
        """What charges come to; tokens that nodes inside have counted already are not counted twice."""
        recorded = list(charges)
        tokens = sum(charge.tokens for charge in recorded) - sum(map(_counted, inside))
        labels = dict.fromkeys(charge.label for charge in recorded if charge.label)
        nano = sum(charge.nano_usd for charge in recorded)
        return cls(nano / NANO, max(tokens, 0), tuple(labels), any(charge.estimated for charge in recorded))

    def counted(self) -> dict[str, Any]:
        """The same as fields of a node; the model is what the charges were labelled with."""
        return {"usd": self.usd, "tokens": self.tokens, "model": ", ".join(self.labels) or None}


def _counted(node: Node) -> int:
    return 0 if node.kind == "run" else node.tokens + sum(map(_counted, node.children))


def tried(attempt: Attempt, functions: list[Node]) -> Node:
    """A try of a step that did not become one; those that were left in order count as no error."""
    begun = attempt.started_at.timestamp()
    start = min([begun, *(node.start for node in functions)])
    left = attempt.was_left
    tags = {"category": attempt.category, **_cost(attempt.nano_usd)}
    return Node(
        f"step {attempt.step_n} attempt {attempt.attempt}",
        "attempt",
        start,
        begun + attempt.duration - start,
        output=attempt.error if left else None,
        error=None if left else attempt.error,
        tags=tags,
        children=[*functions],
    )


def called(call: Call, functions: list[Node]) -> Node:
    """A durable call; one without a result was cut off, or is under way."""
    tags = {"status": call.status.value, **({"category": call.category} if call.category else {})}
    if call.result_hash is not None:
        tags["result"] = "dropped"
    return Node(
        call.name,
        "call",
        call.started_at.timestamp(),
        call.duration or max([0.0, *(node.end - call.started_at.timestamp() for node in functions)]),
        {"known as": call.key, "number": str(call.seq)},
        call.result if call.result_hash is None else dropped_result(call),
        call.error,
        {**tags, **_cost(call.nano_usd), **({"no result": ""} if call.status is CallStatus.STARTED else {})},
        children=[*functions],
    )


def asked(question: Question) -> Node:
    """A question to a person, open until it was answered."""
    begun = question.asked_at.timestamp()
    end = begun if question.answered_at is None else question.answered_at.timestamp()
    facts = {
        "status": "withdrawn" if question.withdrawn else "open" if question.is_open else "answered",
        "answered by": question.answered_by or "",
    }
    return Node(
        f"question {question.number}",
        "question",
        begun,
        max(end - begun, 0.0),
        {"asks": question.prompt},
        question.answer,
        tags={name: fact for name, fact in facts.items() if fact},
    )


def in_order(attempts: list[Node], others: Iterable[Node]) -> list[Node]:
    """All of it by time; what had begun before an attempt ended is below the attempt."""
    after = []
    for node in sorted(others, key=lambda node: node.start):
        attempt = next((attempt for attempt in attempts if node.start <= attempt.end), None)
        if attempt is None:
            after.append(node)
        else:
            attempt.children.append(node)
            earlier = min(attempt.start, node.start)
            attempt.start, attempt.duration = earlier, attempt.end - earlier
    for attempt in attempts:
        attempt.children.sort(key=lambda node: node.start)
    return [*attempts, *after]


def _cost(nano: int) -> dict[str, str]:
    return {"cost": dollars(nano / NANO)} if nano else {}
