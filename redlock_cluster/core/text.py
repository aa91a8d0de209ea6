"""Names as messages show them: long ones cut in the middle, so that none fills a log."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

__all__ = ["LONGEST_SHOWN", "cut", "quoted", "utc"]

LONGEST_SHOWN: Final = 200
"""Characters."""
_HEAD: Final = 100
_TAIL: Final = LONGEST_SHOWN - _HEAD - 3
_LAST: Final = 2.5e11
"""Seconds since 1970 of the last time that is shown, in the year 9892."""


def cut(text: str) -> str:
    """The text, at most 200 characters of it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:_HEAD]}...{text[-_TAIL:]}"


def quoted(name: str) -> str:
    """The name in quotes, control characters escaped, at most 200 characters of that."""
    return cut(repr(name))


def utc(seconds: float) -> str:
    """A time since 1970, to the second, for people."""
    shown = datetime.fromtimestamp(min(max(0.0, seconds), _LAST), UTC)
    return f"{shown:%Y-%m-%d %H:%M:%S} UTC"
