"""What is wrong with a command's run, data, recipe or models is refused before torch is imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tiny_runs import TINY, tiny_run

import cli
from folds.layout import read_train
from folds.run_folder import start_run
from folds.splits import make_folds

REFUSED = {
    "train --run nope": "there is no run in nope",
    "train --run new --data nope": "there is no data folder nope",
    "train --run new --recipe nope": "there is no recipe 'nope'",
    "train --run new --set tasks.*.epoch=1": "did you mean 'epochs'",
    "train --run new --task nope": "has no such task",
    "sweep --run new --recipe nope": "there is no recipe 'nope'",
    "sweep --run nope --recipe quick": "there is no run in nope",
    "distil --run new": "nothing is trained in new",
    "infer --run new": "nothing is trained in new",
    "infer --run begun": "8 of 8 models are not trained yet",
    "predict data/train/images --run begun": "8 of 8 models are not trained yet",
    "predict nope": "nope does not exist",
    "serve --run begun": "8 of 8 models are not trained yet",
    "export --run begun": "8 of 8 models are not trained yet",
    "recommend --data nope": "there is no data folder nope",
}
CODE = """
import sys, cli
for command in sys.argv[1:]:
    try:
        cli.app(command.split(), standalone_mode=False)
    except cli.MaskensError as error:
        print(command, "->", "torch" in sys.modules, " ".join(str(error).split()))
"""


def test_refusals_import_no_torch(make_data: Callable[..., Path], tmp_path: Path) -> None:
    data = read_train(make_data(tmp_path / "data", people=18))
    start_run(tmp_path / "new", data, make_folds(data, 3, seed=1), 3, seed=1)
    tiny_run(tmp_path / "begun", data, TINY)
    command = [sys.executable, "-c", CODE, *REFUSED]
    environment = {"PYTHONPATH": str(Path(cli.__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    lines = done.stdout.splitlines()
    assert len(lines) == len(REFUSED), done
    for line, (typed, message) in zip(lines, REFUSED.items(), strict=True):
        assert line.startswith(f"{typed} -> False ") and message in line
