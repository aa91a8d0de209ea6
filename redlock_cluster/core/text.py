"""Names as messages show them: long ones cut in the middle, so that none fills a log."""

from __future__ import annotations

from typing import Final

__all__ = ["LONGEST_SHOWN", "cut", "quoted"]

LONGEST_SHOWN: Final = 200
"""Characters."""
_HEAD: Final = 100
_TAIL: Final = LONGEST_SHOWN - _HEAD - 3


def cut(text: str) -> str:
    """The text, at most 200 characters of it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:_HEAD]}...{text[-_TAIL:]}"


def quoted(name: str) -> str:
    """The name in quotes, control characters escaped, at most 200 characters of that."""
    return cut(repr(name))
