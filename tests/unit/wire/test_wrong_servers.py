"""Servers that should not vote, or not as they are set up: what is said of them."""

from __future__ import annotations

import logging

import pytest

from redlock_cluster import Err, ServerState, ServerStatus

from ..engine.scripted import AutomaticGroup, Group, Wire, Words, bulk, passes, turns

HELLO = b"%%3\r\n+proto\r\n:3\r\n+mode\r\n+%b\r\n+role\r\n+%b\r\n"
DENIED = b"-NOPERM User locker has no permissions to run the 'info' command\r\n"
SAYS_NOTHING = dict.fromkeys(("server", "replication", "memory"), DENIED)
NODE = "it is a node of a Redis Cluster; a group needs standalone servers, started with cluster-enabled no"
REPLICA = "it is a replica; the servers of a group must be independent masters"
LRU = bulk(b"used_memory:1\r\nmaxmemory:1000\r\nmaxmemory_policy:allkeys-lru\r\n")


def server(group: AutomaticGroup, index: int) -> ServerStatus:
    return group.supervisor.status().clusters[0].groups[0].servers[index]


def tells(group: AutomaticGroup, index: int, **said: bytes) -> None:
    """What a server says from now on of a section of INFO, or to HELLO."""

    def told(words: Words, usual: bytes) -> bytes:
        return said.get(words[1 if words[0] == b"INFO" else 0].decode(), usual)

    group.handshakes[index] = told


async def reconnected(group: AutomaticGroup, index: int) -> None:
    """The server was dialled again, and that has ended."""
    group.now[index].break_off()
    lives = len(group.wires[index])
    await group.when(lambda: len(group.wires[index]) > lives)
    await turns(20)


# Nodes of a cluster, replicas


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"server": bulk(b"redis_mode:cluster\r\n")}, NODE),
        ({"server": bulk(b"server_mode:cluster\r\n")}, NODE),
        ({"HELLO": HELLO % (b"cluster", b"master"), **SAYS_NOTHING}, NODE),
        ({"HELLO": HELLO % (b"standalone", b"replica"), **SAYS_NOTHING}, REPLICA),
        ({"HELLO": HELLO % (b"sentinel", b"master"), **SAYS_NOTHING}, "it is a Sentinel, which keeps no keys"),
    ],
    ids=["redis", "valkey", "hello alone", "replica by hello alone", "sentinel by hello alone"],
)
async def test_server_of_another_kind_is_refused_in_words(said: dict[str, bytes], why: str) -> None:
    async with AutomaticGroup(3) as group:
        tells(group, 1, **said)
        await reconnected(group, 1)
        assert (server(group, 1).state, server(group, 1).last_error) == (ServerState.DOWN, why)


async def test_restricted_user_on_a_standalone_master_is_let_in() -> None:
    async with AutomaticGroup(3) as group:
        tells(group, 1, HELLO=HELLO % (b"standalone", b"master"), **SAYS_NOTHING)
        await reconnected(group, 1)
        assert (server(group, 1).state, server(group, 1).warning) == (ServerState.UP, "")


# One server at two addresses


def same(index: int) -> str:
    return f"it is the same server as 127.0.0.1:{1000 + index} (equal run ids); a group needs servers of their own"


async def test_second_address_of_one_server_is_refused_and_names_the_first() -> None:
    async with AutomaticGroup(3) as group:
        group.run_ids[2] = group.run_ids[0]
        await reconnected(group, 2)
        assert [server(group, index).state for index in range(3)] == [ServerState.UP, ServerState.UP, ServerState.DOWN]
        assert server(group, 2).last_error == same(0)
        result = await group.supervisor.lock("r", 10, wait=0)
        assert result
        assert result.value.votes[2].detail == same(0)


async def test_one_server_alone_in_its_group_is_an_outage_and_no_contention() -> None:
    group = AutomaticGroup(3)
    group.run_ids = [b"one"] * 3
    async with group:
        result = await group.supervisor.lock("r", 10, wait=0)
        assert result == Err("unavailable")
        assert str(result.error).count("it is the same server as") == 2  # type: ignore[union-attr]


@pytest.mark.parametrize("pool_size", [1, 3])
async def test_server_that_moved_to_another_address_is_let_in(pool_size: int) -> None:
    async with AutomaticGroup(3, pool_size=pool_size) as group:
        group.refusing = {0}
        for wire in group.wires[0]:
            wire.break_off()
        group.run_ids[2] = group.run_ids[0]
        for wire in list(group.wires[2]):
            wire.break_off()
        await passes(1)
        assert server(group, 2).state is ServerState.UP
        group.refusing = set()
        await passes(1)
        assert server(group, 0).last_error == same(2)
        assert server(group, 2).state is ServerState.UP


async def test_every_connection_of_a_pool_may_be_to_one_server() -> None:
    async with AutomaticGroup(3, pool_size=3) as group:
        assert [server(group, index).connections for index in range(3)] == [3, 3, 3]


async def test_servers_that_do_not_say_which_they_are_are_let_in() -> None:
    group = AutomaticGroup(3)
    group.handshakes = [lambda words, usual: DENIED if words[0] == b"INFO" else usual] * 3
    async with group:
        assert [server(group, index).state for index in range(3)] == [ServerState.UP] * 3


# Servers that speak first


@pytest.mark.parametrize("asked", [False, True], ids=["before HELLO", "after HELLO"])
@pytest.mark.parametrize(
    "said",
    [
        "ERR max number of clients reached",
        "ERR max number of clients + cluster connections reached",
        "DENIED Redis is running in protected mode because protected mode is enabled",
    ],
)
async def test_server_that_sends_everybody_away_is_quoted(said: str, asked: bool) -> None:
    async with AutomaticGroup(3) as group:
        greeting = f"-{said}\r\n".encode()
        if asked:
            group.handshakes[1] = lambda words, usual: greeting if words[0] == b"HELLO" else usual
        else:
            group.greetings[1] = greeting
        await reconnected(group, 1)
        assert server(group, 1).last_error == said


async def test_long_greeting_is_cut() -> None:
    async with AutomaticGroup(3) as group:
        group.greetings[1] = b"-DENIED " + b"x" * 2000 + b"\r\n"
        await reconnected(group, 1)
        assert server(group, 1).last_error.startswith("DENIED xxx")
        assert len(server(group, 1).last_error) == 256


async def test_unasked_error_after_the_password_was_told_is_not_quoted() -> None:
    unasked = "the server sent a reply that nobody had asked for"
    async with AutomaticGroup(3) as group:
        group.now[1].reply(b"-ERR the password is sesame\r\n")
        assert server(group, 1).last_error == unasked
        greeting = b"-ERR the password is sesame\r\n"
        group.handshakes[2] = lambda words, usual: usual + greeting if words[0] == b"HELLO" else []
        await reconnected(group, 2)
        assert server(group, 2).last_error == unasked


# Servers that evict


async def test_evicting_server_is_warned_of_once_a_connection_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3, health_check_interval="1s") as group:
        tells(group, 1, memory=LRU)
        for lives in (1, 2):
            await reconnected(group, 1)
            await group.supervisor.lock("r", 10, wait=0)
            await passes(5)
            warned = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
            text = "it may evict keys before their time; set maxmemory-policy to noeviction (it is allkeys-lru)"
            assert warned == [f"127.0.0.1:1001: {text}"] * lives
            assert (server(group, 1).state, server(group, 1).warning) == (ServerState.UP, text)
            assert server(group, 0).warning == ""


@pytest.mark.parametrize(
    "memory",
    [
        b"maxmemory:0\r\nmaxmemory_policy:allkeys-lru\r\n",
        b"maxmemory:1000\r\nmaxmemory_policy:noeviction\r\n",
        b"maxmemory_policy:allkeys-lru\r\n",
        b"",
    ],
)
async def test_server_that_evicts_nothing_is_not_warned_of(memory: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with AutomaticGroup(3) as group:
        tells(group, 1, memory=bulk(memory))
        await reconnected(group, 1)
        assert server(group, 1).warning == ""
        assert not [record for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize(
    "said, queues",
    [
        (b"-OOM command not allowed when used memory > 'maxmemory'.\r\n", True),
        (b"-NOPERM User u has no permissions to run the 'eval' command\r\n", False),
        (b"-ERR unknown command 'EVAL'\r\n", False),
        (b"*0\r\n", True),
    ],
    ids=["full", "forbidden", "unknown", "able"],
)
async def test_a_server_that_is_full_keeps_queues_all_the_same(said: bytes, queues: bool) -> None:
    group = AutomaticGroup(1)
    group.handshakes[0] = lambda words, usual: said if words[0] == b"EVAL" else usual
    async with group:
        (status,) = group.supervisor.status().clusters[0].groups
        assert [server.queues for server in status.servers] == [queues]


class Remembers(Wire):
    """It hides its run, and remembers itself as every other one does: all names lead to one server."""

    def _handshake_reply(self, words: Words) -> bytes:
        match words:
            case [b"HGETALL", *_]:
                fields = (b"layout", b"1", b"run", b"hidden", b"id", b"only", b"group", b"0", b"size", b"3")
                return b"%5\r\n" + b"".join(map(bulk, fields))
            case [b"INFO", b"server"]:
                return bulk(b"redis_version:0.0.0\r\n")
        return super()._handshake_reply(words)


class Remembering(Group):
    kind = Remembers


async def test_one_server_at_two_addresses_that_hides_its_run_is_known_by_what_it_remembers() -> None:
    async with Remembering(restart_guard=True) as group:
        servers = group.supervisor.status().clusters[0].groups[0].servers
        assert [server.state is ServerState.QUARANTINED for server in servers] == [False, True, True]
        assert "it is the same server as 127.0.0.1:1000 (equal ids)" in servers[1].last_error
        refusal = await group.supervisor.lock("r", 1, wait=0)
        assert refusal == Err("unavailable")
