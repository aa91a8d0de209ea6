"""The handle: acquire and release as `threading.Lock`, `with`, and what leaving it tells."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from datetime import timedelta
from typing import Any, Final

import pytest

from redlock_cluster import (
    Contended,
    Err,
    LeaseLost,
    LeaseState,
    NotHeld,
    Ok,
    QuorumUnavailable,
)

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)

# A lease that this client gives up after 0.1 s while servers keep its keys for 10 s.
SHORT_LIVED: Final[dict[str, Any]] = {"drift_factor": 0.99}


class BodyError(Exception):
    pass


async def test_acquire_and_release_take_and_free_the_resource(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    mutex = await api.mutex(resource, 30)
    assert (mutex.lease, mutex.locked()) == (None, False)
    assert await api.run(mutex.acquire) is True
    assert mutex.locked() is True
    assert mutex.lease.resource == resource
    await everywhere(lambda: servers.values(key), mutex.lease.token.encode())
    assert await api.run(mutex.release) is None
    assert mutex.locked() is False
    await everywhere(lambda: servers.keys(resource), set())


async def test_with_gives_the_lease_and_releases_it(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    mutex = await api.mutex(resource, 30)
    async with api.entered(mutex) as lease:
        assert lease is mutex.lease
        assert lease.valid
        assert mutex.locked()
        assert await api.lock(resource, wait=0) == Err("lock_failure")
    assert lease.state is LeaseState.RELEASED
    assert not mutex.locked()
    await everywhere(lambda: servers.keys(resource), set())


@two_versions
async def test_handle_released_can_be_used_again(api: Api, servers: ServerGroup, resource: str) -> None:
    mutex = await api.mutex(resource, 30)
    tokens = set()
    for _ in range(3):
        async with api.entered(mutex) as lease:
            tokens.add(lease.token)
        assert await api.run(mutex.acquire)
        tokens.add(mutex.lease.token)
        await api.run(mutex.release)
    assert len(tokens) == 6
    await everywhere(lambda: servers.keys(resource), set())


@one_version
async def test_making_a_handle_sends_nothing(api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
    with recorded(servers) as record:
        mutex = await api.mutex(resource, 30)
        assert not mutex.locked()
    assert record.about(key) == []


@one_version
async def test_acquiring_a_handle_that_holds_is_a_runtime_error(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    mutex = await api.mutex(resource, 30)
    async with api.entered(mutex) as lease:
        with recorded(servers) as record:
            for call in (mutex.acquire, lambda: mutex.acquire(blocking=False), lambda: mutex.acquire(timeout=1)):
                with pytest.raises(RuntimeError):
                    await api.run(call)
            with pytest.raises(RuntimeError):
                async with api.entered(mutex):
                    pass
        assert record.about(key) == []
        assert mutex.lease is lease
        assert lease.valid
    assert lease.state is LeaseState.RELEASED


@one_version
async def test_acquiring_a_handle_twice_at_once_is_a_runtime_error_or_done_once(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(max_retry=3)
    for _ in range(10):
        mutex = await api.mutex(resource, 30)
        results = await asyncio.gather(*(api.run(mutex.acquire) for _ in range(4)), return_exceptions=True)
        assert results.count(True) == 1
        assert all(r is True or r is False or type(r) is RuntimeError for r in results)
        await api.run(mutex.release)
        await everywhere(lambda: servers.values(key), None)


@one_version
async def test_release_or_extend_without_acquire_is_not_held(
    api: Api, servers: ServerGroup, resource: str, key: bytes
) -> None:
    mutex = await api.mutex(resource, 30)
    other = await api.held(resource)
    with recorded(servers) as record:
        for method in (mutex.release, mutex.extend):
            with pytest.raises(NotHeld):
                await api.run(method)
        with pytest.raises(NotHeld):
            await api.run(mutex.extend, 5)
    assert record.about(key) == []
    assert other.valid


@one_version
async def test_release_twice_is_not_held(api: Api, resource: str) -> None:
    mutex = await api.mutex(resource, 30)
    await api.run(mutex.acquire)
    await api.run(mutex.release)
    with pytest.raises(NotHeld):
        await api.run(mutex.release)


class TestContention:
    @two_versions
    async def test_acquire_not_blocking_is_false_after_one_attempt(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"somebody", servers.everyone)
        mutex = await api.mutex(resource, 30, wait=None)
        with recorded(servers) as record:
            assert await api.run(mutex.acquire, False) is False
            assert await api.run(mutex.acquire, blocking=False) is False
            assert await api.run(mutex.acquire, timeout=0) is False
        assert len(record.attempts(key)) == 3 * servers.size
        assert mutex.lease is None
        assert not mutex.locked()
        with pytest.raises(NotHeld):
            await api.run(mutex.release)

    @one_version
    async def test_acquire_with_a_timeout_is_false_when_it_has_passed(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"somebody", servers.everyone)
        mutex = await api.mutex(resource, 30, wait=None)
        begun = time.monotonic()
        assert await api.run(mutex.acquire, True, 0.1) is False
        assert await api.run(mutex.acquire, timeout=0.1) is False
        assert 0.15 <= time.monotonic() - begun < 2.2

    @one_version
    @pytest.mark.parametrize("named", [{}, {"timeout": None}, {"blocking": True}], ids=repr)
    async def test_acquire_without_a_timeout_waits_as_the_handle_was_made(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, named: Any
    ) -> None:
        api = await make(max_retry=2)
        servers.put(key, b"somebody", servers.everyone)
        for wait, attempts in ((0, (1,)), (None, (2, 3))):  # two where the pauses pass while it joins the queue
            mutex = await (api.mutex(resource, 30, wait=wait) if wait == 0 else api.mutex(resource, 30))
            with recorded(servers) as record:
                assert await api.run(mutex.acquire, **named) is False
            assert len(record.attempts(key)) // servers.size in attempts

    @one_version
    @pytest.mark.parametrize("how", ["-1", "made for ever"])
    async def test_acquire_for_ever_gets_what_is_released(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, how: str
    ) -> None:
        lease = await api.held(resource)
        mutex = await api.mutex(resource, 30, wait=0 if how == "-1" else None)
        waiting = asyncio.ensure_future(api.run(mutex.acquire, timeout=-1 if how == "-1" else None))
        await api.waits()
        assert not waiting.done()
        await api.unlock(resource, lease)
        assert await within(5, waiting) is True
        await api.run(mutex.release)

    @one_version
    @pytest.mark.parametrize(
        ("blocking", "timeout"),
        [(False, 1), (False, 0), (True, -2), (True, -0.5), (True, math.nan), (True, 10**400), (True, -(10**400))],
        ids=lambda value: repr(value)[:8],
    )
    async def test_arguments_that_contradict_are_a_value_error(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, blocking: bool, timeout: float
    ) -> None:
        """As of `threading.Lock`: a timeout for a call that does not block, a negative one other than -1."""
        mutex = await api.mutex(resource, 30)
        with recorded(servers) as record, pytest.raises((ValueError, OverflowError)):
            await api.run(mutex.acquire, blocking, timeout)
        assert record.about(key) == []
        assert not mutex.locked()

    @two_versions
    async def test_with_raises_contended_and_runs_no_body(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"somebody", servers.everyone)
        mutex = await api.mutex(resource, 30, wait=0)
        with pytest.raises(Contended) as caught:
            async with api.entered(mutex):
                raise AssertionError("inside")
        assert caught.value.resource == resource
        assert tuple(vote.server for vote in caught.value.votes) == servers.names
        assert mutex.lease is None
        assert servers.values(key) == [b"somebody"] * servers.size

    @two_versions
    async def test_outage_raises_quorum_unavailable(self, api: Api, servers: ServerGroup, resource: str) -> None:
        with servers.out_of_memory(servers.everyone):
            mutex = await api.mutex(resource, 30, wait=0)
            for call in (mutex.acquire, lambda: mutex.acquire(False), lambda: mutex.acquire(timeout=0.05)):
                with pytest.raises(QuorumUnavailable):
                    await api.run(call)
            with pytest.raises(QuorumUnavailable):
                async with api.entered(mutex):
                    raise AssertionError("inside")
        assert await api.run(mutex.acquire)


class TestLoss:
    @two_versions
    async def test_leaving_after_the_lease_ran_out_raises_lease_lost_and_cleans_up(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        mutex = await api.mutex(resource, 10)
        with pytest.raises(LeaseLost):
            async with api.entered(mutex) as lease:
                await eventually(lambda: not lease.valid)
                assert not mutex.locked()
        assert lease.state is LeaseState.LOST
        await everywhere(lambda: servers.values(key), None)

    @two_versions
    async def test_leaving_after_the_keys_were_taken_raises_lease_lost(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        mutex = await api.mutex(resource, 30)
        with pytest.raises(LeaseLost):
            async with api.entered(mutex) as lease:
                await everywhere(lambda: servers.values(key), lease.token.encode())
                servers.put(key, b"thief", servers.everyone)
        assert servers.values(key) == [b"thief"] * servers.size

    @two_versions
    async def test_error_of_the_body_wins_over_the_loss_which_is_logged(
        self,
        make: Make,
        servers: ServerGroup,
        resource: str,
        key: bytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        api = await make(**SHORT_LIVED)
        error = BodyError("of the body")
        with pytest.raises(BodyError) as caught, caplog.at_level(logging.WARNING):
            async with api.entered(await api.mutex(resource, 10)) as lease:
                await eventually(lambda: not lease.valid)
                raise error
        assert caught.value is error
        assert error.__cause__ is None
        assert [r for r in caplog.records if resource in r.getMessage() and r.levelno == logging.WARNING]
        await everywhere(lambda: servers.values(key), None)

    @one_version
    async def test_handle_whose_lease_was_lost_can_be_used_again(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        mutex = await api.mutex(resource, 10)
        with pytest.raises(LeaseLost):
            async with api.entered(mutex) as lease:
                await eventually(lambda: not lease.valid)
        async with api.entered(mutex) as second:
            assert second.valid
            assert second.token != lease.token

    @one_version
    async def test_release_of_a_lost_lease_raises_lease_lost(self, make: Make, resource: str) -> None:
        api = await make(**SHORT_LIVED)
        mutex = await api.mutex(resource, 10)
        await api.run(mutex.acquire)
        lease = mutex.lease
        await eventually(lambda: not lease.valid)
        with pytest.raises(LeaseLost):
            await api.run(mutex.extend, 20)
        with pytest.raises(LeaseLost):
            await api.run(mutex.release)

    @one_version
    async def test_leaving_without_a_quorum_is_logged_and_made_up_for(
        self,
        make: Make,
        servers: ServerGroup,
        resource: str,
        key: bytes,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        api = await make(server_timeout=80)
        mutex = await api.mutex(resource, 30)
        with contextlib.ExitStack() as stack, caplog.at_level(logging.WARNING):
            async with api.entered(mutex) as lease:
                await everywhere(lambda: servers.values(key), lease.token.encode())
                stack.enter_context(servers.paused(servers.majority))
            assert not lease.valid
        assert [r for r in caplog.records if resource in r.getMessage() and r.levelno == logging.WARNING]
        await everywhere(lambda: servers.values(key), None)


class TestBody:
    @two_versions
    @pytest.mark.parametrize("error", [BodyError("x"), KeyboardInterrupt(), SystemExit(3), GeneratorExit()], ids=repr)
    async def test_error_of_the_body_passes_and_releases(
        self, api: Api, servers: ServerGroup, resource: str, error: BaseException
    ) -> None:
        mutex = await api.mutex(resource, 30)
        caught: BaseException | None = None
        try:
            async with api.entered(mutex) as lease:
                raise error
        except BaseException as raised:
            caught = raised
        assert caught is error
        assert lease.state is LeaseState.RELEASED
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    @pytest.mark.parametrize("how", ["handle", "lease", "supervisor"])
    async def test_release_inside_the_body_is_fine(
        self, api: Api, servers: ServerGroup, resource: str, how: str
    ) -> None:
        mutex = await api.mutex(resource, 30)
        async with api.entered(mutex) as lease:
            if how == "supervisor":
                assert await api.unlock(resource, lease) == Ok(None)
            else:
                await api.run(mutex.release if how == "handle" else lease.release)
            assert not mutex.locked()
        await everywhere(lambda: servers.keys(resource), set())

    @two_versions
    async def test_release_by_bare_token_inside_the_body_is_a_release_to_the_handle(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        mutex = await api.mutex(resource, 30)
        async with api.entered(mutex) as lease:
            assert await api.unlock(resource, lease.token) == Ok(None)
            assert not mutex.locked()
        assert lease.state is LeaseState.RELEASED
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_supervisor_closed_and_started_inside_the_body_still_releases(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make()
        mutex = await api.mutex(resource, 30)
        async with api.entered(mutex) as lease:
            await api.close()
            await api.start()
            await api.run(mutex.extend, 60)
            assert 50 < lease.remaining < 60
        assert (mutex.locked(), lease.state) == (False, LeaseState.RELEASED)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_release_inside_the_body_leaves_the_next_holder_alone(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            await api.run(lease.release)
            other = await api.held(resource, wait=0)
            await everywhere(lambda: servers.values(key), other.token.encode())
        assert servers.values(key) == [other.token.encode()] * servers.size
        assert other.valid

    @two_versions
    @pytest.mark.parametrize("ttl", [60, timedelta(minutes=1)], ids=repr)
    async def test_extend_gives_the_lease_a_new_ttl(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, ttl: Any
    ) -> None:
        mutex = await api.mutex(resource, 10)
        async with api.entered(mutex) as lease:
            await everywhere(lambda: servers.values(key), lease.token.encode())
            await api.run(mutex.extend, ttl)
            assert 50 < lease.remaining < 60 * 0.99
            await eventually(lambda: all(50_000 < pttl <= 60_000 for pttl in servers.ttls_ms(key)))
            await api.run(mutex.extend)
            assert lease.ttl == 60.0

    @one_version
    async def test_locked_asks_no_server(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        mutex = await api.mutex(resource, 30)
        await api.run(mutex.acquire)
        await everywhere(lambda: servers.values(key), mutex.lease.token.encode())
        with recorded(servers) as record:
            servers.put(key, b"thief", servers.everyone)
            assert mutex.locked()
        assert {c.name for c in record.about(key)} == {"SET"}
        assert len(record.about(key)) == servers.size


@pytest.mark.parametrize("face", ["asyncio"], indirect=True)
@one_version
class TestCancellation:
    async def test_cancelled_body_releases(self, api: Api, servers: ServerGroup, resource: str, key: bytes) -> None:
        entered = asyncio.Event()

        async def use() -> None:
            async with api.entered(await api.mutex(resource, 30)):
                entered.set()
                await asyncio.sleep(60)  # a body that is under way when it is cancelled

        task = asyncio.ensure_future(use())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await everywhere(lambda: servers.keys(resource), set())

    async def test_cancelled_again_while_leaving_releases_still(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for turns in range(12):
            entered = asyncio.Event()

            async def use(entered: asyncio.Event = entered) -> None:
                async with api.entered(await api.mutex(resource, 30)):
                    entered.set()
                    await asyncio.sleep(60)  # a body that is under way when it is cancelled

            task = asyncio.ensure_future(use())
            await entered.wait()
            task.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await everywhere(lambda: servers.keys(resource), set())

    async def test_timeout_around_a_waiting_with_leaves_nothing(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        servers.put(key, b"somebody", servers.everyone)
        mutex = await api.mutex(resource, 30, wait=None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.08), api.entered(mutex):
                raise AssertionError("inside")
        assert not mutex.locked()
        servers.delete(key)
        assert await api.run(mutex.acquire, False)
        await api.run(mutex.release)
        await everywhere(lambda: servers.keys(resource), set())
