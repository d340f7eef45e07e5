"""Photos predicted by several processes: what one would say of them, whatever is lost meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import model_card

from ensemble.backends.backend import Call, SequentialBackend, WorkerLost
from ensemble.decision.members import Ensemble, Member
from ensemble.jobs.hardware import Hardware
from ensemble.models.build import create, normalisation, save_checkpoint
from ensemble.models.engine import EngineOptions
from ensemble.prediction import shards
from ensemble.prediction.inference import Prediction, infer
from ensemble.prediction.outputs import InferenceSettings
from ensemble.recipes.recipe_file import parse_recipe
from folds.errors import MaskensError
from folds.layout import read_eval
from folds.people import EvalData

RECIPE = """
[tasks.heads]
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
"""
PHOTOS = 40


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> EvalData:
    ids = [f"p{n:02}.jpg" for n in range(PHOTOS)]
    return read_eval(make_data(tmp_path_factory.mktemp("shards") / "data", people=6, size=(64, 48), eval_ids=ids))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    recipe = parse_recipe(RECIPE, "tiny").tasks["heads"]
    found = []
    for fold in range(2):
        torch.manual_seed(fold)
        model = create(recipe)
        mean, std = normalisation(model)
        card = model_card(
            model=recipe.model,
            predicts=recipe.predicts,
            task="heads",
            fold=fold,
            k=2,
            resize=recipe.resize,
            mean=mean,
            std=std,
        )
        path = tmp_path_factory.mktemp("run") / "heads" / f"fold{fold}" / "model.safetensors"
        save_checkpoint(path, model, card)
        found.append(Member("heads", fold, path, card))
    return Ensemble(tuple(found), {})


class Told(SequentialBackend):
    """Calls in this process, of which some are lost."""

    def __init__(self, lost: list[int]) -> None:
        self.lost, self.names = lost, list[str]()

    def call(self, call: Call) -> Any:
        self.names.append(call.name)
        if len(self.names) in self.lost:
            raise WorkerLost("the worker that had it is gone")
        return super().call(call)


def predicted(models: Ensemble, data: EvalData, folder: Path | None, **settings: Any) -> Prediction:
    hardware = Hardware("cpu", 0, jobs=2) if folder else Hardware("cpu", 0)
    return infer([models], data.photos, InferenceSettings("flip", hardware, shards=folder, **settings))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Told]:
    """Shards of 8 photos, on a backend that loses the calls of these numbers."""

    def make(*lost: int) -> Told:
        backend = Told(list(lost))
        monkeypatch.setattr(shards, "SMALLEST", 8)
        monkeypatch.setattr(shards, "LARGEST", 8)
        monkeypatch.setattr(shards, "open_backend", lambda hardware: backend)
        return backend

    return make


def test_several_processes_say_what_one_does(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    alone, together = predicted(models, data, None), predicted(models, data, tmp_path / "shards")
    assert np.array_equal(together.logits[0]["heads"], alone.logits[0]["heads"])
    assert np.array_equal(together.class_log_probs, alone.class_log_probs)
    assert not (tmp_path / "shards").exists()


def test_shards_are_merged_in_order_and_a_lost_one_is_done_again(
    models: Ensemble, data: EvalData, tmp_path: Path, small: Callable[..., Told]
) -> None:
    backend = small(2)
    found = predicted(models, data, tmp_path / "shards", retries=1)
    assert np.array_equal(found.logits[0]["heads"], predicted(models, data, None).logits[0]["heads"])
    assert backend.names[:3] == ["photos 1 to 8", "photos 9 to 16", "photos 9 to 16"]
    assert len(backend.names) == PHOTOS // 8 + 1


def test_shards_that_were_done_are_kept(
    models: Ensemble, data: EvalData, tmp_path: Path, small: Callable[..., Told]
) -> None:
    small(3)
    with pytest.raises(MaskensError, match=r"photos 17 to 24: the worker .* is gone. Finished shards are kept; resume"):
        predicted(models, data, tmp_path / "shards")
    backend = small()
    found = predicted(models, data, tmp_path / "shards")
    assert backend.names == ["photos 17 to 24", "photos 25 to 32", "photos 33 to 40"]
    assert found.outputs.resumed == 16
    assert np.array_equal(found.logits[0]["heads"], predicted(models, data, None).logits[0]["heads"])


def test_shards_of_another_inference_are_not_gone_on_from(
    models: Ensemble, data: EvalData, tmp_path: Path, small: Callable[..., Told]
) -> None:
    small(3)
    with pytest.raises(MaskensError):
        predicted(models, data, tmp_path / "shards")
    backend = small()
    predicted(models, data, tmp_path / "shards", engine=EngineOptions("bf16"))
    assert len(backend.names) == PHOTOS // 8


def test_a_damaged_shard_is_done_again(
    models: Ensemble, data: EvalData, tmp_path: Path, small: Callable[..., Told]
) -> None:
    small(3)
    with pytest.raises(MaskensError):
        predicted(models, data, tmp_path / "shards")
    first = tmp_path / "shards" / "0-7.npz"
    first.write_bytes(first.read_bytes()[:-100])
    backend = small()
    predicted(models, data, tmp_path / "shards")
    assert backend.names[0] == "photos 1 to 8"


def test_one_way_of_predicting_is_chosen_for_all_shards(
    models: Ensemble, data: EvalData, tmp_path: Path, small: Callable[..., Told]
) -> None:
    small()
    found = predicted(models, data, tmp_path / "shards", engine=EngineOptions("auto"))
    assert len(found.outputs.chosen) == len(models.members)
