"""What servers reply: the few replies that are foreseen byte for byte, errors, and safe ways to look at the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

__all__ = [
    "FORESEEN",
    "NULL",
    "NULL_RESP2",
    "OK",
    "ONE",
    "TWO",
    "UNFORESEEN",
    "ErrorReply",
    "describe",
    "is_number",
    "texts_in",
]

# As they come over the wire.
OK: Final = b"+OK\r\n"
ONE: Final = b":1\r\n"
TWO: Final = b":2\r\n"
NULL: Final = b"_\r\n"
NULL_RESP2: Final = b"$-1\r\n"

FORESEEN: Final[dict[bytes, object]] = {OK: b"OK", ONE: 1, TWO: 2, NULL: None, NULL_RESP2: None}
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
    def forbidden(self) -> bool:
        """Whether our user may not do that. What a script may not do, servers say each in their own words."""
        return self.code == "NOPERM" or "ACL failure" in self.text or "executing the script can't run" in self.text

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


def texts_in(reply: object) -> dict[str, str]:
    """The names and values of a map that are texts; in RESP2 a map is a list of both in turn."""
    pairs: Iterable[tuple[object, object]] = ()
    if isinstance(reply, dict):
        pairs = reply.items()
    elif isinstance(reply, list):
        pairs = zip(reply[::2], reply[1::2], strict=False)
    texts = [(name, value) for name, value in pairs if isinstance(name, bytes) and isinstance(value, bytes)]
    return {name.decode("utf-8", "replace"): value.decode("utf-8", "replace") for name, value in texts}


def is_number(reply: object, number: int) -> bool:
    """Whether a reply is this integer; a boolean or double that equals it is not.

    The compiler believes a type that `reply == 1` seems to prove, so the type is looked at first, and here.
    """
    return reply.__class__ is int and reply == number
