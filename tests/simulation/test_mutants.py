"""The simulation can fail: it notices every way in which the engine is broken on purpose."""

from __future__ import annotations

from pathlib import Path

import pytest

from .mutants import MUTANTS, Edit, Mutant, NotFound, hunt, mutate
from .plan import PROMISED
from .runs import run


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_an_engine_that_is_broken_on_purpose_is_noticed(mutant: Mutant) -> None:
    histories, found = hunt(mutant)
    assert 1 <= histories <= mutant.bound
    assert found


def test_an_engine_that_is_not_broken_is_not_noticed() -> None:
    with pytest.raises(AssertionError, match="was not noticed in 20 histories"):
        hunt(Mutant("same", "nothing is", (Edit("core/tally.py", "size // 2 + 1", "1 + size // 2"),), bound=20))


@pytest.mark.parametrize("scenario", PROMISED)
def test_an_engine_that_is_not_broken_is_clean_where_the_hunts_begin(scenario: str) -> None:
    first = sorted({mutant.first for mutant in MUTANTS if mutant.scenario == scenario})
    tally = run(first, scenario)
    assert tally.histories == len(first)
    assert tally.findings == {}


@pytest.mark.parametrize("old", ["this text is nowhere", "import"])
def test_a_mutant_whose_text_is_not_there_exactly_once_fails_loudly(old: str, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        mutate(tmp_path, Mutant("gone", "nothing", (Edit("core/tally.py", old, ""),)))
