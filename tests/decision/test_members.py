"""Models are held against their run and its recipe before they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cards import model_card
from conftest import MakeData
from planned import plan_run

from ensemble.decision.members import members
from ensemble.models.build import create, save_checkpoint
from ensemble.recipes.recipe_file import run_recipe
from folds.errors import MaskensError
from folds.layout import read_train


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({}, ""),
        ({"model": "test_vit"}, "model"),
        ({"model_args": {"drop_rate": 0.5}}, "model"),
        ({"cuts": (20, 60)}, "target"),
        ({"predicts": "mask"}, "target"),
        ({"resize": (64, 24)}, "photo size"),
        ({"seed": 5}, "seed"),
        ({"fold": 1}, "fold"),
    ],
    ids=str,
)
def test_a_card_that_says_something_else_than_the_recipe_is_refused(
    make_data: MakeData, tmp_path: Path, change: dict[str, Any], word: str
) -> None:
    run = plan_run(tmp_path / "run", read_train(make_data(tmp_path / "data", people=12)), np.zeros((84, 18)))
    recipe = run_recipe(run)
    task = recipe.tasks["class18"]
    own = {"predicts": "class18", "task": "class18", "reduced": True, "task_hash": task.hash}
    own |= {"folds_hash": run.folds_hash, "seed": run.seed}
    for fold in range(2):
        card = model_card(**own | {"fold": fold} | (change if fold == 0 else {}))
        save_checkpoint(run.job_folder("class18", fold) / "model.safetensors", create(task), card)
    if not word:
        assert len(members(run, recipe, allow_missing=False)) == 2
        return
    with pytest.raises(MaskensError, match=rf"fold0/model\.safetensors belongs to another {word}$"):
        members(run, recipe, allow_missing=False)
