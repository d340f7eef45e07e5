"""A run that is killed at random instants comes out as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(sys.platform == "win32", reason="signals and forks")
def test_twenty_kills_leave_no_trace() -> None:
    root = Path(__file__).parents[1]
    soak = [sys.executable, root / "benchmarks" / "kills.py", "--kills", "20"]
    found = subprocess.run(soak, cwd=root, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "20 kills" in found.stdout
    assert "0 files differ" in found.stdout
