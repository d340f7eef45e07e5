"""The tables and keys of a recipe: what is trained and how, as data. `recipe_file` reads them from TOML."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from typing import Annotated, Any, Literal, get_args

import tomli_w
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, ValidationInfo, field_validator, model_validator

from ensemble.recipes.architecture import ModelArgs, ModelName
from ensemble.recipes.tasks import AgeHead, OutputSpec, Part, Predicts, bands_of, undetermined
from ensemble.recipes.views import SETS, OofSets, OwnSets
from folds.errors import MaskensError, did_you_mean
from folds.files import sha256
from folds.labels import AGE_CUTS, AGES, SHOTS
from folds.people import FaceCrop

Unit = Annotated[float, Field(ge=0, le=1)]
NotNegative = Annotated[float, Field(ge=0)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Size = tuple[Annotated[int, Field(ge=16, le=4096)], Annotated[int, Field(ge=16, le=4096)]]
Years = tuple[Annotated[int, Field(ge=1, le=120)], ...]
Crop = tuple[int, int] | FaceCrop

ALL_YEARS = tuple(range(16, 81))  # `cuts = "years"`: <16, 16, 17, ..., 79, >=80
FOLD = "{fold}"  # in the path of weights


class Strict(BaseModel):
    """A table of a recipe: unknown keys, infinity and NaN are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _refuse(faults: Mapping[str, object]) -> None:
    """Raise ValueError with a line `KEY: what is wrong` for each fault that is true."""
    if found := [fault for fault, there in faults.items() if there]:
        raise ValueError("\n".join(found))


@dataclass(frozen=True)
class Preprocessing:
    """The fixed steps from a photo to what augmentation and model see; sizes are (height, width).

    Its pixels depend on the photo's file and these alone. A centre is cropped after the photo is resized, a face
    before.
    """

    resize: tuple[int, int]
    crop: Crop | None = None  # the whole photo where a face is wanted and there is none
    reduced: bool = False  # large JPEGs are decoded at 1/2, 1/4 or 1/8 of their size, never below `decoded`

    @property
    def decoded(self) -> tuple[int, int]:
        """Least size of a reduced photo: a face that fills half of its sides is not enlarged."""
        height, width = self.resize
        return (2 * height, 2 * width) if self.finds_face else self.resize

    @property
    def finds_face(self) -> bool:
        return isinstance(self.crop, str)

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*(self.crop if isinstance(self.crop, tuple) else self.resize), 3)


class FaceTemplate(Strict):
    """Where a face is on a photo before the crop: fractions of the photo's height or width."""

    eyes: Unit = 0.42  # of the height
    mouth: Unit = 0.63  # of the height
    middle: Unit = 0.5  # of the width
    width: float = Field(0.5, gt=0, le=1)  # of the width, from cheek to cheek

    def cropped(self, resize: tuple[int, int], crop: tuple[int, int]) -> FaceTemplate:
        """Where the face is on the `crop` of the centre; both sizes are (height, width). Raises ValueError: not on
        it."""
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

    prob: Unit = 0.0  # that a photo without a mask gets one
    incorrect: Unit = 0.3  # fraction of them below the nose or on the chin
    detect: bool = False  # find each face with a detector; photos without one get no mask
    face: FaceTemplate = FaceTemplate()


class Ages(Strict):
    """How ages are trained: in which bins, and without which ages. Scores always use the cuts 30 and 60."""

    cuts: Years = AGE_CUTS  # a bin begins at each cut; "years" is one bin a year
    bands: tuple[int, ...] = ()  # band (0, 1, 2) of each bin; empty: of its oldest age
    leave_out: Years = ()  # people of these ages are not trained on
    sigma: float = Field(0.0, ge=0, le=50)  # years by which a target spreads around the person's age; 0 is one bin
    head: AgeHead = "softmax"

    @field_validator("cuts", mode="before")
    @classmethod
    def _each_year(cls, cuts: Any) -> Any:
        if isinstance(cuts, str) and cuts != "years":
            raise ValueError('a list of ages, or "years" for one bin a year')
        return ALL_YEARS if cuts == "years" else cuts

    @model_validator(mode="after")
    def _consistent(self) -> Ages:
        bins, bands = len(self.cuts) + 1, list(self.bin_bands)
        _refuse(
            {
                "cuts: at least two ages, each above the one before": (
                    len(self.cuts) < 2 or any(a >= b for a, b in pairwise(self.cuts))
                ),
                f"bands: {bins - 1} cuts make {bins} bins, each with a band from 0 to 2, rising": (
                    len(bands) != bins or sorted(bands) != bands or set(bands) != set(range(len(AGES)))
                ),
                f'head: regression predicts the age itself, and {bins - 1} cuts are too few: cuts = "years"': (
                    self.head == "regression" and len(self.cuts) == len(AGE_CUTS)
                ),
            }
        )
        return self

    @property
    def bin_bands(self) -> tuple[int, ...]:
        """The band of each bin."""
        return self.bands or bands_of(self.cuts)

    @property
    def in_years(self) -> bool:
        """Whether labels are whole years, which targets spread over the bins."""
        return self.sigma > 0

    @property
    def in_bands(self) -> bool:
        """Whether the bins are the three bands themselves."""
        return (self.cuts, self.bin_bands) == (AGE_CUTS, bands_of(AGE_CUTS))


class Optimizer(Strict):
    """A timm optimizer by name. `decay_all` also decays biases and norm weights, as plain torch does."""

    name: str = "adamw"
    lr: float = Field(1e-3, gt=0)
    weight_decay: NotNegative = 1e-2
    decay_all: bool = False
    layer_decay: float = Field(1.0, gt=0, le=1)  # of the learning rate, from each layer to the one below; 1 is off
    args: dict[str, Any] = Field({})


class Schedule(Strict):
    """Learning rate over time. `cosine` is timm's, per update; `cosine_warm_restarts` torch's, per epoch."""

    name: Literal["constant", "cosine", "cosine_warm_restarts"] = "cosine"
    warmup_epochs: NotNegative = 0.0
    lr_min: NotNegative = 0.0
    T_0: int = Field(10, ge=1)
    T_mult: int = Field(1, ge=1)
    eta_min: NotNegative = 0.0


class Sampler(Strict):
    """Which photos an epoch shows."""

    fraction: float = Field(1.0, gt=0, le=100)  # of the training photos
    photos_per_person: int = Field(len(SHOTS), ge=1, le=len(SHOTS))  # drawn each epoch
    extra: NotNegative = 1.0  # how often an extra photo is shown, compared with one of the folds
    balance: Literal["none", "class", "mask", "age"] = "none"  # even out classes, mask states, age bins
    strength: Unit = 1.0  # 1 evens out fully, 0 not at all


class Mix(Strict):
    """Mixing photos and targets within a batch. `mixup` and `cutmix` are the alpha of their Beta distribution."""

    mixup: NotNegative = 0.0
    cutmix: NotNegative = 0.0
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


class Transform(Strict):
    """One albumentations transform by name and arguments."""

    name: str
    args: dict[str, Any] = Field({})


class SomeOf(Strict):
    """`some_of` transforms of a list, drawn for each photo without repeats and applied in the list's order, each with
    its own `p`: like RandAugment (Cubuk et al. 2020); with 1 like TrivialAugment (Müller & Hutter 2021)."""

    transforms: tuple[Transform, ...] = Field(min_length=1)
    some_of: int = Field(ge=1)
    p: float = Field(1.0, gt=0, le=1)  # that anything is drawn at all

    @field_validator("some_of")
    @classmethod
    def _enough(cls, some_of: int, info: ValidationInfo) -> int:
        transforms = info.data.get("transforms")
        if transforms and some_of > len(transforms):
            raise ValueError(f"there are {len(transforms)} transforms to draw from")
        return some_of


def _kind(entry: Any) -> Literal["Transform", "SomeOf"]:
    draws = entry.keys() & {"some_of", "transforms"} if isinstance(entry, dict) else isinstance(entry, SomeOf)
    return "SomeOf" if draws else "Transform"


Entry = Annotated[Annotated[Transform, Tag("Transform")] | Annotated[SomeOf, Tag("SomeOf")], Discriminator(_kind)]
"""An entry of `augment`."""

ENTRIES: dict[str, type[Strict]] = {"Transform": Transform, "SomeOf": SomeOf}
"""The kinds of entries by the name that pydantic puts into the paths of their errors."""


def shipped(*below: str) -> dict[str, str]:
    """Name -> TOML text of the recipes that come with maskens, or of what is in a folder below them."""
    folder = resources.files("ensemble.recipes").joinpath(*below)
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name[:-5]: f.read_text("utf-8") for f in files}


def policies() -> dict[str, dict[str, Any]]:
    """Name -> entry of the augmentation policies that come with maskens, as parsed TOML."""
    return {name: tomllib.loads(text) for name, text in shipped("policies").items()}


def transforms_in(augment: Sequence[Entry]) -> Iterator[tuple[str, Transform]]:
    """(key path within `augment`, transform) of all that may be applied, those to draw from too."""
    for n, entry in enumerate(augment):
        if isinstance(entry, Transform):
            yield str(n), entry
        else:
            yield from ((f"{n}.transforms.{place}", inner) for place, inner in enumerate(entry.transforms))


ClassWeights = tuple[NotNegative, ...]
TERMS = ("ce", "f1", "focal")  # of a loss, each with a weight


class HeadLoss(Strict):
    """Keys of one head's loss that differ from its task's."""

    weight: float = Field(1.0, gt=0)  # of the head among the others
    ce: NotNegative | None = None
    f1: NotNegative | None = None
    focal: NotNegative | None = None
    gamma: NotNegative | None = None
    label_smoothing: BelowOne | None = None
    class_weights: ClassWeights | None = None
    class_balanced: BelowOne | None = None
    logit_adjustment: NotNegative | None = None


class Loss(Strict):
    """Weights of the loss terms; a task's loss is their weighted sum, added over its heads."""

    ce: NotNegative = 1.0
    f1: NotNegative = 0.0
    focal: NotNegative = 0.0
    gamma: NotNegative = 2.0  # of the focal term
    label_smoothing: BelowOne = 0.0
    class_weights: ClassWeights = ()  # one a class, for tasks with one head; only ratios count
    class_balanced: BelowOne = 0.0  # beta of class weights from counts; 0 is off
    logit_adjustment: NotNegative = 0.0  # tau; 0 is off
    heads: dict[Part, HeadLoss] = Field({})
    balance: Literal["fixed", "uncertainty"] = "fixed"  # of the heads

    @model_validator(mode="after")
    def _consistent(self) -> Loss:
        for where, loss in [("", self), *((f"heads.{part}: ", self.of(part)) for part in self.heads)]:
            in_ce_or_focal = loss.class_weights or loss.class_balanced or loss.label_smoothing
            faults = {
                "every weight is 0: nothing would be trained": not any(getattr(loss, term) for term in TERMS),
                "every class weight is 0: nothing would be trained": loss.class_weights and not any(loss.class_weights),
                "class_weights, class_balanced and label_smoothing go into ce and focal, and both are 0": (
                    in_ce_or_focal and not (loss.ce or loss.focal)
                ),
                "class_balanced are class_weights too: keep one of them": loss.class_balanced and loss.class_weights,
                "class_balanced and logit_adjustment both correct class frequencies: keep one of them": (
                    loss.class_balanced and loss.logit_adjustment
                ),
                "logit_adjustment goes into ce, which is 0": loss.logit_adjustment and not loss.ce,
            }
            _refuse({f"{where}{fault}": there for fault, there in faults.items()})
        return self

    def of(self, part: Part) -> Loss:
        """The loss of one head: its own keys override the task's."""
        own = self.heads[part].model_dump(exclude_none=True, exclude={"weight"}) if part in self.heads else {}
        return self.model_copy(update=own | {"heads": {}, "balance": "fixed"})

    def refuse_unfit(self, output_spec: OutputSpec, evened: str) -> None:
        """Raises ValueError: it does not fit a task with these outputs, whose sampler evens out `evened`: none, class,
        mask or age."""
        kind, heads = output_spec.predicts, output_spec.heads
        parts, several = [head.part for head in heads], len(heads) > 1
        if strange := [part for part in self.heads if part not in parts]:
            raise ValueError(f"heads.{strange[0]}: '{kind}' has no such head, only {', '.join(parts)}")
        if self.balance == "uncertainty" and not several:
            raise ValueError(f"balance: it weighs heads against each other, and '{kind}' has one")
        if self.class_weights and several:
            raise ValueError(f"class_weights: '{kind}' has {len(heads)} heads, use heads.mask.class_weights etc.")
        for head in heads:
            own, where = self.of(head.part), f"heads.{head.part}: " if several else ""
            if len(own.class_weights) not in (0, len(head.bin_labels)):
                given, name = len(own.class_weights), head.part if several else kind
                raise ValueError(f"{where}{given} class_weights, but '{name}' has {len(head.bin_labels)} classes")
            correcting = [key for key in ("class_balanced", "logit_adjustment") if getattr(own, key)]
            if correcting and (evened == "class" or (evened != "none" and head.part in (evened, "class"))):
                raise ValueError(
                    f"{where}{correcting[0]} corrects class frequencies, and so does sampler.balance = '{evened}': "
                    "keep one of them"
                )
            unfit = [key for key in ("f1", "focal", "label_smoothing", "logit_adjustment") if getattr(own, key)]
            if head.kind != "softmax" and unfit:
                raise ValueError(
                    f"{where}a head '{head.kind}' is trained by its likelihood alone, the term ce: set "
                    f"{', '.join(unfit)} to 0"
                )


def soft_f1_warnings(tasks: Sequence[str], consequence: str) -> list[str]:
    """A warning for tasks trained with soft F1 where their probabilities count; nothing without such tasks."""
    if not tasks:
        return []
    return [
        f"loss.f1 of {', '.join(tasks)} is not a proper loss: with ce 0.3 and f1 0.7 a true frequency of 0.80 is "
        f"predicted as 0.91, so {consequence}; set loss.f1 = 0 and loss.ce = 1 (docs/recipes.md)"
    ]


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
    crop: Size | FaceCrop | None = None  # of the centre; "none" takes back an extended recipe's
    masks: Masks = Masks()
    augment: tuple[Entry, ...] = ()
    batch_size: int = Field(32, ge=2, le=4096)
    drop_last: bool = True  # skip an epoch's last batch where it is not full
    accumulate: int = Field(1, ge=1, le=1024)  # batches to one update
    epochs: int = Field(3, ge=1, le=10_000)
    checkpoint: Literal["best", "last"] = "best"  # which epoch's model is kept; best by macro F1 on the held-out fold
    head_epochs: NotNegative = 0.0  # at the start, in which only the new classifier is trained
    sizes: tuple[Size, ...] = ()  # to which photos are shrunk in the first epochs, one an epoch
    frozen_stages: int = Field(0, ge=0)  # of the model, with its stem, that keep their initial weights; 0 is off
    average_epochs: int = Field(0, ge=0)  # at the end, whose mean is the last epoch's model; 0 is off
    ages: Ages = Ages()
    sampler: Sampler = Sampler()
    mix: Mix = Mix()
    loss: Loss = Loss()
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    ema: BelowOne = 0.0  # decay of the averaged weights, per update; 0 is off
    precision: Literal["fp32", "bf16", "fp16", "auto"] = "fp32"

    @field_validator("crop", mode="before")
    @classmethod
    def _no_crop(cls, crop: Any) -> Any:
        if isinstance(crop, str) and crop not in (*get_args(FaceCrop), "none"):
            raise ValueError(f"'{crop}' is neither [height, width] nor 'face', 'eyes' or 'none'")
        return None if crop == "none" else crop

    @field_validator("augment", mode="before")
    @classmethod
    def _policies(cls, augment: Any) -> Any:
        entries = [augment] if isinstance(augment, str) else augment
        names = [entry for entry in entries if isinstance(entry, str)] if isinstance(entries, list) else []
        known = policies() if names else {}
        if unknown := [name for name in names if name not in known]:
            near = did_you_mean(unknown[0], known)
            raise ValueError(f"there is no policy '{unknown[0]}'{near}; there are {', '.join(known)}")
        return [known[entry] if isinstance(entry, str) else entry for entry in entries] if names else augment

    # keys that contradict one another: each is checked against those above it that are right by themselves

    @field_validator("crop")
    @classmethod
    def _within_the_photo(cls, crop: Any, info: ValidationInfo) -> Any:
        resize = info.data.get("resize")
        if isinstance(crop, tuple) and resize and (crop[0] > resize[0] or crop[1] > resize[1]):
            raise ValueError(f"larger than the photo after resize {list(resize)}")
        return crop

    @field_validator("masks")
    @classmethod
    def _face_in_the_crop(cls, masks: Masks, info: ValidationInfo) -> Masks:
        resize, crop = info.data.get("resize"), info.data.get("crop")
        if not (masks.prob and resize and crop) or masks.detect:
            return masks
        if isinstance(crop, str):
            raise ValueError(f'crop = "{crop}" needs detect = true')
        try:
            masks.face.cropped(resize, crop)
        except ValueError:
            raise ValueError(f"the crop {list(crop)} cuts off the eyes, mouth or middle of `face`") from None
        return masks

    @field_validator("head_epochs", "sizes", "average_epochs")
    @classmethod
    def _within_the_epochs(cls, given: Any, info: ValidationInfo) -> Any:
        epochs = info.data.get("epochs")
        if epochs and epochs < (len(given) if isinstance(given, tuple) else given):
            raise ValueError(f"there are only {epochs} epochs")
        return given

    @field_validator("sizes")
    @classmethod
    def _smaller(cls, sizes: tuple[Size, ...], info: ValidationInfo) -> tuple[Size, ...]:
        if {"resize", "crop"} <= info.data.keys():
            height, width, _ = Preprocessing(info.data["resize"], info.data["crop"]).shape
            if any(h > height or w > width for h, w in sizes):
                raise ValueError(f"photos are {[height, width]} and can only become smaller")
        return sizes

    @field_validator("average_epochs")
    @classmethod
    def _nothing_frozen(cls, average_epochs: int, info: ValidationInfo) -> int:
        if average_epochs and info.data.get("frozen_stages"):
            raise ValueError("it recomputes batch norms, and frozen_stages keeps them: set one of the two to 0")
        return average_epochs

    @field_validator("ages")
    @classmethod
    def _of_a_head_of_ages(cls, ages: Ages, info: ValidationInfo) -> Ages:
        if ages.head != "softmax" and info.data.get("predicts") == "class18":
            raise ValueError(f"head '{ages.head}' is for a task with a head of ages; 'class18' has one of 18 classes")
        return ages

    @field_validator("mix")
    @classmethod
    def _in_pairs(cls, mix: Mix, info: ValidationInfo) -> Mix:
        if mix.active and (size := info.data.get("batch_size", 0)) % 2:
            raise ValueError(f"photos are mixed in pairs, and batch_size {size} is odd")
        return mix

    @field_validator("loss")
    @classmethod
    def _fitting_the_heads(cls, loss: Loss, info: ValidationInfo) -> Loss:
        if {"predicts", "ages", "sampler"} <= info.data.keys():
            ages, sampler = info.data["ages"], info.data["sampler"]
            output_spec = OutputSpec(info.data["predicts"], ages.cuts, ages.bin_bands, ages.head)
            loss.refuse_unfit(output_spec, sampler.balance if sampler.strength else "none")
        return loss

    @property
    def preprocessing(self) -> Preprocessing:
        """The fixed steps of its photos."""
        return Preprocessing(self.resize, self.crop, self.decode == "reduced")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) of the model's inputs."""
        return self.preprocessing.shape[:2]

    @property
    def output_spec(self) -> OutputSpec:
        """What the task's model predicts."""
        return OutputSpec(self.predicts, self.ages.cuts, self.ages.bin_bands, self.ages.head)

    @property
    def weights_of_folds(self) -> bool:
        """Whether each fold has initial weights of its own."""
        return FOLD in self.weights

    def of_fold(self, fold: int) -> TaskRecipe:
        """The task with the initial weights of one fold, where each fold has a file of its own. Raises MaskensError:
        there is none for this fold."""
        if not self.weights_of_folds:
            return self
        hashes = self.weights_sha256.split(",")
        if fold >= len(hashes):
            raise MaskensError(
                f"the weights {self.weights} are those of {len(hashes)} folds, and there is none for fold {fold}. Name "
                "a run with the same folds, or one file: --weights FILE"
            )
        file = self.weights.replace(FOLD, str(fold))
        return self.model_copy(update={"weights": file, "weights_sha256": hashes[fold]})

    def of_epochs(self, epochs: int) -> TaskRecipe:
        """The recipe for fewer epochs, if these are fewer. What it counts in epochs shrinks with them, so that the
        schedule still reaches its end, and the last epochs train the whole model on photos of the full size."""
        if epochs >= self.epochs:
            return self
        schedule, share = self.schedule, epochs / self.epochs
        cycle = max(epochs, round(schedule.T_0 * share))  # a single one at most
        fewer = {
            "epochs": epochs,
            "head_epochs": self.head_epochs * share,
            "sizes": self.sizes[len(self.sizes) - len(self.sizes) * epochs // self.epochs :],
            "average_epochs": self.average_epochs * epochs // self.epochs,
            "schedule": schedule.model_copy(update={"warmup_epochs": schedule.warmup_epochs * share, "T_0": cycle}),
        }
        return self.model_copy(update=fewer)

    @property
    def soft_f1(self) -> bool:
        """Whether a head's loss has the term f1."""
        return any(self.loss.of(head.part).f1 for head in self.output_spec.heads)

    @property
    def hash(self) -> str:
        """sha256 of all that decides a job's result but data, folds, seed and the task's name.

        Initial weights count by their content, not by their path. Keys at their default don't count, so that a new key
        leaves the hashes of older recipes as they are.
        """
        ages = self.ages.model_copy(update={"bands": () if self.ages.in_bands else self.ages.bin_bands})
        known = self.model_copy(update={"weights": "", "ages": ages})
        return sha256(json.dumps(known.model_dump(mode="json", exclude_defaults=True), sort_keys=True))


class Recipe(Strict):
    """The tasks of a run, and the views of its models' out-of-fold logits."""

    name: str
    description: str = ""
    tta: OwnSets = Field({})  # sets of views of one's own
    oof_tta: OofSets = ("flip",)  # sets whose views out-of-fold logits are kept in, beside those of flip
    tasks: dict[Annotated[str, Field(pattern=r"^[\w-]{1,64}$")], TaskRecipe]  # their names are folders of a run

    @field_validator("tasks")
    @classmethod
    def _all_classes(cls, tasks: dict[str, TaskRecipe]) -> dict[str, TaskRecipe]:
        if missing := undetermined([task.predicts for task in tasks.values()]):
            raise ValueError(f"the 18 classes need more tasks: nothing predicts {', '.join(missing)}")
        return tasks

    @property
    def oof_views(self) -> tuple[str, ...]:
        """The views that out-of-fold logits are kept in, those of flip first: score, tune and compare take flip where
        nothing else is named. No part of `hash`, as they change nothing that is trained."""
        known = SETS | self.tta
        return tuple(dict.fromkeys(view for name in ("flip", *self.oof_tta) for view in known[name].views))

    @property
    def soft_f1_tasks(self) -> list[str]:
        """The tasks trained with soft F1, whose probabilities are overconfident."""
        return [name for name, task in self.tasks.items() if task.soft_f1]

    @property
    def text(self) -> str:
        """The recipe as TOML with every value written out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))

    @property
    def hash(self) -> str:
        """sha256 of its tasks' names and hashes."""
        return sha256(json.dumps([[name, task.hash] for name, task in self.tasks.items()]))
