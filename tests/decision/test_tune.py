"""Tuning, blending and scoring of runs whose out-of-fold logits are planned."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from planned import CLASS18, FOUR, HEADS, SOFT_F1, plan_run
from scipy.special import log_softmax

from ensemble.commands.tune import tune as tune_runs
from ensemble.decision.fitting import fit, fit_temperature, greedy_weights, nested, tune
from ensemble.decision.joint import most_probable, share_gender_and_age
from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.decision.tuning import (
    ActiveTuning,
    StepName,
    Tuning,
    apply_tuning,
    kept_tuning,
    read_nested,
    save_tuning,
    tuning_file,
    untuned_run,
)
from ensemble.evaluation.evaluate import evaluate, plain_values, save_oof
from ensemble.evaluation.verify import verify
from ensemble.metrics.scores import SCORED_PARTS, macro_f1
from ensemble.recipes.views import SETS
from folds.errors import MaskensError
from folds.labels import decode
from folds.layout import read_train
from folds.people import TrainData
from folds.ranges import FULL
from folds.records import sealed
from folds.run_folder import Run, load_data


@pytest.fixture(scope="module")
def data(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    return read_train(make_data(tmp_path_factory.mktemp("tune") / "data", people=60))


def noisy(data: TrainData, seed: int = 0, gain: float = 2.5, less: Sequence[int] = (), by: float = 0) -> np.ndarray:
    """Logits (photos, 18) that know the class, but for noise; the classes in `less` are underrated."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1, (len(data.files), 18)) + gain * np.eye(18)[data.classes]
    logits[:, list(less)] -= by
    return logits


def ensemble_of(*runs: Run) -> OofEnsemble:
    return load_oof_ensemble(runs, None, "cross-fitted")


def applied_to(blend: OofEnsemble, **options: object) -> ActiveTuning:
    return apply_tuning([m.run for m in blend.runs], **{"tta": None} | options)  # type: ignore[arg-type]


def kept(*runs: Run) -> Tuning | None:
    found = kept_tuning([untuned_run(run) for run in runs])
    return found[0] if found else None


def saved(blend: OofEnsemble, steps: Sequence[StepName]) -> Path:
    tuning, decision = tune(blend, steps)
    path = blend.runs[0].run.folder / tuning_file([m.untuned for m in blend.runs])
    save_tuning(path, tuning, [blend.data.files[i] for i in blend.rows], decision)
    return path


def test_what_is_worth_it_is_kept_and_the_figure_is_of_other_people(data: TrainData, tmp_path: Path) -> None:
    blend = ensemble_of(plan_run(tmp_path / "a", data, 4 * noisy(data, less=(2, 5), by=1.5)))
    path = saved(blend, ["views", "temperatures", "offsets"])
    applied = applied_to(blend)
    tuning = applied.tuning
    assert tuning
    assert tuning.kept == ("temperatures", "offsets")
    assert tuning.gain.low > 0
    decision = read_nested(path, [blend.data.files[i] for i in blend.rows])
    assert tuning.tuned.value == pytest.approx(macro_f1(blend.truth, decision.classes, 18))
    temperatures = tuning.fitted.runs[0].temperatures["class18"]
    assert temperatures == pytest.approx((4 / 2.5,), rel=0.3), "log p is 2.5 times the noisy values"
    everybody = blend.decide(tuning.fitted).classes
    assert macro_f1(blend.truth, everybody, 18) >= tuning.tuned.value, "fitted on itself, it looks better"
    found = evaluate(blend, applied)
    assert found.f1[SCORED_PARTS[0]].value == pytest.approx(tuning.tuned.value)
    settings = {s.name: s for s in found.settings}
    assert settings["cross-fitted, flip"].f1.value == pytest.approx(tuning.untuned.value)
    assert settings["tuned"].f1 == found.f1[SCORED_PARTS[0]]
    assert settings["tuned"].gain.value == pytest.approx(tuning.gain.value)
    assert settings["last, flip"].gain.significance == "equal", "untuned ways are compared with the untuned one"
    assert "tuned: temperatures, offsets" in found.used


def test_what_gains_nothing_is_not_applied(data: TrainData, tmp_path: Path) -> None:
    blend = ensemble_of(plan_run(tmp_path / "a", data, noisy(data, gain=12)))
    tuning, decision = tune(blend, ["views", "offsets"])
    assert tuning.kept == ()
    assert tuning.fitted == blend.plain("flip")
    assert np.array_equal(decision.classes, blend.decide(blend.plain("flip")).classes)
    assert "applied: nothing" in tuning.summary[-1]
    assert tune(blend, ["offsets"], force=True)[0].kept == ("offsets",)


def test_nobody_is_scored_by_their_tuning(data: TrainData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blend = ensemble_of(plan_run(tmp_path / "a", data, noisy(data)))
    fitted_on: list[np.ndarray] = []

    def watching(blend: OofEnsemble, photos: np.ndarray, *rest: object) -> object:
        fitted_on.append(photos)
        return blend.plain("flip").model_copy(update={"offsets": tuple(np.eye(18)[len(fitted_on)] * 99)})

    monkeypatch.setattr("ensemble.decision.fitting.fit", watching)
    decision = nested(blend, ["offsets"])
    assert len(fitted_on) == 5
    for number, photos in enumerate(fitted_on, start=1):
        held_out = decision.classes == number  # the offset of this fit sends all its people to one class
        assert held_out.sum() == pytest.approx(len(blend.rows) / 5, rel=0.3)
        assert not set(blend.person[held_out]) & set(blend.person[photos])


def test_each_head_has_one_temperature_for_all_folds_where_it_is_worth_one(data: TrainData, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    parts = np.stack(decode(data.classes), axis=1)
    logits = rng.normal(0, 1, (len(data.files), 8))  # of unit variance, so that a gain of 1 is calibrated
    for column, start in enumerate((0, 3, 5)):
        logits[np.arange(len(parts)), start + parts[:, column]] += (0.5, 1.0, 1.0)[column]
    logits[:, 3:5] *= 5
    blend = ensemble_of(plan_run(tmp_path / "a", data, {"heads": logits}, recipe=HEADS))
    everybody = np.arange(len(blend.rows))
    mask, gender, age = fit(blend, everybody, ["temperatures"]).runs[0].temperatures["heads"]
    assert mask == pytest.approx(2, rel=0.3)
    assert gender == pytest.approx(5, rel=0.3)
    assert age == 1, "no temperature lowers its log loss by more than noise"
    forced = fit(blend, everybody, ["temperatures"], force=True).runs[0].temperatures["heads"]
    assert forced[:2] == (mask, gender)
    assert 0.8 < forced[2] < 1.25
    assert forced[2] != 1


def predicted(run: Run, logits: np.ndarray, classes: np.ndarray, **changes: object) -> None:
    """Write what `infer` leaves of the photos that it predicted with views identity and hflip."""
    record = {"oof_hashes": [untuned_run(run).oof_hash], "views": ["identity", "hflip"]}
    record |= {"folds": {"class18": [0, 1]}} | changes
    shown = np.stack([logits, logits], axis=1)
    arrays = {"ids": np.arange(len(classes)), "classes": classes, "logits/class18": shown}
    np.savez(run.folder / "eval.npz", record=json.dumps(record), **arrays)


def test_the_mean_of_the_folds_has_temperatures_of_its_own(data: TrainData, tmp_path: Path) -> None:
    """Two folds whose models err apart: noise that their mean halves."""
    run = plan_run(tmp_path / "a", data, 4 * noisy(data))
    unmeasured, _ = tune(ensemble_of(run), ["temperatures"])
    (single,) = unmeasured.fitted.runs[0].temperatures["class18"]
    assert single == pytest.approx(4 / 2.5, rel=0.3)
    assert unmeasured.fitted.runs[0].mean_temperatures == {"class18": (1.0,)}
    assert f"maskens infer --run {run.folder}, then tune again" in "\n".join(unmeasured.summary)
    new = np.stack([4 * noisy(data, seed) for seed in (5, 6)])
    predicted(run, new, data.classes)
    measured, _ = tune(ensemble_of(run), ["temperatures"])
    (of_mean,) = measured.fitted.runs[0].mean_temperatures["class18"]
    assert of_mean == pytest.approx(fit_temperature(new.mean(axis=0), data.classes), rel=0.15)
    assert single / 2 <= of_mean < 0.7 * single
    assert measured.tuned == unmeasured.tuned, "single models are scored out-of-fold"
    assert "tune again" not in "\n".join(measured.summary)
    predicted(run, np.stack([*new, 9 * new[0]]), data.classes, folds={"class18": [0, 1, FULL]})
    assert tune(ensemble_of(run), ["temperatures"])[0] == measured, "a model on everybody is none of the folds"
    predicted(run, new[:1], data.classes, folds={"class18": [FULL]})
    assert tune(ensemble_of(run), ["temperatures"])[0] == unmeasured
    predicted(run, new, data.classes)
    run.pseudo_record.touch()
    assert tune(ensemble_of(run), ["temperatures"])[0].fitted.runs[0].mean_temperatures == {"class18": (1.0,)}, (
        "models that were trained on these photos agree on them"
    )
    run.pseudo_record.unlink()
    predicted(run, new, data.classes, oof_hashes=["of other models"])
    assert tune(ensemble_of(run), ["temperatures"])[0] == unmeasured
    alone = plan_run(tmp_path / "b", data, 4 * noisy(data), trained=[1])
    (only,) = tune(ensemble_of(alone), ["temperatures"])[0].fitted.runs
    assert only.mean_temperatures == only.temperatures, "the mean of one fold is that fold"


THREE = ("identity", "hflip", "scale=0.9")
WITH_SETS = f"""oof_tta = ["mine"]
{CLASS18}
[tta.mine]
views = {list(THREE)}
[tta.best-of]
views = {list(THREE)}
merge = "max"
"""


def test_sets_of_views_are_scored_chosen_kept_and_applied(data: TrainData, tmp_path: Path) -> None:
    """The third view is worth more than the others."""
    views = np.stack([noisy(data, 1, 2.0), noisy(data, 2, 2.0), noisy(data, 3, 3.5)])
    run = plan_run(tmp_path / "a", data, views, recipe=WITH_SETS, views=THREE)
    blend = ensemble_of(run)
    assert blend.sets == ["none", "flip", "mine", "best-of"]
    plain = applied_to(blend)
    assert plain.fitted.tta == "flip"
    found = {v.name: v for v in evaluate(blend, plain).views}
    assert list(found) == [*THREE, "flip", "mine", "best-of"]
    assert [v.passes for v in found.values()] == [1, 1, 1, 2, 3, 3]
    assert found["identity"].gain.value == 0
    assert found["scale=0.9"].gain.low > 0
    assert found["mine"].f1.value > found["flip"].f1.value
    path = saved(blend, ["views"])
    applied = applied_to(blend)
    assert applied.tuning
    assert applied.tuning.kept == ("views",)
    assert applied.fitted.tta in ("mine", "best-of")
    assert applied.description == f"tuned: views ({path})"
    assert evaluate(blend, applied).settings[-1].name == "tuned"
    assert applied_to(blend, tta=applied.fitted.tta).tuning, "its own views by name"
    assert applied_to(blend, tta="flip").description == f"untuned: {path} is for --tta {applied.fitted.tta}"
    assert applied_to(blend, tuned=False).description == "untuned"
    with pytest.raises(MaskensError, match="--tta flp: no such set of views"):
        applied_to(blend, tta="flp")
    both = ensemble_of(run, plan_run(tmp_path / "b", data, noisy(data, 4, 2.0)))
    assert both.sets == ["none", "flip"], "of several runs the views that all have"
    with pytest.raises(MaskensError, match=r"no view scale=0\.9.*choose another --tta, or name the set in oof_tta"):
        both.decide(both.plain("mine"))


def test_a_saved_tuning_comes_back_until_it_or_the_logits_change(data: TrainData, tmp_path: Path) -> None:
    run = plan_run(tmp_path / "a", data, 4 * noisy(data, less=(2, 5), by=1.5))
    blend = ensemble_of(run)
    files = [data.files[i] for i in blend.rows]
    assert kept(run) is None
    path = saved(blend, ["offsets"])
    found = kept(run)
    assert found == tune(blend, ["offsets"])[0]
    with pytest.raises(MaskensError, match=r"does not belong to tuning\.json and its photos"):
        read_nested(path, files[:-1])
    shutil.move(run.folder, tmp_path / "b")
    assert kept(dataclasses.replace(run, folder=tmp_path / "b")), "it moves with its run"
    shutil.move(tmp_path / "b", run.folder)
    saved(blend, ["temperatures"])
    shutil.move(path.with_name("tuning.1.json"), path)
    assert kept(run) == found
    with pytest.raises(MaskensError, match=r"does not belong to tuning\.json"):
        read_nested(path, files)
    record = json.loads(path.read_text())
    record["fitted"]["offsets"][2] += 1
    edited = json.dumps(record)
    del record["sha256"]
    record["fitted"]["offsets"].append(1)
    for text, words in ((edited, "it was edited or damaged"), (json.dumps(sealed(record)), ".*offsets"), ("{}", "")):
        path.write_text(text)
        with pytest.raises(MaskensError, match=rf"tuning\.json can't be used: {words}"):
            kept(run)
    saved(blend, ["offsets"])
    plan_run(tmp_path / "a", data, noisy(data, 9))
    with pytest.raises(MaskensError, match=r"other out-of-fold logits.*maskens tune --run .*--no-tuning"):
        kept(run)


def test_blends_of_one_run_with_several_others_are_kept_apart(data: TrainData, tmp_path: Path) -> None:
    """Recipe, seed and folds are the same; what the jobs are trained from is not."""
    a, b, c = (plan_run(tmp_path / n, data, noisy(data, i)) for i, n in enumerate("abc"))
    (b.folder / "soft_targets.json").write_text("of a")
    (c.folder / "pseudo.json").write_text("of d")
    saved(ensemble_of(a, b), ["weights"])
    assert kept(a, b)
    assert kept(b, a), "the order in which runs are named does not matter"
    assert kept(a, c) is None
    saved(ensemble_of(a, c), ["weights"])
    assert kept(a, b) != kept(a, c)
    found = [check for check in verify(a).checks if check.kind == "tuning"]
    assert len(found) == 6, "of each blend, itself, its logits and its predictions"
    assert all(check.ok for check in found)


def test_the_greedy_selection_finds_who_is_worth_asking(data: TrainData) -> None:
    good, other, useless = (noisy(data, seed, gain) for seed, gain in ((1, 2.0), (2, 2.0), (3, 0.0)))
    class_log_probs = log_softmax(np.stack([useless, good, other]), axis=2)
    weights = np.array(greedy_weights(class_log_probs, data.classes))
    assert weights.sum() == pytest.approx(1)
    assert weights[0] < 0.2 < min(weights[1:])
    blended = most_probable(np.average(class_log_probs, axis=0, weights=weights))
    assert macro_f1(data.classes, blended, 18) > max(
        macro_f1(data.classes, most_probable(j), 18) for j in class_log_probs
    )
    assert greedy_weights(class_log_probs[[1, 1]], data.classes) == (1.0, 0.0), "of equals the first"


def test_runs_of_different_tasks_are_one_ensemble(data: TrainData, tmp_path: Path) -> None:
    parts = np.concatenate([3.0 * np.eye(w)[p] for w, p in zip((3, 2, 3), decode(data.classes), strict=True)], axis=1)
    parts += np.random.default_rng(5).normal(0, 2, parts.shape)
    a = plan_run(tmp_path / "a", data, noisy(data, gain=1.5))
    b = plan_run(tmp_path / "b", data, {"heads": parts}, recipe=HEADS)
    blend = ensemble_of(a, b)
    plain = blend.plain("flip")
    mean = log_softmax(blend.class_log_probs(plain).mean(axis=0), axis=1)
    assert blend.decide(plain).log_probabilities == pytest.approx(mean)
    found = evaluate(blend, applied_to(blend))
    names = [s.name for s in found.settings]
    assert f"{a.folder} alone" in names
    assert "hard vote" in names
    assert set(found.tasks) == {f"{a.folder}: class18", f"{b.folder}: heads"}
    alone = evaluate(ensemble_of(a), applied_to(ensemble_of(a)))
    setting = next(s for s in found.settings if s.name == f"{a.folder} alone")
    assert setting.f1 == alone.f1[SCORED_PARTS[0]]
    path = saved(blend, ["temperatures", "weights"])
    assert path.parent == a.folder
    backwards = kept(b, a)
    assert backwards
    assert [r.run for r in backwards.fitted.runs] == [str(b.folder), str(a.folder)]
    assert kept(a) is None, "a blend's tuning is not a run's"


def test_runs_that_do_not_fit_are_refused(data: TrainData, tmp_path: Path, make_data: Callable[..., Path]) -> None:
    a = plan_run(tmp_path / "a", data, noisy(data))
    with pytest.raises(MaskensError, match=r"b has other folds than .*a: its models saw"):
        ensemble_of(a, plan_run(tmp_path / "b", data, noisy(data), split_seed=2))
    other = read_train(make_data(tmp_path / "data", people=12))
    with pytest.raises(MaskensError, match="too few people to tune"):
        tune(ensemble_of(plan_run(tmp_path / "few", other, noisy(other), trained=[0])), ["offsets"])
    with pytest.raises(MaskensError, match=r"c was made from other photos than .*a"):
        ensemble_of(a, plan_run(tmp_path / "c", other, noisy(other)))
    with pytest.raises(MaskensError, match="named twice"):
        ensemble_of(a, dataclasses.replace(a, folder=a.folder / ".." / "a"))
    half = plan_run(tmp_path / "d", data, noisy(data), trained=[1])
    found = ensemble_of(a, half)
    assert (found.trained, set(found.fold)) == ((1,), {1})
    assert found.notes[0] == f"{half.folder}: folds that count: 1 of 0..1; not trained: class18 fold 0"
    logits = noisy(data)
    logits[0, 3] = np.nan
    with pytest.raises(MaskensError, match=r"oof.npz holds logits that are not finite"):
        ensemble_of(plan_run(tmp_path / "f", data, logits))
    with pytest.raises(MaskensError, match="no fold in common"):
        ensemble_of(half, plan_run(tmp_path / "e", data, noisy(data), trained=[0]))


def test_an_evaluation_scores_the_whole_and_its_parts(data: TrainData, tmp_path: Path) -> None:
    logits = noisy(data, gain=2)
    blend = ensemble_of(plan_run(tmp_path / "a", data, logits))
    found = evaluate(blend, applied_to(blend))
    decided = most_probable(logits.astype(np.float32))
    assert found.f1[SCORED_PARTS[0]].value == pytest.approx(macro_f1(data.classes, decided, 18), abs=1e-6)
    assert found.accuracy.value == pytest.approx((decided == data.classes).mean())
    assert found.f1[SCORED_PARTS[0]].low < found.f1[SCORED_PARTS[0]].value < found.f1[SCORED_PARTS[0]].high
    assert [(f.fold, f.people, f.photos) for f in found.folds] == [(0, 30, 210), (1, 30, 210)]
    mine = blend.fold == 1
    assert found.folds[1].f1 == pytest.approx(macro_f1(data.classes[mine], decided[mine], 18))
    settings = {s.name: s for s in found.settings}
    together = most_probable(share_gender_and_age(found.decision.log_probabilities, blend.person))
    assert settings["a person's photos together"].f1.value == pytest.approx(macro_f1(data.classes, together, 18))
    assert settings["a person's photos together"].gain.significance == "better"
    views = ["cross-fitted, flip", "cross-fitted, no TTA", "best, no TTA", "best, flip", "last, no TTA", "last, flip"]
    assert list(settings) == [*views, "part by part", "a person's photos together"]
    assert settings["cross-fitted, flip"].f1 == found.f1[SCORED_PARTS[0]]
    assert settings["last, flip"].gain.significance == "equal"
    record = plain_values(found)
    assert record["f1"]["18 classes"]["value"] == found.f1[SCORED_PARTS[0]].value
    assert record["score"]["support"] == np.bincount(data.classes, minlength=18).tolist()


def test_each_photo_is_pooled_once_and_a_fold_counts_once_all_its_tasks_are_trained(
    data: TrainData, tmp_path: Path
) -> None:
    widths = {"mask": 3, "gender": 2, "male-age": 3, "female-age": 3}
    logits = {task: np.zeros((len(data.files), width)) for task, width in widths.items()}
    run = plan_run(tmp_path / "run", data, logits, recipe=FOUR)
    blend = ensemble_of(run)
    whole = evaluate(blend, applied_to(blend))
    assert whole.score.photos == len(data.files)
    assert whole.score.support.tolist() == np.bincount(data.classes, minlength=18).tolist()
    save_oof(blend, whole, SETS["none"])
    with np.load(run.folder / "oof.npz") as pooled:
        assert pooled["files"].tolist() == data.files
        assert np.exp(pooled["log_probabilities"]).sum(axis=1) == pytest.approx(1)
        assert pooled["fold"].tolist() == load_data(run)[1][data.photo_person].tolist()
    shutil.rmtree(run.job_folder("gender", 1))
    partly = ensemble_of(run)
    assert partly.trained == (0,)
    assert "not trained: gender fold 1" in partly.notes[0]
    shutil.rmtree(run.job_folder("mask", 0))
    with pytest.raises(MaskensError, match=r"no fold of .* has all of its tasks trained"):
        ensemble_of(run)


def test_temperatures_of_models_that_learned_soft_f1_are_warned_of(data: TrainData, tmp_path: Path) -> None:
    proper = plan_run(tmp_path / "ce", data, noisy(data))
    improper = plan_run(tmp_path / "f1", data, noisy(data), recipe=SOFT_F1)
    assert not any("loss.f1" in note for note in tune_runs(proper.folder, step="temperatures").notes)
    assert any("loss.f1 of class18" in note for note in tune_runs(improper.folder, step="temperatures").notes)
