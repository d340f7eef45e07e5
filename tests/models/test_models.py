from __future__ import annotations

import argparse
import errno
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.constants
import huggingface_hub.errors
import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from cards import model_card

from ensemble.jobs.card import read_card
from ensemble.models.build import create, load_checkpoint, save_checkpoint, to_input
from ensemble.recipes.schema import TaskRecipe
from folds.errors import MaskensError

CPU = torch.device("cpu")


def task(**changes: object) -> TaskRecipe:
    values = {"predicts": "gender", "model": "test_resnet.r160_in1k", "pretrained": False} | changes
    return TaskRecipe.model_validate(values)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "gender" / "fold1" / "model.safetensors"


def test_a_checkpoint_comes_back_with_its_card_and_the_same_logits_and_loads_in_plain_timm(file: Path) -> None:
    model = create(task()).to(memory_format=torch.channels_last).eval()
    save_checkpoint(file, model, model_card(crop=(16, 16)))
    loaded, found = load_checkpoint(file, CPU)
    assert found == model_card(crop=(16, 16))
    plain = timm.create_model("test_resnet", num_classes=2, checkpoint_path=str(file)).eval()
    x = torch.rand(2, 3, 32, 24)
    with torch.no_grad():
        assert torch.allclose(loaded(x), model(x), atol=1e-6)
        assert torch.allclose(plain(x), model(x), atol=1e-6)
    assert not loaded.training


def test_equal_weights_and_cards_give_equal_bytes(tmp_path: Path) -> None:
    model, args = create(task()), {"drop_rate": 0.1, "in_chans": 3}
    for name, given in (("a", args), ("b", dict(reversed(args.items())))):
        save_checkpoint(tmp_path / name, model, model_card(model_args=given))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize("cut", [0, 4, 1000, -10])
def test_a_damaged_checkpoint_is_named_with_the_way_out(file: Path, cut: int) -> None:
    save_checkpoint(file, create(task()), model_card())
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(MaskensError, match=r"model\.safetensors is damaged .* --task gender --fold 1 --restart"):
        load_checkpoint(file, CPU)


def test_damaged_weights_outside_of_a_run_name_no_job_to_train(tmp_path: Path) -> None:
    (tmp_path / "mine.safetensors").write_bytes(b"")
    with pytest.raises(MaskensError, match=r"mine\.safetensors is damaged") as error:
        read_card(tmp_path / "mine.safetensors")
    assert "--restart" not in str(error.value)


@pytest.mark.parametrize(
    "change",
    [
        {"predicts": "genders"},
        {"mean": (0.5,)},
        {"resize": (32.5, 24)},
        {"age_head": 3},
        {"model_args": []},
        {"model": "local-dir:x"},
        {"model_args": {"cardinality": 7}},  # from here on: not to be built
        {"model": "no_such"},
    ],
    ids=str,
)
def test_a_card_with_a_value_that_can_not_be_is_refused(file: Path, change: dict[str, Any]) -> None:
    save_checkpoint(file, create(task()), model_card(**change))
    with pytest.raises(MaskensError, match=r"model\.safetensors is damaged"):
        load_checkpoint(file, CPU)


def test_a_checkpoint_of_another_tool_is_refused(tmp_path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(MaskensError, match="not one of maskens'"):
        read_card(tmp_path / "model.safetensors")
    with pytest.raises(MaskensError, match="there is no checkpoint"):
        read_card(tmp_path / "gone.safetensors")


def test_a_new_head_starts_small_where_timms_own_would_not() -> None:
    torch.manual_seed(0)
    timms = timm.create_model("test_efficientnet", num_classes=2).get_classifier().weight
    ours = create(task(model="test_efficientnet.r160_in1k")).get_classifier().weight
    assert float(ours.detach().abs().max()) <= ours.shape[1] ** -0.5
    assert float(timms.detach().abs().max()) > 2 * float(ours.detach().abs().max())


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    other = timm.create_model("test_vit", num_classes=1000)
    safetensors.torch.save_file(other.state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(MaskensError, match=r"the weights .*w\.safetensors don't fit test_resnet"):
        create(task(pretrained=True, weights=str(tmp_path / "w.safetensors")))


def donor() -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in create(task()).state_dict().items() if not k.startswith("fc.")}


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module.model.", "model.backbone._orig_mod."])
def test_weights_that_a_wrapper_has_prefixed_are_loaded_and_the_prefix_named(tmp_path: Path, prefix: str) -> None:
    weights, notes = donor(), list[str]()
    safetensors.torch.save_file({prefix + k: v for k, v in weights.items()}, tmp_path / "w.safetensors")
    model = create(task(pretrained=True, weights=str(tmp_path / "w.safetensors")), notes=notes)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in weights.items())
    assert any("prefix" in note for note in notes)


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        (lambda plain, averaged: {"state_dict": plain, "state_dict_ema": averaged, "epoch": 3}, "'state_dict_ema' is"),
        (lambda plain, averaged: {"model": plain, "model_ema": averaged}, "'model_ema' is used, not 'model'"),
        (lambda plain, averaged: {"model": averaged, "optimizer": {"state": {0: plain}}}, "'model' is used"),
        (lambda plain, averaged: {"state_dict": averaged, "best_f1": torch.ones(1)}, "'state_dict' is used"),
        (lambda plain, averaged: {"model_ema": {"module": averaged}}, "'model_ema.module' is used"),
        (lambda plain, averaged: {"network_7": averaged, "args": argparse.Namespace(lr=1)}, "'network_7' is used"),
    ],
)
def test_of_several_sets_of_weights_in_a_file_the_averaged_one_is_taken_and_named(
    tmp_path: Path, shape: Callable[..., object], word: str
) -> None:
    plain, notes = donor(), list[str]()
    averaged = {k: v + 1 if v.is_floating_point() else v for k, v in plain.items()}
    torch.save(shape(plain, averaged), tmp_path / "w.pth")
    model = create(task(pretrained=True, weights=str(tmp_path / "w.pth")), notes=notes)
    assert all(torch.equal(model.state_dict()[k], v) for k, v in averaged.items())
    (note,) = notes
    assert word in note


def test_a_file_that_is_no_set_of_weights_is_named_as_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "w.pth"

    def message() -> str:
        with pytest.raises(MaskensError, match=r"the weights .*w\.pth") as error:
            create(task(pretrained=True, weights=str(file)))
        assert "weights_only" not in str(error.value)
        return str(error.value)

    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert "Git LFS pointer" in message()
    file.write_text("epochs = 3")
    assert "nor a PyTorch checkpoint" in message()
    torch.save(create(task()), file)
    assert "torch.save(model.state_dict(), FILE)" in message()
    torch.save({"student": donor(), "teacher": donor()}, file)
    assert "'student', 'teacher'" in message()
    torch.save({"epoch": 3}, file)
    assert "no table of named tensors" in message()
    file.write_bytes(b"PK\x03\x04 and no more")
    message()


@pytest.mark.parametrize(
    ("patched", "error"),
    [
        ("timm.models._builder.load_state_dict_from_hf", PermissionError(errno.EACCES, "Permission denied", "models")),
        ("timm.models._hub.hf_hub_download", huggingface_hub.errors.LocalEntryNotFoundError("the connection was lost")),
    ],
    ids=["cache", "connection"],
)
def test_a_download_that_fails_is_one_message(monkeypatch: pytest.MonkeyPatch, patched: str, error: Exception) -> None:
    def fail(*args: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("ensemble.models.build.refuse_unreachable", lambda *args: None)
    monkeypatch.setattr(patched, fail)
    cache = re.escape(huggingface_hub.constants.HF_HUB_CACHE)
    why = "Permission denied|connection was lost"
    with pytest.raises(MaskensError, match=rf"{cache} .*({why}).*HF_HOME.*--weights FILE.*--no-pretrained"):
        create(task(pretrained=True))


def test_a_hub_that_never_answers_is_given_up_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setattr("ensemble.models.build.ANSWERING", 0.2)
        monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
        with pytest.raises(MaskensError, match="hub can't be reached"):
            create(task(pretrained=True))


def test_input_is_normalised_by_the_plain_formula() -> None:
    photos = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 3), dtype=np.uint8)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    found = to_input(torch.from_numpy(photos), mean, std, CPU)
    assert found.shape == (2, 3, 5, 4)
    assert found.is_contiguous(memory_format=torch.channels_last)
    plain = (photos / 255 - np.array(mean)) / np.array(std)
    assert found.permute(0, 2, 3, 1).numpy() == pytest.approx(plain, abs=1e-5)
