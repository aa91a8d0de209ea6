"""Leases that look after themselves: they are extended, and whoever has them is told what becomes of them.

Each lease that extends itself, or of whose loss somebody wants to hear, has a watch:

    held --a third of the ttl has passed--> extending
    extending --a quorum extended it--> held
    extending --it reached no quorum--> doubtful
    doubtful --a tenth of the ttl has passed--> extending
    any --a push, a look, an extension says that a quorum can't hold it; its validity or `max_hold` is over--> lost
    any --its release is asked for; detached; nobody refers to it any more--> stopped

It is stopped before the release is sent, so no extension is sent behind a release. What is lost is never taken again.

For the first of them servers are asked to push when the key changes (`CLIENT CACHING YES`, and a read of the key), half
a second after the acquisition: most leases are over by then, and cost nothing. A push between an extension and the
answer to the next such request is our own; any other one causes a look. Beyond those, and where servers don't push, a
loss is found by the next extension, and at the end of validity at the latest.

Watches that are due at about the same time are woken together, so that their extensions leave together. But leases that
were acquired together would stay together, and at each third of their ttl everybody else would wait behind them. So the
first extension comes at a random moment of its third, as DHCP (RFC 2131, 4.4.5) and Consul's checks spread theirs (not
too soon: most leases are over by then); so does the first one after doubt. The others come a third of the ttl after the
one before *was due*: each keeps its beat. If they followed when it was sent, those that were once late together (the
loop stood still, the collector ran) would stay together, and more would join them each time.
"""

from __future__ import annotations

import asyncio
import logging
import warnings
from collections.abc import Callable
from contextlib import suppress
from heapq import heappop, heappush
from itertools import islice
from math import fmod, frexp, ldexp
from typing import Final, Protocol

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.mode import AGAINST
from redlock_cluster.core.resource import resource_text
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.text import quoted
from redlock_cluster.core.token import Token
from redlock_cluster.engine.extend import Extension, ExtensionRound
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.look import Look
from redlock_cluster.engine.owner import Owner
from redlock_cluster.engine.pushes import push_when_changed
from redlock_cluster.engine.release import give_back, release_lost
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.forks import Generation
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Clock

__all__ = ["Listener", "Watchdog"]

_log = logging.getLogger(__name__)

_EXTENDED: Final = 3  # times in a validity
_RETRIED: Final = 10  # times in a validity, while an extension reaches no quorum
_PARTS: Final = 256  # what is due within such a part of its delay is woken together
_TOGETHER: Final = 16  # ... so many at least: with more, the parts get smaller, and others are served between them
_FINEST: Final = 2.0**-10  # ... but not smaller than that, seconds: loops' timers are no finer
_ALONE: Final = 0.004  # what is due so soon is not: seconds
_AT_ONCE: Final = 64  # watches in one turn of the loop, about half a millisecond: others are served between turns
_SOON: Final = 0.5  # seconds after the acquisition: most leases are over by then
_FIRST: Final = 2 * _SOON  # before that none is extended: a loss that servers are asked about is told with its reason
_ARMED: Final = 1000  # watches whose servers are asked to push
_LATE: Final = 20  # watches that are woken later than such a part of their ttl are told of
_LEAST_LATE: Final = 0.1  # and so late at least, seconds
_TOLD: Final = 10.0  # seconds between two such messages at least
_NEVER: Final = float("inf")


class Listener(Protocol):
    """Hears what becomes of a lease, in the engine's loop. Must neither raise nor block."""

    def doubtful(self) -> None:
        """The last extension has reached no quorum."""

    def held(self) -> None:
        """A later one has."""

    def lost(self, reason: LossReason) -> None:
        """It is lost. Nothing follows."""


class Watch(Decision):
    """Sees to one lease. Is never decided: it is a `Decision` only to hear why it could not be extended.

    group, record: which lease

    extends: whether it extends itself
    stopped: it is over
    """

    __slots__ = (
        "_again",
        "_ahead",
        "_armed",
        "_busy",
        "_dog",
        "_doubtful",
        "_extension",
        "_listeners",
        "_look",
        "_next_at",
        "_owners",
        "_round",
        "due",
        "extends",
        "group",
        "record",
        "slot",
        "stopped",
    )

    def __init__(self, dog: Watchdog, group: Group, record: LeaseRecord) -> None:
        Decision.__init__(self)
        self._dog, self.group, self.record = dog, group, record
        self.extends = self.stopped = False
        self.due = _NEVER
        self.slot: dict[Watch, None] | None = None  # those that are woken with it
        self._owners: tuple[Owner[Watch], ...] = ()
        self._next_at = 0.0  # when an extension is due, or the end
        self._ahead = (
            0.0  # how much earlier than usual the next extension comes, as a part of the usual pause; or later
        )
        self._listeners: tuple[Listener, ...] = ()
        self._round: ExtensionRound | None = None  # of an extension of its own, while it is under way
        self._extension: Extension | None = None  # that has failed, until it is known why
        self._doubtful = False  # was told so
        self._look: Look | None = None
        self._again = False  # something has changed since that began
        # By server, where it was asked for a push that has not come; None as long as it was asked nowhere.
        self._armed: dict[int, Connection] | None = None
        self._busy = 0  # mask of the servers whose next push may be our own doing

    # --- what it does ----------------------------------------------------------------------------------------------

    def extend_while(self, owner: object, until: float) -> None:
        """From now on the lease extends itself, as long as somebody refers to its owner, or to any it has.

        until: engine time when it ends all the same
        """
        self.own(owner)
        self.extends = True
        self.record.hold_at_most(until)
        self._draw()
        self.changed()

    def own(self, owner: object) -> None:
        """Whoever refers to this refers to the lease, too."""
        reference: Owner[Watch] = Owner(owner, self._dog.dropped)
        reference.watch = self
        self._owners = (*[each for each in self._owners if each() is not None], reference)

    @property
    def owned(self) -> bool:
        """Whether anybody refers to the lease."""
        return any(owner() is not None for owner in self._owners)

    def listen(self, listener: Listener) -> None:
        """From now on tell this one, too."""
        self._listeners = (*self._listeners, listener)
        if self._doubtful:
            listener.doubtful()
        self.changed()

    def wake(self, now: float) -> None:
        """It is due."""
        record = self.record
        early = record.kept_ms() / 1000 / _EXTENDED * 2 / _PARTS + _ALONE
        more = self.extends and self._next_at <= now + early and record.valid_until < record.hold_until
        if more and not self._extending and record.remaining(now) > 0:
            self._extend(now)
        else:
            self.changed()

    @property
    def _extending(self) -> bool:
        """Whether an extension of its own is under way, or why the last one failed is being found out."""
        return self._round is not None or self._extension is not None

    def _extend(self, now: float) -> None:
        """Extend it, unless somebody does; `changed` is called when that has ended."""
        record, group = self.record, self.group
        if record.token not in group.extensions:
            terms = group.timing.terms_ms(record.kept_ms())
            self._ahead = fmod((now - self._next_at) / terms.validity * _EXTENDED, 1.0)
            self._round = begun = ExtensionRound(group, record, terms, foreign=False)
            if not begun.begin():
                self._round = None
                self.changed()
            if self._round is None:
                return  # that was known at once
        self._dog.put(self, now + record.remaining(now), now)

    def extending(self) -> None:
        """An extension of the lease is about to be sent, whoever asked for it: it may end earlier from now on."""
        self._busy = (1 << self.group.size) - 1
        if self._round is None:
            now = self.group.clock()
            self._dog.put(self, now + self.record.remaining(now), now)

    def _failed(self, ended: ExtensionRound) -> None:
        """An extension has reached no quorum, or found the lease gone: see why, and log that."""
        self._extension = extension = Extension(self.group, self.record, ended.terms).after(ended)
        if extension.decided:
            self.hear()
        else:
            extension.add_waiter(self)

    def hear(self) -> None:
        """It is known why the last extension failed."""
        extension, self._extension = self._extension, None
        if extension is not None:
            extension.result()  # which logs it
            self.changed()

    def changed(self) -> None:
        """Something new is known of the lease: tell it, and see when something is due next."""
        ended = self._round
        if ended is not None and ended.decided:
            self._round = None
        else:
            ended = None
        self._see()
        if ended is not None and ended.outcome is not Outcome.DONE:
            self._failed(ended)

    def _see(self) -> None:
        if self.stopped:
            return
        record, now = self.record, self.group.clock()
        state = record.state(now)
        if state is LeaseState.LOST:
            self._lost(now)
        elif record.release_asked or record.detached:
            self.stop()
        else:
            self._tell(state is LeaseState.UNKNOWN)
            if self.stopped:
                return  # by who was told
            due = self._next_at = self._next(now)
            arms_at = record.since + _SOON
            if self._armed is None and now < arms_at - _ALONE and self._dog.may_arm(self):
                due = min(due, arms_at)
            else:
                self.arm()
            self._dog.put(self, due, now)

    def _next(self, now: float) -> float:
        """When something is due next."""
        record = self.record
        end, terms = now + record.remaining(now), self.group.timing.terms_ms(record.kept_ms())
        if not self.extends or self._extending or record.valid_until >= record.hold_until:
            return end
        if self._doubtful:
            return min(end, now + terms.validity / _RETRIED)
        return max(now, end - terms.validity * (1 - (1 - self._ahead) / _EXTENDED))

    def _draw(self) -> None:
        """The next extension comes at a random moment, so that leases spread."""
        usual = self.group.timing.terms_ms(self.record.kept_ms()).validity / _EXTENDED
        self._ahead = self._dog.fraction() * (1 - min(_FIRST / usual, 0.5))

    def _tell(self, doubtful: bool) -> None:
        if doubtful is not self._doubtful:
            self._doubtful = doubtful
            self._draw()
            for listener in self._hearers():
                if doubtful:
                    listener.doubtful()
                else:
                    listener.held()

    def _hearers(self) -> tuple[Listener, ...]:
        """Who is told: nobody once nobody refers to a lease that is released for that, in the next turn of the loop."""
        return () if self.extends and not self.owned else self._listeners

    def _lost(self, now: float) -> None:
        reason, rest = self.record.loss(now)
        listeners = self._hearers()
        self.stop()
        if self.extends:
            _log.warning("the lease on %s is lost: %s", quoted(resource_text(self.record.resource)), rest)
        if self.extends or reason is not LossReason.EXPIRED:  # else its keys expire, or another has the token
            release_lost(self.group, self.record, now)
        for listener in listeners:
            listener.lost(reason)

    def stop(self) -> None:
        """The lease is about to be released, or is somebody else's: nothing is done for it any more."""
        self.stopped = True
        self._dog.remove(self)
        self._owners, self._listeners, self._armed = (), (), None

    # --- pushes ----------------------------------------------------------------------------------------------------

    def arm(self) -> None:
        """Have servers push when the key changes, those that have come back among them; not during an extension."""
        if self._extending or not self._dog.may_arm(self):
            return
        record, armed = self.record, self._armed
        if armed is None:
            armed = self._armed = {}
        for keeper in pipeline_of(self.group, record.key).keepers:
            connection, bit = keeper.connection, 1 << keeper.index
            if connection is None or connection.full or not connection.dialect.wakes:
                continue
            if self._busy & bit or armed.get(keeper.index) is not connection:
                self._busy |= bit
                armed[keeper.index] = connection
                words = record.mode.find(connection.dialect, record.key, record.token, False)[0]
                push_when_changed(connection, words, _Armed(self, keeper.index))

    def armed(self, connection: Connection, index: int, value: object) -> None:
        """A server has said what it holds, and pushes when that changes."""
        if self._armed is not None and self._armed.get(index) is connection:
            self._busy &= ~(1 << index)
            if self.record.mode.found(value, self.record.token).vote is AGAINST:
                self.look()

    def pushed(self, index: int) -> None:
        """The key has changed on a server."""
        if not self._busy >> index & 1 and self._armed is not None and self._armed.pop(index, None) is not None:
            self.look()

    def flushed(self, index: int) -> None:
        """A server has forgotten everything, also what it was asked for."""
        if self._armed is not None:
            self._armed.pop(index, None)

    def look(self) -> None:
        """Look where the lease is."""
        if self._look is not None:
            self._again = True
            return
        self._again = False
        self._look = look = Look(self.group, self.record, reason=True).begin()
        looked = _Looked(self)
        if look.decided:
            looked.hear()
        else:
            look.add_waiter(looked)

    def looked(self) -> None:
        """The look is decided."""
        self._look = None
        if self._again and not self.stopped:
            self.look()


class _Looked(Decision):
    """Hears of a watch's look."""

    __slots__ = ("_watch",)

    def __init__(self, watch: Watch) -> None:
        Decision.__init__(self)
        self._watch = watch

    def hear(self) -> None:
        self._watch.looked()


class _Armed:
    """Hears what a server holds that was asked to push when that changes."""

    __slots__ = ("_index", "_watch")

    def __init__(self, watch: Watch, index: int) -> None:
        self._watch, self._index = watch, index

    def reply(self, connection: Connection, value: object) -> None:
        self._watch.armed(connection, self._index, value)

    def lost(self, connection: Connection) -> None:
        pass


class Watchdog:
    """Wakes the watches of one engine when they are due.

    loop, clock: the engine's
    fraction: gives random numbers in [0, 1)

    watches: by token
    dropped: called when an owner of a lease is gone
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, fraction: Callable[[], float]) -> None:
        self._loop, self._clock, self.fraction = loop, clock, fraction
        self.watches: dict[Token, Watch] = {}
        self._slots: dict[float, dict[Watch, None]] = {}  # by engine time
        self._times: list[float] = []  # a heap of these
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self._told = -_NEVER  # when it was told that the loop had stood still
        self._armed: dict[bytes, Watch] = {}  # by key
        self._generation = Generation.number
        self.dropped: Callable[[Owner[Watch]], None] = self._dropped  # bound once for all

    @property
    def inherited(self) -> bool:
        """Whether this is a fork's copy: the leases are the parent's."""
        return Generation.number != self._generation

    def watch(self, group: Group, record: LeaseRecord) -> Watch:
        """The watch of a lease."""
        watch = self.watches.get(record.token)
        if watch is None or watch.record is not record:
            watch = self.watches[record.token] = Watch(self, group, record)
        return watch

    # --- when they are due -----------------------------------------------------------------------------------------

    def put(self, watch: Watch, due: float, now: float) -> None:
        """Wake it then, or a little earlier with others; now if that has passed."""
        if due - now > _ALONE:
            part = (due - now) / max(_PARTS, len(self.watches) / _TOGETHER)
            due -= due % max(_FINEST, ldexp(1.0, frexp(part)[1]))
        elif due < now:
            due = now  # nobody is late; and `_fire` relies on it that nothing comes before what it is at
        if watch.slot is not None:
            if watch.due == due:
                return
            del watch.slot[watch]
        slot = self._slots.get(due)
        if slot is None:
            slot = self._slots[due] = {}
            heappush(self._times, due)
            if due < self._timer_at:
                self._arm(due)
        slot[watch] = None
        watch.slot, watch.due = slot, due

    def remove(self, watch: Watch) -> None:
        """It is never due any more."""
        if watch.slot is not None:
            del watch.slot[watch]
            watch.slot, watch.due = None, _NEVER
        record = watch.record
        if self.watches.get(record.token) is watch:
            del self.watches[record.token]
        if self._armed.get(record.key) is watch:
            del self._armed[record.key]

    def _arm(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_later(max(0.0, due - self._clock()), self._fire), due

    def check(self) -> None:
        """At each health check: the machine may have been suspended, for which loops' timers wait longer."""
        if self._times and self._times[0] <= self._clock():
            self._arm(self._times[0])

    def _fire(self) -> None:
        """Wake what is due, some in each turn."""
        self._timer, self._timer_at = None, -_NEVER  # what is put meanwhile sets no timer: it is set below
        if self.inherited:
            return
        try:
            self._wake(self._clock())
        finally:
            while self._times and not self._slots[self._times[0]]:  # all of them have stopped
                del self._slots[heappop(self._times)]
            self._timer_at = _NEVER
            if self._times:
                self._arm(self._times[0])

    def _wake(self, now: float) -> None:
        left, late = _AT_ONCE, 0.0
        while self._times and self._times[0] <= now and left:
            due = self._times[0]
            slot = self._slots[due]
            woken, later = self._wake_some(slot, due, now, left)
            left, late = left - woken, max(late, later)
            if not slot:
                heappop(self._times)
                del self._slots[due]
        if late and now >= self._told + _TOLD:
            self._told = now
            _log.warning("this process, or its event loop, has stood still: leases are extended %.3g s late", late)

    @staticmethod
    def _wake_some(slot: dict[Watch, None], due: float, now: float, most: int) -> tuple[int, float]:
        """Wake those that are due together, so many at most.

        Returns how many that were, and by how many seconds the latest was too late.
        """
        woken, late = 0, 0.0
        for watch in list(islice(slot, most)):
            woken += 1
            if watch.slot is not slot:
                continue  # another one of them has stopped it
            del slot[watch]
            watch.slot = None
            if now - due > _LEAST_LATE and now - due > watch.record.kept_ms() / 1000 / _LATE:
                late = now - due
            watch.wake(now)
        return woken, late

    # --- pushes ----------------------------------------------------------------------------------------------------

    def may_arm(self, watch: Watch) -> bool:
        """Whether servers may be asked to push for this one, too. Of read locks every change of another would be."""
        if watch.record.mode.shared:
            return False
        armed, key = self._armed, watch.record.key
        there = armed.get(key)
        if there is None and len(armed) < _ARMED:
            there = armed[key] = watch
        return there is watch

    def pushed(self, group: Group, keeper: Keeper, key: bytes) -> None:
        """A key has changed on a server."""
        watch = self._armed.get(key)
        if watch is not None and watch.group is group:
            watch.pushed(keeper.index)

    def forced(self, token: bytes) -> None:
        """A token was removed by force."""
        watch = self.watches.get(Token(token))
        if watch is not None:
            watch.look()

    def flushed(self, group: Group, keeper: Keeper) -> None:
        """A server has forgotten everything."""
        for watch in [*self._armed.values()]:
            if watch.group is group:
                watch.flushed(keeper.index)

    def servers_are_back(self, group: Group) -> None:
        """Servers may have come back."""
        for watch in [*self._armed.values()]:
            if watch.group is group:
                watch.arm()

    # --- the end ---------------------------------------------------------------------------------------------------

    def _dropped(self, owner: Owner[Watch]) -> None:
        """In any thread, between any two instructions: nobody refers to one of the owners of a lease any more."""
        with suppress(RuntimeError):  # the loop is closed, and so the leases are nobody's
            if not self.inherited:
                self._loop.call_soon_threadsafe(self._drop, owner.watch)

    def _drop(self, watch: Watch) -> None:
        """Nobody refers to the owner of a lease any more: release it."""
        if watch.stopped or watch.owned or self.inherited:
            return
        record, group = watch.record, watch.group
        name = quoted(resource_text(record.resource))
        give_back(group, record)  # first: warnings may be errors
        dropped = f"a lease on {name} that extends itself was dropped without being released, so it is released now"
        _log.warning("%s: keep what lock() returns, or use `with`", dropped)  # the other one is seldom shown
        warnings.warn(dropped, ResourceWarning, 2)

    def close(self) -> None:
        """The supervisor closes: what extends itself is released, and nothing is told any more."""
        for watch in [*self.watches.values()]:
            if watch.extends and not self.inherited:
                give_back(watch.group, watch.record)
            else:
                watch.stop()
        if self._timer is not None:
            self._timer.cancel()
