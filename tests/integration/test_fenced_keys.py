"""Fenced keys on real servers."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster

from redlock_cluster.fencing import MAX_FENCE, AsyncFencedKey, FencedKey, StaleFence
from redlock_cluster.testing import EmbeddedServer, reserve_port

BIG = [1, 99, 10**14 - 1, 10**14, 10**14 + 1, 10**15 + 1, MAX_FENCE - 1, MAX_FENCE]
"""Lua writes numbers from 10^14 with an exponent."""


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedServer]:
    with EmbeddedServer() as server:
        yield server


@pytest.fixture
def client(server: EmbeddedServer) -> Iterator[redis.Redis]:
    with redis.Redis(port=server.port) as client:
        client.flushall()
        yield client


def test_a_value_is_set_and_read_as_the_client_has_values(client: redis.Redis, server: EmbeddedServer) -> None:
    key = FencedKey(client, "report")
    assert (key.get(), key.seen()) == (None, None)
    for value in ("grün", b"\x00\xff", "", b""):
        key.set(value, 7)
        assert (key.get(), key.seen()) == (value.encode() if isinstance(value, str) else value, 7)
    with redis.Redis(port=server.port, decode_responses=True) as decoding:
        same = FencedKey(decoding, "report")
        same.set("grün", 7)
        assert (same.get(), same.seen()) == ("grün", 7)
        with pytest.raises(StaleFence) as refusal:
            same.set("late", 6)
        assert refusal.value.seen == 7
    assert client.hgetall("report") == {b"value": "grün".encode(), b"fence": b"7"}


def test_a_smaller_fence_is_refused_and_changes_nothing(client: redis.Redis) -> None:
    key = FencedKey(client, "report")
    for seen, smaller in zip(BIG[1:], BIG, strict=False):
        key.set(f"by {seen}", seen)
        with pytest.raises(StaleFence) as refusal:
            key.set("late", smaller)
        assert (refusal.value.resource, refusal.value.fence, refusal.value.seen) == ("report", smaller, seen)
        assert (key.get(), key.seen()) == (f"by {seen}".encode(), seen)
        key.set("again", seen)
        assert key.get() == b"again"


def test_a_key_of_another_kind_is_the_servers_error(client: redis.Redis) -> None:
    client.set("plain", "x")
    client.hset("hash", "fence", "x")
    for name in ("plain", "hash"):
        with pytest.raises(redis.ResponseError):
            FencedKey(client, name).set("value", 1)
    assert (client.get("plain"), client.hgetall("hash")) == (b"x", {b"fence": b"x"})


@pytest.mark.parametrize("value", [None, 1, 1.5, ["x"]])
def test_a_value_that_is_no_text_is_a_type_error(value: Any, client: redis.Redis) -> None:
    with pytest.raises(TypeError, match="a value is a str or bytes"):
        FencedKey(client, "report").set(value, 1)
    assert not client.exists("report")


async def test_asyncio_clients_do_the_same(server: EmbeddedServer, client: redis.Redis) -> None:
    async with redis.asyncio.Redis(port=server.port) as asynchronous:
        key = AsyncFencedKey(asynchronous, "report")
        assert (await key.get(), await key.seen()) == (None, None)
        await key.set("value", MAX_FENCE)
        await key.set(b"again", MAX_FENCE)
        with pytest.raises(StaleFence) as refusal:
            await key.set("late", MAX_FENCE - 1)
        assert (refusal.value.fence, refusal.value.seen) == (MAX_FENCE - 1, MAX_FENCE)
        assert (await key.get(), await key.seen()) == (b"again", MAX_FENCE)
        fences = list(range(1, 101))
        random.Random(2).shuffle(fences)
        raced = AsyncFencedKey(asynchronous, "raced")
        outcomes = await asyncio.gather(*(raced.set(str(n), n) for n in fences), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {type(None), StaleFence}
        assert (await raced.get(), await raced.seen()) == (b"100", 100)


async def test_a_client_for_the_other_face_is_a_type_error(client: redis.Redis, server: EmbeddedServer) -> None:
    async with redis.asyncio.Redis(port=server.port) as asynchronous:
        with pytest.raises(TypeError, match="FencedKey has no use for this client; take AsyncFencedKey"):
            FencedKey(asynchronous, "report")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="AsyncFencedKey has no use for this client; take FencedKey"):
        AsyncFencedKey(client, "report")  # type: ignore[arg-type]


def test_threads_end_with_the_greatest_fence(client: redis.Redis) -> None:
    chance = random.Random(6)
    fences = sorted(range(1, 401), key=lambda fence: fence + chance.uniform(0, 20))
    seen: list[list[int]] = [[] for _ in range(4)]

    def write(part: int) -> None:
        key = FencedKey(client, "report")
        for fence in fences[part::4]:
            try:
                key.set(str(fence), fence)
            except StaleFence as refusal:
                assert refusal.seen > fence
            seen[part].append(int(key.get()))

    threads = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    key = FencedKey(client, "report")
    assert (key.get(), key.seen()) == (b"400", 400)
    assert all(each == sorted(each) and len(each) == 100 for each in seen)


@pytest.fixture(scope="module")
def cluster() -> Iterator[EmbeddedServer]:
    """One server that has all the slots of a cluster."""
    with (
        reserve_port() as bus,  # by itself a server takes one that is 10,000 higher than its own
        EmbeddedServer(config={"cluster-enabled": "yes", "cluster-port": str(bus.port)}) as server,
    ):
        with redis.Redis(port=server.port, decode_responses=True) as client:
            client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            deadline = time.monotonic() + 30
            while client.cluster("INFO")["cluster_state"] != "ok":
                assert time.monotonic() < deadline
                time.sleep(0.02)
        yield server


NAMES = ["report", "{a}:report", "a}b{", "{}x", "report:{"]


@pytest.mark.parametrize("name", NAMES)
def test_a_cluster_has_all_of_a_key_in_one_slot(name: str, cluster: EmbeddedServer) -> None:
    with redis.RedisCluster(host="127.0.0.1", port=cluster.port) as client:
        key = FencedKey(client, name)
        key.set("value", MAX_FENCE)
        with pytest.raises(StaleFence):
            key.set("late", MAX_FENCE - 1)
        assert (key.get(), key.seen()) == (b"value", MAX_FENCE)


async def test_a_cluster_is_used_by_asyncio(cluster: EmbeddedServer) -> None:
    async with AsyncRedisCluster(host="127.0.0.1", port=cluster.port) as client:
        key = AsyncFencedKey(client, "asyncio")
        await key.set("value", 2)
        with pytest.raises(StaleFence):
            await key.set("late", 1)
        assert (await key.get(), await key.seen()) == (b"value", 2)
