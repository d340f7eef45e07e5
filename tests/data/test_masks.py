"""Drawn masks: photo and labels change together, only where a face is bare, and the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.data.augment import Augment
from ensemble.data.cache import DecodedPhotos
from ensemble.data.drawn_masks import DrawMasks
from ensemble.data.loader import EpochBatches, EpochPhotos, train_loader
from ensemble.data.mask_drawing import draw_mask
from ensemble.recipes.schema import Preprocessing, Sampler, TaskRecipe, Transform
from ensemble.recipes.tasks import Predicts
from folds.faces import Face
from folds.people import PhotoSet

SIZE = (128, 96)
FACE = Face(x=48, eyes=54, mouth=81, width=48)
PHOTO = np.random.default_rng(0).integers(100, 180, (*SIZE, 3), dtype=np.uint8)
BARE = np.array([2])


def recipe(predicts: Predicts = "mask", **masks: object) -> TaskRecipe:
    values = {"predicts": predicts, "model": "test_resnet", "resize": SIZE, "masks": masks}
    return TaskRecipe.model_validate(values)


def drawn(task: TaskRecipe, labels: Sequence[int], draws: int) -> list[tuple[np.ndarray, np.ndarray]]:
    draw = DrawMasks(task, BARE)
    return [draw(PHOTO, np.array(labels), 0, (5, n)) for n in range(draws)]


@pytest.mark.parametrize("worn", [True, False])
@pytest.mark.parametrize(("size", "draws"), [((128, 96), 20), ((512, 384), 4)])
def test_nothing_but_the_lower_face_changes(worn: bool, size: tuple[int, int], draws: int) -> None:
    height, width = size
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    before = photo.copy()
    face = Face(0.5 * width, 0.42 * height, 0.63 * height, 0.5 * width)
    pictures = set()
    for seed in range(draws):
        after = draw_mask(photo, face, worn, np.random.default_rng(seed))
        assert after.dtype == np.uint8
        assert after.shape == photo.shape
        changed = (after != photo).any(axis=2)
        assert not changed[: int(face.eyes)].any(), "nothing above the eyes"
        assert not changed[:, : round(face.x - 0.75 * face.width)].any()
        assert not changed[:, round(face.x + 0.75 * face.width) :].any()
        mouth = changed[round(face.mouth), round(face.x) - 4 : round(face.x) + 4].mean()
        assert not worn or mouth > 0.9, "a mask worn right covers the mouth"
        pictures.add(after.tobytes())
    assert len(pictures) == draws, "masks differ from draw to draw"
    assert np.array_equal(photo, before)


def test_one_worn_wrong_leaves_the_nose_bare() -> None:
    nose = slice(55, 54 + 16), slice(44, 52)  # down to 0.6 of the way to the mouth
    smooth = np.full_like(PHOTO, 150)
    for seed in range(30):
        worn, wrong = (draw_mask(smooth, FACE, right, np.random.default_rng(seed)) for right in (True, False))
        assert np.abs(wrong[nose].astype(int) - 150).mean() < 5
        assert (worn[70, 44:52] != 150).any(axis=1).all()


@pytest.mark.parametrize("face", [Face(-500, 54, 81, 48), Face(48, 127.5, 150, 48), Face(48, -300, -200, 48)])
def test_a_face_off_the_photo_leaves_it_as_it_is(face: Face) -> None:
    after = draw_mask(PHOTO, face, True, np.random.default_rng(0))
    assert (after != PHOTO).any(axis=2).mean() < 0.02


@pytest.mark.parametrize("size", [(16, 16), (40, 400), (300, 30)])
def test_a_mask_fits_any_size_of_photo(size: tuple[int, int]) -> None:
    photo = np.zeros((*size, 3), np.uint8)
    face = Face(0.5 * size[1], 0.42 * size[0], 0.63 * size[0], 0.5 * size[1])
    assert draw_mask(photo, face, True, np.random.default_rng(0)).shape == photo.shape


def test_the_mask_label_says_what_was_drawn_in_the_shares_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ensemble.data.drawn_masks.draw_mask", lambda photo, *_: photo + 1)  # the drawing takes long
    found = drawn(recipe(prob=0.5, incorrect=0.25), [2], draws=800)
    states = np.array([labels[0] for _, labels in found])
    changed = np.array([not np.array_equal(photo, PHOTO) for photo, _ in found])
    assert np.array_equal(changed, states != 2)
    assert abs((states != 2).mean() - 0.5) < 0.06
    assert abs((states == 1).sum() / (states != 2).sum() - 0.25) < 0.06


def test_other_labels_of_the_photo_stay() -> None:
    for _, labels in drawn(recipe("heads", prob=1.0), [2, 1, 2], 10):
        assert labels[0] in (0, 1)
        assert labels[1:].tolist() == [1, 2]
    bins = {"predicts": "class18", "model": "m", "ages": {"cuts": [21, 30, 46, 58]}, "masks": {"prob": 1.0}}
    for _, labels in drawn(TaskRecipe.model_validate(bins), [2 * 10 + 1 * 5 + 3], 10):
        assert divmod(int(labels[0]), 10)[1] == 1 * 5 + 3
        assert labels[0] < 20


@pytest.mark.parametrize("predicts", ["gender", "age", "male-age", "female-age"])
def test_tasks_that_predict_no_mask_see_masks_and_keep_their_labels(predicts: Predicts) -> None:
    for photo, labels in drawn(recipe(predicts, prob=1.0), [1], 5):
        assert labels.tolist() == [1]
        assert not np.array_equal(photo, PHOTO)


def test_nothing_is_drawn_over_a_mask_that_is_worn() -> None:
    draw, labels = DrawMasks(recipe(prob=1.0), np.array([0, 1, 2])), np.array([0])
    for index in (0, 1):
        photo, after = draw(PHOTO, labels, index, (1,))
        assert photo is PHOTO
        assert after is labels
    assert draw(PHOTO, labels, 2, (1,))[0] is not PHOTO


def test_the_template_moves_the_mask_and_follows_the_crop() -> None:
    low = DrawMasks(recipe(prob=1.0, face={"eyes": 0.6, "mouth": 0.8}), BARE)
    photo, _ = low(PHOTO, np.array([2]), 0, (0,))
    assert not (photo != PHOTO).any(axis=2)[: int(0.6 * SIZE[0])].any()
    cropped = TaskRecipe.model_validate(recipe(prob=1.0).model_dump() | {"crop": (96, 64)})
    face, whole = DrawMasks(cropped, BARE).face, cropped.masks.face
    assert face.eyes * 96 + 16 == pytest.approx(whole.eyes * 128)
    assert face.mouth * 96 + 16 == pytest.approx(whole.mouth * 128)
    assert face.width * 64 == pytest.approx(whole.width * 96)


@pytest.fixture
def photos(tmp_path: Path) -> DecodedPhotos:
    np.save(tmp_path / "photos.npy", np.random.default_rng(0).integers(0, 256, (21, 64, 48, 3), dtype=np.uint8))
    return DecodedPhotos(PhotoSet(tmp_path, [""] * 21, ""), [Preprocessing((64, 48))], [tmp_path / "photos.npy"])


def epochs(photos: DecodedPhotos, masks: DrawMasks | None, workers: int = 0) -> list[torch.Tensor]:
    rows, labels = np.arange(21), np.arange(21)[:, None] % 3
    batches = EpochBatches(EpochPhotos(rows, rows, rows, Sampler()), 7, seed=(7, 1))
    augment = Augment([Transform(name="HorizontalFlip", args={"p": 0.5})])
    loader = train_loader(photos, labels, batches, augment, (7, 1), workers, masks=masks)
    found = []
    for epoch in range(2):
        batches.epoch = epoch
        found += [tensor for batch in loader for tensor in batch]
    return found


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_photos_without_a_drawn_mask_are_as_without_the_key(photos: DecodedPhotos) -> None:
    plain = epochs(photos, None)
    assert same(plain, epochs(photos, DrawMasks(recipe(prob=0.0), np.arange(21) % 3)))
    masks = DrawMasks(recipe(prob=1.0), np.arange(21) % 3)
    drawn = epochs(photos, masks)
    assert same(drawn, epochs(photos, masks, workers=2))
    for x, y, x_drawn, y_drawn in zip(plain[::2], plain[1::2], drawn[::2], drawn[1::2], strict=True):
        bare = y[:, 0] == 2
        assert torch.equal(x[~bare], x_drawn[~bare]), "augmentation draws from a stream of its own"
        assert torch.equal(y[~bare], y_drawn[~bare])
        assert (y_drawn[bare] < 2).all()
