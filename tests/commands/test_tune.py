"""The commands tune and score: what is fitted is used and named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from edits import edit_record
from run_command import maskens, ran, refused


def test_a_score_as_json_has_the_figures_of_the_tables(there: Path) -> None:
    shown, record = maskens("score").out, json.loads(maskens("score", "--json").out)
    f1 = record["f1"]["18 classes"]
    assert f"macro F1 {f1['value']:.4f} ({f1['low']:.4f} to" in shown
    assert [f["photos"] for f in record["folds"]] == [168, 168, 168]
    assert {s["name"] for s in record["settings"]} >= {"last, no TTA", "last, flip", "part by part"}
    assert set(record["tasks"]) == {"mask", "gender", "male-age", "female-age"}
    answers = json.loads(maskens("score", "--truth", "data/eval/answers.csv", "--json").out)
    assert answers[0]["score"]["photos"] == 168
    refused(maskens("score", "--run", "runs/default", "--run", "runs/default"), "a run is named twice")


def test_a_tuning_is_used_and_named_unless_it_is_switched_off(
    few_copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASKENS_RUN", "run")
    plain = Path("before.csv").read_text()
    outcome = ran("tune", "--force")
    assert "applied: views, temperatures, offsets" in outcome.out
    assert "saved: run/tuning.json" in outcome.out
    outcome = maskens("infer")
    assert "tuned: views, temperatures, offsets (run/tuning.json)" in outcome.out
    assert "tuned: views, temperatures, offsets" in maskens("score").out
    assert "untuned)" in maskens("score", "--no-tuning").out
    assert "untuned)" in maskens("score", "--checkpoint", "last").out
    ran("infer", "--no-tuning", "--tta", "flip")
    assert Path("run/submission.csv").read_text() == plain
    ran("tune", "--force", "--step", "offsets")
    assert "offsets unused" in maskens("infer", "--decision", "hard").out
    shutil.copy("run/mask/fold1/oof.npz", "run/mask/fold0/oof.npz")
    edit_record(Path("run/mask/fold0/job.json"), checksums={})  # as if the job had been trained anew
    refused(maskens("infer"), "was fitted on other out-of-fold logits", "maskens tune --run run", "--no-tuning")
    refused(maskens("tune", "--blend"), "--blend weighs several runs")
    refused(maskens("tune", "--step", "weights"), "'weights' is not one of")
