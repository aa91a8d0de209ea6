"""Waiting for a lock that somebody holds.

Each server keeps a queue of the clients that wait for a lock; only the quorum decides who has it. Those of one client
who wait for one lock stand in a line. The line is one member of the queues, and its first makes the attempts:

    trying --won--> the next of the line is first: trying where others wait too, else asleep
    trying --won, and several may hold the lock--> all others make attempts of their own, in the line's place
    trying --an outage--> asleep, for a pause of the retry policy
    trying --a split vote--> asleep, for a random part of the grace, longer with each split
    trying --refused, woken meanwhile--> trying
    trying --refused--> asleep, for a part of the time that servers count a member without hearing of it
    asleep --woken by a quorum of servers, or by a release of this client's--> trying
    asleep --woken by one server--> asleep, for a grace at most
    asleep --others come, the sleep is over, or the time of the first is--> trying
    any --nobody waits any more--> the line leaves the queues

Each attempt is `lua/take.lua`. It takes the lock if that is free and nobody stands before us, else it joins the queue,
or renews our place there: whatever wakes us, the same is done. What wakes us:

- *told*: whoever releases the lock by script tells the first in each server's queue. A member that nobody hears for is
  dead and leaves the queue; one that was told and does not come soon does not count any more, so that a client that is
  stopped holds up nobody for long.
- *pushed*: where we are first, the server is asked once to push when the key changes (`CLIENT CACHING YES`, `PTTL`): it
  is deleted by anybody, expires, or everything is flushed. Where readers hold the lock, one that comes or goes changes
  it, too: then we ask again, and an attempt follows once the key is gone.
- the time when the key expires on a quorum of servers.

A holder whose lock was free when it came does not know of those who wait, and its release tells nobody. So whoever is
first in a queue and finds a holder tells that one by the name in its token. Knowing, it releases by script, and stands
in the queue when it comes again. While this client itself holds the lock and nobody else is known to wait, its line
stands in no queue for the first 0.2 s: the release wakes it, and its next attempt leaves right behind.

Where servers can't wake us, the line polls.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from itertools import islice
from statistics import median_low
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.queue import FREE, Member
from redlock_cluster.core.retry import NEVER
from redlock_cluster.core.tally import Standing
from redlock_cluster.engine.acquire import Acquisition, Attempt, Take
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.leave import Leave
from redlock_cluster.engine.pace import Pace
from redlock_cluster.engine.pushes import push_when_changed
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.wire.connection import Connection

__all__ = ["Line"]

_MOST_SPLITS: Final = 4
_TOGETHER: Final = 1000  # attempts of readers in one turn of the loop
_UNQUEUED: Final = 0.2  # seconds after which others than this client's release must be able to wake us
_MARGIN: Final = 0.001  # servers expire keys with a grain of 1 ms


class Line(Decision):
    """Those of this client who wait for one lock, in the order in which they came.

    Is never decided: it is a `Decision` only to hear of its attempts'.

    pace: what all lines of the engine share
    group, key, mode: which lock
    queued: whether it stands in the queues of servers with its next attempt
    on_gone: called with each of them that waits here no more
    on_end: called when nobody does

    joined: mask of the servers in whose queues this client may stand
    latest: its attempt that was begun last for whoever is first now
    waiters: the first makes the attempts, or they are made for it
    """

    __slots__ = (
        "_again",
        "_armed",
        "_attempt",
        "_ends",
        "_exact",
        "_failures",
        "_first",
        "_free_at",
        "_last_for",
        "_made_for",
        "_on_end",
        "_on_gone",
        "_order",
        "_others",
        "_pace",
        "_queued",
        "_shared",
        "_splits",
        "_timer",
        "_timer_at",
        "_woken",
        "group",
        "joined",
        "key",
        "latest",
        "mode",
        "waiters",
    )

    def __init__(
        self,
        pace: Pace,
        group: Group,
        key: bytes,
        mode: LockMode,
        queued: bool,
        on_gone: Callable[[Acquisition], None],
        on_end: Callable[[Line], None],
    ) -> None:
        Decision.__init__(self)
        self._pace, self.group, self.key, self.mode = pace, group, key, mode
        self._on_gone, self._on_end = on_gone, on_end
        self.waiters: OrderedDict[Acquisition, None] = OrderedDict()
        self._attempt: Attempt | None = None  # while one is under way
        self._made_for: Acquisition | None = None  # the first when it began
        self._last_for: list[Acquisition] = []  # whose time is over: it is their last one, too
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._again = False  # woken by a quorum while the attempt is under way
        self._woken = 0  # mask of the servers that have woken us since it began
        self._others = False  # others were heard of since it began
        self._failures = self._splits = 0  # in a row
        self._begin_line()
        self._reset(queued or self._always)

    @property
    def _always(self) -> bool:
        """Whether it stands in queues whether or not others wait: who waits may have the lock beside a holder."""
        return self.mode.shared

    def _begin_line(self) -> None:
        """For other kinds of lines: what they know besides."""

    def _reset(self, queued: bool) -> None:
        """Stand in no queue; queued: but in all of them with the next attempt."""
        self._queued, self.joined = queued, 0
        self.latest: Attempt | None = None
        self._order, self._exact = 0, False  # our place in the queues; exact: servers have told it
        self._first = 0  # mask of the servers where nobody stands before us
        self._armed: dict[int, Connection] = {}  # by server, where it was asked for a push that has not come
        self._ends: list[float] | None = None  # when the key expires, of servers that were asked for a push
        self._free_at = NEVER  # when it has expired on a quorum
        self._shared = 0  # mask of the servers where readers hold the lock

    # --- who waits -------------------------------------------------------------------------------------------------

    def add(self, acquisition: Acquisition, refused: bool, held_here: bool) -> None:
        """Wait behind the others.

        refused: its own attempt was refused. So it came before all in a line that stands in no queue
        held_here: because this client holds the lock
        """
        self.waiters[acquisition] = None
        if refused and not self._queued:
            self.waiters.move_to_end(acquisition, last=False)
            self._queued = not held_here
            if self._queued:
                self._try()
                return
        if len(self.waiters) == 1:
            self._start()

    def _start(self) -> None:
        """Somebody has become the first: it tries, or sleeps while this client holds the lock and no others wait."""
        if self._queued:
            self._try()
        else:
            self._sleep(min(_UNQUEUED, self._pace.refresh))

    def remove(self, acquisition: Acquisition) -> None:
        """It waits no more."""
        if acquisition in self.waiters:
            self._remove([acquisition])

    def _remove(self, leaving: list[Acquisition]) -> None:
        for acquisition in leaving:
            self._take_out(acquisition)
        if self._made_for is not None and self._made_for not in self.waiters:
            attempt, self._attempt, self._made_for = self._attempt, None, None
            if attempt is not None:
                attempt.give_up()
            if self.waiters:
                self._sleep(0.0)
        if not self.waiters:
            self._end()

    def _take_out(self, acquisition: Acquisition) -> None:
        del self.waiters[acquisition]
        self._on_gone(acquisition)

    def time_is_over(self, acquisition: Acquisition) -> None:
        """Its last attempt is due: the one that is under way or the next, whoever that is made for."""
        self._last_for.append(acquisition)
        if self._attempt is None:
            self._try()

    def _end(self) -> None:
        """Nobody waits here any more."""
        self._rest()
        self._on_end(self)
        joined, self.joined = self.joined, 0
        if not self._pace.inherited:
            self._leave(joined)

    def _leave(self, joined: int) -> None:
        """Leave the queues of these servers; joined: mask."""
        for keeper in pipeline_of(self.group, self.key).keepers:
            if joined >> keeper.index & 1:
                Leave(self.group, keeper, self.key, self.mode).begin()

    def begun(self) -> list[float]:
        """Engine times when each of them began to wait. In any thread."""
        return [each.stay.since for each in [*self.waiters] if each.stay is not None]

    # --- attempts --------------------------------------------------------------------------------------------------

    def _try(self) -> None:
        """Make an attempt for the first, whoever comes first meanwhile; if one is under way, another one behind it."""
        if self._pace.inherited:
            self.close()
            return
        if self._attempt is not None:
            self._again = True
            return
        self._rest()
        self._again, self._woken, self._others = False, 0, False
        first = self._made_for = next(iter(self.waiters))
        first.made += 1
        try:
            attempt = self._attempt = self.latest = self._make(first)
            attempt.begin()
        except Exception as error:  # noqa: BLE001  whatever it is, it is the caller's and not the timer's
            self._remove([first])
            first.fail(error)
            return
        if self._queued:
            self.joined |= attempt.sent
        if attempt.decided:
            self.hear()
        else:
            attempt.add_waiter(self)

    def _make(self, first: Acquisition) -> Attempt:
        group, key, mode = self.group, self.key, first.mode
        patience = first.patience(group.clock())
        if not self._queued:
            return Attempt(group, key, mode, first.ttl_ms, patience)
        return Take(group, key, mode, first.ttl_ms, patience, self._member())

    def _member(self) -> Member:
        """Who we are in the queues."""
        group, pace = self.group, self._pace
        order = self._order if self._exact else pace.order(group, self.key, group.clock())
        return Member(group.tokens.client, order, self._exact, pace.life_ms)

    def hear(self) -> None:
        """The attempt is decided."""
        attempt, self._attempt = self._attempt, None
        first, self._made_for = self._made_for, None
        if attempt is None or first is None:
            return
        now = self.group.clock()
        if isinstance(attempt, Take):
            self._learn(attempt, now)
        last_for, self._last_for = [each for each in self._last_for if each in self.waiters and each is not first], []
        for each in last_for:
            self._take_out(each)
        if attempt.won:
            self._won(first, attempt, last_for)
            return
        if first.over(now):
            self._take_out(first)
            last_for.append(first)
        else:
            first.log(attempt, "")
        if self.waiters:
            self._refused(attempt, now)
        else:
            self._end()
        for each in last_for:
            each.refuse(attempt)

    def _learn(self, attempt: Take, now: float) -> None:
        """Where servers say that we stand, and when they expire the key."""
        if now < attempt.started + attempt.patience:  # else a server that does not answer has made it long
            self._pace.note_round(now - attempt.started)
        self._first, self._shared, self._ends = 0, 0, None
        began, ends = [], []
        for index, position in attempt.positions.items():
            if position.shared:
                self._shared |= 1 << index
            if position.rank == 0:
                self._first |= 1 << index
                if position.expires_ms >= 0:
                    ends.append(now + position.expires_ms / 1000)
            offset = attempt.pipeline.keepers[index].offset
            if position.order is not None and offset is not None:
                began.append(position.order / 1e6 - offset)
        if began and not self._exact:  # each server stamped us by its own clock
            self._order, self._exact = self._pace.order(self.group, self.key, median_low(began)), True
        self._free_at = self._when_free(ends)

    def _won(self, first: Acquisition, attempt: Attempt, last_for: list[Acquisition]) -> None:
        """The attempt has won; last_for: others whose time is over."""
        joined, place = self.joined, Member(b"", self._order, self._exact, 0)
        self._take_out(first)
        self._splits = self._failures = 0
        self._reset(self._always or self._others)
        if joined:  # where it was granted, we have left the queue by that; where it is not answered yet, we see then
            joined &= ~(attempt.tally.granted | attempt.tally.outstanding)
            self._leave(joined)
        followers = [*islice(self.waiters, _TOGETHER)] if self.mode.shared else []
        for each in followers:
            self._take_out(each)
        if self.waiters:
            if followers:
                self._order, self._exact = place.order, place.exact
            self._start()
        else:
            self._end()
        first.win(attempt)
        for each in followers:
            each.follow(place)
        for each in last_for:
            if self.mode.shared:
                each.follow(place)
            else:
                each.try_once_more()

    def _refused(self, attempt: Attempt, now: float) -> None:
        if attempt.tally.standing is Standing.UNAVAILABLE:
            self._failures += 1
            self._sleep(self._pace.pause_after(self._failures))
            return
        self._failures = 0
        if not isinstance(attempt, Take):  # `others_came` may have been during it, and yet we stand in no queue
            self._queued = True
            self._try()
            return
        self._splits = min(self._splits + 1, _MOST_SPLITS) if attempt.split else 0
        if attempt.split:
            self._sleep(min(self._pace.fraction() * self._pace.grace * 2**self._splits, self._pace.refresh))
        elif self._again:
            self._try()
        else:
            self._arm()
            nap = self._nap(now)
            self._sleep(min(nap, self._pace.grace) if self._woken else nap)

    # --- asleep ----------------------------------------------------------------------------------------------------

    def _nap(self, now: float) -> float:
        """Seconds until the next attempt if nothing wakes us before."""
        nap = self._pace.refresh
        if not self._wakes:
            nap = min(nap, self._pace.poll)
        return min(nap, max(self._free_at - now, 0.0) + _MARGIN)

    def _when_free(self, ends: list[float]) -> float:
        """When the key has expired on a quorum of servers; infinite if so many have not said that."""
        quorum = self.group.quorum
        return sorted(ends)[quorum - 1] if len(ends) >= quorum else NEVER

    @property
    def _wakes(self) -> bool:
        """Whether a quorum of servers can wake us."""
        connections = [keeper.connection for keeper in pipeline_of(self.group, self.key).keepers]
        return sum([each is not None and each.dialect.wakes for each in connections]) >= self.group.quorum

    def _sleep(self, seconds: float) -> None:
        self._rest()
        self._timer_at = self.group.clock() + seconds
        self._timer = self._pace.loop.call_later(seconds, self._due)

    def _rest(self) -> None:
        timer, self._timer = self._timer, None
        if timer is not None:
            timer.cancel()

    def _due(self) -> None:
        self._timer = None
        if self.waiters:
            self._queued = True
            self._try()

    def _arm(self) -> None:
        """Have servers push when the key changes, where we are the first to be told of that."""
        for keeper in pipeline_of(self.group, self.key).keepers:
            connection, index = keeper.connection, keeper.index
            if connection is None or not connection.dialect.wakes or connection.full:
                continue
            if not self._first >> index & 1 and connection.dialect.queues:
                continue
            if self._armed.get(index) is not connection:
                self._armed[index] = connection
                push_when_changed(connection, pack_command((b"PTTL", self.key)), _Armed(self, index))

    def armed(self, index: int, expires_ms: int) -> None:
        """A server has said when the key expires, and pushes when it changes."""
        if expires_ms == FREE:
            self._armed.pop(index, None)
            self.wake(index)
        elif expires_ms >= 0 and self._attempt is None and self._timer is not None:
            now = self.group.clock()
            self._ends = [*(self._ends or ()), now + expires_ms / 1000]
            self._free_at = min(self._free_at, self._when_free(self._ends))
            nap = self._nap(now)
            if now + nap < self._timer_at:
                self._sleep(nap)

    def pushed(self, index: int) -> None:
        """The key has changed on a server, if we asked to hear of that."""
        if self._armed.pop(index, None) is None:
            return
        if self._shared >> index & 1 and self._attempt is None:
            self._arm()
        else:
            self.wake(index)

    def flushed(self, index: int) -> None:
        """A server has lost the lock, and our place in its queue."""
        self._armed.pop(index, None)
        self.wake(index)

    def told(self, index: int, number: int | None) -> None:
        """A server passes on that the lock is free; number: of the permit, if it is one."""
        self.wake(index)

    def wake(self, index: int) -> None:
        """The lock may be free on a server."""
        if not self.waiters:
            return
        self._woken |= 1 << index
        if self._woken.bit_count() >= self.group.quorum:
            self._try()
        elif self._attempt is None:
            grace = self._pace.grace
            if self._timer is not None and self._timer_at > self.group.clock() + grace:
                self._sleep(grace)

    def released(self, shared: bool) -> None:
        """As `Group.note_released`."""
        if not self.waiters:
            return
        first = not shared and self._first.bit_count() >= self.group.quorum
        if not self._queued or first or not self._wakes:
            self._try()

    def others_came(self) -> None:
        """Others than this client wait, too: from now on this line stands in the queues."""
        self._others = True
        if not self._queued:
            self._queued = True
            if self._attempt is None:
                self._try()

    # --- from outside ----------------------------------------------------------------------------------------------

    def close(self) -> None:
        """The supervisor is closed, or this is a fork's copy."""
        leaving = [*self.waiters]
        if leaving:
            self._remove(leaving)
        for acquisition in leaving:
            acquisition.close()

    def cancel(self, cancel_id: str | None) -> int:
        """End waits: those that were begun with this, None: all. Returns how many."""
        leaving = [each for each in self.waiters if cancel_id is None or each.cancel_id == cancel_id]
        if leaving:
            self._remove(leaving)
        for acquisition in leaving:
            acquisition.cancel()
        return len(leaving)


class _Armed:
    """Hears when the key expires on a server that was asked to push when it changes."""

    __slots__ = ("_index", "_line")

    def __init__(self, line: Line, index: int) -> None:
        self._line, self._index = line, index

    def reply(self, connection: Connection, value: object) -> None:
        if isinstance(value, int):
            self._line.armed(self._index, value)

    def lost(self, connection: Connection) -> None:
        pass
