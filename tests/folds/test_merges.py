"""Two ids that are one person: given as a list or found by their photos, and stored in the run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from edits import rows_of
from run_command import maskens, ran, refused

from ensemble.data.loader import epoch_photos
from ensemble.recipes.schema import Sampler
from folds.corrections import Merge, apply_merges, merged_people, read_merges
from folds.errors import MaskensError
from folds.people import Person, TrainData
from folds.run_folder import load_data, load_run
from folds.splits import check_folds, make_folds, people_per_stratum_and_fold

RUN = Path("run")
A, B = "000001", "000007"  # of the generated people, alike in gender and age band


def people(count: int) -> TrainData:
    rows = tuple(Person(f"p{n}", str(n), n % 2, (20, 40, 65)[n // 2 % 3], ("x",) * 7, (n,) * 7) for n in range(count))
    return TrainData(Path("data"), rows)


class TestApply:
    def test_whoever_is_connected_is_one_person_by_the_smallest_id(self) -> None:
        pairs = [(7, 3), (5, 11), (9, 8), (3, 5), (8, 9), (11, 7)]
        data = apply_merges(people(12), [Merge(str(a), str(b)) for a, b in pairs])
        wanted = dict.fromkeys(("3", "5", "7", "11"), "11") | {"9": "8"}
        assert [(p.id, p.group) for p in data.people] == [(str(n), wanted.get(str(n), str(n))) for n in range(12)]

    def test_the_fingerprint_follows_who_is_one_person_and_not_how_it_was_said(self) -> None:
        chain = apply_merges(people(12), [Merge("1", "7"), Merge("7", "9")])
        star = apply_merges(apply_merges(people(12), [Merge("9", "1")]), [Merge("9", "7")])
        assert chain == star
        assert chain.fingerprint != people(12).fingerprint
        assert chain.photos.fingerprint == people(12).photos.fingerprint, "decoded photos are kept"
        assert merged_people(chain) == {"1": ("1", "7", "9")}

    def test_all_wrong_rows_are_listed_with_their_numbers(self, tmp_path: Path) -> None:
        file = tmp_path / "same.csv"
        file.write_text("a,b\n1,7\n1,77\n3,3\n,1\n")
        with pytest.raises(MaskensError) as caught:
            apply_merges(people(12), read_merges([str(file)]))
        text = str(caught.value)
        assert f"{file} row 3: b '77' is not in train.csv" in text
        assert f"{file} row 4: a and b are both '3'" in text
        assert f"{file} row 5: a '' is not in train.csv" in text
        assert "row 2" not in text


class TestSplit:
    def test_a_merged_person_is_in_one_fold_and_counts_once(self) -> None:
        data = apply_merges(people(24), [Merge("0", "1"), Merge("1", "13")])
        folds = make_folds(data, 3, 5)
        assert len({folds[n] for n in (0, 1, 13)}) == 1
        assert people_per_stratum_and_fold(data, folds, 3).sum() == 23, "who is in two strata counts in both"

    def test_folds_that_split_a_merged_person_are_refused(self) -> None:
        plain = people(24)
        folds = np.arange(24, dtype=np.int64) // 6 % 2
        check_folds(plain, folds, 2)
        with pytest.raises(MaskensError, match=r"p6: id 6, one person with id 0, is in fold 0 and in fold 1"):
            check_folds(apply_merges(plain, [Merge("0", "6")]), folds, 2)

    def test_few_photos_a_person_are_few_of_a_merged_one(self) -> None:
        data = apply_merges(people(12), [Merge("1", "7")])
        assert epoch_photos(Sampler(photos_per_person=2), (30, 60), data, np.arange(84)).pool == 22


@pytest.fixture
def folds(make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`maskens folds --run run` in a folder with 30 people; it returns the output."""
    monkeypatch.chdir(tmp_path)
    make_data(tmp_path / "data", people=30)
    Path("same.csv").write_text(f"a,b\n{B},{A}\n")
    return lambda *words: ran("folds", "--run", "run", *words).out


def groups() -> set[str]:
    return {p.group for p in load_data(load_run(RUN))[0].people}


LINE = f"merged: ids {A}, {B} are one person"


class TestRun:
    def test_a_list_is_reported_saved_and_seen_by_later_steps(self, folds: Callable[..., str]) -> None:
        assert LINE in folds("--k", "2", "--merge", "same.csv")
        assert (RUN / "merged.csv").read_text() == f"a,b\n{A},{B}\n"
        rows = {r["id"]: r for r in rows_of(RUN / "folds.csv")}
        assert (rows[B]["person"], rows[B]["fold"]) == (A, rows[A]["fold"])
        assert len(rows) == 30
        assert groups() == {f"{n:06d}" for n in range(30)} - {B}

    def test_the_run_keeps_them_and_none_drops_them(self, folds: Callable[..., str]) -> None:
        folds("--k", "2")
        plain = (RUN / "folds.csv").read_bytes()
        Path("same.csv").write_text(f"a,b\n{int(B)},{int(A)}\n")  # as a spreadsheet saves it
        folds("--merge", "same.csv")
        Path("same.csv").unlink()
        assert LINE in folds("--k", "3"), "with other folds too"
        out = folds("--k", "2", "--merge", "none")
        assert "merged: " not in out
        assert "kept as run/merged.1.csv" in out
        assert not (RUN / "merged.csv").exists()
        assert (RUN / "folds.csv").read_bytes() == plain

    def test_other_merges_are_refused_once_models_are_there(self, folds: Callable[..., str]) -> None:
        folds("--k", "2")
        (RUN / "mask" / "fold0").mkdir(parents=True)
        (RUN / "mask" / "fold0" / "model.safetensors").touch()
        refused(maskens("folds", "--run", "run", "--merge", "same.csv"), "merged ids", "--run")
        assert not (RUN / "merged.csv").exists()

    def test_an_edited_or_lost_file_is_refused(self, folds: Callable[..., str]) -> None:
        folds("--k", "2", "--merge", "same.csv")
        (RUN / "merged.csv").write_text(f"a,b\n{A},000002\n")
        refused(maskens("train", "--run", "run", "--recipe", "demo"), "merged.csv is missing, was edited", "--merge")
        (RUN / "merged.csv").unlink()
        refused(maskens("folds", "--run", "run"), "merged.csv is missing", "--merge")
        assert LINE in folds("--merge", "same.csv")

    def test_unknown_ids_are_refused_before_anything_is_written(self, folds: Callable[..., str]) -> None:
        Path("wrong.csv").write_text(f"a,b\n{A},70\n")
        refused(maskens("folds", "--run", "run", "--merge", "wrong.csv"), "wrong.csv row 2: b '70' is not in train.csv")
        refused(maskens("folds", "--run", "run", "--merge", "none", "--merge", "same.csv"), "--merge none")
        assert not RUN.exists()


class TestDuplicates:
    def test_ids_with_the_same_photo_become_one_person(self, folds: Callable[..., str]) -> None:
        assert "merged: " not in folds("--k", "2", "--merge-duplicates")
        Path("more.csv").write_text(f"a,b\n000000,{B}\n")
        for a, b in ((A, B), (B, "000013")):
            source, target = (next(Path("data/train/images").glob(f"{i}_*")) / "mask1.jpg" for i in (a, b))
            target.write_bytes(source.read_bytes())
        assert "nearly the same photo of two people" in folds("--k", "2", "--check-photos")
        out = folds("--k", "2", "--merge", "more.csv", "--merge-duplicates")
        assert f"merged: ids 000000, {A}, {B}, 000013 are one person" in out, "what is found joins what is given"
        assert "nearly the same photo of two people" not in out
        data, assigned = load_data(load_run(RUN))
        same = {"000000", A, B, "000013"}
        assert len({int(f) for p, f in zip(data.people, assigned, strict=True) if p.id in same}) == 1
        assert "nearly the same photo of two people" not in folds("--check-photos"), "it is stored"
