"""Sets of views as a user names them: of the recipe, in a file, what they are worth, and in what is predicted."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from run_command import maskens, ran, refused
from tiny_runs import DEFAULTS

RECIPE = f"""
oof_tta = ["mine", "flip+light"]
{DEFAULTS}
[tasks.heads]
epochs = 1
[tta.mine]
views = ["identity", "hflip scale=1.1"]
merge = "max"
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tta")
    (folder / "more.toml").write_text(RECIPE)
    (folder / "closer.toml").write_text('views = ["identity", "center_crop=0.9"]\nmerge = "gmean"\n')
    (folder / "wrong.toml").write_text('views = ["identity", "vflip"]\nmrge = "max"\n')
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for words in (
            ("sample", "data", "--people", "36", "--size", "48x64"),
            ("folds", "--k", "2"),
            ("train", "--recipe", "more.toml"),
        ):
            ran(*words)
    return folder


@pytest.fixture(autouse=True)
def there(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(trained)


def test_score_shows_what_each_view_and_set_is_worth_and_costs() -> None:
    shown = maskens("score").out
    for name in ("identity", "hflip multiply=1.2", "--tta mine", "--tta flip+light"):
        assert f" {name} " in shown
    found = {v["name"]: v for v in json.loads(maskens("score", "--json").out)["views"]}
    assert (found["hflip"]["passes"], found["mine"]["passes"], found["flip+light"]["passes"]) == (1, 2, 6)
    assert {"value", "low", "high"} == set(found["mine"]["gain"])
    assert ", mine, untuned)" in maskens("score", "--tta", "mine").out
    refused(maskens("score", "--tta", "crops"), "have no view center_crop=0.9", "oof_tta")


def test_photos_are_predicted_in_the_views_of_the_recipe_or_of_a_file() -> None:
    outcome = ran("infer", "--tta", "mine", "--out", "mine.csv")
    assert "views: mine, untuned" in outcome.out
    outcome = maskens("infer", "--tta", "closer.toml", "--out", "closer.csv")
    assert "views: closer.toml, untuned" in outcome.out
    with np.load("closer.logits.npz") as z:
        assert json.loads(str(z["record"]))["views"] == ["identity", "center_crop=0.9"]
        assert z["logits/heads"].shape[:2] == (2, 2)
    outcome = ran("predict", "data/eval/images", "--tta", "closer.toml", "--json")
    assert "closer.toml" not in outcome.out
    words = "tta.wrong.views.1: there is no step 'vflip' (did you mean 'hflip'?)"
    refused(maskens("infer", "--tta", "wrong.toml"), words, "tta.wrong.mrge: unknown key (did you mean 'merge'?)")


def test_a_graph_is_refused_for_views_that_it_cannot_merge() -> None:
    refused(maskens("export", "--tta", "mine"), "the views are merged by 'max'", "choose another --tta")


def test_what_is_tuned_of_the_views_is_used_by_infer() -> None:
    outcome = ran("tune", "--step", "views", "--force")
    assert "applied: views" in outcome.out
    tuned = json.loads(Path("runs/default/tuning.json").read_text())["fitted"]
    outcome = maskens("infer", "--out", "tuned.csv")
    assert f"views: {tuned['tta']}, tuned: views" in outcome.out
    with np.load("tuned.logits.npz") as z:
        assert json.loads(str(z["record"]))["views"] == tuned["views"]["views"]
    Path("runs/default/tuning.json").unlink()
