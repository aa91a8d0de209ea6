"""Locks shared with other libraries: `key_prefix: ""` and plain `SET key token NX PX`."""

from __future__ import annotations

import pytest
from redis.lock import Lock

from redlock_cluster import Err, Ok

from .adapter import Api, everywhere
from .conftest import Make
from .servers import ServerGroup


@pytest.fixture
async def bare(make: Make) -> Api:
    return await make(key_prefix="")


async def test_lock_of_the_redis_library_on_a_quorum_excludes_ours(
    bare: Api, servers: ServerGroup, resource: str
) -> None:
    theirs = [Lock(servers.clients[i], resource, timeout=30, blocking=False) for i in servers.majority]
    assert all(lock.acquire(token="theirs") for lock in theirs)
    assert await bare.lock(resource, 30, wait=0) == Err("lock_failure")
    assert await bare.lock(resource.encode(), 30) == Err("lock_failure")
    assert await bare.is_locked(resource)
    assert all(lock.owned() for lock in theirs)
    for lock in theirs:
        lock.release()
    assert await bare.lock(resource, 30, wait=0)


async def test_our_lock_excludes_the_redis_library(bare: Api, servers: ServerGroup, resource: str) -> None:
    lease = await bare.held(resource)
    await everywhere(lambda: servers.values(resource.encode()), lease.token.encode())
    theirs = [Lock(client, resource, timeout=30, blocking=False) for client in servers.clients]
    assert not any(lock.acquire() for lock in theirs)
    assert await bare.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(resource.encode()), None)
    assert all(lock.acquire() for lock in theirs)


async def test_raw_set_excludes_and_is_excluded(bare: Api, servers: ServerGroup, resource: str) -> None:
    for index in servers.majority:
        assert servers.clients[index].set(resource, "raw", nx=True, px=30_000)
    assert await bare.lock(resource, 30, wait=0) == Err("lock_failure")
    servers.delete(resource.encode(), servers.majority)
    await everywhere(lambda: servers.values(resource.encode()), None)  # a grant that came late is given back by then
    lease = await bare.held(resource, 30)
    await everywhere(lambda: servers.values(resource.encode()), lease.token.encode())
    assert not any(client.set(resource, "raw", nx=True, px=30_000) for client in servers.clients)


async def test_token_of_another_library_finishes_its_lock(bare: Api, servers: ServerGroup, resource: str) -> None:
    servers.put(resource.encode(), b"their-token", servers.everyone)
    assert await bare.extend(resource, "their-token", 5)
    assert all(0 < ttl <= 5_000 for ttl in servers.ttls_ms(resource.encode())[: servers.quorum])
    assert await bare.unlock(resource, "their-token") == Ok(None)
    await everywhere(lambda: servers.values(resource.encode()), None)


async def test_default_prefix_keeps_apart_from_other_libraries(api: Api, servers: ServerGroup, resource: str) -> None:
    servers.put(resource.encode(), b"raw", servers.everyone)
    assert await api.lock(resource, 30, wait=0)
