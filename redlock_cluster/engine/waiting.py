"""What acquisitions do between their attempts: they pause after an outage, and stand in a line while somebody holds the
lock."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.permit import permit_of, resource_key
from redlock_cluster.core.resource import MAX_RESOURCE_BYTES
from redlock_cluster.core.retry import NEVER
from redlock_cluster.engine.acquire import Acquisition, Stay
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.line import Line
from redlock_cluster.engine.pace import Pace
from redlock_cluster.engine.semaphore import PermitAcquisition, PermitLine
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Waiting"]


_LONGEST: Final = 2 * MAX_RESOURCE_BYTES  # of a message: a word and a key, which has a prefix


class Waiting:
    """What the acquisitions of one engine do between their attempts.

    pace: what they share
    most: how many may wait

    count: how many wait
    lines: those who wait, by key and kind of lock
    """

    def __init__(self, pace: Pace, most: int) -> None:
        self._pace, self._most = pace, most
        self.count = 0
        self.lines: dict[bytes, dict[LockMode, Line]] = {}
        self._groups: list[Group] = []
        self._paused: dict[Acquisition, asyncio.TimerHandle] = {}
        self._on_gone, self._on_end = self._gone, self._ended  # one of each for all lines
        self._closed = False

    def serve(self, groups: Iterable[Group]) -> None:
        """From now on acquisitions in these groups come here."""
        self._groups.extend(groups)

    # --- acquisitions that were refused: a `Between` ---------------------------------------------------------------

    def fraction(self) -> float:
        """A random number in [0, 1)."""
        return self._pace.fraction()

    def pause(self, acquisition: Acquisition) -> None:
        """After an outage: have it try again after a pause of the policy."""
        if not self._ends(acquisition):
            pace = self._pace
            seconds = pace.policy.pause(acquisition.made, acquisition.limit, pace.clock(), pace.fraction())
            self._paused[acquisition] = pace.loop.call_later(seconds, self._pause_is_over, acquisition)

    def _pause_is_over(self, acquisition: Acquisition) -> None:
        del self._paused[acquisition]
        if self._pace.inherited:
            acquisition.close()
        else:
            acquisition.resume()

    def join(self, acquisition: Acquisition, refused: bool, held_here: bool) -> None:
        """Have it wait until the lock is free, behind others of this client; arguments as for `Line.add`."""
        if self._ends(acquisition):
            return
        if self.count >= self._most:
            acquisition.turn_away()
            return
        pace, group, key = self._pace, acquisition.group, acquisition.key
        now, stay = pace.clock(), acquisition.stay
        self.count += 1
        if stay is None:
            deadline = pace.policy.deadline(acquisition.made, acquisition.limit, now, pace.fraction())
            stay = acquisition.stay = Stay(now, deadline)
        if stay.deadline != NEVER:
            stay.timer = pace.loop.call_later(max(0.0, stay.deadline - now), self._time_is_over, acquisition)
        line, mode = self._line_of(acquisition), acquisition.mode.plain
        if line is None:
            others = self.lines.setdefault(key, {})
            for other in [*others.values()]:  # queues know which of the two came first
                other.others_came()
            kind = PermitLine if isinstance(acquisition, PermitAcquisition) else Line
            queued = bool(others) or group.crowds(key)
            line = others[mode] = kind(pace, group, key, mode, queued, self._on_gone, self._on_end)
        line.add(acquisition, refused, held_here)

    def _line_of(self, acquisition: Acquisition) -> Line | None:
        """Where it waits, or would."""
        return self.lines.get(acquisition.key, {}).get(acquisition.mode.plain)

    def _time_is_over(self, acquisition: Acquisition) -> None:
        if acquisition.stay is not None:
            acquisition.stay.deadline = self._pace.clock()  # uvloop's timers fire up to a millisecond early
        line = self._line_of(acquisition)
        if line is not None and acquisition in line.waiters:
            line.time_is_over(acquisition)

    def _ends(self, acquisition: Acquisition) -> bool:
        """Whether it ends instead of waiting: the supervisor was closed during its attempt."""
        if self._closed or self._pace.inherited:
            acquisition.close()
            return True
        return False

    def forget(self, acquisition: Acquisition) -> None:
        """It pauses or waits no more, if it does."""
        if acquisition in self._paused:
            self._paused.pop(acquisition).cancel()
        elif acquisition.stay is not None:
            line = self._line_of(acquisition)
            if line is not None:
                line.remove(acquisition)

    def _gone(self, acquisition: Acquisition) -> None:
        self.count -= 1
        stay = acquisition.stay
        if stay is not None and stay.timer is not None:
            stay.timer.cancel()
            stay.timer = None

    def _ended(self, line: Line) -> None:
        lines = self.lines[line.key]
        del lines[line.mode]
        if not lines:
            del self.lines[line.key]

    @property
    def _all(self) -> list[Line]:
        return [line for lines in self.lines.values() for line in lines.values()]

    # --- what servers say ------------------------------------------------------------------------------------------

    def pushed(self, group: Group, keeper: Keeper, push: list[object]) -> None:
        """A server says of its own accord that a key has changed, or passes on what another client tells."""
        match push:
            case [b"invalidate", list(keys)]:
                for key in keys:
                    if isinstance(key, bytes):
                        for line in self._lines(group, key):
                            line.pushed(keeper.index)
            case [b"invalidate", None]:  # everything is flushed, our places in queues, too
                for line in self._all:
                    if line.group is group:
                        line.flushed(keeper.index)
            case [b"message", bytes(), bytes(text)] if len(text) <= _LONGEST:  # strangers may publish there, too
                self._told(group, keeper, text[:1], text[1:])

    def _lines(self, group: Group, key: bytes) -> list[Line]:
        """Those who wait for a lock of this group."""
        return [line for line in self.lines.get(key, {}).values() if line.group is group]

    def _told(self, group: Group, keeper: Keeper, word: bytes, key: bytes) -> None:
        """Another client tells that a lock is free (f), also for readers alone (r); or that it waits for ours (w)."""
        if word == b"w":
            group.note_others(key)
            return
        permit = permit_of(key)
        at, number = (key, None) if permit is None else permit
        for line in self._lines(group, at):
            if word == (b"r" if line.mode.shared else b"f"):
                line.told(keeper.index, number)

    # --- from outside ----------------------------------------------------------------------------------------------

    def cancel(self, key: bytes | None, cancel_id: str | None) -> int:
        """End waits from outside, those of acquisitions that make their first attempt among them.

        key: of this resource alone; None: whatever they wait for
        cancel_id: those that were begun with this; None: all

        Returns how many waited.
        """
        lines = [line for line in self._all if key is None or resource_key(line.key) == key]
        ended = sum([line.cancel(cancel_id) for line in lines])
        first = [each for group in self._groups for each in (*group.trying.values(), *group.trying_together)]
        for acquisition in [*(each for each in first if isinstance(each, Acquisition)), *self._paused]:
            if key in (None, resource_key(acquisition.key)) and cancel_id in (None, acquisition.cancel_id):
                acquisition.abandon()
                acquisition.cancel()
                ended += 1
        return ended

    def close(self) -> None:
        """The supervisor closes: whoever waits hears of it, and nobody waits any more."""
        self._closed = True
        for acquisition in [*self._paused]:
            self.forget(acquisition)
            acquisition.close()
        for line in self._all:
            line.close()
