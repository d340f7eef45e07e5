"""16 bits where the model stands them and they are faster; compiled models and fused optimizers change nothing else."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from ensemble.models import precision as pace
from ensemble.models.engine import FP32, Precision
from ensemble.models.precision import AutotuneCache, choose_precision, compile_for_training, measure
from ensemble.recipes.schema import Optimizer, TaskRecipe
from ensemble.training.optimizer import make_optimizer
from ensemble.training.trainer import Trainer

CPU = torch.device("cpu")
MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)
RECIPE = TaskRecipe.model_validate(
    {"predicts": "mask", "model": "test_resnet", "batch_size": 4, "epochs": 2, "ema": 0.5}
    | {"model_args": {"drop_rate": 0.3}}
)
X = torch.randn(4, 3, 32, 24, generator=torch.Generator().manual_seed(2))


class Scaled(nn.Module):
    """Logits too large for fp16."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.linear(x.mean(dim=(2, 3)) + 1, torch.full((3, 3), 1e5))


class Pooled(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.mean(dim=(2, 3)))


class Cancelling(Pooled):
    def forward(self, x: Tensor) -> Tensor:
        return (super().forward(x) + 1e3) - 1e3  # the sum swallows the logits in 16 bits


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
    trainer.epoch(0, batches(), lambda *_: None)
    return trainer


def same(a: Trainer, b: Trainer) -> bool:
    pairs = ((a.model, b.model), (a.eval_model, b.eval_model))
    return all(torch.equal(v, y.state_dict()[k]) for x, y in pairs for k, v in x.state_dict().items())


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Seconds that steps and forward passes seem to take in each precision; the steps are made all the same."""
    seconds = {"fp32": 1.0, "bf16": 0.5}
    real = pace.step_seconds

    def pretended(model: nn.Module, x: Tensor, *ways: Precision) -> tuple[float, ...]:
        assert len(real(model, x, *ways)) == 2
        return tuple(seconds[way] for way in ways)

    monkeypatch.setattr(pace, "step_seconds", pretended)
    monkeypatch.setattr(pace, "forward_seconds", lambda model, x, way: seconds[way])
    return seconds


def test_auto_takes_16_bits_only_where_they_agree_and_are_clearly_faster(took: dict[str, float]) -> None:
    model = new_model()
    assert measure(model, X) == ("bf16", "precision auto: bf16, 2.00 times as fast as fp32")
    assert choose_precision(model.eval(), X, "auto").precision == "bf16"
    assert measure(Cancelling(3, 3), X)[0] == choose_precision(Cancelling(3, 3), X, "auto").precision == "fp32"
    took["bf16"] = 0.95
    assert measure(model, X) == ("fp32", "precision auto: fp32, because bf16 is 1.05 times as fast")
    assert choose_precision(model.eval(), X, "auto") == FP32


def test_a_named_precision_is_used_where_it_agrees_and_its_difference_reported() -> None:
    assert choose_precision(nn.Identity(), X, "fp32") == FP32, "not even tried"
    model = new_model().eval()
    with torch.inference_mode():
        exact = model(X)
        with torch.autocast("cpu", torch.bfloat16):
            rough = model(X).float()
    chosen = choose_precision(model, X, "bf16")
    assert chosen.precision == "bf16"
    assert 0 < chosen.difference == pytest.approx(float((rough - exact).abs().max()))
    chosen = choose_precision(Scaled(), X, "fp16")
    assert chosen.precision == "fp32"
    assert "overflow" in chosen.note


@pytest.mark.parametrize(("seconds", "precision"), [(1.0, "fp32"), (0.5, "bf16")])
def test_training_in_auto_is_that_of_its_precision(took: dict[str, float], seconds: float, precision: str) -> None:
    took["bf16"] = seconds
    auto = trained("auto")
    assert auto.precision == precision
    assert f"precision auto: {precision}" in auto.note
    assert same(trained(precision), auto)


def test_the_folds_of_a_task_measure_once_and_a_resumed_job_not_at_all(
    tmp_path: Path, took: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = AutotuneCache(tmp_path, "hash", CPU, threads=1)
    first = trained("auto", measured)
    monkeypatch.setattr(pace, "measure", lambda *_: pytest.fail("measured again"))
    assert trained("auto", measured).precision == first.precision == "bf16"
    resumed = Trainer(first.recipe, new_model(), MEAN, STD, CPU, (7,), 3)
    resumed.load(copy.deepcopy(first.state()))
    resumed.epoch(1, batches(), lambda *_: None)
    assert (resumed.precision, resumed.note) == ("bf16", first.note)


def test_what_was_measured_counts_for_the_same_task_and_threads_only_and_undamaged(tmp_path: Path) -> None:
    first = AutotuneCache(tmp_path, "hash", CPU, threads=1)
    assert first.get_or_measure(lambda: ("bf16", "a")) == ("bf16", "a")
    for other in (AutotuneCache(tmp_path, "other", CPU, 1), AutotuneCache(tmp_path, "hash", CPU, 2)):
        assert other.get_or_measure(lambda: ("fp32", "b")) == ("fp32", "b")
    assert first.get_or_measure(lambda: ("fp32", "c")) == ("bf16", "a")
    file = tmp_path / "precision.json"
    key = next(iter(json.loads(file.read_text())))
    for damaged in ("{", "[]", json.dumps({key: {"precision": "fp8", "note": ""}})):
        file.write_text(damaged)
        assert first.get_or_measure(lambda: ("bf16", "d")) == ("bf16", "d")


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[torch.fx.GraphModule]:
    """The graphs that torch would have compiled."""
    graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: object) -> object:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(pace, "COMPILER", backend)
    return graphs


def test_models_one_after_the_other_in_a_process_are_all_compiled(compiled: list[torch.fx.GraphModule]) -> None:
    for _ in range(10):
        compile_for_training(Pooled(3, 3), X, "fp32")
    assert len(compiled) == 10


def test_where_nothing_compiles_training_continues_and_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("No working C++ compiler found\nmore than one line")

    monkeypatch.setattr(pace, "COMPILER", broken)
    eager = trained(compile=True)
    assert eager.compile_note.endswith("without --compile: No working C++ compiler found")
    assert eager.forward is eager.model
    assert same(trained(), eager)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "lookahead_adamw", "lamb"])
def test_optimizers_that_can_are_fused_unless_the_recipe_differs(name: str) -> None:
    def group(**args: object) -> dict[str, object]:
        return make_optimizer(nn.Linear(3, 2), Optimizer(name=name, args=args)).param_groups[0]

    assert group().get("fused") == (None if name == "lamb" else True)
    if name != "lamb":
        assert not group(fused=False).get("fused")
        assert group(foreach=True)["foreach"]
    with pytest.raises(TypeError, match="beta"):
        group(beta=1)
