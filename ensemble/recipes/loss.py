"""The loss of a recipe: a mix of terms, the same for all heads of a task or each head its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, model_validator

from ensemble.recipes.strict import Strict
from ensemble.recipes.tasks import OutputSpec, Part

ClassWeights = tuple[Annotated[float, Field(ge=0)], ...]


class HeadLoss(Strict):
    """What one head's loss has otherwise than its task's; keys that are left out are the task's."""

    weight: float = Field(1.0, gt=0)  # of the head among the others
    ce: float | None = Field(None, ge=0)
    f1: float | None = Field(None, ge=0)
    focal: float | None = Field(None, ge=0)
    gamma: float | None = Field(None, ge=0)
    label_smoothing: float | None = Field(None, ge=0, lt=1)
    class_weights: ClassWeights | None = None
    class_balanced: float | None = Field(None, ge=0, lt=1)
    logit_adjustment: float | None = Field(None, ge=0)


LOSS_SETTINGS = {  # keys of a loss that are no term's weight
    "gamma",
    "label_smoothing",
    "class_weights",
    "class_balanced",
    "logit_adjustment",
    "heads",
    "balance",
}


class Loss(Strict):
    """Weights of the loss terms; a task's loss is their weighted sum, added over its heads."""

    ce: float = Field(1.0, ge=0)
    f1: float = Field(0.0, ge=0)
    focal: float = Field(0.0, ge=0)
    gamma: float = Field(2.0, ge=0)  # of the focal term
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    class_weights: ClassWeights = ()  # one a class, for tasks with one head; only ratios count
    class_balanced: float = Field(0.0, ge=0, lt=1)  # beta of class weights from counts; 0 is off
    logit_adjustment: float = Field(0.0, ge=0)  # tau; 0 is off
    heads: dict[Part, HeadLoss] = Field({})  # what single heads have otherwise
    balance: Literal["fixed", "uncertainty"] = "fixed"  # of the heads

    @model_validator(mode="after")
    def _not_nothing(self) -> Loss:
        faults = {"": self._fault()} | {f"heads.{part}: ": self.of(part)._fault() for part in self.heads}
        for where, fault in faults.items():
            if fault:
                raise ValueError(where + fault)
        return self

    def _fault(self) -> str:
        """What can't be meant, in words; "" if nothing."""
        if not any(getattr(self, name) for name in type(self).model_fields.keys() - LOSS_SETTINGS):
            return "every weight is 0: nothing would be learned"
        if self.class_weights and not any(self.class_weights):
            return "every class weight is 0: nothing would be learned"
        if (self.class_weights or self.label_smoothing) and self.ce + self.focal == 0:
            return "class_weights and label_smoothing go into ce and focal, and both are 0"
        if self.class_balanced and self.ce + self.focal == 0:
            return "class_balanced goes into ce and focal, and both are 0"
        if self.class_balanced and self.class_weights:
            return "class_balanced are class_weights too: keep one of them"
        if self.class_balanced and self.logit_adjustment:
            return "class_balanced and logit_adjustment both correct for how frequent classes are: keep one of them"
        if self.logit_adjustment and not self.ce:
            return "logit_adjustment goes into ce, which is 0"
        return ""

    def of(self, part: Part) -> Loss:
        """The terms of one head, its own keys before the task's."""
        own = self.heads[part].model_dump(exclude_none=True, exclude={"weight"}) if part in self.heads else {}
        return self.model_copy(update=own | {"heads": {}, "balance": "fixed"})

    def weight_of(self, part: Part) -> float:
        """The weight of a head among the others."""
        return self.heads[part].weight if part in self.heads else 1.0

    def fault_with(self, target: OutputSpec, evened: str = "none") -> str:
        """What does not fit a task that predicts `target`, in words; "" if nothing.

        Args:
            evened: what the sampler evens out: none, class or age.
        """
        kind, heads = target.predicts, target.heads
        parts = [head.part for head in heads]
        if strange := [part for part in self.heads if part not in parts]:
            return f"heads.{strange[0]}: '{kind}' has no such head, only {', '.join(parts)}"
        if self.balance == "uncertainty" and len(heads) == 1:
            return f"balance weighs heads against each other, and '{kind}' has one"
        if self.class_weights and len(heads) > 1:
            return (
                f"class_weights need a task with one head; '{kind}' has {len(heads)}: "
                "give them to a head, as heads.mask.class_weights"
            )
        for head in heads:
            own, several = self.of(head.part), len(heads) > 1
            where, name = (f"heads.{head.part}: ", head.part) if several else ("", kind)
            given, bins = len(own.class_weights), len(head.merge)
            if given not in (0, bins):
                return f"{where}{given} class_weights, but '{name}' has {bins} classes"
            correcting = [key for key in ("class_balanced", "logit_adjustment") if getattr(own, key)]
            if correcting and (evened == "class" or (evened == "age" and head.part in ("age", "class"))):
                return (
                    f"{where}{correcting[0]} corrects for how frequent classes are, and sampler.balance = '{evened}' "
                    "evens them out already: keep one of them"
                )
            unfit = [key for key in _SOFTMAX_ONLY if getattr(own, key)]
            if head.kind != "softmax" and unfit:
                return (
                    f"{where}{', '.join(unfit)} can't go with ages.head '{head.kind}', which learns by its likelihood "
                    f"alone, the term ce: set {'it' if len(unfit) == 1 else 'them'} to 0"
                    f"{' in loss.heads.age' if several else ''}"
                )
        return ""


def soft_f1_warnings(tasks: Sequence[str], so: str) -> list[str]:
    """What to say where probabilities count of tasks that learn soft F1; nothing without such tasks.

    Args:
        so: what follows there.
    """
    if not tasks:
        return []
    return [
        f"loss.f1 of {', '.join(tasks)} is not a proper loss: with ce 0.3 and f1 0.7 a true frequency of 0.80 is "
        f"learned as a probability of 0.91, so {so}; set loss.f1 = 0 and loss.ce = 1 (docs/recipes.md)"
    ]


_SOFTMAX_ONLY = ("f1", "focal", "label_smoothing", "logit_adjustment")
