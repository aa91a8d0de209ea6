"""Names in messages: short ones whole, long ones cut in the middle."""

from __future__ import annotations

import pytest

from redlock_cluster.core.text import LONGEST_SHOWN, cut, quoted


@pytest.mark.parametrize("text", ["", "r", "x" * LONGEST_SHOWN])
def test_what_is_short_is_shown_whole(text: str) -> None:
    assert cut(text) == text


@pytest.mark.parametrize("size", [LONGEST_SHOWN + 1, 65536])
def test_what_is_long_shows_both_its_ends(size: int) -> None:
    shown = cut("a" * (size // 2) + "b" * (size - size // 2))
    assert len(shown) == LONGEST_SHOWN
    assert shown == "a" * 100 + "..." + "b" * 97


@pytest.mark.parametrize("name", ["r", "it's", "\n", "\udcff", "\U0001f512"])
def test_a_short_name_is_quoted_as_in_python(name: str) -> None:
    assert quoted(name) == repr(name)


@pytest.mark.parametrize("character", ["x", "\udcff", "\x00", "\U000e0001"])
def test_a_long_name_is_no_longer_quoted_than_any_other(character: str) -> None:
    assert len(quoted(character * 65536)) == LONGEST_SHOWN
