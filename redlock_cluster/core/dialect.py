"""What is sent to a server for a lock, in the words that this server understands.

Releasing and extending compare the token and act in one command: natively where the server can (`DELIFEQ` in
Valkey >= 9.0, `DELEX` in Redis >= 8.4, `SET … IFEQ` in both newer lines), else by script.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Final, Literal

from hiredis import pack_command

from redlock_cluster.core.votes import Token
from redlock_cluster.lua import EXTEND, RELEASE, Script

__all__ = [
    "DONE",
    "MEANINGS",
    "OK",
    "SCRIPTED",
    "Dialect",
    "ErrorReply",
    "describe",
    "dialect_of",
    "evaluate",
    "is_number",
    "probes",
]


_REFUSALS = frozenset(
    word
    for words in (
        "ASK BUSY CLUSTERDOWN LOADING MASTERDOWN MISCONF MOVED",
        "NOAUTH NOPERM NOREPLICAS OOM READONLY TRYAGAIN",
    )
    for word in words.split()
)


# Replies as they come over the wire.
OK: Final = b"+OK\r\n"
DONE: Final = b":1\r\n"
_NULL: Final = b"_\r\n"
_NULL_RESP2: Final = b"$-1\r\n"
MEANINGS: Final[dict[bytes, object]] = {OK: b"OK", DONE: 1, _NULL: None, _NULL_RESP2: None}
"""What the parser makes of the replies that a round hopes for."""


# The commands of every lock are packed by hand, from parts that are ready: it takes a fifth of the time.
_SET_NX_GET: Final = b"*7\r\n$3\r\nSET\r\n"
_SET_NX: Final = b"*6\r\n$3\r\nSET\r\n"
_DELIFEQ: Final = b"*3\r\n$7\r\nDELIFEQ\r\n"
_END: Final = b"\r\n"
_LENGTHS: Final = tuple(b"$%d\r\n" % length for length in range(256))


def _head(word: bytes) -> bytes:
    """What comes before a word of a command."""
    size = len(word)
    return _LENGTHS[size] if size < 256 else b"$%d\r\n" % size


@lru_cache(maxsize=64)
def _set_options(names_holder: bool, ttl_ms: int) -> bytes:
    """What follows the token in a SET that acquires."""
    digits = b"%d" % ttl_ms
    get = b"$3\r\nGET\r\n" if names_holder else b""
    return b"\r\n$2\r\nNX\r\n%b$2\r\nPX\r\n$%d\r\n%b\r\n" % (get, len(digits), digits)


class ErrorReply(Exception):
    """An error that a server answered: a value among other replies, never raised by the engine itself."""

    def __init__(self, text: str = "") -> None:
        self.text = _told(text)
        super().__init__(self.text)

    @property
    def code(self) -> str:
        """The error's first word: `ERR`, `WRONGTYPE`, `NOSCRIPT`, …."""
        return self.text.partition(" ")[0]

    @property
    def refused(self) -> bool:
        """The server itself declined to run the command, so it had no effect."""
        return self.code in _REFUSALS

    @property
    def wrong_type(self) -> bool:
        """The key holds something that is not a string: somebody's read locks, never our token.

        `DELEX … IFEQ` says so in words of its own.
        """
        return self.code == "WRONGTYPE" or self.text.startswith("ERR Key should be of string type")


_TOKEN = re.compile("[0-9A-Za-z+/]{22}@")
_MOST_TOLD = 256


def _told(text: str) -> str:
    """An error without the arguments that servers repeat (a token among them), printable and of bearable length."""
    text = _TOKEN.sub("…@", text.partition(", with args beginning with")[0])[:_MOST_TOLD]
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def describe(reply: object) -> str:
    """A reply's kind, for messages; its content may be a token and stays out."""
    return type(reply).__name__


def is_number(reply: object, number: int) -> bool:
    """Whether a reply is this integer; a boolean or double that equals it is not."""
    return reply.__class__ is int and reply == number


@dataclass(frozen=True, slots=True)
class Dialect:
    """The forms of the lock commands that one server understands.

    names_holder: `SET … NX GET` works (Redis >= 7.0), so a refusal names the holder
    native_extend: `SET … IFEQ` works
    native_release: the command that deletes a key if it holds a value, if there is one
    resp3: the version of the protocol; null: how it says that there is nothing
    granted, extended: what `acquire` and `extend` are answered with when the server did it
    """

    names_holder: bool
    native_extend: bool
    native_release: Literal["DELIFEQ", "DELEX"] | None
    resp3: bool = True
    null: bytes = field(init=False)
    granted: bytes = field(init=False)
    extended: bytes = field(init=False)

    def __post_init__(self) -> None:
        null = _NULL if self.resp3 else _NULL_RESP2
        object.__setattr__(self, "null", null)
        object.__setattr__(self, "granted", null if self.names_holder else OK)
        object.__setattr__(self, "extended", OK if self.native_extend else DONE)

    def acquire(self, key: bytes, token: Token, ttl_ms: int) -> bytes:
        """`SET key token NX [GET] PX ttl`, packed."""
        words = _SET_NX_GET if self.names_holder else _SET_NX
        return b"".join((words, _head(key), key, _END, _head(token), token, _set_options(self.names_holder, ttl_ms)))

    def release(self, key: bytes, token: Token) -> bytes:
        """Deletes the key if it holds the token, packed; answers 1 or 0."""
        if self.native_release == "DELIFEQ":
            return b"".join((_DELIFEQ, _head(key), key, _END, _head(token), token, _END))
        if self.native_release == "DELEX":
            return pack_command((b"DELEX", key, b"IFEQ", token))
        return _by_digest(RELEASE, key, token)

    def extend(self, key: bytes, token: Token, ttl_ms: int) -> bytes:
        """Resets the ttl if the key holds the token, packed; answers OK or nil, by script 1 or 0."""
        if self.native_extend:
            return pack_command((b"SET", key, token, b"IFEQ", token, b"PX", ttl_ms))
        return _by_digest(EXTEND, key, token, ttl_ms)


SCRIPTED = Dialect(names_holder=False, native_extend=False, native_release=None)
"""Works everywhere; used where only a token string is at hand, because the scripts test the key's type."""


def _by_digest(script: Script, key: bytes, *arguments: bytes | int) -> bytes:
    return pack_command((b"EVALSHA", script.sha, 1, key, *arguments))


def evaluate(script: Script, key: bytes, *arguments: bytes | int) -> bytes:
    """The script in full, for a server that answered NOSCRIPT; packed."""
    return pack_command((b"EVAL", script.source, 1, key, *arguments))


def probes(key: str) -> tuple[tuple[str | int, ...], ...]:
    """Commands whose replies tell `dialect_of` what a server understands; they never write.

    A ttl of 0 is refused only after the options were understood, so `SET` is probed without setting anything.
    """
    return (
        ("SET", key, "", "NX", "GET", "PX", 0),
        ("SET", key, "", "IFEQ", "", "PX", 0),
        ("DELIFEQ", key, ""),
        ("DELEX", key, "IFEQ", ""),
    )


def dialect_of(probed: Sequence[object], resp3: bool) -> Dialect:
    """The dialect that the replies to `probes` tell of."""
    names_holder, set_ifeq, delifeq, delex = probed
    release: Literal["DELIFEQ", "DELEX"] | None = None
    if type(delifeq) is int:
        release = "DELIFEQ"
    elif type(delex) is int:
        release = "DELEX"
    return _dialect(_refuses_ttl(names_holder), _refuses_ttl(set_ifeq), release, resp3)


def _refuses_ttl(reply: object) -> bool:
    return isinstance(reply, ErrorReply) and "invalid expire" in reply.text


@cache
def _dialect(
    names_holder: bool, native_extend: bool, release: Literal["DELIFEQ", "DELEX"] | None, resp3: bool
) -> Dialect:
    """One object for each dialect, so that a round packs a command once for all servers that share it."""
    return Dialect(names_holder, native_extend, release, resp3)
