"""What comes from others, data folders, runs and weights, can neither run code nor reach beyond its folder."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
import pickle
import re
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from cards import model_card
from conftest import MakeData
from edits import edit_arrays
from planned import CLASS18, plan_run
from run_command import maskens, ran, refused

import cli
from ensemble.commands.terminal import make_console
from ensemble.models.build import create, load_checkpoint, save_checkpoint
from ensemble.models.engine import EngineName
from ensemble.models.graph_engine import GraphEngine
from ensemble.models.kept_graphs import GraphRecord, KeptGraph
from ensemble.recipes.recipe_file import parse_recipe
from folds.errors import MaskensError
from folds.files import csv_text, safe_csv, sha256, unescape_cell
from folds.layout import read_eval, read_train
from folds.records import write_record
from folds.run_folder import load_data, load_run
from folds.splits import read_folds
from folds.terminal_tables import new_table

TINY = ("--set", "tasks.*.epochs=1", "--set", "tasks.*.batch_size=8", "--no-pretrained", "--workers", 0)


class Payload:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """Where a payload that ran would show; that it can is part of the test."""
    trial = tmp_path / "trial"
    pickle.loads(pickle.dumps(Payload(trial)))
    assert trial.exists()
    return tmp_path / "mark"


@pytest.fixture
def data(make_data: MakeData, tmp_path: Path) -> Path:
    return make_data(tmp_path / "data", people=12)


@pytest.fixture(scope="module")
def bare(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with folds alone; to be read only."""
    root = tmp_path_factory.mktemp("bare")
    folds(make_data(root / "data", people=12), root / "run")
    return root / "run"


def folds(data: Path, run: Path) -> None:
    ran("folds", "--data", data, "--run", run, "--k", 2)


# No pickle is run


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights.safetensors"])
def test_initial_weights_with_a_payload_are_refused(bare: Path, tmp_path: Path, mark: Path, name: str) -> None:
    torch.save({"conv.weight": Payload(mark)}, tmp_path / name)
    changes = ("--set", "tasks.*.epochs=1", "--workers", 0)
    outcome = maskens("train", "--run", bare, "--recipe", "demo", "--weights", tmp_path / name, *changes)
    refused(outcome, name)
    assert not mark.exists()


@pytest.mark.parametrize(
    "argument",
    [
        'checkpoint_path = "{file}"',
        'pretrained_cfg = {{ file = "{file}" }}',
        'pretrained_cfg_overlay = {{ file = "{file}" }}',
        'cache_dir = "{file}"',
        'pretrained_cfg = "r160_in1k"',
        'act_layer = "{file}"',
        "features_only = true",
    ],
)
def test_a_model_of_a_recipe_or_checkpoint_names_no_file(bare: Path, tmp_path: Path, mark: Path, argument: str) -> None:
    """timm would unpickle some of these."""
    torch.save({"conv.weight": Payload(mark)}, tmp_path / "evil.pth")
    given = argument.format(file=tmp_path / "evil.pth")
    change = f"tasks.mask.model_args={{ {given} }}"
    for words in (("--dry-run",), ("--task", "mask", "--fold", 0)):
        run = ("train", "--run", bare, "--recipe", "demo", "--set", change)
        refused(maskens(*run, *words, *TINY), "tasks.mask.model_args", given.split(" ")[0])
    file = tmp_path / "gender" / "fold1" / "model.safetensors"
    model = create(parse_recipe('[tasks.class18]\nmodel = "test_resnet"\npretrained = false', "t").tasks["class18"])
    save_checkpoint(file, model, model_card(model_args=tomllib.loads(given)))
    with pytest.raises(MaskensError, match="damaged or not one of maskens'"):
        load_checkpoint(file, torch.device("cpu"))
    assert not mark.exists()


@pytest.mark.parametrize("model", ["local-dir:{}", "hf-hub:someone/model", "{}/model"])
def test_a_model_comes_from_timms_registry_alone(bare: Path, tmp_path: Path, model: str) -> None:
    change = f"tasks.mask.model={model.format(tmp_path)}"
    outcome = maskens("train", "--run", bare, "--recipe", "demo", "--set", change, "--dry-run", *TINY)
    refused(outcome, "tasks.mask.model: needs a name from timm")


def test_a_state_to_resume_from_with_a_payload_is_refused(data: Path, tmp_path: Path, mark: Path) -> None:
    run = tmp_path / "run"
    folds(data, run)
    job = run / "mask" / "fold0"
    job.mkdir(parents=True)
    torch.save({"identity": Payload(mark)}, job / "last.pt")
    outcome = maskens("train", "--run", run, "--recipe", "demo", "--task", "mask", "--fold", 0, *TINY)
    assert outcome.code == 2, outcome
    assert "last.pt is damaged" in " ".join(outcome.err.split())
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "oof.npz"])
def test_what_a_job_left_with_a_payload_is_refused(data: Path, tmp_path: Path, mark: Path, name: str) -> None:
    run = plan_run(tmp_path / "run", read_train(data), np.zeros((84, 18)))
    job = run.job_folder("class18", 0)
    if name == "oof.npz":
        edit_arrays(job / name, logits=np.array([Payload(mark)], dtype=object))
        refused(maskens("score", "--run", run.folder), name)
    else:
        (job / name).write_bytes(pickle.dumps(Payload(mark)))
        refused(maskens("infer", "--run", run.folder, "--allow-missing"), name)
    assert not mark.exists()


def test_every_floor_of_a_dependency_is_the_version_that_the_oldest_environment_tests() -> None:
    root = Path(cli.__file__).parent
    floors = {}
    for line in tomllib.loads((root / "pyproject.toml").read_text())["project"]["dependencies"]:
        name, version = re.split(">=|==", line.split(",")[0].split(";")[0])
        floors[name] = version
    tested = dict(line.split("==") for line in (root / "constraints-oldest.txt").read_text().splitlines()[1:])
    assert floors.keys() == tested.keys()
    for name, floor in floors.items():
        assert f"{tested[name]}.".startswith(f"{floor}."), name
    assert tuple(map(int, tested["timm"].split("."))) >= (1, 0, 26)  # earlier ones unpickle whatever a file holds


def test_predictions_with_a_payload_are_not_loaded(data: Path, tmp_path: Path, mark: Path) -> None:
    run = plan_run(tmp_path / "run", read_train(data), np.zeros((84, 18)))
    run.submission_file.write_text("ImageID,ans\na.jpg,3\n")
    np.savez(run.folder / "eval.npz", record=np.array([Payload(mark)], dtype=object))
    outcome = maskens("verify", "--run", run.folder)
    assert outcome.code == 1, outcome
    assert "eval.npz" in outcome.out
    assert not mark.exists()


# Nothing is read or written beyond its folder


@pytest.mark.parametrize("what", ["photo", "folder", "eval photo"])
def test_links_out_of_the_folder_of_photos_are_refused(data: Path, tmp_path: Path, what: str) -> None:
    inside = data / ("eval" if what == "eval photo" else "train") / "images"
    target = sorted(inside.iterdir())[0]
    if what == "photo":
        target = sorted(target.iterdir())[0]
    elsewhere = tmp_path / "elsewhere"
    shutil.move(target, elsewhere)
    target.symlink_to(elsewhere)
    with pytest.raises(Exception, match="is a link that leads out of the folder of photos"):
        (read_eval if what == "eval photo" else read_train)(data)


def test_links_within_and_of_the_folder_of_photos_are_followed(data: Path, tmp_path: Path) -> None:
    before = read_train(data)
    images = data / "train" / "images"
    shutil.move(images, tmp_path / "disk")
    images.symlink_to(tmp_path / "disk")
    photo = sorted(sorted(images.iterdir())[0].iterdir())[0]
    shutil.move(photo, images / "spare.jpg")
    photo.symlink_to(images / "spare.jpg")
    assert read_train(data).files == before.files


def test_a_job_folder_that_leads_elsewhere_is_refused(data: Path, tmp_path: Path) -> None:
    run, victim = tmp_path / "run", tmp_path / "victim"
    folds(data, run)
    (victim / "fold0").mkdir(parents=True)
    (victim / "fold0" / "history.csv").write_text("mine")
    (run / "mask").symlink_to(victim)
    outcome = maskens("train", "--run", run, "--recipe", "demo", "--task", "mask", "--restart", *TINY)
    refused(outcome, "leads out of the run's folder")
    assert (victim / "fold0" / "history.csv").read_text() == "mine"
    assert os.listdir(victim) == ["fold0"]


# Nothing runs where it is looked at


HOSTILE = "<img src=x onerror=alert(1)>&'[red]"


def test_names_are_escaped_in_pages_and_lists(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", people=12)
    table = data / "train" / "train.csv"
    text = table.read_text()
    first, second = (line.split(",") for line in text.splitlines()[1:3])
    for row in (first, second):
        folder = data / "train" / "images" / row[4]
        folder.rename(folder.with_name(f"{row[4]}{HOSTILE}"))
        text = text.replace(row[4], f"{row[4]}{HOSTILE}").replace(
            f"{row[0]},{row[1]}", f"=1+1{HOSTILE}{row[0]},{row[1]}"
        )
    table.write_text(text)
    images = data / "train" / "images"
    copied = (images / f"{first[4]}{HOSTILE}" / "normal.jpg").read_bytes()
    (images / f"{second[4]}{HOSTILE}" / "normal.jpg").write_bytes(copied)
    known = read_train(data)
    recipe = f'description = "{HOSTILE}"\n{CLASS18}'
    run = plan_run(tmp_path / "run", known, np.roll(np.eye(18)[known.classes], 3, axis=1) * 9, recipe=recipe)
    for command in ("explore", "audit", "report"):
        ran(command, "--run", run.folder, *(("--data", data) if command == "explore" else ()))
    pages = [tmp_path / "explore" / "index.html", run.folder / "audit" / "index.html", run.folder / "report.html"]
    for page in pages:
        html = page.read_text()
        assert "<img src=x" not in html, page
        assert "&lt;img src=x" in html.replace("<wbr>", "")
    for listed in (tmp_path / "explore" / "merge-candidates.csv", *run.folder.glob("audit/*.csv")):
        cells = [cell for row in csv.reader(io.StringIO(listed.read_text())) for cell in row]
        assert any(HOSTILE in cell for cell in cells)
        assert not any(cell.startswith("=") for cell in cells), listed


def test_no_markup_is_read_from_a_table_in_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    words = "[/bold] [red]x :smile:"
    table = new_table("", "recipe")
    table.add_row(words)
    make_console().print(table)
    assert words in capsys.readouterr().out


def test_ids_and_folders_are_no_formulas_in_the_lists_of_a_run(make_data: MakeData, tmp_path: Path) -> None:
    data = make_data(tmp_path / "data", people=12)
    table, images = data / "train" / "train.csv", data / "train" / "images"
    for folder in sorted(images.iterdir()):
        folder.rename(folder.with_name(f"=1+1_{folder.name}"))
    rows = [line.split(",") for line in table.read_text().splitlines()]
    evil = [rows[0], *([f"@SUM({r[0]})", *r[1:4], f"=1+1_{r[4]}"] for r in rows[1:])]
    table.write_text("\n".join(map(",".join, evil)))
    folds(data, tmp_path / "run")
    made = load_run(tmp_path / "run")
    known, assigned = load_data(made)
    cells = [cell for row in csv.reader(io.StringIO(made.folds_file.read_text())) for cell in row]
    assert not [cell for cell in cells if cell.startswith(("=", "@"))]
    assert "'=1+1_000000_male_Asian_18" in cells
    assert read_folds(made.folds_file, known)[0].tolist() == assigned.tolist()


@pytest.mark.parametrize("cell", ["=1+1", "+cmd", "-2+3", "@SUM(A1)", "\tx", "-0.5", "+7", '한글, "x"', "a=b", ""])
def test_no_cell_of_a_list_begins_a_formula_and_all_come_back(cell: str) -> None:
    (_, (_, found)) = csv.reader(io.StringIO(safe_csv(("n", "c"), [("x", cell)])))
    assert not found.startswith(("=", "@", "\t"))
    if found.startswith(("+", "-")):
        float(found)  # a number
    assert unescape_cell(found) == cell


def test_a_list_without_formulas_is_a_plain_csv() -> None:
    rows = [("a/b", 3, -0.5, "-0.5", "it's")]
    assert safe_csv(("path", "n", "x", "y", "z"), rows) == csv_text(("path", "n", "x", "y", "z"), rows)


def graph_bytes(names: tuple[str, str] = ("photos", "logits"), elsewhere: str = "") -> bytes:
    """A graph that gives three constants for each photo, which may lie in another file."""
    onnx = pytest.importorskip("onnx")
    weights = onnx.numpy_helper.from_array(np.zeros((3, 3), np.float32), "weights")
    if elsewhere:
        onnx.external_data_helper.set_external_data(weights, elsewhere)
        weights.ClearField("raw_data")
    nodes = [
        onnx.helper.make_node("GlobalAveragePool", [names[0]], ["pooled"]),
        onnx.helper.make_node("Flatten", ["pooled"], ["flat"]),
        onnx.helper.make_node("MatMul", ["flat", "weights"], [names[1]]),
    ]
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        for name, shape in zip(names, (["n", 3, 8, 8], ["n", 3]), strict=True)
    ]
    graph = onnx.helper.make_graph(nodes, "graph", ends[:1], ends[1:], [weights])
    opset = [onnx.helper.make_opsetid("", 18)]
    return bytes(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_graph_that_names_other_files_or_is_not_of_the_checkpoint_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: EngineName
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(36))
    card = model_card(predicts="mask", resize=(8, 8))
    kept = KeptGraph(tmp_path / "model.safetensors", "ab", card)

    def used(graph: bytes, logits: float = 0.0, **changes: object) -> object:
        values = ((logits,) * 3,) * 2
        record = GraphRecord("ab", sha256(graph), len(graph), values, 0.0, 2, engine, 1.0, 1.0, "here", {})
        kept.file.write_bytes(graph)
        write_record(kept.file.with_suffix(".json"), dataclasses.replace(record, **changes))
        found = kept.record()
        return found and kept.engine(found, engine, 1)

    assert isinstance(used(graph_bytes()), GraphEngine)
    assert "names others" in str(used(graph_bytes(elsewhere="secret.bin")))
    assert "names others" in str(used(b"<net/>"))
    assert "its inputs are ['image']" in str(used(graph_bytes(("image", "logits"))))
    assert "moves a logit by 1" in str(used(graph_bytes(), logits=1.0))
    assert used(graph_bytes(), model="another") is None
