"""maskens infer --max-passes: fewer passes, every row answered, and a report of what that changed."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, ran, refused

from ensemble.prediction import strategies

RUN = Path("runs/default")


@pytest.fixture(autouse=True)
def few_photos_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "WHOLE", 64)


def shown(run: Path = RUN) -> np.ndarray:
    """Which models were shown which photo: bool (folds, views, photos)."""
    with np.load(run / "eval.npz") as arrays:
        return np.isfinite(arrays["logits/mask"][..., 0])


def test_passes_are_skipped_and_every_row_is_answered(copy: Path) -> None:
    done = ran("infer", "--tta", "flip", "--max-passes", ".5", "--no-tuning")
    rows = (RUN / "submission.csv").read_text().splitlines()
    assert len(rows) == 1 + len((copy / "data/eval/info.csv").read_text().splitlines()) - 1
    budget = re.search(
        r"budget of 0.5 of the passes: (\d+)% of the forward passes made, which changes [\d.]+%", done.out
    )
    assert budget
    made = shown().reshape(-1, len(rows) - 1).sum(axis=0)
    assert (made == 6).sum() >= 64, "the first photos are shown to all"
    assert made.min() >= 1
    assert int(budget[1]) == pytest.approx(100 * made.mean() / 6, abs=1)
    assert made.mean() < 6
    ran("verify")


def test_what_is_kept_by_an_interruption_leads_to_the_same(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran("infer", "--max-passes", "0.6", "--no-tuning")
    whole = (RUN / "submission.csv").read_bytes(), shown()

    batches = 0
    predict = strategies.WithinBudget.__call__

    def interrupted(*args: object) -> None:
        nonlocal batches
        batches += 1
        if batches == 2:
            raise KeyboardInterrupt
        predict(*args)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(strategies.WithinBudget, "__call__", interrupted)
        assert maskens("infer", "--max-passes", "0.6", "--no-tuning").code == 130
    assert (RUN / "eval.partial.npz").exists()
    done = maskens("infer", "--max-passes", "0.6", "--no-tuning")
    assert "resumed after 64 photos" in done.out
    assert (RUN / "submission.csv").read_bytes() == whole[0]
    assert np.array_equal(shown(), whole[1])


def test_where_few_photos_see_all_passes_no_class_changes(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "WHOLE", 512)
    ran("infer", "--no-tuning")
    whole = (RUN / "submission.csv").read_bytes()
    done = maskens("infer", "--max-passes", "0.5", "--no-tuning")
    assert "all forward passes made, no class changed" in done.out
    assert (RUN / "submission.csv").read_bytes() == whole


def test_seconds_are_a_budget_too(copy: Path) -> None:
    done = maskens("infer", "--max-seconds-per-photo", "1e-9", "--no-tuning")
    assert "budget of 1e-09 seconds a photo: " in done.out
    assert shown()[0, 0].all(), "one pass is made at least"
    assert not shown()[-1, -1].all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        *((("--max-passes", share), "give all, or a fraction") for share in ("", "0", "1", "2", "nan", "50%")),
        *((("--max-seconds-per-photo", seconds), "give a number above 0") for seconds in ("0", "nan")),
        (("--max-passes", "0.1"), "--max-passes 0.1 is less than one of the 6 passes; give at least 0.167"),
        (("--max-passes", "0.333", "--tta", "none"), "less than one of the 3 passes; give at least 0.334"),
        (("--max-passes", "0.5", "--max-seconds-per-photo", "1"), "exclude each other"),
        (("--max-passes", "0.5", "--jobs", "2"), "--max-passes 0.5 needs a single process: drop --jobs"),
        (("--max-passes", "0.5", "--tta", "none", "--decision", "hard"), "with --decision joint, each photo by itself"),
    ],
)
def test_budgets_that_can_t_be_kept_are_refused(there: Path, options: tuple[str, ...], words: str) -> None:
    refused(maskens("infer", "--no-tuning", *options), words)
