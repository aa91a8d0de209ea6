"""The exclusive lock: a string at the key, whose value is the owner's token.

    acquire   SET key token NX GET PX ttl (before Redis 7.0 without GET); with a fence lua/number.lua
    take      lua/take.lua
    extend    SET key token IFEQ token PX ttl, or lua/extend.lua
    release   DELIFEQ key token, DELEX key IFEQ token, or lua/release.lua
    leave     lua/release.lua
    find      GET key
    heal      lua/heal.lua
    inspect   GET key

Source: redis.io, "Distributed Locks with Redis". A key of another type (somebody's read locks) is held, and never ours.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import (
    ABSENT,
    AGAINST,
    FOR,
    NO,
    YES,
    Answer,
    Command,
    LockMode,
    compared,
    heal,
    no_vote,
    of_another_type,
    taken,
)
from redlock_cluster.core.queue import Member, fence_key, name_of, side_keys
from redlock_cluster.core.replies import OK, ONE, UNFORESEEN, is_number
from redlock_cluster.core.token import Token
from redlock_cluster.lua import EXTEND, NUMBER, NUMBERED_TAKE, RELEASE, TAKE

__all__ = ["EXCLUSIVE", "FENCED", "Exclusive", "Fenced"]

_FREE: Final = Answer(AGAINST, free=True)

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


class Exclusive(LockMode):
    """One holder at a time."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """As `LockMode.name`."""
        return "exclusive"

    @property
    def shared(self) -> bool:
        """No: one holder at a time."""
        return False

    def place(self, key: bytes) -> bytes:
        """At the resource's key."""
        return key

    def waits_at(self, key: bytes) -> bytes:
        """As the lock itself."""
        return key

    @property
    def fenced(self) -> bool:
        """No: only `FENCED` is."""
        return False

    @property
    def plain(self) -> LockMode:
        """Itself."""
        return self

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, in_full: bool) -> Command:
        """`SET key token NX [GET] PX ttl`: with GET, nil says that it was granted, without it OK does."""
        get = dialect.set_nx_get
        words = _SET_NX_GET if get else _SET_NX
        data = b"".join((words, _head(key), key, _END, _head(token), token, _set_options(get, ttl_ms)))
        return data, dialect.null if get else OK

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: set; AGAINST: others hold it, by name where the server gave it."""
        if dialect.set_nx_get:
            if reply is None:
                return YES
            if isinstance(reply, bytes):
                return Answer(AGAINST, reply)
        elif reply is None:
            return NO
        elif isinstance(reply, bytes) and reply == b"OK":
            return YES
        return NO if of_another_type(reply) else no_vote(reply)

    def take(
        self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, member: Member, in_full: bool
    ) -> Command:
        """`acquire` where others may wait; as that one where we may not run scripts of the queue."""
        if not dialect.queues:
            return self.acquire(dialect, key, token, ttl_ms, floor, in_full)
        name = name_of(member.client, dialect.wakes) if member.client else b""
        exact = 1 if member.exact else 0
        words = (token, ttl_ms, name, member.order, exact, member.life_ms)
        return self._take(key, floor, in_full, *words), UNFORESEEN

    def _take(self, key: bytes, floor: int, in_full: bool, *words: bytes | int) -> bytes:
        return TAKE.call(in_full, side_keys(key), *words)

    def taken(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: 1, or 2 if others wait; AGAINST: a list of five. Without queues as `acquired`.

        Also without queues it may be a script's: that we may not run it we may have learned since.
        """
        if is_number(reply, 1) or is_number(reply, 2) or isinstance(reply, list):
            return taken(reply)
        return no_vote(reply) if dialect.queues else self.acquired(dialect, reply)

    def leave(self, dialect: Dialect, key: bytes, client: bytes, in_full: bool) -> bytes:
        """The script of the release, without a token."""
        return RELEASE.call(in_full, side_keys(key), b"", name_of(client, dialect.wakes), 1)

    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """A new ttl if the value is the token: replies OK or nil, by script 1 or 0."""
        if dialect.set_ifeq:
            return pack_command((b"SET", key, token, b"IFEQ", token, b"PX", ttl_ms)), OK
        return EXTEND.call(in_full, (key,), token, ttl_ms), ONE

    def extended(self, reply: object) -> Answer:
        """FOR: the ttl counts from now; AGAINST: the value is not the token. A script's 2: it holds a read lock."""
        return Answer(FOR, shared=True) if is_number(reply, 2) else compared(reply)

    def find(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        """`GET key`."""
        return pack_command((b"GET", key)), UNFORESEEN

    def found(self, reply: object, token: Token) -> Answer:
        """FOR: the value is the token; AGAINST: it is another one, or there is none."""
        if reply is None:
            return _FREE
        if isinstance(reply, bytes):
            return YES if reply == token else Answer(AGAINST, reply)
        return NO if of_another_type(reply) else no_vote(reply)

    def heal(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, fence: int, in_full: bool) -> Command:
        """`SET key token NX PX ttl`, unless the token is among those that were removed by force: replies 1 or 0."""
        return heal(key, token, ttl_ms, False, fence, in_full), ONE

    def healed(self, reply: object) -> Answer:
        """FOR: the value is the token; AGAINST: it is another one, or the token was removed by force."""
        return compared(reply)

    def release(self, dialect: Dialect, key: bytes, token: Token, tells: bool, in_full: bool) -> Command:
        """Deletes the key if its value is the token: replies 1 or 0, a script also 2 if others turn out to wait."""
        if in_full or (tells and dialect.queues) or dialect.compare_and_delete is None:
            return RELEASE.call(in_full, side_keys(key), token, b"", 1 if tells else 0), ONE
        if dialect.compare_and_delete == "DELIFEQ":
            return b"".join((_DELIFEQ, _head(key), key, _END, _head(token), token, _END)), ONE
        return pack_command((b"DELEX", key, b"IFEQ", token)), ONE

    def put_back(self, dialect: Dialect, key: bytes, token: Token, member: Member) -> Command:
        """The script of the release, with our place."""
        name, exact = name_of(member.client, dialect.wakes), 1 if member.exact else 0
        return RELEASE.call(False, side_keys(key), token, name, 1, member.order, exact, member.life_ms), ONE

    def released(self, reply: object) -> Answer:
        """FOR: deleted; AGAINST: the value was not the token."""
        return compared(reply)

    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        """`GET key`: nil says that it is free."""
        return pack_command((b"GET", key)), dialect.null

    def inspected(self, reply: object) -> Answer:
        """FOR: nobody holds it; AGAINST: somebody does."""
        if reply is None:
            return YES
        if isinstance(reply, bytes):
            return Answer(AGAINST, reply)
        return NO if of_another_type(reply) else no_vote(reply)


EXCLUSIVE: Final = Exclusive()


class Fenced(Exclusive):
    """The same, and each acquisition has a number."""

    __slots__ = ()

    @property
    def fenced(self) -> bool:
        """Yes."""
        return True

    @property
    def plain(self) -> LockMode:
        """The exclusive lock."""
        return EXCLUSIVE

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, in_full: bool) -> Command:
        """As `SET NX`, by script: replies 1 if it gave out `floor`."""
        return NUMBER.call(in_full, (key, fence_key(key)), token, ttl_ms, floor), ONE

    def _take(self, key: bytes, floor: int, in_full: bool, *words: bytes | int) -> bytes:
        return NUMBERED_TAKE.call(in_full, (*side_keys(key), fence_key(key)), *words, floor)

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: 1, or another number; AGAINST: the holder; ABSENT: the clock is wrong."""
        answer = taken(reply)
        if answer.vote is ABSENT and answer.ran and isinstance(reply, bytes):
            return Answer(AGAINST, reply or None)
        return answer

    def taken(self, dialect: Dialect, reply: object) -> Answer:
        """As `Exclusive.taken`."""
        return taken(reply) if isinstance(reply, list) else self.acquired(dialect, reply)


FENCED: Final = Fenced()
