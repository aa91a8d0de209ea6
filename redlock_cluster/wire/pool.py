"""One server of a group: its pool of connections; what `status()` tells of servers and groups."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from redlock_cluster.options import DeploymentOptions, ServerOptions
from redlock_cluster.wire.flusher import Outbox
from redlock_cluster.wire.keeper import Link
from redlock_cluster.wire.ports import Ports

__all__ = ["GroupStatus", "Server", "ServerState", "ServerStatus"]


class ServerState(enum.Enum):
    """UP: every connection of the pool serves. PARTIAL: some do. SILENT: connected, but answers nothing.
    CONNECTING: no attempt has ended yet. DOWN: no connection."""

    CONNECTING = "connecting"
    UP = "up"
    PARTIAL = "partial"
    SILENT = "silent"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class ServerStatus:
    """A server at the moment of `status()`.

    since: seconds the state has lasted, as far as the last connect or disconnect tells
    last_error: the last failure, "" when there was none; it stays after a reconnection
    version: such as `valkey 9.1.2`, "" before the first connection; latency: seconds of the last health check
    connections: serving ones, of `pool_size`; reconnects: connections made anew, over the whole pool
    owed: tokens to be released there once it is reachable again
    """

    name: str
    state: ServerState
    since: float
    last_error: str
    version: str
    latency: float | None
    connections: int
    reconnects: int
    owed: int


@dataclass(frozen=True, slots=True)
class GroupStatus:
    """A group at the moment of `status()`: its servers in voting order, and whether a quorum of them can vote."""

    name: str
    weight: int
    servers: tuple[ServerStatus, ...]
    available: bool


class Server:
    """A server's pool of connections; a key always uses the same one of them."""

    def __init__(
        self, server: ServerOptions, index: int, options: DeploymentOptions, ports: Ports, outbox: Outbox
    ) -> None:
        self.name = server.name
        self._clock = ports.clock
        self.links = tuple(Link(server, index, options, ports, outbox) for _ in range(options.pool_size))

    def status(self) -> ServerStatus:
        """What is known of it now."""
        links = self.links
        newest = max(links, key=lambda link: link.since)
        latencies = [link.latency for link in links if link.latency is not None]
        return ServerStatus(
            name=self.name,
            state=self._state(),
            since=max(0.0, self._clock() - newest.since),
            last_error=newest.last_error or next((link.last_error for link in links if link.last_error), ""),
            version=next((link.greeting.version for link in links if link.greeting is not None), ""),
            latency=min(latencies, default=None),
            connections=sum(link.connection is not None for link in links),
            reconnects=sum(link.reconnects for link in links),
            owed=sum(link.owed for link in links),
        )

    def _state(self) -> ServerState:
        connected = [link.connection for link in self.links if link.connection is not None]
        if not connected:
            tried = any(link.attempted.is_set() for link in self.links)
            return ServerState.DOWN if tried else ServerState.CONNECTING
        if any(connection.silent for connection in connected):
            return ServerState.SILENT
        return ServerState.UP if len(connected) == len(self.links) else ServerState.PARTIAL
