"""The command score, against answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
from conftest import MakeData
from planned import plan_errors
from run_command import maskens, refused

from folds.data.layout import read_train


def test_places_for_answers_are_not_answers(there: Path, tmp_path: Path) -> None:
    ids = (there / "data/eval/info.csv").read_text().splitlines()[1:]
    places, answers = tmp_path / "info.csv", tmp_path / "answers.csv"
    places.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},0" for line in ids)]))
    answers.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},{n % 18}" for n, line in enumerate(ids))]))
    submission = ("--submission", answers)
    refused(maskens("score", "--truth", places, *submission), "every answer is class 0", "that has the answers")
    assert "macro F1 1.0000" in maskens("score", "--truth", answers, *submission).out


def test_people_stand_beside_photos_of_each_class_and_few_of_them_are_warned_of(
    make_data: MakeData, tmp_path: Path
) -> None:
    data = read_train(make_data(tmp_path / "data", people=59))
    run = plan_errors(tmp_path / "run", data, 0.2)
    outcome = maskens("score", "--run", run.folder)
    assert outcome.code == 0, outcome
    people = [len({data.people[i].group for i in data.photo_person[data.classes == c]}) for c in range(18)]
    photos = np.bincount(data.classes, minlength=18).tolist()
    printed = re.findall(r"^ +(\d+) +\w+ ?\w*, \w+, \S+ +(\d+) +(\d+) ", outcome.out, re.MULTILINE)
    assert [tuple(map(int, row)) for row in printed] == list(zip(range(18), people, photos, strict=True))
    few = [f"{c} ({n})" for c, n in enumerate(people) if n < 10]
    assert 0 < len(few) < 18
    assert f"fewer than 10 people in classes {', '.join(few)}" in " ".join(outcome.out.split())
    report = maskens("report", "--run", run.folder, "--photos", 0)
    assert report.code == 0, report
    page = (run.folder / "report.html").read_text()
    assert f"fewer than 10 people in classes {', '.join(few)}" in page
    assert json.loads(maskens("score", "--run", run.folder, "--json").out)["class_people"] == people
