from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.models import create
from ensemble.preflight import differences, preflight
from ensemble.recipe import Recipe, load_recipe, parse_recipe, shipped, with_weights
from ensemble.tasks import undetermined
from folds.errors import MaskensError

TINY = """
[defaults]
model = "test_resnet.r160_in1k"
pretrained = false
resize = [32, 24]
[tasks.mask]
[tasks.gender]
[tasks.male-age]
[tasks.female-age]
"""


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_valid_and_its_written_form_reads_back_as_the_same(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert parse_recipe(recipe.text, "again").hash == recipe.hash


def test_original_is_the_origin_to_the_letter() -> None:
    recipe = load_recipe("original")
    assert set(recipe.tasks) == {"mask", "gender", "male-age", "female-age"}
    for name, task in recipe.tasks.items():
        mask = name == "mask"
        assert task.model.split(".")[0] == ("resnext50d_32x4d" if mask else "tf_efficientnet_b3")
        assert (task.resize, task.crop) == ((512, 384), (380, 350))
        assert (task.loss.ce, task.loss.f1) == ((1.0, 0.0) if mask else (0.3, 0.7))
        optimizer = task.optimizer
        assert (optimizer.name, optimizer.weight_decay) == (("adamw", 1e-2) if mask else ("adam", 1e-5))
        assert optimizer.lr == (1e-3 if mask else 1e-5)
        schedule = task.schedule
        assert (schedule.name, schedule.T_0, schedule.T_mult) == ("cosine_warm_restarts", 10, 1)
        assert schedule.eta_min == (1e-3 if mask else 1e-7)
        names = {t.name for t in task.augment}
        everything = {"HueSaturationValue", "RandomBrightnessContrast", "CLAHE"}
        assert names == ({"HueSaturationValue"} if mask else everything)


def test_a_task_overrides_the_defaults_and_keeps_the_rest_of_a_table() -> None:
    recipe = parse_recipe(TINY + "[tasks.gender.optimizer]\nlr = 0.5\n", "mine")
    assert recipe.tasks["gender"].optimizer.lr == 0.5
    recipe = parse_recipe(
        TINY.replace("[tasks.mask]", "optimizer = {name = 'sgd', lr = 0.1}\n[tasks.mask]\noptimizer = {lr = 0.5}"),
        "mine",
    )
    assert (recipe.tasks["mask"].optimizer.name, recipe.tasks["mask"].optimizer.lr) == ("sgd", 0.5)
    assert recipe.tasks["gender"].optimizer.lr == 0.1


def test_all_errors_of_a_recipe_come_together_with_key_paths_and_suggestions() -> None:
    text = TINY.replace("[tasks.mask]", "[tasks.mask]\nepoch = 3\ncrop = [64, 24]\nbatch_size = 1\nloss = {ce = 0}") + (
        "[tasks.gender.optimizer]\nlearning_rate = 1.0\n[[tasks.male-age.augment]]\nnam = 'CLAHE'\n"
    )
    with pytest.raises(MaskensError) as caught:
        parse_recipe(text, "mine")
    message = str(caught.value)
    for part in (
        "tasks.mask.epoch: unknown key (did you mean 'epochs'?)",
        "tasks.mask.batch_size",
        "tasks.mask.loss: every weight is 0",
        "tasks.gender.optimizer.learning_rate: unknown key",
        "tasks.male-age.augment.0.name: missing",
        "tasks.male-age.augment.0.nam: unknown key (did you mean 'name'?)",
    ):
        assert part in message, message


def test_a_crop_larger_than_the_photo_is_refused() -> None:
    with pytest.raises(MaskensError, match=r"tasks\.mask: crop \[64, 24\] is larger than the photo"):
        parse_recipe(TINY.replace("[tasks.mask]", "[tasks.mask]\ncrop = [64, 24]"), "mine")


def test_tasks_that_leave_a_class_open_are_refused() -> None:
    with pytest.raises(MaskensError, match="nothing predicts female-age"):
        parse_recipe(TINY.replace("[tasks.female-age]", ""), "mine")
    assert undetermined(["class18"]) == []
    assert undetermined(["heads"]) == []
    assert undetermined(["mask", "age"]) == ["gender"]
    assert undetermined(["mask", "gender"]) == ["age"]


@pytest.mark.parametrize(
    ("text", "words"), [("", "names no tasks"), ("a = ", "not valid TOML"), ("tasks = 3", "names no tasks")]
)
def test_a_file_that_is_no_recipe_is_refused(text: str, words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        parse_recipe(text, "mine")


def test_an_unknown_recipe_suggests_a_near_name() -> None:
    with pytest.raises(MaskensError, match=r"no recipe 'orignal' \(did you mean 'original'\?\)"):
        load_recipe("orignal")


def test_a_file_works_where_a_name_does(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(TINY)
    assert load_recipe(str(file)).name == "mine"
    with pytest.raises(MaskensError, match=r"can't read the recipe .*gone\.toml"):
        load_recipe(str(tmp_path / "gone.toml"))


def test_weights_go_to_the_task_named_or_to_all(tmp_path: Path) -> None:
    recipe, file = parse_recipe(TINY, "mine"), tmp_path / "w.safetensors"
    file.touch()
    everywhere = with_weights(recipe, [str(file)], no_pretrained=False)
    assert all(t.weights == str(file) and t.pretrained for t in everywhere.tasks.values())
    one = with_weights(recipe, [f"mask={file}"], no_pretrained=False)
    assert [t for t, r in one.tasks.items() if r.weights] == ["mask"]
    none = with_weights(everywhere, [], no_pretrained=True)
    assert not any(t.weights or t.pretrained for t in none.tasks.values())
    with pytest.raises(MaskensError, match=r"can't read the weights .*gone\.safetensors"):
        with_weights(recipe, ["gone.safetensors"], no_pretrained=False)
    with pytest.raises(MaskensError, match=r"no task 'msk' \(did you mean 'mask'"):
        with_weights(recipe, [f"msk={file}"], no_pretrained=False)
    with pytest.raises(MaskensError, match="exclude each other"):
        with_weights(recipe, [str(file)], no_pretrained=True)


def test_weights_count_by_what_they_are_not_where_they_lie(tmp_path: Path) -> None:
    recipe = parse_recipe(TINY, "mine")
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(content)
    a, b, c = (with_weights(recipe, [str(tmp_path / name)], no_pretrained=False) for name in "abc")
    assert a.hash == b.hash != c.hash
    assert len({recipe.hash, a.hash, c.hash}) == 3
    (tmp_path / "a").write_text("changed")
    with pytest.raises(MaskensError, match="is not the file that this run began with"):
        create(a.tasks["mask"])
    (tmp_path / "a").unlink()
    with pytest.raises(MaskensError, match="name the run's initial weights again with --weights FILE"):
        create(a.tasks["mask"])


def tiny(**changes: object) -> Recipe:
    recipe = parse_recipe(TINY, "mine")
    tasks = recipe.tasks | {"mask": recipe.tasks["mask"].model_copy(update=changes)}
    return recipe.model_copy(update={"tasks": tasks})


def test_preflight_accepts_what_can_be_trained() -> None:
    assert preflight(tiny(), ["mask", "gender", "male-age", "female-age"]) == []


def test_preflight_lists_every_fault_of_model_transform_and_optimizer() -> None:
    augment = parse_recipe(
        TINY.replace(
            "[tasks.mask]",
            "[tasks.mask]\naugment = [{name = 'CLAHEE'}, {name = 'HorizontalFlip', args = {pp = 1}},"
            " {name = 'CenterCrop', args = {height = 8, width = 8}}, {name = 'Normalize'}]",
        ),
        "mine",
    )
    with pytest.raises(MaskensError) as caught:
        preflight(augment, ["mask"])
    message = str(caught.value)
    assert "augment.0: albumentations has no transform 'CLAHEE' (did you mean 'CLAHE'" in message
    assert "augment.1: HorizontalFlip" in message
    assert "augment.2: CenterCrop turns uint8 (32, 24, 3)" in message
    assert "augment.3: Normalize is left out of recipes" in message
    with pytest.raises(MaskensError, match=r"timm has no model 'test_resnt' \(did you mean 'test_resnet'"):
        preflight(tiny(model="test_resnt"), ["mask"])
    with pytest.raises(MaskensError, match="timm has no weights 'nonsense' for test_resnet"):
        preflight(tiny(model="test_resnet.nonsense"), ["mask"])
    optimizer = tiny().tasks["mask"].optimizer.model_copy(update={"name": "adamm"})
    with pytest.raises(MaskensError, match="adamm"):
        preflight(tiny(optimizer=optimizer), ["mask"])


def test_a_schedule_that_rises_is_warned_about() -> None:
    schedule = load_recipe("original").tasks["mask"].schedule.model_copy(update={"eta_min": 0.5})
    (warning,) = preflight(tiny(schedule=schedule), ["mask"])
    assert "tasks.mask.schedule.eta_min 0.5 is above lr 0.001" in warning


def test_differences_name_the_keys() -> None:
    assert differences(tiny(), tiny(epochs=9)) == ["tasks.mask.epochs: 3, now 9"]
