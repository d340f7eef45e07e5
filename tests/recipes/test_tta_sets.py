"""Sets of views: shipped, of a recipe, in a file; a view's name says all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from ensemble.recipes.recipe_file import find_set, parse_recipe
from ensemble.recipes.schema import Recipe
from ensemble.recipes.views import SETS, VIEWS, TtaSet, known_sets, view_name
from folds.errors import MaskensError

MINE = """
[tta.mine]
views = ["identity", "scale=1.10 hflip"]
merge = "gmean"
"""


def recipe(more: str = "", first: str = "") -> Recipe:
    return parse_recipe(f'{first}\n[defaults]\nmodel = "m"\n[tasks.class18]\n{more}', "r")


def test_one_view_has_one_name_and_another_number_is_another_view() -> None:
    assert {tta: tuple(map(view_name, views)) for tta, views in VIEWS.items()} == VIEWS
    assert view_name("scale=0.90  hflip") == view_name("hflip scale=0.9") == "hflip scale=0.9"
    assert view_name("scale=0.91") != view_name("scale=0.9")


def test_a_recipe_takes_sets_of_ones_own_and_keeps_their_views_if_asked() -> None:
    plain, own = recipe(), recipe(MINE, 'oof_tta = ["mine", "crops"]')
    assert plain.oof_views == ("identity", "hflip")
    assert own.tta["mine"] == TtaSet(views=("identity", "hflip scale=1.1"), merge="gmean")
    assert own.oof_views == ("identity", "hflip", "hflip scale=1.1", *VIEWS["crops"][1:])
    assert own.hash == plain.hash, "views are no part of what is learned"
    assert parse_recipe(own.text, "again").model_dump() == own.model_dump()
    changed = parse_recipe(plain.text, "r", changes=['oof_tta=["flip+light"]'])
    assert changed.oof_views == VIEWS["flip+light"]


def test_all_that_is_wrong_with_views_is_reported_at_once() -> None:
    text = """
    [tta.mine]
    vews = []
    views = ["identity", "vflip", "scael=0.9", "scale=9", "hflip=1", "hflip hflip", ""]
    merge = "gmeen"
    [tta.flip]
    views = ["identity"]
    [tta.twice]
    views = ["identity", "scale=0.9", "scale=0.90"]
    [tta.none-of-it]
    views = ["hflip"]
    [tta.heavy]
    views = ["identity", "hflip"]
    weights = [1]
    """
    with pytest.raises(MaskensError) as refused:
        recipe(text, 'oof_tta = ["flipp"]')
    for words in (
        "tta.mine.vews: unknown key (did you mean 'views'?)",
        "tta.mine.views.1: there is no step 'vflip' (did you mean 'hflip'?)",
        "tta.mine.views.2: there is no step 'scael' (did you mean 'scale'?)",
        "tta.mine.views.3: 'scale' needs a number from 0.5 to 2",
        "tta.mine.views.4: 'hflip' takes no number",
        "tta.mine.views.5: 'hflip' is there twice",
        "tta.mine.views.6: there is no step ''",
        "tta.mine.merge: expected 'mean', 'gmean' or 'max'",
        "tta.twice.views: more than once: scale=0.9",
        "tta.none-of-it.views: 'identity' is missing",
        "tta.heavy.weights: 1 weights, but 2 views",
    ):
        assert words in str(refused.value)


def test_names_of_sets_that_are_taken_or_unknown_are_refused() -> None:
    with pytest.raises(MaskensError, match=r"tta.flip: a shipped set or a step has this name"):
        recipe('[tta.flip]\nviews = ["identity"]')
    with pytest.raises(
        MaskensError, match=r"oof_tta: 'flipp' \(did you mean 'flip'.*\?\): unknown; the sets are none, "
    ):
        recipe(first='oof_tta = ["flipp"]')


def test_a_file_is_a_set_named_by_its_path(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('views = ["identity", "scale=1.1"]')
    assert find_set(str(file), SETS) == (str(file), TtaSet(views=("identity", "scale=1.1")))
    file.write_text('vews = ["identity"]')
    with pytest.raises(MaskensError, match=r"(?s)mine\.toml can't be used.*tta\.mine\.views: missing.*mean 'views'"):
        find_set(str(file), SETS)
    for text in ("views = [", f"views = {'9' * 5000}", "views = " + "[" * 100_000):
        file.write_text(text)
        with pytest.raises(MaskensError, match="is not valid TOML"):
            find_set(str(file), SETS)
    with pytest.raises(MaskensError, match="can't read the views"):
        find_set(str(tmp_path / "other.toml"), SETS)


def test_runs_that_mean_different_views_by_one_name_are_refused() -> None:
    one, other = TtaSet(views=("identity", "scale=0.9")), TtaSet(views=("identity", "scale=0.8"))
    assert known_sets([{"a": one}, {"a": one, "b": other}]) == SETS | {"a": one, "b": other}
    with pytest.raises(MaskensError, match=r"tta\.a: .*scale=0\.9.* and .*scale=0\.8"):
        known_sets([{"a": one}, {"a": other}])
