"""Releases that are owed to a server: what could not be sent, or was never answered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock_cluster.core.dialect import ErrorReply, evaluate, is_number
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.votes import Token
from redlock_cluster.lua import RELEASE
from redlock_cluster.wire.connection import Connection

if TYPE_CHECKING:
    from redlock_cluster.wire.keeper import Link

__all__ = ["Debt"]

_NEVER = float("inf")


class Debt:
    """A token to be taken from one server; a sink that hears whether that was done and sees to it if not.

    answered: the server replied to the SET, so the key is gone after the ttl at the latest; else the SET may still
    land at any time, and the token is remembered until the server is reachable again
    record: the lease it was, which is told of the deletion
    """

    __slots__ = ("_in_full", "expires_at", "key", "link", "record", "token", "ttl")

    def __init__(
        self, link: Link, key: bytes, token: Token, ttl_ms: int, answered: bool, record: LeaseRecord | None = None
    ) -> None:
        self.link, self.key, self.token, self.ttl, self.record = link, key, token, ttl_ms / 1000, record
        self._in_full = False
        self.expires_at = link.clock() + self.ttl if answered else _NEVER

    def reply(self, connection: Connection, value: object) -> None:
        """Deleted, or not there: settled. NOSCRIPT: the script in full. Any other error: at the next health check."""
        if not isinstance(value, ErrorReply) or value.wrong_type:
            if self.record is not None and is_number(value, 1):
                self.record.deleted |= 1 << connection.index
            if self.expires_at == _NEVER and self.link.may_still_land:
                self._again()
        elif value.code == "NOSCRIPT" and not self._in_full:
            self._in_full = True
            connection.send(evaluate(RELEASE, self.key, self.token), self)
        else:
            self._again()

    def _again(self) -> None:
        self._in_full = False
        self.expires_at = min(self.expires_at, self.link.clock() + self.ttl)
        self.link.owe(self)

    def lost(self, connection: Connection) -> None:
        """Whether it was done is unknown: again on the next connection."""
        self._in_full = False
        self.link.owe(self)
