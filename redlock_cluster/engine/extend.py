"""How a lease is extended.

1. Extensions of one lease follow one another: servers that executed them in another order would end with another ttl.
2. Before the first byte, believe the shorter of the old end and the new one: a server may take the new ttl unheard. An
   expired lease is never extended.
3. Send the mode's extend command to every server that may hold the token, in one turn of the loop. A token without a
   lease at hand is sent to all, as a script, which tests the key's type first.
4. A quorum that extended it, while it was still valid: it is valid until (before the first byte) + ttl - drift. A
   quorum that can't hold the token, or a decision after the old end: lost, so the token is released everywhere.
   Neither: unknown, and valid as long as it was.
"""

from __future__ import annotations

import logging

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.mode import Command, LockMode
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.token import Token
from redlock_cluster.engine.comparison import Comparison
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.release import release_unheard
from redlock_cluster.errors import LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.wire.connection import Connection

__all__ = ["Extension", "TokenExtension", "ended_elsewhere"]

_log = logging.getLogger(__name__)


class _Round(Comparison):
    """The round of an extension.

    terms: what the new ttl means
    valid_until: what it gives if it succeeds, engine time
    """

    __slots__ = ("terms", "valid_until")

    def __init__(
        self, group: Group, key: bytes, token: Token, mode: LockMode, terms: Terms, record: LeaseRecord | None
    ) -> None:
        Comparison.__init__(self, group, key, token, mode, terms.patience, record)
        self.terms = terms
        self.started = group.clock()
        self.valid_until = self.started + terms.validity

    def begin(self) -> bool:
        """Send it. Returns False when the lease may not be extended any more."""
        record = self.record
        if record is None:
            self._ask((1 << self.group.size) - 1, 0)
            return True
        if not record.begin_extension(self.started, self.valid_until, self.terms.ttl_ms):
            return False
        self.group.extensions[self.token] = self
        self._ask(record.may_hold(), 0)
        return True

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        spoken = SCRIPTED if self.record is None else dialect
        return self.mode.extend(spoken, self.key, self.token, self.terms.ttl_ms, in_full)

    def _count(self, connection: Connection, value: object) -> None:
        self._follow(self.tally.count(connection.index, self.mode.extended(value)))

    def _finish(self, outcome: Outcome) -> None:
        record, self.record = self.record, None  # the lease may keep its last extension: no cycle
        if record is not None:
            del self.group.extensions[self.token]
            now = self.group.clock()
            record.extended(self, outcome, now, self.valid_until, self.terms.ttl_ms)
            if record.state(now) is LeaseState.LOST:
                release_unheard(self.group, record)


class Extension(Decision):
    """An `Operation`: extends a lease. Its result is the lease, or why it was not extended.

    terms: what the new ttl means
    """

    __slots__ = ("_group", "_record", "_round", "_terms")

    def __init__(self, group: Group, record: LeaseRecord, terms: Terms) -> None:
        Decision.__init__(self)
        self._group, self._record, self._terms = group, record, terms
        self._round: _Round | None = None

    def begin(self) -> Extension:
        """Send it, as soon as no other extension of the lease is under way."""
        running, record = self._group.extensions.get(self._record.token), self._record
        if running is not None:
            running.add_waiter(self)
            return self
        self._round = own = _Round(self._group, record.key, record.token, record.mode, self._terms, record)
        if own.begin() and not own.decided:
            own.add_waiter(self)
        else:
            self._decide()
        return self

    def hear(self) -> None:
        """A round is decided, its own or the one before."""
        if self._round is None:
            self.begin()
        else:
            self._decide()

    def _decide(self) -> None:
        self.decided = True
        self.notify()

    def abandon(self) -> None:
        """Nobody waits for it any more: it goes on, or if it has not begun, it does not begin."""
        if self._round is None:
            self.decided = True

    def result(self) -> LeaseRecord | RedlockError:
        """The lease when a quorum extended it in time, else why not."""
        record, own, now = self._record, self._round, self._group.clock()
        if own is None:
            return NotHeld("the extension was abandoned")
        if own.outcome is Outcome.DONE and record.remaining(now):
            return record
        error = self._refused(own, now)
        _log.debug("%s", error)
        return error

    def _refused(self, own: _Round, now: float) -> RedlockError:
        record, context = self._record, own.context(self._record.resource)
        if record.state(now) is LeaseState.LOST:
            release_unheard(self._group, record)
            reason, rest = record.loss(now)
            return LeaseLost(f"the lease on {context[0]!r} is lost: {rest}", *context, reason=reason)
        if record.release_asked:
            return NotHeld(f"{context[0]!r} was released", *context)
        return QuorumUnavailable(f"whether the lease on {context[0]!r} was extended is unknown", *context)


class TokenExtension(_Round):
    """An `Operation`: extends a token of which no more is known. Its result is a lease of its own, or why not.

    resource: as the caller named it
    """

    __slots__ = ("_resource",)

    def __init__(
        self, group: Group, resource: Resource, key: bytes, token: Token, mode: LockMode, terms: Terms
    ) -> None:
        _Round.__init__(self, group, key, token, mode, terms, None)
        self._resource = resource

    def result(self) -> LeaseRecord | RedlockError:
        """A lease of its own when a quorum still knew the token, else why not."""
        now = self.group.clock()
        if self.outcome is Outcome.DONE and now < self.valid_until:
            everyone = (1 << self.group.size) - 1
            return LeaseRecord(
                self._resource,
                self.key,
                self.token,
                self.mode,
                self.terms.ttl_ms,
                self.valid_until,
                everyone,
                None,
                self,
            )
        context = self.context(self._resource)
        error: RedlockError
        if self.outcome is Outcome.UNKNOWN:
            error = QuorumUnavailable(f"whether {context[0]!r} was extended is unknown", *context)
        else:
            reason = LossReason.GONE if self.outcome is Outcome.GONE else LossReason.EXPIRED
            error = LeaseLost(f"{context[0]!r} is not held by this token", *context, reason=reason)
        _log.debug("%s", error)
        return error


def ended_elsewhere(group: Group, record: LeaseRecord, terms: Terms) -> LeaseLost | None:
    """Before a lease of another engine is extended by its token: it is believed no longer than servers keep it now.

    Returns why it can't be extended, if it is over.
    """
    now = group.clock()
    if record.begin_extension(now, now + terms.validity, terms.ttl_ms):
        return None
    name = resource_text(record.resource)
    reason, rest = record.loss(now)
    return LeaseLost(f"the lease on {name!r} had ended: {rest}", name, group.name, reason=reason)
