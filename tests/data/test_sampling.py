from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData

from ensemble.data.loader import EpochPhotos, epoch_photos
from ensemble.recipes.schema import Sampler
from folds.layout import read_train

PEOPLE, SHOTS = 20, 7
ROWS = np.arange(100, 100 + PEOPLE * SHOTS)
PERSON = np.repeat(np.arange(PEOPLE), SHOTS)
GROUP = (PERSON >= 16).astype(np.int64)  # one in five is rare


def photos(**recipe: object) -> EpochPhotos:
    return EpochPhotos(ROWS, PERSON, GROUP, Sampler.model_validate(recipe))


def draw(seed: int, **recipe: object) -> list[int]:
    return photos(**recipe).draw(np.random.default_rng(seed)).tolist()


def test_by_default_an_epoch_is_every_photo_once_in_random_order() -> None:
    assert sorted(draw(0)) == ROWS.tolist() != draw(0)
    assert draw(0) == draw(0) != draw(1)


@pytest.mark.parametrize("n", [1, 3, 7])
@pytest.mark.parametrize("fraction", [0.05, 0.5, 1.0, 2.7])
def test_a_fraction_shows_that_many_and_none_twice_before_all_have_come(fraction: float, n: int) -> None:
    found = draw(0, fraction=fraction, photos_per_person=n)
    assert len(found) == len(photos(fraction=fraction, photos_per_person=n)) == max(2, round(fraction * PEOPLE * n))
    first = found[: PEOPLE * n]
    assert len(set(first)) == len(first)


def test_one_photo_a_person_is_another_one_each_epoch() -> None:
    epochs = [draw(seed, photos_per_person=1) for seed in range(100)]
    for found in epochs:
        assert sorted(PERSON[np.array(found) - 100]) == list(range(PEOPLE))
    assert set(np.concatenate(epochs).tolist()) == set(ROWS.tolist()), "all photos have their turn"


def test_two_folders_of_one_id_are_one_person(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=6)
    table = root / "train" / "train.csv"
    table.write_text(table.read_text().replace("000001,", "000000,"))
    data, rows = read_train(root), np.arange(42)
    assert len(epoch_photos(Sampler(photos_per_person=1), (30, 60), data, rows)) == 5
    every = epoch_photos(Sampler(), (30, 60), data, rows).draw(np.random.default_rng(0))
    assert sorted(every) == list(range(42)), "by default all photos of both"


@pytest.mark.parametrize(("strength", "share"), [(1.0, 0.5), (0.5, 1 / 3), (0.0, 0.2)])
def test_balance_evens_groups_out_by_its_strength(strength: float, share: float) -> None:
    found = np.concatenate([draw(seed, balance="class", strength=strength, fraction=10) for seed in range(5)])
    assert GROUP[found - 100].mean() == pytest.approx(share, abs=0.02)


def test_balance_counts_classes_or_age_bins(make_data: MakeData, tmp_path: Path) -> None:
    data = read_train(make_data(tmp_path / "data", people=36))
    rows = np.arange(len(data.files))
    by_class = epoch_photos(Sampler.model_validate({"balance": "class"}), (30, 60), data, rows)
    assert np.array_equal(by_class.group, data.classes)
    by_age = epoch_photos(Sampler.model_validate({"balance": "age"}), (21, 30, 46, 58), data, rows)
    assert np.array_equal(by_age.group, np.digitize(data.years, [21, 30, 46, 58]))


@pytest.mark.parametrize(("weight", "shown"), [(0.0, 0), (0.5, 30), (1.0, 60), (2.5, 150)])
@pytest.mark.parametrize("n", [1, 7])
def test_extra_photos_are_shown_as_often_as_the_recipe_says(weight: float, shown: int, n: int) -> None:
    extra = np.arange(len(ROWS)) >= 80  # of 60 photos
    person = np.where(extra, 100 + np.arange(len(ROWS)), PERSON)  # a person each
    own = len(np.unique(PERSON[:80])) * n if n == 1 else 80
    recipe = Sampler(extra=weight, photos_per_person=n)
    sampled = EpochPhotos(ROWS, person, GROUP, recipe, extra)
    drawn = sampled.draw(np.random.default_rng(0))
    assert len(drawn) == len(sampled) == own + shown
    counts = np.unique(drawn[drawn >= 180], return_counts=True)[1]
    assert counts.sum() == shown
    assert not len(counts) or counts.max() - counts.min() <= 1, "none comes again before all have come"
    balanced = EpochPhotos(ROWS, person, GROUP, Sampler(extra=weight, balance="class", fraction=50.0), extra)
    drawn = balanced.draw(np.random.default_rng(0))
    rare = drawn[drawn >= 212]  # of group 1, which are all extra
    assert (len(rare) == 0) == (weight == 0)
