from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ensemble.decision.submission import align, check_submission, read_answers, write_submission
from folds.errors import MaskensError

IDS = ["c.jpg", "a.jpg", "b.jpg"]
EVEN = [10] * 18


def test_rows_keep_the_order_of_info_csv_and_an_earlier_file_is_kept_unless_it_is_the_same(tmp_path: Path) -> None:
    file = tmp_path / "submission.csv"
    assert write_submission(file, IDS, np.array([17, 0, 3])) is None
    assert file.read_text() == "ImageID,ans\nc.jpg,17\na.jpg,0\nb.jpg,3\n"
    assert write_submission(file, IDS, np.array([17, 0, 3])) is None
    assert write_submission(file, IDS, np.array([4, 5, 6])) == tmp_path / "submission.1.csv"
    assert write_submission(file, IDS, np.array([7, 8, 9])) == tmp_path / "submission.2.csv"
    assert read_answers(tmp_path / "submission.1.csv")[1].tolist() == [17, 0, 3]
    assert read_answers(file)[1].tolist() == [7, 8, 9]


def test_a_good_file_is_accepted_and_a_strange_mix_of_classes_warned_about(tmp_path: Path) -> None:
    ids = [f"{i}.jpg" for i in range(360)]
    for file, classes in (("a.csv", np.arange(360) % 18), ("b.csv", np.zeros(360, dtype=np.int64))):
        write_submission(tmp_path / file, ids, classes)
    check = check_submission(tmp_path / "a.csv", ids, EVEN)
    assert (check.histogram.tolist(), check.distance, check.warnings) == ([20] * 18, 0.0, ())
    check = check_submission(tmp_path / "b.csv", ids, EVEN)
    assert check.distance == pytest.approx(17 / 18)
    assert "94% of the photos would have to change class" in check.warnings[0]
    assert "no photo at all is of class 1, 2, 3" in check.warnings[1]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"ImageID,ans\nc.jpg,1\na.jpg,1\n", "1 photos of info.csv have no row, e.g. b.jpg"),
        (b"ImageID,ans\nc.jpg,1\na.jpg,1\nb.jpg,1\nx.jpg,1\n", "1 rows are not in info.csv, e.g. x.jpg"),
        (b"ImageID,ans\na.jpg,1\nc.jpg,1\nb.jpg,1\n", "not in the order of info.csv, from row 2 on"),
        (b"ImageID,ans\nc.jpg,18\na.jpg,-1\nb.jpg,\n", r"row 2: ans '18'[\s\S]*row 3: ans '-1'[\s\S]*row 4: ans ''"),
        (b"ImageID,ans\nc.jpg,1.0\na.jpg,1\nb.jpg,1\n", r"1 answers are .*, like '1.0' in row 2: .*astype\(int\)"),
        (b"ImageID,ans\nc.jpg,1\nc.jpg,1\nb.jpg,1\n", "row 3: ImageID 'c.jpg' is already in row 2"),
        (b"ImageID,ans\nc.jpg ,1\na.jpg,1\nb.jpg,1\n", "row 2: ImageID 'c.jpg ' has spaces around it"),
        (b"", "is empty"),
        ("ImageID,ans\nc.jpg,1\n".encode("utf-16"), "is not a CSV in UTF-8"),
        (b"sep=,\nImageID,ans\nc.jpg,1\n", "expected ImageID,ans in this order"),
        *(
            (f"{header}\n0,c.jpg,1\n".encode(), f"has the columns {found or header}, expected ImageID,ans")
            for header, found in (
                ("ImageID,answer", ""),
                ("ans,ImageID", ""),
                ("ImageID,ans,p", ""),
                ("imageid,ans", ""),
                ("ImageID;ans", ""),
                ("ImageID, ans", "ImageID,' ans'"),
                (",ImageID,ans", "'',ImageID,ans"),
            )
        ),
        (b",ImageID,ans\n0,c.jpg,1\n", "index=False"),
    ],
)
def test_what_a_leaderboard_may_misread_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "s.csv").write_bytes(content)
    with pytest.raises(MaskensError, match=words):
        check_submission(tmp_path / "s.csv", IDS, EVEN)


def test_answers_are_matched_by_id_whatever_their_order(tmp_path: Path) -> None:
    file = tmp_path / "truth.csv"
    file.write_text("person,ans,ImageID\n1,5.0,a.jpg\n1,6.0,b.jpg\n2,7,c.jpg\n")
    assert align(file, IDS).tolist() == [7, 5, 6]
    with pytest.raises(MaskensError, match=r"1 are missing and 0 are unexpected, e\.g\. d\.jpg"):
        align(file, [*IDS, "d.jpg"])
