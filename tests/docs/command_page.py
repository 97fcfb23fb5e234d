"""The part of the manual that says what `--help` says: run as a script, it writes that part anew."""

from __future__ import annotations

import inspect
import re
from enum import StrEnum
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_type_hints

from loomc_runner.cli.index import all_commands

PAGE = Path(__file__).parents[2] / "docs/reference/command.md"
BEGIN, END = "<!-- made of the help: python tests/docs/command_page.py -->", "<!-- the end of it -->"

COMMANDS = {name: inspect.unwrap(command.whole().callback) for name, command in all_commands().commands.items()}
"""The functions of all commands."""

KINDS = {int: "NUMBER", float: "NUMBER", str: "TEXT", Path: "FILE"}


def made() -> str:
    """Every command with its arguments and options."""
    return "\n".join(_section(name, COMMANDS[name]) for name in sorted(COMMANDS))


def written() -> str:
    """What stands in the manual now."""
    return PAGE.read_text(encoding="utf-8").partition(f"{BEGIN}\n")[2].partition(END)[0]


def section(name: str) -> str:
    """What stands in the manual of one command."""
    return written().partition(f"### loomc {name}\n")[2].partition("\n### ")[0]


def _section(name: str, function: Any) -> str:
    hints, parameters = get_type_hints(function, include_extras=True), inspect.signature(function).parameters
    rows = [_row(hints[parameter.name], parameter) for parameter in parameters.values()]
    usage = " ".join(["loomc", name, *(names for names, _ in rows if not names.startswith("-")), "[OPTIONS]"])
    help_text = [" ".join(paragraph.split()) for paragraph in inspect.getdoc(function).split("\n\n")]
    lines = [f"### loomc {name}", "", f"`{usage}`", "", "\n\n".join(help_text), "", "| | |", "|---|---|"]
    return "\n".join([*lines, *(f"| `{names}` | {text} |" for names, text in rows), ""])


def _row(hint: Any, parameter: inspect.Parameter) -> tuple[str, str]:
    """How an argument or an option is written, and what it is for."""
    kind, info = get_args(hint)
    text = re.sub(r"\s+", " ", info.help or "")
    if type(info).__name__ == "ArgumentInfo":
        return info.metavar or parameter.name.upper(), text
    first = (info.default,) if isinstance(info.default, str) else ()  # what typer takes for a name in Annotated
    names = (*first, *(info.param_decls or ())) or (f"--{parameter.name.replace('_', '-')}",)
    (base, *_) = [part for part in get_args(kind) or (kind,) if part is not NoneType]
    if base is bool:
        return ", ".join(names), text
    takes = "\\|".join(base) if issubclass(base, StrEnum) else info.metavar or KINDS[base]
    default = f" [default: {parameter.default}]" if parameter.default not in {None, inspect.Parameter.empty, ""} else ""
    return f"{', '.join(names)} {takes}", text + default


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{made()}{END}{rest.partition(END)[2]}", encoding="utf-8")
