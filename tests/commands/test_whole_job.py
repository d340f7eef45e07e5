"""The whole job as a user meets it: from folds to the CSV."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from run_command import maskens, refused

from ensemble.decision.submission import align, read_answers
from ensemble.jobs.oof import load_job_oof
from ensemble.metrics.scores import macro_f1
from folds.layout import read_eval, read_train

CHANCE_MARGIN = 0.20
"""How far above a guess by class frequency the macro F1 of the sample set must be. A pipeline
that mixes up photos, people or labels stays at the guess, which reaches 0.08 at most."""


def test_the_whole_job_beats_chance_on_people_never_seen(there: Path) -> None:
    truth = align(Path("data/eval/answers.csv"), read_eval(Path("data")).ids)
    _, predicted = read_answers(Path("runs/default/submission.csv"))
    guesses = [macro_f1(truth, np.random.default_rng(i).permutation(truth), 18) for i in range(20)]
    assert macro_f1(truth, predicted, 18) > max(guesses) + CHANCE_MARGIN

    outcome = maskens("score")
    assert outcome.code == 0
    score = float(re.findall(r"macro F1 ([\d.]+) \(.*, accuracy", outcome.out)[-1])
    assert score > max(guesses) + CHANCE_MARGIN
    assert "over 504 photos" in outcome.out

    outcome = maskens("score", "--truth", "data/eval/answers.csv")
    assert f"macro F1 {macro_f1(truth, predicted, 18):.4f}" in outcome.out


def test_every_fold_and_task_has_a_model_and_each_photo_one_out_of_fold_prediction(there: Path) -> None:
    files = read_train(Path("data")).files
    for task in ("mask", "gender", "male-age", "female-age"):
        found = [f for k in range(3) for f in load_job_oof(Path(f"runs/default/{task}/fold{k}/oof.npz"), {}).files]
        assert sorted(found) == sorted(files)


def test_data_that_changed_since_folds(copy: Path) -> None:
    table = copy / "data" / "train" / "train.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    refused(maskens("train"), "changed since `maskens folds`", "is gone")
    refused(maskens("score"), "changed since `maskens folds`")


def test_a_folder_that_is_no_run(data: Path) -> None:
    for command in ("folds", "train", "infer", "score", "check-submission"):
        refused(maskens(command, "--run", data), "is not a run folder")
    (data / "file").touch()
    refused(maskens("folds", "--run", data / "file"), "is not a run folder")


def test_files_that_do_not_go_together(there: Path, tmp_path: Path) -> None:
    refused(maskens("score", "--submission", "x.csv"), "--submission needs --truth")
    other = tmp_path / "t.csv"
    other.write_text("ImageID,ans\nx.jpg,1\n")
    refused(maskens("score", "--truth", other), "holds other photos")
    refused(maskens("check-submission", other), "does not fit info.csv")
    refused(maskens("sample", "data"), "data exists and is not an empty folder")
    refused(maskens("sample", "new", "--size", "big"), "--size big", "384x512")
