"""Servers that may have forgotten locks, in a simulated world: who grants what, from when on, and what is said."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from redlock_cluster import Err, Ok, ServerState, ServerStatus
from redlock_cluster.core.meta import horizon_of, meta_key
from redlock_cluster.lua import META as SCRIPT
from redlock_cluster.testing.model import REDIS_6_2, VALKEY_9, ModelVersion
from redlock_cluster.testing.simulation import Connection, Session, SimulatedClient, SimulatedServer, Simulation

KEY = meta_key(b"redlock:")
OPTIONS: dict[str, object] = {
    "server_timeout": "50ms",
    "health_check_interval": "200ms",
    "reconnection_interval": "20ms",
    "max_retry": 0,
    "max_ttl": "60s",
    "ttl": "5s",
}


class Scene:
    """Some servers and clients. written: for each server, how often its memory of itself was written"""

    def __init__(self, world: Simulation, size: int, version: ModelVersion) -> None:
        self.world = world
        self.servers: list[SimulatedServer] = [world.server(f"server{i}:6379", version) for i in range(size)]
        self.written = [0] * size
        world.network.on_command = self._note

    def _note(self, connection: Connection, words: list[bytes], reply: bytes) -> None:
        if words[0] == b"EVAL" and words[1] == SCRIPT.source and words[4] and reply == b":1\r\n":
            self.written[[server.host for server in self.servers].index(connection.host)] += 1

    async def client(self, name: str = "alice", **options: object) -> SimulatedClient:
        """A started one; `options` over `OPTIONS`."""
        servers = [{"host": f"server{i}"} for i in range(len(self.servers))]
        client = self.world.client(name, {"servers": servers, **OPTIONS, **options})
        await client.spawn(client.supervisor.start())
        return client

    async def lock(self, client: SimulatedClient, ttl: float = 5.0, wait: Any = 0, name: str = "r") -> Any:
        return await client.spawn(client.supervisor.lock(name, ttl, wait=wait))

    def forget(self, *indices: int) -> None:
        """These servers are started anew, and have forgotten everything."""
        for index in indices:
            self.servers[index].crash()
            self.servers[index].restart(keep_memory=False)

    def tell(self, index: int, *words: bytes) -> bytes:
        return self.servers[index].model.connect(lambda _: None).execute(list(words))

    def memory(self, index: int) -> dict[bytes, bytes]:
        """What a server remembers of itself."""
        return self.servers[index].model.hashes().get(KEY, {})

    def status(self, client: SimulatedClient) -> tuple[ServerStatus, ...]:
        return client.supervisor.status().clusters[0].groups[0].servers

    def quarantined(self, client: SimulatedClient) -> list[int]:
        return [i for i, server in enumerate(self.status(client)) if server.quarantine is not None]


def played(play: Callable[[Scene], Awaitable[None]], size: int = 3, version: ModelVersion = VALKEY_9) -> None:
    with Simulation(seed=1) as world:
        scene = Scene(world, size, version)

        async def main() -> None:
            await play(scene)

        world.run(main)


def errors(outcome: object) -> str:
    """What a refusal says, each server's vote among it."""
    assert isinstance(outcome, Err)
    return str(outcome.error)


# --- a fresh group ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool_size", [1, 3])
@pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=str)
def test_fresh_group_grants_locks_as_soon_as_the_start_is_over(version: ModelVersion, pool_size: int) -> None:
    async def play(scene: Scene) -> None:
        client = await scene.client(pool_size=pool_size)
        assert scene.quarantined(client) == []
        assert await scene.lock(client)
        for index, server in enumerate(scene.servers):
            memory = scene.memory(index)
            assert memory[b"run"].decode() == server.model.run_id
            assert (memory[b"group"], memory[b"size"]) == (b"0", b"3")
        assert len({scene.memory(index)[b"id"] for index in range(3)}) == 3

    played(play, version=version)


def test_many_clients_at_once_tell_each_server_of_itself_once() -> None:
    async def play(scene: Scene) -> None:
        clients = await asyncio.gather(*(scene.client(f"c{i}") for i in range(20)))
        assert scene.written == [1, 1, 1]
        assert all(await asyncio.gather(*(scene.lock(c, name=c.name) for c in clients)))

    played(play)


def test_horizon_is_written_once_however_many_clients_use_it_and_however_often() -> None:
    async def play(scene: Scene) -> None:
        clients = [await scene.client(f"c{i}") for i in range(5)]
        changes: list[dict[bytes, bytes]] = []
        for _ in range(20):
            for client in clients:
                assert await scene.lock(client, 5.0, name=client.name)
                await client.spawn(client.supervisor.force_release(client.name))
                if scene.memory(0) not in changes:
                    changes.append(scene.memory(0))
        horizon = b"h%d" % horizon_of(5000)
        assert [horizon in memory for memory in changes] == [True]

    played(play)


def test_server_that_is_away_does_not_count_as_one_that_remembers_nothing() -> None:
    async def play(scene: Scene) -> None:
        scene.servers[2].crash()
        client = await scene.client()
        assert scene.quarantined(client) == [0, 1]
        refusal = await scene.lock(client)
        assert refusal == Err("unavailable")
        assert "redlock-cluster meta init" in errors(refusal)
        assert "its grants count from 1970-" in errors(refusal)
        scene.servers[2].restart(keep_memory=False)
        await asyncio.sleep(0.5)
        assert scene.quarantined(client) == []
        assert await scene.lock(client)

    played(play)


def test_operator_may_say_that_nobody_holds_a_lock() -> None:
    async def play(scene: Scene) -> None:
        scene.servers[2].crash()
        client = await scene.client()
        told = await client.spawn(client.supervisor.end_quarantine())
        assert told == ("server0:6379", "server1:6379")
        assert await scene.lock(client)
        assert await client.spawn(client.supervisor.end_quarantine()) == ()
        scene.servers[2].restart(keep_memory=False)
        await asyncio.sleep(0.5)
        assert scene.quarantined(client) == [2]  # for as long as the lock lasts that others have granted
        await asyncio.sleep(8.5)
        assert scene.quarantined(client) == []

    played(play)


def test_connection_that_breaks_while_servers_are_asked_makes_no_fresh_group() -> None:
    """The server may have granted a lock between, and forgotten it."""

    async def play(scene: Scene) -> None:
        asked: list[str] = []

        def breaks(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if words[:2] == [b"HGETALL", KEY]:
                asked.append(connection.host.name)
                if len(asked) == 6:  # the handshakes ask, too
                    scene.forget(1)

        scene.world.network.on_command = breaks
        client = scene.world.client("alice", {"servers": [{"host": f"server{i}"} for i in range(3)], **OPTIONS})
        await client.spawn(client.supervisor.start())
        assert len(asked) >= 6
        assert all(scene.memory(index) == {} for index in (1,)) or scene.quarantined(client) == []
        await asyncio.sleep(0.5)
        assert scene.quarantined(client) == []  # nobody remembers anything still, and all stood when they were asked

    played(play)


# --- a server that forgets -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [VALKEY_9, REDIS_6_2], ids=str)
def test_lock_on_a_bare_quorum_is_not_given_again_when_one_of_its_servers_forgets(version: ModelVersion) -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        scene.servers[2].freeze()
        await asyncio.sleep(0.5)
        lease = (await scene.lock(alice, 5.0)).value
        scene.forget(0)
        scene.servers[2].thaw()
        await asyncio.sleep(0.3)
        newcomer = await scene.client("carol")
        while lease.valid:
            for client in (bob, newcomer):
                assert not await scene.lock(client, 1.0)
            await asyncio.sleep(0.2)
        await asyncio.sleep(9)
        assert await scene.lock(bob, 1.0)
        assert scene.quarantined(alice) == scene.quarantined(bob) == scene.quarantined(newcomer) == []

    played(play, version=version)


def test_who_does_not_ask_whether_a_lock_is_lost_is_alone_in_the_section_all_the_same() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        scene.servers[2].freeze()
        await asyncio.sleep(0.5)
        inside = asyncio.Event()

        async def body() -> None:
            inside.set()
            await asyncio.sleep(4)
            inside.clear()

        transaction = asyncio.ensure_future(alice.spawn(alice.supervisor.transaction("r", 5.0, body)))
        await inside.wait()
        scene.forget(0)
        for index in (0, 2):  # so alice does not take it again there
            scene.tell(index, b"SET", b"redlock:r", b"of somebody else", b"PX", b"600")
        scene.servers[2].thaw()
        await asyncio.sleep(1)
        assert alice.supervisor.status().clusters[0].groups[0].leases == 0  # it is lost
        assert scene.quarantined(bob) == [0]
        while inside.is_set():
            assert not await scene.lock(bob, 1.0)
            await asyncio.sleep(0.1)
        await transaction
        await asyncio.sleep(0.2)
        assert await scene.lock(bob, 1.0)

    played(play)


def test_quarantine_lasts_as_long_as_locks_that_others_use() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        assert await scene.lock(alice, 20.0)
        assert await scene.lock(bob, 1.0, name="another")
        scene.forget(0)
        await asyncio.sleep(0.3)
        left = scene.status(bob)[0].quarantine
        assert left is not None
        assert 32 < left < 33.2  # the next power of two of 20,000 ms

    played(play)


def test_long_ttl_that_is_used_no_more_does_not_count_for_ever() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 20.0)
        for _ in range(70):
            assert await scene.lock(alice, 1.0, name="another", wait=2)
            await asyncio.sleep(2)
        scene.forget(0)
        await asyncio.sleep(0.3)
        left = scene.status(alice)[0].quarantine
        assert left is not None
        assert left < 1.1

    played(play)


def test_extension_by_a_longer_ttl_counts_from_then_on() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        lease = (await scene.lock(alice, 1.0)).value
        assert await alice.spawn(alice.supervisor.extend("r", lease, 20))
        scene.forget(0)
        await asyncio.sleep(0.3)
        left = scene.status(alice)[0].quarantine
        assert left is not None
        assert left > 32

    played(play)


def test_server_that_has_waited_remembers_what_the_others_do() -> None:
    """So the next one that forgets is quarantined for as long, though the third is away."""

    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 20.0)
        scene.forget(0)
        await asyncio.sleep(34)
        assert scene.quarantined(alice) == []
        assert b"h%d" % horizon_of(20_000) in scene.memory(0)

    played(play)


def test_too_few_others_say_how_long_so_it_is_max_ttl() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 1.0)
        scene.forget(0, 1)
        await asyncio.sleep(0.3)
        left = [server.quarantine for server in scene.status(alice)]
        assert left[2] is None
        assert all(each is not None and 59 < each < 66.5 for each in left[:2])
        assert await scene.lock(alice, 1.0) == Err("unavailable")
        await asyncio.sleep(67)
        assert scene.quarantined(alice) == []

    played(play)


def test_if_all_have_forgotten_who_saw_the_group_waits_and_who_did_not_begins_anew() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        lease = (await scene.lock(alice, 5.0)).value
        scene.forget(0, 1, 2)
        await asyncio.sleep(0.3)
        assert scene.quarantined(alice) == [0, 1, 2]
        assert await scene.lock(alice) == Err("unavailable")
        assert lease.valid is False or lease.remaining < 5
        await asyncio.sleep(9)
        assert scene.quarantined(alice) == []
        scene.forget(0, 1, 2)
        bob = await scene.client("bob")
        assert scene.quarantined(bob) == []
        await asyncio.sleep(0.5)
        assert scene.quarantined(alice) == []  # somebody else has told the servers

    played(play)


def test_group_of_one_is_guarded_by_clients_that_saw_it() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        assert await scene.lock(alice, 5.0)
        scene.forget(0)
        await asyncio.sleep(0.3)
        assert scene.quarantined(alice) == [0]
        await asyncio.sleep(9)
        assert await scene.lock(alice, 5.0)

    played(play, size=1)


def test_rolling_restart_never_stops_locking() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        refused: list[object] = []
        over = False

        async def lock_all_the_time() -> None:
            while not over:
                outcome = await alice.supervisor.lock("busy", 1.0, wait=0)
                if isinstance(outcome, Ok):
                    await alice.supervisor.unlock("busy", outcome.value)
                else:
                    refused.append(outcome)
                await asyncio.sleep(0.01)

        work = alice.spawn(lock_all_the_time())
        for index in range(3):
            scene.forget(index)
            await asyncio.sleep(0.3)
            assert scene.quarantined(alice) == [index]
            while scene.quarantined(alice):
                await asyncio.sleep(0.05)
        over = True
        await work
        # One attempt may be on its way when a server dies, and its connection breaks.
        assert len(refused) <= 3, refused

    played(play)


def test_readers_and_questions_count_no_grant_of_a_server_that_forgot() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        scene.servers[2].crash()
        await asyncio.sleep(0.3)
        assert await scene.lock(alice, 5.0)
        scene.servers[2].restart(keep_memory=False)
        scene.forget(0)
        await asyncio.sleep(0.5)
        reader = await bob.spawn(bob.supervisor.lock("r", 1.0, wait=0, mode="read"))
        assert reader == Err("unavailable")
        permit = await bob.spawn(bob.supervisor.is_locked("r")) if scene.quarantined(bob) != [0, 2] else True
        assert permit is True

    played(play)


def test_lease_is_extended_and_released_on_a_server_that_forgot() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        lease = (await scene.lock(alice, 5.0)).value
        scene.forget(0)
        await asyncio.sleep(1.5)
        assert lease.spare == 1  # its vote was taken again there
        assert await alice.spawn(alice.supervisor.extend("r", lease, 5))
        assert scene.quarantined(alice) == [0]
        assert await alice.spawn(alice.supervisor.unlock("r", lease))
        await asyncio.sleep(0.2)
        assert all(server.model.keys().get(b"redlock:r") is None for server in scene.servers)

    played(play)


# --- what else makes a server forget ---------------------------------------------------------------------------------


@pytest.mark.parametrize("pushes", [True, False])
def test_flush_is_noticed(pushes: bool) -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client(**({} if pushes else {"fair": True}))
        assert await scene.lock(alice, 5.0)
        scene.tell(0, b"FLUSHALL")
        await asyncio.sleep(0.01 if pushes else 0.5)
        assert scene.quarantined(alice) == [0]
        await asyncio.sleep(9)
        assert scene.quarantined(alice) == []

    played(play)


def test_flush_of_another_database_is_none() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        session = scene.servers[0].model.connect(lambda _: None)
        session.execute([b"SELECT", b"1"])
        session.execute([b"FLUSHDB"])
        await asyncio.sleep(0.1)
        assert scene.quarantined(alice) == []

    played(play)


def test_server_that_was_a_replica_waits() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 5.0)
        scene.servers[0].model.replica = True
        await scene.lock(alice, 5.0, name="another")
        await asyncio.sleep(0.1)
        scene.servers[0].model.replica = False
        await asyncio.sleep(0.5)
        assert scene.quarantined(alice) == [0]
        assert "it was a replica" in scene.status(alice)[0].last_error
        await asyncio.sleep(9)
        assert scene.quarantined(alice) == []

    played(play)


@pytest.mark.parametrize(("seconds", "waits"), [(2.0, True), (0.1, True), (-5.0, False)])
def test_server_whose_clock_jumps_forward_waits(seconds: float, waits: bool) -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 5.0)
        await asyncio.sleep(1)
        scene.servers[1].clock.step(seconds)
        await asyncio.sleep(1.2)
        assert scene.quarantined(alice) == ([1] if waits else [])
        if waits:
            assert "its clock jumped forward" in scene.status(alice)[1].last_error
            await asyncio.sleep(9)
            assert scene.quarantined(alice) == []

    played(play)


# --- who is not guarded, and who does not belong here ----------------------------------------------------------------


def test_guard_may_be_off() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice", restart_guard=False), await scene.client("bob", restart_guard=False)
        scene.servers[2].crash()
        await asyncio.sleep(0.3)
        assert await scene.lock(alice, 5.0)
        scene.servers[2].restart(keep_memory=False)
        scene.forget(0)
        await asyncio.sleep(0.3)
        assert await scene.lock(bob, 5.0)
        assert all(server.unguarded == "restart_guard is off" for server in scene.status(alice))
        assert all(scene.memory(index) == {} for index in range(3))

    played(play)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [(b"group", b"another", "the group another of 3"), (b"size", b"5", "of 5 servers"), (b"layout", b"2", "newer")],
)
def test_server_of_another_group_never_counts(field: bytes, value: bytes, told: str) -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        for index in range(2):
            scene.tell(index, b"HSET", KEY, field, value)
        bob = await scene.client("bob")
        assert scene.quarantined(bob) == [0, 1]
        refusal = await scene.lock(bob)
        assert refusal == Err("unavailable")
        assert told in errors(refusal)
        assert scene.quarantined(alice) in ([], [0, 1])  # as soon as it looks again
        await bob.spawn(bob.supervisor.end_quarantine())
        if field != b"layout":
            assert await scene.lock(bob)

    played(play)


def test_start_and_end_are_one_warning_each(caplog: pytest.LogCaptureFixture) -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 1.0)
        with caplog.at_level(logging.WARNING, "redlock_cluster"):
            scene.forget(0)
            await asyncio.sleep(5)
        told = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
        assert len(told) == 2
        assert "may have forgotten locks: it was started anew; its grants count from 1970-" in told[0]
        assert told[1] == "server0:6379 counts again (group 0)"

    played(play)


# --- what the rules are for ------------------------------------------------------------------------------------------


def test_grant_that_is_on_its_way_when_the_server_turns_out_to_have_forgotten_does_not_count() -> None:
    """The push of the flush comes before the reply, as the server was flushed before it granted the lock."""

    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 5.0, name="another")
        await asyncio.sleep(0.5)
        scene.servers[2].freeze()
        await asyncio.sleep(0.5)
        lock = alice.spawn(alice.supervisor.lock("r", 5.0, wait=0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        scene.tell(0, b"FLUSHALL")
        outcome = await lock
        assert outcome == Err("unavailable")
        assert "server0:6379 absent (its keys were flushed" in errors(outcome)

    played(play)


def test_one_other_server_does_not_know_of_every_lock() -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        scene.servers[2].freeze()
        await asyncio.sleep(0.5)
        lease = (await scene.lock(alice, 5.0)).value
        assert {server.partition(":")[0] for server in lease.held_on} == {"server0", "server1"}
        scene.servers[1].freeze()
        scene.forget(0)
        scene.servers[2].thaw()  # which was never told for how long the lock lasts
        await asyncio.sleep(0.5)
        for _ in range(20):
            assert not await scene.lock(bob, 1.0)
            await asyncio.sleep(0.2)
        left = scene.status(bob)[0].quarantine
        assert left is not None
        assert left > 30
        scene.servers[1].thaw()
        await asyncio.sleep(1)
        left = scene.status(bob)[0].quarantine
        assert left is not None
        assert left < 5  # now a quorum of the others has said it

    played(play)


def test_server_that_forgets_once_more_what_it_has_taken_since_waits_anew() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 5.0)
        scene.forget(0)
        await asyncio.sleep(6)
        scene.tell(0, b"FLUSHALL")
        await asyncio.sleep(0.3)
        left = scene.status(alice)[0].quarantine
        assert left is not None
        assert left > 7.5
        scene.forget(0)
        await asyncio.sleep(0.3)
        again = scene.status(alice)[0].quarantine
        assert again is not None
        assert again > 7.5

    played(play)


def test_what_a_quorum_has_said_of_the_end_stands_though_too_few_are_left_to_ask() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 5.0)
        scene.forget(0)
        await asyncio.sleep(0.5)
        scene.servers[1].crash()
        await asyncio.sleep(1)
        left = scene.status(alice)[0].quarantine
        assert left is not None
        assert left < 8

    played(play)


@pytest.mark.parametrize("waits", [False, True])
def test_durable_server_that_kept_its_memory_counts_at_once_but_not_if_its_clock_jumped(waits: bool) -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers:
            server.model.config.update({b"appendonly": b"yes", b"appendfsync": b"always"})
        alice = await scene.client(durability="fsync")
        assert await scene.lock(alice, 5.0)
        scene.servers[0].crash()
        scene.servers[0].restart(keep_memory=True)
        await asyncio.sleep(0.3)
        assert scene.quarantined(alice) == []
        assert scene.memory(0)[b"run"].decode() == scene.servers[0].model.run_id
        if waits:
            scene.servers[0].clock.step(2.0)
            await asyncio.sleep(1.2)
            assert scene.quarantined(alice) == [0]

    played(play)


@pytest.mark.parametrize("required", [False, True])
def test_server_that_writes_locks_to_disk_no_more_waits_after_its_next_restart(required: bool) -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers:
            server.model.config.update({b"appendonly": b"yes", b"appendfsync": b"always"})
        options = {"durability": "fsync"} if required else {}
        clients = [await scene.client(name, **options) for name in ("alice", "bob")]
        assert [scene.memory(index)[b"durable"] for index in range(3)] == [b"1"] * 3
        await asyncio.sleep(10)
        assert scene.written == [1, 1, 1]
        scene.servers[0].model.config[b"appendfsync"] = b"everysec"
        await asyncio.sleep(7)
        assert scene.memory(0)[b"durable"] == b"0"
        for client in clients:
            assert await scene.lock(client, 1.0, name=client.name)
            server = scene.status(client)[0]
            assert server.quarantine is None
            assert (server.state is ServerState.DOWN) is required
            assert ("durability: fsync needs" in server.last_error) is required
        scene.servers[0].model.config[b"appendfsync"] = b"always"
        scene.servers[0].crash()
        scene.servers[0].restart(keep_memory=True)
        await asyncio.sleep(0.5)
        for client in clients:
            assert scene.quarantined(client) == [0]

    played(play)


@pytest.mark.parametrize(
    ("name", "value"), [("appendonly", "no"), ("appendfsync", "everysec"), ("no-appendfsync-on-rewrite", "yes")]
)
def test_server_that_may_forget_is_refused_where_votes_are_to_be_durable(name: str, value: str) -> None:
    async def play(scene: Scene) -> None:
        for server in scene.servers:
            config = {"appendonly": "yes", "appendfsync": "always", name: value}
            server.model.config.update({key.encode(): text.encode() for key, text in config.items()})
        alice = await scene.client(durability="fsync")
        assert await scene.lock(alice) == Err("unavailable")
        wanted = {"appendonly": "yes", "appendfsync": "always", "no-appendfsync-on-rewrite": "no"}[name]
        assert f"set {name} {wanted} there" in scene.status(alice)[0].last_error

    played(play)


@pytest.mark.parametrize("mode", ["write", "read"])
def test_neither_writers_nor_readers_get_what_a_server_gives_away_that_forgot(mode: Any) -> None:
    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        scene.servers[2].model.config[b"maxmemory"] = b"1"
        lease = (await scene.lock(alice, 5.0)).value
        assert {server.partition(":")[0] for server in lease.held_on} == {"server0", "server1"}
        scene.servers[2].model.config[b"maxmemory"] = b"0"
        alice.die(unnoticed=True)  # nobody takes the lost votes again
        scene.forget(0)
        await asyncio.sleep(0.3)
        assert scene.quarantined(bob) == [0]
        assert not await bob.spawn(bob.supervisor.lock("r", 1.0, wait=0, mode=mode))

    played(play)


def test_flush_while_a_connection_is_made_is_noticed() -> None:
    """After the memory was read, and before the connection serves."""

    async def play(scene: Scene) -> None:
        alice, bob = await scene.client("alice"), await scene.client("bob")
        assert await scene.lock(bob, 5.0)
        flushed: list[bytes] = []

        def flush(connection: Connection, words: list[bytes], reply: bytes) -> None:
            if connection.client == "alice" and words[0] == b"SUBSCRIBE" and not flushed:
                flushed.append(scene.tell(0, b"FLUSHALL"))

        scene.world.network.on_command = flush
        for connection in [*scene.servers[0].host.connections]:
            if connection.client == "alice":
                connection.server_gone(False)
        await asyncio.sleep(0.1)
        assert flushed
        assert scene.quarantined(alice) == [0]

    played(play)


def test_server_that_is_flushed_while_it_is_told_that_it_counts_does_not() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client("alice")
        assert await scene.lock(alice, 1.0)
        scene.tell(0, b"FLUSHALL")
        await asyncio.sleep(0.1)
        flushed: list[bytes] = []

        def flush(connection: Connection, words: list[bytes], reply: bytes) -> None:
            first = connection.host is scene.servers[0].host and not flushed
            if first and words[:3] == [b"CONFIG", b"GET", b"no-appendfsync-on-rewrite"]:
                flushed.append(scene.tell(0, b"FLUSHALL"))

        scene.world.network.on_command = flush
        await asyncio.sleep(1.2)
        assert flushed
        assert scene.quarantined(alice) == [0]
        assert b"run" not in scene.memory(0)  # or who comes now would count it
        bob = await scene.client("bob")
        assert scene.quarantined(bob) == [0]

    played(play)


class Refusing:
    """A server that does as it is asked, but what is written at length. told: what it says instead, None: nothing"""

    def __init__(self, server: SimulatedServer) -> None:
        self._model, self.told = server.model, b""

    def connect(self, push: Callable[[bytes], None], killed: Callable[[], None]) -> Session:
        return _Refusing(self, self._model.connect(push, killed))


class _Refusing:
    def __init__(self, service: Refusing, inner: Session) -> None:
        self._service, self._inner, self.close = service, inner, inner.close

    def execute(self, words: list[bytes]) -> bytes:
        refused = self._service.told and words[:2] == [b"EVAL", SCRIPT.source]
        return self._service.told if refused else self._inner.execute(words)


def test_extension_does_not_count_where_nobody_was_told_for_how_long() -> None:
    async def play(scene: Scene) -> None:
        service = scene.servers[1].host.service = Refusing(scene.servers[1])
        alice = await scene.client()
        scene.servers[2].freeze()
        await asyncio.sleep(0.5)
        lease = (await scene.lock(alice, 2.0)).value
        service.told = b"-MISCONF it can't save\r\n"
        assert await alice.spawn(alice.supervisor.extend("r", lease, 20)) == Err("unavailable")
        assert await alice.spawn(alice.supervisor.extend("r", lease, 2)), "as long as before"
        assert "it was not told for how long locks last (MISCONF" in scene.status(alice)[1].last_error
        assert scene.quarantined(alice) == [1]
        service.told = b""
        await asyncio.sleep(0.5)
        assert scene.quarantined(alice) == []
        assert b"h32768" in scene.memory(1)

    played(play)


def test_full_server_is_told_for_how_long_locks_last() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        lease = (await scene.lock(alice, 2.0)).value
        for server in scene.servers:
            server.model.config[b"maxmemory"] = b"1"
        assert await alice.spawn(alice.supervisor.extend("r", lease, 20))
        assert all(b"h32768" in scene.memory(index) for index in range(3))

    played(play)


def test_server_whose_memory_is_something_else_is_asked_no_more_often() -> None:
    async def play(scene: Scene) -> None:
        alice = await scene.client()
        assert await scene.lock(alice, 1.0)
        asked = 0

        def count(connection: Connection, words: list[bytes], reply: bytes) -> None:
            nonlocal asked
            asked += words[:2] == [b"HGETALL", KEY]

        scene.world.network.on_command = count
        scene.tell(1, b"DEL", KEY)
        scene.tell(1, b"SET", KEY, b"x")
        scene.forget(0)
        await asyncio.sleep(2)
        assert asked < 60  # ten health checks, three servers
        assert scene.quarantined(alice) == [0]
        left = scene.status(alice)[0].quarantine
        assert left is not None
        assert left > 50  # of the two others only one says for how long

    played(play)
