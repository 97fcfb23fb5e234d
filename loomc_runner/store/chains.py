"""Which earlier step a big state is built on: so that it costs what it grows by, and is read back in a few hops."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator

from loomc_runner.records import INITIAL
from loomc_runner.store.states import Known, Written, built_on, patched_on, size, whole

SMALL = 1024
"""Characters; shorter states are stored as they are."""

SPREAD = 8
"""Each so many-th step is built on the one so many before, each 64th on the one 64 before, and so on."""

MOST_HOPS, MOST_PATCHES = 96, 6
"""Steps that a state may be built on, and patches among them: each of those takes a pass over the whole text."""

CHEAP, WORTH_IT = 0.25, 0.7
"""A patch of so much of the text is stored at once; a bigger one when it is so much smaller than all, compressed."""

LONGEST_PAUSE = 64
"""Writes after which a patch is tried again, where the last ones have saved nothing."""

MOST_AT_HAND = 64_000_000
"""Characters of states kept at hand for all runs together; those of a run that is beyond are read when needed."""


def is_small(text: str) -> bool:
    """Whether a state is stored as it is, and nothing is built on it."""
    return len(text) < SMALL


Read = Callable[[int], Known | None]
"""Gives the stored state of a step of the run; None when it is not kept."""


def bases(step_n: int, parent_n: int) -> Iterator[int]:
    """The steps that a new one may be built on, the best first: as a rule its parent.

    Each eighth is built on the one eight before, each 64th on the one 64 before, and so on, where they are alike: so
    the way back to the first is about seven hops for each power of eight, and what the states grow by is written once
    for each power.
    """
    place, stride = step_n - INITIAL, SPREAD
    while place and place % (stride * SPREAD) == 0:
        stride *= SPREAD
    while place and place % SPREAD == 0 and stride > 1:
        yield step_n - stride
        stride //= SPREAD
    if place:
        yield parent_n


def lasting(newest: int) -> set[int]:
    """The steps that later ones will be built on."""
    place, stride, found = newest - INITIAL, SPREAD, {newest}
    while stride <= place:
        found.add(newest - place % stride)
        stride *= SPREAD
    return found | {INITIAL}


class Chain:
    """The states of a run at work that its next ones may be built on."""

    def __init__(self) -> None:
        self._known: dict[int, Known] = {}
        self._pause = self._left = 0
        self._noted = INITIAL
        self.counted = 0

    @property
    def size(self) -> int:
        """Characters at hand."""
        return sum(len(known.text) for known in self._known.values())

    def note(self, step_n: int, known: Known) -> None:
        """A state was read: as a rule since the run goes on from there."""
        if len(known.text) >= SMALL and step_n not in self._known:
            self._known.pop(self._noted, None)  # only the last one: somebody may look at them all
            self._noted, self._known[step_n] = step_n, known

    def drop(self, step_n: int) -> None:
        """The stored state of a step is not kept any more."""
        self._known.pop(step_n, None)

    def write(self, step_n: int, parent_n: int, text: str, read: Read) -> Written:
        """How the state of a new step is to be stored."""
        written, known = self._written(step_n, parent_n, text, read)
        self._known[step_n] = known
        lasts = lasting(step_n) if self.size <= MOST_AT_HAND else {step_n}
        for other in self._known.keys() - lasts:
            del self._known[other]
        return written

    def _written(self, step_n: int, parent_n: int, text: str, read: Read) -> tuple[Written, Known]:
        found = list[tuple[int, Known]]()
        for base_n in bases(step_n, parent_n):
            base = self._known.get(base_n) or read(base_n)
            if base is None or len(base.text) < SMALL or base.hops >= MOST_HOPS:
                continue
            if (written := built_on(base_n, base.text, text)) is not None:
                return written, Known(text, base.hops + 1, base.patches)
            found.append((base_n, base))
        return self._written_anew(text, found)

    def _written_anew(self, text: str, found: list[tuple[int, Known]]) -> tuple[Written, Known]:
        """A state that has changed all over: as a patch if that is smaller than all of it."""
        self._left -= 1
        patches = [(base_n, base) for base_n, base in found if base.patches < MOST_PATCHES]
        if not patches or self._left >= 0:
            return whole(text), Known(text)
        base_n, base = patches[0]
        patch = patched_on(base_n, base.text, text)
        if size(patch) > CHEAP * len(text) and size(patch) > WORTH_IT * size(full := whole(text)):
            self._pause = self._left = min(self._pause * 2 or 1, LONGEST_PAUSE)
            return full, Known(text)
        self._pause = 0
        return patch, Known(text, base.hops + 1, base.patches + 1)


def rewritten(text: str, base_n: int | None, base: Known | None) -> Written:
    """How a state is stored that loses the one it was built on, and may be built on another."""
    if len(text) < SMALL or base_n is None or base is None or len(base.text) < SMALL:
        return whole(text)
    if (written := built_on(base_n, base.text, text)) is not None:
        return written
    patch, full = patched_on(base_n, base.text, text), whole(text)
    return patch if base.patches < MOST_PATCHES and size(patch) < WORTH_IT * size(full) else full


class Chains:
    """The chains of all runs at work, the one that was used last at the end."""

    def __init__(self) -> None:
        self._chains: OrderedDict[str, Chain] = OrderedDict()
        self._size = 0

    def of(self, run_id: str) -> Chain | None:
        """The chain of a run that has written a big state."""
        return self._chains.get(run_id)

    def write(self, run_id: str, step_n: int, parent_n: int, text: str, read: Read) -> Written:
        """How the state of a new step is to be stored, that is not small."""
        chain = self._chains.setdefault(run_id, Chain())
        self._chains.move_to_end(run_id)
        written = chain.write(step_n, parent_n, text, read)
        self._count(chain, chain.size)
        while len(self._chains) > 1 and self._size > MOST_AT_HAND:
            self.forget(next(iter(self._chains)))
        return written

    def drop(self, run_id: str, steps: Collection[int]) -> None:
        """The stored states of some steps are not kept any more."""
        if (chain := self._chains.get(run_id)) is not None:
            for step_n in steps:
                chain.drop(step_n)

    def forget(self, *run_ids: str) -> None:
        """Let go of what is at hand of some runs: they have ended, or may be others by now."""
        for run_id in run_ids:
            if (chain := self._chains.pop(run_id, None)) is not None:
                self._count(chain, 0)

    def _count(self, chain: Chain, size: int) -> None:
        """Add up as it changes, since there may be many runs at work."""
        self._size, chain.counted = self._size + size - chain.counted, size
