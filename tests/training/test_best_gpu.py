"""The recipe `best-gpu` with a small model of its family, on a CPU."""

from __future__ import annotations

from pathlib import Path

import timm
from conftest import MakeData
from safetensors.torch import save_file

import ensemble
from ensemble.recipes.recipe_file import load_recipe

SMALL = {"model": "test_convnext.r160_in1k", "resize": "[32, 32]", "batch_size": "16", "epochs": "2"}


def test_a_small_model_of_its_family_is_trained_in_all_its_ways(make_data: MakeData, tmp_path: Path) -> None:
    save_file(timm.create_model(SMALL["model"]).state_dict(), tmp_path / "convnext.safetensors")
    ensemble.folds(make_data(tmp_path / "data", people=12), run=tmp_path / "run", k=2)
    changes = [f"tasks.heads.{key}={value}" for key, value in SMALL.items()]
    weights = [str(tmp_path / "convnext.safetensors")]
    options = {"recipe": "best-gpu", "change": changes, "weights": weights, "device": "cpu", "workers": 0}
    assert not ensemble.train(tmp_path / "run", fold=0, **options).failed


def test_its_own_model_is_one_that_timm_has_weights_of() -> None:
    task = load_recipe("best-gpu").tasks["heads"]
    assert task.pretrained
    assert task.model in timm.list_pretrained("convnext*")
