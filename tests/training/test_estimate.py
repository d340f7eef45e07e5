"""What a training will take, and that finding out leaves no trace."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Literal

import pytest
import torch
from run_command import maskens, ran
from tiny_runs import TINY

import ensemble.models.precision
import ensemble.training.cost
import ensemble.training.trainer
from ensemble.jobs.hardware import Hardware
from ensemble.jobs.spec import JobSpec, plan
from ensemble.models.precision import AutotuneCache, autocast
from ensemble.recipes.recipe_file import parse_recipe
from ensemble.training.cost import Cost, estimate_training, long_training, probe, total_wall_time
from ensemble.training.preflight import job_warnings
from folds.people import TrainData
from folds.run_folder import Run, start_run
from folds.splits import make_folds

COST = Cost(decode=0.001, train=0.02, predict=0.005, start=1.5, weights=10**6, memory=10**9)
SMALL = dataclasses.replace(COST, note="out of memory: micro-batches of 4")
CPU = Hardware("cpu", 0)


@pytest.fixture
def run(data: TrainData, tmp_path: Path) -> Run:
    return start_run(tmp_path / "run", data, make_folds(data, 2, seed=1), 2, seed=1)[0]


def planned(run: Run, *changes: str, folds: tuple[int, ...] = (0, 1)) -> list[JobSpec]:
    return plan(run, parse_recipe(TINY, "tiny", changes=changes), ["mask"], folds, CPU, None)


def test_a_job_starts_as_soon_as_a_slot_is_free() -> None:
    assert total_wall_time([3, 1, 1, 2], 2) == 4
    assert total_wall_time([3, 1], 1) == 4


def test_each_jobs_photos_and_epochs_are_counted(data: TrainData, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    probed = []
    monkeypatch.setattr(ensemble.training.cost, "probe", lambda recipe, *_: probed.append(recipe) or SMALL)
    recipe, folds = parse_recipe(TINY, "tiny"), make_folds(data, 2, seed=1)
    hardware = Hardware("cpu", 0, jobs=2)
    specs = plan(run, recipe, list(recipe.tasks), [0, 1], hardware, run.folder.parent / "cache")
    found = estimate_training(specs, data, folds, hardware, restart=False, on_task=lambda *_: None)
    assert found.notes[0] == "tasks.mask out of memory: micro-batches of 4"
    assert len(probed) == 1, "tasks that differ in their labels only cost the same"
    jobs = {(j.task, j.fold): j for j in found.jobs}
    assert set(jobs) == {(t, f) for t in recipe.tasks for f in (0, 1)}
    assert jobs["mask", 0].photos == 80, "12 people x 7 photos, in whole batches of 16"
    assert jobs["male-age", 0].photos == 32
    whole = 1.5 + 3 * (80 * 0.02 + 2 * 84 * 0.005)
    assert jobs["mask", 0].seconds == pytest.approx(whole)
    assert found.decode == pytest.approx(168 * 0.001)
    assert found.cache == 168 * 32 * 24 * 3
    assert found.memory == 2 * 10**9
    assert found.disk == 8 * 10**6 + 2 * 3 * 10**6
    assert found.seconds == pytest.approx(found.decode + total_wall_time([j.seconds for j in found.jobs], 2))


def test_an_average_that_is_too_long_for_its_job_is_warned_of(data: TrainData, run: Run) -> None:
    def warned(*changes: str) -> list[str]:
        return job_warnings(planned(run, *changes), data, make_folds(data, 2, seed=1))

    (warning,) = warned("tasks.mask.ema=0.998")
    assert "tasks.mask.ema 0.998" in warning
    assert "of 15 updates" in warning, "3 epochs of 5 batches"
    assert "ema = 0.5 " in warning
    assert "ema = 0.9 " in warned("tasks.mask.ema=0.998", "tasks.mask.epochs=20")[0]
    assert "of 9 updates" in warned("tasks.mask.ema=0.998", "tasks.mask.accumulate=2")[0]
    assert warned("tasks.mask.ema=0.9", "tasks.mask.epochs=20") == warned() == []


def test_long_training_without_a_gpu_is_asked_about(data: TrainData, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def question(hardware: Hardware, *changes: str) -> str:
        return long_training(planned(run, *changes, folds=(0,)), data, make_folds(data, 2, seed=1), hardware)

    with monkeypatch.context() as patch:  # few and small photos: no model is built
        patch.setattr(ensemble.training.cost, "create", lambda *_: pytest.fail("built"))
        assert question(CPU) == question(Hardware("cuda", 0), "tasks.*.epochs=10000") == ""
    asked = question(CPU, "tasks.*.epochs=10000", "tasks.*.resize=[384, 384]")
    assert re.match("'tiny' would train for about .* --recipe quick .* --yes", asked)


@pytest.mark.parametrize("kept", ["fp32", "bf16", None])
def test_the_probe_trains_in_the_precision_that_would_be_used_and_keeps_nothing(
    data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Literal["fp32", "bf16"] | None
) -> None:
    recipe = parse_recipe(TINY, "tiny", changes=["tasks.*.precision=auto"]).tasks["mask"]
    measured = AutotuneCache(tmp_path, recipe.hash, torch.device("cpu"), CPU.job_threads)
    monkeypatch.setattr(ensemble.models.precision, "measure", lambda *_: ("bf16", "measured now"))
    if kept:
        measured.get_or_measure(lambda: (kept, "measured before"))
    used = []
    monkeypatch.setattr(
        ensemble.training.trainer, "autocast", lambda device, way: used.append(way) or autocast(device, way)
    )
    cost = probe(recipe, data, CPU, tmp_path)
    assert set(used) == {kept or "bf16"}
    assert (tmp_path / "precision.json").exists() == bool(kept)
    assert 0 < cost.predict < cost.train < 1
    assert 0 < cost.decode < 1
    assert cost.weights > 10**5
    assert cost.memory > 10**7


def test_a_dry_run_writes_nothing_and_counts_only_what_is_left(data: TrainData, run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(TINY.replace("epochs = 3", "epochs = 1").replace("[tasks.male-age]\n[tasks.female-", "[tasks."))

    def everything() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in sorted(tmp_path.rglob("*")) if p.is_file()}

    train = ("train", "--run", run.folder, "--recipe", recipe, "--device", "cpu")
    before = everything()
    outcome = ran(*train, "--dry-run", "--jobs", 2, "--compile", "--set", "tasks.mask.ema=0.5")
    assert "6 jobs, 2 at a time: about" in outcome.out
    assert "tasks.mask.ema 0.5 averages over about the last 2 of 5 updates (effective decay 0.48387" in outcome.out
    assert everything() == before
    ran(*train, "--task", "mask")
    left = maskens(*train, "--dry-run").out
    assert "2 of 6 jobs" in left
    assert "4 jobs, 1 at a time" in left
    assert "photo cache 0.00 GB more" in left
    ran(*train)
    before = everything()
    assert "6 models, 6 photos" in maskens("infer", "--run", run.folder, "--dry-run", "--device", "cpu").out
    assert "jobs left" not in maskens(*train, "--dry-run").out
    assert everything() == before
