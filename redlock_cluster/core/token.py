"""Tokens: the value of a lock on the servers, by which its owner is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NewType

__all__ = ["Token", "Tokens", "label_of", "maker_of", "owner_label"]

Token = NewType("Token", bytes)
"""An owner value, unique per attempt: 22 characters of base64, `@`, a readable label. Never logged whole.

The first 8 characters name the client that made it, the others are drawn for the token alone (84 bits).
"""

_RANDOM_DIGITS: Final = 22
_CLIENT_DIGITS: Final = 8
_MOST_SHOWN: Final = 256
_AT_ONCE: Final = 64


class Tokens:
    """Makes tokens.

    draw: gives so many random texts of 22 base64 characters
    label: who owns the locks, shown to others

    client: the random name of their maker, 8 characters (48 bits) with which all of them begin
    """

    __slots__ = ("_draw", "_end", "_stock", "client")

    def __init__(self, draw: Callable[[int], list[bytes]], label: bytes) -> None:
        self._draw, self._end = draw, b"@" + label
        drawn = draw(_AT_ONCE)
        self.client = drawn[0][:_CLIENT_DIGITS]
        self._stock = self._rest(drawn)

    def new(self) -> Token:
        """A token that nobody else has."""
        if not self._stock:
            self._stock = self._rest(self._draw(_AT_ONCE))
        return Token(self._stock.pop())

    def made(self, token: bytes | None) -> bool:
        """Whether it is one of these."""
        return token is not None and token.startswith(self.client)

    def _rest(self, drawn: list[bytes]) -> list[bytes]:
        return [self.client + text[_CLIENT_DIGITS:] + self._end for text in reversed(drawn)]


def owner_label(token: bytes | None) -> str:
    """The readable end of a token, safe to show; other libraries' tokens, having none, stay hidden."""
    if token is None:
        return "held"
    label = label_of(token)
    return "held by an unlabelled token" if label is None else f"held by {label}"


def label_of(token: bytes) -> str | None:
    """The readable end of a token alone, None for another library's, which has none."""
    random, at, label = token.partition(b"@")
    if not at or len(random) != _RANDOM_DIGITS:
        return None
    text = label[:_MOST_SHOWN].decode("utf-8", "replace")
    return "".join(c if c.isprintable() else "?" for c in text)


def maker_of(token: bytes) -> str | None:
    """The name of the client that made a token, None for another library's."""
    return None if label_of(token) is None else token[:_CLIENT_DIGITS].decode("ascii", "replace")
