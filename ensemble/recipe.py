"""Recipes: what is trained and how, as data. TOML in, one frozen object out, all errors at once."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.tasks import KINDS, Predicts, undetermined
from folds.errors import MaskensError, did_you_mean, refuse
from folds.files import sha256

Size = tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]]
Scalar = bool | int | float | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Transform(_Strict):
    """One albumentations transform by name and arguments."""

    name: str
    args: dict[str, Any] = {}


class Loss(_Strict):
    """Weights of the loss terms; each task's loss is their weighted sum over its heads."""

    ce: float = Field(1.0, ge=0)
    f1: float = Field(0.0, ge=0)

    @model_validator(mode="after")
    def _not_nothing(self) -> Loss:
        if self.ce + self.f1 == 0:
            raise ValueError("every weight is 0: nothing would be learned")
        return self


class Optimizer(_Strict):
    """A timm optimizer by name. `decay_all` also decays biases and norm weights, as plain torch does."""

    name: str = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    decay_all: bool = False
    args: dict[str, Any] = {}


class Schedule(_Strict):
    """Learning rate over time. `cosine` is timm's, per update; `cosine_warm_restarts` torch's, per epoch."""

    name: Literal["constant", "cosine", "cosine_warm_restarts"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    lr_min: float = Field(0.0, ge=0)
    T_0: int = Field(10, ge=1)
    T_mult: int = Field(1, ge=1)
    eta_min: float = Field(0.0, ge=0)


class TaskRecipe(_Strict):
    """How the models of one task are built and trained. Sizes are (height, width) in pixels."""

    predicts: Predicts
    model: str
    model_args: dict[str, Scalar] = {}
    pretrained: bool = True
    weights: str = ""  # a local file in place of the hub
    weights_sha256: str = ""  # of that file; filled in when it is first read
    resize: Size = (512, 384)
    crop: Size | None = None
    augment: tuple[Transform, ...] = ()
    batch_size: int = Field(32, ge=2, le=4096)
    epochs: int = Field(3, ge=1, le=10_000)
    loss: Loss = Loss()  # type: ignore[call-arg]
    optimizer: Optimizer = Optimizer()  # type: ignore[call-arg]
    schedule: Schedule = Schedule()  # type: ignore[call-arg]

    @model_validator(mode="after")
    def _crop_fits(self) -> TaskRecipe:
        if self.crop and (self.crop[0] > self.resize[0] or self.crop[1] > self.resize[1]):
            raise ValueError(f"crop {list(self.crop)} is larger than the photo after resize {list(self.resize)}")
        return self

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        return self.crop or self.resize


class Recipe(_Strict):
    """The tasks of a run."""

    name: str
    description: str = ""
    tasks: dict[str, TaskRecipe]

    @property
    def text(self) -> str:
        """The recipe as TOML with every value written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def hash(self) -> str:
        """sha256 of the recipe less where its weights lie: what they are counts, and their hash is there."""
        here = {name: task.model_copy(update={"weights": ""}) for name, task in self.tasks.items()}
        return sha256(self.model_copy(update={"tasks": here}).text)


def shipped() -> dict[str, str]:
    """Name -> TOML text of the recipes that come with maskens."""
    folder = resources.files("ensemble") / "recipes"
    return {
        f.name[:-5]: f.read_text("utf-8")
        for f in sorted(folder.iterdir(), key=lambda f: f.name)
        if f.name.endswith(".toml")
    }


def load_recipe(name_or_file: str) -> Recipe:
    """A shipped recipe by name, or the user's own TOML file.

    Raises:
        MaskensError: no such recipe (near names suggested), or every error of the file at once.
    """
    known = shipped()
    if name_or_file in known:
        return parse_recipe(known[name_or_file], name_or_file)
    path = Path(name_or_file)
    if path.suffix == ".toml" or path.is_file():
        try:
            return parse_recipe(path.read_text(encoding="utf-8"), path.stem, where=str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise MaskensError(f"can't read the recipe {path}: {getattr(error, 'strerror', None) or error}") from error
    raise MaskensError(
        f"there is no recipe '{name_or_file}'{did_you_mean(name_or_file, known)}. "
        f"Shipped are {', '.join(known)}; a recipe of your own is a .toml file."
    )


def parse_recipe(text: str, name: str, where: str = "") -> Recipe:
    """Validate a recipe's TOML. A table `[defaults]` holds what all tasks share.

    Raises:
        MaskensError: every error of the text, with key paths and near-miss suggestions.
    """
    where = where or f"recipe '{name}'"
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise MaskensError(f"{where} is not valid TOML: {error}") from error
    defaults = raw.pop("defaults", {})
    tasks = raw.get("tasks")
    if not isinstance(tasks, dict) or not tasks or not isinstance(defaults, dict):
        raise MaskensError(f"{where} names no tasks: it needs tables like [tasks.mask].")
    problems = []
    for task, table in tasks.items():
        if not isinstance(table, dict):
            problems.append(f"tasks.{task}: not a table")
            continue
        merged = _merge(defaults, table)
        if "predicts" not in merged and task in KINDS:
            merged["predicts"] = task
        tasks[task] = merged
        if task == "." or not all(c.isalnum() or c in "-_" for c in task):
            problems.append(f"tasks.{task}: a task's name may have letters, digits, - and _")
    refuse(problems, f"{where} can't be used")
    try:
        recipe = Recipe.model_validate({"name": name} | raw)
    except ValidationError as error:
        refuse([_readable(e) for e in error.errors()], f"{where} can't be used")
        raise
    gaps = undetermined([t.predicts for t in recipe.tasks.values()])
    if gaps:
        raise MaskensError(f"{where}: its tasks don't determine all 18 classes; nothing predicts {', '.join(gaps)}.")
    return recipe


def with_weights(recipe: Recipe, weights: list[str], no_pretrained: bool) -> Recipe:
    """The recipe with its initial weights from local files (`FILE` for all tasks or `TASK=FILE`) or none.

    Raises:
        MaskensError: both asked for, an unknown task or a missing file.
    """
    if weights and no_pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    changes: dict[str, dict[str, object]] = {name: {} for name in recipe.tasks}
    if no_pretrained:
        changes = {name: {"pretrained": False, "weights": "", "weights_sha256": ""} for name in recipe.tasks}
    for item in weights:
        task, separator, file = item.partition("=")
        if not separator or Path(item).is_file():
            task, file = "", item
        if task and task not in recipe.tasks:
            raise MaskensError(f"--weights {item}: there is no task '{task}'{did_you_mean(task, recipe.tasks)}.")
        for name in [task] if task else recipe.tasks:
            changes[name] = {"pretrained": True, "weights": str(Path(file).resolve()), "weights_sha256": ""}
    tasks = {name: _known_weights(task.model_copy(update=changes[name])) for name, task in recipe.tasks.items()}
    return recipe.model_copy(update={"tasks": tasks})


def _known_weights(task: TaskRecipe) -> TaskRecipe:
    """The task with the hash of its weights' file."""
    if not task.weights or task.weights_sha256:
        return task
    try:
        return task.model_copy(update={"weights_sha256": sha256(Path(task.weights).read_bytes())})
    except OSError as error:
        raise MaskensError(f"can't read the weights {task.weights}: {error.strerror}.") from error


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _merge(old, value) if both and isinstance(old, dict) else value
    return merged


def _readable(error: Any) -> str:
    """`tasks.mask.optimizer.learning_rate: unknown key (did you mean 'lr'?)`"""
    path = [str(p) for p in error["loc"]]
    where = ".".join(path) or "recipe"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key{did_you_mean(path[-1], _keys_at(path[:-1]))}"
    if error["type"] == "missing":
        return f"{where}: missing"
    message = error["msg"].removeprefix("Value error, ")
    given = error.get("input")
    shown = f" (it is {given!r})" if isinstance(given, (str, int, float, bool, list)) else ""
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _keys_at(path: list[str]) -> list[str]:
    """The keys that are allowed at a place in a recipe."""
    sections: dict[str, type[BaseModel]] = {"loss": Loss, "optimizer": Optimizer, "schedule": Schedule}
    if not path:
        model: type[BaseModel] = Recipe
    elif path[-1].isdecimal():
        model = Transform
    else:
        model = TaskRecipe if len(path) == 2 else sections.get(path[-1], TaskRecipe)
    return list(model.model_fields)
