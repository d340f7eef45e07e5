"""What a command prints on a terminal of the usual 80 columns."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_command import maskens


@pytest.mark.parametrize("command", ["folds", "score", "explore", "recipes", "verify", "train --restart --dry-run"])
def test_nothing_is_cut_off(there: Path, tmp_path: Path, command: str) -> None:
    outcome = maskens(*command.split(), *(["--out", tmp_path] if command == "explore" else []), columns=80)
    assert outcome.code == 0, outcome
    assert "…" not in outcome.out
