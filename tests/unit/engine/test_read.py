"""Read locks, as the engine acquires, keeps and gives them back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redlock_cluster import Contended, ForcedRelease, LeaseLost, LeaseState, LossReason, NotHeld, QuorumUnavailable
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.queue import forced_key, side_keys
from redlock_cluster.core.read import READER
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.force import force_release
from redlock_cluster.engine.operation import Operation, outcome
from redlock_cluster.testing.simulation import Connection, SimulatedServer, Simulation

from .simulated import UNGUARDED

KEY = b"redlock:r"
OPTIONS = {
    **UNGUARDED,
    "servers": [{"host": f"server{i}"} for i in range(3)],
    "server_timeout": "200ms",
    "max_retry": 0,
}


class Scene:
    """Two clients, and three servers that they lock on."""

    def __init__(self, world: Simulation, options: dict[str, object]) -> None:
        self.network = world.network
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379") for i in range(3)]
        self.clients = [world.client(name, {**OPTIONS, **options}) for name in ("alice", "bob")]

    async def start(self) -> tuple[Engine, Engine]:
        for client in self.clients:
            await client.supervisor.start()
        alice, bob = (client.supervisor._deployments.engines["default"] for client in self.clients)
        return alice, bob

    def command(self, *words: bytes) -> list[bytes]:
        """What every server says to a command of another client."""
        return [server.model.connect(lambda _: None).execute(list(words)) for server in self.servers]

    def held_on(self) -> list[bool]:
        """Whether each server has the key."""
        return [reply == b":1\r\n" for reply in self.command(b"EXISTS", KEY)]

    def keys(self) -> list[bytes]:
        """How many of the lock's keys each server has."""
        return self.command(b"EXISTS", *side_keys(KEY))


def played(play: Callable[[Scene, Engine, Engine], Awaitable[None]], **options: object) -> None:
    with Simulation(seed=1) as world:
        scene = Scene(world, options)

        async def main() -> None:
            await play(scene, *await scene.start())

        world.run(main)


async def done(engine: Engine, operation: Operation[Any]) -> Any:
    return await outcome(operation, engine.loop)


async def lease_of(engine: Engine, mode: LockMode) -> LeaseRecord:
    record = await done(engine, engine.acquire("r", 60, 0, mode))
    assert isinstance(record, LeaseRecord), record
    return record


def test_readers_share_and_exclude_a_writer() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        first, second = await lease_of(alice, READER), await lease_of(bob, READER)
        refused = await done(alice, alice.acquire("r", 60, 0, EXCLUSIVE))
        assert isinstance(refused, Contended)
        assert await done(alice, alice.release("r", first)) is None
        assert isinstance(await done(alice, alice.acquire("r", 60, 0, EXCLUSIVE)), Contended)
        assert await done(bob, bob.release("r", second)) is None
        writer = await lease_of(alice, EXCLUSIVE)
        assert isinstance(await done(bob, bob.acquire("r", 60, 0, READER)), Contended)
        assert await done(alice, alice.release("r", writer)) is None
        assert scene.held_on() == [False] * 3

    played(play)


def test_script_that_no_server_knows_any_more_is_sent_in_full_once() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        sent: list[bytes] = []

        def note(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if words[0].startswith(b"EVAL"):
                sent.append(words[0])

        scene.network.on_command = note
        scene.command(b"SCRIPT", b"FLUSH")
        first = await lease_of(alice, READER)
        await asyncio.sleep(1)
        assert sorted(sent) == [b"EVAL"] * 3 + [b"EVALSHA"] * 3
        assert [str(vote.vote) for vote in alice.votes(first)] == ["Vote.FOR"] * 3
        del sent[:]
        await lease_of(bob, READER)
        await asyncio.sleep(0.1)
        assert sent == [b"EVALSHA"] * 3

    played(play)


def test_extension_and_inspection_go_by_the_mode() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        assert await done(bob, bob.inspect("r", READER)) is False
        reader = await lease_of(alice, READER)
        until = reader.valid_until
        await asyncio.sleep(30)
        assert await done(alice, alice.extend("r", reader, 60)) is reader
        assert reader.valid_until > until + 29
        assert await done(bob, bob.inspect("r", READER)) is False  # a reader would not be refused
        assert await done(bob, bob.inspect("r", EXCLUSIVE)) is True
        await done(alice, alice.release("r", reader))
        await lease_of(alice, EXCLUSIVE)
        assert await done(bob, bob.inspect("r", READER)) is True
        assert isinstance(await done(alice, alice.extend("r", reader, 60)), NotHeld)

    played(play)


def test_release_that_a_server_did_not_hear_stays_pending_in_the_words_of_its_mode() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        mine, theirs = await lease_of(alice, READER), await lease_of(bob, READER)
        scene.servers[0].crash()
        await asyncio.sleep(1)
        assert await done(alice, alice.release("r", mine)) is None
        scene.servers[0].restart()
        await asyncio.sleep(10)
        assert await done(bob, bob.release("r", theirs)) is None
        assert scene.held_on() == [False] * 3

    played(play)


def test_attempt_that_can_not_win_gives_back_in_the_words_of_its_mode() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        for server in scene.servers[1:]:
            server.freeze()
        assert isinstance(await done(alice, alice.acquire("r", 60, 0, READER)), QuorumUnavailable)
        for server in scene.servers[1:]:
            server.thaw()
        await asyncio.sleep(5)
        assert scene.held_on() == [False] * 3

    played(play)


def test_token_alone_is_extended_and_released_whatever_kind_it_is() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        reader, other = await lease_of(alice, READER), await lease_of(alice, READER)
        record = await done(bob, bob.extend("r", reader.token, 90))
        assert isinstance(record, LeaseRecord)
        assert record.mode is READER
        assert await done(bob, bob.extend("r", record, 90)) is record
        assert await done(bob, bob.release("r", reader.token)) is None
        assert scene.command(b"ZCARD", KEY) == [b":1\r\n"] * 3
        assert await done(bob, bob.release("r", other.token)) is None
        assert scene.held_on() == [False] * 3

    played(play)


def test_abandoned_reader_leaves_nothing_behind() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        alice.acquire("r", 60, None, READER).abandon()
        record = await lease_of(bob, READER)
        bob.abandon(record)
        assert record.state(bob.clock()) is LeaseState.RELEASED
        await asyncio.sleep(1)
        assert scene.held_on() == [False] * 3

    played(play)


def test_reader_that_dies_ends_with_its_own_ttl_whatever_others_do() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        dead, other = await done(alice, alice.acquire("r", 5, 0, READER)), await lease_of(bob, READER)
        await asyncio.sleep(6)
        assert await done(alice, alice.acquire("r", 5, 0, READER)), "who changes the set cleans it"
        assert scene.command(b"ZSCORE", KEY, dead.token) == [b"_\r\n"] * 3 or set(
            scene.command(b"ZSCORE", KEY, dead.token)
        ) == {b"$-1\r\n"}
        assert await done(bob, bob.release("r", other)) is None
        await asyncio.sleep(5.1)
        assert scene.held_on() == [False] * 3

    played(play)


def test_key_ends_with_the_last_reader_also_when_that_ends_earlier_than_another_would_have() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        longest = await lease_of(alice, READER)
        assert await done(bob, bob.acquire("r", 5, 0, READER))
        assert await done(alice, alice.release("r", longest)) is None
        assert all(4000 < int(reply[1:]) <= 5000 for reply in scene.command(b"PTTL", KEY))
        shortened = await lease_of(alice, READER)
        assert await done(alice, alice.extend("r", shortened, 2)) is shortened
        assert all(4000 < int(reply[1:]) <= 5000 for reply in scene.command(b"PTTL", KEY))
        await asyncio.sleep(5.1)
        assert scene.held_on() == [False] * 3

    played(play)


def test_reader_whose_time_is_over_is_not_extended_beside_others() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        await lease_of(bob, READER)
        token = (await done(alice, alice.acquire("r", 1, 0, READER))).token
        await asyncio.sleep(1.1)
        assert isinstance(await done(bob, bob.extend("r", token, 60)), LeaseLost)

    played(play)


def test_refused_reader_writes_nothing_at_the_key() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        await lease_of(alice, READER)
        changed: list[bytes] = []
        for server in scene.servers:
            session = server.model.connect(changed.append)
            session.execute([b"HELLO", b"3"])
            session.execute([b"CLIENT", b"TRACKING", b"ON"])
            session.execute([b"PTTL", KEY])
        writer = bob.acquire("r", 60, None, EXCLUSIVE)
        await asyncio.sleep(0.1)
        assert isinstance(await done(alice, alice.acquire("r", 60, 0, READER)), Contended)
        await asyncio.sleep(3)
        writer.abandon()
        assert changed == []

    played(play)


def test_vote_of_a_reader_is_taken_again_beside_another_but_not_beside_a_writer() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        client = scene.clients[0]
        lease = (await client.spawn(client.supervisor.lock("r", 60, mode="read"))).value
        only = scene.servers[0].model.connect(lambda _: None)
        only.execute([b"SET", KEY, b"another library's", b"PX", b"4000"])
        await client.spawn(lease.extend(60))
        assert lease.spare == 0
        await asyncio.sleep(3)
        assert only.execute([b"TYPE", KEY]) == b"+string\r\n"
        await asyncio.sleep(1.1)
        await lease_of(bob, READER)
        await asyncio.sleep(40)
        assert lease.spare == 1
        assert scene.command(b"ZCARD", KEY) == [b":2\r\n"] * 3

    played(play)


def test_readers_that_were_removed_by_force_are_told_and_stay_away() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        readers = [await lease_of(engine, READER) for engine in (alice, bob, alice)]
        told: list[tuple[int, LossReason]] = []

        class Listener:
            def __init__(self, number: int) -> None:
                self._number = number

            def lost(self, reason: LossReason) -> None:
                told.append((self._number, reason))

            def doubtful(self) -> None: ...

            def held(self) -> None: ...

        for number, (engine, record) in enumerate(zip((alice, bob, alice), readers, strict=True)):
            engine.listen(record, Listener(number))
        await asyncio.sleep(2)
        released = await force_release(bob, "r", None)
        assert isinstance(released, ForcedRelease)
        assert released.held
        await asyncio.sleep(0.1)
        assert sorted(told) == [(number, LossReason.FORCED) for number in range(3)]
        assert scene.held_on() == [False] * 3
        assert scene.command(b"ZCARD", forced_key(KEY)) == [b":3\r\n"] * 3

    played(play)


@pytest.mark.parametrize("fair", [True, False], ids=["fair", "not fair"])
@pytest.mark.parametrize("away", [None, "crash", "cut"], ids=str)
def test_token_alone_releases_a_reader_on_every_server_also_later(fair: bool, away: str | None) -> None:
    """Without queues releases are native commands, which know one type of key."""

    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        token = (await lease_of(alice, READER)).token
        gone = scene.servers[0]
        if away == "crash":
            gone.crash()
        elif away == "cut":
            gone.freeze()
        assert await done(bob, bob.release("r", token)) is None
        if away == "crash":
            gone.restart()
            gone.model.connect(lambda _: None).execute([b"ZADD", KEY, b"9999999999999", token])
        elif away == "cut":
            await asyncio.sleep(3)
            gone.thaw()
        await asyncio.sleep(10)
        assert scene.held_on() == [False] * 3

    played(play, fair=fair)


def test_bare_token_of_a_reader_whose_time_is_over_was_not_held_when_it_is_released() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        await lease_of(bob, READER)
        token = (await done(alice, alice.acquire("r", 1, 0, READER))).token
        await asyncio.sleep(1.1)
        assert isinstance(await done(bob, bob.release("r", token)), LeaseLost)
        assert scene.command(b"ZCARD", KEY) == [b":1\r\n"] * 3

    played(play)


def test_vote_of_a_reader_is_taken_again_where_a_slow_server_does_not_know_the_script() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        client, server = scene.clients[0], scene.servers[0]
        lease = (await client.spawn(client.supervisor.lock("r", 60, mode="read"))).value
        only = server.model.connect(lambda _: None)
        server.host.slow = 0.05  # a quorum answers first
        for words in ([b"SCRIPT", b"FLUSH"], [b"DEL", KEY]):
            only.execute(words)
        await client.spawn(lease.extend(60))
        await asyncio.sleep(8)
        assert scene.command(b"ZCARD", KEY) == [b":1\r\n"] * 3
        assert lease.spare == 1

    played(play)
