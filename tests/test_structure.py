"""The subpackages: imports go one way, and what needs no torch does not load it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_command import python

import cli

ROOT = Path(cli.__file__).parent
LEVELS = (
    ("recipes",),
    ("jobs", "metrics"),
    ("decision", "backends", "data", "models"),
    ("evaluation", "prediction", "training"),
    ("reporting", "serving"),
    ("commands",),
)
PACKAGES = [package for level in LEVELS for package in level]
MODULES = sorted((ROOT / "ensemble").rglob("*.py")) + sorted((ROOT / "folds").rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_every_package_is_named_here() -> None:
    assert {p.parent.name for p in (ROOT / "ensemble").glob("*/__init__.py")} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_packages_of_levels_below(package: str) -> None:
    level = next(i for i, packages in enumerate(LEVELS) if package in packages)
    allowed = {package, *(name for packages in LEVELS[:level] for name in packages)}
    wrong = [
        f"{path.name} imports {name}"
        for path in (ROOT / "ensemble" / package).glob("*.py")
        for name in _imports(path)
        if name == "cli" or (name.startswith("ensemble.") and name.split(".")[1] not in allowed)
    ]
    assert not wrong


def test_folds_imports_neither_torch_nor_ensemble() -> None:
    heavy = ("torch", "timm", "ensemble", "albumentations", "ttach", "cli")
    wrong = [
        f"{path.name} imports {name}"
        for path in (ROOT / "folds").rglob("*.py")
        for name in _imports(path)
        if name.split(".")[0] in heavy
    ]
    assert not wrong


LIGHT = ("recipes", "jobs", "metrics", "decision", "evaluation")


def test_scores_and_decisions_need_no_torch() -> None:
    """Nor what they import: all are imported in one process."""
    code = "import sys"
    for package in LIGHT:
        modules = [
            f"ensemble.{package}.{p.stem}" for p in (ROOT / "ensemble" / package).glob("*.py") if p.stem != "__init__"
        ]
        code += f"\nimport {', '.join(modules)}\nprint({{'torch', 'timm', 'albumentations'}} & sys.modules.keys())"
    found = python("-c", code)
    assert found.returncode == 0, found.stderr
    assert dict(zip(LIGHT, found.stdout.splitlines(), strict=True)) == dict.fromkeys(LIGHT, "set()")


def test_no_module_imports_one_that_imports_it() -> None:
    names = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in MODULES}
    imports = {name: {other for other in _imports(path) if other in names} for name, path in names.items()}
    while leaves := [name for name, others in imports.items() if not others & imports.keys()]:
        for name in leaves:
            del imports[name]
    assert not imports, "each of these is in a cycle or imports one that is"


def test_a_module_says_what_it_holds() -> None:
    assert [path for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))] == []
