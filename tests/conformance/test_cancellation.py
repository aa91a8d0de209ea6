"""Calls given up halfway: whatever was granted is taken back, by the engine and not by the caller."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redlock_cluster import Err, Ok, Supervisor

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .monitor import recorded
from .servers import PREFIX, ServerGroup, in_each_mode

asyncio_only = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
two_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6"], indirect=True)


RETRIES = 6
"""So many retry intervals pass while a call that began later is refused: time for anything forgotten to come back."""


@contextmanager
def somebodys(servers: ServerGroup) -> Iterator[str]:
    """A resource that somebody else holds."""
    name = f"somebodys-{uuid.uuid4().hex}"
    servers.put(PREFIX + name.encode(), b"somebody", servers.everyone)
    yield name
    servers.delete(PREFIX + name.encode())


@asyncio_only
class TestCancelledTask:
    @in_each_mode("redis-6", "mixed-of-five", "valkey-9")
    async def test_lock_cancelled_at_any_turn_leaves_nothing(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        won = 0
        for turns in range(40):
            name = f"{resource}-{turns}"
            attempt = asyncio.ensure_future(api.lock(name, 30, wait=0))
            for _ in range(turns % 20):
                await asyncio.sleep(0)
            attempt.cancel()
            try:
                result = await attempt
            except asyncio.CancelledError:
                continue
            won += 1
            assert isinstance(result, Ok)
            await api.unlock(name, result.value)
        await everywhere(lambda: servers.keys(resource), set())

    @in_each_mode("valkey-9", "redis-6")
    async def test_lock_cancelled_in_the_turn_of_its_grant_leaves_nothing(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        """Cancel as soon as a quorum of servers shows the key: the verdict and the cancellation meet."""
        for number in range(25):
            name = f"{resource}-{number}"
            attempt = asyncio.ensure_future(api.lock(name, 30, wait=0))
            await asyncio.sleep(0)
            while not attempt.done() and sum(map(bool, servers.keys(name))) < servers.quorum:
                await asyncio.sleep(0)
            attempt.cancel()
            try:
                result: Any = await attempt
                await api.unlock(name, result.value)
            except asyncio.CancelledError:
                pass
        await everywhere(lambda: servers.keys(resource), set())

    @in_each_mode("valkey-9", "redis-6")
    async def test_waiting_lock_cancelled_leaves_nothing_and_never_comes_back(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make(max_retry=RETRIES)
        servers.put(key, b"somebody", servers.everyone)
        waiting = [asyncio.ensure_future(api.lock(resource, 30, wait=None)) for _ in range(5)]
        await api.waits(len(waiting))
        await eventually(lambda: all(key + b":redlock:expiry" in keys for keys in servers.keys(resource)))
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        await everywhere(lambda: servers.keys(resource), {key})
        servers.delete(key)
        with somebodys(servers) as other, recorded(servers) as record:
            assert await api.lock(other, 30) == Err("lock_failure")
        assert record.about(key) == []
        assert servers.keys(resource) == [set()] * servers.size
        assert await api.lock(resource, 30, wait=0)

    @in_each_mode("valkey-9", "redis-6")
    async def test_lock_cancelled_while_servers_are_silent_leaves_nothing(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = await make(server_timeout=5000)
        with recorded(servers) as record, servers.paused(servers.everyone):
            waiting = [asyncio.ensure_future(api.lock(f"{resource}-{n}", 30)) for n in range(5)]
            for _ in range(5):  # what is sent in one turn of the loop is written at its end
                await asyncio.sleep(0)
            for task in waiting:
                task.cancel()
            await asyncio.wait(waiting, timeout=1)
            assert all(task.cancelled() for task in waiting)
        assert len(record.attempts(resource.encode())) == len(waiting) * servers.size
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_timeout_around_a_lock_leaves_nothing(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make(server_timeout=5000)
        with servers.paused(servers.majority), pytest.raises(TimeoutError):
            await asyncio.wait_for(api.lock(resource, 30, wait=None), 0.05)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_unlock_cancelled_at_any_turn_releases_or_leaves_the_lease(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        for turns in range(16):
            name = f"{resource}-{turns}"
            lease = await api.held(name)
            release = asyncio.ensure_future(api.unlock(name, lease))
            for _ in range(turns):
                await asyncio.sleep(0)
            release.cancel()
            await asyncio.wait([release])
            if turns:
                await everywhere(partial(servers.keys, name), set())
            else:
                await api.unlock(name, lease)

    @one_version
    async def test_extend_cancelled_at_any_turn_leaves_a_lease_that_can_be_used(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        lease = await api.held(resource, 30)
        for turns in range(16):
            round_ = asyncio.ensure_future(api.extend(resource, lease, 30))
            for _ in range(turns):
                await asyncio.sleep(0)
            round_.cancel()
            await asyncio.wait([round_])
            assert lease.valid
        assert await within(5, api.extend(resource, lease, 40))
        assert 30 < lease.remaining < 40
        assert await api.unlock(resource, lease) == Ok(None)
        await everywhere(lambda: servers.keys(resource), set())


class Interrupt(BaseException):
    pass


@one_version
class TestInterruptedThread:
    """What a signal handler raises in the main thread reaches it inside a synchronous call."""

    @pytest.fixture(autouse=True)
    def alarm(self) -> object:
        def interrupt(*_: object) -> None:
            raise Interrupt

        before = signal.signal(signal.SIGALRM, interrupt)
        yield
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    def test_waiting_lock_interrupted_never_comes_back(self, servers: ServerGroup, resource: str, key: bytes) -> None:
        servers.put(key, b"somebody", servers.everyone)
        with Supervisor(servers.options(max_retry=RETRIES)) as supervisor:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Interrupt):
                supervisor.lock(resource, 30, wait=None)
            servers.delete(key)
            with somebodys(servers) as other:
                assert supervisor.lock(other, 30, wait=0) == Err("lock_failure")  # the loop has heard of it before
                with recorded(servers) as record:
                    assert supervisor.lock(other, 30) == Err("lock_failure")
            assert record.about(key) == []
            assert servers.keys(resource) == [set()] * servers.size
            assert supervisor.lock(resource, 30, wait=0)

    def test_lock_interrupted_while_servers_are_silent_leaves_nothing(
        self, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        with Supervisor(servers.options(server_timeout=5000)) as supervisor:
            with servers.paused(servers.everyone):
                signal.setitimer(signal.ITIMER_REAL, 0.05)
                with pytest.raises(Interrupt):
                    supervisor.lock(resource, 30, wait=0)
            asyncio.run(everywhere(lambda: servers.keys(resource), set()))

    @pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised inside a callback
    def test_lock_interrupted_at_any_time_leaves_nothing(self, servers: ServerGroup, resource: str) -> None:
        interrupted = 0
        with Supervisor(servers.options()) as supervisor:
            for number in range(60):
                name = f"{resource}-{number}"
                result: Any = None
                try:
                    signal.setitimer(signal.ITIMER_REAL, 0.0001 + 0.00003 * (number % 30))
                    for _ in range(50):  # several, so that some are hit inside
                        result = None
                        result = supervisor.lock(name, 30, wait=0)
                        supervisor.unlock(name, result.value)
                except Interrupt:
                    interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                if result:
                    supervisor.unlock(name, result.value)
            assert interrupted
            asyncio.run(everywhere(lambda: servers.keys(resource), set()))

    def test_body_interrupted_releases(self, servers: ServerGroup, resource: str) -> None:
        with Supervisor(servers.options()) as supervisor:
            with pytest.raises(Interrupt), supervisor.mutex(resource, 30):
                signal.setitimer(signal.ITIMER_REAL, 0.01)
                threading.Event().wait(10)
            asyncio.run(everywhere(lambda: servers.keys(resource), set()))


@one_version
def test_keyboard_interrupt_of_a_process_leaves_nothing(
    servers: ServerGroup, resource: str, key: bytes, options_file: Callable[..., Path]
) -> None:
    code = """
        import sys
        from redlock_cluster import Redlock

        try:
            with Redlock.mutex(sys.argv[1], 30, wait=None):
                print("inside", flush=True)
                with Redlock.mutex(sys.argv[2], 30, wait=None):
                    print("never", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
        """
    servers.put(key + b"-2", b"somebody", servers.everyone)
    arguments = [sys.executable, "-c", textwrap.dedent(code), resource + "-1", resource + "-2"]
    environment = {**os.environ, "REDLOCK_OPTIONS": str(options_file(servers.options()))}
    with (
        recorded(servers) as record,
        subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process,
    ):
        try:
            assert process.stdout
            assert process.stdout.readline() == "inside\n"
            record.wait(key + b"-2", 2)
            process.send_signal(signal.SIGINT)
            assert process.stdout.read() == "interrupted\n"
            assert process.wait(10) == 0
        finally:
            process.kill()
    servers.delete(key + b"-2")
    assert servers.keys(resource) == [set()] * servers.size


@one_version
async def test_policy_that_ends_an_acquisition_leaves_nothing(
    make: Make, servers: ServerGroup, resource: str, key: bytes
) -> None:
    api = await make(max_retry=2, retry_interval=4)
    for index in servers.majority:
        servers.put(key, f"holder {index}".encode(), [index])
    calls = [api.lock(resource, 30, wait=wait) for wait in (0, 0.03, 0.08)] + [api.lock(resource, 30)]
    assert await within(10, asyncio.gather(*calls)) == [Err("lock_failure")] * 4
    await eventually(lambda: servers.values(key)[servers.quorum :] == [None] * (servers.size - servers.quorum))
