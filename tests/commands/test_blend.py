"""Several runs as one ensemble, and votes."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from run_command import maskens, refused

from ensemble.decision.submission import read_answers
from folds.layout import read_eval


def test_runs_are_blended_and_voted_on(copy: Path) -> None:
    assert maskens("folds", "--k", "3", "--run", "runs/other").code == 0
    change = ("--set", "tasks.mask.epochs=1", "--set", "tasks.gender.epochs=1")
    assert maskens("train", "--run", "runs/other", *change, "--reuse", "runs/default").code == 0
    both = ("--run", "runs/default", "--run", "runs/other")
    scored = maskens("score", *both)
    assert scored.code == 0, scored
    assert "runs/default + runs/other" in scored.out
    assert "hard vote" in scored.out
    tuned = maskens("tune", *both, "--blend", "--force")
    assert tuned.code == 0, tuned
    assert re.search(r"weights: +runs/default [01]\.\d\d, *runs/other [01]\.\d\d", " ".join(tuned.out.split()))
    outcome = maskens("infer", *both)
    assert outcome.code == 0, outcome
    assert re.search(r"(12|24) models, 168 photos", outcome.out), "a run of weight 0 is not asked"
    assert re.search(r"\(runs/default/blend-[0-9a-f]{8}\.json\)", outcome.out)
    assert Path("runs/default/blend-submission.csv").exists()
    assert maskens("infer", *both, "--no-tuning").code == 0
    with np.load("runs/default/blend-eval.npz") as kept:
        assert kept["run1/logits/gender"].shape == (3, len(kept["run1/logits/gender"][0]), 168, 2)
    assert maskens("report", *both, "--photos", "0").code == 0

    ids = read_eval(Path("data")).ids
    for name, number in (("a.csv", 7), ("b.csv", 7), ("c.csv", 3)):
        Path(name).write_text("ImageID,ans\n" + "".join(f"{i},{number}\n" for i in reversed(ids)))
    outcome = maskens("infer", "--vote", "a.csv", "--vote", "b.csv", "--out", "voted.csv", "--no-tuning")
    assert outcome.code == 0, outcome
    assert set(read_answers(Path("voted.csv"))[1]) == {7}, "two votes of three, in info.csv's order"
    assert maskens("infer", "--vote", "b.csv", "--vote", "a.csv", "--out", "again.csv", "--no-tuning").code == 0
    assert Path("again.csv").read_text() == Path("voted.csv").read_text()
    assert maskens("infer", "--vote", "c.csv", "--out", "tied.csv", "--no-tuning").code == 0
    ours, tied = (read_answers(Path(f))[1] for f in ("runs/default/submission.csv", "tied.csv"))
    assert np.array_equal(ours, tied), "one against one: the more probable class"
    assert maskens("infer", *both, "--decision", "vote", "--no-tuning", "--out", "x.csv").code == 0
    Path("a.csv").write_text("ImageID,ans\nnobody.jpg,3\n")
    refused(maskens("infer", "--vote", "a.csv"), "a.csv holds other photos")
    refused(
        maskens("infer", "--vote", "a.csv", "b.csv"),
        "argument(s) (b.csv). To give several values, repeat the",
        "--vote",
    )
    refused(maskens("infer", "--vote", "b.csv", "--decision", "hard"), "--vote and --decision hard exclude each other")
    scored = maskens("score", *both, "--truth", "data/eval/answers.csv")
    assert "runs/default/blend-submission.csv against" in scored.out
    assert maskens("folds", "--k", "3", "--run", "runs/apart", "--seed", "5").code == 0
    refused(maskens("infer", *both, "--run", "runs/apart"), "runs/apart has other folds than runs/default")
    refused(maskens("train", *both), "it is given more than once; this command takes one run")
