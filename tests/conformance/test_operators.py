"""What operators ask of locks, and do to them: `inspect`, `locks`, `force_release`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from redlock_cluster import ForcedRelease, Holding, ListedLock, LockSnapshot, LossReason, Ok, QuorumUnavailable, Vote

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)


async def inspected(api: Api, resource: str) -> LockSnapshot:
    found: LockSnapshot = await api.run(api.supervisor.inspect, resource)
    return found


async def listed(api: Api, pattern: Any = "*") -> list[ListedLock]:
    if api.face == "sync":
        found: list[ListedLock] = await api.run(lambda: [*api.supervisor.locks(pattern)])
        return found
    return [lock async for lock in api.supervisor.locks(pattern)]  # type: ignore[union-attr]


async def forced(api: Api, resource: str) -> ForcedRelease:
    outcome = await api.run(api.supervisor.force_release, resource)
    assert isinstance(outcome, Ok), outcome
    removed: ForcedRelease = outcome.value
    return removed


async def test_snapshot_shows_the_holder_and_who_waits(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    holder, waiter = await make(owner="the holder"), await make()
    assert (await inspected(holder, resource)).holding is Holding.FREE
    lease = await holder.held(resource, 30)
    waiting = asyncio.ensure_future(waiter.lock(resource, 30, wait=30))
    await waiter.waits()
    await eventually(lambda: all(client.zcard(key + b":redlock:queue") for client in servers.clients))
    found = await inspected(waiter, resource)
    assert (found.resource, found.holding, found.owner) == (resource, Holding.HELD, "the holder")
    assert tuple(server.server for server in found.servers) == servers.names
    for server in found.servers:
        assert (server.error, server.kind, server.owner) == ("", "exclusive", "the holder")
        assert server.client == lease.token[:8]
        assert 25 < (server.ttl or 0) <= 30
        (client,) = server.waiting or ()
        assert client.told is True
        assert 0 <= client.waited < 10
    assert lease.token not in repr(found)
    await holder.unlock(resource, lease)
    assert isinstance(await within(10, waiting), Ok)


async def test_other_kinds_and_keys_that_stay(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make()
    servers.put_readers(key, servers.everyone)
    found = await inspected(api, resource)
    assert (found.holding, found.owner) == (Holding.HELD, "")
    assert {(server.kind, server.owner, server.ttl is None) for server in found.servers} == {("other", "", False)}
    servers.delete(key)
    servers.put(key, b"another library's", servers.everyone, px=None)
    found = await inspected(api, resource)
    assert {(server.kind, server.owner, server.ttl) for server in found.servers} == {("exclusive", "", None)}
    assert (await listed(api, resource)) == [ListedLock(resource, found.group, servers.size, None)]
    assert (await forced(api, resource)).held
    assert servers.keys(resource) == [set()] * servers.size


async def test_locks_are_listed(make: Make, servers: ServerGroup, resource: str) -> None:
    api = await make()
    names = [f"{resource}-{number}" for number in range(150)]
    for name in names:
        await api.held(name, 30)
    found = await listed(api, f"{resource}-*")
    assert sorted(lock.resource for lock in found) == sorted(names)
    await eventually(lambda: all(len(keys) == 150 for keys in servers.keys(resource)))
    found = await listed(api, resource.encode() + b"-1?")
    assert sorted(lock.resource for lock in found) == sorted(f"{resource}-1{digit}" for digit in range(10))
    assert {lock.servers for lock in found} == {servers.size}
    assert all(20 < (lock.ttl or 0) <= 30 for lock in found)
    for name in names:
        servers.delete(b"redlock:" + name.encode())


async def test_release_by_force_is_told_to_the_holder_and_to_who_waits(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    holder, waiter, operator = await make(owner="the holder"), await make(), await make()
    told: list[LossReason] = []
    lease = await holder.held(resource, 30, auto_extend=True, on_lost=lambda _, reason: told.append(reason))
    await everywhere(lambda: servers.values(key), lease.token.encode())
    waiting = asyncio.ensure_future(waiter.held(resource, 30, wait=30))
    await waiter.waits()
    removed = await forced(operator, resource)
    assert (removed.resource, removed.held, removed.owner) == (resource, True, "the holder")
    assert [vote.vote for vote in removed.votes] == [Vote.FOR] * servers.size
    await eventually(lambda: told)
    assert told == [LossReason.FORCED]
    assert lease.valid is False
    next_one = await within(10, waiting)
    await everywhere(lambda: servers.values(key), next_one.token.encode())
    assert 0 < min(servers.ttls_ms(key + b":redlock:forced")) <= 30_000
    await waiter.unlock(resource, next_one)
    servers.delete(key + b":redlock:forced")


@two_versions
async def test_extension_says_that_the_lock_was_released_by_force(make: Make, resource: str) -> None:
    holder, operator = await make(), await make()
    lease = await holder.held(resource, 30)
    await forced(operator, resource)
    refused: Any = await holder.extend(resource, lease, 30)
    assert (refused.reason, refused.error.reason) == ("not_held", LossReason.FORCED)
    assert (await forced(operator, resource)).held is False


@one_version
async def test_too_few_servers(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    api = await make(server_timeout=300)
    lease = await api.held(resource, 30)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    with servers.paused(servers.majority):
        found = await inspected(api, resource)
        assert found.holding is Holding.UNKNOWN
        assert [bool(server.error) for server in found.servers] == [True] * servers.quorum + [False]
        refused = await api.run(api.supervisor.force_release, resource)
        assert refused.reason == "unavailable"
        assert "was not released" in str(refused.error)
        with pytest.raises(QuorumUnavailable, match="not whole"):
            await listed(api)
    assert await api.unlock(resource, lease) == Ok(None)


@pytest.fixture
def user(servers: ServerGroup) -> Iterator[dict[str, Any]]:
    """Options of a user of its own on every server; its rights are the test's to set."""
    address = [
        {"host": "127.0.0.1", "port": s.port, "username": "operator", "password": "pw"} for s in servers.embedded
    ]
    yield {**servers.options(), "servers": address}
    for client in servers.clients:
        client.acl_deluser("operator")


def allow(servers: ServerGroup, *rules: str) -> None:
    for client in servers.clients:
        words = ("on", ">pw", "~redlock:*", "resetchannels", "&redlock:*", "-@all", *rules)
        client.execute_command("ACL", "SETUSER", "operator", "reset", *words)


READS = ("+hello", "+info", "+client|id", "+client|setinfo", "+time", "+get", "+pttl", "+zrange")


@one_version
async def test_whoever_may_read_can_inspect(
    make: Make, servers: ServerGroup, resource: str, user: dict[str, Any]
) -> None:
    holder = await make()
    await holder.held(resource, 30)
    allow(servers, *READS)
    operator = await make(user)
    found = await inspected(operator, resource)
    assert found.holding is Holding.HELD
    assert [server.waiting for server in found.servers] == [()] * 3
    allow(servers, *READS[:-1])
    found = await inspected(operator, resource)
    assert [(server.kind, server.waiting) for server in found.servers] == [("exclusive", None)] * 3


@one_version
async def test_rights_that_are_missing_are_named(
    make: Make, servers: ServerGroup, resource: str, user: dict[str, Any], key: bytes
) -> None:
    holder = await make()
    lease = await holder.held(resource, 30)
    allow(servers, *READS)
    operator = await make(user)
    with pytest.raises(QuorumUnavailable, match="'scan'"):
        await listed(operator)
    refused = await operator.run(operator.supervisor.force_release, resource)
    assert "'eval'" in str(refused.error)
    allow(servers, *READS, "+scan", "+eval", "+type", "+del", "+zrangebyscore", "+zrem", "+pexpire", "+publish")
    assert [lock.resource for lock in await listed(operator, resource)] == [resource]
    refused = await operator.run(operator.supervisor.force_release, resource)
    assert "zadd" in str(refused.error).lower() or "ACL failure" in str(refused.error)
    assert servers.values(key) == [lease.token.encode()] * 3  # what can't be remembered is not removed
    allow(servers, *READS, "+eval", "+type", "+del", "+zadd", "+zrangebyscore", "+zrem", "+pexpire", "+publish")
    assert (await forced(operator, resource)).held
    servers.delete(key + b":redlock:forced")
