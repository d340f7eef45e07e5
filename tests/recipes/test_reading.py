from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import huggingface_hub
import huggingface_hub.constants
import pytest

from ensemble.data.augment import build
from ensemble.models.build import create
from ensemble.recipes.loss import Loss
from ensemble.recipes.reading import load_recipe, parse_recipe, shipped, with_weights
from ensemble.recipes.run_recipe import RecipeChange, bind_recipe, differences, resolve_recipe, run_recipe
from ensemble.recipes.schema import Mix, Recipe, TaskRecipe
from ensemble.recipes.tasks import undetermined
from ensemble.training.preflight import preflight
from folds.errors import MaskensError
from folds.run_folder import Run

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
HASH_0_3 = "2570fb27028e541d970086e5b02f967257a81b5de526021f2003755c0ef12949"  # of TINY in maskens 0.3


@pytest.mark.parametrize("name", sorted(shipped()))
def test_every_shipped_recipe_is_valid_and_its_written_form_reads_back_as_the_same(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.description
    assert parse_recipe(recipe.text, "again").hash == recipe.hash


def test_reading_recipes_loads_no_torch() -> None:
    code = (
        "import sys; from ensemble.recipes.reading import load_recipe, shipped; [load_recipe(n) for n in shipped()]; "
        "print({'torch', 'timm', 'albumentations'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert found.stdout.strip() == "set()", found.stderr


def test_original_is_the_origins_table() -> None:
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
        assert (optimizer.decay_all, optimizer.args) == (True, {})
        assert (task.batch_size, task.epochs, task.accumulate, task.ema, task.precision) == (32, 3, 1, 0, "fp32")
        assert not task.mix.active
        brightness = ("RandomBrightnessContrast", {key: [-0.1, 0.1] for key in ("brightness_limit", "contrast_limit")})
        limits = ("hue_shift_limit", "sat_shift_limit", "val_shift_limit")
        hue = ("HueSaturationValue", {key: [-0.2, 0.2] for key in limits})
        chain = [hue] if mask else [brightness, hue, ("CLAHE", {})]
        assert [(t.name, t.args) for t in task.augment] == [(name, args | {"p": 0.5}) for name, args in chain]


def test_a_task_overrides_the_defaults_and_keeps_the_rest_of_a_table() -> None:
    recipe = parse_recipe(TINY + "[tasks.gender.optimizer]\nlr = 0.5\n", "mine")
    assert recipe.tasks["gender"].optimizer.lr == 0.5
    recipe = parse_recipe(
        TINY.replace("[tasks.mask]", "optimizer = {name = 'sgd', lr = 0.1}\n[tasks.mask]\noptimizer = {lr = 0.5}"),
        "mine",
    )
    assert (recipe.tasks["mask"].optimizer.name, recipe.tasks["mask"].optimizer.lr) == ("sgd", 0.5)
    assert recipe.tasks["gender"].optimizer.lr == 0.1


def test_all_errors_of_a_recipe_come_together_with_key_paths_and_suggestions(tmp_path: Path) -> None:
    text = TINY.replace("[tasks.female-age]\n", "").replace(
        "[tasks.mask]", "[tasks.mask]\nepoch = 3\ncrop = [64, 24]\nbatch_size = 1\nloss = {ce = 0}"
    ) + (
        "[tasks.gender.optimizer]\nlearning_rate = 1.0\n"
        "[tasks.gender.ages]\ncuts = [30, 20]\n"
        "[[tasks.male-age.augment]]\nnam = 'CLAHE'\n"
        "[[tasks.male-age.augment]]\nname = 'Perspectiv'\n"
        "[[tasks.male-age.augment]]\nname = 'CoarseDropout'\nargs = {max_holes = 3}\n"
    )
    file = tmp_path / "mine.toml"
    file.write_text(text)
    with pytest.raises(MaskensError) as caught:
        load_recipe(str(file), build_transform=build)
    message = str(caught.value)
    for part in (
        "tasks.mask.epoch: unknown key (did you mean 'epochs'",
        "tasks.mask.crop: crop [64, 24] is larger than the photo after resize [32, 24]",
        "tasks.mask.batch_size",
        "tasks.mask.loss: every weight is 0",
        "tasks.gender.optimizer.learning_rate: unknown key",
        "tasks.gender.ages.cuts: at least two ages, each above the one before",
        "tasks.male-age.augment.0.name: missing",
        "tasks.male-age.augment.0.nam: unknown key (did you mean 'name'?)",
        "tasks.male-age.augment.1: albumentations has no transform 'Perspectiv' (did you mean 'Perspective'",
        "tasks.male-age.augment.2: CoarseDropout: ",
        "tasks: they don't determine all 18 classes; nothing predicts female-age",
    ):
        assert part in message, message


def test_errors_within_a_draw_of_transforms_have_key_paths(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[defaults]\nmodel = 'test_resnet'\n"
        "[tasks.heads]\naugment = [\n{ name = 'CLAHE' },\n{ some_of = 3, transforms = [\n{ nam = 'CLAHE' },\n"
        "{ name = 'Perspectiv' } ] },\n{ some_of = 1, transform = [] } ]\n"
    )
    with pytest.raises(MaskensError) as caught:
        load_recipe(str(file), build_transform=build)
    for part in (
        "tasks.heads.augment.1.transforms.0.name: missing",
        "tasks.heads.augment.1.transforms.0.nam: unknown key (did you mean 'name'?)",
        "tasks.heads.augment.1.transforms.1: albumentations has no transform 'Perspectiv'",
        "tasks.heads.augment.2.transforms: missing",
        "tasks.heads.augment.2.transform: unknown key (did you mean 'transforms'",
    ):
        assert part in str(caught.value), str(caught.value)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("augment = ['camra']", "mask.augment: there is no policy 'camra' (did you mean 'camera'?); there are camera"),
        ("augment = [{some_of = 2, transforms = [{name = 'CLAHE'}]}]", "augment.0.some_of: there are 1 transforms to"),
        ("loss = {class_weights = [1, 2]}", "mask.loss: 2 class_weights, but 'mask' has 3 classes"),
        ("predicts = 'heads'\nloss = {class_weights = [1, 2, 3]}", "need a task with one head; 'heads' has 3"),
        ("epochs = 2\nhead_epochs = 2.5", "mask.head_epochs: there are no more than 2 epochs"),
        ("epochs = 2\naverage_epochs = 3", "mask.average_epochs: there are no more than 2 epochs"),
        ("epochs = 1\nsizes = [[16, 16], [24, 20]]", "mask.sizes: there are no more than 1 epochs"),
        ("sizes = [[24, 32]]", "mask.sizes: photos are [32, 24] and can only become smaller"),
        ("optimizer = {layer_decay = 0}", "mask.optimizer.layer_decay: input should be greater than 0"),
        ("batch_size = 7\nmix = {cutmix = 1}", "mask.mix: photos are mixed in pairs, and batch_size 7 is odd"),
        ("mix = {cutmix = 1, half_face = true}", "mask.mix: half_face excludes mixup and cutmix"),
        ("ages = {cuts = [30, 62]}", "mask.ages.merge: 2 cuts make 3 bins; each needs a band, rising from 0 to 2"),
        ("ages = {merge = [0, 1, 1, 2]}", "mask.ages.merge: 2 cuts make 3 bins"),
        ("sampler = {balance = 'classes'}", "mask.sampler.balance: input should be 'none', 'class' or 'age'"),
        ("ages = {cuts = 'yeras'}", 'mask.ages.cuts: a list of ages, or "years" for one bin a year'),
        ("ages = {head = 'regression'}", "mask.ages.head: regression learns the age itself, and cuts [30, 60] leave"),
        ("ages = {sigma = -1}", "mask.ages.sigma: input should be greater than or equal to 0"),
        ("predicts = 'class18'\nages = {head = 'ordinal'}", "mask.ages: head 'ordinal' is for a task with a head of"),
        (
            "predicts = 'age'\nages = {head = 'ordinal'}\nloss = {f1 = 1, focal = 1}",
            "mask.loss: f1, focal can't go with ages.head 'ordinal', which learns by its likelihood alone, the term "
            "ce: set them to 0",
        ),
        (
            "predicts = 'heads'\nages = {head = 'ordinal'}\nloss = {label_smoothing = 0.1}",
            "set it to 0 in loss.heads.age",
        ),
        ("loss = {heads = {age = {weight = 2}}}", "mask.loss: heads.age: 'mask' has no such head, only mask"),
        ("loss = {heads = {mask = {wieght = 2}}}", "heads.mask.wieght: unknown key (did you mean 'weight'?)"),
        ("loss = {heads = {mask = {ce = 0}}}", "mask.loss: heads.mask: every weight is 0"),
        (
            "predicts = 'heads'\nloss = {heads = {age = {class_weights = [1, 2]}}}",
            "mask.loss: heads.age: 2 class_weights, but 'age' has 3 classes",
        ),
        ("loss = {balance = 'uncertainty'}", "mask.loss: balance weighs heads against each other, and 'mask' has one"),
        ("loss = {ce = 0, f1 = 1, logit_adjustment = 1}", "mask.loss: logit_adjustment goes into ce, which is 0"),
        ("loss = {class_balanced = 0.9, class_weights = [1, 2, 3]}", "class_balanced are class_weights too: keep one"),
        ("loss = {class_balanced = 0.9, logit_adjustment = 1}", "mask.loss: class_balanced and logit_adjustment both"),
        (
            "sampler = {balance = 'class'}\nloss = {logit_adjustment = 1}",
            "mask.loss: logit_adjustment corrects for how frequent classes are, and sampler.balance = 'class' evens",
        ),
        (
            "predicts = 'heads'\nsampler = {balance = 'age'}\nloss = {heads = {age = {class_balanced = 0.9}}}",
            "mask.loss: heads.age: class_balanced corrects for how frequent classes are, and sampler.balance = 'age'",
        ),
        ("loss = {class_weights = [0, 0, 0]}", "mask.loss: every class weight is 0"),
        ("loss = {ce = 0, f1 = 1, class_weights = [1, 2, 3]}", "mask.loss: class_weights and label_smoothing go into"),
        ("ema = 1.0", "mask.ema: input should be less than 1"),
        ("masks = {prob = 2}", "mask.masks.prob: input should be less than or equal to 1"),
        ("masks = {probs = 0.3}", "mask.masks.probs: unknown key (did you mean 'prob'?)"),
        ("masks = {face = {mouth = 0.4}}", "mask.masks.face: the mouth (0.4) has to be below the eyes (0.42)"),
        ("crop = [32, 16]\nmasks = {prob = 0.5, face = {middle = 0.1}}", "mask.masks: the crop [32, 16] cuts off"),
        ("optimizer = {lr = inf}", "mask.optimizer.lr: input should be a finite number"),
    ],
)
def test_what_can_not_be_meant_is_refused(keys: str, words: str) -> None:
    with pytest.raises(MaskensError) as caught:
        parse_recipe(TINY.replace("[tasks.mask]", f"[tasks.mask]\n{keys}"), "mine")
    assert f"tasks.{words}" in str(caught.value) or words in str(caught.value)


@pytest.mark.parametrize(
    "keys", ["sampler = {balance = 'age'}", "sampler = {balance = 'class', strength = 0}", "sampler = {fraction = 0.5}"]
)
def test_logits_may_be_adjusted_where_the_sampler_leaves_the_classes_as_they_are(keys: str) -> None:
    text = TINY.replace("[tasks.mask]", f"[tasks.mask]\n{keys}\nloss = {{logit_adjustment = 1}}")
    assert parse_recipe(text, "mine").tasks["mask"].loss.logit_adjustment == 1


def test_tasks_that_leave_a_class_open_are_refused() -> None:
    with pytest.raises(MaskensError, match="nothing predicts female-age"):
        parse_recipe(TINY.replace("[tasks.female-age]", ""), "mine")
    assert undetermined(["class18"]) == []
    assert undetermined(["heads"]) == []
    assert undetermined(["mask", "age"]) == ["gender"]
    assert undetermined(["mask", "gender"]) == ["age"]


def test_a_recipe_extends_another_by_name_or_by_a_file_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(TINY)
    (tmp_path / "more.toml").write_text(
        'extends = "base.toml"\nwithout = ["male-age", "female-age"]\n[defaults]\nepochs = 9\n[tasks.age]\nema = 0.5\n'
    )
    recipe = load_recipe(str(tmp_path / "more.toml"))
    assert list(recipe.tasks) == ["mask", "gender", "age"]
    assert {t.epochs for t in recipe.tasks.values()} == {9}
    assert (recipe.tasks["age"].ema, recipe.tasks["mask"].ema) == (0.5, 0)
    assert recipe.tasks["age"].model == "test_resnet.r160_in1k"
    quick = parse_recipe('extends = "quick"', "mine")
    assert quick.hash == load_recipe("quick").hash


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('extends = "quik"', "no recipe 'quik' \\(did you mean 'quick'"),
        ('extends = "demo"\nwithout = ["mas"]', "without: 'demo' has no task 'mas' \\(did you mean 'mask'"),
        ('without = ["mask"]', "there is none"),
        ("extends = 3", "needs a name or a file"),
        ('extends = "demo"\nwithout = [["mask"]]', "without: needs names of tasks"),
        ("tasks = 3", "tasks: not a table"),
        ("defaults = 3\n[tasks.mask]", "defaults: not a table"),
        ('[tasks.""]\npredicts = "heads"', "a task's name has 1 to 64"),
    ],
)
def test_a_wrong_extends_is_refused(text: str, words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        parse_recipe(text, "mine")


def test_recipes_that_extend_each_other_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(MaskensError, match="more than 8 recipes extend one another"):
        load_recipe(str(tmp_path / "a.toml"))


def test_set_changes_any_key_of_one_task_or_of_all() -> None:
    def tasks(*changes: str) -> dict[str, TaskRecipe]:
        return parse_recipe(TINY, "mine", changes=changes).tasks

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
        ("tasks.mask.epochs=many", "tasks.mask.epochs: input should be a valid integer"),
        ("epochs=5", r"epochs: unknown key \(did you mean tasks\.\*\.epochs"),
        ("mask.epochs=5", r"mask: unknown key \(did you mean tasks\.mask\?\)"),
        ("defaults.epochs=5", r"'defaults' belongs in a file. For all tasks write tasks\.\*"),
        ("tasks.mask.loss={ce=0 focal=1}", "the value is not valid TOML"),
    ],
)
def test_a_wrong_set_is_refused(change: str, words: str) -> None:
    with pytest.raises(MaskensError, match=words):
        parse_recipe(TINY, "mine", changes=[change])


def test_what_a_recipe_says_of_all_tasks_beats_what_the_extended_one_says_of_one() -> None:
    recipe = parse_recipe(
        'extends = "original"\n[defaults]\nepochs = 9\nloss = {f1 = 0.1}\n[tasks.mask]\nepochs = 5', "m"
    )
    assert [t.epochs for t in recipe.tasks.values()] == [5, 9, 9, 9]
    assert {t.loss.f1 for t in recipe.tasks.values()} == {0.1}


def test_bins_follow_their_cuts_unless_told_otherwise() -> None:
    exported = parse_recipe(TINY, "mine", changes=["tasks.male-age.ages.cuts=[21,30,46,58]"]).text
    again = parse_recipe(exported, "mine", changes=["tasks.male-age.ages.cuts=[20,25,30,58]"])
    assert again.tasks["male-age"].ages.bands == (0, 0, 0, 1, 2)
    told = parse_recipe(TINY, "mine", changes=["tasks.male-age.ages={cuts=[21,30,46,58], merge=[0,0,1,1,2]}"])
    assert told.hash == parse_recipe(exported, "mine").hash


def test_weights_lie_beside_the_recipe_wherever_maskens_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "w.safetensors").touch()
    (tmp_path / "mine.toml").write_text(TINY.replace("[tasks.mask]", "weights = 'w.safetensors'\n[tasks.mask]"))
    (tmp_path / "other").mkdir()
    monkeypatch.chdir(tmp_path / "other")
    recipe = load_recipe("../mine.toml")
    assert {t.weights for t in recipe.tasks.values()} == {str(tmp_path / "w.safetensors")}


def test_a_crop_can_be_taken_back() -> None:
    recipe = parse_recipe('extends = "original"\n[defaults]\ncrop = "none"', "mine")
    assert {t.crop for t in recipe.tasks.values()} == {None}


def test_an_optimizer_that_can_not_take_a_step_is_refused_before_training() -> None:
    recipe = parse_recipe(TINY, "mine", changes=["tasks.mask.optimizer.name=adahessian"])
    with pytest.raises(MaskensError, match=r"tasks\.mask: optimizer: "):
        preflight(recipe, recipe.tasks)


def test_half_precision_on_a_cpu_is_warned_about() -> None:
    recipe = parse_recipe(TINY, "mine", changes=["tasks.mask.precision=fp16"])
    assert "tasks.mask.precision fp16: a CPU may be many times slower" in preflight(recipe, ["mask"], device="cpu")[0]
    assert preflight(recipe, ["mask"], device="cuda") == []


def test_a_warm_up_longer_than_the_training_is_warned_about() -> None:
    recipe = parse_recipe(TINY, "mine", changes=["tasks.mask.schedule={name='cosine', warmup_epochs=9}"])
    assert ["tasks.mask.schedule.warmup_epochs 9 is not below epochs 3" in w for w in preflight(recipe, ["mask"])] == [
        True
    ]


def test_only_what_differs_changes_a_hash() -> None:
    plain = parse_recipe(TINY, "mine")
    written_out = parse_recipe(TINY, "other", changes=["tasks.*.ema=0", "tasks.mask.ages.merge=[0,1,2]"])
    assert written_out.hash == plain.hash
    changed = parse_recipe(TINY, "mine", changes=["tasks.mask.ema=0.9"])
    assert changed.hash != plain.hash
    assert changed.tasks["mask"].hash != plain.tasks["mask"].hash
    assert changed.tasks["gender"].hash == plain.tasks["gender"].hash


def test_the_recipe_of_a_run_is_the_one_it_was_trained_with_or_none(tmp_path: Path) -> None:
    recipe = parse_recipe(TINY, "mine")
    run = bind_recipe(Run(tmp_path, "", "", "", 2, 0, ()), recipe)
    assert run_recipe(run) == recipe
    assert resolve_recipe(run, RecipeChange()) == recipe
    (tmp_path / "mask" / "fold0").mkdir(parents=True)
    (tmp_path / "mask" / "fold0" / "last.pt").touch()
    with pytest.raises(MaskensError, match=r"tasks\.mask\.decode: 'reduced', now 'full'"):
        resolve_recipe(run, RecipeChange(changes=["tasks.mask.decode=full"]))
    text = recipe.text
    run.recipe_file.write_text(text.replace("epochs = 3", "epochs = 4"))
    with pytest.raises(MaskensError, match="was edited after training began"):
        run_recipe(run)
    run.recipe_file.write_bytes(text.encode("utf-16"))
    with pytest.raises(MaskensError, match=r"can't read .*recipe\.toml: 'utf-8' codec"):
        run_recipe(run)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no tasks"),
        ("a = ", "not valid TOML"),
        ("tasks = 3", "tasks: not a table"),
        (f"a = {'9' * 5000}", "not valid TOML: Exceeds the limit"),
        (f"a = {'[' * 100_000}", "not valid TOML: it is nested"),
        ('extends = "a\\u0000.toml"', "can't read the recipe"),
    ],
    ids=["nothing", "half a line", "no table", "a number without end", "lists without end", "a name with a zero byte"],
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
    everywhere = with_weights(recipe, [str(file)], pretrained=True)
    assert all(t.weights == str(file) and t.pretrained for t in everywhere.tasks.values())
    one = with_weights(recipe, [f"mask={file}"], pretrained=True)
    assert [t for t, r in one.tasks.items() if r.weights] == ["mask"]
    none = with_weights(everywhere, [], pretrained=False)
    assert not any(t.weights or t.pretrained for t in none.tasks.values())
    with pytest.raises(MaskensError, match=r"can't read the weights .*gone\.safetensors"):
        with_weights(recipe, ["gone.safetensors"], pretrained=True)
    with pytest.raises(MaskensError, match=r"no task 'msk' \(did you mean 'mask'"):
        with_weights(recipe, [f"msk={file}"], pretrained=True)
    with pytest.raises(MaskensError, match="exclude each other"):
        with_weights(recipe, [str(file)], pretrained=False)


def test_weights_count_by_what_they_are_not_where_they_lie(tmp_path: Path) -> None:
    recipe = parse_recipe(TINY, "mine")
    for name, content in (("a", "same"), ("b", "same"), ("c", "other")):
        (tmp_path / name).write_text(content)
    a, b, c = (with_weights(recipe, [str(tmp_path / name)], pretrained=True) for name in "abc")
    assert a.hash == b.hash != c.hash
    assert len({recipe.hash, a.hash, c.hash}) == 3
    (tmp_path / "a").write_text("changed")
    with pytest.raises(MaskensError, match="is not the file that this run began with"):
        create(a.tasks["mask"])
    (tmp_path / "a").unlink()
    with pytest.raises(MaskensError, match="name the run's initial weights again with --weights FILE"):
        create(a.tasks["mask"])


def test_a_recipe_for_a_gpu_and_the_hub_is_refused_at_once_where_both_are_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setattr("timm.create_model", None)  # no model is built first
    recipe = load_recipe("original")
    with pytest.raises(MaskensError) as error:
        preflight(recipe, recipe.tasks, device="cpu")
    message = str(error.value)
    for task in recipe.tasks.values():
        assert f"timm/{task.model}/resolve/main/model.safetensors" in message
    assert "wants a GPU" in message
    assert "--recipe quick --weights FILE, with the file https://huggingface.co/timm/tf_efficientnet_lite0" in message
    with pytest.raises(MaskensError) as error:
        preflight(recipe, recipe.tasks, device="cuda")
    assert "wants a GPU" not in str(error.value)


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
            " {name = 'CenterCrop', args = {height = 8, width = 8}}, {name = 'Normalize'},"
            " {some_of = 1, transforms = [{name = 'CLAHE'}, {name = 'Transpose'}]}]",
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
    assert "augment.4.transforms.1: Transpose turns uint8 (32, 24, 3)" in message
    with pytest.raises(MaskensError, match=r"timm has no model 'test_resnt' \(did you mean 'test_resnet'"):
        preflight(tiny(model="test_resnt"), ["mask"])
    with pytest.raises(MaskensError, match="timm has no weights 'nonsense' for test_resnet"):
        preflight(tiny(model="test_resnet.nonsense"), ["mask"])
    optimizer = tiny().tasks["mask"].optimizer.model_copy(update={"name": "adamm"})
    with pytest.raises(MaskensError, match="adamm"):
        preflight(tiny(optimizer=optimizer), ["mask"])


def test_soft_f1_of_mixed_photos_is_warned_of() -> None:
    soft_f1, mixed = Loss(ce=0.3, f1=0.7), Mix(mixup=1.0)
    (warning,) = preflight(tiny(loss=soft_f1, mix=mixed), ["mask"])
    assert "loss.f1 of mask is not a proper loss" in warning
    assert preflight(tiny(loss=soft_f1), ["mask"]) == preflight(tiny(mix=mixed), ["mask"]) == []


def test_shipped_recipes_do_not_mix_photos_with_soft_f1() -> None:
    tasks = {f"{name} {n}": t for name in shipped() for n, t in load_recipe(name).tasks.items()}
    assert [name for name, task in tasks.items() if task.mix.active and task.soft_f1] == []


def test_preflight_refuses_what_a_model_does_not_take() -> None:
    vit = {"model": "test_vit3", "resize": (160, 160), "sizes": ((96, 96),)}
    with pytest.raises(MaskensError, match="test_vit3 at 96x96 fails"):
        preflight(tiny(**vit), ["mask"])
    assert preflight(tiny(**vit, model_args={"dynamic_img_size": True}), ["mask"]) == []
    with pytest.raises(MaskensError, match=r"vgg11 can't be built: .* unexpected keyword argument 'drop_path_rate'"):
        preflight(tiny(model="vgg11", model_args={"drop_path_rate": 0.1}), ["mask"])


def test_a_classifier_that_learns_from_random_features_is_warned_about() -> None:
    (warning,) = preflight(tiny(head_epochs=1.0), ["mask"])
    assert "tasks.mask.head_epochs 1: without initial weights" in warning


def test_a_schedule_that_rises_is_warned_about() -> None:
    schedule = load_recipe("original").tasks["mask"].schedule.model_copy(update={"eta_min": 0.5})
    (warning,) = preflight(tiny(schedule=schedule), ["mask"])
    assert "tasks.mask.schedule.eta_min 0.5 is above lr 0.001" in warning


def test_differences_name_the_keys() -> None:
    assert differences(tiny(), tiny(epochs=9)) == ["tasks.mask.epochs: 3, now 9"]


def test_a_head_takes_from_its_task_what_it_does_not_say_itself() -> None:
    mine = "predicts = 'heads'\nages = {cuts = 'years'}\nloss = {ce = 0.3, f1 = 0.7, heads = {age = {f1 = 0}}}"
    recipe = parse_recipe(TINY.replace("[tasks.mask]", f"[tasks.mask]\n{mine}"), "mine")
    task = recipe.tasks["mask"]
    assert (task.loss.of("age").ce, task.loss.of("age").f1, task.loss.of("mask").f1) == (0.3, 0, 0.7)
    assert task.ages.cuts[:2] == (16, 17)
    written_out = parse_recipe(recipe.text, "mine")
    assert written_out.hash == recipe.hash
    changed = parse_recipe(recipe.text, "mine", changes=["tasks.mask.loss.ce=1"])
    assert changed.tasks["mask"].loss.of("age").ce == 1, "also in a recipe that is written out"


def test_what_is_wrong_with_the_defaults_is_told_once() -> None:
    with pytest.raises(MaskensError) as caught:
        parse_recipe('extends = "original"\n[defaults]\noota = 1\n[tasks.mask]\nepoch = 2\n', "mine")
    message = str(caught.value)
    assert message.count("oota") == 1
    assert "tasks.*.oota: unknown key" in message
    assert "tasks.mask.epoch: unknown key" in message
