"""What stands on the servers and what is said to them, byte for byte."""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Any

import pytest

from .adapter import Api, eventually, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import UNGUARDED, ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)


async def test_lock_granted_stands_under_prefix_and_resource(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource, 30)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    assert servers.keys(resource) == [{key}] * servers.size
    assert all(0 < ttl <= 30_000 for ttl in servers.ttls_ms(key))


async def test_owner_left_out_is_host_and_pid_in_the_token(api: Api, resource: str) -> None:
    lease = await api.held(resource)
    assert re.fullmatch(rf"[0-9A-Za-z+/]{{22}}@[^@]+:{os.getpid()}", lease.token)


async def test_owner_given_is_the_label_of_the_token(make: Make, resource: str) -> None:
    api = await make(owner="billing service:1 ü")
    lease = await api.held(resource)
    assert re.fullmatch(r"[0-9A-Za-z+/]{22}@billing service:1 ü", lease.token)


@one_version
@pytest.mark.parametrize("prefix", ["", "p", "a:{b}:", "ü/"])
async def test_key_prefix_given_stands_before_the_resource(
    make: Make, servers: ServerGroup, resource: str, prefix: str
) -> None:
    api = await make(key_prefix=prefix)
    lease = await api.held(resource)
    await everywhere(lambda: servers.values((prefix + resource).encode()), lease.token.encode())
    assert servers.keys(resource) == [{(prefix + resource).encode()}] * servers.size


async def test_lock_sends_one_set_to_every_server(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    with recorded(servers) as record:
        lease = await api.held(resource, 12.5)
        await everywhere(lambda: servers.values(key), lease.token.encode())
    sent = [c for c in record.about(key) if c.name != "GET" or len(c.words) != 2]  # GET: the line above
    assert sorted(c.server for c in sent) == list(servers.everyone)
    for command in sent:
        wanted = {b"NX", b"PX", b"12500"} | ({b"GET"} if servers.builds[command.server].names_holder else set())
        assert command.words[:3] == (b"SET", key, lease.token.encode())
        assert {word.upper() for word in command.words[3:]} == wanted
        assert command.words[command.words.index(b"PX") + 1] == b"12500"


@one_version
@pytest.mark.parametrize(
    ("ttl", "wanted"),
    [(1, 1000), (0.25, 250), (1.0005, 1000), (86_400 * 365, 31_536_000_000), (timedelta(minutes=2), 120_000)],
)
async def test_ttl_in_seconds_is_milliseconds_on_the_wire(
    make: Make, servers: ServerGroup, resource: str, key: bytes, ttl: Any, wanted: int
) -> None:
    api = await make(max_ttl="600000m", **UNGUARDED)
    with recorded(servers) as record:
        lease = await api.held(resource, ttl)
        await api.unlock(resource, lease)
    sent = {int(c.words[[w.upper() for w in c.words].index(b"PX") + 1]) for c in record.attempts(key)}
    assert len(sent) == 1
    assert abs(sent.pop() - wanted) <= 1


async def test_release_by_lease_compares_on_the_server(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    with recorded(servers) as record:
        await api.unlock(resource, lease)
        await everywhere(lambda: servers.keys(resource), set())
    for index in servers.everyone:
        said = {c.name for c in record.about(key) if c.server == index} - {"KEYS"}
        native = {"DELEX"} if servers.builds[index].family == "redis" else {"DELIFEQ"}
        assert said <= (native if servers.builds[index].deletes_if_equal else {"EVALSHA", "EVAL"}), said
        assert said


async def test_extension_by_lease_compares_on_the_server(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    lease = await api.held(resource)
    await everywhere(lambda: servers.values(key), lease.token.encode())
    with recorded(servers) as record:
        assert await api.extend(resource, lease, 50)
        await api.unlock(resource, lease)
    for index in servers.everyone:
        first = next(c for c in record.about(key) if c.server == index and c.name != "GET")
        if servers.builds[index].sets_if_equal:
            assert first.words[0] == b"SET"
            assert b"IFEQ" in first.words
            assert b"50000" in first.words
        else:
            assert first.name in {"EVALSHA", "EVAL"}


async def test_token_of_another_process_is_extended_and_released_by_script(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    theirs = "another process's"
    for name in (key, key + b"-2"):
        servers.put(name, theirs.encode(), servers.everyone)
    with recorded(servers) as record:
        assert await api.extend(resource, theirs, 40)
        assert await api.unlock(f"{resource}-2", theirs)
        await eventually(lambda: servers.keys(resource) == [{key}] * servers.size)
    # On a slow machine a GET may ask whether a server that was late holds the token: that changes nothing.
    assert {c.name for c in record.about(key)} - {"GET"} <= {"EVALSHA", "EVAL"}


@pytest.mark.parametrize("size", [1, 2, 7])
@one_version
async def test_commands_for_one_key_use_one_connection(
    make: Make, servers: ServerGroup, resource: str, key: bytes, size: int
) -> None:
    api = await make(pool_size=size, max_retry=2)
    with recorded(servers) as record:
        for _ in range(3):
            lease = await api.held(resource)
            await api.refused(resource)
            await api.extend(resource, lease, 20)
            await api.extend(resource, lease.token, 20)
            await api.is_locked(resource)
            await api.unlock(resource, lease.token)
            await api.unlock(resource, lease)
    for index in servers.everyone:
        ours = [c.source for c in record.about(key) if c.server == index]
        assert len(ours) >= 9
        assert len(set(ours)) == 1


@pytest.mark.parametrize("size", [1, 2, 5])
@one_version
async def test_keys_spread_over_every_connection_of_the_pool(
    make: Make, servers: ServerGroup, resource: str, size: int
) -> None:
    api = await make(pool_size=size)
    with recorded(servers) as record:
        for number in range(60):
            lease = await api.held(f"{resource}-{number}")
            await api.unlock(f"{resource}-{number}", lease)
    for index in servers.everyone:
        assert len({c.source for c in record.about(resource.encode()) if c.server == index}) == size


@one_version
async def test_key_keeps_its_place_in_pools_of_other_supervisors(
    make: Make, servers: ServerGroup, resource: str
) -> None:
    def partition(commands: Any) -> set[frozenset[bytes]]:
        by_source: dict[str, set[bytes]] = {}
        for command in commands:
            by_source.setdefault(command.source, set()).add(command.words[1])
        return {frozenset(keys) for keys in by_source.values()}

    seen = []
    for _ in range(2):
        api = await make(pool_size=3)
        with recorded(servers) as record:
            for number in range(24):
                lease = await api.held(f"{resource}-{number}")
                await api.unlock(f"{resource}-{number}", lease)
        seen.append(partition(c for c in record.attempts(resource.encode()) if c.server == 0))
    assert seen[0] == seen[1]


@one_version
async def test_database_given_holds_the_keys(make: Make, servers: ServerGroup, resource: str, key: bytes) -> None:
    options = servers.options()
    api = await make({**options, "servers": [f"redis://127.0.0.1:{s.port}/5" for s in servers.embedded]})
    lease = await api.held(resource)
    assert servers.keys(resource) == [set()] * servers.size
    import redis

    with redis.Redis("127.0.0.1", servers.embedded[0].port, db=5) as client:
        await everywhere(lambda: [client.get(key)], lease.token.encode())
    assert await api.unlock(resource, lease)
