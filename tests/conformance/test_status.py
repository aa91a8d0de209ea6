"""`is_locked` and `status`: what is told without locking."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from redlock_cluster import (
    ClusterStatus,
    Err,
    GroupStatus,
    Ok,
    QuorumUnavailable,
    ServerState,
    ServerStatus,
    Status,
    Vote,
)

from .adapter import Api, eventually, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import PREFIX, UNGUARDED, ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)


async def all_are(api: Api, state: ServerState) -> bool:
    """Whether every server is in that state."""
    return all(server.state is state for server in (await api.status()).clusters[0].groups[0].servers)


class TestIsLocked:
    async def test_free_held_and_free_again_are_told(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        assert await api.is_locked(resource) is False
        lease = await api.held(resource)
        assert await api.is_locked(resource) is True
        await api.unlock(resource, lease)
        assert await api.is_locked(resource) is False

    async def test_lock_of_a_stranger_is_told(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.majority)
        assert await api.is_locked(resource) is True

    async def test_readers_are_told(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put_readers(key, servers.majority)
        assert await api.is_locked(resource) is True

    async def test_ghost_on_a_minority_is_not_told(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"ghost", servers.minority)
        assert await api.is_locked(resource) is False

    async def test_split_votes_are_nobodys_lock(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for index in servers.everyone:
            servers.put(key, f"holder {index}".encode(), [index])
        assert await api.is_locked(resource) is False

    @one_version
    async def test_empty_value_is_told(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"", servers.everyone)
        assert await api.is_locked(resource) is True

    async def test_asking_changes_nothing(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.majority, px=40_000)
        with recorded(servers) as record:
            await api.is_locked(resource)
        assert {c.name for c in record.about(key)} <= {"GET", "TYPE", "EXISTS", "PTTL", "STRLEN", "EVALSHA", "EVAL"}
        assert servers.values(key)[: servers.quorum] == [b"somebody"] * servers.quorum
        assert all(30_000 < ttl <= 40_000 for ttl in servers.ttls_ms(key)[: servers.quorum])

    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
    async def test_outage_raises_quorum_unavailable(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=60)
        with servers.paused(servers.majority), pytest.raises(QuorumUnavailable) as caught:
            await api.is_locked(resource)
        assert caught.value.resource == resource
        assert tuple(vote.server for vote in caught.value.votes) == servers.names
        assert [v.vote for v in caught.value.votes[: servers.quorum]] == [Vote.ABSENT] * servers.quorum

    @one_version
    async def test_silent_minority_is_no_outage(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=4000)
        lease = await api.held(resource)
        await eventually(lambda: len(lease.held_on) == servers.size)
        with servers.paused(servers.minority):
            assert await api.is_locked(resource) is True
            await api.unlock(resource, lease)
            assert await api.is_locked(resource) is False


class TestStatus:
    async def test_shape_follows_the_options(self, make: Make, servers: ServerGroup) -> None:
        api = await make(pool_size=3)
        status = await api.status()
        assert type(status) is Status
        assert isinstance(status.clusters, tuple)
        (cluster,) = status.clusters
        assert type(cluster) is ClusterStatus
        (group,) = cluster.groups
        assert type(group) is GroupStatus
        assert (group.name, group.weight, group.available) == (await api.group_for("x"), 1, True)
        assert all(type(server) is ServerStatus for server in group.servers)
        assert tuple(server.name for server in group.servers) == servers.names
        assert status.available
        assert cluster.available

    async def test_servers_that_serve_are_up_with_their_versions(self, make: Make, servers: ServerGroup) -> None:
        api = await make(pool_size=3)
        await eventually(lambda: all_are(api, ServerState.UP))
        for server, build in zip((await api.status()).clusters[0].groups[0].servers, servers.builds, strict=True):
            assert server.state is ServerState.UP
            assert server.version == build.words
            assert server.connections == 3
            assert (server.reconnects, server.pending_releases, server.last_error) == (0, 0, "")
            assert server.latency is None or server.latency >= 0
            assert 0 <= server.since < 60

    @one_version
    async def test_snapshot_cannot_be_changed_and_does_not_change(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=50, health_check_interval=50)
        status: Any = await api.status()
        group = status.clusters[0].groups[0]
        for part, name in ((status, "clusters"), (status.clusters[0], "groups"), (group, "servers")):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(part, name, ())
        with pytest.raises(dataclasses.FrozenInstanceError):
            group.servers[0].state = ServerState.DOWN
        before = repr(status)
        await api.held(resource)
        await api.close()
        assert repr(status) == before
        assert hash(status) == hash(status)

    @one_version
    async def test_silent_servers_are_told_and_come_back(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=50, health_check_interval=50, connect_timeout=300)

        async def all_are(part: slice, *wanted: ServerState) -> bool:
            group = (await api.status()).clusters[0].groups[0]
            return all(server.state in wanted for server in group.servers[part])

        paused, alive = slice(servers.quorum), slice(servers.quorum, None)
        with servers.paused(servers.majority):
            await api.lock(resource, 30, wait=0)
            not_up = (ServerState.PARTIAL, ServerState.SILENT, ServerState.CONNECTING, ServerState.DOWN)
            await eventually(lambda: all_are(paused, *not_up))
            assert not (await api.status()).available
            assert await all_are(alive, ServerState.UP)
        await eventually(lambda: all_are(slice(None), ServerState.UP))
        assert (await api.status()).available
        await everywhere(lambda: servers.keys(resource), set())

    async def test_full_servers_refuse_in_their_own_words_until_they_have_memory(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(health_check_interval=50)
        with servers.out_of_memory(servers.everyone):
            assert await api.lock(resource, wait=0) == Err("unavailable")
            await eventually(lambda: all_are(api, ServerState.REFUSING))
            group = (await api.status()).clusters[0].groups[0]
            assert all(server.last_error.startswith("acquire: OOM command not allowed") for server in group.servers)
            assert not group.available
        await eventually(lambda: all_are(api, ServerState.UP))
        assert (await api.status()).available
        await everywhere(lambda: [PREFIX in keys for keys in servers.keys("")], False)  # no probe stays
        await api.held(resource)

    async def test_servers_that_become_replicas_are_left_until_they_are_masters(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(health_check_interval=50, **UNGUARDED)
        lease = await api.held(resource)
        await eventually(lambda: len(lease.held_on) == servers.size)
        with servers.demoted(servers.everyone):
            assert await api.extend(resource, lease, 30) == Err("unavailable")
            await eventually(lambda: all_are(api, ServerState.DOWN))
            assert not (await api.status()).available
            for server in (await api.status()).clusters[0].groups[0].servers:
                assert "READONLY" in server.last_error or "it is a replica" in server.last_error
        await eventually(lambda: all_are(api, ServerState.UP))
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_evicting_server_is_told(self, make: Make, servers: ServerGroup) -> None:
        client = servers.clients[0]
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("maxmemory", 10**9)
        try:
            api = await make()
            told = [server.warning for server in (await api.status()).clusters[0].groups[0].servers]
        finally:
            client.config_set("maxmemory", 0)
            client.config_set("maxmemory-policy", "noeviction")
        assert "maxmemory-policy" in told[0]
        assert "allkeys-lru" in told[0]
        assert told[1:] == ["", ""]
