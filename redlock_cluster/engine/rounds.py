"""Rounds on the wire: what `core.rounds` counts, sent to the servers of one group and waited for.

A round belongs to the engine, not to the task that waits for it: when the waiter is cancelled, what was granted is
still given back, because every command for one key travels on the same connection of a server, so a release can't
overtake its SET, and what can't be sent now is owed (`engine.link`).
"""

from __future__ import annotations

import asyncio
import math
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from hiredis import pack_command

from redlock_cluster.core.commands import Dialect, ErrorReply
from redlock_cluster.core.leases import LeaseRecord
from redlock_cluster.core.names import Resource
from redlock_cluster.core.rounds import AcquireRound, Tally
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.votes import ServerVote, Verdict
from redlock_cluster.engine.connection import Connection
from redlock_cluster.engine.debts import Debt
from redlock_cluster.engine.volleys import Volley

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group
    from redlock_cluster.engine.lanes import Lane

__all__ = ["LOST_REPLY", "Attempt", "Inspection", "Round", "Waiter"]

T = TypeVar("T", bound=Tally)

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


class Round(ABC, Generic[T]):
    """A round in flight: is the sink for replies and tells those who wait for its end.

    lane: the connections that carry its key; patience: seconds it waits for votes
    started: engine time before the first byte; decided: it has ended, though votes may still come
    volley: what it left in together with others; offset: its place there. While every vote in it is FOR the volley
    counts them, and the round has no tally of its own.
    """

    __slots__ = ("_tally", "_waiter", "decided", "group", "key", "lane", "offset", "patience", "started", "volley")

    def __init__(self, group: Group, key: bytes, patience: float) -> None:
        self.group, self.key, self.patience = group, key, patience
        self.lane: Lane = group.lane(key)
        self.decided = False
        self.volley: Volley | None = None
        self.offset = 0
        self._tally: T | None = None
        self._waiter: Waiter | None = None

    # --- who waits for it ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[object, None, None]:
        """Waits until the round is decided; cancelling that leaves the round running."""
        if self.decided:
            return _nothing()
        if self._waiter is not None:
            return self.ended().__await__()
        waiter: asyncio.Future[None] = self.group.loop.create_future()
        self._waiter = waiter
        return waiter.__await__()

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

    def tell(self) -> None:
        """The round is decided: who waits for it hears so."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # --- sending it ------------------------------------------------------------------------------------------------

    @abstractmethod
    def command(self, dialect: Dialect) -> tuple[bytes, object]:
        """The packed command in a server's dialect, and what it is answered with if the server does it."""

    def _start_alone(self, tally: T) -> T:
        """Is sent to servers one by one, so it counts its votes itself."""
        self._tally = tally
        self.started = self.group.clock()
        self.group.deadlines.add(self.started + self.patience, self)
        return tally

    # --- its votes -------------------------------------------------------------------------------------------------

    @property
    def tally(self) -> T:
        """Its votes so far."""
        return self._counted() if self._tally is None else self._tally

    def detach(self) -> T:
        """Its votes so far, and from now on it counts them itself."""
        if self._tally is None:
            self._tally = self._counted()
            if self.volley is not None:
                self.volley.part_with(self.offset)
        return self._tally

    @abstractmethod
    def _counted(self) -> T:
        """What its volley has counted."""

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        """Every server's vote, in the group's order."""
        return self.tally.votes(names)

    @abstractmethod
    def carry(self) -> None:
        """Decides the round: a quorum did as it was asked. `tell` is to follow."""

    @abstractmethod
    def reply(self, connection: Connection, value: object) -> None:
        """Counts a server's reply. Only once it is detached."""

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT. Only once it is detached."""
        if self._lose(connection.index, LOST_REPLY):
            self._progress()

    def missed(self, indices: list[int]) -> None:
        """Servers did not answer in time: ABSENT. Only once it is detached."""
        tally = self.tally
        turned = [tally.miss(index, "no answer in time") for index in indices]
        if any(turned):
            self._progress()

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""
        return self.tally.outstanding

    def expire(self) -> None:
        """The deadline of a round that was sent alone has passed: who has not voted is ABSENT, or even silent."""
        outstanding = self.outstanding
        late = [link for link in self.lane.links if outstanding >> link.index & 1]
        for link in late:
            link.overdue(self.patience)
        self.missed([link.index for link in late])

    def _lose(self, index: int, why: str) -> bool:
        return self.tally.miss(index, why)

    @abstractmethod
    def _progress(self) -> None:
        """The votes have reached a turning point."""


class _Asking(Round[AcquireRound]):
    """A round whose votes are those of an acquisition. patient: as `AcquireRound` has it"""

    __slots__ = ()
    _patient = False

    def _give_up(self) -> None:
        """The servers that can answer can't make a quorum, so nothing is sent."""
        lane = self.lane
        self.started = self.group.clock()
        self._tally = AcquireRound(self.group.size, self._patient)
        self._tally.leave_out(lane.unusable, lane.why)
        self.decided = True

    def _counted(self) -> AcquireRound:
        tally, volley = AcquireRound(self.group.size, self._patient), self.volley
        if volley is not None:
            if volley.unasked:
                tally.leave_out(volley.unasked, volley.why)
            tally.granted = volley.passed(self.offset)
            if self.decided:
                tally.verdict = Verdict.WON
        return tally


class Attempt(_Asking):
    """One attempt to acquire: its token, its votes, and the lease if it wins, until somebody takes it.

    declined: mask of the servers whose error proves that they did not run the command
    """

    __slots__ = ("declined", "lease", "resource", "sent", "terms", "token")

    def __init__(self, group: Group, resource: Resource, key: bytes, terms: Terms, at_most: float = math.inf) -> None:
        Round.__init__(self, group, key, terms.patience if terms.patience < at_most else at_most)
        self.resource, self.terms = resource, terms
        self.token = group.new_token()
        self.lease: LeaseRecord | None = None
        self.sent = self.declined = 0

    def begin(self) -> Attempt:
        """SET to every server that can answer, all in this turn of the loop; to none if they can't make a quorum."""
        lane = self.lane
        lane.open_for(self.patience)
        if lane.able:
            self.sent = lane.usable
            lane.send(self)
        else:
            self._give_up()
        return self

    def command(self, dialect: Dialect) -> tuple[bytes, object]:
        """SET."""
        return dialect.acquire(self.key, self.token, self.terms.ttl_ms), dialect.granted

    def carry(self) -> None:
        """A quorum granted."""
        terms, until = self.terms, self.started + self.terms.validity
        self.lease = LeaseRecord(self.resource, self.key, self.token, terms.ttl_ms, until, self.sent, self)
        self.decided = True

    def reply(self, connection: Connection, value: object) -> None:
        """Counts a vote; once the round is decided, a late grant only adds to `held_on`."""
        if value is not None and type(value) is not bytes and not isinstance(value, ErrorReply):
            connection.abort("an unexpected reply: the connection is out of step")
        tally = self.tally
        turned = tally.count(connection.index, value, connection.dialect.names_holder)
        self.declined = tally.declined
        if turned:
            self._progress()

    def _progress(self) -> None:
        if self.decided:
            return
        verdict = self.tally.verdict
        if verdict is Verdict.WON:
            self.carry()
        else:
            self._give_back()
        if verdict is not None:
            self.decided = True
            self.tell()

    @property
    def answered(self) -> int:
        """Mask of the servers that voted FOR or AGAINST."""
        return self.tally.answered

    def too_late(self) -> None:
        """The quorum came after the validity had run out: told as unavailable. Only once it is abandoned."""
        self.tally.too_late()

    def abandon(self) -> None:
        """Nobody wants the outcome any more: gives back what was or may still be granted."""
        if not self.decided or self.lease is not None:
            self.detach()
            self.decided = True
            self.lease = None
            self._give_back()

    def _give_back(self) -> None:
        """Releases the token on every server that was sent the SET, once."""
        tally = self.tally
        sent, self.sent = self.sent & ~self.declined, 0
        answered = tally.answered
        for link in self.lane.links:
            if sent >> link.index & 1:
                link.release(Debt(link, self.key, self.token, self.terms.ttl_ms, bool(answered >> link.index & 1)))


class Inspection(_Asking):
    """Asks every server who holds a key. Nobody counts as a grant: WON means that it is free on a quorum."""

    __slots__ = ()
    _patient = True

    def begin(self) -> Inspection:
        """GET to every server that can answer."""
        self.lane.open_for(self.patience)
        if self.lane.able:
            self.lane.send(self)
        else:
            self._give_up()
        return self

    def command(self, dialect: Dialect) -> tuple[bytes, object]:
        """GET."""
        return pack_command((b"GET", self.key)), None

    def carry(self) -> None:
        """It is free on a quorum."""
        self.decided = True

    def reply(self, connection: Connection, value: object) -> None:
        """Counts who holds it."""
        if self.tally.count(connection.index, value, names_holder=True):
            self._progress()

    def _progress(self) -> None:
        if self.tally.verdict is not None and not self.decided:
            self.decided = True
            self.tell()
