"""Locks inside the body of a lock: nobody waits for themselves; who is reentrant shares the lease."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any, Final

import pytest

from redlock_cluster import (
    AsyncSupervisor,
    Contended,
    Err,
    LeaseLost,
    LeaseState,
    Ok,
    QuorumUnavailable,
    Supervisor,
    WouldDeadlock,
)
from redlock_cluster.handles.bodies import bodies_of, running_task

from .adapter import Api, eventually, everywhere, within
from .conftest import Make
from .monitor import recorded
from .servers import ServerGroup, in_each_mode

some_versions = pytest.mark.parametrize("servers", ["valkey-9", "redis-6", "model-valkey-9"], indirect=True)
one_version = pytest.mark.parametrize("servers", ["valkey-9"], indirect=True)
in_asyncio = pytest.mark.parametrize("face", ["asyncio"], indirect=True)
in_sync = pytest.mark.parametrize("face", ["sync"], indirect=True)

# A lease that this client gives up after 0.1 s while servers keep its keys for 10 s.
SHORT_LIVED: Final[dict[str, Any]] = {"ttl": "10s", "drift_factor": 0.99}


@pytest.fixture
async def api(make: Make) -> Api:
    """Synchronous calls of a test are all made by one thread, their owner."""
    return owned(await make())


def owned(api: Api) -> Api:
    if api.face == "sync":
        api.use_threads(1)
    return api


async def inside(api: Api) -> int:
    """How many bodies the owner is inside of."""

    def count() -> int:
        return sum(map(len, bodies_of(running_task()).values()))

    number: int = await api.run(count)
    return number


async def left(api: Api) -> bool:
    """Whether nothing is noted of the owner any more."""
    return not await api.run(lambda: bodies_of(running_task()))


class TestWouldDeadlock:
    @some_versions
    @pytest.mark.parametrize("wait", [None, 0, 5], ids=repr)
    async def test_nested_handle_is_refused_at_once_and_asks_no_server(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes, wait: float | None
    ) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            await everywhere(lambda: servers.values(key), lease.token.encode())
            with recorded(servers) as record:
                for name in (resource, resource.encode()):
                    with pytest.raises(WouldDeadlock) as caught:
                        await within(5, api.run((await api.mutex(name, 30, wait=wait)).__enter__)) if (
                            api.face == "sync"
                        ) else await within(5, (await api.mutex(name, 30, wait=wait)).__aenter__())
                    assert isinstance(caught.value, Contended)
                    owner = "task" if api.face == "asyncio" else "thread"
                    assert f"this {owner} is inside a `with` for it" in str(caught.value)
                    assert "reentrant=True" in str(caught.value)
                    assert (caught.value.resource, caught.value.group) == (resource, await api.group_for(resource))
            assert record.about(key) == []
            assert lease.valid
        await everywhere(lambda: servers.keys(resource), set())
        assert await left(api)

    @in_each_mode("valkey-9")
    async def test_acquire_that_would_wait_raises_and_one_attempt_is_false(self, api: Api, resource: str) -> None:
        async with api.entered(await api.mutex(resource, 30)):
            nested = await api.mutex(resource, 30)
            for timeout in (None, -1, 5):
                with pytest.raises(WouldDeadlock):
                    await within(5, api.run(nested.acquire, timeout=timeout))
            assert await api.run(nested.acquire, False) is False
            assert await api.run(nested.acquire, timeout=0) is False
            assert nested.lease is None
            nested = await api.mutex(resource, 30, wait=0)
            assert await api.run(nested.acquire) is False
        assert await api.run(nested.acquire) is True
        await api.run(nested.release)

    @one_version
    async def test_lock_is_never_refused_for_that(self, api: Api, resource: str) -> None:
        async with api.entered(await api.mutex(resource, 30)):
            refusal = await api.refused(resource, wait=0)
            assert type(refusal.error) is Contended

    @in_each_mode("valkey-9")
    async def test_transaction_counts_as_a_body(self, api: Api, servers: ServerGroup, resource: str) -> None:
        if api.face == "sync":

            def nested() -> Any:
                return api.supervisor.transaction(resource, 30, lambda: 1, wait=None)

            refusal = await within(5, api.transaction(resource, 30, nested))
        else:

            async def nested_() -> Any:
                return await api.supervisor.transaction(resource, 30, lambda: 1, wait=None)

            refusal = await within(5, api.transaction(resource, 30, nested_))
        assert refusal == Err("lock_failure")
        assert type(refusal.error) is WouldDeadlock
        await everywhere(lambda: servers.keys(resource), set())
        assert await left(api)

    @one_version
    async def test_transaction_that_raises_is_over_while_its_error_is_kept(self, api: Api, resource: str) -> None:
        """The error's traceback holds the frame, and that the handle."""

        def fail() -> None:
            raise ValueError("of the function")

        with pytest.raises(ValueError, match="of the function") as caught:
            await api.transaction(resource, 30, fail)
        assert await left(api)
        del caught

    @one_version
    @pytest.mark.parametrize("how", ["released", "detached", "expired"])
    async def test_lease_that_is_over_is_no_deadlock(
        self, make: Make, servers: ServerGroup, resource: str, how: str
    ) -> None:
        api = owned(await make(**(SHORT_LIVED if how == "expired" else {})))
        handle = await api.mutex(resource, 10)
        entered = api.entered(handle)
        lease = await entered.__aenter__()
        if how == "released":
            await api.run(handle.release)
        elif how == "detached":
            ticket = await api.detach(lease)
            assert await api.unlock(resource, await api.adopted(ticket)) == Ok(None)
        else:
            await eventually(lambda: not lease.valid)
            servers.delete(b"redlock:" + resource.encode())
        for reentrant in (False, True):
            async with api.entered(await api.mutex(resource, 10, wait=0, reentrant=reentrant)) as other:
                assert other is not lease
                assert other.token != lease.token
            assert other.state is not LeaseState.HELD
        if how == "expired":
            with pytest.raises(LeaseLost):
                await entered.__aexit__(None, None, None)
        else:
            await entered.__aexit__(None, None, None)
        assert await left(api)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_other_resources_and_other_deployments_are_others(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        two = {name: servers.options(key_prefix=f"{name}:") for name in ("one", "two")}
        api = owned(await make({"deployments": two, "default": "one"}))
        two_ = Api(await api.run(api.supervisor.deployment, "two"))
        same = Api(await api.run(api.supervisor.deployment, "one"))
        two_._threads = same._threads = api._threads
        async with (
            api.entered(await api.mutex(resource, 30)),
            api.entered(await api.mutex(f"{resource}2", 30)),
            api.entered(await two_.mutex(resource, 30)),
        ):
            assert await inside(api) == 3
            for again in (api, two_, same):
                with pytest.raises(WouldDeadlock):
                    async with api.entered(await again.mutex(resource, 30)):
                        raise AssertionError("inside")
        assert await left(api)

    @one_version
    async def test_another_supervisor_over_equal_options_locks_the_same(self, make: Make, resource: str) -> None:
        api, other, stranger = owned(await make()), await make(), await make(owner="somebody")
        async with api.entered(await api.mutex(resource, 30)):
            with pytest.raises(WouldDeadlock):
                async with api.entered(await other.mutex(resource, 30, wait=None)):
                    raise AssertionError("inside")
            with pytest.raises(Contended) as caught:
                async with api.entered(await stranger.mutex(resource, 30, wait=0)):
                    raise AssertionError("inside")
            assert type(caught.value) is Contended


class TestOwners:
    @one_version
    @in_asyncio
    async def test_child_task_waits_for_its_parent_as_any_other(self, api: Api, resource: str) -> None:
        async def child() -> str:
            async with api.supervisor.mutex(resource, 30, wait=None, reentrant=True) as lease:
                return str(lease.token)

        async with api.entered(await api.mutex(resource, 30)) as lease:
            task = asyncio.ensure_future(child())
            await api.waits()
        assert await within(5, task) != lease.token
        assert await left(api)

    @one_version
    @in_asyncio
    async def test_what_a_child_is_inside_of_is_not_its_parents(self, api: Api, resource: str) -> None:
        """They have the context in common in which that is noted."""
        async with api.entered(await api.mutex(f"{resource}-outer", 30)):
            entered, over = asyncio.Event(), asyncio.Event()

            async def child() -> None:
                async with api.supervisor.mutex(resource, 30):
                    entered.set()
                    await over.wait()

            task = asyncio.ensure_future(child())
            await entered.wait()
            assert await inside(api) == 1
            with pytest.raises(Contended) as caught:
                async with api.entered(await api.mutex(resource, 30, wait=0, reentrant=True)):
                    raise AssertionError("inside")
            assert type(caught.value) is Contended
            over.set()
            await task

    @one_version
    @in_sync
    async def test_another_thread_waits_as_any_other(self, make: Make, resource: str) -> None:
        api = await make()

        def nested(supervisor: Any = api.supervisor) -> Any:
            with supervisor.mutex(resource, 30, wait=0, reentrant=True):
                raise AssertionError("inside")

        def work() -> BaseException | None:
            raised: list[BaseException] = []

            def other() -> None:
                try:
                    nested()
                except BaseException as error:
                    raised.append(error)

            with api.supervisor.mutex(resource, 30):
                thread = threading.Thread(target=other)
                thread.start()
                thread.join()
            return raised[0]

        assert type(await api.run(work)) is Contended

    @one_version
    @in_asyncio
    @pytest.mark.filterwarnings("ignore:a synchronous lock call blocks:RuntimeWarning")
    async def test_thread_of_a_task_is_another_owner(
        self, api: Api, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        with Supervisor(servers.options()) as sync:

            def nested() -> None:
                with sync.mutex(resource, 30, wait=0, reentrant=True):
                    raise AssertionError("inside")

            async with api.entered(await api.mutex(resource, 30)):
                with pytest.raises(Contended) as caught:
                    await asyncio.to_thread(nested)
                assert type(caught.value) is Contended

    @one_version
    @in_asyncio
    @pytest.mark.filterwarnings("ignore:a synchronous lock call blocks:RuntimeWarning")
    async def test_synchronous_handle_in_the_same_task_can_not_share(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        with Supervisor(servers.options()) as sync:
            async with api.entered(await api.mutex(resource, 30)):
                for reentrant in (False, True):
                    with pytest.raises(WouldDeadlock), sync.mutex(resource, 30, wait=None, reentrant=reentrant):
                        raise AssertionError("inside")
            with sync.mutex(resource, 30) as lease, pytest.raises(WouldDeadlock, match="can't be shared"):
                async with api.entered(await api.mutex(resource, 30, wait=None, reentrant=True)):
                    raise AssertionError("inside")
            assert lease.state is LeaseState.RELEASED

    @one_version
    @in_sync
    async def test_thread_of_a_pool_that_entered_for_one_call_is_not_the_owner_for_the_next(
        self, make: Make, resource: str
    ) -> None:
        """As web frameworks run dependencies: each call in a copy of its request's context."""
        import contextvars

        api = owned(await make())
        first, second = contextvars.copy_context(), contextvars.copy_context()
        handle = await api.mutex(resource, 30)
        await api.run(first.run, handle.__enter__)
        with pytest.raises(Contended) as caught:
            await api.run(second.run, (await api.mutex(resource, 30, wait=0, reentrant=True)).__enter__)
        assert type(caught.value) is Contended
        await asyncio.to_thread(handle.__exit__, None, None, None)


class TestReentrant:
    @some_versions
    async def test_inner_one_shares_the_lease_and_the_last_to_leave_releases(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        async with api.entered(await api.mutex(resource, 30, reentrant=True)) as lease:
            await everywhere(lambda: servers.values(key), lease.token.encode())
            with recorded(servers) as record:
                inner = await api.mutex(resource.encode(), 30, wait=0, reentrant=True)
                for _ in range(2):
                    async with api.entered(inner) as same:
                        assert same is lease is inner.lease
                        async with api.entered(await api.mutex(resource, 10, reentrant=True)) as third:
                            assert third is lease
                        assert inner.locked()
                        with pytest.raises(WouldDeadlock):
                            async with api.entered(await api.mutex(resource, 30)):
                                raise AssertionError("inside")
                    assert (inner.lease, inner.locked()) == (None, False)
            assert record.about(key) == []
            assert lease.valid
            assert await api.lock(resource, wait=0) == Err("lock_failure")
        assert lease.state is LeaseState.RELEASED
        await everywhere(lambda: servers.keys(resource), set())
        assert await left(api)

    @one_version
    async def test_only_the_inner_one_must_be_reentrant(self, api: Api, resource: str) -> None:
        async with (
            api.entered(await api.mutex(resource)) as lease,
            api.entered(await api.mutex(resource, reentrant=True)) as same,
        ):
            assert same is lease

    @in_each_mode("valkey-9")
    async def test_ttl_of_the_inner_one_makes_the_lease_longer_and_never_shorter(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            async with api.entered(await api.mutex(resource, 10, reentrant=True)):
                assert lease.ttl == 30
            async with api.entered(await api.mutex(resource, 40, reentrant=True)):
                assert lease.ttl == 30, "two thirds of it are left"
            async with api.entered(await api.mutex(resource, 60, reentrant=True)):
                assert lease.ttl == 60
                assert lease.remaining > 50
            assert lease.ttl == 60
            for ttl, kind in ((-1, ValueError), ("x", TypeError)):
                with pytest.raises(kind):
                    async with api.entered(await api.mutex(resource, ttl, reentrant=True)):
                        raise AssertionError("inside")
            assert lease.valid
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_lease_that_can_not_be_extended_is_not_shared(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = owned(await make(server_timeout=80))
        async with api.entered(await api.mutex(resource, 30)) as lease:
            await everywhere(lambda: servers.values(b"redlock:" + resource.encode()), lease.token.encode())
            with servers.paused(servers.majority), pytest.raises(QuorumUnavailable):
                async with api.entered(await api.mutex(resource, 60, reentrant=True)):
                    raise AssertionError("inside")
            assert await inside(api) == 1
            assert lease.valid
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    @pytest.mark.parametrize("error", [ValueError("of the body"), KeyboardInterrupt()], ids=repr)
    async def test_error_of_the_inner_body_leaves_the_outer_one_locked(
        self, api: Api, servers: ServerGroup, resource: str, error: BaseException
    ) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            with pytest.raises(type(error)):
                async with api.entered(await api.mutex(resource, 30, reentrant=True)):
                    raise error
            assert lease.valid
            assert await inside(api) == 1
        await everywhere(lambda: servers.keys(resource), set())

    @in_each_mode("valkey-9")
    async def test_release_of_the_inner_handle_gives_back_its_share(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            async with api.entered(inner := await api.mutex(resource, 30, reentrant=True)):
                await api.run(inner.release)
                assert not inner.locked()
                assert lease.valid
            assert lease.valid
            assert await api.run(inner.acquire)
            assert inner.lease is lease
            assert await inside(api) == 2
            await api.run(inner.release)
            assert await inside(api) == 1
            async with api.entered(await api.mutex(resource, 30, reentrant=True)) as same:
                await api.run(same.release)  # the lease itself: nobody has it any more
            assert lease.state is LeaseState.RELEASED
        assert await left(api)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_reentrant_handle_that_was_acquired_is_shared_too(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        outer = await api.mutex(resource, 30, reentrant=True)
        assert await api.run(outer.acquire)
        async with api.entered(await api.mutex(resource, 30, reentrant=True)) as same:
            assert same is outer.lease
        assert outer.locked()
        await api.run(outer.release)
        assert await left(api)
        await everywhere(lambda: servers.keys(resource), set())

    @in_each_mode("valkey-9")
    async def test_order_of_leaving_does_not_matter(self, api: Api, servers: ServerGroup, resource: str) -> None:
        handles = [await api.mutex(resource, 30, reentrant=True) for _ in range(3)]
        ends = [api.entered(handle) for handle in handles]
        lease, *_ = [await end.__aenter__() for end in ends]
        for end in ends[:2]:
            await end.__aexit__(None, None, None)
            assert lease.valid
        await ends[2].__aexit__(None, None, None)
        assert lease.state is LeaseState.RELEASED
        assert await left(api)

    @one_version
    async def test_loss_is_told_where_the_inner_body_ends(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        inner_told = False
        with pytest.raises(LeaseLost):
            async with api.entered(await api.mutex(resource, None)) as lease:
                try:
                    async with api.entered(await api.mutex(resource, None, reentrant=True)):
                        await everywhere(lambda: servers.values(key), lease.token.encode())
                        servers.put(key, b"thief", servers.everyone)
                        await eventually(lambda: not lease.valid)
                        await asyncio.sleep(0)  # a cancellation comes here
                except LeaseLost:
                    inner_told = True
                    raise
                except asyncio.CancelledError:
                    assert api.face == "asyncio"
                    raise
        assert inner_told is (api.face == "sync")
        assert await left(api)
        assert servers.values(key) == [b"thief"] * servers.size

    @one_version
    async def test_handle_that_is_dropped_inside_its_body_is_forgotten(
        self, make: Make, servers: ServerGroup, resource: str
    ) -> None:
        api = owned(await make())
        enter = "__aenter__" if api.face == "asyncio" else "__enter__"
        outer = await api.mutex(resource, 30)
        lease = await api.run(getattr(outer, enter))
        inner = await api.mutex(resource, 30, reentrant=True)
        await api.run(getattr(inner, enter))
        assert await inside(api) == 2
        del inner
        gc.collect()
        assert await inside(api) == 1
        assert lease.valid
        del outer
        gc.collect()
        assert await left(api)
        if api.face == "asyncio":
            await api.unlock(resource, lease)
        await everywhere(lambda: servers.keys(resource), set())


@in_asyncio
@one_version
class TestTasks:
    async def test_cancelled_inner_body_leaves_the_outer_one_locked(self, api: Api, resource: str) -> None:
        async with api.entered(await api.mutex(resource, 30)) as lease:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01), api.entered(await api.mutex(resource, 30, reentrant=True)):
                    await asyncio.Event().wait()
            assert lease.valid
            assert await inside(api) == 1

    async def test_task_that_is_cancelled_leaves_nothing(self, api: Api, servers: ServerGroup, resource: str) -> None:
        entered = asyncio.Event()

        async def work() -> None:
            async with api.supervisor.mutex(resource), api.supervisor.mutex(resource, reentrant=True):
                entered.set()
                await asyncio.Event().wait()

        task = asyncio.ensure_future(work())
        await entered.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await everywhere(lambda: servers.keys(resource), set())

    async def test_refusals_in_a_row_let_others_go_on(self, api: Api, resource: str) -> None:
        turns = 0

        async def other() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with api.entered(await api.mutex(resource, 30)):
            task = asyncio.ensure_future(other())
            for _ in range(10):
                assert not await api.supervisor.mutex(resource, 30).acquire(False)
            task.cancel()
        assert turns >= 9


class TestSynchronized:
    @some_versions
    async def test_calls_are_made_under_the_lock_of_their_arguments(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        seen: list[Any] = []
        if api.face == "sync":

            @api.supervisor.synchronized("{name}", 30, wait=0)
            def plain(name: str, result: int) -> int:
                seen.append(api.supervisor.lock(name, 30, wait=0))
                return result

            assert await api.run(plain, resource, 7) == 7
        else:

            @api.supervisor.synchronized("{name}", 30, wait=0)
            async def on_loop(name: str, result: int) -> int:
                seen.append(await api.supervisor.lock(name, 30, wait=0))
                return result

            assert await on_loop(resource, 7) == 7
        assert seen == [Err("lock_failure")]
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    async def test_what_somebody_else_keeps_is_raised_or_skipped(self, make: Make, resource: str) -> None:
        api, other = await make(), await make(owner="somebody")
        lease = await other.held(resource)
        functions = [function_of(api, resource, **named) for named in ({}, {"default": None}, {"default": 5})]
        with pytest.raises(Contended):
            await api.run(functions[0], 0)
        assert [await api.run(function, 0) for function in functions[1:]] == [None, 5]
        await other.unlock(resource, lease)
        assert [await api.run(function, 0) for function in functions] == ["done"] * 3

    @one_version
    async def test_recursion_would_wait_for_itself_unless_it_is_reentrant(
        self, api: Api, servers: ServerGroup, resource: str
    ) -> None:
        with pytest.raises(WouldDeadlock):
            await within(5, api.run(function_of(api, resource, default=None), 1))
        assert await within(5, api.run(function_of(api, resource, reentrant=True), 5)) == "done"
        assert await left(api)
        await everywhere(lambda: servers.keys(resource), set())

    @one_version
    @in_asyncio
    async def test_loss_cancels_the_body_and_is_raised(
        self, api: Api, servers: ServerGroup, resource: str, key: bytes
    ) -> None:
        assert isinstance(api.supervisor, AsyncSupervisor)

        @api.supervisor.synchronized("{name}")
        async def work(name: str) -> None:
            await everywhere(lambda: [value is not None for value in servers.values(key)], True)
            servers.put(key, b"thief", servers.everyone)
            await asyncio.Event().wait()

        with pytest.raises(LeaseLost):
            await within(8, work(resource))
        assert servers.values(key) == [b"thief"] * servers.size


def function_of(api: Api, resource: str, **named: Any) -> Any:
    """A decorated function that calls itself so often, and then says "done"."""
    decorate: Any = api.supervisor.synchronized(resource, 30, wait=0, **named)
    if api.face == "sync":

        @decorate
        def plain(left: int) -> Any:
            return plain(left - 1) if left else "done"

        return plain

    @decorate
    async def on_loop(left: int) -> Any:
        return await on_loop(left - 1) if left else "done"

    return on_loop
