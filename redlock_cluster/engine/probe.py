"""Probes: whether a server that refused something does it again.

A lock of the supervisor's own is taken, extended and given back on that server alone. It is sent only to servers that
refuse something, so it costs nothing while none does.
"""

from __future__ import annotations

from collections.abc import Callable

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.mode import BY_SCRIPT, EXTENDED_BY_SCRIPT, Command, LockMode
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.token import Token
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper

__all__ = ["probe"]


def probe(keeper: Keeper, connection: Connection, mode: LockMode, key: bytes, token: Token, ttl_ms: int) -> None:
    """Have a server take, extend and give back a lock; its keeper learns what is refused.

    connection: the keeper's
    mode: which kind of lock
    key: one that no resource has
    token: a new one
    ttl_ms: how long the server keeps it if it can't be given back, milliseconds
    """
    _Step(keeper, "acquire", lambda d, full: mode.acquire(d, key, token, ttl_ms, 0, full)).send(connection, False)
    extend = _Step(keeper, "extend", lambda d, full: mode.extend(d, key, token, ttl_ms, full), EXTENDED_BY_SCRIPT)
    extend.send(connection, False)
    _Step(keeper, "release", lambda d, full: mode.release(d, key, token, False, full)).send(connection, False)


class _Step:
    """One command of a probe. Whoever holds the key: that the server says so is a vote, and so an answer."""

    __slots__ = ("_by_script", "_command", "_in_full", "_keeper", "_kind")

    def __init__(
        self,
        keeper: Keeper,
        kind: str,
        command: Callable[[Dialect, bool], Command],
        by_script: frozenset[str] = BY_SCRIPT,
    ) -> None:
        self._keeper, self._kind, self._command, self._by_script = keeper, kind, command, by_script
        self._in_full = False

    def send(self, connection: Connection, in_full: bool) -> None:
        """Send it; in_full: scripts by their source."""
        self._in_full = in_full
        connection.send(self._command(SCRIPTED if in_full else connection.dialect, in_full)[0], self)

    def reply(self, connection: Connection, value: object) -> None:
        """As a `Round` of that kind does."""
        if isinstance(value, ErrorReply) and value.code in self._by_script and not self._in_full:
            self.send(connection, True)
        else:
            self._keeper.note_reply(connection, self._kind, value)

    def lost(self, connection: Connection) -> None:
        """The next connection is probed anew."""
