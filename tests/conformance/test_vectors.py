"""The model server answers what real servers answer: the same vectors, and random commands, byte for byte."""

from __future__ import annotations

import contextlib
import re
import socket
import time
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final, Protocol

import hiredis
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from redlock_cluster.testing.model import (
    REDIS_6_2,
    REDIS_7_0,
    REDIS_8_2,
    REDIS_8_4,
    VALKEY_9,
    ModelServer,
    ModelVersion,
)

from .servers import ServerPool
from .vectors import VECTORS, Expiry, Reply, Shape, Step, UpTo, Value, Vector, Word

MODELS: Final[dict[str, ModelVersion]] = {
    "valkey-9": VALKEY_9,
    "redis-8.4": REDIS_8_4,
    "redis-8": REDIS_8_2,
    "redis-7": REDIS_7_0,
    "redis-6": REDIS_6_2,
}
BUILDS: Final = {"valkey-9": ("valkey", 9), "redis-8": ("redis", 8), "redis-7": ("redis", 7), "redis-6": ("redis", 6)}
MARK: Final = b"<the end of a reply>"


def encoded(word: Word) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


class Sender(Protocol):
    """What commands can be sent over."""

    def send(self, words: list[bytes]) -> bytes:
        """Everything that the server sends for a command: the reply and the pushes around it."""


class Peer(Sender, Protocol):
    """One connection. id: its CLIENT ID."""

    id: int

    def unasked(self, at_least: int = 0) -> bytes:
        """What came since without a command; waits for so many bytes."""

    def ended(self) -> bool:
        """Whether the server closed the connection."""

    def close(self) -> None: ...


class Target(Protocol):
    """A server under test. exact: its time stands still between steps."""

    exact: bool

    def connect(self) -> Peer: ...

    def pass_expiry(self, key: bytes, actively: bool) -> None:
        """Lets the time of a key pass. actively: the server is to find out by itself."""


class RealPeer:
    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self._bytes = b""
        told = self.send([b"CLIENT", b"ID"])
        self.id = int(told[1:]) if told.startswith(b":") else 0  # nobody is told before AUTH

    def send(self, words: list[bytes]) -> bytes:
        # An echo marks the end, also for who has subscribed; but CACHING stands only until another command than CLIENT.
        marker = (b"CLIENT", b"ID") if words[0].upper() == b"CLIENT" else (b"PING", MARK)
        self._socket.sendall(hiredis.pack_command(tuple(words)) + hiredis.pack_command(marker))
        frames: list[bytes] = []
        with contextlib.suppress(EOFError, ConnectionResetError):
            while not self._ends(frame := self._frame(), marker, after=frames):
                frames.append(frame)
        return b"".join(frames)

    def unasked(self, at_least: int = 0) -> bytes:
        came = b""
        while len(came) < at_least:
            came += self._frame()
        self._socket.sendall(hiredis.pack_command((b"CLIENT", b"ID")))
        while (frame := self._frame())[:1] in b">*":  # CLIENT ID gets a number, or the error of who has subscribed
            came += frame
        return came

    def ended(self) -> bool:
        try:
            return self._socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def close(self) -> None:
        self._socket.close()

    @staticmethod
    def _ends(frame: bytes, marker: tuple[bytes, ...], after: list[bytes]) -> bool:
        """Whether a frame is the answer to the marker: its echo, or the first answer after the command's own."""
        if marker[-1] == MARK and not frame.startswith(b"-NOAUTH"):
            return MARK in frame
        return not frame.startswith(b">") and any(not earlier.startswith(b">") for earlier in after)

    def _frame(self) -> bytes:
        line = self._line()
        kind, size = line[:1], line[1:-2]
        if kind in b"$=" and size != b"-1":
            return line + self._exactly(int(size) + 2)
        if kind in b"*>%" and size != b"-1":
            return line + b"".join(self._frame() for _ in range(int(size) * (2 if kind == b"%" else 1)))
        return line

    def _line(self) -> bytes:
        while (end := self._bytes.find(b"\r\n")) < 0:
            self._receive()
        return self._exactly(end + 2)

    def _exactly(self, size: int) -> bytes:
        while len(self._bytes) < size:
            self._receive()
        found, self._bytes = self._bytes[:size], self._bytes[size:]
        return found

    def _receive(self) -> None:
        received = self._socket.recv(1 << 20)
        if not received:
            raise EOFError
        self._bytes += received


class RealTarget:
    """An emptied real server."""

    exact = False

    def __init__(self, port: int, password: str | None, lazy: bool = False) -> None:
        self._port = port
        self._observer = RealPeer(port)
        self.authenticate(self._observer, password)
        sweeps = [b"DEBUG", b"SET-ACTIVE-EXPIRE", b"%d" % (not lazy)]
        for words in ([b"FLUSHALL"], [b"SCRIPT", b"FLUSH"], sweeps):
            assert self._observer.send(words) == b"+OK\r\n"

    def connect(self) -> Peer:
        return RealPeer(self._port)

    @staticmethod
    def authenticate(peer: Peer, password: str | None) -> None:
        if password is not None:
            assert peer.send([b"AUTH", password.encode()]) == b"+OK\r\n"

    def now_ms(self) -> int:
        seconds, microseconds = re.findall(rb"\r\n(\d+)(?=\r\n)", self._observer.send([b"TIME"]))
        return int(seconds) * 1000 + int(microseconds) // 1000

    def pass_expiry(self, key: bytes, actively: bool) -> None:
        remaining = int(self._observer.send([b"PTTL", key])[1:])
        end = self.now_ms() + remaining
        # Where it is to act by itself, who waits for its push waits for that.
        while self.now_ms() <= end:
            pass

    def close(self) -> None:
        self._observer.close()


class ModelPeer:
    def __init__(self, server: ModelServer) -> None:
        self._pushed: list[bytes] = []
        self._killed: list[bool] = []
        self._client = server.connect(self._pushed.append, lambda: self._killed.append(True))
        self.id = self._client.id

    def send(self, words: list[bytes]) -> bytes:
        return self._client.execute(words)

    def unasked(self, at_least: int = 0) -> bytes:
        found = b"".join(self._pushed)
        self._pushed.clear()
        return found

    def ended(self) -> bool:
        return self._killed == [True] and self._client.closed

    def close(self) -> None:
        self._client.close()


class ModelTarget:
    exact = True

    def __init__(self, version: str, password: str | None = None) -> None:
        self.now = 1_700_000_000.0
        self.server = ModelServer(lambda: self.now, MODELS[version], password=password)

    def connect(self) -> Peer:
        return ModelPeer(self.server)

    def pass_expiry(self, key: bytes, actively: bool) -> None:
        gone = self.server.next_expiry()
        assert gone is not None
        self.now = gone
        if actively:
            self.server.advance()


class Real(Protocol):
    """An emptied server of a version, with a password or without. lazy: it does not look for expired keys by itself."""

    def __call__(self, version: str, password: str | None = None, lazy: bool = False) -> RealTarget: ...


@pytest.fixture(scope="session")
def real(pool: ServerPool) -> Iterator[Real]:
    """Servers of all versions; each starts when a test first asks for it."""
    with contextlib.ExitStack() as undo:

        @cache
        def port(version: str, config: tuple[tuple[str, str], ...]) -> int:
            return pool.started([pool.build(*BUILDS[version])], undo, **dict(config)).embedded[0].port

        def target(version: str, password: str | None = None, lazy: bool = False) -> RealTarget:
            config = () if version == "redis-6" else (("enable-debug-command", "local"),)
            config += () if password is None else (("requirepass", password),)
            return RealTarget(port(version, config), password, lazy)

        yield target


def resp(text: str) -> bytes:
    return text.replace("~", "\r\n").encode() + b"\r\n" if text else b""


def fits(expected: Reply, got: bytes, exact: bool) -> bool:
    """Whether a reply is what a vector says. exact: no time has passed since the step before."""
    if isinstance(expected, Shape):
        return expected.fits(got)
    if isinstance(expected, UpTo):
        lowest = expected.number if exact else 1
        return re.fullmatch(rb":\d+\r\n", got) is not None and lowest <= int(got[1:]) <= expected.number
    return got == (resp(expected) if isinstance(expected, str) else expected)


NO_KEY_FIRST: Final = ("EVAL", "EVALSHA", "SCRIPT", "CLIENT", "CONFIG", "HELLO", "SUBSCRIBE", "UNSUBSCRIBE", "PUBLISH")


class Player:
    """Plays a vector and compares every byte."""

    def __init__(self, target: Target, version: str, vector: Vector, undo: contextlib.ExitStack) -> None:
        self.target, self.version, self.steps = target, version, vector.steps
        self.peers = {name: undo.enter_context(contextlib.closing(target.connect())) for name in vector.clients}
        self.ids = {name: b"%d" % peer.id for name, peer in self.peers.items()}
        self.observer = undo.enter_context(contextlib.closing(target.connect()))
        if vector.password is not None:
            self.observer.send([b"AUTH", vector.password.encode()])
        self.state: dict[bytes, Value] = {}

    def play(self) -> None:
        plain = [step for step in self.steps if isinstance(step, Step) and step.words[0] not in NO_KEY_FIRST]
        names = {encoded(step.words[1]) for step in plain if len(step.words) > 1}
        gone: set[bytes] = set()  # what has expired: whoever looks at it first has it told, and that is a step's to do
        for index, step in enumerate(self.steps):
            if isinstance(step, Expiry):
                self._pass(step)
                gone |= step.gone
                continue
            self._do(step)
            changed = self._note(step)
            names |= changed
            gone -= changed
            self._compare(names - gone - self._going(self.steps[index + 1 :]))
        self._compare(names)

    def _going(self, later: tuple[Step | Expiry, ...]) -> set[bytes]:
        """The keys that may expire at any moment."""
        return set() if self.target.exact else set().union(*(step.gone for step in later if isinstance(step, Expiry)))

    def _pass(self, step: Expiry) -> None:
        self.target.pass_expiry(step.key.encode(), actively=any(step.pushed.values()))
        for key in step.gone:
            del self.state[key]
        for name, text in step.pushed.items():
            expected = resp(text)
            assert self.peers[name].unasked(at_least=len(expected)) == expected, step

    def _do(self, step: Step) -> None:
        peer = self.peers[step.client]
        words = [self._filled(encoded(word)) for word in step.words]
        replies = step.reply if isinstance(step.reply, Mapping) else {"*": step.reply}
        expected = replies.get(self.version, replies.get("*"))
        assert expected is not None, f"{step}: no reply for {self.version}"
        got = peer.send(words)
        assert fits(expected, got, self.target.exact), f"{step.words}: {got!r}, not {expected!r}"
        if step.closes:
            assert self.peers.pop(step.closes).ended(), step
        for name, text in step.pushed.items():
            if name in self.peers:
                assert self.peers[name].unasked() == resp(text), step

    def _filled(self, word: bytes) -> bytes:
        return re.sub(rb"^\{([abc])\}$", lambda match: self.ids[match[1].decode()], word)

    def _note(self, step: Step) -> set[bytes]:
        changes: dict[bytes, Value] = {key.encode(): value for key, value in step.changes.items()}
        changes |= step.binary
        self.state |= changes
        return set(changes)

    def _compare(self, names: set[bytes]) -> None:
        for name in names:
            assert self._found(name) == self._expected(name), name

    def _expected(self, name: bytes) -> bytes | None:
        value = self.state.get(name)
        return value.encode() if isinstance(value, str) else value

    def _found(self, name: bytes) -> bytes | None:
        kind = self.observer.send([b"TYPE", name])
        if kind == b"+none\r\n":
            return None
        if kind != b"+string\r\n":
            return b"<%b>" % kind[1:-2]
        return self.observer.send([b"GET", name]).partition(b"\r\n")[2][:-2]


CASES: Final = [
    pytest.param(vector, version, id=f"{version}: {vector.name}") for vector in VECTORS for version in vector.versions
]


@pytest.mark.parametrize(("vector", "version"), CASES)
def test_the_model_answers_as_the_vector_says(vector: Vector, version: str) -> None:
    with contextlib.ExitStack() as undo:
        Player(ModelTarget(version, vector.password), version, vector, undo).play()


@pytest.mark.parametrize(("vector", "version"), [case for case in CASES if case.values[1] in BUILDS])
def test_the_real_server_answers_as_the_vector_says(vector: Vector, version: str, real: Real) -> None:
    with contextlib.ExitStack() as undo:
        target = undo.enter_context(contextlib.closing(real(version, vector.password, vector.lazy)))
        Player(target, version, vector, undo).play()


def sees_the_edge(peer: Sender, swept_early: bool = False) -> bool:
    """Watches one key die: asserts that it was there to the end of its last millisecond and gone in the next.

    swept_early: Redis since 7.4 may find it in its last millisecond when it looks for expired keys now and then

    Says whether both were seen. A look counts where the server's time before and after it is the same millisecond.
    """

    def now_ms() -> int:
        seconds, microseconds = re.findall(rb"\r\n(\d+)(?=\r\n)", peer.send([b"TIME"]))
        return int(seconds) * 1000 + int(microseconds) // 1000

    end = now_ms() + 4
    assert peer.send([b"SET", b"k", b"v", b"PXAT", b"%d" % end]) == b"+OK\r\n"
    seen = set()
    before = now_ms()
    while before < end + 3:
        remaining = int(peer.send([b"PTTL", b"k"])[1:])
        after = now_ms()
        if before == after:
            seen.add((before - end, remaining))
            gone = before > end or (swept_early and before == end and remaining == -2)
            assert remaining == (-2 if gone else end - before)
        before = after
    return {(0, 0), (1, -2)} <= seen


@pytest.mark.parametrize("version", MODELS)
def test_at_its_last_millisecond_a_key_of_the_model_is_there_and_then_gone(version: str) -> None:
    target = ModelTarget(version)
    peer = target.connect()

    class Running:
        """The same connection, on a server whose time runs."""

        def send(self, words: list[bytes]) -> bytes:
            target.now += 0.0001
            return peer.send(words)

    assert sees_the_edge(Running())


@pytest.mark.parametrize("version", BUILDS)
def test_at_its_last_millisecond_a_real_key_is_there_and_then_gone(version: str, real: Real) -> None:
    with contextlib.closing(real(version, None)) as target, contextlib.closing(target.connect()) as peer:
        assert any(sees_the_edge(peer, swept_early=version == "redis-8") for _ in range(500))


FAR = ("10000000", "20000000")  # milliseconds; nothing expires while a test runs
MOMENTS = ("90000000000000", "91000000000000")
KEYS = st.sampled_from(["a", "b"])
VALUES = st.sampled_from(["x", "y", "1", ""])
SCORES = st.sampled_from(["1", "2", "1.5", "(1", "-inf", "+inf", "nan", "x"])
SET_OPTIONS = st.lists(
    st.sampled_from(
        ["NX", "XX", "GET", "KEEPTTL", "PX 0", "EX abc", "IFEQ x", "IFEQ", "FOO", *(f"PX {n}" for n in FAR)]
    ),
    max_size=3,
).map(" ".join)
SOURCES = st.sampled_from(
    [
        "return redis.call('GET', KEYS[1])",
        "return redis.call('SET', KEYS[1], ARGV[1], 'NX')",
        "return redis.pcall('INCR', KEYS[1])",
        "redis.call('SET', 'a', 'z') return redis.call('ZADD', KEYS[1], 3, ARGV[1])",
        "return {redis.call('TYPE', KEYS[1]), redis.call('EXISTS', 'a', 'b'), ARGV[2] or false}",
        "redis.call('PUBLISH', KEYS[1], ARGV[1]) redis.call('SET', 'b', 'z') return redis.call('PUBLISH', 'b', 'z')",
    ]
)


def line(template: str, *parts: st.SearchStrategy[str]) -> st.SearchStrategy[list[bytes]]:
    """Commands from a template; what is empty leaves no word behind."""
    return st.tuples(*parts).map(lambda filled: [encoded(word) for word in template.format(*filled).split()])


COMMANDS = st.one_of(
    st.tuples(KEYS, VALUES, SET_OPTIONS).map(
        lambda three: [b"SET", encoded(three[0]), encoded(three[1]), *map(encoded, three[2].split())]
    ),
    line("{} {}", st.sampled_from(["GET", "DEL", "EXISTS", "TYPE", "PTTL", "TTL", "PERSIST", "INCR", "UNLINK"]), KEYS),
    line("{} {} {}", st.sampled_from(["DEL", "EXISTS", "UNLINK"]), KEYS, KEYS),
    line("DELIFEQ {} {}", KEYS, VALUES),
    line("PEXPIRE {} {}", KEYS, st.sampled_from(["-1", "0", "x"])),
    line("PEXPIREAT {} {}", KEYS, st.sampled_from(["-1", "0", "1", "x"])),
    line("PEXPIRE {} {} {}", KEYS, st.sampled_from(FAR), st.sampled_from(["", "NX", "XX", "NX XX", "GT LT"])),
    # GT and LT compare moments: only those that don't depend on when the command runs are the same for both servers.
    line(
        "PEXPIREAT {} {} {}", KEYS, st.sampled_from(MOMENTS), st.sampled_from(["GT", "LT", "LT XX", "GT XX", "NX LT"])
    ),
    line("ZADD {} {} {} m", KEYS, st.sampled_from(["", "NX", "XX", "CH", "GT CH", "LT CH", "NX XX"]), SCORES),
    line("ZADD {} {} m 2 n", KEYS, SCORES),
    line("{} {} m", st.sampled_from(["ZREM", "ZSCORE", "ZRANK", "HGET", "HDEL"]), KEYS),
    line("{} {}", st.sampled_from(["ZCARD", "HLEN", "HGETALL"]), KEYS),
    line(
        "ZRANGE {} {} {} WITHSCORES",
        KEYS,
        st.sampled_from(["0", "1", "-1", "-9"]),
        st.sampled_from(["0", "-1", "9", "-9"]),
    ),
    line("{} {} {} {}", st.sampled_from(["ZRANGEBYSCORE", "ZREMRANGEBYSCORE", "ZCOUNT"]), KEYS, SCORES, SCORES),
    line("HSET {} m {}", KEYS, VALUES),
    line(
        "{}",
        st.sampled_from(
            ["DBSIZE", "FLUSHDB", "FLUSHALL", "FLUSHALL ASYNC", "PING", "NONSENSE", "SELECT 1", "SELECT 0"]
        ),
    ),
    line(
        "CLIENT {}",
        st.sampled_from(["CACHING YES"] * 4 + ["CACHING NO", "TRACKING ON OPTIN", "TRACKING ON", "TRACKING OFF"]),
    ),
    line("CLIENT TRACKING ON {}", st.sampled_from(["OPTOUT", "OPTIN NOLOOP", "NOLOOP"])),
    line("{}", st.sampled_from(["SUBSCRIBE a", "SUBSCRIBE a a", "UNSUBSCRIBE", "UNSUBSCRIBE a", "UNSUBSCRIBE b"])),
    line("PUBLISH {} {}", KEYS, VALUES),
    st.tuples(SOURCES, KEYS, VALUES).map(
        lambda three: [b"EVAL", encoded(three[0]), b"1", encoded(three[1]), encoded(three[2])]
    ),
)
TIME_LEFT: Final = re.compile(rb":(\d{4,})\r\n")


def alike(said: bytes, meant: bytes) -> bool:
    """Whether two replies are the same; what is left of a long time may differ by what passed meanwhile."""
    times = [TIME_LEFT.fullmatch(reply) for reply in (said, meant)]
    if times[0] is not None and times[1] is not None:
        return abs(int(times[0][1]) - int(times[1][1])) < 60_000
    return said == meant


@pytest.mark.parametrize("version", BUILDS)
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    resps=st.tuples(st.sampled_from([b"2", b"3"]), st.just(b"3")),
    script=st.lists(st.tuples(st.booleans(), COMMANDS), min_size=10, max_size=40),
)
def test_random_commands_get_the_same_bytes_from_model_and_real_server(
    version: str, real: Real, resps: tuple[bytes, bytes], script: list[tuple[bool, list[bytes]]]
) -> None:
    with contextlib.ExitStack() as undo:
        model = ModelTarget(version)
        model.now = time.time()
        targets: list[Target] = [model, undo.enter_context(contextlib.closing(real(version, None)))]
        played, actual = ([undo.enter_context(contextlib.closing(t.connect())) for _ in resps] for t in targets)
        for peers in (played, actual):
            for peer, number in zip(peers, resps, strict=True):
                peer.send([b"HELLO", number])
                peer.send([b"CLIENT", b"TRACKING", b"ON", b"OPTIN"])
        for who, words in script:
            said, meant = (peers[who].send(list(words)) for peers in (played, actual))
            assert alike(said, meant), (words, said, meant)
            assert played[not who].unasked() == actual[not who].unasked(), words
