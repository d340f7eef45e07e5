"""The first inputs of each kind of `benchmarks/fuzz.py`: none ends in a traceback or a wrong result without a word."""

from __future__ import annotations

from random import Random

import pytest
from fuzz import KINDS
from hostile.workplace import Workplace, make_workplace

INPUTS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    return make_workplace(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoiled_input_gives_the_right_result_or_is_refused(kind: str, place: Workplace) -> None:
    for number in range(INPUTS):
        verdict = KINDS[kind](Random(f"{kind} {number}"), place)
        assert verdict.result in ("right", "refused"), f"input {number}: {verdict.detail}"
