"""Pending releases: tokens that must still be taken from a server that was away.

A release that can't be sent now, or whose reply was lost, stays pending, so that a lock of which the caller let go is
not left behind on a server. It is sent on the server's next connection, after its predecessors were killed and before
anything else. The token of a lease that lives is never pending. So does a place in a queue where nobody waits any more.

Leases and attempts of this engine are as many as its users had under way. Bare tokens are as many as users can name. So
those that wait for one connection take MOST_BYTES at most, and the oldest make room: their keys have had the longest
time to expire by themselves.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from itertools import chain, islice
from typing import Final, Protocol

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import FOR, LockMode
from redlock_cluster.core.queue import Member
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.text import cut
from redlock_cluster.core.token import Token
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Clock

__all__ = ["AT_ONCE", "BYTES_AT_ONCE", "MOST_BYTES", "Pending", "PendingRelease", "PendingReleases"]

_log = logging.getLogger(__name__)

MOST_BYTES = 8 << 20
"""What the bare tokens that wait for one connection may take: some 16,000 with short keys."""

AT_ONCE = 1000
"""Releases that are looked at in one turn of the loop, which takes some milliseconds."""

BYTES_AT_ONCE = 1 << 20
"""The same of what they say: names may be long."""

_NEVER: Final = float("inf")
_OVERHEAD: Final = 450  # bytes of memory that one takes besides its key and its token


class Pending(Protocol):
    """What is still to be taken from one server.

    keeper: of the server's connection that the key uses
    bare: this engine knows nothing else of it, so it may be dropped
    expires_at: engine time after which nothing needs to be done
    """

    keeper: Keeper
    bare: bool
    expires_at: float

    @property
    def name(self) -> tuple[bytes, bytes]:
        """The lock's key, and whose claim on it: one replaces an older one of the same name."""

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits."""

    def send(self, connection: Connection) -> None:
        """Send it on this connection."""


class PendingRelease:
    """One token to be taken from one server; hears whether that was done and sees to it if not.

    owner: where it waits
    keeper: of the server's connection that the key uses
    key, token, mode: what is to be released
    ttl_ms: milliseconds that the server keeps it at most
    answered: the server has answered the acquisition, so the key is gone after the ttl at the latest. Otherwise the
        acquisition may still be executed at any time, and the token is remembered until the server is there again
    record: the lease that it was, which learns of the deletion
    bare: this engine knows the token alone
    tells: those who wait for the lock are told
    stays: who stands in the queue again if this can be sent now; else it comes again by itself

    expires_at: engine time after which nothing needs to be done
    """

    __slots__ = (
        "_in_full",
        "_owner",
        "_record",
        "_stays",
        "_tells",
        "_ttl",
        "bare",
        "expires_at",
        "keeper",
        "key",
        "mode",
        "token",
    )

    def __init__(
        self,
        owner: PendingReleases,
        keeper: Keeper,
        key: bytes,
        token: Token,
        mode: LockMode,
        ttl_ms: int,
        answered: bool,
        record: LeaseRecord | None,
        bare: bool = False,
        tells: bool = False,
        stays: Member | None = None,
    ) -> None:
        self._owner, self.keeper, self.key, self.token, self.mode = owner, keeper, key, token, mode
        self.bare, self._tells, self._stays = bare, tells, stays
        self._ttl, self._record, self._in_full = ttl_ms / 1000, record, False
        self.expires_at = owner.clock() + self._ttl if answered else _NEVER

    @property
    def name(self) -> tuple[bytes, bytes]:
        """Of the lock and the token."""
        return self.key, self.token

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits."""
        return len(self.key) + len(self.token) + _OVERHEAD

    def release(self) -> None:
        """Take the token from the server: now, or when it can be asked again."""
        connection = self.keeper.connection
        if connection is None:
            self.wait()
        else:
            self.send(connection)

    def wait(self) -> None:
        """Take the token from the server when it can be asked again."""
        self._in_full, self._stays = False, None
        self._owner.add(self)

    def send(self, connection: Connection) -> None:
        """Send it on this connection, if that is not full."""
        if connection.full:
            self.wait()
            return
        mode, dialect, stays = self.mode, connection.dialect, self._stays
        if stays is not None and dialect.queues:
            words = mode.put_back(dialect, self.key, self.token, stays)
        else:
            words = mode.release(dialect, self.key, self.token, self._tells, self._in_full)
        connection.send(words[0], self)

    def reply(self, connection: Connection, value: object) -> None:
        """Released, or not there: settled. NOSCRIPT: the script in full. Other errors: at the next health check.

        A bare token may be a reader's: where the key is of another type, the script follows, which knows all kinds.
        """
        self.keeper.note_reply(connection, "release", value)
        if isinstance(value, ErrorReply) and (self.bare or not value.wrong_type):
            if (value.code == "NOSCRIPT" or value.wrong_type) and not self._in_full:
                self._in_full, self._stays = True, None  # who waits may have gone by now; else it comes again by itself
                self.send(connection)
            else:
                self._again()
            return
        if self._record is not None and self.mode.released(value).vote is FOR:
            self._record.note_deleted(1 << connection.index)
        if self.expires_at == _NEVER and self.keeper.may_still_land:
            self._again()

    def _again(self) -> None:
        self.expires_at = min(self.expires_at, self._owner.clock() + self._ttl)
        self.wait()

    def lost(self, connection: Connection) -> None:
        """Whether it was done is not known: again on the next connection."""
        self.wait()


class _Waiting:
    """What waits for one keeper's connection, the oldest first.

    known: of leases and attempts of this engine
    bare: tokens of which it knows nothing else
    size: bytes that these take
    dropped: how many of these have made room for others
    """

    __slots__ = ("bare", "dropped", "known", "size", "told")

    def __init__(self) -> None:
        self.known: dict[tuple[bytes, bytes], Pending] = {}
        self.bare: OrderedDict[tuple[bytes, bytes], Pending] = OrderedDict()
        self.size = self.dropped = 0
        self.told = False

    def put(self, pending: Pending) -> None:
        """Add one, in the place of an older one of the same name."""
        name = pending.name
        if not pending.bare:
            self.known[name] = pending
            return
        if name not in self.bare:
            self.size += pending.size
        self.bare[name] = pending
        while self.size > MOST_BYTES:
            _, oldest = self.bare.popitem(last=False)
            self.size -= oldest.size
            self.dropped += 1
            self._tell(oldest.keeper)

    def take(self, pending: Pending) -> None:
        """Take one out."""
        name = pending.name
        if pending.bare:
            del self.bare[name]
            self.size -= pending.size
            self.told = self.told and bool(self.bare)
        else:
            del self.known[name]

    def _tell(self, keeper: Keeper) -> None:
        """Log that some are dropped, once until there is room again."""
        if not self.told:
            self.told = True
            text = "more releases by token wait for %s than are kept: the oldest keys stay there until their ttl"
            _log.warning(text, cut(keeper.name))

    def __len__(self) -> int:
        return len(self.known) + len(self.bare)


class PendingReleases:
    """Those of all servers of one engine.

    clock: the engine's
    """

    __slots__ = ("_by_keeper", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._by_keeper: dict[Keeper, _Waiting] = {}

    def add(self, pending: Pending) -> None:
        """Remember it; it replaces an older one of the same name."""
        self._by_keeper.setdefault(pending.keeper, _Waiting()).put(pending)

    def settle(self, keeper: Keeper, connection: Connection | None) -> int:
        """Send what is pending on a server's connection, if there is one, and forget what has expired.

        Looks at the oldest AT_ONCE, those of leases and attempts first. Returns how many that were; 0 if the connection
        is full.
        """
        waiting = self._by_keeper.get(keeper)
        if waiting is None or not len(waiting) or (connection is not None and connection.full):
            return 0
        now, size, looked_at = self.clock(), 0, 0
        for pending in list(islice(chain(waiting.known.values(), waiting.bare.values()), AT_ONCE)):
            waiting.take(pending)
            looked_at += 1
            if pending.expires_at > now:
                if connection is None:
                    waiting.put(pending)  # behind the others, so that those are looked at next
                    continue
                pending.send(connection)
                size += pending.size
                if size > BYTES_AT_ONCE:
                    break
        return looked_at

    def count(self, keepers: tuple[Keeper, ...]) -> int:
        """How many wait for these connections."""
        return sum(len(self._by_keeper[keeper]) for keeper in keepers if keeper in self._by_keeper)

    def dropped(self, keepers: tuple[Keeper, ...]) -> int:
        """How many bare tokens that waited for these connections have made room for others."""
        return sum(self._by_keeper[keeper].dropped for keeper in keepers if keeper in self._by_keeper)
