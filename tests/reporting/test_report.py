"""`maskens report`: its figures are right, the page needs nothing else, and nobody's files are harmed."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from html_pages import BROWSER, Page, assert_accessible, assert_readable_in_a_browser, assert_self_contained
from planned import plan_errors
from run_command import maskens, ran, refused
from sklearn.metrics import confusion_matrix, log_loss

from ensemble.decision.joint import Decision
from ensemble.decision.oof_ensemble import OofEnsemble, load_oof_ensemble
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import Evaluation, PartPredictions, calibration, evaluate, part_predictions
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.oof import HISTORY, read_curves
from ensemble.reporting.report import age_errors, confusions, curve_panels, entropies, fold_colours, highest
from folds.files import csv_text
from folds.layout import read_train
from folds.run_folder import Run

PEOPLE = 36
ODD = '000004_male_<b>&"x"_60'  # a folder's name may hold what HTML would take for its own
F1 = (0.5, 0.75, 0.75, 0.7)


@pytest.fixture(scope="module")
def root(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which one person's folder is odd and its photos are broken."""
    root = make_data(tmp_path_factory.mktemp("report") / "data", people=PEOPLE)
    table = root / "train" / "train.csv"
    rows = list(csv.reader(table.read_text().splitlines()))
    old, rows[5][4] = rows[5][4], ODD
    table.write_text(csv_text(rows[0], rows[1:]))
    (root / "train" / "images" / old).rename(root / "train" / "images" / ODD)
    for photo in (root / "train" / "images" / ODD).iterdir():
        photo.write_bytes(bytes(photo.stat().st_size))
    return root


def finished(folder: Path, root: Path, share: float, seed: int = 0) -> Run:
    """A run as training leaves it, its logits planned."""
    run = plan_errors(folder, read_train(root), share, errors=seed)
    for fold in range(run.k):
        rows = [(e, 0.1, 1 / e, 1 / e + 0.1, f1, f1, max(F1[:e]), 50, 60 * e) for e, f1 in enumerate(F1, start=1)]
        (run.job_folder("class18", fold) / "history.csv").write_text(csv_text(HISTORY, rows))
        record = {"device": "cpu", "threads": 1 + fold, "versions": {"torch": "9.9"}}
        write_status(run, JobStatus("class18", fold, "done", len(F1), len(F1), record=record))
    return run


@pytest.fixture(scope="module")
def run(root: Path) -> Run:
    return finished(root.parent / "a", root, 0.35)


@pytest.fixture(scope="module")
def scored(run: Run) -> tuple[OofEnsemble, Evaluation]:
    blend = load_oof_ensemble([run], None, "cross-fitted")
    return blend, evaluate(blend, apply_tuning([run], "flip", tuned=False))


@pytest.fixture(scope="module")
def path(run: Run) -> Path:
    outcome = ran("report", "--run", run.folder)
    assert f"saved: {run.folder / 'report.html'}" in outcome.out
    assert "macro F1 0." in outcome.out
    return run.folder / "report.html"


# The figures


def test_confusions_are_those_of_scikit_learn(scored: tuple[OofEnsemble, Evaluation]) -> None:
    parts = part_predictions(scored[0].truth, scored[1].decision)
    assert [m.name for m in confusions(parts)] == ["18 classes", "mask", "gender", "age"]
    for part, matrix in zip(parts, confusions(parts), strict=True):
        labels = range(len(matrix.labels))
        assert (matrix.counts == confusion_matrix(part.truth, part.decided, labels=labels)).all()
        fractions = confusion_matrix(part.truth, part.decided, labels=labels, normalize="true")
        assert matrix.fractions == pytest.approx(fractions)


def view(confidence: list[float], right: list[bool]) -> PartPredictions:
    """Photos of two labels, the first always decided on."""
    p = np.array(confidence)
    truth = np.where(right, 0, 1)
    return PartPredictions("x", ("a", "b"), truth, np.zeros_like(truth), np.log(np.stack([p, 1 - p], axis=1)))


def test_calibration_is_the_gap_between_confidence_and_accuracy() -> None:
    sure = np.repeat([0.05, 0.35, 0.65, 0.95], 20)
    found = calibration(view(sure.tolist(), [n % 20 < 20 * c for n, c in enumerate(sure)]))
    assert found.confidence == pytest.approx([0.05, 0.35, 0.65, 0.95])
    assert found.accuracy == pytest.approx(found.confidence)
    assert found.photos.tolist() == [20] * 4
    assert found.ece == pytest.approx(0)
    right = [True] * 6 + [False] * 4
    found = calibration(view([0.9] * 10, right))
    assert found.ece == pytest.approx(0.3)
    assert found.log_loss == pytest.approx(-(0.6 * np.log(0.9) + 0.4 * np.log(0.1)))
    mixed = calibration(view([0.9] * 10 + [0.5] * 30, [*right, *[True, False] * 15]))
    assert mixed.ece == pytest.approx(0.3 * 10 / 40), "weighted by photos"
    assert calibration(view([1 - 1e-12], [True])).photos.tolist() == [1], "full confidence is in the last bin"


def test_parts_have_the_marginal_probabilities(scored: tuple[OofEnsemble, Evaluation]) -> None:
    truth, decision = scored[0].truth, scored[1].decision
    p = np.exp(decision.log_probabilities)
    whole, mask, gender, age = part_predictions(truth, decision)
    assert np.exp(mask.log_p[:, 1]) == pytest.approx(p[:, 6:12].sum(axis=1))
    assert np.exp(gender.log_p[:, 1]) == pytest.approx(sum(p[:, c] for c in range(18) if c // 3 % 2))
    assert np.exp(age.log_p[:, 2]) == pytest.approx(p[:, 2::3].sum(axis=1))
    assert calibration(whole).log_loss == pytest.approx(log_loss(truth, p, labels=range(18)))


def test_the_decision_counts_though_another_class_is_more_probable() -> None:
    log_p = np.log(np.full((1, 18), 0.5 / 17))
    log_p[0, 0] = np.log(0.5)
    whole = part_predictions(np.array([3]), Decision(log_p, np.array([3])))[0]
    assert calibration(whole).confidence == pytest.approx([0.5 / 17])
    assert calibration(whole).accuracy.tolist() == [1]


def test_errors_of_age_are_counted_by_gender_and_near_the_cuts(scored: tuple[OofEnsemble, Evaluation]) -> None:
    blend, predicted = scored[0], scored[1].decision.classes
    assert [a.wrong for a in age_errors(blend, predicted)] == [0, 0], "only the mask is wrong"
    moved = (predicted + 1) % 18
    truth, decided = blend.truth % 3, moved % 3
    years, gender = blend.data.years[blend.rows], blend.data.labels[1][blend.rows]
    near = np.isin(years, [28, 29, 30, 31, 58, 59, 60, 61])
    for number, errors in enumerate(age_errors(blend, moved)):
        mine = gender == number
        assert errors.wrong == ((truth != decided) & mine).sum() > 0
        assert errors.wrong_near == ((truth != decided) & mine & near).sum()
        assert errors.near == (mine & near).sum()
        assert errors.accuracy == pytest.approx((truth == decided)[mine].mean())
        assert list(errors.bins) == sorted({year // 5 * 5 for year in years[mine].tolist()})
        for first, (right, younger, older) in errors.bins.items():
            of_bin = mine & (years >= first) & (years < first + 5)
            assert len(np.unique(truth[of_bin])) == 1, "not across a cut"
            assert right == pytest.approx((truth == decided)[of_bin].mean())
            assert (younger, older) == pytest.approx(
                ((decided < truth)[of_bin].mean(), (decided > truth)[of_bin].mean())
            )


def test_the_highest_values_come_first_and_no_person_fills_the_sheet(scored: tuple[OofEnsemble, Evaluation]) -> None:
    p = np.exp(scored[1].decision.log_probabilities)
    assert entropies(scored[1].decision) == pytest.approx(-(p * np.log2(p)).sum(axis=1))
    values, person = np.array([5.0, 9, 8, 7, 1, 6]), np.array([1, 0, 0, 0, 2, 0])
    assert highest(values, person, 10) == [1, 2, 0, 4]
    assert highest(values, person, 2) == [1, 2]
    assert highest(values, person, 10, each=1) == [1, 0, 4]


def test_learning_curves_have_a_panel_a_column_and_a_line_a_fold(run: Run) -> None:
    job = read_curves(run)[0][0]
    assert (job.fold, job.epochs, job.best, job.minutes) == (0, 4, 2, 4.0), "of equal epochs the first is the best"
    broken = {**job.curves, "loss": np.array([np.nan, np.inf, 2, 1])}
    jobs = [type(job)(task, fold, job.status, broken) for task in "ab" for fold in range(9)]
    panels = curve_panels(jobs)
    assert len(panels) == 2 * 3
    assert [len(p.lines) for p in panels] == [9] * 6
    assert panels[0].lines[0].points == [(3, 2), (4, 1)], "what is no number is not drawn"
    assert panels[2].lines[0].dots == [(2, 0.75)]
    assert len(fold_colours(jobs)) == 9


# The page


def test_the_page_needs_nothing_else_and_has_all_its_parts(path: Path) -> None:
    text = path.read_text()
    assert_self_contained(text, Page.of(path))
    assert_accessible(text)
    sections = re.findall(r'<section id="(\w+)"', text)
    names = "score settings parts classes confusion calibration ages curves photos recipe glossary"
    assert " ".join(sections) == names
    assert re.findall(r'<a href="#(\w+)"', text[text.index("<nav") : text.index("</nav>")]) == sections
    assert text.count("<svg ") == 4 + 2 + 3, "reliability, ages, curves"
    assert '<meta name="generator" content="maskens report">' in text


def test_the_page_shows_the_figures_of_the_evaluation(path: Path, scored: tuple[OofEnsemble, Evaluation]) -> None:
    page, (blend, found) = Page.of(path), scored
    settings, parts, folds, classes, *rest = page.tables
    f1 = f"{found.f1['18 classes']:.4f}"
    assert settings[1][:3] == ["cross-fitted, flip", f1, f"{found.accuracy.value:.4f}"]
    assert [row[0] for row in settings[1:]] == [s.name for s in found.settings]
    assert [row[0] for row in parts[1:]] == ["18 classes", "mask", "gender", "age", "task class18"]
    assert [row[:3] for row in folds[1:]] == [[str(f.fold), str(f.people), str(f.photos)] for f in found.folds]
    assert [row[2] for row in classes[1:]] == [f"{i:.3f}" for i in found.class_f1]
    assert [int(row[6]) for row in classes[1:]] == found.class_people.tolist()
    bars = re.findall(
        r'<i style="width: ([\d.]+)%"></i><b style="left: ([\d.]+)%; width: ([\d.]+)%">', path.read_text()
    )
    ranges = [(f.value, f.low, f.high - f.low) for f in found.class_f1]
    assert np.array(bars, float) == pytest.approx(100 * np.array(ranges), abs=0.06), "a bar a class with its interval"
    _, mask, _, _ = confusions(part_predictions(blend.truth, found.decision))
    assert [[int(n) for n in row[1:]] for row in rest[0][1:]] == mask.counts.tolist()
    assert [len(table) - 1 for table in rest[:4]] == [3, 2, 3, 18]
    jobs = next(table for table in rest if table[0][0] == "task")
    assert jobs[1][:6] == ["class18", "0", "4", "2", "0.7500", "4.0"]
    assert "cpu, 1 threads (1 jobs); cpu, 2 threads (1 jobs)" in page.words["recipe"]
    assert 'predicts = "class18"' in page.words["recipe"]
    assert len(page.figures) == 32
    p = np.exp(found.decision.log_probabilities)
    likely = [p[place, true] for place, true in enumerate(blend.truth)]
    file = blend.data.files[blend.rows[int(np.argmin(likely))]].removeprefix("train/images/")
    assert all(word in page.figures[0][2] for word in (f"p(true) {min(likely):.3g}", file)), "highest loss first"
    assert "share the page only with those" in " ".join(page.words["photos"].split())


def test_a_broken_photo_and_a_name_with_signs_of_html_do_no_harm(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    ran("report", "--run", run.folder, "--photos", 100, "--out", out)
    text = out.read_text()
    assert "<b>&" not in text
    captions = [caption for *_, caption in Page.of(out).figures]
    assert sum(f"{ODD}/" in c for c in captions) == 4, "two of the worst, two of the uncertain"
    assert len(re.findall(r'<span class="none" role="img"', text)) == 4
    assert len(captions) == 2 * 2 * PEOPLE


def test_an_earlier_report_is_replaced_and_anything_else_is_not(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path.parent, tmp_path / "run")
    path = run / "report.html"
    again = ran("report", "--run", run, "--photos", 0, "--checkpoint", "last", "--tta", "none")
    assert f"the earlier report in {path} was replaced" in again.out
    assert "last epochs, none, untuned" in path.read_text()
    assert not re.search('image/webp|000001|href="#photos"', path.read_text()), "without photos nobody is named"
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own</p>")
    refused(maskens("report", "--run", run, "--out", mine), "mine.html", "not written by `maskens report`")
    assert mine.read_text() == "<p>my own</p>"
    refused(maskens("report", "--run", run, "--out", tmp_path), "is a folder")


def test_jobs_that_are_not_trained_or_have_no_history_are_named(run: Run, tmp_path: Path) -> None:
    part = tmp_path / "part"
    shutil.copytree(run.folder, part)
    (part / "class18" / "fold0" / "history.csv").write_text("epoch,loss\n1,no number\n")
    shutil.rmtree(part / "class18" / "fold1")
    ran("report", "--run", part)
    text = (part / "report.html").read_text()
    assert "not trained: class18 fold 1" in text
    assert "<b>1</b><span>models: 1 of 2 folds</span>" in text
    assert "No history of class18 fold 0, class18 fold 1" in text


def test_several_runs_are_shown_as_one_ensemble(root: Path, run: Run, tmp_path: Path) -> None:
    other = finished(tmp_path / "other", root, 0.2, seed=1)
    first = shutil.copytree(run.folder, tmp_path / "first")
    ran("report", "--run", first, "--run", other.folder, "--photos", 2)
    text, page = (first / "blend-report.html").read_text(), Page.of(first / "blend-report.html")
    assert {f"{other.folder} alone", "hard vote"} <= {row[0] for row in page.tables[0]}
    assert text.count("<svg ") == 4 + 2 + 2 * 3
    assert text.count("<pre ") == 2
    assert "<b>4</b><span>models: 2 of 2 folds</span>" in text
    refused(maskens("report", "--run", first, "--run", first), "named twice")


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
def test_the_page_in_a_browser(path: Path, tmp_path: Path) -> None:
    assert_readable_in_a_browser(path, tmp_path)
