"""What leases tell of themselves, one or several together: `lost` and `doubtful`, for both faces.

Whether an event is set is read from the lease each time, so it is right even before anybody could be told. Only who
waits has the engine asked to tell. No event refers to the lease object, which must be gone when its user drops it.
"""

from __future__ import annotations

import asyncio
import threading
from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.timing import Seconds, seconds
from redlock_cluster.engine.engine import Engine
from redlock_cluster.handles.unique import Unique

__all__ = ["AsyncLeaseEvent", "LeaseEvent", "Telling", "async_events", "events", "joint_remaining", "joint_state"]

Flag = TypeVar("Flag", threading.Event, asyncio.Event)

_LEAST: Final = 0.001  # seconds; so short that nobody notices, and no loop spins

_WORST_FIRST: Final = (LeaseState.LOST, LeaseState.UNKNOWN, LeaseState.HELD, LeaseState.DETACHED, LeaseState.RELEASED)


def joint_state(records: Sequence[LeaseRecord], now: float) -> LeaseState:
    """The state of leases that are held together: LOST or UNKNOWN if one of them is, RELEASED when all are."""
    states = [record.state(now) for record in records]
    return states[0] if len(states) == 1 else min(states, key=_WORST_FIRST.index)


def joint_remaining(records: Sequence[LeaseRecord], now: float) -> float:
    """Seconds for which all of them may still be relied on."""
    return min([record.remaining(now) for record in records])


class _Flag(Protocol):
    def set(self) -> None: ...

    def clear(self) -> None: ...


class _Told:
    """Hears from the engine what becomes of one lease, for two events.

    The engine alone has it, as long as there is anything to tell. When it is gone, the lease is over: whoever waits
    wakes up, and sees for itself.

    lost, doubtful: what those sleep on who wait
    """

    __slots__ = ("_doubtful", "_engine", "_lost")

    def __init__(self, engine: Engine, lost: _Flag, doubtful: _Flag) -> None:
        self._engine, self._lost, self._doubtful = engine, lost, doubtful

    def doubtful(self) -> None:
        """The last extension has reached no quorum."""
        self._doubtful.set()

    def held(self) -> None:
        """A later one has. Who begins to wait while another lease is doubtful sees that without being told."""
        self._doubtful.clear()

    def lost(self, reason: LossReason) -> None:
        """It is over."""
        self._wake()

    def _wake(self) -> None:
        self._doubtful.set()
        self._lost.set()

    def __del__(self) -> None:
        if not self._engine.closed:  # else the lease may be valid still, and nobody tells its end
            self._wake()


class _Telling:
    """Has the engine tell of leases, from the first call on.

    later: has the engine's loop do something soon
    """

    __slots__ = ("_begun", "_engine", "_later", "_records")

    def __init__(self, engine: Engine, records: Sequence[LeaseRecord], later: Callable[..., object]) -> None:
        self._engine, self._records, self._later = engine, records, later
        self._begun = False

    def begin(self, lost: _Flag, doubtful: _Flag) -> None:
        if not self._begun:
            self._begun = True  # if two threads come so far, the engine tells it twice, which does no harm
            tell = [(record, _Told(self._engine, lost, doubtful)) for record in self._records]
            self._later(_listen, self._engine, tell)


def _listen(engine: Engine, tell: Sequence[tuple[LeaseRecord, _Told]]) -> None:
    """In the engine's loop. An engine that was closed tells nobody anything."""
    for record, told in tell:
        if not engine.closed:
            engine.listen(record, told)


class _Event(Unique, Generic[Flag]):
    """A state of a lease, or of one of several, that one can ask for and wait for.

    engine, records: the leases
    early: whether doubt is enough
    begin: has the engine tell of them from now on
    flag: what those sleep on who wait
    """

    __slots__ = ("_begin", "_early", "_engine", "_flag", "_records")

    instead = "it belongs to its lease, in this process"

    def __init__(
        self, engine: Engine, records: Sequence[LeaseRecord], early: bool, begin: Callable[[], None], flag: Flag
    ) -> None:
        self._engine, self._records, self._early = engine, records, early
        self._begin = begin
        self._flag: Flag = flag

    def is_set(self) -> bool:
        """Whether it is so now; asks no server."""
        if self._engine.forked:  # the lease is the parent process's
            return True
        state = joint_state(self._records, self._engine.clock())
        return state is LeaseState.LOST or (self._early and state is LeaseState.UNKNOWN and self._left() > 0)

    def __bool__(self) -> bool:
        return self.is_set()

    def _left(self) -> float:
        """Seconds of validity left: 0 when a lease is over, or its release was asked for."""
        return joint_remaining(self._records, self._engine.clock())

    def _was_set(self) -> bool:
        """Of one who was woken: whether it is set, or was for a moment; else the lease is over."""
        return self.is_set() or self._left() > 0

    def __repr__(self) -> str:
        what = "doubtful" if self._early else "lost"
        return f"<{type(self).__name__} {what}: {'set' if self.is_set() else 'not set'}>"


class LeaseEvent(_Event[threading.Event]):
    """Whether a lease is lost, or doubtful. True while that is so. Any thread may ask and wait."""

    __slots__ = ()

    def wait(self, timeout: Seconds | None = None) -> bool:
        """Waits until it is set.

        timeout: seconds; None: as long as the lease is held

        Returns whether it is set: false when the time is over, or the lease was released or detached.
        """
        clock = self._engine.clock
        end = None if timeout is None else clock() + seconds(timeout, "timeout")
        while not self.is_set():
            left = self._left() if end is None else min(self._left(), end - clock())
            if left <= 0:
                return self.is_set()
            self._begin()
            if self._flag.wait(max(left, _LEAST)):
                return self._was_set()
        return True


class AsyncLeaseEvent(_Event[asyncio.Event]):
    """Whether a lease is lost, or doubtful. True while that is so."""

    __slots__ = ()

    async def wait(self) -> bool:
        """Waits until it is set, as long as the lease is held.

        Returns whether it is set: false when the lease was released or detached.
        """
        await asyncio.sleep(0)  # who asks again and again lets others go on
        while not self.is_set():
            left = self._left()
            if left <= 0:
                return self.is_set()
            self._begin()
            try:
                async with asyncio.timeout(max(left, _LEAST)):
                    await self._flag.wait()
            except TimeoutError:
                continue  # its validity is over, or was extended meanwhile
            return self._was_set()
        return True


E = TypeVar("E", LeaseEvent, AsyncLeaseEvent)


class Telling(Generic[E]):
    """What has leases, one or several that are held together, and tells what becomes of them."""

    __slots__ = ()

    _events: tuple[E, E]

    @property
    def lost(self) -> E:
        """Whether it is lost, or one of those that are held together: an event.

        It has `is_set()`, `wait()` (in asyncio to be awaited, else with a timeout), and a truth value.
        """
        return self._both()[0]

    @property
    def doubtful(self) -> E:
        """The same, set earlier: as soon as an extension has reached no quorum, until one reaches it again."""
        return self._both()[1]

    def _both(self) -> tuple[E, E]:
        try:
            return self._events
        except AttributeError:  # most are never asked for them
            return self._make_events()

    @abstractmethod
    def _make_events(self) -> tuple[E, E]:
        """They are asked for the first time: makes them and keeps them."""


def events(
    engine: Engine, records: Sequence[LeaseRecord], later: Callable[..., object]
) -> tuple[LeaseEvent, LeaseEvent]:
    """The two events of synchronous leases that are held together: lost, doubtful.

    later: has the engine's loop do something soon
    """
    lost, doubtful = threading.Event(), threading.Event()
    begin = partial(_Telling(engine, records, later).begin, lost, doubtful)
    return LeaseEvent(engine, records, False, begin, lost), LeaseEvent(engine, records, True, begin, doubtful)


def async_events(engine: Engine, records: Sequence[LeaseRecord]) -> tuple[AsyncLeaseEvent, AsyncLeaseEvent]:
    """The two events of asyncio leases that are held together: lost, doubtful."""
    lost, doubtful = asyncio.Event(), asyncio.Event()
    begin = partial(_Telling(engine, records, _at_once).begin, lost, doubtful)
    return AsyncLeaseEvent(engine, records, False, begin, lost), AsyncLeaseEvent(engine, records, True, begin, doubtful)


def _at_once(do: Callable[..., object], *arguments: object) -> None:
    do(*arguments)
