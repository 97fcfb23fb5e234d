"""One request to a vendor inside a step: what it may cost is held before it is sent, what it has cost is charged."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from loomc_runner.context import Scope
from loomc_runner.errors import BudgetExhausted, CostError, LoomcWarning, StoreError
from loomc_runner.holds import Hold, hold
from loomc_runner.providers.estimate import broken_off, dearest
from loomc_runner.providers.prices import PriceList
from loomc_runner.providers.usage import Usage, usage_of
from loomc_runner.providers.weight import BYTES_PER_TOKEN
from loomc_runner.records import NANO, Charge

UNFINISHED = {"queued", "in_progress"}
"""How a response stands that goes on in the background, and does not say yet what it costs."""

NEVER_SENT = {
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "ProxyError",
    "UnsupportedProtocol",
    "LocalProtocolError",
}
"""What a vendor's client raises, by name, for a request that has not reached anybody."""


REMEMBERED = 1_000
"""Conversations of a client whose length is known."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What `track` was told, and what its client has heard.

    `max_tokens` is the output that a request is limited to which sets no limit itself, `stream_usage` whether streamed
    chats are asked to tell their usage. `earlier` are the tokens of
    conversations, by the id of their newest answer, so that a request that only names one can be weighed.
    """

    prices: PriceList
    max_tokens: int | None = None
    stream_usage: bool = True
    earlier: OrderedDict[str, int] = field(default_factory=OrderedDict)

    def remember(self, answer: Any, usage: Usage) -> None:
        """Keep how long the conversation is that an answer belongs to."""
        name = answer.get("id") if isinstance(answer, Mapping) else getattr(answer, "id", None)
        if isinstance(name, str):
            self.earlier[name] = usage.tokens
            while len(self.earlier) > REMEMBERED:
                self.earlier.popitem(last=False)


class Metered:
    """A request under way.

    `sent` counts how often it was sent since anybody knew what had become of it. `reported` and `received` are what a
    stream has told so far: usage, and the bytes of its output; `is_read_along` says whether somebody counts these.
    `is_over` says whether it has ended, whoever ended it.
    """

    def __init__(self, scope: Scope, terms: Terms, kind: str) -> None:
        self.scope, self.terms, self.kind, self.prices = scope, terms, kind, terms.prices
        self.body: Mapping[str, Any] = {}
        self.model = ""
        self.sent = 0
        self.is_over: Callable[[], bool] = lambda: False
        self.reported: Usage | None = None
        self.received = 0
        self.is_read_along = False
        self._held: Hold | None = None
        self._earlier: int | None = None

    def prepare(self, body: Mapping[str, Any]) -> None:
        """A try is about to be made with this body: hold what it may cost, unless that is held already.

        One that was sent before without the client waiting between was sent by a middleware, and may have been billed.

        Raises:
            BudgetExhausted: When it does not fit; it says what it would have cost.
        """
        if self._held is not None and (self.sent or body != self.body):
            self._settle_quietly(self._dearest() if self.sent else self._nothing())
            self._held = None
        if self._held is None:
            self.body, self.model, self.sent = body, str(body.get("model")), 0
            self._earlier = self.terms.earlier.get(str(body.get("previous_response_id")))
            self.most = self._most()
            self._hold()

    def record(self) -> None:
        """It is about to be sent: what it may cost is on record from now, also when the store was busy before."""
        if self._held is not None:
            self._held.record()

    async def record_async(self) -> None:
        """The same for an async client."""
        if self._held is not None:
            await self._held.record_async()

    def ended(self, usage: Usage | None, received: int = 0) -> None:
        """It was answered: charge what it reports, else what its length comes to; the most, if that has no price.

        Raises:
            BudgetExhausted: When that crosses a cap, here or in an enclosing run.
        """
        if usage is None:
            self.received, self.is_read_along = received, True
            self.left()
            return
        try:
            charge = self._charge(usage)
        except CostError as error:
            self._warn(error)
            charge = self._dearest()
        self._settle(charge)

    def answered(self, response: Any) -> None:
        """It was answered by a whole response, as the client or its JSON gives it; or by somebody before the vendor."""
        status = response.get("status") if isinstance(response, Mapping) else getattr(response, "status", None)
        usage = self.usage_of(response)
        if not self.sent:
            self._settle(self._nothing())
        elif usage is None and str(status) in UNFINISHED:
            self._settle(self._dearest())
        else:
            self.ended(usage, len(str(response).encode("utf-8", "replace")) if usage is None else 0)

    def usage_of(self, response: Any) -> Usage | None:
        """What an answer says it has used; counts that cannot be are warned of, and no reason to lose the answer."""
        try:
            usage = usage_of(response)
        except CostError as error:
            self._warn(error)
            return None
        if usage is not None:
            self.terms.remember(response, usage)
        return usage

    def left(self) -> None:
        """Nothing more comes of it: charge what it is taken to have cost."""
        self.is_over = lambda: True
        if self._held is not None:
            self._held.settle_as_assumed()

    def failed(self, error: BaseException) -> None:
        """It has raised: errors that a vendor answers with cost nothing, what was cut off is charged as assumed."""
        usage = self.usage_of(getattr(error, "completion", None))  # too long to be parsed, but paid for
        if usage is not None:
            with suppress(BudgetExhausted, StoreError):
                self.ended(usage)
        elif not self.sent or _is_refusal(error) or was_never_sent(error):
            self._settle_quietly(self._nothing())
        else:
            self._settle_quietly(self._dearest())

    def refused(self) -> None:
        """A try was answered by an error, or has reached nobody: it costs nothing, and another one may be made."""
        self.sent = 0

    def lost(self) -> None:
        """A try got no answer and the client makes another one: that is charged, and the next one held.

        Raises:
            BudgetExhausted: When the next one does not fit; it is not sent.
        """
        self._settle_quietly(self._dearest())
        self.sent, self._held = 0, None
        self._hold()

    def _hold(self) -> None:
        charge = self._charge(self.most)
        self.scope.account.priced = True  # whatever becomes of it, its cost is known
        try:
            self._held = hold(self.scope, charge, lambda: self.is_over(), self._assumed)  # noqa: PLW0108 - it is set later
        except BudgetExhausted as limit:
            raise self._refusal(limit, charge) from None

    def _refusal(self, limit: BudgetExhausted, charge: Charge) -> BudgetExhausted:
        """The limit that a request does not fit: what is used of it, and what the request would have cost."""
        ledger = next(each for each in self.scope.account.ledger.lineage if each.run_id == limit.run_id)
        used = {"usd": ledger.spent / NANO, "tokens": ledger.tokens}.get(limit.limit, limit.used)
        dollars, counts, held = charge.nano_usd / NANO, self.most.counts, self.scope.account.held / NANO
        note = (
            f" ({self.model} was not asked: it may cost ${dollars:.4g}, for up to {counts.get('input_tokens', 0)} "
            f"tokens in and {counts.get('output_tokens', 0)} out{f'; ${held:.4g} held for others' if held else ''})"
        )
        refusal = BudgetExhausted(limit.limit, used, limit.max_val, run_id=limit.run_id, note=note)
        refusal.would_cost_usd = dollars
        return refusal

    def _settle(self, charge: Charge) -> None:
        if self._held is not None:
            self._held.settle(charge)

    def _settle_quietly(self, charge: Charge) -> None:
        """Settle where an error is on its way already; limits are met, and what cannot be stored is, with the step."""
        with suppress(BudgetExhausted, StoreError):
            self._settle(charge)

    def _most(self) -> Usage:
        """What the request may use at most; where no limit asks for that, at least what it sends."""
        ledger = self.scope.account.ledger
        try:
            body, earlier = self._weighed
            return dearest(body, self.kind, self.prices, self.scope.clock.now(), earlier=earlier)
        except CostError:
            if ledger.dollar_capped or any(each.budget.tokens is not None for each in ledger.lineage):
                raise
        return self._broken_off(None, 0)

    @property
    def _weighed(self) -> tuple[Mapping[str, Any], int]:
        """The body without the conversation it names, and the tokens of that, where they are known."""
        if self._earlier is None:
            return self.body, 0
        return {name: value for name, value in self.body.items() if name != "previous_response_id"}, self._earlier

    def _broken_off(self, reported: Usage | None, received: int) -> Usage:
        body, earlier = self._weighed
        return broken_off(body, self.kind, self.prices, reported, received, earlier=earlier)

    def _assumed(self) -> Charge:
        """What it is charged when nobody says what it has used: the most, unless somebody has counted what came of it.

        Of a stream that is still open more may come: all the output that it allows.
        """
        if not self.is_read_along:
            return self._charge(self.most)
        may_come = 0 if self.is_over() else BYTES_PER_TOKEN * self.most.counts["output_tokens"]
        return self._charge(self._broken_off(self.reported, max(self.received, may_come)))

    def _dearest(self) -> Charge:
        return self._charge(self.most)._replace(estimated=True)

    def _nothing(self) -> Charge:
        return self._charge(Usage(self.model, {}, None))

    def _warn(self, error: CostError) -> None:
        message = f"what {self.model} has answered is charged by an estimate: {error}"
        warnings.warn(message, LoomcWarning, stacklevel=2)

    def _charge(self, usage: Usage) -> Charge:
        at = self.scope.clock.now()
        others = [entry.get("model") for entry in self.body.get("fallbacks") or () if isinstance(entry, Mapping)]
        priced_as = self.prices.name_for(None if usage.model in others else self.model, usage.model)
        nano = self.prices.nano_usd(replace(usage, model=priced_as), at)
        label = self.scope.purpose or self.model
        return Charge(
            self.scope.step_n, nano, usage.tokens, label, at, model=usage.model or self.model, usage=usage.counts
        )


def was_never_sent(error: BaseException) -> bool:
    """Whether a request has reached nobody, by the error that it or its client has raised."""
    cause: BaseException | None = error
    while cause is not None:
        if type(cause).__name__ in NEVER_SENT:
            return True
        cause = cause.__cause__
    return False


def _is_refusal(error: BaseException) -> bool:
    """Whether a vendor has answered with an error."""
    status = getattr(error, "status_code", None)
    return isinstance(status, int) and status >= 400
