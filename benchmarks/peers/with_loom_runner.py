"""loom-runner 0.1.3, as its README shows it; variant `compact` is its policy for long deterministic loops."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass, field
from typing import Any

from child import RUN, Child, main
from loom_agent import AgentRunner, CheckpointPolicy, Continue, RunContext, SQLiteCheckpointStore


@dataclass(frozen=True)
class Tiny:
    """A state of about 250 bytes."""

    text: str = "x" * 200
    n: int = 0
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Transcript:
    """A list that grows."""

    n: int = 0
    items: list[str] = field(default_factory=list)


def work(child: Child) -> None:
    async def tiny(state: Tiny, _: RunContext) -> Continue[Tiny]:
        child.begin_step(state.n)
        return Continue(Tiny(n=state.n + 1))

    async def growing(state: Transcript, _: RunContext) -> Continue[Transcript]:
        if child.resuming:
            child.check(len(state.items))
        child.begin_step(state.n)
        return Continue(Transcript(state.n + 1, [*state.items, child.item()]))

    kind: Any = Transcript if child.growing else Tiny
    runner: AgentRunner[Any, Any] = AgentRunner(
        step=growing if child.growing else tiny,
        store=SQLiteCheckpointStore(str(child.path)),
        encode_state=asdict,
        decode_state=lambda data: kind(**data),
        encode_result=lambda result: result,
        decode_result=lambda data: data,
        checkpoint_policy=CheckpointPolicy(mode="compact" if child.variant == "compact" else "full"),
    )
    if child.resuming:
        asyncio.run(runner.resume(run_id=RUN, max_steps=1))
    else:
        asyncio.run(runner.start(run_id=RUN, initial_state=kind(), max_steps=child.steps + 1))


if __name__ == "__main__":
    main("loom-runner", work)
