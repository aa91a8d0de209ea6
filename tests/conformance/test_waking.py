"""Who waits is woken: by whom, in which order, and by which servers."""

from __future__ import annotations

import asyncio
import dataclasses
import re
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from redlock_cluster import Err, Ok

from .adapter import Api, eventually, everywhere, passes, take_turns, within
from .conftest import Make
from .servers import PREFIX, UNGUARDED, ServerGroup, ServerPool, in_each_mode

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
real = pytest.mark.parametrize(
    "servers", ["valkey-9", "redis-8", "redis-7", "redis-6", "mixed-of-five", "valkey-9-of-five"], indirect=True
)

WOKEN: Final[dict[str, Any]] = {"waiter_ttl": "10m", "retry_interval": 60_000, "max_retry": 3}
"""Options with which a waiter comes by itself after minutes: what it gets in seconds, it was woken for."""

Use = Callable[[Api, str], Awaitable[None]]
"""Waits for a resource, and gives it back."""


async def by_lock(api: Api, resource: str, wait: Any = None) -> None:
    lease = await api.held(resource, 30, wait=wait)
    assert lease.valid
    assert await api.unlock(resource, lease) == Ok(None)


async def by_reading(api: Api, resource: str) -> None:
    lease = await api.held(resource, 30, wait=None, mode="read")
    assert await api.unlock(resource, lease) == Ok(None)


async def by_lock_with_a_deadline(api: Api, resource: str) -> None:
    await by_lock(api, resource, 120)


async def by_policy(api: Api, resource: str) -> None:
    lease = await api.held(resource, 30)
    assert await api.unlock(resource, lease) == Ok(None)


async def by_mutex(api: Api, resource: str) -> None:
    async with api.entered(await api.mutex(resource, 30, wait=120)) as lease:
        assert lease.valid


async def by_acquire(api: Api, resource: str, **named: Any) -> None:
    mutex = await api.mutex(resource, 30, wait=0)
    assert await api.run(mutex.acquire, **named) is True
    await api.run(mutex.release)


async def by_acquire_with_a_timeout(api: Api, resource: str) -> None:
    await by_acquire(api, resource, timeout=120)


async def by_acquire_for_ever(api: Api, resource: str) -> None:
    await by_acquire(api, resource, blocking=True, timeout=-1)


async def by_transaction(api: Api, resource: str) -> None:
    assert await api.transaction(resource, 30, lambda: 5, wait=None) == 5


WAYS: Final = (
    *(by_lock, by_lock_with_a_deadline, by_policy, by_mutex),
    *(by_acquire_with_a_timeout, by_acquire_for_ever, by_transaction),
)
each_way = pytest.mark.parametrize("use", WAYS, ids=lambda use: use.__name__)


@asynccontextmanager
async def waiting(api: Api, resource: str, servers: ServerGroup, use: Use = by_lock) -> AsyncIterator[None]:
    """Somebody waits at the beginning of the block; gets what it waits for soon after the block, and leaves nothing."""
    waiter = asyncio.ensure_future(use(api, resource))
    await api.waits()
    await settled(api)
    assert not waiting_ended(waiter)
    yield
    await within(8, waiter)
    assert await api.waiting() == 0
    await everywhere(lambda: servers.keys(resource), set())


def waiting_ended(waiter: asyncio.Future[None]) -> bool:
    return waiter.done()


async def settled(api: Api) -> None:
    """What a waiter has asked for has been answered: what is asked later on the same connections is."""
    for _ in range(2):
        await api.is_locked("something else")


class TestWhatWakes:
    @each_way
    @in_each_mode("redis-6", "valkey-9")
    async def test_release_by_another_client(self, make: Make, servers: ServerGroup, resource: str, use: Use) -> None:
        holder, waiter = await make(), await make(**WOKEN)
        lease = await holder.held(resource, mode="write")
        async with waiting(waiter, resource, servers, use):
            assert await holder.unlock(resource, lease) == Ok(None)

    @each_way
    @in_each_mode("redis-6", "valkey-9")
    async def test_release_by_the_same_client(self, make: Make, servers: ServerGroup, resource: str, use: Use) -> None:
        api = await make(**WOKEN)
        lease = await api.held(resource, mode="write")
        async with waiting(api, resource, servers, use):
            assert await api.unlock(resource, lease) == Ok(None)

    @real
    async def test_release_on_every_kind_of_server(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, waiter = await make(), await make(**WOKEN)
        lease = await holder.held(resource, mode="write")
        async with waiting(waiter, resource, servers):
            assert await holder.unlock(resource, lease) == Ok(None)

    @in_each_mode("valkey-9", "redis-6")
    async def test_release_by_the_token_alone(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, other, waiter = await make(), await make(), await make(**WOKEN)
        lease = await holder.held(resource, mode="write")
        async with waiting(waiter, resource, servers):
            assert await other.unlock(resource, lease.token) == Ok(None)

    @one_version
    async def test_release_in_a_batch(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, waiter = await make(), await make(**WOKEN)
        lease = await holder.held(resource, mode="write")
        async with waiting(waiter, resource, servers):
            assert await holder.run(holder.supervisor.unlock_many, [lease]) == [Ok(None)]

    @two_versions
    async def test_release_by_another_process(
        self, make: Make, servers: ServerGroup, resource: str, options_file: Callable[..., Path]
    ) -> None:
        code = """
            import sys
            from redlock_cluster import Redlock

            with Redlock.start(sys.argv[1]).mutex(sys.argv[2], 30):
                print("held", flush=True)
                sys.stdin.readline()
            """
        arguments = [sys.executable, "-c", textwrap.dedent(code), str(options_file(servers.options())), resource]
        waiter = await make(**WOKEN)
        with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdin
                assert process.stdout
                assert await asyncio.to_thread(process.stdout.readline) == "held\n"
                async with waiting(waiter, resource, servers):
                    process.stdin.write("\n")
                    process.stdin.flush()
                assert await asyncio.to_thread(process.wait, 10) == 0
            finally:
                process.kill()

    @real
    async def test_deletion_by_hand(self, make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"stuck", servers.everyone, px=None)
        async with waiting(await make(**WOKEN), resource, servers):
            servers.delete(key)

    @real
    async def test_expiry(self, make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"dead", servers.everyone, px=600)
        async with waiting(await make(**WOKEN), resource, servers):
            pass

    @real
    async def test_shorter_life_that_the_key_gets_later(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"dead", servers.everyone, px=None)
        async with waiting(await make(**WOKEN), resource, servers):
            for client in servers.clients:
                client.pexpire(key, 50)

    @real
    async def test_flush_of_everything(self, make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"stuck", servers.everyone, px=None)
        async with waiting(await make(**WOKEN, **UNGUARDED), resource, servers):
            for client in servers.clients:
                client.flushall()

    @in_each_mode("valkey-9", "redis-6")
    async def test_release_by_another_library(self, make: Make, servers: ServerGroup, resource: str) -> None:
        """One that knows `SET … NX PX` and the script of redis.io; its tokens name no client."""
        key, script = resource.encode(), "return redis.call('GET', KEYS[1]) == ARGV[1] and redis.call('DEL', KEYS[1])"
        for client in servers.clients:
            assert client.set(key, "theirs", nx=True, px=60_000)
        async with waiting(await make(key_prefix="", **WOKEN), resource, servers):
            for client in servers.clients:
                assert client.eval(script, 1, key, "theirs") == 1  # type: ignore[no-untyped-call]

    @one_version
    async def test_quorum_of_servers_that_are_free(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"stuck", servers.everyone, px=None)
        waiter = await make(**WOKEN)
        lease = asyncio.ensure_future(waiter.held(resource, 30, wait=None))
        await waiter.waits()
        await settled(waiter)
        servers.delete(key, servers.majority)
        assert len((await within(8, lease)).held_on) >= servers.quorum

    @in_each_mode("valkey-9", "redis-6")
    async def test_connections_broken_meanwhile(self, make: Make, servers: ServerGroup, resource: str) -> None:
        holder, waiter = await make(), await make()
        lease = await holder.held(resource, mode="write")
        async with waiting(waiter, resource, servers):
            servers.kill_connections(servers.everyone)
            await eventually(lambda: holder.unlock(resource, lease))


class TestOrder:
    @two_versions
    async def test_calls_of_one_client_get_it_in_the_order_in_which_they_came(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, order = await make(**WOKEN), list[int]()

        async def use(number: int) -> None:
            lease = await api.held(resource, 30, wait=None)
            order.append(number)
            assert await api.unlock(resource, lease) == Ok(None)

        lease, calls = await api.held(resource), []
        for number in range(20):
            calls.append(asyncio.ensure_future(use(number)))
            await api.waits(number + 1)
        await api.unlock(resource, lease)
        await within(20, asyncio.gather(*calls))
        assert order == [*range(20)]
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_clients_get_it_in_the_order_in_which_they_came(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        holder, order = await make(), list[int]()

        async def use(api: Api, number: int) -> None:
            lease = await api.held(resource, 30, wait=None)
            order.append(number)
            assert await api.unlock(resource, lease) == Ok(None)

        lease, calls = await holder.held(resource), []
        for number in range(5):
            calls.append(asyncio.ensure_future(use(await make(**WOKEN), number)))
            queued = [number + 1] * servers.size
            await eventually(
                lambda queued=queued: [c.zcard(key + b":redlock:queue") for c in servers.clients] == queued
            )
            await passes(0.03)  # clients that come within 20 ms count as having come together
        await holder.unlock(resource, lease)
        await within(20, asyncio.gather(*calls))
        assert order == [*range(5)]
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_one_attempt_of_the_holders_client_does_not_pass_who_waits(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        holder, waiter = await make(), await make(**WOKEN)
        lease = await holder.held(resource)
        call = asyncio.ensure_future(waiter.held(resource, 30, wait=None))
        await waiter.waits()
        await settled(waiter)
        await settled(holder)  # it has heard of who waits
        await holder.unlock(resource, lease)
        assert await holder.lock(resource, 30, wait=0) == Err("lock_failure")
        assert await waiter.unlock(resource, await within(8, call)) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_one_attempt_does_not_pass_calls_of_the_same_client(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(**WOKEN)
        lease = await api.held(resource)
        call = asyncio.ensure_future(api.held(resource, 30, wait=None))
        await api.waits()
        released = asyncio.ensure_future(api.unlock(resource, lease))
        assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
        assert await released == Ok(None)
        assert await api.unlock(resource, await within(8, call)) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_fair_clients_and_others_share_a_lock(self, make: Make, servers: ServerGroup, resource: str) -> None:
        apis = [await make(waiter_ttl=300, fair=fair) for fair in (True, False, True, False)]
        await take_turns(apis, resource, callers=2, times=5)
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_client_that_is_not_fair_stands_in_no_queue_and_is_woken(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        holder, waiter = await make(), await make(**WOKEN, fair=False)
        lease = await holder.held(resource)
        async with waiting(waiter, resource, servers):
            assert servers.keys(resource) == [{key}] * servers.size
            (group,) = (await waiter.status()).clusters[0].groups
            assert [(server.queues, server.wakes) for server in group.servers] == [(False, True)] * servers.size
            assert await holder.unlock(resource, lease) == Ok(None)


SCRIPTS: Final = ["-evalsha", "-eval"]
LOCKER: Final = "of-the-locker-alone"
RIGHTS: Final[dict[str, list[str]]] = {
    "no SUBSCRIBE": ["-subscribe"],
    "no channels": ["resetchannels"],
    "no CLIENT TRACKING": ["-client|tracking"],
    "no CLIENT CACHING": ["-client|caching"],
    "no PTTL": ["-pttl"],
    "no sorted sets": ["-@sortedset"],
    "no ZADD": ["-zadd"],
    "no PUBLISH": ["-publish"],
    "no scripts": SCRIPTS,
    "nothing of these": ["resetchannels", "-client|tracking", "-subscribe", "-publish", *SCRIPTS],
}


@pytest.fixture(scope="module")
def guarded(pool: ServerPool) -> Iterator[ServerGroup]:
    """Servers with a user for each of RIGHTS who may do everything else.

    Those that can't delete by comparison themselves need scripts for every release: they have users who may run some.
    """
    with ExitStack() as undo:
        group = pool.started([pool.build("redis", 7), pool.build("valkey", 9), pool.build("valkey", 9)], undo)
        for client, build in zip(group.clients, group.builds, strict=True):
            for number, rights in enumerate(RIGHTS.values()):
                removed = [right for right in rights if build.deletes_if_equal or right not in SCRIPTS]
                user = ["SETUSER", f"user{number}", "on", ">secret", "~*", "&*", "+@all", *removed]
                client.execute_command("ACL", *user)  # type: ignore[no-untyped-call]
        yield group


@one_version
@pytest.mark.parametrize("name", RIGHTS)
class TestRestrictedUsers:
    """They poll, or stand in no queue, and never come later than when the holder's key expires."""

    @pytest.fixture
    async def user(self, make: Make, servers: ServerGroup, guarded: ServerGroup, name: str) -> Api:
        login = {"username": f"user{[*RIGHTS].index(name)}", "password": "secret"}
        options = guarded.options(**{**WOKEN, "retry_interval": 20})
        options["servers"] = [{"port": server.port, **login} for server in guarded.embedded]
        return await make(options)

    async def test_gets_what_is_released(
        self, make: Make, guarded: ServerGroup, user: Api, resource: str, name: str
    ) -> None:
        holder = await make(guarded.options())
        lease = await holder.held(resource)
        waiter = asyncio.ensure_future(by_lock(user, resource))
        await user.waits()
        assert await holder.unlock(resource, lease) == Ok(None)
        await within(8, waiter)
        await eventually(lambda: not any(PREFIX + resource.encode() in keys for keys in guarded.keys(resource)))

    async def test_many_that_wait_together_make_no_server_refuse(
        self, make: Make, guarded: ServerGroup, user: Api, resource: str
    ) -> None:
        holder = await make(guarded.options())
        names = [f"{resource} {number}" for number in range(5)]
        leases = [await holder.held(name) for name in names]
        waiters = [asyncio.ensure_future(by_lock(user, name)) for name in names]
        await user.waits(len(names))
        await settled(user)
        (group,) = (await user.status()).clusters[0].groups
        assert [(server.state.value, server.last_error) for server in group.servers] == [("up", "")] * guarded.size
        for name, lease in zip(names, leases, strict=True):
            assert await holder.unlock(name, lease) == Ok(None)
        await within(8, asyncio.gather(*waiters))

    async def test_gets_what_expires(self, guarded: ServerGroup, user: Api, resource: str, key: bytes) -> None:
        guarded.put(key, b"dead", guarded.everyone, px=500)
        await within(8, by_lock(user, resource))

    async def test_gives_back_to_others_who_wait(
        self, make: Make, guarded: ServerGroup, user: Api, resource: str
    ) -> None:
        waiter = await make(guarded.options(**WOKEN))
        lease = await user.held(resource)
        call = asyncio.ensure_future(by_lock(waiter, resource))
        await waiter.waits()
        await settled(waiter)
        assert await user.unlock(resource, lease) == Ok(None)
        await within(8, call)


@pytest.fixture(scope="module")
def resp2(pool: ServerPool) -> Iterator[ServerGroup]:
    """Servers that know no HELLO."""
    with ExitStack() as undo:
        builds = [pool.build("redis", 7), pool.build("valkey", 9), pool.build("valkey", 9)]
        group = pool.started(builds, undo, **{"rename-command HELLO": ""})
        ports = [server.port for server in group.embedded]
        clients = [undo.enter_context(redis.Redis("127.0.0.1", port, protocol=2)) for port in ports]
        yield dataclasses.replace(group, clients=tuple(clients))


@one_version
class TestOldProtocol:
    """Servers that speak RESP2 push nothing: they are polled."""

    @pytest.fixture
    async def user(self, make: Make, servers: ServerGroup, resp2: ServerGroup) -> Api:
        return await make(resp2.options(**{**WOKEN, "retry_interval": 20}))

    async def test_release_expiry_and_deletion_are_noticed(
        self, make: Make, user: Api, resp2: ServerGroup, resource: str, key: bytes
    ) -> None:
        (group,) = (await user.status()).clusters[0].groups
        assert [(server.queues, server.wakes) for server in group.servers] == [(True, False)] * resp2.size
        holder = await make(resp2.options())
        lease = await holder.held(resource)
        async with waiting(user, resource, resp2):
            assert await holder.unlock(resource, lease) == Ok(None)
        lease = await holder.held(resource)
        async with waiting(user, resource, resp2, by_reading):
            assert await holder.unlock(resource, lease) == Ok(None)
        reader = await holder.held(resource, mode="read")
        async with waiting(user, resource, resp2):
            assert await holder.unlock(resource, reader) == Ok(None)
        resp2.put(key, b"dead", resp2.everyone, px=300)
        await within(8, by_lock(user, resource))
        resp2.put(key, b"stuck", resp2.everyone, px=None)
        async with waiting(user, resource, resp2):
            resp2.delete(key)


OPERATIONS: Final = (Path(__file__).parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


@real
async def test_user_with_the_rights_that_the_documentation_lists_waits_in_full(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    match = re.search(r"^    user locker (.*?)\n\n", OPERATIONS, re.DOTALL | re.MULTILINE)
    assert match
    rights = [f">{LOCKER}" if right == ">password" else right for right in match[1].split()]
    for client, build in zip(servers.clients, servers.builds, strict=True):
        native = build.deletes_if_equal
        unknown = [] if native and build.family == "valkey" else ["+delifeq"]
        others = ["+delex"] if native and build.family == "redis" else []
        unknown += ["+client|setinfo"] if build.family == "redis" and (7,) <= build.version < (7, 2) else []
        known = [right for right in rights if right not in unknown]
        client.execute_command("ACL", "SETUSER", "locker", "reset", *known, *others)  # type: ignore[no-untyped-call]
    try:
        options = servers.options(**WOKEN)
        login = {"username": "locker", "password": LOCKER}
        options["servers"] = [{"port": server.port, **login} for server in servers.embedded]
        holder, waiter = await make(options), await make(options)
        (group,) = (await waiter.status()).clusters[0].groups
        assert [(server.queues, server.wakes) for server in group.servers] == [(True, True)] * servers.size
        lease = await holder.held(resource)
        async with waiting(waiter, resource, servers):
            assert await holder.unlock(resource, lease) == Ok(None)
        reader = await holder.held(resource, mode="read")
        await holder.run(reader.extend, 40)
        async with waiting(waiter, resource, servers):
            assert await holder.unlock(resource, reader) == Ok(None)
        lease = await holder.held(resource)
        async with waiting(waiter, resource, servers, by_reading):
            assert await holder.unlock(resource, lease) == Ok(None)
        (group,) = (await waiter.status()).clusters[0].groups
        assert [(server.queues, server.last_error) for server in group.servers] == [(True, "")] * servers.size
    finally:
        for client in servers.clients:
            client.execute_command("ACL", "DELUSER", "locker")  # type: ignore[no-untyped-call]
