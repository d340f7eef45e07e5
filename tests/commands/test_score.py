"""The command score, against answers."""

from __future__ import annotations

from pathlib import Path

from run_command import maskens, refused


def test_places_for_answers_are_not_answers(there: Path, tmp_path: Path) -> None:
    ids = (there / "data/eval/info.csv").read_text().splitlines()[1:]
    places, answers = tmp_path / "info.csv", tmp_path / "answers.csv"
    places.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},0" for line in ids)]))
    answers.write_text("\n".join(["ImageID,ans", *(f"{line.split(',')[0]},{n % 18}" for n, line in enumerate(ids))]))
    submission = ("--submission", answers)
    refused(maskens("score", "--truth", places, *submission), "every answer is class 0", "that has the answers")
    assert "macro F1 1.0000" in maskens("score", "--truth", answers, *submission).out
