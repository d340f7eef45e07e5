"""Running a command in this process."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def maskens(*args: object, columns: int = 200) -> Outcome:
    """Run a command, on a terminal that is so wide."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", str(columns))
        patch.setattr(sys, "argv", ["maskens", *map(str, args)])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def ran(*args: object, columns: int = 200) -> Outcome:
    """`maskens`, of a command that has to go well."""
    outcome = maskens(*args, columns=columns)
    assert outcome.code == 0, outcome
    return outcome


def started(*args: object, **options: Any) -> subprocess.Popen[str]:
    """A command as a process of its own; the options are Popen's."""
    words = [sys.executable, "-m", "cli", *map(str, args)]
    return subprocess.Popen(words, env=_environment(), text=True, **options)


def python(*args: object, cwd: Path | None = None, modules: str = "") -> subprocess.CompletedProcess[str]:
    """What a process of Python did that can import maskens, and modules of a folder."""
    words = [sys.executable, *map(str, args)]
    return subprocess.run(words, cwd=cwd, env=_environment(modules), capture_output=True, text=True, timeout=300)


def _environment(*folders: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(cli.__file__).parent), *filter(None, folders)])}


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one message on stderr with the words, no traceback."""
    flat = " ".join(outcome.err.replace("│", " ").split())
    assert outcome.code == 2, (outcome.out, flat)
    assert "Traceback" not in flat
    assert flat.startswith("error: ") or flat.startswith("Usage: "), flat
    for word in words:
        assert word in flat, flat
