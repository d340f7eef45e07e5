"""Recipes of one's own."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

from ensemble.recipes.recipe_file import load_recipe, parse_recipe, with_weights
from ensemble.recipes.schema import shipped
from hostile.judge import Verdict, command, judge, judge_call
from hostile.mutations import DEEP, spoiled_text, spoiled_toml
from hostile.workplace import Workplace

OTHERWISE_WRITTEN = ("augment", "cuts", "crop", "sizes", "extends", "without")  # policies, "years", "none"
LARGEST = 64 * 48  # pixels of a photo up to which a model is also built and shown one

RICH = """
description = "much of what a recipe may say"
oof_tta = ["flip", "mine"]
[tta.mine]
views = ["identity", "hflip scale=0.9"]
merge = "mean"
weights = [1, 0.5]
[defaults]
model = "test_resnet.r160_in1k"
model_args = { channels = [8, 8, 8, 8], stem_width = 8 }
pretrained = false
resize = [48, 32]
crop = [32, 24]
batch_size = 8
epochs = 4
sizes = [[24, 24]]
average_epochs = 2
augment = [{ name = "HorizontalFlip", args = { p = 0.5 } },
  { some_of = 1, p = 0.5, transforms = [{ name = "Posterize" }, { name = "Solarize", args = { p = 0.2 } }] }]
optimizer = { name = "adamw", lr = 1e-2, args = { betas = [0.9, 0.99] } }
schedule = { name = "cosine", warmup_epochs = 0.5 }
sampler = { photos_per_person = 3, balance = "class", strength = 0.5 }
mix = { cutmix = 1.0, prob = 0.5 }
[tasks.heads]
loss = { ce = 1, f1 = 0.5, label_smoothing = 0.1, heads = { mask = { class_weights = [1, 2, 2] } } }
masks = { prob = 0.2, face = { eyes = 0.4, mouth = 0.65 } }
[tasks.age]
predicts = "male-age"
ages = { cuts = [25, 30, 60], sigma = 2.0, leave_out = [29, 31] }
ema = 0.9
"""


EXTENDING = """
extends = "quick"
oof_tta = ["flip+scale"]
[defaults]
epochs = 2
weights = "weights.safetensors"
[tasks.heads]
batch_size = 8
"""


def recipe(rng: Random, place: Workplace) -> Verdict:
    """A recipe of one's own: what it says is what is kept of it, and that reads back as the same recipe."""
    source = rng.choice((RICH, RICH, RICH, EXTENDING, *shipped().values()))
    file = place.scratch("mine.toml")
    if rng.random() < 0.7:
        file.write_text(spoiled_toml(rng, tomllib.loads(source)))
    elif rng.random() < 0.05:
        file.write_text(f"[tasks.mask]\nmodel_args = {{ x = {'[' * DEEP}{']' * DEEP} }}\n")
    else:
        file.write_bytes(spoiled_text(rng, source))
    ended = command("recipes", "show", file)

    def fault() -> str:
        found = parse_recipe(ended.out, "mine")
        if found.hash != load_recipe(str(file)).hash:
            return "what is shown of it is another recipe"
        given, kept = tomllib.loads(file.read_text()), tomllib.loads(ended.out)["tasks"]
        said = {(task, *path): value for task in kept for path, value in _leaves(_of_task(given, task))}
        wrong = {p: v for p, v in said.items() if not _same(v, _at(kept, p))} if "extends" not in given else {}
        return f"not kept as it is said: {wrong}" if wrong else ""

    verdict = judge(ended, fault)
    return _trained(str(file)) if verdict.result == "right" and rng.random() < 0.5 else verdict


def _trained(file: str) -> Verdict:
    """What the checks before a training make of a recipe that could be read."""
    from ensemble.training.preflight import preflight

    read = with_weights(load_recipe(file), (), pretrained=False)
    small = {n: t for n, t in read.tasks.items() if math.prod(t.resize) <= LARGEST and t.model.startswith("test_")}
    return judge_call(lambda: preflight(read, small), lambda warnings: "")


def _of_task(tree: dict[str, Any], task: str) -> dict[str, Any]:
    return dict(_merged(tree.get("defaults", {}), tree.get("tasks", {}).get(task, {})))


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: _merged(below.get(key), value) for key, value in above.items()}


def _leaves(tree: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from (((key, *path), leaf) for path, leaf in _leaves(value))
        elif key not in OTHERWISE_WRITTEN:
            yield (key,), value


def _at(tree: Any, path: Sequence[str]) -> Any:
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


def _same(said: Any, kept: Any) -> bool:
    """Numbers may be given as text, and dates are kept as text."""
    if isinstance(said, list) and isinstance(kept, list):
        return len(said) == len(kept) and all(map(_same, said, kept))
    try:
        return bool(said == kept or str(said) == str(kept) or float(said) == float(kept))
    except (TypeError, ValueError):
        return str(said).replace(" ", "T") == str(kept)
