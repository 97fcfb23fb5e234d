"""One request to a vendor inside a step: what it may cost is held before it is sent, what it has cost is charged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from loomc_runner.context import Scope
from loomc_runner.errors import BudgetExhausted, CostError
from loomc_runner.holds import hold
from loomc_runner.providers.estimate import broken_off, dearest
from loomc_runner.providers.prices import PriceList
from loomc_runner.providers.usage import Usage, usage_of
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


@dataclass(frozen=True, slots=True)
class Terms:
    """What `track` was told: the prices, and the output that a request is limited to which sets no limit itself."""

    prices: PriceList
    max_tokens: int | None = None


class Metered:
    """A request under way.

    `sent` counts how often it was sent. `reported` and `received` are what a stream has told so far: usage, and the
    bytes of its output. `is_over` says whether it has ended, whoever ended it.
    """

    def __init__(self, scope: Scope, terms: Terms, kind: str, body: Mapping[str, Any]) -> None:
        self.scope, self.kind, self.body, self.prices = scope, kind, body, terms.prices
        self.model = str(body.get("model"))
        self.sent = 0
        self.is_over: Callable[[], bool] = lambda: False
        self.reported: Usage | None = None
        self.received = 0
        self.most = self._most()
        self.hold()

    def hold(self) -> None:
        """Hold what one try of the request may cost.

        Raises:
            BudgetExhausted: When it does not fit; it says what it would have cost.
        """
        charge = self._charge(self.most)
        self.scope.account.priced = True  # whatever becomes of it, its cost is known
        try:
            self._held = hold(self.scope, charge, lambda: self.is_over(), self._assumed)  # noqa: PLW0108 - it is set later
        except BudgetExhausted as limit:
            raise _refusal(limit, self.model, charge, self.most) from None

    def ended(self, usage: Usage | None, received: int = 0) -> None:
        """It was answered: charge what it reports, else what its length comes to.

        Raises:
            BudgetExhausted: When that crosses a cap, here or in an enclosing run.
        """
        if usage is None:
            self.received = received
            self._held.settle_as_assumed()
        else:
            self._held.settle(self._charge(usage))

    def answered(self, response: Any) -> None:
        """It was answered by a whole response, as the client or its JSON gives it."""
        status = response.get("status") if isinstance(response, Mapping) else getattr(response, "status", None)
        usage = usage_of(response)
        if usage is None and str(status) in UNFINISHED:
            self._held.settle(replace(self._charge(self.most), estimated=True))
        else:
            self.ended(usage, len(str(response).encode("utf-8", "replace")) if usage is None else 0)

    def failed(self, error: BaseException) -> None:
        """It has raised: errors that a vendor answers with cost nothing, what was cut off is charged as assumed."""
        usage = usage_of(getattr(error, "completion", None))  # too long to be parsed, but paid for
        if usage is not None:
            self._settle_quietly(self._charge(usage))
        elif not self.sent or _is_refusal(error) or was_never_sent(error):
            self._settle_quietly(self._charge(Usage(self.model, {}, None)))
        else:
            self._settle_quietly(replace(self._charge(self.most), estimated=True))

    def lost(self) -> None:
        """A try got no answer and the client makes another one: that is charged, and the next one held.

        Raises:
            BudgetExhausted: When the next one does not fit; it is not sent.
        """
        self._settle_quietly(replace(self._charge(self.most), estimated=True))
        self.sent = 0
        self.hold()

    def _settle_quietly(self, charge: Charge) -> None:
        """Settle where an error is on its way already."""
        try:
            self._held.settle(charge)
        except BudgetExhausted:
            return  # met again where the step is looked at next

    def _most(self) -> Usage:
        """What the request may use at most; where no limit asks for that, at least what it sends."""
        ledger = self.scope.account.ledger
        try:
            return dearest(self.body, self.kind, self.prices, self.scope.clock.now())
        except CostError:
            if ledger.dollar_capped or any(each.budget.tokens is not None for each in ledger.lineage):
                raise
        return broken_off(self.body, self.kind, self.prices, None, 0)

    def _assumed(self) -> Charge:
        """What it is charged when nobody says what it has used."""
        return self._charge(broken_off(self.body, self.kind, self.prices, self.reported, self.received))

    def _charge(self, usage: Usage) -> Charge:
        at = self.scope.clock.now()
        model = self.model if usage.model is None or self.model in self.prices.prices else usage.model
        try:
            nano = self.prices.nano_usd(replace(usage, model=model), at)
        except CostError:  # answered by a model of another name, which no list knows
            nano = self.prices.nano_usd(replace(usage, model=self.model), at)
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


def _refusal(limit: BudgetExhausted, model: str, charge: Charge, most: Usage) -> BudgetExhausted:
    """The limit that a request does not fit, with what it would have cost."""
    dollars, counts = charge.nano_usd / NANO, most.counts
    note = (
        f"{limit.note} ({model} was not asked: it may cost ${dollars:.4g}, for up to "
        f"{counts.get('input_tokens', 0)} tokens in and {counts.get('output_tokens', 0)} out)"
    )
    refusal = BudgetExhausted(limit.limit, limit.used, limit.max_val, run_id=limit.run_id, note=note)
    refusal.would_cost_usd = dollars
    return refusal
