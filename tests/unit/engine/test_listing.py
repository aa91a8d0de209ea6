"""What `locks` and `inspect` show, in a simulated world."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from redlock_cluster import Holding, ListedLock, QuorumUnavailable, Vote
from redlock_cluster.engine.listing import Listing
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import Connection, SimulatedClient, Simulation

from .simulated import KEY, Scene, played

versions = pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=["valkey 9", "redis 6.2"])


async def listed(client: SimulatedClient, pattern: str | bytes = "*") -> list[ListedLock]:
    async def walk() -> list[ListedLock]:
        return [lock async for lock in client.supervisor.locks(pattern)]

    return await client.spawn(walk())


def put(scene: Scene, key: bytes, ttl: bytes = b"60000", on: range = range(5)) -> None:
    scene.command(b"SET", key, b"somebody's", b"PX", ttl, on=on)


@versions
def test_every_lock_is_shown_once_and_nothing_else(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        holder, waiter = await scene.client(), await scene.client("waiter")
        for number in range(400):
            put(scene, b"redlock:lock %d" % number)
        await holder.spawn(holder.supervisor.lock("r", 60))
        waiting = waiter.spawn(waiter.supervisor.lock("r", 60, wait=30))
        await asyncio.sleep(1)
        assert scene.command(b"EXISTS", KEY + b":redlock:queue") == [b":1\r\n"] * 5
        for key in (b"other", b"redlock:", b"xredlock:y", KEY + b":redlock:forced"):
            put(scene, key)
        found = await listed(holder)
        assert sorted(lock.resource for lock in found) == sorted(["r", *(f"lock {n}" for n in range(400))])
        assert {(lock.group, lock.servers) for lock in found} == {("0", 5)}
        assert all(50 < (lock.ttl or 0) < 60 for lock in found)
        waiting.cancel()

    played(play, version)


def test_on_how_many_servers_and_the_least_ttl() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        put(scene, b"redlock:a", b"60000")
        put(scene, b"redlock:a", b"20000", on=range(3, 4))
        put(scene, b"redlock:b", on=range(4, 5))
        scene.command(b"SET", b"redlock:c", b"x", on=range(2))
        scene.command(b"ZADD", b"redlock:d", b"1", b"reader")
        put(scene, b"redlock:d", b"30000", on=range(1))
        found = {lock.resource: (lock.servers, lock.ttl and round(lock.ttl)) for lock in await listed(client)}
        assert found == {"a": (5, 20), "b": (1, 60), "c": (2, None), "d": (5, 30)}

    played(play)


@pytest.mark.parametrize(
    ("pattern", "resources"),
    [
        ("*", ["a*", "ab", "ac", "b[1]", "b1", "\udcff"]),
        ("a*", ["a*", "ab", "ac"]),
        (rb"a\*", ["a*"]),
        ("a?", ["a*", "ab", "ac"]),
        ("[ab][b1]", ["ab", "b1"]),
        ("b[[]1]", ["b[1]"]),
        ("a[^b]", ["a*", "ac"]),
        ("ab", ["ab"]),
        (b"\xff", ["\udcff"]),
        ("\udcff", ["\udcff"]),
        ("nobody's", []),
        ("", []),
    ],
)
def test_pattern_is_of_resources_and_the_prefix_is_no_pattern(pattern: str | bytes, resources: list[str]) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        for name in (b"a*", b"ab", b"ac", b"b1", b"b[1]", b"\xff"):
            put(scene, rb"p*[?\x:" + name)
            put(scene, rb"ppq?\x:" + name)
        assert sorted(lock.resource for lock in await listed(client, pattern)) == sorted(resources)

    played(play, key_prefix=r"p*[?\x:")


@pytest.mark.parametrize("wrong", [None, 5, ["x"]])
def test_other_patterns_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        Listing(wrong)


def test_lock_that_moves_to_a_server_that_was_gone_through_is_not_missed() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        put(scene, KEY, on=range(2, 5))
        seen = Counter[str]()
        note = scene.network.on_command

        def heal(connection: Connection, words: list[bytes], reply: bytes) -> None:
            note(connection, words, reply)
            if words[0] == b"SCAN":
                seen[connection.host.name] += 1
                if connection.host.name == "server1:6379":
                    put(scene, KEY, on=range(2))

        scene.network.on_command = heal
        assert [(lock.resource, lock.servers) for lock in await listed(client)] == [("r", 5)]
        assert seen == {f"server{i}:6379": 1 for i in range(5)}

    played(play)


def test_server_looks_at_no_more_than_a_hundred_keys_in_one_step() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        for number in range(1000):
            put(scene, b"other %d" % number)
        for number in range(50):
            put(scene, b"redlock:%060000d" % number)
        steps: list[tuple[int, int]] = []
        note = scene.network.on_command

        def look(connection: Connection, words: list[bytes], reply: bytes) -> None:
            note(connection, words, reply)
            if words[0] == b"SCAN":
                steps.append((int(words[-1]), len(reply)))

        scene.network.on_command = look
        assert len(await listed(client)) == 50
        counts = [count for count, _ in steps]
        assert 10 <= min(counts) < 50 < max(counts) <= 100
        assert max(length for _, length in steps) < 1 << 20
        assert scene.asked["holder", b"KEYS"] == 0

    played(play)


def test_as_long_as_a_quorum_says_the_list_is_whole() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        put(scene, KEY)
        for i in (0, 3):
            scene.servers[i].freeze()
        assert [(lock.resource, lock.servers) for lock in await listed(client)] == [("r", 3)]
        scene.servers[1].freeze()
        with pytest.raises(QuorumUnavailable, match="not whole") as caught:
            await listed(client)
        absent, there = Vote.ABSENT, Vote.FOR
        assert [vote.vote for vote in caught.value.votes] == [absent, absent, there, absent, there]
        assert all(vote.detail for vote in caught.value.votes if vote.vote is absent)

    played(play)


def test_lock_that_servers_say_no_more_of_is_not_taken_for_free() -> None:
    """The third server says that there is one; by then all stand still. So a quorum was gone through."""

    async def play(scene: Scene) -> None:
        client = await scene.client()
        put(scene, KEY, on=range(2, 5))
        when_searched(scene, "server2:6379", lambda _: [server.freeze() for server in scene.servers])
        with pytest.raises(QuorumUnavailable, match="not whole"):
            await listed(client)

    played(play)


def test_lock_that_servers_say_no_more_of_is_shown_when_another_one_has_it() -> None:
    """The first server says that there is one; by then all but the second stand still, which lacks it, for a while."""

    async def play(scene: Scene) -> None:
        client = await scene.client()
        still = [scene.servers[index] for index in (0, 2, 3, 4)]
        put(scene, KEY)
        put(scene, b"redlock:other")
        scene.command(b"DEL", KEY, on=range(1, 2))

        def go_on(connection: Connection) -> None:
            connection.host.slow = 0.1  # and so the others are heard of before it answers
            for server in still:
                server.thaw()

        when_searched(scene, "server0:6379", lambda _: [server.freeze() for server in still])
        when_searched(scene, "server1:6379", go_on)
        found = [(lock.resource, lock.servers) for lock in await listed(client)]
        assert sorted(found) == [("other", 5), ("r", 4)]

    played(play)


def when_searched(scene: Scene, server: str, do: Callable[[Connection], object]) -> None:
    """Something happens as soon as a server has looked for locks."""
    note = scene.network.on_command

    def searched(connection: Connection, words: list[bytes], reply: bytes) -> None:
        note(connection, words, reply)
        if words[0] == b"SCAN" and connection.host.name == server:
            do(connection)

    scene.network.on_command = searched


def test_snapshot_shows_who_holds_and_who_waits() -> None:
    async def play(scene: Scene) -> None:
        holder, first, second = [await scene.client(name) for name in ("holder", "first", "second")]
        assert (await holder.spawn(holder.supervisor.inspect("r"))).holding is Holding.FREE
        await holder.spawn(holder.supervisor.lock("r", 60))
        waits = [first.spawn(first.supervisor.lock("r", 60, wait=30))]
        await asyncio.sleep(1)
        waits.append(second.spawn(second.supervisor.lock("r", 60, wait=30)))
        await asyncio.sleep(1)
        scene.servers[4].freeze()
        found = await second.spawn(second.supervisor.inspect("r"))
        assert (found.resource, found.group, found.holding, found.owner) == ("r", "0", Holding.HELD, "holder")
        for index, server in enumerate(found.servers[:4]):
            assert (server.server, server.error, server.kind) == (f"server{index}:6379", "", "exclusive")
            assert (server.owner, 57 < server.ttl < 59) == ("holder", True)
            one, two = server.waiting
            assert (one.told, two.told, 1.9 < one.waited < 2.1, 0.9 < two.waited < 1.1) == (True,) * 4
        assert (found.servers[4].error, found.servers[4].kind, found.servers[4].waiting) == (
            "no answer in time",
            None,
            None,
        )

        for wait in waits:
            wait.cancel()

    played(play)


def test_snapshot_is_one_round_of_commands_that_only_read() -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client()
        await client.spawn(client.supervisor.lock("r", 60))
        scene.asked.clear()
        scene.changed.clear()
        begun = scene.now()
        await client.spawn(client.supervisor.inspect("r"))
        assert scene.now() - begun < 0.05
        asked = {word: number for (_, word), number in scene.asked.items()}
        assert asked == {b"GET": 5, b"PTTL": 5, b"ZRANGE": 20, b"TIME": 5}

    played(play)


def test_locks_of_every_group_are_shown() -> None:
    with Simulation(seed=1) as world:
        for i in range(6):
            world.server(f"server{i}:6379")
        groups = [{"name": name, "servers": [{"host": f"server{i}"} for i in r]} for name, r in GROUPS.items()]
        client = world.client("c", {"cluster": groups})

        async def main() -> None:
            await client.spawn(client.supervisor.start())
            names = [f"lock {n}" for n in range(40)]
            for name in names:
                await client.spawn(client.supervisor.lock(name, 60))
            found = await listed(client)
            assert sorted(lock.resource for lock in found) == sorted(names)
            assert {(lock.resource, lock.group) for lock in found} == {
                (name, client.supervisor.group_for(name)) for name in names
            }
            assert len({lock.group for lock in found}) == 2

        world.run(main)


GROUPS: dict[str, range] = {"alpha": range(3), "beta": range(3, 6)}
