"""The epoch that people are scored on is chosen on others, so that the score does not gain from the choice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from planned import CLASS18, plan_run
from run_command import maskens

from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.jobs.oof import load_job_oof, people_halves
from ensemble.metrics.scores import macro_f1
from folds.labels import CLASSES
from folds.layout import read_train
from folds.people import TrainData
from folds.splits import strata

EPOCHS = 8


@pytest.fixture(scope="module")
def data(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("cross") / "data", people=48))


def noise(data: TrainData, seed: int) -> list[np.ndarray]:
    """Epochs whose logits know nothing; the photos of a person are alike, as in real life."""
    rng = np.random.default_rng(seed)
    people = rng.normal(size=(EPOCHS, len(data.people), CLASSES))[:, data.photo_person]
    return list(people + 0.3 * rng.normal(size=people.shape))


def f1(blend: OofEnsemble) -> float:
    return macro_f1(blend.truth, blend.decide(blend.plain("flip")).classes, CLASSES)


def test_noise_scores_at_chance_cross_fitted_and_above_it_at_its_best_epoch(data: TrainData, tmp_path: Path) -> None:
    best, crossed = [], []
    for seed in range(10):
        epochs = noise(data, seed)
        run = plan_run(tmp_path / str(seed), data, epochs[0], epochs=epochs, split_seed=seed)
        chance = np.mean([macro_f1(data.classes, logits.argmax(axis=1), CLASSES) for logits in epochs])
        best.append(f1(load_oof_ensemble([run], None, "best")) - chance)
        crossed.append(f1(load_oof_ensemble([run], None, "cross-fitted")) - chance)
    error = np.std(crossed) / np.sqrt(len(crossed))
    assert error < 0.006
    assert abs(np.mean(crossed)) < 3 * error
    assert np.mean(best) > 0.015


def test_a_person_is_in_one_half_and_each_stratum_in_both(data: TrainData) -> None:
    twice = [*data.people, *data.people]
    held_out = np.arange(len(twice)) != 0
    half = people_halves(twice, held_out, (1, 0))
    assert half[0] == -1
    half[0] = half[len(data.people)]
    assert np.array_equal(half[: len(data.people)], half[len(data.people) :]), "two folders of one id are one person"
    for stratum in range(6):
        mine = half[: len(data.people)][strata(data.people) == stratum]
        assert abs(int((mine == 0).sum()) - int((mine == 1).sum())) <= 1
    assert not np.array_equal(half[1:], people_halves(twice, held_out, (2, 0))[1:])


def test_a_photo_is_predicted_by_the_best_epoch_on_the_other_half(data: TrainData, tmp_path: Path) -> None:
    epochs = noise(data, 0)
    run = plan_run(tmp_path / "run", data, epochs[0], epochs=epochs)
    place = {file: n for n, file in enumerate(data.files)}
    for fold in range(2):
        oof = load_job_oof(run.job_folder("class18", fold) / "oof.npz", {})
        rows = np.array([place[file] for file in oof.files.tolist()])
        for half in (0, 1):
            others, mine = rows[oof.half == 1 - half], oof.half == half
            scores = [macro_f1(data.classes[others], e[others].argmax(axis=1), CLASSES) for e in epochs]
            expected = epochs[int(np.argmax(scores))][rows[mine]]
            np.testing.assert_allclose(oof.at("cross-fitted")[0][mine], expected, rtol=1e-6)


def test_score_leads_with_the_cross_fitted_epochs_and_shows_the_others(data: TrainData, tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", data, noise(data, 0)[0], epochs=noise(data, 0))
    shown = {epoch: f1(load_oof_ensemble([run], None, epoch)) for epoch in ("cross-fitted", "best", "last")}
    assert len(set(shown.values())) == 3
    found = json.loads(maskens("score", "--run", run.folder, "--json").out)
    assert found["used"].startswith("cross-fitted epochs, flip")
    assert found["f1"]["18 classes"]["value"] == pytest.approx(shown["cross-fitted"])
    settings = {setting["name"]: setting["f1"]["value"] for setting in found["settings"]}
    assert {f"{epoch}, flip": pytest.approx(value) for epoch, value in shown.items()}.items() <= settings.items()
    for epoch in ("best", "last"):
        other = json.loads(maskens("score", "--run", run.folder, "--checkpoint", epoch, "--json").out)
        assert other["f1"]["18 classes"]["value"] == pytest.approx(shown[epoch])


def test_where_the_last_epoch_is_kept_score_names_no_other(data: TrainData, tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", data, noise(data, 0)[0], recipe=f'{CLASS18}checkpoint = "last"\n')
    found = json.loads(maskens("score", "--run", run.folder, "--json").out)
    assert found["used"].startswith("last epochs, flip")
    assert not [its["name"] for its in found["settings"] if its["name"].startswith(("best", "cross-fitted"))]
