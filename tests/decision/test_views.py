"""What views say together, and what tuning makes of them; on planned out-of-fold logits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from planned import CLASS18, plan_run
from scipy.special import softmax

from ensemble.decision.fitting import tune
from ensemble.decision.joint import merged_log_probabilities
from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.decision.tuning import apply_tuning, save_tuning
from ensemble.evaluation.evaluate import evaluate, plain_values
from ensemble.metrics.heads import head_log_probabilities
from ensemble.recipes.tasks import OutputSpec
from ensemble.recipes.views import Merge, TtaSet
from folds.errors import MaskensError
from folds.layout import read_train
from folds.people import TrainData

THREE = ("identity", "hflip", "scale=0.9")
RECIPE = f"""oof_tta = ["mine"]
{CLASS18}
[tta.mine]
views = {list(THREE)}
[tta.best-of]
views = {list(THREE)}
merge = "max"
"""


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("views") / "data", people=60))


def noisy(data: TrainData, seed: int, gain: float) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (len(data.files), 18)) + gain * np.eye(18)[data.classes]


@pytest.fixture
def blend(data: TrainData, tmp_path: Path) -> OofEnsemble:
    """A run whose third view is worth more than the others."""
    views = np.stack([noisy(data, 1, 2.0), noisy(data, 2, 2.0), noisy(data, 3, 3.5)])
    return load_oof_ensemble([plan_run(tmp_path / "a", data, views, recipe=RECIPE, views=THREE)], None, "best")


def merged(logits: np.ndarray, merge: Merge, target: OutputSpec) -> np.ndarray:
    return merged_log_probabilities(logits, target.heads[0], TtaSet(views=("identity", "hflip"), merge=merge))


def test_gmean_is_of_probabilities_and_never_nan(data: TrainData) -> None:
    logits = np.random.default_rng(0).normal(0, 5, (2, 7, 3))  # below 0, too
    p = softmax(logits, axis=2)
    geometric = np.sqrt(p[0] * p[1])
    found = np.exp(merged(logits, "gmean", OutputSpec("mask")))
    assert found == pytest.approx(geometric / geometric.sum(axis=1, keepdims=True))
    mean = np.exp(head_log_probabilities(logits.mean(axis=0), OutputSpec("mask").heads[0]))
    assert found == pytest.approx(mean), "of a softmax the mean of the logits is the geometric mean"
    finer = OutputSpec("age", (21, 30, 46, 58), (0, 0, 1, 1, 2))
    bins = np.random.default_rng(1).normal(0, 5, (2, 7, 5))
    assert merged(bins, "gmean", finer) != pytest.approx(head_log_probabilities(bins.mean(axis=0), finer.heads[0]))


def test_max_takes_the_largest_probability_whatever_constant_a_models_logits_have() -> None:
    logits = np.random.default_rng(0).normal(0, 2, (2, 7, 3))
    found = merged(logits, "max", OutputSpec("mask"))
    largest = softmax(logits, axis=2).max(axis=0)
    assert np.exp(found) == pytest.approx(largest / largest.sum(axis=1, keepdims=True))
    assert merged(logits + np.array([100, 0])[:, None, None], "max", OutputSpec("mask")) == pytest.approx(found)


def test_sets_of_the_recipe_are_scored_with_each_view_and_what_it_costs(blend: OofEnsemble) -> None:
    assert blend.sets == ["none", "flip", "mine", "best-of"]
    applied = apply_tuning([blend.runs[0].run], [blend.runs[0].recipe], None)
    found = {v.name: v for v in evaluate(blend, applied).views}
    assert list(found) == [*THREE, "flip", "mine", "best-of"]
    assert [v.passes for v in found.values()] == [1, 1, 1, 2, 3, 3]
    assert found["identity"].gain.value == 0
    assert found["scale=0.9"].gain.low > 0
    assert found["mine"].f1.value > found["flip"].f1.value
    assert {v["name"] for v in plain_values(evaluate(blend, applied))["views"]} == set(found)


def test_runs_side_by_side_use_the_views_that_both_have(data: TrainData, blend: OofEnsemble, tmp_path: Path) -> None:
    other = plan_run(tmp_path / "b", data, noisy(data, 4, 2.0))
    both = load_oof_ensemble([blend.runs[0].run, other], None, "best")
    assert both.sets == ["none", "flip"]
    with pytest.raises(MaskensError, match=r"no view scale=0\.9.*choose another --tta, or name the set in oof_tta"):
        both.decide(both.plain("mine"))


def test_the_set_is_tuned_kept_and_applied(blend: OofEnsemble) -> None:
    tuning, nested = tune(blend, ["views"])
    assert tuning.kept == ("views",)
    assert tuning.fitted.tta in ("mine", "best-of")
    member = blend.runs[0]
    path = member.run.folder / "tuning.json"
    save_tuning(path, tuning, [blend.data.files[i] for i in blend.rows], nested)
    applied = apply_tuning([member.run], [member.recipe], None)
    assert applied.fitted == tuning.fitted
    assert applied.words.startswith("tuned: views (")
    assert apply_tuning([member.run], [member.recipe], tuning.fitted.tta).tuning, "its own views by name"
    assert f"is for --tta {tuning.fitted.tta}" in apply_tuning([member.run], [member.recipe], "flip").words
    assert evaluate(blend, applied).settings[-1].name == "tuned"
