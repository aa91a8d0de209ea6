"""Lanes: the connections, one to each server of a group, that carry the same keys' commands.

A round goes to all of them, mostly in the same words. So it is queued once for all, and the connections share what is
written at the end of the turn.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock_cluster.core.commands import Dialect

if TYPE_CHECKING:
    from redlock_cluster.engine.connection import Connection, Outbox, Sink
    from redlock_cluster.engine.link import Link

__all__ = ["Broadcast", "Lane"]


class Broadcast:
    """Connections that speak one dialect. What goes to all of them is queued here once, and reaches each of them before
    anything that is sent to it alone afterwards.
    """

    __slots__ = ("_commands", "_connections", "_outbox", "_sinks", "dialect")

    def __init__(self, dialect: Dialect, connections: tuple[Connection, ...], outbox: Outbox) -> None:
        self.dialect = dialect
        self._connections, self._outbox = connections, outbox
        self._commands: list[bytes] = []
        self._sinks: list[Sink] = []

    def send(self, command: bytes, sink: Sink) -> None:
        """Queues a packed command for all; the sink hears once from each."""
        if not self._sinks:
            self._outbox.add(self)
        self._commands.append(command)
        self._sinks.append(sink)

    def hand_over(self) -> None:
        """Puts what is queued here into the queues of the connections."""
        if self._sinks:
            data, sinks = self._take()
            for connection in self._connections:
                connection.queue(data, sinks)

    def flush(self) -> None:
        """Writes what is queued."""
        if self._sinks:
            data, sinks = self._take()
            for connection in self._connections:
                connection.write(data, sinks)

    def _take(self) -> tuple[bytes, list[Sink]]:
        data, sinks = b"".join(self._commands), self._sinks
        self._commands, self._sinks = [], []
        return data, sinks


class Lane:
    """One place in the pools of a group's servers.

    links: in voting order; usable: mask of the servers that can answer now; parts: their connections, by dialect
    unusable: mask of the others; why: for each of those, by place
    """

    __slots__ = ("_outbox", "links", "parts", "unusable", "usable", "why")

    def __init__(self, links: tuple[Link, ...], outbox: Outbox) -> None:
        self.links, self._outbox = links, outbox
        self.parts: tuple[Broadcast, ...] = ()
        for link in links:
            link.lane = self
        self.refresh()

    def refresh(self) -> None:
        """A connection came, went, fell silent, is full, or none of these any more; or its absence has a new cause."""
        for part in self.parts:
            part.hand_over()
        by_dialect: dict[Dialect, list[Connection]] = {}
        self.usable = 0
        self.why: dict[int, str] = {}
        for link in self.links:
            connection = link.connection
            if connection is not None:
                connection.impaired = connection.silent or connection.full
                if not connection.impaired:
                    by_dialect.setdefault(connection.dialect, []).append(connection)
                    self.usable |= 1 << link.index
                    continue
            self.why[link.index] = link.absence()
        self.unusable = (1 << len(self.links)) - 1 & ~self.usable
        self.parts = tuple(Broadcast(spoken, tuple(some), self._outbox) for spoken, some in by_dialect.items())

    def hand_over(self) -> None:
        """What is queued for several connections comes before what is now sent to one of them."""
        for part in self.parts:
            part.hand_over()
