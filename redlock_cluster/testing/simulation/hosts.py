"""Simulated server machines: they run a service, freeze, crash and come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation.connections import Connection, Service

if TYPE_CHECKING:
    from redlock_cluster.testing.simulation.network import Network

__all__ = ["Host"]


class Host:
    """A machine with a server. Made by `Network.add`.

    name: `host:port`; service: what answers there; up: whether a connection to it can be made; frozen: it takes
    connections and bytes but answers nothing; slow: seconds added to each delay from and to it
    """

    def __init__(self, network: Network, name: str, service: Service) -> None:
        self.network, self.name, self.service = network, name, service
        self.up = True
        self.frozen = False
        self.slow = 0.0
        self._inbox: dict[int, list[tuple[Connection, bytes | None]]] = {}

    def delay(self) -> float:
        """Seconds that the next bytes to or from it take."""
        return self.network.delay() + self.slow

    @property
    def connections(self) -> list[Connection]:
        """Its connections, oldest first."""
        return [connection for connection in self.network.connections.values() if connection.host is self]

    def arrived(self, connection: Connection, data: bytes | None) -> None:
        """Bytes, or the end, reach the machine."""
        if self.frozen:
            self._inbox.setdefault(connection.number, []).append((connection, data))
        else:
            connection.serve(data)

    def freeze(self) -> None:
        """The server stops (SIGSTOP): the machine takes bytes, nobody reads them."""
        self.frozen = True

    def thaw(self) -> None:
        """The server goes on with what has arrived: in order within each connection, in any order among them."""
        self.frozen = False
        inbox, self._inbox = self._inbox, {}
        order = list(inbox)
        self.network.random.shuffle(order)
        for number in order:
            for connection, data in inbox[number]:
                connection.serve(data)

    def crash(self, unnoticed: bool = False) -> None:
        """All connections are gone and new ones are refused; unnoticed: clients don't hear of it."""
        self.up, self.frozen = False, False
        self._inbox.clear()
        for connection in self.connections:
            connection.server_gone(unnoticed)

    def start(self) -> None:
        """Takes connections again."""
        self.up = True
