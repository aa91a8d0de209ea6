"""Many locks together, all or none; in a simulated world."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.queue import side_keys
from redlock_cluster.core.retry import RETRY
from redlock_cluster.engine.acquire_all import acquire_all
from redlock_cluster.errors import ClosedError, Contended, QuorumUnavailable, WaitCancelled
from redlock_cluster.testing.simulation import SimulatedClient, SimulatedServer, Simulation

from .simulated import UNGUARDED, engine_of, play_in

ROUND = 0.01  # a round takes less here
TTL = 3.0
NAMES = ["a", "m", "z", *(f"r{i}" for i in range(12))]


class Scene:
    """Clients, and two groups of three servers."""

    def __init__(self, world: Simulation, **options: object) -> None:
        self._world = world
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379") for i in range(6)]
        groups = [[{"host": f"server{i}"} for i in numbers] for numbers in (range(3), range(3, 6))]
        self._options = {
            **UNGUARDED,
            "cluster": [{"name": f"g{i}", "servers": group} for i, group in enumerate(groups)],
            **options,
        }
        self.now = world.loop.time

    async def clients(self, number: int) -> list[SimulatedClient]:
        clients = [self._world.client(f"client{i}", self._options) for i in range(number)]
        for client in clients:
            await client.spawn(client.supervisor.start())
        await asyncio.sleep(0.2)
        return clients

    def left(self) -> set[str]:
        """Which resources have a key or a queue on any server."""
        return {name for name in NAMES for server in self.servers if _exists(server, name)}

    def locked(self) -> set[str]:
        """Which are locked on any server."""
        return {name for name in NAMES for server in self.servers if _exists(server, name, 1)}


def _exists(server: SimulatedServer, name: str, keys: int = 3) -> bool:
    words = [b"EXISTS", *side_keys(f"redlock:{name}".encode())[:keys]]
    return server.model.connect(lambda _: None).execute(words) != b":0\r\n"


async def all_of(client: SimulatedClient, resources: Sequence[str], wait: Any = None, ttl: float = TTL) -> Any:
    return await client.spawn(acquire_all(engine_of(client), resources, ttl, wait))


def give_back(client: SimulatedClient, records: list[LeaseRecord]) -> None:
    for record in records:
        engine_of(client).abandon(record)


def played(play: Callable[[Scene], Awaitable[None]], **options: object) -> None:
    play_in(lambda world: Scene(world, **options), play)


def test_all_are_had_in_the_order_named_in_one_round() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        since = scene.now()
        names = [f"r{i}" for i in (3, 1, 2, 9, 5)]
        records = await all_of(client, names, 0)
        assert scene.now() - since < 2 * ROUND
        assert [record.resource for record in records] == names
        assert all(record.remaining(engine_of(client).clock()) > TTL * 0.9 for record in records)

    played(play)


@pytest.mark.parametrize("wait", [0, 1.0, RETRY])
def test_none_are_had_when_one_is_held_too_long(wait: Any) -> None:
    async def play(scene: Scene) -> None:
        holder, client = await scene.clients(2)
        held = await all_of(holder, ["m"], ttl=60)
        refused = await all_of(client, ["a", "m", "z"], wait)
        assert isinstance(refused, Contended)
        assert refused.resource == "m"
        await asyncio.sleep(ROUND)
        give_back(holder, held)
        await asyncio.sleep(ROUND)
        assert scene.left() == set()

    played(play)


def test_who_waits_holds_only_what_comes_before() -> None:
    async def play(scene: Scene) -> None:
        holder, client = await scene.clients(2)
        held = await all_of(holder, ["m"], ttl=60)
        task = asyncio.ensure_future(all_of(client, ["z", "m", "a"]))
        await asyncio.sleep(10 * TTL)  # what it holds is extended
        assert scene.locked() == {"a", "m"}
        give_back(holder, held)
        since = scene.now()
        records = await task
        assert scene.now() - since < 5 * ROUND
        assert all(record.remaining(engine_of(client).clock()) > TTL * 0.9 for record in records)

    played(play)


def test_callers_that_name_them_in_other_orders_do_not_wait_for_each_other() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(6)
        names, chance, done = [f"r{i}" for i in range(5)], random.Random(1), list[str]()
        inside: dict[str, str] = {}

        async def again_and_again(client: SimulatedClient) -> None:
            for _ in range(15):
                wanted = chance.sample(names, chance.randint(2, 5))
                records = await all_of(client, wanted)
                assert not [name for name in wanted if name in inside]
                inside.update(dict.fromkeys(wanted, client.name))
                await asyncio.sleep(0.003)
                for name in wanted:
                    del inside[name]
                give_back(client, records)
                done.append(client.name)

        await asyncio.wait_for(asyncio.gather(*map(again_and_again, clients)), 60)
        assert len(done) == 90
        await asyncio.sleep(10 * ROUND)
        assert scene.left() == set()

    played(play)


def test_what_is_lost_while_another_is_waited_for_is_acquired_again() -> None:
    async def play(scene: Scene) -> None:
        holder, client = await scene.clients(2)
        held = await all_of(holder, ["m"], ttl=60)
        task = asyncio.ensure_future(all_of(client, ["a", "m"]))
        await asyncio.sleep(0.5)
        for server in scene.servers:
            server.model.connect(lambda _: None).execute([b"DEL", b"redlock:a"])
        await asyncio.sleep(TTL)
        give_back(holder, held)
        records = await task
        assert [record.resource for record in records] == ["a", "m"]
        assert all(record.remaining(engine_of(client).clock()) > 0 for record in records)

    played(play)


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.001, 0.002, 0.5, 1.2])
@pytest.mark.parametrize("how", ["cancelled", "ended from outside"])
def test_who_gives_up_leaves_nothing(after: float, how: str) -> None:
    async def play(scene: Scene) -> None:
        holder, client = await scene.clients(2)
        held = await all_of(holder, ["m"], ttl=60)
        task = client.spawn(acquire_all(engine_of(client), ["z", "a", "m"], TTL, None, "mine"))
        await asyncio.sleep(after)
        if how == "cancelled":
            task.cancel()
            (outcome,) = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            await asyncio.sleep(0.1)
            engine_of(client).cancel_waiting(None, "mine")
            assert isinstance(await task, WaitCancelled)
        await asyncio.sleep(10 * ROUND)
        assert scene.left() == {"m"}
        give_back(holder, held)

    played(play)


@pytest.mark.parametrize("after", [0.0, 0.0005, 0.001, 0.002, 0.5, 1.2])
@pytest.mark.parametrize("fair", [True, False])
def test_whose_supervisor_is_closed_leaves_nothing(after: float, fair: bool) -> None:
    """Also if nobody waits for an answer of a server then: without queues there is none to be left."""

    async def play(scene: Scene) -> None:
        holder, client = await scene.clients(2)
        held = await all_of(holder, ["m"], ttl=60)
        task = client.spawn(acquire_all(engine_of(client), ["z", "a", "m"], TTL, None))
        await asyncio.sleep(after)
        await client.spawn(client.supervisor.close())
        with pytest.raises(ClosedError):
            await task
        await asyncio.sleep(10 * ROUND)
        assert scene.left() == {"m"}
        give_back(holder, held)

    played(play, fair=fair)


def test_outage_of_one_group_ends_it_when_the_time_is_over() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        names = [f"r{i}" for i in range(12)]  # some in each group
        for server in scene.servers[:2]:
            server.crash()
        await asyncio.sleep(0.5)
        since = scene.now()
        assert isinstance(await all_of(client, names, 1.0), QuorumUnavailable)
        assert 0.9 < scene.now() - since < 2
        for server in scene.servers[:2]:
            server.restart()
        assert len(await all_of(client, names, 5.0)) == 12

    played(play)


@pytest.mark.parametrize(
    ("names", "error"),
    [([], ValueError), (["a", "a"], ValueError), (["a", b"a"], ValueError), ([""], ValueError), ([5], TypeError)],
)
def test_misuse_is_refused_before_anything_is_sent(names: list[Any], error: type[Exception]) -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        with pytest.raises(error):
            await all_of(client, names)
        with pytest.raises(TypeError):
            await client.spawn(acquire_all(engine_of(client), ["a"], TTL, None, 5))  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="wait"):
            await all_of(client, ["a"], -1)
        assert scene.left() == set()

    played(play)
