"""Networks that are slow, unsteady, narrow or broken, at times or in one direction: answers are true, nothing stays.

Every bound on a time is one of the protocol, or far from what a busy machine needs.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping

import pytest
from proxied_servers import (
    FAST,
    LONG,
    Scene,
    group_status,
    longest_refusal,
    milliseconds,
    nothing_left,
    scene,
    soon,
    states,
    supervisor_of,
)
from proxy import Conditions, Proxy, Side, about

from redlock_cluster import AsyncLease, AsyncSupervisor, Contended, Err, Ok, QuorumUnavailable, Vote
from redlock_cluster.wire.connection import Connection

pytestmark = pytest.mark.usefixtures("clean_log", "everybody_connects")

FACES = ("asyncio", "sync")
TIMEOUT = milliseconds(FAST, "server_timeout")
PATIENT: Mapping[str, object] = {"server_timeout": 2000, "connect_timeout": 8000, "health_check_interval": 2000}
"""Options for networks whose round trips take longer than those of `FAST` allow."""
GRAIN = 0.005
"""Seconds by which the clocks of loops and processes may differ."""


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene(3) as stage:
        yield stage


def part(stage: Scene, **options: object) -> Scene:
    return stage.part(3, **options)


async def locked(redlock: AsyncSupervisor, resource: str, ttl: float = LONG) -> AsyncLease:
    match await redlock.lock(resource, ttl, wait=0):
        case Ok(lease):
            return lease
        case refusal:
            raise AssertionError(refusal)


def outage(outcome: object) -> QuorumUnavailable:
    """The outage that an outcome tells of, with a majority that did not vote."""
    assert outcome == Err("unavailable")
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, QuorumUnavailable)
    assert sum(vote.vote is Vote.ABSENT for vote in outcome.error.votes) >= 2
    return outcome.error


# Slow networks


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("network", [Conditions(0.05), Conditions(0.02, jitter=0.08)], ids=["steady", "jittery"])
async def test_locks_over_a_slow_network_count_the_time_it_took(stage: Scene, face: str, network: Conditions) -> None:
    three = part(stage, **PATIENT)
    for proxy in three.proxies:
        proxy.weather(network)
    least = 2 * network.latency
    async with supervisor_of(face, three.options) as redlock:
        began = time.monotonic()
        lease = await locked(redlock, "a")
        assert time.monotonic() - began >= least - GRAIN
        assert lease.remaining <= LONG * 0.99 - least + GRAIN
        assert await redlock.lock("a", LONG, wait=0) == Err("lock_failure")
        assert await redlock.extend("a", lease, LONG) == Ok(lease)
        assert lease.remaining <= LONG * 0.99 - least + GRAIN
        assert await redlock.unlock("a", lease) == Ok(None)
        leases = await asyncio.gather(*(locked(redlock, f"b{i}") for i in range(20)))
        assert all(await redlock.unlock_many(leases))
        assert states(redlock.status()) == ["up"] * 3
        await nothing_left(three.servers)


@pytest.mark.parametrize("face", FACES)
async def test_network_slower_than_the_timeout_is_an_outage_and_late_grants_are_given_back(
    stage: Scene, face: str
) -> None:
    three = part(stage, server_timeout=60, health_check_interval=2000, connect_timeout=8000)
    for proxy in three.proxies:
        proxy.weather(Conditions(0.05))
    async with supervisor_of(face, three.options) as redlock:
        names = [f"a{i}" for i in range(10)]
        outcomes = await redlock.lock_many(names, LONG)
        assert all(outage(outcome).elapsed >= 0.06 - GRAIN for outcome in outcomes)
        for proxy in three.proxies:
            await soon(lambda proxy=proxy: sent(proxy, names) == Counter({b"SET": 10, b"DELIFEQ": 10}))
        await nothing_left(three.servers)


def sent(proxy: Proxy, names: list[str]) -> Counter[bytes]:
    """How many commands of each name about these resources a server was sent."""
    return Counter(command.name for command in proxy.forwarded if any(about(name)(command.words) for name in names))


@pytest.mark.parametrize("face", FACES)
async def test_one_server_far_away_votes_later_and_holds_up_nobody(stage: Scene, face: str) -> None:
    three = part(stage, **PATIENT)
    near = {proxy.name for proxy in three.proxies[:2]}
    async with supervisor_of(face, three.options) as redlock:
        three.proxies[2].weather(Conditions(0.3))
        began = time.monotonic()
        for i in range(20):
            lease = await locked(redlock, f"a{i}")
            assert near <= lease.held_on
            assert await redlock.unlock(f"a{i}", lease) == Ok(None)
        assert time.monotonic() - began < 20 * 0.6  # had they waited for it, it would have been twice that
        lease = await locked(redlock, "b")
        assert lease.held_on == near
        assert lease.votes[2].vote is None
        await soon(lambda: len(lease.held_on) == 3)
        assert await redlock.unlock("b", lease) == Ok(None)
        assert states(redlock.status()) == ["up"] * 3
        await nothing_left(three.servers)


@pytest.mark.parametrize("face", FACES)
async def test_narrow_network_takes_its_time_and_loses_nothing(stage: Scene, face: str) -> None:
    size, rate = 20_000, 200_000.0
    three = part(stage, **PATIENT)
    for proxy in three.proxies:
        proxy.weather(Conditions(rate=rate))
    async with supervisor_of(face, three.options) as redlock:
        names = [f"{i}-" + "x" * size for i in range(5)]
        began = time.monotonic()
        results = await redlock.lock_many(names, LONG)
        assert time.monotonic() - began >= len(names) * size / rate - GRAIN
        leases = [result.value for result in results if isinstance(result, Ok)]
        assert [lease.resource for lease in leases] == names
        assert all(await redlock.unlock_many(leases))
        await nothing_left(three.servers)


# Networks that break


@pytest.mark.parametrize("face", FACES)
async def test_flapping_server_costs_no_lock_and_leaves_nothing(stage: Scene, face: str) -> None:
    three = part(stage, **PATIENT)
    async with supervisor_of(face, three.options) as redlock:
        await asyncio.gather(*(redlock.is_locked(f"warm{i}") for i in range(8)))  # the threads of the face are there
        tasks, connections = asyncio.all_tasks(), alive()
        ends = time.monotonic() + 1.5
        made: Counter[str] = Counter()

        async def work(number: int) -> None:
            while time.monotonic() < ends:
                resource = f"{number}-{made[str(number)]}"
                lease = await locked(redlock, resource)
                made[str(number)] += 1
                assert await redlock.extend(resource, lease, LONG) == Ok(lease)
                assert await redlock.unlock(resource, lease) == Ok(None)

        with three.proxies[2].flapping(0.2):
            await asyncio.gather(*map(work, range(4)))
        assert min(made.values()) > 10
        assert len(three.proxies[2].wires) > 5
        await soon(lambda: states(redlock.status()) == ["up"] * 3)
        await nothing_left(three.servers)
        assert [len(proxy.live()) for proxy in three.proxies] == [1] * 3
        assert group_status(redlock.status()).servers[2].pending_releases == 0
        await soon(lambda: asyncio.all_tasks() == tasks)
        await soon(lambda: alive() == connections)  # the last one is remembered until the next health check


def alive() -> int:
    """How many connections are in this process's memory."""
    gc.collect()
    return sum(isinstance(thing, Connection) for thing in gc.get_objects())


DIRECTIONS = {"both": (), "there": (Side.COMMAND,), "back": (Side.REPLY,)}


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_minority_in_a_black_hole_falls_silent_and_comes_back(stage: Scene, face: str, direction: str) -> None:
    three = part(stage, health_check_interval=2000)
    dark = three.proxies[2]
    async with supervisor_of(face, three.options) as redlock:
        before = await locked(redlock, "before")
        await soon(lambda: len(before.held_on) == 3)
        dark.black_hole(*DIRECTIONS[direction])
        first = await locked(redlock, "first")
        await soon(lambda: states(redlock.status())[2] == "silent")
        seen = len(dark.seen)
        for i in range(20):
            lease = await locked(redlock, f"a{i}")
            assert lease.votes[2].vote is Vote.ABSENT
            assert lease.votes[2].detail
            assert await redlock.unlock(f"a{i}", lease) == Ok(None)
        assert not any(command.name == b"SET" for command in dark.seen[seen:])
        for resource, lease in (("before", before), ("first", first)):
            assert await redlock.unlock(resource, lease) == Ok(None)
        dark.light()
        await soon(lambda: states(redlock.status()) == ["up"] * 3)
        lease = await locked(redlock, "after")
        await soon(lambda: len(lease.held_on) == 3)
        await redlock.unlock("after", lease)
        await nothing_left(three.servers)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("direction", DIRECTIONS)
async def test_majority_in_a_black_hole_is_an_outage_in_time_and_then_over(
    stage: Scene, face: str, direction: str
) -> None:
    three = part(stage, health_check_interval=1000)  # longer than the server timeout: it would end the first wait
    dark = three.proxies[1:]
    async with supervisor_of(face, three.options) as redlock:
        lease = await locked(redlock, "before")
        for proxy in dark:
            proxy.black_hole(*DIRECTIONS[direction])
        began = time.monotonic()
        assert outage(await redlock.lock("a", LONG, wait=0)).elapsed >= TIMEOUT - GRAIN
        assert TIMEOUT - GRAIN <= time.monotonic() - began < 10 * TIMEOUT

        assert outage(await redlock.lock("b", LONG, wait=0)).elapsed < TIMEOUT  # they are known to be silent
        assert not [command for proxy in three.proxies for command in proxy.seen if about("b")(command.words)]
        began = time.monotonic()
        outage(await redlock.lock("c", LONG))
        assert time.monotonic() - began < 10 * longest_refusal()

        outage(await redlock.extend("before", lease, LONG))
        assert lease.valid
        outage(await redlock.unlock("before", lease))
        assert not lease.valid

        for proxy in dark:
            proxy.light()
        back = milliseconds(three.options, "health_check_interval") + milliseconds(FAST, "reconnection_interval_max")
        await soon(lambda: group_status(redlock.status()).available, 10 * back)
        lease = await locked(redlock, "d")
        await redlock.unlock("d", lease)
        await nothing_left(three.servers)


# Networks that lose packets


async def test_retransmissions_break_no_exclusion_and_every_refusal_is_true(stage: Scene) -> None:
    """A synchronous and an asyncio client, on resources that they share and on some that each has for itself."""
    three = part(stage, server_timeout=150, health_check_interval=1000, max_retry=1)
    holders: dict[str, AsyncLease] = {}
    told: Counter[str] = Counter()
    ends = time.monotonic() + 3

    async def work(redlock: AsyncSupervisor, name: str, rng: random.Random) -> None:
        turn = 0
        while time.monotonic() < ends or not turn:
            turn += 1
            mine = turn % 2
            resource = f"{name}-own" if mine else f"shared-{rng.randrange(2)}"
            match await redlock.lock(resource, LONG):
                case Ok(lease):
                    assert not (resource in holders and holders[resource].valid), resource
                    holders[resource] = lease
                    await asyncio.sleep(0.01)
                    assert holders.pop(resource) is lease
                    assert lease.valid
                    released = await redlock.unlock(resource, lease)
                    assert released in (Ok(None), Err("unavailable"))
                    told["ok"] += 1
                case Err("unavailable", error=QuorumUnavailable(votes=votes)):
                    votes_of = [vote.vote for vote in votes]
                    assert votes_of.count(Vote.ABSENT) >= 2 or votes_of.count(Vote.FOR) >= 2
                    told["unavailable"] += 1
                case Err("lock_failure", error=Contended(votes=votes)):
                    assert not mine
                    assert [vote.vote for vote in votes].count(Vote.ABSENT) <= 1
                    told["lock_failure"] += 1
                case other:
                    raise AssertionError(other)

    async with supervisor_of("asyncio", three.options) as one, supervisor_of("sync", three.options) as other:
        for proxy in three.proxies:
            proxy.weather(Conditions(lost=0.3, resent=0.2), Side.REPLY)
        async with asyncio.TaskGroup() as group:
            for client, redlock in (("a", one), ("b", other)):
                for number in range(2):
                    group.create_task(work(redlock, f"{client}{number}", random.Random(number)))
        for proxy in three.proxies:
            proxy.weather(Conditions())
        await nothing_left(three.servers)
    assert told["ok"] > 4
    assert told["unavailable"] > 0
