"""Rounds on the wire: what `core.rounds` counts, sent to the servers of one group and waited for.

A round belongs to the engine, not to the task that waits for it: when the waiter is cancelled, what was granted is
still given back, because every command for one key travels on the same connection of a server, so a release can't
overtake its SET, and what can't be sent now is owed (`engine.link`).
"""

from __future__ import annotations

import asyncio
import math
from abc import abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Final, Protocol

from hiredis import pack_command

from redlock_cluster.core.commands import ErrorReply
from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.rounds import AcquireRound, Tally
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.votes import Verdict
from redlock_cluster.engine.connection import Connection
from redlock_cluster.engine.debts import Debt

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group
    from redlock_cluster.engine.lanes import Lane

__all__ = ["LOST_REPLY", "SLOTS", "Attempt", "Inspection", "Round", "Waiter"]

LOST_REPLY = "the connection broke before the reply"


class Waiter(Protocol):
    """Who waits for the end of a round; a future, for example."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: None, /) -> None:
        """The round has ended."""


class _Several:
    """Several waiters as one."""

    __slots__ = ("_waiters",)

    def __init__(self, *waiters: Waiter) -> None:
        self._waiters = [*waiters]

    def add(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _nothing() -> Generator[object, None, None]:
    return
    yield


class Round(Tally):
    """A round in flight: counts votes, is the sink for replies, and tells those who wait for its end.

    lane: the connections that carry its key; patience: seconds it waits for votes
    started: engine time before the first byte; decided: it has ended, though votes may still come
    """

    if not TYPE_CHECKING:  # a base beside another one with slots can have none itself; SLOTS are for its heirs
        __slots__ = ()

    group: Group
    lane: Lane
    patience: float
    started: float
    decided: bool
    _waiter: Waiter | None

    def _enter(self, group: Group, key: bytes, patience: float) -> None:
        self.group, self.patience = group, patience
        self.lane = group.lane(key)
        self.started = group.clock()
        self.decided = False
        self._waiter = None

    def __await__(self) -> Generator[object, None, None]:
        """Waits until the round is decided; cancelling that leaves the round running."""
        return _nothing() if self.decided else self.ended().__await__()

    def ended(self) -> asyncio.Future[None]:
        """Done when the round, which is not decided yet, is; cancelling it leaves the round running."""
        waiter: asyncio.Future[None] = self.group.loop.create_future()
        self.add_waiter(waiter)
        return waiter

    def add_waiter(self, waiter: Waiter) -> None:
        """Has somebody told when the round, which is not decided yet, is."""
        if self._waiter is None:
            self._waiter = waiter
        elif isinstance(self._waiter, _Several):
            self._waiter.add(waiter)
        else:
            self._waiter = _Several(self._waiter, waiter)

    def abandon(self) -> None:
        """Nobody wants the outcome any more; the round goes on."""

    @abstractmethod
    def reply(self, connection: Connection, value: object) -> None:
        """Counts a server's reply."""

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT."""
        if self._lose(connection.index, LOST_REPLY):
            self._progress()

    def expire(self) -> None:
        """The deadline has passed: who has not voted is ABSENT, and if it had the full time, silent."""
        outstanding = self.outstanding
        progress = False
        for link in self.lane.links:
            if outstanding >> link.index & 1:
                link.overdue(self.patience)
                progress |= self.miss(link.index, "no answer in time")
        if progress:
            self._progress()

    def _lose(self, index: int, why: str) -> bool:
        return self.miss(index, why)

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


SLOTS: Final = ("_waiter", "decided", "group", "lane", "patience", "started")


class Attempt(AcquireRound, Round):
    """One attempt to acquire: its token, its votes, and the lease if it wins, until somebody takes it."""

    __slots__ = (*SLOTS, "key", "lease", "resource", "sent", "terms", "token")

    def __init__(self, group: Group, resource: Resource, key: bytes, terms: Terms, at_most: float = math.inf) -> None:
        AcquireRound.__init__(self, group.size)
        self._enter(group, key, terms.patience if terms.patience < at_most else at_most)
        self.resource, self.key, self.terms = resource, key, terms
        self.token = group.new_token()
        self.lease: LeaseRecord | None = None
        self.sent = 0

    def begin(self) -> Attempt:
        """SET to every server that can answer, all in this turn of the loop; to none if they can't make a quorum."""
        lane = self.lane
        if lane.unusable and self.leave_out(lane.unusable, lane.why) and self.verdict is not None:
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
            if self.grant(connection.index):
                self._progress()
            return
        if value is not None and type(value) is not bytes and not isinstance(value, ErrorReply):
            connection.abort("an unexpected reply: the connection is out of step")
        if self.count(connection.index, value, dialect.names_holder):
            self._progress()

    def _progress(self) -> None:
        if self.decided:
            return
        verdict = self.verdict
        if verdict is Verdict.WON:
            valid_until = self.started + self.terms.validity
            self.lease = LeaseRecord(self.resource, self.key, self.token, self.terms.ttl_ms, valid_until, self.sent)
            self.lease.acquired = self
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
        sent, self.sent = self.sent & ~self.declined, 0
        answered = self.answered
        for link in self.lane.links:
            if sent >> link.index & 1:
                link.release(Debt(link, self.key, self.token, self.terms.ttl_ms, bool(answered >> link.index & 1)))


class Inspection(AcquireRound, Round):
    """Asks every server who holds a key. Nobody counts as a grant: WON means that it is free on a quorum."""

    __slots__ = SLOTS

    def __init__(self, group: Group, key: bytes, patience: float) -> None:
        AcquireRound.__init__(self, group.size, patient=True)
        self._enter(group, key, patience)

    def begin(self, key: bytes) -> Inspection:
        """GET to every server that can answer."""
        command = pack_command((b"GET", key))
        if self.lane.unusable:
            self.leave_out(self.lane.unusable, self.lane.why)
        for part in self.lane.parts:
            part.send(command, self)
        self._progress()
        self._sent()
        return self

    def reply(self, connection: Connection, value: object) -> None:
        """Counts who holds it."""
        if self.count(connection.index, value, names_holder=True):
            self._progress()

    def _progress(self) -> None:
        if self.verdict is not None and not self.decided:
            self._decide()
