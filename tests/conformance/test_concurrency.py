"""Many at once: mutual exclusion, no mixed-up replies, nothing left."""

from __future__ import annotations

import asyncio
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest

from redlock_cluster import AsyncSupervisor, Err, Ok, Supervisor

from .adapter import Api, everywhere, within
from .conftest import Make
from .servers import ServerGroup

some_groups = pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "mixed-of-five"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)

EAGER: Final[dict[str, Any]] = {"retry_interval": 4}


class Room:
    """Holds one; counts with a gap between reading and writing that only exclusion closes."""

    def __init__(self) -> None:
        self.visits = 0
        self.inside = 0
        self.crowds = 0

    def enter(self) -> int:
        self.inside += 1
        self.crowds += self.inside != 1
        return self.visits

    def leave(self, seen: int) -> None:
        self.visits = seen + 1
        self.inside -= 1


@some_groups
async def test_tasks_of_several_supervisors_exclude_each_other(make: Make, servers: ServerGroup, resource: str) -> None:
    apis = [await make(**EAGER) for _ in range(3)]
    room = Room()

    async def visit(api: Api) -> None:
        for _ in range(3):
            async with api.entered(await api.mutex(resource, 30, wait=None), apart=True) as lease:
                seen = room.enter()
                await asyncio.sleep(0)
                assert lease.valid
                room.leave(seen)

    await within(40, asyncio.gather(*(visit(api) for api in apis for _ in range(3))))
    assert (room.visits, room.inside, room.crowds) == (27, 0, 0)
    await everywhere(lambda: servers.keys(resource), set())


@some_groups
def test_threads_on_one_supervisor_exclude_each_other(servers: ServerGroup, resource: str) -> None:
    room = Room()
    gate = threading.Barrier(8)

    def visit(_: int) -> None:
        gate.wait()
        for _turn in range(4):
            with supervisor.mutex(resource, 30, wait=None) as lease:
                seen = room.enter()
                assert supervisor.is_locked(resource)  # meanwhile the other threads run
                assert lease.valid
                room.leave(seen)

    with Supervisor(servers.options(**EAGER)) as supervisor, ThreadPoolExecutor(8) as threads:
        list(threads.map(visit, range(8), timeout=40))
        assert (room.visits, room.inside, room.crowds) == (32, 0, 0)
        asyncio.run(everywhere(lambda: servers.keys(resource), set()))


@one_version
async def test_both_faces_exclude_each_other(servers: ServerGroup, resource: str) -> None:
    room = Room()
    async with AsyncSupervisor(servers.options(**EAGER)) as one:
        supervisor = Supervisor(servers.options(**EAGER))
        apis = [Api(one), Api(supervisor)]

        async def visit(api: Api) -> None:
            for _ in range(4):
                lease = await api.held(resource, 30, wait=None)
                seen = room.enter()
                assert await api.is_locked(resource)  # meanwhile the others run
                room.leave(seen)
                assert await api.unlock(resource, lease) == Ok(None)

        await within(40, asyncio.gather(*(visit(api) for api in apis for _ in range(3))))
        for api in apis:
            await api.close()
            api.end_threads()
    assert (room.visits, room.crowds) == (24, 0)


@one_version
async def test_exactly_one_of_many_attempts_at_once_may_win(make: Make, servers: ServerGroup, resource: str) -> None:
    apis = [await make() for _ in range(4)]
    for number in range(12):
        name = f"{resource}-{number}"
        calls = [api for api in apis for _ in range(4)]
        results = await asyncio.gather(*(api.lock(name, 30, wait=0) for api in calls))
        won = [(api, result) for api, result in zip(calls, results, strict=True) if result]
        assert len(won) <= 1
        assert all(result == Err("lock_failure") for result in results if not result)
        for api, winner in won:  # by the winner: a release from elsewhere may overtake a SET that is still in flight
            assert await api.unlock(name, winner.value.token) == Ok(None)
    await everywhere(lambda: servers.keys(resource), set())


@some_groups
async def test_hundreds_of_resources_at_once_get_their_own_replies(
    api: Api, servers: ServerGroup, resource: str
) -> None:
    names = [f"{resource}-{number}" for number in range(300)]
    taken = set(random.Random(7).sample(names, 100))
    for name in taken:
        servers.put(b"redlock:" + name.encode(), b"theirs", servers.everyone)
    results = await asyncio.gather(*(api.lock(name, 30, wait=0) for name in names))
    assert {name for name, result in zip(names, results, strict=True) if not result} == taken
    leases = {name: result.value for name, result in zip(names, results, strict=True) if isinstance(result, Ok)}
    assert all(lease.resource == name for name, lease in leases.items())
    assert len({lease.token for lease in leases.values()}) == 200
    calls: list[Any] = [api.extend(name, lease, 40) for name, lease in leases.items()]
    calls += [api.is_locked(name) for name in taken]
    calls += [api.unlock(name, "nobody") for name in taken]
    answers = await asyncio.gather(*calls)
    assert all(isinstance(answer, Ok) for answer in answers[:200])
    assert answers[200:] == [True] * 100 + [Err("not_held")] * 100
    released = await asyncio.gather(*(api.unlock(name, lease) for name, lease in leases.items()))
    assert released == [Ok(None)] * 200
    await everywhere(
        lambda: [{key.decode().removeprefix("redlock:") for key in keys} for keys in servers.keys(resource)], taken
    )


@one_version
@pytest.mark.parametrize("seed", range(4))
async def test_random_use_keeps_exclusion_and_leaves_nothing(
    make: Make, servers: ServerGroup, resource: str, seed: int
) -> None:
    """Locks, extensions, releases by lease and token, refusals and broken connections, in any order."""
    chance = random.Random(seed)
    apis = [await make(**EAGER) for _ in range(3)]
    names = [f"{resource}-{number}" for number in range(3)]
    holders: dict[str, set[str]] = {name: set() for name in names}

    async def wander(number: int) -> None:
        for _ in range(12):
            api, name = chance.choice(apis), chance.choice(names)
            result = await api.lock(name, 30, wait=chance.choice([0, 0.05, None]))
            if not isinstance(result, Ok):
                continue
            lease = result.value
            assert holders[name] == set(), f"{number}: {name}"
            holders[name].add(lease.token)
            if chance.random() < 0.5:
                await api.extend(name, chance.choice([lease, lease.token]), 20)
            if chance.random() < 0.1:
                servers.clients[chance.randrange(servers.size)].client_kill_filter(_type="pubsub", skipme=True)
            await asyncio.sleep(0)
            holders[name].clear()
            by: Any = chance.choice([lease, lease.token])
            assert await chance.choice(apis).unlock(name, by) in (Ok(None), Err("unavailable"), Err("not_held"))

    await within(40, asyncio.gather(*(wander(number) for number in range(6))))
    # A release that reached no quorum is made up for by its own supervisor, or by the ttl.
    for api in apis:
        await api.close()
