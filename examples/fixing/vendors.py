"""The models of Anthropic and OpenAI: which one there is a key for, and how to ask it.

A client is tracked, so each call is held to the budget of the step it is made in before it is sent, and charged by the
tokens that its answer reports.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from loomc_runner import CostError, Price, Retry, cost_of, tool, track

Vendor = Literal["anthropic", "openai"]

KEYS: dict[Vendor, str] = {"anthropic": "ANTHROPIC_API_KEY", "openai": "OPENAI_API_KEY"}
CLIENTS: dict[Vendor, str] = {"anthropic": "Anthropic", "openai": "OpenAI"}
DEFAULT_MODELS: dict[Vendor, str] = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-terra"}
SECONDS = 300.0


@dataclass(frozen=True)
class Model:
    """A model of a vendor, with its price when that is not the one in the list."""

    vendor: Vendor
    name: str
    price: Price | None = None

    @property
    def prices(self) -> dict[str, Price]:
        """What differs from the list of prices."""
        return {self.name: self.price} if self.price else {}


@dataclass(frozen=True)
class Said:
    """What a model said, and whether it came to its end."""

    text: str
    is_whole: bool


def choose_model(environ: Mapping[str, str], example: str) -> Model | None:
    """Take the first model there is a key for.

    Raises:
        RuntimeError: There is a key, but its package is not installed.
        ValueError: The price of the model is not known, or is none.
    """
    for vendor, key in KEYS.items():
        if environ.get(key):
            load_sdk(vendor)
            return model_of(vendor, environ, example)
    return None


def model_of(vendor: Vendor, environ: Mapping[str, str], example: str) -> Model:
    """Give the vendor's model that the variables of an example name: CODE_FIXER_MODEL and CODE_FIXER_USD_PER_MTOK.

    Raises:
        ValueError: The price of the model is not known, or is none.
    """
    name = environ.get(f"{example}_MODEL") or DEFAULT_MODELS[vendor]
    variable = f"{example}_USD_PER_MTOK"
    if given := environ.get(variable):
        try:
            price_in, price_out = map(float, given.split(","))
            return Model(vendor, name, Price(price_in, price_out))
        except ValueError:
            raise ValueError(f'{variable}={given}: write the prices as "in,out", such as "2.00,10.00"') from None
    try:
        cost_of({"model": name, "usage": {"input_tokens": 1, "output_tokens": 1}})
    except CostError:
        raise ValueError(f'the price of {name} is not known: set {variable}="in,out"') from None
    return Model(vendor, name)


def load_sdk(vendor: Vendor) -> Any:
    """Import the vendor's package.

    Raises:
        RuntimeError: It is not installed.
    """
    try:
        return importlib.import_module(vendor)
    except ImportError:
        raise RuntimeError(f"{KEYS[vendor]} is set but its package is missing: pip install {vendor}") from None


@contextmanager
def client_of(model: Model) -> Iterator[Any]:
    """Give a client that charges the step it is used in; the SDK reads key and address from the environment."""
    make: Callable[..., Any] = getattr(load_sdk(model.vendor), CLIENTS[model.vendor])
    with make(timeout=SECONDS) as client:
        yield track(client, prices=model.prices)


@tool(retry=Retry(attempts=3))
def ask_model(model: Model, prompt: str, most: int) -> Said:
    """Ask a model for at most so many tokens; an answer that was paid for is not asked for again after a crash.

    Raises:
        BudgetExhausted: What it may cost at most does not fit what is left; nothing was sent then.
    """
    with client_of(model) as client:
        messages = [{"role": "user", "content": prompt}]
        if model.vendor == "anthropic":
            message = client.messages.create(model=model.name, max_tokens=most, messages=messages)
            text = "".join(block.text for block in message.content if block.type == "text")
            return Said(text, message.stop_reason != "max_tokens")
        completion = client.chat.completions.create(model=model.name, max_completion_tokens=most, messages=messages)
        choice = completion.choices[0]
        return Said(choice.message.content or "", choice.finish_reason != "length")
