"""Label errors that were planted among right predictions, and what the command makes of them."""

from __future__ import annotations

import csv
import dataclasses
import importlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from html_pages import assert_accessible
from PIL import Image
from planned import plan_run
from run_command import maskens

import cli
from ensemble.decision.fitting import fit_temperature, scaled
from ensemble.evaluation.audit import Audit, audit, field_predictions, nearest_year, photos_csv, suspects_csv
from folds.corrections import Merge, apply_fixes, apply_merges, read_merges
from folds.explore.duplicates import portrait_candidates
from folds.labels import SHOTS, age_band, encode
from folds.layout import read_train
from folds.pages.contact_sheet import BOX, GAP, LINE, Cell, Sheet, draw
from folds.people import Fix, TrainData

MakeData = Callable[..., Path]


@pytest.fixture(scope="module")
def true(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> TrainData:
    """36 people, six of each gender and age band."""
    return read_train(make_data(tmp_path_factory.mktemp("audit") / "data", people=36))


def predictions(data: TrainData, classes: np.ndarray | None = None, sure: float = 5.0) -> np.ndarray:
    """Logits (photos, 18) that are right about `data`, or say the classes, some surer than others."""
    noise = np.random.default_rng(1).normal(0, 0.3, (len(data.files), 18))
    return np.eye(18)[data.classes if classes is None else classes] * sure + noise


def judged(data: TrainData, logits: np.ndarray, fields: Sequence[str] = ("gender", "age", "mask")) -> Audit:
    rows = np.arange(len(data.files))
    return audit(data, rows, scaled(logits, 1), fields)


def mislabelled(data: TrainData, *fixes: tuple[int, str, str, str, str]) -> TrainData:
    """The data with wrong labels: (person, photo, field, right, wrong)."""
    return apply_fixes(data, [Fix(data.people[i].path, *rest) for i, *rest in fixes])


def wrong_labels(data: TrainData) -> tuple[TrainData, set[tuple[str, str, str, str]]]:
    """Everything that can be wrong once each, and what puts it right: (path, photo, field, year or name)."""
    paths = [p.path for p in data.people]
    ages = [p.age for p in data.people]
    wrong = mislabelled(
        data,
        (0, "", "gender", "male", "female"),
        (8, "", "age", str(ages[8]), "25"),
        (13, "", "age", str(ages[13]), "75"),
        (20, "incorrect_mask", "mask", "incorrect", "not wear"),
        (20, "normal", "mask", "not wear", "incorrect"),
        (27, "mask3", "mask", "wear", "not wear"),
    )
    return wrong, {
        (paths[0], "", "gender", "male"),
        (paths[8], "", "age", "60"),
        (paths[13], "", "age", "59"),
        (paths[20], "incorrect_mask", "mask", "incorrect"),
        (paths[20], "normal", "mask", "not wear"),
        (paths[27], "mask3", "mask", "wear"),
    }


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_exactly_the_planted_errors_are_found_with_the_labels_that_mend_them(true: TrainData) -> None:
    wrong, mending = wrong_labels(true)
    rows = rows_of(suspects_csv(judged(wrong, predictions(true))))
    assert {(r["path"], r["photo"], r["field"], r["new"]) for r in rows} == mending
    assert [int(r["rank"]) for r in rows] == sorted(int(r["rank"]) for r in rows)
    scores = [float(r["score"]) for r in rows]
    assert scores == sorted(scores, reverse=True), "one order, that of the score"
    last = rows[-1]
    assert last["photos_agree"] == "1", "a mask that no other photo would take in exchange is hardly a wrong label"
    assert float(last["score"]) == pytest.approx((1 - float(last["self_confidence"])) / 2, abs=1e-4)
    assert scores[-1] < 0.5 < scores[-2]
    assert all(float(r["self_confidence"]) < 0.5 and float(r["margin"]) < 0 for r in rows)


def test_the_two_rows_of_a_swap_stay_together_and_name_each_other(true: TrainData) -> None:
    wrong, _ = wrong_labels(true)
    rows = rows_of(suspects_csv(judged(wrong, predictions(true))))
    pair = [i for i, r in enumerate(rows) if "swapped" in r["reason"]]
    assert pair[1] == pair[0] + 1
    assert rows[pair[0]]["rank"] == rows[pair[1]]["rank"]
    assert rows[pair[0]]["score"] == rows[pair[1]]["score"]
    assert "incorrect_mask and normal" in rows[pair[0]]["reason"]
    assert {r["photos_agree"] for r in rows} == {"7", "2", "1"}


def test_a_person_has_one_swap_at_most_and_the_rest_are_single_photos(true: TrainData) -> None:
    wrong = mislabelled(
        true,
        *((3, shot, "mask", "wear", "incorrect") for shot in ("mask1", "mask2")),
        (3, "incorrect_mask", "mask", "incorrect", "wear"),
    )
    found = judged(wrong, predictions(true)).suspects
    assert sorted(len(s.doubts) for s in found) == [1, 2]
    swapped, alone = sorted((set(s.photos.split(", ")) for s in found), key=len, reverse=True)
    assert "incorrect_mask" in swapped
    assert swapped | alone == {"mask1", "mask2", "incorrect_mask"}


def test_photos_that_contradict_each_other_are_told_and_weigh_less(true: TrainData) -> None:
    """Two men labelled women: all photos of the first look male, four of the second's do, three female."""
    people = [i for i, p in enumerate(true.people) if p.gender == 0][:2]
    wrong = mislabelled(true, *((i, "", "gender", "male", "female") for i in people))
    mask, gender, age = (a.copy() for a in true.labels)
    gender[people[1] * 7 : people[1] * 7 + 3] = 1
    first, second = judged(wrong, predictions(true, encode(mask, gender, age))).suspects
    assert (first.person.path, second.person.path) == tuple(true.people[i].path for i in people)
    assert (first.agree, second.agree) == (7, 4)
    rows = rows_of(suspects_csv(judged(wrong, predictions(true, encode(mask, gender, age)))))
    words = [r["reason"].split(": ")[-1] for r in rows]  # after the note that the run has fixed this label
    assert words == ["all 7 photos look male", "4 of 7 photos look male"]


def test_photos_that_are_left_out_neither_count_nor_stand_in_a_list(true: TrainData) -> None:
    """A man labelled a woman of whom five photos are left, one who has none left, and a swap of which half is gone."""
    people = [i for i, p in enumerate(true.people) if p.gender == 0][:3]
    wrong = mislabelled(
        true,
        *((i, "", "gender", "male", "female") for i in people[:2]),
        (people[2], "mask1", "mask", "wear", "not wear"),
        (people[2], "normal", "mask", "not wear", "wear"),
    )
    gone = np.zeros(len(true.files), dtype=bool)
    gone[people[0] * 7 : people[0] * 7 + 2] = gone[people[1] * 7 : people[1] * 7 + 7] = True
    gone[people[2] * 7 + SHOTS.index("normal")] = True
    rows = np.flatnonzero(~gone)
    found = audit(wrong, rows, scaled(predictions(true), 1)[rows])
    person, mask = found.suspects
    assert (person.person.path, person.agree, person.of) == (true.people[people[0]].path, 5, 5)
    assert found.reason(person).endswith("all 5 photos look male")
    assert (mask.person.path, mask.photos) == (true.people[people[2]].path, "mask1")
    assert len(rows_of(photos_csv(found))) == len(rows)


def test_a_single_photo_that_is_mistaken_makes_no_suspect_of_a_person(true: TrainData) -> None:
    mask, gender, age = (a.copy() for a in true.labels)
    gender[[0, 1]] = 1 - gender[[0, 1]]
    assert judged(true, predictions(true, encode(mask, gender, age))).suspects == ()


def test_two_folders_of_one_id_are_judged_each_by_itself(true: TrainData) -> None:
    doubled = dataclasses.replace(true, people=(dataclasses.replace(true.people[0], id="000001"), *true.people[1:]))
    wrong = mislabelled(doubled, (0, "", "gender", "male", "female"))
    assert [s.person.path for s in judged(wrong, predictions(true)).suspects] == [true.people[0].path]


def test_equal_scores_are_in_the_order_of_the_paths(true: TrainData) -> None:
    men = [i for i, p in enumerate(true.people) if p.gender == 0][:4]
    wrong = mislabelled(true, *((i, "", "gender", "male", "female") for i in men))
    found = judged(wrong, np.eye(18)[true.classes] * 5.0).suspects
    assert len({round(s.score, 9) for s in found}) == 1
    assert [s.person.path for s in found] == [true.people[i].path for i in men]


@pytest.mark.parametrize(("age", "band", "year"), [(45, 2, 60), (65, 1, 59), (25, 2, 60), (65, 0, 29), (20, 1, 30)])
def test_an_age_moves_to_the_nearest_year_of_the_band(age: int, band: int, year: int) -> None:
    assert nearest_year(age, band) == year


def test_calibration_makes_overconfident_predictions_as_sure_as_they_are_right() -> None:
    """Right in 8 of 10, and told as certain."""
    truth = np.arange(1000) % 2
    said = np.where(np.arange(1000) % 10 < 8, truth, 1 - truth)
    log_p = scaled(np.eye(2)[said] * 10.0, 1)
    temperature = fit_temperature(log_p, truth)
    assert temperature > 1
    assert np.exp(scaled(log_p, temperature)).max(axis=1) == pytest.approx(0.8, abs=1e-3)


def test_calibration_changes_probabilities_but_no_order_within_a_field(true: TrainData) -> None:
    wrong, _ = wrong_labels(true)
    logits = predictions(true, sure=9.0)
    rows = np.arange(len(true.files))
    raw, mild = (field_predictions(wrong, rows, scaled(logits, 1), "age", calibrate=c) for c in (False, True))
    assert mild.temperature > 1
    assert np.array_equal(raw.predicted, mild.predicted)
    ratio = raw.odds[raw.odds != 0] / mild.odds[mild.odds != 0]
    assert ratio == pytest.approx(mild.temperature)


def test_the_least_believable_photos_lead_the_list_of_photos(true: TrainData) -> None:
    wrong, mending = wrong_labels(true)
    found = judged(wrong, predictions(true))
    rows = rows_of(photos_csv(found))
    assert len(rows) == len(true.files)
    assert {r["path"] for r in rows[: 7 * 3 + 3]} == {path for path, *_ in mending}
    lowest = [min(float(r[f"{f}_self_confidence"]) for f in ("gender", "age", "mask")) for r in rows]
    assert lowest == sorted(lowest)
    first = next(r for r in rows if (r["path"], r["photo"]) == (true.people[27].path, "mask3"))
    assert (first["mask"], first["mask_predicted"]) == ("not wear", "wear")
    assert float(first["mask_margin"]) < 0


# The benchmark that plants errors


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:  # as for a script, whose folder is where it finds its neighbours
        patch.syspath_prepend(Path(cli.__file__).parent / "benchmarks")
        return importlib.import_module("planted_errors")


def test_a_ranking_is_worth_what_its_first_places_hold(benchmark: ModuleType) -> None:
    labels = [(f"p{i}", "", "gender") for i in range(100)]
    perfect = benchmark.worth(labels[:5], labels[:4], 100)
    assert (perfect.planted, perfect.precision, perfect.recall, perfect.average_precision) == (4, 1, 1, 1)
    assert perfect.chance == pytest.approx(0.04)
    half = benchmark.worth([labels[0], labels[9], labels[1], labels[8], labels[2]], labels[:4], 100)
    assert (half.precision, half.recall) == (0.5, 0.75)
    by_hand = (1 / 1 + 2 / 3 + 3 / 5 + 4 / 100) / 4
    assert half.average_precision == pytest.approx(by_hand), "what is not listed comes last, at the rate of chance"
    assert benchmark.worth([], labels[:4], 100).average_precision == pytest.approx(0.04)


def test_planted_errors_fit_the_data_and_are_far_enough_and_seeded(true: TrainData, benchmark: ModuleType) -> None:
    planted = benchmark.plant(true, 0.1, seed=3)
    assert planted == benchmark.plant(true, 0.1, seed=3) != benchmark.plant(true, 0.1, seed=4)
    assert [sum(f.field == field for f in planted) for field in ("gender", "age", "mask")] == [4, 4, 8]
    assert len({f.path for f in planted}) == 12
    ages = [(int(f.old), int(f.new)) for f in planted if f.field == "age"]
    assert all(abs(old - new) >= 15 and age_band(old) != age_band(new) for old, new in ages)
    swaps = [f for f in planted if f.field == "mask"]
    assert all((a.path, a.old, a.new) == (b.path, b.new, b.old) for a, b in zip(swaps[::2], swaps[1::2], strict=True))
    apply_fixes(true, planted)


def test_seven_photos_together_find_what_single_photos_hide(true: TrainData, benchmark: ModuleType) -> None:
    """Right predictions but for one photo in seven, which is surely wrong: only a wrong label fails on all seven."""
    wrong = mislabelled(true, *((i, "", "gender", "male", "female") for i in (0, 12)))
    mask, gender, age = (a.copy() for a in true.labels)
    gender[3::7] = 1 - gender[3::7]
    logits = predictions(true, encode(mask, gender, age))
    logits[3::7] *= 2
    joint = scaled(logits, 1)
    rows = np.arange(len(true.files))
    truth = [(wrong.people[i].path, "", "gender") for i in (0, 12)]
    pooled = [
        (s.person.path, d.photo, s.field) for s in audit(wrong, rows, joint, ["gender"]).suspects for d in s.doubts
    ]
    plain = [label for label in benchmark.single_photos(wrong, rows, joint) if label[2] == "gender"]
    assert len(plain) == 36
    assert benchmark.worth(pooled, truth, 36).precision == 1
    assert benchmark.worth(plain, truth, 36).average_precision < 0.5


# The command


@pytest.fixture(scope="module")
def audited(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainData, str]:
    """(run, the data with its true labels, what was printed): train.csv holds the wrong labels."""
    folder = tmp_path_factory.mktemp("audited")
    true = read_train(make_data(folder / "data", people=36))
    wrong, _ = wrong_labels(true)
    table = folder / "data" / "train" / "train.csv"
    people = [(p.id, ("male", "female")[p.gender], "Asian", str(p.age), p.path) for p in wrong.people]
    table.write_text("\n".join(",".join(r) for r in [("id", "gender", "race", "age", "path"), *people]) + "\n")
    plan_run(folder / "run", read_train(folder / "data"), predictions(true))
    outcome = maskens("audit", "--run", folder / "run", "--top", 2)
    assert outcome.code == 0, outcome
    return folder / "run", true, outcome.out


def test_the_list_is_taken_as_it_is_for_fixes_and_mends_the_labels(
    audited: tuple[Path, TrainData, str], tmp_path: Path
) -> None:
    run, true, out = audited
    mine = run / "audit" / "suspects.csv"
    assert mine.read_text().startswith(
        "path,photo,field,old,new,reason,rank,score,self_confidence,margin,photos_agree\n"
    )
    outcome = maskens(
        "folds",
        "--run",
        tmp_path / "new",
        "--data",
        run.parent / "data",
        "--fixes",
        mine,
        "--folds-file",
        run / "folds.csv",
    )
    assert outcome.code == 0, outcome
    assert "fixes: 3 labels of 3 people (1 gender, 2 age)" in outcome.out
    assert "--fixes mine.csv" in out
    kept = {line.split(",")[0] for line in (tmp_path / "new" / "fixes.csv").read_text().splitlines()[1:]}
    assert kept == {true.people[i].path for i in (0, 8, 13)}


def test_mask_suspects_are_taken_for_fixes_too(true: TrainData, tmp_path: Path) -> None:
    mask, gender, age = (a.copy() for a in true.labels)
    a, b = 20 * 7 + SHOTS.index("mask2"), 20 * 7 + SHOTS.index("normal")
    mask[[a, b]] = mask[[b, a]]
    run = plan_run(tmp_path / "run", true, predictions(true, encode(mask, gender, age)))
    assert maskens("audit", "--run", run.folder).code == 0
    mine = run.folder / "audit" / "suspects.csv"
    outcome = maskens("folds", "--run", tmp_path / "new", "--data", true.root, "--fixes", mine)
    assert outcome.code == 0, outcome
    assert "fixes: 2 labels of 1 people (2 mask)" in outcome.out


def test_the_page_and_its_sheets(audited: tuple[Path, TrainData, str]) -> None:
    run, true, out = audited
    folder = run / "audit"
    assert sorted(p.name for p in folder.iterdir()) == [
        "age.jpg",
        "gender.jpg",
        "index.html",
        "photos.csv",
        "suspects.csv",
    ]
    page = (folder / "index.html").read_text()
    assert_accessible(page)
    assert page.count("<figure>") == 3 * 7
    assert 'src="http' not in page
    assert "all 7 photos" in page
    with Image.open(folder / "gender.jpg") as one, Image.open(folder / "age.jpg") as two:
        assert two.width >= 7 * BOX[0]
        assert two.height > 1.5 * one.height, "a row a person"
    table = [line for line in out.splitlines() if "7 of 7" in line]
    assert len(table) == 3
    assert true.people[8].path in out
    assert "3 suspects (1 gender, 2 age, 0 mask) among 36 people" in out


def test_an_audit_replaces_its_own_folder_but_no_list_that_was_worked_on(true: TrainData, tmp_path: Path) -> None:
    wrong, _ = wrong_labels(true)
    run = plan_run(tmp_path / "run", wrong, predictions(true))
    call = ("audit", "--run", run.folder, "--out", tmp_path / "out", "--top", 1)
    assert maskens(*call).code == 0
    assert (tmp_path / "out" / "mask.jpg").exists()
    assert maskens(*call, "--field", "gender").code == 0
    assert not (tmp_path / "out" / "mask.jpg").exists()
    mine = tmp_path / "out" / "suspects.csv"
    mine.write_text("".join(mine.read_text().splitlines(keepends=True)[:1]))
    before = mine.read_text()
    outcome = maskens(*call)
    assert (outcome.code, mine.read_text()) == (2, before)
    assert "was edited since it was made" in " ".join(outcome.err.split())
    mine.rename(tmp_path / "out" / "mine.csv")
    outcome = maskens(*call)
    assert outcome.code == 2
    assert "did not write: mine.csv" in " ".join(outcome.err.split())


def test_labels_that_the_run_has_fixed_are_judged_and_doubts_about_a_fix_say_so(
    true: TrainData, tmp_path: Path
) -> None:
    wrong = mislabelled(true, (0, "", "gender", "male", "female"))
    run = plan_run(tmp_path / "run", wrong, predictions(true))
    outcome = maskens("audit", "--run", run.folder)
    assert outcome.code == 0, outcome
    (row,) = rows_of((run.folder / "audit" / "suspects.csv").read_text())
    assert (row["old"], row["new"]) == ("female", "male")
    assert row["reason"] == "a fix of this run, in doubt again: all 7 photos look male"
    assert f"--fixes {run.fixes_file} --fixes mine.csv" in outcome.out


def test_without_suspects_there_are_lists_all_the_same(true: TrainData, tmp_path: Path) -> None:
    run = plan_run(tmp_path / "run", true, predictions(true))
    outcome = maskens("audit", "--run", run.folder)
    assert outcome.code == 0, outcome
    assert "0 suspects" in outcome.out
    assert "next:" not in outcome.out
    assert len((run.folder / "audit" / "suspects.csv").read_text().splitlines()) == 1
    assert "No label is unlikely" in (run.folder / "audit" / "index.html").read_text()


def test_folds_that_are_not_trained_are_told_and_none_is_refused(true: TrainData, tmp_path: Path) -> None:
    wrong, _ = wrong_labels(true)
    run = plan_run(tmp_path / "run", wrong, predictions(true), trained=(1,))
    outcome = maskens("audit", "--run", run.folder)
    assert outcome.code == 0, outcome
    assert "folds that count: 1 of 0..1; not trained: class18 fold 0" in outcome.out
    assert "among 18 people" in outcome.out
    half = rows_of((run.folder / "audit" / "photos.csv").read_text())
    assert len(half) == 18 * 7
    none = plan_run(tmp_path / "none", true, predictions(true), trained=())
    outcome = maskens("audit", "--run", none.folder)
    assert outcome.code == 2
    assert "maskens train --run" in " ".join(outcome.err.split())
    assert not (none.folder / "audit").exists()


def test_a_photo_that_can_not_be_read_any_more_leaves_the_rest(make_data: MakeData, tmp_path: Path) -> None:
    true = read_train(make_data(tmp_path / "data", people=18))
    wrong = mislabelled(true, (0, "", "gender", "male", "female"))
    run = plan_run(tmp_path / "run", wrong, predictions(true))
    file = true.root / true.files[0]
    file.write_bytes(b"x" * file.stat().st_size)
    assert maskens("audit", "--run", run.folder).code == 0
    assert "can't be read" in " ".join((run.folder / "audit" / "index.html").read_text().split())


def test_ids_that_may_be_one_person_are_listed_for_merging_until_they_are_merged(
    make_data: MakeData, tmp_path: Path
) -> None:
    root = make_data(tmp_path / "data", people=18)
    true = read_train(root)
    photos = [root / "train" / "images" / true.people[n].path / "normal.jpg" for n in (4, 11)]
    photos[1].write_bytes(photos[0].read_bytes())
    copied = read_train(root)
    run = plan_run(tmp_path / "run", copied, predictions(copied))
    outcome = maskens("audit", "--run", run.folder)
    folder = run.folder / "audit"
    assert "may be one person" in outcome.out
    assert "--merge same.csv" in outcome.out
    (row,) = rows_of((folder / "merge-candidates.csv").read_text())
    assert (row["a"], row["b"], row["bits"], row["photos"]) == (true.people[4].id, true.people[11].id, "0", "1")
    assert (folder / "duplicates.jpg").exists()
    assert (folder / "index.html").read_text().count('<div class="pair">') == 1
    listed = folder / "merge-candidates.csv"
    made = maskens("folds", "--data", root, "--run", tmp_path / "new", "--k", 2, "--merge", listed)
    assert made.code == 0, made
    assert f"ids {row['a']}, {row['b']} are one person" in made.out
    merged = apply_merges(copied, read_merges([str(listed)]))
    assert portrait_candidates(merged, 1) == ()


def test_the_next_command_keeps_what_a_run_has_merged(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=18)
    true = read_train(root)
    photos = [root / "train" / "images" / true.people[n].path / "normal.jpg" for n in (4, 11)]
    photos[1].write_bytes(photos[0].read_bytes())
    merged = apply_merges(read_train(root), [Merge(true.people[0].id, true.people[6].id)])
    run = plan_run(tmp_path / "run", merged, predictions(merged))
    outcome = maskens("audit", "--run", run.folder)
    assert f"--merge {run.merged_file} --merge same.csv" in outcome.out


def test_a_row_of_a_sheet_has_its_title_above_it_and_a_long_one_widens_the_sheet() -> None:
    cell = Cell(np.zeros((200, 150, 3), dtype=np.uint8), "words")
    plain, titled, wide = (
        draw(Sheet("x", "t", (cell,) * 4, columns=2, titles=titles)) for titles in ((), ("a", "b"), ("a" * 90, "b"))
    )
    assert titled.width == plain.width < wide.width
    assert titled.height == plain.height + 2 * LINE
    tops = [int(np.argmax(np.asarray(s)[:, GAP + 75, 0] == 0)) for s in (plain, titled)]
    assert tops[1] - tops[0] == LINE
