"""What every command shares: options, help, completion, wrong input."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest
from run_command import maskens, python, ran, refused
from tiny_runs import TINY, tiny_run

import cli
from ensemble.commands.terminal import make_console, print_anything
from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import shipped
from folds.layout import read_train
from folds.run_folder import library_versions, start_run
from folds.splits import make_folds

NAMES = [name.replace("_", "-") for commands in cli.COMMANDS.values() for name in commands]


def test_quiet_prints_nothing_and_the_environment_sets_options(there: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert maskens("score", "--quiet").out == ""
    monkeypatch.setenv("MASKENS_RUN", "elsewhere")
    refused(maskens("score"), "there is no run in elsewhere yet")


@pytest.mark.parametrize("command", NAMES)
def test_help_is_readable_at_80_columns(command: str) -> None:
    shown = maskens(command, "--help", columns=80).out
    assert f"Example:  maskens {command}" in shown
    assert "…" not in shown
    assert "│ --quiet" not in shown or not re.search("│ --(?!help).*<", shown), "values are named in words"
    long = re.search("│ --.*│\n(│  .*│\n){3}", shown)
    assert not long, f"more than three lines, with the default: {long and long[0]}"


@pytest.mark.parametrize("command", ["infer", "score", "audit", "export", "predict"])
def test_unknown_views_are_refused_with_those_there_are(there: Path, command: str) -> None:
    photo = ["data/eval/images"] if command == "predict" else []
    refused(
        maskens(command, *photo, "--tta", "flp"),
        "--tta flp: no such set of views (did you mean 'flip'?). Known: none, flip, ",
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("train", "--hours", "two"), "expected a number"),
        (("folds", "--k", "five"), "expected a whole number"),
        (("run", "--hours", "0"), "--hours 0: give the hours"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_with_what_is_expected(words: tuple[str, ...], expected: str) -> None:
    refused(maskens(*words), words[1], expected)


RUN_ALL = """
import contextlib, os, sys
import cli

commands = sys.argv[1:]

def run(*words, code=0):
    sys.argv = ["maskens", *words]
    try:
        cli.main()
    except SystemExit as stop:
        assert (stop.code or 0) == code, (words, stop.code)

def heavy(*more):
    names = {"torch", "timm", "albumentations", "sklearn", "scipy", "cv2", "PIL", "joblib", "matplotlib", *more}
    assert not names & sys.modules.keys(), names & sys.modules.keys()

for words in (["--help"], ["serve", "--help"], ["--version"]):
    run(*words)
for words in (["train", "--nonsense"], ["train", "--fold", "x"], ["sweep", "--seed", "2..0"], ["nonsense"]):
    run(*words, code=2)
os.environ |= {"_MASKENS_COMPLETE": "complete_bash", "COMP_WORDS": "maskens train --recipe de", "COMP_CWORD": "3"}
run()
del os.environ["_MASKENS_COMPLETE"]
heavy("numpy")
run("folds", "--k", "7", code=2)
heavy()
for command in commands:
    run(*command.split(), code=2)
    assert "torch" not in sys.modules, command
"""
REFUSED = {
    "train --run nope": "there is no run in nope",
    "train --run new --data nope": "there is no data folder nope",
    "train --run new --recipe nope": "there is no recipe 'nope'",
    "train --run new --set tasks.*.epoch=1": "did you mean 'epochs'",
    "train --run new --task nope": "has no such task",
    "sweep --run new --recipe nope": "there is no recipe 'nope'",
    "sweep --run nope --recipe quick": "there is no run in nope",
    "distil --run new": "nothing is trained in new",
    "score --run new": "nothing is trained in new",
    "infer --run new": "nothing is trained in new",
    "infer --run begun": "8 of 8 models are not trained yet",
    "predict data/train/images --run begun": "8 of 8 models are not trained yet",
    "predict nope": "nope does not exist",
    "serve --run begun": "8 of 8 models are not trained yet",
    "export --run begun": "8 of 8 models are not trained yet",
    "recommend --data nope": "there is no data folder nope",
}


def test_what_answers_at_once_imports_nothing_heavy(data: Path) -> None:
    known = read_train(data)
    start_run(Path("new"), known, make_folds(known, 3, seed=1), 3, seed=1)
    tiny_run(Path("begun"), known, TINY)
    done = python("-c", RUN_ALL, *REFUSED, cwd=data.parent)
    assert done.returncode == 0, done.stderr
    for words in ("check-submission", "--max-queue", f"maskens {library_versions()['maskens']}", "\ndemo\n"):
        assert words in done.stdout
    for words in ("No such option: --nonsense", "'x' is not a fold", "2..0 runs backwards", "No such command"):
        assert words in done.stderr
    assert "The largest k that works is 3" in done.stderr
    messages = " ".join(done.stderr.split()).split("error: ")[-len(REFUSED) :]
    for message, part in zip(messages, REFUSED.values(), strict=True):
        assert part in message


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("train --recipe b", ["best", "best-gpu"]),
        ("train --run runs/", ["runs/default"]),
        ("compare r", ["runs/default"]),
        ("train --task m", ["male-age", "mask"]),
        ("score --tta flip", ["flip", "flip+light", "flip+scale"]),
        ("recipes show hea", ["heads"]),
    ],
)
def test_recipes_runs_tasks_and_views_are_completed(
    there: Path, monkeypatch: pytest.MonkeyPatch, typed: str, found: list[str]
) -> None:
    monkeypatch.setenv("_MASKENS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"maskens {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert sorted(maskens().out.split()) == found


def test_a_wrong_option_is_refused_with_the_usage_and_as_it_was_typed() -> None:
    refused(maskens("train", "--ford", "1"), "Usage: maskens train", "'maskens train --help'", "--ford", "--fold")
    refused(maskens("[red]:car:"), "Usage: maskens [OPTIONS]", "No such command '[red]:car:'")
    refused(maskens("train", "--fold", "[red]:car:"), "error: --fold [red]:car:: '[red]:car:' is not a fold")
    refused(maskens("compare", "a", "b", "--seed", "7"), "No such option: --seed")


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", "0.9 +- 0.1 \\ud55c\\uae00 \\udcff"), ("cp949", "0.9 ± 0.1 한글 \\udcff")]
)
def test_what_a_pipe_can_not_encode_is_replaced(encoding: str, printed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    print_anything()
    make_console().print("0.9 ± 0.1 한글 \udcff")
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
    listed = ran("recipes")
    for name in shipped():
        assert f" {name} " in listed.out
    shown = maskens("recipes", "show", "demo", "--set", "tasks.mask.epochs=77")
    (tmp_path / "mine.toml").write_text(shown.out)
    mine = load_recipe(str(tmp_path / "mine.toml"))
    assert mine.tasks["mask"].epochs == 77
    assert mine.tasks["gender"] == load_recipe("demo").tasks["gender"]
    refused(maskens("recipes", "show", "dmo"), "there is no recipe 'dmo' (did you mean 'demo'?)")


@pytest.mark.parametrize("command", ["folds", "score", "explore", "recipes", "verify", "train --restart --dry-run"])
def test_nothing_is_cut_off_at_80_columns(there: Path, tmp_path: Path, command: str) -> None:
    outcome = ran(*command.split(), *(["--out", tmp_path] if command == "explore" else []), columns=80)
    assert "…" not in outcome.out
