"""The recipe of a run and the views that --tta names: choosing them, writing them down, reading them back."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from ensemble.recipes.reading import BuildTransform, load_recipe, parse_recipe, readable_error, with_weights
from ensemble.recipes.schema import Recipe
from ensemble.recipes.views import Tta, TtaSet
from folds.errors import MaskensError, did_you_mean, refuse, typed
from folds.files import write_text
from folds.run_folder import Run, save_run


def run_recipe(run: Run) -> Recipe:
    """The recipe that a run was trained with.

    Raises:
        MaskensError: nothing was trained yet, or recipe.toml was edited since.
    """
    if not run.recipe_hash:
        raise MaskensError(f"nothing is trained in {run.folder} yet. First: maskens train --run {typed(run.folder)}")
    try:
        recipe = parse_recipe(run.recipe_file.read_text(encoding="utf-8"), "recipe", where=str(run.recipe_file))
    except (OSError, UnicodeDecodeError) as error:
        raise MaskensError(f"can't read {run.recipe_file}: {getattr(error, 'strerror', None) or error}") from error
    if recipe.hash != run.recipe_hash:
        raise MaskensError(
            f"{run.recipe_file} was edited after training began. "
            "Put it back, or give it to a new run: "
            f"maskens train --run NEW_DIR --recipe {typed(run.recipe_file)}"
        )
    return recipe


@dataclass(frozen=True)
class RecipeChange:
    """What a training names of its recipe; all else is the run's own."""

    recipe: str | None = None  # name or file
    changes: Sequence[str] = ()  # what --set gave
    weights: Sequence[str] = ()  # `FILE` or `TASK=FILE`
    pretrained: bool = True


def resolve_recipe(
    run: Run, change: RecipeChange, reused: Run | None = None, build_transform: BuildTransform | None = None
) -> Recipe:
    """The recipe to train with: the run's own, or the one named if the run has none or no job yet.

    A local file of weights that an earlier call named stays in force when this one names none.

    Args:
        reused: the run that finished jobs are taken from; its recipe is the start where nothing else is.
        build_transform: also try this on every transform, as of `load_recipe`.

    Raises:
        MaskensError: unknown or invalid recipe, or another one than the run's models were trained with.
    """
    before = run_recipe(run) if run.recipe_hash else None
    recipe = changed_recipe(before or (run_recipe(reused) if reused else None), change, build_transform)
    if before is not None and not alike(before, recipe) and run.jobs_on_disk():
        refuse(
            differences(before, recipe)[:8],
            f"{run.folder} has models of the recipe '{before.name}', and this one differs",
            "Leave --recipe, --set and the weights' options out to go on with the run's own, "
            "or start another run with --run DIR.",
        )
    return recipe


def changed_recipe(start: Recipe | None, change: RecipeChange, build_transform: BuildTransform | None = None) -> Recipe:
    """The recipe that was named, or the earlier one with what is changed of it.

    Args:
        start: the earlier one. Its local weights stay in force where none are named.

    Raises:
        MaskensError: unknown or invalid recipe.
    """
    if start is not None and change.recipe is None:
        recipe = parse_recipe(start.text, start.name, changes=change.changes) if change.changes else start
    else:
        recipe = load_recipe(change.recipe or "original", change.changes, build_transform)
        if start is not None and not change.weights and change.pretrained:
            recipe = _weights_of(start, recipe)
    return with_weights(recipe, change.weights, change.pretrained)


def alike(a: Recipe, b: Recipe) -> bool:
    """Whether jobs of both leave the same."""
    return (a.hash, a.oof_views) == (b.hash, b.oof_views)


def bind_recipe(run: Run, recipe: Recipe) -> Run:
    """Write recipe.toml and its hash into the run, if they are not there yet."""
    if run.recipe_hash == recipe.hash and _views(run_recipe(run)) == _views(recipe):
        return run
    write_text(run.recipe_file, recipe.text)
    bound = dataclasses.replace(run, recipe_hash=recipe.hash)
    save_run(bound)
    return bound


def _views(recipe: Recipe) -> tuple[object, ...]:
    """What a recipe's hash leaves out."""
    return recipe.tta, recipe.oof_tta


def _weights_of(before: Recipe, recipe: Recipe) -> Recipe:
    """The recipe with the local weights of an earlier one, where the model is the same and it names none itself."""
    tasks = dict(recipe.tasks)
    for name in tasks.keys() & before.tasks.keys():
        task, old = tasks[name], before.tasks[name]
        if old.weights and task.pretrained and not task.weights and task.model == old.model:
            kept = {"weights": old.weights, "weights_sha256": old.weights_sha256}
            tasks[name] = task.model_copy(update=kept)
    return recipe.model_copy(update={"tasks": tasks})


def differences(a: Recipe, b: Recipe) -> list[str]:
    """Key paths whose values differ, `tasks.mask.epochs: 3, now 5`."""

    left, right = flat(a.model_dump(mode="json")), flat(b.model_dump(mode="json"))
    keys = list(dict.fromkeys([*left, *right]))
    return [f"{k}: {left.get(k)!r}, now {right.get(k)!r}" for k in keys if left.get(k) != right.get(k)]


def flat(value: object, path: str = "") -> dict[str, object]:
    """`{"loss": {"ce": 1}}` -> `{"loss.ce": 1}`."""
    if isinstance(value, dict):
        return {k: v for key, inner in value.items() for k, v in flat(inner, f"{path}.{key}".strip(".")).items()}
    return {path: value}


def find_set(tta: Tta, known: Mapping[Tta, TtaSet]) -> tuple[Tta, TtaSet]:
    """(name, set) of what --tta names; a file's name is its path.

    Args:
        tta: a name, or a TOML file that holds what a recipe's table [tta.NAME] does.
        known: of `known_sets`.

    Raises:
        MaskensError: there is no such set, or a file that can't be used, with all that is wrong in it.
    """
    if tta in known:
        return tta, known[tta]
    path = Path(tta)
    if path.suffix == ".toml" or path.is_file():
        return tta, _read(path)
    raise MaskensError(
        f"--tta {tta}: there are {', '.join(known)}{did_you_mean(tta, known)}; a set of your own is a table "
        "[tta.NAME] of the recipe, or a .toml file with views = [...]."
    )


def _read(path: Path) -> TtaSet:
    try:
        return TtaSet.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise MaskensError(f"can't read the views {path}: {getattr(error, 'strerror', None) or error}") from error
    except ValidationError as error:
        refuse([readable_error(e, ("tta", path.stem)) for e in error.errors()], f"{path} can't be used")
        raise
    except (ValueError, RecursionError) as error:  # TOMLDecodeError is one; numbers of too many digits give another
        raise MaskensError(f"{path} is not valid TOML: {error}") from error
