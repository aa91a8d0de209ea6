"""Rounds on the wire: what `core.rounds` counts, sent to the servers of one group and waited for.

A round belongs to the engine, not to the task that waits for it: when the waiter is cancelled, what was granted is
still given back, because every command for one key travels on the same connection of a server, so a release can't
overtake its SET, and what can't be sent now is owed (`engine.link`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Generator
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.tally import Tally
from redlock_cluster.core.votes import ServerVote
from redlock_cluster.wire.connection import Connection
from redlock_cluster.wire.flight import Volley

if TYPE_CHECKING:
    from redlock_cluster.engine.group import Group
    from redlock_cluster.wire.pipeline import Lane

__all__ = ["LOST_REPLY", "Round", "Waiter"]

T = TypeVar("T", bound=Tally)

LOST_REPLY = "the connection broke before the reply"


class Waiter(Protocol):
    """Who waits for the end of a round; a future, for example."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, result: None, /) -> None:
        """The round has ended."""


class _Several:
    """Several waiters as one."""

    __slots__ = ("_waiters",)

    def __init__(self, *waiters: Waiter) -> None:
        self._waiters = [*waiters]

    def add(self, waiter: Waiter) -> None:
        self._waiters.append(waiter)

    def done(self) -> bool:
        return False

    def set_result(self, result: None, /) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)


def _nothing() -> Generator[object, None, None]:
    return
    yield


class Round(ABC, Generic[T]):
    """A round in flight: is the sink for replies and tells those who wait for its end.

    lane: the connections that carry its key; patience: seconds it waits for votes
    started: engine time before the first byte; decided: it has ended, though votes may still come
    volley: what it left in together with others; offset: its place there. While every vote in it is FOR the volley
    counts them, and the round has no tally of its own.
    """

    __slots__ = ("_tally", "_waiter", "decided", "group", "key", "lane", "offset", "patience", "started", "volley")

    def __init__(self, group: Group, key: bytes, patience: float) -> None:
        self.group, self.key, self.patience = group, key, patience
        self.lane: Lane = group.lane(key)
        self.decided = False
        self.volley: Volley | None = None
        self.offset = 0
        self._tally: T | None = None
        self._waiter: Waiter | None = None

    # --- who waits for it ------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[object, None, None]:
        """Waits until the round is decided; cancelling that leaves the round running."""
        return _nothing() if self.decided else self.ended().__await__()

    def ended(self) -> asyncio.Future[None]:
        """Done when the round, which is not decided yet, is; cancelling it leaves the round running."""
        waiter: asyncio.Future[None] = self.group.loop.create_future()
        self.add_waiter(waiter)
        return waiter

    def add_waiter(self, waiter: Waiter) -> None:
        """Has somebody told when the round, which is not decided yet, is."""
        if self._waiter is None:
            self._waiter = waiter
        elif isinstance(self._waiter, _Several):
            self._waiter.add(waiter)
        else:
            self._waiter = _Several(self._waiter, waiter)

    def abandon(self) -> None:
        """Nobody wants the outcome any more; the round goes on."""

    def tell(self) -> None:
        """The round is decided: who waits for it hears so."""
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # --- sending it ------------------------------------------------------------------------------------------------

    @abstractmethod
    def command(self, dialect: Dialect) -> tuple[bytes, bytes]:
        """The packed command in a server's dialect, and one of MEANINGS: how it is answered if the server does it."""

    def _start_alone(self, tally: T) -> T:
        """Is sent to servers one by one, so it counts its votes itself."""
        self._tally = tally
        self.started = self.group.clock()
        self.group.deadlines.add(self.started + self.patience, self)
        return tally

    # --- its votes -------------------------------------------------------------------------------------------------

    @property
    def tally(self) -> T:
        """Its votes so far."""
        return self._counted() if self._tally is None else self._tally

    def detach(self) -> T:
        """Its votes so far, and from now on it counts them itself."""
        if self._tally is None:
            self._tally = self._counted()
            if self.volley is not None:
                self.volley.part_with(self.offset)
        return self._tally

    @abstractmethod
    def _counted(self) -> T:
        """What its volley has counted."""

    def votes(self, names: tuple[str, ...]) -> tuple[ServerVote, ...]:
        """Every server's vote, in the group's order."""
        return self.tally.votes(names)

    @abstractmethod
    def carry(self) -> None:
        """Decides the round: a quorum did as it was asked. `tell` is to follow."""

    @abstractmethod
    def reply(self, connection: Connection, value: object) -> None:
        """Counts a server's reply. Only once it is detached."""

    def lost(self, connection: Connection) -> None:
        """The connection broke: ABSENT. Only once it is detached."""
        if self._lose(connection.index, LOST_REPLY):
            self._progress()

    def missed(self, indices: list[int]) -> None:
        """Servers did not answer in time: ABSENT. Only once it is detached."""
        tally = self.tally
        turned = [tally.miss(index, "no answer in time") for index in indices]
        if any(turned):
            self._progress()

    @property
    def outstanding(self) -> int:
        """Mask of the servers that have not voted."""
        return self.tally.outstanding

    def expire(self) -> None:
        """The deadline of a round that was sent alone has passed: who has not voted is ABSENT, or even silent."""
        outstanding = self.outstanding
        late = [link for link in self.lane.links if outstanding >> link.index & 1]
        for link in late:
            link.overdue(self.patience)
        self.missed([link.index for link in late])

    def _lose(self, index: int, why: str) -> bool:
        return self.tally.miss(index, why)

    @abstractmethod
    def _progress(self) -> None:
        """The votes have reached a turning point."""
