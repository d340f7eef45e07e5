"""Predicting with many models: whatever the order, the memory and the interruptions, the same logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cards import model_card

from ensemble.data.cache import DecodedPhotos
from ensemble.decision.decide import decide
from ensemble.decision.members import Ensemble, Member
from ensemble.decision.tuning import DecisionParams, RunTuning
from ensemble.jobs.hardware import Hardware
from ensemble.models.build import create, load_checkpoint, normalisation, save_checkpoint, to_device
from ensemble.models.engine import EngineOptions, InferenceEngine
from ensemble.models.precision import PrecisionChoice
from ensemble.prediction import predictor
from ensemble.prediction.inference import Prediction, infer
from ensemble.prediction.outputs import InferenceCheckpoint, InferenceSettings, Outputs
from ensemble.prediction.predictor import refuse_other_engine
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import VIEWS
from ensemble.training.fit_fold import view_logits
from folds.errors import MaskensError
from folds.labels import IntArray
from folds.layout import read_eval
from folds.people import EvalData
from folds.photos import Progress

RECIPE = """
[defaults]
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
[tasks.mask]
model = "test_efficientnet.r160_in1k"
resize = [40, 32]
[tasks.gender]
[tasks.male-age]
[tasks.female-age]
"""
IDS = [f"p{n:03}.jpg" for n in range(150)]
CPU, DEVICE = Hardware("cpu", 0), torch.device("cpu")
RUN = RunTuning(run="r", made_of="", oof_hash="")
RULE = DecisionParams(tta="flip", runs=(RUN,), offsets=tuple(0.2 * (c % 5) for c in range(18)))


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> EvalData:
    return read_eval(make_data(tmp_path_factory.mktemp("passes") / "data", people=6, size=(64, 48), eval_ids=IDS))


def photos_of(data: EvalData, size: tuple[int, int]) -> DecodedPhotos:
    return DecodedPhotos(data.photos, [Preprocessing(size)])


def spread_out(model: Any, photos: DecodedPhotos, mean: Any, std: Any) -> None:
    """Give each logit a mean of 0 and a spread of 2 over the photos."""
    args = ((mean, std), DEVICE, photos, np.arange(50), VIEWS["none"])
    logits = view_logits(InferenceEngine(to_device(model, DEVICE).eval(), 50), *args)[0]
    head, scale = model.get_classifier(), torch.from_numpy(2 / logits.std(axis=0))
    with torch.no_grad():
        head.bias.copy_((head.bias - torch.from_numpy(logits.mean(axis=0))) * scale)
        head.weight.mul_(scale[:, None])


@pytest.fixture(scope="module")
def models(data: EvalData, tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    """Four tasks, two folds; untrained, but with heads set so that the photos' classes differ."""
    root, found = tmp_path_factory.mktemp("models"), []
    for task, recipe in parse_recipe(RECIPE, "tiny").tasks.items():
        for fold in range(2):
            torch.manual_seed(len(found))
            model = create(recipe)
            mean, std = normalisation(model)
            spread_out(model, photos_of(data, recipe.resize), mean, std)
            card = model_card(
                model=recipe.model,
                predicts=recipe.predicts,
                task=task,
                fold=fold,
                k=2,
                resize=recipe.resize,
                mean=mean,
                std=std,
            )
            path = root / task / f"fold{fold}" / "model.safetensors"
            save_checkpoint(path, model, card)
            found.append(Member(task, fold, path, card))
    return Ensemble(tuple(found), {})


@pytest.fixture(scope="module")
def plain(models: Ensemble, data: EvalData) -> dict[str, np.ndarray]:
    """The usual loop: model by model over all photos, as they were trained."""
    found: dict[str, list[np.ndarray]] = {}
    for member in models.members:
        model, card = load_checkpoint(member.path, DEVICE)
        photos, rows = photos_of(data, card.resize), np.arange(len(data.ids))
        engine = InferenceEngine(model, 50)
        values = view_logits(engine, (card.mean, card.std), DEVICE, photos, rows, VIEWS["flip"])
        found.setdefault(member.task, []).append(values)
    return {task: np.stack(values) for task, values in found.items()}


def run(models: Ensemble, data: EvalData, on_predict: Progress | None = None, **settings: Any) -> Prediction:
    return infer([models], data.photos, InferenceSettings("flip", CPU, **settings), on_predict=on_predict)


def classes_of(found: Prediction) -> IntArray:
    return decide(found.class_log_probs, RULE.weights, RULE.offsets).classes


def test_all_models_at_once_say_what_each_says_by_itself(
    models: Ensemble, data: EvalData, plain: dict[str, np.ndarray]
) -> None:
    found = run(models, data).logits[0]
    for task, values in plain.items():
        assert found[task] == pytest.approx(values, abs=1e-4), task


def test_early_exit_leaves_models_out_and_the_classes_as_they_are(
    models: Ensemble, data: EvalData, plain: dict[str, np.ndarray]
) -> None:
    everybody, routed = run(models, data), run(models, data, early_exit=RULE)
    classes = classes_of(everybody)
    assert len(set(classes.tolist())) > 3
    assert (classes_of(routed) == classes).all()
    assert everybody.evaluated == 1 and 0 < routed.evaluated < 1
    for task, values in routed.logits[0].items():
        shown = np.isfinite(values).all(axis=(0, 1, 3))
        assert shown.all() == (task not in ONLY_GENDER)
        assert values[:, :, shown] == pytest.approx(plain[task][:, :, shown], abs=1e-4)


def test_models_that_do_not_fit_together_take_turns(
    models: Ensemble, data: EvalData, plain: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    largest = max(m.path.stat().st_size for m in models.members)
    monkeypatch.setattr(predictor, "_free_memory", lambda device: 2.5 * largest / predictor.SHARE)
    assert len(predictor.groups_that_fit(models.members, DEVICE)) > 2
    found = run(models, data, early_exit=RULE)
    for task, values in plain.items():
        assert found.logits[0][task] == pytest.approx(values, abs=1e-4), task
    assert (classes_of(found) == classes_of(run(models, data))).all()


@pytest.mark.parametrize("early_exit", [None, RULE])
def test_an_interrupted_inference_goes_on_where_it_was(
    models: Ensemble, data: EvalData, tmp_path: Path, early_exit: DecisionParams | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(done: int, total: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    partial = tmp_path / "eval.partial.npz"
    with pytest.raises(KeyboardInterrupt):
        run(models, data, early_exit=early_exit, partial=partial, on_predict=stop)
    assert partial.exists()
    shown: list[int] = []
    plain_logits = InferenceEngine.logits
    monkeypatch.setattr(InferenceEngine, "logits", lambda self, x: shown.append(len(x)) or plain_logits(self, x))
    found = run(models, data, early_exit=early_exit, partial=partial)
    assert found.outputs.resumed == 128 and "128 photos" in found.notes[0]
    assert max(shown) == 2 * (150 - 128), "two views of the photos that are left"
    monkeypatch.undo()
    whole = run(models, data, early_exit=early_exit)
    for task, values in whole.logits[0].items():
        assert found.logits[0][task] == pytest.approx(values, abs=1e-5, nan_ok=True)
    assert not partial.exists()


def test_what_another_inference_left_is_not_gone_on_from(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    partial = tmp_path / "eval.partial.npz"

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(models, data, partial=partial, on_predict=stop)
    assert run(models, data, partial=partial, early_exit=RULE).outputs.resumed == 0


@pytest.mark.parametrize("early_exit", [None, RULE])
def test_photos_that_are_skipped_change_nothing_for_the_others(
    models: Ensemble, data: EvalData, tmp_path: Path, early_exit: DecisionParams | None
) -> None:
    bad = {data.photos.files[n]: "gone" for n in (0, 5, 149)}
    good = np.array([file not in bad for file in data.photos.files])
    found = run(models, dataclasses.replace(data, skipped=bad), early_exit=early_exit)
    ids = tuple(i for i, readable in zip(data.ids, good, strict=True) if readable)
    alone = run(models, dataclasses.replace(data, ids=ids), early_exit=early_exit)
    for task, values in found.logits[0].items():
        assert values[:, :, good].tobytes() == alone.logits[0][task].tobytes(), task
        assert np.isnan(values[:, :, ~good]).all()
    assert found.class_log_probs[:, good].tobytes() == alone.class_log_probs.tobytes()
    assert np.exp(found.class_log_probs[0, ~good]) == pytest.approx(np.full((3, 18), 1 / 18)), (
        "as nothing says otherwise"
    )
    assert found.evaluated == alone.evaluated


def test_what_was_kept_before_a_photo_broke_is_not_gone_on_from(
    models: Ensemble, data: EvalData, tmp_path: Path
) -> None:
    partial, broken = tmp_path / "eval.partial.npz", {data.photos.files[3]: "gone"}

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for skipped, other in (({}, broken), (broken, {})):
        with pytest.raises(KeyboardInterrupt):
            run(models, dataclasses.replace(data, skipped=skipped), partial=partial, on_predict=stop)
        assert partial.exists()
        assert run(models, dataclasses.replace(data, skipped=other), partial=partial).outputs.resumed == 0


def test_a_full_disk_stops_no_inference_but_is_told(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    def full(*_: object) -> None:
        raise MaskensError("no space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemble.prediction.outputs.SAVE_EVERY", -1.0)
        patch.setattr("ensemble.prediction.outputs.save_npz", full)
        found = run(models, data, partial=tmp_path / "eval.partial.npz")
    assert np.isfinite(found.class_log_probs).all()
    assert "progress could not be saved" in found.notes[0]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file"])
def test_half_a_state_is_no_state(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "eval.partial.npz"
    path.write_bytes(content)
    assert InferenceCheckpoint(path, "x").load() is None


def test_a_state_is_kept_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, logits = tmp_path / "eval.partial.npz", [np.arange(12, dtype=np.float32).reshape(2, 3, 2)]
    outputs = Outputs(np.array([5, 7, 9]), logits, (PrecisionChoice("bf16", 0.5, ""),), notes=("slow",))
    clock = [0.0]
    monkeypatch.setattr("ensemble.prediction.outputs.time.monotonic", lambda: clock[0])
    partial = InferenceCheckpoint(path, "x")
    partial.save(lambda: outputs)
    assert not path.exists(), "too soon"
    clock[0] = 3600.0
    partial.save(lambda: outputs)
    state = InferenceCheckpoint(path, "x").load()
    assert state is not None and (state.chosen, state.notes) == (outputs.chosen, outputs.notes)
    assert np.array_equal(state.rows, outputs.rows) and np.array_equal(state.logits[0], logits[0])
    assert InferenceCheckpoint(path, "y").load() is None


def test_a_model_that_gives_no_numbers_is_named(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    member = models.members[2]
    model, card = load_checkpoint(member.path, DEVICE)
    with torch.no_grad():
        model.get_classifier().bias[0] = float("nan")  # type: ignore[operator,index,union-attr]
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card)
    broken = Ensemble((*models.members[:2], Member(member.task, 0, path, card), *models.members[3:]), {})
    with pytest.raises(MaskensError, match=r"model.safetensors gives logits that are not finite: train"):
        run(broken, data)


def test_bf16_is_told_with_the_largest_difference(models: Ensemble, data: EvalData) -> None:
    found = run(models, data, engine=EngineOptions("bf16"))
    assert any("bf16 for" in note and "largest difference" in note for note in found.notes)


def test_few_photos_are_left_to_torch_by_auto_which_says_so_of_every_model(models: Ensemble, data: EvalData) -> None:
    found = run(models, data, engine=EngineOptions(engine="auto"))
    assert {choice.engine for choice in found.outputs.chosen} == {"torch"}
    said = [int(note.split()[0]) for note in found.notes if "engine auto is torch here" in note]
    assert sum(said) == len(models.members)


def test_an_interrupted_inference_does_not_go_on_by_another_engine() -> None:
    with pytest.raises(MaskensError, match="predicted with openvino in bf16, these would be with torch in fp32"):
        refuse_other_engine(PrecisionChoice("bf16", 0.1, "", "openvino"), PrecisionChoice("fp32", 0.0, ""))


def test_engine_and_speed_are_told() -> None:
    chosen = (PrecisionChoice("fp32", 1e-5, "", "openvino", 2.9), PrecisionChoice("fp32", 0.0, "", "torch", 1.0))
    (line,) = Prediction(np.zeros((1, 1, 18)), [], Outputs(np.arange(1), [], chosen)).notes
    assert line == (
        "openvino in fp32 for 1 of 2 models, torch in fp32 for 1 of 2 models, largest difference of a logit to fp32 "
        "1e-05 on a first batch, 1.9 times as fast as torch in fp32"
    )


def test_a_photo_that_breaks_the_next_batch_leaves_this_one_done(models: Ensemble, data: EvalData) -> None:
    done: list[int] = []
    broken = data.root / data.photos.files[70]
    kept = broken.read_bytes()
    broken.write_bytes(b"no photo")
    try:
        with pytest.raises(MaskensError, match=broken.name):
            run(models, data, on_predict=lambda n, total: done.append(n))
    finally:
        broken.write_bytes(kept)
    assert done == [64]
