"""Releases by force: nothing brings the lock back, and its holder hears why it is lost; in a simulated world."""

from __future__ import annotations

import asyncio
import logging

import pytest

from redlock_cluster import Contended, ForcedRelease, LeaseLost, LossReason, Ok, QuorumUnavailable, Vote
from redlock_cluster.core.force import LONGEST_MS
from redlock_cluster.core.lease_record import LeaseState
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import Connection, SimulatedClient

from .simulated import KEY, Scene, played

FORCED = KEY + b":redlock:forced"
NOTHING, SOMETHING = b":0\r\n", b":1\r\n"
A_TOKEN = b"0123456789abcdefghijkl@somebody"

versions = pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])


async def force(client: SimulatedClient, resource: str = "r") -> ForcedRelease:
    outcome = await client.spawn(client.supervisor.force_release(resource))
    assert isinstance(outcome, Ok), outcome
    return outcome.value


async def not_forced(client: SimulatedClient) -> QuorumUnavailable:
    outcome = await client.spawn(client.supervisor.force_release("r"))
    assert isinstance(outcome.error, QuorumUnavailable), outcome
    return outcome.error


def remembered(scene: Scene, token: bytes) -> list[bool]:
    """Whether each server remembers that the token was removed."""
    return [reply.startswith((b",", b"$")) and reply != b"$-1\r\n" for reply in scene.command(b"ZSCORE", FORCED, token)]


@versions
def test_holder_is_told_and_nothing_takes_the_lock_again(
    version: ModelVersion, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease, told = await scene.kept(holder, 60)
        await asyncio.sleep(1)
        begun = scene.now()
        with caplog.at_level(logging.WARNING):
            removed = await force(operator)
        assert (removed.resource, removed.group, removed.held) == ("r", "0", True)
        assert removed.owner
        assert removed.owner in caplog.text
        assert lease.token not in caplog.text
        assert [vote.vote for vote in removed.votes] == [Vote.FOR] * 5
        await asyncio.sleep(1)
        assert told.events == [LossReason.FORCED]
        assert told.at[0] - begun < 0.1
        assert lease.state is LeaseState.LOST
        with pytest.raises(LeaseLost, match="released by force") as caught:
            lease.raise_if_lost()
        assert caught.value.reason is LossReason.FORCED
        assert remembered(scene, lease.token.encode()) == [True] * 5
        await asyncio.sleep(57)
        assert remembered(scene, lease.token.encode()) == [True] * 5  # as long as the lease might have been valid
        assert scene.holding(lease) == 0
        await asyncio.sleep(4)
        assert scene.command(b"EXISTS", FORCED) == [NOTHING] * 5

    played(play, version)


def test_another_loss_is_not_called_forced() -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        await scene.kept(holder, 60)
        await asyncio.sleep(1)
        await force(operator)
        await asyncio.sleep(1)
        _, told = await scene.kept(holder, 60)
        await asyncio.sleep(1)
        scene.command(b"DEL", KEY)
        await asyncio.sleep(1)
        assert told.events == [LossReason.GONE]

    played(play)


@versions
def test_vote_that_was_removed_by_force_is_not_healed(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        holder = await scene.client()
        lease, told = await scene.kept(holder, 60)
        await asyncio.sleep(1)
        scene.command(b"ZADD", FORCED, b"9e15", lease.token.encode(), on=range(4, 5))
        scene.command(b"DEL", KEY, on=range(3, 5))
        await asyncio.sleep(5)
        assert (scene.holding(lease), lease.spare) == (4, 1)  # the fourth was healed
        assert scene.command(b"EXISTS", KEY, on=range(4, 5)) == [NOTHING]
        assert lease.valid
        assert told.events == []

    played(play, version)


def test_vote_on_its_way_to_a_server_that_held_nothing_is_refused_there() -> None:
    """The holder lacks two votes and has just asked for them. The operator reaches those two, and two of the others."""

    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        network, lacking = scene.network, ("server3:6379", "server4:6379")
        lease, told = await scene.kept(holder, 60)
        await asyncio.sleep(1)
        note = network.on_command

        def held_up(connection: Connection, words: list[bytes], reply: bytes) -> None:
            note(connection, words, reply)
            if connection.client == "holder" and words[0] == b"GET" and connection.host.name in lacking:
                network.block("holder", connection.host.name)

        network.on_command = held_up
        scene.command(b"DEL", KEY, on=range(3, 5))
        await asyncio.sleep(0.1)
        network.on_command = note
        network.block("operator", "server2:6379")
        removed = await force(operator)
        assert [vote.vote for vote in removed.votes] == [Vote.FOR, Vote.FOR, Vote.ABSENT, Vote.FOR, Vote.FOR]
        assert remembered(scene, lease.token.encode()) == [True, True, False, True, True]
        for name in lacking:
            network.unblock("holder", name)
        await asyncio.sleep(1)
        assert told.events == [LossReason.FORCED]
        assert scene.holding(lease) == 0  # the last one was released by the holder

    played(play)


@versions
def test_extension_of_an_unwatched_lease_says_that_it_was_forced(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        await force(operator)
        assert lease.valid  # it does not know yet
        refused = await holder.spawn(holder.supervisor.extend("r", lease, 60))
        assert isinstance(refused.error, LeaseLost)
        assert refused.error.reason is LossReason.FORCED
        assert "released by force" in str(refused.error)
        await asyncio.sleep(1)
        assert scene.command(b"EXISTS", KEY) == [NOTHING] * 5

    played(play, version)


def test_extension_of_a_lease_that_is_gone_otherwise_says_gone() -> None:
    async def play(scene: Scene) -> None:
        holder = await scene.client()
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        scene.command(b"DEL", KEY)
        refused = await holder.spawn(holder.supervisor.extend("r", lease, 60))
        assert refused.error.reason is LossReason.GONE

    played(play)


def test_release_of_a_lease_that_was_forced_finds_it_lost() -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease = (await holder.spawn(holder.supervisor.lock("r", 60))).value
        await force(operator)
        refused = await holder.spawn(holder.supervisor.unlock("r", lease))
        assert isinstance(refused.error, LeaseLost)

    played(play)


@versions
def test_who_waits_is_told(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter, operator = [await scene.client(name) for name in ("holder", "waiter", "operator")]
        await holder.spawn(holder.supervisor.lock("r", 60))
        waiting = waiter.spawn(waiter.supervisor.lock("r", 60, wait=30))
        await asyncio.sleep(1)
        scene.asked.clear()
        begun = scene.now()
        await force(operator)
        assert isinstance(await waiting, Ok)
        assert scene.now() - begun < 0.1
        assert remembered(scene, A_TOKEN) == [False] * 5

    played(play, version)


def test_first_in_the_queue_is_told_by_every_server() -> None:
    async def play(scene: Scene) -> None:
        operator = await scene.client("operator")
        told: list[bytes] = []
        for server in scene.servers:
            session = server.model.connect(told.append)
            session.execute([b"HELLO", b"3"])
            session.execute([b"SUBSCRIBE", b"redlock:AAAAAAAA"])
        scene.command(b"SET", KEY, A_TOKEN, b"PX", b"60000")
        for end, score in ((b"queue", b"1"), (b"expiry", b"9e15")):
            scene.command(b"ZADD", KEY + b":redlock:" + end, score, b"tAAAAAAAA")
        await force(operator)
        assert len([push for push in told if b"f" + KEY in push]) == 5

    played(play)


def test_free_lock_is_released_by_force_too() -> None:
    async def play(scene: Scene) -> None:
        operator = await scene.client("operator")
        removed = await force(operator)
        assert (removed.held, removed.owner) == (False, "")
        assert scene.command(b"EXISTS", FORCED) == [NOTHING] * 5

    played(play)


def test_whatever_stands_there_is_deleted() -> None:
    async def play(scene: Scene) -> None:
        operator = await scene.client("operator")
        scene.command(b"SET", KEY, A_TOKEN, on=range(2))  # it never expires
        scene.command(b"SET", KEY, b"x" * 100_000, on=range(2, 3))  # another library's
        scene.command(b"ZADD", KEY, b"1", A_TOKEN + b"2", on=range(3, 4))
        scene.command(b"HSET", KEY, b"a", b"b", on=range(4, 5))
        removed = await force(operator)
        assert (removed.held, removed.owner) == (True, "")
        assert scene.command(b"EXISTS", KEY) == [NOTHING] * 5
        assert remembered(scene, A_TOKEN) == [True] * 5
        assert remembered(scene, A_TOKEN + b"2") == [True] * 5  # a reader's
        assert scene.command(b"ZCARD", FORCED) == [b":2\r\n"] * 5
        for reply in scene.command(b"PTTL", FORCED):
            assert LONGEST_MS - 5000 <= int(reply[1:]) <= LONGEST_MS

    played(play)


def test_tokens_are_forgotten_each_in_its_time() -> None:
    async def play(scene: Scene) -> None:
        operator = await scene.client("operator")
        for number, ttl in enumerate((b"5000", b"60000", b"7000")):
            scene.command(b"SET", KEY, A_TOKEN + b"%d" % number, b"PX", ttl)
            await force(operator)
            await asyncio.sleep(6)
        assert remembered(scene, A_TOKEN + b"0") == [False] * 5
        assert remembered(scene, A_TOKEN + b"1") == remembered(scene, A_TOKEN + b"2") == [True] * 5
        assert all(int(reply[1:]) > 40_000 for reply in scene.command(b"PTTL", FORCED))

    played(play)


def test_without_a_quorum_that_says_who_holds_it_nothing_is_removed() -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease, _ = await scene.kept(holder, 60)
        for i in range(3):
            scene.network.block("operator", f"server{i}:6379")
        error = await not_forced(operator)
        assert [vote.vote for vote in error.votes] == [Vote.ABSENT] * 3 + [None] * 2
        assert "was not released" in str(error)
        assert scene.holding(lease) == 5
        assert scene.command(b"EXISTS", FORCED) == [NOTHING] * 5

    played(play)


def test_without_a_quorum_that_removes_it_that_is_told() -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease, told = await scene.kept(holder, 60)
        note, blocked = scene.network.on_command, ("server0:6379", "server1:6379", "server2:6379")

        def hold_up(connection: Connection, words: list[bytes], reply: bytes) -> None:
            note(connection, words, reply)
            if connection.client == "operator" and words[0] == b"TIME" and connection.host.name in blocked:
                scene.network.block("operator", connection.host.name)

        scene.network.on_command = hold_up
        error = await not_forced(operator)
        assert [vote.vote for vote in error.votes] == [Vote.ABSENT] * 3 + [Vote.FOR] * 2
        assert "may still be held" in str(error)
        await asyncio.sleep(2)
        assert (scene.holding(lease), lease.valid, told.events) == (3, True, [])  # and it does not heal the two
        assert isinstance((await holder.spawn(holder.supervisor.lock("r", 1, wait=0))).error, Contended)

    played(play)


def test_full_server_releases_by_force() -> None:
    async def play(scene: Scene) -> None:
        holder, operator = await scene.client(), await scene.client("operator")
        lease, told = await scene.kept(holder, 60)
        await asyncio.sleep(1)
        scene.command(b"CONFIG", b"SET", b"maxmemory", b"1")
        assert (await force(operator)).held
        assert remembered(scene, lease.token.encode()) == [True] * 5
        await asyncio.sleep(1)
        assert told.events == [LossReason.FORCED]

    played(play)
