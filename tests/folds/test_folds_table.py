"""The terminal's table of people and folds."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from folds.layout import read_train
from folds.pages.tables import folds_table
from folds.people import TrainData


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("table") / "data", people=24))


@pytest.mark.parametrize("k", [5, 10, 20])
@pytest.mark.parametrize("width", [80, 120, 200])
def test_no_figure_is_cut_off(data: TrainData, k: int, width: int) -> None:
    output = io.StringIO()
    Console(file=output, width=width).print(folds_table(data, np.arange(24) % k, k))
    text = output.getvalue()
    assert "…" not in text
    counts = [24 // k + (fold < 24 % k) for fold in range(k)]
    people = [line.split() for line in text.splitlines() if line.strip().startswith("people ")][-1]
    narrow = "fewest in a fold" in text
    assert people[1:] == ([str(min(counts)), str(max(counts))] if narrow else [*map(str, counts)]) + ["24"]
    assert narrow == {5: False, 10: width < 120, 20: width < 200}[k]
