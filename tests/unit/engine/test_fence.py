"""Fences: how an acquisition gets its number, whatever numbers its servers have given out before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from copy import copy
from typing import Any

import pytest

from redlock_cluster import Err, Ok, QuorumUnavailable
from redlock_cluster.aio import AsyncLease, AsyncSupervisor
from redlock_cluster.core.queue import fence_key
from redlock_cluster.testing.simulation import Connection, SimulatedServer, Simulation

from .simulated import UNGUARDED

KEY = b"redlock:r"
FENCE = fence_key(KEY)
OPTIONS = {
    **UNGUARDED,
    "servers": [{"host": f"server{i}"} for i in range(3)],
    "server_timeout": "200ms",
    "max_retry": 0,
}
RECONNECTED = 6
"""Seconds after which a server that is back is asked again."""
HEALED = 3
"""Seconds after which votes are taken again that an extension has found to be missing."""
AHEAD = 1_000_000
"""Microseconds by which a number is ahead of the clock."""


class Scene:
    """Two clients, and three servers whose clocks agree."""

    def __init__(self, world: Simulation) -> None:
        self.network = world.network
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379") for i in range(3)]
        self.clients = [world.client(name, OPTIONS) for name in ("alice", "bob")]
        self.raised = 0
        world.network.on_command = self._note

    def _note(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        self.raised += len(words) == 7 and words[4:5] == [FENCE]

    def give(self, *numbers: int | None) -> None:
        """These are the last numbers of the servers, ahead of the clock; None: as it is."""
        for server, ahead in zip(self.servers, numbers, strict=True):
            if ahead is not None:
                number = round(server.clock.wall() * 1e6) + ahead
                self.tell(server, b"SET", FENCE, b"%d" % number)

    def tell(self, server: SimulatedServer, *words: bytes) -> bytes:
        return server.model.connect(lambda _: None).execute(list(words))

    def numbers(self) -> list[int]:
        """The last number of each server, 0 for none."""
        replies = [self.tell(server, b"GET", FENCE) for server in self.servers]
        return [0 if reply == b"$-1\r\n" else int(reply.split(b"\r\n")[1]) for reply in replies]


class Timeless:
    """A server that does not tell its time. A `Service`, and its own session."""

    def __init__(self, server: SimulatedServer) -> None:
        self._model = server.model
        self._inner: Any = None

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None]) -> Timeless:
        session = copy(self)
        session._inner = self._model.connect(push, killed)
        return session

    def execute(self, words: list[bytes]) -> bytes:
        reply: bytes = b"-NOPERM\r\n" if words[0] == b"TIME" else self._inner.execute(words)
        return reply

    def close(self) -> None:
        self._inner.close()


def played(play: Callable[[Scene, AsyncSupervisor, AsyncSupervisor], Awaitable[None]]) -> None:
    with Simulation(seed=1) as world:
        scene = Scene(world)

        async def main() -> None:
            for client in scene.clients:
                await client.supervisor.start()
            alice, bob = (client.supervisor for client in scene.clients)
            await play(scene, alice, bob)

        world.run(main)


async def held(supervisor: AsyncSupervisor, **named: Any) -> AsyncLease:
    result = await supervisor.lock("r", 10, wait=0, fenced=True, **named)
    assert isinstance(result, Ok), result
    return result.value


async def fence_of(supervisor: AsyncSupervisor, **named: Any) -> int:
    """Of an acquisition that is released at once."""
    lease = await held(supervisor, **named)
    assert await supervisor.unlock("r", lease) == Ok(None)
    assert lease.fence is not None
    return lease.fence


def test_servers_that_agree_give_out_the_time() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        clock = scene.servers[0].clock
        before = clock.wall() * 1e6
        lease = await held(alice)
        assert lease.fence is not None
        assert abs(lease.fence - before) < 1000
        assert (scene.numbers(), scene.raised) == ([lease.fence] * 3, 0)
        assert await alice.unlock("r", lease) == Ok(None)
        assert await fence_of(bob) > lease.fence

    played(play)


@pytest.mark.parametrize("ahead", [(AHEAD, AHEAD, AHEAD), (AHEAD, AHEAD, None), (0, AHEAD, 2 * AHEAD)], ids=str)
def test_the_greatest_number_counts_and_a_quorum_remembers_it(ahead: tuple[int | None, ...]) -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.give(*ahead)
        before = scene.numbers()
        fences = [await fence_of(alice), await fence_of(bob), await fence_of(alice)]
        assert fences == sorted(set(fences))
        assert fences[0] > sorted(before)[1], "at least one of any two servers had seen that"
        assert sum([number >= fences[-1] for number in scene.numbers()]) >= 2

    played(play)


def test_who_comes_next_by_other_servers_has_a_greater_one() -> None:
    """The greatest of plain counters would not do: 5, 1, 1 give 6 by the first two servers, then 3 by the others."""

    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.give(4 * AHEAD, None, None)
        scene.servers[2].crash()
        first = await fence_of(alice)
        assert scene.raised
        scene.servers[2].restart()
        await asyncio.sleep(RECONNECTED)
        scene.servers[0].crash()
        assert await fence_of(bob) > first

    played(play)


def test_a_number_that_comes_when_a_quorum_has_decided_changes_nothing() -> None:
    """Its caller looks at the lease later, so more servers may have voted by then."""

    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        fences = []
        for turn in range(60):
            scene.give(None, None, (turn + 1) * AHEAD)
            task = scene.clients[0].spawn(alice.lock("r", 10, wait=0, fenced=True))
            await asyncio.sleep(0.0003)
            scene.clients[0].pause()
            await asyncio.sleep(0.01)
            scene.clients[0].resume()
            result = await task
            assert isinstance(result, Ok)
            fences.append(result.value.fence)
            assert await alice.unlock("r", result.value) == Ok(None)
        assert all(fences)
        assert fences == sorted(set(fences))

    played(play)


def test_servers_that_vote_while_the_others_agree_are_asked_too() -> None:
    """The loss of one server does not fail what two others have granted and remember."""

    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.give(None, AHEAD, AHEAD)
        lost = scene.servers[0]

        def lose(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if connection.host is lost.host and words[4:5] == [FENCE] and len(words) == 8:
                scene.tell(lost, b"DEL", KEY)

        scene.network.on_command = lose
        scene.servers[2].host.slow = 0.02
        for _ in range(20):
            lease = await held(alice)
            assert lease.fence is not None
            await alice.unlock("r", lease)
            scene.give(None, AHEAD, AHEAD)

    played(play)


def test_no_lease_without_a_quorum_that_remembers_its_fence() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.give(AHEAD, None, None)
        scene.servers[2].crash()
        lost = scene.servers[1]

        def lose(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if connection.host is lost.host and words[4:5] == [FENCE] and reply == b":1\r\n":
                scene.tell(lost, b"DEL", KEY)

        scene.network.on_command = lose
        result = await alice.lock("r", 10, wait=0, fenced=True)
        assert isinstance(result, Err)
        assert isinstance(result.error, QuorumUnavailable)
        assert "too few servers agreed on its fence" in str(result.error)
        await asyncio.sleep(0.05)
        assert scene.tell(scene.servers[0], b"EXISTS", KEY) == b":0\r\n", "what was granted is given back"

    played(play)


def test_where_no_server_tells_its_time_each_gives_out_its_own_and_they_agree() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        for server in scene.servers:
            server.host.service = Timeless(server)
        scene.servers[1].clock.step(90)
        for client in scene.clients:
            await client.supervisor.close()
            await client.supervisor.start()
        fences = [await fence_of(supervisor) for supervisor in (alice, bob, alice)]
        assert fences == sorted(set(fences))
        assert scene.raised

    played(play)


def test_a_lock_without_a_fence_has_none_and_changes_none() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        result = await alice.lock("r", 10)
        assert isinstance(result, Ok)
        assert (result.value.fence, scene.numbers()) == (None, [0, 0, 0])

    played(play)


def test_a_reader_has_the_fence_of_who_last_held_the_lock_alone() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        none = await held(alice, mode="read")
        assert none.fence is None
        assert await alice.unlock("r", none) == Ok(None)
        fence = await fence_of(bob)
        reader = await held(alice, mode="read")
        assert (reader.fence, scene.numbers()) == (fence, [fence] * 3)
        assert await alice.unlock("r", reader) == Ok(None)
        assert await fence_of(bob) > fence

    played(play)


def test_a_server_whose_clock_is_wrong_gives_out_nothing_and_says_so() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.servers[1].clock.step(3600)
        lease = await held(alice)
        assert [vote.vote.name if vote.vote else None for vote in lease.votes] == ["FOR", "ABSENT", "FOR"]
        assert "clock" in lease.votes[1].detail
        assert await alice.unlock("r", lease) == Ok(None)
        scene.servers[2].clock.step(-3600)
        result = await alice.lock("r", 10, wait=0, fenced=True)
        assert isinstance(result, Err)
        assert result.reason == "unavailable"
        assert "a fence is about the time" in str(result.error)
        assert isinstance(await alice.lock("r", 10, wait=0), Ok), "without a fence that does not matter"

    played(play)


def test_a_server_that_takes_a_lease_again_remembers_its_fence() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        scene.give(AHEAD, AHEAD, AHEAD)
        lease = await held(alice)
        assert lease.fence is not None
        assert scene.tell(scene.servers[0], b"DEL", KEY, FENCE) == b":2\r\n"
        await lease.extend()
        await asyncio.sleep(HEALED)
        assert scene.numbers() == [lease.fence] * 3

    played(play)


@pytest.mark.parametrize("kept", [b"word", b"9007199254740991"], ids=["no number", "the end"])
def test_what_is_no_number_gives_out_nothing(kept: bytes) -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        for server in scene.servers:
            scene.tell(server, b"SET", FENCE, kept)
        result = await alice.lock("r", 10, wait=0, fenced=True)
        if kept == b"word":  # it is as none
            assert isinstance(result, Ok)
        else:
            assert isinstance(result, Err)
            assert "the fence has reached its end" in str(result.error)

    played(play)


def test_a_ticket_carries_the_fence_along() -> None:
    async def play(scene: Scene, alice: AsyncSupervisor, bob: AsyncSupervisor) -> None:
        lease = await held(alice)
        adopted = await bob.adopt(lease.detach())
        assert isinstance(adopted, Ok)
        assert adopted.value.fence == lease.fence

    played(play)
