"""Callers that give up: at every point of an acquisition, an extension and a release, nothing of theirs stays behind.

Every ttl here is far longer than the test, so what is gone was released.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from itertools import count

import pytest
from proxied_servers import (
    LONG,
    Scene,
    group_of,
    group_status,
    holder,
    left_on,
    nothing_left,
    put_foreign,
    run_script,
    scene,
    soon,
    states,
)
from proxy import RELEASES, Act, about, ask

from redlock_cluster import AsyncLease, AsyncMutex, AsyncRedlock, AsyncSupervisor, Err, LeaseState, Ok, Supervisor
from redlock_cluster.testing import EmbeddedCluster

pytestmark = pytest.mark.usefixtures("clean_log", "everybody_connects")

Give = Callable[[Coroutine[object, object, object], "asyncio.Event"], Awaitable[None]]


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene(5) as stage:
        yield stage


@pytest.fixture
def five(stage: Scene) -> Scene:
    return stage.part(5, server_timeout=2000, health_check_interval=5000)


@pytest.fixture
async def redlock(five: Scene) -> AsyncIterator[AsyncSupervisor]:
    async with AsyncSupervisor(five.options) as redlock:
        yield redlock


async def locked(redlock: AsyncSupervisor, resource: str = "a") -> AsyncLease:
    match await redlock.lock(resource, LONG, wait=0):
        case Ok(lease):
            return lease
        case refusal:
            raise AssertionError(refusal)


# Three ways to give up: each runs the call and gives it up when the event is set


async def by_cancel(call: Coroutine[object, object, object], now: asyncio.Event) -> None:
    task = asyncio.ensure_future(call)
    await now.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def by_timeout(call: Coroutine[object, object, object], now: asyncio.Event) -> None:
    async with asyncio.timeout(None) as timeout:

        async def expire() -> None:
            await now.wait()
            timeout.reschedule(asyncio.get_running_loop().time())

        expiring = asyncio.ensure_future(expire())
        try:
            with pytest.raises(asyncio.CancelledError):
                await call
            raise asyncio.CancelledError
        finally:
            await expiring


async def by_wait_for(call: Coroutine[object, object, object], now: asyncio.Event) -> None:
    async def expiring() -> None:
        await asyncio.wait_for(call, 60)

    task = asyncio.ensure_future(expiring())
    await now.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


WAYS = {"cancel": by_cancel, "timeout": by_timeout, "wait_for": by_wait_for}


@pytest.fixture(params=list(WAYS))
def give_up(request: pytest.FixtureRequest) -> Callable[..., Awaitable[None]]:
    """Runs a call and gives it up once the event is set."""
    way = WAYS[request.param]

    async def run(call: Coroutine[object, object, object], now: asyncio.Event) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.ensure_future(way(call, now)), 10)

    return run


async def run_until(
    give_up: Callable[..., Awaitable[None]],
    call: Coroutine[object, object, object],
    condition: Callable[[], object],
) -> None:
    """Runs a call and gives it up when the condition holds."""
    now = asyncio.Event()

    async def watch() -> None:
        await soon(condition)
        now.set()

    watching = asyncio.ensure_future(watch())
    await give_up(call, now)
    await watching


async def check_usable(redlock: AsyncSupervisor, five: Scene, resource: str = "a") -> None:
    """Nobody holds the resource any more, on any server, and all connections are whole."""
    five.go()
    await nothing_left(five.servers)
    lease = await locked(redlock, resource)
    assert await redlock.unlock(resource, lease) == Ok(None)
    await nothing_left(five.servers)
    assert states(redlock.status()) == ["up"] * 5
    assert sum(server.pending_releases for server in group_status(redlock.status()).servers) == 0


# While acquiring


async def test_cancel_before_the_first_step_sends_nothing(five: Scene, redlock: AsyncSupervisor) -> None:
    task = asyncio.create_task(redlock.lock("a", LONG))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.sleep(0.02)
    assert not [seen for proxy in five.proxies for seen in proxy.seen if about("a")(seen.words)]


@pytest.mark.parametrize("turns", range(6))
async def test_cancel_after_some_turns_of_the_loop_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, turns: int
) -> None:
    for i in range(5):
        task = asyncio.create_task(redlock.lock(f"a{i}", LONG))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, Ok):
            await outcome.value.release()
        else:
            assert isinstance(outcome, asyncio.CancelledError)
    await check_usable(redlock, five)


async def test_cancel_with_no_reply_yet_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
    await run_until(give_up, redlock.lock("a", LONG), lambda: five.holding(replies=True) == 5)
    await nothing_left(five.servers)  # before any reply has come
    await check_usable(redlock, five)


async def test_cancel_with_nothing_forwarded_yet_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", b"SET"))
    await run_until(give_up, redlock.lock("a", LONG), lambda: five.holding() == 5)
    await check_usable(redlock, five)


@pytest.mark.parametrize("replies", [1, 2])
async def test_cancel_after_some_replies_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]], replies: int
) -> None:
    for proxy in five.proxies[replies:]:
        proxy.on(Act.HOLD, about("a", b"SET"), replies=True)

    def answered() -> bool:
        heard = [proxy for proxy in five.proxies[:replies] if any(about("a")(w) for w, _ in proxy.wires_answered())]
        return len(heard) == replies and five.holding(replies=True) == 5 - replies

    await run_until(give_up, redlock.lock("a", LONG), answered)
    await check_usable(redlock, five)


@pytest.mark.parametrize("refusals", [1, 2, 3])
async def test_cancel_after_some_refusals_leaves_only_the_other_holder(
    five: Scene, redlock: AsyncSupervisor, refusals: int
) -> None:
    tokens = [put_foreign(server, "a") for server in five.servers[:refusals]]
    for proxy in five.proxies[refusals:]:
        proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
    task = asyncio.create_task(redlock.lock("a", LONG))
    await soon(lambda: five.holding(replies=True) == 5 - refusals)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    five.go()
    await nothing_left(five.servers[refusals:])
    assert [holder(server, "a") for server in five.servers[:refusals]] == tokens


def hold_grants(five: Scene, resource: str) -> None:
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about(resource, b"SET"), replies=True)


async def stand_still(five: Scene, then: Callable[[], object] | None = None, *, at: float = 0.01) -> None:
    """Blocks the loop until all grants have come in and a timer is due, so that both are handled in one turn.

    A loop hands over what sockets received before it looks at timers, so `then` is called after the votes were
    counted and before anybody who waits for them can run.
    """
    loop = asyncio.get_running_loop()
    await soon(lambda: five.holding(replies=True) == 5)

    def block() -> None:
        if then is not None:
            loop.call_later(at, then)
        five.go()
        time.sleep(at + 0.02)

    loop.call_soon(block)


async def test_cancel_in_the_turn_in_which_the_quorum_is_reached_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    for i in range(8):
        hold_grants(five, f"a{i}")
        task = asyncio.create_task(redlock.lock(f"a{i}", LONG))
        await stand_still(five, task.cancel)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError), outcome
    await check_usable(redlock, five)


async def test_cancel_just_before_the_replies_are_read_leaves_nothing(five: Scene, redlock: AsyncSupervisor) -> None:
    for i in range(8):
        hold_grants(five, f"a{i}")
        task = asyncio.create_task(redlock.lock(f"a{i}", LONG))
        await soon(lambda: five.holding(replies=True) == 5)

        def block(task: asyncio.Task[object] = task) -> None:
            five.go()
            time.sleep(0.01)
            task.cancel()

        asyncio.get_running_loop().call_soon(block)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError)
    await check_usable(redlock, five)


@pytest.mark.parametrize("kind", ["timeout", "wait_for"])
async def test_timeout_in_the_turn_in_which_the_quorum_is_reached_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, kind: str
) -> None:
    for i in range(5):
        lease: AsyncLease | None = None
        hold_grants(five, f"a{i}")
        standing = asyncio.ensure_future(stand_still(five, at=0.1))
        try:
            if kind == "timeout":
                async with asyncio.timeout(0.08):
                    outcome = await redlock.lock(f"a{i}", LONG)
            else:
                outcome = await asyncio.wait_for(redlock.lock(f"a{i}", LONG), 0.08)
            assert isinstance(outcome, Ok)
            lease = outcome.value
        except TimeoutError:
            pass
        await standing
        if lease is not None:
            await lease.release()
    await check_usable(redlock, five)


async def test_mutex_cancelled_in_the_turn_of_its_quorum_leaves_nothing(five: Scene, redlock: AsyncSupervisor) -> None:
    async def use(mutex: AsyncMutex) -> None:
        async with mutex:
            pytest.fail("the body ran")

    for i in range(8):
        hold_grants(five, f"a{i}")
        mutex = redlock.mutex(f"a{i}", LONG)
        task = asyncio.create_task(use(mutex))
        await stand_still(five, task.cancel)
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        assert isinstance(outcome, asyncio.CancelledError)
        assert not mutex.locked()
        assert await mutex.acquire(timeout=1)  # the handle itself can be used again
        await mutex.release()
    await check_usable(redlock, five)


async def test_cancel_while_pausing_between_attempts_leaves_only_the_holder(
    five: Scene, give_up: Callable[..., Awaitable[None]]
) -> None:
    options = {**five.options, "retry_interval_base": 5000, "retry_interval_max": 5000}
    async with AsyncSupervisor(options) as redlock:
        lease = await locked(redlock)
        waiting = redlock.lock("a", LONG, wait=None)

        def attempted() -> bool:
            return all(sum(about("a", b"SET")(s.words) for s in proxy.forwarded) == 2 for proxy in five.proxies)

        began = time.monotonic()
        await run_until(give_up, waiting, attempted)
        assert time.monotonic() - began < 2
        assert {holder(server, "a") for server in five.servers} == {lease.token}
        assert await redlock.unlock("a", lease) == Ok(None)
        await check_usable(redlock, five)


async def test_cancel_of_one_waiter_leaves_the_others_waiting(five: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    waiters = [asyncio.create_task(redlock.lock("a", LONG, wait=None)) for _ in range(6)]
    await asyncio.sleep(0.05)
    for waiter in waiters[::2]:
        waiter.cancel()
    await lease.release()
    for _ in range(3):
        done, _ = await asyncio.wait([w for w in waiters[1::2] if not w.done()], return_when="FIRST_COMPLETED")
        for waiter in done:
            outcome = waiter.result()
            assert isinstance(outcome, Ok)
            await outcome.value.release()
    assert all(waiter.cancelled() for waiter in waiters[::2])
    await check_usable(redlock, five)


async def test_cancel_during_the_lazy_start_leaves_a_supervisor_that_works(five: Scene) -> None:
    redlock = AsyncSupervisor(five.options)
    try:
        for turns in range(8):
            task = asyncio.create_task(redlock.lock("a", LONG))
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await soon(lambda: redlock.status().clusters and redlock.status().available)
        await check_usable(redlock, five)
    finally:
        await redlock.close()


async def test_cancel_of_start_lets_another_start_succeed(five: Scene) -> None:
    redlock = AsyncSupervisor(five.options)
    starting = asyncio.create_task(redlock.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await redlock.start()
    await check_usable(redlock, five)
    await redlock.close()


async def test_cancel_with_some_servers_cut_off_leaves_nothing_when_they_return(five: Scene) -> None:
    async with AsyncSupervisor({**five.options, "health_check_interval": 200}) as redlock:
        for proxy in five.proxies[:3]:
            proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
        task = asyncio.create_task(redlock.lock("a", LONG))
        await soon(lambda: five.holding(replies=True) == 3)
        for proxy in five.proxies[:3]:
            proxy.refuse()
            proxy.cut()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await soon(lambda: states(redlock.status())[:3] == ["down"] * 3)
        assert [bool(holder(server, "a")) for server in five.servers[:3]] == [True] * 3
        for proxy in five.proxies[:3]:
            proxy.accept()
        await soon(lambda: states(redlock.status()) == ["up"] * 5)
        await check_usable(redlock, five)


async def test_cancel_while_servers_are_paused_leaves_nothing_when_they_go_on(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    for server in five.servers[:3]:
        server.pause()
    task = asyncio.create_task(redlock.lock("a", LONG))
    await soon(lambda: all(holder(server, "a") for server in five.servers[3:]))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await nothing_left(five.servers[3:], 1)
    for server in five.servers[:3]:
        server.resume()
    await check_usable(redlock, five)


# Batches

BATCH = [f"a{i}" for i in range(12)]


def in_batch(words: tuple[bytes, ...]) -> bool:
    return words[0] == b"SET" and words[1].startswith(b"redlock:a")


async def test_cancel_of_a_batch_with_no_reply_yet_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    for proxy in five.proxies:
        proxy.on(Act.HOLD, in_batch, replies=True)
    await run_until(give_up, redlock.lock_many(BATCH, LONG), lambda: five.holding(replies=True) == 5)
    await check_usable(redlock, five, "a11")


async def test_cancel_of_a_batch_of_which_some_were_won_leaves_nothing(five: Scene, redlock: AsyncSupervisor) -> None:
    for proxy in five.proxies[2:]:
        proxy.on(Act.HOLD, about("a7", b"SET"), replies=True)  # those after it wait too
    task = asyncio.create_task(redlock.lock_many(BATCH, LONG))
    await soon(lambda: five.holding(replies=True) == 3)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await check_usable(redlock, five, "a0")


@pytest.mark.parametrize("turns", range(6))
async def test_cancel_of_a_batch_after_some_turns_of_the_loop_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, turns: int
) -> None:
    for _ in range(4):
        task = asyncio.create_task(redlock.lock_many(BATCH, LONG))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        (outcome,) = await asyncio.gather(task, return_exceptions=True)
        if isinstance(outcome, list):
            await redlock.unlock_many([won.value for won in outcome if isinstance(won, Ok)])
        else:
            assert isinstance(outcome, asyncio.CancelledError)
    await check_usable(redlock, five)


async def test_cancel_of_a_batch_in_the_turn_of_its_quorums_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    for proxy in five.proxies:
        proxy.on(Act.HOLD, in_batch, replies=True)
    task = asyncio.create_task(redlock.lock_many(BATCH, LONG))
    await stand_still(five, task.cancel)
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    assert isinstance(outcome, asyncio.CancelledError)
    await check_usable(redlock, five)


async def test_cancel_of_a_batch_of_releases_still_releases_all(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    outcomes = await redlock.lock_many(BATCH, LONG)
    leases = [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]
    assert len(leases) == len(BATCH)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, lambda words: words[0].upper() in RELEASES, replies=True)
    await run_until(give_up, redlock.unlock_many(leases), lambda: five.holding(replies=True) == 5)
    await check_usable(redlock, five)
    assert {lease.state for lease in leases} == {LeaseState.RELEASED}


# While extending and releasing


async def test_cancel_of_a_release_still_releases(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    lease = await locked(redlock)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", *RELEASES), replies=True)
    await run_until(give_up, redlock.unlock("a", lease), lambda: five.holding(replies=True) == 5)
    assert not lease.valid
    await check_usable(redlock, five)
    assert lease.state is LeaseState.RELEASED


@pytest.mark.parametrize("turns", range(1, 4))
async def test_cancel_of_a_release_after_some_turns_still_releases(
    five: Scene, redlock: AsyncSupervisor, turns: int
) -> None:
    for i in range(5):
        lease = await locked(redlock, f"a{i}")
        task = asyncio.create_task(redlock.unlock(f"a{i}", lease))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    await check_usable(redlock, five)


async def test_cancel_of_a_release_by_token_still_releases(five: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", *RELEASES))
    await run_until(by_cancel, redlock.unlock("a", lease.token), lambda: five.holding() == 5)
    await check_usable(redlock, five)


async def test_cancel_of_an_extension_keeps_a_lease_that_can_be_extended_and_released(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    lease = await locked(redlock)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a"), replies=True)
    await run_until(give_up, redlock.extend("a", lease, LONG), lambda: five.holding(replies=True) == 5)
    five.go()
    assert lease.valid
    assert await asyncio.wait_for(redlock.extend("a", lease, LONG), 3) == Ok(lease)
    assert await redlock.unlock("a", lease) == Ok(None)
    await check_usable(redlock, five)


async def test_release_while_a_cancelled_extension_is_under_way_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    lease = await locked(redlock)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a"))
    await run_until(by_cancel, redlock.extend("a", lease, LONG), lambda: five.holding() == 5)
    releasing = asyncio.create_task(redlock.unlock("a", lease))
    await asyncio.sleep(0.01)
    five.go()
    assert await releasing == Ok(None)
    assert lease.state is LeaseState.RELEASED
    await check_usable(redlock, five)


# Around a body


async def test_cancel_in_the_body_of_a_mutex_releases(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    inside = asyncio.Event()

    async def use() -> None:
        async with redlock.mutex("a", LONG):
            inside.set()
            await asyncio.sleep(60)

    await give_up(use(), inside)
    await check_usable(redlock, five)


async def test_cancel_while_entering_a_mutex_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    async def use() -> None:
        async with redlock.mutex("a", LONG):
            pytest.fail("the body ran")

    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
    await run_until(give_up, use(), lambda: five.holding(replies=True) == 5)
    await check_usable(redlock, five)


async def test_cancel_while_leaving_a_mutex_releases(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]]
) -> None:
    async def use() -> None:
        async with redlock.mutex("a", LONG):
            pass

    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", *RELEASES), replies=True)
    await run_until(give_up, use(), lambda: five.holding(replies=True) == 5)
    await check_usable(redlock, five)


async def test_cancel_twice_while_leaving_a_mutex_releases(five: Scene, redlock: AsyncSupervisor) -> None:
    inside = asyncio.Event()

    async def use() -> None:
        async with redlock.mutex("a", LONG):
            inside.set()
            await asyncio.sleep(60)

    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", *RELEASES))
    task = asyncio.create_task(use())
    await inside.wait()
    task.cancel()
    await soon(lambda: five.holding() == 5)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    await check_usable(redlock, five)


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_transaction_whose_body_raises_releases(five: Scene, redlock: AsyncSupervisor, kind: str) -> None:
    async def late() -> None:
        await asyncio.sleep(0)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        if kind == "async":
            await redlock.transaction("a", LONG, late)
        else:
            await redlock.transaction("a", LONG, lambda: 1 // 0)
    await check_usable(redlock, five)


@pytest.mark.parametrize("stage_of_it", ["acquiring", "body", "releasing"])
async def test_cancel_of_a_transaction_leaves_nothing(
    five: Scene, redlock: AsyncSupervisor, give_up: Callable[..., Awaitable[None]], stage_of_it: str
) -> None:
    inside = asyncio.Event()
    ran = count()

    async def body() -> None:
        next(ran)
        inside.set()
        if stage_of_it == "body":
            await asyncio.sleep(60)

    names = {"acquiring": (b"SET",), "body": (), "releasing": tuple(RELEASES)}[stage_of_it]
    if names:
        for proxy in five.proxies:
            proxy.on(Act.HOLD, about("a", *names), replies=True)
        await run_until(give_up, redlock.transaction("a", LONG, body), lambda: five.holding(replies=True) == 5)
    else:
        await give_up(redlock.transaction("a", LONG, body), inside)
    assert next(ran) == (0 if stage_of_it == "acquiring" else 1)
    await check_usable(redlock, five)


async def test_task_group_whose_sibling_fails_leaves_nothing(five: Scene, redlock: AsyncSupervisor) -> None:
    async def use(i: int) -> None:
        async with redlock.mutex(f"a{i}", LONG):
            await asyncio.sleep(60)

    async def fail() -> None:
        await asyncio.sleep(0.003)
        raise ZeroDivisionError

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            for i in range(20):
                tasks.create_task(use(i % 10))
            tasks.create_task(fail())
    await check_usable(redlock, five)


async def test_storm_of_cancellations_leaves_nothing() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    holders = dict.fromkeys(range(20), 0)
    with group_of(5) as cluster:
        async with AsyncSupervisor(cluster.options) as redlock:

            async def use(i: int) -> None:
                async with redlock.mutex(f"a{i}", LONG, wait=0.05) as lease:
                    holders[i] += 1
                    try:
                        assert holders[i] == 1
                        await asyncio.sleep(rng.uniform(0, 0.002))
                        await lease.extend()
                        assert holders[i] == 1
                    finally:
                        holders[i] -= 1

            cancelled = 0
            for _ in range(40):
                tasks = [asyncio.create_task(use(rng.randrange(20))) for _ in range(25)]
                for task in tasks:
                    asyncio.get_running_loop().call_later(rng.uniform(0, 0.02), task.cancel)
                outcomes = await asyncio.gather(*tasks, return_exceptions=True)
                assert not [outcome for outcome in outcomes if isinstance(outcome, AssertionError)]
                cancelled += sum(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
            assert cancelled > 100
            await nothing_left(cluster.servers)


@pytest.mark.parametrize("default", [False, True])
@pytest.mark.filterwarnings("ignore:.*was dropped and not closed:ResourceWarning")
async def test_asyncio_run_that_ends_while_tasks_hold_locks_leaves_nothing(five: Scene, default: bool) -> None:
    async def hold(redlock: AsyncSupervisor, resource: str) -> None:
        async with redlock.mutex(resource, LONG, wait=None):
            await asyncio.sleep(60)

    async def main() -> None:
        redlock = await (AsyncRedlock.start(five.options) if default else AsyncSupervisor(five.options).start())
        tasks = [asyncio.create_task(hold(redlock, f"a{i % 5}")) for i in range(10)]
        await soon(lambda: all(len(found) == 5 for found in five.left()))
        assert not any(task.done() for task in tasks)
        # Now asyncio.run cancels all tasks there are; nobody has closed the supervisor.

    try:
        for _ in range(3):  # in which order tasks are cancelled is chance
            await asyncio.to_thread(asyncio.run, main())
            await nothing_left(five.servers)
    finally:
        await AsyncRedlock.close()
        gc.collect()  # what was dropped says so here, not in a later test


# KeyboardInterrupt

INTERRUPTS = """
import random, signal, sys, time
from redlock_cluster import Err, LockNotAcquired, Ok, Supervisor

way, seed, wanted = sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
signal.signal(signal.SIGALRM, signal.default_int_handler)  # a timer's signal, handled as Ctrl-C is
# An interrupt that hits a weak reference's callback is swallowed by the interpreter, which says so.
sys.unraisablehook = lambda it: None if it.exc_type is KeyboardInterrupt else sys.__unraisablehook__(it)
redlock = Supervisor(sys.argv[1]).start()
began = time.perf_counter()
for i in range(50):
    with redlock.mutex(f"w{i}", ttl=60, wait=0):
        pass
cycle = (time.perf_counter() - began) / 50
interrupted = finished = i = 0
deadline = time.monotonic() + 10
while interrupted < wanted and time.monotonic() < deadline:
    held, i = None, i + 1
    if way != "body":
        cycle *= 1.02 if interrupted > finished else 0.98  # half of the calls are to be hit, on a busy machine too
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, max(1e-5, rng.uniform(0, 1.2 * cycle)))
            if way == "mutex":
                with redlock.mutex(f"{way}{i}", ttl=60, wait=0):
                    pass
            elif way == "again":
                with redlock.mutex(way, ttl=60, wait=0):  # given back by whoever was interrupted before
                    pass
            elif way == "body":
                with redlock.mutex(f"{way}{i}", ttl=60, wait=0) as lease:
                    until = time.monotonic() + 3 * cycle
                    while time.monotonic() < until:
                        lease.extend()
            elif way == "transaction":
                redlock.transaction(f"{way}{i}", 60, int, wait=0)
            elif way == "acquire":
                held = redlock.mutex(f"{way}{i}", ttl=60, wait=0)
                held.acquire()
            elif way == "many":
                held = redlock.lock_many([f"{way}{i}-{j}" for j in range(4)], 60)
                redlock.unlock_many([outcome.value for outcome in held])
            elif way == "unlock":
                held = redlock.lock(f"{way}{i}", 60, wait=0)
                held.value.release()
            else:
                held = redlock.lock(f"{way}{i}", 60, wait=0)
            finished += 1
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        interrupted += 1
    if way == "many" and held is not None:
        redlock.unlock_many([outcome.value for outcome in held])
    if way == "acquire" and held is not None and held.lease is not None:
        held.release()
    if way in ("lock", "unlock") and isinstance(held, Ok):
        redlock.unlock(f"{way}{i}", held.value)  # once more, where it was interrupted
print(interrupted, finished)
redlock.close()
"""


@pytest.mark.parametrize("way", ["mutex", "again", "body", "transaction", "acquire", "lock", "unlock", "many"])
def test_interrupts_at_random_moments_leave_nothing(trio: EmbeddedCluster, way: str) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    wanted = 300 if way in ("mutex", "transaction") else 200  # the hardest: nobody else can release what they hold
    done = run_script(INTERRUPTS, str(trio.options_path), way, str(seed), str(wanted))
    deadline = time.monotonic() + 1
    while (left := left_on(trio.servers)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for server in trio.servers:
        ask(server.port, "FLUSHALL")  # so that one failure does not become another test's
    assert done.returncode == 0, done.stderr
    interrupted, finished = map(int, done.stdout.split())
    assert interrupted > 100, f"the timer hit only {interrupted} of {interrupted + finished} calls"
    names = {key for found in left.values() for key in found}
    assert not names, f"{len(names)} of {interrupted} interrupted calls left a lock behind; {done.stderr}"
    assert done.stderr == ""


def test_a_second_interrupt_while_the_first_is_seen_to_leaves_nothing(
    trio: EmbeddedCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with Supervisor(trio.options) as redlock:
        portal = redlock._binding().portal
        with monkeypatch.context() as patch:
            patch.setattr("redlock_cluster.threads.portal._sleep", interrupted)
            patch.setattr(portal, "_abandon", interrupted)
            with pytest.raises(KeyboardInterrupt):
                redlock.mutex("twice", 60, wait=0).acquire()
        after = redlock.lock("twice", 60, wait=5)
        assert isinstance(after, Ok), "the lock that nobody received is given back"
        after.value.release()


WAITING = """
import os, signal, sys, threading, time
from redlock_cluster import Err, Ok, Supervisor

redlock = Supervisor(sys.argv[1]).start()
lease = redlock.lock("a", 60, wait=0).value
for call in (
    lambda: redlock.lock("a", 60, wait=None),
    lambda: redlock.lock("a", 60, wait=30),
    lambda: redlock.mutex("a", 60, wait=None).acquire(),
    lambda: redlock.mutex("a", 60).acquire(timeout=-1),
    lambda: redlock.transaction("a", 60, int, wait=None),
):
    began = []
    def interrupt():
        time.sleep(0.08)
        began.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        outcome = call()
    except KeyboardInterrupt:
        assert time.monotonic() - began[0] < 0.5
    else:
        raise SystemExit(f"not interrupted: {outcome}")
assert lease.valid
assert redlock.unlock("a", lease) == Ok(None)
time.sleep(0.2)  # a waiter that lived on would take it now
assert not redlock.is_locked("a")
print("done")
"""


def test_interrupt_while_waiting_ends_the_wait_and_leaves_the_holder_alone(trio: EmbeddedCluster) -> None:
    done = run_script(WAITING, str(trio.options_path))
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert left_on(trio.servers) == {}


def test_interrupt_that_ends_the_process_leaves_nothing(trio: EmbeddedCluster) -> None:
    code = """
    import os, signal, sys, threading, time
    from redlock_cluster import Supervisor

    redlock = Supervisor(sys.argv[1]).start()
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    with redlock.mutex("a", ttl=60):
        with redlock.mutex("b", ttl=60):
            time.sleep(10)
    """
    done = run_script(code, str(trio.options_path))
    assert done.stderr.rstrip().endswith("KeyboardInterrupt")
    assert done.returncode != 0
    assert left_on(trio.servers) == {}


async def test_err_of_a_cancelled_neighbour_never_reaches_the_others(five: Scene, redlock: AsyncSupervisor) -> None:
    """Many callers of one resource, some cancelled: the others hear Ok or lock_failure, nothing else."""
    tasks = [asyncio.create_task(redlock.lock("a", LONG, wait=0)) for _ in range(30)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    won = [outcome for outcome in outcomes if isinstance(outcome, Ok)]
    assert len(won) <= 1
    for i, outcome in enumerate(outcomes):
        if i % 3 == 0:
            assert isinstance(outcome, asyncio.CancelledError)
        else:
            assert isinstance(outcome, Ok) or outcome == Err("lock_failure"), outcome
    for outcome in won:
        await outcome.value.release()
    await check_usable(redlock, five)
