"""Acquisitions on the wire, and asking who holds a key."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hiredis import pack_command

from redlock_cluster.core.dialect import Dialect, ErrorReply
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.tally import AcquireRound
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.votes import Verdict
from redlock_cluster.engine.pending import Debt
from redlock_cluster.engine.round import Round
from redlock_cluster.wire.connection import Connection

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group

__all__ = ["Attempt", "Inspection"]


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

    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
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

    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
        """GET."""
        return pack_command((b"GET", self.key)), dialect.null

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
