"""All commands by their names; the module of each is imported when it is asked for, which most never are."""

from __future__ import annotations

from importlib import import_module
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand

from loomc_runner import __version__
from loomc_runner.cli.app import NAMES, app
from loomc_runner.cli.values import PlainCommand, PlainGroup

COMMANDS = {
    "commands": {
        "runs": "List the runs, newest first.",
        "show": "Show a run: every step, why it stopped, and how to go on.",
        "resume": "Go on with a run that stopped, and show its progress.",
        "fork": "Make a new run from an old step; the old run is left as it is.",
        "export": "Write a whole run, with the state of every step.",
    },
    "doctor": {
        "doctor": "Look at all of a database: file, tables, locks and runs left behind; exit status 1 when something "
        "is wrong.",
    },
    "keeping": {
        "tag": "Add tags to a run or take them away; without any, list those it has.",
        "delete": "Delete runs with their child runs and all that is on record of them; asks first.",
        "prune": "Delete old runs that have ended, and give their room back to the disk; asks first.",
    },
    "looking": {
        "history": "Show which step grew from which, as a tree: returns to earlier steps, and runs forked from here.",
        "attempts": "List the tries of steps that did not become a step, with their errors and what they cost.",
        "calls": "List the durable calls of a run, each try of them, with results, errors and cost.",
        "state": "Show the state after a step, as JSON that a person reads.",
        "diff": "Show how the states after two steps differ; texts of several lines as a unified diff.",
        "compare": "Compare two runs: score against step and against money, and the first step where they part.",
    },
    "people": {
        "questions": "List the open questions of the runs that wait for an answer.",
        "answer": "Answer a question that a run waits for.",
        "approve": "Say yes to what a run wants to do.",
        "deny": "Say no to what a run wants to do.",
        "pause": "Pause a run after the step that runs; what is done so far is kept, and it goes on with resume.",
        "cancel": "End a run for good, after the step that runs.",
    },
    "plotting": {
        "plot": "Draw scores and costs of runs, step by step, with returns to earlier steps, the best step and the "
        "budget.",
    },
    "recovering": {
        "recover": "Go on with every run that was cut off, one after the other, each in a process of its own.",
    },
    "starting": {"run": "Begin a run of a loop, and show its progress."},
    "telling": {
        "explain": "Tell the story of a run: why it stopped, where its money went, what was tried again and gone back "
        "from.",
        "verify": "Read the whole record of a run; exit status 1 when something is missing in it or contradicts "
        "itself.",
    },
    "tracing": {
        "trace": "Write an HTML page of a run: its steps, attempts, calls and child runs, with what each took and "
        "cost.",
    },
    "whatif": {
        "what-if": "Tell where runs would have stopped under other rules, what that saves and what it loses; runs "
        "nothing.",
    },
}
"""By module, the commands it has, each with the first sentence of its help; in the order of `loomc --help`."""

loomc = typer.Typer(
    name="loomc", cls=PlainGroup, pretty_exceptions_enable=False, rich_markup_mode=None, context_settings=NAMES
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"loomc_runner {__version__}")
        raise typer.Exit


@loomc.callback(invoke_without_command=True)
def _main(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """See, resume, fork and export the runs of durable loops."""
    if context.invoked_subcommand is None:
        print(context.get_help())


class Later(TyperCommand):
    """A command of which the name and a line are known; the rest is imported when it is asked for."""

    def __init__(self, name: str, line: str, module: str) -> None:
        super().__init__(name, help=line, rich_markup_mode=None)
        self.module = module

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse as the whole command."""
        return self.whole().make_context(info_name, args, parent, **extra)

    def whole(self) -> PlainCommand:
        """The command itself."""
        import_module(f"loomc_runner.cli.{self.module}")
        known: list[Any] = app.registered_commands
        (info,) = (info for info in known if (info.name or info.callback.__name__) == self.name)
        alone = typer.Typer(add_completion=False, rich_markup_mode=None)
        alone.command(self.name, cls=PlainCommand, context_settings=info.context_settings)(info.callback)
        return cast("PlainCommand", typer.main.get_command(alone))


def all_commands() -> PlainGroup:
    """The command with all its parts, each of them still to be imported."""
    group = cast("PlainGroup", typer.main.get_command(loomc))
    for module, lines in COMMANDS.items():
        for name, line in lines.items():
            group.add_command(Later(name, line, module))
    return group
