"""One server's pool of connections."""

from __future__ import annotations

import enum
from typing import Final

from redlock_cluster.core.dialect import Dialect
from redlock_cluster.options import DeploymentOptions, ServerOptions
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.handshake import Handshake
from redlock_cluster.wire.keeper import Keeper, OnConnected, OnPush
from redlock_cluster.wire.ports import Ports

__all__ = ["Pool", "ServerState"]


class ServerState(enum.Enum):
    """UP: every connection of the pool serves. PARTIAL: some do. REFUSING: it answers commands with errors.
    QUARANTINED: its grants don't count, as it may have forgotten locks, or is not this group's. SILENT: connected, but
    answers nothing. CONNECTING: no attempt has ended yet. DOWN: no connection."""

    CONNECTING = "connecting"
    UP = "up"
    PARTIAL = "partial"
    REFUSING = "refusing"
    QUARANTINED = "quarantined"
    SILENT = "silent"
    DOWN = "down"


_ABLE: Final = (ServerState.UP, ServerState.PARTIAL)


class Pool:
    """The connections to one server, `pool_size` of them; arguments as for `Keeper`.

    Any thread may look how it is. Meanwhile the loop's changes that, so nothing that may come and go is read twice.
    """

    def __init__(
        self,
        server: ServerOptions,
        index: int,
        options: DeploymentOptions,
        ports: Ports,
        flusher: Flusher,
        handshake: Handshake,
        on_connected: OnConnected,
        on_push: OnPush,
    ) -> None:
        self.name = server.name
        self.keepers = tuple(
            Keeper(server, index, options, ports, flusher, handshake, on_connected, on_push)
            for _ in range(options.pool_size)
        )

    @property
    def state(self) -> ServerState:
        """How the whole pool is."""
        connected = [connection for keeper in self.keepers if (connection := keeper.connection) is not None]
        if not connected:
            tried = any(keeper.attempted.is_set() for keeper in self.keepers)
            return ServerState.DOWN if tried else ServerState.CONNECTING
        if any(connection.silent for connection in connected):
            return ServerState.SILENT
        if any(keeper.refusals for keeper in self.keepers):
            return ServerState.REFUSING
        if self.keepers[0].doubt:
            return ServerState.QUARANTINED
        return ServerState.UP if len(connected) == len(self.keepers) else ServerState.PARTIAL

    @property
    def able(self) -> bool:
        """Whether it votes."""
        return self.state in _ABLE

    @property
    def why(self) -> str:
        """Why it is not able."""
        state, doubt = self.state, self.keepers[0].doubt
        if state is ServerState.REFUSING:
            return self.last_error
        if state is ServerState.QUARANTINED:
            return doubt
        return next(k.absence() for k in self.keepers if k.connection is None or k.connection.silent)

    @property
    def since(self) -> float:
        """Engine time of the last connect or disconnect, or of when it began or ceased to refuse."""
        return self._newest.since

    @property
    def last_error(self) -> str:
        """What it refuses now, in its words, or why its grants don't count; else the last failure, "" when there was
        none, which stays."""
        refusals = [keeper.refusal for keeper in self.keepers] if self.state is ServerState.REFUSING else []
        refusals += [keeper.doubt for keeper in self.keepers if keeper.connection is not None]
        errors = [keeper.last_error for keeper in (self._newest, *self.keepers)]
        return next((text for text in refusals + errors if text), "")

    @property
    def version(self) -> str:
        """Such as `valkey 9.1.2`, "" before the first connection."""
        return next((keeper.facts.version for keeper in self.keepers if keeper.facts is not None), "")

    @property
    def run_id(self) -> str | None:
        """Which start of the server this is, "" if it does not say; None without a connection."""
        connected = [keeper.facts for keeper in self.keepers if keeper.connection is not None]
        return next((facts.run_id for facts in connected if facts is not None), None)

    @property
    def warning(self) -> str:
        """What about its configuration endangers keys, "" when nothing is known."""
        return next((keeper.facts.warning for keeper in self.keepers if keeper.facts is not None), "")

    @property
    def queues(self) -> bool | None:
        """Whether waiting calls stand in its queues, on every connection; None without any."""
        dialects = self._dialects
        return all(dialect.queues for dialect in dialects) if dialects else None

    @property
    def wakes(self) -> bool | None:
        """Whether it wakes those who wait, on every connection; None without any."""
        dialects = self._dialects
        return all(dialect.wakes for dialect in dialects) if dialects else None

    @property
    def latency(self) -> float | None:
        """Seconds of the newest health check in the pool; None before."""
        return self._measured.latency

    @property
    def measured_at(self) -> float:
        """Engine time of that."""
        return self._measured.measured_at

    @property
    def connections(self) -> int:
        """How many serve."""
        return sum(keeper.connection is not None for keeper in self.keepers)

    @property
    def reconnects(self) -> int:
        """Connections made anew, over the whole pool."""
        return sum(keeper.reconnects for keeper in self.keepers)

    @property
    def _dialects(self) -> list[Dialect]:
        return [connection.dialect for keeper in self.keepers if (connection := keeper.connection) is not None]

    @property
    def _measured(self) -> Keeper:
        return max(self.keepers, key=lambda keeper: keeper.measured_at)

    @property
    def _newest(self) -> Keeper:
        return max(self.keepers, key=lambda keeper: keeper.since)
