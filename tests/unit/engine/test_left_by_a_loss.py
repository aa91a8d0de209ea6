"""What becomes of the token of a lease that is lost early, once its user has gone, and while he has not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from redlock_cluster import LeaseLost, LeaseState
from redlock_cluster.testing.simulation import SimulatedClient

from .simulated import engine_of, sibling_of
from .test_quarantine import OPTIONS, Scene, played

KEY = b"redlock:r"


async def on_a_bare_quorum(scene: Scene) -> None:
    scene.servers[2].freeze()
    await asyncio.sleep(0.5)


async def lose(scene: Scene, key: bytes = KEY) -> None:
    """Server 0 forgets; for a moment others' attempts are on it and on server 2, so it is not taken again there."""
    scene.forget(0)
    for index in (0, 2):
        scene.tell(index, b"SET", key, b"of somebody else", b"PX", b"600")
    scene.servers[2].thaw()
    await asyncio.sleep(1)


Body = Callable[[SimulatedClient, asyncio.Event], Awaitable[None]]


async def mutex(alice: SimulatedClient, inside: asyncio.Event) -> None:
    async with alice.supervisor.mutex("r", 30.0, auto_extend=True):
        inside.set()
        await asyncio.sleep(60)


async def many(alice: SimulatedClient, inside: asyncio.Event) -> None:
    async with alice.supervisor.mutex_many(["a", "r"], 30.0, auto_extend=True):
        inside.set()
        await asyncio.sleep(60)


async def function(alice: SimulatedClient, inside: asyncio.Event) -> None:
    @alice.supervisor.synchronized("r", 30.0, auto_extend=True)
    async def work() -> None:
        inside.set()
        await asyncio.sleep(60)

    await work()


async def election(alice: SimulatedClient, inside: asyncio.Event) -> None:
    async with alice.supervisor.election("r", 30.0):
        inside.set()
        await asyncio.sleep(60)


async def transaction(alice: SimulatedClient, inside: asyncio.Event) -> None:
    async def work() -> None:
        inside.set()
        await asyncio.sleep(60)

    await alice.supervisor.transaction("r", 30.0, work, auto_extend=True)


@pytest.mark.parametrize("body", [mutex, many, function, election, transaction])
def test_body_that_is_cancelled_for_the_loss_releases(body: Body) -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        await on_a_bare_quorum(scene)
        inside = asyncio.Event()
        task = asyncio.ensure_future(alice.spawn(body(alice, inside)))
        await inside.wait()
        await asyncio.sleep(1)
        await lose(scene)
        assert task.done()
        with pytest.raises(LeaseLost):
            await task
        assert await scene.lock(bob, 1.0)

    played(play)


def test_loop_over_terms_releases_a_lost_one() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        await on_a_bare_quorum(scene)
        inside = asyncio.Event()

        async def lead() -> None:
            async for term in alice.supervisor.election("r", 30.0):
                async with term:
                    inside.set()
                    await asyncio.sleep(60)
                assert term.lost
                break

        task = asyncio.ensure_future(alice.spawn(lead()))
        await inside.wait()
        await asyncio.sleep(1)
        await lose(scene)
        assert task.done()
        await task
        assert await scene.lock(bob, 1.0)

    played(play)


def test_candidate_who_lost_a_term_can_win_the_next_one() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        await on_a_bare_quorum(scene)
        begun: list[float] = []

        async def lead() -> None:
            async for term in alice.supervisor.election("r", 30.0):
                begun.append(scene.world.loop.time())
                if len(begun) == 2:
                    break
                async with term:
                    await asyncio.sleep(60)

        task = asyncio.ensure_future(alice.spawn(lead()))
        await asyncio.sleep(1)
        await lose(scene)
        await asyncio.sleep(5)
        assert len(begun) == 2, "it waits for its own token"
        await task

    played(play)


def test_handle_that_acquires_anew_after_a_loss_does_not_wait_for_its_own_token() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        await on_a_bare_quorum(scene)

        async def work() -> None:
            mutex = alice.supervisor.mutex("r", 20.0)
            assert await mutex.acquire()
            await lose(scene)
            with pytest.raises(LeaseLost):
                await mutex.extend()
            assert await mutex.acquire(timeout=5)
            await mutex.release()

        await alice.spawn(work())

    played(play)


def test_what_is_lost_while_others_are_waited_for_is_given_back() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        held = (await scene.lock(bob, 20.0, name="s")).value
        await on_a_bare_quorum(scene)
        got = asyncio.Event()

        async def work() -> None:
            async with alice.supervisor.mutex_many(["r", "s"], 6.0, wait=None):
                got.set()

        task = asyncio.ensure_future(alice.spawn(work()))
        await asyncio.sleep(1)
        await lose(scene)
        await asyncio.sleep(1)  # a third of the ttl: it extends `r`, and finds that it is lost
        await bob.spawn(bob.supervisor.unlock("s", held))
        await asyncio.sleep(1)
        assert got.is_set(), "it waits for its own token"
        await task

    played(play)


def test_what_nobody_wants_any_more_is_given_back_though_it_is_lost() -> None:
    """As `let_go` does for threads: where an interrupt ends a `with`, or `unlock`, and where a handle is dropped."""

    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        await on_a_bare_quorum(scene)
        lease = (await alice.spawn(alice.supervisor.lock("r", 20.0, wait=0, on_lost=lambda *_: None))).value
        await asyncio.sleep(1)
        await lose(scene)
        assert lease.state is LeaseState.LOST

        async def let_go() -> None:
            engine_of(alice).abandon(lease._record)

        await alice.spawn(let_go())
        await asyncio.sleep(0.1)
        assert await scene.lock(bob, 1.0)

    played(play)


@pytest.mark.parametrize("stale", ["the one that acquired", "the one that has the token"])
def test_what_another_engine_extended_is_not_given_away_while_its_validity_runs(stale: str) -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        servers = [{"host": f"server{i}"} for i in range(3)]
        other = await sibling_of(scene.world, alice, {"servers": servers, "owner": "alice", **OPTIONS})
        await on_a_bare_quorum(scene)
        if stale == "the one that acquired":
            lease = (await alice.spawn(alice.supervisor.lock("r", 3.0, wait=0))).value
            longer = (await alice.spawn(other.extend("r", lease.token, 20.0))).value
        else:
            lease = (await scene.lock(alice, 20.0)).value
            longer = (await alice.spawn(other.extend("r", lease.token, 3.0))).value
            await alice.spawn(lease.extend(20.0))
        await asyncio.sleep(4)
        assert lease.remaining > 15 and longer.remaining > 15  # somebody who never asks is in the critical section
        ends = scene.world.loop.time() + lease.remaining
        await lose(scene)
        assert lease.state is LeaseState.LOST
        assert scene.quarantined(bob) == [0]
        early = None
        while scene.world.loop.time() < ends - 0.1 and early is None:
            if await scene.lock(bob, 1.0):
                early = ends - scene.world.loop.time()
            await asyncio.sleep(0.1)
        await alice.spawn(other.close())
        assert early is None, f"given away {early:.1f} s too early"

    played(play)
