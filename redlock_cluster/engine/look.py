"""How a client looks where its lease is, and takes votes again that it lacks.

1. Ask every server of the group, in one turn of the loop, whether the token holds the lock.
2. A quorum that can't hold it: the lease is lost. If by force, it is released everywhere. If not, its token stays until
   its user releases it or it expires: the user may not have heard of the loss yet.
3. A quorum that has it: servers where the key is free are sent the mode's heal command with the ttl that is left: what
   remains of the validity, and the margin for drift, as the vote may be needed until then. So nobody holds it there for
   longer. Such a vote counts from the next round on: it shows in `holders`, and an extension asks that server, too.
4. Neither: nothing is known.

Nothing is taken again once the lease is over, or its release was asked for, or the token was removed by force.

Where the reason of a loss matters, each server is also asked, just before, whether the token was removed by force. So
whoever says that it does not hold the token has said why. One such server tells: tokens are unique, and nothing but
`force_release` puts one there.
"""

from __future__ import annotations

from typing import ClassVar

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.force import was_forced, whether_forced
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.mode import AGAINST, BY_SCRIPT, FOR, Command
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.tally import Outcome
from redlock_cluster.engine.comparison import Comparison
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.release import release_from, release_lost
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Look"]


class Look(Comparison):
    """One look.

    reason: whether it matters why the lease is lost, if it is
    """

    __slots__ = ("_forced", "_free", "_lease", "_reason")

    asks: ClassVar[str] = ""

    def __init__(self, group: Group, record: LeaseRecord, reason: bool) -> None:
        Comparison.__init__(self, group, record.key, record.token, record.mode, group.timing.server_timeout, None)
        self._lease: LeaseRecord | None = record  # until it is no longer needed: the lease keeps its last look
        self._free = 0  # mask of the servers where the key is free
        self._reason, self._forced = reason, False  # whether a server has said that the token was removed by force

    def begin(self) -> Look:
        """Send it."""
        if self._reason:
            question = whether_forced(self.key, self.token)
            for keeper in self.pipeline.keepers:
                connection = keeper.connection
                if connection is not None and not connection.full:
                    connection.send(question, _Forced(self))
        self._ask((1 << self.group.size) - 1, 0)
        return self

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self.mode.find(dialect, self.key, self.token, in_full)

    def _matters(self) -> bool:
        """Also once a quorum has the token: whoever lacks it is to take it again."""
        return self._lease is not None

    def note_forced(self) -> None:
        """The token was removed by force."""
        self._forced = True

    def _count(self, connection: Connection, value: object) -> None:
        answer, record = self.mode.found(value, self.token), self._lease
        if answer.vote is FOR and record is not None:
            record.found(connection.index)
        elif answer.vote is AGAINST and answer.free:
            self._free |= 1 << connection.index
        self._follow(self.tally.count(connection.index, answer))
        self._go_on()

    def _miss(self, indices: list[int], why: str) -> None:
        Comparison._miss(self, indices, why)
        self._go_on()

    def _finish(self, outcome: Outcome) -> None:
        record = self._lease
        if record is not None:
            now = self.group.clock()
            record.looked(self, outcome, now, self._forced)
            self.group.note_changed(self.token)
            if outcome is Outcome.GONE and record.state(now) is LeaseState.LOST:
                release_lost(self.group, record, now)

    def _go_on(self) -> None:
        """Take votes again once a quorum has the token; forget the lease when all have answered."""
        record = self._lease
        if record is None or self.outcome is None:
            return
        free, self._free = self._free, 0
        if free and self.outcome is Outcome.DONE:
            for keeper in self.pipeline.keepers:
                if free >> keeper.index & 1:
                    _retake(self.group, keeper, record)
        if not self.tally.outstanding:
            self._lease = None


class _Forced:
    """Hears whether a token was removed by force from a server, which may not be allowed to say."""

    __slots__ = ("_look",)

    def __init__(self, look: Look) -> None:
        self._look = look

    def reply(self, connection: Connection, value: object) -> None:
        if was_forced(value):
            self._look.note_forced()

    def lost(self, connection: Connection) -> None:
        pass


def _retake(group: Group, keeper: Keeper, record: LeaseRecord) -> None:
    """Have a server hold a lease again."""
    connection = keeper.connection
    if connection is not None and not connection.full:
        _Retake(group, keeper, record).send(connection)


class _Retake:
    """Hears whether a server has taken a lease again.

    group, keeper: which server
    record: which lease
    """

    __slots__ = ("_group", "_in_full", "_keeper", "_record")

    def __init__(self, group: Group, keeper: Keeper, record: LeaseRecord) -> None:
        self._group, self._keeper, self._record, self._in_full = group, keeper, record, False

    def send(self, connection: Connection) -> bool:
        """Send it, for as long as the lease is valid. Returns whether it is: nothing follows its release."""
        record = self._record
        left = record.remaining(self._group.clock())
        if left <= 0:
            return False
        record.retake(self._keeper.index)
        words = record.mode.heal(
            connection.dialect,
            record.key,
            record.token,
            self._group.timing.ttl_ms_for(left),
            record.fence or 0,
            self._in_full,
        )[0]
        connection.send(words, self)
        return True

    def reply(self, connection: Connection, value: object) -> None:
        """Taken, or there already; or not. NOSCRIPT: the script in full, while the lease is valid."""
        record = self._record
        unknown = isinstance(value, ErrorReply) and value.code in BY_SCRIPT
        if unknown and not self._in_full:
            self._in_full = True
            if self.send(connection):
                return
        holds = record.mode.healed(value).vote is FOR
        record.retaken(connection.index, holds)
        if holds and record.release_asked:  # of another engine, whose release may have come before this
            release_from(self._group, self._keeper, record, True)

    def lost(self, connection: Connection) -> None:
        """The server may still take it; a release is sent there, too."""
