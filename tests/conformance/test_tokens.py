"""Finishing what another began: by token, by a lease of another supervisor, after the scripts were flushed."""

from __future__ import annotations

from typing import Any

import pytest

from redlock_cluster import AsyncSupervisor, Err, LeaseState, NotHeld, Ok, Supervisor

from .adapter import Api, Face, eventually, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import USUAL, ServerGroup, in_each_mode

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)


@in_each_mode(*USUAL)
async def test_unlock_by_token_in_another_supervisor_releases(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    assert await two.unlock(resource, lease.token) == Ok(None)
    await everywhere(lambda: servers.values(key), None)
    assert await one.unlock(resource, lease) == Err("not_held")


@in_each_mode(*USUAL)
async def test_extend_by_token_in_another_supervisor_extends(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource, 10)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    result: Any = await two.extend(resource, lease.token, 60)
    extended = result.value
    assert (extended.token, extended.resource, extended.state) == (lease.token, resource, LeaseState.HELD)
    assert 50 < extended.remaining < 60 * 0.99
    await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))
    await two.run(extended.extend, 70)
    await two.run(extended.release)
    await everywhere(lambda: servers.values(key), None)


@in_each_mode(*USUAL)
async def test_lease_of_another_supervisor_is_taken(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    assert await two.extend(resource, lease, 60)
    await eventually(lambda: all(50_000 < ttl <= 60_000 for ttl in servers.ttls_ms(key)))
    assert await two.unlock(resource, lease) == Ok(None)
    await everywhere(lambda: servers.values(key), None)


@in_each_mode("valkey-9")
@pytest.mark.parametrize("by", ["lease", "token"])
async def test_what_one_supervisor_does_with_a_token_is_known_to_the_lease_of_another(
    face: Face, make: Make, servers: ServerGroup, resource: str, by: str
) -> None:
    """Of the same face, or of the other one, whose engine runs in another thread."""
    one = await make()
    same = await make()
    other = Api((AsyncSupervisor if face == "sync" else Supervisor)(servers.options()))
    for two in (same, await other.start()):
        lease = await one.held(resource, 30)
        extended: Any = await two.extend(resource, lease.token, 60)
        assert 50 < lease.remaining < 60
        assert await one.extend(resource, lease, 5)
        assert 0 < extended.value.remaining < 5
        assert await two.unlock(resource, extended.value if by == "lease" else lease.token) == Ok(None)
        assert (lease.state, lease.valid) == (LeaseState.RELEASED, False)
        assert not extended.value.valid
        again = await one.unlock(resource, lease)
        assert isinstance(again.error, NotHeld)  # type: ignore[union-attr]
    await other.close()
    other.end_threads()


@in_each_mode("valkey-9")
async def test_lease_that_another_supervisor_finds_lost_is_lost(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    one, two = await make(), await make()
    lease = await one.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    servers.delete(key)
    assert await two.unlock(resource, lease.token) == Err("not_held")
    assert lease.state is LeaseState.LOST


@one_version
@pytest.mark.parametrize("wrong", ["another", "", b"", None, 5, "x" * 65_537], ids=lambda wrong: repr(wrong)[:8])
@pytest.mark.parametrize("call", ["unlock", "extend"])
async def test_lease_with_a_wrong_resource_is_refused_and_untouched(
    api: Api, servers: ServerGroup, resource: str, key: bytes, call: str, wrong: Any
) -> None:
    lease = await api.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    with recorded(servers) as record:
        with pytest.raises(ValueError if isinstance(wrong, str | bytes) else TypeError):
            await (api.unlock(wrong, lease) if call == "unlock" else api.extend(wrong, lease, 10))
        await api.is_locked(resource + "-2")  # behind whatever was set off
    assert [c for c in record.about(key) if c.words[1] != key + b"-2"] == []
    assert lease.valid
    assert lease.state is LeaseState.HELD
    assert await api.unlock(resource, lease) == Ok(None)


@pytest.mark.parametrize("token", ["", "0" * 22, "ü\x00\r\n", "*", "%s", "nil", "x" * 100_000], ids=ascii)
@pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
async def test_token_that_is_not_there_is_not_held(
    api: Api, servers: ServerGroup, resource: str, key: bytes, token: str
) -> None:
    async def attempt() -> None:
        assert await api.unlock(resource, token) == Err("not_held")
        assert await api.extend(resource, token, 10) == Err("not_held")

    await attempt()
    assert servers.keys(resource) == [set()] * servers.size
    lease = await api.held(resource)
    await attempt()
    await everywhere(lambda: servers.values(key), lease.token.encode())


async def test_token_of_another_resource_is_not_held(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    other = await api.held(resource + "-2")
    assert await api.unlock(resource, other.token) == Err("not_held")
    assert await api.extend(resource, other.token, 10) == Err("not_held")
    assert await api.unlock(resource, lease) == Ok(None)
    assert await api.unlock(resource + "-2", other) == Ok(None)


@one_version
@pytest.mark.parametrize("wrong", [None, 5, b"0" * 22, ["x"], ...], ids=repr)
async def test_neither_lease_nor_token_is_a_type_error(api: Api, resource: str, wrong: object) -> None:
    lease = await api.held(resource)
    with pytest.raises(TypeError):
        await api.unlock(resource, wrong)
    with pytest.raises(TypeError):
        await api.extend(resource, wrong, 10)
    assert await api.unlock(resource, lease) == Ok(None)


@pytest.mark.parametrize("by", ["lease", "token"])
async def test_scripts_flushed_on_live_connections_are_sent_again(
    api: Api, servers: ServerGroup, resource: str, key: bytes, by: str
) -> None:
    lease = await api.held(resource, 30)
    await everywhere(lambda: servers.values(key), lease.token.encode())

    def flush() -> None:
        for client in servers.clients:
            client.script_flush()

    flush()
    assert await api.extend(resource, lease if by == "lease" else lease.token, 50)
    # A server that says it has no script once the quorum is there is not asked again.
    assert len([ttl for ttl in servers.ttls_ms(key) if ttl > 40_000]) >= servers.quorum
    flush()
    assert await api.unlock(resource, lease if by == "lease" else lease.token) == Ok(None)
    await everywhere(lambda: servers.values(key), None)
    flush()
    assert await api.unlock(resource, lease.token) == Err("not_held")
    flush()
    assert await api.extend(resource, lease.token, 5) == Err("not_held")


async def test_scripts_flushed_do_not_prevent_the_clean_up(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(max_retry=3)
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index])
    for client in servers.clients:
        client.script_flush()
    assert await api.lock(resource, 30) == Err("lock_failure")
    await everywhere(lambda: servers.values(key)[servers.quorum :], None)


async def test_tokens_are_all_different(make: Make, servers: ServerGroup, resource: str) -> None:
    apis = [await make(owner="same"), await make(owner="same")]
    tokens = [(await api.held(f"{resource}-{n}-{i}")).token for n in range(50) for i, api in enumerate(apis)]
    assert len({token.partition("@")[0] for token in tokens}) == 100
