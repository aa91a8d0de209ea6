"""Leases that extend themselves, on servers that die, stop, fill up and forget, and in processes that stand still."""

from __future__ import annotations

import logging
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
from proxied_servers import FAST, PREFIX, group_of, group_status, left_on, milliseconds, soon, start_script, until
from proxy import ask

from redlock_cluster import AsyncLease, AsyncSupervisor, LeaseState, LossReason
from redlock_cluster.testing import EmbeddedCluster, EmbeddedServer

pytestmark = pytest.mark.usefixtures("clean_log", "everybody_connects")

SLACK = 0.25
"""Seconds that a busy machine may add to a bound."""

TTL = 1.2
"""Of what is to be extended soon, seconds."""

LONG = 600.0
"""Of what is hardly ever extended while a test lasts, so that nothing is learned by that."""

BINARIES = [None, *filter(None, [shutil.which("redis-server")])]
"""The servers of the extra `embedded`, and older ones without `SET IFEQ`."""

TIMEOUT = milliseconds(FAST, "server_timeout")


class Told:
    """What `on_lost` was called with, and when."""

    def __init__(self) -> None:
        self.reasons: list[LossReason] = []
        self.at: list[float] = []

    def __call__(self, _: AsyncLease, reason: LossReason) -> None:
        self.reasons.append(reason)
        self.at.append(time.monotonic())


@pytest.fixture(scope="module")
def lasting() -> Iterator[EmbeddedCluster]:
    """Five servers that know after a restart what they knew before."""
    with group_of(5, persistence=True) as five:
        yield five


@pytest.fixture(scope="module")
def forgetful() -> Iterator[EmbeddedCluster]:
    """Five servers that restart empty."""
    with group_of(5) as five:
        yield five


@pytest.fixture(scope="module", params=BINARIES, ids=lambda binary: Path(binary).name if binary else "embedded")
def versions(request: pytest.FixtureRequest) -> Iterator[EmbeddedCluster]:
    """Five servers of each kind."""
    with EmbeddedCluster(1, 5, options=FAST, binary=request.param) as five:
        yield five


@pytest.fixture
async def supervise() -> AsyncIterator[Callable[[EmbeddedCluster], AsyncSupervisor]]:
    """Makes a supervisor that knows all servers; at the end everything runs, is closed, and nothing is left."""
    made: list[tuple[EmbeddedCluster, AsyncSupervisor]] = []

    def make(cluster: EmbeddedCluster) -> AsyncSupervisor:
        made.append((cluster, AsyncSupervisor({**cluster.options, "restart_guard": False})))
        return made[-1][1]

    yield make
    for cluster, supervisor in made:
        await supervisor.close()
        for server in cluster.servers:
            server.resume() if server.alive else server.start()
            ask(server.port, "FLUSHALL")


def majority(cluster: EmbeddedCluster) -> tuple[EmbeddedServer, ...]:
    return cluster.servers[:3]


def minority(cluster: EmbeddedCluster) -> tuple[EmbeddedServer, ...]:
    return cluster.servers[3:]


def everywhere(servers: tuple[EmbeddedServer, ...], *words: str | bytes | int) -> list[object]:
    """What servers reply to a command of another client."""
    return [ask(server.port, *words) for server in servers]


def values(cluster: EmbeddedCluster, resource: str = "a") -> list[object]:
    return everywhere(cluster.servers, "GET", PREFIX + resource)


def take_over(servers: tuple[EmbeddedServer, ...], ttl: float = 60) -> None:
    assert everywhere(servers, "SET", f"{PREFIX}a", "stranger", "PX", int(ttl * 1000)) == [b"OK"] * len(servers)


def extensions(cluster: EmbeddedCluster) -> int:
    """How many `SET` servers have executed, by which these are extended."""
    stats = b"".join(everywhere(cluster.servers, "INFO", "commandstats"))  # type: ignore[arg-type]
    calls = [line.split(b"calls=")[1].split(b",")[0] for line in stats.splitlines() if line.startswith(b"cmdstat_set:")]
    return sum(map(int, calls))


async def kept(supervisor: AsyncSupervisor, told: Told, ttl: float, resource: str = "a") -> AsyncLease:
    """A lease that extends itself, on all servers."""
    lease: AsyncLease = (await supervisor.lock(resource, ttl, auto_extend=True, on_lost=told)).value
    await soon(lambda: len(lease.held_on) == 5)
    return lease


async def watched(servers: tuple[EmbeddedServer, ...]) -> None:
    """Returns when servers push if the lease changes, not only if queues do."""

    def tracked() -> bool:
        return all(b"tracking_total_keys:2\r" in info for info in everywhere(servers, "INFO", "stats"))  # type: ignore[operator]

    await soon(tracked)


async def passes(seconds: float, lease: AsyncLease) -> None:
    """A time passes in which the lease is valid."""
    end = time.monotonic() + seconds
    assert lease.valid
    await soon(lambda: time.monotonic() > end or not lease.valid, seconds + 5)
    assert lease.valid, lease


# Servers that are away


async def test_majority_that_is_killed_and_back_within_the_validity_holds_it(
    lasting: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(lasting) as supervisor:
        told, ttl = Told(), 6.0
        lease = await kept(supervisor, told, ttl)
        for server in majority(lasting):
            server.kill()
        await soon(lambda: lease.doubtful, ttl)
        assert lease.valid
        assert len(lease.held_on) == 5, "nothing is known of those that are away"
        for server in majority(lasting):
            server.start()
        await soon(lambda: lease.state is LeaseState.HELD, ttl)
        await passes(1.5 * ttl, lease)
        assert told.reasons == []
        assert not lease.doubtful
        assert lease.spare == 2
        await lease.release()
        await soon(lambda: left_on(lasting.servers) == {})


async def test_majority_that_comes_back_empty_has_lost_it_and_that_is_told_soon(
    forgetful: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(forgetful) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, LONG)
        await watched(forgetful.servers)
        for server in majority(forgetful):
            server.kill()
        for server in majority(forgetful):
            server.start()
        await soon(lambda: told.reasons, 4.0)
        assert told.reasons == [LossReason.GONE]
        assert not lease.valid
        assert left_on(forgetful.servers)
        assert not await supervisor.unlock("a", lease)
        await soon(lambda: left_on(forgetful.servers) == {})


async def test_majority_that_stays_away_loses_it_at_the_end_of_its_validity(
    forgetful: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(forgetful) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, TTL)
        for server in majority(forgetful):
            server.kill()
        await soon(lambda: lease.doubtful)
        end = time.monotonic() + lease.remaining
        await soon(lambda: told.reasons)
        assert 0 <= told.at[0] - end < SLACK
        assert (lease.state, lease.valid) == (LeaseState.LOST, False)
        for server in majority(forgetful):
            server.start()
        await soon(lambda: all(server.state.value == "up" for server in group_status(supervisor.status()).servers))
        await soon(lambda: left_on(forgetful.servers) == {})
        assert told.reasons == [LossReason.EXPIRED]


@pytest.mark.parametrize("many", [False, True], ids=["minority", "majority"])
async def test_servers_that_answer_late_change_nothing(
    forgetful: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor], many: bool
) -> None:
    async with supervise(forgetful) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, 3.0)
        late = majority(forgetful) if many else minority(forgetful)
        for _ in range(3):
            for server in late:
                server.pause()
            await passes(3 * TIMEOUT, lease)
            for server in late:
                server.resume()
            await passes(3.0 / 3, lease)
        await soon(lambda: lease.state is LeaseState.HELD and len(lease.held_on) == 5)
        assert told.reasons == []
        await lease.release()
        await soon(lambda: left_on(forgetful.servers) == {})


@pytest.mark.parametrize("extends", [True, False])
async def test_lease_on_a_bare_quorum_stands_on_all_servers_soon_after_they_are_back(
    forgetful: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor], extends: bool
) -> None:
    for server in minority(forgetful):
        server.kill()
    async with supervise(forgetful) as supervisor:
        lease = (await supervisor.lock("a", LONG, auto_extend=extends)).value
        assert (len(lease.held_on), lease.spare) == (3, 0)
        if extends:
            await watched(majority(forgetful))
        for server in minority(forgetful):
            server.start()
        await soon(lambda: len(lease.held_on) == 5)
        assert values(forgetful) == [lease.token.encode()] * 5
        assert lease.spare == 2
        left = [int(ms) / 1000 for ms in everywhere(minority(forgetful), "PTTL", f"{PREFIX}a")]  # type: ignore[call-overload]
        assert max(left) <= lease.remaining / 0.99 + 0.7, "longer than it is valid, and the margin for drift"
        await lease.release()
        await soon(lambda: left_on(forgetful.servers) == {})


# Servers that are full, or forget


async def test_full_servers_go_on_holding_it(
    versions: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(versions) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, TTL)
        everywhere(versions.servers, "CONFIG", "SET", "maxmemory", 1)
        try:
            assert all("OOM" in str(reply) for reply in everywhere(versions.servers, "SET", "other", "value"))
            await passes(3 * TTL, lease)
            assert lease.state is LeaseState.HELD
            await lease.release()
            await soon(lambda: left_on(versions.servers) == {})
        finally:
            everywhere(versions.servers, "CONFIG", "SET", "maxmemory", 0)
        assert told.reasons == []


async def test_scripts_that_are_flushed_are_sent_again(
    versions: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(versions) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, TTL)
        end = time.monotonic() + 3 * TTL
        while time.monotonic() < end:
            everywhere(versions.servers, "SCRIPT", "FLUSH")
            await passes(TTL / 10, lease)
        assert not lease.doubtful
        await lease.release()
        assert told.reasons == []


WAYS: dict[str, list[tuple[str | int, ...]]] = {
    "evicted": [("CONFIG", "SET", "maxmemory-policy", "allkeys-random"), ("CONFIG", "SET", "maxmemory", 1)],
    "flushed": [("FLUSHALL",)],
    "deleted": [("DEL", f"{PREFIX}a")],
    "taken over": [("SET", f"{PREFIX}a", "stranger", "PX", 60_000)],
}


@pytest.mark.parametrize("way", WAYS)
async def test_what_a_quorum_lost_is_told_within_a_second(
    versions: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor], way: str
) -> None:
    async with supervise(versions) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, LONG)
        await watched(versions.servers)
        before = time.monotonic()
        try:
            for words in WAYS[way]:
                everywhere(majority(versions), *words)
            await soon(lambda: told.reasons)
        finally:
            everywhere(versions.servers, "CONFIG", "SET", "maxmemory", 0)
            everywhere(versions.servers, "CONFIG", "SET", "maxmemory-policy", "noeviction")
        assert told.reasons == [LossReason.GONE]
        assert told.at[0] - before < 1
        assert lease.state is LeaseState.LOST
        assert not await supervisor.unlock("a", lease)
        kept_by_others = [b"stranger"] * 3 if way == "taken over" else [None] * 3
        await soon(lambda: values(versions) == [*kept_by_others, None, None])


async def test_without_the_right_to_be_told_a_loss_is_found_by_the_next_extension(
    versions: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    everywhere(versions.servers, "ACL", "SETUSER", "default", "-client|tracking")
    try:
        async with supervise(versions) as supervisor:
            told = Told()
            assert not any(server.wakes for server in group_status(supervisor.status()).servers)
            lease = await kept(supervisor, told, TTL)
            before = time.monotonic()
            everywhere(majority(versions), "DEL", f"{PREFIX}a")
            await soon(lambda: told.reasons)
            assert told.reasons == [LossReason.GONE]
            assert told.at[0] - before < TTL / 3 + SLACK
            assert lease.state is LeaseState.LOST
    finally:
        everywhere(versions.servers, "ACL", "SETUSER", "default", "+@all")


# Processes that stand still


async def test_loop_that_is_blocked_for_less_than_the_ttl_keeps_it_and_the_delay_is_logged(
    forgetful: EmbeddedCluster,
    supervise: Callable[[EmbeddedCluster], AsyncSupervisor],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with supervise(forgetful) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, 3 * TTL)
        with caplog.at_level(logging.WARNING, "redlock_cluster"):
            time.sleep(1.5 * TTL)
            assert lease.valid
            await passes(TTL / 2, lease)
        delays = [r.args for r in caplog.records if "has stood still" in r.getMessage()]
        assert len(delays) == 1
        (delay,) = delays[0]  # type: ignore[misc]
        assert TTL / 2 - 0.1 <= delay <= 1.5 * TTL + SLACK  # type: ignore[operator]
        assert told.reasons == []
        await lease.release()


async def test_loop_that_is_blocked_for_longer_has_lost_it_and_leaves_others_alone(
    forgetful: EmbeddedCluster, supervise: Callable[[EmbeddedCluster], AsyncSupervisor]
) -> None:
    async with supervise(forgetful) as supervisor:
        told = Told()
        lease = await kept(supervisor, told, TTL)
        until(lambda: left_on(forgetful.servers) == {})  # nothing of this process runs meanwhile
        take_over(forgetful.servers)
        before = extensions(forgetful)
        assert not lease.valid
        await soon(lambda: told.reasons)
        assert told.reasons == [LossReason.EXPIRED]
        again = time.monotonic() + 2 * TTL
        await soon(lambda: time.monotonic() > again)
        assert told.reasons == [LossReason.EXPIRED]
        assert values(forgetful) == [b"stranger"] * 5
        assert extensions(forgetful) == before


def test_process_that_is_stopped_for_longer_than_the_ttl_tells_the_loss_first_and_leaves_others_alone(
    forgetful: EmbeddedCluster,
) -> None:
    code = """
    import sys, time
    from redlock_cluster import Supervisor
    with Supervisor(sys.argv[1]) as redlock:
        lease = redlock.lock("a", 1.2, auto_extend=True, on_lost=lambda _, reason: print(reason.name, flush=True)).value
        print("held", flush=True)
        while lease.valid:
            time.sleep(0.001)
        time.sleep(3)
        print(lease.state.name, flush=True)
    """
    with start_script(code, str(forgetful.options_path)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        process.send_signal(signal.SIGSTOP)
        try:
            until(lambda: left_on(forgetful.servers) == {})
            take_over(forgetful.servers)
            before = extensions(forgetful)
        finally:
            process.send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        assert process.stdout.readline() == "EXPIRED\n"
        assert time.monotonic() - resumed < 1
        assert process.stdout.read() == "LOST\n"
        assert process.wait(10) == 0
    assert values(forgetful) == [b"stranger"] * 5
    assert extensions(forgetful) == before
    everywhere(forgetful.servers, "FLUSHALL")
