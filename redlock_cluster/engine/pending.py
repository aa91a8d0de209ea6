"""Pending releases: tokens that must still be taken from a server that was away.

A release that can't be sent now, or whose reply was lost, stays pending, so that a lock of which the caller let go is
not left behind on a server. It is sent on the server's next connection, after its predecessors were killed and before
anything else. The token of a lease that lives is never pending.
"""

from __future__ import annotations

from itertools import islice
from typing import Final

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import FOR, LockMode
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.token import Token
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Clock

__all__ = ["PendingRelease", "PendingReleases"]

_NEVER: Final = float("inf")


class PendingRelease:
    """One token to be taken from one server; hears whether that was done and sees to it if not.

    owner: where it waits
    keeper: of the server's connection that the key uses
    key, token, mode: what is to be released
    ttl_ms: milliseconds that the server keeps it at most
    answered: the server has answered the acquisition, so the key is gone after the ttl at the latest. Otherwise the
        acquisition may still be executed at any time, and the token is remembered until the server is there again
    record: the lease that it was, which learns of the deletion

    expires_at: engine time after which nothing needs to be done
    """

    __slots__ = ("_in_full", "_owner", "_record", "_ttl", "expires_at", "keeper", "key", "mode", "token")

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
    ) -> None:
        self._owner, self.keeper, self.key, self.token, self.mode = owner, keeper, key, token, mode
        self._ttl, self._record, self._in_full = ttl_ms / 1000, record, False
        self.expires_at = owner.clock() + self._ttl if answered else _NEVER

    def release(self) -> None:
        """Take the token from the server: now, or when it can be asked again."""
        connection = self.keeper.connection
        if connection is None:
            self.wait()
        else:
            self.send(connection)

    def wait(self) -> None:
        """Take the token from the server when it can be asked again."""
        self._owner.add(self)

    def send(self, connection: Connection) -> None:
        """Send it on this connection, if that is not full."""
        if connection.full:
            self.wait()
            return
        connection.send(self.mode.release(connection.dialect, self.key, self.token, self._in_full)[0], self)

    def reply(self, connection: Connection, value: object) -> None:
        """Released, or not there: settled. NOSCRIPT: the script in full. Other errors: at the next health check."""
        self.keeper.note_reply(connection, "release", value)
        if isinstance(value, ErrorReply) and not value.wrong_type:
            if value.code == "NOSCRIPT" and not self._in_full:
                self._in_full = True
                self.send(connection)
            else:
                self._again()
            return
        if self._record is not None and self.mode.released(value).vote is FOR:
            self._record.note_deleted(1 << connection.index)
        if self.expires_at == _NEVER and self.keeper.may_still_land:
            self._again()

    def _again(self) -> None:
        self._in_full = False
        self.expires_at = min(self.expires_at, self._owner.clock() + self._ttl)
        self._owner.add(self)

    def lost(self, connection: Connection) -> None:
        """Whether it was done is not known: again on the next connection."""
        self._in_full = False
        self._owner.add(self)


class PendingReleases:
    """Those of all servers of one engine.

    clock: the engine's
    """

    __slots__ = ("_by_keeper", "clock")

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._by_keeper: dict[Keeper, dict[tuple[bytes, Token], PendingRelease]] = {}

    def new(
        self,
        keeper: Keeper,
        key: bytes,
        token: Token,
        mode: LockMode,
        ttl_ms: int,
        answered: bool,
        record: LeaseRecord | None,
    ) -> PendingRelease:
        """A token to be taken from a server, which is neither sent nor remembered yet. Arguments as for its class."""
        return PendingRelease(self, keeper, key, token, mode, ttl_ms, answered, record)

    def add(self, pending: PendingRelease) -> None:
        """Remember it; one for the same token replaces an older one."""
        self._by_keeper.setdefault(pending.keeper, {})[pending.key, pending.token] = pending

    def settle(self, keeper: Keeper, connection: Connection | None, most: int | None = None) -> None:
        """Send what is pending on a server's connection, if there is one: all of it, or the oldest so many."""
        waiting = self._by_keeper.get(keeper)
        if not waiting:
            return
        now = self.clock()
        for name in [name for name, pending in waiting.items() if pending.expires_at <= now]:
            del waiting[name]
        if connection is not None:
            for name in list(islice(waiting, most)):
                waiting.pop(name).send(connection)

    def count(self, keepers: tuple[Keeper, ...]) -> int:
        """How many wait for these connections."""
        return sum(len(self._by_keeper.get(keeper, ())) for keeper in keepers)
