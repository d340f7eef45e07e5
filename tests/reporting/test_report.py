"""`maskens report`: its figures are right, the page needs nothing else, and nobody's files are harmed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from html_pages import Page, assert_accessible
from planned import plan_errors
from run_command import maskens, refused
from sklearn.metrics import confusion_matrix, log_loss

from ensemble.decision.blend import load_oof_ensemble
from ensemble.decision.decide import Decision
from ensemble.decision.tuning import apply_tuning
from ensemble.evaluation.evaluate import PartPredictions, calibration, evaluate, part_predictions
from ensemble.jobs.job import JobStatus, write_status
from ensemble.jobs.oof import HISTORY, read_curves
from ensemble.recipes.recipe_file import run_recipe
from ensemble.reporting.report import Report, age_errors, age_groups, gather, highest
from ensemble.reporting.report_page import curves_chart
from folds.files import csv_text
from folds.labels import age_band, decode
from folds.layout import read_train
from folds.run_folder import Run

PEOPLE = 36
ODD = '000004_male_<b>&"x"_60'  # a folder's name may hold what HTML would take for its own
F1 = (0.5, 0.75, 0.75, 0.7)
BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def root(make_data: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which one person's folder is odd and one photo is broken."""
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
def gathered(run: Run) -> Report:
    blend = load_oof_ensemble([run], None, "cross-fitted")
    runs, recipes = [m.run for m in blend.runs], [m.recipe for m in blend.runs]
    return gather(blend, evaluate(blend, apply_tuning(runs, recipes, "flip", tuned=False)), photos=12)


@pytest.fixture(scope="module")
def path(run: Run) -> Path:
    outcome = maskens("report", "--run", run.folder)
    assert outcome.code == 0, outcome
    assert f"saved: {run.folder / 'report.html'}" in outcome.out
    assert "macro F1 0." in outcome.out
    return run.folder / "report.html"


def parse(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    page.close()
    assert page.open == []
    return page


# The figures


def test_confusions_are_those_of_scikit_learn(gathered: Report) -> None:
    truth, decided = gathered.blend.truth, gathered.found.decision.classes
    pairs = zip((truth, *decode(truth)), (decided, *decode(decided)), strict=True)
    assert [m.name for m in gathered.confusions] == ["18 classes", "mask", "gender", "age"]
    for matrix, (t, d) in zip(gathered.confusions, pairs, strict=True):
        labels = range(len(matrix.labels))
        assert (matrix.counts == confusion_matrix(t, d, labels=labels)).all()
        assert matrix.shares == pytest.approx(confusion_matrix(t, d, labels=labels, normalize="true"))


def view(confidence: list[float], right: list[bool]) -> PartPredictions:
    """Photos of two labels, the first always decided on."""
    p = np.array(confidence)
    truth = np.where(right, 0, 1)
    return PartPredictions("x", ("a", "b"), truth, np.zeros_like(truth), np.log(np.stack([p, 1 - p], axis=1)))


def test_what_is_calibrated_lies_on_the_diagonal() -> None:
    confidence, right = [], []
    for c in (0.05, 0.35, 0.65, 0.95):
        confidence += [c] * 20
        right += [number < 20 * c for number in range(20)]
    found = calibration(view(confidence, right))
    assert found.confidence == pytest.approx([0.05, 0.35, 0.65, 0.95])
    assert found.accuracy == pytest.approx(found.confidence)
    assert found.photos.tolist() == [20] * 4
    assert found.ece == pytest.approx(0)


def test_the_calibration_error_of_a_model_too_sure_of_itself_is_its_gap() -> None:
    right = [True] * 6 + [False] * 4
    found = calibration(view([0.9] * 10, right))
    assert found.ece == pytest.approx(0.3)
    assert found.log_loss == pytest.approx(-(0.6 * np.log(0.9) + 0.4 * np.log(0.1)))
    mixed = calibration(view([0.9] * 10 + [0.5] * 30, [*right, *[True, False] * 15]))
    assert mixed.ece == pytest.approx(0.3 * 10 / 40), "weighted by photos"
    assert calibration(view([1 - 1e-12], [True])).photos.tolist() == [1], "full confidence is in the last bin"


def test_parts_have_the_marginal_probabilities(gathered: Report) -> None:
    decision = gathered.found.decision
    p = np.exp(decision.log_probabilities)
    whole, mask, gender, age = part_predictions(gathered.blend.truth, decision)
    assert np.exp(mask.log_p[:, 1]) == pytest.approx(p[:, 6:12].sum(axis=1))
    assert np.exp(gender.log_p[:, 1]) == pytest.approx(sum(p[:, c] for c in range(18) if c // 3 % 2))
    assert np.exp(age.log_p[:, 2]) == pytest.approx(p[:, 2::3].sum(axis=1))
    assert calibration(whole).log_loss == pytest.approx(log_loss(gathered.blend.truth, p, labels=range(18)))


def test_the_decision_counts_though_another_class_is_more_probable() -> None:
    log_p = np.log(np.full((1, 18), 0.5 / 17))
    log_p[0, 0] = np.log(0.5)
    whole = part_predictions(np.array([3]), Decision(log_p, np.array([3])))[0]
    assert calibration(whole).confidence == pytest.approx([0.5 / 17])
    assert calibration(whole).accuracy.tolist() == [1]


def test_ages_are_put_together_until_they_are_enough_people_but_not_across_a_cut() -> None:
    rng = np.random.default_rng(3)
    years = np.repeat(np.concatenate([rng.integers(20, 60, 80), [60, 60, 71]]), 7)
    person, decided = np.repeat(np.arange(83), 7), rng.integers(0, 3, 83 * 7)
    groups = age_groups(years, decided, person, least=6)
    truth = age_band(years)
    assert [g.first for g in groups] == sorted({g.first for g in groups})
    for g in groups:
        mine = (years >= g.first) & (years <= g.last)
        assert g.photos == mine.sum() == 7 * g.people
        assert age_band(g.first) == age_band(g.last)
        assert g.right == pytest.approx((decided == truth)[mine].mean())
        assert (g.younger, g.older) == pytest.approx(((decided < truth)[mine].mean(), (decided > truth)[mine].mean()))
    assert sum(g.photos for g in groups) == len(years)
    assert [(g.first, g.last, g.people) for g in groups][-1] == (60, 71, 3), "a band with fewer is one group"
    assert min(g.people for g in groups[:-1]) >= 6
    assert len(groups) > 6


def test_errors_of_age_are_counted_by_gender_and_near_the_cuts(gathered: Report) -> None:
    assert [a.wrong for a in gathered.ages] == [0, 0], "only the mask is wrong"
    data, moved = gathered.blend.data, (gathered.found.decision.classes + 1) % 18
    truth, decided = gathered.blend.truth % 3, moved % 3
    found = age_errors(gathered.blend, moved)
    years, gender = data.years[gathered.blend.rows], data.labels[1][gathered.blend.rows]
    near = np.isin(years, [28, 29, 30, 31, 58, 59, 60, 61])
    for number, errors in enumerate(found):
        mine = gender == number
        assert errors.wrong == ((truth != decided) & mine).sum() > 0
        assert errors.wrong_near == ((truth != decided) & mine & near).sum()
        assert errors.near == (mine & near).sum()
        assert errors.accuracy == pytest.approx((truth == decided)[mine].mean())


def test_the_highest_values_come_first_and_no_person_fills_the_sheet() -> None:
    values, person = np.array([5.0, 9, 8, 7, 1, 6]), np.array([1, 0, 0, 0, 2, 0])
    assert highest(values, person, 10) == [1, 2, 0, 4]
    assert highest(values, person, 2) == [1, 2]
    assert highest(values, person, 10, each=1) == [1, 0, 4]


def test_the_worst_photos_are_sorted_by_loss_and_the_uncertain_ones_by_entropy(gathered: Report) -> None:
    assert len(gathered.worst) == len(gathered.uncertain) == 12
    losses = [-np.log(shown.p_true) for shown in gathered.worst]
    assert losses == sorted(losses, reverse=True)
    entropy = [shown.entropy for shown in gathered.uncertain]
    assert entropy == sorted(entropy, reverse=True)
    first = gathered.worst[0]
    assert first.truth != first.decided
    assert gathered.blend.data.files[first.row] == f"train/images/{first.person}/{first.photo}"
    place = gathered.blend.rows.tolist().index(first.row)
    p = np.exp(gathered.found.decision.log_probabilities[place])
    assert first.entropy == pytest.approx(-(p * np.log2(p)).sum())


def test_of_equal_epochs_the_first_is_the_best_and_a_job_without_history_is_named(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "b")
    job = tmp_path / "b" / "class18"
    (job / "fold1" / "history.csv").write_text("epoch,loss\n1,no number\n")
    there = Run(**{**vars(run), "folder": tmp_path / "b"})
    (curves,), without = read_curves(there, run_recipe(there))
    assert (curves.fold, curves.epochs, curves.best, curves.minutes) == (0, 4, 2, 4.0)
    assert without == ["class18 fold 1"]


def test_curves_of_many_jobs_fit_one_chart_a_run(gathered: Report) -> None:
    (job,) = gathered.runs[0].curves[:1]
    jobs = [type(job)(f"task{t}", fold, job.status, job.curves) for t in range(4) for fold in range(4)]
    chart = curves_chart(jobs)
    assert chart.width < chart.height * 1.4 < 2 * chart.width
    assert chart.light != chart.dark


# The page


def test_the_page_needs_nothing_else_and_has_all_its_parts(path: Path) -> None:
    text, page = path.read_text(), parse(path)
    bare = re.sub(r"data:image/\w+;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", bare)
    assert not {"script", "link", "iframe", "base"} & page.tags
    assert_accessible(text)
    assert all(i["src"].startswith("data:image/") and i["alt"] for i in page.images)
    sections = re.findall(r'<section id="(\w+)"', text)
    assert sections == [
        "settings",
        "parts",
        "classes",
        "confusion",
        "calibration",
        "ages",
        "curves",
        "photos",
        "recipe",
    ]
    assert re.findall(r'<a href="#(\w+)"', text[: text.index("</nav>")]) == sections
    assert bare.count("prefers-color-scheme: dark") == 1 + 1 + 3, "the look, the matrices, three charts"
    assert '<meta name="generator" content="maskens report">' in text


def test_the_page_shows_the_figures_of_the_evaluation(path: Path, gathered: Report) -> None:
    page, found = parse(path), gathered.found
    settings, parts, folds, classes, *rest = page.tables
    f1 = f"{found.f1['18 classes']:.4f}"
    assert settings[1][:3] == ["cross-fitted, flip", f1, f"{found.accuracy.value:.4f}"]
    assert [row[0] for row in settings[1:]] == [s.name for s in found.settings]
    assert [row[0] for row in parts[1:]] == ["18 classes", "mask", "gender", "age", "task class18"]
    assert [row[:3] for row in folds[1:]] == [[str(f.fold), str(f.people), str(f.photos)] for f in found.folds]
    assert [row[3] for row in classes[1:]] == [f"{i:.3f}" for i in found.class_f1]
    assert [int(row[6]) for row in classes[1:]] == found.class_people.tolist()
    bars = re.findall(
        r'<i style="width: ([\d.]+)%"></i><b style="left: ([\d.]+)%; width: ([\d.]+)%">', path.read_text()
    )
    ranges = [(f.value, f.low, f.high - f.low) for f in found.class_f1]
    assert np.array(bars, float) == pytest.approx(100 * np.array(ranges), abs=0.06), "a bar a class with its interval"
    mask = rest[0]
    assert [[int(n) for n in row[1:]] for row in mask[1:]] == gathered.confusions[1].counts.tolist()
    assert [len(table) - 1 for table in rest[:4]] == [3, 2, 3, 18]
    jobs = next(table for table in rest if table[0][0] == "task")
    assert jobs[1][:6] == ["class18", "0", "4", "2", "0.7500", "4.0"]
    assert "cpu, 1 threads (1 jobs); cpu, 2 threads (1 jobs)" in page.words["recipe"]
    assert 'predicts = "class18"' in page.words["recipe"]


def test_photos_are_shown_small_with_what_they_are_taken_as(path: Path, gathered: Report) -> None:
    page = parse(path)
    assert len(page.figures) == 32
    caption = page.figures[0][2]
    first = gathered.worst[0]
    words = (f"true {first.truth}", f"predicted {first.decided}", f"p(true) {first.p_true:.3g}", first.photo)
    assert all(word in caption for word in words)
    assert "share the page only with those" in " ".join(page.words["photos"].split())


@pytest.mark.usefixtures("charts_not_rendered")
def test_a_broken_photo_and_a_name_with_signs_of_html_do_no_harm(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "all.html"
    assert maskens("report", "--run", run.folder, "--photos", 100, "--out", out).code == 0
    text = out.read_text()
    assert "<b>&" not in text
    captions = [caption for *_, caption in parse(out).figures]
    assert sum(f"{ODD}/" in c for c in captions) == 4, "two of the worst, two of the uncertain"
    assert len(re.findall(r'<span class="none" role="img"', text)) == 4
    assert len(captions) == 2 * 2 * PEOPLE


@pytest.mark.usefixtures("charts_not_rendered")
def test_without_photos_nobody_is_shown_or_named(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "none.html"
    outcome = maskens("report", "--run", run.folder, "--photos", 0, "--out", out, "-q")
    assert (outcome.code, outcome.out) == (0, "")
    assert "image/webp" not in out.read_text()
    assert "000001" not in out.read_text()
    assert 'href="#photos"' not in out.read_text()


@pytest.mark.usefixtures("charts_not_rendered")
def test_an_earlier_report_is_replaced_and_anything_else_is_not(path: Path, tmp_path: Path) -> None:
    run = shutil.copytree(path.parent, tmp_path / "run")
    path = run / "report.html"
    again = maskens("report", "--run", run, "--photos", 0, "--checkpoint", "last", "--tta", "none")
    assert again.code == 0
    assert f"the earlier report in {path} was replaced" in again.out
    assert "last epochs, none, untuned" in path.read_text()
    assert "flatters a little" not in path.read_text(), "last epochs don't"
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my own</p>")
    refused(maskens("report", "--run", run, "--out", mine), "mine.html", "not written by `maskens report`")
    assert mine.read_text() == "<p>my own</p>"
    refused(maskens("report", "--run", run, "--out", tmp_path), "is a folder")


@pytest.mark.usefixtures("charts_not_rendered")
def test_folds_that_are_not_trained_are_told(run: Run, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "part")
    shutil.rmtree(tmp_path / "part" / "class18" / "fold1")
    assert maskens("report", "--run", tmp_path / "part").code == 0
    text = (tmp_path / "part" / "report.html").read_text()
    page = parse(tmp_path / "part" / "report.html")
    assert "folds that count: 0 of 0..1; not trained: class18 fold 1" in text
    assert "<b>1</b><span>models: 1 of 2 folds</span>" in text
    assert "No history of class18 fold 1" in page.words["curves"]


@pytest.mark.usefixtures("charts_not_rendered")
def test_several_runs_are_shown_as_one_ensemble(root: Path, run: Run, tmp_path: Path) -> None:
    other = finished(tmp_path / "other", root, 0.2, seed=1)
    first = shutil.copytree(run.folder, tmp_path / "first")
    outcome = maskens("report", "--run", first, "--run", other.folder, "--photos", 2)
    assert outcome.code == 0, outcome
    path = first / "blend-report.html"
    page = parse(path)
    assert f"{other.folder} alone" in [row[0] for row in page.tables[0]]
    assert "hard vote" in [row[0] for row in page.tables[0]]
    charts = [i["alt"] for i in page.images if i["alt"].startswith("Training loss")]
    assert len(charts) == 2
    assert path.read_text().count("<pre ") == 2
    assert "<b>4</b><span>models: 2 of 2 folds</span>" in path.read_text()
    refused(maskens("report", "--run", first, "--run", first), "named twice")


@pytest.mark.skipif(BROWSER is None, reason="no chromium or chrome on this machine")
@pytest.mark.parametrize("width", [360, 1280])
def test_in_a_browser_the_page_never_scrolls_sideways(path: Path, tmp_path: Path, width: int) -> None:
    """In a frame, because a window of a headless browser can't be as narrow as a phone."""
    look = (
        "const d = frame.contentDocument, e = d.documentElement;"
        "document.body.append('FOUND ' + JSON.stringify({wide: e.scrollWidth, seen: e.clientWidth,"
        "tall: e.scrollHeight, images: d.images.length,"
        "cut: [...d.querySelectorAll('.scroll')].filter(s => s.querySelector('table') && s.scrollWidth > s.clientWidth)"
        ".map(s => s.ariaLabel),"
        "broken: [...d.images].filter(i => !i.naturalWidth).length}) + ' END')"
    )
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<iframe id="frame" src="{path.as_uri()}" width="{width}" height="900" onload="{look}"></iframe>'
    )
    flags = (
        "--headless --no-sandbox --disable-gpu --allow-file-access-from-files --virtual-time-budget=10000 --dump-dom"
    )
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [str(BROWSER), *flags.split(), profile, wrapper.as_uri()], capture_output=True, text=True, timeout=120
    )
    found = re.search(r"FOUND (\{.*?\}) END</body>", done.stdout)
    assert found, done.stdout[-500:] + done.stderr[-2000:]
    seen = json.loads(found[1])
    assert seen["wide"] <= seen["seen"] <= width
    assert seen["tall"] > 3000
    assert seen["images"] >= 4
    assert seen["broken"] == 0
    assert seen["cut"] == [], "tables fit"
