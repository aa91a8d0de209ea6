"""How a lease is extended.

1. Extensions of one lease follow one another: servers that executed them in another order would end with another ttl.
2. Before the first byte, believe the shorter of the old end and the new one: a server may take the new ttl unheard. An
   expired lease is never extended.
3. Send the mode's extend command to every server that may hold the token, in one turn of the loop. A token that this
   process knows no lease of is sent to all, as a script, which tests the key's type first.
4. A server that answers OOM is sent the script: a new ttl needs no memory there, a `SET` does.
5. A quorum that extended it, while it was still valid: it is valid until (before the first byte) + ttl - drift. A
   decision after the old end: lost, so the token is released everywhere (the token of another process is not: that
   process knows whether it is lost). A quorum that can't hold the token: lost, too, and released by its user, as in
   look.py. Neither: unknown, and valid as long as it was.
6. Before it is told that a quorum can't hold the token, servers are asked whether that was by force.
"""

from __future__ import annotations

import logging
from typing import ClassVar

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.lease_record import Aliases, LeaseRecord, LeaseState
from redlock_cluster.core.mode import ABSENT, AGAINST, EXTENDED_BY_SCRIPT, FOR, Answer, Command, LockMode
from redlock_cluster.core.read import READER
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.retry import NEVER
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Terms
from redlock_cluster.core.token import Token
from redlock_cluster.engine.aliases import tell_of_extension
from redlock_cluster.engine.comparison import Comparison
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.look import Look
from redlock_cluster.engine.release import release_lost
from redlock_cluster.errors import LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.wire.connection import Connection

__all__ = ["Extension", "ExtensionRound", "unknown_lease"]

_log = logging.getLogger(__name__)


class ExtensionRound(Comparison):
    """The round of an extension.

    terms: what the new ttl means
    foreign: all that this process knows of the lease is its token
    valid_until: what it gives if it succeeds, engine time
    """

    __slots__ = ("foreign", "terms", "valid_until")

    asks: ClassVar[str] = "extend"
    by_script: ClassVar[frozenset[str]] = EXTENDED_BY_SCRIPT

    def __init__(self, group: Group, record: LeaseRecord, terms: Terms, foreign: bool) -> None:
        Comparison.__init__(self, group, record.key, record.token, record.mode, terms.patience, record)
        self.terms, self.foreign = terms, foreign
        self.started = group.clock()
        self.valid_until = self.started + terms.validity

    def begin(self) -> bool:
        """Send it. Returns False when the lease may not be extended any more."""
        record = self.record
        if record is None or not record.begin_extension(self.started, self.valid_until, self.terms.ttl_ms):
            return False
        self.group.extensions[self.token] = self
        watch = self.group.watches.get(self.token)
        if watch is not None:
            watch.extending()
        tell_of_extension(self.group, record)
        self.pipeline.open_for(self.patience)
        if self.terms.ttl_ms > self.pipeline.horizon_ms:
            self.pipeline.lengthen(self.terms.ttl_ms)
        self._ask(record.may_hold(), 0)
        return True

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        spoken = SCRIPTED if self.foreign or in_full else dialect
        return self.mode.extend(spoken, self.key, self.token, self.terms.ttl_ms, in_full)

    def _matters(self) -> bool:
        """Not once the lease is released, or lost: nothing follows its release."""
        record = self.record
        return not self.decided and record is not None and record.remaining(self.group.clock()) > 0

    def _count(self, connection: Connection, value: object) -> None:
        answer = self._covered(connection, self.mode.extended(value))
        if answer.shared and self.record is not None:
            self.record.note_mode(READER)
        self._follow(self.tally.count(connection.index, answer))
        if answer.vote is AGAINST and self.outcome is Outcome.DONE:
            self.group.note_lacking()

    def _covered(self, connection: Connection, answer: Answer) -> Answer:
        """Where a server was not told that locks last so long, no vote FOR counts: it may be needed after a restart."""
        index, guard = connection.index, self.group.guard
        doubt = self.pipeline.keepers[index].doubt if answer.vote is FOR else ""
        if not doubt or guard is None or guard.covers(index, self.terms.ttl_ms):
            return answer
        return Answer(ABSENT, why=doubt)

    def _finish(self, outcome: Outcome) -> None:
        record, self.record = self.record, None  # the lease may keep its last extension: no cycle
        if record is not None:
            del self.group.extensions[self.token]
            now = self.group.clock()
            record.extended(self, outcome, now, self.valid_until, self.terms.ttl_ms)
            if self._tally is not None and self._tally.against and outcome is Outcome.DONE:
                self.group.note_lacking()
            self.group.note_changed(self.token)
            tell_of_extension(self.group, record)
            if not self.foreign and record.state(now) is LeaseState.LOST:
                release_lost(self.group, record, now)


class Extension(Decision):
    """An `Operation`: extends a lease. Its result is the lease, or why it was not extended.

    terms: what the new ttl means
    foreign: all that this process knows of the lease is its token
    """

    __slots__ = ("_aliases", "_error", "_foreign", "_group", "_look", "_record", "_round", "_terms")

    def __init__(self, group: Group, record: LeaseRecord, terms: Terms, foreign: bool = False) -> None:
        Decision.__init__(self)
        self._group, self._record, self._terms, self._foreign = group, record, terms, foreign
        self._round: ExtensionRound | None = None
        self._look: Look | None = None
        self._error: Exception | None = None
        self._aliases: Aliases | None = None

    def keep(self, aliases: Aliases) -> None:
        """Keep them for those who will have the lease."""
        self._aliases = aliases

    def begin(self) -> Extension:
        """Send it, as soon as no other extension of the lease is under way."""
        running, record = self._group.extensions.get(self._record.token), self._record
        if running is not None:
            running.add_waiter(self)
            return self
        begun = ExtensionRound(self._group, record, self._terms, self._foreign)
        if not begun.begin():
            self._decide()
            return self
        self._round = begun
        if not begun.decided:
            begun.add_waiter(self)
        else:
            self._ended()
        return self

    def after(self, ended: ExtensionRound) -> Extension:
        """The round was begun without it, and has failed: what is left is to see why."""
        self._round = ended
        self._ended()
        return self

    def hear(self) -> None:
        """A round is decided, its own or the one before; or the look after it."""
        if self._round is not None:
            self._ended()
            return
        try:
            self.begin()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the connection's
            self._error = error
            self._decide()

    def _ended(self) -> None:
        ended = self._round
        if ended is not None and ended.outcome is Outcome.GONE and not self._foreign and self._look is None:
            self._look = look = Look(self._group, self._record, reason=True).begin()
            if not look.decided:
                look.add_waiter(self)
                return
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
        record, ended, now = self._record, self._round, self._group.clock()
        if self._error is not None:
            raise self._error
        if ended is not None and ended.outcome is Outcome.DONE and record.remaining(now):
            return record
        error = self._refusal(ended, now)
        _log.debug("%s", error)
        return error

    def _refusal(self, ended: ExtensionRound | None, now: float) -> RedlockError:
        record = self._record
        context = ((), 0.0) if ended is None else ended.context(record.resource)[2:]
        name, group = resource_text(record.resource), self._group.name
        if record.state(now) is LeaseState.LOST:
            reason, rest = record.loss(now)
            if self._foreign:
                return LeaseLost(f"{quoted(name)} is not held by this token", name, group, *context, reason=reason)
            release_lost(self._group, record, now)
            return LeaseLost(f"the lease on {quoted(name)} is lost: {rest}", name, group, *context, reason=reason)
        if record.state(now) is LeaseState.DETACHED:
            return NotHeld(f"{quoted(name)} was detached: whoever adopts it extends it", name, group, *context)
        if record.release_asked:
            return NotHeld(f"{quoted(name)} was released", name, group, *context)
        return QuorumUnavailable(f"whether the lease on {quoted(name)} was extended is unknown", name, group, *context)


def unknown_lease(
    group: Group, resource: Resource, key: bytes, token: Token, mode: LockMode, fence: int | None
) -> LeaseRecord:
    """The record of a lease of which this process knows the token alone: an extension tells until when it is valid."""
    return LeaseRecord(resource, key, token, mode, 0, NEVER, group.clock(), (1 << group.size) - 1, None, fence)
