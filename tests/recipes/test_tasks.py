from __future__ import annotations

import numpy as np
import pytest
from conftest import MakeData
from hypothesis import given
from hypothesis import strategies as st

from ensemble.recipes.schema import Ages
from ensemble.recipes.tasks import OutputSpec, Predicts, bands_of, training_labels, true_labels, with_mask
from folds.labels import age_band
from folds.layout import read_train
from folds.people import TrainData

FIVE = ((21, 30, 46, 58), (0, 0, 1, 1, 2))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_data: MakeData) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("tasks") / "data", people=60))


def test_the_origins_five_bins_merge_to_three() -> None:
    assert Ages.model_validate({"cuts": [21, 30, 46, 58]}).bin_bands == (0, 0, 1, 1, 2)
    assert OutputSpec("heads", *FIVE).width == 3 + 2 + 5
    assert OutputSpec("heads", *FIVE).names["age"] == ["<21", "21-29", "30-45", "46-57", ">=58"]


@given(st.lists(st.integers(1, 110), min_size=1, max_size=5, unique=True), st.integers(0, 110))
def test_a_bin_counts_as_the_band_of_its_oldest_age(extra: list[int], years: int) -> None:
    cuts = sorted({*extra, 30, 60})
    bands = bands_of(cuts)
    assert bands[int(age_band(years, cuts))] == age_band(years)


def test_training_on_other_cuts_leaves_the_true_labels_alone(data: TrainData) -> None:
    lowered = OutputSpec("age", (30, 58), (0, 1, 2))
    trained, true = training_labels(lowered, data)[:, 0], true_labels(lowered, data)[:, 0]
    years = data.years
    assert np.array_equal(true, age_band(years))
    assert set(years[trained != true]) == {58, 59} & set(years)
    assert {58, 59} & set(years)
    assert np.array_equal(true_labels(OutputSpec("class18", *FIVE), data)[:, 0], data.classes)


def test_training_labels_of_finer_bins_merge_to_the_true_ones(data: TrainData) -> None:
    output_spec = OutputSpec("heads", (21, 30, 46, 60), (0, 0, 1, 1, 2))
    trained, true = training_labels(output_spec, data), true_labels(output_spec, data)
    for column, head in enumerate(output_spec.heads):
        assert np.array_equal(np.array(head.bin_labels)[trained[:, column]], true[:, column])
    whole = OutputSpec("class18", (21, 30, 46, 60), (0, 0, 1, 1, 2))
    merged = np.array(whole.heads[0].bin_labels)[training_labels(whole, data)[:, 0]]
    assert np.array_equal(merged, data.classes)


@pytest.mark.parametrize("in_years", [False, True])
@pytest.mark.parametrize("predicts", ["mask", "gender", "age", "heads", "class18"])
def test_another_mask_changes_the_mask_and_nothing_else(data: TrainData, predicts: Predicts, in_years: bool) -> None:
    output_spec = OutputSpec(predicts, *FIVE)
    labels = training_labels(output_spec, data, in_years).reshape(-1, 7, len(output_spec.heads))
    for person in labels[::7]:
        normal = person[6]
        assert np.array_equal(with_mask(output_spec, normal, 0, in_years), person[0]), "as on the photos with a mask"
        assert np.array_equal(with_mask(output_spec, normal, 1, in_years), person[5])
        assert np.array_equal(with_mask(output_spec, normal, 2, in_years), normal)
