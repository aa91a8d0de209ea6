"""The read lock: a sorted set at the key of the exclusive lock, which holds a token for each reader.

    acquire   lua/read.lua, in no queue
    take      lua/read.lua
    extend    lua/extend.lua
    release   lua/release.lua
    leave     lua/release.lua
    find      lua/find.lua
    heal      lua/heal.lua
    inspect   GET key

So readers and whoever holds the lock alone exclude each other by the type of the key, other libraries' locks among
them. A reader's token has its own end as its score, by the server's clock, and the key ends with the last of them.
Source: POSIX Threads, `pthread_rwlock_rdlock`, where writers that wait go before readers that come later.
"""

from __future__ import annotations

from typing import Final

from hiredis import pack_command

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.mode import (
    AGAINST,
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
from redlock_cluster.core.queue import NOBODY, Member, fence_key, name_of, side_keys
from redlock_cluster.core.replies import ONE, TWO, UNFORESEEN, is_number
from redlock_cluster.core.token import Token
from redlock_cluster.lua import EXTEND, FIND, NUMBERED_READ, READ, RELEASE

__all__ = ["FENCED_READER", "READER", "FencedReader", "Reader"]

_FREE: Final = Answer(AGAINST, free=True)


class Reader(LockMode):
    """Many at a time, while nobody holds the lock alone."""

    __slots__ = ()

    @property
    def name(self) -> str:
        """As `LockMode.name`."""
        return "read"

    @property
    def shared(self) -> bool:
        """Yes: many at a time."""
        return True

    @property
    def fenced(self) -> bool:
        """No: only `FENCED_READER` is."""
        return False

    @property
    def plain(self) -> LockMode:
        """Itself."""
        return self

    def place(self, key: bytes) -> bytes:
        """At the resource's key."""
        return key

    def waits_at(self, key: bytes) -> bytes:
        """As the lock itself."""
        return key

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, in_full: bool) -> Command:
        """Adds the token, unless somebody holds the lock alone or waits for that."""
        return self._read(key, in_full, token, ttl_ms, b"", b"", 0, 0), ONE

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        """FOR: 1, or 2 if others wait; AGAINST: a list of five."""
        return taken(reply)

    def take(
        self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, member: Member, in_full: bool
    ) -> Command:
        """The same by its place in the queue, which lets those before it go first alone."""
        if member is NOBODY:
            return self.acquire(dialect, key, token, ttl_ms, floor, in_full)
        name = name_of(member.client, dialect.wakes, reads=True) if member.client and dialect.queues else b""
        exact = 1 if member.exact else 0
        return self._read(key, in_full, token, ttl_ms, name, member.order, exact, member.life_ms), UNFORESEEN

    def _read(self, key: bytes, in_full: bool, *words: bytes | int) -> bytes:
        return READ.call(in_full, side_keys(key), *words)

    def taken(self, dialect: Dialect, reply: object) -> Answer:
        """As `acquired`."""
        return taken(reply)

    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        """A new score, and perhaps a new end of the key: replies 2, or 0 if the token's time was over."""
        return EXTEND.call(in_full, (key,), token, ttl_ms), TWO

    def extended(self, reply: object) -> Answer:
        """FOR: the ttl counts from now; AGAINST: the token holds no read lock."""
        return compared(reply)

    def find(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        """Looks for the token, and whether its time is over."""
        return FIND.call(in_full, (key,), token), ONE

    def found(self, reply: object, token: Token) -> Answer:
        """FOR: 1; AGAINST: 2 where it could be added, else 0."""
        if is_number(reply, 1):
            return YES
        if is_number(reply, 2):
            return _FREE
        return NO if is_number(reply, 0) else no_vote(reply)

    def heal(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, fence: int, in_full: bool) -> Command:
        """Adds the token, unless it is among those that were removed by force: replies 1 or 0."""
        return heal(key, token, ttl_ms, True, fence, in_full), ONE

    def healed(self, reply: object) -> Answer:
        """FOR: the token is there; AGAINST: somebody holds the lock alone, or the token was removed by force."""
        return compared(reply)

    def release(self, dialect: Dialect, key: bytes, token: Token, tells: bool, in_full: bool) -> Command:
        """Removes the token, and tells who waits if it was the last: replies 1 or 0."""
        return RELEASE.call(in_full, side_keys(key), token, b"", b"r"), ONE

    def put_back(self, dialect: Dialect, key: bytes, token: Token, member: Member) -> Command:
        """The script of the release, with our place."""
        name, exact = name_of(member.client, dialect.wakes, reads=True), 1 if member.exact else 0
        return RELEASE.call(False, side_keys(key), token, name, b"r", member.order, exact, member.life_ms), ONE

    def released(self, reply: object) -> Answer:
        """FOR: removed; AGAINST: it was not there."""
        return compared(reply)

    def leave(self, dialect: Dialect, key: bytes, client: bytes, in_full: bool) -> bytes:
        """The script of the release, without a token."""
        return RELEASE.call(in_full, side_keys(key), b"", name_of(client, dialect.wakes, reads=True), 1)

    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        """`GET key`: nil says that it is free."""
        return pack_command((b"GET", key)), dialect.null

    def inspected(self, reply: object) -> Answer:
        """FOR: nobody holds it alone; AGAINST: somebody does."""
        if reply is None or of_another_type(reply):
            return YES
        return Answer(AGAINST, reply) if isinstance(reply, bytes) else no_vote(reply)


READER: Final = Reader()


class FencedReader(Reader):
    """The same, which also hears the number of who last held the lock alone."""

    __slots__ = ()

    @property
    def fenced(self) -> bool:
        """Yes."""
        return True

    @property
    def plain(self) -> LockMode:
        """The read lock."""
        return READER

    def _read(self, key: bytes, in_full: bool, *words: bytes | int) -> bytes:
        return NUMBERED_READ.call(in_full, (*side_keys(key), fence_key(key)), *words)

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, floor: int, in_full: bool) -> Command:
        """As `Reader.acquire`; any number may come."""
        return Reader.acquire(self, dialect, key, token, ttl_ms, floor, in_full)[0], UNFORESEEN


FENCED_READER: Final = FencedReader()
