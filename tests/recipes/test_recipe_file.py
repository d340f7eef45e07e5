"""Recipes as TOML: what they may say, what they extend, --set and --weights, and what preflight finds wrong."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest
from planned import FOUR

from ensemble.models.build import create
from ensemble.recipes.recipe_file import (
    bind_recipe,
    differences,
    load_recipe,
    parse_recipe,
    resolve_recipe,
    run_recipe,
    with_weights,
)
from ensemble.recipes.schema import Loss, Mix, Recipe, TaskRecipe, shipped
from ensemble.recipes.tasks import undetermined
from ensemble.training.preflight import preflight
from folds.errors import MaskensError
from folds.run_folder import Run


def with_mask(keys: str) -> str:
    """FOUR with keys of the task mask."""
    return FOUR.replace("[tasks.mask]", f"[tasks.mask]\n{keys}")


def tasks(*changes: str) -> dict[str, TaskRecipe]:
    return parse_recipe(FOUR, "mine", changes=changes).tasks


def tiny(**changes: object) -> Recipe:
    recipe = parse_recipe(FOUR, "mine")
    return recipe.model_copy(update={"tasks": recipe.tasks | {"mask": recipe.tasks["mask"].model_copy(update=changes)}})


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_valid_and_its_written_form_reads_back_as_the_same(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert parse_recipe(recipe.text, "again").hash == recipe.hash
    assert not any(task.mix.active and task.soft_f1 for task in recipe.tasks.values())


def test_keys_that_original_does_not_set_change_nothing_of_the_origins_training() -> None:
    for task in load_recipe("original").tasks.values():
        assert (task.accumulate, task.ema, task.precision, task.mix.active) == (1, 0, "fp32", False)
        assert (task.optimizer.decay_all, task.optimizer.args) == (True, {})


def test_a_task_overrides_the_defaults_and_keeps_the_rest_of_a_table() -> None:
    assert parse_recipe(FOUR + "[tasks.gender.optimizer]\nlr = 0.5\n", "mine").tasks["gender"].optimizer.lr == 0.5
    text = FOUR.replace("[tasks.mask]", "optimizer = {name = 'sgd', lr = 0.1}\n[tasks.mask]\noptimizer = {lr = 0.5}")
    mask, gender, *_ = parse_recipe(text, "mine").tasks.values()
    assert (mask.optimizer.name, mask.optimizer.lr, gender.optimizer.lr) == ("sgd", 0.5, 0.1)


def test_all_errors_of_a_recipe_come_together_with_key_paths_and_suggestions() -> None:
    text = with_mask("epoch = 3\nbatch_size = 1\nloss = {ce = 0}") + (
        "average_epochs = 9\n"
        "[tasks.gender.optimizer]\nlearning_rate = 1.0\n"
        "[tasks.gender.ages]\ncuts = [30, 20]\n"
        "[tasks.female-age.schedule]\nname = 'cos'\n"
        "[[tasks.male-age.augment]]\nnam = 'CLAHE'\n"
        "[[tasks.male-age.augment]]\nsome_of = 3\ntransforms = [{nam = 'CLAHE'}]\n"
        "[[tasks.male-age.augment]]\nsome_of = 1\ntransform = []\n"
    )
    with pytest.raises(MaskensError) as caught:
        parse_recipe(text.replace("pretrained", "decoded = true\npretrained"), "mine")
    message = str(caught.value)
    assert message.count("decoded") == 1
    for part in (
        "tasks.*.decoded: unknown key (did you mean 'decode'?)",
        "tasks.mask.epoch: unknown key (did you mean 'epochs'",
        "tasks.mask.batch_size",
        "tasks.mask.loss: every weight is 0",
        "tasks.gender.optimizer.learning_rate: unknown key",
        "tasks.female-age.average_epochs: there are only 3 epochs",
        "tasks.female-age.schedule.name",
        "tasks.gender.ages.cuts: at least two ages, each above the one before",
        "tasks.male-age.augment.0.name: missing",
        "tasks.male-age.augment.0.nam: unknown key (did you mean 'name'?)",
        "tasks.male-age.augment.1.transforms.0.nam: unknown key (did you mean 'name'?)",
        "tasks.male-age.augment.2.transforms: missing",
        "tasks.male-age.augment.2.transform: unknown key (did you mean 'transforms'",
    ):
        assert part in message, message


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("augment = ['camra']", "augment: there is no policy 'camra' (did you mean 'camera'?); there are camera"),
        ("augment = [{some_of = 2, transforms = [{name = 'CLAHE'}]}]", "augment.0.some_of: there are 1 transforms"),
        ("loss = {class_weights = [1, 2]}", "loss: 2 class_weights, but 'mask' has 3 classes"),
        ("predicts = 'heads'\nloss = {class_weights = [1, 2, 3]}", "loss.class_weights: 'heads' has 3 heads"),
        ("epochs = 2\nhead_epochs = 2.5", "head_epochs: there are only 2 epochs"),
        ("epochs = 1\nsizes = [[16, 16], [24, 20]]", "sizes: there are only 1 epochs"),
        ("frozen_stages = 1\naverage_epochs = 1", "average_epochs: it recomputes batch norms"),
        ("sizes = [[24, 32]]", "sizes: photos are [32, 24] and can only become smaller"),
        ("crop = [64, 24]", "crop: larger than the photo after resize [32, 24] (it is [64, 24])"),
        ("crop = [64, 10]", "crop.1: expected 16 or more (it is 10)"),
        ("crop = 'fase'", "crop: 'fase' is neither [height, width] nor 'face', 'eyes' or 'none'"),
        ("crop = 'eyes'\nmasks = {prob = 0.5}", 'masks: crop = "eyes" needs detect = true'),
        ("optimizer = {layer_decay = 0}", "optimizer.layer_decay: expected more than 0"),
        ("batch_size = 7\nmix = {cutmix = 1}", "mix: photos are mixed in pairs, and batch_size 7 is odd"),
        ("mix = {cutmix = 1, half_face = true}", "mix: half_face excludes mixup and cutmix"),
        ("ages = {cuts = [30, 62]}", "ages.bands: 2 cuts make 3 bins"),
        ("sampler = {balance = 'classes'}", "sampler.balance: expected 'none', 'class', 'mask' or 'age'"),
        ("ages = {cuts = 'yeras'}", 'ages.cuts: a list of ages, or "years"'),
        ("ages = {head = 'regression'}", "ages.head: regression"),
        ("ages = {sigma = -1}", "ages.sigma: expected 0 or more"),
        ("predicts = 'class18'\nages = {head = 'ordinal'}", "ages: head 'ordinal'"),
        ("predicts = 'age'\nages = {head = 'ordinal'}\nloss = {f1 = 1, focal = 1}", "loss: a head 'ordinal'"),
        ("predicts = 'heads'\nages = {head = 'ordinal'}\nloss = {label_smoothing = 0.1}", "loss.heads.age: a head"),
        ("loss = {heads = {age = {weight = 2}}}", "loss.heads.age: 'mask' has no such head, only mask"),
        ("loss = {heads = {mask = {wieght = 2}}}", "loss.heads.mask.wieght: unknown key (did you mean 'weight'?)"),
        ("loss = {heads = {mask = {ce = 0}}}", "loss.heads.mask: every weight is 0"),
        ("predicts = 'heads'\nloss = {heads = {age = {class_weights = [1, 2]}}}", "loss.heads.age: 2 class_weights"),
        ("loss = {balance = 'uncertainty'}", "loss.balance: it weighs heads against each other, and 'mask' has one"),
        ("loss = {ce = 0, f1 = 1, logit_adjustment = 1}", "loss: logit_adjustment goes into ce"),
        ("loss = {class_balanced = 0.9, class_weights = [1, 2, 3]}", "loss: class_balanced are class_weights too"),
        ("loss = {class_balanced = 0.9, logit_adjustment = 1}", "loss: class_balanced and logit_adjustment both"),
        ("sampler = {balance = 'class'}\nloss = {logit_adjustment = 1}", "loss: logit_adjustment corrects"),
        (
            "predicts = 'heads'\nsampler = {balance = 'age'}\nloss = {heads = {age = {class_balanced = 0.9}}}",
            "loss.heads.age: class_balanced corrects",
        ),
        ("loss = {class_weights = [0, 0, 0]}", "loss: every class weight is 0"),
        ("loss = {ce = 0, f1 = 1, class_weights = [1, 2, 3]}", "loss: class_weights, class_balanced and label_smooth"),
        ("ema = 1.0", "ema: expected less than 1"),
        ("masks = {prob = 2}", "masks.prob: expected 1 or less"),
        ("masks = {face = {mouth = 0.4}}", "masks.face: the mouth (0.4) has to be below the eyes (0.42)"),
        ("crop = [32, 16]\nmasks = {prob = 0.5, face = {middle = 0.1}}", "masks: the crop [32, 16] cuts off"),
        ("optimizer = {lr = inf}", "optimizer.lr: expected a finite number"),
    ],
)
def test_values_that_can_not_be_meant_are_refused(keys: str, words: str) -> None:
    with pytest.raises(MaskensError) as caught:
        parse_recipe(with_mask(keys), "mine")
    assert f"tasks.mask.{words}" in str(caught.value)


@pytest.mark.parametrize("sampler", ["{balance = 'age'}", "{balance = 'class', strength = 0}", "{fraction = 0.5}"])
def test_logits_may_be_adjusted_where_the_sampler_keeps_class_frequencies(sampler: str) -> None:
    text = with_mask(f"sampler = {sampler}\nloss = {{logit_adjustment = 1}}")
    assert parse_recipe(text, "mine").tasks["mask"].loss.logit_adjustment == 1


def test_tasks_that_leave_a_class_open_are_refused() -> None:
    with pytest.raises(MaskensError, match="nothing predicts female-age"):
        parse_recipe(FOUR.replace("[tasks.female-age]", ""), "mine")
    assert undetermined(["class18"]) == undetermined(["heads"]) == []
    assert undetermined(["mask", "age"]) == ["gender"]
    assert undetermined(["mask", "gender"]) == ["age"]


def test_a_recipe_extends_another_by_name_or_by_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(FOUR)
    (tmp_path / "more.toml").write_text(
        'extends = "base.toml"\nwithout = ["male-age", "female-age"]\n[defaults]\nepochs = 9\n[tasks.age]\nema = 0.5\n'
    )
    recipe = load_recipe(str(tmp_path / "more.toml"))
    assert list(recipe.tasks) == ["mask", "gender", "age"]
    assert {t.epochs for t in recipe.tasks.values()} == {9}
    assert (recipe.tasks["age"].ema, recipe.tasks["mask"].ema) == (0.5, 0)
    assert recipe.tasks["age"].model == "test_resnet.r160_in1k"
    assert parse_recipe('extends = "quick"', "mine").hash == load_recipe("quick").hash
    (tmp_path / "more.toml").write_text('extends = "more.toml"')
    with pytest.raises(MaskensError, match="more than 8 recipes extend one another"):
        load_recipe(str(tmp_path / "more.toml"))


def test_what_a_recipe_sets_for_all_tasks_overrides_what_the_extended_one_sets_for_one() -> None:
    text = 'extends = "original"\n[defaults]\nepochs = 9\ncrop = "none"\nloss = {f1 = 0.1}\n[tasks.mask]\nepochs = 5'
    found = parse_recipe(text, "m").tasks.values()
    assert [t.epochs for t in found] == [5, 9, 9, 9]
    assert {(t.loss.f1, t.crop) for t in found} == {(0.1, None)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "quik"', "no recipe 'quik' \\(did you mean 'quick'"),
        ('extends = "demo"\nwithout = ["mas"]', "no task 'mas' \\(did you mean 'mask'"),
        ('without = ["mask"]', "no task 'mask'; it has none"),
        ("extends = 3", "extends: expected text"),
        ('extends = "demo"\nwithout = [["mask"]]', "without.0: expected text"),
        ("tasks = 3", "tasks: expected a table"),
        ("defaults = 3\n[tasks.mask]", "defaults: expected a table"),
        ('[tasks.""]\npredicts = "heads"', "tasks.*string should match pattern"),
        ('[tasks."../../victim"]\npredicts = "heads"', "tasks.*string should match pattern"),
        ("", "nothing predicts mask, gender, age"),
        ("a = ", "not valid TOML"),
        (f"a = {'9' * 5000}", "not valid TOML: Exceeds the limit"),
        *((f"a = {'[' * depth}{']' * depth}", "not valid TOML: it is nested") for depth in (100, 100_000)),
        ('extends = "a\\u0000.toml"', "can't read the recipe"),
    ],
    ids=lambda value: value[:30].replace("\0", "") if isinstance(value, str) else value,
)
def test_a_file_that_is_no_recipe_is_refused(text: str, words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        parse_recipe(text, "mine")


def test_a_file_works_where_a_name_does(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(FOUR)
    assert load_recipe(str(file)).name == "mine"
    with pytest.raises(MaskensError, match=r"can't read the recipe .*gone\.toml"):
        load_recipe(str(tmp_path / "gone.toml"))
    with pytest.raises(MaskensError, match=r"no recipe 'orignal' \(did you mean 'original'\?\)"):
        load_recipe("orignal")


def test_set_changes_any_key_of_one_task_or_of_all() -> None:
    assert [t.epochs for t in tasks("tasks.gender.epochs=5").values()] == [3, 5, 3, 3]
    assert {t.epochs for t in tasks("tasks.*.epochs=5").values()} == {5}
    assert tasks("tasks.mask.model=test_vit", "tasks.mask.loss={ce=0, focal=2}")["mask"].loss.focal == 2
    assert tasks("tasks.mask.schedule.name=constant")["mask"].schedule.name == "constant"
    augmented = tasks('tasks.*.augment=[{name="CLAHE", args={p=1}}]', "tasks.mask.augment.0.args.p=0.25")
    assert [t.augment[0].args["p"] for t in augmented.values()] == [0.25, 1, 1, 1]
    drawn = '{some_of=1, transforms=[{name="CLAHE"}, {name="ToGray"}]}'
    nested = tasks(f"tasks.*.augment=[{drawn}]", "tasks.mask.augment.0.transforms.1.args.p=0.25")
    assert nested["mask"].augment[0].transforms[1].args == {"p": 0.25}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("tasks.msk.epochs=5", "there is no task 'msk' \\(did you mean 'mask'"),
        ("tasks.mask.epoch=5", "tasks.mask.epoch: unknown key \\(did you mean 'epochs'"),
        ("tasks.mask.epochs", "write KEY=VALUE"),
        ("tasks.mask=5", "name a key of a task"),
        ("tasks.mask.model.more=5", "there is no 'more' to set"),
        ("tasks.mask.epochs=many", "tasks.mask.epochs: expected a whole number \\(it is 'many'\\)"),
        ("epochs=5", r"epochs: unknown key \(did you mean tasks\.\*\.epochs"),
        ("mask.epochs=5", r"mask: unknown key \(did you mean tasks\.mask\?\)"),
        ("defaults.epochs=5", r"'defaults' belongs in a file. For all tasks write tasks\.\*"),
        ("tasks.mask.loss={ce=0 focal=1}", "the value is not valid TOML"),
        (f"tasks.mask.optimizer.args={{a={'[' * 100}{']' * 100}}}", "--set tasks.mask.*: it is nested"),
    ],
)
def test_a_wrong_set_is_refused(change: str, words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        tasks(change)


def test_bins_follow_their_cuts_unless_bands_are_set() -> None:
    exported = parse_recipe(FOUR, "mine", changes=["tasks.male-age.ages.cuts=[21,30,46,58]"]).text
    again = parse_recipe(exported, "mine", changes=["tasks.male-age.ages.cuts=[20,25,30,58]"])
    assert again.tasks["male-age"].ages.bin_bands == (0, 0, 0, 1, 2)
    merged = parse_recipe(FOUR, "mine", changes=["tasks.male-age.ages={cuts=[21,30,46,58], bands=[0,0,1,1,2]}"])
    assert merged.hash == parse_recipe(exported, "mine").hash


def test_only_what_differs_changes_a_hash() -> None:
    plain = parse_recipe(FOUR, "mine")
    written_out = parse_recipe(FOUR, "other", changes=["tasks.*.ema=0", "tasks.mask.ages.bands=[0,1,2]"])
    assert written_out.hash == plain.hash
    changed = parse_recipe(FOUR, "mine", changes=["tasks.mask.ema=0.9"])
    assert differences(plain, changed) == ["tasks.mask.ema: 0.0, now 0.9"]
    assert changed.hash != plain.hash
    assert [changed.tasks[t].hash == plain.tasks[t].hash for t in ("mask", "gender")] == [False, True]


def test_a_head_takes_from_its_task_what_it_does_not_set_itself() -> None:
    mine = "predicts = 'heads'\nages = {cuts = 'years'}\nloss = {ce = 0.3, f1 = 0.7, heads = {age = {f1 = 0}}}"
    recipe = parse_recipe(with_mask(mine), "mine")
    task = recipe.tasks["mask"]
    assert (task.loss.of("age").ce, task.loss.of("age").f1, task.loss.of("mask").f1) == (0.3, 0, 0.7)
    assert task.ages.cuts[:2] == (16, 17)
    assert parse_recipe(recipe.text, "mine").hash == recipe.hash
    changed = parse_recipe(recipe.text, "mine", changes=["tasks.mask.loss.ce=1"])
    assert changed.tasks["mask"].loss.of("age").ce == 1, "also in a recipe that is written out"


def test_the_recipe_of_a_run_is_the_one_it_was_trained_with_or_none(tmp_path: Path) -> None:
    recipe = parse_recipe(FOUR, "mine")
    run = bind_recipe(Run(tmp_path, "", "", "", 2, 0, ()), recipe)
    assert run_recipe(run) == resolve_recipe(run) == recipe
    (tmp_path / "mask" / "fold0").mkdir(parents=True)
    (tmp_path / "mask" / "fold0" / "last.pt").touch()
    with pytest.raises(MaskensError, match=r"tasks\.mask\.decode: 'reduced', now 'full'"):
        resolve_recipe(run, changes=["tasks.mask.decode=full"])
    run.recipe_file.write_text(recipe.text.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(MaskensError, match="was edited after training began"):
        run_recipe(run)
    run.recipe_file.write_bytes(recipe.text.encode("utf-16"))
    with pytest.raises(MaskensError, match=r"can't read .*recipe\.toml: 'utf-8' codec"):
        run_recipe(run)


def test_weights_lie_beside_the_recipe_and_the_run_keeps_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "w.safetensors"
    file.touch()
    (tmp_path / "mine.toml").write_text(FOUR.replace("[tasks.mask]", "weights = 'w.safetensors'\n[tasks.mask]"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    assert {t.weights for t in load_recipe("../mine.toml").tasks.values()} == {str(file)}
    Path("plain.toml").write_text(FOUR.replace("pretrained = false", ""))
    run = Run(tmp_path / "run", "", "", "", 2, 0, ())
    run = bind_recipe(run, resolve_recipe(run, "plain.toml", weights=[f"mask={file}"]))
    again = resolve_recipe(run, "plain.toml")
    assert [task.weights for task in again.tasks.values()] == [str(file), "", "", ""], "named once"


def test_weights_go_to_the_task_named_or_to_all(tmp_path: Path) -> None:
    recipe, file = parse_recipe(FOUR, "mine"), tmp_path / "w.safetensors"
    file.touch()
    everywhere = with_weights(recipe, [str(file)], pretrained=True)
    assert all(t.weights == str(file) and t.pretrained for t in everywhere.tasks.values())
    one = with_weights(recipe, [f"mask={file}"], pretrained=True)
    assert [t for t, r in one.tasks.items() if r.weights] == ["mask"]
    none = with_weights(everywhere, [], pretrained=False)
    assert not any(t.weights or t.pretrained for t in none.tasks.values())
    quick = load_recipe("quick")
    assert quick.tasks["heads"].frozen_stages
    assert not with_weights(quick, [], pretrained=False).tasks["heads"].frozen_stages, "random stages are trained"
    for item, pretrained, words in (
        ("gone.safetensors", True, r"can't read the weights .*gone\.safetensors"),
        (f"msk={file}", True, r"no task 'msk' \(did you mean 'mask'"),
        (str(file), False, "exclude each other"),
        (str(tmp_path), True, "not that of a trained run"),
    ):
        with pytest.raises(MaskensError, match=words):
            with_weights(recipe, [item], pretrained)


def test_weights_count_by_their_content_not_by_their_path(tmp_path: Path) -> None:
    recipe = parse_recipe(FOUR, "mine")
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(content)
    a, b, c = (with_weights(recipe, [str(tmp_path / name)], pretrained=True) for name in "abc")
    assert a.hash == b.hash
    assert len({recipe.hash, a.hash, c.hash}) == 3
    (tmp_path / "a").write_text("changed")
    with pytest.raises(MaskensError, match="is not the file that this run began with"):
        create(a.tasks["mask"])
    (tmp_path / "a").unlink()
    with pytest.raises(MaskensError, match="--weights FILE"):
        create(a.tasks["mask"])


def test_preflight_refuses_a_recipe_that_needs_a_missing_gpu_and_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr("timm.create_model", None)  # no model is built first
    recipe = load_recipe("original")
    with pytest.raises(MaskensError, match="needs a GPU") as error:
        preflight(recipe, recipe.tasks, device="cpu")
    for task in recipe.tasks.values():
        assert f"timm/{task.model}/resolve/main/model.safetensors" in str(error.value)
    assert "--recipe quick --weights FILE, with the file https://huggingface.co/timm/tf_efficientnet_lite0" in str(
        error.value
    )
    with pytest.raises(MaskensError) as error:
        preflight(recipe, recipe.tasks, device="cuda")
    assert "wants a GPU" not in str(error.value)


def test_preflight_lists_every_fault_of_model_transform_and_optimizer() -> None:
    assert preflight(tiny(), ["mask", "gender", "male-age", "female-age"]) == []
    augment = parse_recipe(
        with_mask(
            "augment = [{name = 'CLAHEE'}, {name = 'HorizontalFlip', args = {pp = 1}},"
            " {name = 'CenterCrop', args = {height = 8, width = 8}}, {name = 'Normalize'},"
            " {some_of = 1, transforms = [{name = 'CLAHE'}, {name = 'Transpose'}]}]"
        ),
        "mine",
    )
    with pytest.raises(MaskensError) as caught:
        preflight(augment, ["mask"])
    message = str(caught.value)
    assert "augment.0: albumentations has no transform 'CLAHEE' (did you mean 'CLAHE'" in message
    assert "augment.1: HorizontalFlip" in message
    assert "augment.2: CenterCrop turns uint8 (32, 24, 3)" in message
    assert "augment.3: Normalize" in message
    assert "augment.4.transforms.1: Transpose turns uint8 (32, 24, 3)" in message
    optimizer = tiny().tasks["mask"].optimizer
    vit = {"model": "test_vit3", "resize": (160, 160), "sizes": ((96, 96),)}
    for changes, words in (
        ({"model": "test_resnt"}, r"timm has no model 'test_resnt' \(did you mean 'test_resnet'"),
        ({"model": "test_resnet.nonsense"}, "timm has no weights 'nonsense' for test_resnet"),
        ({"optimizer": optimizer.model_copy(update={"name": "adamm"})}, "adamm"),
        ({"optimizer": optimizer.model_copy(update={"name": "adahessian"})}, r"tasks\.mask: optimizer: "),
        (vit, "test_vit3 at 96x96 fails"),
        ({"model": "vgg11", "model_args": {"drop_path_rate": 0.1}}, "vgg11 can't be built: .* 'drop_path_rate'"),
    ):
        with pytest.raises(MaskensError, match=words):
            preflight(tiny(**changes), ["mask"])
    assert preflight(tiny(**vit, model_args={"dynamic_img_size": True}), ["mask"]) == []


def test_preflight_warns_of_what_is_hardly_meant() -> None:
    soft_f1, mixed = Loss(ce=0.3, f1=0.7), Mix(mixup=1.0)
    long = tasks("tasks.mask.schedule={name='cosine', warmup_epochs=9}")["mask"].schedule
    for changes, words in (
        ({"loss": soft_f1, "mix": mixed}, "loss.f1 of mask is not a proper loss"),
        ({"loss": soft_f1}, ""),
        ({"mix": mixed}, ""),
        ({"schedule": long}, "tasks.mask.schedule.warmup_epochs 9 is not below epochs 3"),
        ({"precision": "fp16"}, "tasks.mask.precision fp16: a CPU may be many times slower"),
    ):
        found = preflight(tiny(**changes), ["mask"], device="cpu")
        assert len(found) == bool(words) and words in "".join(found)
    assert preflight(tiny(precision="fp16"), ["mask"], device="cuda") == []


def test_of_recipes_with_other_tasks_only_the_tasks_are_listed() -> None:
    found = differences(load_recipe("demo"), load_recipe("quick"))
    assert found == ["tasks: mask, gender, male-age, female-age, now heads"]
