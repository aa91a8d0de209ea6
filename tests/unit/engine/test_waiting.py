"""Waiting for a lock: who is woken, in which order, at which cost, and what is left behind; in a simulated world."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import pairwise
from typing import Any

import pytest

from redlock_cluster import Err
from redlock_cluster.core.queue import side_keys
from redlock_cluster.errors import TooManyWaiting, WaitCancelled
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import SimulatedClient

from .simulated import KEY, Contention, engine_of, play_in

SIDE_KEYS = side_keys(KEY)[1:]
ROUND = 0.01  # a round takes less here
REFRESH = 2.0  # a third of a member's life
TOLD = 0.25  # seconds that who is told counts


class Scene(Contention):
    def hold(
        self, client: SimulatedClient, seconds: float = 0.0, wait: Any = None, ttl: float = 60
    ) -> asyncio.Task[Any]:
        """Has a client wait for the lock, hold it for some time, and release it."""

        async def held() -> Any:
            locked = await client.supervisor.lock("r", 60, wait=wait)
            if locked:
                self.order.append(client.name)
                await asyncio.sleep(seconds)
                await client.supervisor.unlock("r", locked.value)
            return locked

        return client.spawn(held())


def played(play: Callable[[Scene], Awaitable[None]], version: ModelVersion = VALKEY_9, **options: object) -> None:
    play_in(lambda world: Scene(world, version, options), play)


NOTHING = [b":0\r\n"] * 5


@pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])
@pytest.mark.parametrize("end", ["release", "delete", "expiry", "flush"])
@pytest.mark.parametrize("asleep", [0.3, 7.0])
def test_who_waits_is_woken_when_the_lock_is_free(version: ModelVersion, end: str, asleep: float) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        lease = (await holder.spawn(holder.supervisor.lock("r", 9.0 if end == "expiry" else 60))).value
        task = scene.hold(waiter)
        await asyncio.sleep(asleep)
        if end == "release":
            await holder.spawn(holder.supervisor.unlock("r", lease))
        elif end == "delete":
            scene.command(b"DEL", KEY)
        elif end == "flush":
            scene.command(b"FLUSHALL")
        else:
            await asyncio.sleep(9.0 - asleep)
        since = scene.at()
        await task
        assert scene.at() - since < 3 * ROUND
        await asyncio.sleep(ROUND)
        assert scene.left() == NOTHING

    played(play, version)


def test_holder_of_another_library_that_deletes_its_key_wakes_who_waits() -> None:
    async def play(scene: Scene) -> None:
        scene.command(b"SET", KEY, b"somebody else's", b"NX", b"PX", b"60000")
        (waiter,) = await scene.clients(1)
        task = scene.hold(waiter)
        await asyncio.sleep(5)
        since = scene.at()
        scene.command(b"DEL", KEY)
        await task
        assert scene.at() - since < 3 * ROUND

    played(play)


def test_clients_are_served_in_the_order_in_which_they_came() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(8)
        tasks = [scene.hold(clients[0], 5.0)]
        for client in clients[1:]:
            await asyncio.sleep(0.1)
            tasks.append(scene.hold(client, 0.01))
        await asyncio.gather(*tasks)
        assert scene.order == [client.name for client in clients]
        assert scene.left() == NOTHING

    played(play)


def test_who_releases_and_comes_again_stands_behind_who_waits() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(4)

        async def again_and_again(client: SimulatedClient) -> None:
            for _ in range(50):
                await scene.hold(client, 0.005)

        await asyncio.gather(*map(again_and_again, clients))
        middle = scene.order[20:180]
        assert all(first != second for first, second in pairwise(middle))
        assert set(Counter(middle).values()) == {40}
        takes = sum(number for (_, word), number in scene.asked.items() if word in (b"EVALSHA", b"SET", b"DELIFEQ"))
        assert takes / len(scene.order) < 18  # on five servers: to join, to take and to release

    played(play)


def test_who_tries_again_and_again_does_not_pass_who_is_known_to_wait() -> None:
    async def play(scene: Scene) -> None:
        eager, patient = await scene.clients(2)
        lease = (await eager.spawn(eager.supervisor.lock("r", 60))).value
        task = scene.hold(patient, 1.0)
        await asyncio.sleep(1)

        async def release_and_try() -> list[object]:
            await eager.supervisor.unlock("r", lease)
            return [await eager.supervisor.lock("r", 60, wait=0) for _ in range(3)]

        assert await eager.spawn(release_and_try()) == [Err("lock_failure")] * 3
        assert await task
        assert scene.order == [patient.name]

    played(play)


def test_those_of_one_client_are_served_in_order_and_stand_in_no_queue() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        served: list[int] = []

        async def one(number: int) -> None:
            locked = await client.supervisor.lock("r", 60, wait=None)
            served.append(number)
            await client.supervisor.unlock("r", locked.value)

        await client.spawn(gathered(one(number) for number in range(100)))
        assert served == list(range(100))
        words = Counter(word for (_, word), number in scene.asked.items() for _ in range(number))
        assert words[b"SET"] == words[b"DELIFEQ"] == 500
        assert not words[b"EVALSHA"]

    played(play)


async def gathered(some: Any) -> None:
    await asyncio.gather(*some)


@pytest.mark.parametrize("ttls", [(60, 1), (1, 60)])
def test_who_was_refused_while_an_attempt_is_made_for_another_does_not_get_its_lock(ttls: tuple[int, int]) -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        lease = (await client.spawn(client.supervisor.lock("r", 60))).value
        # All in one turn: the first is refused, the second stands in line behind it and is tried for after the release.
        tasks = [client.spawn(client.supervisor.lock("r", ttl, wait=5)) for ttl in ttls]
        await client.spawn(client.supervisor.unlock("r", lease))
        won, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        (got,) = [task.result().value for task in won]
        for reply in scene.command(b"PTTL", KEY):
            assert got.remaining < int(reply[1:]) / 1000 <= got.ttl

    played(play)


def test_a_release_that_leaves_behind_a_first_attempt_wakes_it() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)

        async def contend() -> None:
            lease = (await client.supervisor.lock("r", 60)).value
            since = scene.at()
            task = asyncio.create_task(client.supervisor.lock("r", 60, wait=None))
            await asyncio.sleep(0)
            await client.supervisor.unlock("r", lease)
            assert await task
            assert scene.at() - since < 4 * ROUND

        await client.spawn(contend())

    played(play)


def test_one_client_with_many_who_wait_takes_turns_with_another_one() -> None:
    async def play(scene: Scene) -> None:
        many, one = await scene.clients(2)
        tasks = [scene.hold(many, 0.01) for _ in range(50)]
        await asyncio.sleep(0.05)
        since = len(scene.order)
        tasks.append(scene.hold(one, 0.01))
        await asyncio.gather(*tasks)
        assert scene.order.index(one.name) - since <= 3
        assert scene.left() == NOTHING

    played(play)


@pytest.mark.parametrize("unnoticed", [False, True], ids=["killed", "cut off"])
def test_a_dead_client_in_front_holds_up_nobody_for_long(unnoticed: bool) -> None:
    async def play(scene: Scene) -> None:
        holder, dead, waiter = await scene.clients(3)
        task = scene.hold(holder, 3.0)
        await asyncio.sleep(0.1)
        scene.hold(dead)
        await asyncio.sleep(0.1)
        second = scene.hold(waiter)
        await asyncio.sleep(0.1)
        dead.die(unnoticed)
        await task
        since = scene.at()
        await second
        assert scene.at() - since < (TOLD + REFRESH if unnoticed else 3 * ROUND)

    played(play)


def test_a_stopped_client_in_front_holds_up_others_once_and_has_its_place_again() -> None:
    async def play(scene: Scene) -> None:
        holder, stopped, *others = await scene.clients(5)
        task = scene.hold(holder, 3.0)
        await asyncio.sleep(0.1)
        late = scene.hold(stopped)
        await asyncio.sleep(0.1)
        tasks = []
        for other in others:
            tasks.append(scene.hold(other, 0.5))
            await asyncio.sleep(0.1)
        stopped.pause()
        await task
        since = scene.at()
        await tasks[0]
        assert scene.at() - since < TOLD + REFRESH + 0.5
        await tasks[1]
        assert scene.at() - since < TOLD + REFRESH + 1 + 3 * ROUND
        stopped.resume()
        await asyncio.gather(late, *tasks)
        first, second, third = (other.name for other in others)
        assert scene.order in (
            [holder.name, first, second, stopped.name, third],
            [holder.name, first, second, third, stopped.name],  # told before it was stopped: it comes again later
        )

    played(play)


def test_with_a_server_that_is_stopped_locks_are_handed_over_as_fast() -> None:
    async def play(scene: Scene) -> None:
        clients = await scene.clients(3)
        scene.servers[0].freeze()
        await asyncio.sleep(1)
        since = scene.at()

        async def again_and_again(client: SimulatedClient) -> None:
            for _ in range(20):
                await scene.hold(client, 0.005)

        await asyncio.gather(*map(again_and_again, clients))
        assert scene.at() - since < 60 * (0.005 + 6 * ROUND)
        scene.servers[0].thaw()

    played(play)


def test_with_a_bare_quorum_those_who_split_the_vote_keep_their_places() -> None:
    """Every one of the servers that are left is needed, so of two who come at the same time both fail."""

    async def play(scene: Scene) -> None:
        clients = await scene.clients(4)
        for server in scene.servers[:2]:
            server.crash()
        await asyncio.sleep(1)
        waits: list[float] = []

        async def again_and_again(number: int, client: SimulatedClient) -> None:
            chance = random.Random(number)
            for _ in range(200):
                began = scene.at()
                await client.spawn(once(client, f"r{chance.randrange(3)}", 0.002 * chance.random()))
                waits.append(scene.at() - began)

        async def once(client: SimulatedClient, resource: str, seconds: float) -> None:
            locked = await client.supervisor.lock(resource, 60, wait=None)
            await asyncio.sleep(seconds)
            await client.supervisor.unlock(resource, locked.value)

        await asyncio.gather(*map(again_and_again, range(len(clients)), clients))
        assert max(waits) < 0.1

    played(play)


@pytest.mark.parametrize("when", [0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.5, 2.01])
@pytest.mark.parametrize("how", ["cancelled", "its time is over", "ended from outside"])
def test_who_waits_no_more_leaves_nothing(when: float, how: str) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        task = scene.hold(waiter, wait=when if how == "its time is over" else None)
        await asyncio.sleep(when)
        if how == "cancelled":
            task.cancel()
        elif how == "ended from outside":
            engine_of(waiter).cancel_waiting("r", None)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError) if how == "cancelled" else not outcome
        await asyncio.sleep(10 * ROUND)
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING
        assert engine_of(waiter).waiting.lines == {}
        assert engine_of(waiter).waiting.count == 0
        await holder.spawn(holder.supervisor.unlock("r", lease))
        await asyncio.sleep(10 * ROUND)
        assert scene.left() == NOTHING

    played(play)


@pytest.mark.parametrize("how", ["wins", "is cancelled"])
@pytest.mark.parametrize(
    "cut", [(False, False), (True, False), (False, True)], ids=["", "requests lost", "replies lost"]
)
@pytest.mark.parametrize("after", [-0.001, 0.0, 0.0005, 0.001, 0.0015, 0.002, 0.003])
def test_queues_are_left_though_connections_break(after: float, cut: tuple[bool, bool], how: str) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, reconnection_interval="1s")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        task = scene.hold(waiter, 2.0)
        await asyncio.sleep(0.5)

        async def breaks() -> None:
            await asyncio.sleep(0.001 + after)
            for server in scene.servers[:2]:
                for connection in server.host.connections:
                    if connection.client == waiter.name:
                        connection.cut(*cut)

        breaking = asyncio.ensure_future(breaks())
        await asyncio.sleep(0.001)
        if how == "wins":
            await holder.spawn(holder.supervisor.unlock("r", lease))
        else:
            task.cancel()
        await asyncio.sleep(1.5)
        assert breaking.done()
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING
        assert task.cancelled() or await task

    played(play)


def test_when_the_first_goes_the_next_is_told() -> None:
    async def play(scene: Scene) -> None:
        holder, first, second = await scene.clients(3)
        task = scene.hold(holder, 1.0)
        await asyncio.sleep(0.1)
        going = scene.hold(first)
        await asyncio.sleep(0.1)
        staying = scene.hold(second)
        await asyncio.sleep(0.1)
        first.pause()  # told, and does not come
        await task
        await asyncio.sleep(0.1)
        first.resume()
        going.cancel()
        await staying
        assert scene.at() < 2.0

    played(play)


def test_waits_are_ended_together() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        await holder.spawn(holder.supervisor.lock("r", 60))
        engine = engine_of(waiter)

        async def wait(number: int) -> Any:
            acquisition = engine.acquire("r", 60, None, cancel_id="odd" if number % 2 else "even")
            await acquisition.future(engine.loop)
            return acquisition.result()

        tasks = [waiter.spawn(wait(number)) for number in range(1000)]
        await asyncio.sleep(1)
        assert engine.waiting.count == 1000
        assert engine.cancel_waiting(None, "odd") == 500
        await asyncio.sleep(0)
        odd = await asyncio.gather(*tasks[1::2])
        assert all(isinstance(error, WaitCancelled) for error in odd)
        assert not any(task.done() for task in tasks[::2])
        assert engine.cancel_waiting("other", None) == 0
        assert engine.cancel_waiting("r", None) == 500
        await asyncio.gather(*tasks)
        await asyncio.sleep(ROUND)
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING

    played(play)


def test_no_more_wait_than_may() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1, max_waiting=2)
        task = scene.hold(client, 1.0)
        await asyncio.sleep(0.1)
        waiting = [scene.hold(client) for _ in range(2)]
        await asyncio.sleep(0.1)
        refused = await client.spawn(client.supervisor.lock("r", 60, wait=5))
        assert isinstance(refused.error, TooManyWaiting)
        assert await client.spawn(client.supervisor.lock("other", 60, wait=5))
        assert all(await asyncio.gather(task, *waiting))
        assert engine_of(client).waiting.count == 0

    played(play)


def test_the_retry_policy_gives_up_when_its_pauses_have_passed_and_is_woken_before() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, max_retry=3, retry_interval="1s")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        since = scene.at()
        client = waiter.supervisor
        assert await waiter.spawn(client.lock("r", 60)) == Err("lock_failure")
        assert 1.5 <= scene.at() - since <= 3 + ROUND
        task = waiter.spawn(client.lock("r", 60))
        await asyncio.sleep(0.7)
        await holder.spawn(holder.supervisor.unlock("r", lease))
        since = scene.at()
        assert await task
        assert scene.at() - since < 3 * ROUND

    played(play)


def test_during_an_outage_the_policy_counts_attempts_and_who_waits_is_served_when_it_ends() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, max_retry=2, retry_interval="100ms", server_timeout="50ms")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        task = scene.hold(waiter)
        await asyncio.sleep(0.5)
        for server in scene.servers[:3]:
            server.crash()
        await asyncio.sleep(0.5)
        assert await waiter.spawn(waiter.supervisor.lock("other", 60)) == Err("unavailable")
        await asyncio.sleep(5)
        assert not task.done()
        for server in scene.servers[:3]:
            server.restart()
        await asyncio.sleep(8)
        await holder.spawn(holder.supervisor.unlock("r", lease))
        since = scene.at()
        await task
        assert scene.at() - since < 3 * ROUND

    played(play)


def test_closing_ends_waits_and_leaves_the_queues() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        await holder.spawn(holder.supervisor.lock("r", 60))
        tasks = [scene.hold(waiter) for _ in range(3)]
        await asyncio.sleep(1)
        await waiter.spawn(waiter.supervisor.close())
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(outcome).__name__ for outcome in outcomes] == ["ClosedError"] * 3
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING

    played(play)


def test_many_clients_that_wait_cost_little() -> None:
    async def play(scene: Scene) -> None:
        holder, *waiters = await scene.clients(21)
        await holder.spawn(holder.supervisor.lock("r", 60))
        tasks = [scene.hold(waiter) for waiter in waiters]
        await asyncio.sleep(3)
        scene.asked.clear()
        await asyncio.sleep(10)
        assert sum(scene.asked.values()) / 10 / 20 <= 3
        for task in tasks:
            task.cancel()

    played(play)


def test_an_unfair_client_stands_in_no_queue_and_is_woken() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, fair=False)
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        task = scene.hold(waiter)
        await asyncio.sleep(5)
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING
        await holder.spawn(holder.supervisor.unlock("r", lease))
        since = scene.at()
        await task
        assert scene.at() - since < 3 * ROUND

    played(play)


def test_a_client_that_nobody_tells_polls_and_keeps_its_place() -> None:
    async def play(scene: Scene) -> None:
        holder, deaf, waiter = await scene.clients(3)
        engine_of(deaf)
        for keepers in [pool.keepers for group in engine_of(deaf)._groups.values() for pool in group.pools]:
            for keeper in keepers:
                assert keeper.connection is not None
                dialect = keeper.connection.dialect
                keeper.connection.speak(type(dialect)(dialect.set_nx_get, dialect.set_ifeq, dialect.compare_and_delete))
        task = scene.hold(holder, 3.0)
        await asyncio.sleep(0.1)
        first = scene.hold(deaf)
        await asyncio.sleep(0.5)
        second = scene.hold(waiter)
        await asyncio.gather(task, first, second)
        assert scene.order == [holder.name, deaf.name, waiter.name]

    played(play)


def test_an_attempt_is_for_whom_it_was_made_and_has_that_ttl() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        supervisor = client.supervisor

        async def contend() -> None:
            held = (await supervisor.lock("r", 60)).value
            refused = asyncio.create_task(supervisor.lock("r", 60, wait=None))
            await asyncio.sleep(0)
            behind = asyncio.create_task(supervisor.lock("r", 1, wait=None))
            await asyncio.sleep(0)
            await supervisor.unlock("r", held)  # before the other's attempt is answered, and behind it on servers
            (won,), _ = await asyncio.wait([refused, behind], return_when=asyncio.FIRST_COMPLETED)
            kept = [int(reply.strip(b":\r\n")) / 1000 for reply in scene.command(b"PTTL", KEY)]
            assert won.result().value.remaining < min(kept)
            refused.cancel()
            behind.cancel()

        await client.spawn(contend())

    played(play)


@pytest.mark.parametrize("options", [{}, {"max_waiting": 1}], ids=["its time is over", "too many wait"])
def test_who_came_behind_a_first_attempt_that_leads_to_no_wait_is_woken(options: dict[str, object]) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, **options)
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        first = scene.hold(waiter, wait=30 if options else 0.0001)
        await asyncio.sleep(0)
        behind = scene.hold(waiter)
        assert not await first
        await asyncio.sleep(0.5)
        await holder.spawn(holder.supervisor.unlock("r", lease))
        since = scene.at()
        assert await behind
        assert scene.at() - since < 3 * ROUND

    played(play)


@pytest.mark.parametrize("end", ["delete", "expiry", "flush"])
def test_who_waits_for_a_lock_of_its_own_client_is_woken_by_others_than_its_release(end: str) -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        await client.spawn(client.supervisor.lock("r", 0.5 if end == "expiry" else 60))
        task = scene.hold(client)
        await asyncio.sleep(0.5)
        if end != "expiry":
            scene.command(*((b"DEL", KEY) if end == "delete" else (b"FLUSHALL",)))
        since = scene.at()
        assert await task
        assert scene.at() - since < 3 * ROUND
        await asyncio.sleep(ROUND)
        assert scene.left() == NOTHING

    played(play)


def test_who_is_refused_while_it_hears_of_others_joins_the_queues_at_once() -> None:
    async def play(scene: Scene) -> None:
        (client,) = await scene.clients(1)
        lease = (await client.spawn(client.supervisor.lock("r", 60))).value
        task = scene.hold(client)
        await asyncio.sleep(0.1)
        scene.command(b"SET", KEY, b"somebody else's", b"PX", b"60000")
        client.spawn(client.supervisor.unlock("r", lease))  # the next attempt leaves with it
        await asyncio.sleep(0)
        (group,) = engine_of(client)._groups.values()
        scene.command(b"PUBLISH", b"redlock:" + group.tokens.client, b"w" + KEY)
        await asyncio.sleep(0.1)
        scene.command(b"DEL", KEY)
        since = scene.at()
        assert await task
        assert scene.at() - since < 3 * ROUND

    played(play)


@pytest.mark.parametrize("clocks", [[100, 101, 102, 103, 104], [100, 3700, 100, 3700, 100]])
def test_order_does_not_depend_on_what_the_clocks_of_servers_show(clocks: list[float]) -> None:
    async def play(scene: Scene) -> None:
        for server, seconds in zip(scene.servers, clocks, strict=True):
            server.clock.step(seconds)
        clients = await scene.clients(8)
        tasks = [scene.hold(clients[0], 3.0)]
        for client in clients[1:]:
            await asyncio.sleep(0.1)
            tasks.append(scene.hold(client, 0.01))
        await asyncio.gather(*tasks)
        assert scene.order == [client.name for client in clients]

        async def again_and_again(client: SimulatedClient) -> None:
            for _ in range(20):
                await scene.hold(client, 0.01)

        await asyncio.gather(*map(again_and_again, clients))
        turns = Counter(scene.order[20:100])
        assert len(turns) == len(clients)
        assert max(turns.values()) - min(turns.values()) <= 2

    played(play)


def test_who_has_won_leaves_the_queue_of_a_server_that_did_not_answer_that_attempt() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2, server_timeout="50ms", health_check_interval="60s")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        task = scene.hold(waiter, 2.0)
        await asyncio.sleep(0.5)
        scene.servers[0].freeze()
        assert await waiter.spawn(waiter.supervisor.lock("other", 60))  # it is silent from now on, and not asked
        await asyncio.sleep(0.5)
        await holder.spawn(holder.supervisor.unlock("r", lease))
        await asyncio.sleep(0.5)
        scene.servers[0].thaw()
        await asyncio.sleep(0.1)
        assert scene.command(b"EXISTS", *SIDE_KEYS) == NOTHING
        assert await task

    played(play)


def test_an_attempt_that_can_not_be_made_fails_who_is_first_and_the_next_is_served() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        tasks = [scene.hold(waiter), scene.hold(waiter)]
        await asyncio.sleep(0.1)
        (group,) = engine_of(waiter)._groups.values()
        tokens, draw = group.tokens, group.tokens._draw

        def fail_once(number: int) -> list[bytes]:
            tokens._draw = draw
            raise OSError("no entropy")

        tokens._stock, tokens._draw = [], fail_once
        await holder.spawn(holder.supervisor.unlock("r", lease))
        failed, served = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert isinstance(failed, OSError)
        assert served
        await asyncio.sleep(ROUND)
        assert scene.left() == NOTHING

    played(play)


def test_those_whose_time_is_over_together_share_one_attempt_that_decides() -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.clients(2)
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        tasks = [scene.hold(waiter, wait=0.5) for _ in range(1000)]
        await asyncio.sleep(0.4)
        scene.asked.clear()
        outcomes = await asyncio.gather(*tasks)
        assert all(outcome == Err("lock_failure") for outcome in outcomes)
        assert all("held by" in str(outcome.error) for outcome in outcomes)
        assert scene.asked[waiter.name, b"EVALSHA"] <= 15
        await holder.spawn(holder.supervisor.unlock("r", lease))
        await asyncio.sleep(10 * ROUND)
        assert scene.left() == NOTHING

    played(play)
