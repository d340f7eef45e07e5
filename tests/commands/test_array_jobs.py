"""Jobs as an array of a batch system runs them: processes of their own, in any order and beside each other."""

from __future__ import annotations

from pathlib import Path

from run_command import maskens, started
from tiny_runs import DEFAULTS

RECIPE = f"{DEFAULTS}[tasks.heads]\nepochs = 2\n"
FOLDS = range(2)
FILES = ("model.safetensors", "oof.npz")


def left_by(run: str) -> list[bytes]:
    return [(Path(run) / "heads" / f"fold{fold}" / name).read_bytes() for fold in FOLDS for name in FILES]


def test_an_array_of_processes_leaves_what_one_command_does(data: Path) -> None:
    Path("mine.toml").write_text(RECIPE)
    for run in ("one", "array"):
        assert maskens("folds", "--run", run, "--k", len(FOLDS)).code == 0
    assert maskens("train", "--run", "one", "--recipe", "mine.toml").code == 0

    words = ("train", "--run", "array", "--recipe", "mine.toml", "--quiet", "--fold")
    jobs = [started(*words, fold) for fold in reversed(FOLDS)]
    assert [job.wait(300) for job in jobs] == [0, 0]
    assert left_by("array") == left_by("one")
    assert maskens("verify", "--run", "array").code == 0
    assert maskens("infer", "--run", "array").code == 0
