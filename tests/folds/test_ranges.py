"""What a user types for `--fold` and `--seed`."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from folds.errors import MaskensError
from folds.ranges import FULL, in_short, parse_folds, parse_seeds, written_folds


@pytest.mark.parametrize(
    ("text", "folds"),
    [
        ("3", [3]),
        ("0..4", [0, 1, 2, 3, 4]),
        ("4,0, 2", [0, 2, 4]),
        ("0..1,4,1", [0, 1, 4]),
        ("2..2", [2]),
        (" ALL ", [*range(5)]),
        ("full", [FULL]),
        ("Full,0..1", [0, 1, FULL]),
        ("all,full", [*range(5), FULL]),
    ],
)
def test_the_forms_that_the_message_offers(text: str, folds: list[int]) -> None:
    assert parse_folds(text, 5) == folds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("7", "no fold 7; this run has the folds 0..4"),
        ("0..999999999999", "no fold 999999999999"),
        ("4..0", "Write 0..4."),
        *((text, f"'{text}' is not a fold. Write 3, 0..4, 0,2,4, all or full.") for text in ("x", "")),
        *((text, f"'{item}' is not a fold") for text, item in (("0-4", "0-4"), ("-1", "-1"), ("1,ful", "ful"))),
    ],
)
def test_a_refusal_names_what_to_write(text: str, message: str) -> None:
    with pytest.raises(MaskensError, match=f"--fold {re.escape(text)}: .*{re.escape(message)}"):
        parse_folds(text, 5)


def test_folds_are_refused_before_a_run_is_known() -> None:
    for text in ("x", "4..0", "1,,2"):
        with pytest.raises(MaskensError, match=f"--fold {re.escape(text)}"):
            written_folds(text)
    assert written_folds("0..4,99") == [(0, 4), (99, 99)]


@given(st.text(alphabet="0123456789., -xalfu\u0663\u00b2", max_size=30))
def test_any_text_gives_folds_of_the_run_or_a_refusal(text: str) -> None:
    try:
        folds = parse_folds(text, 4)
    except MaskensError as error:
        assert f"--fold {text}" in str(error)
    else:
        assert folds == sorted(set(folds), key=lambda fold: (fold == FULL, fold))
        assert set(folds) <= {0, 1, 2, 3, FULL}


def test_seeds_are_named_as_folds_are() -> None:
    assert parse_seeds("7,0..2,1") == [0, 1, 2, 7]
    for text in ("all", "-1", "2..0", "4294967296", "0..100"):
        with pytest.raises(MaskensError, match="--seed " + re.escape(text)):
            parse_seeds(text)


@given(st.sets(st.integers(0, 30), min_size=1))
def test_folds_in_short_are_read_as_these(folds: set[int]) -> None:
    assert parse_folds(in_short(folds), 31) == sorted(folds)
    assert parse_folds(in_short([*folds, FULL]), 31) == [*sorted(folds), FULL]
    assert in_short([0, 1, 2, 4, 6, 7]) == "0..2,4,6..7"
