"""One group of servers that vote together, and what its rounds share."""

from __future__ import annotations

from redlock_cluster.core.decision import Decision
from redlock_cluster.core.tally import quorum_of
from redlock_cluster.core.timing import Timing
from redlock_cluster.core.token import Token, Tokens
from redlock_cluster.engine.pending import PendingReleases
from redlock_cluster.engine.status import GroupStatus, ServerStatus
from redlock_cluster.options import DeploymentOptions, GroupOptions
from redlock_cluster.wire.connection import Flusher
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.handshake import Handshake
from redlock_cluster.wire.keeper import OnConnected
from redlock_cluster.wire.pipeline import Pipeline
from redlock_cluster.wire.pool import Pool, ServerState
from redlock_cluster.wire.ports import Ports

__all__ = ["Group"]


class Group:
    """An odd number of servers, more than half of which decide.

    group, options: as the file says
    timing, ports, flusher, deadlines, pending, tokens: the engine's
    handshake: what is said on each new connection
    on_connected: prepares it

    size: how many servers
    quorum: how many of them decide
    names: the servers', in voting order
    pipelines: one for each index of the pools; all commands for one key use one
    extensions: those under way, by the lease's token: extensions of one lease never overlap
    """

    def __init__(
        self,
        group: GroupOptions,
        options: DeploymentOptions,
        timing: Timing,
        ports: Ports,
        flusher: Flusher,
        deadlines: Deadlines,
        pending: PendingReleases,
        tokens: Tokens,
        handshake: Handshake,
        on_connected: OnConnected,
    ) -> None:
        self.name, self.weight, self.size = group.name, group.weight, len(group.servers)
        self.quorum = quorum_of(self.size)
        self.timing, self.clock = timing, ports.clock
        self.flusher, self.deadlines, self.pending, self.tokens = flusher, deadlines, pending, tokens
        self.pools = tuple(
            Pool(server, index, options, ports, flusher, handshake, on_connected)
            for index, server in enumerate(group.servers)
        )
        self.names = tuple(pool.name for pool in self.pools)
        self.pipelines = tuple(
            Pipeline(keepers, self.quorum, self.clock, flusher, deadlines)
            for keepers in zip(*(pool.keepers for pool in self.pools), strict=True)
        )
        self.extensions: dict[Token, Decision] = {}

    def status(self) -> GroupStatus:
        """A snapshot."""
        now = self.clock()
        servers = tuple(
            ServerStatus(
                name=pool.name,
                state=pool.state,
                since=max(0.0, now - pool.since),
                last_error=pool.last_error,
                version=pool.version,
                latency=pool.latency,
                connections=pool.connections,
                reconnects=pool.reconnects,
                pending_releases=self.pending.count(pool.keepers),
            )
            for pool in self.pools
        )
        able = sum(server.state in (ServerState.UP, ServerState.PARTIAL) for server in servers)
        return GroupStatus(self.name, self.weight, servers, able >= self.quorum)
