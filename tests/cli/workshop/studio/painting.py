"""A module that works only as a part of its package."""

from loomc_runner import Budget, Done, loop

from .tools import STROKES


@loop(budget=Budget(iterations=1))
def stroke(state: dict[str, int]) -> dict[str, int] | Done[dict[str, int], None]:
    """Paint a little more."""
    after = {"strokes": state["strokes"] + 1}
    return Done(after) if after["strokes"] == STROKES else after


if __name__ == "__main__":
    stroke.run({"strokes": 0}, run_id="stroke")
