"""Leases that are lost: who is told, when, what of, and what ends with them."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any, Final

import pytest

from redlock_cluster import Err, LeaseLost, LeaseState, LossReason, NotHeld, Ok

from .adapter import AnyLease, Api, eventually, everywhere, passes, within
from .conftest import Make
from .servers import ServerGroup, in_each_mode

two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
in_asyncio = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
in_sync = pytest.mark.parametrize("face", ["sync"], indirect=True)

# A ttl of 10 s of which this client believes 0.1 s.
SHORT_LIVED: Final[dict[str, Any]] = {"ttl": "10s", "drift_factor": 0.99}


def take_over(servers: ServerGroup, key: bytes) -> None:
    servers.put(key, b"thief", servers.majority)


async def vanish(api: Api, servers: ServerGroup, key: bytes, lease: AnyLease) -> None:
    """The key is deleted on every server; again, as long as it is healed faster than that is done."""

    def lost() -> bool:
        servers.delete(key)
        return lease.lost.is_set()

    await eventually(lost)


class Calls:
    """An `on_lost` that notes what it is called with, and in which thread."""

    def __init__(self) -> None:
        self.made: list[tuple[Any, LossReason, threading.Thread]] = []

    def __call__(self, lease: AnyLease, reason: LossReason) -> None:
        self.made.append((lease, reason, threading.current_thread()))


class TestTold:
    async def test_lease_that_was_taken_over_is_told_within_a_second(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api, calls = await make(), Calls()
        lease = await api.held(resource, None, on_lost=calls)
        waiting = asyncio.ensure_future(api.event(lease.lost))
        await everywhere(lambda: servers.values(key), lease.token.encode())
        assert (lease.lost.is_set(), bool(lease.lost), bool(lease.doubtful)) == (False, False, False)
        lease.raise_if_lost()
        take_over(servers, key)
        begun = time.monotonic()
        assert await waiting is True
        assert time.monotonic() - begun < 1
        assert (lease.lost.is_set(), bool(lease.lost), bool(lease.doubtful)) == (True, True, True)
        assert (lease.state, lease.valid, lease.spare) == (LeaseState.LOST, False, 0)
        with pytest.raises(LeaseLost, match="a quorum of its servers does not hold it any more") as caught:
            lease.raise_if_lost()
        assert (caught.value.reason, caught.value.resource) == (LossReason.GONE, resource)
        await eventually(lambda: calls.made)
        ((told, reason, _),) = calls.made
        assert told is lease
        assert reason is LossReason.GONE
        assert await api.event(lease.lost) is True  # whoever asks later is told at once
        assert set(servers.values(key)[servers.quorum :]) <= {lease.token.encode()}  # until its user releases it
        assert await api.unlock(resource, lease) == Err("not_held")
        await everywhere(lambda: servers.values(key)[servers.quorum :], None)
        servers.delete(key)

    @two_versions
    async def test_lease_whose_key_was_deleted_is_told(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api, calls = await make(), Calls()
        lease = await api.held(resource, None, on_lost=calls)
        await vanish(api, servers, key, lease)
        await eventually(lambda: [made[:2] for made in calls.made] == [(lease, LossReason.GONE)])

    @in_each_mode("valkey-9", "redis-6")
    async def test_lease_that_is_not_extended_tells_its_end(self, make: Make, resource: str) -> None:
        api, calls = await make(**SHORT_LIVED), Calls()
        lease = await api.held(resource, 10, on_lost=calls)
        assert await api.event(lease.lost) is True
        assert lease.state is LeaseState.LOST
        with pytest.raises(LeaseLost, match="it expired") as caught:
            lease.raise_if_lost()
        assert caught.value.reason is LossReason.EXPIRED
        await eventually(lambda: [made[:2] for made in calls.made] == [(lease, LossReason.EXPIRED)])

    @one_version
    async def test_on_lost_is_told_of_a_lease_that_was_dropped_and_not_extended(
        self, make: Make, resource: str
    ) -> None:
        api, calls = await make(**SHORT_LIVED), Calls()
        assert (await api.lock(resource, 10, on_lost=calls)).__class__ is Ok
        await eventually(lambda: calls.made)
        assert calls.made[0][0].resource == resource

    @in_each_mode("valkey-9", "redis-6")
    async def test_lease_in_doubt_is_told_and_told_when_it_is_held_again(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api, calls = await make(ttl=3000, server_timeout=80), Calls()
        lease = await api.held(resource, None, on_lost=calls)
        with servers.paused(servers.majority):
            assert await api.event(lease.doubtful) is True
            assert (lease.doubtful.is_set(), bool(lease.doubtful), bool(lease.lost)) == (True, True, False)
            assert (lease.state, lease.valid) == (LeaseState.UNKNOWN, True)
        await eventually(lambda: not lease.doubtful)
        assert (lease.state, lease.valid, lease.lost.is_set()) == (LeaseState.HELD, True, False)
        assert await api.unlock(resource, lease) == Ok(None)
        assert calls.made == []

    @in_each_mode("valkey-9", "redis-6")
    @pytest.mark.parametrize("how", ["release", "detach"])
    async def test_nothing_is_told_of_a_lease_that_was_given_back(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, how: str
    ) -> None:
        api, calls = await make(), Calls()
        lease = await api.held(resource, None, on_lost=calls)
        waiting = [asyncio.ensure_future(api.event(event)) for event in (lease.lost, lease.doubtful)]
        if api.face == "sync":
            await passes(0.05)  # else it may be over before anybody waits
        await asyncio.sleep(0)
        await api.run(getattr(lease, how))
        assert [await each for each in waiting] == [False, False]
        assert not lease.lost
        assert not lease.doubtful
        assert await api.event(lease.lost) is False
        lease.raise_if_lost()
        take_over(servers, key)
        await api.status()
        assert calls.made == []
        servers.delete(key)

    @one_version
    @in_sync
    async def test_waiting_has_a_limit(self, api: Api, resource: str) -> None:
        lease: Any = await api.held(resource, 30)
        for event in (lease.lost, lease.doubtful):
            begun = time.monotonic()
            assert await api.run(event.wait, 0.05) is False
            assert 0.05 <= time.monotonic() - begun < 5
            assert await api.run(event.wait, 0) is False
            with pytest.raises(TypeError, match="timeout is a number of seconds"):
                await api.run(event.wait, "1")
        await api.run(lease.release)

    @one_version
    async def test_end_is_told_of_a_lease_whose_supervisor_was_closed(self, make: Make, resource: str) -> None:
        api = await make(**SHORT_LIVED)
        lease = await api.held(resource, 10)
        waiting = asyncio.ensure_future(api.event(lease.lost))
        await asyncio.sleep(0)
        await api.close()
        assert await waiting is True


class TestOnLost:
    @one_version
    @in_sync
    async def test_it_runs_in_one_thread_of_its_own_and_may_lock(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(**SHORT_LIVED)
        locked: list[Any] = []
        threads: list[threading.Thread] = []

        def lock_again(lease: Any, reason: LossReason) -> None:
            threads.append(threading.current_thread())
            locked.append(api.supervisor.lock(f"{lease.resource}-again", 10, wait=0))

        for index in range(2):
            await api.held(f"{resource}-{index}", 10, on_lost=lock_again)
        await eventually(lambda: len(locked) == 2)
        assert len(set(threads)) == 1
        assert threads[0].daemon
        assert threads[0].name != "redlock-cluster", "the thread of the loop"
        assert all(isinstance(result, Ok) for result in locked)

    @one_version
    @in_sync
    async def test_what_it_raises_is_logged_and_the_next_one_is_called(
        self, make: Make, resource: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        api, calls = await make(**SHORT_LIVED), Calls()

        def fail(lease: Any, reason: LossReason) -> None:
            raise SystemExit("the thread must go on")

        await api.held(f"{resource}-1", 10, on_lost=fail)
        await api.held(f"{resource}-2", 10, on_lost=calls)
        await eventually(lambda: calls.made)
        assert [r.exc_info[0] for r in caplog.records if r.exc_info] == [SystemExit]

    @one_version
    @in_asyncio
    async def test_what_it_raises_goes_to_the_loops_handler(self, make: Make, resource: str) -> None:
        api = await make(**SHORT_LIVED)
        heard: list[Any] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: heard.append(context["exception"]))
        error = ValueError("mine")

        def fail(lease: Any, reason: LossReason) -> None:
            assert threading.current_thread() is threading.main_thread()
            raise error

        await api.held(resource, 10, on_lost=fail)
        await eventually(lambda: heard)
        assert heard == [error]

    @one_version
    async def test_handle_takes_it_too(self, make: Make, resource: str) -> None:
        api, calls = await make(**SHORT_LIVED), Calls()
        with pytest.raises(LeaseLost):
            async with api.entered(await api.mutex(resource, 10, on_lost=calls)) as lease:
                await eventually(lambda: calls.made)
        assert [made[:2] for made in calls.made] == [(lease, LossReason.EXPIRED)]


class TestBody:
    @two_versions
    @in_sync
    async def test_body_is_not_interrupted_and_with_raises(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        mutex, done = await api.mutex(resource, None), False
        with pytest.raises(LeaseLost) as caught:
            async with api.entered(mutex) as lease:
                take_over(servers, key)
                assert await api.event(lease.lost) is True
                done = True
        assert done
        assert caught.value.reason is LossReason.GONE
        await everywhere(lambda: servers.values(key)[servers.quorum :], None)
        servers.delete(key)

    @two_versions
    @in_asyncio
    async def test_body_is_cancelled_and_async_with_raises(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api, told = await make(), []
        with pytest.raises(LeaseLost, match="does not hold it any more") as caught:
            async with api.supervisor.mutex(resource) as lease:
                take_over(servers, key)
                try:
                    await passes(8)
                except asyncio.CancelledError:
                    told.append(lease.state)  # it may clean up
                    raise
        assert told == [LeaseState.LOST]
        assert caught.value.reason is LossReason.GONE
        assert type(caught.value.__cause__) is asyncio.CancelledError
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        await everywhere(lambda: servers.values(key)[servers.quorum :], None)
        servers.delete(key)

    @one_version
    async def test_handle_that_acquires_anew_does_not_wait_for_its_own_token(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        mutex = await api.mutex(resource, 60)
        assert await api.run(mutex.acquire)
        await everywhere(lambda: servers.values(key), mutex.lease.token.encode())
        take_over(servers, key)
        with pytest.raises(LeaseLost):
            await api.run(mutex.extend)
        servers.delete(key, range(1))  # of three, one has its token still, and one the thief's
        assert await api.run(mutex.acquire, True, 8)
        await api.run(mutex.release)
        servers.delete(key)

    @one_version
    @in_asyncio
    @pytest.mark.parametrize(
        ("ttl", "named", "cancelled"),
        [
            (10, {}, False),
            (10, {"cancel_on_loss": True}, True),
            (10, {"auto_extend": True, "max_hold": 0.1}, True),
            (10, {"auto_extend": True, "max_hold": 0.1, "cancel_on_loss": False}, False),
            (None, {"auto_extend": False}, False),
        ],
    )
    async def test_body_is_cancelled_if_asked_for_and_by_default_if_the_lease_extends_itself(
        self, make: Make, resource: str, ttl: Any, named: dict[str, Any], cancelled: bool
    ) -> None:
        api = await make(**SHORT_LIVED)
        ended = False
        with pytest.raises(LeaseLost):
            async with api.supervisor.mutex(resource, ttl, **named) as lease:
                assert await lease.lost.wait()
                ended = True
        assert ended is not cancelled

    @one_version
    @in_asyncio
    async def test_transaction_whose_function_was_cancelled_raises(
        self, make: Make, resource: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        api = await make(ttl=600)
        cancelled: list[bool] = []

        async def work() -> str:
            try:
                await passes(8)
            except asyncio.CancelledError:
                cancelled.append(True)
                raise
            return "done"

        with pytest.raises(LeaseLost) as caught:
            await within(4, api.transaction(resource, None, work, max_hold=0.1))
        assert cancelled == [True]
        assert caught.value.reason is LossReason.MAX_HOLD
        warned = [r.name for r in caplog.records if r.levelno == logging.WARNING]
        assert warned == ["redlock_cluster.engine.watchdog"], "told once"

    @one_version
    async def test_transaction_of_a_plain_function_logs(
        self, make: Make, resource: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        api = await make(ttl=600)

        def work() -> str:
            time.sleep(0.2)
            return "done"

        assert await api.transaction(resource, None, work, max_hold=0.1) == "done"
        assert [r for r in caplog.records if r.levelno == logging.WARNING and "max_hold" in r.getMessage()]

    @one_version
    async def test_lease_of_the_transaction_is_refused_to_others_meanwhile(self, make: Make, resource: str) -> None:
        api, other = await make(ttl=600), await make()
        async with api.entered(await api.mutex(resource, None)):
            assert await other.transaction(resource, None, lambda: 1, wait=0) == Err("lock_failure")


@one_version
async def test_lease_that_was_released_is_not_held_rather_than_lost(api: Api, resource: str) -> None:
    lease = await api.held(resource, None)
    await api.run(lease.release)
    with pytest.raises(NotHeld, match="released"):
        await api.run(lease.release)
    assert not lease.lost
