"""What every command shares: options, help, wrong input."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from run_command import maskens, refused

import cli
from ensemble.commands.terminal import make_console, print_anything, say
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import shipped
from ensemble.recipes.views import VIEWS
from folds.run_folder import library_versions


def test_quiet_prints_nothing_and_the_environment_sets_options(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert maskens("score", "--quiet").out == ""
    monkeypatch.setenv("MASKENS_RUN", "elsewhere")
    refused(maskens("score"), "there is no run in elsewhere yet")


OPTIONS = {
    "sample": "seed workers quiet",
    "explore": "run data seed workers quiet",
    "folds": "run data seed workers quiet",
    "recommend": "run data device workers quiet",
    "train": "run data device workers quiet cache",
    "sweep": "run data seed device workers quiet cache",
    "infer": "run data device workers quiet cache",
    "predict": "run device workers quiet",
    "serve": "run device workers quiet",
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


@pytest.mark.parametrize("command", ["infer", "score", "audit", "export", "predict"])
def test_unknown_views_are_refused_with_those_there_are(there: Path, command: str) -> None:
    photo = ["data/eval/images"] if command == "predict" else []
    refused(maskens(command, *photo, "--tta", "flp"), "--tta flp: there are none, flip, ", "(did you mean 'flip'?)")


def test_the_help_of_infer_lists_every_set_with_its_views() -> None:
    shown = " ".join(maskens("infer", "--help").out.replace("│", " ").split())
    for name, views in VIEWS.items():
        assert f"{name}: {', '.join(views)}." in shown


def test_an_option_that_a_command_does_not_use_is_refused() -> None:
    refused(maskens("compare", "a", "b", "--seed", "7"), "No such option: --seed")
    refused(maskens("score", "--workers", "3"), "No such option: --workers")


@pytest.mark.parametrize(
    ("words", "code", "shown", "numpy_too"),
    [
        (["--help"], 0, "check-submission", False),
        (["serve", "--help"], 0, "--max-queue", False),
        (["train", "--nonsense"], 2, "No such option: --nonsense", False),
        (["train", "--fold", "x"], 2, "'x' is not a fold", False),
        (["--version"], 0, f"maskens {library_versions()['maskens']}", False),
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


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", "0.9 +- 0.1 \\ud55c\\uae00 \\udcff"), ("cp949", "0.9 ± 0.1 한글 \\udcff")]
)
def test_what_a_pipe_has_no_character_for_is_replaced(
    encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    print_anything()
    console = make_console()
    say(console, "0.9 ± 0.1 한글 \udcff")
    sys.stdout.seek(0)
    assert sys.stdout.buffer.read().decode(encoding).strip() == printed


def test_commands_that_are_to_be_copied_quote_paths_with_spaces(data: Path) -> None:
    assert "next: maskens train --run 'my runs/a' --fold 0..2" in maskens("folds", "--run", "my runs/a", "--k", "3").out
    refused(maskens("score", "--run", "my runs/a"), "First: maskens train --run 'my runs/a'")
    refused(maskens("train", "--run", "my runs/b"), "maskens folds --run 'my runs/b'")


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
