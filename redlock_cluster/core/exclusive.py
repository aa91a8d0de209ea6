"""The exclusive lock: a string at the key, whose value is the owner's token.

    acquire   SET key token NX GET PX ttl (before Redis 7.0 without GET)
    extend    SET key token IFEQ token PX ttl, or lua/extend.lua
    release   DELIFEQ key token, DELEX key IFEQ token, or lua/release.lua
    inspect   GET key

Source: redis.io, "Distributed Locks with Redis". A key of another type (somebody's read locks) is held, and never ours.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import AGAINST, FOR, Answer, Command, no_vote
from redlock_cluster.core.replies import OK, ONE, ErrorReply, is_number
from redlock_cluster.core.token import Token
from redlock_cluster.lua import EXTEND, RELEASE

__all__ = ["EXCLUSIVE", "Exclusive"]

_YES: Final = Answer(FOR)
_NO: Final = Answer(AGAINST)

# The two commands of every lock are packed by hand, from parts that are ready: it takes a fifth of the time.
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
def _set_options(get: bool, ttl_ms: int) -> bytes:
    """What follows the token in a SET that acquires."""
    digits = b"%d" % ttl_ms
    return b"\r\n$2\r\nNX\r\n%b$2\r\nPX\r\n$%d\r\n%b\r\n" % (b"$3\r\nGET\r\n" if get else b"", len(digits), digits)


class Exclusive:
    """One holder at a time. A `LockMode`."""

    __slots__ = ()

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """`SET key token NX [GET] PX ttl`: with GET, nil says that it was granted, without it OK does."""
        get = dialect.set_nx_get
        words = _SET_NX_GET if get else _SET_NX
        data = b"".join((words, _head(key), key, _END, _head(token), token, _set_options(get, ttl_ms)))
        return data, dialect.null if get else OK

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: set; AGAINST: others hold it, by name where the server gave it."""
        if dialect.set_nx_get:
            if reply is None:
                return _YES
            if isinstance(reply, bytes):
                return Answer(AGAINST, reply)
        elif reply is None:
            return _NO
        elif isinstance(reply, bytes) and reply == b"OK":
            return _YES
        return _NO if _of_another_type(reply) else no_vote(reply)

    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """A new ttl if the value is the token: replies OK or nil, by script 1 or 0."""
        if dialect.set_ifeq:
            return pack_command((b"SET", key, token, b"IFEQ", token, b"PX", ttl_ms)), OK
        return EXTEND.call(in_full, key, token, ttl_ms), ONE

    def extended(self, reply: object) -> Answer:
        """FOR: the ttl counts from now; AGAINST: the value is not the token."""
        return _compared(reply)

    def release(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        """Deletes the key if its value is the token: replies 1 or 0."""
        if dialect.compare_and_delete == "DELIFEQ":
            return b"".join((_DELIFEQ, _head(key), key, _END, _head(token), token, _END)), ONE
        if dialect.compare_and_delete == "DELEX":
            return pack_command((b"DELEX", key, b"IFEQ", token)), ONE
        return RELEASE.call(in_full, key, token), ONE

    def released(self, reply: object) -> Answer:
        """FOR: deleted; AGAINST: the value was not the token."""
        return _compared(reply)

    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        """`GET key`: nil says that it is free."""
        return pack_command((b"GET", key)), dialect.null

    def inspected(self, reply: object) -> Answer:
        """FOR: nobody holds it; AGAINST: somebody does."""
        if reply is None:
            return _YES
        if isinstance(reply, bytes):
            return Answer(AGAINST, reply)
        return _NO if _of_another_type(reply) else no_vote(reply)


def _of_another_type(reply: object) -> bool:
    return isinstance(reply, ErrorReply) and reply.wrong_type


def _compared(reply: object) -> Answer:
    """What a comparison came to: 1 or OK did it, 0 or nil found another value or none."""
    if is_number(reply, 1) or (isinstance(reply, bytes) and reply == b"OK"):
        return _YES
    if reply is None or is_number(reply, 0) or _of_another_type(reply):
        return _NO
    return no_vote(reply)


EXCLUSIVE: Final = Exclusive()
