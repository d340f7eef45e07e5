"""maskens quantize, and infer by other engines and in int8."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, refused

from ensemble.jobs.int8_files import int8_graphs
from ensemble.models import int8
from folds.errors import MaskensError
from folds.run import load_run

RUN = Path("runs/default")
JOB = RUN / "int8" / "mask" / "fold0"
INFER = ("infer", "--allow-missing", "--untuned", "--tta", "none", "--no-early-exit")


@pytest.fixture
def one_fold(copy: Path) -> Path:
    """The finished job without its other folds, as each model takes its time."""
    for fold in (1, 2):
        for folder in RUN.glob(f"*/fold{fold}"):
            shutil.rmtree(folder)
    return copy


def logits() -> dict[str, np.ndarray]:
    with np.load(RUN / "eval.npz") as z:
        return {name: z[name] for name in z if name.startswith("logits/")}


def test_models_are_quantized_measured_and_used(one_fold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(maskens(*INFER, "--precision", "int8"), "mask fold 0", "not quantized yet", "maskens quantize --run")
    done = maskens("quantize", "--bound", "1", "--calibration-photos", "16")
    assert done.code == 0, done
    record = json.loads((JOB / "int8.json").read_text())
    assert record["engines"].keys() == {"onnxruntime", "openvino"}
    assert f"{record['f1']:.4f}" in done.out
    assert "onnxruntime: 4 of 4 models drop by 1 or less" in done.out
    assert not list(RUN.glob("int8/*/*/.*")), "nothing is left half done"

    monkeypatch.setattr(int8, "quantize_graph", None)
    again = maskens("quantize", "--bound", "0", "--calibration-photos", "16")
    assert "4 of 4 models were quantized before" in again.out, again
    used = sum(score["f1"] >= json.loads(file.read_text())["f1"] for file, score in scores("onnxruntime"))
    assert f"onnxruntime: {used} of 4 models drop by 0 or less" in again.out

    assert maskens("quantize", "--bound", "1", "--calibration-photos", "16").code == 0
    assert maskens(*INFER).code == 0
    exact, classes = logits(), (RUN / "submission.csv").read_text()
    told = maskens(*INFER, "--precision", "int8", "--engine", "onnxruntime")
    assert "onnxruntime in int8 for 4 of 4 models, largest difference of a logit to fp32" in told.out
    found = logits()
    for name, values in exact.items():
        assert 0 < np.abs(found[name] - values).max() < 0.5 * np.abs(values).max()
    assert maskens("verify").code == 0

    told = maskens(*INFER, "--engine", "openvino")
    assert "openvino in fp32 for 4 of 4 models" in told.out
    assert all(np.allclose(values, exact[name], atol=1e-4) for name, values in logits().items())
    assert (RUN / "submission.csv").read_text() == classes

    graph = (JOB / "model.onnx").read_bytes()
    (JOB / "model.onnx").write_bytes(graph[:-1])
    refused(maskens(*INFER, "--precision", "int8"), "model.onnx is damaged or was replaced", "Quantize again")
    (JOB / "model.onnx").write_bytes(graph)
    checkpoint = RUN / "mask" / "fold0" / "model.safetensors"
    (RUN / "mask" / "fold0" / "job.json").unlink()  # so that nothing else tells
    shutil.copyfile(RUN / "male-age" / "fold0" / "model.safetensors", checkpoint)
    assert "another checkpoint of mask fold 0" in " ".join(maskens("verify").out.split())


def test_a_fold_that_lacks_a_task_can_not_be_measured_and_needs_no_int8(there: Path) -> None:
    """`quantize` leaves it out, so it must not be asked for."""
    run = load_run(RUN)
    assert int8_graphs([(run, "mask", 1, False)]) == {}
    with pytest.raises(MaskensError, match="mask fold 1 of runs/default is not quantized yet"):
        int8_graphs([(run, "mask", 1, True)])


def scores(engine: str) -> list[tuple[Path, dict[str, float]]]:
    return [(file, json.loads(file.read_text())["engines"][engine]) for file in RUN.glob("int8/*/*/int8.json")]
