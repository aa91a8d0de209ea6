"""A play in a simulated world: what the tests share that have clients and servers in virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redlock_cluster.aio import AsyncSupervisor
from redlock_cluster.core.lease_record import LossReason
from redlock_cluster.core.queue import side_keys
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.engine.engine import Engine
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.options.file import load_options
from redlock_cluster.testing.model import VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import Connection, SimulatedClient, SimulatedServer, Simulation
from redlock_cluster.wire.ports import Ports

S = TypeVar("S")
KEY = b"redlock:r"
UNGUARDED: dict[str, object] = {"restart_guard": False}
"""Options without what test_quarantine.py is about: servers that come back grant locks at once."""
TTL = 3.0


def engine_of(client: SimulatedClient) -> Engine:
    """The engine of a client's default deployment."""
    return client.supervisor._deployments.engines["default"]


def play_in(scene: Callable[[Simulation], S], play: Callable[[S], Awaitable[None]]) -> None:
    """Plays in a world of its own.

    scene: makes the clients and servers
    """
    with Simulation(seed=1) as world:
        made = scene(world)

        async def main() -> None:
            await play(made)

        world.run(main)


async def sibling_of(world: Simulation, client: SimulatedClient, options: dict[str, object]) -> AsyncSupervisor:
    """Another supervisor of a client's process, with an engine and connections of its own."""
    ports = client.supervisor._deployments._ports
    assert ports is not None
    deployments = Deployments(load_options(options), Ports(ports.clock, world.network.dialer("sibling"), ports.entropy))
    supervisor = AsyncSupervisor.over(deployments, "default")
    await client.spawn(supervisor.start())
    return supervisor


class Contention:
    """Clients and five servers. Counts what servers are asked, of their time apart; order: who got the lock."""

    def __init__(self, world: Simulation, version: ModelVersion, options: dict[str, object]) -> None:
        self._world, self._options = (
            world,
            {**UNGUARDED, "servers": [{"host": f"server{i}"} for i in range(5)], **options},
        )
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379", version) for i in range(5)]
        self.asked: Counter[tuple[str, bytes]] = Counter()
        world.network.on_command = self._note
        self.order: list[str] = []
        self.at = world.loop.time

    def _note(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        if words[0] != b"TIME":
            self.asked[connection.client, words[0]] += 1

    def asked_for(self, word: bytes) -> int:
        """How often servers were asked for this, by all clients together."""
        return sum(number for (_, asked), number in self.asked.items() if asked == word)

    async def client(self, name: str, **options: object) -> SimulatedClient:
        client = self._world.client(name, {**self._options, **options})
        await client.spawn(client.supervisor.start())
        await asyncio.sleep(0.2)
        return client

    async def clients(self, number: int, **options: object) -> list[SimulatedClient]:
        clients = [await self.client(f"client{i}", **options) for i in range(number)]
        self.asked.clear()
        return clients

    def command(self, *words: bytes) -> list[bytes]:
        """What every server says to a command of another client."""
        return [server.model.connect(lambda _: None).execute(list(words)) for server in self.servers]

    def left(self) -> list[bytes]:
        """How many of the lock's keys each server has."""
        return self.command(b"EXISTS", *side_keys(KEY))


class Told:
    """A listener; what it was told, and when."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.events: list[str | LossReason] = []
        self.at: list[float] = []

    def _note(self, event: str | LossReason) -> None:
        self.events.append(event)
        self.at.append(self._clock())

    def doubtful(self) -> None:
        self._note("doubtful")

    def held(self) -> None:
        self._note("held")

    def lost(self, reason: LossReason) -> None:
        self._note(reason)


class Scene:
    """A client, and five servers; counts what they are asked."""

    def __init__(self, world: Simulation, version: ModelVersion, options: dict[str, object]) -> None:
        self._world, self._options = (
            world,
            {**UNGUARDED, "servers": [{"host": f"server{i}"} for i in range(5)], **options},
        )
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379", version) for i in range(5)]
        self.asked: Counter[tuple[str, bytes]] = Counter()
        self.changed: list[tuple[float, str, list[bytes]]] = []
        self.extended: Counter[float] = Counter()  # how many by the first server, by when: at once what left together
        self.owned: list[AsyncLease] = []
        self.network = world.network
        world.network.on_command = self._note
        self.now = world.loop.time

    def _note(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        self.asked[connection.client, words[0]] += 1
        if words[0] == b"SET" and b"IFEQ" in words and connection.host is self.servers[0].host:
            self.extended[self.now()] += 1
        if KEY in words and words[0] not in (b"GET", b"PTTL"):
            self.changed.append((self.now(), connection.host.name, words))

    async def client(self, name: str = "holder") -> SimulatedClient:
        client = self._world.client(name, self._options)
        await client.spawn(client.supervisor.start())
        await asyncio.sleep(0.2)
        return client

    async def sibling(self, client: SimulatedClient) -> AsyncSupervisor:
        """Another supervisor of the client's process, with an engine and connections of its own."""
        return await sibling_of(self._world, client, {"owner": "sibling", **self._options})

    async def kept(
        self, client: SimulatedClient, ttl: float = TTL, max_hold: float | None = None
    ) -> tuple[AsyncLease, Told]:
        """A lease that extends itself, and what is told of it."""
        return await client.spawn(self._lock(client, ttl, True, max_hold))

    async def listened(self, client: SimulatedClient, ttl: float = TTL) -> tuple[AsyncLease, Told]:
        """A lease that does not."""
        return await client.spawn(self._lock(client, ttl, False, None))

    async def _lock(
        self, client: SimulatedClient, ttl: float, kept: bool, max_hold: float | None
    ) -> tuple[AsyncLease, Told]:
        lease, told, engine = (await client.supervisor.lock("r", ttl)).value, Told(self.now), engine_of(client)
        self.owned.append(lease)
        if kept:
            engine.keep(lease._record, lease, max_hold)
        engine.listen(lease._record, told)
        return lease, told

    async def many(self, client: SimulatedClient, count: int, ttl: float) -> list[AsyncLease]:
        """Leases that were acquired together and extend themselves."""
        outcomes = await client.spawn(client.supervisor.lock_many([f"m{i}" for i in range(count)], ttl))
        leases = [outcome.value for outcome in outcomes]
        self.owned.extend(leases)

        async def keep() -> None:
            for lease in leases:
                engine_of(client).keep(lease._record, lease, None)

        await client.spawn(keep())
        return leases

    def command(self, *words: bytes, on: range = range(5)) -> list[bytes]:
        """What servers say to a command of another client."""
        return [self.servers[i].model.connect(lambda _: None).execute(list(words)) for i in on]

    def holding(self, lease: AsyncLease) -> int:
        """On how many servers the lease is."""
        token = lease._record.token
        return sum(reply.split(b"\r\n")[1:2] == [token] for reply in self.command(b"GET", KEY))


def played(play: Callable[[Scene], Awaitable[None]], version: ModelVersion = VALKEY_9, **options: object) -> None:
    play_in(lambda world: Scene(world, version, options), play)
