"""Exported graphs predict what the models predict, and what lies beside them is enough to decide."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import timm
import torch
from edits import hide_package
from PIL import Image
from run_command import maskens, ran, refused
from tiny_runs import tiny_run

import cli
import ensemble.decision.members
import ensemble.prediction.export
from ensemble.data.cache import load_photo
from ensemble.decision.joint import column_temperatures, decide, mean_logits
from ensemble.decision.members import Ensemble, Member, members
from ensemble.decision.tuning import DecisionParams, RunTuning
from ensemble.jobs.hardware import Hardware
from ensemble.metrics.heads import bin_logits
from ensemble.models.build import load_checkpoint, to_input
from ensemble.prediction.export import Export, export
from ensemble.prediction.inference import InferenceSettings, infer
from ensemble.recipes.schema import Preprocessing
from ensemble.recipes.views import SETS, TtaSet
from ensemble.training.queue import run_job
from folds.errors import MaskensError
from folds.layout import read_eval, read_train
from folds.people import EvalData
from folds.run_folder import Run

RECIPE = """
[defaults]
pretrained = false
resize = [40, 32]
batch_size = 16
epochs = 1
optimizer = { lr = 3e-3 }
[tasks.parts]
model = "test_resnet.r160_in1k"
model_args = { stem_type = "", avg_down = false }
predicts = "heads"
crop = [35, 26]
ages = { cuts = [21, 30, 46, 58], head = "ordinal" }
[tasks.male-age]
ages = { cuts = "years", head = "regression" }
model = "test_efficientnet.r160_in1k"
model_args = { drop_rate = 0.2 }
[tasks.whole]
model = "test_resnet.r160_in1k"
model_args = { stem_type = "", avg_down = false }
predicts = "class18"
"""
"""Every way to the 18 classes: parts, an age model of one gender, all at once; all kinds of age heads; two sizes."""
JOBS = (("parts", 0), ("parts", 1), ("male-age", 0), ("whole", 1))  # an export's time goes with their number

CPU = Hardware("cpu", 0)
TEMPERATURES = {"male-age": (2.0,), "parts": (0.5, 2.0, 0.7), "whole": (1.5,)}
OFFSETS = tuple(0.1 * (c % 3) + 0.19 * (c == 0) for c in range(18))  # so that photos differ in their class


@dataclasses.dataclass(frozen=True)
class Exported:
    run: Run
    data: EvalData
    ensemble: Ensemble
    logits: dict[str, npt.NDArray[np.float32]]  # by `infer`
    folder: Path
    done: Export

    def of(self, task: str) -> list[Member]:
        return [m for m in self.ensemble.members if m.task == task]

    def photos(self, task: str) -> npt.NDArray[np.uint8]:
        card = self.of(task)[0].card
        return np.stack(
            [load_photo(self.data.photos.root / f, [card.preprocessing]).sizes[0] for f in self.data.photos.files]
        )

    def smallest(self, tta: TtaSet = SETS["none"]) -> Ensemble:
        """One model that is whole."""
        return Ensemble(tuple(self.of("parts")[:1]), {}, tta)

    def export(self, folder: Path, tta: TtaSet = SETS["none"], tolerance: float = 1e-4) -> Export:
        return export(self.smallest(tta), self.data.photos, folder, (0.0,) * 18, 3, tolerance, CPU)


def inferred(ensemble: Ensemble, data: EvalData) -> dict[str, npt.NDArray[np.float32]]:
    found = infer([ensemble], data.photos, InferenceSettings(CPU))
    return found.by_run([ensemble], len(data.ids))[0]


@pytest.fixture(scope="module")
def setting(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A trained run, its export, and what `infer` predicts of the same photos."""
    root = tmp_path_factory.mktemp("export")
    make_data(root / "data", people=24, size=(64, 48))
    for name, size, turned in (("a01.jpg", (24, 30), 1), ("d02.jpg", (48, 64), 6)):  # one to enlarge, one lying down
        exif = Image.Exif()
        exif[0x0112] = turned
        file = root / "data" / "eval" / "images" / name
        Image.open(file).resize(size).save(file, exif=exif)
    there = tiny_run(root / "run", read_train(root / "data"), RECIPE)
    run = there.run
    for task, fold in JOBS:
        assert run_job(there.spec(task, fold), there.data, there.folds) is None
    data = read_eval(root / "data")
    ensemble = Ensemble(tuple(members(run, allow_missing=True)), TEMPERATURES)
    logits = inferred(ensemble, data)
    done = export(ensemble, data.photos, root / "onnx", OFFSETS, photos=4, tolerance=1e-4, hardware=CPU)
    return Exported(run, data, ensemble, logits, root / "onnx", done)


def graph_logits(file: Path, photos: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    logits: npt.NDArray[np.float32] = session.run(["logits"], {"photos": photos})[0]
    return logits


@pytest.mark.parametrize("task", ["parts", "male-age", "whole"])
def test_a_graph_gives_the_mean_of_the_tempered_logits_that_infer_computes(setting: Exported, task: str) -> None:
    photos = setting.photos(task)
    together = graph_logits(setting.folder / f"{task}.onnx", photos)
    assert together.dtype == np.float32
    output_spec = setting.ensemble.output_specs[task]
    scale = column_temperatures(setting.ensemble.temperatures[task], output_spec)
    expected = bin_logits(mean_logits(setting.logits[task], scale), output_spec.heads)
    np.testing.assert_allclose(together, expected, atol=5e-5)
    one = graph_logits(setting.folder / f"{task}.onnx", photos[3:4])
    np.testing.assert_allclose(one, together[3:4], atol=1e-5)


def test_working_in_blocks_of_photos_changes_no_bit(setting: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = setting.ensemble.joint(setting.logits)
    monkeypatch.setattr(ensemble.decision.members, "BLOCK", 4)  # of 6 photos
    assert np.array_equal(setting.ensemble.joint(setting.logits), whole)


def test_the_result_lists_what_was_written_and_verified(setting: Exported) -> None:
    assert [(t.task, t.folds, t.views, t.input) for t in setting.done.tasks] == [
        ("parts", (0, 1), ("identity", "hflip"), (35, 26)),
        ("male-age", (0,), ("identity", "hflip"), (40, 32)),
        ("whole", (1,), ("identity", "hflip"), (40, 32)),
    ]
    assert (setting.done.photos, setting.done.differing) == (4, 0)
    for task in setting.done.tasks:
        assert task.bytes == (setting.folder / f"{task.task}.onnx").stat().st_size
        assert task.difference < 1e-4
        assert task.differing == 0


def test_a_graph_holds_what_it_is_and_not_where_it_was_made(setting: Exported) -> None:
    file = setting.folder / "parts.onnx"
    meta = onnxruntime.InferenceSession(file).get_modelmeta().custom_metadata_map
    card = setting.of("parts")[0].card
    assert (meta["task"], meta["predicts"], meta["task_hash"]) == ("parts", "heads", card.task_hash)
    assert meta["class"] == "class = mask*6 + gender*3 + age"
    assert [json.loads(meta[k]) for k in ("resize", "crop", "folds")] == [[40, 32], [35, 26], [0, 1]]
    heads = {h["part"]: h for h in json.loads(meta["heads"])}
    assert heads["gender"]["columns"] == [3, 5]
    assert heads["age"]["names"] == ["<21", "21-29", "30-45", "46-57", ">=58"]
    assert heads["age"]["bin_labels"] == [0, 0, 1, 1, 2]
    assert heads["age"]["columns"] == [5, 10], "of its bins, whatever the model's own outputs are"
    assert meta["age_head"] == "ordinal"
    here = Path(ensemble.prediction.export.__file__).parents[1], Path(torch.__file__).parents[1], setting.folder
    assert not any(str(folder).encode() in file.read_bytes() for folder in here)


def example_of_the_docs() -> str:
    text = (Path(cli.__file__).parent / "docs" / "export.md").read_text()
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0]


def files_of_every_kind(folder: Path) -> list[Path]:
    """120 x 90 pixels each, which 40 x 32 reduces, and one lying down for each orientation."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (120, 90, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (120, 90), dtype=np.uint16))
    alpha = Image.fromarray(rng.integers(0, 256, (120, 90), dtype=np.uint8))
    images = {
        **{f"colour.{suffix}": colours for suffix in ("jpg", "webp", "bmp", "tif", "gif")},
        "grey.png": colours.convert("L"),
        "grey.jpg": colours.convert("L"),
        "deep.png": deep,
        "deep.tif": deep,
        "palette.png": colours.quantize(16),
        "bit.png": colours.convert("1"),
        "cmyk.jpg": colours.convert("CMYK"),
        "rgba.png": Image.merge("RGBA", (*colours.split(), alpha)),
        "rgba.webp": Image.merge("RGBA", (*colours.split(), alpha)),
        "la.png": Image.merge("LA", (colours.convert("L"), alpha)),
    }
    for name, image in images.items():
        image.save(folder / name)
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for suffix in ("jpg", "png", "tif"):
            images[f"turned{orientation}.{suffix}"] = colours
            colours.save(folder / f"turned{orientation}.{suffix}", exif=exif)
        fields = struct.pack("<HHII", 0x0112, 3, 1, orientation) + struct.pack("<HHIf", 0x9204, 11, 1, float("nan"))
        images[f"odd{orientation}.jpg"] = colours
        colours.save(folder / f"odd{orientation}.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\2\0" + fields + bytes(4))
    return [folder / name for name in images]


def test_the_example_of_the_docs_reads_every_kind_of_file_as_predict_does(tmp_path: Path) -> None:
    example: dict[str, Any] = {}
    exec(example_of_the_docs().partition("\nfolder, paths")[0], example)
    for path in files_of_every_kind(tmp_path):
        for reduced in (True, False):
            card = Preprocessing((40, 32), (35, 26), reduced)
            theirs = example["read"](path, "reduced" if reduced else "full", [40, 32], [35, 26])
            np.testing.assert_array_equal(theirs, load_photo(path, [card]).sizes[0], err_msg=path.name)


def test_the_example_of_the_docs_gives_the_classes_of_infer(setting: Exported, tmp_path: Path) -> None:
    example = example_of_the_docs()
    needed = set(re.findall(r"^(?:import|from) (\w+)", example, re.MULTILINE))
    assert needed == {"json", "sys", "pathlib", "cv2", "numpy", "onnxruntime", "PIL"}
    assert len(example.splitlines()) < 75
    (tmp_path / "classify.py").write_text(example)
    files = [str(setting.data.photos.root / f) for f in setting.data.photos.files]
    command = [sys.executable, "-I", str(tmp_path / "classify.py"), str(setting.folder), *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    classes = [int(line.split("\t")[1]) for line in done.stdout.splitlines()]
    share = RunTuning(run="", made_of="", oof_hash="", temperatures=TEMPERATURES)
    fitted = DecisionParams(tta="flip", runs=(share,), offsets=OFFSETS)
    log_probs = setting.ensemble.joint(setting.logits)[None]
    assert classes == decide(log_probs, fitted.weights, fitted.offsets).classes.tolist()
    assert len(set(classes)) > 1


def test_the_weights_load_in_timm(setting: Exported) -> None:
    record = json.loads((setting.folder / "decision.json").read_text())
    for member, there in zip(setting.of("male-age"), record["tasks"]["male-age"]["timm"], strict=True):
        theirs = timm.create_model(
            there["model"],
            num_classes=there["num_classes"],
            checkpoint_path=str(setting.folder / there["file"]),
            **there["model_args"],
        ).eval()
        ours, _ = load_checkpoint(member.path, torch.device("cpu"))
        x = to_input(torch.from_numpy(setting.photos("male-age")), there["mean"], there["std"], torch.device("cpu"))
        with torch.inference_mode():
            torch.testing.assert_close(theirs(x), ours(x))


def test_only_an_export_is_replaced_also_by_large_weights_and_weighed_views(
    setting: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "out"
    shutil.copytree(setting.folder, folder)
    (folder / "timm" / "notes.txt").touch()
    with pytest.raises(MaskensError, match=r"did not write: timm/notes\.txt"):
        setting.export(folder)
    (folder / "timm" / "notes.txt").unlink()

    views = ("identity", "hflip scale=0.9", "scale=1.1", "crop_lt=0.8", "multiply=1.2", "add=-0.1")
    tta = TtaSet(views=views, weights=(3, 1, 1, 1, 2, 1))
    monkeypatch.setattr(ensemble.prediction.export, "SINGLE_FILE", 0)
    done = setting.export(folder, tta)
    assert sorted(p.name for p in folder.iterdir()) == ["decision.json", "parts.onnx", "parts.onnx.data", "timm"]
    assert (folder / "parts.onnx.data").stat().st_size > 10**6
    assert done.tasks[0].bytes > (folder / "parts.onnx.data").stat().st_size
    parts = setting.smallest(tta)
    expected = inferred(parts, setting.data)["parts"]
    logits = graph_logits(folder / "parts.onnx", setting.photos("parts"))
    merged = bin_logits(mean_logits(expected, weights=tta.weights), parts.output_specs["parts"].heads)
    np.testing.assert_allclose(logits, merged, atol=1e-4)
    decision = json.loads((folder / "decision.json").read_text())
    assert "parts.onnx.data" in decision["files"]
    record = decision["tasks"]["parts"]
    assert (record["views"], record["view_weights"]) == (list(views), list(tta.weights))

    (folder / "decision.json").unlink()
    with pytest.raises(MaskensError, match="did not write"):
        setting.export(folder)
    with pytest.raises(MaskensError, match="is a file, not a folder"):
        setting.export(folder / "parts.onnx")


def test_what_differs_too_much_is_not_written(setting: Exported, tmp_path: Path) -> None:
    with pytest.raises(MaskensError, match=r"parts: logits .* differ .* --tolerance is -1"):
        setting.export(tmp_path / "out", tolerance=-1)
    assert list(tmp_path.iterdir()) == []


# The command.


def test_the_command_writes_into_the_run_and_shows_a_table(setting: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        ensemble.decision.members, "members", lambda *_: setting.of("parts")[:1]
    )  # one graph is enough here
    done = ran("export", "--run", setting.run.folder, "--tta", "none", "--photos", 2)
    assert re.search(r"parts +0 +identity +35x26 +[\d.]+ +[\d.]+e-\d\d +0", done.out)
    assert "2 photos" in done.out
    assert f"saved: {setting.run.folder / 'onnx'}" in " ".join(done.out.split())
    assert (setting.run.folder / "onnx" / "parts.onnx").exists()
    assert "graphs of 1 models kept beside their checkpoints" in " ".join(done.out.split())
    assert (setting.run.job_folder("parts", 0) / "graph.onnx").exists()


def test_missing_packages_and_models_are_refused_before_anything_is_written(
    setting: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export_it = ("export", "--run", setting.run.folder, "--out", tmp_path / "out")
    missing = "2 of 6 models are not trained yet: male-age fold 1, whole fold 0"
    refused(maskens(*export_it), missing, "--allow-missing")
    hide_package(monkeypatch, "onnxruntime")
    refused(maskens(*export_it, "--data", tmp_path / "none"), "needs onnxruntime", "pip install 'maskens[onnx]'")
    assert list(tmp_path.iterdir()) == []
