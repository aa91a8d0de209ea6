"""Tokens: the value of a lock on the servers, by which its owner is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType

__all__ = ["Token", "Tokens", "owner_label"]

Token = NewType("Token", bytes)
"""A random owner value, unique per attempt: 22 characters of base64, `@`, a readable label. Never logged whole."""

_RANDOM_DIGITS: Final = 22
_MOST_SHOWN: Final = 256
_AT_ONCE: Final = 64


class Tokens:
    """Makes tokens.

    draw: gives so many random texts of 22 base64 characters
    label: who owns the locks, shown to others
    """

    __slots__ = ("_draw", "_end", "_stock")

    def __init__(self, draw: Callable[[int], list[bytes]], label: bytes) -> None:
        self._draw, self._end = draw, b"@" + label
        self._stock: list[bytes] = []

    def new(self) -> Token:
        """A token that nobody else has."""
        if not self._stock:
            self._stock = self._draw(_AT_ONCE)[::-1]
        return Token(self._stock.pop() + self._end)


def owner_label(token: bytes | None) -> str:
    """The readable end of a token, safe to show; other libraries' tokens, having none, stay hidden."""
    if token is None:
        return "held"
    random, at, label = token.partition(b"@")
    if not at or len(random) != _RANDOM_DIGITS:
        return "held by an unlabelled token"
    text = label[:_MOST_SHOWN].decode("utf-8", "replace")
    return f"held by {''.join(c if c.isprintable() else '?' for c in text)}"
