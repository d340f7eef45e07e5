"""Recipes: what is trained and how, as data. `ensemble.recipes.reading` reads them from TOML."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ensemble.recipes.tasks import Predicts, Target, merge_of
from ensemble.recipes.tta_sets import OofSets, OwnSets, oof_views
from folds.data.labels import AGE_CUTS, AGES, SHOTS
from folds.errors import MaskensError, did_you_mean
from folds.files import sha256

Size = tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]]

Years = tuple[Annotated[int, Field(ge=1, le=120)], ...]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Transform(_Strict):
    """One albumentations transform by name and arguments."""

    name: str
    args: dict[str, Any] = {}


class Ages(_Strict):
    """How ages are trained: in which bins, and without whom. Scores always count the bands 30 and 60."""

    cuts: Years = AGE_CUTS  # a bin begins at each cut
    merge: tuple[int, ...] = Field(
        (), validate_default=True
    )  # the band (0, 1, 2) that each bin counts as; empty: that of its oldest age
    leave_out: Years = ()  # people of these ages are not learned from

    @field_validator("cuts")
    @classmethod
    def _rising(cls, cuts: Years) -> Years:
        if len(cuts) < 2 or any(a >= b for a, b in pairwise(cuts)):
            raise ValueError("at least two ages, each above the one before")
        return cuts

    @field_validator("merge", mode="after")
    @classmethod
    def _whole(cls, merge: tuple[int, ...], info: ValidationInfo) -> tuple[int, ...]:
        cuts = info.data.get("cuts")
        if cuts is None:
            return merge
        given, merge = merge, merge or merge_of(cuts)
        if len(merge) != len(cuts) + 1 or sorted(merge) != list(merge) or set(merge) != set(range(len(AGES))):
            raise ValueError(
                f"{len(cuts)} cuts make {len(cuts) + 1} bins; each needs a band, rising from 0 to 2 with none left out"
            )
        return given

    @property
    def bands(self) -> tuple[int, ...]:
        """The band of each bin."""
        return self.merge or merge_of(self.cuts)


LOSS_SETTINGS = {"gamma", "label_smoothing", "class_weights"}  # keys of a loss that are no term's weight


class Loss(_Strict):
    """Weights of the loss terms; a task's loss is their weighted sum, added over its heads."""

    ce: float = Field(1.0, ge=0)
    f1: float = Field(0.0, ge=0)
    focal: float = Field(0.0, ge=0)
    gamma: float = Field(2.0, ge=0)  # of the focal term
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: tuple[
        Annotated[float, Field(ge=0)], ...
    ] = ()  # one a class, for tasks with one head; only ratios count

    @model_validator(mode="after")
    def _not_nothing(self) -> Loss:
        if not any(getattr(self, name) for name in type(self).model_fields.keys() - LOSS_SETTINGS):
            raise ValueError("every weight is 0: nothing would be learned")
        if self.class_weights and not any(self.class_weights):
            raise ValueError("every class weight is 0: nothing would be learned")
        if (self.class_weights or self.label_smoothing) and self.ce + self.focal == 0:
            raise ValueError("class_weights and label_smoothing go into ce and focal, and both are 0")
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


class Sampler(_Strict):
    """Which photos an epoch shows."""

    fraction: float = Field(1.0, gt=0, le=100)  # of the photos there are
    photos_per_person: int = Field(len(SHOTS), ge=1, le=len(SHOTS))  # drawn anew each epoch
    balance: Literal["none", "class", "age"] = "none"  # even out the 18 classes, or the age bins
    strength: float = Field(1.0, ge=0, le=1)  # 1 evens out fully, 0 not at all


class Mix(_Strict):
    """Mixing photos and targets within a batch. `mixup` and `cutmix` are the alpha of their Beta distribution."""

    mixup: float = Field(0.0, ge=0)
    cutmix: float = Field(0.0, ge=0)
    half_face: bool = False  # swap left or right halves
    prob: float = Field(1.0, gt=0, le=1)  # that a batch is mixed

    @model_validator(mode="after")
    def _one_kind(self) -> Mix:
        if self.half_face and (self.mixup or self.cutmix):
            raise ValueError("half_face excludes mixup and cutmix")
        return self

    @property
    def active(self) -> bool:
        return bool(self.half_face or self.mixup or self.cutmix)


class TaskRecipe(_Strict):
    """How the models of one task are built and trained. Sizes are (height, width) in pixels."""

    predicts: Predicts
    model: str
    model_args: dict[str, Any] = {}
    pretrained: bool = True
    weights: str = ""  # a local file in place of the hub
    weights_sha256: str = ""  # of that file; filled in when it is first read
    decode: Literal["reduced", "full"] = "reduced"  # large JPEGs, at 1/2, 1/4 or 1/8 where resize allows it
    resize: Size = (512, 384)
    crop: Size | None = None  # of the centre; "none" takes back an extended recipe's
    augment: tuple[Transform, ...] = ()
    batch_size: int = Field(32, ge=2, le=4096)
    drop_last: bool = True  # leave out an epoch's last batch where it is not full
    accumulate: int = Field(1, ge=1, le=1024)  # batches to one update
    epochs: int = Field(3, ge=1, le=10_000)
    ages: Ages = Ages()  # type: ignore[call-arg]
    sampler: Sampler = Sampler()  # type: ignore[call-arg]
    mix: Mix = Mix()  # type: ignore[call-arg]
    loss: Loss = Loss()  # type: ignore[call-arg]
    optimizer: Optimizer = Optimizer()  # type: ignore[call-arg]
    schedule: Schedule = Schedule()  # type: ignore[call-arg]
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights; 0 is off
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"

    # field by field, so that one wrong key does not hide what another says
    @field_validator("crop", mode="before")
    @classmethod
    def _no_crop(cls, crop: Any) -> Any:
        return None if crop == "none" else crop

    @field_validator("crop")
    @classmethod
    def _crop_fits(cls, crop: Size | None, info: ValidationInfo) -> Size | None:
        resize = info.data.get("resize")
        if crop and resize and (crop[0] > resize[0] or crop[1] > resize[1]):
            raise ValueError(f"crop {list(crop)} is larger than the photo after resize {list(resize)}")
        return crop

    @field_validator("mix")
    @classmethod
    def _pairs(cls, mix: Mix, info: ValidationInfo) -> Mix:
        if mix.active and info.data.get("batch_size", 2) % 2:
            raise ValueError(f"photos are mixed in pairs, and batch_size {info.data['batch_size']} is odd")
        return mix

    @field_validator("loss")
    @classmethod
    def _a_weight_a_class(cls, loss: Loss, info: ValidationInfo) -> Loss:
        if loss.class_weights and {"predicts", "ages"} <= info.data.keys():
            heads = _target(info.data["predicts"], info.data["ages"]).heads
            if len(heads) > 1:
                raise ValueError(f"class_weights need a task with one head; '{info.data['predicts']}' has {len(heads)}")
            if len(loss.class_weights) != heads[0].width:
                given = len(loss.class_weights)
                raise ValueError(f"{given} class_weights, but '{info.data['predicts']}' has {heads[0].width} classes")
        return loss

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        return self.crop or self.resize

    @property
    def target(self) -> Target:
        """What the task's model predicts."""
        return _target(self.predicts, self.ages)

    @property
    def hash(self) -> str:
        """sha256 of all that decides a job's result but data, folds, seed and the task's name.

        Where the weights lie does not count: what they are does. Keys at their default don't count either,
        so that a new key leaves the hashes of older recipes as they are. `decode` is the other way round: older
        recipes have none, and their photos were decoded fully.
        """
        plain = (self.ages.cuts, self.ages.bands) == (AGE_CUTS, merge_of(AGE_CUTS))
        ages = self.ages.model_copy(update={"merge": () if plain else self.ages.bands})
        known = self.model_copy(update={"weights": "", "ages": ages})
        record = known.model_dump(mode="json", exclude_defaults=True, exclude={"decode"})
        decode = {} if self.decode == "full" else {"decode": self.decode}
        return sha256(json.dumps(record | decode, sort_keys=True))


def _target(predicts: Predicts, ages: Ages) -> Target:
    return Target(predicts, ages.cuts, ages.bands)


class Recipe(_Strict):
    """The tasks of a run, and in which views its models are shown photos."""

    name: str
    description: str = ""
    tta: OwnSets = {}  # sets of views of one's own
    oof_tta: OofSets = ("flip",)  # sets whose views out-of-fold logits are kept in, beside those of flip
    tasks: dict[str, TaskRecipe]

    @property
    def oof_views(self) -> tuple[str, ...]:
        """The views that out-of-fold logits are kept in; no part of `hash`, as they change nothing that is learned."""
        return oof_views(self.oof_tta, self.tta)

    @property
    def text(self) -> str:
        """The recipe as TOML with every value written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def hash(self) -> str:
        """sha256 of its tasks' names and hashes."""
        return sha256(json.dumps([[name, task.hash] for name, task in self.tasks.items()]))


def with_weights(recipe: Recipe, weights: Sequence[str], pretrained: bool) -> Recipe:
    """The recipe with its initial weights from local files (`FILE` for all tasks or `TASK=FILE`) or none.

    Raises:
        MaskensError: both asked for, an unknown task or a missing file.
    """
    if weights and not pretrained:
        raise MaskensError("--weights and --no-pretrained exclude each other: start from a file or from nothing.")
    changes: dict[str, dict[str, object]] = {name: {} for name in recipe.tasks}
    if not pretrained:
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
