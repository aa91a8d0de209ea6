"""How a client leaves a server's queue for a lock, when nobody of it waits there any more.

Nobody waits for that. Where it can't be sent, or the reply was lost, it stays pending until servers have forgotten the
queue by themselves.
"""

from __future__ import annotations

from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.engine.group import Group
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Leave"]


class Leave:
    """A `Pending`: one client's place in one server's queue for a lock, to be left.

    group, keeper: of the server's connection that the key uses
    key, mode: which lock

    expires_at: engine time when the server has forgotten the queue
    """

    __slots__ = ("_group", "_in_full", "_mode", "bare", "expires_at", "keeper", "key")

    def __init__(self, group: Group, keeper: Keeper, key: bytes, mode: LockMode) -> None:
        self._group, self.keeper, self.key, self._mode, self._in_full = group, keeper, key, mode, False
        self.bare = False
        self.expires_at = group.clock() + group.queue_ttl

    @property
    def name(self) -> tuple[bytes, bytes]:
        """Of the lock and the member."""
        return self.key, self._mode.name.encode() + self._group.tokens.client

    @property
    def size(self) -> int:
        """Bytes that it takes while it waits, about."""
        return len(self.key) + 300

    def begin(self) -> None:
        """Leave: now, or when the server can be asked again."""
        connection = self.keeper.connection
        if connection is None:
            self._wait()
        else:
            self.send(connection)

    def _wait(self) -> None:
        self._in_full = False
        self._group.pending.add(self)

    def send(self, connection: Connection) -> None:
        """Send it, unless somebody of this client waits there again."""
        line, dialect = self._group.line_of(self.key, self._mode), connection.dialect
        if not dialect.queues or (line is not None and line.joined >> self.keeper.index & 1):
            return
        if connection.full:
            self._wait()
        else:
            connection.send(self._mode.leave(dialect, self.key, self._group.tokens.client, self._in_full), self)

    def reply(self, connection: Connection, value: object) -> None:
        """Once more if the server did not know the script."""
        if isinstance(value, ErrorReply) and value.code == "NOSCRIPT" and not self._in_full:
            self._in_full = True
            self.send(connection)

    def lost(self, connection: Connection) -> None:
        """Whether it has left is not known: again on the next connection."""
        self._wait()
