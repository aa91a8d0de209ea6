"""Servers that may have forgotten locks: they grant none until those are over.

Each test has servers of its own, which it kills, empties and demotes. What matters is that nobody gets a lock too
early; that it is had at all afterwards has generous limits.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import pytest
import redis

from redlock_cluster import Err, Ok, ServerState, ServerStatus
from redlock_cluster.testing import EmbeddedServer

from .adapter import Api, Face, eventually, passes, within
from .conftest import Make
from .model_front import ModelFront
from .servers import GROUPS, OPTIONS, PREFIX, ServerGroup, ServerPool

META: Final = b":redlock:meta"
SHORT: Final[dict[str, Any]] = {"max_ttl": "1s", "ttl": "1s"}
"""So that also those wait for a second only who can't learn how long locks last."""
TWO_SECONDS: Final[dict[str, Any]] = {"max_ttl": "2s", "ttl": "2s"}
PERSISTENT: Final = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}
SOON: Final = 12.0
"""Seconds in which something has happened on a machine that is busy."""

two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
with_acl = pytest.mark.parametrize("servers", ["valkey-9", "redis-7"], indirect=True)


@pytest.fixture(params=["valkey-9", "redis-6"])
def servers(request: pytest.FixtureRequest, pool: ServerPool) -> Iterator[ServerGroup]:
    """Servers of the test's own."""
    with ExitStack() as undo:
        group = pool.started([pool.build(*wanted) for wanted in GROUPS[request.param]], undo)
        try:
            yield group
        finally:
            for server in group.embedded:
                if isinstance(server, ModelFront) or server.alive:
                    group.resume()


@pytest.fixture
def face(servers: ServerGroup) -> Face:
    """Either, by the servers: each test takes seconds, and what it is about lies below both."""
    return "sync" if servers.builds[0].family == "redis" else "asyncio"


@pytest.fixture
def warned(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """The library's warnings so far that are about servers that forget."""
    caplog.set_level(logging.WARNING)

    def told() -> list[str]:
        texts = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        return [text for text in texts if "quorum" not in text]

    return told


async def forget(servers: ServerGroup, *where: int) -> None:
    """These are killed together, and started again without their keys."""
    for index in where:
        await asyncio.to_thread(servers.embedded[index].kill)
    for index in where:
        await asyncio.to_thread(servers.embedded[index].start)


async def told(api: Api) -> tuple[ServerStatus, ...]:
    return (await api.status()).clusters[0].groups[0].servers


async def counted(api: Api, *where: int) -> bool:
    """Whether these servers, or all, are up and their grants count."""
    all_of_them = await told(api)
    chosen = [all_of_them[index] for index in where] if where else all_of_them
    return all(server.state is ServerState.UP and server.quarantine is None for server in chosen)


async def doubted(api: Api, *where: int) -> bool:
    all_of_them = await told(api)
    return all(all_of_them[index].state is ServerState.QUARANTINED for index in where)


async def settled(*apis: Api, seconds: float = SOON) -> None:
    for api in apis:
        await eventually(lambda api=api: counted(api), seconds)  # type: ignore[misc]


Take = Callable[[Api, str], Awaitable[Any]]


async def by_lock(api: Api, resource: str, ttl: float = 1, **named: Any) -> Any:
    result = await api.lock(resource, ttl, wait=0, **named)
    return result.value if isinstance(result, Ok) else None


@dataclass(frozen=True)
class Believed:
    """What a holder believes that nobody can ask, and who heals nothing: until when the lock is its own."""

    until: float

    @classmethod
    async def of(cls, lease: Any, holder: Api) -> Believed:
        """That holder is cut off from now on."""
        believed = cls(time.monotonic() + lease.remaining)
        await holder.close()
        return believed

    @property
    def remaining(self) -> float:
        return self.until - time.monotonic()

    @property
    def valid(self) -> bool:
        return self.remaining > 0


async def first_to_get(resource: str, lease: Any, *rivals: Api, take: Take = by_lock) -> Any:
    """The lease of whoever gets the lock first, all of them trying on and on; nobody may before that one is over."""
    got: list[Any] = []

    async def insist(api: Api) -> None:
        begun = time.monotonic()
        while not got:
            taken = await take(api, resource)
            valid = lease.valid
            if taken:
                got.append(taken)
                assert not valid, f"a second holder, while the first has {lease.remaining:.3f} s left"
                return
            assert time.monotonic() - begun < SOON, "nobody gets it"
            await asyncio.sleep(0.005)

    await asyncio.gather(*map(insist, rivals))
    return got[0]


async def lock_on_two(api: Api, servers: ServerGroup, without: int, resource: str, ttl: float = 1) -> Believed:
    """A lock on a bare quorum, as one server does not grant it; its holder is cut off then."""
    lease = await api.held(resource, ttl, wait=0)
    assert lease.held_on == set(servers.names) - {servers.names[without]}
    return await Believed.of(lease, api)


@asynccontextmanager
async def absent(servers: ServerGroup, index: int, how: str = "full") -> AsyncIterator[None]:
    """A server that grants nothing: full, and remembers everything; or gone, and back without its keys.

    A silent one would carry out later what it was sent.
    """
    if how == "full":
        with servers.out_of_memory([index]):
            yield
        return
    await asyncio.to_thread(servers.embedded[index].kill)
    yield
    await asyncio.to_thread(servers.embedded[index].start)


three_rounds = ((2, 0), (0, 1), (1, 2))


class TestRestarts:
    """A lease on a bare quorum, and a server that forgets it."""

    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "model-valkey-9"], indirect=True)
    @pytest.mark.parametrize("how", ["full", "gone"])
    async def test_nobody_else_gets_a_lock_that_a_restarted_server_has_forgotten(
        self, make: Make, servers: ServerGroup, resource: str, how: str
    ) -> None:
        connected = await make(**SHORT)
        for number, (third, forgetful) in enumerate(three_rounds):
            name, holder = f"{resource}-{number}", await make(**SHORT)
            async with absent(servers, third, how):
                lease = await lock_on_two(holder, servers, third, name)
                await forget(servers, forgetful)
            later = await make(start=False, **SHORT)
            starting = asyncio.ensure_future(later.start())
            await first_to_get(name, lease, connected, later)
            await starting
            await settled(connected, later)

    @pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
    async def test_others_who_wait_in_a_queue_do_not_get_it_either(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, connected = await make(**SHORT), await make(**SHORT)
        async with absent(servers, 2):
            lease = await lock_on_two(holder, servers, 2, resource)
            waiting = asyncio.ensure_future(connected.lock(resource, 1, wait=None))
            await forget(servers, 0)
        later = await make(**SHORT)
        also = asyncio.ensure_future(later.lock(resource, 1, wait=None))
        done, _ = await asyncio.wait([waiting, also], timeout=SOON, return_when=asyncio.FIRST_COMPLETED)
        assert not lease.valid
        assert done
        assert [bool(result) for result in await within(SOON, asyncio.gather(waiting, also))] == [True, True]

    async def test_two_of_three_that_forget_grant_nothing_for_the_longest_ttl(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Too few are left to say how long locks last."""
        holder = await make(**TWO_SECONDS)
        lease = await holder.held(resource, 1)
        begun = time.monotonic()
        await forget(servers, 0, 1)
        later = await make(**TWO_SECONDS)
        refusal = await later.refused(f"{resource}-2", 1, wait=0)
        assert refusal == Err("unavailable")
        await first_to_get(resource, lease, holder, later)
        assert time.monotonic() - begun > 2.0
        await settled(holder, later)

    async def test_all_that_forget_grant_nothing_to_who_knows_of_locks(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Nobody else is there who could say that the group is fresh."""
        api, other = await make(), await make()
        for number in range(2):
            name = f"{resource}-{number}"
            await other.held(f"{name}-2", 1)
            lease = await api.held(name, 1)
            await forget(servers, 0, 1, 2)
            await first_to_get(name, lease, api, other)
            await settled(api, other)

    async def test_who_learned_of_longer_locks_when_it_connected_waits_for_those(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """It never locked anything itself: servers told it how long locks last."""
        holder = await make()
        await holder.held(f"{resource}-2", 3)
        connected = await make()
        known = [server.memory for server in await told(connected)]
        assert all(memory is not None and 4096 in [ms for ms, _ in memory.horizons] for memory in known)
        lease = await holder.held(resource, 3)
        await holder.close()
        await forget(servers, 0, 1, 2)
        await first_to_get(resource, lease, connected)

    @one_version
    async def test_restarts_again_and_again_never_let_two_in(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Leases last as long as they may, and servers restart in any order while several want them."""
        apis = [await make(**SHORT) for _ in range(3)]
        holders: list[Any] = []
        stop = False
        turns = 0

        async def use(api: Api) -> None:
            nonlocal turns
            while not stop:
                result = await api.lock(resource, 0.4, wait=0)
                if isinstance(result, Ok):
                    assert not [lease for lease in holders if lease.valid], "two hold it"
                    holders[:] = [result.value]
                    turns += 1
                await asyncio.sleep(0.01)

        using = [asyncio.ensure_future(use(api)) for api in apis]
        chance = random.Random(5)
        for _ in range(8):
            third, forgetful = chance.sample(range(3), 2)
            async with absent(servers, third):
                await passes(0.1)
                await forget(servers, forgetful)
            await passes(0.3)
        await settled(*apis)
        before = turns
        await eventually(lambda: turns > before or any(task.done() for task in using))
        stop = True
        await asyncio.gather(*using)

    @one_version
    async def test_snapshot_of_before_the_lock_is_no_memory_of_it(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, connected = await make(**SHORT), await make(**SHORT)
        await holder.held(f"{resource}-2", 1)
        servers.clients[0].save()
        async with absent(servers, 2):
            lease = await lock_on_two(holder, servers, 2, resource)
            await forget(servers, 0)
            assert servers.clients[0].hget(PREFIX + META, "run") is not None
        later = await make(**SHORT)
        await first_to_get(resource, lease, connected, later)


class TestFlushes:
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "model-valkey-9"], indirect=True)
    @pytest.mark.parametrize("connections", [1, 5])
    async def test_nobody_else_gets_a_lock_that_was_flushed(
        self, make: Make, servers: ServerGroup, resource: str, connections: int
    ) -> None:
        connected = await make(pool_size=connections, **SHORT)
        for number, (third, forgetful) in enumerate(three_rounds):
            name, holder = f"{resource}-{number}", await make(**SHORT)
            async with absent(servers, third):
                lease = await lock_on_two(holder, servers, third, name)
                servers.clients[forgetful].flushall()
            later = await make(start=False, **SHORT)
            starting = asyncio.ensure_future(later.start())
            await first_to_get(name, lease, connected, later)
            await starting
            await settled(connected, later)

    async def test_nobody_who_knows_of_locks_gets_one_when_all_are_flushed(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, other = await make(), await make()
        await other.held(f"{resource}-2", 1)
        lease = await api.held(resource, 1)
        for client in servers.clients:
            client.flushall()
        await first_to_get(resource, lease, api, other)
        await settled(api, other)

    @pytest.mark.parametrize("where", [(0,), (0, 1, 2)])
    async def test_flush_of_another_database_leaves_nothing_behind(
        self, make: Make, servers: ServerGroup, resource: str, where: Sequence[int], warned: Callable[[], list[str]]
    ) -> None:
        api = await make()
        lease = await api.held(resource, 30)
        ids, begun = [server.memory and server.memory.server_id for server in await told(api)], len(warned())
        for index in where:
            with redis.Redis("127.0.0.1", servers.embedded[index].port, db=1) as client:
                client.set("x", 1)
                client.flushdb()
        await settled(api, seconds=5)  # the lock lasts for 30 seconds

        async def refused() -> bool:  # pushes may still come, after each of which the server is asked
            return bool(await api.lock(resource, 1, wait=0) == Err("lock_failure"))

        await eventually(refused, 5)
        await api.held(f"{resource}-2", 1)
        assert await api.unlock(resource, lease) == Ok(None)
        assert [server.memory and server.memory.server_id for server in await told(api)] == ids
        assert warned()[begun:] == []

    async def test_flush_of_a_server_that_others_count_again_begins_anew(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """This client still doubts it from its restart, and has not heard yet that somebody has waited for that."""
        early, other = await make(health_check_interval=50), await make(health_check_interval=50)
        await early.held(f"{resource}-2", 2)
        await forget(servers, 0)
        await eventually(lambda: doubted(early, 0))
        await passes(1)
        late = await make(health_check_interval=60_000)
        assert await doubted(late, 0)
        await settled(early, other)
        async with absent(servers, 2):
            lease = await lock_on_two(early, servers, 2, resource, 2)
            servers.clients[0].flushall()
        await first_to_get(resource, lease, late, other)


class TestReplicas:
    @pytest.fixture
    def outside(self, pool: ServerPool, servers: ServerGroup) -> Iterator[EmbeddedServer]:
        """A server of no group, without keys."""
        with EmbeddedServer(pool.build("valkey", 9).path) as server:
            with redis.Redis("127.0.0.1", server.port) as client:
                client.config_set("repl-diskless-sync-delay", 0)
            yield server

    async def test_server_that_was_a_replica_grants_nothing_until_locks_are_over(
        self, make: Make, servers: ServerGroup, resource: str, warned: Callable[[], list[str]]
    ) -> None:
        api = await make(health_check_interval=50)
        await api.held(f"{resource}-2", 1)
        with servers.demoted([0]):

            async def left() -> bool:
                await api.lock(f"{resource}-3", 0.1, wait=0)
                return (await told(api))[0].state is ServerState.DOWN

            await eventually(left)
        back = time.monotonic()
        await eventually(lambda: doubted(api, 0))
        assert "replica" in (await told(api))[0].last_error
        await settled(api)
        assert time.monotonic() - back > 0.9
        assert len([text for text in warned() if "it was a replica" in text]) == 1

    @one_version
    async def test_replica_of_another_server_has_lost_its_locks(
        self, make: Make, servers: ServerGroup, outside: EmbeddedServer, resource: str
    ) -> None:
        connected = await make(**SHORT)
        for third, forgetful in ((2, 0), (0, 1)):
            name, holder = f"{resource}-{third}", await make(**SHORT)
            async with absent(servers, third):
                lease = await lock_on_two(holder, servers, third, name)
                servers.clients[forgetful].replicaof("127.0.0.1", str(outside.port))
                key = PREFIX + name.encode()
                await eventually(lambda f=forgetful, k=key: servers.clients[f].get(k) is None)  # type: ignore[misc]
                servers.clients[forgetful].replicaof("NO", "ONE")
            later = await make(**SHORT)
            await first_to_get(name, lease, connected, later)
            await settled(connected, later)

    @one_version
    async def test_copy_of_another_member_is_not_taken_for_what_it_was(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        connected = await make()
        await connected.held(resource, 1)
        servers.clients[1].config_set("repl-diskless-sync-delay", 0)
        servers.clients[0].replicaof("127.0.0.1", str(servers.embedded[1].port))
        at = PREFIX + META

        def copied() -> bool:
            both = [servers.clients[index].hget(at, "run") for index in (0, 1)]
            return both[0] is not None and both[0] == both[1]

        await eventually(copied)
        servers.clients[0].replicaof("NO", "ONE")
        later = await make()
        await eventually(lambda: doubted(later, 0))
        await eventually(lambda: doubted(connected, 0))
        await settled(connected, later)
        assert not copied()


class TestFreshGroups:
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "valkey-9-of-five", "model-valkey-9"], indirect=True)
    @pytest.mark.parametrize("connections", [1, 5])
    async def test_works_at_once(self, make: Make, servers: ServerGroup, resource: str, connections: int) -> None:
        api = await make(pool_size=connections)
        await api.held(resource, 1, wait=0)
        assert await counted(api)
        memories = [server.memory for server in await told(api)]
        assert all(memory is not None and memory.size == servers.size for memory in memories)
        assert len({memory.server_id for memory in memories if memory}) == servers.size
        again = await make(pool_size=connections)
        assert [s.memory and s.memory.server_id for s in await told(again)] == [m and m.server_id for m in memories]

    @pytest.mark.parametrize("number", [1, 10])
    async def test_first_start_warns_of_nothing(
        self, make: Make, servers: ServerGroup, number: int, warned: Callable[[], list[str]]
    ) -> None:
        made = [await make(start=False) for _ in range(number)]
        await asyncio.gather(*(api.run(api.supervisor.start) for api in made))
        await settled(*made)
        assert warned() == []

    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "valkey-9-of-five"], indirect=True)
    @pytest.mark.parametrize("connections", [1, 5])
    async def test_works_at_once_for_many_who_start_together(
        self, make: Make, servers: ServerGroup, resource: str, connections: int
    ) -> None:
        """Each is told once which run counts, by whoever is first."""
        made = [await make(start=False, pool_size=connections, health_check_interval=60_000) for _ in range(10)]

        async def use(number: int, api: Api) -> object:
            await api.run(api.supervisor.start)
            return await api.lock(f"{resource}-{number}", 1, wait=0)

        results: list[Any] = await asyncio.gather(*itertools.starmap(use, enumerate(made)))
        assert [str(result.error) for result in results if not result] == []
        await settled(*made)
        ids = [client.hget(PREFIX + META, "id") for client in servers.clients]
        for api in made:
            known = [server.memory and server.memory.server_id.encode() for server in await told(api)]
            assert known == ids

    @two_versions
    async def test_needs_an_operator_while_a_server_is_down(
        self, make: Make, servers: ServerGroup, resource: str, warned: Callable[[], list[str]]
    ) -> None:
        await asyncio.to_thread(servers.embedded[2].kill)
        api = await make(health_check_interval=50)
        refusal = await api.refused(resource, 1, wait=0)
        assert refusal == Err("unavailable")
        assert "redlock-cluster meta init" in str(refusal.error)
        assert not (await api.status()).available
        await passes(1.2)
        assert await api.refused(resource, 1, wait=0) == Err("unavailable")
        assert set(await api.run(api.supervisor.end_quarantine)) == set(servers.names[:2])
        await api.held(resource, 1, wait=0)
        assert await counted(api, 0, 1)
        other = await make()
        await other.held(f"{resource}-2", 1, wait=0)
        assert await api.run(api.supervisor.end_quarantine) == ()
        await asyncio.to_thread(servers.embedded[2].start)
        await settled(api, other)
        assert len([text for text in warned() if "operator" in text]) == 1

    @two_versions
    async def test_works_by_itself_when_the_last_server_comes(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        await asyncio.to_thread(servers.embedded[2].kill)
        api, other = await make(), await make()
        for each in (api, other):
            assert await each.refused(resource, 1, wait=0) == Err("unavailable")
        waiting = asyncio.ensure_future(api.lock(resource, 1, wait=20))
        await asyncio.to_thread(servers.embedded[2].start)
        await settled(api, other)
        assert await within(SOON, waiting)
        await other.held(f"{resource}-2", 1, wait=0)

    @one_version
    async def test_silent_server_did_not_say_that_the_group_is_fresh(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        with servers.paused([2]):
            api = await make(server_timeout=100, connect_timeout=300)
            assert await api.refused(resource, 0.5, wait=0) == Err("unavailable")
        await settled(api)
        await api.held(resource, 1)


class TestRollingRestarts:
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "model-valkey-9"], indirect=True)
    async def test_clients_lock_all_the_time(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make()
        stop = False
        locked = 0

        async def use() -> None:
            nonlocal locked
            while not stop:
                name = f"{resource}-{locked % 7}"
                result = await api.lock(name, 0.9)
                assert isinstance(result, Ok), (locked, str(result.error))
                await api.unlock(name, result.value)
                locked += 1
                await asyncio.sleep(0.002)

        using = asyncio.ensure_future(use())
        await passes(0.2)
        for index in servers.everyone:
            begun = locked
            await forget(servers, index)

            async def over(index: int = index) -> bool:
                return using.done() or ((await told(api))[index].reconnects > 0 and await counted(api))

            await eventually(over, SOON)
            assert using.done() or locked > begun
        stop = True
        await using

    @one_version
    async def test_operator_who_watches_with_another_client_may_restart_the_next(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Others learn later that a server counts again; who waits a little always gets its lock."""
        api, operator = await make(), await make(health_check_interval=50)
        stop = False
        locked = 0
        longest = 0.0

        async def use() -> None:
            nonlocal locked, longest
            while not stop:
                begun = time.monotonic()
                result = await api.lock(f"{resource}-{locked % 7}", 0.9, wait=5)
                assert isinstance(result, Ok), str(result.error)
                await api.unlock(f"{resource}-{locked % 7}", result.value)
                longest = max(longest, time.monotonic() - begun)
                locked += 1
                await asyncio.sleep(0.002)

        using = asyncio.ensure_future(use())
        for index in (0, 1, 2, 0):
            before = (await told(operator))[index].reconnects
            await forget(servers, index)

            async def over(index: int = index, before: int = before) -> bool:
                return (await told(operator))[index].reconnects > before and await counted(operator)

            await eventually(over, SOON)
        stop = True
        await within(SOON, using)


class TestHorizons:
    async def test_long_locks_of_others_count_also_after_servers_were_told_anew(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        first, other = await make(), await make()
        await first.unlock(resource, await first.held(resource, 1.5))
        await other.held(f"{resource}-2", 0.5)
        for index in (0, 1):
            await forget(servers, index)
            begun = time.monotonic()
            later = await make()
            for api in (first, other, later):
                await eventually(lambda i=index, a=api: doubted(a, i))  # type: ignore[misc]
            await settled(first, other, later)
            assert time.monotonic() - begun > 1.5
            assert servers.clients[index].hexists(PREFIX + META, "h2048")

    @one_version
    async def test_status_tells_what_a_server_was_told_anew(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(health_check_interval=50)
        await api.held(resource, 1)
        await forget(servers, 0)
        await eventually(lambda: doubted(api, 0))
        await settled(api)
        await passes(0.3)
        assert [ms for ms, _ in (await told(api))[0].memory.horizons] == [1024]  # type: ignore[union-attr]

    @one_version
    async def test_lock_of_three_seconds_is_waited_for(self, make: Make, servers: ServerGroup, resource: str) -> None:
        first, other = await make(), await make()
        async with absent(servers, 2):
            lease = await lock_on_two(first, servers, 2, resource, 3)
            await forget(servers, 0)
        begun = time.monotonic()
        await first_to_get(resource, lease, other)
        await settled(other)
        assert time.monotonic() - begun > 3.0

    @one_version
    async def test_long_lock_does_not_count_for_ever(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(health_check_interval=50)
        await api.unlock(resource, await api.held(resource, 0.5))
        await passes(4.5)
        await forget(servers, 0)
        later = await make()
        assert await counted(later)
        await settled(api)

    @one_version
    async def test_ttl_above_the_longest_is_refused(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(**SHORT)
        with pytest.raises(ValueError, match="max_ttl"):
            await api.lock(resource, 1.1, wait=0)
        lease = await api.held(resource, 1)
        with pytest.raises(ValueError, match="max_ttl"):
            await api.extend(resource, lease, 1.1)


class TestWhatIsTold:
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "model-valkey-9"], indirect=True)
    async def test_status_errors_and_log(
        self, make: Make, servers: ServerGroup, resource: str, warned: Callable[[], list[str]]
    ) -> None:
        api = await make(health_check_interval=50, **TWO_SECONDS)
        assert all((s.quarantine, s.unguarded) == (None, "") for s in await told(api))
        await api.held(f"{resource}-2", 1)
        before, begun = [server.memory for server in await told(api)], len(warned())
        await forget(servers, 0, 1)
        await eventually(lambda: doubted(api, 0, 1))

        async def known() -> bool:
            left = [(await told(api))[index].quarantine for index in (0, 1)]
            return all(each is not None and 0 < each < 2.1 for each in left)

        await eventually(known)
        group = (await api.status()).clusters[0].groups[0]
        assert not group.available
        assert (group.servers[2].state, group.servers[2].quarantine) == (ServerState.UP, None)
        refusal = await api.refused(resource, 1, wait=0)
        for text in (str(refusal.error), group.servers[0].last_error, group.servers[1].last_error):
            assert "its grants count from 20" in text
            assert " UTC" in text
            assert "redlock-cluster meta init" in text
        await settled(api)
        assert (await api.status()).available
        after = [server.memory for server in await told(api)]
        assert [b.server_id == a.server_id for b, a in zip(before, after, strict=True) if a and b] == [
            False,
            False,
            True,
        ]
        for name in servers.names[:2]:
            assert len([t for t in warned()[begun:] if t.startswith(f"{name} may have forgotten locks")]) == 1
            assert len([t for t in warned()[begun:] if t.startswith(f"{name} counts again")]) == 1
        assert not [text for text in warned()[begun:] if servers.names[2] in text]

    @two_versions
    async def test_operator_may_say_that_nobody_holds_a_lock(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, other = await make(health_check_interval=50), await make(health_check_interval=50)
        await forget(servers, 0, 1)
        await eventually(lambda: doubted(api, 0, 1))
        assert set(await api.run(api.supervisor.end_quarantine)) == set(servers.names[:2])
        await api.held(resource, 1, wait=0)
        await settled(api, other, seconds=5)


class TestOff:
    @two_versions
    async def test_without_the_guard_a_lock_may_be_given_away(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, other = await make(restart_guard=False), await make(restart_guard=False)
        async with absent(servers, 2):
            lease = await lock_on_two(holder, servers, 2, resource, 20)
            await forget(servers, 0)
        await eventually(lambda: by_lock(other, resource, 20), SOON)
        assert lease.valid
        assert all(server.unguarded == "restart_guard is off" for server in await told(other))
        assert [client.exists(PREFIX + META) for client in servers.clients] == [0, 0, 0]

    @two_versions
    async def test_single_server_is_guarded_by_who_saw_it(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        options = {"servers": [{"port": servers.embedded[0].port}], **OPTIONS}
        api = await make(options)
        for _ in range(2):
            lease = await api.held(resource, 1)
            await forget(servers, 0)
            await first_to_get(resource, lease, api)
            await settled(api)
            servers.delete(PREFIX + resource.encode(), [0])
        await api.close()
        await forget(servers, 0)
        new = await make(options)
        await new.held(resource, 1, wait=0)


def named(servers: ServerGroup, name: str, where: Sequence[int], **more: object) -> dict[str, object]:
    """Options of one group with that name."""
    addresses = [{"host": "127.0.0.1", "port": servers.embedded[index].port} for index in where]
    return {"cluster": [{"name": name, "servers": addresses}], **OPTIONS, **more}


class TestOtherGroups:
    @two_versions
    @pytest.mark.parametrize("what", ["name", "size"])
    async def test_servers_of_another_group_never_count(
        self, make: Make, servers: ServerGroup, resource: str, what: str
    ) -> None:
        ours = await make(named(servers, "ours", range(3), **SHORT))
        await ours.held(resource, 1)
        where = range(3) if what == "name" else range(1)
        options = named(servers, "theirs" if what == "name" else "ours", where, health_check_interval=50, **SHORT)
        theirs = await make(options)
        for _ in range(2):
            refusal = await theirs.refused(f"{resource}-2", 1, wait=0)
            assert refusal == Err("unavailable")
            for words in ("belongs to the group ours of 3 servers", "key_prefix"):
                assert words in str(refusal.error)
            assert [s.quarantine for s in await told(theirs)] == [float("inf")] * len(where)
            assert not (await theirs.status()).available
            await passes(1.2)
        await ours.held(f"{resource}-2", 1)
        assert await counted(ours)

    @one_version
    async def test_operator_may_say_that_the_other_group_is_no_more(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """As the refusal says."""
        ours = await make(named(servers, "ours", range(3), **SHORT))
        await ours.held(resource, 1)
        await ours.close()
        theirs = await make(named(servers, "theirs", range(3), health_check_interval=50, **SHORT))
        assert await theirs.refused(resource, 1, wait=0) == Err("unavailable")
        assert set(await theirs.run(theirs.supervisor.end_quarantine)) == set(servers.names)
        await settled(theirs)
        await theirs.held(f"{resource}-2", 1, wait=0)
        assert [client.hget(PREFIX + META, "group") for client in servers.clients] == [b"theirs"] * 3

    @one_version
    async def test_restarted_server_of_another_group_is_not_claimed(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Two groups share servers by mistake: one that forgot goes to whoever is first, and counts for one only."""
        ours = await make(named(servers, "ours", range(3), **SHORT))
        theirs = await make(named(servers, "theirs", range(3), health_check_interval=50, **SHORT))
        await ours.held(resource, 1)
        await forget(servers, 0)
        await passes(2.5)
        group = servers.clients[0].hget(PREFIX + META, "group")
        assert await counted(ours, 0) is (group == b"ours")
        assert await counted(theirs, 0) is (group == b"theirs")

    async def test_prefixes_keep_deployments_apart(self, make: Make, servers: ServerGroup, resource: str) -> None:
        one = await make(named(servers, "one", range(3), key_prefix="one:"))
        two = await make(named(servers, "two", range(1), key_prefix="two:"))
        plain = await make(named(servers, "plain", range(3), key_prefix=""))
        for api in (one, two, plain):
            await api.held(resource, 1, wait=0)
            assert await counted(api)
        for prefix, name in ((b"one:", b"one"), (b"two:", b"two"), (b"", b"plain")):
            assert servers.clients[0].hget(prefix + META, "group") == name


class TestUnguarded:
    RIGHTS: Final = {
        "no reading": ("~redlock:it-*", "~redlock:", "+@all"),
        "no writing": ("%R~redlock::redlock:meta", "~redlock:it-*", "~redlock:", "+@all"),
        "no HSET": ("~*", "+@all", "-hset"),
        "no HGETALL": ("~*", "+@all", "-hgetall"),
        "no INFO": ("~*", "+@all", "-info"),
    }

    @with_acl
    @pytest.mark.parametrize("rights", RIGHTS)
    @pytest.mark.parametrize("when", ["fresh", "used"])
    async def test_user_without_the_right_locks_unguarded(
        self,
        make: Make,
        servers: ServerGroup,
        resource: str,
        rights: str,
        when: str,
        warned: Callable[[], list[str]],
    ) -> None:
        if when == "used":
            await (await make()).held(f"{resource}-2", 0.5)
        for client in servers.clients:
            client.execute_command("ACL", "SETUSER", "locker", "on", ">pass-word", "&*", *self.RIGHTS[rights])  # type: ignore[no-untyped-call]
        addresses = [{"port": s.port, "username": "locker", "password": "pass-word"} for s in servers.embedded]
        api = await make({"servers": addresses, **OPTIONS, "health_check_interval": 50})
        await api.held(resource, 1)
        await api.held(f"{resource}-3", 5)

        async def unguarded() -> bool:
            return all(server.unguarded for server in await told(api))

        await eventually(unguarded)
        status = await told(api)
        assert all((s.state, s.quarantine) == (ServerState.UP, None) for s in status)
        for name in servers.names:
            assert len([t for t in warned() if name in t and "not guarded" in t]) == 1
        await passes(0.3)
        assert len([t for t in warned() if "not guarded" in t]) == 3

    @with_acl
    async def test_documented_user_is_guarded(self, make: Make, servers: ServerGroup, resource: str) -> None:
        """The rights of docs/operations.md."""
        rights = (
            "~redlock:* resetchannels &redlock:* +set +get +type +del +pexpire +eval +evalsha +script|load +info +time "
            "+client|id +client|kill +client|tracking +client|caching +pttl +subscribe +publish +zadd "
            "+zrem +zrange +zrangebyscore +zrank +zscore +zcount +zremrangebyscore +pexpireat +exists +mget +zcard "
            "+hgetall +hget +hset +hdel"
        )
        for client, build in zip(servers.clients, servers.builds, strict=True):
            more = ("+delifeq", "+client|setinfo") if build.family == "valkey" else ()
            client.execute_command("ACL", "SETUSER", "locker", "on", ">pass-word", *rights.split(), *more)  # type: ignore[no-untyped-call]
        addresses = [{"port": s.port, "username": "locker", "password": "pass-word"} for s in servers.embedded]
        api = await make({"servers": addresses, **OPTIONS})
        lease = await api.held(resource, 1)
        assert [server.unguarded for server in await told(api)] == ["", "", ""]
        await api.unlock(resource, lease)
        assert await counted(api)

    @one_version
    async def test_value_of_another_kind_in_place_of_the_memory(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """Somebody wrote there what is no memory: that is said, and nothing hangs."""
        for client in servers.clients:
            client.set(PREFIX + META, "text")
        api = await make()
        assert all("WRONGTYPE" in s.unguarded or s.quarantine for s in await told(api))


class TestDurable:
    @pytest.fixture(params=["valkey-9", "redis-6"])
    def servers(self, request: pytest.FixtureRequest, pool: ServerPool) -> Iterator[ServerGroup]:
        """They write to disk before they answer, and keep their folder over a restart."""
        with ExitStack() as undo:
            yield pool.started([pool.build(*wanted) for wanted in GROUPS[request.param]], undo, **PERSISTENT)

    @pytest.mark.parametrize("durability", ["fsync", "memory"])
    async def test_killed_servers_are_trusted_at_once_and_have_the_lock(
        self, make: Make, servers: ServerGroup, resource: str, durability: str, warned: Callable[[], list[str]]
    ) -> None:
        api, other = await make(durability=durability), await make(durability=durability)
        lease, begun = await api.held(resource, 60), len(warned())
        await forget(servers, 0, 1, 2)
        later = await make(durability=durability)
        await settled(api, other, later)  # the lock lasts far longer
        for each in (other, later):
            assert await each.refused(resource, 1, wait=0) == Err("lock_failure")
        await eventually(lambda: api.extend(resource, lease, 60))
        assert await api.unlock(resource, lease) == Ok(None)
        await later.held(resource, 1)
        assert [text for text in warned()[begun:] if "forgotten" in text] == []

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            (("appendonly", "no"), "appendonly yes"),
            (("appendfsync", "everysec"), "appendfsync always"),
            (("no-appendfsync-on-rewrite", "yes"), "no-appendfsync-on-rewrite no"),
        ],
    )
    async def test_server_that_may_lose_an_answer_is_refused(
        self, make: Make, servers: ServerGroup, resource: str, wrong: tuple[str, str], right: str
    ) -> None:
        await make()  # tells the servers
        servers.clients[0].config_set(*wrong)
        api = await make(durability="fsync")
        await api.held(resource, 1)
        first = (await told(api))[0]
        assert first.state is ServerState.DOWN
        assert right in first.last_error
        assert all(words not in first.last_error for words in {"appendonly yes", "appendfsync always"} - {right})
        servers.clients[0].config_set(wrong[0], right.split()[1])
        await eventually(lambda: counted(api), SOON)

    @pytest.mark.parametrize("durability", ["fsync", "memory"])
    async def test_servers_that_write_to_disk_no_more_are_not_trusted_after_a_restart(
        self, make: Make, servers: ServerGroup, resource: str, durability: str, warned: Callable[[], list[str]]
    ) -> None:
        api = await make(durability=durability)
        await api.held(resource, 60)
        some = servers.clients[:2]
        for client in some:
            client.config_set("appendfsync", "everysec")
        await eventually(lambda: [client.hget(PREFIX + META, "durable") for client in some] == [b"0"] * 2, 15)
        await eventually(lambda: len([text for text in warned() if "to disk any more, so" in text]) == 2)
        await forget(servers, 0, 1)
        later = await make(durability=durability)
        await eventually(lambda: doubted(later, 0, 1), SOON)
        assert await later.refused(resource, 1, wait=0) == Err("unavailable")

    @pytest.mark.parametrize("durability", ["fsync", "memory"])
    async def test_locks_that_were_returned_survive_kills(
        self, make: Make, servers: ServerGroup, resource: str, durability: str
    ) -> None:
        api = await make(durability=durability)
        held: dict[str, Any] = {}
        stop = False

        async def use(caller: int) -> None:
            for number in itertools.count():
                if stop:
                    return
                name = f"{resource}-{caller}-{number}"
                result = await api.lock(name, 120, wait=0)
                if isinstance(result, Ok):
                    held[name] = result.value
                await asyncio.sleep(0.001)

        using = [asyncio.ensure_future(use(caller)) for caller in range(4)]
        for victims in ((0,), (1,), (0, 1, 2), (2, 0), (1,)):
            before = len(held)
            await eventually(lambda before=before: len(held) > before + 20)  # type: ignore[misc]
            await forget(servers, *victims)
        before = len(held)
        await eventually(lambda: len(held) > before, SOON)
        stop = True
        await asyncio.gather(*using)
        for name, lease in held.items():
            found = servers.values(PREFIX + name.encode()).count(lease.token.encode())
            assert found >= servers.quorum, (name, found)

    @one_version
    async def test_flushed_server_is_not_trusted(self, make: Make, servers: ServerGroup, resource: str) -> None:
        """Its file keeps what it has answered, to FLUSHALL too."""
        holder, connected = await make(**SHORT), await make(**SHORT)
        async with absent(servers, 2):
            lease = await lock_on_two(holder, servers, 2, resource)
            servers.clients[0].flushall()
            await asyncio.to_thread(servers.embedded[0].kill)
            await asyncio.to_thread(servers.embedded[0].start)
        later = await make(**SHORT)
        await first_to_get(resource, lease, connected, later)

    @one_version
    async def test_file_that_was_removed_is_no_memory(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, connected = await make(**SHORT), await make(**SHORT)
        async with absent(servers, 2):
            lease = await lock_on_two(holder, servers, 2, resource)
            server: Any = servers.embedded[0]
            server.kill()
            for path in server.directory.rglob("*.aof*"):
                if path.is_file():
                    path.unlink()
            await asyncio.to_thread(server.start)
        later = await make(**SHORT)
        await first_to_get(resource, lease, connected, later)


@one_version
async def test_server_that_keeps_its_answers_only_since_its_restart_has_forgotten(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    """It came back from a snapshot, and was set to write everything to disk afterwards."""
    holder = await make(**SHORT)
    await holder.held(f"{resource}-2", 1)
    servers.clients[0].save()
    async with absent(servers, 2):
        lease = await lock_on_two(holder, servers, 2, resource)
        await forget(servers, 0)
        for name, value in PERSISTENT.items():
            servers.clients[0].config_set(name, value)
    later = await make(**SHORT)
    await first_to_get(resource, lease, later)


async def by_many(api: Api, resource: str, ttl: float = 1) -> Any:
    result = (await api.run(api.supervisor.lock_many, [f"{resource}-2", resource], ttl))[1]
    return result.value if isinstance(result, Ok) else None


async def by_handle(api: Api, handle: Any) -> Any:
    return handle.lease if await api.run(handle.acquire) else None


async def by_mutex_many(api: Api, resource: str, ttl: float = 1) -> Any:
    return await by_handle(api, await api.many([f"{resource}-2", resource], ttl, wait=0, auto_extend=False))


async def by_semaphore(api: Api, resource: str, ttl: float = 1) -> Any:
    named = {"wait": 0, "auto_extend": False}
    return await by_handle(api, await api.run(api.supervisor.semaphore, resource, 1, ttl, **named))


async def by_fenced(api: Api, resource: str, ttl: float = 1) -> Any:
    return await by_lock(api, resource, ttl, fenced=True)


async def by_read(api: Api, resource: str, ttl: float = 1) -> Any:
    return await by_lock(api, resource, ttl, mode="read")


async def by_extension(api: Api, resource: str) -> Any:
    """A lock that was short, and is longer now than servers knew before."""
    lease = await api.held(resource, 0.9, wait=0)
    result = await api.extend(resource, lease, 2)
    assert isinstance(result, Ok)
    return result.value


async def by_batch_extension(api: Api, resource: str) -> Any:
    lease = await api.held(resource, 0.9, wait=0)
    (result,) = await api.run(api.supervisor.extend_many, [lease], 2)
    assert isinstance(result, Ok)
    return result.value


KINDS: Final[dict[str, tuple[Take, Take]]] = {
    "read, then write": (by_read, by_lock),
    "write, then read": (by_lock, by_read),
    "fenced": (by_fenced, by_fenced),
    "lock_many": (by_many, by_many),
    "mutex_many": (by_mutex_many, by_mutex_many),
    "semaphore": (by_semaphore, by_semaphore),
    "extend": (by_extension, by_lock),
    "extend_many": (by_batch_extension, by_lock),
}


class TestEveryKind:
    @pytest.mark.parametrize("kinds", KINDS)
    @pytest.mark.parametrize("cause", ["restart", "flush"])
    async def test_nobody_else_gets_what_was_forgotten(
        self, make: Make, servers: ServerGroup, resource: str, kinds: str, cause: str
    ) -> None:
        take, rival = KINDS[kinds]
        holder, connected = await make(), await make()
        async with absent(servers, 2):
            lease = await Believed.of(await take(holder, resource), holder)
            assert lease.valid
            if cause == "restart":
                await forget(servers, 0)
            else:
                servers.clients[0].flushall()
        later = await make(start=False)
        starting = asyncio.ensure_future(later.start())
        await first_to_get(resource, lease, connected, later, take=rival)
        await starting

    @two_versions
    async def test_never_two_leaders(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api, other = await make(), await make()
        leading, standby = [await each.election(resource, 0.9) for each in (api, other)]
        term = await api.run(leading.campaign)
        campaign = asyncio.ensure_future(other.run(standby.campaign))
        for third, forgetful in three_rounds:
            async with absent(servers, third):
                await passes(0.4)  # the term was extended on two servers
                await forget(servers, forgetful)
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                led = standby.is_leader
                assert not (led and term.valid), "two lead"
                await asyncio.sleep(0.002)
            if campaign.done():
                break  # a busy machine: the term was over
            await settled(api, other)
        if not campaign.done():
            await api.run(leading.resign)
        await within(SOON, campaign)
        assert standby.is_leader
        await other.run(standby.resign)


@pytest.mark.parametrize("servers", ["model-valkey-9", "model-redis-7"], indirect=True)
async def test_clock_that_jumps_forward_ends_locks_early(
    make: Make, servers: ServerGroup, resource: str, warned: Callable[[], list[str]]
) -> None:
    """Only the client that saw the clock before can tell."""
    holder = await make(health_check_interval=20)
    other = await make(health_check_interval=20)
    await passes(0.2)
    async with absent(servers, 2):
        lease = await lock_on_two(holder, servers, 2, resource, 2)
        front: Any = servers.embedded[0]
        front.model._core._clock = lambda: time.time() + 3
        await eventually(lambda: doubted(other, 0))
        assert "its clock jumped forward" in (await told(other))[0].last_error
    await first_to_get(resource, lease, other)
    await settled(other)
    assert len([t for t in warned() if "jumped" in t]) == 1
