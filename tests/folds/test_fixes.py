"""Label fixes: the labels that training sees change, the disk does not, and a run remembers which."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, ran, refused

from folds.corrections import FIX_COLUMNS, apply_fixes, describe_fixes, fixes_csv, read_fixes, shipped_fixes
from folds.errors import MaskensError
from folds.files import csv_text
from folds.labels import GENDERS, SHOTS
from folds.layout import read_train
from folds.people import Fix, TrainData, class_counts, label_conflicts
from folds.run_folder import load_data, load_run
from folds.splits import folds_csv, largest_k, make_folds, photos_per_class_and_fold, read_folds, strata

MAN = "001_male_Asian_20"
PATHS = ("001_male_Asian_20", "002_female_Asian_40", "003_male_Asian_60", "003_male_Asian_61")
CROWD = tuple(f"9{n:03d}_{GENDERS[n % 2]}_Asian_{(25, 45, 65)[n % 3]}" for n in range(18))  # three of each stratum


def make_tree(root: Path, paths: Sequence[str]) -> Path:
    """A data folder of these people, named id_gender_race_age, with photos of a few bytes that nothing opens."""
    rows = []
    for path in paths:
        id_, gender, race, age = path.split("_")
        rows.append((id_, gender, race, age, path))
        folder = root / "train" / "images" / path
        folder.mkdir(parents=True)
        for number, shot in enumerate(SHOTS):
            (folder / f"{shot}.jpg").write_bytes(b"x" * (number + 1))
    (root / "train" / "train.csv").write_text(csv_text(("id", "gender", "race", "age", "path"), rows))
    return root


def write_list(file: Path, *rows: str) -> str:
    file.write_text("\n".join([",".join(FIX_COLUMNS), *rows, ""]))
    return str(file)


def disk(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.rglob("*") if p.is_file()}


def of(data: TrainData, path: str) -> tuple[int, int, list[int]]:
    """(gender, years, mask of each photo) of the folder, as training gets them."""
    row = [p.path for p in data.people].index(path)
    mine = data.photo_person == row
    masks, genders, _ = (labels[mine].tolist() for labels in data.labels)
    assert len(set(genders)) == len(set(data.years[mine].tolist())) == 1
    return genders[0], int(data.years[mine][0]), masks


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_tree(tmp_path / "data", PATHS)


Apply = Callable[..., TrainData]


@pytest.fixture
def fixed(root: Path, tmp_path: Path) -> Apply:
    """The data with these rows as fixes."""
    return lambda *rows: read_train(root, read_fixes([write_list(tmp_path / "mine.csv", *rows)]))


class TestLabels:
    def test_each_field_changes_what_it_names_and_nothing_else(self, root: Path, fixed: Apply) -> None:
        data = fixed(
            "001_male_Asian_20,,gender,male,female,looks so",
            "002_female_Asian_40,,age,40,60,",
            "003_male_Asian_60,incorrect_mask,mask,incorrect,wear,",
        )
        assert of(data, "001_male_Asian_20") == (1, 20, [0, 0, 0, 0, 0, 1, 2])
        assert of(data, "002_female_Asian_40") == (1, 60, [0, 0, 0, 0, 0, 1, 2])
        assert of(data, "003_male_Asian_60") == (0, 60, [0, 0, 0, 0, 0, 0, 2])
        assert of(data, "003_male_Asian_61") == (0, 61, [0, 0, 0, 0, 0, 1, 2])
        assert data.files == read_train(root).files
        assert strata(data.people).tolist() == [3, 5, 2, 2]
        counts = dict(enumerate(class_counts(data)))
        assert {c: n for c, n in counts.items() if n} == {3: 5, 9: 1, 15: 1, 5: 5, 11: 1, 17: 1, 2: 11, 8: 1, 14: 2}

    def test_a_person_whose_rows_disagree_can_be_corrected_or_made(self, fixed: Apply) -> None:
        half = fixed("003_male_Asian_60,,gender,male,female,")
        assert label_conflicts(half) == ["id 003 is male in one row and female in another"]
        both = fixed("003_male_Asian_60,,gender,male,female,", "003_male_Asian_61,,gender,male,female,")
        assert label_conflicts(both) == []
        assert describe_fixes(both) == "2 labels of 1 people (2 gender)"

    def test_a_pattern_stands_for_the_one_folder_that_it_fits(self, fixed: Apply) -> None:
        data = fixed("001_*_Asian_20,,gender,male,female,", "002_female_Asian_*,,age,40,41,", "00*1,,age,61,62,")
        assert [f.path for f in data.fixes] == ["001_male_Asian_20", "002_female_Asian_40", "003_male_Asian_61"]
        assert [of(data, f.path)[:2] for f in data.fixes] == [(1, 20), (1, 41), (0, 62)]

    def test_only_the_star_is_special_in_a_pattern(self, tmp_path: Path) -> None:
        root = make_tree(tmp_path / "data", ["a[1]_male_x_20", "a1_male_x_21", "ab_male_x_22"])
        fixes = [Fix(p, "", "age", a, "30") for p, a in (("a[1]*", "20"), ("a1*", "21"))]
        assert [of(read_train(root, fixes), p)[1] for p in ("a[1]_male_x_20", "a1_male_x_21")] == [30, 30]
        with pytest.raises(MaskensError, match=r"path 'a\?_\*' fits 0 rows"):
            read_train(root, [Fix("a?_*", "", "age", "22", "30")])


class TestFingerprint:
    def test_it_follows_every_kind_of_fix_and_that_of_the_photos_none(self, root: Path, fixed: Apply) -> None:
        each = [
            read_train(root),
            fixed(f"{MAN},,gender,male,female,"),
            fixed(f"{MAN},,age,20,21,"),
            fixed(f"{MAN},mask1,mask,wear,incorrect,"),
            fixed(f"{MAN},mask2,mask,wear,incorrect,"),
        ]
        assert len({d.fingerprint for d in each}) == 5
        assert len({d.photos.fingerprint for d in each}) == 1
        table = root / "train" / "train.csv"
        table.write_text(table.read_text().replace("001,male", "001,female"))
        assert read_train(root).fingerprint == each[1].fingerprint, "a corrected table and a fix are the same labels"

    def test_fixes_in_any_order_and_from_any_number_of_files_are_the_same(self, root: Path, tmp_path: Path) -> None:
        rows = [f"{p},{s},mask,wear,incorrect,{s}" for p in PATHS for s in SHOTS[:3]]
        straight = read_train(root, read_fixes([write_list(tmp_path / "all.csv", *rows)]))
        random.Random(1).shuffle(rows)
        parts = [write_list(tmp_path / "a.csv", *rows[:5]), write_list(tmp_path / "b.csv", *rows[5:])]
        assert read_train(root, read_fixes(parts)) == straight


class TestRefusals:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("001_male_Asian_21,,age,20,21,", "path '001_male_Asian_21' fits 0 rows of train.csv"),
            ("003_*,,age,60,61,", "path '003_*' fits 2 rows"),
            (f"{MAN},,gendr,male,female,", "field 'gendr' is none of gender, age, mask (did you mean 'gen"),
            (f"{MAN},normal,gender,male,female,", "photo 'normal' is given, but gender is the same on all"),
            (f"{MAN},,mask,wear,incorrect,", "photo '' is none of mask1, mask2"),
            (f"{MAN},,gender,male,femal,", "new 'femal' is none of male, female (did you mean 'female'"),
            (f"{MAN},mask1,mask,wear,worn,", "new 'worn' is none of wear, incorrect, not wear"),
            (f"{MAN},,age,20,121,", "new '121' is not a whole number of years between 0 and 120"),
            (f"{MAN},,age,20,{'9' * 5000},", "is not a whole number of years"),
            (f"{MAN},,age,,30,", "old '' is not a whole number of years"),
            (f"{MAN},,age,20,020,", "old and new are both '020'"),
            (f"{MAN},,age,22,30,", f"age of '{MAN}' is '20', not '22'"),
            ("001_*,,gender,female,male,", f"gender of '{MAN}' is 'male', not 'female'"),
            (f"{MAN},normal,mask,wear,incorrect,", f"mask of '{MAN}' normal is 'not wear', not 'wear'"),
        ],
    )
    def test_a_row_that_does_not_fit_is_named(self, fixed: Apply, tmp_path: Path, row: str, message: str) -> None:
        with pytest.raises(MaskensError) as refused:
            fixed("003_male_Asian_61,,age,61,62,", "", row)
        _, problem, advice = str(refused.value).splitlines()
        assert problem.startswith(f"  - {tmp_path / 'mine.csv'} row 4: ")
        assert message in problem
        assert "--fixes none" in advice

    def test_a_label_fixed_twice_is_refused_in_any_files(self, root: Path, tmp_path: Path, fixed: Apply) -> None:
        once, again = "001_male_Asian_20,,gender,male,female,", "001_*,,gender,male,female,why"
        with pytest.raises(MaskensError, match=r"mine\.csv row 3: gender of '001_m\w+' is fixed in .*mine\.csv row 2"):
            fixed(once, again)
        a, b = write_list(tmp_path / "a.csv", once), write_list(tmp_path / "b.csv", "002*,,age,40,41,", again)
        with pytest.raises(MaskensError, match=r"b\.csv row 3: gender of '001_\w+' is fixed in .*a\.csv row 2 already"):
            read_train(root, read_fixes([a, b]))
        data = read_train(root, read_fixes([a]))
        with pytest.raises(MaskensError, match=r"is fixed in .*a\.csv row 2 already"):
            apply_fixes(data, read_fixes([b]))

    def test_everything_wrong_in_all_files_is_listed_together(self, root: Path, tmp_path: Path) -> None:
        good = "002_female_Asian_40,,age,40,41,"
        a = write_list(tmp_path / "a.csv", good, "nobody,normal,gender,mal,female,", "001_*,,size,1,2,")
        b = write_list(tmp_path / "b.csv", "003_*,,age,60,1000,", good)
        with pytest.raises(MaskensError) as refused:
            read_train(root, read_fixes([a, b]))
        problems = [line.split(str(tmp_path))[1] for line in str(refused.value).splitlines()[1:-1]]
        assert [p.split(": ")[0] for p in problems] == ["/a.csv row 3", "/a.csv row 4", "/b.csv row 2", "/b.csv row 3"]

    def test_an_unknown_list_is_refused_with_the_known_ones(self, tmp_path: Path) -> None:
        with pytest.raises(MaskensError, match=r"--fixes cor: there is no such list \(did you mean 'core'\?\)\. Name"):
            read_fixes(["cor"])
        with pytest.raises(MaskensError, match=r"no such list\. Name core, disputed, a CSV file with .*, or none\."):
            read_fixes([str(tmp_path / "gone.csv")])


def test_what_is_written_is_read_back(root: Path, tmp_path: Path) -> None:
    odd = 'he said "20", she said\n30, nobody knows'
    fixes = [Fix("001_*", "", "age", "020", "30", odd), Fix("002_*", "normal", "mask", "NOT WEAR", "wear")]
    data = read_train(root, fixes)
    (tmp_path / "again.csv").write_text(fixes_csv(data.fixes))
    again = read_train(root, read_fixes([str(tmp_path / "again.csv")]))
    assert again == data
    assert again.fixes[1] == Fix("002_female_Asian_40", "normal", "mask", "not wear", "wear")
    assert fixes_csv(()) == ""


@pytest.mark.parametrize(
    ("names", "summary"),
    [
        (("core",), "14 labels of 11 people (8 gender, 6 mask)"),
        (("core", "disputed"), "39 labels of 36 people (25 gender, 6 age, 8 mask)"),
    ],
)
def test_the_shipped_lists_fit_the_people_that_they_name(tmp_path: Path, names: tuple[str, ...], summary: str) -> None:
    assert list(shipped_fixes()) == ["core", "disputed"]
    wanted = {f.path.replace("_*_", "_male_").replace("*", "33") for f in read_fixes(names)}
    root = make_tree(tmp_path / "data", sorted(wanted | set(CROWD)))
    before = disk(root)
    data = read_train(root, read_fixes(names))
    assert describe_fixes(data) == summary
    assert all(f.reason for f in data.fixes)
    assert disk(root) == before
    assert (photos_per_class_and_fold(data, make_folds(data, 2, 42), 2) > 0).all()
    for number in range(6359, 6365):
        assert of(data, f"{number:06d}_female_Asian_18") == (0, 18, [0, 0, 0, 0, 0, 1, 2])
    for path in ("000020_female_Asian_50", "004418_male_Asian_20", "005227_male_Asian_22"):
        assert of(data, path)[2] == [0, 0, 0, 0, 0, 2, 1]


class TestFolds:
    def test_a_class_that_a_fix_takes_away_limits_the_folds(self, tmp_path: Path) -> None:
        root = make_tree(tmp_path / "data", CROWD)
        old_woman = next(p for p in CROWD if p.endswith("female_Asian_65"))
        fix = Fix(old_woman, "incorrect_mask", "mask", "incorrect", "wear")
        assert largest_k(read_train(root).people)[0] == 3
        data = read_train(root, [fix])
        assert largest_k(data.people) == (2, "incorrect, female >=60")
        with pytest.raises(MaskensError, match=r"--k 3: .* only 2 people are 'incorrect, female >=60'\."):
            make_folds(data, 3, 0)

    def test_the_folds_file_names_fixed_masks_and_is_as_ever_without(self, root: Path, fixed: Apply) -> None:
        folds = np.arange(4)
        plain = folds_csv(read_train(root), folds)
        assert plain.splitlines()[0] == "path,id,fold,gender,age,photos,bytes,stratum"
        swapped = fixed(
            "001_male_Asian_20,incorrect_mask,mask,incorrect,not wear,",
            "001_male_Asian_20,normal,mask,not wear,incorrect,",
        )
        header, first, *others = folds_csv(swapped, folds).splitlines()
        assert header.endswith(",stratum,masks")
        assert first.endswith(",wear/wear/wear/wear/wear/not wear/incorrect")
        assert others == [line + "," for line in plain.splitlines()[2:]]
        relabelled = folds_csv(fixed("001_male_Asian_20,,age,20,21,"), folds)
        assert relabelled == plain.replace("001,0,male,20", "001,0,male,21")


# The command line, and what a run remembers.


Folds = Callable[..., str]
RUN = Path("run")
MINE = [
    f"{CROWD[0]},incorrect_mask,mask,incorrect,not wear,swapped",
    f"{CROWD[0]},normal,mask,not wear,incorrect,swapped",
    f"{CROWD[1][:4]}_*,,age,{CROWD[1][-2:]},46,",
]


@pytest.fixture
def folds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Folds:
    """`maskens folds --run run` in a folder with data, mine.csv (3 labels of 2 people) and other.csv (1 label)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MASKENS_RUN", "run")
    make_tree(Path("data"), CROWD)
    write_list(Path("mine.csv"), *MINE)
    write_list(Path("other.csv"), f"{CROWD[2]},,age,{CROWD[2][-2:]},66,")
    return lambda *args: ran("folds", *args).out


def trained() -> None:
    job = RUN / "mask" / "fold0"
    job.mkdir(parents=True)
    (job / "model.safetensors").touch()


def masks_of(path: str) -> list[int]:
    """The mask labels that a training job of the run would get."""
    return of(load_data(load_run(RUN))[0], path)[2]


SWAPPED = [0, 0, 0, 0, 0, 2, 1]
AS_NAMED = [0, 0, 0, 0, 0, 1, 2]
LINE = "fixes: 3 labels of 2 people (1 age, 2 mask) from mine.csv"


class TestRun:
    def test_fixes_are_reported_saved_and_seen_by_training(self, folds: Folds) -> None:
        before = disk(Path("data"))
        assert LINE in folds("--k", "2", "--fixes", "mine.csv")
        rows = read_fixes([str(RUN / "fixes.csv")])
        assert [r.path for r in rows] == [CROWD[0], CROWD[0], CROWD[1]], "patterns are resolved"
        run = load_run(RUN)
        assert masks_of(CROWD[0]) == SWAPPED
        assert of(load_data(run)[0], CROWD[1])[1] == 46
        Path("mine.csv").unlink()
        assert LINE in folds()
        assert load_run(RUN) == run
        assert LINE in folds("--k", "3"), "with other folds too"
        assert masks_of(CROWD[0]) == SWAPPED
        assert disk(Path("data")) == before

    def test_the_same_split_with_other_labels(self, folds: Folds) -> None:
        folds("--k", "3", "--seed", "7")
        plain, before = load_data(load_run(RUN))
        folds("--run", "B", "--fixes", "mine.csv", "--folds-file", "run/folds.csv")
        data, same = load_data(load_run(Path("B")))
        assert same.tolist() == before.tolist()
        assert data.files == plain.files
        assert np.flatnonzero(data.classes != plain.classes).tolist() == [5, 6], "46 is in the band of 45"
        assert load_run(Path("B")).folds_hash != load_run(RUN).folds_hash, "models are bound to this hash"
        assert read_folds(Path("B/folds.csv"), plain)[0].tolist() == before.tolist(), "and back"

    def test_other_fixes_or_none_keep_the_earlier_ones_aside(self, folds: Folds) -> None:
        folds("--k", "2")
        assert sorted(p.name for p in RUN.iterdir()) == ["folds.csv", "run.json"]
        plain = (RUN / "folds.csv").read_bytes()
        assert "4 labels of 3 people" in folds("--fixes", "other.csv", "--fixes", "mine.csv")
        earlier = (RUN / "fixes.csv").read_bytes()
        assert "kept as run/fixes.1.csv" in folds("--fixes", "other.csv")
        assert (RUN / "fixes.1.csv").read_bytes() == earlier
        assert masks_of(CROWD[0]) == AS_NAMED
        out = folds("--fixes", "none")
        assert "fixes: " not in out
        assert "kept as run/fixes.2.csv" in out
        assert not (RUN / "fixes.csv").exists()
        assert (RUN / "folds.csv").read_bytes() == plain
        shutil.copy("mine.csv", RUN / "fixes.csv")
        refused(maskens("folds"), "is not of this run", "--run NEW_DIR --fixes run/fixes.csv")

    def test_other_fixes_are_refused_once_models_are_there(self, folds: Folds) -> None:
        folds("--k", "2", "--fixes", "mine.csv")
        trained()
        before = disk(RUN)
        for names in (["other.csv"], ["none"], ["mine.csv", "other.csv"]):
            outcome = maskens("folds", *(part for n in names for part in ("--fixes", n)))
            refused(outcome, "label fixes", "3 labels", "--folds-file run/folds.csv")
        assert disk(RUN) == before
        assert "the same folds were there already" in folds("--fixes", "mine.csv")

    def test_models_stay_when_the_table_itself_was_corrected(self, folds: Folds) -> None:
        write_list(Path("mine.csv"), MINE[2])
        folds("--k", "2", "--fixes", "mine.csv")
        trained()
        table = Path("data/train/train.csv")
        table.write_text(table.read_text().replace(f",45,{CROWD[1]}", f",46,{CROWD[1]}"))
        refused(maskens("folds"), "is '46', not '45'")
        with pytest.raises(MaskensError, match=r"don't fit the data(?s:.*)'46', not '45'"):
            load_data(load_run(RUN))
        assert "the same folds were there already" in folds("--fixes", "none")
        assert load_data(load_run(RUN))[0].fixes == ()

    def test_a_lost_or_edited_file_is_refused_and_comes_back(self, folds: Folds) -> None:
        folds("--k", "2", "--fixes", "mine.csv")
        trained()
        file = RUN / "fixes.csv"
        whole = file.read_bytes()
        for spoil in (file.unlink, lambda: write_list(file, *MINE[:2])):
            spoil()
            with pytest.raises(MaskensError, match=r"run/fixes\.csv is missing, .* maskens folds --run run --fixes"):
                load_data(load_run(RUN))
            refused(maskens("folds"), "run/fixes.csv")
            folds("--fixes", "mine.csv")
            assert file.read_bytes() == whole

    def test_wrong_input_writes_nothing(self, folds: Folds) -> None:
        refused(maskens("folds", "--fixes", "core"), "core row 2: path '006359_female_Asian_18'")
        refused(maskens("folds", "--fixes", "none", "--fixes", "mine.csv"), "--fixes none")
        assert not RUN.exists()
