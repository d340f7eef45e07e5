"""Several runs as one ensemble, and votes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, ran, refused

from ensemble.decision.submission import read_answers
from folds.layout import read_eval


def test_runs_are_blended_and_voted_on(few_copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKENS_RUN", "run")
    ran("folds", "--k", "3", "--run", "other")
    change = ("--set", "tasks.mask.epochs=1", "--set", "tasks.gender.epochs=1")
    ran("train", "--run", "other", *change, "--reuse", "run")
    both = ("--run", "run", "--run", "other")
    scored = ran("score", *both)
    assert "run + other" in scored.out
    assert "hard vote" in scored.out
    tuned = ran("tune", *both, "--blend", "--force")
    assert re.search(r"weights: +run [01]\.\d\d, *other [01]\.\d\d", " ".join(tuned.out.split()))
    outcome = ran("infer", *both)
    assert re.search(r"(12|24) models, 42 photos", outcome.out), "a run of weight 0 is not asked"
    assert re.search(r"\(run/blend-[0-9a-f]{8}\.json\)", outcome.out)
    assert Path("run/blend-submission.csv").exists()
    ran("infer", *both, "--no-tuning")
    with np.load("run/blend-eval.npz") as kept:
        assert kept["run1/logits/gender"].shape == (3, len(kept["run1/logits/gender"][0]), 42, 2)
    ran("report", *both, "--photos", "0")

    ids = read_eval(Path("data")).ids
    for name, number in (("a.csv", 7), ("b.csv", 7), ("c.csv", 3)):
        Path(name).write_text("ImageID,ans\n" + "".join(f"{i},{number}\n" for i in reversed(ids)))
    ran("infer", "--vote", "a.csv", "--vote", "b.csv", "--out", "voted.csv", "--no-tuning")
    assert set(read_answers(Path("voted.csv"))[1]) == {7}, "two votes of three, in info.csv's order"
    ran("infer", "--vote", "c.csv", "--out", "tied.csv", "--no-tuning")
    ours, tied = (read_answers(Path(f))[1] for f in ("before.csv", "tied.csv"))
    assert np.array_equal(ours, tied), "one against one: the more probable class"
    ran("infer", *both, "--decision", "vote", "--no-tuning", "--out", "x.csv")
    Path("a.csv").write_text("ImageID,ans\nnobody.jpg,3\n")
    refused(maskens("infer", "--vote", "a.csv"), "a.csv holds other photos")
    refused(
        maskens("infer", "--vote", "a.csv", "b.csv"),
        "argument(s) (b.csv). To give several values, repeat the",
        "--vote",
    )
    refused(maskens("infer", "--vote", "b.csv", "--decision", "hard"), "--vote and --decision hard exclude each other")
    scored = maskens("score", *both, "--truth", "data/eval/answers.csv")
    assert "run/blend-submission.csv against" in scored.out
    ran("folds", "--k", "3", "--run", "apart", "--seed", "5")
    refused(maskens("infer", *both, "--run", "apart"), "apart has other folds than run")
    refused(maskens("train", *both), "it is given more than once; this command takes one run")
