"""Faster training that changes nothing else: a measured precision, a compiled model, a fused optimizer."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import precision as pace
from ensemble.models.precision import AutotuneCache, autotune_precision, compile_for_training, measure
from ensemble.recipes.schema import Optimizer, TaskRecipe
from ensemble.training.optimizer import make_optimizer
from ensemble.training.trainer import Trainer, ahead

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RECIPE = TaskRecipe.model_validate(
    {"predicts": "mask", "model": "test_resnet", "batch_size": 4, "epochs": 2, "ema": 0.5}
    | {"model_args": {"drop_rate": 0.3}}
)


class Pooled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(dim=(2, 3)))


def new_model() -> nn.Module:
    """With dropout and batch norm: what a careless trial would disturb."""
    torch.manual_seed(0)
    model: nn.Module = timm.create_model("test_resnet", num_classes=3, drop_rate=0.3)
    return model.train()


def batches(number: int = 3) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    photos = torch.randint(0, 256, (4 * number, 32, 24, 3), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, (4 * number, 1), generator=generator)
    return list(zip(photos.split(4), labels.split(4), strict=True))


def trained(precision: str = "fp32", measured: AutotuneCache | None = None, compile: bool = False) -> Trainer:
    """A trainer after one epoch."""
    recipe = RECIPE.model_copy(update={"precision": precision})
    trainer = Trainer(recipe, new_model(), MEAN, STD, CPU, (7,), 3, measured, compile)
    trainer.epoch(0, batches(), lambda *told: None)
    return trainer


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items())


def took(monkeypatch: pytest.MonkeyPatch, fp32: float, bf16: float) -> None:
    """Let the two precisions seem to take these seconds a step; the steps are made all the same."""
    real = pace.step_seconds

    def pretended(model: nn.Module, x: Tensor, *ways: pace.Precision) -> tuple[float, ...]:
        assert len(real(model, x, *ways)) == 2
        return fp32, bf16

    monkeypatch.setattr(pace, "step_seconds", pretended)


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 3, 32, 24, generator=torch.Generator().manual_seed(2))


def test_auto_takes_16_bits_only_where_they_are_clearly_faster(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    model = new_model()
    took(monkeypatch, 1.0, 0.5)
    assert measure(model, x) == ("bf16", "precision auto: bf16, 2.00 times as fast as fp32")
    took(monkeypatch, 1.0, 0.95)
    assert measure(model, x) == ("fp32", "precision auto: fp32, because bf16 is 1.05 times as fast")


def test_auto_does_not_take_what_the_model_does_not_stand(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Cancelling(Pooled):
        def forward(self, x: Tensor) -> Tensor:
            return (super().forward(x) + 1e3) - 1e3  # the sum swallows the logits in 16 bits

    took(monkeypatch, 1.0, 0.1)
    precision, note = measure(Cancelling(3, 3), x)
    assert precision == "fp32"
    assert "bf16 falls back to fp32: its logits differ by" in note


def test_a_training_whose_auto_ends_in_fp32_is_that_of_fp32_to_the_last_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    took(monkeypatch, 1.0, 1.0)
    plain, auto = trained("fp32"), trained("auto")
    assert auto.precision == "fp32"
    assert "precision auto: fp32" in auto.notes[0]
    assert same(plain.model, auto.model)
    assert same(plain.eval_model, auto.eval_model)


def test_auto_that_takes_16_bits_trains_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    took(monkeypatch, 1.0, 0.5)
    assert same(trained("bf16").model, trained("auto").model)


def test_the_folds_of_a_task_measure_once_and_a_resumed_job_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = AutotuneCache(tmp_path, "hash", CPU, threads=1)
    took(monkeypatch, 1.0, 0.5)
    first = trained("auto", measured)
    monkeypatch.setattr(pace, "measure", lambda *_: pytest.fail("measured again"))
    assert trained("auto", measured).precision == first.precision == "bf16"
    resumed = Trainer(first.recipe, new_model(), MEAN, STD, CPU, (7,), 3)
    resumed.load(copy.deepcopy(first.state()))
    resumed.epoch(1, batches(), lambda *told: None)
    assert (resumed.precision, resumed.notes) == ("bf16", first.notes)


@pytest.mark.parametrize("other", [{"task_hash": "other"}, {"threads": 2}])
def test_what_was_measured_counts_for_the_same_task_and_threads_only(tmp_path: Path, other: dict[str, object]) -> None:
    first = {"run": tmp_path, "task_hash": "hash", "device": CPU, "threads": 1}
    assert AutotuneCache(**first).get_or_measure(lambda: ("bf16", "a")) == ("bf16", "a")  # type: ignore[arg-type]
    assert AutotuneCache(**first | other).get_or_measure(lambda: ("fp32", "b")) == ("fp32", "b")  # type: ignore[arg-type]
    assert AutotuneCache(**first).read() == ("bf16", "a")  # type: ignore[arg-type]


def test_a_damaged_record_is_measured_anew(tmp_path: Path) -> None:
    measured = AutotuneCache(tmp_path, "hash", CPU, threads=1)
    for damaged in ("{", "[]", f'{{"{measured.key}": {{"precision": "fp8", "note": ""}}}}'):
        measured.file.write_text(damaged)
        assert measured.read() is None
        assert measured.get_or_measure(lambda: ("bf16", "")) == ("bf16", "")


def test_a_precision_that_is_named_is_not_measured(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "measure", lambda *_: pytest.fail("measured"))
    assert autotune_precision(new_model(), x, "fp32") == ("fp32", "")
    assert autotune_precision(new_model(), x, "bf16") == ("bf16", "")


def test_a_compiled_training_is_the_plain_one_and_leaves_the_plain_model(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        nonlocal calls
        calls += 1
        return graph.forward

    monkeypatch.setattr(pace, "COMPILER", backend)
    plain, faster = trained(), trained(compile=True)
    assert faster.notes[1].startswith("compiled in ")
    assert faster.forward is not faster.model
    assert calls == 1, "for the trial and the training together"
    assert same(plain.model, faster.model)
    assert same(plain.eval_model, faster.eval_model)
    timm.create_model("test_resnet", num_classes=3).load_state_dict(faster.eval_model.state_dict())


def test_models_one_after_the_other_in_a_process_are_all_compiled(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        nonlocal calls
        calls += 1
        return graph.forward

    monkeypatch.setattr(pace, "COMPILER", backend)
    for _ in range(10):
        compile_for_training(Pooled(3, 3), x, "fp32")
    assert calls == 10


def test_gradients_go_through_the_compiler_too(x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "COMPILER", "aot_eager")
    model = new_model().eval()
    forward, note = compile_for_training(model, x, "fp32")
    assert note.startswith("compiled in ")
    forward(x).sum().backward()
    found = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    model(x).sum().backward()
    for a, b in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad)


def test_where_nothing_compiles_training_goes_on_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("No working C++ compiler found\nmore than one line")

    monkeypatch.setattr(pace, "COMPILER", broken)
    plain, eager = trained(), trained(compile=True)
    assert eager.notes[1] == "not compiled, trains as without --compile: No working C++ compiler found"
    assert eager.forward is eager.model
    assert same(plain.model, eager.model)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lookahead_adamw"])
def test_optimizers_that_can_are_fused(name: str) -> None:
    layer = nn.Linear(3, 2)
    assert all(g["fused"] for g in make_optimizer(layer, Optimizer(name=name)).param_groups)
    assert not any(
        g.get("fused") for g in make_optimizer(layer, Optimizer(name=name, args={"fused": False})).param_groups
    )
    assert all(g["foreach"] for g in make_optimizer(layer, Optimizer(name=name, args={"foreach": True})).param_groups)


def test_optimizers_that_can_not_are_as_before_and_wrong_arguments_still_refused() -> None:
    layer = nn.Linear(3, 2)
    assert "fused" not in make_optimizer(layer, Optimizer(name="lamb")).param_groups[0]
    with pytest.raises(TypeError, match="beta"):
        make_optimizer(layer, Optimizer(name="adamw", args={"beta": 1}))


def test_a_fused_update_is_the_plain_one() -> None:
    plain, fused = new_model(), new_model()
    optimizers = [make_optimizer(plain, Optimizer(args={"fused": False})), make_optimizer(fused, Optimizer())]
    for model, optimizer in zip((plain, fused), optimizers, strict=True):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, 0.1)
        for _ in range(3):
            optimizer.step()
    for a, b in zip(plain.parameters(), fused.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_batches_copied_ahead_are_the_same_in_the_same_order_one_ahead() -> None:
    taken = 0

    def source() -> object:
        nonlocal taken
        for batch in batches(4):
            taken += 1
            yield batch

    for number, (photos, labels) in enumerate(ahead(source(), CPU)):  # type: ignore[arg-type]
        assert torch.equal(photos, batches(4)[number][0])
        assert torch.equal(labels, batches(4)[number][1])
        assert taken == min(number + 2, 4), "the next is on its way, and no more"
    assert number == 3
    assert list(ahead([], CPU)) == []
