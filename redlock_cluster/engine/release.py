"""How a lock is given back.

1. Send the mode's release command, which deletes the token and nothing else, to every server that may hold it, in one
   turn of the loop; by script where others are known to wait, to tell them. A token without a lease at hand is sent to
   all, as if others waited.
2. A quorum that deleted it: released. A quorum that can't hold it: the lease was lost before. Neither: unknown.
3. Where it could not be sent, or the reply was lost, the release stays pending. From then on a server that holds
   no such token may have lost it by that release: no vote.

Nobody can stop a release: who waits for it may go.
"""

from __future__ import annotations

import logging
from typing import ClassVar, Final

from redlock_cluster.core.decision import Settled
from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.mode import ABSENT, AGAINST, FOR, Answer, Command, LockMode
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.tally import ComparisonTally, Outcome
from redlock_cluster.core.text import quoted
from redlock_cluster.core.token import Token
from redlock_cluster.engine.comparison import Comparison
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.pending import PendingRelease
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.errors import LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Release", "begin_release", "give_back", "release_from", "release_lost", "release_unheard"]

_log = logging.getLogger(__name__)

_DONE: Final = Outcome.DONE
_DOUBTFUL: Final = Answer(ABSENT, why="not there, perhaps by an earlier release whose reply was lost")
_DELETED_BEFORE: Final = Answer(FOR)

TOKEN_TTL_MS: Final = 600_000
"""How long the release of a token without a lease, whose ttl nobody here knows, stays pending, milliseconds."""


class Release(Comparison):
    """An `Operation`: releases a lease, or a token without one. Its result is None, or why it was not released.

    resource: as the caller named it
    """

    __slots__ = ("_resource", "_tells")

    asks: ClassVar[str] = "release"

    def __init__(
        self,
        group: Group,
        resource: Resource,
        key: bytes,
        token: Token,
        mode: LockMode,
        patience: float,
        record: LeaseRecord | None,
    ) -> None:
        Comparison.__init__(self, group, key, token, mode, patience, record)
        self._resource = resource
        self._tells = True  # of a bare token it is not known whether others wait

    def begin(self) -> Release:
        """Send it: of a lease only where the token may be."""
        record = self.record
        if record is None:
            self._ask((1 << self.group.size) - 1, 0)
        else:
            record.released_by(self)
            self._tells = self.group.crowds(self.key)
            self._ask(record.may_hold(), record.deleted)
        self.group.note_released(self.key, self.mode)
        return self

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self.mode.release(dialect, self.key, self.token, self._tells, in_full)

    def _wants_script(self, error: ErrorReply) -> bool:
        """Also where the key is of another type: a bare token may be a reader's, and the script knows all kinds."""
        return Comparison._wants_script(self, error) or (self.record is None and error.wrong_type)

    def _matters(self) -> bool:
        """Also once it is decided: the token is to go from every server."""
        return True

    def count_alone(self) -> ComparisonTally:
        """Its votes so far, which the lease learns of; from now on it hears each answer and counts it itself."""
        tally = Comparison.count_alone(self)
        if self.record is not None:
            self.record.note_deleted(tally.granted)
        return tally

    def _count(self, connection: Connection, value: object) -> None:
        answer, record, bit = self.mode.released(value), self.record, 1 << connection.index
        if answer.others:
            self.group.note_others(self.key)
        if answer.vote is ABSENT and answer.possible:
            self._stay_pending(connection.index)
        elif record is not None and answer.vote is FOR:
            record.note_deleted(bit)
        elif record is not None and answer.vote is AGAINST:
            if record.deleted & bit:
                answer = _DELETED_BEFORE  # by an earlier round of this lease
            elif record.doubts(bit):
                answer = _DOUBTFUL
        self._follow(self.tally.count(connection.index, answer))

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT, and pending."""
        self._stay_pending(connection.index)
        Comparison.lost(self, connection)

    def _stay_pending(self, index: int) -> None:
        """A server was not asked, or its reply was lost: it is asked again later."""
        keeper, record, pending = self.pipeline.keepers[index], self.record, self.group.pending
        if record is None:
            PendingRelease(pending, keeper, self.key, self.token, self.mode, TOKEN_TTL_MS, True, None, bare=True).wait()
        else:
            record.note_doubtful(index)
            answered = not record.unanswered() >> index & 1
            ttl_ms = record.kept_longest_ms()
            PendingRelease(
                pending, keeper, self.key, self.token, self.mode, ttl_ms, answered, record, tells=self._tells
            ).wait()

    def _finish(self, outcome: Outcome) -> None:
        if self.record is not None:
            self.record.released(outcome, self)

    def result(self) -> RedlockError | None:
        """None when a quorum deleted it, else why that can't be said."""
        if self.outcome is _DONE or (self.record is not None and self.record.over_by_release):
            return None
        error: RedlockError
        context = self.context(self._resource)
        if self.outcome is Outcome.GONE:
            error = LeaseLost(f"{quoted(context[0])} was no longer held when it was released", *context)
        else:
            error = QuorumUnavailable(f"whether {quoted(context[0])} was released is unknown", *context)
        _log.debug("%s", error)
        return error


def begin_release(
    group: Group, resource: Resource, record: LeaseRecord, now: float
) -> Release | Settled[RedlockError | None]:
    """Send the release of a lease, unless it is over.

    resource: as the caller named it
    now: engine time
    """
    watch = group.watches.get(record.token) if group.watches else None
    if record.begin_release(now):
        if watch is not None:
            watch.stop()
        patience = group.timing.patience(record.ttl_ms)
        return Release(group, resource, record.key, record.token, record.mode, patience, record).begin()
    name = resource_text(resource)
    state = record.state(now)
    if state is not LeaseState.LOST:
        what = "detached: whoever adopts it releases it" if state is LeaseState.DETACHED else "released before"
        return Settled(NotHeld(f"{quoted(name)} was {what}", name, group.name))
    if watch is not None:
        watch.changed()
    release_unheard(group, record)
    reason, rest = record.loss(now)
    text = f"the lease on {quoted(name)} had ended before its release: {rest}"
    error = LeaseLost(text, name, group.name, reason=reason)
    _log.debug("%s", error)
    return Settled(error)


def release_lost(group: Group, record: LeaseRecord, now: float) -> None:
    """Take a lost lease's token from every server that may hold it, unless its validity was to run on.

    Then its user may not have heard of the loss, and still be in the critical section. The token stays until it expires
    or the user releases it: with servers in quarantine, nobody else gets a quorum before.

    now: engine time
    """
    if not record.lost_early(now):
        release_unheard(group, record)


def release_unheard(group: Group, record: LeaseRecord) -> None:
    """Take a lease's token from every server that may hold it, once; nobody waits for the outcome."""
    unanswered = record.unanswered()
    holders = record.surrender()
    for keeper in pipeline_of(group, record.key).keepers:
        if holders >> keeper.index & 1:
            release_from(group, keeper, record, not unanswered >> keeper.index & 1)
    group.note_released(record.key, record.mode)


def release_from(group: Group, keeper: Keeper, record: LeaseRecord, answered: bool) -> None:
    """Take a lease's token from one server.

    answered: it has answered whatever had it take that
    """
    ttl_ms, tells = record.kept_longest_ms(), group.crowds(record.key)
    PendingRelease(
        group.pending, keeper, record.key, record.token, record.mode, ttl_ms, answered, record, tells=tells
    ).release()


def give_back(group: Group, record: LeaseRecord) -> None:
    """Release a lease, unless it is over, or what is left of one that was lost; nobody waits for the outcome."""
    now = group.clock()
    if record.begin_release(now):
        watch = group.watches.get(record.token)
        if watch is not None:
            watch.stop()
        release_unheard(group, record)
        record.released(_DONE, None)
    elif record.lost_early(now):
        release_unheard(group, record)
