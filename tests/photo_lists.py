"""A data folder described by a list of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from folds.files import csv_text
from folds.labels import label_text
from folds.layout import read_train

HEADER = ("photo", "person", "mask", "gender", "age")


def as_list(root: Path, blank: float = 0.0) -> Path:
    """Move a data folder's table into train/photos.csv, a row a photo, without some of the labels."""
    data, rng = read_train(root), np.random.default_rng(0)
    rows = []
    for file, mask, person in zip(data.files, data.labels[0].tolist(), data.photo_person.tolist(), strict=True):
        p = data.people[person]
        labels = [label_text("mask", mask), label_text("gender", p.gender), str(p.age)]
        rows.append([file.removeprefix("train/"), p.id, *("" if rng.random() < blank else label for label in labels)])
    (root / "train" / "train.csv").unlink()
    (root / "train" / "photos.csv").write_text(csv_text(HEADER, rows))
    return root
