from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemble.data.augment import Augment, always, faults
from ensemble.data.cache import DecodedPhotos
from ensemble.data.loader import EpochBatches, EpochPhotos, train_loader
from ensemble.recipes.recipe_file import load_recipe, parse_recipe
from ensemble.recipes.schema import Preprocessing, Sampler, SomeOf, Transform, policies, shipped
from folds.people import PhotoSet

FLIP = Transform(name="HorizontalFlip", args={"p": 0.5})
VERTICAL = Transform(name="VerticalFlip", args={"p": 0.5})
ARROW = np.zeros((8, 8, 3), np.uint8)
ARROW[0, 0] = 255  # top left: tells which flips were made


def flips(transforms: list[Transform | SomeOf], keys: list[tuple[int, ...]]) -> np.ndarray:
    augment = Augment(transforms)
    corners = [np.argwhere(augment(ARROW, key)[..., 0])[0] for key in keys]
    return np.array(corners) > 0  # (n, 2): vertical, horizontal


def test_the_same_key_gives_the_same_photo_and_other_keys_others() -> None:
    keys = [(1, epoch, photo) for epoch in range(10) for photo in range(40)]
    first, second = flips([FLIP], keys), flips([FLIP], keys)
    assert np.array_equal(first, second)
    by_epoch = first[:, 1].reshape(10, 40)
    assert all(not np.array_equal(by_epoch[0], later) for later in by_epoch[1:])
    assert 0.4 < first[:, 1].mean() < 0.6


def test_transforms_of_a_chain_are_independent() -> None:
    found = flips([FLIP, VERTICAL], [(0, i) for i in range(600)])
    assert abs(np.corrcoef(found[:, 0], found[:, 1])[0, 1]) < 0.15


def drawn(number: int, p: float = 1.0) -> SomeOf:
    return SomeOf(transforms=(always(VERTICAL), always(FLIP)), some_of=number, p=p)


def test_some_of_a_list_are_drawn_anew_for_each_photo_and_again_for_the_same_key() -> None:
    keys = [(0, i) for i in range(400)]
    found = flips([drawn(1)], keys)
    assert (found.sum(axis=1) == 1).all(), "one of them, never both"
    assert 0.4 < found[:, 0].mean() < 0.6
    assert np.array_equal(flips([drawn(1)], keys[::-1])[::-1], found), "whatever came before"
    assert 0.4 < flips([VERTICAL, drawn(1), FLIP], keys).mean() < 0.6
    assert 0.4 < flips([drawn(1), drawn(1)], keys)[:, 0].mean() < 0.6, "two draws don't move together"
    assert flips([drawn(2)], keys[:20]).all()
    assert 0.2 < flips([drawn(2, p=0.3)], keys)[:, 0].mean() < 0.4, "or none at all"


@pytest.fixture
def photos(tmp_path: Path) -> DecodedPhotos:
    values = np.random.default_rng(0).integers(0, 256, (20, 16, 12, 3), dtype=np.uint8)
    np.save(tmp_path / "photos.npy", values)
    return DecodedPhotos(PhotoSet(tmp_path, [""] * 20, ""), [Preprocessing((16, 12))], [tmp_path / "photos.npy"])


def every(rows: np.ndarray) -> EpochPhotos:
    return EpochPhotos(rows, rows, rows, Sampler())


def epochs(
    photos: DecodedPhotos, workers: int, number: int = 2, changes: tuple[str, ...] = ()
) -> list[list[torch.Tensor]]:
    batches = EpochBatches(every(np.arange(3, 20)), 5, seed=(7, 1))
    labels = np.arange(20)[:, None]
    augment = Augment(load_recipe("quick", changes).tasks["heads"].augment)
    loader = train_loader(photos, labels, batches, augment, (7, 1), workers)
    found = []
    for epoch in range(number):
        batches.epoch = epoch
        found.append([t for batch in loader for t in batch])
    return found


@pytest.mark.parametrize("augment", ["quick's own", "all policies"])
def test_batches_are_the_same_for_any_number_of_workers(photos: DecodedPhotos, augment: str) -> None:
    changes = (f"tasks.heads.augment={[*policies()]}",) if augment == "all policies" else ()
    alone, two = (epochs(photos, workers=n, changes=changes) for n in (0, 2))
    for a, b in zip(alone, two, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0]), "epochs differ"


def test_an_epoch_shows_each_photo_at_most_once_and_never_a_short_batch(photos: DecodedPhotos) -> None:
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    for epoch in epochs(photos, workers=0, number=4):
        labels = torch.cat(epoch[1::2]).flatten().tolist()
        assert len(labels) == len(set(labels)) == 15
        assert set(labels) <= set(range(3, 20))
    assert torch.equal(torch.rand(1), expected), "loading draws nothing from torch's own stream"
    batches = EpochBatches(every(np.arange(3)), 32, seed=(0,))
    assert [sorted(i for _, i, _ in batch) for batch in batches] == [[0, 1, 2]], "unless it is the only one"


@pytest.mark.parametrize(
    ("count", "even", "sizes"), [(7, False, [5, 2]), (6, False, [5]), (9, True, [4, 4]), (7, True, [4, 2])]
)
def test_a_last_batch_can_be_kept_but_never_a_single_photo(count: int, even: bool, sizes: list[int]) -> None:
    batches = EpochBatches(every(np.arange(count)), 4 if even else 5, (0,), even, drop_last=False)
    found = list(batches)
    assert [len(batch) for batch in found] == sizes
    assert (len(batches), batches.photos_per_epoch) == (len(sizes), sum(sizes))


@pytest.mark.parametrize("recipe", sorted(shipped()))
def test_shipped_transforms_take_their_arguments(recipe: str) -> None:
    for task in load_recipe(recipe).tasks.values():
        assert faults(task.augment, (64, 48)) == []


@pytest.mark.parametrize("policy", policies())
def test_shipped_policies_change_photos_and_keep_their_size(policy: str) -> None:
    task, size = load_recipe("quick", [f"tasks.heads.augment={policy}"]).tasks["heads"], (64, 48)
    assert faults(task.augment, size) == []
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    after = [Augment(task.augment)(photo, (i,)) for i in range(30)]
    assert len({a.tobytes() for a in after}) > 25
    assert {a.shape for a in after} == {photo.shape}


def test_a_policy_is_written_out_in_the_recipe_and_reads_back_the_same() -> None:
    changes = ['tasks.heads.augment=[{name="HorizontalFlip"}, "camera"]']
    recipe = load_recipe("quick", changes)
    flip, camera = recipe.tasks["heads"].augment
    assert isinstance(camera, SomeOf)
    assert camera.transforms[0].name == "RandomBrightnessContrast"
    again = parse_recipe(recipe.text, "quick")
    assert again.tasks["heads"].augment == (flip, camera)
    assert again.hash == recipe.hash != load_recipe("quick").hash
