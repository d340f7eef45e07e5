"""Reading recipes: TOML by name or file, what it extends, changes from the command line, all errors at once."""

from __future__ import annotations

import copy
import re
import tomllib
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from ensemble.recipes.augmentation import ENTRIES, Transform, transforms_in
from ensemble.recipes.schema import FOLD, Recipe, TaskRecipe
from ensemble.recipes.tasks import KINDS, undetermined
from ensemble.recipes.views import TtaSet
from folds.errors import MaskensError, did_you_mean, refuse, typed
from folds.files import sha256_of_file
from folds.run_folder import MODEL, OOF, RECIPE, load_run

Tree = dict[str, Any]
BuildTransform = Callable[[Transform], object]
"""Raises ValueError for a transform that is unknown or takes other arguments."""

DEEPEST = 8  # recipes that extend one another
DEEPEST_TABLE = 20  # tables and lists in one another


def shipped() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with maskens."""
    folder = resources.files("ensemble.recipes")
    return {
        f.name[:-5]: f.read_text("utf-8")
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".toml")
    }


def load_recipe(
    name_or_file: str, changes: Sequence[str] = (), build_transform: BuildTransform | None = None
) -> Recipe:
    """A shipped recipe by name, or the user's own TOML file.

    Args:
        changes: `tasks.gender.epochs=5`, as --set takes them.
        build_transform: also try this on every transform: `ensemble.data.augment.build`, which imports albumentations.

    Raises:
        MaskensError: no such recipe (near names suggested), or every error of the recipe at once.
    """
    text, name, where = _source(name_or_file)
    return _parsed(text, name, where, changes, build_transform)


def parse_recipe(text: str, name: str, where: str = "", changes: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's TOML.

    A table `[defaults]` holds what all tasks share; `extends = "NAME or FILE"` starts from another recipe,
    less the tasks that `without = [...]` names.

    Raises:
        MaskensError: every error of the text, with key paths and near-miss suggestions.
    """
    return _parsed(text, name, where or f"recipe '{name}'", changes, None)


def _parsed(text: str, name: str, where: str, changes: Sequence[str], build_transform: BuildTransform | None) -> Recipe:
    tree = _whole(_layers(text, where, depth=0), where)
    for change in changes:
        _set(tree, change)
    try:
        recipe, problems = Recipe.model_validate({"name": name} | tree), []
    except ValidationError as error:
        recipe, problems = None, [readable_error(e) for e in error.errors()]
    tables = tree["tasks"]
    kinds = [kind for kind in KINDS if any(table.get("predicts") == kind for table in tables.values())]
    if all(table.get("predicts") in KINDS for table in tables.values()):
        problems += [f"tasks: they don't determine all 18 classes; nothing predicts {g}" for g in undetermined(kinds)]
    if build_transform:
        problems += _transform_problems(tables, build_transform)
    refuse(_told_once(problems, list(tables)), f"{where} can't be used")
    assert recipe is not None
    return recipe


def _told_once(problems: Sequence[str], tasks: Sequence[str]) -> list[str]:
    """Problems that every task has, as one of `[defaults]` is, in one line each."""
    if len(tasks) == 1:
        return list(problems)
    starts = {f"tasks.{task}." for task in tasks}
    of_all: dict[str, None] = {}
    for problem in problems:
        start = next((s for s in starts if problem.startswith(s)), None)
        rest = problem.removeprefix(start) if start else ""
        everywhere = start and all(f"{s}{rest}" in problems for s in starts)
        of_all[f"tasks.*.{rest}" if everywhere else problem] = None
    return list(of_all)


def _source(name_or_file: str) -> tuple[str, str, str]:
    """(text, name, where it is, for messages)."""
    known = shipped()
    if name_or_file in known:
        return known[name_or_file], name_or_file, f"recipe '{name_or_file}'"
    path = Path(name_or_file)
    if path.suffix == ".toml" or path.is_file():
        try:
            return path.read_text(encoding="utf-8"), path.stem, str(path)
        except (OSError, ValueError) as error:  # no UTF-8, or a name with zero bytes
            raise MaskensError(f"can't read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
    raise MaskensError(
        f"there is no recipe '{name_or_file}'{did_you_mean(name_or_file, known)}. "
        f"Shipped are {', '.join(known)}; a recipe of your own is a .toml file."
    )


def _layers(text: str, where: str, depth: int) -> Tree:
    """The tree of a text merged over that of the recipe it extends."""
    try:
        tree = _toml(text)
    except ValueError as error:
        raise MaskensError(f"{where} is not valid TOML: {error}") from error
    _refuse_shapeless(tree, where)
    _weights_beside(tree, Path(where).parent)
    base, without = tree.pop("extends", None), tree.pop("without", [])
    if base is None:
        if without:
            raise MaskensError(f"{where}: 'without' leaves out tasks of a recipe that 'extends' names; there is none.")
        return tree
    if depth >= DEEPEST:
        raise MaskensError(f"{where}: extends: more than {DEEPEST} recipes extend one another")
    beside = Path(where).parent / base
    below_text, _, below_where = _source(str(beside) if beside.is_file() else base)
    below = _layers(below_text, below_where, depth + 1)
    tasks = below.setdefault("tasks", {})
    for task in without:
        if task not in tasks:
            near = did_you_mean(task, tasks)
            raise MaskensError(f"{where}: without: '{base}' has no task '{task}'{near}; it has {', '.join(tasks)}.")
        del tasks[task]
    for task, table in tasks.items():  # what this recipe says of all tasks beats what the other says of one
        tasks[task] = _merge(_merge(below.get("defaults", {}), table), tree.get("defaults", {}))
    return _merge(below, tree)


def _toml(text: str) -> Tree:
    """Parsed TOML. Raises ValueError if it is invalid, or nested deeper than any recipe is."""
    fault = f"it is nested more than {DEEPEST_TABLE} deep"
    try:
        level: list[Any] = [found := tomllib.loads(text)]
    except RecursionError:
        raise ValueError(fault) from None
    for _ in range(DEEPEST_TABLE):
        inner = [v for node in level for v in (node.values() if isinstance(node, dict) else node)]
        if not (level := [v for v in inner if isinstance(v, dict | list)]):
            return found
    raise ValueError(fault)


def _refuse_shapeless(tree: Tree, where: str) -> None:
    """Refuse what has the wrong shape to be merged."""
    without = tree.get("without", [])
    tables: Tree = {key: tree[key] for key in ("defaults", "tasks") if key in tree}
    if isinstance(tree.get("tasks"), dict):
        tables |= {f"tasks.{name}": table for name, table in tree["tasks"].items()}
    problems = [f"{key}: not a table" for key, value in tables.items() if not isinstance(value, dict)]
    if not isinstance(tree.get("extends", ""), str):
        problems.append("extends: needs a name or a file")
    if not isinstance(without, list) or not all(isinstance(task, str) for task in without):
        problems.append('without: needs names of tasks, like ["mask"]')
    refuse(problems, f"{where} can't be used")


def _weights_beside(tree: Tree, folder: Path) -> None:
    """Make the path of weights, a file or a run, that lie beside the recipe independent of where maskens is called."""
    for table in [tree.get("defaults", {}), *tree.get("tasks", {}).values()]:
        weights = table.get("weights")
        if isinstance(weights, str) and weights and (folder / weights.replace(FOLD, "0")).exists():
            table["weights"] = str((folder / weights).resolve())


def _whole(tree: Tree, where: str) -> Tree:
    """The tree with its [defaults] poured into each task.

    Raises:
        MaskensError: no tasks, or tasks that are no tables.
    """
    defaults, tasks = tree.pop("defaults", {}), tree.get("tasks")
    if not tasks:
        raise MaskensError(f"{where} names no tasks: it needs tables like [tasks.mask].")
    problems = []
    for task, table in tasks.items():
        tasks[task] = copy.deepcopy(_merge(defaults, table))
        if "predicts" not in tasks[task] and task in KINDS:
            tasks[task]["predicts"] = task
        if not re.fullmatch(r"[\w-]{1,64}", task):
            problems.append(f"tasks.{task}: a task's name has 1 to 64 letters, digits, - and _")
    refuse(problems, f"{where} can't be used")
    return tree


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both and isinstance(old, dict) else value
    return merged


def _set(tree: Tree, change: str) -> None:
    """Carry out one `tasks.gender.epochs=5`; `tasks.*` stands for every task.

    The value is TOML; what is not valid TOML is taken as text, so that names need no quotes.
    """
    key, equals, text = change.partition("=")
    path = key.strip().split(".")
    if not equals or not all(path):
        raise MaskensError(f"--set {change}: write KEY=VALUE, like tasks.gender.epochs=5.")
    try:
        value = _toml(f"v = {text.strip()}")["v"]
    except ValueError as error:
        if text.strip().startswith(("{", "[", '"')):
            raise MaskensError(f"--set {change}: the value is not valid TOML: {error}") from error
        value = text.strip()
    if path[0] in ("defaults", "extends", "without"):
        raise MaskensError(f"--set {change}: '{path[0]}' belongs in a file. For all tasks write tasks.*.KEY=VALUE.")
    if path[0] == "tasks" and len(path) > 2:
        if path[1] != "*" and path[1] not in tree["tasks"]:
            known = tree["tasks"]
            near = did_you_mean(path[1], known)
            raise MaskensError(f"--set {change}: there is no task '{path[1]}'{near}; there are {', '.join(known)}.")
        for task in tree["tasks"] if path[1] == "*" else [path[1]]:
            _put(tree["tasks"][task], path[2:], copy.deepcopy(value), change)
    elif path[0] == "tasks":
        raise MaskensError(f"--set {change}: name a key of a task, like tasks.gender.epochs=5.")
    else:
        _put(tree, path, value, change)


def _put(node: Any, path: Sequence[str], value: Any, change: str) -> None:
    *above, last = path
    for step in above:
        if isinstance(node, list) and step.isdecimal() and int(step) < len(node):
            node = node[int(step)]
        elif isinstance(node, dict):
            node = node.setdefault(step, {})
        else:
            raise MaskensError(f"--set {change}: there is no '{step}' to set anything in.")
    if isinstance(node, list) and last.isdecimal() and int(last) < len(node):
        node[int(last)] = value
    elif isinstance(node, dict):
        node[last] = value
    else:
        raise MaskensError(f"--set {change}: there is no '{last}' to set.")


def _transform_problems(tables: dict[str, Tree], build: BuildTransform) -> list[str]:
    problems = []
    for task, table in tables.items():
        augment = table.get("augment", [])
        for path, entry in transforms_in(augment if isinstance(augment, list) else []):
            try:
                transform = Transform.model_validate(entry)
            except ValidationError:
                continue  # said already
            try:
                build(transform)
            except ValueError as error:
                problems.append(f"tasks.{task}.augment.{path}: {error}")
    return problems


def readable_error(error: Any, above: Sequence[str] = ()) -> str:
    """`tasks.mask.optimizer.learning_rate: unknown key (did you mean 'lr'?)`

    Args:
        error: one of pydantic's `ValidationError.errors()`.
        above: where in a recipe the model is that was validated.
    """
    path = [*above, *(str(p) for p in error["loc"])]
    where = ".".join(p for p in path if p not in ENTRIES) or "recipe"
    if error["type"] == "extra_forbidden":
        task = "tasks.*." * (where in TaskRecipe.model_fields) or "tasks." * (where in KINDS)
        near = f" (did you mean {task}{where}?)" if task else did_you_mean(path[-1], _keys_at(path[:-1]))
        return f"{where}: unknown key{near}"
    if error["type"] == "missing":
        return f"{where}: missing"
    message = error["msg"].removeprefix("Value error, ")
    shown = f" (it is {given!r})" if isinstance(given := error.get("input"), (str, int, float, bool, list)) else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(path: Sequence[str]) -> list[str]:
    """The keys that are allowed at a place in a recipe."""
    model: type[BaseModel] = Recipe
    if len(path) >= 2 and path[0] == "tta":
        model = TtaSet
    elif len(path) >= 2:
        model = TaskRecipe
        for step in path[2:]:
            field = model.model_fields.get(step)
            kinds = [field.annotation, *get_args(field.annotation)] if field else [ENTRIES.get(step)]
            model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return [*model.model_fields, *(("extends", "without", "defaults") if model is Recipe else ())]


def with_weights(recipe: Recipe, weights: Sequence[str], pretrained: bool) -> Recipe:
    """The recipe with its initial weights from local files or runs (`FILE`, `RUN`, `TASK=FILE` or `TASK=RUN`) or none.

    A run gives fold k the weights of its own fold k, so that no model starts from one that has seen the people whom it
    is scored on. Without a task it is for all that it has trained with the same model.

    Raises:
        MaskensError: both asked for, an unknown task, a missing file, or a run without the task, its model or a fold.
    """
    if weights and not pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    changes: dict[str, dict[str, object]] = {name: {} for name in recipe.tasks}
    if not pretrained:
        changes = {name: {"pretrained": False, "weights": "", "weights_sha256": ""} for name in recipe.tasks}
    for item in weights:
        task, separator, file = item.partition("=")
        if not separator or Path(item).exists():
            task, file = "", item
        if task and task not in recipe.tasks:
            raise MaskensError(f"--weights {item}: there is no task '{task}'{did_you_mean(task, recipe.tasks)}.")
        names, path = [task] if task else [*recipe.tasks], Path(file).resolve()
        if not task and path.is_dir():
            theirs = _trained_recipe(path)
            begun = [name for name in names if any(path.glob(f"{name}/fold*/{OOF}"))]
            names = [name for name in begun if not _unlike(name, recipe.tasks[name], theirs)]
            if not names:
                why = "; ".join(_unlike(name, recipe.tasks[name], theirs) for name in begun)
                raise MaskensError(f"--weights {item}: {why or f'it has trained no task of {recipe.name}'}.")
        for name in names:
            changes[name] = {"pretrained": True, "weights": str(path), "weights_sha256": ""}
    tasks = {name: _known_weights(name, task.model_copy(update=changes[name])) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"tasks": tasks})


def _known_weights(name: str, task: TaskRecipe) -> TaskRecipe:
    """The task with the hash of its weights' file, or with those of each fold's."""
    if not task.weights or task.weights_sha256:
        return task
    weights = task.weights
    try:
        if Path(weights).is_dir():
            weights = _files_of_run(Path(weights), name, task)
        if FOLD not in weights:
            return task.model_copy(update={"weights_sha256": sha256_of_file(Path(weights))})
        hashes: list[str] = []
        while not hashes or Path(weights.replace(FOLD, str(len(hashes)))).exists():
            hashes.append(sha256_of_file(Path(weights.replace(FOLD, str(len(hashes))))))
        return task.model_copy(update={"weights": weights, "weights_sha256": ",".join(hashes)})
    except (OSError, ValueError) as error:  # a name with zero bytes
        raise MaskensError(f"can't read the weights {weights}: {getattr(error, 'strerror', None) or error}.") from error


def _files_of_run(run: Path, name: str, task: TaskRecipe) -> str:
    """The path of each fold's model in a run that has finished a task, with {fold} in it."""
    theirs = _trained_recipe(run)
    if why := _unlike(name, task, theirs):
        raise MaskensError(f"tasks.{name}.weights {run}: {why}.")
    missing = [k for k in range(load_run(run).k) if not (run / name / f"fold{k}" / OOF).exists()]
    if missing:
        raise MaskensError(
            f"tasks.{name}.weights {run}: it has not finished fold {', '.join(map(str, missing))} of {name}. Train it "
            f"first: maskens train --run {typed(run)} --task {name}"
        )
    return str(run / name / f"fold{FOLD}" / MODEL)


def _trained_recipe(run: Path) -> Recipe:
    if not (run / RECIPE).exists():
        raise MaskensError(f"the weights {run} are a folder, but not that of a trained run. Name a file or such a run.")
    return load_recipe(str(run / RECIPE))


def _unlike(name: str, task: TaskRecipe, theirs: Recipe) -> str:
    """Why a task can't start from the models of another recipe, "" if it can."""
    if name not in theirs.tasks:
        return f"it has no task '{name}', but {', '.join(theirs.tasks)}"
    model = theirs.tasks[name].model
    same = model.partition(".")[0] == task.model.partition(".")[0]
    return "" if same else f"its model of '{name}' is {model}, and here it is {task.model}"
