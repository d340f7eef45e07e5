"""The run folder: what belongs together stays together, and what does not is refused."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import MakeData
from edits import contents

from folds.errors import MaskensError
from folds.labels import IntArray
from folds.layout import read_train
from folds.people import TrainData
from folds.records import sealed
from folds.run_folder import Run, load_data, load_run, refuse_foreign, save_run, start_run
from folds.splits import make_folds


@pytest.fixture
def data(tmp_path: Path, make_data: MakeData) -> TrainData:
    return read_train(make_data(tmp_path / "data", people=18))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "first"


def start(folder: Path, data: TrainData, k: int = 3, seed: int = 42) -> tuple[Run, str, IntArray]:
    folds = make_folds(data, k, seed)
    return *start_run(folder, data, folds, k, seed), folds


def one_epoch(job: Path) -> None:
    job.mkdir(parents=True)
    (job / "last.pt").touch()


def rewrite(data: TrainData, old: str, new: str) -> None:
    table = data.root / "train" / "train.csv"
    assert old in table.read_text()
    table.write_text(table.read_text().replace(old, new, 1))


def test_a_run_comes_back_as_it_was_started(folder: Path, data: TrainData) -> None:
    run, note, folds = start(folder, data)
    assert note == ""
    assert load_run(folder) == run
    assert (run.k, run.seed, run.fingerprint) == (3, 42, data.fingerprint)
    assert run.class_photos == (15,) * 6 + (3,) * 12
    assert run.versions["numpy"] == np.__version__
    run.folds_file.write_bytes(run.folds_file.read_bytes().replace(b"\n", b"\r\n"))  # as git does: no edit
    again, again_folds = load_data(run)
    assert again.people == data.people
    np.testing.assert_array_equal(again_folds, folds)
    assert sorted(os.listdir(folder)) == ["folds.csv", "run.json"]


def test_a_run_and_its_data_may_be_moved(folder: Path, data: TrainData, tmp_path: Path) -> None:
    _, _, folds = start(folder, data)
    run = load_run(folder.rename(tmp_path / "moved"))
    elsewhere = data.root.rename(tmp_path / "elsewhere")
    with pytest.raises(MaskensError, match=f"has its data in {data.root}, .*--data DIR"):
        load_data(run)
    again, again_folds = load_data(run, elsewhere)
    assert again.root == elsewhere
    np.testing.assert_array_equal(again_folds, folds)
    start(run.folder, read_train(elsewhere))
    assert load_data(load_run(run.folder))[0].root == elsewhere, "it is stored"


def test_a_run_copied_with_its_data_reads_the_copy(
    tmp_path: Path, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_data(tmp_path / "here" / "data", people=18)
    monkeypatch.chdir(tmp_path / "here")
    start(Path("runs/first"), read_train(Path("data")))
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    for folder, root in (("runs/first", "data"), ("../there/runs/first", "../there/data")):
        assert load_data(load_run(Path(folder)))[0].root == Path(root)
    shutil.copytree("runs/first", "alone/without/data")
    with pytest.raises(MaskensError, match=r"has its data in alone/data, where nothing is.*--data DIR"):
        load_data(load_run(Path("alone/without/data")))


@pytest.mark.parametrize("named", ["runs", "runs/first/mask", "runs/first/run.json", "runs/fisrt"])
def test_a_path_near_a_run_is_answered_with_the_run(
    named: str, tmp_path: Path, data: TrainData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_epoch(start(Path("runs/first"), data)[0].job_folder("mask", 0))
    with pytest.raises(MaskensError, match=r"\(did you mean 'runs/first'\?\)"):
        load_run(Path(named))


class TestStartingAgain:
    def test_the_same_folds_change_nothing(self, folder: Path, data: TrainData) -> None:
        run, _, _ = start(folder, data)
        save_run(dataclasses.replace(run, recipe_hash="abc"))
        one_epoch(run.job_folder("mask", 0))
        before = run.folds_file.read_bytes()
        again, note, _ = start(folder, data)
        assert note == "the same folds were there already"
        assert again == load_run(folder) == dataclasses.replace(run, recipe_hash="abc")
        assert run.folds_file.read_bytes() == before
        assert sorted(os.listdir(folder)) == ["folds.csv", "mask", "run.json"]

    @pytest.mark.parametrize("edited", [False, True], ids=["lost", "edited"])
    def test_the_same_folds_come_back_beside_an_edited_file(self, folder: Path, data: TrainData, edited: bool) -> None:
        run, _, folds = start(folder, data)
        run.folds_file.write_text("path,fold\nmine,0\n") if edited else run.folds_file.unlink()
        start(folder, data)
        np.testing.assert_array_equal(load_data(load_run(folder))[1], folds)
        kept = [p.read_text() for p in folder.glob("folds.1.csv")]
        assert kept == ["path,fold\nmine,0\n"] * edited

    def test_other_folds_keep_the_earlier_ones_aside(self, folder: Path, data: TrainData) -> None:
        run, _, _ = start(folder, data, seed=1)
        earlier = run.folds_file.read_bytes()
        again, note, folds = start(folder, data, seed=2)
        assert note.endswith(f"kept as {folder / 'folds.1.csv'}")
        assert (folder / "folds.1.csv").read_bytes() == earlier
        assert load_run(folder) == again
        np.testing.assert_array_equal(load_data(again)[1], folds)
        assert start(folder, data, k=2)[1].endswith("folds.2.csv")

    def test_other_folds_or_data_are_refused_once_models_are_there(self, folder: Path, data: TrainData) -> None:
        run, _, _ = start(folder, data)
        one_epoch(run.job_folder("mask", 0))
        before = contents(folder)
        for other in ({"seed": 7}, {"k": 2}):
            with pytest.raises(MaskensError, match=r"models trained on other folds.* \(k=3, seed 42,.*--run DIR"):
                start(folder, data, **other)
        (data.root / data.files[0]).write_bytes(b"another photo")
        with pytest.raises(MaskensError, match="models trained on other data and folds"):
            start(folder, read_train(data.root))
        assert contents(folder) == before

    @pytest.mark.parametrize("name", ["folds.csv", "run.json"])
    @pytest.mark.parametrize("earlier", [False, True], ids=["new folder", "over earlier folds"])
    def test_a_start_that_failed_on_a_full_disk_can_be_repeated(
        self, folder: Path, data: TrainData, monkeypatch: pytest.MonkeyPatch, name: str, earlier: bool
    ) -> None:
        if earlier:
            start(folder, data, seed=1)
        really_replace = os.replace

        def full_disk(source: str, target: Path) -> None:
            if Path(target).name == name:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            really_replace(source, target)

        with monkeypatch.context() as patch:
            patch.setattr(os, "replace", full_disk)
            with pytest.raises(MaskensError, match="No space left on device"):
                start(folder, data)
        run, _, folds = start(folder, data)
        assert load_run(folder) == run
        np.testing.assert_array_equal(load_data(run)[1], folds)


class TestFolders:
    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_something_else_is_refused_and_left_alone(self, folder: Path, data: TrainData, kind: str) -> None:
        other = folder / "thesis.txt" if kind == "folder" else folder
        other.parent.mkdir(parents=True)
        other.write_text("years of work")
        for attempt in (lambda: start(folder, data), lambda: load_run(folder)):
            with pytest.raises(MaskensError, match=r"is not a run folder: it has no run\.json"):
                attempt()
        assert other.read_text() == "years of work"

    def test_an_empty_or_missing_folder_has_no_run_yet(self, folder: Path, data: TrainData) -> None:
        with pytest.raises(MaskensError, match=r"there is no run in .*first yet.*maskens folds --run .*first"):
            load_run(folder)
        folder.mkdir(parents=True)
        (folder / ".run.json.1-2-half.tmp").write_text("{")  # a start was killed
        refuse_foreign(folder)
        with pytest.raises(MaskensError, match="there is no run in"):
            load_run(folder)
        start(folder, data)
        refuse_foreign(folder)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_write_permission_is_refused(self, folder: Path, data: TrainData) -> None:
        folder.mkdir(parents=True)
        folder.chmod(0o555)
        with pytest.raises(MaskensError, match=r"can't write .*Permission denied"):
            start(folder, data)
        assert os.listdir(folder) == []


class TestDamage:
    def test_a_record_that_can_not_be_is_refused(self, folder: Path, data: TrainData) -> None:
        start(folder, data)
        file = folder / "run.json"
        whole = file.read_bytes().rstrip()
        record = json.loads(whole)
        damaged = [b"[1, 2]", b"null", b"{}", b'{"format": 1}', b"\xff\xfe\x00", whole[:-1], whole[:100], b""]
        cases = [(content, ".") for content in damaged]
        cases += [(b"[" * 100_000, "it is nested too deeply")]
        for name in ("k", "data", "class_photos"):
            without = {key: value for key, value in record.items() if key != name}
            cases.append((json.dumps(sealed(without, "data")).encode(), f".*{name}"))
        for number in ("two", 10**12, None):
            cases.append((json.dumps(sealed(record | {"k": number}, "data")).encode(), "k"))
        for content, words in cases:
            file.write_bytes(content)
            with pytest.raises(MaskensError, match=rf"run\.json can't be used: {words}"):
                load_run(folder)
        file.write_text(json.dumps(sealed(record | {"format": 2}, "data")))
        with pytest.raises(MaskensError, match="made by another version of maskens"):
            load_run(folder)

    def test_all_but_where_the_data_are_is_refused_edited(self, folder: Path, data: TrainData) -> None:
        start(folder, data)
        file = folder / "run.json"
        record = json.loads(file.read_text())
        for change in ({"seed": 77}, {"k": 4}, {"class_photos": [9] * 18}, {"created": ""}, {"x": 1}):
            file.write_text(json.dumps(record | change))
            with pytest.raises(MaskensError, match=r"run\.json can't be used: it was edited or damaged"):
                load_run(folder)
        file.write_text(json.dumps(record | {"data": "elsewhere"}))
        assert load_run(folder).data == "elsewhere"


class TestChangedData:
    def changes(self, run: Run) -> list[str]:
        with pytest.raises(MaskensError) as refused:
            load_data(run)
        headline, *problems, advice = str(refused.value).splitlines()
        assert "changed since `maskens folds`" in headline
        assert "maskens folds --run NEW_DIR" in advice
        return [line.removeprefix("  - ") for line in problems]

    def test_changed_people_are_named(self, folder: Path, data: TrainData) -> None:
        run, _, _ = start(folder, data)
        photo = data.root / data.files[0]
        renamed = photo.rename(photo.with_suffix(".jpeg"))
        assert self.changes(run) == ["some photo files have other names or sizes"]
        again, _, folds = start(folder, read_train(data.root))
        np.testing.assert_array_equal(load_data(again)[1], folds)
        renamed.rename(photo)
        gone, sized, labelled, other = (data.people[n] for n in (2, 4, 6, 8))
        rewrite(data, f"{gone.path}\n", "somebody\n")
        folder_of = data.root / "train" / "images" / gone.path
        folder_of.rename(folder_of.with_name("somebody"))
        (data.root / data.files[4 * 7]).write_bytes(b"another photo")
        rewrite(data, f"Asian,{labelled.age},{labelled.path}", f"Asian,{labelled.age + 1},{labelled.path}")
        rewrite(data, f"\n{other.id},", f"\n{int(other.id)},")
        assert self.changes(run) == [
            "somebody is new",
            f"{gone.path} is gone",
            f"{sized.path}: its photo files have another size",
            f"{labelled.path}: id, gender or age differ from what folds.csv recorded",
            f"{other.path}: id is {int(other.id)}, was {other.id} (a spreadsheet drops zeros: save ids as text)",
        ]

    @pytest.mark.parametrize("edited", [False, True], ids=["lost", "edited"])
    def test_lost_or_edited_folds_are_refused(self, folder: Path, data: TrainData, edited: bool) -> None:
        file = start(folder, data)[0].folds_file
        file.write_text(file.read_text().replace(",0,", ",1,", 1)) if edited else file.unlink()
        with pytest.raises(MaskensError, match=r"folds\.csv is missing or was edited.* --run NEW_DIR .*--folds-file"):
            load_data(load_run(folder))
