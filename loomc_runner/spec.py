"""Every option of `@loop` in one frozen value, validated once, when the function is decorated."""

from __future__ import annotations

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from loomc_runner.backtrack import Strategy, askings
from loomc_runner.budget import Budget
from loomc_runner.clock import Clock, SystemClock
from loomc_runner.converge import Detector, Escalate, as_detector, parts_of
from loomc_runner.errors import SpecError
from loomc_runner.keep import Keep
from loomc_runner.records import Run
from loomc_runner.retry import Retry
from loomc_runner.scores import Direction
from loomc_runner.state import annotation_of
from loomc_runner.store import Store, check_checkpoint

S = TypeVar("S")


@dataclass(frozen=True)
class LoopSpec(Generic[S]):
    """What a loop is: its function and its options.

    `name` is how its runs name it: `module:qualname` unless chosen. `source` is the file it was defined in.
    `adopts` is a run that somebody said belongs to this loop, whatever the run itself says.
    """

    fn: Callable[..., Any]
    name: str
    source: str | None
    budget: Budget | None = None
    checkpoint: str | os.PathLike[str] | Store = "sqlite"
    detectors: tuple[Detector, ...] = ()
    strategies: tuple[Strategy, ...] = ()
    on_stall: Escalate | None = None
    scorer: Callable[[Any], Any] | None = None
    cost_fn: Callable[[Any], Any] | None = None
    tags: tuple[str, ...] = ()
    retry: Retry | None = None
    migrate: Callable[[Any], Any] | None = None
    on_step: tuple[Callable[[Any], Any], ...] = ()
    on_budget: tuple[Callable[[Any], Any], ...] = ()
    keep: Keep | None = None
    progress: bool = False
    direction: Direction = "maximize"
    is_async: bool = False
    is_method: bool = False
    adopts: str | None = None
    names: Mapping[str, Any] = field(default_factory=dict, repr=False)
    clock: Clock = field(default_factory=SystemClock, repr=False)

    @property
    def returns_best(self) -> bool:
        """Whether the loop's result is the best state and not the newest."""
        return any(getattr(strategy, "returns_best", False) for strategy in self.strategies)

    @cached_property
    def calls_back(self) -> bool:
        """Whether functions of the user's own are told what has happened."""
        return bool(self.on_step or self.on_budget)

    @property
    def looks_back(self) -> int:
        """From how many steps back its parts read states, as far as they say."""
        parts = parts_of((self.detectors, self.strategies, self.on_stall))
        return max((getattr(part, "looks_back", 0) for part in parts), default=0)

    @property
    def stated_direction(self) -> Direction | None:
        """Which scores are better; None in a loop without scores."""
        return None if self.scorer is None else self.direction

    @property
    def annotations(self) -> tuple[Any, Any]:
        """The declared types of the state and of a `Done` result; None where nothing is declared, or not yet."""
        try:
            return self._annotations
        except NameError:  # a class that is defined further down: looked up again the next time
            return None, None

    @cached_property
    def _annotations(self) -> tuple[Any, Any]:
        return annotation_of(self.fn, 0 if inspect.ismethod(self.fn) or not self.is_method else 1, self.names)

    @property
    def recorded_name(self) -> str:
        """How child runs of it are known in their parents' steps, also when a script is imported later."""
        own = f"{self.fn.__module__}:{self.fn.__qualname__}"
        return recorded_name(self.fn) if self.name == own else self.name

    @cached_property
    def spec_hash(self) -> str:
        """A fingerprint of the options."""
        parts = parts_of((self.detectors, self.strategies, self.on_stall, self.scorer, self.cost_fn))
        retried = () if self.retry is None else [getattr(self.retry, item.name) for item in fields(self.retry)]
        return _digest(f"{self.name} {self.budget} {[_in_words(part) for part in (*parts, *retried)]}")

    @cached_property
    def code_hash(self) -> str:
        """A fingerprint of the function's source, or of its byte code where there is no source."""
        try:
            return _digest(inspect.getsource(inspect.unwrap(self.fn)))
        except (OSError, TypeError):
            code = getattr(self.fn, "__code__", None)
            return _digest(repr(code and (code.co_code, code.co_names)))

    def owns(self, run: Run) -> bool:
        """Whether a stored run belongs to this loop."""
        if run.id == self.adopts:
            return True
        if run.loop is None:  # loomc 0.3.0 kept a hash of the function's name only
            name = f"{self.fn.__module__}.{self.fn.__qualname__}"
            return run.spec_hash == hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]
        moved = run.loop.rpartition(":")[2] == self.name.rpartition(":")[2] and run.source == self.source
        if run.loop == self.name and self.name.startswith("__main__:") and run.source is not None:
            return run.source == self.source  # scripts have all the same name
        return run.loop == self.name or (moved and run.source is not None)  # the same script as another module


def make_spec(
    fn: Callable[..., Any],
    *,
    budget: Budget | None,
    checkpoint: str | os.PathLike[str] | Store,
    converge_on: Any,
    backtrack: Any,
    on_stall: Escalate | None,
    scorer: Callable[[Any], Any] | None,
    cost_fn: Callable[[Any], Any] | None,
    retry: Retry | None,
    migrate: Callable[[Any], Any] | None,
    on_step: Any,
    on_budget: Any,
    keep: Keep | None,
    progress: bool,
    name: str | None,
    tags: Sequence[str],
    names: Mapping[str, Any],
) -> LoopSpec[Any]:
    """The validated options of a loop.

    Raises:
        SpecError: For the first option that cannot work, naming its value.
    """
    is_method, is_async = _check_function(fn), is_coroutine_function(fn)
    _check_types(budget, on_stall, retry, migrate, progress=progress)
    check_checkpoint(checkpoint)
    detectors, strategies = tuple(map(as_detector, _listed(converge_on))), tuple(map(_as_strategy, _listed(backtrack)))
    stepped, told = _callbacks("on_step", on_step), _callbacks("on_budget", on_budget)
    parts = list(parts_of((detectors, strategies, on_stall)))
    _check_callables(fn, {"scorer": scorer, "cost_fn": cost_fn}, [*parts, *stepped, *told], is_async=is_async)
    return LoopSpec(
        fn=fn,
        name=_check_name(name) or f"{fn.__module__}:{fn.__qualname__}",
        source=_source_of(fn),
        budget=budget,
        checkpoint=checkpoint,
        detectors=detectors,
        strategies=strategies,
        on_stall=on_stall,
        scorer=_the_scorer(scorer, parts),
        cost_fn=cost_fn,
        retry=retry,
        migrate=migrate,
        on_step=stepped,
        on_budget=told,
        keep=_the_keep(keep, _the_scorer(scorer, parts)),
        progress=progress,
        tags=check_tags(tags),
        direction=_the_direction(parts),
        is_async=is_async,
        is_method=is_method,
        names=names,
    )


def _check_types(budget: Any, on_stall: Any, retry: Any, migrate: Any, *, progress: Any) -> None:
    if budget is not None and not isinstance(budget, Budget):
        raise SpecError(f"budget={budget!r}: give a Budget, such as Budget(usd=2.00, iterations=15)")
    if on_stall is not None and not isinstance(on_stall, Escalate):
        raise SpecError(f"on_stall={on_stall!r}: give Escalate(after=5)")
    if retry is not None and not isinstance(retry, Retry):
        raise SpecError(f"retry={retry!r}: give Retry(...), such as Retry(attempts=3)")
    if migrate is not None and (not callable(migrate) or is_coroutine_function(migrate)):
        raise SpecError(f"migrate={migrate!r}: give a plain function of the old state as JSON that gives the new one")
    if not isinstance(progress, bool):
        raise SpecError(f"progress={progress!r}: give True or False")


def respecified(spec: LoopSpec[Any], changes: dict[str, Any]) -> LoopSpec[Any]:
    """The same loop with some options changed; they are named as in `@loop`."""
    options = {
        "budget": spec.budget,
        "checkpoint": spec.checkpoint,
        "converge_on": spec.detectors,
        "backtrack": spec.strategies,
        "on_stall": spec.on_stall,
        "scorer": None if any(getattr(part, "metric", None) for part in spec.strategies) else spec.scorer,
        "cost_fn": spec.cost_fn,
        "retry": spec.retry,
        "migrate": spec.migrate,
        "on_step": spec.on_step,
        "on_budget": spec.on_budget,
        "keep": spec.keep,
        "progress": spec.progress,
        "name": spec.name,
        "tags": spec.tags,
    }
    if unknown := set(changes) - set(options):
        raise TypeError(f"a loop has no option {', '.join(sorted(unknown))}; it has {', '.join(options)}")
    changed = make_spec(spec.fn, **{**options, **changes}, names=spec.names)
    return replace(changed, clock=spec.clock, adopts=spec.adopts)


def is_coroutine_function(fn: Any) -> bool:
    """Whether calling it gives something to await."""
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(getattr(fn, "__call__", None))  # noqa: B004


def recorded_name(fn: Any) -> str:
    """How calls and breakers of a function are recorded: the full name of its module, and its own.

    It is the same when a script is run and when it is imported.
    """
    named = fn if hasattr(fn, "__qualname__") else type(fn)
    module = getattr(named, "__module__", None) or "builtins"
    if module == "__main__" and (path := getattr(sys.modules["__main__"], "__file__", None)):
        module = _dotted(Path(path).absolute())
    return f"{module}.{named.__qualname__}"


def _dotted(path: Path) -> str:
    """The name under which a script would be imported: with the packages that it lies in."""
    parts, folder = [path.stem], path.parent
    while (folder / "__init__.py").exists():
        parts.insert(0, folder.name)
        folder = folder.parent
    return ".".join(parts)


def _check_function(fn: Any) -> bool:
    """Whether the function is a method; refuses what cannot be one iteration."""
    if not callable(fn) or isinstance(fn, type) or not hasattr(fn, "__qualname__"):
        raise SpecError(f"@loop decorates a function of one state, not {fn!r}")
    if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
        raise SpecError(f"@loop on {fn.__qualname__}: a step returns the next state, it does not yield")
    is_method = _is_in_class(fn) and _takes(fn, 2)
    if not is_method and not _takes(fn, 1):
        raise SpecError(f"@loop on {fn.__qualname__}: a step takes one state (and self), and needs nothing else")
    return is_method


def _is_in_class(fn: Any) -> bool:
    parent = fn.__qualname__.rpartition(".")[0]
    return bool(parent) and not parent.endswith("<locals>") and not inspect.ismethod(fn)


def _takes(fn: Any, count: int) -> bool:
    try:
        inspect.signature(fn).bind(*range(count))
    except (TypeError, ValueError):  # ValueError: some functions in C do not tell what they take
        return False
    return True


def _listed(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, list | tuple) else [value]


def _as_strategy(value: Any) -> Strategy:
    if not callable(value) or isinstance(value, type):
        raise SpecError(f"backtrack={value!r}: give a strategy, such as BestScore() or LastGood()")
    if is_coroutine_function(value):
        raise SpecError(f"backtrack={value!r}: a strategy must answer at once; make it a plain function")
    strategy: Strategy = value
    return strategy


def _callbacks(option: str, value: Any) -> tuple[Callable[[Any], Any], ...]:
    callbacks = tuple(_listed(value))
    if unfit := [item for item in callbacks if not callable(item)]:
        given = "the committed step" if option == "on_step" else "the notice"
        raise SpecError(f"{option}={unfit[0]!r}: give a function of {given}, or a list of them")
    return callbacks


def _check_callables(fn: Any, functions: dict[str, Any], parts: list[Any], *, is_async: bool) -> None:
    for option, value in functions.items():
        if value is not None and not callable(value):
            raise SpecError(f"{option}={value!r}: give a function of the state")
    if is_async:
        return
    for part in (*functions.values(), *parts):
        if callable(part) and is_coroutine_function(part):
            raise SpecError(
                f"{getattr(part, '__qualname__', part)!s} is async, but the loop {fn.__qualname__} is not; "
                "make the loop an `async def`, or the function a plain one"
            )


def _the_scorer(scorer: Callable[[Any], Any] | None, parts: list[Any]) -> Callable[[Any], Any] | None:
    metrics = [part.metric for part in parts if getattr(part, "metric", None) is not None]
    if scorer is not None and metrics:
        raise SpecError(f"the score is given twice, by scorer={scorer!r} and by BestScore(metric={metrics[0]!r})")
    chosen = scorer or (metrics[0] if metrics else None)
    for part in parts:
        if chosen is None and getattr(part, "needs_score", False):
            raise SpecError(f"{part} compares scores; add scorer=, a function of the state that gives a number")
        if getattr(part, "needs_repeats", False) and askings(parts) == 1:
            raise SpecError(f"{part} learns from scores that are asked for again; add backtrack=BestScore(resample=3)")
    return chosen


def _the_keep(keep: Any, scorer: Callable[[Any], Any] | None) -> Keep | None:
    if keep is None:
        return None
    if not isinstance(keep, Keep):
        raise SpecError(f"keep={keep!r}: give Keep(...), such as Keep(every=10, best=3)")
    if keep.best is not None and scorer is None:
        raise SpecError(f"Keep(best={keep.best}): add scorer=, a function of the state that gives a number")
    return keep


def _the_direction(parts: list[Any]) -> Direction:
    named = {part.direction: part for part in parts if hasattr(part, "direction")}
    if len(named) > 1:
        raise SpecError(f"{' and '.join(map(str, named.values()))} disagree: one maximizes, the other minimizes")
    return next(iter(named), "maximize")


def _check_name(name: str | None) -> str | None:
    if name is not None and not _is_word(name):
        raise SpecError(f"name={name!r}: give a name of printable characters")
    return name


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and value.isprintable()


def check_tags(tags: Any) -> tuple[str, ...]:
    """The tags of a run, when they are what tags can be. Raises `SpecError`."""
    if not isinstance(tags, Sequence) or isinstance(tags, str) or not all(map(_is_word, tags)):
        raise SpecError(f"tags={tags!r}: give a list of printable strings")
    return tuple(tags)


def _in_words(part: Any) -> str:
    """A part of a declaration, the same in every process."""
    if part is None or isinstance(part, bool | int | float | str):
        return repr(part)
    if isinstance(part, tuple):
        return str([_in_words(item) for item in part])
    return str(getattr(part, "__qualname__", None) or type(part).__qualname__)


def _source_of(fn: Callable[..., Any]) -> str | None:
    path = getattr(getattr(fn, "__code__", None), "co_filename", None)
    return str(Path(path).absolute()) if path and Path(path).exists() else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
