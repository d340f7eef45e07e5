"""The command infer."""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from edits import rows_of
from run_command import maskens, ran, refused

from ensemble.commands.terminal import Terminal
from ensemble.decision.submission import read_answers
from folds.labels import decode
from folds.layout import read_eval


def test_the_csv_has_the_rows_of_info_csv_in_order(there: Path) -> None:
    rows = rows_of("runs/default/submission.csv")
    assert [r["ImageID"] for r in rows] == [r["ImageID"] for r in rows_of("data/eval/info.csv")]
    assert all(r.keys() == {"ImageID", "ans"} and 0 <= int(r["ans"]) < 18 for r in rows)
    outcome = ran("check-submission")
    assert "is accepted" in outcome.out


def test_another_data_folder_with_eval_alone_can_be_predicted(there: Path, tmp_path: Path) -> None:
    other = tmp_path / "heldout"
    shutil.copytree("data/eval", other / "eval")
    ids = [r["ImageID"] for r in rows_of(other / "eval" / "info.csv")][::-3]
    (other / "eval" / "info.csv").write_text("extra,ans,ImageID\n" + "".join(f"x,0,{i}\n" for i in ids))
    out = tmp_path / "out.csv"
    ran("infer", "--data", other, "--tta", "flip", "--out", out, "--device", "cpu")
    before = dict(zip(*read_answers(Path("runs/default/submission.csv")), strict=True))
    found, classes = read_answers(out)
    assert found == ids
    assert [before[i] for i in ids] == classes.tolist()
    ran("check-submission", out, "--data", other)


def test_early_exit_gives_the_same_csv(there: Path, tmp_path: Path) -> None:
    some, everybody = tmp_path / "some.csv", tmp_path / "all.csv"
    outcome = maskens("infer", "--out", some)
    assert "early exit skipped" in outcome.out
    assert "early exit" not in maskens("infer", "--ask-all", "--out", everybody).out
    assert some.read_text() == everybody.read_text()
    with np.load(some.with_suffix(".logits.npz")) as routed, np.load(everybody.with_suffix(".logits.npz")) as full:
        assert np.isnan(routed["logits/female-age"]).any()
        assert not np.isnan(full["logits/female-age"]).any()


def test_a_stopped_inference_prints_how_to_resume_and_does(there: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ensemble.commands.terminal.Terminal.progress", _stops_at_128)
        stopped = maskens("infer", "--out", out)
    assert (stopped.code, out.exists()) == (130, False)
    assert "The same command resumes" in stopped.err
    again = maskens("infer", "--out", out)
    assert (again.code, "resumed after 128 photos" in again.out) == (0, True)
    assert out.read_text() == Path("runs/default/submission.csv").read_text()
    assert [f.name for f in tmp_path.iterdir() if "partial" in f.name] == []


@contextlib.contextmanager
def _stops_at_128(terminal: Terminal) -> Iterator[Callable[[str, int, int], None]]:
    def on_progress(what: str, done: int, total: int) -> None:
        if what == "predicting" and done >= 128:
            raise KeyboardInterrupt

    yield on_progress


def test_a_second_result_does_not_silently_replace_the_first(copy: Path) -> None:
    file = Path("runs/default/submission.csv")
    first = file.read_text().replace(",1\n", ",2\n")
    file.write_text(first)
    rough = maskens("infer", "--precision", "bf16", "--out", "rough.csv")
    assert re.search(r"bf16 for 12 of 12 models, largest difference of a logit to fp32 [\d.e-]+", rough.out), rough
    outcome = maskens("infer", "--tta", "none")
    assert "the earlier file is kept as runs/default/submission.1.csv" in outcome.out, outcome
    assert Path("runs/default/submission.1.csv").read_text() == first


def test_a_bad_photo_met_by_a_worker_gives_one_clean_message(copy: Path) -> None:
    shared = Path("data/eval/images").resolve()
    Path("data/eval/images").unlink()
    shutil.copytree(shared, "data/eval/images")
    photo = sorted(Path("data/eval/images").iterdir())[40]
    photo.write_bytes(photo.read_bytes()[:-200])
    for workers in (0, 1):
        refused(
            maskens("infer", "--cache", "none", "--workers", workers, "--out", "x.csv"), photo.name, "can't be read"
        )
    refused(maskens("infer", "--out", "x.csv"), photo.name, "can't be read")
    assert not Path("x.csv").exists()


def test_logits_lie_beside_their_csv(there: Path, tmp_path: Path) -> None:
    with np.load("runs/default/eval.npz") as kept:
        before = kept["logits/mask"]
    assert before.shape == (3, 2, 168, 3)
    ran("infer", "--tta", "none", "--out", tmp_path / "other.csv")
    with np.load("runs/default/eval.npz") as kept, np.load(tmp_path / "other.logits.npz") as new:
        assert np.array_equal(kept["logits/mask"], before)
        assert new["logits/mask"] == pytest.approx(before[:, :1], abs=1e-4)
        assert new["ids"].tolist() == list(read_eval(Path("data")).ids)


def test_inference_with_missing_folds(copy: Path) -> None:
    shutil.rmtree("runs/default/gender/fold1")
    refused(maskens("infer"), "1 of 12 models are not trained yet: gender fold 1", "--fold 1", "--allow-missing")
    outcome = ran("infer", "--allow-missing")
    assert "8 models, " in outcome.out and "models of the folds 0,2; the others" in outcome.out, "whole folds only"
    for task, fold in (("mask", 0), ("male-age", 2)):
        shutil.rmtree(f"runs/default/{task}/fold{fold}")
    outcome = maskens("infer", "--allow-missing")
    assert "9 models, " in outcome.out and "mask 1..2, gender 0,2, male-age 0..1, female-age 0..2" in outcome.out
    shutil.rmtree("runs/default/gender")
    refused(maskens("infer", "--allow-missing"), "gender fold 0, gender fold 1, gender fold 2")


OF_PERSONS = ("infer", "--run", "run", "--cache", "none")


@pytest.fixture
def job(few_copied: Path) -> Path:
    """A finished run whose info.csv says in `person` who is on a photo, five photos each, and in `own` nobody twice."""
    ids = [row["ImageID"] for row in rows_of("data/eval/info.csv")]
    rows = [f"{i},0,p{n * 5 % 9},own{n}\n" for n, i in enumerate(ids)]
    Path("data/eval/info.csv").write_text("ImageID,ans,person,own\n" + "".join(rows))
    return few_copied


def test_a_person_has_one_gender_and_age(job: Path) -> None:
    outcome = ran(*OF_PERSONS, "--person-column", "person", "--out", "together.csv")
    assert "one gender and age for each of 9 people (person), no early exit" in " ".join(outcome.out.split())
    _, gender, age = decode(read_answers(Path("together.csv"))[1])
    person = np.arange(42) * 5 % 9
    assert all(len({*zip(gender[person == p], age[person == p], strict=True)}) == 1 for p in range(9))
    with np.load("together.logits.npz") as logits:
        assert not any(np.isnan(logits[name]).any() for name in logits.files if name.startswith("logits/"))


def test_people_of_one_photo_are_decided_as_without_it(job: Path) -> None:
    ran(*OF_PERSONS, "--person-column", "own", "--out", "alone.csv")
    assert Path("alone.csv").read_bytes() == Path("before.csv").read_bytes()


def test_what_names_no_person_is_refused_before_anything_is_written(job: Path) -> None:
    refused(maskens(*OF_PERSONS, "--person-column", "persn"), "lacks the column 'persn' (did you mean 'person'?)")
    refused(maskens(*OF_PERSONS, "--person-column", "ans"), "--person-column ans: that column of")
    for rule in (("--decision", "hard"), ("--decision", "vote"), ("--vote", "before.csv")):
        refused(maskens(*OF_PERSONS, "--person-column", "person", *rule), "--person-column needs --decision joint")
    file = Path("data/eval/info.csv")
    file.write_text(file.read_text().replace(",p1,", ",,"))
    refused(maskens(*OF_PERSONS, "--person-column", "person"), "does not name the person on every photo", "row ")
    assert not Path("run/submission.csv").exists()


def test_photos_of_any_folder_or_list_are_predicted_by_their_relative_paths(few: Path, tmp_path: Path) -> None:
    ids, classes = read_answers(few / "before.csv")
    some = tmp_path / "some"
    for n, name in enumerate(ids[:8]):
        (some / "ab"[n % 2]).mkdir(parents=True, exist_ok=True)
        shutil.copy(few / "data/eval/images" / name, some / "ab"[n % 2] / f"{n}.jpg")
    (some / "notes.txt").write_text("no photo")
    expected = {f"{'ab'[n % 2]}/{n}.jpg": int(classes[n]) for n in range(8)}
    command = ("infer", "--run", few / "run", "--cache", "none", "--out", tmp_path / "out.csv", "--photos")
    outcome = maskens(*command, some)
    assert "skipped in folders: 1 .txt" in outcome.out, outcome
    assert dict(zip(*read_answers(tmp_path / "out.csv"), strict=True)) == expected
    names = sorted(expected)[::-2]
    (some / "list.csv").write_text("who,photo\n" + "".join(f"p{n % 2},./{name}\n" for n, name in enumerate(names)))
    ran(*command, some / "list.csv")
    found, answered = read_answers(tmp_path / "out.csv")
    assert (found, answered.tolist()) == (names, [expected[name] for name in names])
    ran(*command, some / "list.csv", "--person-column", "who")
    genders = decode(read_answers(tmp_path / "out.csv")[1])[1]
    assert len(set(genders[::2].tolist())) == len(set(genders[1::2].tolist())) == 1


def test_a_wrong_list_of_photos_is_refused_with_all_its_rows(few: Path, tmp_path: Path) -> None:
    photo = next((few / "data/eval/images").iterdir())
    inside = tmp_path / "in"
    inside.mkdir()
    shutil.copy(photo, inside / "a.jpg")
    (inside / "empty.jpg").touch()
    (inside / "out.jpg").symlink_to(photo)
    table = inside / "list.csv"
    table.write_text("photo\na.jpg\ngone.jpg\n./a.jpg\n../b.jpg\nempty.jpg\nout.jpg\n")
    command = ("infer", "--run", few / "run", "--photos", table)
    refused(maskens(*command), "--out")
    refused(
        maskens(*command, "--out", tmp_path / "out.csv"),
        "row 3: ", "gone.jpg is missing", "row 4: photo 'a.jpg' is already in row 2", "row 5: photo '../b.jpg' is not",
        "row 6: ", "is an empty file", "row 7: ", "leads out of the folder",
    )  # fmt: skip
    refused(maskens(*command[:-1], inside, "--out", tmp_path / "o.csv", "--person-column", "who"), "is a folder")
    refused(maskens(*command[:-1], tmp_path / "no", "--out", tmp_path / "o.csv"), "no does not exist")
