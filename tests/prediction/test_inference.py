"""Inference with many models: whatever the order, the memory, the processes and the interruptions, the same logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from cards import model_card

from ensemble.backends.backend import Call, SequentialBackend, WorkerLost
from ensemble.data.cache import DecodedPhotos
from ensemble.decision.joint import decide
from ensemble.decision.members import Ensemble, Member
from ensemble.decision.tuning import DecisionParams, RunTuning
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.oof import Logits
from ensemble.models import torch_engine
from ensemble.models.build import create, load_checkpoint, normalisation, save_checkpoint, to_device
from ensemble.models.engine import EngineOptions, PrecisionChoice
from ensemble.models.torch_engine import TorchEngine
from ensemble.prediction import inference, predictor
from ensemble.prediction.inference import (
    InferenceSettings,
    Prediction,
    estimate_inference,
    infer,
    read_prediction,
    save_prediction,
)
from ensemble.prediction.photo_classifier import predict_files
from ensemble.prediction.predictor import Predictor, refuse_other_engine
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.tasks import ONLY_GENDER
from ensemble.recipes.views import VIEWS
from ensemble.training.fit_fold import view_logits
from folds.errors import MaskensError
from folds.files import sha256_of_file
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


def without(data: EvalData, bad: dict[str, str]) -> EvalData:
    return dataclasses.replace(data, photos=data.photos.without(bad))


def photos_of(data: EvalData, size: tuple[int, int]) -> DecodedPhotos:
    return DecodedPhotos(data.photos, [Preprocessing(size)])


def spread_out(model: Any, photos: DecodedPhotos, mean: Any, std: Any) -> None:
    """Give each logit a mean of 0 and a spread of 2 over the photos."""
    args = ((mean, std), DEVICE, photos, np.arange(50), VIEWS["none"])
    logits = view_logits(TorchEngine(to_device(model, DEVICE).eval(), 50), *args)[0]
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
            same = {name: getattr(recipe, name) for name in ("model", "predicts", "resize")}
            card = model_card(task=task, fold=fold, k=2, mean=mean, std=std, **same)
            path = root / task / f"fold{fold}" / "model.safetensors"
            save_checkpoint(path, model, card)
            found.append(Member(task, fold, path, card, sha256_of_file(path)))
    return Ensemble(tuple(found), {})


@pytest.fixture(scope="module")
def plain(models: Ensemble, data: EvalData) -> dict[str, np.ndarray]:
    """The usual loop: model by model over all photos, as they were trained."""
    found: dict[str, list[np.ndarray]] = {}
    for member in models.members:
        model, card = load_checkpoint(member.path, DEVICE)
        photos, rows = photos_of(data, card.preprocessing.resize), np.arange(len(data.ids))
        engine = TorchEngine(model, 50)
        values = view_logits(engine, (card.mean, card.std), DEVICE, photos, rows, VIEWS["flip"])
        found.setdefault(member.task, []).append(values)
    return {task: np.stack(values) for task, values in found.items()}


class Found(NamedTuple):
    by: Prediction
    logits: dict[str, Logits]  # task -> (folds, views, photos, width)
    log_probs: np.ndarray  # (photos, 18)


def run(
    models: Ensemble, data: EvalData, on_predict: Progress | None = None, hardware: Hardware = CPU, **settings: Any
) -> Found:
    found = infer([models], data.photos, InferenceSettings(hardware, **settings), on_predict=on_predict)
    (logits,) = found.by_run([models], len(data.ids))
    return Found(found, logits, models.joint(logits))


@pytest.fixture(scope="module")
def whole(models: Ensemble, data: EvalData) -> Found:
    return run(models, data)


@pytest.fixture(scope="module")
def routed(models: Ensemble, data: EvalData) -> Found:
    return run(models, data, early_exit=RULE)


def classes_of(found: Found) -> IntArray:
    return decide(found.log_probs[None], RULE.weights, RULE.offsets).classes


def same_logits(found: Found, wanted: Found, tolerance: float = 0.0) -> bool:
    pairs = [(values, wanted.logits[task]) for task, values in found.logits.items()]
    return all(np.allclose(ours, theirs, atol=tolerance, rtol=0, equal_nan=True) for ours, theirs in pairs)


def interrupted(models: Ensemble, data: EvalData, after: int = 0, **settings: Any) -> None:
    """Run until more than so many photos are done."""

    def stop(done: int, total: int) -> None:
        if done > after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(models, data, on_predict=stop, **settings)


def test_all_models_together_predict_what_each_predicts_alone(whole: Found, plain: dict[str, np.ndarray]) -> None:
    for task, values in plain.items():
        assert whole.logits[task] == pytest.approx(values, abs=1e-4), task


def test_early_exit_skips_models_and_keeps_classes(whole: Found, routed: Found, plain: dict[str, np.ndarray]) -> None:
    classes = classes_of(whole)
    assert len(set(classes.tolist())) > 3
    assert (classes_of(routed) == classes).all()
    assert whole.by.notes == [] and "no class changed" in routed.by.notes[0]
    for task, values in routed.logits.items():
        shown = np.isfinite(values).all(axis=(0, 1, 3))
        assert shown.any() and shown.all() == (task not in ONLY_GENDER)
        assert values[:, :, shown] == pytest.approx(plain[task][:, :, shown], abs=1e-4)


def test_models_that_do_not_fit_together_take_turns_over_all_photos(
    models: Ensemble, data: EvalData, whole: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predicted() -> list[dict[str, Any]]:
        return predict_files([models], RULE, data.photos, CPU, 4 / 3)[0]

    records = predicted()
    loaded: list[int] = []
    load = Predictor.load
    monkeypatch.setattr(
        Predictor, "load", lambda self, group, inputs: loaded.extend(group) or load(self, group, inputs)
    )
    largest = max(m.path.stat().st_size for m in models.members)
    monkeypatch.setattr(predictor, "_free_memory", lambda device: 2.5 * largest / predictor.SHARE)
    everyone = list(range(len(models.members)))
    assert len(predictor.groups_that_fit(models.members, "cpu")) > 2
    done: list[int] = []
    found = run(models, data, lambda n, total: done.append(n), early_exit=RULE)
    assert same_logits(found, whole, 1e-5) and loaded == everyone
    assert done == sorted(done) and done[-1] == len(IDS)
    partial = tmp_path / "eval.partial.npz"
    interrupted(models, data, after=80, partial=partial)
    loaded.clear()
    resumed = run(models, data, partial=partial)
    assert same_logits(resumed, whole, 1e-5) and resumed.by.resumed > 80
    assert loaded == everyone[-len(loaded) :] and len(loaded) < len(everyone), "some have predicted all photos"
    loaded.clear()
    for ours, theirs in zip(predicted(), records, strict=True):
        assert ours["class"] == theirs["class"] and ours["p"] == pytest.approx(theirs["p"], abs=1e-4)
    assert loaded == everyone


@pytest.mark.parametrize("early_exit", [None, RULE])
def test_an_interrupted_inference_resumes(
    models: Ensemble,
    data: EvalData,
    whole: Found,
    routed: Found,
    tmp_path: Path,
    early_exit: DecisionParams | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    partial = tmp_path / "eval.partial.npz"
    interrupted(models, data, after=100, early_exit=early_exit, partial=partial)
    assert partial.exists()
    shown: list[int] = []
    plain_logits = TorchEngine.logits
    monkeypatch.setattr(TorchEngine, "logits", lambda self, x: shown.append(len(x)) or plain_logits(self, x))
    found = run(models, data, early_exit=early_exit, partial=partial)
    assert found.by.resumed == 128 and "128 photos" in found.by.notes[0]
    assert max(shown) == 2 * (150 - 128), "two views of the photos that are left"
    assert same_logits(found, routed if early_exit else whole, 1e-5)
    assert not partial.exists()


@pytest.mark.parametrize("what", ["early exit", "a photo broke", "a photo was mended"])
def test_another_inference_does_not_resume(models: Ensemble, data: EvalData, tmp_path: Path, what: str) -> None:
    partial, broken = tmp_path / "eval.partial.npz", without(data, {data.photos.files[3]: "gone"})
    before, after = (broken, data) if what == "a photo was mended" else (data, broken)
    early_exit = RULE if what == "early exit" else None
    interrupted(models, before, partial=partial)
    assert partial.exists()
    found = run(models, data if early_exit else after, partial=partial, early_exit=early_exit)
    assert found.by.resumed == 0


def test_a_full_disk_stops_no_inference(
    models: Ensemble, data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise MaskensError("no space left on device")

    monkeypatch.setattr(inference, "SAVE_EVERY", -1.0)
    monkeypatch.setattr(inference, "save_npz", full)
    found = run(models, data, partial=tmp_path / "eval.partial.npz")
    assert np.isfinite(found.log_probs).all()
    assert "progress could not be saved" in found.by.notes[0]


def test_what_is_kept_is_read_by_the_same_inference_alone(tmp_path: Path) -> None:
    path, logits = tmp_path / "eval.partial.npz", [np.arange(12, dtype=np.float32).reshape(2, 3, 2)]
    chosen, rows, no_face = (PrecisionChoice("bf16", 0.5, ""),), np.array([5, 7, 9]), np.array([True, False, True])
    save_prediction(path, "x", Prediction(rows, logits, no_face, chosen, (2,), slow=("slow",)))
    state = read_prediction(path, "x")
    assert state is not None and (state.chosen, state.done, state.slow) == (chosen, (2,), ("slow",))
    assert np.array_equal(state.rows, rows) and np.array_equal(state.logits[0], logits[0])
    assert np.array_equal(state.no_face, no_face)
    assert read_prediction(path, "y") is None
    for damaged in (b"", path.read_bytes()[:-100]):
        path.write_bytes(damaged)
        assert read_prediction(path, "x") is None


def test_a_model_whose_logits_are_not_finite_is_named(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    member = models.members[2]
    model, card = load_checkpoint(member.path, DEVICE)
    with torch.no_grad():
        model.get_classifier().bias[0] = float("nan")  # type: ignore[operator,index,union-attr]
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, card)
    broken = Ensemble(
        (*models.members[:2], Member(member.task, 0, path, card, sha256_of_file(path)), *models.members[3:]), {}
    )
    with pytest.raises(MaskensError, match=r"model.safetensors gives logits that are not finite: train"):
        run(broken, data)


def test_precision_and_engine_are_reported(models: Ensemble, data: EvalData) -> None:
    found = run(models, data, engine=EngineOptions("bf16"))
    assert any("bf16 for" in note and "largest difference" in note for note in found.by.notes)
    found = run(models, data, engine=EngineOptions(engine="auto"))
    assert {choice.engine for choice in found.by.chosen} == {"torch"}, "few photos do not repay another engine"
    counts = [int(note.split()[0]) for note in found.by.notes if "engine auto is torch here" in note]
    assert sum(counts) == len(models.members)
    chosen = (PrecisionChoice("fp32", 1e-5, "", "openvino", 2.9), PrecisionChoice("fp32", 0.0, "", "torch", 1.0))
    (line,) = Prediction(np.arange(1), [], np.zeros(1, bool), chosen).notes
    for words in ("openvino in fp32 for 1 of 2", "torch in fp32 for 1 of 2", "1e-05", "1.9 times as fast"):
        assert words in line
    with pytest.raises(MaskensError, match="predicted with openvino in fp32, these would be with torch in fp32"):
        refuse_other_engine(*chosen)


def test_a_batch_is_timed_once(models: Ensemble, data: EvalData, whole: Found, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(torch_engine, "fastest_batch", lambda photos, seconds: measured.append(photos) or 16)
    monkeypatch.setattr(predictor, "WORTH_MEASURING", 1)
    found = [run(models, data) for _ in range(2)]
    assert len(measured) == len({m.card.model for m in models.members}), (
        "one a kind of model; the second inference finds them in the run"
    )
    assert same_logits(found[1], whole, 1e-5)


def test_a_photo_that_breaks_the_next_batch_leaves_this_one_done(models: Ensemble, data: EvalData) -> None:
    done: list[int] = []
    broken = data.photos.root / data.photos.files[70]
    kept = broken.read_bytes()
    broken.write_bytes(b"no photo")
    try:
        with pytest.raises(MaskensError, match=broken.name):
            run(models, data, on_predict=lambda n, total: done.append(n))
    finally:
        broken.write_bytes(kept)
    assert done == [64]


def test_an_estimate_takes_the_cache_into_account(models: Ensemble, data: EvalData, tmp_path: Path) -> None:
    seconds, disk = estimate_inference([models], data.photos, InferenceSettings(CPU, tmp_path))
    assert seconds > 0 and disk == len(IDS) * 3 * (32 * 24 + 40 * 32)
    run(models, data, cache=tmp_path)
    assert estimate_inference([models], data.photos, InferenceSettings(CPU, tmp_path))[1] == 0


class Unreliable(SequentialBackend):
    """Calls in this process, of which those of these numbers are lost."""

    def __init__(self, *lost: int) -> None:
        self.lost, self.names, self.chosen = lost, list[str](), list[tuple[PrecisionChoice, ...]]()

    def call(self, call: Call) -> Any:
        self.names.append(call.name)
        self.chosen.append(call.args[4])
        if len(self.names) in self.lost:
            raise WorkerLost("the worker that had it is gone")
        return super().call(call)


@pytest.fixture
def in_shards(
    models: Ensemble, data: EvalData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Found]:
    """Infer in shards of 50 photos, on a backend."""
    monkeypatch.setattr(inference, "SMALLEST", 50)
    monkeypatch.setattr(inference, "LARGEST", 50)

    def infer_on(backend: Unreliable, **settings: Any) -> Found:
        monkeypatch.setattr(inference, "open_backend", lambda hardware: backend)
        return run(models, data, hardware=Hardware("cpu", 0, jobs=2), shards=tmp_path / "shards", **settings)

    return infer_on


def test_two_processes_predict_what_one_does(models: Ensemble, data: EvalData, whole: Found, tmp_path: Path) -> None:
    together = run(models, data, hardware=Hardware("cpu", 0, jobs=2), shards=tmp_path / "shards")
    assert same_logits(together, whole)
    assert not (tmp_path / "shards").exists()


def test_finished_shards_are_kept_unless_damaged(in_shards: Callable[..., Found], whole: Found, tmp_path: Path) -> None:
    with pytest.raises(MaskensError, match=r"photos 101 to 150: the worker .* is gone. Finished shards are kept"):
        in_shards(Unreliable(3))
    first = tmp_path / "shards" / "0-49.npz"
    first.write_bytes(first.read_bytes()[:-100])
    backend = Unreliable(1)
    found = in_shards(backend, retries=1)
    assert backend.names == ["photos 1 to 50", "photos 1 to 50", "photos 101 to 150"]
    assert found.by.resumed == 50
    assert same_logits(found, whole, 1e-5)


def test_shards_of_another_inference_are_predicted_again(in_shards: Callable[..., Found]) -> None:
    with pytest.raises(MaskensError):
        in_shards(Unreliable(3))
    backend = Unreliable()
    found = in_shards(backend, engine=EngineOptions("auto"))
    assert len(backend.names) == 3 and found.by.resumed == 0
    assert backend.chosen == [(), found.by.chosen, found.by.chosen], "the first shard chooses for all"
