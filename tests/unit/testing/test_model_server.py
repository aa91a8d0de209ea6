"""What a model server offers besides commands: time, connections that end, crashes. Commands: tests/conformance."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

import redlock_cluster.testing.model as package
from redlock_cluster.core.dialect import Dialect, dialect_of, probes
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.lua import SCRIPTS
from redlock_cluster.testing.model import (
    REDIS_6_2,
    REDIS_7_0,
    REDIS_8_2,
    REDIS_8_4,
    VALKEY_9,
    VERSIONS,
    ModelClient,
    ModelServer,
    ModelVersion,
)
from redlock_cluster.testing.model.lua import interpreter


def pushed(key: str) -> bytes:
    return b">2\r\n$10\r\ninvalidate\r\n*1\r\n$%d\r\n%b\r\n" % (len(key), key.encode())


class Scene:
    """A server, its clock, and clients that note what they hear."""

    def __init__(self, version: ModelVersion = VALKEY_9) -> None:
        self.now = 1000.0
        self.server = ModelServer(lambda: self.now, version)
        self.heard: list[tuple[int, bytes]] = []
        self.killed: list[int] = []

    def client(self, *commands: str) -> ModelClient:
        client: ModelClient = self.server.connect(
            lambda data: self.heard.append((client.id, data)), lambda: self.killed.append(client.id)
        )
        for command in commands:
            say(client, command)
        return client

    def watcher(self, *keys: str) -> ModelClient:
        return self.client("HELLO 3", "CLIENT TRACKING ON OPTIN", "CLIENT CACHING YES", f"EXISTS {' '.join(keys)}")


def say(client: ModelClient, command: str) -> bytes:
    return client.execute(command.encode().split())


def test_another_clients_write_is_pushed_at_once_and_an_own_one_stands_behind_the_reply() -> None:
    scene = Scene()
    watcher, other = scene.watcher("k"), scene.client()
    say(other, "SET k v")
    assert scene.heard == [(watcher.id, pushed("k"))]
    say(watcher, "CLIENT CACHING YES")
    say(watcher, "PTTL k")
    assert say(watcher, "SET k w") == b"+OK\r\n" + pushed("k")
    assert len(scene.heard) == 1


def test_time_alone_expires_nothing_that_nobody_looks_at() -> None:
    scene = Scene()
    scene.client("SET k v PX 100")
    scene.watcher("k")
    scene.now += 5
    assert scene.heard == []
    scene.server.advance()
    assert [data for _, data in scene.heard] == [pushed("k")]


def test_a_look_at_an_expired_key_notifies_its_watchers() -> None:
    scene = Scene()
    other = scene.client("SET k v PX 100")
    scene.watcher("k")
    scene.now += 5
    assert say(other, "GET k") == b"$-1\r\n"
    assert [data for _, data in scene.heard] == [pushed("k")]


def test_advance_expires_in_the_order_of_time_and_only_what_is_due() -> None:
    scene = Scene()
    scene.client("SET late v PX 300", "SET soon v PX 100", "SET mid v PX 200", "SET stays v")
    scene.watcher("late", "soon", "mid", "stays")
    scene.now += 0.25
    scene.server.advance()
    assert [data for _, data in scene.heard] == [pushed("soon"), pushed("mid")]
    assert scene.server.keys() == {b"late": b"v", b"stays": b"v"}


def test_next_expiry_is_the_first_moment_at_which_a_key_has_expired() -> None:
    scene = Scene()
    client = scene.client("SET b v PX 200", "SET a v PX 100", "SET c v")
    over = scene.server.next_expiry()
    assert over is not None
    assert over == pytest.approx(1000.101)
    scene.now = over - 0.0001
    assert say(client, "PTTL a") == b":0\r\n"
    scene.now = over
    assert say(client, "PTTL a") == b":-2\r\n"
    assert scene.server.next_expiry() == pytest.approx(1000.201)


def test_next_expiry_follows_what_happens_to_keys() -> None:
    scene = Scene()
    assert scene.server.next_expiry() is None
    client = scene.client("SET k v PX 100", "SET k v PX 500")
    assert scene.server.next_expiry() == pytest.approx(1000.501)
    say(client, "SELECT 3")
    say(client, "SET k v PX 50")
    assert scene.server.next_expiry() == pytest.approx(1000.051)
    say(client, "DEL k")
    say(client, "SELECT 0")
    say(client, "PERSIST k")
    assert scene.server.next_expiry() is None


def test_many_changes_of_one_expiry_leave_no_heap_behind() -> None:
    scene = Scene()
    client = scene.client()
    for ttl in range(1, 5000):
        say(client, f"SET k v PX {ttl}")
    assert len(scene.server._core.databases[0]._queue) < 100
    assert scene.server.next_expiry() == pytest.approx(1000 + 4.999 + 0.001)


def test_a_clock_that_jumps_back_makes_keys_live_longer() -> None:
    scene = Scene()
    client = scene.client("SET k v PX 100")
    scene.now -= 10
    assert say(client, "PTTL k") == b":10100\r\n"


def test_an_empty_command_is_no_command() -> None:
    assert Scene().client().execute([]) == b""


def test_sorted_sets_shows_unexpired_ones_with_their_ends_and_changes_nothing() -> None:
    scene = Scene()
    scene.client("SET k v", "ZADD z 1 m 2.5 n", "PEXPIRE z 100", "ZADD stays 3 m", "SELECT 1", "ZADD other 4 m")
    scene.watcher("z")
    (members, end) = scene.server.sorted_sets()[b"z"]
    assert members == {b"m": 1.0, b"n": 2.5}
    assert end == round(scene.now * 1000) + 100
    assert scene.server.sorted_sets(database=1) == {b"other": ({b"m": 4.0}, None)}
    scene.now += 1
    assert scene.server.sorted_sets() == {b"stays": ({b"m": 3.0}, None)}
    assert scene.heard == []


def test_keys_shows_unexpired_strings_and_changes_nothing() -> None:
    scene = Scene()
    client = scene.client("SET k v PX 100", "SET stays w", "ZADD z 1 m", "SELECT 1", "SET other x")
    scene.watcher("k")
    assert scene.server.keys() == {b"k": b"v", b"stays": b"w"}
    assert scene.server.keys(database=1) == {b"other": b"x"}
    scene.now += 1
    assert scene.server.keys() == {b"stays": b"w"}
    assert scene.heard == []
    assert not client.closed


def test_a_killed_client_is_notified_once_and_executes_nothing_more() -> None:
    scene = Scene()
    victim, other = scene.watcher("k"), scene.client()
    assert say(other, f"CLIENT KILL ID {victim.id}") == b":1\r\n"
    assert scene.killed == [victim.id]
    assert victim.closed
    assert say(victim, "SET k late") == b""
    assert say(other, "SET k v NX") == b"+OK\r\n"
    assert scene.heard == []


@pytest.mark.parametrize("end", ["CLIENT KILL ID {}", "close", "crash", "restart"])
def test_subscriptions_end_with_their_connection(end: str) -> None:
    scene = Scene()
    listener, other = scene.client("HELLO 3", "SUBSCRIBE x y"), scene.client()
    assert say(other, "PUBLISH x 1") == b":1\r\n"
    assert scene.heard == [(listener.id, b">3\r\n$7\r\nmessage\r\n$1\r\nx\r\n$1\r\n1\r\n")]
    if end == "close":
        listener.close()
    elif end == "crash":
        scene.server.crash()
    elif end == "restart":
        scene.server.restart(True, "f" * 40)
    else:
        say(other, end.format(listener.id))
    for channel in "xy":
        assert say(scene.client(), f"PUBLISH {channel} 2") == b":0\r\n"
    assert len(scene.heard) == 1


def test_who_quits_is_notified_before_the_reply_returns() -> None:
    scene = Scene()
    client = scene.client("SUBSCRIBE x")
    assert say(client, "QUIT") == b"+OK\r\n"
    assert scene.killed == [client.id]
    assert client.closed
    assert say(scene.client(), "PUBLISH x 1") == b":0\r\n"


def test_a_replica_publishes_and_refuses_writes_also_to_who_has_subscribed() -> None:
    scene = Scene()
    listener, other = scene.client("SUBSCRIBE x"), scene.client()
    scene.server.replica = True
    assert say(other, "PUBLISH x 1") == b":1\r\n"
    assert say(listener, "SET k v").startswith(b"-READONLY")
    assert say(listener, "GET k").startswith(b"-ERR Can't execute 'get'")


def test_a_closed_client_executes_nothing_and_is_not_notified() -> None:
    scene = Scene()
    watcher, other = scene.watcher("k"), scene.client()
    watcher.close()
    assert say(other, "SET k v") == b"+OK\r\n"
    assert say(watcher, "SET k w") == b""
    assert scene.server.keys() == {b"k": b"v"}
    assert not scene.heard
    assert not scene.killed


def test_a_crash_ends_connections_without_a_word_and_keeps_memory() -> None:
    scene = Scene()
    watcher = scene.watcher("k")
    other = scene.client("SET l v")
    scene.server.crash()
    assert watcher.closed
    assert other.closed
    assert say(other, "SET k v") == b""
    assert not scene.heard
    assert not scene.killed
    assert scene.server.keys() == {b"l": b"v"}


@pytest.mark.parametrize("keep_memory", [True, False])
def test_a_restarted_server_is_a_new_process(keep_memory: bool) -> None:
    scene = Scene()
    script = SCRIPTS[0]
    old = scene.watcher("k")
    old.execute([b"SCRIPT", b"LOAD", script.source])
    say(old, "SET l v PX 60000")
    say(old, "ZADD z 1 m")
    scene.now += 10
    assert b"uptime_in_seconds:10\r\n" in say(old, "INFO server")
    scene.server.restart(keep_memory, "f" * 40)
    scene.now += 2
    new = scene.client()
    assert old.closed
    assert new.id == 1
    info = say(new, "INFO server")
    assert b"run_id:" + b"f" * 40 in info
    assert b"uptime_in_seconds:2\r\n" in info
    assert new.execute([b"EVALSHA", script.sha, b"1", b"l", b"v"]).startswith(b"-NOSCRIPT")
    assert say(new, "PTTL l") == (b":48000\r\n" if keep_memory else b":-2\r\n")
    assert say(new, "DBSIZE") == (b":2\r\n" if keep_memory else b":0\r\n")
    say(new, "SET k v")
    assert scene.heard == []


def test_a_key_whose_time_passed_while_the_server_was_down_has_expired() -> None:
    scene = Scene()
    scene.client("SET k v PX 100")
    scene.server.crash()
    scene.now += 1
    scene.server.restart(True, "f" * 40)
    assert say(scene.client(), "SET k w NX") == b"+OK\r\n"


def test_servers_share_neither_keys_nor_scripts() -> None:
    one, two = Scene().client(), Scene().client()
    assert one.execute([b"EVAL", b"return redis.call('SET', 'k', 'v')", b"0"]) == b"+OK\r\n"
    sha = one.execute([b"SCRIPT", b"LOAD", b"return 1"]).split(b"\r\n")[1]
    assert one.execute([b"EVALSHA", sha, b"0"]) == b":1\r\n"
    assert two.execute([b"EVALSHA", sha, b"0"]).startswith(b"-NOSCRIPT")
    assert say(two, "EXISTS k") == b":0\r\n"


@pytest.mark.parametrize(
    "attack",
    [
        "getmetatable('').__index.x = 1",
        "setmetatable(_G, {})",
        "setmetatable(string, {})",
        "string.format = nil",
        "_G.x = 1",
        "redis.call = nil",
        "KEYS = {}",
        "rawset(_G, 'x', 1)",
        "setfenv(1, {})",
        "return python.eval('1')",
        "return os.time()",
        "return math.random()",
    ],
)
def test_a_script_can_not_reach_beyond_itself(attack: str) -> None:
    client = Scene().client()
    assert client.execute([b"EVAL", attack.encode(), b"0"]).startswith(b"-ERR user_script:1:")
    assert client.execute([b"EVAL", b"return {('x'):rep(2), x == nil}", b"0"]).startswith(b"-ERR user_script:1: Script")
    assert client.execute([b"EVAL", b"return ('x'):rep(2)", b"0"]) == b"$2\r\nxx\r\n"


def test_without_lupa_only_scripts_fail_and_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    interpreter.cache_clear()
    monkeypatch.setitem(sys.modules, "lupa.lua51", None)
    client = Scene().client()
    assert say(client, "SET k v") == b"+OK\r\n"
    with pytest.raises(ImportError, match=r"redlock-cluster\[simulation\]"):
        client.execute([b"EVAL", b"return 1", b"0"])
    monkeypatch.undo()
    assert client.execute([b"EVAL", b"return 1", b"0"]) == b":1\r\n"


@pytest.mark.parametrize(
    "command",
    [
        "CLIENT TRACKING ON BCAST",
        "CLIENT KILL ADDR x",
        "ZADD z INCR 1 m",
        "ZRANGE z 0 1 BYSCORE",
        "SET k v IFNE w",
        "DELEX k IFNE v",
    ],
)
def test_an_option_that_the_model_lacks_raises_instead_of_guessing(command: str) -> None:
    client = Scene(REDIS_8_4).client()
    with pytest.raises(NotImplementedError, match="the model server has"):
        say(client, command)
    assert say(client, "PING") == b"+PONG\r\n"


def test_a_lacking_option_in_a_script_raises_too() -> None:
    client = Scene(REDIS_8_4).client()
    with pytest.raises(NotImplementedError, match="IFNE"):
        client.execute([b"EVAL", b"return redis.call('SET', 'k', 'v', 'IFNE', 'w')", b"0"])
    assert client.execute([b"EVAL", b"return redis.call('SET', 'k', 'v')", b"0"]) == b"+OK\r\n"


@pytest.mark.parametrize(
    ("version", "dialect"),
    [
        (VALKEY_9, Dialect(set_nx_get=True, set_ifeq=True, compare_and_delete="DELIFEQ")),
        (REDIS_8_4, Dialect(set_nx_get=True, set_ifeq=True, compare_and_delete="DELEX")),
        (REDIS_8_2, Dialect(set_nx_get=True, set_ifeq=False, compare_and_delete=None)),
        (REDIS_7_0, Dialect(set_nx_get=True, set_ifeq=False, compare_and_delete=None)),
        (REDIS_6_2, Dialect(set_nx_get=False, set_ifeq=False, compare_and_delete=None)),
        (ModelVersion("valkey", (8, 1, 0)), Dialect(set_nx_get=True, set_ifeq=True, compare_and_delete=None)),
    ],
    ids=lambda value: f"{value.family} {value.text}" if isinstance(value, ModelVersion) else "",
)
def test_the_engine_learns_the_dialect_of_each_version(version: ModelVersion, dialect: Dialect) -> None:
    client = Scene(version).client()
    replies = [client.execute([str(word).encode() for word in words]) for words in probes("probe")]
    parsed = [int(reply[1:]) if reply.startswith(b":") else ErrorReply(reply[1:-2].decode()) for reply in replies]
    assert dialect_of(parsed, resp3=True) == dialect


@pytest.mark.parametrize("version", VERSIONS, ids=lambda version: version.text)
def test_equal_calls_give_equal_bytes(version: ModelVersion) -> None:
    def played() -> list[object]:
        scene = Scene(version)
        a, b = scene.watcher("k"), scene.client()
        spoken = [say(b, f"SET k{i % 7} v PX {i % 5 * 10 + 1}") for i in range(50)]
        scene.now += 0.02
        scene.server.advance()
        return [spoken, say(a, "INFO"), say(a, "TIME"), scene.heard, scene.server.keys(), scene.server.next_expiry()]

    assert played() == played()


def test_the_example_of_the_package_runs() -> None:
    example = [line.strip() for line in str(package.__doc__).splitlines() if line.startswith("    ")]
    assert example
    exec("\n".join(example), vars(package).copy())


def test_no_module_of_the_model_reads_a_clock_throws_dice_or_runs_threads() -> None:
    forbidden = {"time", "datetime", "random", "secrets", "os", "uuid", "threading", "asyncio", "socket"}
    for path in Path(str(package.__file__)).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & forbidden, path
