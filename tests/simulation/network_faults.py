"""What goes wrong between clients and servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from redlock_cluster.testing.simulation import Connection

if TYPE_CHECKING:
    from .faults import Faults


class NetworkFaults:
    """Cuts, half-open connections, detours, partitions and slowness."""

    def __init__(self, faults: Faults) -> None:
        self._faults, self._scene, self._random = faults, faults.scene, faults.random
        self._world, self._history = faults.scene.world, faults.scene.history

    def kinds(self) -> list[tuple[int, Callable[[], None]]]:
        """How often each comes, relative to the others."""
        return [
            (6, self._cut),
            (3, self._half_open),
            (4, self._partition),
            (2, self._isolate),
            (2, self._slow),
        ]

    def _cut(self) -> None:
        connection = self._connection()
        if connection is None:
            return
        to_server, to_client, unnoticed = self._faults.chance(), self._faults.chance(), self._faults.chance()
        lost = [name for name, loses in (("requests", to_server), ("replies", to_client)) if loses]
        told = f"cuts {_of(connection)}, losing {lost}{', unnoticed by the server' if unnoticed else ''}"
        self._faults.note(told, "connections cut")
        connection.cut(to_server, to_client, unnoticed)

    def _half_open(self) -> None:
        connection = self._connection()
        if connection is not None:
            to_server, to_client = self._ways()
            ways = [name for name, gone in (("requests", to_server), ("replies", to_client)) if gone]
            self._faults.note(f"{_of(connection)} is half-open: {ways} vanish", "half-open connections")
            connection.vanish(to_server, to_client)

    def detour(self, connection: Connection) -> None:
        """What a client sends takes a long way round, and arrives when the client has given the connection up."""
        told = f"what {_of(connection)} sends takes a long way"
        self._faults.note(told, "requests that arrive after their connection")
        connection.to_server.block()
        given_up = 0.06 * self._random.random()  # before, for some, what takes a SET back is sent after it
        self._faults.until(given_up, lambda: connection.cut(unnoticed=True))
        self._faults.until(given_up + 0.03 + 0.2 * self._random.random(), connection.to_server.unblock)

    def _partition(self) -> None:
        self.block([(self._faults.client().name, self._faults.server().name)], *self._ways())

    def _isolate(self) -> None:
        if self._faults.chance():
            client = self._faults.client().name
            self.block([(client, server.name) for server in self._world.servers], *self._ways())
        else:
            server = self._faults.server().name
            self.block([(client.name, server) for client in self._world.clients], *self._ways())

    def _ways(self) -> tuple[bool, bool]:
        return self._random.choice(((True, True), (True, False), (False, True)))

    def block(self, pairs: list[tuple[str, str]], there: bool, back: bool = True) -> None:
        ways = [pair for pair in pairs if there] + [(server, client) for client, server in pairs if back]
        ways = [way for way in ways if not self._world.network.blocked(*way)]
        if not ways:
            return
        told = ", ".join(f"{source} to {target}" for source, target in ways).replace(":6379", "")
        self._faults.note(f"blocks {told}", "partitions")
        for way in ways:
            self._world.network.block(*way)

        def cure() -> None:
            self._history.note("faults", f"unblocks {told}")
            for way in ways:
                self._world.network.unblock(*way)

        self._faults.until(self._faults.duration(), cure)

    def _slow(self) -> None:
        host, seconds = self._faults.server().host, 0.08 * self._random.random()
        self._faults.note(f"{host.name} is slow: {seconds * 1000:.0f} ms", "slow servers")
        host.slow = seconds
        self._faults.until(self._faults.duration(), lambda: setattr(host, "slow", 0.0))

    def _connection(self) -> Connection | None:
        found = [connection for connection in self._world.network.connections.values() if not connection.closed]
        return self._random.choice(found) if found else None


def _of(connection: Connection) -> str:
    return f"#{connection.number} ({connection.client} to {connection.host.name})"
