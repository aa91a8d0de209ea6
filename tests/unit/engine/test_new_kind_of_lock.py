"""A new kind of lock is one file: here is a toy read lock, and everything that the engine does for it.

Readers share a sorted set at the key: a member is a token, its score the end of its ttl, which the toy never looks at.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

from redlock_cluster import Contended, LeaseState, NotHeld, QuorumUnavailable
from redlock_cluster.core.dialect import Dialect
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord
from redlock_cluster.core.mode import AGAINST, FOR, Answer, Command, LockMode, no_vote
from redlock_cluster.core.replies import UNFORESEEN
from redlock_cluster.core.token import Token
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.operation import Operation, outcome
from redlock_cluster.lua import Script
from redlock_cluster.testing.simulation import Connection, SimulatedServer, Simulation

# --- the new kind ------------------------------------------------------------------------------------------------


def script(source: bytes) -> Script:
    return Script("toy", source, hashlib.sha1(source, usedforsecurity=False).hexdigest().encode())


GUARD = b"local kind = redis.call('TYPE', KEYS[1])['ok'] if kind == 'string' then return 0 end "
TAKE = script(
    GUARD + b"redis.call('ZADD', KEYS[1], ARGV[2], ARGV[1]) redis.call('PEXPIRE', KEYS[1], ARGV[2]) "
    b"return redis.call('ZCARD', KEYS[1])"
)
KEEP = script(
    GUARD + b"if not redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end "
    b"redis.call('PEXPIRE', KEYS[1], ARGV[2]) return redis.call('ZCARD', KEYS[1])"
)
DROP = script(GUARD + b"return redis.call('ZREM', KEYS[1], ARGV[1])")
LOOK = script(GUARD + b"return 1")


class Reader:
    """Many at a time, as long as nobody holds the key exclusively. A `LockMode`."""

    def acquire(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        return TAKE.call(in_full, key, token, ttl_ms), UNFORESEEN  # how many readers there are then

    def acquired(self, dialect: Dialect, reply: object) -> Answer:
        return counted(reply)

    def extend(self, dialect: Dialect, key: bytes, token: Token, ttl_ms: int, in_full: bool) -> Command:
        return KEEP.call(in_full, key, token, ttl_ms), UNFORESEEN

    def extended(self, reply: object) -> Answer:
        return counted(reply)

    def release(self, dialect: Dialect, key: bytes, token: Token, in_full: bool) -> Command:
        return DROP.call(in_full, key, token), UNFORESEEN

    def released(self, reply: object) -> Answer:
        return counted(reply)

    def inspect(self, dialect: Dialect, key: bytes, in_full: bool) -> Command:
        return LOOK.call(in_full, key), UNFORESEEN

    def inspected(self, reply: object) -> Answer:
        return counted(reply)


def counted(reply: object) -> Answer:
    if type(reply) is int:
        return Answer(FOR if reply else AGAINST)
    return no_vote(reply)


READER: LockMode = Reader()

# --- what it can do ----------------------------------------------------------------------------------------------

KEY = b"redlock:r"
OPTIONS = {"servers": [{"host": f"server{i}"} for i in range(3)], "server_timeout": "200ms", "max_retry": 0}


class Scene:
    """Two clients, and three servers that they lock on."""

    def __init__(self, world: Simulation) -> None:
        self.network = world.network
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379") for i in range(3)]
        self._clients = [world.client(name, OPTIONS) for name in ("alice", "bob")]

    async def start(self) -> tuple[Engine, Engine]:
        for client in self._clients:
            await client.supervisor.start()
        alice, bob = (client.supervisor._deployments.engines["default"] for client in self._clients)
        return alice, bob

    def held_on(self) -> list[bool]:
        """Whether each server has the key."""
        clients = [server.model.connect(lambda _: None) for server in self.servers]
        return [client.execute([b"EXISTS", KEY]) == b":1\r\n" for client in clients]


def played(play: Callable[[Scene, Engine, Engine], Awaitable[None]]) -> None:
    with Simulation(seed=1) as world:
        scene = Scene(world)

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


def test_script_that_no_server_knows_is_sent_in_full_once() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        sent: list[bytes] = []

        def note(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if words[0].startswith(b"EVAL"):
                sent.append(words[0])

        scene.network.on_command = note
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


def test_token_alone_is_extended_and_released_by_the_mode_that_is_named() -> None:
    async def play(scene: Scene, alice: Engine, bob: Engine) -> None:
        reader = await lease_of(alice, READER)
        record = await done(bob, bob.extend("r", reader.token, 60, mode=READER))
        assert isinstance(record, LeaseRecord)
        assert record.mode is READER
        assert await done(bob, bob.release("r", reader.token, READER)) is None
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
