"""docs/python.md runs as it is printed, and what it says of imports is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cli
import ensemble
from folds.errors import MaskensError

GUIDE = Path(cli.__file__).parent / "docs" / "python.md"


def test_the_guide_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for long, short in (("people=30", "people=18"), ("epochs=2", "epochs=1")):
        assert code.count(long) == 1
        code = code.replace(long, short)
    names: dict[str, Any] = {}
    exec(compile(code, str(GUIDE), "exec"), names)
    assert (names["done"].trained, names["done"].failed) == (8, {})
    assert len(names["inferred"].classes) == 42
    assert names["page"].is_file()


@pytest.mark.parametrize("name", [name for commands in cli.COMMANDS.values() for name in commands])
def test_every_step_is_there_and_documented(name: str) -> None:
    assert len(getattr(ensemble, name).__doc__.splitlines()) > 3


def test_an_unknown_step_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'trane'"):
        _ = ensemble.trane


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ensemble.score("runs/a", checkpoint="lst"), MaskensError, "checkpoint: .*'cross-fitted', 'best'"),
        (lambda: ensemble.tune("runs/a", step=["views", "offset"]), MaskensError, "step.1: .*'temperatures'"),
        (lambda: ensemble.score("runs/a", submission="s.csv"), MaskensError, "--submission needs --truth CSV"),
        (lambda: ensemble.score("runs/a", run="runs/b"), TypeError, "multiple values for argument 'run'"),
        (lambda: ensemble.score(rnu="runs/a"), TypeError, "unexpected keyword argument 'rnu'"),
    ],
)
def test_a_call_refuses_what_its_command_does(call: Callable[[], object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()
