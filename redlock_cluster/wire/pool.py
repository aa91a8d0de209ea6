"""One server's pool of connections."""

from __future__ import annotations

import enum

from redlock_cluster.options import DeploymentOptions, ServerOptions
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.handshake import Handshake
from redlock_cluster.wire.keeper import Keeper, OnConnected
from redlock_cluster.wire.ports import Ports

__all__ = ["Pool", "ServerState"]


class ServerState(enum.Enum):
    """UP: every connection of the pool serves. PARTIAL: some do. SILENT: connected, but answers nothing.
    CONNECTING: no attempt has ended yet. DOWN: no connection."""

    CONNECTING = "connecting"
    UP = "up"
    PARTIAL = "partial"
    SILENT = "silent"
    DOWN = "down"


class Pool:
    """The connections to one server, `pool_size` of them; arguments as for `Keeper`."""

    def __init__(
        self,
        server: ServerOptions,
        index: int,
        options: DeploymentOptions,
        ports: Ports,
        flusher: Flusher,
        handshake: Handshake,
        on_connected: OnConnected,
    ) -> None:
        self.name = server.name
        self.keepers = tuple(
            Keeper(server, index, options, ports, flusher, handshake, on_connected) for _ in range(options.pool_size)
        )

    @property
    def state(self) -> ServerState:
        """How the whole pool is."""
        connected = [keeper.connection for keeper in self.keepers if keeper.connection is not None]
        if not connected:
            tried = any(keeper.attempted.is_set() for keeper in self.keepers)
            return ServerState.DOWN if tried else ServerState.CONNECTING
        if any(connection.silent for connection in connected):
            return ServerState.SILENT
        return ServerState.UP if len(connected) == len(self.keepers) else ServerState.PARTIAL

    @property
    def since(self) -> float:
        """Engine time of the last connect or disconnect."""
        return self._newest.since

    @property
    def last_error(self) -> str:
        """The last failure, "" when there was none; it stays after a reconnection."""
        return self._newest.last_error or next((k.last_error for k in self.keepers if k.last_error), "")

    @property
    def version(self) -> str:
        """Such as `valkey 9.1.2`, "" before the first connection."""
        return next((keeper.facts.version for keeper in self.keepers if keeper.facts is not None), "")

    @property
    def latency(self) -> float | None:
        """Seconds of the last health check, the quickest in the pool; None before."""
        return min((keeper.latency for keeper in self.keepers if keeper.latency is not None), default=None)

    @property
    def connections(self) -> int:
        """How many serve."""
        return sum(keeper.connection is not None for keeper in self.keepers)

    @property
    def reconnects(self) -> int:
        """Connections made anew, over the whole pool."""
        return sum(keeper.reconnects for keeper in self.keepers)

    @property
    def _newest(self) -> Keeper:
        return max(self.keepers, key=lambda keeper: keeper.since)
