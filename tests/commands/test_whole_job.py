"""The whole job as a user meets it: from folds to the CSV."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from run_command import maskens, ran

from ensemble.decision.submission import align, read_answers
from ensemble.metrics.scores import macro_f1
from folds.layout import read_eval

CHANCE_MARGIN = 0.20
"""How far above a guess by class frequency the macro F1 of the sample set must be. A pipeline
that mixes up photos, people or labels stays at the guess, which reaches 0.08 at most."""


def test_the_whole_job_beats_chance_on_people_never_seen(there: Path) -> None:
    truth = align(Path("data/eval/answers.csv"), read_eval(Path("data")).ids)
    _, predicted = read_answers(Path("runs/default/submission.csv"))
    guesses = [macro_f1(truth, np.random.default_rng(i).permutation(truth), 18) for i in range(20)]
    assert macro_f1(truth, predicted, 18) > max(guesses) + CHANCE_MARGIN

    outcome = ran("score")
    score = float(re.findall(r"macro F1 ([\d.]+) \(.*, accuracy", outcome.out)[-1])
    assert score > max(guesses) + CHANCE_MARGIN
    assert "over 504 photos" in outcome.out

    outcome = maskens("score", "--truth", "data/eval/answers.csv")
    assert f"macro F1 {macro_f1(truth, predicted, 18):.4f}" in outcome.out
