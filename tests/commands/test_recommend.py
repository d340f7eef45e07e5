"""maskens recommend, as a user runs it."""

from __future__ import annotations

from pathlib import Path

import pytest
from run_command import maskens, ran, refused

import ensemble.training.recommend
from ensemble.recipes.recipe_file import load_recipe
from ensemble.training.cost import Cost
from ensemble.training.recommend import CANDIDATES, MEASURED_ON, Candidate

FAST = Cost(decode=0.0, train=1e-3, predict=1e-4, start=0.0, weights=1, memory=1)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model is fast, and none is built."""
    monkeypatch.setattr(ensemble.training.recommend, "probe", lambda *_: FAST)


@pytest.mark.usefixtures("data", "timed")
def test_the_recipe_is_written_with_its_reasons_and_the_commands_that_train_it() -> None:
    outcome = ran("recommend", "--device", "cpu")
    assert "18 people, 126 photos; the rarest class is 'incorrect, male, <30': 3 photos of 3 people" in outcome.out
    chosen = CANDIDATES["cpu"][0]
    assert f"chosen: {chosen.network}, epochs {chosen.epochs}, folds 3" in outcome.out
    assert f"highest macro F1 of new people, measured with {MEASURED_ON}" in outcome.out
    assert f"{chosen.f1:.3f}" in " ".join(outcome.out.split()), "how sure that is"
    assert "next: maskens folds --run runs/default --k 3" in outcome.out
    train = "maskens train --run runs/default --recipe recommended.toml --fold 0..2 --device cpu"
    assert f"next: {train}" in outcome.out
    recipe = load_recipe("recommended.toml").tasks["heads"]
    assert (recipe.epochs, recipe.resize) == (chosen.epochs, chosen.size)
    assert recipe.optimizer == load_recipe(chosen.recipe).tasks["heads"].optimizer
    assert not Path("runs").exists(), "nothing else is written"
    ran("folds", "--k", 3)
    outcome = ran("recommend", "--device", "cpu")
    assert "next: maskens folds" not in outcome.out, "the run has these folds"


@pytest.mark.usefixtures("data", "timed")
def test_a_file_that_is_there_is_kept() -> None:
    ran("recommend", "--device", "cpu")
    before = Path("recommended.toml").read_text()
    again = maskens("recommend", "--device", "cpu", "--hours", "0.0001")
    assert "the earlier file is kept as recommended.1.toml" in again.out, again
    assert Path("recommended.1.toml").read_text() == before != Path("recommended.toml").read_text()
    Path("mine.toml").write_text("mine")
    refused(maskens("recommend", "--out", "mine.toml"), "mine.toml", "not a recommendation", "--out")
    refused(maskens("recommend", "--out", "mine.txt"), "a recipe is a .toml file")


@pytest.mark.usefixtures("data", "timed")
def test_a_run_with_models_of_another_recipe_is_left_alone() -> None:
    Path("more.csv").write_text("photo,age\ndata/eval/images/a01.jpg,20\n")
    ran("folds", "--k", 3, "--extra", "more.csv", "--allow-duplicates")
    job = Path("runs/default/mask/fold0")
    job.mkdir(parents=True)
    (job / "last.pt").touch()
    outcome = maskens("recommend", "--device", "cpu")
    assert "126 photos and 1 extra" in outcome.out
    assert "next: maskens folds --run NEW_RUN --data " in outcome.out
    assert "--extra more.csv --k 3" in outcome.out
    assert "next: maskens train --run NEW_RUN --recipe recommended.toml --fold 0..2" in outcome.out


@pytest.mark.usefixtures("data", "timed")
def test_too_little_time_is_reported_and_the_least_is_recommended() -> None:
    outcome = ran("recommend", "--device", "cpu", "--hours", "0.00001", "--run", "r", "--data", "data")
    assert "an epoch shows 10% of the photos" in outcome.out
    assert "nothing here is quicker" in outcome.out
    assert "next: maskens folds --run r --data data --k 3" in outcome.out
    assert load_recipe("recommended.toml").tasks["heads"].sampler.fraction == 0.1


@pytest.mark.usefixtures("data")
def test_a_recommendation_can_be_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = Candidate("test_resnet.r160_in1k", (32, 24), 1, "best")
    monkeypatch.setattr(ensemble.training.recommend, "CANDIDATES", {"cpu": (tiny,)})
    outcome = maskens("recommend", "--device", "cpu", "--out", "tiny.toml")
    assert "why: the largest" in outcome.out, outcome
    *_, folds, train = (line.removeprefix("next: ") for line in outcome.out.splitlines())
    for command in (folds, f"{train} --no-pretrained"):
        outcome = ran(*command.split()[1:])
    assert "next: maskens infer" in outcome.out
