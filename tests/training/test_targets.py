from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ensemble.jobs.soft_targets import FoldTargets, SoftTargets
from ensemble.recipes.tasks import OutputSpec, Predicts, bands_of, training_labels
from ensemble.training.losses import age_distribution, bin_counts, label_targets, target_tables
from folds.labels import OLDEST, UNKNOWN, age_band, decode, of_band
from folds.people import ALONE, Person, TrainData


def test_teachers_fill_in_what_a_label_lacks() -> None:
    rows = [(0, 1, 45), (2, UNKNOWN, int(of_band(2))), (UNKNOWN, 0, UNKNOWN)]
    people = tuple(Person(f"{n}", f"{n}", g, age, ALONE, (1,), (mask,)) for n, (mask, g, age) in enumerate(rows))
    data = TrainData(Path(), people, table=Path("list.csv"))
    taught = np.random.default_rng(0).dirichlet(np.ones(18), 3)
    fold = FoldTargets(("m",), tuple(data.files), np.log(taught).astype(np.float32))
    soft = SoftTargets(("t",), ("x",), "flip", "", 2, 1.0, 0.25, {0: fold})
    found = soft.of(0, "heads", data)
    assert found.sum(axis=1) == pytest.approx(np.ones(3))
    labels = (found - 0.25 * taught) / 0.75
    masks, genders, bands = decode(np.arange(18))
    for row, possible in ((0, np.arange(18) == 4), (1, (masks == 2) & (bands == 2)), (2, genders == 0)):
        expected = np.where(possible, 1.0 if row == 0 else taught[row], 0)
        assert labels[row] == pytest.approx(expected / expected.sum(), abs=1e-5)


@pytest.mark.parametrize(("cuts", "sigma"), [((30, 60), 0.01), ((21, 30, 46, 58), 3.0), ((1, 110), 50.0)])
def test_a_spread_target_is_the_normal_distributions_mass_in_each_bin(cuts: tuple[int, ...], sigma: float) -> None:
    found = age_distribution(cuts, sigma).numpy()
    assert found.shape == (OLDEST + 1, len(cuts) + 1)
    assert found.sum(axis=1) == pytest.approx(np.ones(OLDEST + 1))
    edges = np.array([-np.inf, *cuts, np.inf])
    for years in (0, 29, 30, 60, 120):
        assert found[years] == pytest.approx(np.diff(norm.cdf(edges, years + 0.5, sigma)), abs=1e-9)
    vanishing = age_distribution(cuts, 1e-3).numpy()
    assert np.array_equal(vanishing, np.eye(len(cuts) + 1)[age_band(np.arange(OLDEST + 1), cuts)])


@pytest.mark.parametrize("kind", ["mask", "age", "heads", "class18"])
@pytest.mark.parametrize("cuts", [(30, 60), (21, 30, 46, 58)])
def test_spread_targets_narrow_to_the_certain_ones(data: TrainData, kind: Predicts, cuts: tuple[int, ...]) -> None:
    output_spec = OutputSpec(kind, cuts, bands_of(cuts))
    labels = training_labels(output_spec, data)
    certain = label_targets(torch.from_numpy(labels), target_tables(output_spec))
    columns = [np.eye(len(head.bin_labels))[column] for head, column in zip(output_spec.heads, labels.T, strict=True)]
    assert np.array_equal(certain.numpy(), np.hstack(columns)), "one-hot"
    in_years = torch.from_numpy(training_labels(output_spec, data, in_years=True))
    assert torch.equal(label_targets(in_years, target_tables(output_spec, 1e-3)), certain)
    spread = label_targets(in_years, target_tables(output_spec, 4.0))
    assert spread.sum(dim=1).numpy() == pytest.approx(len(output_spec.heads) * np.ones(len(spread)), abs=1e-5)
    assert bool((spread == certain).all()) == (kind == "mask"), "only ages are spread"


def test_photos_are_counted_by_what_is_learned_of_them(data: TrainData) -> None:
    output_spec = OutputSpec("heads", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    labels = training_labels(output_spec, data)
    counts = bin_counts(torch.from_numpy(labels), target_tables(output_spec))
    for found, column, head in zip(counts, labels.T, output_spec.heads, strict=True):
        assert found.tolist() == np.bincount(column, minlength=len(head.bin_labels)).tolist()
    in_years = torch.from_numpy(training_labels(output_spec, data, in_years=True))
    spread = bin_counts(in_years, target_tables(output_spec, 5.0))
    assert [float(c.sum()) for c in spread] == pytest.approx([len(labels)] * 3)
    assert spread[2].tolist() != np.bincount(labels[:, 2]).tolist()
