"""The life of supervisors: start, close, loops, threads, the process-wide defaults."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from redlock_cluster import (
    AsyncRedlock,
    AsyncSupervisor,
    ClosedError,
    Err,
    NotHeld,
    Ok,
    OptionsError,
    Redlock,
    Supervisor,
)

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup

one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
some_groups = pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "mixed-of-five"], indirect=True)

WriteOptions = Callable[..., Path]


def run_script(code: str, *arguments: object, **environment: str) -> str:
    """What a Python program of its own prints; it fails on an exception and on every warning."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def held(result: object) -> Any:
    """The lease; the test fails without one."""
    assert isinstance(result, Ok), result
    return result.value


def clients(servers: ServerGroup) -> int:
    """Connections to the first server."""
    return len(servers.clients[0].client_list())


class TestStart:
    @some_groups
    async def test_lock_right_after_start_is_never_unavailable(self, make: Make, resource: str) -> None:
        for number in range(5):
            api = await make()
            assert await api.lock(f"{resource}-{number}", 30, wait=0)

    @some_groups
    async def test_first_call_starts(self, make: Make, resource: str) -> None:
        for number in range(5):
            api = await make(start=False)
            assert await api.lock(f"{resource}-{number}", 30, wait=0)

    @one_version
    async def test_first_calls_at_once_start_once(self, make: Make, servers: ServerGroup, resource: str) -> None:
        before = clients(servers)
        api = await make(start=False, pool_size=2)
        results = await asyncio.gather(*(api.lock(f"{resource}-{number}", 30, wait=0) for number in range(12)))
        assert all(results)
        assert clients(servers) == before + 2

    @one_version
    async def test_start_again_changes_nothing(self, make: Make, servers: ServerGroup) -> None:
        before = clients(servers)
        api = await make(pool_size=2)
        for _ in range(3):
            assert await api.run(api.supervisor.start) is api.supervisor
        assert clients(servers) == before + 2

    @one_version
    async def test_making_a_supervisor_connects_to_nothing(self, make: Make, servers: ServerGroup) -> None:
        before = clients(servers)
        await make(start=False)
        assert clients(servers) == before

    @one_version
    async def test_with_starts_and_closes(self, servers: ServerGroup, face: str, resource: str) -> None:
        before = clients(servers)
        kind: Any = AsyncSupervisor if face == "asyncio" else Supervisor
        api = Api(kind(servers.options()))
        async with api.entered(api.supervisor) as entered:
            assert entered is api.supervisor
            assert clients(servers) > before
            lease = await api.held(resource)
            assert await api.unlock(resource, lease) == Ok(None)
        await eventually(lambda: clients(servers) == before)
        with pytest.raises(ClosedError):
            await api.lock(resource)
        api.end_threads()


@one_version
class TestClose:
    async def test_calls_after_close_raise_closed_error(self, make: Make, servers: ServerGroup, resource: str) -> None:
        api = await make()
        lease = await api.held(resource)
        mutex = await api.mutex(resource + "-2")
        await api.close()
        for call in (
            lambda: api.lock(resource),
            lambda: api.lock(resource, wait=0),
            lambda: api.unlock(resource, lease),
            lambda: api.unlock(resource, lease.token),
            lambda: api.extend(resource, lease, 30),
            lambda: api.is_locked(resource),
            lambda: api.transaction(resource, 30, lambda: 1),
            lambda: api.run(lease.extend),
            lambda: api.run(lease.release),
            lambda: api.run(mutex.acquire),
        ):
            with pytest.raises(ClosedError):
                await call()

    async def test_close_twice_is_fine(self, make: Make) -> None:
        api = await make()
        await api.close()
        await api.close()

    async def test_supervisor_that_was_closed_while_it_started_starts_again(self, make: Make, resource: str) -> None:
        for _ in range(5):
            api = await make(start=False)
            await asyncio.gather(api.start(), api.close(), return_exceptions=True)
            await api.start()
            assert await api.lock(resource, 0.1, wait=5)

    async def test_close_before_start_is_fine(self, make: Make, resource: str) -> None:
        api = await make(start=False)
        await api.close()
        with pytest.raises(ClosedError):
            await api.lock(resource)

    async def test_close_leaves_held_leases_until_their_ttl(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        api = await make()
        lease = await api.held(resource, 0.5)
        await everywhere(lambda: servers.values(key), lease.token.encode())
        await api.close()
        assert servers.values(key) == [lease.token.encode()] * servers.size
        await everywhere(lambda: servers.values(key), None)

    async def test_lease_of_an_earlier_life_believes_what_its_extension_gives(self, make: Make, resource: str) -> None:
        api = await make()
        old = await api.held(resource, 60)
        await api.close()
        await api.start()
        new = held(await api.extend(resource, old, 5))
        assert new is not old
        believed, given = old.remaining, new.remaining
        assert 4 < given <= believed < 5
        assert await api.extend(resource, new, 60)
        assert old.remaining > 50
        ended = await api.held(f"{resource}-ended", 0.1)
        await api.close()
        await api.start()
        await eventually(lambda: not ended.valid)
        assert await api.extend(f"{resource}-ended", ended, 5) == Err("not_held")

    async def test_close_sends_what_was_released(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        for _ in range(5):
            api = await make()
            lease = await api.held(resource)
            assert await api.unlock(resource, lease) == Ok(None)
            await api.close()
            assert servers.values(key) == [None] * servers.size

    @pytest.mark.parametrize("wait", [None, 60], ids=repr)
    async def test_close_ends_waiting_calls(
        self, make: Make, servers: ServerGroup, resource: str, key: bytes, wait: Any
    ) -> None:
        api = await make()
        servers.put(key, b"somebody", servers.everyone)
        servers.put(key + b"-2", b"somebody", servers.everyone)
        mutex = await api.mutex(resource + "-2", 30, wait=wait)
        with recorded(servers) as record:
            waiting = [
                asyncio.ensure_future(api.lock(resource, 30, wait=wait)),
                asyncio.ensure_future(api.run(mutex.acquire)),
            ]
            for name in (key + b"-2", key):
                await record.attempted(name, 2)
        await within(5, api.close())
        for result in await within(5, asyncio.gather(*waiting, return_exceptions=True)):
            assert type(result) is ClosedError
        assert servers.values(key) == [b"somebody"] * servers.size

    async def test_close_beside_acquisitions_leaves_nothing_without_a_lease(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        for turns in range(6):
            api = await make()
            name = f"{resource}-{turns}"
            attempt = asyncio.ensure_future(api.lock(name, 30, wait=0))
            for _ in range(turns):
                await asyncio.sleep(0)
            await within(5, api.close())
            (result,) = await within(5, asyncio.gather(attempt, return_exceptions=True))
            if isinstance(result, Ok):

                def stays(name: str = name) -> bool:
                    return sum(map(bool, servers.keys(name))) >= servers.quorum

                await eventually(stays)
            else:
                assert type(result) is ClosedError or isinstance(result, Err)
                await everywhere(partial(servers.keys, name), set())

    async def test_close_closes_every_connection(self, make: Make, servers: ServerGroup) -> None:
        before = clients(servers)
        api = await make(pool_size=4)
        assert clients(servers) == before + 4
        await api.close()
        await eventually(lambda: clients(servers) == before)


@one_version
class TestDefault:
    @pytest.fixture(autouse=True)
    def closed(self) -> Iterator[None]:
        yield
        Redlock.close()

    def test_start_with_a_mapping_serves(self, servers: ServerGroup, resource: str) -> None:
        assert Redlock.start(servers.options()) is Redlock
        match Redlock.lock(resource, 10):
            case Ok(lease):
                assert Redlock.unlock(resource, lease) == Ok(None)
            case _:
                raise AssertionError
        with Redlock.mutex(resource, ttl=10, wait=5) as lease:
            assert lease.valid
        assert Redlock.transaction(resource, 10, lambda: 5) == 5

    def test_start_again_with_the_same_options_is_fine(self, servers: ServerGroup, options_file: WriteOptions) -> None:
        Redlock.start(servers.options())
        Redlock.start(servers.options())
        Redlock.start(options_file(servers.options()))

    def test_start_with_other_options_raises_and_changes_nothing(
        self, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        Redlock.start(servers.options())
        with pytest.raises(OptionsError):
            Redlock.start(servers.options(key_prefix="other:"))
        assert Redlock.lock(resource, 10)
        assert servers.keys(resource)[0] <= {key}

    def test_start_after_close_takes_any_options(self, servers: ServerGroup, resource: str) -> None:
        Redlock.start(servers.options())
        Redlock.close()
        Redlock.start(servers.options(key_prefix="other:"))
        assert Redlock.lock(resource, 10)
        assert {next(iter(keys)) for keys in servers.keys(resource) if keys} == {b"other:" + resource.encode()}

    def test_wrong_options_raise_and_right_ones_may_follow(self, servers: ServerGroup, resource: str) -> None:
        with pytest.raises(OptionsError):
            Redlock.start({"servers": []})
        Redlock.start(servers.options())
        assert Redlock.lock(resource, 10)

    def test_start_without_options_reads_the_environment(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDLOCK_OPTIONS", str(options_file(servers.options())))
        Redlock.start()
        assert Redlock.lock(resource, 10)

    def test_first_call_reads_the_environment(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        run_script(
            """
            import sys
            from redlock_cluster import Ok, Redlock
            lease = Redlock.lock(sys.argv[1], 10).value
            assert Redlock.unlock(sys.argv[1], lease) == Ok(None)
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )

    def test_first_calls_at_once_start_one_supervisor(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        before = clients(servers)
        printed = run_script(
            """
            import sys, threading, redis
            from concurrent.futures import ThreadPoolExecutor
            from redlock_cluster import Redlock

            barrier = threading.Barrier(12)

            def first(number):
                barrier.wait()
                return Redlock.lock(f"{sys.argv[1]}-{number}", 10, wait=0)

            with ThreadPoolExecutor(12) as threads:
                assert all(threads.map(first, range(12)))
            with redis.Redis("127.0.0.1", int(sys.argv[2])) as client:
                print(len(client.client_list()) - 1)
            """,
            resource,
            servers.embedded[0].port,
            REDLOCK_OPTIONS=str(options_file(servers.options(pool_size=3))),
        )
        assert int(printed) == before + 3

    @pytest.mark.parametrize(("options", "told"), [("", "REDLOCK_OPTIONS"), ("missing.yaml", "missing.yaml")])
    def test_first_call_without_a_file_is_an_options_error(
        self, servers: ServerGroup, resource: str, options: str, told: str
    ) -> None:
        printed = run_script(
            """
            import sys
            from redlock_cluster import OptionsError, Redlock
            for _ in range(2):
                try:
                    Redlock.lock(sys.argv[1], 10)
                except OptionsError as error:
                    print(error)
            """,
            resource,
            **({"REDLOCK_OPTIONS": options} if options else {}),
        )
        assert printed.count(told) == 2

    def test_close_before_start_is_fine(self, servers: ServerGroup) -> None:
        Redlock.close()
        Redlock.close()


@one_version
class TestAsyncDefault:
    async def _use(self, resource: str) -> None:
        async with AsyncRedlock.mutex(resource, ttl=10, wait=5) as lease:
            assert lease.valid
            assert await AsyncRedlock.lock(resource, 10, wait=0) == Err("lock_failure")

    def test_repeated_runs_work(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDLOCK_OPTIONS", str(options_file(servers.options())))
        before = clients(servers)

        async def main() -> None:
            await self._use(resource)
            await AsyncRedlock.close()

        for _ in range(5):
            asyncio.run(main())
        assert clients(servers) <= before + 2

    def test_runs_that_never_close_leave_neither_warnings_nor_connections(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        path = options_file(servers.options(pool_size=2))
        printed = run_script(
            """
            import asyncio, gc, sys, redis
            from redlock_cluster import AsyncRedlock

            async def main():
                async with AsyncRedlock.mutex(sys.argv[1], ttl=10, wait=5) as lease:
                    assert lease.valid

            with redis.Redis("127.0.0.1", int(sys.argv[2])) as client:
                before = len(client.client_list())
                for _ in range(6):
                    asyncio.run(main())
                    gc.collect()
                print(len(client.client_list()) - before)
            """,
            resource,
            servers.embedded[0].port,
            REDLOCK_OPTIONS=str(path),
        )
        assert int(printed) <= 2

    def test_loops_at_once_have_connections_of_their_own(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REDLOCK_OPTIONS", str(options_file(servers.options())))

        async def main() -> None:
            for _ in range(5):
                async with AsyncRedlock.mutex(resource, ttl=10, wait=None):
                    await asyncio.sleep(0)
            await AsyncRedlock.close()

        with ThreadPoolExecutor(3) as threads:
            for done in [threads.submit(asyncio.run, main()) for _ in range(3)]:
                done.result(20)

    async def test_start_with_other_options_raises(self, servers: ServerGroup, resource: str) -> None:
        await AsyncRedlock.start(servers.options())
        await AsyncRedlock.start(servers.options())
        with pytest.raises(OptionsError):
            await AsyncRedlock.start(servers.options(owner="else"))
        assert await AsyncRedlock.lock(resource, 10)
        await AsyncRedlock.close()
        await AsyncRedlock.start(servers.options(owner="else"))
        result: Any = await AsyncRedlock.lock(resource + "-2", 10)
        assert result.value.token.endswith("@else")
        await AsyncRedlock.close()

    async def test_no_options_at_all_is_an_options_error(self, servers: ServerGroup, resource: str) -> None:
        with pytest.raises(OptionsError, match="REDLOCK_OPTIONS"):
            await AsyncRedlock.lock(resource, 10)


@one_version
class TestLoops:
    def test_async_supervisor_in_a_foreign_loop_is_a_runtime_error(self, servers: ServerGroup, resource: str) -> None:
        supervisor = AsyncSupervisor(servers.options())
        with asyncio.Runner() as home, asyncio.Runner() as foreign:
            home.run(supervisor.start())
            lease = held(home.run(supervisor.lock(resource, 10)))
            for call in (
                lambda: supervisor.lock(resource, 10),
                lambda: supervisor.unlock(resource, lease),
                lambda: supervisor.unlock(resource, lease.token),
                lambda: supervisor.extend(resource, lease, 10),
                lambda: supervisor.is_locked(resource),
                lambda: supervisor.transaction(resource, 10, lambda: 1),
                lambda: supervisor.start(),
                lambda: lease.extend(),
                lambda: lease.release(),
            ):
                with pytest.raises(RuntimeError):
                    foreign.run(call())
            assert home.run(supervisor.unlock(resource, lease)) == Ok(None)
            home.run(supervisor.close())

    def test_async_supervisor_serves_a_uvloop(self, servers: ServerGroup, resource: str, key: bytes) -> None:
        uvloop = pytest.importorskip("uvloop", reason="uvloop does not exist on this system")

        async def main() -> None:
            async with AsyncSupervisor(servers.options()) as supervisor:
                async with supervisor.mutex(resource, 30) as lease:
                    await everywhere(lambda: servers.values(key), lease.token.encode())
                    assert await supervisor.lock(resource, 30) == Err("lock_failure")
                await everywhere(lambda: servers.values(key), None)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main())

    def test_supervisor_serves_threads_and_loops_alike(self, servers: ServerGroup, resource: str) -> None:
        with Supervisor(servers.options()) as supervisor, ThreadPoolExecutor(4) as threads:
            lease = held(supervisor.lock(resource, 10))
            assert threads.submit(supervisor.unlock, resource, lease).result(5) == Ok(None)
            assert all(threads.map(lambda number: supervisor.lock(f"{resource}-{number}", 10), range(20)))

    def test_sync_call_inside_a_running_loop_warns_once(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        printed = run_script(
            """
            import asyncio, sys, warnings
            from redlock_cluster import Redlock

            def use(number):
                lease = Redlock.lock(f"{sys.argv[1]}-{number}", 10).value
                Redlock.extend(f"{sys.argv[1]}-{number}", lease, 20)
                Redlock.unlock(f"{sys.argv[1]}-{number}", lease)
                with Redlock.mutex(sys.argv[1], 10):
                    pass

            async def main():
                for number in range(3):
                    use(number)

            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                use("outside")
                print(len(caught))
                asyncio.run(main())
                asyncio.run(main())
                print(len(caught))
            Redlock.close()
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )
        assert printed.split() == ["0", "1"]

    def test_sync_call_in_a_thread_beside_a_loop_does_not_warn(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        run_script(
            """
            import asyncio, sys
            from redlock_cluster import Redlock

            async def main():
                result = await asyncio.to_thread(Redlock.lock, sys.argv[1], 10)
                assert await asyncio.to_thread(Redlock.unlock, sys.argv[1], result.value)

            asyncio.run(main())
            Redlock.close()
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )

    def test_process_that_never_closes_ends_without_a_word(
        self, servers: ServerGroup, resource: str, options_file: WriteOptions
    ) -> None:
        run_script(
            """
            import sys
            from redlock_cluster import Redlock
            assert Redlock.lock(sys.argv[1], 1)
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )


@one_version
@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks need a POSIX system")
class TestFork:
    def test_lease_carried_into_a_child_is_not_held_there_and_stays_the_parents(
        self, servers: ServerGroup, resource: str, key: bytes, options_file: WriteOptions
    ) -> None:
        printed = run_script(
            """
            import os, sys
            from redlock_cluster import NotHeld, Redlock

            resource = sys.argv[1]
            lease = Redlock.lock(resource, 30).value
            mutex = Redlock.mutex(resource + "-2", 30)
            told = []
            try:
                with mutex:
                    child = os.fork()
                    if not child:
                        for method in (lease.extend, lease.release, mutex.extend, mutex.release):
                            try:
                                method()
                            except NotHeld:
                                told.append(method.__name__)
                        assert told == ["extend", "release"] * 2, told
                        assert not lease.valid and not mutex.locked()
                        assert not Redlock.lock(resource, 30, wait=0)
                        assert Redlock.lock(resource + "-3", 30, wait=0)
                    else:
                        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
                        assert lease.valid and mutex.locked()
            except NotHeld:
                assert not child
                os._exit(0)
            assert child
            lease.extend()
            print(lease.token)
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )
        assert servers.values(key) == [printed.strip().encode()] * servers.size
        assert servers.values(key + b"-2") == [None] * servers.size

    def test_not_held_is_raised_by_functions_of_a_child_too(
        self, servers: ServerGroup, resource: str, key: bytes, options_file: WriteOptions
    ) -> None:
        assert issubclass(NotHeld, Exception)
        run_script(
            """
            import os, sys
            from redlock_cluster import Err, NotHeld, Redlock

            lease = Redlock.lock(sys.argv[1], 30).value
            child = os.fork()
            if not child:
                for call in (lambda: Redlock.unlock(sys.argv[1], lease), lambda: Redlock.extend(sys.argv[1], lease, 9)):
                    try:
                        assert call() == Err("not_held")
                    except NotHeld:
                        pass
                os._exit(0)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert lease.valid
            assert Redlock.unlock(sys.argv[1], lease)
            """,
            resource,
            REDLOCK_OPTIONS=str(options_file(servers.options())),
        )
