"""What came of one input: the right result, a refusal, a traceback, or a wrong result without a word."""

from __future__ import annotations

import contextlib
import io
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar
from unittest import mock

import cli
from folds.errors import MaskensError

T = TypeVar("T")

Result = Literal["right", "refused", "traceback", "wrong"]


@dataclass(frozen=True)
class Verdict:
    """What came of one input, and what one has to know of it to mend it."""

    result: Result
    detail: str = ""


@dataclass(frozen=True)
class Ended:
    """A command that has ended."""

    code: int
    out: str
    err: str


RIGHT = Verdict("right")


def command(*words: object) -> Ended:
    """Run a command in this process, with lines as wide as they like. A crash is exit code 1, as it is in a shell."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.dict("os.environ", {"COLUMNS": "400"}),
        mock.patch.object(sys, "argv", ["maskens", *map(str, words)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            cli.main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        except Exception:
            code = 1
            err.write(traceback.format_exc())
    return Ended(code, out.getvalue(), err.getvalue())


def judge(ended: Ended, fault: Callable[[], str], done: tuple[int, ...] = (0,)) -> Verdict:
    """What came of a command.

    Args:
        fault: looks at the result of a command that has done its work; what is wrong with it, "" if nothing.
        done: the exit codes of a command that has done its work.
    """
    one_message = ended.err.lstrip().startswith(("error: ", "Usage: "))
    if ended.code == 2 and one_message and "Traceback" not in ended.err:
        return Verdict("refused", ended.err)
    if ended.code not in done or "Traceback" in ended.err:
        return Verdict("traceback", f"exit code {ended.code}: {ended.err[-1500:]}")
    wrong = fault()
    return Verdict("wrong", wrong) if wrong else RIGHT


def judge_call(function: Callable[[], T], fault: Callable[[T], str]) -> Verdict:
    """What came of a call, whose MaskensError a command would end with."""
    try:
        found = function()
    except MaskensError as error:
        return Verdict("refused", str(error))
    except Exception:
        return Verdict("traceback", traceback.format_exc()[-1500:])
    wrong = fault(found)
    return Verdict("wrong", wrong) if wrong else RIGHT
