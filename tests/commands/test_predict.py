"""The command predict."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from edits import rows_of
from PIL import Image
from run_command import maskens, ran, refused

import folds.photos
from ensemble.decision.submission import read_answers
from folds.labels import AGES, GENDERS, MASKS


def test_photos_anywhere_are_predicted_as_the_eval_photos_are(there: Path, tmp_path: Path) -> None:
    ids, classes = read_answers(Path("runs/default/submission.csv"))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for image in ids[:5]:
        shutil.copy(Path("data/eval/images") / image, tmp_path / "deep" / "er")
    (tmp_path / "deep" / "notes.txt").write_text("no photo")
    ran("predict", tmp_path / "deep", Path("data/eval/images") / ids[5], "--out", tmp_path / "p.csv")
    rows = rows_of(tmp_path / "p.csv")
    known = dict(zip(ids, classes.tolist(), strict=True))
    assert {Path(r["photo"]).name: int(r["class"]) for r in rows} == {i: known[i] for i in ids[:6]}
    for row in rows:
        for part, labels in (("mask", MASKS), ("gender", GENDERS), ("age", AGES)):
            assert sum(float(row[f"p {part} {label}"]) for label in labels) == pytest.approx(1, abs=1e-4)
            assert row[part] in labels
        assert 0 <= int(row["folds_agree"]) <= int(row["folds"]) == 3
        assert 0 <= float(row["disagreement"]) <= 1
    records = json.loads(maskens("predict", tmp_path / "deep", "--json").out)
    assert {r["photo"]: r["class"] for r in records} == {
        r["photo"]: int(r["class"]) for r in rows if r["photo"].startswith(str(tmp_path))
    }


def test_a_folder_gives_every_format_that_is_read_and_a_count_of_the_rest(there: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "__MACOSX").mkdir(parents=True)
    names = ["a.jpg", "b.JPEG", "c.png", "d.webp", "e.bmp", "f.tif", "g.TIFF", "h.gif", "i.jfif"]
    for name in names:
        Image.new("RGB", (48, 64), (90, 40, 10)).save(folder / name, "JPEG" if name == "i.jfif" else None)
    for name in ("n.heic", "m.HEIC", "notes.txt", "README", "._a.jpg", ".DS_Store", "__MACOSX/a.jpg"):
        (folder / name).write_bytes(b"")
    outcome = ran("predict", folder, "--json")
    assert [Path(r["photo"]).name for r in json.loads(outcome.out)] == sorted(names)
    assert "2 .heic, 1 .txt, 1 without a suffix" in " ".join(outcome.err.split())
    for name in names:
        (folder / name).unlink()
    refused(maskens("predict", folder), "holds no photo", "2 .heic")


def test_photos_that_can_t_be_predicted_are_refused(there: Path, tmp_path: Path) -> None:
    image = next(iter(Path("data/eval/images").iterdir()))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad.jpg").write_bytes(image.read_bytes()[:300])
    refused(maskens("predict", tmp_path / "none.jpg", tmp_path / "empty"), "none.jpg does not exist", "holds no photo")
    refused(maskens("predict", image, tmp_path / "bad.jpg"), "bad.jpg")
    (tmp_path / "lfs.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    refused(maskens("predict", tmp_path / "lfs.png"), "lfs.png can't be read", "Git LFS pointer")
    refused(maskens("predict", image, "--out", tmp_path / "x.txt"), "name a .csv or a .json file")
    refused(maskens("predict"), "PHOTO|DIR")
    shutil.copy(image, os.fsencode(tmp_path / "empty") + b"/\xff.jpg")
    refused(maskens("predict", tmp_path / "empty"), "has a name that is not UTF-8: rename it")
    Image.new("RGB", (300, 100)).save(tmp_path / "wide.png")
    assert "wide.png: another shape than in training" in maskens("predict", tmp_path / "wide.png").out


def test_each_photo_is_decoded_once_and_all_that_can_t_be_read_are_listed(
    there: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[str] = []
    decode = folds.photos.decode_photo
    monkeypatch.setattr(
        folds.photos, "decode_photo", lambda content, name, *more: decoded.append(name) or decode(content, name, *more)
    )
    images = sorted(Path("data/eval/images").iterdir())[:70]  # more than are read at a time
    for number, image in enumerate(images):
        broken = image.read_bytes()[: 300 if number in (0, 69) else None]
        (tmp_path / f"{number:02}.jpg").write_bytes(broken)
    refused(maskens("predict", tmp_path), "00.jpg", "69.jpg", "--skip-bad-photos")
    decoded.clear()
    outcome = ran("predict", tmp_path, "--skip-bad-photos", "--json")
    assert "2 of 70 photos can't be read and are skipped" in " ".join(outcome.err.split())
    assert [Path(r["photo"]).name for r in json.loads(outcome.out)] == [f"{number:02}.jpg" for number in range(1, 69)]
    assert sorted(name for name in decoded if str(tmp_path) in name) == sorted(map(str, tmp_path.iterdir()))
