"""Servers that die, stall, vanish and come back, and networks that break at the worst moment."""

from __future__ import annotations

import asyncio
import errno
import random
import signal
import time
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterator

import pytest
from proxied_servers import (
    FAST,
    LONG,
    PREFIX,
    Scene,
    field_of,
    group_of,
    group_status,
    holder,
    keys,
    left_on,
    longest_refusal,
    milliseconds,
    nothing_left,
    put_foreign,
    scene,
    server_status,
    soon,
    start_script,
    states,
    supervisor_of,
    until,
)
from proxy import RELEASES, Act, Port, Seen, Wire, about, anything, ask, hangs_up, named, tell

from redlock_cluster import (
    AsyncLease,
    AsyncSupervisor,
    Contended,
    Err,
    LeaseLost,
    LeaseState,
    Ok,
    QuorumUnavailable,
    RedlockError,
    ServerVote,
    Supervisor,
    Vote,
)
from redlock_cluster.testing import EmbeddedCluster

pytestmark = pytest.mark.usefixtures("clean_log", "everybody_connects")

SLACK = 0.25
"""Seconds that a busy machine may add to a bound."""

TIMEOUT = milliseconds(FAST, "server_timeout")
OUTAGES = ("killed", "paused", "refused", "dark")
FACES = ("asyncio", "sync")


@pytest.fixture(scope="module")
def stage() -> Iterator[Scene]:
    with scene(5) as stage:
        yield stage


@pytest.fixture
def five(stage: Scene) -> Scene:
    return stage.part(5)


@pytest.fixture
def three(stage: Scene) -> Scene:
    return stage.part(3, pool_size=1)


@pytest.fixture
def one(stage: Scene) -> Scene:
    return stage.part(1, pool_size=1)


@pytest.fixture
async def redlock(request: pytest.FixtureRequest) -> AsyncIterator[AsyncSupervisor]:
    """A supervisor of whichever scene the test asks for."""
    name = next(name for name in ("five", "three", "one") if name in request.fixturenames)
    async with AsyncSupervisor(request.getfixturevalue(name).options) as redlock:
        yield redlock


def strike(five: Scene, outage: str, *indexes: int) -> None:
    for i in indexes:
        if outage == "killed":
            five.servers[i].kill()
        elif outage == "paused":
            five.servers[i].pause()
        elif outage == "refused":
            five.proxies[i].refuse()
            five.proxies[i].cut()
        else:
            five.proxies[i].black_hole()


def heal(five: Scene, outage: str, *indexes: int) -> None:
    for i in indexes:
        if outage == "killed":
            five.servers[i].start()
        elif outage == "paused":
            five.servers[i].resume()
        elif outage == "refused":
            five.proxies[i].accept()
        else:
            five.proxies[i].light()


def votes_of(outcome: object) -> tuple[ServerVote, ...]:
    assert isinstance(outcome, Err)
    assert isinstance(outcome.error, Contended | QuorumUnavailable | LeaseLost), outcome.error
    return outcome.error.votes


def absent(outcome: object) -> int:
    return sum(vote.vote is Vote.ABSENT for vote in votes_of(outcome))


async def locked(redlock: AsyncSupervisor, resource: str = "a", ttl: float = LONG) -> AsyncLease:
    match await redlock.lock(resource, ttl, wait=0):
        case Ok(lease):
            return lease
        case refusal:
            raise AssertionError(refusal)


# A minority is away


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_two_of_five_away_still_locks_without_delay(five: Scene, outage: str, face: str) -> None:
    async with supervisor_of(face, five.options) as redlock:
        strike(five, outage, 1, 3)
        slow = []
        for i in range(30):
            began = time.monotonic()
            lease = await locked(redlock, f"a{i}")
            assert (await redlock.extend(f"a{i}", lease, LONG)) == Ok(lease)
            assert (await redlock.unlock(f"a{i}", lease)) == Ok(None)
            slow.append(time.monotonic() - began)
        # Not even the first ones wait for those who are away; the median is not fooled by a busy machine.
        assert sorted(slow)[15] < TIMEOUT / 3, slow
        heal(five, outage, 1, 3)
        await soon(lambda: states(redlock.status()) == ["up"] * 5)
        await nothing_left(five.servers)


async def test_a_server_of_each_kind_away_is_told_in_status_and_votes(five: Scene, redlock: AsyncSupervisor) -> None:
    strike(five, "killed", 0)
    strike(five, "refused", 1)
    strike(five, "dark", 2)
    await soon(lambda: states(redlock.status())[:3] == ["down"] * 3, what="states")
    assert states(redlock.status())[3:] == ["up", "up"]
    assert not redlock.status().available
    for proxy in five.proxies[:3]:
        assert server_status(redlock.status(), proxy.name).last_error
        assert server_status(redlock.status(), proxy.name).connections == 0
    refusal = await redlock.lock("a", LONG, wait=0)
    assert refusal == Err("unavailable")
    assert [vote.vote for vote in votes_of(refusal)[:3]] == [Vote.ABSENT] * 3
    assert all(vote.detail for vote in votes_of(refusal)[:3])
    assert [vote.server for vote in votes_of(refusal)] == [proxy.name for proxy in five.proxies]


# A majority is away


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_three_of_five_away_says_unavailable_in_bounded_time(five: Scene, outage: str, face: str) -> None:
    async with supervisor_of(face, five.options) as redlock:
        strike(five, outage, 0, 2, 4)
        bound = longest_refusal() + SLACK
        for _ in range(3):  # at first undetected, later known
            began = time.monotonic()
            refusal = await redlock.lock("a", LONG)
            assert time.monotonic() - began < bound
            assert refusal == Err("unavailable")
            assert isinstance(refusal.error, QuorumUnavailable)
            assert absent(refusal) == 3
            assert 0 < refusal.error.elapsed < TIMEOUT + SLACK
        await nothing_left((five.servers[1], five.servers[3]), 1)
        heal(five, outage, 0, 2, 4)
        await soon(lambda: states(redlock.status()) == ["up"] * 5)
        await locked(redlock)


@pytest.mark.parametrize("outage", OUTAGES)
async def test_three_away_and_two_held_by_another_says_unavailable_never_held(
    five: Scene, redlock: AsyncSupervisor, outage: str
) -> None:
    for i in (1, 3):
        put_foreign(five.servers[i], "a")
    strike(five, outage, 0, 2, 4)
    deadline = time.monotonic() + 1.5  # over the time of detection, every way to ask
    asked = 0
    while time.monotonic() < deadline:
        for wait in (0, 0.02):
            refusal = await redlock.lock("a", LONG, wait=wait)
            assert refusal == Err("unavailable"), refusal.error
        with pytest.raises(QuorumUnavailable):
            async with redlock.mutex("a", LONG, wait=0):
                pass
        with pytest.raises(QuorumUnavailable):
            await redlock.mutex("a", LONG).acquire(blocking=False)
        with pytest.raises(QuorumUnavailable):
            await redlock.is_locked("a")
        assert await redlock.transaction("a", LONG, lambda: pytest.fail("ran"), wait=0) == Err("unavailable")
        asked += 1
    assert asked > 1


async def test_three_away_one_held_one_free_says_unavailable_and_frees_it(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    foreign = put_foreign(five.servers[1], "a")
    strike(five, "paused", 0, 2, 4)
    assert await redlock.lock("a", LONG) == Err("unavailable")
    await nothing_left((five.servers[3],), 1)
    assert holder(five.servers[1], "a") == foreign


async def test_two_away_and_three_held_by_another_says_lock_failure(five: Scene, redlock: AsyncSupervisor) -> None:
    for i in (1, 2, 3):
        put_foreign(five.servers[i], "a")
    strike(five, "killed", 0)
    strike(five, "paused", 4)
    refusal = await redlock.lock("a", LONG, wait=0)
    assert refusal == Err("lock_failure")
    assert isinstance(refusal.error, Contended)
    assert await redlock.is_locked("a")


async def test_outage_that_ends_while_waiting_lets_the_waiter_in(five: Scene, redlock: AsyncSupervisor) -> None:
    strike(five, "refused", 0, 2, 4)
    waiter = asyncio.create_task(redlock.lock("a", LONG, wait=10))
    await asyncio.sleep(0.1)
    heal(five, "refused", 0, 2, 4)
    assert isinstance(await waiter, Ok)


async def test_outage_then_contention_is_told_by_the_last_attempt(five: Scene, redlock: AsyncSupervisor) -> None:
    for server in five.servers:
        put_foreign(server, "a")
    strike(five, "refused", 0, 1, 2)
    waiter = asyncio.create_task(redlock.lock("a", LONG, wait=0.6))
    await asyncio.sleep(0.05)
    heal(five, "refused", 0, 1, 2)
    assert await waiter == Err("lock_failure")


async def test_extend_and_unlock_during_an_outage_say_unavailable_and_mend_afterwards(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    lease, other = await locked(redlock, "a"), await locked(redlock, "b")
    strike(five, "dark", 0, 2, 4)
    assert await redlock.extend("a", lease, LONG) == Err("unavailable")
    assert lease.state is LeaseState.UNKNOWN
    assert lease.valid
    assert await redlock.unlock("b", other) == Err("unavailable")
    assert not other.valid
    heal(five, "dark", 0, 2, 4)
    await soon(lambda: states(redlock.status()) == ["up"] * 5)
    assert await redlock.extend("a", lease, LONG) == Ok(lease)
    assert lease.state is LeaseState.HELD
    await soon(lambda: all(holder(server, "b") is None for server in five.servers))
    assert await redlock.unlock("a", lease) == Ok(None)
    await nothing_left(five.servers)


async def test_lease_that_expires_during_an_outage_is_lost_and_its_token_goes(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    lease = await locked(redlock, "a", ttl=0.4)
    strike(five, "dark", 0, 2, 4)
    await soon(lambda: not lease.valid)
    assert lease.state is LeaseState.LOST
    assert await redlock.unlock("a", lease) == Err("not_held")
    with pytest.raises(LeaseLost):
        await lease.extend()


async def test_batch_over_two_groups_of_which_one_is_away_is_told_one_by_one(stage: Scene) -> None:
    stage.mend()
    options = {
        **FAST,
        "cluster": [
            {"name": "near", "servers": [{"port": proxy.port} for proxy in stage.proxies[:3]]},
            {"name": "far", "servers": [{"port": stage.proxies[3].port}]},
        ],
    }
    async with AsyncSupervisor(options) as redlock:
        resources = [f"a{i}" for i in range(20)]
        groups = [redlock.group_for(resource) for resource in resources]
        assert set(groups) == {"near", "far"}
        strike(stage, "dark", 3)
        strike(stage, "dark", 0)
        for _ in range(2):  # at first undetected, then known
            began = time.monotonic()
            outcomes = await redlock.lock_many(resources, LONG)
            assert time.monotonic() - began < TIMEOUT + SLACK
            for outcome, group in zip(outcomes, groups, strict=True):
                assert outcome == Err("unavailable") if group == "far" else isinstance(outcome, Ok)
            leases = [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]
            assert await redlock.extend_many(leases) == [Ok(lease) for lease in leases]
            assert await redlock.unlock_many(leases) == [Ok(None)] * len(leases)
        heal(stage, "dark", 0, 3)
        await nothing_left(stage.servers)


async def test_batch_whose_releases_are_lost_is_unknown_and_made_up_for(five: Scene, redlock: AsyncSupervisor) -> None:
    outcomes = await redlock.lock_many([f"a{i}" for i in range(10)], LONG)
    leases = [outcome.value for outcome in outcomes if isinstance(outcome, Ok)]
    assert len(leases) == 10
    strike(five, "refused", 0, 2, 4)
    assert await redlock.unlock_many(leases) == [Err("unavailable")] * 10
    heal(five, "refused", 0, 2, 4)
    await nothing_left(five.servers)
    assert Err("not_held") not in await redlock.unlock_many(leases)


# Detection


async def test_paused_servers_are_found_without_any_traffic(five: Scene, redlock: AsyncSupervisor) -> None:
    strike(five, "paused", 0, 2, 4)
    began = time.monotonic()
    await soon(lambda: not redlock.status().available)
    # Only each fifth check asks what nobody uses; the next finds that it was not answered.
    assert time.monotonic() - began < 7 * milliseconds(FAST, "health_check_interval") + SLACK
    for i in range(20):
        began = time.monotonic()
        assert await redlock.lock(f"a{i}", LONG, wait=0) == Err("unavailable")
        assert time.monotonic() - began < TIMEOUT / 2


async def test_paused_server_is_silent_after_one_timeout_then_down_then_up_again(stage: Scene) -> None:
    three = stage.part(3, health_check_interval=400)
    async with AsyncSupervisor(three.options) as redlock:
        strike(three, "paused", 0, 1)
        assert states(redlock.status()) == ["up"] * 3
        assert await redlock.lock("a", LONG, wait=0) == Err("unavailable")
        assert states(redlock.status()) == ["silent", "silent", "up"]
        assert not redlock.status().available
        began = time.monotonic()
        refusal = await redlock.lock("a", LONG, wait=0)
        assert refusal == Err("unavailable")
        assert time.monotonic() - began < TIMEOUT / 2
        assert [vote.vote for vote in votes_of(refusal)[:2]] == [Vote.ABSENT] * 2
        await soon(lambda: states(redlock.status()) == ["down", "down", "up"])
        heal(three, "paused", 0, 1)
        await soon(lambda: states(redlock.status()) == ["up"] * 3)
        assert server_status(redlock.status(), three.proxies[0].name).last_error  # what happened stays told
        await nothing_left(three.servers)


async def test_silent_server_that_answers_again_votes_again_on_the_same_connection(stage: Scene) -> None:
    three = stage.part(3, health_check_interval=5000, pool_size=1)
    async with AsyncSupervisor(three.options) as redlock:
        strike(three, "paused", 0, 1)
        assert await redlock.lock("a", LONG, wait=0) == Err("unavailable")
        heal(three, "paused", 0, 1)
        await soon(lambda: states(redlock.status()) == ["up"] * 3)
        lease = await locked(redlock, "a")
        assert await redlock.unlock("a", lease) == Ok(None)
        assert sum(server.reconnects for server in group_status(redlock.status()).servers) == 0
        await nothing_left(three.servers)


async def test_pool_with_one_connection_cut_is_partial_and_never_lends_the_other(stage: Scene) -> None:
    one = stage.part(1, pool_size=2)
    proxy = one.proxies[0]

    async def tried() -> dict[str, int | None]:
        """Which wire carried each resource, None where none did."""
        before = len(proxy.forwarded)
        for i in range(40):
            match await redlock.lock(f"a{i}", LONG, wait=0):
                case Ok(lease):
                    assert await redlock.unlock(f"a{i}", lease) == Ok(None)
                case refusal:
                    assert refusal == Err("unavailable")
        carried = {seen.words[1].decode(): seen.wire for seen in proxy.forwarded[before:] if seen.name == b"SET"}
        return {f"a{i}": carried.get(f"{PREFIX}a{i}") for i in range(40)}

    async with AsyncSupervisor(one.options) as redlock:
        whole = await tried()
        assert set(whole.values()) == {0, 1}
        proxy.refuse()
        proxy.wires[0].cut()
        await soon(lambda: states(redlock.status()) == ["partial"])
        assert server_status(redlock.status(), proxy.name).connections == 1
        assert redlock.status().available
        assert await tried() == {resource: wire or None for resource, wire in whole.items()}
        proxy.accept()
        await soon(lambda: states(redlock.status()) == ["up"])
        new = proxy.live()[-1].number
        assert await tried() == {resource: wire or new for resource, wire in whole.items()}
        await nothing_left(one.servers)


async def test_loop_that_stands_still_takes_the_votes_that_came_meanwhile(
    five: Scene, redlock: AsyncSupervisor
) -> None:
    await asyncio.sleep(milliseconds(FAST, "health_check_interval") / 2)
    acquiring = asyncio.create_task(redlock.lock("a", LONG, wait=0))
    sent = about("a", b"SET")
    await soon(lambda: all(any(sent(seen.words) for seen in proxy.forwarded) for proxy in five.proxies))
    time.sleep(2.5 * milliseconds(FAST, "health_check_interval"))  # longer than every timeout
    outcome = await acquiring
    assert isinstance(outcome, Ok), outcome
    await asyncio.sleep(0.05)
    assert states(redlock.status()) == ["up"] * 5
    assert sum(server.reconnects for server in group_status(redlock.status()).servers) == 0


SUSPENDED = """
import ast, asyncio, sys
from redlock_cluster import AsyncSupervisor, Ok, Supervisor

options = ast.literal_eval(sys.argv[1])

async def main():
    async with AsyncSupervisor(options) as redlock:
        return await redlock.lock("a", 30, wait=5), redlock.status()

if sys.argv[2] == "asyncio":
    outcome, status = asyncio.run(main())
else:
    with Supervisor(options) as redlock:
        outcome, status = redlock.lock("a", 30, wait=5), redlock.status()
print(isinstance(outcome, Ok), sum(server.reconnects for server in status.clusters[0].groups[0].servers))
"""


@pytest.mark.parametrize("face", FACES)
def test_suspended_process_takes_the_votes_that_came_meanwhile(stage: Scene, face: str) -> None:
    """When it goes on, timers are due that are older than the replies in its sockets."""
    five = stage.part(5, pool_size=1, server_timeout=2000, health_check_interval=1000)
    for proxy in five.proxies:
        proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
    with start_script(SUSPENDED, repr(five.options), face) as process:
        try:
            until(lambda: five.holding(replies=True) == 5, 10)
            time.sleep(1.2)  # a health check finds that nothing was heard since the one before
            process.send_signal(signal.SIGSTOP)
            five.go()
            time.sleep(1.3)
            process.send_signal(signal.SIGCONT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (out, err) == ("True 0\n", "")
    for proxy in five.proxies:
        assert sum(about("a", b"SET")(seen.words) for seen in proxy.seen) == 1, "it had to try again"


# Coming back


@pytest.mark.parametrize("noticed", [False, True])
async def test_paused_server_resumed_has_nothing_stale_left(five: Scene, noticed: bool) -> None:
    options = {**five.options, "health_check_interval": 200 if noticed else 10_000}
    async with AsyncSupervisor(options) as redlock:
        strike(five, "paused", 2)
        for i in range(50):
            lease = await locked(redlock, f"a{i}")
            if i % 2:
                assert await redlock.unlock(f"a{i}", lease) == Ok(None)
            else:
                acquiring = asyncio.create_task(redlock.lock(f"b{i}", LONG, wait=0))
                await asyncio.sleep(0)
                acquiring.cancel()
                await asyncio.gather(acquiring, return_exceptions=True)
                await lease.release()
        if noticed:
            await soon(lambda: states(redlock.status())[2] == "down")
            assert server_status(redlock.status(), five.proxies[2].name).pending_releases > 0
        heal(five, "paused", 2)
        await soon(lambda: states(redlock.status())[2] == "up")
        await nothing_left(five.servers)
        assert server_status(redlock.status(), five.proxies[2].name).pending_releases == 0


@pytest.mark.parametrize("outage", ["paused", "refused", "dark", "restarted"])
async def test_lease_released_while_a_server_is_away_is_gone_when_it_returns(outage: str) -> None:
    with scene(5, persistence=True) as five:
        async with AsyncSupervisor(five.options) as redlock:
            leases = [await locked(redlock, f"a{i}") for i in range(10)]
            await soon(lambda: all(len(found) == 10 for found in five.left()))
            kind = "killed" if outage == "restarted" else outage
            strike(five, kind, 4)
            for i, lease in enumerate(leases):
                assert await redlock.unlock(f"a{i}", lease) == Ok(None)
            await nothing_left(five.servers[:4])
            await asyncio.sleep(0.3)
            heal(five, kind, 4)
            await nothing_left(five.servers, 2)


async def test_token_pending_while_the_server_refuses_releases_is_released_later(three: Scene) -> None:
    async with AsyncSupervisor(three.options) as redlock:
        lease = await locked(redlock)
        await soon(lambda: all(three.left()))
        for text in (
            b"-LOADING Redis is loading the dataset in memory\r\n",
            b"-BUSY Redis is busy running a script\r\n",
        ):
            three.proxies[2].on(Act.ANSWER, about("a", *RELEASES), answer=text, times=1)
        assert await redlock.unlock("a", lease) == Ok(None)
        await nothing_left(three.servers, 3)


# A nemesis


Inside = dict[str, list[AsyncLease]]
"""Who has each resource; two may be there, where the first was held up for longer than its ttl."""


def lasting(seconds: float, told: Counter[str], locks: int) -> Callable[[], bool]:
    """Says when it is over: after so many seconds and so many locks, but in half a minute at most."""
    began = time.monotonic()

    def over() -> bool:
        passed = time.monotonic() - began
        return passed > 30 or (passed > seconds and told["locked"] > locks)

    return over


async def hammer(
    redlock: AsyncSupervisor, ttl: float, over: Callable[[], bool], inside: Inside, told: Counter[str]
) -> None:
    """Locks and unlocks until it is over, and counts what it was told."""
    while not over():
        resource = random.choice(("a", "b"))
        match await redlock.lock(resource, ttl, wait=0.1):
            case Ok(lease):
                assert lease.valid
                assert not any(other.valid for other in inside[resource]), f"{resource} is held twice"
                inside[resource].append(lease)
                await asyncio.sleep(random.uniform(0, 0.004))
                inside[resource].remove(lease)
                ended = await redlock.unlock(resource, lease)
                told["locked"] += 1
                told["released" if isinstance(ended, Ok) else f"release {ended.reason}"] += 1
            case Err(reason):
                told[reason] += 1
        await asyncio.sleep(0)


async def torment(cluster: EmbeddedCluster, over: Callable[[], bool], rng: random.Random, away: float) -> None:
    """Strikes one or two servers at a time, with everything that can happen to a process."""
    while not over():
        victims = rng.sample(cluster.servers, rng.choice((1, 2)))
        dead = [victim for victim in victims if rng.random() < 0.6]
        for victim in victims:
            await asyncio.to_thread(victim.kill if victim in dead else victim.pause)
        await asyncio.sleep(away if dead else rng.uniform(0.02, 0.4))
        for victim in victims:
            await asyncio.to_thread(victim.start if victim in dead else victim.resume)
        await asyncio.sleep(rng.uniform(0, 0.15))


@pytest.mark.parametrize("memory", ["kept", "lost"])
async def test_servers_killed_paused_and_restarted_never_break_exclusion(memory: str) -> None:
    # A server that comes back empty stays away longer than the ttl, as the protocol asks.
    ttl, away = (LONG, 0.1) if memory == "kept" else (0.3, 0.35)
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    inside, told = defaultdict[str, list[AsyncLease]](list), Counter[str]()
    with group_of(5, persistence=memory == "kept") as cluster:
        async with AsyncSupervisor(cluster.options) as first, AsyncSupervisor(cluster.options) as second:
            over = lasting(1.5, told, 30)
            async with asyncio.TaskGroup() as tasks:
                for redlock in (first, first, first, second, second, second):
                    tasks.create_task(hammer(redlock, ttl, over, inside, told))
                tasks.create_task(torment(cluster, over, random.Random(seed), away))
            for redlock in (first, second):
                await soon(lambda redlock=redlock: states(redlock.status()) == ["up"] * 5)  # type: ignore[misc]
            print(told)
            assert told["locked"] > 30
            assert told["released"] > 0.8 * told["locked"]
            assert told["release not_held"] == 0 or memory == "lost"
            await nothing_left(cluster.servers, 3)
            lease = await locked(first)
            assert await first.unlock("a", lease) == Ok(None)


# Starting


@pytest.mark.parametrize("face", FACES)
async def test_start_with_every_server_down_returns_and_locks_when_they_come(face: str) -> None:
    with group_of(3) as cluster:
        for server in cluster.servers:
            server.kill()
        began = time.monotonic()
        async with supervisor_of(face, cluster.options) as redlock:
            assert time.monotonic() - began < milliseconds(FAST, "connect_timeout") + SLACK
            assert states(redlock.status()) == ["down"] * 3
            for server in group_status(redlock.status()).servers:
                assert "refused" in server.last_error.lower() or str(errno.ECONNREFUSED) in server.last_error
            refusal = await redlock.lock("a", LONG)
            assert refusal == Err("unavailable")
            assert absent(refusal) == 3
            for server in cluster.servers:
                server.start()
            await soon(lambda: redlock.status().available, 2)
            await soon(lambda: states(redlock.status()) == ["up"] * 3, 2)
            lease = await locked(redlock)
            assert await redlock.unlock("a", lease) == Ok(None)


@pytest.mark.parametrize("face", FACES)
@pytest.mark.parametrize("dark", [1, 3])
async def test_start_with_black_holes_takes_at_most_the_connect_timeout(stage: Scene, face: str, dark: int) -> None:
    three = stage.part(3, connect_timeout=300)
    strike(three, "dark", *range(dark))
    began = time.monotonic()
    async with supervisor_of(face, three.options) as redlock:
        assert time.monotonic() - began < 0.3 + SLACK
        await soon(lambda: states(redlock.status())[:dark] == ["down"] * dark)
        assert all(server.last_error for server in group_status(redlock.status()).servers[:dark])
        expected = Ok if dark == 1 else Err
        assert isinstance(await redlock.lock("a", LONG, wait=0), expected)


@pytest.mark.parametrize("lazily", [False, True])
async def test_lock_right_after_start_never_says_unavailable(lazily: bool) -> None:
    with group_of(5, pool_size=4) as cluster:
        cluster.servers[1].kill()
        cluster.servers[2].kill()
        for i in range(8):
            redlock = AsyncSupervisor(cluster.options)
            if not lazily:
                await redlock.start()
            outcomes = await asyncio.gather(*(redlock.lock(f"a{i}-{j}", LONG, wait=0) for j in range(8)))
            assert all(isinstance(outcome, Ok) for outcome in outcomes), outcomes
            await redlock.close()


def test_synchronous_lock_right_after_start_never_says_unavailable() -> None:
    with group_of(5, pool_size=4) as cluster:
        cluster.servers[1].kill()
        cluster.servers[2].kill()
        for i in range(8):
            with Supervisor(cluster.options) as redlock:
                assert isinstance(redlock.lock(f"a{i}", LONG, wait=0), Ok)
        for i in range(8):
            redlock = Supervisor(cluster.options)
            assert isinstance(redlock.lock(f"b{i}", LONG, wait=0), Ok)
            redlock.close()


async def test_reconnection_interval_grows_from_base_to_maximum() -> None:
    options = {**FAST, "pool_size": 1, "reconnection_interval_base": 40, "reconnection_interval_max": 320}
    with Port(hangs_up) as port:
        async with AsyncSupervisor({"servers": [{"port": port.port}], **options}):
            await soon(lambda: len(port.dialled) >= 7, 10)
    gaps = [after - before for before, after in zip(port.dialled, port.dialled[1:], strict=False)]
    for n, gap in enumerate(gaps[:6]):
        d = min(0.32, 0.04 * 2**n)
        assert d / 2 - 0.005 < gap < d + 0.1, gaps


async def test_reconnection_after_a_success_starts_from_the_base_again(one: Scene) -> None:
    options = {**one.options, "reconnection_interval_base": 30, "reconnection_interval_max": 2000}
    async with AsyncSupervisor(options) as redlock:
        for _ in range(4):  # with an interval that kept growing this would take seconds
            one.proxies[0].cut()
            began = time.monotonic()
            await soon(lambda: states(redlock.status()) == ["down"], 1)
            await soon(lambda: states(redlock.status()) == ["up"], 3)
            assert time.monotonic() - began < 0.03 + SLACK


# The old connection


def number_of(wire: Wire) -> int:
    """The id that the server gave a wire's connection."""
    number = wire.reply_to(b"CLIENT", b"ID")
    assert isinstance(number, int)
    return number


def kills(commands: list[Seen], number: int) -> list[int]:
    """Where in the commands the connection of that id is killed."""
    wanted = (b"CLIENT", b"KILL", b"ID", str(number).encode())
    return [i for i, seen in enumerate(commands) if tuple(map(bytes.upper, seen.words[:4])) == wanted]


def releases(commands: list[Seen], resource: str) -> list[int]:
    """Where in the commands a token is released from a resource."""
    return [i for i, seen in enumerate(commands) if about(resource, *RELEASES)(seen.words)]


async def held_back(redlock: AsyncSupervisor, one: Scene, how: str = "cancelled") -> Wire:
    """Has a SET held back and its connection cut; the wire that holds it.

    how: whether the acquisition is cancelled before that (its release is lost on the way), or ends by it
    """
    proxy = one.proxies[-1]
    proxy.on(Act.HOLD, about("a", b"SET"))
    acquiring = asyncio.create_task(redlock.lock("a", LONG, wait=0))
    await soon(proxy.holding)
    (wire,) = proxy.holding()
    if how == "cancelled":
        acquiring.cancel()
        await soon(lambda: len(wire.commands) == 2, what="the release follows its SET")
    proxy.clear()
    wire.cut(keep=1)
    (outcome,) = await asyncio.gather(acquiring, return_exceptions=True)
    assert outcome == Err("unavailable") or isinstance(outcome, asyncio.CancelledError)
    return wire


def up_again(redlock: AsyncSupervisor, one: Scene, times: int = 1) -> bool:
    server = server_status(redlock.status(), one.proxies[-1].name)
    return server.state.value == "up" and server.reconnects >= times


@pytest.mark.parametrize("how", ["cancelled", "cut"])
async def test_successor_kills_the_old_connection_before_it_releases_what_was_sent_there(
    one: Scene, redlock: AsyncSupervisor, how: str
) -> None:
    proxy = one.proxies[0]
    old = await held_back(redlock, one, how)
    await soon(lambda: up_again(redlock, one))
    await soon(lambda: releases(proxy.forwarded, "a"))
    (killed,) = kills(proxy.forwarded, number_of(old))
    assert killed < min(releases(proxy.forwarded, "a"))
    assert proxy.forwarded[killed].wire != old.number
    old.go()
    await soon(lambda: old.server_closed, what="the server has closed the old connection")
    await asyncio.sleep(0.1)
    assert keys(one.servers[0]) == set()


async def test_set_that_lands_before_the_successor_comes_is_released_by_it(
    one: Scene, redlock: AsyncSupervisor
) -> None:
    proxy = one.proxies[0]
    proxy.refuse()
    old = await held_back(redlock, one)
    old.go()
    await soon(lambda: holder(one.servers[0], "a"))
    proxy.accept()
    await nothing_left(one.servers, 2)


async def test_restarted_server_is_sent_no_client_kill(one: Scene, redlock: AsyncSupervisor) -> None:
    proxy, server = one.proxies[0], one.servers[0]
    await held_back(redlock, one)
    proxy.refuse()
    proxy.cut()
    server.kill()
    server.start()
    before = len(proxy.forwarded)
    proxy.accept()
    await soon(lambda: states(redlock.status()) == ["up"])
    await soon(lambda: releases(proxy.forwarded[before:], "a"))
    assert [seen for seen in proxy.forwarded[before:] if seen.words[:2] == (b"CLIENT", b"KILL")] == []
    lease = await locked(redlock)
    assert await redlock.unlock("a", lease) == Ok(None)


async def test_kill_that_was_lost_with_its_connection_is_sent_by_the_next_one(
    one: Scene, redlock: AsyncSupervisor
) -> None:
    proxy = one.proxies[0]
    proxy.refuse()
    old = await held_back(redlock, one)
    proxy.on(Act.HOLD, lambda words: words[:2] == (b"CLIENT", b"KILL"))
    proxy.accept()
    await soon(lambda: [wire for wire in proxy.holding() if wire is not old])
    (second,) = (wire for wire in proxy.holding() if wire is not old)
    proxy.clear()
    second.cut()  # neither the kill nor the release has reached the server
    await soon(lambda: up_again(redlock, one, 2))
    await soon(lambda: releases(proxy.forwarded, "a"))
    old.go()
    await asyncio.sleep(0.1)
    await nothing_left(one.servers, 2)
    assert kills(proxy.forwarded, number_of(old)), "the first connection was never killed"


async def test_kill_that_the_server_refused_is_not_the_end_of_the_token(one: Scene, redlock: AsyncSupervisor) -> None:
    proxy = one.proxies[0]
    proxy.refuse()
    old = await held_back(redlock, one)
    refusal = b"-NOPERM this user has no permissions to run the 'client|kill' command\r\n"
    proxy.on(Act.ANSWER, lambda words: words[:2] == (b"CLIENT", b"KILL"), answer=refusal)
    proxy.accept()
    await soon(lambda: up_again(redlock, one))
    await soon(lambda: releases(proxy.forwarded, "a"))
    old.go()
    await nothing_left(one.servers, 2)


async def test_predecessor_that_can_not_be_named_is_not_the_end_of_the_token(one: Scene) -> None:
    proxy = one.proxies[0]
    proxy.on(Act.ANSWER, named(b"INFO"), answer=b"-NOPERM this user has no permissions to run the 'info' command\r\n")
    async with AsyncSupervisor(one.options) as redlock:
        old = await held_back(redlock, one)
        await soon(lambda: up_again(redlock, one))
        await soon(lambda: releases(proxy.forwarded, "a"))
        old.go()
        await soon(lambda: old.commands == deque())
        await nothing_left(one.servers, 2)


@pytest.mark.parametrize("when", ["before the release", "after the release"])
async def test_straggler_of_a_won_lease_on_a_cut_connection_leaves_nothing(
    three: Scene, redlock: AsyncSupervisor, when: str
) -> None:
    proxy = three.proxies[2]
    proxy.on(Act.HOLD, about("a", b"SET"))
    lease = await locked(redlock)
    assert len(lease.held_on) == 2
    await soon(proxy.holding)
    (old,) = proxy.holding()
    proxy.clear()
    if when == "before the release":
        old.cut(keep=1)
        await soon(lambda: up_again(redlock, three))
        assert await redlock.unlock("a", lease) == Ok(None)
    else:
        assert await redlock.unlock("a", lease) == Ok(None)
        old.cut(keep=1)
        await soon(lambda: up_again(redlock, three))
    await soon(lambda: releases(proxy.forwarded, "a"))
    old.go()
    await asyncio.sleep(0.1)
    await nothing_left(three.servers, 2)


async def test_lost_attempts_on_a_cut_connection_leave_nothing(three: Scene, redlock: AsyncSupervisor) -> None:
    foreign = [put_foreign(server, "a") for server in three.servers[:2]]
    proxy = three.proxies[2]
    proxy.on(Act.HOLD, about("a", b"SET"))
    assert await redlock.lock("a", LONG, wait=0) == Err("lock_failure")
    await soon(proxy.holding)
    (old,) = proxy.holding()
    proxy.clear()
    old.cut(keep=1)
    await soon(lambda: up_again(redlock, three))
    await soon(lambda: releases(proxy.forwarded, "a"))
    old.go()
    await asyncio.sleep(0.1)
    await nothing_left(three.servers[2:], 2)
    assert [holder(server, "a") for server in three.servers[:2]] == foreign


async def test_connection_cut_after_the_set_was_executed_counts_as_absent_and_leaves_nothing(
    three: Scene, redlock: AsyncSupervisor
) -> None:
    for proxy in three.proxies[1:]:
        proxy.on(Act.CUT, about("a", b"SET"), replies=True, times=1)
    refusal = await redlock.lock("a", LONG, wait=0)
    assert refusal == Err("unavailable")
    assert absent(refusal) == 2
    await nothing_left(three.servers, 2)


async def test_pushed_reply_that_nobody_asked_for_costs_the_connection_not_the_lock(
    three: Scene, redlock: AsyncSupervisor
) -> None:
    three.proxies[0].live()[0].inject(b"+OK\r\n")
    await soon(lambda: server_status(redlock.status(), three.proxies[0].name).reconnects == 1)
    lease = await locked(redlock)
    assert await redlock.unlock("a", lease) == Ok(None)


# Releases whose fate is unknown


async def test_release_whose_replies_were_lost_is_unknown_and_never_not_held(
    three: Scene, redlock: AsyncSupervisor
) -> None:
    lease = await locked(redlock)
    for proxy in three.proxies[1:]:
        proxy.on(Act.CUT, about("a", *RELEASES), replies=True, times=1)
    assert await redlock.unlock("a", lease) == Err("unavailable")
    assert lease.state is LeaseState.UNKNOWN
    assert not lease.valid
    await nothing_left(three.servers, 2)
    await soon(lambda: states(redlock.status()) == ["up"] * 3)
    again = await redlock.unlock("a", lease)
    assert again != Err("not_held"), again.error
    with pytest.raises(RedlockError) as told:
        await lease.extend()
    assert not isinstance(told.value, LeaseLost)


async def test_release_of_which_one_reply_was_lost_is_released(three: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    three.proxies[0].on(Act.CUT, about("a", *RELEASES), replies=True, times=1)
    assert await redlock.unlock("a", lease) == Ok(None)
    assert lease.state is LeaseState.RELEASED
    await nothing_left(three.servers, 2)
    assert await redlock.unlock("a", lease) == Err("not_held")


async def test_second_release_counts_the_deletions_of_the_first(three: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    await soon(lambda: all(three.left()))
    three.proxies[0].on(Act.CUT, about("a", *RELEASES), replies=True, times=1)  # deleted, reply lost
    three.proxies[1].on(Act.ANSWER, about("a", *RELEASES), answer=b"-BUSY not now\r\n", times=1)  # not deleted
    assert await redlock.unlock("a", lease) == Err("unavailable")  # deleted for certain: one
    await soon(lambda: states(redlock.status()) == ["up"] * 3)
    assert await redlock.unlock("a", lease) == Ok(None)  # one from before, one now
    await nothing_left(three.servers, 2)


@pytest.mark.parametrize("outage", ["refused", "dark", "paused"])
async def test_release_while_away_that_was_made_up_later_is_never_not_held(
    three: Scene, redlock: AsyncSupervisor, outage: str
) -> None:
    lease = await locked(redlock)
    await soon(lambda: all(three.left()))
    strike(three, outage, 0, 1)
    assert await redlock.unlock("a", lease) == Err("unavailable")
    if outage != "refused":
        await soon(lambda: states(redlock.status())[:2] == ["down"] * 2)
    heal(three, outage, 0, 1)
    await soon(lambda: states(redlock.status()) == ["up"] * 3)
    await nothing_left(three.servers, 2)  # by the supervisor itself, so the zeros that follow are its own doing
    again = await redlock.unlock("a", lease)
    assert again != Err("not_held"), again.error


async def test_release_answered_late_counts_when_asked_again(three: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    for proxy in three.proxies[:2]:
        proxy.on(Act.HOLD, about("a", *RELEASES), replies=True)
    assert await redlock.unlock("a", lease) == Err("unavailable")
    three.go()
    await nothing_left(three.servers, 2)
    await soon(lambda: states(redlock.status()) == ["up"] * 3)
    async with asyncio.timeout(5):  # servers of a busy machine may be late once more
        while await redlock.unlock("a", lease) != Ok(None):
            assert lease.state is not LeaseState.LOST
    assert lease.state is LeaseState.RELEASED


async def test_lease_whose_keys_vanished_is_told_as_not_held(three: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    await soon(lambda: all(three.left()))
    for server in three.servers[:2]:
        ask(server.port, "FLUSHALL")
    refusal = await redlock.unlock("a", lease)
    assert refusal == Err("not_held")
    assert isinstance(refusal.error, LeaseLost)
    await nothing_left(three.servers, 1)


async def test_extension_whose_replies_were_lost_leaves_the_shorter_belief(
    three: Scene, redlock: AsyncSupervisor
) -> None:
    lease = await locked(redlock, ttl=20)
    for proxy in three.proxies[:2]:
        proxy.on(Act.CUT, about("a"), replies=True, times=1)
    assert await redlock.extend("a", lease, 1) == Err("unavailable")
    assert lease.state is LeaseState.UNKNOWN
    assert lease.remaining < 1  # two servers may have taken the second
    await soon(lambda: states(redlock.status()) == ["up"] * 3)
    assert await redlock.extend("a", lease, 20) == Ok(lease)
    assert lease.remaining > 18
    assert await redlock.unlock("a", lease) == Ok(None)
    await nothing_left(three.servers)


async def test_extension_found_impossible_leaves_the_rest_to_its_user(three: Scene, redlock: AsyncSupervisor) -> None:
    lease = await locked(redlock)
    await soon(lambda: all(three.left()))
    for server in three.servers[1:]:
        ask(server.port, "FLUSHALL")
    assert await redlock.extend("a", lease, LONG) == Err("not_held")
    assert lease.state is LeaseState.LOST
    assert any(three.left())
    assert await redlock.unlock("a", lease) == Err("not_held")
    await nothing_left(three.servers, 2)


# Quorums that come too late


async def test_quorum_after_the_validity_is_unavailable_and_leaves_nothing(three: Scene) -> None:
    options = {**three.options, "server_timeout": 1000, "drift_factor": 0.9}
    async with AsyncSupervisor(options) as redlock:
        for proxy in three.proxies:
            proxy.on(Act.HOLD, about("a", b"SET"), replies=True)
        acquiring = asyncio.create_task(redlock.lock("a", 2, wait=0))  # validity: 2 s - 1.8 s - 2 ms
        await soon(lambda: three.holding(replies=True) == 3)
        await asyncio.sleep(0.25)
        three.go()
        refusal = await acquiring
        assert refusal == Err("unavailable")
        assert isinstance(refusal.error, QuorumUnavailable)
        await nothing_left(three.servers, 1)


async def test_grants_after_the_timeout_are_given_back(five: Scene, redlock: AsyncSupervisor) -> None:
    for proxy in five.proxies[:3]:
        proxy.on(Act.HOLD, about("a", b"SET"))
    assert await redlock.lock("a", LONG, wait=0) == Err("unavailable")
    five.go()
    await nothing_left(five.servers, 1)


async def test_short_ttl_waits_at_most_half_of_it(five: Scene, redlock: AsyncSupervisor) -> None:
    strike(five, "dark", 0, 1, 2)
    began = time.monotonic()
    assert await redlock.lock("a", 0.06, wait=0) == Err("unavailable")
    assert time.monotonic() - began < 0.03 + 0.06


# Closing


async def test_close_right_after_a_cancelled_acquisition_leaves_nothing(three: Scene) -> None:
    for i in range(10):
        redlock = await AsyncSupervisor(three.options).start()
        acquiring = asyncio.create_task(redlock.lock(f"a{i}", LONG, wait=0))
        for _ in range(i % 4):
            await asyncio.sleep(0)
        acquiring.cancel()
        await asyncio.gather(acquiring, return_exceptions=True)
        await redlock.close()
    await nothing_left(three.servers, 1)


async def test_close_releases_what_is_pending(three: Scene) -> None:
    redlock = await AsyncSupervisor({**three.options, "health_check_interval": 10_000}).start()
    lease = await locked(redlock)
    await soon(lambda: all(three.left()))
    three.proxies[2].on(Act.ANSWER, about("a", *RELEASES), answer=b"-BUSY not now\r\n", times=1)
    assert await redlock.unlock("a", lease) == Ok(None)
    await soon(lambda: server_status(redlock.status(), three.proxies[2].name).pending_releases == 1)
    await redlock.close()
    await nothing_left(three.servers, 1)


async def test_close_with_replies_held_back_ends_in_time_and_leaves_nothing(three: Scene) -> None:
    redlock = await AsyncSupervisor(three.options).start()
    for proxy in three.proxies:
        proxy.on(Act.HOLD, about("a", b"SET"))
    acquiring = asyncio.create_task(redlock.lock("a", LONG, wait=0))
    await soon(lambda: three.holding() == 3)
    acquiring.cancel()
    await asyncio.gather(acquiring, return_exceptions=True)
    began = time.monotonic()
    await redlock.close()
    assert time.monotonic() - began < TIMEOUT + SLACK
    three.go()
    await asyncio.sleep(0.05)
    await nothing_left(three.servers, 1)


async def test_close_with_servers_in_the_dark_ends_in_time(five: Scene) -> None:
    redlock = await AsyncSupervisor(five.options).start()
    lease = await locked(redlock)
    strike(five, "dark", 0, 1, 2, 3, 4)
    unlocking = asyncio.create_task(redlock.unlock("a", lease))
    await asyncio.sleep(0.01)
    began = time.monotonic()
    await redlock.close()
    assert time.monotonic() - began < TIMEOUT + SLACK
    assert await unlocking == Err("unavailable")


async def test_cluster_behind_a_flapping_network_keeps_its_promises(five: Scene, redlock: AsyncSupervisor) -> None:
    """Connections cut at random commands and replies: exclusion holds and nothing stays."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    inside, told = defaultdict[str, list[AsyncLease]](list), Counter[str]()
    over = lasting(1.5, told, 20)

    async def cutter() -> None:
        while not over():
            proxy = rng.choice(five.proxies)
            act = rng.choice((Act.CUT, Act.PASS_AND_CUT, Act.HOLD))
            proxy.on(act, anything, replies=rng.random() < 0.5, times=1)
            await asyncio.sleep(rng.uniform(0, 0.06))
            for wire in proxy.holding() + proxy.holding(replies=True):
                wire.cut()
            await asyncio.sleep(rng.uniform(0, 0.06))
            if rng.random() < 0.5:
                proxy.go()

    async with AsyncSupervisor(five.options) as second:
        async with asyncio.TaskGroup() as tasks:
            for supervisor in (redlock, redlock, second, second):
                tasks.create_task(hammer(supervisor, LONG, over, inside, told))
            tasks.create_task(cutter())
        five.go()
        print(told)
        assert told["locked"] > 20
        assert told["release not_held"] == 0
        for supervisor in (redlock, second):
            await soon(lambda supervisor=supervisor: states(supervisor.status()) == ["up"] * 5)  # type: ignore[misc]
        await nothing_left(five.servers, 3)


# What a test must not leave to chance: the tools themselves


def test_proxy_holds_one_command_and_those_after_it_until_told(one: Scene) -> None:
    proxy, server = one.proxies[0], one.servers[0]
    assert tell(proxy.port, ("SET", "x", "1"), ("GET", "x")) == [b"OK", b"1"]
    proxy.on(Act.ANSWER, named(b"GET"), answer=b"-ERR no\r\n", times=1)
    replies = tell(proxy.port, ("PING",), ("GET", "x"), ("GET", "x"))
    assert [str(reply) for reply in replies] == ["b'PONG'", "ERR no", "b'1'"]
    proxy.on(Act.HOLD, named(b"SET"))
    with pytest.raises(TimeoutError):
        tell(proxy.port, ("SET", "x", "2"), timeout=0.05)
    assert ask(server.port, "GET", "x") == b"1"
    proxy.go()
    assert ask(proxy.port, "GET", "x") == b"2"
    proxy.black_hole()
    with pytest.raises(TimeoutError):
        ask(proxy.port, "GET", "x", timeout=0.05)
    proxy.light()
    assert ask(proxy.port, "GET", "x") == b"2"
    info = ask(server.port, "INFO", "server")
    assert isinstance(info, bytes)
    assert field_of(info.decode(), "tcp_port") == str(server.port)
    assert left_on(one.servers) == {server.name: {"x"}}
