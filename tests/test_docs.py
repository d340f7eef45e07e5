"""What a reader of the docs copies has to work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from folds.labels import label_text
from folds.people import Lists
from folds.photo_list import read_labelled_lists

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_tables_of_recipes_are_toml_and_links_lead_somewhere(page: Path) -> None:
    for block in re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL):
        tomllib.loads(block)
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if not target.startswith(("http:", "https:", "#", "mailto:")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_modules_that_are_named_are_there(page: Path) -> None:
    for name in re.findall(r"`((?:ensemble|folds|tests)/[\w./]+)`", page.read_text()):
        assert (ROOT / name).exists(), name


def test_the_page_of_commands_is_current() -> None:
    words = ("-m", "typer", "cli.py", "utils", "docs", "--name", "maskens", "--title", "Commands")
    made = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert made.strip() == (ROOT / "docs" / "commands.md").read_text().strip(), "make docs/commands.md"


def test_the_notebook_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "quickstart.ipynb").read_text()
    for long, short in (("people=60", "people=12"), ("epochs = 11", "epochs = 1")):
        assert text.count(long) == 1
        text = text.replace(long, short)
    notebook = nbformat.reads(text, 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "default" / "submission.csv").is_file()
    kinds = [set(output.get("data", ())) for cell in notebook.cells[-3:] for output in cell.get("outputs", ())]
    assert sum("image/png" in kind for kind in kinds) == 2  # the confusion matrix and the wrong predictions


def test_lists_of_other_layouts_are_made_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos = (
        "masks/with_mask/1.jpg",
        "masks/without_mask/2.jpg",
        "faces/31_1_a.jpg",
        "faces/7_0_b.jpg",
        "faces/odd.jpg",
    )
    for name in (*photos, "ages/x/1.jpg", "ages/x/2.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "ages" / "labels.csv").write_text("file,age,gender\nx/1.jpg,3-9,Male\nx/2.jpg,more than 70,Female\n")
    page = (ROOT / "docs" / "data.md").read_text()
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(block, {})
    found = []
    for command in re.findall(r"maskens folds --extra (\S+.csv --[cl].*)", page):
        table, *words = shlex.split(command)
        given = dict(zip(words[::2], words[1::2], strict=True))
        columns, labels = ([given[name]] if name in given else [] for name in ("--columns", "--labels"))
        people = read_labelled_lists(Path(table), Lists(columns=tuple(columns), labels=tuple(labels)))
        found.append([(p.path, p.masks[0], p.gender, label_text("age", p.age)) for p in people])
    assert found == [
        [("with_mask/1.jpg", 0, -1, ""), ("without_mask/2.jpg", 2, -1, "")],
        [("31_1_a.jpg", 2, 1, "31"), ("7_0_b.jpg", 2, 0, "7")],
        [("x/1.jpg", -1, 0, "<30"), ("x/2.jpg", -1, 1, ">=60")],
    ]
