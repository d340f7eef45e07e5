"""Recipes as TOML: read by name or file, with --set and --weights, and kept in a run; files of views for --tta."""

from __future__ import annotations

import copy
import dataclasses
import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from ensemble.recipes.schema import ENTRIES, FOLD, Recipe, TaskRecipe, shipped
from ensemble.recipes.tasks import KINDS
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError, did_you_mean, expected, refuse, typed
from folds.files import sha256_of_file, write_text
from folds.run_folder import MODEL, OOF, RECIPE, Run, load_run, save_run

Tree = dict[str, Any]
Table = TypeVar("Table", bound=BaseModel)

DEEPEST = 8  # recipes that extend one another
DEEPEST_TABLE = 20  # tables and lists in one another


class _Layer(BaseModel):
    """A recipe's file before it is merged with the recipe that it extends."""

    model_config = ConfigDict(extra="allow")

    extends: str = ""
    without: tuple[str, ...] = ()
    defaults: Tree = {}
    tasks: dict[str, Tree] = {}


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # no UTF-8, or a name with zero bytes
        raise MaskensError(f"can't read {what}{path}: {getattr(error, 'strerror', None) or error}") from error


def load_recipe(name_or_file: str, changes: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by name, or the user's own TOML file, with `changes` as --set takes them:
    `tasks.gender.epochs=5`. Raises MaskensError: no such recipe (near names suggested), or every error of the recipe at
    once."""
    return parse_recipe(*_source(name_or_file), changes)


def parse_recipe(text: str, name: str, where: str = "", changes: Sequence[str] = ()) -> Recipe:
    """Validate a recipe's TOML.

    A table `[defaults]` holds what all tasks share; `extends = "NAME or FILE"` starts from another recipe, less the
    tasks that `without = [...]` names. Raises MaskensError: every error of the text, with key paths and near-miss
    suggestions."""
    where = where or f"recipe '{name}'"
    tree = _layers(text, where, depth=0)
    del tree["defaults"]
    for task, table in tree["tasks"].items():
        tree["tasks"][task] = copy.deepcopy(({"predicts": task} if task in KINDS else {}) | table)
    for change in changes:
        _set(tree, change)
    return _validated(Recipe, {"name": name} | tree, where)


def _validated(kind: type[Table], tree: Tree, where: str, above: Sequence[str] = ()) -> Table:
    try:
        return kind.model_validate(tree)
    except ValidationError as error:
        lines = [line for e in error.errors() for line in _readable(e, above)]
        # an error of every task, such as one in [defaults], takes one line
        tasks, shared = tree.get("tasks"), [re.sub(r"^tasks\.[\w-]+", "tasks.*", line) for line in lines]
        if isinstance(tasks, dict) and len(tasks) > 1:
            lines = [a if shared.count(a) == len(tasks) else line for line, a in zip(lines, shared, strict=True)]
        refuse(list(dict.fromkeys(lines)), f"{where} can't be used")
        raise


def _source(name_or_file: str) -> tuple[str, str, str]:
    """(text, name, where it is, for messages)."""
    known = shipped()
    if name_or_file in known:
        return known[name_or_file], name_or_file, f"recipe '{name_or_file}'"
    path = Path(name_or_file)
    if path.suffix == ".toml" or path.is_file():
        return _read(path, "the recipe "), path.stem, str(path)
    raise MaskensError(
        f"there is no recipe '{name_or_file}'{did_you_mean(name_or_file, known)}. "
        f"Shipped are {', '.join(known)}; a recipe of your own is a .toml file."
    )


def _layers(text: str, where: str, depth: int) -> Tree:
    """The tree of a text merged over that of the recipe it extends; its tasks include the defaults."""
    tree = _toml(text, where)
    layer = _validated(_Layer, tree, where)
    for table in [layer.defaults, *layer.tasks.values()]:
        weights = table.get("weights")
        beside = Path(where).parent / weights if isinstance(weights, str) and weights else None
        if beside and Path(str(beside).replace(FOLD, "0")).exists():  # not relative to where maskens is called
            table["weights"] = str(beside.resolve())
    below: Tree = {"defaults": {}, "tasks": {}}
    if layer.extends:
        if depth >= DEEPEST:
            raise MaskensError(f"{where}: extends: more than {DEEPEST} recipes extend one another")
        file = Path(where).parent / layer.extends
        base, _, base_where = _source(str(file) if file.is_file() else layer.extends)
        below = _layers(base, base_where, depth + 1)
    for task in layer.without:
        if task not in below["tasks"]:
            near, known = did_you_mean(task, below["tasks"]), ", ".join(below["tasks"]) or "none"
            raise MaskensError(f"{where}: without: the extended recipe has no task '{task}'{near}; it has {known}.")
        del below["tasks"][task]
    defaults = _merge(below["defaults"], layer.defaults)
    # what this recipe sets for all tasks overrides what the extended one sets for one
    tasks = {task: _merge(table, layer.defaults) for task, table in below["tasks"].items()}
    tasks |= {task: _merge(tasks.get(task, defaults), table) for task, table in layer.tasks.items()}
    return _merge(below, layer.model_extra or {}) | {"defaults": defaults, "tasks": tasks}


def _toml(text: str, where: str) -> Tree:
    """Parsed TOML. Raises MaskensError if it is invalid, or nested deeper than any recipe is."""
    try:
        level: list[Any] = [found := tomllib.loads(text)]
        for _ in range(DEEPEST_TABLE):
            inner = [v for node in level for v in (node.values() if isinstance(node, dict) else node)]
            if not (level := [v for v in inner if isinstance(v, dict | list)]):
                return found
        raise RecursionError
    except RecursionError:
        raise MaskensError(f"{where} is not valid TOML: it is nested more than {DEEPEST_TABLE} deep") from None
    except ValueError as error:
        raise MaskensError(f"{where} is not valid TOML: {error}") from error


def _merge(base: Tree, over: Tree) -> Tree:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _set(tree: Tree, change: str) -> None:
    """Apply one `tasks.gender.epochs=5`; `tasks.*` stands for every task.

    The value is TOML; what is not valid TOML is taken as text, so that names need no quotes.
    """
    key, equals, text = (part.strip() for part in change.partition("="))
    path, tasks = key.split("."), tree["tasks"]
    if not equals or not all(path):
        raise MaskensError(f"--set {change}: write KEY=VALUE, like tasks.gender.epochs=5.")
    try:
        value = _toml(f"v = {text}", f"--set {change}: the value")["v"]
    except MaskensError:
        if text.startswith(("{", "[", '"')):
            raise
        value = text
    if path[0] in ("defaults", "extends", "without"):
        raise MaskensError(f"--set {change}: '{path[0]}' belongs in a file. For all tasks write tasks.*.KEY=VALUE.")
    if path[0] == "tasks" and len(path) < 3:
        raise MaskensError(f"--set {change}: name a key of a task, like tasks.gender.epochs=5.")
    if path[0] == "tasks" and path[1] not in ("*", *tasks):
        near = did_you_mean(path[1], tasks)
        raise MaskensError(f"--set {change}: there is no task '{path[1]}'{near}; there are {', '.join(tasks)}.")
    for task in tasks if path[:2] == ["tasks", "*"] else [""]:
        _put(tree, ["tasks", task, *path[2:]] if task else path, copy.deepcopy(value), change)


def _put(node: Any, path: Sequence[str], value: Any, change: str) -> None:
    step, *deeper = path
    place: Any = int(step) if isinstance(node, list) and step.isdecimal() else step
    if not (isinstance(node, dict) or (isinstance(node, list) and place in range(len(node)))):
        raise MaskensError(f"--set {change}: there is no '{step}' to set.")
    if not deeper:
        node[place] = value
    else:
        _put(node.setdefault(place, {}) if isinstance(node, dict) else node[place], deeper, value, change)


def _readable(error: Any, above: Sequence[str]) -> list[str]:
    """`tasks.mask.optimizer.learning_rate: unknown key (did you mean 'lr'?)`, one or more, for one of pydantic's
    `ValidationError.errors()`; `above` is where in a recipe the table is that was validated."""
    path = [*above, *(str(p) for p in error["loc"])]
    where = ".".join(p for p in path if p not in ENTRIES and "[" not in p) or "recipe"  # pydantic names kinds, too
    if path and path[-1].startswith("literal["):
        return []  # the other kind that the value may be of is listed
    if error["type"] == "extra_forbidden":
        if where in TaskRecipe.model_fields:
            near = f" (did you mean tasks.*.{where}?)"
        elif where in KINDS:
            near = f" (did you mean tasks.{where}?)"
        else:
            near = did_you_mean(path[-1], _keys_at(path[:-1]))
        return [f"{where}: unknown key{near}"]
    if error["type"] == "missing":
        return [f"{where}: missing"]
    shown = f" (it is {given!r})" if isinstance(given := error.get("input"), (str, int, float, bool, list)) else ""
    lines = expected(error["msg"]).split("\n")
    between = ["." if re.match(r"[\w.+-]+: ", line) else ": " for line in lines]  # a line may begin with a key below
    return [f"{where}{sign}{line[0].lower()}{line[1:]}{shown}" for sign, line in zip(between, lines, strict=True)]


def _keys_at(path: Sequence[str]) -> list[str]:
    if len(path) < 2:
        return [*Recipe.model_fields, "extends", "without", "defaults"]
    model: type[BaseModel] = TtaSet if path[0] == "tta" else TaskRecipe
    for step in path[2:]:
        field = model.model_fields.get(step)
        kinds = [field.annotation, *get_args(field.annotation)] if field else [ENTRIES.get(step)]
        model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
    return [*model.model_fields]


def with_weights(recipe: Recipe, weights: Sequence[str], pretrained: bool) -> Recipe:
    """The recipe with initial weights from local files or runs (`FILE`, `RUN`, `TASK=FILE` or `TASK=RUN`), or with
    random ones, and then no stage is frozen.

    A run gives fold k the weights of its own fold k, so that no model starts from one that was trained on the people
    who score it. Without a task name, a run's weights go to all tasks that it has trained with the same model. Raises
    MaskensError: both are given, an unknown task, a missing file, or a run without the task, its model or a fold."""
    if weights and not pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    named: dict[str, str] = {}
    for item in weights:
        task, equals, file = item.partition("=")
        if not equals or Path(item).exists():
            task, file = "", item
        if task and task not in recipe.tasks:
            raise MaskensError(f"--weights {item}: there is no task '{task}'{did_you_mean(task, recipe.tasks)}.")
        names, path = [task] if task else [*recipe.tasks], Path(file).resolve()
        if not task and path.is_dir():
            unlike = {name: _unlike(name, recipe.tasks[name], path) for name in names}
            names = [name for name in names if not unlike[name] and any(path.glob(f"{name}/fold*/{OOF}"))]
            if not names:
                why = "; ".join(dict.fromkeys(filter(None, unlike.values()))) or "it has trained no task"
                raise MaskensError(f"--weights {item}: {why}.")
        named |= dict.fromkeys(names, str(path))
    tasks = {}
    for name, known in recipe.tasks.items():
        if name in named or not pretrained:
            start = {"pretrained": pretrained, "weights": named.get(name, ""), "weights_sha256": ""}
            start |= {} if pretrained else {"frozen_stages": 0}  # random stages have to be trained
            known = known.model_copy(update=start)
        tasks[name] = _hashed(name, known)
    return recipe.model_copy(update={"tasks": tasks})


def _hashed(name: str, task: TaskRecipe) -> TaskRecipe:
    """The task with the hash of its weights' file, or with those of each fold's."""
    if not task.weights or task.weights_sha256:
        return task
    weights = task.weights
    try:
        if Path(weights).is_dir():
            weights = _files_of_run(Path(weights), name, task)
        hashes = [sha256_of_file(Path(weights.replace(FOLD, "0")))]
        while FOLD in weights and (file := Path(weights.replace(FOLD, str(len(hashes))))).exists():
            hashes.append(sha256_of_file(file))
    except (OSError, ValueError) as error:  # a name with zero bytes
        raise MaskensError(f"can't read the weights {weights}: {getattr(error, 'strerror', None) or error}.") from error
    return task.model_copy(update={"weights": weights, "weights_sha256": ",".join(hashes)})


def _files_of_run(run: Path, name: str, task: TaskRecipe) -> str:
    """The path of each fold's model in a run that has finished a task, with {fold} in it."""
    if why := _unlike(name, task, run):
        raise MaskensError(f"tasks.{name}.weights {run}: {why}.")
    missing = [k for k in range(load_run(run).k) if not (run / name / f"fold{k}" / OOF).exists()]
    if missing:
        raise MaskensError(
            f"tasks.{name}.weights {run}: it has not finished fold {', '.join(map(str, missing))} of {name}. Train it "
            f"first: maskens train --run {typed(run)} --task {name}"
        )
    return str(run / name / f"fold{FOLD}" / MODEL)


def _unlike(name: str, task: TaskRecipe, run: Path) -> str:
    """Why a task can't start from the models of a run; "" if it can."""
    if not (run / RECIPE).exists():
        return "it is a folder, but not that of a trained run. Name a file or such a run"
    theirs = load_recipe(str(run / RECIPE)).tasks
    if name not in theirs:
        return f"it has no task '{name}', but {', '.join(theirs)}"
    model = theirs[name].model
    same = model.partition(".")[0] == task.model.partition(".")[0]
    return "" if same else f"its model of '{name}' is {model}, and here it is {task.model}"


def run_recipe(run: Run) -> Recipe:
    """The recipe that a run was trained with. Raises MaskensError: nothing was trained yet, or recipe.toml was edited
    since."""
    if not run.recipe_hash:
        raise MaskensError(f"nothing is trained in {run.folder} yet. First: maskens train --run {typed(run.folder)}")
    recipe = _parsed(_read(run.recipe_file, ""), str(run.recipe_file))
    if recipe.hash != run.recipe_hash:
        raise MaskensError(
            f"{run.recipe_file} was edited after training began. Put it back, or give it to a new run: "
            f"maskens train --run NEW_DIR --recipe {typed(run.recipe_file)}"
        )
    return recipe


@functools.cache
def _parsed(text: str, where: str) -> Recipe:
    """The recipe of a run, cached: one command reads it several times."""
    return parse_recipe(text, "recipe", where)


def resolve_recipe(
    run: Run,
    named: str | None = None,
    changes: Sequence[str] = (),
    weights: Sequence[str] = (),
    pretrained: bool = True,
    like: Run | None = None,
) -> Recipe:
    """The recipe to train with: the run's own, or the one named if the run has none or no job yet. Where the run has no
    recipe, `changed_recipe` starts from that of the run `like`. Raises MaskensError: unknown or invalid recipe, or
    another one than the run's models were trained with."""
    before = run_recipe(run) if run.recipe_hash else None
    start = before or (run_recipe(like) if like else None)
    recipe = changed_recipe(start, named, changes, weights, pretrained)
    if before is not None and not same_jobs(before, recipe) and run.jobs_on_disk():
        refuse(
            differences(before, recipe)[:8],
            f"{run.folder} has models of the recipe '{before.name}', and this one differs",
            "Resume with the run's own recipe, without --recipe, --set and the weights' options, or start another run "
            "with --run DIR.",
        )
    return recipe


def changed_recipe(
    start: Recipe | None, named: str | None, changes: Sequence[str], weights: Sequence[str], pretrained: bool
) -> Recipe:
    """The recipe named, else `start`, else `original`; with changes as typed after --set. The local weights of `start`
    are kept where none are named; `weights` and `pretrained` are those of `with_weights`. Raises MaskensError: unknown
    or invalid recipe."""
    if start is not None and named is None:
        recipe = parse_recipe(start.text, start.name, changes=changes) if changes else start
    else:
        recipe = load_recipe(named or "original", changes)
        for name, old in start.tasks.items() if start and pretrained and not weights else ():
            task = recipe.tasks.get(name)
            if task and old.weights and task.pretrained and not task.weights and task.model == old.model:
                kept = task.model_copy(update={"weights": old.weights, "weights_sha256": old.weights_sha256})
                recipe = recipe.model_copy(update={"tasks": recipe.tasks | {name: kept}})
    return with_weights(recipe, weights, pretrained)


def same_jobs(a: Recipe, b: Recipe) -> bool:
    """Whether both recipes train the same models and keep the same out-of-fold views."""
    return (a.hash, a.oof_views) == (b.hash, b.oof_views)


def bind_recipe(run: Run, recipe: Recipe) -> Run:
    """Write recipe.toml and its hash into the run, if they are not there yet."""
    if run.recipe_hash == recipe.hash and run_recipe(run).text == recipe.text:
        return run
    write_text(run.recipe_file, recipe.text)
    bound = dataclasses.replace(run, recipe_hash=recipe.hash)
    save_run(bound)
    return bound


def differences(a: Recipe, b: Recipe) -> list[str]:
    """Key paths whose values differ, `tasks.mask.epochs: 3, now 5`; only the tasks' names if those differ."""
    if a.tasks.keys() != b.tasks.keys():
        return [f"tasks: {', '.join(a.tasks)}, now {', '.join(b.tasks)}"]
    left, right = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = [key for key in dict.fromkeys([*left, *right]) if key not in ("name", "description")]
    return [f"{k}: {left.get(k)!r}, now {right.get(k)!r}" for k in keys if left.get(k) != right.get(k)]


def flat(value: object, path: str = "") -> dict[str, object]:
    """`{"loss": {"ce": 1}}` -> `{"loss.ce": 1}`"""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".strip(".")).items()}
    return {path: value}


def find_set(tta: Tta, known: Mapping[Tta, TtaSet]) -> tuple[Tta, TtaSet]:
    """(name, set) of what --tta names: a name in `known`, or a TOML file with the keys of a recipe's table [tta.NAME],
    whose name is its path. Raises MaskensError: there is no such set, or every error of a file."""
    if tta in known:
        return tta, known[tta]
    path = Path(tta)
    if not (path.suffix == ".toml" or path.is_file()):
        raise MaskensError(
            f"--tta {tta}: no such set of views{did_you_mean(tta, known)}. Known: {', '.join(known)}. Your own is a "
            "table [tta.NAME] of the recipe, or a .toml file with views = [...]."
        )
    return tta, _validated(TtaSet, _toml(_read(path, "the views "), str(path)), str(path), ("tta", path.stem))
