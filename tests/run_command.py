"""Running a command in this process."""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass

import pytest

import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


def maskens(*args: object) -> Outcome:
    """Run a command, with lines as wide as they like."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        patch.setenv("COLUMNS", "200")
        patch.setattr(sys, "argv", ["maskens", *map(str, args)])
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
    return Outcome(code, out.getvalue(), err.getvalue())


def refused(outcome: Outcome, *words: str) -> None:
    """Exit code 2, one message on stderr with the words, no traceback."""
    flat = " ".join(outcome.err.replace("│", " ").split())
    assert outcome.code == 2, (outcome.out, flat)
    assert "Traceback" not in flat
    assert flat.startswith("error: ") or flat.startswith("Usage: "), flat
    for word in words:
        assert word in flat, flat
