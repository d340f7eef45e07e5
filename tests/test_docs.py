"""What a reader of the docs copies has to work."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

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
    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "default" / "submission.csv").is_file()
    kinds = [set(output.get("data", ())) for cell in notebook.cells[-3:] for output in cell.get("outputs", ())]
    assert sum("image/png" in kind for kind in kinds) == 2  # the confusion matrix and the wrong predictions
