"""When an engine looks where its leases are, to take votes again that they lack.

A lease may lack votes whenever a server could not be asked, has refused, or has lost what it knew. Such events are
rare, and leases are many. So nothing is noted for each lease: an event has all leases of the group gone through soon
after, and those that a server lacks which could have them are looked for (`engine.look`). As long as some still lack
votes, that is done again, less and less often.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final
from weakref import ref

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.leases import Holder
from redlock_cluster.engine.look import Look
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.wire.forks import Generation

__all__ = ["Healing"]

_SOON: Final = 0.02  # seconds after an event: what belongs to it has happened by then
_BETWEEN: Final = 1.0  # seconds between two times, however many events there are
_LONGEST: Final = 30.0  # the same while leases lack votes that nobody gives
_TURN: Final = 0.01  # seconds between turns
_AT_ONCE: Final = 256  # leases in one turn of the loop: some milliseconds


class _Rounds:
    """How an engine goes through the leases of one group.

    rest: those still to be gone through, None between two times
    again: there was another event meanwhile
    lacking: some have lacked votes this time
    forgot: mask of the servers that may have lost what they knew, of which the leases are still to learn
    told: mask of those of which they learn this time
    pause: seconds until the next time if leases still lack votes
    ended: engine time when they were gone through
    timer: of the next turn
    """

    __slots__ = ("again", "ended", "forgot", "lacking", "pause", "rest", "timer", "told")

    def __init__(self) -> None:
        self.rest: Iterator[ref[Holder]] | None = None
        self.again = self.lacking = False
        self.forgot = self.told = 0
        self.pause = _BETWEEN
        self.ended = float("-inf")
        self.timer: asyncio.TimerHandle | None = None


class Healing:
    """Sees to the votes of one engine's leases."""

    def __init__(self, engine: Engine) -> None:
        self._engine, self._loop = engine, engine.loop
        self._rounds: dict[Group, _Rounds] = {}
        self._generation = Generation.number
        self._closed = False

    def wanted(self, group: Group, news: bool, forgot: int) -> None:
        """Leases of a group may lack votes; arguments as for `Group.note_lacking`.

        While some lack them for long, a refusal more changes nothing, and it may come with every extension of those.
        """
        here = self._rounds.setdefault(group, _Rounds())
        here.forgot |= forgot
        if news:
            here.pause = _BETWEEN
        if here.rest is not None:
            here.again = True
        elif not self._closed and (news or here.timer is None):
            self._begin_after(group, here, max(_SOON, here.ended + _BETWEEN - group.clock()))

    def _begin_after(self, group: Group, here: _Rounds, seconds: float) -> None:
        """Begin then, or earlier if that was planned: however often it is wanted, it is not put off."""
        timer = here.timer
        if timer is None or self._loop.time() + seconds < timer.when():
            if timer is not None:
                timer.cancel()
            here.timer = self._loop.call_later(seconds, self._go, group, here)

    def _go(self, group: Group, here: _Rounds) -> None:
        """Go through the leases, some in each turn."""
        here.timer = None
        if self._closed or Generation.number != self._generation:
            return
        if here.rest is None:
            here.rest, here.lacking = iter(self._engine.leases.noted()), False
            here.told, here.forgot = here.forgot, 0
        now = group.clock()
        for _ in range(_AT_ONCE):
            reference = next(here.rest, None)
            if reference is None:
                self._gone_through(group, here)
                return
            holder = reference()
            if holder is not None:
                self._see_to(group, here, holder._record, now)
        here.timer = self._loop.call_later(_TURN, self._go, group, here)

    def _see_to(self, group: Group, here: _Rounds, record: LeaseRecord, now: float) -> None:
        """Look for a lease that is valid, if a server that can be asked is not known to hold it."""
        if record.remaining(now) <= 0 or self._engine.group_of(record) is not group:
            return
        if here.told:
            record.forget(here.told)
        if pipeline_of(group, record.key).usable & ~record.holders():
            here.lacking = True
            Look(group, record, reason=False).begin()

    def _gone_through(self, group: Group, here: _Rounds) -> None:
        here.rest, here.ended = None, group.clock()
        if here.lacking:
            self._begin_after(group, here, here.pause)
            here.pause = min(_LONGEST, 2 * here.pause)
        else:
            here.pause = _BETWEEN
            if here.again:
                self._begin_after(group, here, _BETWEEN)
        here.again = False

    def close(self) -> None:
        """Nothing is taken again any more."""
        self._closed = True
        for here in self._rounds.values():
            if here.timer is not None:
                here.timer.cancel()
