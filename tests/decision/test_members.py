"""Models are compared with their run and its recipe before they are used."""

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

CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"model": "test_vit"}, "model"),
    ({"model_args": {"drop_rate": 0.5}}, "model_args"),
    ({"cuts": (20, 60)}, "output_spec"),
    ({"predicts": "mask"}, "output_spec"),
    ({"resize": (64, 24)}, "preprocessing"),
    ({"seed": 5}, "seed"),
    ({"fold": 1}, "fold"),
]


def test_a_card_of_another_recipe_seed_or_fold_is_refused(make_data: MakeData, tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", read_train(make_data(tmp_path / "data", people=12)), np.zeros((84, 18)))
    task = run_recipe(run).tasks["class18"]
    own = {"predicts": "class18", "task": "class18", "reduced": True, "task_hash": task.hash}
    own |= {"folds_hash": run.folds_hash, "seed": run.seed}
    model = create(task)
    for fold in range(2):
        save_checkpoint(
            run.job_folder("class18", fold) / "model.safetensors", model, model_card(**own | {"fold": fold})
        )
    assert len(members(run, allow_missing=False)) == 2
    for change, key in CHANGES:
        card = model_card(**own | {"fold": 0} | change)
        save_checkpoint(run.job_folder("class18", 0) / "model.safetensors", model, card)
        with pytest.raises(MaskensError, match=rf"fold0/model\.safetensors belongs to another {key}$"):
            members(run, allow_missing=False)
