"""Graphs beside the checkpoints: once written, infer, predict and serve need no torch and give the same classes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_command import Outcome, maskens, python, ran

from ensemble.decision.submission import read_answers
from ensemble.models import engine_choice
from ensemble.models.kept_graphs import GraphRecord
from ensemble.models.onnx_graph import OnnxGraphs
from ensemble.prediction import strategies
from folds.records import read_record, write_record

KEEP = ("infer", "--run", "run", "--data", "data", "--engine", "onnxruntime", "--cache", "none")


@pytest.fixture(scope="module", autouse=True)
def traced_once() -> Iterator[None]:
    """What is traced, for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        made, shared = OnnxGraphs.__init__, OnnxGraphs()._traced

        def share(self: OnnxGraphs) -> None:
            made(self)
            self._traced = shared

        patch.setattr(OnnxGraphs, "__init__", share)
        yield


@pytest.fixture(scope="module")
def kept(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`few`, with two copies of its run and the graphs that an inference has left in the first."""
    folder = tmp_path_factory.mktemp("kept") / "few"
    shutil.copytree(few, folder, symlinks=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(engine_choice, "_seconds", lambda engines, x: {id(engine): 1.0 for engine in engines})
        done = ran(*KEEP)
    assert "graphs of 12 models kept beside their checkpoints" in done.out
    assert "onnxruntime in fp32 for 12 of 12 models" in done.out
    shutil.copytree(folder / "run", folder / "again")
    return folder


@pytest.fixture
def here(kept: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(kept)
    return kept


def infer(*options: object) -> Outcome:
    return ran("infer", "--data", "data", "--cache", "none", *options)


def test_no_torch_is_imported_where_graphs_are_kept(here: Path) -> None:
    photo = min(Path("data/eval/images").iterdir())
    code = f"""
import sys
import ensemble
for engine in ("onnxruntime", "openvino", "auto"):
    assert ensemble.predict([{str(photo)!r}], run="run", engine=engine).records
assert len(ensemble.infer("run", data="data", engine="auto", cache="none", out="quick.csv").classes) == 42
rough = ensemble.infer("run", data="data", engine="openvino", precision="bf16", cache="none", out="rough.csv")
assert "openvino in bf16 for 12 of 12 models" in rough.notes[0]
server = ensemble.serve("run", port=0, engine="onnxruntime")
server.opened.close()
print({{"torch", "timm", "torchvision", "albumentations", "ttach"}} & sys.modules.keys())
"""
    found = python("-c", code)
    assert (found.returncode, found.stdout) == (0, "set()\n"), found.stderr
    assert read_answers(Path("quick.csv"))[1].tolist() == read_answers(Path("before.csv"))[1].tolist()


@pytest.mark.parametrize(
    "options",
    [
        ("--run", "run", "--run", "again"),
        ("--run", "run", "--max-passes", ".6", "--tta", "flip"),
        ("--run", "run", "--person-column", "person", "--tta", "flip+scale"),
    ],
    ids=["blend", "budget", "people"],
)
def test_classes_are_those_of_torch(here: Path, options: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "WHOLE", 16)
    head, *rows = Path("data/eval/info.csv").read_text().splitlines()
    if "person" not in head:
        rows = [f"{row},{number % 9}" for number, row in enumerate(rows)]
        Path("data/eval/info.csv").write_text("\n".join([f"{head},person", *rows, ""]))
    infer(*options, "--out", "torch.csv")
    done = infer(*options, "--engine", "auto", "--out", "engine.csv")
    assert "onnxruntime in fp32" in done.out and "engine auto is onnxruntime here: trying others would take" in done.out
    assert Path("engine.csv").read_text() == Path("torch.csv").read_text()


@pytest.mark.parametrize(
    ("change", "printed"),
    [
        ({"seconds": 9.0}, "12 of 12 models: engine auto is torch here: faster than onnxruntime, by"),
        ({"seconds": 9.0, "machine": "another"}, "onnxruntime in fp32 for 12 of 12 models"),
        ({"engine": "openvino"}, "openvino in fp32 for 12 of 12 models"),
    ],
    ids=["torch", "another machine", "openvino"],
)
def test_auto_goes_by_the_times_in_the_records(
    change: dict[str, object], printed: str, kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(kept, tmp_path / "few", symlinks=True)
    monkeypatch.chdir(tmp_path / "few")
    for file in Path("run").rglob("graph.json"):
        write_record(file, GraphRecord(**vars(read_record(file, GraphRecord)) | change))
    assert printed in infer("--run", "run", "--engine", "auto").out


def test_what_is_stale_or_damaged_is_made_anew_and_what_can_not_be_written_is_not_missed(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(kept, tmp_path / "few", symlinks=True)
    monkeypatch.chdir(tmp_path / "few")
    damaged, stale, unwritable = (Path("run/mask") / f"fold{fold}/graph.onnx" for fold in range(3))
    good = damaged.read_bytes(), stale.read_bytes()
    damaged.write_bytes(good[0][:-100] + bytes(100))
    record = read_record(stale.with_suffix(".json"), GraphRecord)
    write_record(stale.with_suffix(".json"), GraphRecord(**vars(record) | {"model": "another"}))
    stale.write_bytes(b"of another model")
    unwritable.unlink()
    unwritable.mkdir()
    photos = sorted(Path("data/eval/images").iterdir())[:3]
    done = maskens("predict", *photos, "--run", "run", "--engine", "onnxruntime", "--json")
    said = " ".join(done.err.split())
    assert "fold0/graph.onnx can't be used and is made anew: its sha256 is not the recorded one" in said
    assert "graphs of 2 models kept" in said and "graphs are not kept: can't write run/mask/fold2/graph.onnx" in said
    assert (damaged.read_bytes(), stale.read_bytes()) == good
    classes = {record["photo"]: record["class"] for record in json.loads(done.out)}
    expected = json.loads(maskens("predict", *photos, "--run", "run", "--json").out)
    assert classes == {record["photo"]: record["class"] for record in expected}


def test_training_can_end_with_graphs(few_copied: Path) -> None:
    assert "graphs of 12 models kept" in ran("train", "--run", "run", "--graphs").out
    assert len([*few_copied.glob("run/*/fold?/graph.onnx")]) == 12
    assert "kept" not in ran("train", "--run", "run", "--graphs").out


def test_no_graphs_leaves_none(few_copied: Path) -> None:
    done = ran(*KEEP, "--no-graphs", "--only", "folds", "--no-early-exit")
    assert "onnxruntime in fp32 for 12 of 12" in done.out
    assert not [*few_copied.rglob("graph.*")]
