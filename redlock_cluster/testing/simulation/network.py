"""A simulated network: delays, partitions in either direction, connections that break or go silent.

Its dialers are what the engine's `Ports` take, so the engine runs over it unchanged. All its randomness comes from one
source, in the order in which things are sent; a seed repeats it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator

from redlock_cluster.options import ServerOptions
from redlock_cluster.testing.simulation.connections import Connection, Pipe, Service
from redlock_cluster.testing.simulation.hosts import Host
from redlock_cluster.testing.simulation.loop import VirtualLoop

__all__ = ["Network", "SimulatedDialer"]

Watcher = Callable[[Connection, list[bytes], bytes], None]


class Network:
    """Hosts, and connections to them.

    source: its randomness; fastest, slowest: seconds that bytes take one way
    fragments: share of writes that arrive in two parts

    hosts: by name; made: how many connections there were; connections: by number, those of which an end is open
    on_command: told of every command that a server executed and of its reply
    on_end: told when a client's end of a connection is closed
    """

    def __init__(
        self,
        loop: VirtualLoop,
        source: random.Random,
        fastest: float = 0.0001,
        slowest: float = 0.001,
        fragments: float = 0.0,
    ) -> None:
        self.loop, self.random = loop, source
        self.fastest, self.slowest, self.fragments = fastest, slowest, fragments
        self.hosts: dict[str, Host] = {}
        self.connections: dict[int, Connection] = {}
        self.on_command: Watcher | None = None
        self.on_end: Callable[[Connection], None] | None = None
        self._blocked: set[tuple[str, str]] = set()
        self.made = 0

    def add(self, name: str, service: Service) -> Host:
        """A host; name: `host:port`, as in the options."""
        host = self.hosts[name] = Host(self, name, service)
        return host

    def dialer(self, client: str) -> SimulatedDialer:
        """What opens connections for a client; its name is where partitions stand."""
        return SimulatedDialer(self, client)

    # --- partitions ------------------------------------------------------------------------------------------------

    def block(self, source: str, target: str) -> None:
        """Nothing gets from one to the other: a client's name and a host's, in either order. It waits on its way."""
        self._blocked.add((source, target))
        for pipe in self._pipes(source, target):
            pipe.block()

    def unblock(self, source: str, target: str) -> None:
        """What waited goes on."""
        self._blocked.discard((source, target))
        for pipe in self._pipes(source, target):
            pipe.unblock()

    def blocked(self, source: str, target: str) -> bool:
        """Whether nothing gets from one to the other."""
        return (source, target) in self._blocked

    def heal(self) -> None:
        """Ends all partitions."""
        for source, target in sorted(self._blocked):
            self.unblock(source, target)

    def _pipes(self, source: str, target: str) -> Iterator[Pipe]:
        for connection in self.connections.values():
            if (connection.client, connection.host.name) == (source, target):
                yield connection.to_server
            elif (connection.client, connection.host.name) == (target, source):
                yield connection.to_client

    # --- for connections -------------------------------------------------------------------------------------------

    def count(self) -> int:
        """The number of the next connection."""
        self.made += 1
        return self.made

    def delay(self) -> float:
        """Seconds that the next bytes take, one way."""
        return self.fastest + (self.slowest - self.fastest) * self.random.random()

    def parts(self, data: bytes) -> tuple[bytes, ...]:
        """What was written, as it travels: whole or in two."""
        if not self.fragments or len(data) < 2 or self.random.random() >= self.fragments:
            return (data,)
        place = 1 + int(self.random.random() * (len(data) - 1))
        return data[:place], data[place:]

    def executed(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        """A server executed a command."""
        if self.on_command is not None:
            self.on_command(connection, words, reply)

    def ended(self, connection: Connection) -> None:
        """A client's end is closed."""
        if self.on_end is not None:
            self.on_end(connection)

    def forget(self, connection: Connection) -> None:
        """Both ends are closed."""
        self.connections.pop(connection.number, None)


class SimulatedDialer:
    """A dialer port of the engine: opens connections of one client."""

    def __init__(self, network: Network, client: str) -> None:
        self._network, self._client = network, client

    async def __call__(self, server: ServerOptions, protocol: asyncio.Protocol) -> None:
        """Connects; takes as long as three messages. Raises ConnectionRefusedError when nobody listens there.

        Waits for ever while a partition is in the way: its caller bounds the time.
        """
        network, client = self._network, self._client
        host = network.hosts.get(server.name)
        if host is None:
            raise ConnectionRefusedError(f"no such host: {server.name}")
        await self._passage(client, host.name, host.delay())
        if not host.up:
            raise ConnectionRefusedError("connection refused")
        await self._passage(host.name, client, host.delay())
        if not host.up:
            raise ConnectionResetError("connection reset by peer")
        connection = Connection(network, client, host, protocol)
        network.connections[connection.number] = connection
        for pipe, source, target in (
            (connection.to_server, client, host.name),
            (connection.to_client, host.name, client),
        ):
            if network.blocked(source, target):
                pipe.block()
        protocol.connection_made(connection)

    async def _passage(self, source: str, target: str, delay: float) -> None:
        await asyncio.sleep(delay)
        if self._network.blocked(source, target):
            await self._network.loop.create_future()
