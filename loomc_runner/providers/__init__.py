"""What vendors of models charge: tracked clients, prices, adapters, and models as judges."""

from loomc_runner.providers.adapters import AnthropicAdapter, OpenAIAdapter
from loomc_runner.providers.cost import cost_of
from loomc_runner.providers.prices import Price
from loomc_runner.providers.tracking import track

__all__ = ["AnthropicAdapter", "OpenAIAdapter", "Price", "cost_of", "track"]
