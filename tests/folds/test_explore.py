"""`maskens explore`: the numbers are right, what was planted is found, and nobody's files are harmed."""

from __future__ import annotations

import csv
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from edits import contents
from html_pages import BROWSER, Page, assert_accessible, assert_readable_in_a_browser, assert_self_contained
from PIL import Image
from run_command import Outcome, maskens, ran, refused

from ensemble.recipes.recipe_file import load_recipe
from ensemble.recipes.schema import Recipe
from ensemble.reporting.sheets import DRAWS, augment_sheets
from folds.errors import MaskensError
from folds.explore import page as explore_page
from folds.explore.exploration import draw_photos, examples, explore
from folds.labels import SHOT_MASK, SHOTS
from folds.layout import read_train
from folds.pages.charts import age_histogram, ticks
from folds.pages.contact_sheet import BOX, GAP, Cell, Sheet, draw
from folds.photos import Pixels, resize_and_crop
from folds.table import read_table

ODD = '000004_male_<b>&"x"_60'  # a folder's name may hold what HTML would take for its own


def photo(root: Path, person: int, shot: str) -> Path:
    (folder,) = (root / "train" / "images").glob(f"{person:06d}_*")
    return folder / f"{shot}.jpg"


def spoil(root: Path) -> None:
    """Plant one of everything that exploring should find."""
    table = root / "train" / "train.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    old, rows[5][4] = rows[5][4], ODD  # the new name has another gender and age than the row
    rows[10][0] = "000001"  # one id, two genders, two ages
    rows[12][2] = "Martian"
    with table.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    (root / "train" / "images" / old).rename(root / "train" / "images" / ODD)
    with Image.open(photo(root, 2, "normal")) as image:
        image.resize((64, 48)).save(photo(root, 15, "mask3"), quality=80)
    photo(root, 3, "incorrect_mask").write_text("not a photo")
    faint = np.random.default_rng(0).integers(0, 12, (24, 32, 3), dtype=np.uint8)
    Image.fromarray(faint).save(photo(root, 6, "mask1"))
    Image.fromarray(255 - faint[::-1] // 2).save(photo(root, 9, "mask2"))
    Image.effect_noise((32, 24), 60).save(photo(root, 12, "mask4"), format="PNG")


@pytest.fixture(scope="module")
def spoilt(make_data: MakeData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_data(tmp_path_factory.mktemp("explore") / "data", people=18)
    spoil(root)
    return root


@pytest.fixture(scope="module")
def explored(spoilt: Path) -> tuple[Outcome, Path]:
    run = spoilt.parent / "runs" / "default"
    outcome = ran("explore", "--data", spoilt, "--run", run, "--recipe", "demo", "--per-class", 3)
    return outcome, spoilt.parent / "runs" / "explore"


@pytest.fixture(scope="module")
def page(explored: tuple[Outcome, Path]) -> Page:
    return Page.of(explored[1] / "index.html")


def by_hand(root: Path) -> tuple[Counter[int], dict[int, set[str]]]:
    """Photos and ids of each class, from the CSV and the coding in the README alone."""
    photos: Counter[int] = Counter()
    people: dict[int, set[str]] = {}
    with (root / "train" / "train.csv").open() as file:
        for row in csv.DictReader(file):
            years = int(row["age"])
            band = 0 if years < 30 else 1 if years < 60 else 2
            for mask, count in ((0, 5), (1, 1), (2, 1)):
                number = mask * 6 + (row["gender"] == "female") * 3 + band
                photos[number] += count
                people.setdefault(number, set()).add(row["id"])
    return photos, people


def test_counts_of_people_and_photos(spoilt: Path, explored: tuple[Outcome, Path], page: Page) -> None:
    photos, people = by_hand(spoilt)
    classes, groups = page.tables[:2]
    expected = [(c, len(people[c]), photos[c]) for c in range(18)]
    assert [(int(r[0]), int(r[2]), int(r[3])) for r in classes[1:-1]] == expected
    assert classes[-1][1:4] == ["all †", "17", "126"]
    female = [f"{len(people[c])} / {photos[c] + photos[c + 6] + photos[c + 12]}" for c in (3, 4, 5)]
    assert groups[2][:4] == ["female", *female]
    assert groups[3] == ["both", "6 / 42", "6 / 42", "6 / 42", "17 / 126"]  # 000001 is in two bands
    out = explored[0].out
    printed = re.findall(r"^ +(\d+) +\w+ ?\w*, \w+, \S+ +(\d+) +(\d+) *$", out, re.MULTILINE)
    assert sorted(tuple(map(int, r)) for r in printed) == expected
    assert [int(n) for *_, n in printed] == sorted(photos.values()), "rarest first"
    assert "17 people on 18 folders, 126 photos" in out
    sizes, formats = page.tables[2:4]
    assert sizes[1:] == [["32 x 24", "124"], ["64 x 48", "1"]]
    assert formats[1:] == [[".jpg, JPEG, RGB", "124"], [".jpg, PNG, L", "1"]]


def test_colour_is_that_of_all_pixels_and_no_person_fills_a_list_of_extremes(spoilt: Path, page: Page) -> None:
    found = explore(read_train(spoilt), 1, seed=0, workers=2)
    files = found.data.files
    pixels = np.stack([np.asarray(Image.open(spoilt / files[i]).convert("RGB").resize((32, 24))) for i in found.photos])
    mean, spread = found.colour
    assert mean == pytest.approx(pixels.mean(axis=(0, 1, 2)), abs=0.2)
    assert spread == pytest.approx(pixels.std(axis=(0, 1, 2)), abs=0.2)
    dark, bright = (p.relative_to(spoilt).as_posix() for p in (photo(spoilt, 6, "mask1"), photo(spoilt, 9, "mask2")))
    first = {name: files[photos[0][0]] for name, photos in found.extremes.items()}
    assert first == {"darkest": dark, "brightest": bright, "least contrast": bright}
    grey = np.asarray(Image.open(spoilt / dark).convert("L"))
    assert found.extremes["darkest"][0][1] == pytest.approx(grey.mean(), abs=0.5)
    for photos in found.extremes.values():
        assert len({found.data.people[found.data.photo_person[i]].id for i, _ in photos}) == len(photos) == 7
    assert f"{grey.mean():.0f}: {dark.split('/')[2]}/\nmask1.jpg" in page.words["colour"]
    chosen = examples(found)
    assert len({found.data.people[found.data.photo_person[i]].id for i in chosen}) == len(chosen) == 4
    assert {SHOT_MASK[SHOTS[i % 7]] for i in chosen} == {0, 1, 2}
    assert set(found.data.labels[1][chosen]) == {0, 1}
    assert set(chosen) <= found.photos.keys()


def test_a_planted_near_duplicate_is_shown_as_a_pair(spoilt: Path, explored: tuple[Outcome, Path], page: Page) -> None:
    (outcome, folder), pair = explored, (photo(spoilt, 2, "normal"), photo(spoilt, 15, "mask3"))
    one, other = (p.relative_to(spoilt).as_posix() for p in pair)
    assert (folder / "index.html").read_text().count('<div class="pair">') == 1
    alts = [alt for alt, *_ in page.figures]
    start = next(i for i, alt in enumerate(alts) if alt == one and alts[i + 1] == other)
    assert page.figures[start][1].startswith("data:image/webp")
    assert f"{one}  ~  {other}" in outcome.out
    (row,) = read_table(folder / "merge-candidates.csv", ("a", "b", "photos", "photo_a", "photo_b"))
    assert {(row["a"], row["photo_a"]), (row["b"], row["photo_b"])} == {("000002", one), ("000015", other)}
    assert re.search(rf"maskens folds --run \S+ --data {re.escape(str(spoilt))} --merge same.csv", outcome.out)
    with Image.open(folder / "duplicates.jpg") as sheet:
        assert sheet.width > 2 * BOX[0]


def test_labels_that_disagree_are_named_and_shown(explored: tuple[Outcome, Path], page: Page) -> None:
    for words in (
        "id 000001 is male in one row and female in another",
        "id 000001 is 27 and 31 years old, in 2 age bands",
        f"folder {ODD}: train.csv has gender female, race asian, age 34",
        "train.csv has race martian",
    ):
        assert words in page.words["labels"]
        assert words in explored[0].out
    assert "labels that disagree: 5" in explored[0].out  # the fifth: folder 000009 now has id 000001
    assert any(caption.startswith(f"{ODD}\nid 000004, female") for *_, caption in page.figures)
    assert (explored[1] / "labels.jpg").exists()


def test_the_page_needs_nothing_else_and_a_broken_photo_or_name_does_no_harm(
    spoilt: Path, explored: tuple[Outcome, Path], page: Page
) -> None:
    text = (explored[1] / "index.html").read_text()
    assert_self_contained(text, page)
    assert_accessible(text)
    assert text.count("<svg ") == 2
    assert "<b>&" not in text
    assert any(caption.strip() == ODD and ODD in alt for alt, _, caption in page.figures)
    broken = str(photo(spoilt, 3, "incorrect_mask"))
    assert broken in page.words["files"]
    assert "1 can't be read" in page.words["files"]
    assert broken in explored[0].out
    assert len(re.findall(r'<span class="none" role="img"', text)) == 1  # its class has 3 photos, all are shown
    assert len(list(explored[1].glob("class-*.jpg"))) == 18


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_the_page_in_a_browser(explored: tuple[Outcome, Path], tmp_path: Path) -> None:
    assert_readable_in_a_browser(explored[1] / "index.html", tmp_path)


def test_a_sheet_shows_as_many_people_as_it_can(make_data: MakeData, tmp_path: Path) -> None:
    data = read_train(make_data(tmp_path / "data", people=24))
    for number, photos in enumerate(draw_photos(data, 6, seed=1)):
        people = Counter(data.photo_person[list(photos)].tolist())
        assert (data.classes[list(photos)] == number).all()
        assert len(set(photos)) == len(photos) == (6 if number < 6 else 4)
        assert len(people) == 4, "four people a class: nobody is skipped"
        assert max(people.values()) - min(people.values()) <= 1


def test_the_same_seed_draws_the_same_sheets(spoilt: Path, explored: tuple[Outcome, Path], tmp_path: Path) -> None:
    again = ("explore", "--data", spoilt, "--recipe", "demo", "--per-class", 3, "--workers", 1, "-q")
    assert maskens(*again, "--out", tmp_path / "same") == Outcome(0, "", "")
    assert contents(tmp_path / "same") == contents(explored[1])
    data = read_train(spoilt)
    assert draw_photos(data, 3, seed=42) != draw_photos(data, 3, seed=7)


# Augmentation


def pictures(sheet: Sheet) -> list[list[Pixels]]:
    return [[c.picture for c in row if c.picture is not None] for row in sheet.rows]


@pytest.fixture
def faces() -> list[tuple[str, Pixels]]:
    rng = np.random.default_rng(0)
    return [(f"person{n}/\nmask1.jpg", rng.integers(0, 256, (90, 70, 3), dtype=np.uint8)) for n in range(2)]


def recipe(folder: Path, tables: str) -> Recipe:
    (folder / "mine.toml").write_text(f"[defaults]\nmodel = 'test_resnet.r160_in1k'\nresize = [32, 24]\n{tables}")
    return load_recipe(str(folder / "mine.toml"))


def test_a_sheet_starts_from_what_training_sees(tmp_path: Path, faces: list[tuple[str, Pixels]]) -> None:
    inverted = "crop = [28, 20]\n[tasks.heads]\naugment = [{ name = 'InvertImg', args = {p=0.0} }]"
    (sheet,) = augment_sheets(recipe(tmp_path, inverted), faces, seed=3)
    assert sheet.heads[:2] == ("before", "InvertImg\np 0, here always")
    assert sheet.columns == len(sheet.heads) == 2 + DRAWS
    for row, (_, face) in zip(pictures(sheet), faces, strict=True):
        before = resize_and_crop(face, (32, 24), (28, 20))
        assert np.array_equal(row[0], before)
        assert np.array_equal(row[1], 255 - before)
        assert all(np.array_equal(draw, before) for draw in row[2:]), "the chain keeps its own p"
    change = np.abs(2.0 * pictures(sheet)[0][0] - 255).mean()
    assert sheet.cells[1].caption == f"change {change:.1f}"
    (sheet,) = augment_sheets(recipe(tmp_path, "[tasks.heads]"), faces, seed=3)
    assert "augments nothing" in sheet.title
    assert {c.caption for row in sheet.rows for c in row[1:]} == {"change 0.0"}


def test_a_sheet_shows_each_transform_of_a_draw_alone(tmp_path: Path, faces: list[tuple[str, Pixels]]) -> None:
    drawn = "{ some_of = 1, transforms = [{ name = 'InvertImg', args = {p=0.1} }, { name = 'VerticalFlip' }] }"
    chain = f"[tasks.heads]\naugment = [{{ name = 'HorizontalFlip' }}, {drawn}]"
    (sheet,) = augment_sheets(recipe(tmp_path, chain), faces, seed=3)
    assert sheet.heads[1:4] == (
        "HorizontalFlip\np 0.5, here always",
        "InvertImg\n1 of 2 drawn, here alone",
        "VerticalFlip\n1 of 2 drawn, here alone",
    )
    for before, mirrored, inverted, upside_down, *draws in pictures(sheet):
        assert np.array_equal(mirrored, before[:, ::-1])
        assert np.array_equal(inverted, 255 - before)
        assert np.array_equal(upside_down, before[::-1])
        assert len(draws) == DRAWS


def test_masks_are_shown_on_faces_without_one(tmp_path: Path, faces: list[tuple[str, Pixels]]) -> None:
    masks = recipe(tmp_path, "masks.prob = 0.25\n[tasks.heads]")
    (sheet,) = augment_sheets(masks, faces, seed=3, without_mask=[1])
    assert sheet.heads[1 : 1 + DRAWS] == tuple(f"mask {d + 1}\np 0.25 without one" for d in range(DRAWS))
    for number, row in enumerate(pictures(sheet)):
        changed = [not np.array_equal(row[0], p) for p in row[1:]]
        assert changed == [number == 1] * DRAWS + [False] * DRAWS


def test_tasks_augmented_alike_share_a_sheet(faces: list[tuple[str, Pixels]]) -> None:
    drawn = [augment_sheets(load_recipe("original"), faces, seed=seed) for seed in (0, 0, 1)]
    assert [s.name for s in drawn[0]] == ["augment-mask", "augment-gender"]
    assert drawn[0][1].title.startswith("gender, male-age, female-age: 350 x 380")
    cells = [[c.picture.tobytes() for c in s[1].cells if c.picture is not None] for s in drawn]
    assert cells[0] == cells[1] != cells[2]


# The output folder, wrong and unusual input


def test_a_page_is_replaced_whole_or_not(make_data: MakeData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, folder = make_data(tmp_path / "data", people=6), tmp_path / "runs" / "explore"
    copy = photo(root, 4, "mask1")
    before = copy.read_bytes()
    copy.write_bytes(photo(root, 2, "mask1").read_bytes())
    call = ("explore", "--data", root, "--run", tmp_path / "runs" / "x", "--recipe", "demo", "--per-class", 1)
    assert "was replaced" not in maskens(*call).out
    assert (folder / "duplicates.jpg").exists()
    copy.write_bytes(before)
    second = maskens(*call)
    assert f"the earlier page in {folder} was replaced" in second.out
    assert "nearly the same photo" not in second.out
    assert not (folder / "duplicates.jpg").exists()
    person = read_train(root).people[0]

    def full(template: str, **values: object) -> str:
        raise MaskensError("can't write index.html: No space left on device.")

    (tmp_path / "fixes.csv").write_text(f"path,photo,field,old,new,reason\n{person.path},,gender,male,female,\n")
    fixed = maskens(*call, "--fixes", tmp_path / "fixes.csv").out
    assert "shown with label fixes: 1 " in fixed
    assert "labels that disagree" not in fixed, "the folder's old name is no conflict"
    genders = dict(re.findall(r"^ (male|female) +\d+ +\d+ +\d+ +(\d+)", fixed, re.MULTILINE))
    assert genders == {"male": "2", "female": "4"}
    files = contents(folder)
    monkeypatch.setattr(explore_page, "render", full)
    refused(maskens(*call, "--seed", 8), "No space left on device")
    assert contents(folder) == files
    assert [p.name for p in folder.parent.iterdir()] == ["explore"], "nothing is left beside it"


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.txt": "all of it"},
        {"index.html": "<html>my own page</html>"},
        {"index.html": '<meta name="generator" content="maskens explore">', "notes.txt": "mine"},
    ],
)
def test_other_peoples_files_are_not_replaced(spoilt: Path, tmp_path: Path, files: dict[str, str]) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    mine = f"files that `maskens explore` did not write: {list(files)[-1]}"
    refused(maskens("explore", "--data", spoilt, "--out", folder), mine, "--out DIR")
    assert {p.name: p.read_text() for p in folder.iterdir()} == files
    file = next(iter(folder.iterdir()))
    refused(maskens("explore", "--data", spoilt, "--out", file), "is a file, not a folder")
    refused(maskens("explore", "--data", spoilt, "--out", file / "x", "--recipe", "demo"), "can't write")


def test_wrong_input_is_refused_writing_nothing(spoilt: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe(tmp_path, "[tasks.heads]\naugment = [{ name = 'HorizontalFlop' }]")
    refused(maskens("explore"), "there is no data folder data", "--data DIR")
    refused(maskens("explore", "--data", spoilt, "--recipe", "mine.toml"), "HorizontalFlop", "HorizontalFlip")
    refused(maskens("explore", "--data", spoilt, "--per-class", "0"), "--per-class")
    assert [p.name for p in tmp_path.iterdir()] == ["mine.toml"]


def test_a_folder_without_a_readable_photo_or_a_second_gender(make_data: MakeData, tmp_path: Path) -> None:
    root = make_data(tmp_path / "data", people=2)
    for path in (root / "train" / "images").glob("*/*.jpg"):
        path.write_text("not a photo")
    outcome = ran("explore", "--data", root, "--out", tmp_path / "out", "--recipe", "demo")
    assert "unreadable photos: 14" in outcome.out
    page = Page.of(tmp_path / "out" / "index.html")
    assert "14 can't be read" in page.words["files"]
    assert "no photo can be read" in page.words["augment"]
    assert page.tables[0][4][2:4] == ["0", "0"], "no woman"


# Pictures


def test_a_contact_sheet_puts_each_picture_and_its_words_in_its_own_place() -> None:
    red, blue = (np.full((20, 15, 3), c, np.uint8) for c in ((255, 0, 0), (0, 0, 255)))
    cells = (Cell(red, "a-name-that-is-far-too-long-for-its-place" * 3), Cell(blue, ""), Cell(None, ""))
    sheet = np.asarray(draw(Sheet("x", "title", cells, columns=2)))
    left, right = GAP + BOX[0] // 2, 2 * GAP + BOX[0] + BOX[0] // 2
    rows = np.flatnonzero((sheet[:, left] == (255, 0, 0)).all(axis=1))
    assert len(rows) == BOX[1], "enlarged to fill the box"
    assert (sheet[rows, right] == (0, 0, 255)).all()
    below = sheet[rows[-1] + 1 : rows[-1] + 1 + GAP]
    assert (below[:, : GAP + BOX[0]] < 255).any(), "the caption"
    assert (below[:, GAP + BOX[0] + 2 :] == 255).all(), "does not run into its neighbour"
    assert (sheet[rows[-1] + 60, left] != 255).any(), "a grey field for what can't be read"


def test_a_histogram_counts_people_by_age_and_takes_an_empty_gender() -> None:
    men, women = age_histogram([[20, 20, 61], []])
    assert [(bar.left, bar.right, bar.high) for bar in men.bars] == [(19.58, 20.42, 2), (60.58, 61.42, 1)]
    assert [text for _, text in men.notes] == ["<30: 2", "30-59: 0", ">=60: 1"]
    assert (women.x, women.bars) == (men.x, [])


@pytest.mark.parametrize(
    ("low", "high", "least", "found"),
    [
        (0, 1, 0, "0 0.2 0.4 0.6 0.8 1"),
        (0.5, 1.5, 1, "1"),
        (18.5, 78, 1, "20 30 40 50 60 70"),
        (0, 0.023, 0, "0 0.005 0.01 0.015 0.02"),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, least: float, found: str) -> None:
    assert ticks(low, high, least) == found.split()
