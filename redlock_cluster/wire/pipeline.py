"""Lanes: the connections, one to each server of a group, that carry the same keys' commands.

A round goes to all of them, mostly in the same words. So it is queued once for all, and what is queued until the end of
the turn leaves as one volley (`engine.volleys`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.tally import quorum_of
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.flight import Volley
from redlock_cluster.wire.ports import Clock

if TYPE_CHECKING:
    from redlock_cluster.engine.round import Round
    from redlock_cluster.wire.connection import Connection
    from redlock_cluster.wire.flusher import Outbox
    from redlock_cluster.wire.keeper import Link

__all__ = ["Lane", "Part"]


class Part:
    """The connections of a lane that speak one dialect, and what the open volley sends to them.

    expected: what each of the commands is answered with when the server does as it was asked, as it is on the wire
    """

    __slots__ = ("commands", "connections", "dialect", "expected", "places")

    def __init__(self, dialect: Dialect, connections: tuple[Connection, ...]) -> None:
        self.dialect, self.connections = dialect, connections
        self.places = tuple(connection.index for connection in connections)
        self.commands: list[bytes] = []
        self.expected: list[bytes] = []

    def close(self, volley: Volley) -> bytes:
        """Everything that was queued, joined; the volley learns what is expected here."""
        data = b"".join(self.commands)
        volley.expect(self.places, self.expected)
        self.commands, self.expected = [], []
        return data


class Lane:
    """One place in the pools of a group's servers.

    links: in voting order; usable: mask of the servers that can answer now; parts: their connections, by dialect
    able: they are a quorum; unusable: mask of the others; why: for each of those, by place
    """

    __slots__ = (
        "_deadlines",
        "_open",
        "_outbox",
        "able",
        "clock",
        "links",
        "parts",
        "quorum",
        "unusable",
        "usable",
        "why",
    )

    def __init__(self, links: tuple[Link, ...], clock: Clock, outbox: Outbox, deadlines: Deadlines) -> None:
        self.links, self.clock = links, clock
        self._outbox, self._deadlines = outbox, deadlines
        self.quorum = quorum_of(len(links))
        self.parts: tuple[Part, ...] = ()
        self._open: Volley | None = None
        for link in links:
            link.lane = self
        self.refresh()

    def refresh(self) -> None:
        """A connection came, went, fell silent, is full, or none of these any more; or its absence has a new cause."""
        self.hand_over()
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
        self.able = self.usable.bit_count() >= self.quorum
        self.parts = tuple(Part(spoken, tuple(some)) for spoken, some in by_dialect.items())

    def open_for(self, patience: float) -> None:
        """Before a round that waits so long looks at what is `usable`: an open volley with another patience is closed,
        which may fill a connection.
        """
        if self._open is not None and self._open.patience != patience:
            self.hand_over()

    def send(self, sent: Round[Any]) -> None:
        """Queues a round's commands for all servers that can answer: it joins the open volley (see `open_for`)."""
        volley = self._open
        if volley is None:
            volley = self._open = Volley(self, sent.patience)
            self._outbox.add(self)
        rounds = volley.rounds
        sent.volley, sent.offset, sent.started = volley, len(rounds), volley.started
        rounds.append(sent)
        for part in self.parts:
            command, expected = sent.command(part.dialect)
            part.commands.append(command)
            part.expected.append(expected)
        self._outbox.end_round()

    def hand_over(self) -> None:
        """Puts the open volley into the queues of the connections: it comes before what is now sent to one of them."""
        for volley, connection, data in self._close():
            connection.queue(data, volley)

    def flush(self) -> None:
        """Writes the open volley."""
        for volley, connection, data in self._close():
            connection.write(data, volley)

    def _close(self) -> list[tuple[Volley, Connection, bytes]]:
        """Closes the open volley, if there is one: what each of the connections is to be given of it."""
        volley, self._open = self._open, None
        if volley is None:
            return []
        volley.close()
        self._deadlines.add(self.clock() + volley.patience, volley)
        whole = [(part.connections, part.close(volley)) for part in self.parts]
        return [(volley, connection, data) for connections, data in whole for connection in connections]
