"""A run that version 0.4.0 made with the recipe `demo` still scores and infers, to the byte."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from run_command import maskens

FIXTURE = Path(__file__).parents[1] / "fixtures" / "run-0.4.zip"  # models with few channels, photos of 48 x 64


@pytest.fixture
def earlier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data/, run/ and what 0.4.0 itself made of them."""
    with zipfile.ZipFile(FIXTURE) as archive:
        archive.extractall(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_submission_is_the_same_to_the_byte(earlier: Path) -> None:
    found = maskens("infer", "--run", "run", "--cache", "none")
    assert found.code == 0, found.err
    assert (earlier / "run" / "submission.csv").read_bytes() == (earlier / "before.csv").read_bytes()


def test_its_score_is_the_same(earlier: Path) -> None:
    found = maskens("score", "--run", "run", "--json")
    assert found.code == 0, found.err
    now, before = json.loads(found.out), json.loads((earlier / "before.json").read_text())
    assert now["score"] == before["score"]
    assert now["macro_f1"] == before["macro_f1"]


def test_its_files_match_as_far_as_it_says(earlier: Path) -> None:
    found = maskens("verify", "--run", "run", "--data", "data")
    assert found.code == 0, found
    assert "an earlier version made them, without checksums: mask fold 0" in found.out


def test_its_jobs_count_as_finished(earlier: Path) -> None:
    found = maskens("train", "--run", "run")
    assert found.code == 0, found.err
    assert "8 of 8 jobs are finished already" in found.out
