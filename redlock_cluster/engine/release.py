"""Releasing and extending on the wire: every server that may hold a token compares it and acts.

What a release could not be sent for, or whose reply was lost, is owed to that server (`engine.link`): a lease of which
the caller let go must not stay behind on a server that was away.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from redlock_cluster.core.dialect import DONE, SCRIPTED, Dialect, ErrorReply, evaluate, is_number
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.tally import CompareRound, Outcome
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.votes import Token
from redlock_cluster.engine.pending import Debt
from redlock_cluster.engine.round import Round
from redlock_cluster.lua import EXTEND, RELEASE
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Link

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group

__all__ = ["Extension", "Release", "give_back"]

_DONE: Final = Outcome.DONE

BARE_TTL_MS = 600_000
"""How long a release by bare token, whose ttl nobody here knows, is owed to a server that is away."""


class _Comparison(Round[CompareRound]):
    """A round of comparisons. With no record (a bare token string) scripts are sent, which test the key's type.

    outcome: how it ended, None until it is decided
    """

    __slots__ = ("_in_full", "outcome", "record", "token")

    def __init__(self, group: Group, key: bytes, token: Token, patience: float, record: LeaseRecord | None) -> None:
        Round.__init__(self, group, key, patience)
        self.token, self.record = token, record
        self.outcome: Outcome | None = None
        self._in_full = 0

    @abstractmethod
    def _script(self) -> bytes:
        """The command as a script in full."""

    def _matters(self) -> bool:
        """Whether the command is still to be executed, the round being decided or not."""
        return True

    @abstractmethod
    def _finish(self, outcome: Outcome) -> None:
        """The round was decided."""

    def _ask(self, mask: int, done: int = 0) -> None:
        """Sends the command to the servers in the mask, all in this turn of the loop. done: those that have done it"""
        lane = self.lane
        lane.open_for(self.patience)
        if mask == lane.usable and lane.able and not done:
            lane.send(self)
        else:
            self._ask_alone(mask, done)

    def _ask_alone(self, mask: int, done: int) -> None:
        tally = self._start_alone(CompareRound(self.group.size))
        if mask != tally.everyone:
            tally.settle(done, tally.everyone & ~(mask | done))
        for link in self.lane.links:
            if mask >> link.index & 1:
                connection = link.connection
                if connection is None or connection.full:
                    self._lose(link.index, link.absence())
                else:
                    connection.send(self.command(connection.dialect)[0], self)
        self._progress()
        self.group.outbox.end_round()

    def _counted(self) -> CompareRound:
        tally, volley = CompareRound(self.group.size), self.volley
        if volley is not None:
            if volley.unasked:
                tally.settle(0, volley.unasked)
            tally.granted = volley.passed(self.offset)
            tally.outcome = self.outcome
        return tally

    def carry(self) -> None:
        """A quorum had the token."""
        self.outcome, self.decided = _DONE, True
        self._finish(_DONE)

    def reply(self, connection: Connection, value: object) -> None:
        """Counts a vote; NOSCRIPT is answered with the script in full, once, while it still matters."""
        unknown = isinstance(value, ErrorReply) and value.code == "NOSCRIPT"
        if unknown and self._matters() and not self._in_full >> connection.index & 1:
            if not self._in_full and self.volley is not None:
                self.group.deadlines.add(self.started + self.patience, self)
            self._in_full |= 1 << connection.index
            connection.send(self._script(), self)
        elif self._count(connection.index, value):
            self._progress()

    def _count(self, index: int, value: object) -> bool:
        return self.tally.count(index, value)

    def _progress(self) -> None:
        outcome = self.tally.outcome
        if outcome is not None and not self.decided:
            self.outcome, self.decided = outcome, True
            self._finish(outcome)
            self.tell()


class Release(_Comparison):
    """Deletes the key wherever it holds the token."""

    __slots__ = ()

    def begin(self) -> Release:
        """Sends the round. A lease's round asks only where the token may be."""
        record = self.record
        if record is None:
            self._ask((1 << self.group.size) - 1)
            return self
        if record.release is not None:
            record.release.detach()  # what it does is to be known at once: it lets this one find less
        record.release = self
        self._ask(record.may_hold(), record.deleted)
        return self

    def detach(self) -> CompareRound:
        """Its votes so far, and from now on it counts them itself; a lease remembers who deleted it."""
        tally = super().detach()
        if self.record is not None:
            self.record.deleted |= tally.granted
        return tally

    def reply(self, connection: Connection, value: object) -> None:
        """Counts a vote; a lease remembers who deleted it."""
        if self.record is not None and is_number(value, 1):
            self.record.deleted |= 1 << connection.index
        super().reply(connection, value)

    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
        """A deletion, if the token is there."""
        return (SCRIPTED if self.record is None else dialect).release(self.key, self.token), DONE

    def _script(self) -> bytes:
        return evaluate(RELEASE, self.key, self.token)

    def _count(self, index: int, value: object) -> bool:
        record, bit = self.record, 1 << index
        if isinstance(value, ErrorReply) and not value.wrong_type:
            self._owe(index)
        elif record is not None and record.deleted & bit and is_number(value, 0):
            value = 1  # an earlier round of this lease did it
        return self.tally.count(index, value, record is not None and bool(record.doubtful & bit))

    def _lose(self, index: int, why: str) -> bool:
        self._owe(index)
        return super()._lose(index, why)

    def _owe(self, index: int) -> None:
        """Has the server told later; from here on a 0 may be the owed release's doing."""
        link, record = self.lane.links[index], self.record
        if record is None:
            link.owe(Debt(link, self.key, self.token, BARE_TTL_MS, answered=True))
        else:
            record.doubtful |= 1 << index
            link.owe(_debt(link, record))

    def _finish(self, outcome: Outcome) -> None:
        record = self.record
        if record is not None:
            record.released(outcome)
            if record.release is self:
                record.release = None


class Extension(_Comparison):
    """Resets the ttl wherever the key holds the token; rounds on one lease never overlap."""

    __slots__ = ("terms", "valid_until")

    def __init__(self, group: Group, key: bytes, token: Token, terms: Terms, record: LeaseRecord | None) -> None:
        super().__init__(group, key, token, terms.patience, record)
        self.terms = terms

    def begin(self) -> bool:
        """Sends the round, if the lease may still be extended."""
        record, now = self.record, self.group.clock()
        self.started, self.valid_until = now, now + self.terms.validity
        if record is None:
            self._ask((1 << self.group.size) - 1)
            return True
        if not record.begin_extension(now, self.valid_until, self.terms.ttl_ms):
            return False
        self.group.extensions[self.token] = self
        self._ask(record.may_hold())
        return True

    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
        """A new ttl, if the token is there."""
        spoken = SCRIPTED if self.record is None else dialect
        return spoken.extend(self.key, self.token, self.terms.ttl_ms), spoken.extended

    def _script(self) -> bytes:
        return evaluate(EXTEND, self.key, self.token, self.terms.ttl_ms)

    def _matters(self) -> bool:
        """A later extension may have followed this one, which must not undo it."""
        return not self.decided

    def _finish(self, outcome: Outcome) -> None:
        record, self.record = self.record, None  # the lease may refer to its last extension: no cycle
        if record is not None:
            del self.group.extensions[self.token]
            now = self.group.clock()
            record.extended(self, now, self.valid_until, self.terms.ttl_ms)
            if record.state(now) is LeaseState.LOST:
                give_back(self.group, record)


def give_back(group: Group, record: LeaseRecord) -> None:
    """Takes a lost lease's token from every server that may hold it, once; nobody waits for the outcome."""
    if record.release is not None:
        record.release.detach()
    sent, record.sent = record.may_hold(), 0
    for link in group.lane(record.key).links:
        if sent >> link.index & 1:
            link.release(_debt(link, record))


def _debt(link: Link, record: LeaseRecord) -> Debt:
    answered = not record.unanswered() >> link.index & 1
    return Debt(link, record.key, record.token, record.longest_ms, answered, record)
