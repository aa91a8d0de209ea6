"""Servers that are silent, gone, or cut off: what is won, what is told, and what is cleaned up afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import pytest

from redlock_cluster import Err, Ok, QuorumUnavailable, ServerState, Vote
from redlock_cluster.testing import reserve_port

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .monitor import recorded
from .servers import OPTIONS, UNGUARDED, ServerGroup, ServerPool

two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
odd_sizes = pytest.mark.parametrize("servers", ["valkey-9", "mixed-of-five"], indirect=True)


async def given_up(api: Api, where: Sequence[int]) -> bool:
    """Whether connections to these servers were ended, and new ones have been tried in vain."""
    told = (await api.status()).clusters[0].groups[0].servers
    return all(told[i].state is ServerState.DOWN and "connect timeout" in told[i].last_error for i in where)


class TestSilence:
    """Paused servers: connections stay open, bytes are taken, nothing is answered."""

    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "valkey-9-of-five"], indirect=True)
    async def test_minority_prevents_and_delays_nothing(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=5000)
        with servers.paused(servers.minority):
            begun = time.monotonic()
            lease = await api.held(resource, 30, wait=0)
            assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
            assert await api.extend(resource, lease, 40)
            assert await api.extend(resource, lease.token, 40)
            assert await api.unlock(resource, lease) == Ok(None)
            lease = await api.held(resource, 30, wait=0)
            assert await api.unlock(resource, lease.token) == Ok(None)
            assert time.monotonic() - begun < 1.5
        await everywhere(lambda: servers.keys(resource), set())

    @pytest.mark.parametrize("holders", ["one", "several"])
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "valkey-9-of-five", "mixed-of-five"], indirect=True)
    async def test_refusal_is_not_delayed_by_a_silent_minority(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, holders: str
    ) -> None:
        """A quorum refused: what the others would say changes neither the outcome nor what it is called."""
        api = await make(server_timeout=1000)
        for index in servers.rest:
            servers.put(key, b"holder %d" % (0 if holders == "one" else index), [index])
        with servers.paused(servers.minority):
            begun = time.monotonic()
            assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
            assert time.monotonic() - begun < 0.7
        await everywhere(lambda: servers.values(key)[: len(servers.minority)], None)

    @pytest.mark.parametrize("call", ["unlock", "extend"])
    @pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "valkey-9-of-five"], indirect=True)
    async def test_loss_is_not_delayed_by_a_silent_minority(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, call: str
    ) -> None:
        api = await make(server_timeout=1000)
        for by in ("lease", "token"):
            lease: Any = await api.held(resource)
            await everywhere(lambda: servers.values(key), lease.token.encode())
            servers.delete(key, servers.rest)
            with servers.paused(servers.minority):
                begun = time.monotonic()
                known = lease if by == "lease" else lease.token
                lost = await (api.unlock(resource, known) if call == "unlock" else api.extend(resource, known, 10))
                assert lost == Err("not_held")
                assert time.monotonic() - begun < 0.7
            servers.delete(key)

    @odd_sizes
    async def test_quorum_is_unavailable_after_the_timeout_and_keeps_nothing(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=100)
        with servers.paused(servers.majority):
            begun = time.monotonic()
            refusal = await api.refused(resource, 30, wait=0)
            assert 0.09 < time.monotonic() - begun < 1
        error: Any = refusal.error
        assert refusal == Err("unavailable")
        assert type(error) is QuorumUnavailable
        assert [vote.vote for vote in error.votes[: servers.quorum]] == [Vote.ABSENT] * servers.quorum
        assert 0.09 < error.elapsed < 1
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_round_waits_at_most_half_the_ttl(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=5000)
        with servers.paused(servers.majority):
            begun = time.monotonic()
            assert await api.lock(resource, 0.3, wait=0) == Err("unavailable")
            assert 0.13 < time.monotonic() - begun < 0.7

    @two_versions
    async def test_retries_leave_nothing_of_any_attempt(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=40, max_retry=3, retry_interval=5)
        with servers.paused(servers.majority):
            assert await api.lock(resource, 30) == Err("unavailable")
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_refused_lock_is_taken_back_from_servers_that_answer_later(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=100)
        with servers.paused(servers.minority):
            servers.put(key, b"somebody", list(servers.everyone)[-servers.quorum :])
            assert await api.lock(resource, 30, wait=0) == Err("lock_failure")
        await everywhere(lambda: servers.values(key)[: servers.size - servers.quorum], None)
        assert servers.values(key)[-servers.quorum :] == [b"somebody"] * servers.quorum

    @two_versions
    async def test_released_lock_is_taken_from_servers_that_answer_later(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(server_timeout=100)
        lease = await api.held(resource, 30)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        with servers.paused(servers.minority):
            assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_lock_granted_late_everywhere_is_taken_back_everywhere(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=60)
        with servers.paused(servers.everyone):
            results = await asyncio.gather(*(api.lock(f"{resource}-{n}", 30, wait=0) for n in range(20)))
            assert results == [Err("unavailable")] * 20
        await everywhere(lambda: servers.keys(resource), set())
        assert await api.lock(resource, 30)

    @one_version
    async def test_long_silence_with_reconnections_leaves_nothing(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        """The connections are given up while their SETs still wait in the silent servers' buffers."""
        api = await make(server_timeout=40, health_check_interval=40, connect_timeout=120)
        with servers.paused(servers.majority):
            for number in range(4):
                assert await api.lock(f"{resource}-{number}", 30, wait=0) == Err("unavailable")
            await eventually(lambda: given_up(api, servers.majority))
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_lease_survives_a_silence_shorter_than_its_validity(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=40, health_check_interval=40, connect_timeout=120)
        lease = await api.held(resource, 30)
        with servers.paused(servers.everyone):
            assert await api.extend(resource, lease, 30) == Err("unavailable")
            await eventually(lambda: given_up(api, servers.everyone))
            assert lease.valid
        await eventually(lambda: api.extend(resource, lease, 30))
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())


class TestBrokenConnections:
    @two_versions
    async def test_connections_killed_are_made_anew_and_the_lease_survives(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make()
        lease = await api.held(resource, 30)
        servers.kill_connections(servers.everyone)
        assert lease.valid
        await eventually(lambda: api.extend(resource, lease, 30))
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())

        async def reconnected() -> bool:
            group = (await api.status()).clusters[0].groups[0]
            return all(server.state is ServerState.UP and server.reconnects > 0 for server in group.servers)

        await eventually(reconnected)

    @two_versions
    async def test_connections_killed_again_and_again_leave_nothing(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        """Whatever an attempt sent and never heard of is taken back on the next connection."""
        api = await make(pool_size=1)
        held = set()
        for number in range(25):
            attempt = asyncio.ensure_future(api.lock(f"{resource}-{number}", 30, wait=0))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            servers.kill_connections(servers.everyone[: 1 + number % servers.size])
            result = await within(10, attempt)
            if isinstance(result, Ok):
                held.add(f"{resource}-{number}")
                await api.unlock(f"{resource}-{number}", result.value)
            else:
                assert result == Err("unavailable"), result.error
        await everywhere(lambda: servers.keys(resource), set())
        assert held

    @one_version
    async def test_key_whose_connection_is_down_never_uses_another(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(pool_size=2, reconnection_interval=60_000)
        with recorded(servers) as record:
            lease = await api.held(resource)
            await api.unlock(resource, lease)
        for index in servers.majority:
            address = next(c.source for c in record.attempts(key) if c.server == index)
            servers.clients[index].client_kill(address)

        async def one_is_left() -> bool:
            group = (await api.status()).clusters[0].groups[0]
            return all(server.connections == 1 for server in group.servers[: servers.quorum])

        await eventually(one_is_left)
        refusal = await api.refused(resource, wait=0)
        assert refusal == Err("unavailable")
        # Each other resource has its own place in the pool: some on the living connections, some on the dead ones.
        others = [bool(await api.lock(f"{resource}-{number}", wait=0)) for number in range(16)]
        assert set(others) == {True, False}

    @one_version
    async def test_refusal_while_disconnected_is_an_outage_not_contention(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(reconnection_interval=5000)
        servers.kill_connections(servers.everyone)

        async def cut_off() -> bool:
            group = (await api.status()).clusters[0].groups[0]
            return all(server.connections == 0 for server in group.servers)

        await eventually(cut_off)
        begun = time.monotonic()
        refusal = await api.refused(resource, 30, wait=0)
        assert refusal == Err("unavailable")
        assert time.monotonic() - begun < 1
        error: Any = refusal.error
        assert [vote.vote for vote in error.votes] == [Vote.ABSENT] * servers.size


class TestAbsence:
    """Servers that are not there."""

    @pytest.fixture
    def own(self, pool: ServerPool) -> Iterator[ServerGroup]:
        with ExitStack() as undo:
            yield pool.started([pool.build("valkey", 9)] * 3, undo)

    @one_version
    @pytest.mark.parametrize("gone", [1, 2, 3])
    async def test_start_with_servers_missing_is_no_error(
        self, make: Make, own: ServerGroup, resource: str, gone: int
    ) -> None:
        options = own.options(**UNGUARDED)
        with ExitStack() as stack:
            ports = [stack.enter_context(reserve_port()).port for _ in range(gone)]
            options["servers"] = [{"port": port} for port in ports] + [{"port": s.port} for s in own.embedded[gone:]]
            begun = time.monotonic()
            api = await make(options)
            assert time.monotonic() - begun < 2
            result = await api.lock(resource, 30, wait=0)
            assert bool(result) is (gone == 1)
            assert result or result == Err("unavailable")
            group = (await api.status()).clusters[0].groups[0]
            assert group.available is (gone == 1)
            assert all(s.state in (ServerState.DOWN, ServerState.CONNECTING) for s in group.servers[:gone])
            assert all(server.last_error for server in group.servers[:gone])
            assert all(server.state is ServerState.UP for server in group.servers[gone:])

    @one_version
    async def test_server_killed_and_started_again_serves_again(
        self, make: Make, own: ServerGroup, resource: str
    ) -> None:
        api = await make(own.options(**UNGUARDED))
        own.embedded[0].kill()
        lease = await api.held(resource, 5)
        assert own.names[0] not in lease.held_on
        own.embedded[1].kill()

        async def told() -> Any:
            return await api.lock(resource + "-2", 5, wait=0) == Err("unavailable")

        await eventually(told)
        own.embedded[0].start()
        own.embedded[1].start()
        await eventually(lambda: api.lock(resource + "-3", 5, wait=0))

    @two_versions
    async def test_server_that_forbids_commands_is_absent(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        addresses: list[dict[str, object]] = [{"port": server.port} for server in servers.embedded]
        for index in servers.majority:
            servers.clients[index].acl_setuser(
                "reader", enabled=True, nopass=True, keys=["*"], categories=["+@all"], commands=["-set"]
            )
            addresses[index] |= {"username": "reader", "password": "any"}
        api = await make({"servers": addresses, **OPTIONS})
        refusal = await api.refused(resource, wait=0)
        assert refusal == Err("unavailable")
        error: Any = refusal.error
        assert len([vote for vote in error.votes if vote.vote is Vote.ABSENT]) >= servers.quorum
        assert "NOPERM" in str(error)
        await everywhere(lambda: servers.values(key), None)

    @one_version
    async def test_server_that_wants_a_password_is_absent(self, make: Make, pool: ServerPool, resource: str) -> None:
        with ExitStack() as undo:
            locked = pool.started([pool.build("valkey", 9)], undo, requirepass="s3cret-s3cret")
            api = await make({"servers": [{"port": locked.embedded[0].port}], **OPTIONS})
            assert await api.lock(resource, 30, wait=0) == Err("unavailable")
            good = await make({"servers": [{"port": locked.embedded[0].port, "password": "s3cret-s3cret"}], **OPTIONS})
            assert await good.lock(resource, 30, wait=0)
            bad = await make({"servers": [{"port": locked.embedded[0].port, "password": "wr0ng-wr0ng"}], **OPTIONS})
            refusal = await bad.refused(resource + "-2", 30, wait=0)
            assert refusal == Err("unavailable")
            assert "wr0ng" not in str(refusal.error) + repr(refusal) + repr(await bad.status())
            for made in (api, good, bad):
                await made.close()


async def test_single_server_is_a_group(make: Make, servers: ServerGroup, api: Api, resource: str) -> None:
    """Quorum one: no other to ask."""
    one = await make({"servers": [{"port": servers.embedded[0].port}], "key_prefix": "single:", **OPTIONS})
    lease = await one.held(resource)
    assert await one.lock(resource, wait=0) == Err("lock_failure")
    assert lease.held_on == {servers.names[0]}
    assert await one.unlock(resource, lease) == Ok(None)
