"""How a lock is acquired. Source: redis.io, "Distributed Locks with Redis".

1. Send the mode's take command, for an exclusive lock `SET key token NX PX ttl`, to every usable server of the group in
   one turn of the loop, with a new token. If the usable servers are no quorum, send nothing.
2. Each reply is a vote (`core.mode`). How they add up stands in `core.tally`: a quorum of grants wins, early.
3. As soon as a win is impossible, release the token where it was granted, and where it is granted even later.
   A fenced lock is won once they agree on its fence, too (`engine.fence`).
4. A win counts from before the first byte: the lease is valid until then + ttl - drift. If that has passed when the
   caller comes, give everything back.
5. A refused attempt is followed by others as long as the limit allows: after an outage when a pause is over, after
   contention when the lock is free (`engine.waiting`).

    attempting --won, or refused and the limit reached--> decided
    attempting --refused, an outage--> pausing --timer--> attempting
    attempting --refused, contention--> waiting --an attempt made for it has won, or was the last--> decided
    waiting --its time is over before its turn--> attempting, for the last time
    decided --won, but its caller comes too late--> as if it had been refused
    pausing, waiting --cancelled from outside, supervisor closed--> decided
    any --abandoned--> decided

Who waits may go at any time: the acquisition is the engine's, and gives back what it got or may still get.
"""

from __future__ import annotations

import asyncio
import enum
import logging
from typing import ClassVar, Final, Protocol

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.dialect import Dialect, without_queue
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import AGAINST, FOR, Answer, Command, LockMode
from redlock_cluster.core.queue import NOBODY, Member, Position
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.retry import NEVER, ONCE, Limit
from redlock_cluster.core.tally import AcquisitionTally, Standing
from redlock_cluster.core.text import cut, quoted
from redlock_cluster.core.timing import Terms
from redlock_cluster.engine.fence import Numbers
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.leave import Leave
from redlock_cluster.engine.pending import PendingRelease
from redlock_cluster.engine.round import Round, servers_time
from redlock_cluster.errors import (
    ClosedError,
    Contended,
    LockNotAcquired,
    QuorumUnavailable,
    TooManyWaiting,
    WaitCancelled,
)
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flight import Flight

__all__ = ["Acquisition", "Attempt", "Between", "Stay", "Take", "last_attempt"]

_log = logging.getLogger(__name__)

_HELD: Final = "somebody holds it"


class Attempt(Round[AcquisitionTally]):
    """One attempt, with its own token.

    sent: mask of the servers that may hold the token because of it
    """

    __slots__ = ("_floor", "_late", "_numbers", "mode", "sent", "token", "ttl_ms")

    asks: ClassVar[str] = "acquire"

    def __init__(self, group: Group, key: bytes, mode: LockMode, ttl_ms: int, patience: float) -> None:
        Round.__init__(self, group, key, patience)
        self.mode, self.ttl_ms = mode, ttl_ms
        self.token = group.tokens.new()
        self.sent = self._late = 0
        self._floor = (servers_time(self.pipeline, group.clock()) or 0) if mode.fenced else 0
        self._numbers: Numbers | None = None  # unless each server has given out the least one

    def begin(self) -> None:
        """Ask every server that is usable, all in this turn of the loop; none if they are no quorum."""
        pipeline = self.pipeline
        pipeline.open_for(self.patience)
        if pipeline.enough:
            if self.ttl_ms > pipeline.horizon_ms:
                pipeline.lengthen(self.ttl_ms)
            self.sent = pipeline.usable
            pipeline.send(self)
        else:
            self._begin_alone(AcquisitionTally(self.group.size)).ask_nobody(*pipeline.unasked())
            self.decided = True

    def _matters(self) -> bool:
        """Not once it was given back: the command must not follow its own release."""
        return not self.decided and self.sent != 0

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self.mode.acquire(dialect, self.key, self.token, self.ttl_ms, self._floor, in_full)

    def _answer(self, connection: Connection, value: object) -> Answer:
        return self.mode.acquired(connection.dialect, value)

    def _counted(self, flight: Flight | None) -> AcquisitionTally:
        tally = AcquisitionTally(self.group.size)
        if flight is not None:
            tally.start_from(flight.passed_by(self.offset), flight.unasked, flight.why, self.decided)
        return tally

    def on_quorum(self) -> None:
        """Won, without a tally of its own."""
        self.decided = True

    def _count(self, connection: Connection, value: object) -> None:
        """Count a vote. Once the attempt has won, a late grant only adds to the servers that hold the lease.

        Once it has failed, a late grant is given back.
        """
        answer = self.believed(connection, self._answer(connection, value))
        if not answer.possible:
            connection.abort("an unexpected reply: the connection is out of step")
        if self._late >> connection.index & 1 and (answer.vote is AGAINST or not answer.ran):
            self._late &= ~(1 << connection.index)
        numbers = self._agreeing
        if answer.fence is not None and not self.tally.has_verdict:
            if self._numbers is None:
                self._numbers = Numbers(self, self._floor)
            self._numbers.note(connection.index, answer.fence)
        self._follow(self.tally.count(connection.index, answer))
        if numbers is not None:
            numbers.voted(connection, answer)
        if answer.vote is AGAINST and self.tally.standing is Standing.WON:
            self.group.note_lacking()
        if self._late >> connection.index & 1:
            self._give_back_late(1 << connection.index, answer.vote is FOR, self._place)

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT."""
        Round.lost(self, connection)
        self._give_back_late(self._late & 1 << connection.index, False)

    def _miss(self, indices: list[int], why: str) -> None:
        numbers, changes = self._agreeing, [self.tally.miss(index, why) for index in indices]
        self._follow(self.tally.standing if any(changes) else None)
        if numbers is not None:
            numbers.weigh()

    def missed(self, indices: list[int]) -> None:
        """Servers did not answer in time: ABSENT."""
        Round.missed(self, indices)
        self._give_back_late(self._late & sum([1 << index for index in indices]), False)

    def _follow(self, standing: Standing | None) -> None:
        """Act on a new standing, if it is one."""
        if standing is None or self.decided:
            return
        if standing is not Standing.WON:
            self._give_back(failed=True)
        elif self._numbers is not None and not self._numbers.agree(self.tally.granted):
            return
        if self.tally.has_verdict:
            self._decide()

    def _decide(self) -> None:
        if self.tally.standing is Standing.WON and self.tally.against:
            self.group.note_lacking()
        self.decided = True
        self.notify()

    @property
    def _agreeing(self) -> Numbers | None:
        """Its numbers, while a quorum has granted it and has not agreed on one yet."""
        won = self._numbers is not None and not self.decided and self.tally.standing is Standing.WON
        return self._numbers if won else None

    def numbered(self, done: bool) -> None:
        """As `Numbered.numbered`."""
        if not done:
            self.come_too_late(failed=True)
        self._decide()

    @property
    def fence(self) -> int | None:
        """Its number, 0 if there is none yet; None if it asked for none. Once it has won."""
        if not self.mode.fenced:
            return None
        return self._floor if self._numbers is None else self._numbers.fence

    @property
    def won(self) -> bool:
        """Whether a quorum granted. Once it is decided."""
        return self._tally is None or self._tally.standing is Standing.WON

    def lease(self, resource: Resource, validity: float, now: float) -> LeaseRecord | None:
        """The lease that it won, which is the caller's from now on; None if the validity has run out. Once it has won.

        resource: as the caller named it
        validity: seconds, from before the first byte
        now: engine time
        """
        until = self.started + validity
        if now < until:
            return LeaseRecord(
                resource,
                self.key,
                self.token,
                self.mode.plain,
                self.ttl_ms,
                until,
                self.started,
                self.sent,
                self,
                self.fence,
            )
        return None

    def refusal(self, resource: Resource, held: str = _HELD) -> LockNotAcquired:
        """Why it gives no lease. Once it is decided.

        resource: as the caller named it
        held: what is said where others hold the lock
        """
        tally, name = self.tally, quoted(resource_text(resource))
        if tally.standing is Standing.UNAVAILABLE:
            why = "too many servers of its group did not vote"
            if tally.granted.bit_count() >= tally.quorum:
                agreed = self._numbers is None or self._numbers.agreed
                why = "the quorum came too late" if agreed else "too few servers agreed on its fence in time"
            return QuorumUnavailable(f"{name} is not locked: {why}", *self.context(resource))
        why = held if tally.standing is Standing.HELD else "contenders split the vote"
        return Contended(f"{name} is not locked: {why}", *self.context(resource))

    def outcome(self, resource: Resource, validity: float, now: float) -> LeaseRecord | LockNotAcquired:
        """What it came to when no other one follows. Once it is decided; arguments as for `lease`."""
        if self.won:
            lease = self.lease(resource, validity, now)
            if lease is not None:
                return lease
            self.come_too_late()
            self.group.note_released(self.key, self.mode)
        refusal = self.refusal(resource)
        _log.debug("attempt 1, the last: %s", refusal)
        return refusal

    @property
    def answered(self) -> int:
        """Mask of the servers that voted FOR or AGAINST."""
        return self.tally.answered

    @property
    def declined(self) -> int:
        """Mask of the servers whose error proves that they did not run the command."""
        return 0 if self._tally is None else self._tally.declined

    def give_up(self, failed: bool = False) -> None:
        """Give back what was or may still be granted.

        failed: the attempt has failed; else nobody wants the lock
        """
        self.count_alone()
        self.decided = True
        self._give_back(failed)
        self._give_back_late(self._late, False)

    def come_too_late(self, failed: bool = False) -> None:
        """A quorum granted, but too late: give it back, and call it unavailable; failed: as for `give_up`."""
        self.give_up(failed)
        self.tally.too_late()

    def _give_back(self, failed: bool = False) -> None:
        """Release the token where it was granted, once; what is still outstanding is released when it is granted.

        failed: the attempt has; else nobody wants the lock any more
        """
        tally = self.tally
        asked, self.sent = self.sent & ~(tally.declined | tally.against), 0
        late = asked & tally.outstanding
        self._late |= late
        self._release(asked & ~late, tally.answered, self._place if failed else None)

    def _give_back_late(self, mask: int, granted: bool, stays: Member | None = None) -> None:
        """Release the token on servers that had not answered when the attempt failed.

        granted: they have granted it by now; else they still may
        stays: who stands in their queues again
        """
        if mask:
            self._late &= ~mask
            self._release(mask, mask if granted else 0, stays)

    def _release(self, mask: int, answered: int, stays: Member | None) -> None:
        group, key, ttl_ms = self.group, self.key, self.ttl_ms
        for keeper in self.pipeline.keepers:
            if mask >> keeper.index & 1:
                known = bool(answered >> keeper.index & 1)
                PendingRelease(
                    group.pending,
                    keeper,
                    key,
                    self.token,
                    self.mode,
                    ttl_ms,
                    known,
                    None,
                    tells=self.tells,
                    stays=stays,
                ).release()

    @property
    def tells(self) -> bool:
        """Whether those who wait on servers are told when it is given back."""
        return False

    @property
    def _place(self) -> Member | None:
        """Who keeps a place in servers' queues when the attempt fails: the grant took that."""
        return None


class Take(Attempt):
    """An attempt that passes nobody who waits longer, and by which who is refused joins the queue of each server.

    member: who we are there; one without a name joins none, NOBODY also lets everybody there go first

    positions: by server, where it said that we stand
    """

    __slots__ = ("_member", "positions")

    def __init__(self, group: Group, key: bytes, mode: LockMode, ttl_ms: int, patience: float, member: Member) -> None:
        Attempt.__init__(self, group, key, mode, ttl_ms, patience)
        self._member = member
        self.positions: dict[int, Position] = {}

    def _words(self, dialect: Dialect, in_full: bool) -> Command:
        return self.mode.take(dialect, self.key, self.token, self.ttl_ms, self._floor, self._member, in_full)

    def _answer(self, connection: Connection, value: object) -> Answer:
        answer = self.mode.taken(connection.dialect, value)
        position = answer.position
        if position is not None:
            keeper = self.pipeline.keepers[connection.index]
            self.positions[connection.index] = position
            if self._others_first(position):
                self.group.note_others(self.mode.waits_at(self.key))
            if position.time is not None:
                keeper.note_time(connection, self.started, position.time / 1e6)
        elif answer.others:
            self.group.note_others(self.mode.waits_at(self.key))
        if answer.vote is not FOR:
            self._leave_again(connection)
        return answer

    def _others_first(self, position: Position) -> bool:
        """Whether others go first, known by that they stand before us or that nobody holds the lock."""
        return position.rank > 0 or position.free

    def _leave_again(self, connection: Connection) -> None:
        """A server that has not granted it stands outside the quorum that did: we need no place in its queue."""
        if self.joins and self.decided and self.won:
            Leave(self.group, self.pipeline.keepers[connection.index], *self._waits_for).begin()

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT, and perhaps we stand in the queue."""
        Attempt.lost(self, connection)
        self._leave_again(connection)

    def reply(self, connection: Connection, value: object) -> None:
        """Count a vote. Where we may not run the script, later attempts go without the queue."""
        if not isinstance(value, ErrorReply) or not value.forbidden:
            Attempt.reply(self, connection, value)
            return
        if connection.dialect.queues:  # the first of those under way
            keeper = self.pipeline.keepers[connection.index]
            _log.info("%s refuses queues: %s", cut(keeper.name), value.text)
            connection.speak(without_queue(connection.dialect))
            self.pipeline.refresh()
        self._count(connection, value)

    @property
    def joins(self) -> bool:
        """Whether it joins queues."""
        return self._member.client != b""

    @property
    def _place(self) -> Member | None:
        """The line's, if somebody waits there still who has made no other attempt since: that would stand by itself."""
        line = self.group.line_of(*self._waits_for) if self.joins else None
        return self._member if line is not None and line.latest is self else None

    @property
    def _waits_for(self) -> tuple[bytes, LockMode]:
        """For which lock those wait who stand in the queue, and how."""
        return self.key, self.mode

    @property
    def tells(self) -> bool:
        """Those who wait are told, as they may have been refused because of it."""
        return True

    @property
    def split(self) -> bool:
        """Whether some granted and no holder has a quorum: contenders or queues that differ. Once it is decided."""
        held = sum([not position.free for position in self.positions.values()])
        return self.tally.granted != 0 and held < self.group.quorum


def last_attempt(group: Group, key: bytes, mode: LockMode, ttl_ms: int, patience: float) -> Attempt:
    """An attempt after which none follows: it decides, and passes nobody who is known to wait longer.

    Arguments as for `Attempt`.
    """
    if (group.lines or group.crowded) and group.others_wait(key):
        return Take(group, key, mode, ttl_ms, patience, NOBODY)
    return Attempt(group, key, mode, ttl_ms, patience)


class _End(enum.Enum):
    """How an acquisition ended."""

    WON = "won"
    REFUSED = "refused"
    TOO_MANY = "too many"
    CANCELLED = "cancelled"
    CLOSED = "closed"


class Between(Protocol):
    """Sees to acquisitions between their attempts; `engine.waiting` has it."""

    def fraction(self) -> float:
        """A random number in [0, 1)."""

    def pause(self, acquisition: Acquisition) -> None:
        """After an outage: have it try again after a pause of the retry policy."""

    def join(self, acquisition: Acquisition, refused: bool, held_here: bool) -> None:
        """Have it wait until the lock is free, behind others of this client.

        refused: its own attempt was refused
        held_here: because this client holds the lock
        """

    def forget(self, acquisition: Acquisition) -> None:
        """It pauses or waits no more, if it does."""


class Stay:
    """What is known of an acquisition since it began to wait.

    since: engine time when that was
    deadline: engine time when its waiting ends; infinite for one that waits for ever
    timer: of that deadline
    """

    __slots__ = ("deadline", "since", "timer")

    def __init__(self, since: float, deadline: float) -> None:
        self.since, self.deadline = since, deadline
        self.timer: asyncio.TimerHandle | None = None


class Acquisition(Decision):
    """An `Operation` whose result is the lease, or why there is none: the last attempt says so.

    between: sees to it between its attempts
    group: the servers that vote on the resource
    resource: as the caller named it
    key: its name on the servers
    mode: which kind of lock
    terms: what the ttl means
    limit: when trying ends

    made: attempts so far
    stay: None before it waits
    cancel_id: by which waits can be ended together
    """

    __slots__ = (
        "_attempt",
        "_between",
        "_end",
        "_last",
        "_released",
        "_resource",
        "_terms",
        "cancel_id",
        "group",
        "key",
        "limit",
        "made",
        "mode",
        "stay",
    )

    def __init__(
        self,
        between: Between,
        group: Group,
        resource: Resource,
        key: bytes,
        mode: LockMode,
        terms: Terms,
        limit: Limit,
        cancel_id: str | None,
    ) -> None:
        Decision.__init__(self)
        self._between, self.group, self._resource, self.key = between, group, resource, key
        self.mode, self._terms, self.limit, self.cancel_id = mode, terms, limit, cancel_id
        self.made = 0
        self.stay: Stay | None = None
        self._attempt: Attempt | None = None
        self._last = limit is ONCE
        self._released = False
        self._end: _End | Exception | None = None  # an exception that something raised, or how else it ended

    @property
    def held(self) -> str:
        """Why it is refused where others hold the lock."""
        return _HELD

    @property
    def _together(self) -> bool:
        """Whether first attempts of this client are made side by side: one may win beside another."""
        return self.mode.shared

    @property
    def ttl_ms(self) -> int:
        """Milliseconds that servers are asked to keep the lock."""
        return self._terms.ttl_ms

    def _held_here(self, attempt: Attempt) -> bool:
        """Whether it was refused because this client holds the lock, and has not sent a release since."""
        details = attempt.tally.details
        if self._released or details is None or self.mode.shared:
            return False
        holders = [detail for detail in details.values() if isinstance(detail, bytes)]
        return sum([self.group.tokens.made(holder) for holder in holders]) >= self.group.quorum

    def released(self) -> None:
        """This client has sent a release of the lock, during the first attempt."""
        self._released = True

    def patience(self, now: float) -> float:
        """Seconds that an attempt waits for votes."""
        return min(self._terms.patience, self.limit.longest_round(now))

    def begin(self) -> Acquisition:
        """Make the first attempt; but others who wait longer, here or as far as is known elsewhere, go first."""
        group = self.group
        patience = self._terms.patience if self.limit.deadline == NEVER else self.patience(group.clock())
        if self._together:  # its script lets those go first who wait on servers
            if not self._last and group.line_of(self.key, self.mode) is not None:
                self._between.join(self, False, False)
            else:
                self._begin_together(Attempt(group, self.key, self.mode, self.ttl_ms, patience))
        elif (group.lines or group.crowded) and group.others_wait(self.key):
            if self._last:
                self.try_once_more()
            else:
                self._between.join(self, False, False)
        elif not self._last and self.key in group.trying:
            self._between.join(self, False, False)
        else:
            attempt = Attempt(group, self.key, self.mode, self.ttl_ms, patience)
            if not self._last:
                group.trying[self.key] = self
            self._begin(attempt)
        return self

    def try_once_more(self) -> None:
        """The waiting ends with an attempt of its own."""
        self._last = True
        self._begin(last_attempt(self.group, self.key, self.mode, self.ttl_ms, self.patience(self.group.clock())))

    def follow(self, member: Member) -> None:
        """Somebody of the same line has such a lock that several may hold: make an attempt of its own.

        member: without a name, in the line's place
        """
        group = self.group
        patience = self.patience(group.clock())
        try:
            self._begin_together(Take(group, self.key, self.mode, self.ttl_ms, patience, member))
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not those of the others
            self.fail(error)

    def _begin_together(self, attempt: Attempt) -> None:
        if not self._last:
            self.group.trying_together[self] = None
        self._begin(attempt)

    def _begin(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self.made += 1
        attempt.begin()
        if attempt.decided:
            self._attempt_ended(attempt)
        else:
            attempt.add_waiter(self)

    def hear(self) -> None:
        """The attempt is decided."""
        attempt = self._attempt
        assert attempt is not None
        try:
            self._attempt_ended(attempt)
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the connection's
            self.fail(error)

    def _attempt_ended(self, attempt: Attempt) -> None:
        self._no_more_trying()
        if attempt.won:
            self.win(attempt)  # `result` looks whether it was in time
        else:
            self._refused(attempt, self.group.clock())
            if self.decided and not self._last and not self._together:
                self.group.note_released(self.key, self.mode)  # who came behind it asks for itself

    def _no_more_trying(self) -> None:
        """Its first attempt is over."""
        if self._last:
            return
        if self._together:
            self.group.trying_together.pop(self, None)
        else:
            self.group.trying.pop(self.key, None)

    def _refused(self, attempt: Attempt, now: float) -> None:
        """The attempt gives no lease: another one follows, or it was the last."""
        if self.over(now):
            self.refuse(attempt)
            return
        self.log(attempt, "")
        if attempt.tally.standing is Standing.UNAVAILABLE:
            self._between.pause(self)
            self.group.note_released(self.key, self.mode)
        else:
            self._attempt = None
            self._between.join(self, True, self._held_here(attempt))

    def over(self, now: float) -> bool:
        """Whether no other attempt may follow."""
        if self._last or self.stay is None:
            return self._last or not self.limit.allows(self.made, now)
        return now >= self.stay.deadline

    def win(self, attempt: Attempt) -> None:
        """An attempt, its own or one that was made for it, has won."""
        self._attempt = attempt
        self._decide(_End.WON)

    def refuse(self, attempt: Attempt) -> None:
        """An attempt, its own or one that was made for it, was the last, and gives no lease."""
        self._attempt = attempt
        self.log(attempt, ", the last")
        self._decide(_End.REFUSED)

    def log(self, attempt: Attempt, which: str) -> None:
        """Log a refused attempt."""
        if _log.isEnabledFor(logging.DEBUG):
            _log.debug("attempt %d%s: %s", self.made, which, attempt.refusal(self._resource, self.held))

    def close(self) -> None:
        """The supervisor is closed."""
        self._decide(_End.CLOSED)

    def cancel(self) -> None:
        """Its wait is ended from outside."""
        self._decide(_End.CANCELLED)

    def turn_away(self) -> None:
        """Too many wait."""
        self._decide(_End.TOO_MANY)

    def _decide(self, end: _End | Exception) -> None:
        self._end, self.decided = end, True
        self.notify()

    def fail(self, error: Exception) -> None:
        """Something raised this."""
        self._decide(error)

    def resume(self) -> None:
        """The pause is over."""
        try:
            self.begin()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the timer's
            self.fail(error)

    def abandon(self) -> None:
        """Nobody wants the lock any more: give back what was or may still be granted."""
        self.decided = True
        self._between.forget(self)
        attempt, self._attempt = self._attempt, None
        if attempt is not None:
            self._no_more_trying()
            attempt.give_up()
            self.group.note_released(self.key, self.mode)

    def result(self) -> LeaseRecord | LockNotAcquired:
        """The lease, which is the caller's from now on, or why there is none.

        A caller may come so late (its process was suspended) that the validity has run out. Then it goes on trying, as
        far as the limit allows: it is not `decided` any more, and what this returns does not count yet.

        Raises ClosedError.
        """
        attempt, end = self._attempt, self._end
        if isinstance(end, Exception):
            raise end
        if end is _End.CLOSED:
            raise ClosedError("the supervisor was closed while this call waited")
        if end is _End.CANCELLED or end is _End.TOO_MANY or attempt is None:
            return self._ended_before_its_time()
        if end is _End.WON:
            now = self.group.clock()
            lease = attempt.lease(self._resource, self._terms.validity, now)
            if lease is not None:
                self._attempt = None
                return lease
            attempt.come_too_late()
            self.group.note_released(self.key, self.mode)
            self.decided = False
            self._refused(attempt, now)
        return attempt.refusal(self._resource, self.held)

    def _ended_before_its_time(self) -> LockNotAcquired:
        """Why its waiting ended without a last attempt."""
        resource, group = resource_text(self._resource), self.group
        if self._end is _End.TOO_MANY:
            text = f"{quoted(resource)} is not locked: so many calls wait already as max_waiting allows"
            return TooManyWaiting(text, resource, group.name)
        waited = 0.0 if self.stay is None else group.clock() - self.stay.since
        return WaitCancelled(f"the wait for {quoted(resource)} was cancelled", resource, group.name, (), waited)
