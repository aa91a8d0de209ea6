"""What is sent to a server for a lock, in the words that this server understands.

Releasing and extending compare the token and act in one command: natively where the server can (`DELIFEQ` in
Valkey >= 9.0, `DELEX` in Redis >= 8.4, `SET … IFEQ` in both newer lines), else by script.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from hiredis import pack_command

from redlock_cluster.core.votes import Token
from redlock_cluster.lua import EXTEND, RELEASE, Script

__all__ = ["SCRIPTED", "Dialect", "ErrorReply", "describe", "dialect_of", "evaluate", "is_number", "probes"]


_REFUSALS = frozenset(
    word
    for words in (
        "ASK BUSY CLUSTERDOWN LOADING MASTERDOWN MISCONF MOVED",
        "NOAUTH NOPERM NOREPLICAS OOM READONLY TRYAGAIN",
    )
    for word in words.split()
)


# The commands of every lock, packed by hand: a third of the time that packing from words takes.
_SET_NX_GET: Final = b"*7\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n$3\r\nGET\r\n$2\r\nPX\r\n$%d\r\n%b\r\n"
_SET_NX: Final = b"*6\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n$2\r\nNX\r\n$2\r\nPX\r\n$%d\r\n%b\r\n"
_DELIFEQ: Final = b"*3\r\n$7\r\nDELIFEQ\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n"


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


_TOKEN = re.compile("[0-9a-f]{32}@")
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
    granted: what `acquire` is answered with when it set the key
    """

    names_holder: bool
    native_extend: bool
    native_release: Literal["DELIFEQ", "DELEX"] | None
    granted: bytes | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "granted", None if self.names_holder else b"OK")

    def acquire(self, key: bytes, token: Token, ttl_ms: int) -> bytes:
        """`SET key token NX [GET] PX ttl`, packed."""
        ttl = b"%d" % ttl_ms
        return (_SET_NX_GET if self.names_holder else _SET_NX) % (len(key), key, len(token), token, len(ttl), ttl)

    def release(self, key: bytes, token: Token) -> bytes:
        """Deletes the key if it holds the token, packed; answers 1 or 0."""
        if self.native_release == "DELIFEQ":
            return _DELIFEQ % (len(key), key, len(token), token)
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


def dialect_of(names_holder: object, set_ifeq: object, delifeq: object, delex: object) -> Dialect:
    """The dialect that the replies to `probes` tell of."""
    release: Literal["DELIFEQ", "DELEX"] | None = None
    if type(delifeq) is int:
        release = "DELIFEQ"
    elif type(delex) is int:
        release = "DELEX"
    return _dialect(_refuses_ttl(names_holder), _refuses_ttl(set_ifeq), release)


def _refuses_ttl(reply: object) -> bool:
    return isinstance(reply, ErrorReply) and "invalid expire" in reply.text


@cache
def _dialect(names_holder: bool, native_extend: bool, release: Literal["DELIFEQ", "DELEX"] | None) -> Dialect:
    """One object for each dialect, so that a round packs a command once for all servers that share it."""
    return Dialect(names_holder, native_extend, release)
