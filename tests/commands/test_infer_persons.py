"""Inference that decides a person's photos together."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, refused

from ensemble.decision.submission import read_answers
from folds.labels import decode

INFER = ("infer", "--run", "run", "--cache", "none")


@pytest.fixture
def job(few_copied: Path) -> Path:
    """A finished run whose info.csv says in `person` who is on a photo, five photos each, and in `own` nobody twice."""
    with Path("data/eval/info.csv").open() as file:
        ids = [row["ImageID"] for row in csv.DictReader(file)]
    rows = [f"{i},0,p{n * 5 % 9},own{n}\n" for n, i in enumerate(ids)]
    Path("data/eval/info.csv").write_text("ImageID,ans,person,own\n" + "".join(rows))
    return few_copied


def test_a_person_has_one_gender_and_age(job: Path) -> None:
    outcome = maskens(*INFER, "--person-column", "person", "--out", "together.csv")
    assert outcome.code == 0, outcome.err
    assert "one gender and age for each of 9 people (person), no early exit" in " ".join(outcome.out.split())
    _, gender, age = decode(read_answers(Path("together.csv"))[1])
    person = np.arange(42) * 5 % 9
    assert all(len({*zip(gender[person == p], age[person == p], strict=True)}) == 1 for p in range(9))
    with np.load("together.logits.npz") as logits:
        assert not any(np.isnan(logits[name]).any() for name in logits.files if name.startswith("logits/"))


def test_people_of_one_photo_are_decided_as_without_it(job: Path) -> None:
    assert maskens(*INFER, "--person-column", "own", "--out", "alone.csv").code == 0
    assert Path("alone.csv").read_bytes() == Path("before.csv").read_bytes()


def test_what_names_no_person_is_refused_before_anything_is_written(job: Path) -> None:
    refused(maskens(*INFER, "--person-column", "persn"), "lacks the column 'persn' (did you mean 'person'?); it has")
    refused(maskens(*INFER, "--person-column", "ans"), "--person-column ans: that column of")
    for rule in (("--decision", "hard"), ("--decision", "vote"), ("--vote", "before.csv")):
        refused(maskens(*INFER, "--person-column", "person", *rule), "--person-column needs --decision joint")
    file = Path("data/eval/info.csv")
    file.write_text(file.read_text().replace(",p1,", ",,"))
    refused(maskens(*INFER, "--person-column", "person"), "does not name the person on every photo", "row ")
    assert not Path("run/submission.csv").exists()
