"""The public names have the types that the documentation says, for mypy and for pyright."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TYPING = Path(__file__).parent / "typing"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("checker", "options"),
    [
        ("mypy", ["--strict", "--no-incremental", "--cache-dir=/dev/null", str(TYPING / "api.py")]),
        ("pyright", ["--project", str(TYPING), "--pythonpath", sys.executable]),
    ],
)
def test_the_public_names_are_typed(checker: str, options: list[str]) -> None:
    """Every `assert_type` holds, and every line marked as an error is one; no mark is left over."""
    command = [sys.executable, "-m", checker, *options]
    done = subprocess.run(command, cwd=TYPING.parents[1], capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
