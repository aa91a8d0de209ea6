"""Readers and writers that wait for each other: who goes first, who goes together, at which cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import pytest

from redlock_cluster import Err
from redlock_cluster.core.queue import side_keys
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import SimulatedClient, Simulation

from .simulated import KEY, Contention, engine_of, play_in

ROUND = 0.01  # a round takes less here
REFRESH = 2.0  # a third of a member's life
NOTHING = [b":0\r\n"] * 5

Mode = Literal["read", "write"]


class Scene(Contention):
    """inside: who holds the lock."""

    def __init__(self, world: Simulation, version: ModelVersion, options: dict[str, object]) -> None:
        super().__init__(world, version, options)
        self.inside: Counter[Mode] = Counter()
        self.most_readers = 0

    def hold(
        self,
        client: SimulatedClient,
        mode: Mode,
        name: str = "",
        seconds: float = 0.0,
        wait: Any = None,
        ttl: float = 60,
    ) -> asyncio.Task[Any]:
        """Has a client wait for the lock, hold it for some time, and release it."""

        async def held() -> Any:
            locked = await client.supervisor.lock("r", ttl, wait=wait, mode=mode)
            if locked:
                self.order.append(name or client.name)
                self.inside[mode] += 1
                self.most_readers = max(self.most_readers, self.inside["read"])
                assert self.inside["write"] <= 1
                assert not (self.inside["write"] and self.inside["read"]), "a writer beside readers"
                try:
                    await asyncio.sleep(seconds)
                finally:
                    self.inside[mode] -= 1
                    await client.supervisor.unlock("r", locked.value)
            return locked

        return client.spawn(held())


def played(play: Callable[[Scene], Awaitable[None]], version: ModelVersion = VALKEY_9, **options: object) -> None:
    play_in(lambda world: Scene(world, version, options), play)


versions = pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])


@versions
@pytest.mark.parametrize("end", ["release", "delete", "expiry", "flush"])
@pytest.mark.parametrize("waiting", ["read", "write"])
@pytest.mark.parametrize("held", ["read", "write"])
def test_who_waits_is_woken_when_the_lock_is_free(version: ModelVersion, end: str, waiting: Mode, held: Mode) -> None:
    if (held, waiting) == ("read", "read"):
        held = "write"  # readers do not wait for each other: then by another library's key

    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        lease = (await holder.spawn(holder.supervisor.lock("r", 9.0 if end == "expiry" else 60, mode=held))).value
        task = scene.hold(waiter, waiting)
        await asyncio.sleep(7.0)
        assert not task.done()
        if end == "release":
            await holder.spawn(holder.supervisor.unlock("r", lease))
        elif end == "delete":
            scene.command(b"DEL", KEY)
        elif end == "flush":
            scene.command(b"FLUSHALL")
        else:
            await asyncio.sleep(2.0)
        since = scene.at()
        await task
        assert scene.at() - since < 4 * ROUND
        await asyncio.sleep(ROUND)
        assert scene.left() == NOTHING

    played(play, version)


@versions
def test_readers_of_all_clients_that_wait_go_together(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(6)
        writer = scene.hold(clients[0], "write", seconds=1.0)
        await asyncio.sleep(0.1)
        readers = [scene.hold(client, "read", seconds=0.5) for client in clients[1:] for _ in range(20)]
        await writer
        since = scene.at()
        await asyncio.gather(*readers)
        assert scene.at() - since < 0.5 + 6 * ROUND
        assert scene.most_readers == 100
        assert scene.left() == NOTHING

    played(play, version)


def test_reader_that_comes_lets_a_writer_that_waits_go_first() -> None:
    async def play(scene: Scene) -> None:
        first, writer, later, hasty = await scene.clients(4)
        tasks = [scene.hold(first, "read", seconds=2.0)]
        await asyncio.sleep(0.2)
        tasks.append(scene.hold(writer, "write", seconds=0.1))
        await asyncio.sleep(0.2)
        tasks.append(scene.hold(later, "read"))
        assert await scene.hold(hasty, "read", wait=0) == Err("lock_failure")
        assert await scene.hold(hasty, "read", wait=0.5) == Err("lock_failure")
        await asyncio.gather(*tasks)
        assert scene.order == ["client0", "client1", "client2"]

    played(play)


def test_reader_that_gives_up_stops_no_reader_behind_it_and_a_writer_that_does_lets_readers_in() -> None:
    async def play(scene: Scene) -> None:
        first, writer, later = await scene.clients(3)
        task = scene.hold(first, "read", seconds=20.0)
        await asyncio.sleep(0.2)
        gives_up = scene.hold(writer, "write", wait=3.0)
        await asyncio.sleep(0.2)
        reader = scene.hold(later, "read")
        assert await gives_up == Err("lock_failure")
        since = scene.at()
        await reader
        assert scene.at() - since < 4 * ROUND
        await task
        assert scene.left() == NOTHING

    played(play)


def test_writer_that_dies_holds_up_readers_for_its_life_in_the_queue_at_most() -> None:
    async def play(scene: Scene) -> None:
        first, writer, later = await scene.clients(3)
        scene.hold(first, "read", seconds=30.0)
        await asyncio.sleep(0.2)
        scene.hold(writer, "write")
        await asyncio.sleep(0.2)
        writer.die(False)
        since = scene.at()
        await scene.hold(later, "read")
        assert scene.at() - since < 3 * REFRESH + REFRESH + 4 * ROUND

    played(play)


def test_neither_writers_nor_readers_starve_whoever_comes_again() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(8)
        until = scene.at() + 2

        async def again(client: SimulatedClient, mode: Mode) -> None:
            while scene.at() < until:
                await scene.hold(client, mode, name=f"{mode} {client.name}", seconds=0.01)

        await asyncio.gather(
            *(again(client, "read") for client in clients[:6] for _ in range(3)),
            *(again(client, "write") for client in clients[4:]),
        )
        turns = Counter(scene.order)
        writers = [number for name, number in turns.items() if name.startswith("write")]
        readers = [number for name, number in turns.items() if name.startswith("read")]
        assert (len(writers), len(readers)) == (4, 6)
        assert min(writers) > 6
        assert max(writers) < 2 * min(writers)
        assert min(readers) > 6
        assert scene.left() == NOTHING

    played(play)


def test_line_of_readers_larger_than_one_turn_goes_in_turn() -> None:
    async def play(scene: Scene) -> None:
        writer, reader = await scene.clients(2)
        task = scene.hold(writer, "write", seconds=1.0)
        await asyncio.sleep(0.1)
        readers = [scene.hold(reader, "read", seconds=1.0) for _ in range(1100)]
        await task
        since = scene.at()
        await asyncio.gather(*readers)
        assert scene.at() - since < 1.0 + 12 * ROUND
        assert scene.most_readers == 1100
        assert scene.left() == NOTHING

    played(play)


def test_writer_behind_many_readers_costs_little_while_they_come_to_their_ends() -> None:
    async def play(scene: Scene) -> None:
        *readers, writer = await scene.clients(9)
        tasks = [scene.hold(each, "read", seconds=0.5 + i / 10) for i in range(10) for each in readers]
        await asyncio.sleep(0.1)
        since = scene.at()
        task = scene.hold(writer, "write")
        await asyncio.sleep(0.1)
        scene.asked.clear()
        await asyncio.gather(*tasks)
        await task
        assert scene.at() - since < 1.4 + 4 * ROUND
        attempts = scene.asked_for(b"EVALSHA") - 5 * 80  # of which each reader's release is one for each server
        assert attempts < 5 * 10
        assert scene.asked_for(b"PTTL") < 5 * 81

    played(play)


@pytest.mark.parametrize("mode", ["read", "write"])
def test_cancelled_anywhere_leaves_nothing(mode: Mode) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        for moment in range(60):
            lease = (await holder.spawn(holder.supervisor.lock("r", 60, wait=None))).value
            task = scene.hold(waiter, mode, wait=None, seconds=60)
            await asyncio.sleep(moment / 4000)
            release = holder.spawn(holder.supervisor.unlock("r", lease))
            await asyncio.sleep(moment / 3000)
            task.cancel()
            await asyncio.gather(task, release, return_exceptions=True)
            await asyncio.sleep(5 * ROUND)
            assert scene.left() == NOTHING, moment
        assert not engine_of(waiter).waiting.lines

    played(play)


def test_waits_of_readers_are_ended_from_outside_at_any_moment() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        await holder.spawn(holder.supervisor.lock("r", 60))
        first = scene.hold(waiter, "read")
        await asyncio.sleep(0)  # in its first attempt
        await asyncio.sleep(0)
        assert waiter.supervisor.cancel_waiting("r") == 1
        assert await first == Err("cancelled")
        tasks = [scene.hold(waiter, "read") for _ in range(3)] + [scene.hold(waiter, "write")]
        await asyncio.sleep(1)
        assert engine_of(waiter).waiting.count == 4
        assert waiter.supervisor.cancel_waiting("r") == 4
        assert await asyncio.gather(*tasks) == [Err("cancelled")] * 4
        await asyncio.sleep(5 * ROUND)
        assert scene.command(b"EXISTS", *side_keys(KEY)[1:]) == NOTHING

    played(play)


def test_snapshot_shows_readers_and_who_waits_in_which_way() -> None:
    async def play(scene: Scene) -> None:
        first, second, writer, later = await scene.clients(4)
        for each in (first, second):
            scene.hold(each, "read", seconds=50)
        await asyncio.sleep(1)
        scene.hold(writer, "write")
        await asyncio.sleep(1)
        scene.hold(later, "read")
        await asyncio.sleep(1)
        seen = await first.spawn(first.supervisor.inspect("r"))
        assert seen.holding.value == "held"
        for server in seen.servers:
            assert (server.kind, server.owner, len(server.readers)) == ("read", "", 2)
            assert all(56 < reader.ttl <= 60 for reader in server.readers)
            assert [each.reads for each in server.waiting] == [False, True]
        assert await first.spawn(first.supervisor.is_locked("r"))
        assert not await first.spawn(first.supervisor.is_locked("r", mode="read"))

    played(play)


def test_without_queues_readers_and_writers_still_exclude_each_other_and_get_on() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(4)
        tasks = [scene.hold(each, mode, seconds=0.05) for each in clients for mode in ("read", "write")]
        await asyncio.gather(*tasks)
        assert len(scene.order) == 8
        await asyncio.sleep(ROUND)
        assert scene.left() == NOTHING

    played(play, fair=False)


def test_reader_does_not_pass_a_writer_of_its_own_client_that_came_before() -> None:
    """That one stands in no queue yet: the release of its client would wake it."""

    async def play(scene: Scene) -> None:
        client, other = await scene.clients(2)
        tasks = [scene.hold(client, "write", "holder", seconds=1.0)]
        await asyncio.sleep(0.1)
        tasks.append(scene.hold(client, "write", "writer", seconds=0.1))
        await asyncio.sleep(0.05)
        tasks.append(scene.hold(client, "read", "reader", seconds=0.1))
        await asyncio.sleep(0.05)
        tasks.append(scene.hold(other, "write", "other"))
        await asyncio.gather(*tasks)
        assert scene.order == ["holder", "writer", "reader", "other"]

    played(play)


def test_writer_stands_in_queues_at_once_where_readers_of_its_client_wait() -> None:
    async def play(scene: Scene) -> None:
        client, holder, other = await scene.clients(3)
        tasks = [scene.hold(holder, "write", "holder", seconds=1.0)]
        await asyncio.sleep(0.1)
        tasks.append(scene.hold(client, "read", "reader", seconds=0.1))
        await asyncio.sleep(0.05)
        tasks.append(scene.hold(client, "write", "writer"))
        await asyncio.sleep(0.05)
        tasks.append(scene.hold(other, "write", "other"))
        await asyncio.gather(*tasks)
        assert scene.order == ["holder", "reader", "writer", "other"]

    played(play)


def test_reader_whose_time_is_over_goes_with_the_others_of_its_line() -> None:
    """Whenever the lock comes free: together with the first of them, or refused like that one."""

    async def play(scene: Scene) -> None:
        holder, readers, writer = await scene.clients(3)
        together = 0
        for moment in range(40):
            await holder.spawn(holder.supervisor.lock("r", 60, wait=None))
            began = scene.at()
            first = scene.hold(readers, "read", seconds=0.1)
            second = scene.hold(readers, "read", wait=1.0)
            await asyncio.sleep(0.5)
            behind = scene.hold(writer, "write")
            await asyncio.sleep(began + 0.998 + moment / 10_000 - scene.at())
            scene.command(b"DEL", KEY)
            together += bool(await second)
            assert await first
            assert await behind
        assert together > 20

    played(play)
