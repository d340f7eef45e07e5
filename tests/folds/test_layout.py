"""Reading a data folder: what is accepted, and every way in which rows and photos may not fit together."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from conftest import MakeData

from folds.errors import MaskensError
from folds.labels import SHOTS
from folds.layout import read_eval, read_train
from folds.people import class_counts, repeated_ids
from folds.table import read_table

JPGS = tuple(f"{s}.jpg" for s in SHOTS)
HEADER = "id,gender,race,age,path"


def add_person(root: Path, path: str, names: Sequence[str] = JPGS) -> Path:
    """A folder of seven small files; reading the layout opens no photo."""
    folder = root / "train" / "images" / path
    folder.mkdir(parents=True)
    for number, name in enumerate(names):
        (folder / name).write_bytes(b"x" * (number + 1))
    return folder


def write_train(root: Path, *rows: str, header: str = HEADER) -> Path:
    (root / "train" / "images").mkdir(parents=True, exist_ok=True)
    (root / "train" / "train.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return root


def complaint(root: Path) -> str:
    with pytest.raises(MaskensError) as refused:
        read_train(root)
    return str(refused.value)


def replaced(photo: Path) -> Path:
    photo.unlink()
    return photo


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Rows 2 and 3: people a and b, nothing wrong."""
    add_person(tmp_path, "a")
    add_person(tmp_path, "b")
    return write_train(tmp_path, "1,male,Asian,29,a", "2,female,Asian,60,b")


class TestTrain:
    def test_rows_and_photos_are_read_exactly(self, two: Path) -> None:
        data = read_train(two)
        a, b = data.people
        assert (a.path, a.id, a.gender, a.age) == ("a", "1", 0, 29)
        assert (b.path, b.id, b.gender, b.age) == ("b", "2", 1, 60)
        assert a.photos == JPGS
        assert a.bytes == (1, 2, 3, 4, 5, 6, 7)
        assert data.files == [f"train/images/{p}/{name}" for p in "ab" for name in JPGS]
        assert all((two / f).is_file() for f in data.photos.files)
        assert data.photo_person.tolist() == [0] * 7 + [1] * 7
        assert data.years.tolist() == [29] * 7 + [60] * 7
        masks, genders, bands = data.labels
        assert masks.tolist() == [0, 0, 0, 0, 0, 1, 2] * 2
        assert genders.tolist() == [0] * 7 + [1] * 7
        assert bands.tolist() == [0] * 7 + [2] * 7
        assert data.classes.tolist() == [0, 0, 0, 0, 0, 6, 12, 5, 5, 5, 5, 5, 11, 17]
        assert class_counts(data) == [5, 0, 0, 0, 0, 5, 1, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 1]

    def test_extensions_may_be_mixed_and_other_files_are_ignored(self, tmp_path: Path) -> None:
        endings = (".jpg", ".JPG", ".jpeg", ".JPEG", ".png", ".PNG", ".Jpg")
        names = tuple(s + e for s, e in zip(SHOTS, endings, strict=True))
        folder = add_person(tmp_path, "a", names)
        for name in ("._mask1.jpg", "._normal.jpg", ".DS_Store", "notes.txt", "Thumbs.db"):
            (folder / name).write_bytes(b"")
        (folder.parent / "._a").write_bytes(b"x")
        assert read_train(write_train(tmp_path, "1,male,Asian,29,a")).people[0].photos == names

    def test_ids_are_text_of_any_number_of_folders(self, tmp_path: Path) -> None:
        for path in ("a, the first", "b", "c", "d"):
            add_person(tmp_path, path)
        rows = ("1,male,x,120,c", "001-1,male,x,29,b", '01,male,x,0,"a, the first"', "1,female,x,31,d")
        data = read_train(write_train(tmp_path, *rows))
        found = [(p.path, p.id, p.gender, p.age) for p in data.people]
        assert found == [("a, the first", "01", 0, 0), ("b", "001-1", 0, 29), ("c", "1", 0, 120), ("d", "1", 1, 31)]
        assert repeated_ids(data.people) == ["1"]

    def test_spaces_columns_and_any_case_do_no_harm(self, two: Path) -> None:
        plain = read_train(two)
        text = "path, note ,age,id, gender\r\na,hello,29,1,male\r\n b ,, 60 ,2, FEMALE\r\n"
        (two / "train" / "train.csv").write_text(text)
        assert read_train(two) == plain


class TestTrainRefusals:
    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("1,femal,Asian,29,a", "gender 'femal' is neither male nor female (did you mean 'female'"),
            ("1,male,Asian,121,a", "age '121' is not a whole number of years between 0 and 120"),
            ("1,male,Asian,29.5,a", "age '29.5' is not a whole number"),
            (",male,Asian,29,a", "id is empty"),
            ("1,male,Asian,29,", "path '' is not a folder inside"),
            ("1,male,Asian,29,.", "path '.' is not a folder inside"),
            ("1,male,Asian,29,a/../../x", "path 'a/../../x' is not a folder inside"),
            ("1,male,Asian,29,/abs", "path '/abs' is not a folder inside"),
            (r"1,male,Asian,29,a\..\..", r"path 'a\..\..' is not a folder inside"),
            ("1,male,Asian,29,C:/x", "path 'C:/x' is not a folder inside"),
            *((f"1,male,Asian,29,{path}", f"path '{path}' is already in row 2") for path in ("b", "b/", "./b")),
            ("1,male", "age '' is not a whole number"),
            (f"1,male,Asian,{'9' * 5000},a", "age '9999"),
            ("1,male,Asian,29,gone", "no folder "),
            ("1,male,Asian,29,file", "no folder "),
        ],
    )
    def test_a_wrong_row_is_named_with_its_number(self, two: Path, row: str, message: str) -> None:
        add_person(two, "x")
        (two / "train" / "images" / "file").touch()
        write_train(two, "2,female,Asian,60,b", row)
        assert f"train.csv row 3: {message}" in complaint(two)

    @pytest.mark.parametrize("first", ["", "sep=,\n"])
    def test_rows_are_counted_as_an_editor_counts_lines(self, two: Path, first: str) -> None:
        write_train(two, "1,male,Asian,29,a", "", "2,femal,Asian,60,b", header=f"{first}{HEADER}")
        assert f"train.csv row {5 if first else 4}: gender 'femal'" in complaint(two)

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda folder: (folder / "mask3.jpg").unlink(), "{} lacks the photo mask3 (.jpg, .jpeg or .png)"),
            (lambda folder: (folder / "mask3.PNG").touch(), "{} has both mask3.PNG and mask3.jpg: which is 'mask3'?"),
            (lambda folder: (folder / "mask6.jpg").touch(), "{}/mask6.jpg is none of mask1, mask2"),
            (lambda folder: (folder / "Normal.jpg").touch(), "normal (did you mean 'normal'?)"),
            (lambda folder: (folder / "mask5.jpg").write_bytes(b""), "{}/mask5.jpg is an empty file"),
            (lambda folder: replaced(folder / "mask5.jpg").symlink_to("gone.jpg"), "{}/mask5.jpg is not a file"),
            (lambda folder: replaced(folder / "mask5.jpg").mkdir(), "{}/mask5.jpg is not a file"),
        ],
        ids=["missing", "two", "unexpected", "misspelled", "empty", "link to nowhere", "folder"],
    )
    def test_a_wrong_photo_is_named(self, two: Path, spoil: Callable[[Path], object], message: str) -> None:
        folder = two / "train" / "images" / "b"
        spoil(folder)
        assert message.format(folder) in complaint(two)
        assert "train.csv row 3" in complaint(two)

    def test_everything_wrong_is_listed_together(self, two: Path) -> None:
        (two / "train" / "images" / "a" / "mask1.jpg").unlink()
        (two / "train" / "images" / "b" / "mask2.jpg").write_bytes(b"")
        rows = ("1,femal,Asian,290,a", "2,female,Asian,60,b", "3,male,Asian,30,gone", "5,male,Asian,30,a")
        write_train(two, *rows, *(f"{n},male,Asian,30,gone{n}" for n in range(300)))
        headline, *lines, more, _ = complaint(two).splitlines()
        assert headline.startswith(f"{two / 'train' / 'train.csv'} and its photos don't fit together")
        assert [int(line.split("row ")[1].split(":")[0]) for line in lines] == [2, 2, 2, 3, 4, 5, *range(6, 20)]
        for line, part in zip(lines, ("femal", "290", "lacks the photo mask1", "mask2.jpg", "gone"), strict=False):
            assert part in line
        assert more.strip() == "... and 286 more"

    @pytest.mark.parametrize(
        ("read", "table"), [(read_train, "train/train.csv"), (read_eval, "eval/info.csv")], ids=["train", "eval"]
    )
    def test_what_lacks_is_named(self, tmp_path: Path, read: Callable[[Path], object], table: str) -> None:
        with pytest.raises(MaskensError, match=r"no data folder .*nowhere.*--data.*maskens sample .*nowhere"):
            read(tmp_path / "nowhere")
        with pytest.raises(MaskensError, match=rf"no {table}"):
            read(tmp_path)
        (tmp_path / table).parent.mkdir()
        (tmp_path / table).write_text("ImageId,id,gender,age,pth\na,1,male,30,a\n")
        with pytest.raises(MaskensError, match=r"images does not exist"):
            read(tmp_path)
        (tmp_path / table).with_name("images").mkdir()
        with pytest.raises(MaskensError, match=r"lacks the column '(path|ImageID)' \(did you mean '(pth|ImageId)'"):
            read(tmp_path)

    def test_a_name_that_is_not_near_is_no_suggestion(self, tmp_path: Path) -> None:
        (tmp_path / "train.csv").write_text("id,gender,age,path\n1,male,30,a\n")
        with pytest.raises(MaskensError, match=r"lacks the column 'ImageID', 'ans'; it has id, gender, age, path"):
            read_table(tmp_path / "train.csv", ("ImageID", "ans"))

    @pytest.mark.parametrize("named", ["data/train", "data/train/train.csv", ".", "dta", "한글"])
    def test_a_path_near_the_data_folder_is_answered_with_it(
        self, named: str, tmp_path: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        right = unicodedata.normalize("NFD", named) if named == "한글" else "data"
        make_data(tmp_path / "photos" / right, people=6)
        monkeypatch.chdir(tmp_path / "photos")
        for read in (read_train, read_eval):
            with pytest.raises(MaskensError) as refused:
                read(Path(named))
            assert f"(did you mean '{right}'?)" in str(refused.value)
            assert "maskens sample" not in str(refused.value)


class TestTable:
    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", r"train\.csv is empty: it needs a header with the columns id, gender, age, path\."),
            (b"\n\n", r"train\.csv is empty"),
            (b"id,gender,race,age,path\n\n\n", r"train\.csv has a header but no rows\."),
            (b"ID,gender,age\n1,male,3\n", r"lacks the column 'id', 'path'; it has ID, gender, age\."),
            (b"id;gender;age\n1;male;3\n", r"lacks the column 'path'; it has id, gender, age\."),
            ("id,gender\n1,männlich\n".encode("latin-1"), "is not a CSV in UTF-8: save it as 'CSV UTF-8'"),
            (b"id,gender,age,path\n1,male,3,a\n" + bytes(512), "is not a CSV in UTF-8"),
            (b'id,gender,age,path\na,"0\n0\n', "is not a CSV in UTF-8: unexpected end of data"),
            (b"id,race,gender,age,path\n1,Asian, South,male,3,a\n", "row 2 has more cells than the header has columns"),
            (b"id,gender,age,path,id\n1,male,3,a,2\n", "has the column 'id' more than once"),
            ("id,gender,age,path\n1,male,3,éé\n".encode("latin-1"), "is not a CSV in UTF-8"),
            ("id,gender,age,path\n1,male,3,a\n".encode("utf-16-le"), "is not a CSV in UTF-8"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "is a Git LFS pointer"),
        ],
    )
    def test_an_unusable_table_is_refused(self, tmp_path: Path, content: bytes, message: str) -> None:
        write_train(tmp_path)
        (tmp_path / "train" / "train.csv").write_bytes(content)
        with pytest.raises(MaskensError, match=message):
            read_train(tmp_path)

    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp949", "utf-16"])
    @pytest.mark.parametrize("separator", [",", ";", "\t"])
    @pytest.mark.parametrize("first", ["", "sep={}\r\n"])
    def test_what_spreadsheets_save_is_read(self, two: Path, encoding: str, separator: str, first: str) -> None:
        rows = ["id,gender,race,age,path", "1,male,동양인,29.0,a", "2,female,동양인,60.0,b"]
        text = "\r\n".join(row.replace(",", separator) for row in rows) + "\r\n"
        (two / "train" / "train.csv").write_bytes((first.format(separator) + text).encode(encoding))
        assert [(p.path, p.id, p.gender, p.age) for p in read_train(two).people] == [
            ("a", "1", 0, 29),
            ("b", "2", 1, 60),
        ]

    @pytest.mark.parametrize(("csv", "disk"), [("NFC", "NFD"), ("NFD", "NFC")])
    def test_a_korean_name_is_found_in_the_other_unicode_form(
        self, tmp_path: Path, make_data: MakeData, csv: str, disk: str
    ) -> None:
        data = make_data(tmp_path, people=6, eval_ids=("얼굴.jpg", "b.jpg"))
        (first, *_), photo = sorted(data.glob("train/images/*")), data / "eval/images/얼굴.jpg"
        korean = f"{first.name}_한글"
        first.rename(first.with_name(unicodedata.normalize(disk, korean)))
        photo.rename(photo.with_name(unicodedata.normalize(disk, photo.name)))
        for table, old, new in (("train/train.csv", first.name, korean), ("eval/info.csv", "얼굴.jpg", "얼굴.jpg")):
            text = (data / table).read_text().replace(old, new)
            (data / table).write_text(unicodedata.normalize(csv, text))
        train, evaluation = read_train(data), read_eval(data)
        assert train.people[0].path == korean  # so that folds and fingerprint are those of a copy on Linux
        assert evaluation.ids == (unicodedata.normalize(csv, "얼굴.jpg"), "b.jpg")  # as the leaderboard has them
        for photos in (train.photos, evaluation.photos):
            assert all(photos.path(file).is_file() for file in photos.files)

    def test_a_numbered_folder_is_found_though_a_spreadsheet_dropped_its_zeros(self, tmp_path: Path) -> None:
        add_person(tmp_path, "000016")
        assert [p.path for p in read_train(write_train(tmp_path, "16,male,Asian,29,16")).people] == ["000016"]
        add_person(tmp_path, "016")
        assert "no folder" in complaint(tmp_path)

    def test_a_folder_in_place_of_the_table_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(MaskensError, match=f"can't read {re.escape(str(tmp_path))}: Is a directory"):
            read_table(tmp_path, ("id",))

    def test_empty_cells_beyond_the_header_are_dropped_and_short_rows_filled(self, tmp_path: Path) -> None:
        (tmp_path / "t.csv").write_text("a,b\n1,2,, \n5\n")
        rows = read_table(tmp_path / "t.csv", ("b",))
        assert [(r["a"], r["b"]) for r in rows] == [("1", "2"), ("5", "")]


class TestEval:
    def test_columns_in_any_order_and_photos_without_a_row_are_fine(self, tmp_path: Path, make_data: MakeData) -> None:
        root = make_data(tmp_path / "data", people=6, eval_ids=("b.jpg", "a.png"))
        before = read_eval(root)
        assert before.photos.files == ["eval/images/b.jpg", "eval/images/a.png"], "in the order of the table"
        (root / "eval" / "images" / "._b00.jpg").write_bytes(b"x")
        (root / "eval" / "images" / "other.jpg").write_bytes(b"x")
        for text in ("\ufeffans,note,ImageID\n0,x,b.jpg\n0,,a.png\n", "ImageID\r\nb.jpg\r\na.png\r\n"):
            (root / "eval" / "info.csv").write_bytes(text.encode())
            assert read_eval(root) == before

    def test_wrong_rows_are_listed_together(self, tmp_path: Path, make_data: MakeData) -> None:
        root = make_data(tmp_path / "data", people=6)
        images = root / "eval" / "images"
        (images / "sub").mkdir()
        (images / "sub" / "b00.jpg").write_bytes(b"x")
        (images / "empty.jpg").touch()
        names = ["gone.jpg", "b00.jpg", "b00.jpg", "../images/b00.jpg", "sub/b00.jpg", "sub", "empty.jpg"]
        (root / "eval" / "info.csv").write_text("\n".join(["ImageID", *names]))
        with pytest.raises(MaskensError) as refused:
            read_eval(root)
        _, *problems, advice = str(refused.value).splitlines()
        assert problems == [
            f"  - info.csv row 2: {images}/gone.jpg is missing",
            "  - info.csv row 4: ImageID 'b00.jpg' is already in row 3",
            *(f"  - info.csv row {n}: {images}/{names[n - 2]} is missing" for n in (5, 6, 7)),
            f"  - info.csv row 8: {images}/empty.jpg is an empty file",
        ]
        assert "--skip-bad-photos" in advice


class TestFingerprint:
    def test_it_is_the_same_for_any_place_and_order(self, two: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
        before = read_train(two)
        moved = two.rename(tmp_path_factory.mktemp("elsewhere") / "data")
        after = read_train(write_train(moved, "2,female,Asian,60,b", "1,male,Asian,29,a"))
        assert (after.fingerprint, after.people) == (before.fingerprint, before.people)

    def test_it_changes_with_a_label_a_file_name_a_size_or_a_person(self, two: Path) -> None:
        images, seen = two / "train" / "images", [read_train(two).fingerprint]
        for row in ("1,female,Asian,29,a", "1,male,Asian,30,a", "2,male,Asian,29,a", "1,male,Asian,29,a"):
            seen.append(read_train(write_train(two, row, "2,female,Asian,60,b")).fingerprint)
        assert seen.pop() == seen[0]
        (images / "a" / "mask1.jpg").rename(images / "a" / "mask1.JPG")
        seen.append(read_train(two).fingerprint)
        (images / "a" / "mask2.jpg").write_bytes(b"x" * 100)
        seen.append(read_train(two).fingerprint)
        seen.append(read_train(write_train(two, "1,male,Asian,29,a")).fingerprint)
        assert len(set(seen)) == len(seen)

    def test_that_of_the_photos_to_predict_follows_order_and_size(self, tmp_path: Path, make_data: MakeData) -> None:
        root = make_data(tmp_path / "data", people=6, eval_ids=("a.jpg", "b.jpg"))
        seen = [read_eval(root).photos.fingerprint]
        (root / "eval" / "info.csv").write_text("ImageID\nb.jpg\na.jpg\n")
        seen.append(read_eval(root).photos.fingerprint)
        os.truncate(root / "eval" / "images" / "a.jpg", 100)
        seen.append(read_eval(root).photos.fingerprint)
        assert len(set(seen)) == 3
