"""The command score, against answers."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from planned import plan_errors
from run_command import maskens, ran, refused
from sklearn.metrics import f1_score

from folds.layout import read_train


def test_places_for_answers_are_not_answers(there: Path, tmp_path: Path) -> None:
    ids = (there / "data/eval/info.csv").read_text().splitlines()[1:]
    places, answers = tmp_path / "info.csv", tmp_path / "answers.csv"
    places.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},0" for line in ids)]))
    answers.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},{n % 18}" for n, line in enumerate(ids))]))
    submission = ("--submission", answers)
    refused(maskens("score", "--truth", places, *submission), "every answer is class 0", "that has the answers")
    assert "macro F1 1.0000" in maskens("score", "--truth", answers, *submission).out


def test_people_of_each_class_are_counted_and_few_are_warned_of(make_data: MakeData, tmp_path: Path) -> None:
    data = read_train(make_data(tmp_path / "data", people=59))
    run = plan_errors(tmp_path / "run", data, 0.2)
    outcome = ran("score", "--run", run.folder)
    people = [len({data.people[i].group for i in data.photo_person[data.classes == c]}) for c in range(18)]
    photos = np.bincount(data.classes, minlength=18).tolist()
    printed = re.findall(r"^ +(\d+) +\w+ ?\w*, \w+, \S+ +(\d+) +(\d+) ", outcome.out, re.MULTILINE)
    assert [tuple(map(int, row)) for row in printed] == list(zip(range(18), people, photos, strict=True))
    few = sum(n < 10 for n in people)
    assert 0 < few < 18
    note = f"fewer than 10 people in {few} of 18 classes (class {np.argmin(people)}: {min(people)})"
    assert note in " ".join(outcome.out.split())
    ran("report", "--run", run.folder, "--photos", 0)
    page = (run.folder / "report.html").read_text()
    assert note in page
    assert json.loads(maskens("score", "--run", run.folder, "--json").out)["class_people"] == people


def write(file: Path, classes: Sequence[int], people: Sequence[str] = ()) -> Path:
    rows = [f"{n}.jpg,{c}" + (f",{people[n]}" if people else "") for n, c in enumerate(classes)]
    file.write_text("\n".join(["ImageID,ans" + (",who" if people else ""), *rows]) + "\n")
    return file


def test_honest_answers_may_all_be_of_one_class(there: Path, tmp_path: Path) -> None:
    truth, submission = write(tmp_path / "a.csv", [3] * 10), write(tmp_path / "s.csv", [3] * 8 + [4] * 2)
    found = ran("score", "--truth", truth, "--submission", submission)
    assert "accuracy 0.8000" in found.out
    assert "0.8889" in found.out, "F1 of the one class with answers"


def test_absent_classes_are_named_and_both_figures_given(there: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(160) % 16
    predicted = np.where(rng.random(160) < 0.8, truth, rng.permutation(truth))
    answers, file = write(tmp_path / "a.csv", truth), write(tmp_path / "s.csv", predicted)
    found = maskens("score", "--truth", answers, "--submission", file)
    present = f1_score(truth, predicted, average="macro")
    assert "no photo is of classes 16, 17" in found.out
    assert f"{present * 16 / 18:.4f}" in found.out
    assert f"{present:.4f}" in found.out
    assert "over photos" in found.out
    (record,) = json.loads(maskens("score", "--truth", answers, "--submission", file, "--json").out)
    assert record["score"]["support"][16:] == [0, 0]
    assert record["f1_present"]["value"] == pytest.approx(present)
    assert record["f1"]["low"] < record["f1"]["value"] < record["f1"]["high"]


def test_intervals_are_over_the_people_that_a_column_names(there: Path, tmp_path: Path) -> None:
    """All photos of a person stand or fall together, so that fewer people than photos say less."""
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(90), 8)
    truth = person % 18
    predicted = np.where((rng.random(90) < 0.7)[person], truth, (truth + 1) % 18)
    answers = write(tmp_path / "a.csv", truth, [f"p{p}" for p in person])
    files = ("--truth", answers, "--submission", write(tmp_path / "s.csv", predicted), "--json")
    by_photo, by_person = (
        json.loads(maskens("score", *files, *more).out)[0] for more in ((), ("--person-column", "who"))
    )
    assert by_person["people"] == 90
    assert by_photo["people"] is None
    widths = [r["accuracy"]["high"] - r["accuracy"]["low"] for r in (by_photo, by_person)]
    assert widths[1] > 2 * widths[0]
    refused(maskens("score", *files, "--person-column", "whom"), str(answers), "whom")
    refused(maskens("score", *files, "--person-column", "ans"), "does not say who")
    refused(maskens("score", "--person-column", "who"), "--person-column needs --truth")


def test_two_submissions_are_compared_on_the_same_draws(there: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    truth = np.arange(720) % 18
    worse = np.where(rng.random(720) < 0.7, truth, (truth + 1) % 18)
    better = np.where(rng.random(720) < 0.2, truth, worse)
    answers, a, b = (write(tmp_path / f"{n}.csv", c) for n, c in (("t", truth), ("a", worse), ("b", better)))
    files = ("--truth", answers, "--submission", a, "--submission", b)
    found = maskens("score", *files)
    assert "better" in found.out
    first, second = json.loads(maskens("score", *files, "--json").out)
    assert (first["path"], second["path"]) == (str(a), str(b))
    assert first["gain"] is None
    gain = second["gain"]
    assert gain["value"] == pytest.approx(second["f1"]["value"] - first["f1"]["value"], abs=1e-6)
    apart = second["f1"]
    assert gain["high"] - gain["low"] < 0.8 * (apart["high"] - apart["low"]), "draws that are shared cancel"
    short = write(tmp_path / "c.csv", truth[:-1])
    refused(maskens("score", *files, "--submission", short), str(short), "other photos")
