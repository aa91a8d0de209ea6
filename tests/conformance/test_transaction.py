"""A function under a lock: always unlocked, called only if the lock was won."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

import pytest

from redlock_cluster import Contended, Err, Ok, QuorumUnavailable

from .adapter import Api, everywhere
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup, in_each_mode

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
asyncio_only = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
sync_only = pytest.mark.parametrize("face", ["sync"], indirect=True)


class BodyError(Exception):
    pass


async def test_function_runs_under_the_lock_and_its_value_is_returned(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    seen = []

    def fn() -> dict[str, int]:
        seen.append(servers.values(key))
        return {"value": 5}

    assert await api.transaction(resource, 30, fn) == {"value": 5}
    assert len(seen) == 1
    assert len([value for value in seen[0] if value]) >= servers.quorum
    await everywhere(lambda: servers.keys(resource), set())


@one_version
@pytest.mark.parametrize("value", [None, False, 0, Err("mine"), Ok(1), "", ()], ids=repr)
async def test_any_value_is_returned_as_it_is(api: Api, servers: ServerGroup, resource: str, value: Any) -> None:
    assert await api.transaction(resource, 30, lambda: value) is value
    await everywhere(lambda: servers.keys(resource), set())


@in_each_mode("valkey-9", "redis-6")
@pytest.mark.parametrize("error", [BodyError("x"), KeyboardInterrupt(), SystemExit(1), Contended("theirs")], ids=repr)
async def test_error_passes_and_unlocks(api: Api, servers: ServerGroup, resource: str, error: BaseException) -> None:
    def fn() -> None:
        raise error

    caught: BaseException | None = None
    try:
        await api.transaction(resource, 30, fn)
    except BaseException as raised:
        caught = raised
    assert caught is error
    await everywhere(lambda: servers.keys(resource), set())


@two_versions
async def test_refused_function_is_never_called(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    called = []
    servers.put(key, b"somebody", servers.everyone)
    for named in ({}, {"wait": 0}, {"wait": 0.05}):
        result = await api.transaction(resource, 30, lambda: called.append(1), **named)
        assert result == Err("lock_failure")
        assert type(result.error) is Contended
    assert called == []
    assert servers.values(key) == [b"somebody"] * servers.size


@two_versions
async def test_outage_is_unavailable_and_calls_nothing(api: Api, servers: ServerGroup, resource: str) -> None:
    called = []
    with servers.out_of_memory(servers.everyone):
        result = await api.transaction(resource, 30, lambda: called.append(1), wait=0)
    assert result == Err("unavailable")
    assert type(result.error) is QuorumUnavailable
    assert called == []


def outlast_the_lease() -> None:
    """The subject of these tests: a function that takes longer than the lease's validity, which is 48 ms."""
    time.sleep(0.08)


@one_version
async def test_lease_that_ran_out_meanwhile_is_logged_and_the_value_returned(
    make: Make, servers: ServerGroup, resource: str, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    api = await make(drift_factor=0.995)

    def fn() -> str:
        outlast_the_lease()
        return "value"

    with caplog.at_level(logging.WARNING):
        assert await api.transaction(resource, 10, fn) == "value"
    assert len([r for r in caplog.records if resource in r.getMessage() and r.levelno == logging.WARNING]) == 1
    await everywhere(lambda: servers.values(key), None)


@one_version
async def test_error_after_the_lease_ran_out_is_the_functions_own(
    make: Make, servers: ServerGroup, resource: str, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    api = await make(drift_factor=0.995)
    error = BodyError("own")

    def fn() -> None:
        outlast_the_lease()
        raise error

    with pytest.raises(BodyError) as caught, caplog.at_level(logging.WARNING):
        await api.transaction(resource, 10, fn)
    assert caught.value is error
    await everywhere(lambda: servers.values(key), None)


@one_version
async def test_lock_taken_by_a_thief_meanwhile_stays_theirs(
    api: Api, servers: ServerGroup, resource: str, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def fn() -> int:
        servers.put(key, b"thief", servers.everyone)
        return 7

    with caplog.at_level(logging.WARNING):
        assert await api.transaction(resource, 30, fn) == 7
    assert servers.values(key) == [b"thief"] * servers.size


@one_version
async def test_lock_is_given_back_although_the_supervisor_was_closed_and_started_meanwhile(
    api: Api, servers: ServerGroup, resource: str
) -> None:
    async def restart() -> int:
        await api.supervisor.close()  # type: ignore[misc]
        await api.supervisor.start()  # type: ignore[misc]
        return 7

    def restart_sync() -> int:
        api.supervisor.close()
        api.supervisor.start()
        return 7

    assert await api.transaction(resource, 30, restart if api.face == "asyncio" else restart_sync) == 7
    await everywhere(lambda: servers.keys(resource), set())
    async with api.entered(await api.mutex(resource)):
        await api.close()
        await api.start()
    await everywhere(lambda: servers.keys(resource), set())
    lease = await api.held(resource)
    await api.close()
    await api.start()
    await api.run(lease.extend, 20)
    assert lease.ttl == 20
    await api.run(lease.release)
    await everywhere(lambda: servers.keys(resource), set())


@one_version
async def test_transactions_in_one_another_take_different_resources(
    api: Api, servers: ServerGroup, resource: str
) -> None:
    if api.face == "sync":
        supervisor: Any = api.supervisor

        def inner() -> Any:
            return supervisor.transaction(resource + "-2", 30, lambda: "inner")

        assert await api.transaction(resource, 30, inner) == "inner"
    else:

        async def nested() -> Any:
            return await api.transaction(resource + "-2", 30, lambda: "inner")

        assert await api.transaction(resource, 30, nested) == "inner"
    await everywhere(lambda: servers.keys(resource), set())


@one_version
@pytest.mark.parametrize("fn", [None, 5, "fn"], ids=repr)
async def test_what_cannot_be_called_leaves_nothing(api: Api, servers: ServerGroup, resource: str, fn: Any) -> None:
    with pytest.raises(TypeError):
        await api.transaction(resource, 30, fn)
    await everywhere(lambda: servers.keys(resource), set())


class AsyncCallable:
    async def __call__(self) -> None:
        raise AssertionError("called")

    async def method(self) -> None:
        raise AssertionError("called")


async def coroutine_function(*_: Any) -> None:
    raise AssertionError("called")


@one_version
@sync_only
@pytest.mark.parametrize(
    "fn",
    [coroutine_function, functools.partial(coroutine_function, 1), AsyncCallable().method],
    ids=["function", "partial", "method"],
)
async def test_sync_given_a_coroutine_function_is_a_type_error_before_locking(
    api: Api, servers: ServerGroup, resource: str, key: bytes, fn: Any
) -> None:
    with recorded(servers) as record, pytest.raises(TypeError):
        await api.transaction(resource, 30, fn)
    assert record.about(key) == []


@one_version
@sync_only
@pytest.mark.parametrize("fn", [AsyncCallable(), lambda: coroutine_function()], ids=["object", "lambda"])
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
async def test_sync_never_hands_out_a_coroutine_that_would_run_without_the_lock(
    api: Api, servers: ServerGroup, resource: str, fn: Any
) -> None:
    with pytest.raises(TypeError):
        await api.transaction(resource, 30, fn)
    await everywhere(lambda: servers.keys(resource), set())


@one_version
@asyncio_only
@pytest.mark.parametrize("kind", ["async function", "partial", "lambda", "object"])
async def test_asyncio_awaits_what_the_function_returns(
    api: Api, servers: ServerGroup, resource: str, key: bytes, kind: str
) -> None:
    async def work(*_: Any) -> int:
        await asyncio.sleep(0)
        assert len([value for value in servers.values(key) if value]) >= servers.quorum
        return 42

    class Callable:
        async def __call__(self) -> int:
            return await work()

    fns: dict[str, Any] = {
        "async function": work,
        "partial": functools.partial(work, 1),
        "lambda": lambda: work(),
        "object": Callable(),
    }
    assert await api.transaction(resource, 30, fns[kind]) == 42
    await everywhere(lambda: servers.keys(resource), set())


@two_versions
@asyncio_only
async def test_cancelled_function_is_unlocked(api: Api, servers: ServerGroup, resource: str) -> None:
    started = asyncio.Event()

    async def fn() -> None:
        started.set()
        await asyncio.sleep(60)  # a function that is under way when it is cancelled

    task = asyncio.ensure_future(api.transaction(resource, 30, fn))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await everywhere(lambda: servers.keys(resource), set())


@one_version
@asyncio_only
async def test_cancelled_while_unlocking_is_unlocked(api: Api, servers: ServerGroup, resource: str) -> None:
    for turns in range(12):
        done = asyncio.Event()

        async def fn(done: asyncio.Event = done) -> None:
            done.set()

        task = asyncio.ensure_future(api.transaction(resource, 30, fn))
        await done.wait()
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        await everywhere(lambda: servers.keys(resource), set())
