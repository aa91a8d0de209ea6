"""Pipelines: the connections, one to each server of a group, that carry the same messages.

A message goes to all of them, mostly in the same words. So it is queued once for all, and what is queued until the end
of the turn leaves as one flight.
"""

from __future__ import annotations

from collections.abc import Callable

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.wire.connection import Connection, Flusher, Upstream
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.flight import Flight, Message
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import Clock

__all__ = ["Pipeline"]


class _Branch:
    """The connections of a pipeline that speak one dialect, and what the open flight sends to them.

    commands: packed, one for each message of the flight
    foreseen: the reply that is foreseen to each, as it comes over the wire
    """

    __slots__ = ("commands", "connections", "dialect", "foreseen", "indices")

    def __init__(self, dialect: Dialect, connections: tuple[Connection, ...]) -> None:
        self.dialect, self.connections = dialect, connections
        self.indices = tuple(connection.index for connection in connections)
        self.commands: list[bytes] = []
        self.foreseen: list[bytes] = []

    def close(self, flight: Flight) -> bytes:
        """Everything that was queued, joined; the flight learns what is foreseen here."""
        data = b"".join(self.commands)
        flight.expect(self.indices, self.foreseen)
        self.commands, self.foreseen = [], []
        return data


class Pipeline(Upstream):
    """The connections at one index of the pools of a group's servers.

    keepers: one for each server, in the group's order
    needed: how many servers must do what a message asks
    clock, flusher, deadlines: the engine's
    on_refresh: called whenever something about the servers has changed
    on_longer: called before a ttl is sent that is longer than `horizon_ms`; returns that anew, and until when it holds

    usable: mask of the servers that can be asked now
    unusable: mask of the others
    why: for each of those, by index, why it can't be asked
    doubts: why the grants of some of the usable ones don't count, by index
    enough: whether as many as are needed can be asked, and their grants count
    unfit: mask of those of which that is not so
    refused: whether a server refuses something
    horizon_ms: milliseconds; the servers have been told that locks last so long
    """

    __slots__ = (
        "_branches",
        "_clock",
        "_deadlines",
        "_flusher",
        "_horizon_until",
        "_needed",
        "_now",
        "_on_longer",
        "_on_refresh",
        "_open",
        "_singly",
        "doubts",
        "enough",
        "horizon_ms",
        "keepers",
        "refused",
        "unfit",
        "unusable",
        "usable",
        "why",
    )

    def __init__(
        self,
        keepers: tuple[Keeper, ...],
        needed: int,
        clock: Clock,
        flusher: Flusher,
        deadlines: Deadlines,
        on_refresh: Callable[[], None],
        on_longer: Callable[[Pipeline, int], tuple[int, float]],
    ) -> None:
        self.keepers, self._needed = keepers, needed
        self._on_refresh, self._on_longer = on_refresh, on_longer
        self._clock, self._flusher, self._deadlines = clock, flusher, deadlines
        self._branches: tuple[_Branch, ...] = ()
        self._open: Flight | None = None
        self._now = clock()
        for keeper in keepers:
            keeper.serve(self)
        self.refresh()

    def refresh(self) -> None:
        """A connection came, went, fell silent, is full, or none of these any more; or its absence has a new cause.

        Or a server refuses what it did before, or no longer; or its grants count, or no longer. Where one refuses
        something, or its grants don't count, every message counts alone, so that each reply is seen.
        """
        self.queue_open()
        by_dialect: dict[Dialect, list[Connection]] = {}
        usable, why, doubts = 0, dict[int, str](), dict[int, str]()
        for keeper in self.keepers:
            connection = keeper.connection
            if connection is None or connection.judge():
                why[keeper.index] = keeper.absence()
            else:
                by_dialect.setdefault(connection.dialect, []).append(connection)
                usable |= 1 << keeper.index
                if keeper.doubt:
                    doubts[keeper.index] = keeper.doubt
        self.usable, self.why, self.doubts = usable, why, doubts
        self.unusable = (1 << len(self.keepers)) - 1 & ~usable
        self.unfit = self.unusable | sum([1 << index for index in doubts])
        self.enough = len(self.keepers) - self.unfit.bit_count() >= self._needed
        self.refused = any(keeper.refusals for keeper in self.keepers)
        self._singly = self.refused or bool(doubts)
        self.horizon_ms, self._horizon_until = 0, 0.0
        self._branches = tuple(_Branch(dialect, tuple(some)) for dialect, some in by_dialect.items())
        self._on_refresh()

    def open_for(self, patience: float) -> None:
        """Before a message that waits so many seconds looks at what is `usable`.

        An open flight with another patience is closed, which may fill a connection.
        """
        if self._open is not None:
            if self._open.patience == patience:
                return
            self.queue_open()
        self._now = self._clock()
        if self._now >= self._horizon_until:
            self.horizon_ms = 0

    def unasked(self) -> tuple[int, dict[int, str]]:
        """Which servers can't be asked, or their grants don't count, as a mask; and why, by index."""
        return self.unfit, self.doubts | self.why

    def lengthen(self, ttl_ms: int) -> None:
        """Before a ttl is sent that is longer than `horizon_ms`: tell servers first. Behind `open_for`."""
        self.horizon_ms, self._horizon_until = self._on_longer(self, ttl_ms)

    def send(self, message: Message) -> None:
        """Queue a message for all servers that are usable: it joins the open flight. `open_for` comes first."""
        flight = self._open
        if flight is None:
            flight = self._open = Flight(
                self.keepers, self.usable, self.unusable, self.why, self._needed, self._now, message.patience
            )
            self._flusher.add(self.flush)
        messages = flight.messages
        message.joined(flight, len(messages))
        messages.append(message)
        for branch in self._branches:
            command, foreseen = message.command(branch.dialect)
            branch.commands.append(command)
            branch.foreseen.append(foreseen)
            if not foreseen or self._singly:
                message.count_alone()
        self._flusher.queued()

    def queue_open(self) -> None:
        """Put the open flight into the queues of the connections: it goes before what is now sent to one of them."""
        for flight, connection, data in self._close():
            connection.queue_series(data, flight, flight.size)

    def flush(self) -> None:
        """Write the open flight."""
        for flight, connection, data in self._close():
            connection.write_series(data, flight, flight.size)

    def _close(self) -> list[tuple[Flight, Connection, bytes]]:
        """Close the open flight, if there is one: what each of the connections is to be given of it."""
        flight, self._open = self._open, None
        if flight is None:
            return []
        flight.close()
        self._deadlines.add(self._clock() + flight.patience, flight)
        whole = [(branch.connections, branch.close(flight)) for branch in self._branches]
        return [(flight, connection, data) for connections, data in whole for connection in connections]
