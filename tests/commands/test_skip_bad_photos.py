"""--skip-bad-photos: training without the photos that can't be read, and an answer for each of them all the same."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from edits import edit_arrays, rows_of
from run_command import maskens, ran, refused

import ensemble
from ensemble.decision.submission import read_answers
from folds.labels import decode
from folds.run_folder import load_run

INFER = ("infer", "--run", "run", "--device", "cpu")
SKIP = "--skip-bad-photos"
NO_PHOTO = "is not a photo that can be read (JPEG, PNG, WEBP, GIF, BMP, TIFF)"
RUN = Path("runs/default")


def cut_off(file: Path) -> None:
    """All but the first quarter is zeros, as half of a small JPEG may still be read; the size stays."""
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 4].ljust(len(content), b"\0"))


def printed_by(*words: object) -> str:
    """What a command prints, as one line."""
    return " ".join(ran(*words).out.split())


@pytest.fixture
def bad(data: Path) -> list[str]:
    """Two training photos that can't be read; the folds are made and a recipe lies there."""
    Path("mine.toml").write_text(
        "[defaults]\nmodel = 'test_resnet.r160_in1k'\npretrained = false\nresize = [32, 24]\nepochs = 1\n"
        "[tasks.heads]\n"
    )
    people = sorted((data / "train" / "images").iterdir())
    files = [people[0] / "mask2.jpg", people[4] / "normal.jpg"]
    cut_off(files[0])
    files[1].write_text("no photo")
    ran("folds", "--k", "2")
    return [str(file.relative_to(data)) for file in files]


TRAIN = ("train", "--recipe", "mine.toml", "--device", "cpu")
SKIPPED = "2 of 126 labelled photos can't be read and are skipped"


def test_a_run_skips_the_same_photos_from_its_first_job_to_its_report(bad: list[str]) -> None:
    refused(maskens(*TRAIN), *bad, SKIP)
    dry = printed_by(*TRAIN, SKIP, "--dry-run")
    assert SKIPPED in dry
    assert sorted(p.name for p in RUN.iterdir()) == ["folds.csv", "run.json"]
    printed = printed_by(*TRAIN, "--fold", "0", SKIP)
    for words in (f"warning: {SKIPPED}: {bad[0]} (can't be read", f"{bad[1]} (is not a photo", "skipped.csv"):
        assert words in printed
    assert [row["photo"] for row in rows_of(RUN / "skipped.csv")] == bad
    assert SKIPPED in printed_by("train", "--fold", "1", "--cache", "none"), "the run remembers them"
    jobs = [RUN / "heads" / f"fold{fold}" for fold in (0, 1)]
    files = [file for job in jobs for file in np.load(job / "oof.npz")["files"].tolist()]
    assert len(files) == len({*files}) == 124
    assert not {*bad} & {*files}
    kept = {json.loads((job / "job.json").read_text())["record"]["skipped"] for job in jobs}
    assert kept == {load_run(RUN).skipped_hash}
    assert "2 of 2 jobs are finished already" in printed_by("train", SKIP)

    ran("folds", "--k", "2", "--run", "runs/other")
    again = printed_by(*TRAIN, "--run", "runs/other", SKIP, "--reuse", RUN)
    assert "2 finished jobs are taken" in again
    assert SKIPPED in printed_by("score")
    assert "out-of-fold over 124 photos of 18 people" in printed_by("score", "--run", RUN, "--run", "runs/other")
    for command in (("tune",), ("audit",), ("report", "--photos", 2), ("compare", RUN, "runs/other")):
        assert SKIPPED in printed_by(*command), command
    assert SKIPPED in html.unescape((RUN / "report.html").read_text())
    assert len(rows_of(RUN / "audit" / "photos.csv")) == 124
    ran("infer")
    verified = printed_by("verify")
    assert SKIPPED in verified
    assert "checks match" in verified


def test_once_there_are_models_no_other_photo_is_skipped(bad: list[str], data: Path) -> None:
    ran(*TRAIN, "--fold", "0", SKIP)
    third = data / bad[0].replace("mask2", "mask3")
    intact = third.read_bytes()
    cut_off(third)
    shutil.rmtree("runs/.cache")
    refused(maskens("train", "--fold", "1"), str(third.relative_to(data)), "can't be read")
    for cache in ("", "none"):
        refused(maskens("train", "--fold", "1", SKIP, "--cache", cache), third.name, "has models", "new run")
    third.write_bytes(intact)
    assert SKIPPED in printed_by("train", "--fold", "1", SKIP)
    listed = RUN / "skipped.csv"
    listed.write_text(listed.read_text().replace(bad[1], bad[1].replace("normal", "mask1")))
    for command in (("train",), ("score",)):
        refused(maskens(*command), "skipped.csv is missing or was edited", "new run")
    assert maskens("verify").code == 1
    listed.unlink()
    refused(maskens("score"), "skipped.csv is missing")


def test_before_there_are_models_the_list_follows_the_photos(bad: list[str], data: Path) -> None:
    from ensemble.commands.train import plan_training
    from ensemble.commands.training import skip_bad_photos

    options = ensemble.train.parse(RUN, recipe="mine.toml", skip_bad_photos=True, device="cpu")
    plan = skip_bad_photos(plan_training(options))
    assert sorted(plan.data.skipped) == bad
    assert load_run(RUN).skipped_hash == plan.run.skipped_hash == plan.todo[0].run.skipped_hash != ""
    third = data / bad[0].replace("mask2", "mask3")
    cut_off(third)
    shutil.rmtree("runs/.cache")
    plan = skip_bad_photos(plan_training(options))
    assert sorted(plan.data.skipped) == sorted([*bad, str(third.relative_to(data))])
    (data / bad[1]).write_bytes(b"another size")
    ran("folds", "--k", "2")
    assert not (RUN / "skipped.csv").exists()
    assert (RUN / "skipped.1.csv").exists()


@pytest.fixture
def job(few_copied: Path) -> list[str]:
    """A finished run, and the ImageIDs of info.csv, which says in `person` who is on a photo, five photos each."""
    ids = [row["ImageID"] for row in rows_of("data/eval/info.csv")]
    write_info(ids)
    return ids


def write_info(ids: Sequence[str]) -> None:
    rows = [f"{i},0,p{n % 9}\n" for n, i in enumerate(ids)]
    Path("data/eval/info.csv").write_text("ImageID,ans,person\n" + "".join(rows))


def spoil(ids: Sequence[str]) -> None:
    """Cut off, no photo, empty, gone."""
    files = [Path("data/eval/images", i) for i in ids]
    cut_off(files[0])
    files[1].write_text("no photo")
    files[2].write_bytes(b"")
    files[3].unlink()


def prior_class() -> int:
    return int(np.argmax(load_run(Path("run")).class_photos))


def test_each_row_has_an_answer_and_the_others_are_as_if_the_bad_were_not_there(job: list[str]) -> None:
    bad = [job[n] for n in (3, 17, 18, 40)]
    shutil.copytree("data", "without")
    spoil(bad)
    refused(maskens(*INFER), bad[2], bad[3], SKIP)
    printed = printed_by(*INFER, SKIP)
    assert "4 of 42 photos can't be read and are answered without a model" in printed
    for words in (f"{bad[0]} (can't be read: ", f"{bad[2]} (is an empty file)", "and 1 more", "submission.skipped.csv"):
        assert words in printed
    good = [i for i in job if i not in bad]
    Path("without/eval/info.csv").write_text("ImageID,ans\n" + "".join(f"{i},0\n" for i in good))
    ran(*INFER, "--data", "without", "--out", "good.csv")
    ids, classes = read_answers(Path("run/submission.csv"))
    answers = dict(zip(ids, classes.tolist(), strict=True))
    assert ids == job
    assert [(i, answers[i]) for i in good] == [
        (i, int(c)) for i, c in zip(*read_answers(Path("good.csv")), strict=True)
    ]
    assert {answers[i] for i in bad} == {prior_class()}
    rows = rows_of("run/submission.skipped.csv")
    assert [(row["ImageID"], int(row["ans"])) for row in rows] == [(i, prior_class()) for i in bad]
    assert [row["reason"] for row in rows[1:]] == [NO_PHOTO, "is an empty file", "is missing"]
    with np.load("run/eval.npz") as kept, np.load("good.logits.npz") as alone:
        assert [*json.loads(str(kept["record"]))["skipped"]] == bad
        place = np.isin(kept["ids"], bad)
        for name in (n for n in kept.files if n.startswith("logits/")):
            assert np.isnan(kept[name][:, :, place]).all()
            assert kept[name][:, :, ~place].tobytes() == alone[name].tobytes()
    ran("check-submission", "--run", "run")
    for part in ("hard", "vote"):
        ran(*INFER, SKIP, "--decision", part, "--out", f"{part}.csv")
        found = dict(zip(*read_answers(Path(f"{part}.csv")), strict=True))
        assert len({found[i] for i in bad}) == 1


def test_verify_recomputes_a_submission_with_photos_unseen(job: list[str]) -> None:
    def checks() -> str:
        """Of the submission; the run's maskens kept less of its jobs."""
        lines = maskens("verify", "--run", "run").out.splitlines()
        return "\n".join(line for line in lines if "eval.npz" in line or "submission" in line)

    spoil([job[n] for n in (3, 17, 18, 40)])
    ran(*INFER, SKIP)
    for item in ("its arrays", "submission.csv: as in", "submission.skipped.csv: as in", "classes from logits"):
        assert re.search(rf"{item}.* ok *$", checks(), re.MULTILINE), item
    file = Path("run/submission.skipped.csv")
    before = file.read_text()
    file.write_text(before.replace(job[3], job[4]))
    assert "other rows" in checks()
    file.write_text(before)
    lost = (np.arange(42) == 5)[:, None]
    tasks = ("mask", "gender", "male-age", "female-age")
    edit_arrays(file.with_name("eval.npz"), **{f"logits/{t}": lambda a: np.where(lost, np.nan, a) for t in tasks})
    arrays_are_intact = re.search(r"its arrays.* ok *$", checks(), re.MULTILINE)
    assert not arrays_are_intact, "logits that are lost are not taken for a photo that was not read"


def test_without_a_bad_photo_nothing_is_printed_and_an_earlier_list_goes(job: list[str]) -> None:
    assert SKIP in " ".join(maskens("infer", "--help").out.split())
    Path("mine.skipped.csv").write_text("of before\n")
    printed = printed_by(*INFER, SKIP, "--out", "mine.csv")
    assert "can't be read" not in printed
    assert Path("mine.csv").read_bytes() == Path("before.csv").read_bytes()
    assert not Path("mine.skipped.csv").exists()
    assert Path("mine.skipped.1.csv").read_text() == "of before\n"


def test_a_persons_other_photos_decide_where_they_are_known(job: list[str]) -> None:
    person = np.arange(len(job)) % 9
    gone = [n for n in range(len(job)) if person[n] == 2]
    bad = [job[n] for n in (0, 10, *gone)]
    for image in bad:
        Path("data/eval/images", image).write_text("no photo")
    printed = printed_by(*INFER, SKIP, "--person-column", "person", "--out", "together.csv")
    assert "answered without a model" in printed
    answers = read_answers(Path("together.csv"))[1]
    _, gender, age = decode(answers)
    for n in (0, 10):
        others = np.flatnonzero(person == person[n])
        assert len({*zip(gender[others], age[others], strict=True)}) == 1
    assert {int(answers[n]) for n in gone} == {prior_class()}

    # the readable alone, each with the same person as before
    rows = [f"{i},0,p{person[n]}\n" for n, i in enumerate(job) if i not in bad]
    Path("data/eval/info.csv").write_text("ImageID,ans,person\n" + "".join(rows))
    ran(*INFER, "--person-column", "person", "--out", "good.csv")
    good = [n for n, i in enumerate(job) if i not in bad]
    assert read_answers(Path("good.csv"))[1].tolist() == answers[good].tolist()


def test_other_submissions_alone_vote_on_what_was_not_seen(job: list[str]) -> None:
    Path("data/eval/images", job[3]).write_text("no photo")
    other = [(i, (prior_class() + 1) % 18) for i in job]
    Path("other.csv").write_text("ImageID,ans\n" + "".join(f"{i},{c}\n" for i, c in other))
    printed = printed_by(*INFER, SKIP, "--vote", "other.csv", "--out", "voted.csv")
    assert "answered without a model" in printed
    assert rows_of("voted.skipped.csv")[0]["ans"] == str((prior_class() + 1) % 18)


def test_a_file_that_is_missing_is_never_looked_for_outside(job: list[str]) -> None:
    write_info([*job[1:], f"../../images/{job[0]}"])
    Path("images").mkdir()
    Path("data/eval/images", job[0]).rename(Path("images", job[0]))
    refused(maskens(*INFER), "is missing", SKIP)
    ran(*INFER, SKIP, "--out", "mine.csv")
    assert rows_of("mine.skipped.csv")[0]["reason"] == "is missing"
