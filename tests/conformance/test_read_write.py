"""Read-write locks: who shares, who excludes whom, and what one reader's fate is to the others.

What readers have in common with every other lock is tested where that is tested, with `in_each_mode`.
"""

from __future__ import annotations

import asyncio
import gc
from typing import Any, Final, Literal

import pytest

from redlock_cluster import (
    ClosedError,
    Contended,
    Err,
    Holding,
    LeaseLost,
    LeaseState,
    LossReason,
    Ok,
    WouldDeadlock,
)

from .adapter import AnyLease, Api, eventually, everywhere, passes, within
from .conftest import Make
from .monitor import recorded
from .servers import UNGUARDED, ServerGroup

some_versions = pytest.mark.parametrize("servers", ["valkey-9", "model-valkey-9"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
real_versions = pytest.mark.parametrize(
    "servers", ["valkey-9", "redis-8", "redis-7", "redis-6", "mixed-of-five"], indirect=True
)

WOKEN: Final[dict[str, Any]] = {"waiter_ttl": "10m", "retry_interval": 60_000, "max_retry": 3}
"""Options with which a waiter comes by itself after minutes: what it gets in seconds, it was woken for."""

ENDS: Final = (b"0", b"-1")
LOGARITHMIC: Final = {
    *(b"TYPE", b"TIME", b"GET", b"EXISTS", b"PEXPIREAT", b"ZSCORE", b"ZADD", b"ZREM", b"ZRANGE", b"ZRANGEBYSCORE")
}
"""Commands whose time grows with the logarithm of a sorted set's size at most, for one member of it."""


async def reader(api: Api, resource: str, ttl: Any = 30, **named: Any) -> AnyLease:
    return await api.held(resource, ttl, mode="read", **named)


async def refuses(api: Api, resource: str, mode: Literal["read", "write"]) -> bool:
    """Whether one attempt is refused; if not, it is given back."""
    result = await api.lock(resource, 30, wait=0, mode=mode)
    if isinstance(result, Ok):
        assert await api.unlock(resource, result.value) == Ok(None)
        return False
    assert result == Err("lock_failure")
    return True


def cards(servers: ServerGroup, key: bytes) -> list[int]:
    return [client.zcard(key) for client in servers.clients]


class TestWhoExcludesWhom:
    async def test_life_of_two_readers_and_a_writer(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        """On every version: take, extend, take a vote again, release, wait."""
        one, two, writer = await make(), await make(), await make(**WOKEN)
        first, second = await reader(one, resource), await reader(two, resource)
        await everywhere(lambda: cards(servers, key), 2)
        assert await refuses(one, resource, "write")
        waiting = asyncio.ensure_future(writer.held(resource, 30, wait=60))
        await writer.waits()
        await eventually(lambda: all(client.zcard(key + b":redlock:queue") for client in servers.clients))
        assert await refuses(one, resource, "read")
        await one.run(first.extend, 60)
        await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))
        for index in servers.minority:
            servers.delete(key, [index])
        await one.run(first.extend, 20)
        await two.run(second.extend, 20)
        await eventually(lambda: first.spare == second.spare == servers.size - servers.quorum)
        await everywhere(lambda: cards(servers, key), 2)
        assert await one.unlock(resource, first) == Ok(None)
        await everywhere(lambda: servers.values(key), second.token.encode())
        assert not waiting.done()
        assert await two.unlock(resource, second) == Ok(None)
        lease = await within(8, waiting)
        assert await refuses(one, resource, "read")
        assert await writer.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @real_versions
    async def test_locks_of_other_libraries_exclude_readers_and_the_reverse(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """They send `SET … NX PX`, and release by a script that reads the key."""
        api, key = await make(key_prefix=""), resource.encode()
        servers.put(key, b"theirs", servers.everyone)
        assert await refuses(api, resource, "read")
        assert servers.values(key) == [b"theirs"] * servers.size
        servers.delete(key)
        lease = await reader(api, resource)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        assert [client.set(key, b"theirs", nx=True, px=1000) for client in servers.clients] == [None] * servers.size
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @some_versions
    async def test_plain_lock_mutex_batch_and_election_are_writers(self, api: Api, resource: str) -> None:
        lease = await reader(api, resource)
        assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
        with pytest.raises(Contended):
            async with api.entered(await api.mutex(resource, 30, wait=0)):
                pass
        with pytest.raises(Contended):
            async with api.entered(await api.many([resource, f"{resource}-2"], 30, wait=0)):
                pass
        assert await api.run(api.supervisor.lock_many, [resource], 30) == [Err("lock_failure")]
        with pytest.raises(Contended):
            await api.run((await api.election(resource, 30, wait=0)).campaign)
        assert await api.unlock(resource, lease) == Ok(None)

    @some_versions
    async def test_each_call_takes_a_mode(self, api: Api, resource: str) -> None:
        held = await reader(api, resource)
        assert await api.is_locked(resource) is True
        assert await api.is_locked(resource, mode="read") is False
        assert await api.transaction(resource, 30, lambda: 5, mode="read", wait=0) == 5
        assert await api.transaction(resource, 30, lambda: 5, wait=0) == Err("lock_failure")
        async with api.entered(await api.mutex(f"{resource}-2", 30, wait=0, mode="read")):
            assert await refuses(api, f"{resource}-2", "write")
        lock = api.supervisor.rwlock(resource)
        async with api.entered(lock.read(30, wait=0)) as lease:
            assert lease.valid
        with pytest.raises(Contended):
            async with api.entered(lock.write(30, wait=0)):
                pass
        if api.face == "sync":
            read = api.supervisor.synchronized(resource, mode="read", wait=0)(lambda: 7)
            write = api.supervisor.synchronized(resource, wait=0, default=None)(lambda: 7)
        else:

            async def seven() -> int:
                return 7

            read = api.supervisor.synchronized(resource, mode="read", wait=0)(seven)
            write = api.supervisor.synchronized(resource, wait=0, default=None)(seven)
        assert (await api.run(read), await api.run(write)) == (7, None)
        assert await api.unlock(resource, held) == Ok(None)
        writer = await api.held(resource)
        assert await api.is_locked(resource, mode="read") is True
        assert await api.unlock(resource, writer) == Ok(None)
        async with api.entered(lock.write()):
            assert await refuses(api, resource, "read")

    @one_version
    @pytest.mark.parametrize("mode", ["", "exclusive", "READ", None, 1, b"read", ["read"]], ids=repr)
    async def test_anything_else_is_no_mode_and_sends_nothing(
        self, make: Make, servers: ServerGroup, resource: str, mode: Any
    ) -> None:
        api = await make()
        supervisor = api.supervisor
        with recorded(servers) as record:
            for call in (
                lambda: api.lock(resource, 30, mode=mode),
                lambda: api.transaction(resource, 30, lambda: 5, mode=mode),
                lambda: api.mutex(resource, 30, mode=mode),
                lambda: api.is_locked(resource, mode=mode),
            ):
                with pytest.raises(ValueError, match="a mode is 'write' or 'read'"):
                    await call()
            with pytest.raises((ValueError, TypeError)):
                await api.run(supervisor.rwlock, "")
        assert not record.about(resource.encode())


# `mode` here is the argument of a call: the suite's own fixture of that name is for `in_each_mode`.


class TestOneReaderAndTheOthers:
    @some_versions
    async def test_what_one_does_changes_nothing_for_another(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        one, two = await make(), await make()
        long, short = await reader(one, resource, 60), await reader(two, resource, 10)
        await everywhere(lambda: cards(servers, key), 2)
        remaining = long.remaining
        await two.run(short.extend, 5)
        assert await two.unlock(resource, short) == Ok(None)
        await everywhere(lambda: servers.values(key), long.token.encode())
        assert (long.valid, long.state, long.lost.is_set()) == (True, LeaseState.HELD, False)
        assert remaining - 5 < long.remaining < remaining
        await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))
        await one.run(long.extend, 10)
        await eventually(lambda: all(0 < ttl <= 10_000 for ttl in servers.ttls_ms(key)))
        await one.run(long.release)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_dead_reader_holds_up_a_writer_for_its_own_ttl_however_long_others_read(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, writer = await make(), await make(**WOKEN)
        other = await reader(api, resource, 60)
        dead = await reader(api, resource, 0.5)
        waiting = asyncio.ensure_future(writer.held(resource, 30, wait=60))
        await writer.waits()
        await eventually(lambda: dead.state is LeaseState.LOST)
        assert await api.unlock(resource, other) == Ok(None)
        assert await writer.unlock(resource, await within(8, waiting)) == Ok(None)

    @one_version
    async def test_loss_of_one_by_hand_is_told_by_its_next_extension_and_not_to_the_other(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(ttl=900)
        lost, kept = await reader(api, resource, None), await reader(api, resource, None)
        await everywhere(lambda: cards(servers, key), 2)

        def removed() -> bool:
            for client in servers.clients:
                client.zrem(key, lost.token)
            return lost.lost.is_set()

        await eventually(removed)
        with pytest.raises(LeaseLost) as caught:
            lost.raise_if_lost()
        assert caught.value.reason is LossReason.GONE
        await passes(0.9)
        assert kept.valid
        await api.run(kept.release)

    @some_versions
    async def test_flush_of_everything_is_told_to_each(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        readers = [await reader(api, resource, None) for _ in range(3)]
        await everywhere(lambda: cards(servers, key), 3)
        for client in servers.clients:
            client.flushall()
        await eventually(lambda: all(each.lost for each in readers))
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_reader_that_nobody_refers_to_is_released_and_the_others_stay(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        kept = await reader(api, resource, None)
        with pytest.warns(ResourceWarning, match="dropped without being released"):
            dropped: Any = await reader(api, resource, None)
            await everywhere(lambda: cards(servers, key), 2)
            del dropped
            gc.collect()
            await everywhere(lambda: servers.values(key), kept.token.encode())
        await api.run(kept.release)

    @one_version
    async def test_ten_thousand_readers_of_one_resource(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=20_000)
        if api.face == "sync":
            api.use_threads(100)
        number = 10_000
        held = await within(100, asyncio.gather(*(api.lock(resource, 120, wait=0, mode="read") for _ in range(number))))
        leases: list[Any] = [each.value for each in held if isinstance(each, Ok)]
        assert len({lease.token for lease in leases}) == number
        await everywhere(lambda: cards(servers, key), number, 30)
        assert await refuses(api, resource, "write")
        found = await api.run(api.supervisor.inspect, resource)
        assert found.holding is Holding.HELD
        assert [len(server.readers) for server in found.servers] == [1000] * servers.size
        extended = await within(100, api.run(api.supervisor.extend_many, leases, 60))
        assert [type(each) for each in extended] == [Ok] * number
        results = await within(100, api.run(api.supervisor.unlock_many, leases))
        assert results == [Ok(None)] * number
        await everywhere(lambda: servers.keys(resource), set(), 30)
        assert not await refuses(api, resource, "write")

    @one_version
    async def test_what_servers_do_for_one_does_not_grow_with_the_others(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        """The commands of each script stay the same, and each takes the logarithm of the readers' number at most."""
        api, before = await make(**UNGUARDED), 0
        said: list[list[tuple[bytes, ...]]] = []
        for number in (2, 100, 20_000):
            others = {f"{reader:022}@another": 9e15 for reader in range(before, number)}
            before = number
            for client in servers.clients:
                client.zadd(key, others)
                client.pexpireat(key, 9_000_000_000_000)
            with recorded(servers) as record:
                lease = await reader(api, resource)
                await api.run(lease.extend, 60)
                assert await api.unlock(resource, lease) == Ok(None)
                await everywhere(lambda number=number: cards(servers, key), number)
            inside = [c for c in record.commands if c.from_script and c.server == 0]
            said.append([(c.words[0].upper(), *(word for word in c.words[2:] if word in ENDS)) for c in inside])
        # On a busy machine the client may look for a vote, too, which asks nothing else.
        assert set(said[0]) == set(said[1]) == set(said[2])
        assert max(map(len, said)) < 40
        assert {words[0] for words in said[0]} <= LOGARITHMIC
        assert {words for words in said[0] if words[0] == b"ZRANGE"} <= {
            (b"ZRANGE", b"0", b"0"),
            (b"ZRANGE", b"-1", b"-1"),
        }
        servers.delete(key)


class TestUpgrade:
    @pytest.fixture
    async def api(self, make: Make) -> Api:
        """Synchronous calls of a test are all made by one thread, their owner."""
        api = await make()
        if api.face == "sync":
            api.use_threads(1)
        return api

    @some_versions
    @pytest.mark.parametrize("reentrant", [False, True])
    async def test_neither_way_within_a_body_and_it_says_what_to_do(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, reentrant: bool
    ) -> None:
        lock = api.supervisor.rwlock(resource)
        for outer, inner, mend in (
            (lock.read, lock.write, "a read lock can't become a write lock while others may read: release it first"),
            (lock.write, lock.read, "whoever holds it alone may read: use the lease of that one"),
        ):
            async with api.entered(outer(30)) as lease:
                await everywhere(lambda lease=lease: servers.values(key), lease.token.encode())
                with recorded(servers) as record:
                    with pytest.raises(WouldDeadlock, match=mend):
                        async with api.entered(inner(30, wait=None, reentrant=reentrant)):
                            pass
                    await api.is_locked("something else")
                assert not record.about(key)
                assert lease.valid
        await everywhere(lambda: servers.keys(resource), set())

    @some_versions
    async def test_reader_within_a_reader_shares_if_it_is_reentrant_and_else_is_refused(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        """A writer that waits in between would let it wait for itself."""
        lock = api.supervisor.rwlock(resource)
        async with api.entered(lock.read(30)) as lease:
            async with api.entered(lock.read(30, reentrant=True)) as same:
                assert same is lease
            assert lease.valid
            with pytest.raises(WouldDeadlock, match="reentrant=True"):
                async with api.entered(lock.read(30)):
                    pass
        await everywhere(lambda: servers.keys(resource), set())

    @some_versions
    async def test_lease_that_was_released_is_no_obstacle(self, api: Api, resource: str) -> None:
        lock = api.supervisor.rwlock(resource)
        async with api.entered(lock.read(30)) as lease:
            await api.run(lease.release)
            async with api.entered(lock.write(30, wait=0)) as writer:
                assert writer.valid


class TestOperators:
    @some_versions
    async def test_readers_are_shown_listed_and_released_by_force(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        one, two, writer, operator = await make(owner="one"), await make(owner="two"), await make(), await make()
        told: list[tuple[str, LossReason]] = []
        leases: list[Any] = []
        for api, name in ((one, "one"), (two, "two"), (two, "also two")):

            def on_lost(_: object, reason: LossReason, name: str = name) -> None:
                told.append((name, reason))

            leases.append(await reader(api, resource, 30, auto_extend=True, on_lost=on_lost))
        await everywhere(lambda: cards(servers, key), 3)
        waiting = asyncio.ensure_future(writer.held(resource, 30, wait=30))
        await writer.waits()
        await eventually(lambda: all(client.zcard(key + b":redlock:queue") for client in servers.clients))
        later = asyncio.ensure_future(reader(one, resource, wait=30))
        await eventually(lambda: all(client.zcard(key + b":redlock:readerqueue") for client in servers.clients))
        found = await operator.run(operator.supervisor.inspect, resource)
        assert (found.holding, found.owner) == (Holding.HELD, "")
        for server in found.servers:
            assert (server.kind, server.owner, server.client, server.error) == ("read", "", "", "")
            assert sorted(each.owner for each in server.readers) == ["one", "two", "two"]
            assert {each.client for each in server.readers} == {lease.token[:8] for lease in leases}
            assert all(20 < each.ttl <= 30 for each in server.readers)
            assert [(each.reads, each.told) for each in server.waiting] == [(False, True), (True, True)]
        assert not any(lease.token in repr(found) for lease in leases)
        if operator.face == "sync":
            listed = await operator.run(lambda: [*operator.supervisor.locks(resource)])
        else:
            listed = [lock async for lock in operator.supervisor.locks(resource)]  # type: ignore[union-attr]
        assert [(lock.resource, lock.servers) for lock in listed] == [(resource, servers.size)]
        removed = (await operator.run(operator.supervisor.force_release, resource)).value
        assert (removed.held, removed.owner) == (True, "one, two")
        await eventually(lambda: len(told) == 3, 1.0)
        assert sorted(told) == [(name, LossReason.FORCED) for name in ("also two", "one", "two")]
        assert not any(lease.valid for lease in leases)
        assert await writer.unlock(resource, await within(8, waiting)) == Ok(None)
        assert await one.unlock(resource, await within(8, later)) == Ok(None)
        servers.delete(key + b":redlock:forced")
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_full_server_extends_and_releases_readers_and_takes_no_more(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        lease = await reader(api, resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        with servers.out_of_memory(servers.everyone):
            assert await api.lock(resource, 30, mode="read", wait=0) == Err("unavailable")
            await api.run(lease.extend, 60)
            await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))
            assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @real_versions
    async def test_scripts_flushed_on_live_connections_are_sent_again(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for client in servers.clients:
            client.script_flush()
        lease = await reader(api, resource)
        for client in servers.clients:
            client.script_flush()
        await api.run(lease.extend, 60)  # once a quorum has done it, nobody else is sent the script in full
        await eventually(lambda: sum(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)) >= servers.quorum)
        for client in servers.clients:
            client.script_flush()
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_supervisor_that_closes_leaves_no_reader_that_extends_itself_and_ends_waits(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api, writer = await make(), await make()
        kept = await reader(api, resource, None)
        waiting = asyncio.ensure_future(writer.held(resource, 30, wait=None))
        await writer.waits()
        await eventually(lambda: all(client.zcard(key + b":redlock:queue") for client in servers.clients))
        later = asyncio.ensure_future(reader(api, resource, wait=None))
        await api.waits()
        await api.close()
        with pytest.raises(ClosedError):
            await within(8, later)
        assert not kept.valid
        assert await writer.unlock(resource, await within(8, waiting)) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())
