from __future__ import annotations

import copy
from itertools import pairwise
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import ensemble.models.precision
from ensemble.models.build import to_input
from ensemble.recipes.schema import TaskRecipe
from ensemble.training.optimizer import backbone_freezer, ema_decay, freeze_stages
from ensemble.training.trainer import Trainer

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
PLAIN = {
    "predicts": "mask",
    "model": "none",
    "batch_size": 4,
    "epochs": 2,
    "schedule": {"name": "constant"},
    "optimizer": {"name": "momentum", "lr": 0.1, "weight_decay": 0, "args": {"momentum": 0}},
}


class Linear(nn.Module):
    """Without batch norm, so that two half batches are worth one whole."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.layer = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.mean(dim=(2, 3)))  # type: ignore[no-any-return]


def batches(size: int, number: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    photos = torch.randint(0, 256, (size * number, 8, 6, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (size * number, 1), generator=generator)
    return list(zip(photos.split(size), labels.split(size), strict=True))


class Small(Linear):
    """In memory for 3 photos only; as of a backward pass that fails, some gradients are left."""

    most, cause = 3, "DefaultCPUAllocator: can't allocate memory: you tried to allocate 64 bytes."

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > self.most:
            self.layer.weight.grad = torch.ones_like(self.layer.weight)
            raise RuntimeError(self.cause)
        return super().forward(x)


def trained(
    loader: list[tuple[Tensor, Tensor]], kind: type[Linear] = Linear, **changes: object
) -> tuple[Trainer, list[Tensor]]:
    """A trainer after one epoch, and the layer's weights after each batch."""
    torch.manual_seed(0)
    model = kind()
    trainer = Trainer(TaskRecipe.model_validate(PLAIN | changes), model, MEAN, STD, CPU, (7,), len(loader))
    seen: list[Tensor] = []
    trainer.epoch(0, loader, lambda *_: seen.append(model.layer.weight.detach().clone()))
    return trainer, seen


def test_accumulated_batches_are_worth_one_large_one() -> None:
    whole, _ = trained(batches(8), batch_size=8)
    halves, steps = trained(
        [(p, t) for b in batches(8) for p, t in zip(b[0].split(4), b[1].split(4), strict=True)], accumulate=2
    )
    assert torch.allclose(halves.model.layer.weight, whole.model.layer.weight, atol=1e-6)
    assert halves.updates == 3
    assert torch.equal(steps[0], untrained()), "no update after half a batch"


@pytest.mark.parametrize(
    "changes", [{}, {"accumulate": 2}, {"accumulate": 2, "mix": {"mixup": 0.4}}, {"loss": {"class_weights": [1, 2, 3]}}]
)
def test_a_batch_too_large_for_the_memory_is_trained_on_in_parts_with_the_same_result(changes: dict[str, Any]) -> None:
    loader = [(photos[:size], labels[:size]) for (photos, labels), size in zip(batches(8), (2, 8, 6), strict=True)]
    whole, steps = trained(loader, batch_size=8, **changes)
    parts, found = trained(loader, Small, batch_size=8, **changes)
    assert (whole.micro_batch, parts.micro_batch) == (8, 2)
    for step, its in zip(steps, found, strict=True):
        torch.testing.assert_close(its, step)


def test_other_errors_and_too_little_memory_for_one_photo_end_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Small, "most", 0)
    with pytest.raises(torch.OutOfMemoryError, match="tried to allocate 64 bytes"):
        trained(batches(4), Small)
    monkeypatch.setattr(Small, "cause", "shapes do not fit")
    with pytest.raises(RuntimeError, match="shapes do not fit") as error:
        trained(batches(4), Small)
    assert not isinstance(error.value, torch.OutOfMemoryError)


def untrained() -> Tensor:
    torch.manual_seed(0)
    return Linear().layer.weight.detach()


def test_a_last_group_that_is_not_full_counts_whole() -> None:
    loader = batches(4, 3)
    trainer, steps = trained(loader, accumulate=2)
    assert trainer.updates == 2
    assert not torch.equal(steps[1], steps[2]), "the third batch makes an update of its own"
    alone, after = trained(loader[:2], accumulate=2)
    torch.testing.assert_close(after[1], steps[1])
    gradient = (steps[1] - steps[2]) / 0.1
    alone.model.zero_grad()
    alone.precision = "fp32"
    alone._backward((*loader[2], 0, 2), 1)
    assert torch.allclose(alone.model.layer.weight.grad, gradient, atol=1e-5)  # type: ignore[arg-type]


def test_averaged_weights_are_the_mean_of_all_updates_in_the_powers_of_the_decay() -> None:
    trainer, steps = trained(batches(4, 6), ema=0.6)
    shares = 0.6 ** torch.arange(5, -1, -1.0)
    average = (shares[:, None, None] * torch.stack(steps)).sum(dim=0) / shares.sum()
    assert torch.allclose(trainer.eval_model.layer.weight, average, atol=1e-6)
    assert not torch.allclose(trainer.model.layer.weight, average, atol=1e-4)


def test_the_decay_of_averaged_weights_means_what_it_says_in_a_short_job() -> None:
    """1,417 updates are six epochs of a fold; a warm-up that follows the model more closely makes all of them alike."""
    found = [ema_decay(decay, 1417) for decay in (0.9, 0.99, 0.998, 0.999, 0.9999)]
    assert found[:3] == pytest.approx([0.9, 0.99, 0.998], abs=2e-4)
    assert all(b - a > 3e-4 for a, b in pairwise(found))
    assert ema_decay(0.9999, 1) == 0, "the initial weights are never part of it"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_computes_in_16_bits_and_learns_nearly_the_same(precision: str) -> None:
    exact, _ = trained(batches(4))
    assert exact.eval_model is exact.model, "without averaging the model itself is kept"
    mixed, _ = trained(batches(4), precision=precision)
    assert (mixed.precision, mixed.note) == (precision, "")
    assert not torch.equal(mixed.model.layer.weight, exact.model.layer.weight)
    assert torch.allclose(mixed.model.layer.weight, exact.model.layer.weight, atol=1e-2)
    assert mixed.model.layer.weight.dtype == torch.float32


@pytest.mark.parametrize("name", ["momentum", "lookahead_adamw"])
def test_learned_weights_of_heads_resume_from_a_state_and_are_no_part_of_the_model(name: str) -> None:
    changes = {"predicts": "heads", "loss": {"balance": "uncertainty"}}
    changes |= {"optimizer": {"name": name, "lr": 0.1}, "schedule": {"name": "cosine"}}
    generator = torch.Generator().manual_seed(1)
    loader = [(p, torch.randint(0, 2, (4, 3), generator=generator)) for p, _ in batches(4, 4)]

    def trainer() -> Trainer:
        torch.manual_seed(0)
        return Trainer(TaskRecipe.model_validate(PLAIN | changes), Linear(8), MEAN, STD, CPU, (7,), len(loader))

    whole, resumed = trainer(), trainer()
    whole.epoch(0, loader, lambda *_: None)
    state = copy.deepcopy(whole.state())
    resumed.load(state)
    for each in (whole, resumed):
        each.epoch(1, loader, lambda *_: None)
    assert whole.log_variances is not None and resumed.log_variances is not None
    assert torch.equal(whole.log_variances, resumed.log_variances)
    assert not torch.equal(whole.log_variances, state["log_variances"])
    assert torch.equal(resumed.eval_model.layer.weight, whole.eval_model.layer.weight)
    assert whole.eval_model.state_dict().keys() == Linear(8).state_dict().keys()


def test_only_training_is_adjusted_for_how_many_photos_there_are() -> None:
    loader = batches(4)
    learned = torch.tensor([0] * 90 + [1] * 9 + [2])[:, None]
    found = {}
    for tau in (0.0, 1.0):
        torch.manual_seed(0)
        model, recipe = Linear(), TaskRecipe.model_validate(PLAIN | {"loss": {"logit_adjustment": tau}})
        trainer = Trainer(recipe, model, MEAN, STD, CPU, (7,), len(loader), labels=learned)
        trainer.epoch(0, loader, lambda *_: None)
        found[tau] = model.layer.bias.detach()
    assert found[1.0][2] > found[0.0][2], "the rare class is held higher than its share"
    assert found[1.0][0] < found[0.0][0]


def resnet(loader: list[tuple[Tensor, Tensor]], compile: bool = False, **changes: object) -> Trainer:
    """A trainer of a small model that has batch norms and a classifier, before its first epoch."""
    torch.manual_seed(0)
    recipe = TaskRecipe.model_validate(PLAIN | changes)
    model = timm.create_model("test_resnet", num_classes=3)
    return Trainer(recipe, model, MEAN, STD, CPU, (7,), len(loader), compile=compile)


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return copy.deepcopy(trainer.model.state_dict())


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_classifier_trains_alone_for_head_epochs() -> None:
    loader = batches(4, 4)
    optimizer = {"name": "adamw", "lr": 0.01, "weight_decay": 0.1}
    trainer = resnet(loader, head_epochs=1.5, optimizer=optimizer)
    seen = [weights(trainer)]
    for epoch in range(2):
        trainer.epoch(epoch, loader, lambda *_: seen.append(weights(trainer)))
        trainer.model.eval()  # as validation leaves it
    steps = [changed(a, b) for a, b in pairwise(seen)]
    assert steps[:6] == [{"fc.weight", "fc.bias"}] * 6, "neither weights nor batch norm's statistics move, nor decay"
    assert changed(seen[6], seen[8]) == set(seen[0])


def test_frozen_stages_keep_their_weights_and_statistics() -> None:
    loader = batches(4, 3)
    trainer = resnet(loader, frozen_stages=2, head_epochs=1, ema=0.5, epochs=2)
    before, found = weights(trainer), []
    for epoch in range(2):
        trainer.epoch(epoch, loader, lambda *_: None)
        trainer.model.eval()  # as validation leaves it
        found.append(changed(before, weights(trainer)))
    assert found[0] == {"fc.weight", "fc.bias"}
    assert found[1] == {name for name in before if name.startswith(("layer3", "layer4", "fc"))}
    with pytest.raises(ValueError, match="at most 3 stages"):
        freeze_stages(trainer.model, 4)


def test_what_never_learns_stays_that_way_once_everything_does() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    fixed = model.get_parameter("layer1.0.conv1.weight").requires_grad_(False)
    freeze = backbone_freezer(model)
    freeze(True)
    freeze(False)
    assert [p for p in model.parameters() if not p.requires_grad] == [fixed]
    with pytest.raises(ValueError, match="timm doesn't name the classifier of this model"):
        backbone_freezer(Linear())


def test_the_first_epochs_see_smaller_photos_and_the_others_whole_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    loader, shapes = batches(4, 2), []
    trainer = resnet(loader, epochs=3, resize=[32, 24], sizes=[[16, 16], [24, 20]])
    loader = [(F.interpolate(p.permute(0, 3, 1, 2), (32, 24)).permute(0, 2, 3, 1), t) for p, t in loader]
    trainer.model.register_forward_pre_hook(lambda _, args: shapes.append(tuple(args[0].shape[2:])))
    for epoch in range(3):
        trainer.epoch(epoch, loader, lambda *_: None)
    assert shapes == [(16, 16)] * 2 + [(24, 20)] * 2 + [(32, 24)] * 2


def test_the_last_epochs_are_averaged_with_statistics_measured_anew() -> None:
    loader = batches(4, 3)
    trainer, ends = resnet(loader, epochs=4, average_epochs=3), []
    for epoch in range(4):
        assert trainer.eval_model is trainer.model, "each epoch but the last is judged by itself"
        trainer.epoch(epoch, loader, lambda *_: None)
        ends.append(weights(trainer))
    mean = trainer.eval_model
    assert mean is not trainer.model
    for name, weight in mean.named_parameters():
        torch.testing.assert_close(weight, torch.stack([end[name] for end in ends[1:]]).mean(0))
    statistics = torch.cat([to_input(photos, MEAN, STD, CPU) for photos, _ in loader]).split(4)
    with torch.no_grad():
        first = [mean.get_submodule("conv1")(x) for x in statistics]  # type: ignore[operator]
    expected = torch.stack([x.mean(dim=(0, 2, 3)) for x in first]).mean(0)
    torch.testing.assert_close(mean.get_buffer("bn1.running_mean"), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("changes", [{"head_epochs": 0.5}, {"sizes": [[16, 16]]}])
def test_a_compiled_model_follows_the_first_epochs(changes: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble.models.precision, "COMPILER", "eager")
    loader = [(p.repeat(1, 4, 4, 1), t) for p, t in batches(4, 4)]
    results = []
    for compile in (False, True):
        trainer = resnet(loader, compile, resize=[32, 24], **changes)
        for epoch in range(2):
            trainer.epoch(epoch, loader, lambda *_: None)
        results.append(weights(trainer))
    assert trainer.compile_note.startswith("compiled in")
    assert changed(*results) == set()
