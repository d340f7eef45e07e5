"""Label errors that were planted among right predictions, and what the command makes of them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from html_pages import assert_accessible
from photo_lists import as_list
from PIL import Image
from planned import plan_run
from run_command import maskens, ran
from scipy.special import log_softmax

from ensemble.evaluation.audit import Audit, audit, photos_csv, suspects_csv
from ensemble.reporting.audit_page import audit_sheets
from folds.corrections import FIX_COLUMNS, Merge, apply_fixes, apply_merges
from folds.labels import SHOTS, encode
from folds.layout import read_train
from folds.pages.contact_sheet import BOX
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
    return audit(data, rows, log_softmax(logits, axis=1), fields)


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
    found = judged(wrong, predictions(true))
    rows = rows_of(suspects_csv(found))
    assert {(r["path"], r["photo"], r["field"], r["new"]) for r in rows} == mending
    assert [int(r["rank"]) for r in rows] == sorted(int(r["rank"]) for r in rows)
    scores = [float(r["score"]) for r in rows]
    assert scores == sorted(scores, reverse=True), "one order, that of the score"
    last = rows[-1]
    assert last["photos_agree"] == "1", "a mask that no other photo would take in exchange is hardly a wrong label"
    assert float(last["score"]) == pytest.approx((1 - float(last["self_confidence"])) / 2, abs=1e-4)
    assert all(float(r["self_confidence"]) < 0.5 and float(r["margin"]) < 0 for r in rows)
    one, other = [i for i, r in enumerate(rows) if "swapped" in r["reason"]]
    assert other == one + 1
    assert rows[one]["rank"] == rows[other]["rank"]
    assert "incorrect_mask and normal" in rows[one]["reason"]
    photos = rows_of(photos_csv(found))
    assert len(photos) == len(true.files)
    assert {r["path"] for r in photos[: 7 * 3 + 3]} == {path for path, *_ in mending}
    lowest = [min(float(r[f"{f}_self_confidence"]) for f in ("gender", "age", "mask")) for r in photos]
    assert lowest == sorted(lowest)
    first = next(r for r in photos if (r["path"], r["photo"]) == (true.people[27].path, "mask3"))
    assert (first["mask"], first["mask_predicted"]) == ("not wear", "wear")
    assert float(first["mask_margin"]) < 0


def test_a_person_has_one_swap_at_most_and_the_rest_are_single_photos(true: TrainData) -> None:
    wrong = mislabelled(
        true,
        *((3, shot, "mask", "wear", "incorrect") for shot in ("mask1", "mask2")),
        (3, "incorrect_mask", "mask", "incorrect", "wear"),
    )
    found = judged(wrong, predictions(true)).suspects
    assert sorted(len(s.doubts) for s in found) == [1, 2]
    swapped, alone = sorted((set(s.shots.split(", ")) for s in found), key=len, reverse=True)
    assert "incorrect_mask" in swapped
    assert swapped | alone == {"mask1", "mask2", "incorrect_mask"}


def test_photos_that_contradict_each_other_are_reported_and_weigh_less(true: TrainData) -> None:
    """Two men labelled women: all photos of the first look male, four of the second's do, three female."""
    people = [i for i, p in enumerate(true.people) if p.gender == 0][:2]
    wrong = mislabelled(true, *((i, "", "gender", "male", "female") for i in people))
    mask, gender, age = (a.copy() for a in true.labels)
    gender[people[1] * 7 : people[1] * 7 + 3] = 1
    found = judged(wrong, predictions(true, encode(mask, gender, age)))
    assert [s.who for s in found.suspects] == [true.people[i].path for i in people]
    assert [found.reason(s).split(": ")[-1] for s in found.suspects] == [
        "all 7 photos look male",
        "4 of 7 photos look male",
    ]


def test_photos_that_are_skipped_neither_count_nor_stand_in_a_list(true: TrainData) -> None:
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
    found = audit(wrong, rows, log_softmax(predictions(true), axis=1)[rows])
    person, mask = found.suspects
    assert (person.who, person.agree, len(person.doubts)) == (true.people[people[0]].path, 5, 5)
    assert found.reason(person).endswith("all 5 photos look male")
    assert (mask.who, mask.shots) == (true.people[people[2]].path, "mask1")
    assert len(rows_of(photos_csv(found))) == len(rows)


def test_a_single_photo_that_is_mistaken_makes_no_suspect_of_a_person(true: TrainData) -> None:
    mask, gender, age = (a.copy() for a in true.labels)
    gender[[0, 1]] = 1 - gender[[0, 1]]
    assert judged(true, predictions(true, encode(mask, gender, age))).suspects == ()


def test_photos_of_a_list_are_judged_together_by_person_and_label(make_data: MakeData, tmp_path: Path) -> None:
    """A man whose seven photos say woman, a photo of whose mask is wrong, and another man with one photo of seven that
    says woman."""
    true = read_train(as_list(make_data(tmp_path / "data", people=18)))
    men = sorted({p.group for p in true.people if p.gender == 0})
    photos = {man: [p.path for p in true.people if p.group == man] for man in men[:2]}
    wrong = [*photos[men[0]], photos[men[1]][0]]
    worn = next(p.path for p in true.people if p.masks == (0,) and p.path not in wrong)
    fixes = [*(Fix(path, "", "gender", "male", "female") for path in wrong), Fix(worn, "", "mask", "wear", "incorrect")]
    mistaken = apply_fixes(true, fixes)
    found = judged(mistaken, predictions(true))
    whole, mask, one = sorted(found.suspects, key=lambda s: (-len(s.doubts), s.field != "mask"))
    assert (whole.who, len(whole.labels), whole.agree) == (men[0], 7, 7)
    assert [found.reason(s).split(": ")[-1] for s in (whole, mask, one)] == [
        "all 7 photos look male",
        "the photo looks like 'wear'",
        "the photo looks male",
    ]
    assert (mask.who, one.who) == (worn, photos[men[1]][0])
    assert mask.score == pytest.approx(1 - mask.doubts[0].confidence)
    mending = [Fix(*(r[c] for c in FIX_COLUMNS)) for r in rows_of(suspects_csv(found))]
    mended = apply_fixes(dataclasses.replace(mistaken, fixes=()), mending)
    assert mended.people == true.people
    assert found.people == 18
    sheets = audit_sheets(found, top=3, workers=1)
    assert {s.name: sorted(len(row) for row in s.rows) for s in sheets} == {"gender": [1, 7], "mask": [1]}


def test_probabilities_are_calibrated_however_sure_the_models_are(true: TrainData) -> None:
    wrong, _ = wrong_labels(true)
    logits = predictions(true, sure=9.0)
    plain, sure = (judged(wrong, by * logits).fields["age"].confidence for by in (1, 2))
    assert sure == pytest.approx(plain, abs=0.01)


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
    outcome = ran("audit", "--run", folder / "run", "--top", 2)
    return folder / "run", true, outcome.out


def test_the_list_is_taken_for_fixes_and_mends_the_labels(audited: tuple[Path, TrainData, str], tmp_path: Path) -> None:
    run, true, out = audited
    mine = run / "audit" / "suspects.csv"
    assert mine.read_text().startswith(
        "path,photo,field,old,new,reason,rank,score,self_confidence,margin,photos_agree\n"
    )
    folds = ("folds", "--run", tmp_path / "new", "--data", run.parent / "data", "--folds-file", run / "folds.csv")
    ran(*folds, "--fixes", mine)
    assert "--fixes mine.csv" in out
    kept = {line.split(",")[0] for line in (tmp_path / "new" / "fixes.csv").read_text().splitlines()[1:]}
    assert kept == {true.people[i].path for i in (0, 8, 13)}


def test_the_page_and_its_sheets(audited: tuple[Path, TrainData, str]) -> None:
    run, true, out = audited
    folder = run / "audit"
    files = {"age.jpg", "gender.jpg", "index.html", "photos.csv", "suspects.csv"}
    assert {p.name for p in folder.iterdir()} == files
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
    ran(*call)
    assert (tmp_path / "out" / "mask.jpg").exists()
    ran(*call, "--field", "gender")
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


def test_doubts_about_a_fix_are_marked_and_without_suspects_lists_are_empty(true: TrainData, tmp_path: Path) -> None:
    for fixed, name in ((mislabelled(true, (0, "", "gender", "male", "female")), "fixed"), (true, "right")):
        run = plan_run(tmp_path / name, fixed, predictions(true))
        outcome = ran("audit", "--run", run.folder)
        rows = rows_of((run.folder / "audit" / "suspects.csv").read_text())
        if fixed is true:
            assert not rows
            assert "0 suspects" in outcome.out
            assert "next:" not in outcome.out
            assert "No label is unlikely" in (run.folder / "audit" / "index.html").read_text()
        else:
            assert (rows[0]["old"], rows[0]["new"]) == ("female", "male")
            assert rows[0]["reason"] == "a fix of this run, in doubt again: all 7 photos look male"
            assert f"--fixes {run.fixes_file} --fixes mine.csv" in outcome.out


def test_folds_that_are_not_trained_are_reported_and_none_is_refused(true: TrainData, tmp_path: Path) -> None:
    wrong, _ = wrong_labels(true)
    run = plan_run(tmp_path / "run", wrong, predictions(true), trained=(1,))
    outcome = ran("audit", "--run", run.folder)
    assert "folds that count: 1 of 0..1; not trained: class18 fold 0" in outcome.out
    assert "among 18 people" in outcome.out
    half = rows_of((run.folder / "audit" / "photos.csv").read_text())
    assert len(half) == 18 * 7
    none = plan_run(tmp_path / "none", true, predictions(true), trained=())
    outcome = maskens("audit", "--run", none.folder)
    assert outcome.code == 2
    assert "maskens train --run" in " ".join(outcome.err.split())
    assert not (none.folder / "audit").exists()


def test_ids_that_may_be_one_person_are_listed_for_merging(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=18)
    true = read_train(root)
    photos = [root / "train" / "images" / true.people[n].path / "normal.jpg" for n in (4, 11)]
    photos[1].write_bytes(photos[0].read_bytes())
    merged = apply_merges(read_train(root), [Merge(true.people[0].id, true.people[6].id)])
    run = plan_run(tmp_path / "run", merged, predictions(merged))
    outcome = maskens("audit", "--run", run.folder)
    folder = run.folder / "audit"
    assert "may be one person" in outcome.out
    assert f"--merge {run.merged_file} --merge same.csv" in outcome.out, "it keeps what the run has merged"
    (row,) = rows_of((folder / "merge-candidates.csv").read_text())
    assert (row["a"], row["b"], row["bits"], row["photos"]) == (true.people[4].id, true.people[11].id, "0", "1")
    assert (folder / "duplicates.jpg").exists()
    assert (folder / "index.html").read_text().count('<div class="pair">') == 1
