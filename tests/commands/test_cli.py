"""The command line as a user meets it: the whole job once, and what happens on wrong input."""

from __future__ import annotations

import contextlib
import csv
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
from commands import maskens, refused
from PIL import Image
from rich.console import Console

import cli
from ensemble.decision.submission import align, read_answers
from ensemble.jobs.oof import load_job_oof
from ensemble.metrics.scores import macro_f1
from ensemble.recipes.reading import load_recipe, shipped
from folds.data.labels import AGES, GENDERS, MASKS
from folds.data.layout import read_eval, read_train

CHANCE_MARGIN = 0.20
"""How far above a guess by class frequency the macro F1 of the sample set must be. A pipeline
that mixes up photos, people or labels stays at the guess, which reaches 0.08 at most."""


def run_subprocess(*args: object, cwd: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "cli", *map(str, args)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the whole job has been done with the real command, without further options."""
    folder = tmp_path_factory.mktemp("demo")
    run_subprocess("sample", "data", "--people", "90", "--size", "96x128", cwd=folder)
    run_subprocess("folds", "--k", "3", cwd=folder)
    small = ("--set", "tasks.*.resize=[40, 30]", "--set", "tasks.*.epochs=5", "--set", "tasks.*.optimizer.lr=4e-3")
    run_subprocess("train", "--fold", "0..1", "--recipe", "demo", *small, cwd=folder)
    run_subprocess("train", cwd=folder)
    run_subprocess("infer", "--tta", "flip", cwd=folder)
    return folder


@pytest.fixture
def there(demo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The finished demo as the working folder, to be read only."""
    monkeypatch.chdir(demo)
    return demo


@pytest.fixture
def copy(demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished demo to spoil."""
    shutil.copytree(demo, tmp_path / "demo")
    run = tmp_path / "demo" / "runs" / "default" / "run.json"
    run.write_text(run.read_text().replace(str(demo), str(tmp_path / "demo")))
    monkeypatch.chdir(tmp_path / "demo")
    return tmp_path / "demo"


def test_the_whole_job_beats_chance_on_people_never_seen(there: Path) -> None:
    truth = align(Path("data/eval/answers.csv"), read_eval(Path("data")).ids)
    _, predicted = read_answers(Path("runs/default/submission.csv"))
    guesses = [macro_f1(truth, np.random.default_rng(i).permutation(truth), 18) for i in range(20)]
    assert macro_f1(truth, predicted, 18) > max(guesses) + CHANCE_MARGIN

    outcome = maskens("score")
    assert outcome.code == 0
    score = float(re.findall(r"macro F1 ([\d.]+) \(.*, accuracy", outcome.out)[-1])
    assert score > max(guesses) + CHANCE_MARGIN
    assert "over 630 photos" in outcome.out

    outcome = maskens("score", "--truth", "data/eval/answers.csv")
    assert f"macro F1 {macro_f1(truth, predicted, 18):.4f}" in outcome.out


def test_the_csv_has_the_rows_of_info_csv_in_order(there: Path) -> None:
    with Path("runs/default/submission.csv").open() as file:
        rows = list(csv.DictReader(file))
    with Path("data/eval/info.csv").open() as file:
        assert [r["ImageID"] for r in rows] == [r["ImageID"] for r in csv.DictReader(file)]
    assert all(r.keys() == {"ImageID", "ans"} and 0 <= int(r["ans"]) < 18 for r in rows)
    outcome = maskens("check-submission")
    assert outcome.code == 0
    assert "is accepted" in outcome.out


def test_every_fold_and_task_has_a_model_and_each_photo_one_out_of_fold_prediction(there: Path) -> None:
    files = read_train(Path("data")).files
    for task in ("mask", "gender", "male-age", "female-age"):
        found = [f for k in range(3) for f in load_job_oof(Path(f"runs/default/{task}/fold{k}/oof.npz"), {}).files]
        assert sorted(found) == sorted(files)


def test_training_again_has_nothing_left_to_do(there: Path) -> None:
    outcome = maskens("train", "--fold", "0..2")
    assert outcome.code == 0
    assert "12 of 12 jobs are finished already" in outcome.out


def test_another_data_folder_with_eval_alone_can_be_predicted(there: Path, tmp_path: Path) -> None:
    other = tmp_path / "heldout"
    shutil.copytree("data/eval", other / "eval")
    with (other / "eval" / "info.csv").open() as file:
        ids = [r["ImageID"] for r in csv.DictReader(file)][::-3]
    (other / "eval" / "info.csv").write_text("extra,ans,ImageID\n" + "".join(f"x,0,{i}\n" for i in ids))
    out = tmp_path / "out.csv"
    assert maskens("infer", "--data", other, "--tta", "flip", "--out", out, "--device", "cpu").code == 0
    before = dict(zip(*read_answers(Path("runs/default/submission.csv")), strict=True))
    found, classes = read_answers(out)
    assert found == ids
    assert [before[i] for i in ids] == classes.tolist()
    assert maskens("check-submission", out, "--data", other).code == 0


def test_decoding_each_time_gives_the_same_csv(there: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    assert maskens("infer", "--cache", "none", "--workers", "1", "--out", out).code == 0
    assert out.read_text() == Path("runs/default/submission.csv").read_text()


def test_asking_only_whom_it_takes_gives_the_same_csv(there: Path, tmp_path: Path) -> None:
    some, everybody = tmp_path / "some.csv", tmp_path / "all.csv"
    told = maskens("infer", "--out", some)
    assert "age models of one gender saw" in told.out
    assert "age models" not in maskens("infer", "--ask-all", "--out", everybody).out
    assert some.read_text() == everybody.read_text()
    with np.load(some.with_suffix(".logits.npz")) as routed, np.load(everybody.with_suffix(".logits.npz")) as full:
        assert np.isnan(routed["logits/female-age"]).any()
        assert not np.isnan(full["logits/female-age"]).any()


def test_a_stopped_inference_says_how_to_go_on_and_does(there: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemble.commands.infer.progress_bars", _stops_at_128)
        stopped = maskens("infer", "--out", out)
    assert (stopped.code, out.exists()) == (130, False)
    assert "the same command goes on from there" in stopped.err
    again = maskens("infer", "--out", out)
    assert (again.code, "128 photos were done" in again.out) == (0, True)
    assert out.read_text() == Path("runs/default/submission.csv").read_text()
    assert [f.name for f in tmp_path.iterdir() if "partial" in f.name] == []


@contextlib.contextmanager
def _stops_at_128(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    def on_progress(what: str, done: int, total: int) -> None:
        if what == "predicting" and done >= 128:
            raise KeyboardInterrupt

    yield on_progress


def test_a_second_result_does_not_silently_replace_the_first(copy: Path) -> None:
    file = Path("runs/default/submission.csv")
    first = file.read_text().replace(",1\n", ",2\n")
    file.write_text(first)
    rough = maskens("infer", "--precision", "bf16", "--out", "rough.csv")
    assert re.search(r"bf16 for 12 of 12 models, largest difference of a logit to fp32 [\d.e-]+", rough.out), rough
    outcome = maskens("infer", "--tta", "none")
    assert "the earlier file is kept as runs/default/submission.1.csv" in outcome.out, outcome
    assert Path("runs/default/submission.1.csv").read_text() == first


def test_quiet_prints_nothing_and_the_environment_sets_options(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert maskens("score", "--quiet").out == ""
    monkeypatch.setenv("MASKENS_RUN", "elsewhere")
    refused(maskens("score"), "there is no run in elsewhere yet")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_training_says_how_to_go_on_and_does(copy: Path, number: signal.Signals) -> None:
    shutil.rmtree("runs/default/mask/fold0")
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "train"],
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background jobs ignore Ctrl-C
    )
    assert process.stdout
    for line in process.stdout:
        if "epoch" in line:
            break
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: stopped.")
    assert "the same command goes on from there" in err
    assert "Traceback" not in err
    assert maskens("train").code == 0
    assert maskens("score").code == 0


def test_a_photo_already_cut_before_the_folds_is_refused_before_training(data: Path) -> None:
    photo = next((data / "train" / "images").glob("*/mask2*"))
    photo.write_bytes(photo.read_bytes()[:-200])
    assert maskens("folds", "--k", "3").code == 0
    for cache in ("", "none"):
        refused(maskens("train", "--recipe", "demo", "--cache", cache), photo.name, "can't be read")
        assert not list(Path("runs/default").glob("*/fold*"))


def test_a_bad_photo_met_by_a_worker_gives_one_clean_message(copy: Path) -> None:
    photo = sorted(Path("data/eval/images").iterdir())[40]
    photo.write_bytes(photo.read_bytes()[:-200])
    for workers in (0, 1):
        refused(
            maskens("infer", "--cache", "none", "--workers", workers, "--out", "x.csv"), photo.name, "can't be read"
        )
    refused(maskens("infer", "--out", "x.csv"), photo.name, "can't be read")
    assert not Path("x.csv").exists()


def test_logits_lie_beside_their_csv(there: Path, tmp_path: Path) -> None:
    with np.load("runs/default/eval.npz") as kept:
        before = kept["logits/mask"]
    assert before.shape == (3, 2, 210, 3)
    assert maskens("infer", "--tta", "none", "--out", tmp_path / "other.csv").code == 0
    with np.load("runs/default/eval.npz") as kept, np.load(tmp_path / "other.logits.npz") as new:
        assert np.array_equal(kept["logits/mask"], before)
        assert new["logits/mask"] == pytest.approx(before[:, :1], abs=1e-4)
        assert new["ids"].tolist() == list(read_eval(Path("data")).ids)


def test_a_run_without_a_finished_epoch_may_still_change_its_mind(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    status = Path("runs/default/mask/fold0/job.json")
    status.parent.mkdir(parents=True)
    status.write_text("{}")
    assert maskens("folds").code == 0, "the run remembers k"
    assert "kept as runs/default/folds.1.csv" in maskens("folds", "--k", "2").out
    assert "fold 0..1" in maskens("folds", "--seed", "7").out, "with another seed too"


def test_weights_of_a_file_reach_training(data: Path) -> None:
    donor = timm.create_model("test_resnet", num_classes=1000)
    safetensors.torch.save_file(donor.state_dict(), "w.safetensors")
    Path("mine.toml").write_text(
        "[defaults]\nmodel = 'test_resnet.r160_in1k'\nresize = [32, 24]\nepochs = 1\n[tasks.heads]\n"
        "optimizer = { name = 'sgd', lr = 1e-12, weight_decay = 0.0 }\n"
    )
    assert maskens("folds", "--k", "2").code == 0
    outcome = maskens("train", "--fold", "0", "--recipe", "mine.toml", "--weights", "w.safetensors")
    assert outcome.code == 0, outcome
    trained = safetensors.torch.load_file("runs/default/heads/fold0/model.safetensors")
    layers = [k for k in donor.state_dict() if k.endswith("conv1.weight")]
    assert layers
    assert all(np.allclose(trained[k], donor.state_dict()[k], atol=1e-6) for k in layers)
    Path("w.safetensors").rename("moved.safetensors")
    refused(maskens("train", "--fold", "1"), "name the run's initial weights again with --weights FILE")
    assert maskens("train", "--fold", "1", "--weights", "moved.safetensors").code == 0


def test_restart_trains_again(copy: Path) -> None:
    file = Path("runs/default/mask/fold0/model.safetensors")
    before, when = safetensors.torch.load_file(file), file.stat().st_mtime_ns
    assert maskens("train", "--task", "mask", "--fold", "0", "--restart").code == 0
    assert file.stat().st_mtime_ns > when
    after = safetensors.torch.load_file(file)
    assert all(np.array_equal(after[k], before[k]) for k in before), "the same seed gives the same weights"


OPTIONS = {
    "sample": "seed workers quiet",
    "explore": "run data seed workers quiet",
    "folds": "run data seed workers quiet",
    "train": "run data device workers quiet cache",
    "infer": "run data device workers quiet cache",
    "predict": "run device workers quiet",
    "score": "run data quiet",
    "tune": "run data quiet",
    "compare": "data quiet",
    "audit": "run data workers quiet",
    "report": "run data workers quiet",
    "check-submission": "run data quiet",
    "export": "run data quiet",
}


@pytest.mark.parametrize("command", OPTIONS)
def test_a_command_takes_the_shared_options_that_it_uses_and_no_other(command: str) -> None:
    outcome = maskens(command, "--help")
    for option in ("run", "data", "seed", "device", "workers", "quiet", "cache"):
        uses = option in OPTIONS[command].split()
        assert (f"--{option} " in outcome.out) == uses
        assert (f"MASKENS_{option.upper()}]" in outcome.out) == uses
    assert f"Example:  maskens {command}" in outcome.out


def test_an_option_that_a_command_does_not_use_is_refused() -> None:
    refused(maskens("compare", "a", "b", "--seed", "7"), "No such option: --seed")
    refused(maskens("score", "--workers", "3"), "No such option: --workers")


@pytest.mark.parametrize(
    ("words", "code", "shown", "numpy_too"),
    [
        (["--help"], 0, "check-submission", False),
        (["train", "--nonsense"], 2, "No such option: --nonsense", False),
        (["train", "--fold", "x"], 2, "'x' is not a fold", False),
        (["nonsense"], 2, "No such command 'nonsense'", False),
        (["folds", "--k", "7"], 2, "The largest k that works is 3", True),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(
    data: Path, words: list[str], code: int, shown: str, numpy_too: bool
) -> None:
    heavy = {"torch", "timm", "albumentations", "sklearn", "scipy", "cv2", "PIL", "joblib", "matplotlib", "pandas"}
    program = (
        f"import sys, cli\nsys.argv = ['maskens', *{words}]\n"
        "try:\n    cli.main()\nexcept SystemExit as stop:\n    code = stop.code or 0\n"
        f"found = {heavy | (set() if numpy_too else {'numpy'})} & set(sys.modules)\n"
        "sys.exit(f'imported {found}' if found else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=data.parent,
        env=os.environ | {"PYTHONPATH": str(Path(cli.__file__).parent)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == code, done.stderr
    assert shown in done.stdout + done.stderr


def test_a_wrong_option_is_told_with_the_usage_and_as_it_was_typed() -> None:
    refused(maskens("train", "--ford", "1"), "Usage: maskens train", "'maskens train --help'", "--ford", "--fold")
    refused(maskens("[red]:car:"), "Usage: maskens [OPTIONS]", "No such command '[red]:car:'")
    refused(maskens("train", "--fold", "[red]:car:"), "error: --fold [red]:car:: '[red]:car:' is not a fold")


def test_the_bare_command_shows_its_help_and_no_error() -> None:
    outcome = maskens()
    assert outcome.code == 2
    assert "check-submission" in outcome.out
    assert outcome.err == ""


def test_recipes_are_listed_and_shown_with_every_value(tmp_path: Path) -> None:
    listed = maskens("recipes")
    assert listed.code == 0
    for name in shipped():
        assert f" {name} " in listed.out
    shown = maskens("recipes", "show", "demo", "--set", "tasks.mask.epochs=77")
    (tmp_path / "mine.toml").write_text(shown.out)
    mine = load_recipe(str(tmp_path / "mine.toml"))
    assert mine.tasks["mask"].epochs == 77
    assert mine.tasks["gender"] == load_recipe("demo").tasks["gender"]
    refused(maskens("recipes", "show", "dmo"), "there is no recipe 'dmo' (did you mean 'demo'?)")


def test_a_variant_reuses_what_does_not_differ_and_is_compared(copy: Path) -> None:
    assert maskens("folds", "--k", "3", "--run", "runs/other").code == 0
    change = ("--set", "tasks.mask.epochs=1")
    outcome = maskens("train", "--run", "runs/other", *change, "--reuse", "runs/default")
    assert outcome.code == 0, outcome
    assert "9 finished jobs are taken from runs/default" in outcome.out
    assert "tasks.mask.epochs" not in maskens("train", "--run", "runs/other", *change).out, "and goes on with it"
    refused(
        maskens("train", "--run", "runs/other", "--set", "tasks.mask.epochs=2"), "tasks.mask.epochs: 1, now 2", "--set"
    )
    outcome = maskens("compare", "runs/default", "runs/other")
    assert outcome.code == 0, outcome
    shown = "\n".join(line.rstrip() for line in outcome.out.splitlines())
    assert re.search(r"tasks\.mask\.epochs +5 +1\n", shown)
    first, second = shown.split(" default\n")[-1].split(" other\n")
    gender = [re.search(r"gender +([\d.]+ \(.*?\))", part)[1] for part in (first, second)]  # type: ignore[index]
    assert gender[0] == gender[1]
    assert re.search(r"gender .* equal", second)
    assert re.search(r"mask .* (worse|within noise)", second)
    refused(maskens("compare", "runs/default"), "name two runs or more to compare")
    assert maskens("folds", "--k", "3", "--run", "runs/twin").code == 0
    outcome = maskens("train", "--run", "runs/twin", "--reuse", "runs/default")
    assert "12 finished jobs are taken" in outcome.out, "the reused run's recipe is the start"
    assert maskens("score", "--run", "runs/twin").out.splitlines()[:-1] == maskens("score").out.splitlines()[:-1]
    refused(maskens("train", "--run", "runs/twin", "--recipe", "quick"), "has models of the recipe 'demo'")
    refused(maskens("train", "--run", "runs/twin", "--reuse", "runs/default", "--restart"), "exclude each other")
    refused(maskens("train", "--reuse", "runs/none"), "there is no run in runs/none")


def test_all_errors_of_a_recipe_are_told_at_once_before_anything_is_computed(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    Path("mine.toml").write_text(
        'extends = "demo"\nwithout = ["gender"]\n[tasks.mask]\nepoch = 3\ncrop = [640, 480]\n'
        'augment = [{ name = "Perspectiv" }, { name = "CLAHE", args = { clip = 3 } }]\n'
    )
    refused(
        maskens("train", "--recipe", "mine.toml"),
        "tasks.mask.epoch: unknown key (did you mean 'epochs'?)",
        "tasks.mask.crop: crop [640, 480] is larger than the photo after resize [64, 48]",
        "tasks.mask.augment.0: albumentations has no transform 'Perspectiv'",
        "tasks.mask.augment.1: CLAHE",
        "nothing predicts gender",
    )
    assert not list(Path("runs/default").glob("*/fold*"))


# Wrong input: one clear message, exit code 2, nothing written.


@pytest.fixture
def data(make_data: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return make_data(tmp_path / "data", people=18)


def test_no_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(maskens("folds"), "there is no data folder data", "--data DIR", "maskens sample data")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda text: "", ["train.csv is empty"]),
        (lambda text: text.split("\n")[0] + "\n", ["has a header but no rows"]),
        (lambda text: text.replace("gender", "sex", 1), ["lacks the column 'gender'"]),
        (lambda text: text.replace(",female,", ",feamale,"), ["gender 'feamale'", "did you mean 'female'", "row "]),
    ],
)
def test_a_spoilt_train_csv(data: Path, change: Callable[[str], str], words: list[str]) -> None:
    table = data / "train" / "train.csv"
    table.write_text(change(table.read_text()))
    refused(maskens("folds"), *words)
    assert not Path("runs").exists()


def test_more_folds_than_people_of_a_class(data: Path) -> None:
    refused(maskens("folds", "--k", "9"), "--k 9", "The largest k that works is 3")
    assert not Path("runs").exists()


def test_a_photo_cut_in_half_is_found_before_training(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    photo = next((data / "train" / "images").glob("*/mask2*"))
    photo.write_bytes(photo.read_bytes()[:-200])
    refused(maskens("folds", "--k", "3", "--run", "other", "--check-photos"), str(photo.name), "can't be read")
    assert not Path("other").exists()
    refused(maskens("train", "--recipe", "demo"), "changed since `maskens folds`", photo.parent.name)


@pytest.mark.parametrize(
    ("fold", "words"),
    [
        ("7", ["--fold 7: there is no fold 7; this run has the folds 0..2"]),
        ("4..0", ["--fold 4..0: 4..0 runs backwards. Write 0..4."]),
        ("two", ["'two' is not a fold"]),
    ],
)
def test_a_fold_that_is_none(there: Path, fold: str, words: list[str]) -> None:
    refused(maskens("train", "--fold", fold), *words)


def test_training_and_inference_before_their_time(data: Path) -> None:
    refused(maskens("train"), "there is no run in runs/default yet", "maskens folds")
    refused(maskens("infer"), "there is no run in runs/default yet")
    assert maskens("folds", "--k", "3").code == 0
    refused(maskens("infer"), "nothing is trained in runs/default yet", "maskens train")
    refused(maskens("score"), "nothing is trained")


def test_inference_with_missing_folds(copy: Path) -> None:
    shutil.rmtree("runs/default/gender/fold1")
    refused(maskens("infer"), "1 of 12 models are not trained yet: gender fold 1", "--fold 1", "--allow-missing")
    assert maskens("infer", "--allow-missing").code == 0
    shutil.rmtree("runs/default/gender")
    refused(maskens("infer", "--allow-missing"), "gender fold 0, gender fold 1, gender fold 2")


def test_a_corrupt_checkpoint(copy: Path) -> None:
    file = Path("runs/default/gender/fold1/model.safetensors")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    before = Path("runs/default/submission.csv").read_text()
    refused(maskens("infer"), str(file), "is damaged", "--task gender --fold 1 --restart")
    assert Path("runs/default/submission.csv").read_text() == before


def test_an_unknown_recipe_model_task_or_device(data: Path) -> None:
    assert maskens("folds", "--k", "3").code == 0
    refused(maskens("train", "--recipe", "quik"), "there is no recipe 'quik' (did you mean 'quick'?)")
    recipe = Path("mine.toml")
    recipe.write_text("[defaults]\nmodel = 'tf_efficientnet_lite00'\npretrained = false\n[tasks.heads]\n")
    refused(maskens("train", "--recipe", recipe), "timm has no model 'tf_efficientnet_lite00'", "tf_efficientnet_lite0")
    refused(maskens("train", "--recipe", "demo", "--task", "msk"), "--task msk", "did you mean 'mask'")
    refused(maskens("train", "--device", "tpu"), "tpu")
    assert sorted(p.name for p in Path("runs/default").iterdir()) == ["folds.csv", "run.json"]


def test_data_that_changed_since_folds(copy: Path) -> None:
    table = copy / "data" / "train" / "train.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    refused(maskens("train"), "changed since `maskens folds`", "is gone")
    refused(maskens("score"), "changed since `maskens folds`")


def test_a_folder_that_is_no_run(data: Path) -> None:
    for command in ("folds", "train", "infer", "score", "check-submission"):
        refused(maskens(command, "--run", data), "is not a run folder")
    (data / "file").touch()
    refused(maskens("folds", "--run", data / "file"), "is a file, not a run folder")


def test_another_recipe_or_seed_than_the_runs(there: Path) -> None:
    refused(
        maskens("train", "--recipe", "original", "--no-pretrained"), "models of the recipe 'demo'", "tasks.mask.model"
    )
    refused(maskens("train", "--seed", "7"), "No such option: --seed")
    refused(maskens("folds", "--k", "4"), "has models trained on other folds")


def test_a_full_disk_leaves_the_old_file(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Path("runs/default/submission.csv").read_bytes().replace(b",1\n", b",2\n")
    Path("saved.csv").write_bytes(before)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    refused(maskens("infer", "--out", "saved.csv"), "can't write saved.", "No space left on device")
    assert Path("saved.csv").read_bytes() == before
    assert sorted(p.name for p in Path().iterdir()) == ["data", "runs", "saved.csv"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_no_write_permission(data: Path) -> None:
    locked = data.parent / "locked"
    locked.mkdir(mode=0o555)
    refused(maskens("folds", "--run", locked / "run"), "can't write", "Permission denied")


def test_a_run_folder_that_cannot_be_made(data: Path) -> None:
    (data.parent / "file").touch()
    refused(maskens("folds", "--k", "3", "--run", data.parent / "file" / "run"), "can't write", "Not a directory")


def test_files_that_do_not_go_together(there: Path, tmp_path: Path) -> None:
    refused(maskens("score", "--submission", "x.csv"), "--submission needs --truth")
    other = tmp_path / "t.csv"
    other.write_text("ImageID,ans\nx.jpg,1\n")
    refused(maskens("score", "--truth", other), "holds other photos")
    refused(maskens("check-submission", other), "does not fit info.csv")
    refused(maskens("sample", "data"), "data exists and is not an empty folder")
    refused(maskens("sample", "new", "--size", "big"), "--size big", "384x512")


def test_a_score_as_json_says_what_the_tables_say(there: Path) -> None:
    shown, record = maskens("score").out, json.loads(maskens("score", "--json").out)
    assert f"macro F1 {record['macro_f1']['value']:.4f} ({record['macro_f1']['low']:.4f} to" in shown
    assert [f["photos"] for f in record["folds"]] == [210, 210, 210]
    assert {s["name"] for s in record["settings"]} >= {"best, no TTA", "last, flip", "part by part"}
    assert set(record["tasks"]) == {"mask", "gender", "male-age", "female-age"}
    answers = json.loads(maskens("score", "--truth", "data/eval/answers.csv", "--json").out)
    assert answers["photos"] == 210
    refused(maskens("score", "--run", "runs/default", "--run", "runs/default"), "a run is named twice")


def test_a_tuning_is_used_and_named_until_it_is_left_out(copy: Path) -> None:
    plain = Path("runs/default/submission.csv").read_text()
    outcome = maskens("tune", "--force")
    assert outcome.code == 0, outcome
    assert "applied: views, temperatures, offsets" in outcome.out
    assert "saved: runs/default/tuning.json" in outcome.out
    outcome = maskens("infer")
    assert "tuned: views, temperatures, offsets (runs/default/tuning.json)" in outcome.out
    assert "tuned: views, temperatures, offsets" in maskens("score").out
    assert "untuned)" in maskens("score", "--untuned").out
    assert "untuned)" in maskens("score", "--epoch", "last").out
    assert maskens("infer", "--untuned", "--tta", "flip").code == 0
    assert Path("runs/default/submission.csv").read_text() == plain
    shutil.rmtree("runs/default/mask/fold0")
    assert maskens("train").code == 0
    assert maskens("infer").code == 0, "the same job, trained again, gives the same logits"
    assert maskens("tune", "--force", "--step", "offsets").code == 0
    assert "views: flip, untuned\n" in maskens("infer", "--decision", "hard").out, "offsets are not for single parts"
    shutil.copy("runs/default/mask/fold1/oof.npz", "runs/default/mask/fold0/oof.npz")
    refused(maskens("infer"), "was fitted on other out-of-fold logits", "maskens tune --run runs/default", "--untuned")
    refused(maskens("tune", "--blend"), "--blend weighs several runs")
    refused(maskens("tune", "--step", "weights"), "'weights' is not one of")


def test_runs_are_blended_and_voted_on(copy: Path) -> None:
    assert maskens("folds", "--k", "3", "--run", "runs/other").code == 0
    change = ("--set", "tasks.mask.epochs=1", "--set", "tasks.gender.epochs=1")
    assert maskens("train", "--run", "runs/other", *change, "--reuse", "runs/default").code == 0
    both = ("--run", "runs/default", "--run", "runs/other")
    scored = maskens("score", *both)
    assert scored.code == 0, scored
    assert "runs/default + runs/other" in scored.out
    assert "hard vote" in scored.out
    tuned = maskens("tune", *both, "--blend", "--force")
    assert tuned.code == 0, tuned
    assert re.search(r"weights: +runs/default [01]\.\d\d, *runs/other [01]\.\d\d", " ".join(tuned.out.split()))
    outcome = maskens("infer", *both)
    assert outcome.code == 0, outcome
    assert re.search(r"(12|24) models, 210 photos", outcome.out), "a run of weight 0 is not asked"
    assert re.search(r"\(runs/default/blend-[0-9a-f]{8}\.json\)", outcome.out)
    assert Path("runs/default/blend-submission.csv").exists()
    assert maskens("infer", *both, "--untuned").code == 0
    with np.load("runs/default/blend-eval.npz") as kept:
        assert kept["run1/logits/gender"].shape == (3, len(kept["run1/logits/gender"][0]), 210, 2)
    assert maskens("report", *both, "--photos", "0").code == 0

    ids = read_eval(Path("data")).ids
    for name, number in (("a.csv", 7), ("b.csv", 7), ("c.csv", 3)):
        Path(name).write_text("ImageID,ans\n" + "".join(f"{i},{number}\n" for i in reversed(ids)))
    outcome = maskens("infer", "--vote", "a.csv", "b.csv", "--out", "voted.csv", "--untuned")
    assert outcome.code == 0, outcome
    assert set(read_answers(Path("voted.csv"))[1]) == {7}, "two votes of three, in info.csv's order"
    assert maskens("infer", "--vote", "b.csv", "--vote", "a.csv", "--out", "again.csv", "--untuned").code == 0
    assert Path("again.csv").read_text() == Path("voted.csv").read_text()
    assert maskens("infer", "--vote", "c.csv", "--out", "tied.csv", "--untuned").code == 0
    ours, tied = (read_answers(Path(f))[1] for f in ("runs/default/submission.csv", "tied.csv"))
    assert np.array_equal(ours, tied), "one against one: the more probable class"
    assert maskens("infer", *both, "--decision", "vote", "--untuned", "--out", "x.csv").code == 0
    Path("a.csv").write_text("ImageID,ans\nnobody.jpg,3\n")
    refused(maskens("infer", "--vote", "a.csv"), "a.csv holds other photos")
    refused(maskens("infer", "stray.csv"), "unexpected argument 'stray.csv'")
    refused(maskens("infer", "--vote", "b.csv", "--decision", "hard"), "--vote and --decision hard exclude each other")
    scored = maskens("score", *both, "--truth", "data/eval/answers.csv")
    assert "runs/default/blend-submission.csv against" in scored.out
    assert maskens("folds", "--k", "3", "--run", "runs/apart", "--seed", "5").code == 0
    refused(maskens("infer", *both, "--run", "runs/apart"), "runs/apart has other folds than runs/default")
    refused(maskens("train", *both), "it is given more than once; this command takes one run")


def test_photos_anywhere_are_predicted_as_the_eval_photos_are(there: Path, tmp_path: Path) -> None:
    ids, classes = read_answers(Path("runs/default/submission.csv"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for image in ids[:5]:
        shutil.copy(Path("data/eval/images") / image, tmp_path / "deep" / "er")
    (tmp_path / "deep" / "notes.txt").write_text("no photo")
    outcome = maskens("predict", tmp_path / "deep", Path("data/eval/images") / ids[5], "--out", tmp_path / "p.csv")
    assert outcome.code == 0, outcome
    with (tmp_path / "p.csv").open() as file:
        rows = list(csv.DictReader(file))
    known = dict(zip(ids, classes.tolist(), strict=True))
    assert {Path(r["photo"]).name: int(r["class"]) for r in rows} == {i: known[i] for i in ids[:6]}
    for row in rows:
        for part, labels in (("mask", MASKS), ("gender", GENDERS), ("age", AGES)):
            assert sum(float(row[f"p {part} {label}"]) for label in labels) == pytest.approx(1, abs=1e-4)
            assert row[part] in labels
        assert 0 <= int(row["folds_agree"]) <= int(row["folds"]) == 3
        assert 0 <= float(row["disagreement"]) <= 1
    told = json.loads(maskens("predict", tmp_path / "deep", "--json").out)
    assert {r["photo"]: r["class"] for r in told} == {
        r["photo"]: int(r["class"]) for r in rows if r["photo"].startswith(str(tmp_path))
    }


def test_photos_that_can_t_be_predicted_are_refused(there: Path, tmp_path: Path) -> None:
    image = next(iter(Path("data/eval/images").iterdir()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(image.read_bytes()[:300])
    refused(maskens("predict", tmp_path / "none.jpg", tmp_path / "empty"), "none.jpg does not exist", "holds no photo")
    refused(maskens("predict", image, tmp_path / "bad.jpg"), "bad.jpg")
    refused(maskens("predict", image, "--out", tmp_path / "x.txt"), "name a .csv or a .json file")
    refused(maskens("predict"), "PHOTO|DIR")
    shutil.copy(image, os.fsencode(tmp_path / "empty") + b"/\xff.jpg")
    refused(maskens("predict", tmp_path / "empty"), "has a name that is not UTF-8: rename it")
    Image.new("RGB", (300, 100)).save(tmp_path / "wide.png")
    assert "wide.png has another shape than in training" in maskens("predict", tmp_path / "wide.png").out
