"""Recipes: what is trained and how, as data. `ensemble.recipes.reading` reads them from TOML."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import Field, ValidationInfo, field_validator, model_validator

from ensemble.recipes.architecture import ModelArgs, ModelName
from ensemble.recipes.augmentation import Entry, expand
from ensemble.recipes.loss import Loss
from ensemble.recipes.strict import Strict
from ensemble.recipes.tasks import AgeHead, OutputSpec, Predicts, merge_of
from ensemble.recipes.views import OofSets, OwnSets, oof_views
from folds.errors import MaskensError
from folds.files import sha256
from folds.labels import AGE_CUTS, AGES, SHOTS


class FaceTemplate(Strict):
    """Where a face is on a photo before the crop: shares of the photo's height, or of its width."""

    eyes: float = Field(0.42, ge=0, le=1)  # of the height
    mouth: float = Field(0.63, ge=0, le=1)  # of the height
    middle: float = Field(0.5, ge=0, le=1)  # of the width
    width: float = Field(0.5, gt=0, le=1)  # of the width, from cheek to cheek

    def cropped(self, resize: tuple[int, int], crop: tuple[int, int]) -> FaceTemplate:
        """Where the face is on the `crop` of the centre; both sizes are (height, width).

        Raises:
            ValueError: not on it.
        """
        (height, width), (cut_height, cut_width) = resize, crop
        top, left = (height - cut_height) // 2, (width - cut_width) // 2
        return FaceTemplate(
            eyes=(self.eyes * height - top) / cut_height,
            mouth=(self.mouth * height - top) / cut_height,
            middle=(self.middle * width - left) / cut_width,
            width=min(1.0, self.width * width / cut_width),
        )

    @model_validator(mode="after")
    def _upright(self) -> FaceTemplate:
        if self.mouth - self.eyes < 0.05:
            raise ValueError(f"the mouth ({self.mouth:g}) has to be below the eyes ({self.eyes:g}) by at least 0.05")
        return self


class Masks(Strict):
    """How often training photos of faces without a mask get one drawn, and where their faces are."""

    prob: float = Field(0.0, ge=0, le=1)  # that a photo without a mask gets one
    incorrect: float = Field(0.3, ge=0, le=1)  # share of them below the nose or on the chin
    detect: bool = False  # find each face with a detector, and leave out photos where there is none
    face: FaceTemplate = FaceTemplate()


Crop = tuple[int, int] | Literal["face"]


@dataclass(frozen=True)
class Preprocessing:
    """The fixed steps from a photo to what augmentation and model see; sizes are (height, width).

    Its pixels depend on the photo's file and these alone. A centre is cropped after the photo is resized, a face
    before.
    """

    resize: tuple[int, int]
    crop: Crop | None = None  # "face": around the largest face; the whole photo where there is none
    reduced: bool = False  # large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, never below `decoded`

    @property
    def decoded(self) -> tuple[int, int]:
        """Below which a reduced photo may not be: a face that fills half of its sides is not enlarged."""
        height, width = self.resize
        return (2 * height, 2 * width) if self.crop == "face" else self.resize

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*cropped_size(self.resize, self.crop), 3)


def cropped_size(resize: tuple[int, int], crop: Crop | None) -> tuple[int, int]:
    """(height, width) of what is left after resize and crop."""
    return resize if crop is None or crop == "face" else crop


Years = tuple[Annotated[int, Field(ge=1, le=120)], ...]

ALL_YEARS = tuple(range(16, 81))  # `cuts = "years"`: <16, 16, 17, ..., 79, >=80


class Ages(Strict):
    """How ages are trained: in which bins, and without whom. Scores always count the bands 30 and 60."""

    cuts: Years = AGE_CUTS  # a bin begins at each cut; "years" is one bin a year
    merge: tuple[int, ...] = Field(
        (), validate_default=True
    )  # the band (0, 1, 2) that each bin counts as; empty: that of its oldest age
    leave_out: Years = ()  # people of these ages are not learned from
    sigma: float = Field(0.0, ge=0, le=50)  # years by which a target spreads around the person's age; 0 is one bin
    head: AgeHead = "softmax"

    @field_validator("cuts", mode="before")
    @classmethod
    def _each_year(cls, cuts: Any) -> Any:
        if isinstance(cuts, str) and cuts != "years":
            raise ValueError('a list of ages, or "years" for one bin a year')
        return ALL_YEARS if cuts == "years" else cuts

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

    @field_validator("head")
    @classmethod
    def _something_to_regress(cls, head: AgeHead, info: ValidationInfo) -> AgeHead:
        cuts = info.data.get("cuts")
        if head == "regression" and cuts and len(cuts) == len(AGE_CUTS):
            raise ValueError(
                f'regression learns the age itself, and cuts {list(cuts)} leave only three bands of it: cuts = "years"'
            )
        return head

    @property
    def bands(self) -> tuple[int, ...]:
        """The band of each bin."""
        return self.merge or merge_of(self.cuts)

    @property
    def in_bands(self) -> bool:
        """Whether the bins are the three bands themselves."""
        return (self.cuts, self.bands) == (AGE_CUTS, merge_of(AGE_CUTS))


FOLD = "{fold}"  # in the path of weights

Size = tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]]


class Optimizer(Strict):
    """A timm optimizer by name. `decay_all` also decays biases and norm weights, as plain torch does."""

    name: str = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    decay_all: bool = False
    layer_decay: float = Field(1.0, gt=0, le=1)  # of the learning rate, from each layer to the one below; 1 is off
    args: dict[str, Any] = Field({})


class Schedule(Strict):
    """Learning rate over time. `cosine` is timm's, per update; `cosine_warm_restarts` torch's, per epoch."""

    name: Literal["constant", "cosine", "cosine_warm_restarts"] = "cosine"
    warmup_epochs: float = Field(0.0, ge=0)
    lr_min: float = Field(0.0, ge=0)
    T_0: int = Field(10, ge=1)
    T_mult: int = Field(1, ge=1)
    eta_min: float = Field(0.0, ge=0)


class Sampler(Strict):
    """Which photos an epoch shows."""

    fraction: float = Field(1.0, gt=0, le=100)  # of the photos there are
    photos_per_person: int = Field(len(SHOTS), ge=1, le=len(SHOTS))  # drawn anew each epoch
    balance: Literal["none", "class", "age"] = "none"  # even out the 18 classes, or the age bins
    strength: float = Field(1.0, ge=0, le=1)  # 1 evens out fully, 0 not at all


class Mix(Strict):
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


class TaskRecipe(Strict):
    """How the models of one task are built and trained. Sizes are (height, width) in pixels."""

    predicts: Predicts
    model: ModelName
    model_args: ModelArgs = Field({})
    pretrained: bool = True
    weights: str = ""  # a local file in place of the hub; with {fold} in its path, one for each fold
    weights_sha256: str = ""  # of that file, or of each fold's, with commas between; filled in when it is first read
    decode: Literal["reduced", "full"] = "reduced"  # large JPEGs, at 1/2, 1/4 or 1/8 where resize allows it
    resize: Size = (512, 384)
    crop: Size | Literal["face"] | None = None  # of the centre; "none" takes back an extended recipe's
    masks: Masks = Masks()
    augment: tuple[Entry, ...] = ()
    batch_size: int = Field(32, ge=2, le=4096)
    drop_last: bool = True  # leave out an epoch's last batch where it is not full
    accumulate: int = Field(1, ge=1, le=1024)  # batches to one update
    epochs: int = Field(3, ge=1, le=10_000)
    head_epochs: float = Field(0.0, ge=0)  # at the start, in which only the new classifier learns
    sizes: tuple[Size, ...] = ()  # to which photos are shrunk in the first epochs, one an epoch
    average_epochs: int = Field(0, ge=0)  # at the end, whose mean is the last epoch's model; 0 is off
    ages: Ages = Ages()
    sampler: Sampler = Sampler()
    mix: Mix = Mix()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    ema: float = Field(0.0, ge=0, lt=1)  # decay of the averaged weights, per update; 0 is off
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"

    # field by field, so that one wrong key does not hide what another says
    @field_validator("crop", mode="before")
    @classmethod
    def _no_crop(cls, crop: Any) -> Any:
        if isinstance(crop, str) and crop not in ("face", "none"):
            raise ValueError(f"'{crop}' is neither [height, width] nor 'face' nor 'none'")
        return None if crop == "none" else crop

    @field_validator("crop")
    @classmethod
    def _crop_fits(cls, crop: Size | str | None, info: ValidationInfo) -> Size | str | None:
        resize = info.data.get("resize")
        if isinstance(crop, tuple) and resize and (crop[0] > resize[0] or crop[1] > resize[1]):
            raise ValueError(f"crop {list(crop)} is larger than the photo after resize {list(resize)}")
        return crop

    @field_validator("ages")
    @classmethod
    def _an_age_head(cls, ages: Ages, info: ValidationInfo) -> Ages:
        if ages.head != "softmax" and info.data.get("predicts") == "class18":
            raise ValueError(f"head '{ages.head}' is for a task with a head of ages; 'class18' has one of 18 classes")
        return ages

    @field_validator("augment", mode="before")
    @classmethod
    def _policies(cls, augment: Any) -> Any:
        return expand(augment)

    @field_validator("head_epochs", "sizes", "average_epochs")
    @classmethod
    def _within_epochs(cls, value: Any, info: ValidationInfo) -> Any:
        epochs = info.data.get("epochs")
        if epochs and (len(value) if isinstance(value, tuple) else value) > epochs:
            raise ValueError(f"there are no more than {epochs} epochs")
        return value

    @field_validator("sizes")
    @classmethod
    def _shrunk(cls, sizes: tuple[Size, ...], info: ValidationInfo) -> tuple[Size, ...]:
        whole = cropped_size(info.data["resize"], info.data["crop"]) if {"resize", "crop"} <= info.data.keys() else None
        if whole and any(h > whole[0] or w > whole[1] for h, w in sizes):
            raise ValueError(f"photos are {list(whole)} and can only become smaller")
        return sizes

    @field_validator("masks")
    @classmethod
    def _faces_in_crop(cls, masks: Masks, info: ValidationInfo) -> Masks:
        resize, crop = info.data.get("resize"), info.data.get("crop")
        if masks.prob and not masks.detect and crop == "face":
            raise ValueError("where faces are on crops around them has to be found: set detect = true")
        if masks.prob and not masks.detect and resize and crop:
            try:
                masks.face.cropped(resize, crop)
            except ValueError:
                raise ValueError(f"the crop {list(crop)} cuts off the eyes, mouth or middle of `face`") from None
        return masks

    @field_validator("mix")
    @classmethod
    def _pairs(cls, mix: Mix, info: ValidationInfo) -> Mix:
        if mix.active and info.data.get("batch_size", 2) % 2:
            raise ValueError(f"photos are mixed in pairs, and batch_size {info.data['batch_size']} is odd")
        return mix

    @field_validator("loss")
    @classmethod
    def _fits_the_heads(cls, loss: Loss, info: ValidationInfo) -> Loss:
        if {"predicts", "ages", "sampler"} <= info.data.keys():
            sampler = info.data["sampler"]
            evened = sampler.balance if sampler.strength else "none"
            fault = loss.fault_with(_target(info.data["predicts"], info.data["ages"]), evened)
            if fault:
                raise ValueError(fault)
        return loss

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of what the model sees."""
        return cropped_size(self.resize, self.crop)

    @property
    def target(self) -> OutputSpec:
        """What the task's model predicts."""
        return _target(self.predicts, self.ages)

    def of_fold(self, fold: int) -> TaskRecipe:
        """The task with the initial weights of one fold, where each fold has a file of its own.

        Raises:
            MaskensError: there is none for this fold.
        """
        if FOLD not in self.weights:
            return self
        hashes = self.weights_sha256.split(",")
        if fold >= len(hashes):
            raise MaskensError(
                f"the weights {self.weights} are those of {len(hashes)} folds, and there is none for fold {fold}. Name "
                "a run with the same folds, or one file: --weights FILE"
            )
        return self.model_copy(
            update={"weights": self.weights.replace(FOLD, str(fold)), "weights_sha256": hashes[fold]}
        )

    @property
    def soft_f1(self) -> bool:
        """Whether a head's loss has the term f1."""
        return any(self.loss.of(head.part).f1 for head in self.target.heads)

    @property
    def hash(self) -> str:
        """sha256 of all that decides a job's result but data, folds, seed and the task's name.

        Where the weights lie does not count: what they are does. Keys at their default don't count either,
        so that a new key leaves the hashes of older recipes as they are.
        """
        ages = self.ages.model_copy(update={"merge": () if self.ages.in_bands else self.ages.bands})
        known = self.model_copy(update={"weights": "", "ages": ages})
        return sha256(json.dumps(known.model_dump(mode="json", exclude_defaults=True), sort_keys=True))


def _target(predicts: Predicts, ages: Ages) -> OutputSpec:
    return OutputSpec(predicts, ages.cuts, ages.bands, ages.head)


class Recipe(Strict):
    """The tasks of a run, and in which views its models are shown photos."""

    name: str
    description: str = ""
    tta: OwnSets = Field({})  # sets of views of one's own
    oof_tta: OofSets = ("flip",)  # sets whose views out-of-fold logits are kept in, beside those of flip
    tasks: dict[str, TaskRecipe]

    @property
    def oof_views(self) -> tuple[str, ...]:
        """The views that out-of-fold logits are kept in; no part of `hash`, as they change nothing that is learned."""
        return oof_views(self.oof_tta, self.tta)

    @property
    def soft_f1_tasks(self) -> list[str]:
        """The tasks that learn soft F1, after which probabilities are too sure."""
        return [name for name, task in self.tasks.items() if task.soft_f1]

    @property
    def text(self) -> str:
        """The recipe as TOML with every value written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def hash(self) -> str:
        """sha256 of its tasks' names and hashes."""
        return sha256(json.dumps([[name, task.hash] for name, task in self.tasks.items()]))
