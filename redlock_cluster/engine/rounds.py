"""Rounds on the wire: what `core.rounds` counts, sent to the servers of one group and waited for.

A round belongs to the engine, not to the task that waits for it: when the waiter is cancelled, what was granted is
still given back, because every command for one key travels on the same connection of a server, so a release can't
overtake its SET, and what can't be sent now is owed (`engine.link`).
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hiredis import pack_command

from redlock_cluster.core.commands import ErrorReply
from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.rounds import AcquireRound, CompareRound
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.votes import Verdict
from redlock_cluster.engine.connection import Connection
from redlock_cluster.engine.debts import Debt

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group

__all__ = ["LOST_REPLY", "Attempt", "Inspection", "Round", "Votes", "Waiter"]

LOST_REPLY = "the connection broke before the reply"

Votes = TypeVar("Votes", bound=AcquireRound | CompareRound)


class Waiter(Protocol):
    """Who waits for the end of a round; a future, for example."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: None, /) -> None:
        """The round has ended."""


class _Both:
    """Two waiters as one."""

    __slots__ = ("_waiters",)

    def __init__(self, *waiters: Waiter) -> None:
        self._waiters = waiters

    def done(self) -> bool:
        return all(waiter.done() for waiter in self._waiters)

    def set_result(self, result: None, /) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


class Round(ABC, Generic[Votes]):
    """A round in flight: a sink for replies, and those who wait for its end.

    votes: counts what the servers say; patience: seconds it waits for them; started: engine time before the first byte
    """

    __slots__ = ("_waiter", "decided", "group", "lane", "patience", "started", "votes")

    def __init__(self, group: Group, key: bytes, votes: Votes, patience: float) -> None:
        self.group = group
        self.votes = votes
        self.patience = patience
        self.lane = group.lane(key)
        self.started = group.clock()
        self.decided = False
        self._waiter: Waiter | None = None

    def ended(self) -> asyncio.Future[None]:
        """Done when the round, which is not decided yet, is; cancelling it leaves the round running."""
        waiter: asyncio.Future[None] = self.group.loop.create_future()
        self.add_waiter(waiter)
        return waiter

    async def wait(self) -> None:
        """Returns when the round is decided; cancelling it leaves the round running."""
        if not self.decided:
            await self.ended()

    def add_waiter(self, waiter: Waiter) -> None:
        """Has somebody told when the round, which is not decided yet, is."""
        self._waiter = waiter if self._waiter is None else _Both(self._waiter, waiter)

    def abandon(self) -> None:
        """Nobody wants the outcome any more; the round goes on."""

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""
        votes = self.votes
        return votes.everyone & ~(votes.granted | votes.against | votes.absent)

    @abstractmethod
    def reply(self, connection: Connection, value: object) -> None:
        """Counts a server's reply."""

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT."""
        if self._miss(connection.index, LOST_REPLY):
            self._progress()

    def expire(self) -> None:
        """The deadline has passed: who has not voted is ABSENT, and if it had the full time, silent."""
        outstanding = self.outstanding
        progress = False
        for link in self.lane.links:
            if outstanding >> link.index & 1:
                link.overdue(self.patience)
                progress |= self.votes.miss(link.index, "no answer in time")
        if progress:
            self._progress()

    def _miss(self, index: int, why: str) -> bool:
        return self.votes.miss(index, why)

    @abstractmethod
    def _progress(self) -> None:
        """The votes have reached a turning point."""

    def _sent(self) -> None:
        """Everything was queued: it is written, and waited for."""
        self.group.outbox.end_round()
        self.group.deadlines.add(self.started + self.patience, self)

    def _decide(self) -> None:
        self.decided = True
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class Attempt(Round[AcquireRound]):
    """One attempt to acquire: its token, its votes, and the lease if it wins."""

    __slots__ = ("key", "lease", "resource", "sent", "terms", "token")

    def __init__(self, group: Group, resource: Resource, key: bytes, terms: Terms, at_most: float = math.inf) -> None:
        super().__init__(group, key, AcquireRound(group.size), terms.patience if terms.patience < at_most else at_most)
        self.resource, self.key, self.terms = resource, key, terms
        self.token = group.new_token()
        self.lease: LeaseRecord | None = None
        self.sent = 0

    def begin(self) -> Attempt:
        """SET to every server that can answer, all in this turn of the loop; to none if they can't make a quorum."""
        lane, votes = self.lane, self.votes
        for link in lane.unusable:
            votes.miss(link.index, link.absence())
        if votes.verdict is not None:
            self._decide()
            return self
        self.sent = lane.usable
        for part in lane.parts:
            part.send(part.dialect.acquire(self.key, self.token, self.terms.ttl_ms), self)
        self._sent()
        return self

    def reply(self, connection: Connection, value: object) -> None:
        """Counts a vote; once the round is decided, a late grant only adds to `held_on`."""
        dialect = connection.dialect
        if value == dialect.granted:
            if self.votes.grant(connection.index):
                self._progress()
            return
        if value is not None and type(value) is not bytes:
            self._odd(connection, value)
        if self.votes.count(connection.index, value, dialect.names_holder):
            self._progress()

    def _odd(self, connection: Connection, value: object) -> None:
        """An error that proves that the SET did not run leaves nothing to give back there."""
        if not isinstance(value, ErrorReply):
            connection.abort("an unexpected reply: the connection is out of step")
        elif value.refused:
            self.sent &= ~(1 << connection.index)
            if self.lease is not None:
                self.lease.sent &= ~(1 << connection.index)

    def _progress(self) -> None:
        if self.decided:
            return
        verdict = self.votes.verdict
        if verdict is Verdict.WON:
            valid_until = self.started + self.terms.validity
            self.lease = LeaseRecord(self.resource, self.key, self.token, self.terms.ttl_ms, valid_until, self.sent)
            self.lease.acquired = self.votes
        else:
            self._give_back()
        if verdict is not None:
            self._decide()

    def abandon(self) -> None:
        """Nobody wants the outcome any more: gives back what was or may still be granted."""
        if not self.decided or self.lease is not None:
            self.decided = True
            self.lease = None
            self._give_back()

    def _give_back(self) -> None:
        """Releases the token on every server that was sent the SET, once."""
        sent, self.sent = self.sent, 0
        answered = self.votes.answered
        for link in self.lane.links:
            if sent >> link.index & 1:
                link.release(Debt(link, self.key, self.token, self.terms.ttl_ms, bool(answered >> link.index & 1)))


class Inspection(Round[AcquireRound]):
    """Asks every server who holds a key. Nobody counts as a grant: WON means that it is free on a quorum."""

    __slots__ = ()

    def begin(self, key: bytes) -> Inspection:
        """GET to every server that can answer."""
        command = pack_command((b"GET", key))
        for link in self.lane.unusable:
            self.votes.miss(link.index, link.absence())
        for part in self.lane.parts:
            part.send(command, self)
        self._progress()
        self._sent()
        return self

    def reply(self, connection: Connection, value: object) -> None:
        """Counts who holds it."""
        if self.votes.count(connection.index, value, names_holder=True):
            self._progress()

    def _progress(self) -> None:
        if self.votes.verdict is not None and not self.decided:
            self._decide()
