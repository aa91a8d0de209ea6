"""Semaphores: never more holders than permits, in order, whoever dies; in a simulated world."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redlock_cluster import Contended, LeaseLost, LeaseState, PermitsDiffer, QuorumUnavailable
from redlock_cluster.core.permit import permit_key, semaphore_key
from redlock_cluster.core.queue import SIZE, side_keys
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import SimulatedClient, Simulation

from .simulated import KEY, Contention, engine_of, play_in

AT = semaphore_key(KEY)
ROUND = 0.01  # a round takes less here
REFRESH = 2.0  # a third of a member's life
NOTHING = [b":0\r\n"] * 5


class Scene(Contention):
    """inside: how many have a permit; most: how many had one at once."""

    def __init__(self, world: Simulation, version: ModelVersion, options: dict[str, object]) -> None:
        super().__init__(world, version, options)
        self.inside = self.most = 0

    def hold(
        self,
        client: SimulatedClient,
        permits: int,
        seconds: float = 0.0,
        name: str = "",
        **named: Any,
    ) -> asyncio.Task[Any]:
        """Has a client wait for a permit, hold it for some time, and release it. Returns its number."""

        async def held() -> Any:
            async with client.supervisor.semaphore("r", permits, **{"ttl": 60, "wait": None, **named}) as lease:
                self.order.append(name or client.name)
                self.inside += 1
                self.most = max(self.most, self.inside)
                try:
                    await asyncio.sleep(seconds)
                finally:
                    self.inside -= 1
                return lease

        return client.spawn(held())

    def left_of(self, permits: int) -> list[bytes]:
        """How many keys each server has of the semaphore, but the number of permits."""
        return self.command(b"EXISTS", *side_keys(AT), *(permit_key(AT, number) for number in range(permits)))


def played(play: Callable[[Scene], Awaitable[None]], version: ModelVersion = VALKEY_9, **options: object) -> None:
    play_in(lambda world: Scene(world, version, options), play)


versions = pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])


@versions
@pytest.mark.parametrize("permits", [1, 3, 5, 64])
def test_never_more_holders_than_permits_and_all_are_used(version: ModelVersion, permits: int) -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(6)
        tasks = [scene.hold(client, permits, 0.2) for _ in range(14) for client in clients]
        since = scene.at()
        await asyncio.gather(*tasks)
        assert scene.most == permits
        turns = -(-84 // permits)
        assert scene.at() - since < turns * (0.2 + 3 * ROUND) + permits * ROUND
        await asyncio.sleep(ROUND)
        assert scene.left_of(permits) == NOTHING

    played(play, version)


def test_callers_of_one_client_use_each_permit_as_soon_as_it_is_free() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        since = scene.at()
        await asyncio.gather(*(scene.hold(client, 3, 0.05) for _ in range(30)))
        assert scene.most == 3
        assert scene.at() - since < 10 * (0.05 + 3 * ROUND)

    played(play)


def test_a_permit_that_is_free_is_found_in_one_call_however_few_are() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(8)
        for client in clients:
            handle = client.supervisor.semaphore("r", 8, 60, wait=0)
            assert await client.spawn(handle.acquire())
        last = clients[0].supervisor.semaphore("r", 8, 60, wait=0)
        assert not await clients[0].spawn(last.acquire())
        with pytest.raises(Contended, match="all of its permits are held"):
            await clients[0].spawn(last.__aenter__())

    played(play)


def test_clients_are_served_in_the_order_in_which_they_came() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(8)
        tasks = []
        for client in clients:
            await asyncio.sleep(0.1)
            tasks.append(scene.hold(client, 2, 1.0))
        await asyncio.gather(*tasks)
        assert scene.order == [client.name for client in clients]
        assert scene.left_of(2) == NOTHING

    played(play)


def test_who_waits_is_told_of_each_permit_that_is_released() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(8)
        holders = [scene.hold(client, 4, 5.0) for client in clients[:4]]
        await asyncio.sleep(0.1)
        waiters = [scene.hold(client, 4, 1.0) for client in clients[4:]]
        await asyncio.sleep(4.5)
        asked = scene.asked_for(b"EVALSHA")
        await asyncio.gather(*holders)
        await asyncio.sleep(6 * ROUND)
        assert scene.inside == 4
        assert scene.asked_for(b"EVALSHA") - asked < 4 * 5 * 5  # four releases, four takes, and some that are refused
        await asyncio.gather(*waiters)

    played(play)


def test_a_place_that_a_server_gave_while_a_quorum_granted_is_left_again() -> None:
    async def play(scene: Scene) -> None:
        first, second = await scene.clients(2)
        holder = scene.hold(first, 1, 1.0)
        await asyncio.sleep(0.1)
        waiters = [scene.hold(second, 1, 0.1), scene.hold(second, 1, 0.1)]
        await holder
        await asyncio.sleep(6 * ROUND)
        assert scene.inside == 1
        stranger = scene.servers[0].model.connect(lambda _: None)
        stranger.execute([b"SET", permit_key(AT, 0), b"stranger", b"PX", b"5000"])
        await asyncio.gather(*waiters)
        stranger.execute([b"DEL", permit_key(AT, 0)])
        await asyncio.sleep(6 * ROUND)
        assert scene.left_of(1) == NOTHING

    played(play)


@pytest.mark.parametrize("unnoticed", [False, True], ids=["killed", "cut off"])
def test_permits_of_dead_holders_and_places_of_dead_waiters_come_back(unnoticed: bool) -> None:
    async def play(scene: Scene) -> None:
        holder, dead, waiter = await scene.clients(3)
        scene.hold(holder, 1, 60.0, ttl=5)
        await asyncio.sleep(0.1)
        scene.hold(dead, 1)
        await asyncio.sleep(0.1)
        task = scene.hold(waiter, 1)
        await asyncio.sleep(0.1)
        dead.die(unnoticed)
        holder.die(unnoticed)
        since = scene.at()
        await task
        assert scene.at() - since < 5 + (2 if unnoticed else 1) * REFRESH + 0.25 + 4 * ROUND

    played(play)


def test_another_number_of_permits_is_refused_until_nobody_has_or_wants_one() -> None:
    async def play(scene: Scene) -> None:
        first, other = await scene.clients(2)
        task = scene.hold(first, 3, 5.0, ttl=10)
        await asyncio.sleep(0.1)
        for wait in (0, 1, None):
            with pytest.raises(PermitsDiffer, match="'r' has 3 permits, not 5: all must name the same number"):
                await scene.hold(other, 5, wait=wait)
        await task
        await asyncio.sleep(10)
        assert scene.command(b"EXISTS", AT + SIZE) == NOTHING
        await scene.hold(other, 5, wait=0)

    played(play)


def test_who_waits_learns_that_others_name_another_number_by_now() -> None:
    async def play(scene: Scene) -> None:
        first, other = await scene.clients(2)
        scene.hold(first, 1, 60.0)
        await asyncio.sleep(0.1)
        tasks = [scene.hold(other, 1, wait=None) for _ in range(3)]
        await asyncio.sleep(1)
        scene.command(b"SET", AT + SIZE, b"4")
        for task in tasks:
            with pytest.raises(PermitsDiffer, match="has 4 permits, not 1"):
                await task
        assert not engine_of(other).waiting.lines

    played(play)


def test_one_server_that_knows_another_number_is_an_absent_vote() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        scene.servers[0].model.connect(lambda _: None).execute([b"SET", AT + SIZE, b"9"])
        lease = await scene.hold(client, 2, wait=0)
        assert lease.state is LeaseState.RELEASED
        for server in scene.servers[1:]:
            server.freeze()
        with pytest.raises(QuorumUnavailable, match="9 permits there"):
            await scene.hold(client, 2, wait=0)

    played(play)


def test_cancelled_anywhere_leaves_nothing() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        for moment in range(60):
            first = scene.hold(holder, 2, moment / 4000)
            second = scene.hold(holder, 2, moment / 2000)
            await asyncio.sleep(moment % 7 / 1000)
            task = scene.hold(waiter, 2, 60)
            await asyncio.sleep(moment / 1700)
            task.cancel()
            await asyncio.gather(task, first, second, return_exceptions=True)
            await asyncio.sleep(5 * ROUND)
            assert scene.left_of(2) == NOTHING, moment
        assert not engine_of(waiter).waiting.lines

    played(play)


def test_permit_is_kept_detached_adopted_and_independent_of_a_mutex_of_that_name() -> None:
    async def play(scene: Scene) -> None:
        giver, taker = await scene.clients(2)
        handle = giver.supervisor.semaphore("r", 2, wait=0)
        await giver.spawn(handle.acquire())
        mutex = (await giver.spawn(giver.supervisor.lock("r", 60, wait=0))).value
        await asyncio.sleep(100)
        assert handle.lease is not None
        assert handle.lease.valid

        ticket = handle.lease.detach()
        adopted = (await taker.spawn(taker.supervisor.adopt(ticket))).value
        await asyncio.sleep(100)
        assert adopted.valid
        await taker.spawn(adopted.release())
        await asyncio.sleep(ROUND)
        assert scene.left_of(2) == NOTHING
        assert not mutex.valid
        assert scene.command(b"EXISTS", b"redlock:r") == NOTHING

    played(play)


def test_without_queues_permits_are_still_never_too_many_and_found() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(4)
        await asyncio.gather(*(scene.hold(client, 2, 0.05) for client in clients for _ in range(3)))
        assert (len(scene.order), scene.most) == (12, 2)
        await asyncio.sleep(ROUND)
        assert scene.left_of(2) == NOTHING

    played(play, fair=False)


@pytest.mark.parametrize(("permits", "error"), [(0, ValueError), (65, ValueError), (True, TypeError), (2.0, TypeError)])
def test_numbers_that_can_not_be_are_refused_at_once(permits: Any, error: type[Exception]) -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        with pytest.raises(error, match="permits"):
            client.supervisor.semaphore("r", permits)

    played(play)


def test_operators_see_permits_and_take_them_away() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        task = scene.hold(holder, 1, 50.0)
        await asyncio.sleep(1)
        second = scene.hold(waiter, 1)
        await asyncio.sleep(1)
        (listed,) = [lock async for lock in holder.supervisor.locks("r*")]
        assert (listed.resource, listed.permit, listed.servers) == ("r", 0, 5)
        assert not await holder.spawn(holder.supervisor.is_locked("r"))
        seen = await holder.spawn(holder.supervisor.inspect("r", permit=0))
        assert seen.holding.value == "held"
        assert {(server.kind, len(server.waiting)) for server in seen.servers} == {("permit", 1)}
        assert (await holder.spawn(holder.supervisor.inspect("r", permit=1))).holding.value == "free"
        assert await holder.spawn(holder.supervisor.force_release("r", permit=0))
        since = scene.at()
        await second
        assert scene.at() - since < 4 * ROUND
        with pytest.raises(LeaseLost):
            await task
        await asyncio.sleep(ROUND)
        assert scene.left_of(1) == NOTHING

    played(play)
