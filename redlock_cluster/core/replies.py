"""What servers reply: the few replies that are foreseen byte for byte, errors, and safe ways to look at the rest."""

from __future__ import annotations

import re
from typing import Final

__all__ = ["FORESEEN", "NULL", "NULL_RESP2", "OK", "ONE", "UNFORESEEN", "ErrorReply", "describe", "is_number"]

# As they come over the wire.
OK: Final = b"+OK\r\n"
ONE: Final = b":1\r\n"
NULL: Final = b"_\r\n"
NULL_RESP2: Final = b"$-1\r\n"

FORESEEN: Final[dict[bytes, object]] = {OK: b"OK", ONE: 1, NULL: None, NULL_RESP2: None}
"""Every reply that a command may be expected to get, and what the parser makes of it."""

UNFORESEEN: Final = b""
"""Stands for the reply to a command whose success can't be foreseen byte for byte, such as a script's number."""

# Replies that are as foreseen are counted by their newlines (`wire.flight`).
assert all(reply.index(b"\n") == len(reply) - 1 for reply in FORESEEN)

# What a server says that did not run the command. After NOSCRIPT it is sent again, in full, where that still matters.
_REFUSALS: Final = frozenset(
    [
        *("ASK", "BUSY", "CLUSTERDOWN", "LOADING", "MASTERDOWN", "MISCONF", "MOVED"),
        *("NOAUTH", "NOPERM", "NOREPLICAS", "NOSCRIPT", "OOM", "READONLY", "TRYAGAIN"),
    ]
)

_TOKEN = re.compile("[0-9A-Za-z+/]{22}@")
_MOST_SHOWN: Final = 256


class ErrorReply(Exception):
    """An error that a server replied: a value among other replies, never raised.

    text: what it says, fit to be shown
    """

    def __init__(self, text: str = "") -> None:
        self.text = _shown(text)
        super().__init__(self.text)

    @property
    def code(self) -> str:
        """The error's first word: `ERR`, `WRONGTYPE`, `NOSCRIPT`, …."""
        return self.text.partition(" ")[0]

    @property
    def refused(self) -> bool:
        """Whether it proves that the server did not run the command."""
        return self.code in _REFUSALS

    @property
    def read_only(self) -> bool:
        """Whether the server is a replica, or has become one. Scripts before Redis 7 say so inside another error."""
        return self.code == "READONLY" or "-READONLY " in self.text

    @property
    def wrong_type(self) -> bool:
        """Whether the key holds a value of another type than the command is for.

        `DELEX … IFEQ` says so in words of its own.
        """
        return self.code == "WRONGTYPE" or self.text.startswith("ERR Key should be of string type")


def _shown(text: str) -> str:
    """An error without the arguments that servers repeat (a token among them), printable and of bearable length."""
    text = _TOKEN.sub("…@", text.partition(", with args beginning with")[0])[:_MOST_SHOWN]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def describe(reply: object) -> str:
    """A reply's kind, for messages; its content may be a token and stays out."""
    return type(reply).__name__


def is_number(reply: object, number: int) -> bool:
    """Whether a reply is this integer; a boolean or double that equals it is not.

    The compiler believes a type that `reply == 1` seems to prove, so the type is looked at first, and here.
    """
    return reply.__class__ is int and reply == number
