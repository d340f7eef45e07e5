"""What a user types for `--fold`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.errors import MaskensError
from folds.ranges import in_short, parse_folds, parse_seeds, written_folds


@st.composite
def typed_folds(draw: st.DrawFn) -> tuple[str, int, set[int]]:
    """(what was typed, k, the folds it names)."""
    k = draw(st.integers(1, 12))
    items: list[str] = []
    named: set[int] = set()
    for _ in range(draw(st.integers(1, 5))):
        first = draw(st.integers(0, k - 1))
        last = draw(st.integers(first, k - 1))
        as_range = last > first or draw(st.booleans())
        space = draw(st.sampled_from(["", " "]))
        items.append(space + (f"{first}..{last}" if as_range else f"{first}") + space)
        named |= {n for n in range(k) if first <= n <= last}
    return ",".join(items), k, named


@given(typed_folds())
def test_numbers_and_ranges_name_their_folds_sorted_and_once(typed: tuple[str, int, set[int]]) -> None:
    text, k, named = typed
    assert parse_folds(text, k) == sorted(named)


@pytest.mark.parametrize(
    ("text", "folds"),
    [
        ("3", [3]),
        ("0..4", [0, 1, 2, 3, 4]),
        ("4,0,2", [0, 2, 4]),
        ("0..1,4,1", [0, 1, 4]),
        ("2..2", [2]),
        (" ALL ", [*range(5)]),
    ],
)
def test_the_forms_that_the_message_offers(text: str, folds: list[int]) -> None:
    assert parse_folds(text, 5) == folds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "--fold 7: there is no fold 7; this run has the folds 0..4."),
        ("0..999999999999", "--fold 0..999999999999: there is no fold 999999999999; this run has the folds 0..4."),
        ("4..0", "--fold 4..0: 4..0 runs backwards. Write 0..4."),
        ("x", "--fold x: 'x' is not a fold. Write 3, 0..4, 0,2,4 or all."),
        ("", "--fold : '' is not a fold. Write 3, 0..4, 0,2,4 or all."),
        ("0-4", "--fold 0-4: '0-4' is not a fold. Write 3, 0..4, 0,2,4 or all."),
        ("-1", "--fold -1: '-1' is not a fold. Write 3, 0..4, 0,2,4 or all."),
        ("1,all", "--fold 1,all: 'all' is not a fold. Write 3, 0..4, 0,2,4 or all."),
    ],
)
def test_a_refusal_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(MaskensError, match=f"^{re.escape(message)}$"):
        parse_folds(text, 5)


@pytest.mark.parametrize("text", ["x", "4..0", "1,,2"])
def test_what_no_run_could_have_is_refused_before_one_is_known(text: str) -> None:
    with pytest.raises(MaskensError, match=f"--fold {re.escape(text)}"):
        written_folds(text)
    assert written_folds("0..4,99") == [(0, 4), (99, 99)]


@given(st.text(alphabet="0123456789., -xal\u0663\u00b2", max_size=30))
def test_any_text_gives_folds_of_the_run_or_a_refusal(text: str) -> None:
    try:
        folds = parse_folds(text, 4)
    except MaskensError as error:
        assert f"--fold {text}" in str(error)
    else:
        assert folds == sorted(set(folds))
        assert set(folds) <= {0, 1, 2, 3}


def test_seeds_are_named_as_folds_are() -> None:
    assert parse_seeds("7,0..2,1") == [0, 1, 2, 7]
    for text in ("all", "-1", "2..0", "4294967296", "0..100"):
        with pytest.raises(MaskensError, match="--seed " + re.escape(text)):
            parse_seeds(text)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_folds_in_short_are_read_as_these(folds: set[int]) -> None:
    assert parse_folds(in_short(folds), 31) == sorted(folds)


def test_folds_that_follow_each_other_are_a_range() -> None:
    assert in_short([0, 1, 2, 4, 6, 7]) == "0..2,4,6..7"
