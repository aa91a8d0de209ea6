"""How a lock is acquired. Source: redis.io, "Distributed Locks with Redis".

1. Send the mode's take command, for an exclusive lock `SET key token NX PX ttl`, to every usable server of the group in
   one turn of the loop, with a new token. If the usable servers are no quorum, send nothing.
2. Each reply is a vote (`core.mode`). How they add up stands in `core.tally`: a quorum of grants wins, early.
3. As soon as a win is impossible, release the token on every server that was sent the command, answered or not.
4. A win counts from before the first byte: the lease is valid until then + ttl - drift. If that has passed when the
   caller comes, give everything back.
5. A refused attempt is followed by another one, after a pause, as long as the limit allows.

    attempting --won, or refused and the limit reached--> decided
    attempting --refused--> pausing --timer--> attempting
    decided --won, but its caller comes too late--> as if it had been refused
    pausing --supervisor closed--> decided
    any --abandoned--> decided

Who waits may go at any time: the acquisition is the engine's, and gives back what it got or may still get.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from collections.abc import Callable
from typing import ClassVar

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import Command, LockMode
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.retry import NEVER, Limit, RetryPolicy
from redlock_cluster.core.tally import AcquisitionTally, Standing
from redlock_cluster.core.text import quoted
from redlock_cluster.core.timing import Terms
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.pending import PendingRelease
from redlock_cluster.engine.round import Round
from redlock_cluster.errors import ClosedError, Contended, LockNotAcquired, QuorumUnavailable
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flight import Flight
from redlock_cluster.wire.forks import Generation

__all__ = ["Acquisition", "Attempt", "Retries"]

_log = logging.getLogger(__name__)


class Attempt(Round[AcquisitionTally]):
    """One attempt, with its own token.

    sent: mask of the servers that may hold the token because of it
    """

    __slots__ = ("mode", "sent", "token", "ttl_ms")

    asks: ClassVar[str] = "acquire"

    def __init__(self, group: Group, key: bytes, mode: LockMode, ttl_ms: int, patience: float) -> None:
        Round.__init__(self, group, key, patience)
        self.mode, self.ttl_ms = mode, ttl_ms
        self.token = group.tokens.new()
        self.sent = 0

    def begin(self) -> None:
        """Ask every server that is usable, all in this turn of the loop; none if they are no quorum."""
        pipeline = self.pipeline
        pipeline.open_for(self.patience)
        if pipeline.enough:
            self.sent = pipeline.usable
            pipeline.send(self)
        else:
            self._begin_alone(AcquisitionTally(self.group.size)).ask_nobody(pipeline.unusable, pipeline.why)
            self.decided = True

    def _matters(self) -> bool:
        """Not once it was given back: the command must not follow its own release."""
        return not self.decided and self.sent != 0

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self.mode.acquire(dialect, self.key, self.token, self.ttl_ms, in_full)

    def _counted(self, flight: Flight | None) -> AcquisitionTally:
        tally = AcquisitionTally(self.group.size)
        if flight is not None:
            tally.start_from(flight.passed_by(self.offset), flight.unasked, flight.why, self.decided)
        return tally

    def on_quorum(self) -> None:
        """Won, without a tally of its own."""
        self.decided = True

    def _count(self, connection: Connection, value: object) -> None:
        """Count a vote. Once the attempt has won, a late grant only adds to the servers that hold the lease."""
        answer = self.mode.acquired(connection.dialect, value)
        if not answer.possible:
            connection.abort("an unexpected reply: the connection is out of step")
        self._follow(self.tally.count(connection.index, answer))

    def _miss(self, indices: list[int], why: str) -> None:
        changes = [self.tally.miss(index, why) for index in indices]
        self._follow(self.tally.standing if any(changes) else None)

    def _follow(self, standing: Standing | None) -> None:
        """Act on a new standing, if it is one."""
        if standing is None or self.decided:
            return
        if standing is not Standing.WON:
            self._give_back()
        if self.tally.has_verdict:
            self.decided = True
            self.notify()

    @property
    def won(self) -> bool:
        """Whether a quorum granted. Once it is decided."""
        return self._tally is None or self._tally.standing is Standing.WON

    @property
    def answered(self) -> int:
        """Mask of the servers that voted FOR or AGAINST."""
        return self.tally.answered

    @property
    def declined(self) -> int:
        """Mask of the servers whose error proves that they did not run the command."""
        return 0 if self._tally is None else self._tally.declined

    def give_up(self) -> None:
        """Nobody wants the lock: give back what was or may still be granted."""
        self.count_alone()
        self.decided = True
        self._give_back()

    def come_too_late(self) -> None:
        """A quorum granted, but the validity has run out: give it back, and call it unavailable."""
        self.give_up()
        self.tally.too_late()

    def _give_back(self) -> None:
        """Release the token on every server that was sent the command, once."""
        tally, group = self.tally, self.group
        sent, self.sent = self.sent & ~tally.declined, 0
        for keeper in self.pipeline.keepers:
            if sent >> keeper.index & 1:
                answered = bool(tally.answered >> keeper.index & 1)
                PendingRelease(
                    group.pending, keeper, self.key, self.token, self.mode, self.ttl_ms, answered, None
                ).release()


class _End(enum.Enum):
    """How an acquisition ended."""

    WON = "won"
    REFUSED = "refused"
    CLOSED = "closed"


class Acquisition(Decision):
    """An `Operation` whose result is the lease, or why there is none: the last attempt says so.

    retries: what the engine's acquisitions share
    group: the servers that vote on the resource
    resource: as the caller named it
    key: its name on the servers
    mode: which kind of lock
    terms: what the ttl means
    limit: when trying ends
    """

    __slots__ = (
        "_attempt",
        "_end",
        "_error",
        "_group",
        "_key",
        "_limit",
        "_made",
        "_mode",
        "_resource",
        "_retries",
        "_terms",
    )

    def __init__(
        self,
        retries: Retries,
        group: Group,
        resource: Resource,
        key: bytes,
        mode: LockMode,
        terms: Terms,
        limit: Limit,
    ) -> None:
        Decision.__init__(self)
        self._retries, self._group, self._resource, self._key = retries, group, resource, key
        self._mode, self._terms, self._limit = mode, terms, limit
        self._made = 0
        self._attempt: Attempt | None = None
        self._end: _End | None = None
        self._error: Exception | None = None

    def begin(self) -> Acquisition:
        """Make the next attempt."""
        patience = self._terms.patience
        if self._limit.deadline != NEVER:
            patience = min(patience, self._limit.longest_round(self._group.clock()))
        self._attempt = attempt = Attempt(self._group, self._key, self._mode, self._terms.ttl_ms, patience)
        self._made += 1
        attempt.begin()
        if attempt.decided:
            self._attempt_ended(attempt)
        else:
            attempt.add_waiter(self)
        return self

    def hear(self) -> None:
        """The attempt is decided."""
        attempt = self._attempt
        assert attempt is not None
        try:
            self._attempt_ended(attempt)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the connection's
            self._fail(error)

    def _attempt_ended(self, attempt: Attempt) -> None:
        if attempt.won:
            self._decide(_End.WON)  # `result` looks whether it was in time
        else:
            self._refused(attempt, self._group.clock())

    def _refused(self, attempt: Attempt, now: float) -> None:
        """The attempt gives no lease: another one follows, or it was the last."""
        again = self._limit.allows(self._made, now)
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("attempt %d%s: %s", self._made, "" if again else ", the last", self._refusal(attempt))
        if again:
            self._retries.pause(self, self._made, self._limit, now)
        else:
            self._decide(_End.REFUSED)

    def _decide(self, end: _End) -> None:
        self._end, self.decided = end, True
        self.notify()

    def _fail(self, error: Exception) -> None:
        self._error, self.decided = error, True
        self.notify()

    def resume(self, closed: bool) -> None:
        """The pause is over."""
        if closed:
            self._decide(_End.CLOSED)
            return
        try:
            self.begin()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the timer's
            self._fail(error)

    def abandon(self) -> None:
        """Nobody wants the lock any more: give back what was or may still be granted."""
        self.decided = True
        self._retries.forget(self)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            attempt.give_up()

    def result(self) -> LeaseRecord | LockNotAcquired:
        """The lease, which is the caller's from now on, or why there is none.

        A caller may come so late (its process was suspended) that the validity has run out. Then it goes on trying, as
        far as the limit allows: it is not `decided` any more, and what this returns does not count yet.

        Raises ClosedError.
        """
        attempt = self._attempt
        if self._error is not None:
            raise self._error
        if self._end is _End.CLOSED or attempt is None:
            raise ClosedError("the supervisor was closed while this call waited")
        if self._end is _End.WON:
            now, until = self._group.clock(), attempt.started + self._terms.validity
            if now < until:
                self._attempt = None
                ttl_ms = self._terms.ttl_ms
                return LeaseRecord(
                    self._resource, self._key, attempt.token, self._mode, ttl_ms, until, attempt.sent, attempt, None
                )
            attempt.come_too_late()
            self.decided = False
            self._refused(attempt, now)
        return self._refusal(attempt)

    def _refusal(self, attempt: Attempt) -> LockNotAcquired:
        """Why a decided attempt gives no lease."""
        tally, resource = attempt.tally, resource_text(self._resource)
        if tally.standing is Standing.UNAVAILABLE:
            late = tally.granted.bit_count() >= tally.quorum
            why = "the quorum came too late" if late else "too many servers of its group did not vote"
            return QuorumUnavailable(f"{quoted(resource)} is not locked: {why}", *attempt.context(self._resource))
        why = "somebody holds it" if tally.standing is Standing.HELD else "contenders split the vote"
        return Contended(f"{quoted(resource)} is not locked: {why}", *attempt.context(self._resource))


class Retries:
    """The pauses between the attempts of one engine.

    loop: the engine's
    policy: how long they are
    fraction: gives random numbers in [0, 1)
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, policy: RetryPolicy, fraction: Callable[[], float]) -> None:
        self._loop, self._policy, self._fraction = loop, policy, fraction
        self._paused: dict[Acquisition, asyncio.TimerHandle] = {}
        self._closed, self._generation = False, Generation.number

    def pause(self, acquisition: Acquisition, made: int, limit: Limit, now: float) -> None:
        """Have it resume after the pause that follows so many attempts; at once if the supervisor was closed."""
        if self._closed:
            acquisition.resume(True)
            return
        seconds = self._policy.pause(made, limit, now, self._fraction())
        self._paused[acquisition] = self._loop.call_later(seconds, self._over, acquisition)

    def _over(self, acquisition: Acquisition) -> None:
        del self._paused[acquisition]
        acquisition.resume(closed=Generation.number != self._generation)  # a fork's copy has nobody's connections

    def forget(self, acquisition: Acquisition) -> None:
        """It was abandoned."""
        timer = self._paused.pop(acquisition, None)
        if timer is not None:
            timer.cancel()

    def close(self) -> None:
        """The supervisor closes: whoever pauses hears of it, and nobody pauses any more."""
        self._closed = True
        for acquisition, timer in list(self._paused.items()):
            timer.cancel()
            del self._paused[acquisition]
            acquisition.resume(True)
