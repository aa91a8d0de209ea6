"""What servers answer, as data: the one truth for the model server and the real ones.

A vector is a sequence of steps on an empty server. Replies are written with `~` for CR LF, the last one left out.
A reply that differs between versions is a dict: by version, `*` for the others. What a step changes in database 0 is
named by keyword, the key's new value or None; whatever is not named must have stayed as it was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from redlock_cluster.core.dialect import probes
from redlock_cluster.core.force import removal
from redlock_cluster.core.queue import side_keys
from redlock_cluster.lua import EXTEND, FIND, HEAL, READ, RELEASE, TAKE

VALKEY_9, REDIS_84, REDIS_8, REDIS_7, REDIS_6 = ALL = ("valkey-9", "redis-8.4", "redis-8", "redis-7", "redis-6")
"""No build of Redis 8.4 is at hand: what holds for it alone was taken from its documentation and sources, not seen."""
REDIS_84_ONLY: Final = (REDIS_84,)

Word = str | bytes | int


@dataclass(frozen=True)
class UpTo:
    """A whole number that shrinks with time: exactly this on the model, not more than this on a real server."""

    number: int


@dataclass(frozen=True)
class Shape:
    """A reply of which only the form is certain: a pattern for all of its bytes."""

    pattern: str

    def fits(self, reply: bytes) -> bool:
        return re.fullmatch(self.pattern.replace("~", "\r\n").encode(), reply, re.DOTALL) is not None


Reply = str | bytes | UpTo | Shape
Replies = Reply | Mapping[str, Reply]
Value = str | bytes | Literal["<zset>", "<hash>"] | None


@dataclass(frozen=True)
class Step:
    """One command of one client.

    changes, binary: what it changes, by key; pushed: what the other clients get of it; closes: whose connection ends
    """

    client: str
    words: tuple[Word, ...]
    reply: Replies
    changes: Mapping[str, Value]
    pushed: Mapping[str, str]
    binary: Mapping[bytes, bytes | None] = field(default_factory=dict)
    closes: str = ""


@dataclass(frozen=True)
class Expiry:
    """A key's time passes; nobody touches it. pushed: as in Step; also: keys whose time is over then too."""

    key: str
    pushed: Mapping[str, str]
    also: tuple[str, ...] = ()

    @property
    def gone(self) -> set[bytes]:
        return {key.encode() for key in (self.key, *self.also)}


@dataclass(frozen=True)
class Vector:
    """versions: those for which it holds; lazy: the server finds what has expired only when somebody looks"""

    name: str
    steps: tuple[Step | Expiry, ...]
    versions: tuple[str, ...] = ALL
    password: str | None = None
    lazy: bool = False

    @property
    def clients(self) -> list[str]:
        """Who is connected: the first two, and the third where it says something."""
        return sorted({"a", "b"} | {step.client for step in self.steps if isinstance(step, Step)})


def words_of(command: str | tuple[Word, ...]) -> tuple[Word, ...]:
    return tuple(command.split(" ")) if isinstance(command, str) else command


def a(command: str | tuple[Word, ...], reply: Replies, _to_b: str = "", _to_c: str = "", **changes: Value) -> Step:
    """The first client sends a command."""
    return Step("a", words_of(command), reply, changes, {"b": _to_b, "c": _to_c})


def b(command: str | tuple[Word, ...], reply: Replies, _to_a: str = "", _to_c: str = "", **changes: Value) -> Step:
    """The second client sends a command."""
    return Step("b", words_of(command), reply, changes, {"a": _to_a, "c": _to_c})


def c(command: str | tuple[Word, ...], reply: Replies, _to_a: str = "", _to_b: str = "", **changes: Value) -> Step:
    """A third client sends a command."""
    return Step("c", words_of(command), reply, changes, {"a": _to_a, "b": _to_b})


def kills(command: str, reply: Replies, victim: str, killer: str = "b") -> Step:
    """A client ends a connection."""
    return Step(killer, words_of(command), reply, {}, {}, {}, victim)


def raw(command: tuple[Word, ...], reply: Replies, binary: Mapping[bytes, bytes | None]) -> Step:
    """The first client sends bytes."""
    return Step("a", command, reply, {}, {}, binary)


def expires(key: str, _to_a: str = "", _to_b: str = "", also: tuple[str, ...] = ()) -> Expiry:
    return Expiry(key, {"a": _to_a, "b": _to_b}, also)


def eval_(script: str, *arguments: Word, keys: tuple[Word, ...] = ()) -> tuple[Word, ...]:
    return ("EVAL", script, len(keys), *keys, *arguments)


def release(key: str | bytes, token: str | bytes, in_full: bool = False, knows: int = 0) -> tuple[Word, ...]:
    """knows: 1 if who releases knows of others that wait."""
    script = ("EVAL", RELEASE.source) if in_full else ("EVALSHA", RELEASE.sha)
    return (*script, 4, *side_keys(key if isinstance(key, bytes) else key.encode()), token, "", knows)


def take(key: str, token: str, name: str, order: int) -> tuple[Word, ...]:
    """As one who waits for a minute, with an order that servers have agreed on."""
    exact = 1 if name else 0
    return ("EVAL", TAKE.source, 4, *side_keys(key.encode()), token, 60000, name, order, exact, 60000)


def read(key: str, token: str, name: str = "", order: int | str = "") -> tuple[Word, ...]:
    """As a reader for a minute, in no queue or as `take`."""
    exact = 1 if name else 0
    return ("EVAL", READ.source, 4, *side_keys(key.encode()), token, 60000, name, order, exact, 60000)


def find(key: str, token: str) -> tuple[Word, ...]:
    return "EVAL", FIND.source, 1, key, token


def extend(key: str, token: str, ttl_ms: int, in_full: bool = False) -> tuple[Word, ...]:
    return (*(("EVAL", EXTEND.source) if in_full else ("EVALSHA", EXTEND.sha)), 1, key, token, ttl_ms)


def force(key: str, token: str, ttl_ms: int) -> tuple[Word, ...]:
    """token: one that other servers hold"""
    return removal(key.encode(), [token.encode()] if token else [], ttl_ms)


def heal(key: str, token: str, reads: bool = False) -> tuple[Word, ...]:
    return "EVAL", HEAL.source, 2, key, f"{key}:redlock:forced", token, 7000, int(reads)


def push(key: str) -> str:
    return f">2~$10~invalidate~*1~${len(key)}~{key}"


def told(kind: str, channel: str | None, what: str | int, resp: int) -> str:
    """What a subscriber gets: a confirmation with a number, or a message."""
    null = "_" if resp == 3 else "$-1"
    name = null if channel is None else f"${len(channel)}~{channel}"
    rest = f":{what}" if isinstance(what, int) else f"${len(what)}~{what}"
    return f"{'>' if resp == 3 else '*'}3~${len(kind)}~{kind}~{name}~{rest}"


def message(text: str, resp: int, channel: str = "x") -> str:
    return told("message", channel, text, resp)


def behind(reply: str | Mapping[str, str], pushes: str, behind_all: str = "") -> dict[str, Reply]:
    """A reply and own messages: behind it since Redis 7.2, before it in older versions. behind_all: what comes last."""
    each = {"*": reply} if isinstance(reply, str) else reply
    last = f"~{behind_all}" if behind_all else ""
    new = {version: f"{each.get(version, each['*'])}~{pushes}{last}" for version in ALL}
    return {**new, **{version: f"{pushes}~{each.get(version, each['*'])}{last}" for version in (REDIS_7, REDIS_6)}}


def not_now(name: str, old: str = "") -> dict[str, Reply]:
    """The error of a RESP2 connection that has subscribed. old: the command's name before Redis 7"""
    text = "-ERR Can't execute '{}': only {}SUBSCRIBE / {}UNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
    return {"*": text.format(name, "(P|S)", "(P|S)"), REDIS_6: text.format(old or name, "(P)", "(P)")}


def sha(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()


OK, NIL2, NIL3, ONE, ZERO = "+OK", "$-1", "_", ":1", ":0"
ZSET, HASH = "<zset>", "<hash>"
R1, R2, R3, R4 = (f"0123456789012345678901@{owner}" for owner in "abcd")
QUEUE: Final[Mapping[str, Value]] = {"k:redlock:queue": ZSET, "k:redlock:expiry": ZSET}
NO_QUEUE: Final[Mapping[str, Value]] = dict.fromkeys(QUEUE)
SYNTAX = "-ERR syntax error"
NO_AUTH = "-NOAUTH Authentication required."
WRONG_PASS = "-WRONGPASS invalid username-password pair or user is disabled."
WRONGTYPE = "-WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_INTEGER = "-ERR value is not an integer or out of range"
FLUSHED = ">2~$10~invalidate~_"
TTL_REFUSED = {"*": "-ERR invalid expire time in 'set' command", REDIS_6: "-ERR invalid expire time in set"}
NAMES_HOLDER = (VALKEY_9, REDIS_84, REDIS_8, REDIS_7)
FULL = "-OOM command not allowed when used memory > 'maxmemory'."
NO_SCRIPT = {"*": "-NOSCRIPT No matching script. Please use EVAL.", VALKEY_9: "-NOSCRIPT No matching script."}
COMPARES = (VALKEY_9, REDIS_84)
HELLO3 = Shape(r"%7~\$6~server~.*\$5~proto~:3~.*")
HELLO2 = Shape(r"\*14~\$6~server~.*\$5~proto~:2~.*")
TRACK = (a("HELLO 3", HELLO3), a("CLIENT TRACKING ON OPTIN", OK))


def unknown(name: str, *arguments: str) -> dict[str, Reply]:
    new = "".join(f"'{word}' " for word in arguments)
    old = "".join(f"`{word}`, " for word in arguments)
    return {
        "*": f"-ERR unknown command '{name}', with args beginning with: {new}",
        REDIS_6: f"-ERR unknown command `{name}`, with args beginning with: {old}",
    }


def arity(name: str) -> str:
    return f"-ERR wrong number of arguments for '{name}' command"


def sub_arity(container: str, name: str) -> dict[str, Reply]:
    old = f"-ERR Unknown subcommand or wrong number of arguments for '{name}'. Try {container} HELP."
    return {"*": arity(f"{container.lower()}|{name.lower()}"), REDIS_6: old}


def no_sub(container: str, name: str) -> dict[str, Reply]:
    old = f"-ERR Unknown subcommand or wrong number of arguments for '{name}'. Try {container} HELP."
    return {"*": f"-ERR unknown subcommand '{name}'. Try {container} HELP.", REDIS_6: old}


def no_auth_hello(more: str) -> str:
    return (
        f"-NOAUTH HELLO must be called with the client already authenticated, otherwise the HELLO {more}AUTH <user> "
        "<pass> option can be used to authenticate the client and select the RESP protocol version at the same time"
    )


def _bulk(text: str | Mapping[str, str]) -> Replies:
    each = {"*": text} if isinstance(text, str) else text
    return {version: f"${len(one)}~{one}" for version, one in each.items()}


def _double(text: str | Mapping[str, str]) -> Replies:
    each = {"*": text} if isinstance(text, str) else text
    return {version: f",{one}" for version, one in each.items()}


def _scored(text: str | Mapping[str, str], resp: int) -> Replies:
    """One member `m` and its score."""
    each = {"*": text} if isinstance(text, str) else text
    if resp == 3:
        return {version: f"*1~*2~$1~m~,{one}" for version, one in each.items()}
    return {version: f"*2~$1~m~${len(one)}~{one}" for version, one in each.items()}


def faulty(script: str, text: str, line: int = 1, valkey: str = "", old: str = "") -> Step:
    """A script that ends with an error: `text` in the words of Redis 7, `valkey` and `old` where those differ."""
    digest = sha(script)
    place = f"ERR Error running script (call to f_{digest}): @user_script:{line}: "
    replies = {
        VALKEY_9: f"-{valkey or text} script: on @user_script:{line}.",
        "*": f"-{text} script: {digest}, on @user_script:{line}.",
        REDIS_6: f"-{place}{old or text}",
    }
    return a(eval_(script), replies)


ACQUIRE = [
    Vector(
        "SET NX sets a free key only",
        (
            a("SET k one NX PX 60000", OK, k="one"),
            a("PTTL k", UpTo(60000)),
            a("SET k two NX PX 5", NIL2),
            a("PTTL k", UpTo(60000)),
            a("GET k", "$3~one"),
            a("set k two nx px 10", NIL2),
            a("DEL k", ONE, k=None),
            a("SET k two NX", OK, k="two"),
            a("PTTL k", ":-1"),
        ),
    ),
    Vector(
        "SET NX GET grants with nil and refuses with the holder",
        (
            a("SET k one NX GET PX 60000", NIL2, k="one"),
            a("SET k two NX GET PX 5", "$3~one"),
            a("PTTL k", UpTo(60000)),
            a("SET k two GET NX PX 5", "$3~one"),
        ),
        NAMES_HOLDER,
    ),
    Vector(
        "SET NX GET is unknown before Redis 7",
        (a("SET k one NX GET PX 60000", SYNTAX), a("SET k one GET", NIL2, k="one"), a("SET k two GET NX", SYNTAX)),
        (REDIS_6,),
    ),
    Vector(
        "SET NX GET in RESP3",
        (
            a("HELLO 3", HELLO3),
            a("SET k one NX GET", NIL3, k="one"),
            a("SET k two NX GET", "$3~one"),
            a("SET k w NX", NIL3),
        ),
        NAMES_HOLDER,
    ),
    Vector(
        "SET over another type",
        (
            a("ZADD k 1 m", ONE, k=ZSET),
            a("SET k v NX", NIL2),
            a("SET k v NX GET", {"*": WRONGTYPE, REDIS_6: SYNTAX}),
            a("SET k v GET", WRONGTYPE),
            a("SET k v XX", OK, k="v"),
            a("SET other v XX", NIL2),
            a("SET k w XX GET", "$1~v", k="w"),
        ),
    ),
    Vector(
        "SET options",
        (
            a("SET", arity("set")),
            a("SET k", arity("set")),
            a("SET k v NX XX", SYNTAX),
            a("SET k v XX NX", SYNTAX),
            a("SET k v PX", SYNTAX),
            a("SET k v FOO", SYNTAX),
            a("SET k v PERSIST", SYNTAX),
            a("SET k v KEEPTTL PX 100", SYNTAX),
            a("SET k v EX 10 PX 10", SYNTAX),
            a("SET k v PX 10 KEEPTTL", SYNTAX),
            a("SET k v PX 10 PXAT 10", SYNTAX),
            a("SET k v NX NX", OK, k="v"),
            a("SET k v GET GET", "$1~v"),
            a("SET k v EX 100", OK),
            a("TTL k", ":100"),
            a("PTTL k", UpTo(100_000)),
            a("SET k w KEEPTTL", OK, k="w"),
            a("PTTL k", UpTo(100_000)),
            a("SET k w", OK),
            a("PTTL k", ":-1"),
            a("SET k w PX 10 PX 60000", OK),
            a("PTTL k", UpTo(60000)),
        ),
    ),
    Vector(
        "SET with a time that is refused",
        (
            *(a(f"SET k v {time}", TTL_REFUSED) for time in ("PX 0", "PX -1", "EX 0", "EX -1", "PXAT 0", "EXAT -5")),
            *(a(f"SET k v {time}", TTL_REFUSED) for time in ("EX 9223372036854775807", "PX 9223372036854775807")),
            *(a(f"SET k v PX {time}", NOT_INTEGER) for time in ("abc", "1.5", "+5", "05", "1_0", "-0", "")),
            a(("SET", "k", "v", "PX", " 5"), NOT_INTEGER),
            a("SET k v PX 9223372036854775808", NOT_INTEGER),
            a("SET k v NX PX 0", TTL_REFUSED),
        ),
    ),
    Vector(
        "SET with a time that is over already",
        (a("SET k v PXAT 1", OK), a("GET k", NIL2), a("SET k v NX", OK, k="v"), a("SET k w EXAT 1", OK, k=None)),
    ),
    Vector(
        "what the engine asks to learn the dialect",
        tuple(
            a(words, reply)
            for words, reply in zip(
                probes("probe"),
                (
                    {"*": TTL_REFUSED["*"], REDIS_6: SYNTAX},
                    {"*": SYNTAX, VALKEY_9: TTL_REFUSED["*"], REDIS_84: TTL_REFUSED["*"]},
                    {**unknown("DELIFEQ", "probe", ""), VALKEY_9: ZERO},
                    {**unknown("DELEX", "probe", "IFEQ", ""), REDIS_84: ZERO},
                ),
                strict=True,
            )
        ),
    ),
    Vector(
        "binary and empty keys and values",
        (
            raw(("SET", b"\x00\xff\r\n", b"\r\n\x00$3", "NX"), OK, {b"\x00\xff\r\n": b"\r\n\x00$3"}),
            raw(("GET", b"\x00\xff\r\n"), b"$5\r\n\r\n\x00$3\r\n", {}),
            raw(("SET", b"", b""), OK, {b"": b""}),
            raw(("GET", b""), "$0~", {}),
            raw(release(b"\x00\xff\r\n", b"\r\n\x00$4", in_full=True), ZERO, {}),
            raw(release(b"\x00\xff\r\n", b"\r\n\x00$3", in_full=True), ONE, {b"\x00\xff\r\n": None}),
        ),
    ),
    Vector(
        "large values",
        (
            raw(("SET", "k", b"\x00x" * 500_000, "PX", 60000), OK, {b"k": b"\x00x" * 500_000}),
            raw(("GET", "k"), b"$1000000\r\n" + b"\x00x" * 500_000 + b"\r\n", {}),
            raw(release("k", b"\x00x" * 500_000, in_full=True), ONE, {b"k": None}),
        ),
    ),
]

RELEASE_AND_EXTEND = [
    Vector(
        "DELIFEQ",
        (
            a("DELIFEQ k v", ZERO),
            a("SET k v PX 60000", OK, k="v"),
            a("DELIFEQ k w", ZERO),
            a("DELIFEQ k v", ONE, k=None),
            a("DELIFEQ k v", ZERO),
            a("ZADD k 1 v", ONE, k=ZSET),
            a("DELIFEQ k v", WRONGTYPE),
            a("DELIFEQ k", arity("delifeq")),
            a("DELIFEQ k v w", arity("delifeq")),
        ),
        (VALKEY_9,),
    ),
    Vector(
        "DELEX",  # only on the model: see REDIS_84_ONLY
        (
            a("DELEX k IFEQ v", ZERO),
            a("SET k v PX 60000", OK, k="v"),
            a("DELEX k IFEQ w", ZERO),
            a("DELEX k ifeq v", ONE, k=None),
            a("ZADD k 1 v", ONE, k=ZSET),
            a("DELEX k IFEQ v", "-ERR Key should be of string type if conditions are specified"),
            a("DELEX k", ONE, k=None),
            a("DELEX k", ZERO),
            a("DELEX k IFEQ", arity("delex")),
            a("DELEX k IFEQ v w", arity("delex")),
            a("SET k v", OK, k="v"),
            a("DELEX k FOO v", "-ERR Invalid condition. Use IFEQ, IFNE, IFDEQ, or IFDNE"),
        ),
        REDIS_84_ONLY,
    ),
    Vector(
        "native release is unknown elsewhere",
        (a("DELIFEQ k v", unknown("DELIFEQ", "k", "v")), a("DELEX k IFEQ v", unknown("DELEX", "k", "IFEQ", "v"))),
        (REDIS_8, REDIS_7, REDIS_6),
    ),
    Vector(
        "SET IFEQ",
        (
            a("SET k v IFEQ v PX 60000", NIL2),
            a("SET k v", OK, k="v"),
            a("SET k v IFEQ v PX 60000", OK),
            a("PTTL k", UpTo(60000)),
            a("SET k w IFEQ x PX 5", NIL2),
            a("PTTL k", UpTo(60000)),
            a("SET k w IFEQ v GET", "$1~v", k="w"),
            a("PTTL k", ":-1"),
            a("SET k x IFEQ v GET", "$1~w"),
            a("SET none x IFEQ v GET", NIL2),
            a("SET k x IFEQ w NX", SYNTAX),
            a("SET k x NX IFEQ w", SYNTAX),
            a("SET k x XX IFEQ w", SYNTAX),
            a("SET k x IFEQ", SYNTAX),
            a("SET k x ifeq w KEEPTTL", OK, k="x"),
            a("ZADD z 1 m", ONE, z=ZSET),
            a("SET z v IFEQ v PX 5", WRONGTYPE),
        ),
        COMPARES,
    ),
    Vector("SET IFEQ is unknown elsewhere", (a("SET k v IFEQ v PX 60000", SYNTAX),), (REDIS_8, REDIS_7, REDIS_6)),
    Vector(
        "the release script",
        (
            a(release("k", "v"), NO_SCRIPT),
            a(("SCRIPT", "LOAD", RELEASE.source), f"$40~{RELEASE.sha.decode()}"),
            a(release("k", "v"), ZERO),
            a("SET k v PX 60000", OK, k="v"),
            a(release("k", "w"), ZERO),
            a(release("k", "v"), ONE, k=None),
            a(release("k", "v"), ZERO),
            a("ZADD k 1 w", ONE, k=ZSET),
            a(release("k", "v"), ZERO),
            a("SCRIPT FLUSH", OK),
            a(release("k", "v"), NO_SCRIPT),
            a(release("k", "v", in_full=True), ZERO),
            a(release("k", "v"), ZERO),
        ),
    ),
    Vector(
        "the scripts of those who wait",
        (
            a("HELLO 3", HELLO3),
            b("HELLO 3", HELLO3),
            a("SUBSCRIBE redlock:A", told("subscribe", "redlock:A", 1, 3)),
            b("SUBSCRIBE redlock:token-of", told("subscribe", "redlock:token-of", 1, 3)),
            b(take("k", "token-of-b", "", 0), ONE, k="token-of-b"),
            a(
                take("k", "token-of-a", "tA", 1_700_000_000_000_123),
                Shape(r"\*5~\$10~token-of-b~:\d+~:0~\$16~1700000000000123~\$16~\d{16}~"),
                message("wk", 3, channel="redlock:token-of"),
                **QUEUE,
            ),
            c(
                take("k", "token-of-c", "tC", 1_700_000_000_000_124),
                Shape(r"\*5~\$10~token-of-b~:-1~:1~\$16~1700000000000124~\$16~\d{16}~"),
            ),
            c("ZRANGE k:redlock:queue 0 -1 WITHSCORES", "*4~$2~tA~$16~1700000000000123~$2~tC~$16~1700000000000124"),
            b(release("k", "token-of-c", in_full=True), ZERO),
            b(release("k", "token-of-b"), ":2", message("fk", 3, channel="redlock:A"), k=None),
            c(
                take("k", "token-of-c", "tC", 1_700_000_000_000_124),
                Shape(r"\*5~\$0~~:-2~:1~\$16~1700000000000124~\$16~\d{16}~"),
                message("fk", 3, channel="redlock:A"),
            ),
            b(take("k", "token-of-b", "", 0), "*5~$0~~:-2~:-1~$0~~$0~"),
            a(take("k", "token-of-a", "tA", 1_700_000_000_000_123), ":2", k="token-of-a"),
            # Who can't be told does not count any more.
            a(release("k", "token-of-a", knows=1), ONE, k=None, **{"k:redlock:queue": None}),
            a(take("k", "token-of-a", "tA", 1_700_000_000_000_125), ONE, k="token-of-a"),
        ),
    ),
    Vector(
        "readers, and who waits to write",
        (
            a("HELLO 3", HELLO3),
            a("SUBSCRIBE redlock:A", told("subscribe", "redlock:A", 1, 3)),
            b("HELLO 3", HELLO3),
            b("SUBSCRIBE redlock:B", told("subscribe", "redlock:B", 1, 3)),
            a(read("k", R1), ONE, k=ZSET),
            b(read("k", R2), ONE),
            b(read("k", R2), ONE),
            c("ZCARD k", ":2"),
            c("PTTL k", UpTo(60000)),
            c("SET k w NX", NIL2),
            c(take("k", "token-of-c", "", 0), "*5~$0~~:-1~:-1~$0~~$0~"),
            c(
                take("k", "token-of-c", "tC", 1_700_000_000_000_120),
                Shape(r"\*5~\$0~~:\d+~:0~\$16~1700000000000120~\$16~\d{16}~"),
                **QUEUE,
            ),
            a(read("k", R3), "*5~$0~~:-1~:-1~$0~~$0~"),
            a(
                read("k", R3, "rA", 1_700_000_000_000_130),
                Shape(r"\*5~\$0~~:-1~:1~\$16~1700000000000130~\$16~\d{16}~"),
                **{"k:redlock:readerqueue": ZSET},
            ),
            c("ZRANGE k:redlock:readerqueue 0 -1 WITHSCORES", "*2~$2~rA~$16~1700000000000130"),
            b(read("k", R3, "rB", 1_700_000_000_000_110), ":2"),
            # Who waits to write is told by the last of them, and dead; so those are told who wait to read.
            b(release("k", "another", in_full=True), ZERO),
            b(release("k", R1), ":2"),
            b(release("k", R1), ZERO),
            b(release("k", R2, knows=1), ONE),
            b(
                release("k", R3),
                ":2",
                message("rk", 3, channel="redlock:A"),
                k=None,
                **{"k:redlock:queue": None},
            ),
            # Nobody writes before a reader that came earlier; an exclusive lock tells its holder who waits to read.
            c(
                take("k", "token-of-c", "tC", 1_700_000_000_000_140),
                Shape(r"\*5~\$0~~:-2~:1~\$16~1700000000000140~\$16~\d{16}~"),
                message("rk", 3, channel="redlock:A"),
                **{"k:redlock:queue": ZSET},
            ),
            a(read("k", R1, "rA", 1_700_000_000_000_130), ":2", k=ZSET, **{"k:redlock:readerqueue": None}),
            a(release("k", R1, knows=1), ONE, k=None, **NO_QUEUE),
            c("SET k B2345678-token PX 60000", OK, k="B2345678-token"),
            a(read("k", R1), "*5~$14~B2345678-token~:-1~:-1~$0~~$0~"),
        ),
    ),
    Vector(
        "what keeps a read lock",
        (
            a(read("k", R1), ONE, k=ZSET),
            a(find("k", R1), ONE),
            a(find("k", R2), ":2"),
            a(find("none", R1), ":2"),
            a(extend("k", R1, 90000, in_full=True), ":2"),
            a("PTTL k", UpTo(90000)),
            a(extend("k", R1, 20000, in_full=True), ":2"),
            a("PTTL k", UpTo(20000)),
            a(extend("k", R2, 90000, in_full=True), ZERO),
            a(heal("k", R2, reads=True), ONE),
            a(heal("k", R1, reads=True), ONE),
            a("PTTL k", UpTo(20000)),
            a(heal("new", R1, reads=True), ONE, new=ZSET),
            a("PTTL new", UpTo(7000)),
            a("PTTL k", UpTo(20000)),
            a("CONFIG SET maxmemory 1", OK),
            a(read("k", R3), Shape(r"-.*OOM .*")),
            a(heal("k", R3, reads=True), Shape(r"-.*OOM .*")),
            a(extend("k", R1, 50000, in_full=True), ":2"),
            a("PTTL k", UpTo(50000)),
            a(release("k", R2, in_full=True), ONE),
            a("CONFIG SET maxmemory 0", OK),
            a(force("k", "", 0), ONE, **{"k": None, "k:redlock:forced": ZSET}),
            a(heal("k", R1, reads=True), ZERO),
            a(heal("k", R2, reads=True), ONE, k=ZSET),
        ),
    ),
    Vector(
        "readers whose time is over, and keys that are none of ours",
        (
            a(("ZADD", "k", 1, R1, 2, R2, 9_999_999_999_999, R3), ":3", k=ZSET),
            a(find("k", R1), ":2"),
            a(extend("k", R1, 60000, in_full=True), ZERO),
            a(release("k", R1, in_full=True), ZERO),
            a(read("k", R4), ONE),
            a("ZRANGE k 0 -1", f"*2~$24~{R4}~$24~{R3}"),
            a(("ZADD", "one", 1, R1), ONE, one=ZSET),
            a(release("one", R1, in_full=True), ZERO, one=None),
            a("ZADD z 1 m", ONE, z=ZSET),
            a(read("z", R1), "*5~$0~~:-1~:-1~$0~~$0~"),
            a(heal("z", R1, reads=True), ZERO),
            a(extend("z", R1, 60000, in_full=True), ZERO),
            a(release("z", R1, in_full=True), ZERO),
            a("ZRANGE z 0 -1 WITHSCORES", "*2~$1~m~$1~1"),
            a("PTTL z", ":-1"),
            *(
                step
                for write, key, value, held_by in (
                    ("SET s another's", "s", "another's", "$9~another's"),
                    ("HSET h f v", "h", HASH, "$0~"),
                )
                for step in (
                    a(write, OK if key == "s" else ONE, **{key: value}),
                    a(read(key, R1), f"*5~{held_by}~:-1~:-1~$0~~$0~"),
                    a(find(key, R1), ZERO),
                    a(heal(key, R1, reads=True), ZERO),
                    a(extend(key, R1, 60000, in_full=True), ZERO),
                    a(release(key, R1, in_full=True), ZERO),
                )
            ),
        ),
    ),
    Vector(
        "the extend script",
        (
            a(("SCRIPT", "LOAD", EXTEND.source), f"$40~{EXTEND.sha.decode()}"),
            a(extend("k", "v", 60000), ZERO),
            a("SET k v PX 30000", OK, k="v"),
            a(extend("k", "w", 60000), ZERO),
            a("PTTL k", UpTo(30000)),
            a(extend("k", "v", 60000), ONE),
            a("PTTL k", UpTo(60000)),
            a(extend("k", "v", 10000), ONE),
            a("PTTL k", UpTo(10000)),
            a("ZADD z 1 v", ONE, z=ZSET),
            a(extend("z", "v", 5), ZERO),
        ),
    ),
]

EXPIRY = [
    Vector(
        "a key whose time has passed is gone",
        (
            a("SET k v NX PX 30", OK, k="v"),
            expires("k"),
            a("GET k", NIL2),
            a("SET k w NX", OK, k="w"),
            a("PTTL k", ":-1"),
        ),
    ),
    Vector(
        "SET NX takes an expired key that nobody looked at",
        (a("SET k v NX PX 1", OK, k="v"), expires("k"), a("SET k w NX PX 60000", OK, k="w"), a("PTTL k", UpTo(60000))),
    ),
    Vector(
        "an expired key is gone for every command",
        (
            *(
                step
                for command, reply in (
                    ("EXISTS k", ZERO),
                    ("DEL k", ZERO),
                    ("TYPE k", "+none"),
                    ("PTTL k", ":-2"),
                    ("PEXPIRE k 1000", ZERO),
                    ("PERSIST k", ZERO),
                    (release("k", "v", in_full=True), ZERO),
                    (("EVAL", EXTEND.source, 1, "k", "v", 1000), ZERO),
                    ("SET k w XX", NIL2),
                    ("ZCARD k", ZERO),
                )
                for step in (a("SET k v PX 1", OK, k="v"), expires("k"), a(command, reply))
            ),
        ),
    ),
    Vector(
        "the time of a key that stays or is not there",
        (a("PTTL k", ":-2"), a("TTL k", ":-2"), a("SET k v", OK, k="v"), a("PTTL k", ":-1"), a("TTL k", ":-1")),
    ),
    Vector(
        "PEXPIRE and its kin",
        (
            a("PEXPIRE k 1000", ZERO),
            a("SET k v", OK, k="v"),
            a("PEXPIRE k 60000", ONE),
            a("PTTL k", UpTo(60000)),
            a("EXPIRE k 50", ONE),
            a("PTTL k", UpTo(50000)),
            a("PEXPIREAT k 99999999999999", ONE),
            a("PERSIST k", ONE),
            a("PERSIST k", ZERO),
            a("EXPIREAT k 99999999999", ONE),
            a("PEXPIRE k abc", NOT_INTEGER),
            a(
                "PEXPIRE k 9223372036854775807",
                {"*": "-ERR invalid expire time in 'pexpire' command", REDIS_6: "-ERR invalid expire time in pexpire"},
            ),
            a("PEXPIRE k", arity("pexpire")),
            a("PEXPIRE k 0", ONE, k=None),
            a("SET k v", OK, k="v"),
            a("PEXPIREAT k 1", ONE, k=None),
            a("SET k v", OK, k="v"),
            a("EXPIRE k -1", ONE, k=None),
        ),
    ),
    Vector(
        "conditions of PEXPIRE",
        (
            a("SET k v", OK, k="v"),
            a("PEXPIRE k 60000 XX", ZERO),
            a("PEXPIRE k 60000 GT", ZERO),
            a("PEXPIRE k 60000 NX", ONE),
            a("PEXPIRE k 90000 NX", ZERO),
            a("PEXPIRE k 50000 GT", ZERO),
            a("PEXPIRE k 90000 lt", ZERO),
            a("PEXPIRE k 90000 GT", ONE),
            a("PTTL k", UpTo(90000)),
            a("PEXPIRE k 50000 LT XX", ONE),
            a("PEXPIREAT k 99999999999999 GT", ONE),
            a("PEXPIREAT k 99999999999999 GT", ZERO),
            a("PEXPIREAT k 99999999999999 LT", ZERO),
            a("PEXPIRE k 1 FOO", "-ERR Unsupported option FOO"),
            a("PEXPIRE k 1 NX XX", "-ERR NX and XX, GT or LT options at the same time are not compatible"),
            a("PEXPIRE k 1 GT LT", "-ERR GT and LT options at the same time are not compatible"),
        ),
        NAMES_HOLDER,
    ),
    Vector("no conditions of PEXPIRE", (a("PEXPIRE k 1 NX", arity("pexpire")),), (REDIS_6,)),
]

TRACKING = [
    Vector(
        "others are told once of every change of a registered key",
        (
            *TRACK,
            *(
                step
                for command, reply, value in (
                    ("SET k v", OK, "v"),
                    ("SET k w XX PX 60000", OK, "w"),
                    ("PEXPIRE k 50000", ONE, "w"),
                    ("PERSIST k", ONE, "w"),
                    (("EVAL", EXTEND.source, 1, "k", "w", 60000), ONE, "w"),
                    (release("k", "w", in_full=True), ONE, None),
                    ("ZADD k 1 m", ONE, ZSET),
                    ("ZREM k m", ONE, None),
                    ("HSET k f v", ONE, HASH),
                    ("HSET k f v", ZERO, HASH),
                    ("PEXPIRE k 0", ONE, None),
                    ("INCR k", ONE, "1"),
                    ("DEL k", ONE, None),
                )
                for step in (
                    a("CLIENT CACHING YES", OK),
                    a("PTTL k", Shape(r":-?\d+~")),
                    b(command, reply, push("k"), k=value),
                    b("PEXPIRE k 40000", Shape(":[01]~")),
                )
            ),
        ),
    ),
    Vector(
        "nobody is told where nothing changed",
        (
            *TRACK,
            a("SET k v", OK, k="v"),
            a("ZADD z 1 m", ONE, z=ZSET),
            a("CLIENT CACHING YES", OK),
            a("EXISTS k z none", ":2"),
            b("SET k w NX", NIL2),
            b("SET none w XX", NIL2),
            b("DEL none", ZERO),
            b("PERSIST k", ZERO),
            b("ZADD z 1 m", ZERO),
            b("ZREM z n", ZERO),
            b("ZREMRANGEBYSCORE z 5 6", ZERO),
            b(release("k", "w", in_full=True), ZERO),
            b("DEL k z", ":2", push("k") + "~" + push("z"), k=None, z=None),
        ),
    ),
    Vector(
        "compare commands tell others too",
        (
            *TRACK,
            a("SET k v", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-1"),
            b("SET k w IFEQ x", NIL2),
            b("SET k w IFEQ v", OK, push("k"), k="w"),
        ),
        COMPARES,
    ),
    Vector(
        "DELIFEQ tells others too",
        (
            *TRACK,
            a("SET k v", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-1"),
            b("DELIFEQ k v", ONE, push("k"), k=None),
        ),
        (VALKEY_9,),
    ),
    Vector(
        "own writes are told after their reply",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-2"),
            a("SET k v", f"{OK}~{push('k')}", k="v"),
            a("SET k w", OK, k="w"),
            a("SET l v", OK, l="v"),
            a("CLIENT CACHING YES", OK),
            a("EXISTS k l", ":2"),
            a("DEL k l", f":2~{push('k')}~{push('l')}", k=None, l=None),
        ),
    ),
    Vector(
        "CACHING counts for the next command only, CLIENT apart",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a("PING", "+PONG"),
            a("PTTL k", ":-2"),
            b("SET k v", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("NONSENSE", unknown("NONSENSE")),
            a("PTTL k", ":-1"),
            b("SET k w", OK, k="w"),
            a("CLIENT CACHING YES", OK),
            a("GET", arity("get")),
            a("PTTL k", ":-1"),
            b("SET k v", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("CLIENT ID", Shape(r":\d+~")),
            a("CLIENT ID x", sub_arity("CLIENT", "ID")),
            a("PTTL k", ":-1"),
            b("SET k w", OK, push("k"), k="w"),
        ),
    ),
    Vector(
        "what registers a key",
        (
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON", OK),
            *(
                step
                for command in ("TYPE k", "EXISTS k", "TTL k", "PTTL k", "GET k")
                for step in (a(command, Shape(".*")), b("SET k v", OK, push("k"), k="v"))
            ),
            *(
                step
                for command in (
                    "ZCARD k",
                    "ZSCORE k m",
                    "ZRANGE k 0 1",
                    "HGET k f",
                    "HGETALL k",
                    "ZRANGEBYSCORE k 0 1",
                    "ZRANK k m",
                )
                for step in (a(command, WRONGTYPE), b("SET k v", OK, push("k")))
            ),
            *(
                step
                for command in ("SET k v GET", "PEXPIRE k 60000", "DBSIZE", "TIME", "PING k")
                for step in (a(command, Shape(".*")), b("SET k v", OK))
            ),
        ),
    ),
    Vector(
        "reads in scripts register what they read",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a(eval_("redis.call('GET','k') return redis.call('SET','l','v')", keys=("m",)), OK, l="v"),
            b("SET k v", OK, push("k"), k="v"),
            b("SET m v", OK, m="v"),
            a(eval_("return redis.call('GET','k')"), "$1~v"),
            b("SET k w", OK, k="w"),
            a("CLIENT CACHING YES", OK),
            a(
                eval_("redis.call('GET','k') redis.call('SET','k','x') redis.call('SET','m','x') return 5"),
                f":5~{push('k')}",
                k="x",
                m="x",
            ),
        ),
        (VALKEY_9, REDIS_84, REDIS_8),
    ),
    Vector(
        "reads in scripts register what the script declares",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a(eval_("redis.call('GET','k') return redis.call('SET','l','v')", keys=("m",)), OK, l="v"),
            b("SET k v", OK, k="v"),
            b("SET m v", OK, push("m"), m="v"),
            a("CLIENT CACHING YES", OK),
            a(eval_("return redis.call('SET','k','w')", keys=("k",)), OK, k="w"),
            b("SET k x", OK, k="x"),
        ),
        (REDIS_7, REDIS_6),
    ),
    Vector(
        "expiry is told",
        (
            *TRACK,
            a("SET k v PX 400", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", UpTo(400)),
            expires("k", push("k")),
            b("SET k w", OK, k="w"),
        ),
    ),
    Vector(
        "who looks at an expired key has it told, to himself behind the reply",
        (
            *TRACK,
            *(b(f"SET k{n} v PX 400", OK, **{f"k{n}": "v"}) for n in range(1, 11)),
            a("CLIENT CACHING YES", OK),
            a("EXISTS k1 k2 k3 k4 k5 k6 k7 k8 k9 k10", ":10"),
            expires("k10", also=tuple(f"k{n}" for n in range(1, 10))),
            b("PTTL k1", ":-2", push("k1")),
            b("SET k2 w XX", NIL2, push("k2")),
            b("SET k3 w NX", OK, push("k3"), k3="w"),
            b("DEL k4", ZERO, push("k4")),
            b(eval_("return redis.call('PTTL', 'k5')"), ":-2", push("k5")),
            b(eval_("return redis.call('SET', 'k6', 'v', 'XX')"), NIL2, push("k6")),
            a("PTTL k7", f":-2~{push('k7')}"),
            a("SET k8 w XX", f"{NIL3}~{push('k8')}"),
            a(eval_("return redis.call('EXISTS', 'k9')"), f"{ZERO}~{push('k9')}"),
            a("SET k10 w NX", f"{OK}~{push('k10')}", k10="w"),
            *(b(f"SET k{n} x", OK, **{f"k{n}": "x"}) for n in range(1, 11)),
        ),
        lazy=True,
    ),
    Vector(
        "who looks at an expired key may register it anew",
        (
            *TRACK,
            b("SET k v PX 400", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("GET k", "$1~v"),
            a("CLIENT CACHING YES", OK),
            expires("k"),
            a("PTTL k", f":-2~{push('k')}"),
            b("SET k v", OK, push("k"), k="v"),
        ),
        lazy=True,
    ),
    Vector(
        "a key whose time was over when it was set is told",
        (*TRACK, a("CLIENT CACHING YES", OK), a("PTTL k", ":-2"), b("SET k v PXAT 1", OK, push("k"))),
        (REDIS_84, REDIS_8, REDIS_7, REDIS_6),
        lazy=True,
    ),
    Vector(
        "a key whose time was over is not set in Valkey 9",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-2"),
            b("SET k v PXAT 1", OK),
            b("SET k v", OK, push("k"), k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-1"),
            b("SET k w PXAT 1 GET", "$1~v", push("k"), k=None),
        ),
        (VALKEY_9,),
        lazy=True,
    ),
    Vector(
        "what a waiter registers is told once, whoever ends it and how",
        (
            *TRACK,
            *(
                step
                for end in (
                    b("DEL k", ONE, push("k"), k=None),
                    b("SET k w PX 60000", OK, push("k"), k="w"),
                    b(eval_("return redis.call('DEL', 'k')"), ONE, push("k"), k=None),
                    b(eval_("return redis.call('SET', 'k', 'w', 'PX', 9000)"), OK, push("k"), k="w"),
                    b("FLUSHALL", OK, FLUSHED, k=None),
                    a("DEL k", f"{ONE}~{push('k')}", k=None),
                    a(eval_("return redis.call('DEL', 'k')"), f"{ONE}~{push('k')}", k=None),
                )
                for step in (
                    b("SET k v PX 60000", OK, k="v"),
                    a("CLIENT CACHING YES", OK),
                    a("PTTL k", UpTo(60000)),
                    end,
                    b("SET k x", OK, k="x"),
                    b("PEXPIRE k 60000", ONE),
                )
            ),
            b("SET k v PX 400", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", UpTo(400)),
            expires("k", push("k")),
            b("SET k x", OK, k="x"),
        ),
    ),
    Vector(
        "a flush is told to everybody, registered or not",
        (
            *TRACK,
            a("SET k v", OK, k="v"),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-1"),
            b("FLUSHALL", OK, FLUSHED, k=None),
            b("SET k v", OK, k="v"),
            b("FLUSHDB", OK, FLUSHED, k=None),
            b("FLUSHALL ASYNC", OK, FLUSHED),
        ),
    ),
    Vector(
        "an own flush is told after its reply, in Redis 8 before",
        (
            *TRACK,
            a("FLUSHALL", {"*": f"{OK}~{FLUSHED}", REDIS_8: f"{FLUSHED}~{OK}", REDIS_84: f"{FLUSHED}~{OK}"}),
            a("FLUSHDB SYNC", {"*": f"{OK}~{FLUSHED}", REDIS_8: f"{FLUSHED}~{OK}", REDIS_84: f"{FLUSHED}~{OK}"}),
            a("FLUSHALL ASYNC", f"{OK}~{FLUSHED}"),
        ),
    ),
    Vector(
        "keys of one name in two databases are one to tracking",
        (*TRACK, a("CLIENT CACHING YES", OK), a("PTTL k", ":-2"), b("SELECT 1", OK), b("SET k v", OK, push("k"))),
    ),
    Vector(
        "NOLOOP tells nothing of an own write and forgets the key",
        (
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON OPTIN NOLOOP", OK),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-2"),
            a("SET k v", OK, k="v"),
            b("SET k w", OK, k="w"),
        ),
    ),
    Vector(
        "OPTOUT",
        (
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON OPTOUT", OK),
            a("GET k", NIL3),
            b("SET k v", OK, push("k"), k="v"),
            a("CLIENT CACHING NO", OK),
            a("GET k", "$1~v"),
            b("SET k w", OK, k="w"),
        ),
    ),
    Vector(
        "tracking in RESP2 tells nothing",
        (
            a("CLIENT TRACKING ON", OK),
            a("GET k", NIL2),
            b("SET k v", OK, k="v"),
            a("GET k", "$1~v"),
            a("SET k w", OK, k="w"),
            b("FLUSHALL", OK, k=None),
        ),
    ),
    Vector(
        "tracking off and on",
        (
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON", OK),
            a("GET k", NIL3),
            a("CLIENT TRACKING OFF", OK),
            b("SET k v", OK, k="v"),
            a("CLIENT TRACKING ON", OK),
            b("SET k w", OK, k="w"),
            a("GET k", "$1~w"),
            a("CLIENT TRACKING OFF", OK),
            a("CLIENT TRACKING ON", OK),
            b("SET k v", OK, push("k"), k="v"),
        ),
    ),
    Vector(
        "faulty words about tracking",
        (
            a(
                "CLIENT CACHING YES",
                "-ERR CLIENT CACHING can be called only when the client is in tracking mode with "
                "OPTIN or OPTOUT mode enabled",
            ),
            a("CLIENT TRACKING FOO", SYNTAX),
            a("CLIENT TRACKING ON FOO", SYNTAX),
            a("CLIENT TRACKING", sub_arity("CLIENT", "TRACKING")),
            a("CLIENT TRACKING ON OPTIN OPTOUT", "-ERR You can't specify both OPTIN mode and OPTOUT mode"),
            a("CLIENT TRACKING ON", OK),
            a("CLIENT CACHING YES", "-ERR CLIENT CACHING YES is only valid when tracking is enabled in OPTIN mode."),
            a("CLIENT CACHING NO", "-ERR CLIENT CACHING NO is only valid when tracking is enabled in OPTOUT mode."),
            a("CLIENT CACHING FOO", SYNTAX),
            a("CLIENT CACHING", sub_arity("CLIENT", "CACHING")),
            a("CLIENT TRACKING ON OPTIN", OK),
            a(
                "CLIENT TRACKING ON OPTOUT",
                "-ERR You can't switch OPTIN/OPTOUT mode before disabling tracking for this client, "
                "and then re-enabling it with a different mode.",
            ),
            a("CLIENT TRACKING OFF", OK),
            a("CLIENT TRACKING ON OPTOUT", OK),
        ),
    ),
]

PUBSUB = [
    *(
        Vector(
            f"subscribing in RESP{resp}",
            (
                a(f"HELLO {resp}", hello),
                a("SUBSCRIBE", arity("subscribe")),
                a(
                    "SUBSCRIBE x y x",
                    "~".join(told("subscribe", name, n, resp) for name, n in (("x", 1), ("y", 2), ("x", 2))),
                ),
                b("PUBLISH x hello", ONE, message("hello", resp)),
                b("PUBLISH none hello", ZERO),
                b(("PUBLISH", "x", "a\r\nb"), ONE, message("a~b", resp).replace("$3", "$4")),
                b(("PUBLISH", "x", ""), ONE, message("", resp)),
                b("SELECT 3", OK),
                b("PUBLISH x hello", ONE, message("hello", resp)),
                b("PUBLISH x", arity("publish")),
                b("PUBLISH x y z", arity("publish")),
                a("UNSUBSCRIBE zz", told("unsubscribe", "zz", 2, resp)),
                a("UNSUBSCRIBE y", told("unsubscribe", "y", 1, resp)),
                b("PUBLISH y hello", ZERO),
                a("UNSUBSCRIBE", told("unsubscribe", "x", 0, resp)),
                b("PUBLISH x hello", ZERO),
                a("GET k", null),
                a("UNSUBSCRIBE", told("unsubscribe", None, 0, resp)),
                a("UNSUBSCRIBE u v", "~".join(told("unsubscribe", name, 0, resp) for name in "uv")),
                a("SUBSCRIBE x y", "~".join(told("subscribe", name, n, resp) for name, n in (("x", 1), ("y", 2)))),
                # Redis takes them in the order of a hash table.
                a("UNSUBSCRIBE", Shape(r"[*>]3~\$11~unsubscribe~\$1~[xy]~:1~[*>]3~\$11~unsubscribe~\$1~[xy]~:0~")),
                a(("SUBSCRIBE", ""), told("subscribe", "", 1, resp)),
                b(("PUBLISH", "", "e"), ONE, message("e", resp, channel="")),
            ),
        )
        for resp, hello, null in ((2, HELLO2, NIL2), (3, HELLO3, NIL3))
    ),
    Vector(
        "in RESP2 who has subscribed may say little else",
        (
            a("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            a("PING", "*2~$4~pong~$0~"),
            a("PING hi", "*2~$4~pong~$2~hi"),
            a("PING a b", arity("ping")),
            a("GET k", not_now("get")),
            a("set k v", not_now("set")),
            a("PUBLISH x y", not_now("publish")),
            a("HELLO 3", not_now("hello")),
            a("CLIENT ID", not_now("client|id", "client")),
            a(eval_("return 1"), not_now("eval")),
            a("GET", arity("get")),
            a("NONSENSE", unknown("NONSENSE")),
            a("CLIENT NONSENSE", {**no_sub("CLIENT", "NONSENSE"), REDIS_6: not_now("client")[REDIS_6]}),
            b("CONFIG SET maxmemory 1", OK),
            a("SET k v", FULL),
            a("SUBSCRIBE y", told("subscribe", "y", 2, 2)),
            b("PUBLISH x hello", ONE, message("hello", 2)),
            b(eval_("return redis.call('PUBLISH', 'x', 'hello')"), ONE, message("hello", 2)),
            b("CONFIG SET maxmemory 0", OK),
            a("UNSUBSCRIBE x", told("unsubscribe", "x", 1, 2)),
            a("GET k", not_now("get")),
            a("UNSUBSCRIBE y", told("unsubscribe", "y", 0, 2)),
            a("PING", "+PONG"),
            a("SET k v", OK, k="v"),
        ),
    ),
    Vector(
        "in RESP3 who has subscribed may say everything",
        (
            a("HELLO 3", HELLO3),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            a("PING", "+PONG"),
            a("PING hi", "$2~hi"),
            a("SET k v", OK, k="v"),
            a("HELLO 2", HELLO2),
            a("GET k", not_now("get")),
            b("PUBLISH x hello", ONE, message("hello", 2)),
            a("UNSUBSCRIBE", told("unsubscribe", "x", 0, 2)),
            a("GET k", "$1~v"),
        ),
    ),
    Vector(
        "all subscribers of a channel get a message, each in its protocol",
        (
            a("HELLO 3", HELLO3),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            c("SUBSCRIBE y x", f"{told('subscribe', 'y', 1, 2)}~{told('subscribe', 'x', 2, 2)}"),
            b("PUBLISH x hello", ":2", message("hello", 3), message("hello", 2)),
            b("PUBLISH y hello", ONE, "", message("hello", 2, channel="y")),
            b("HELLO 3", HELLO3),
            b("PUBLISH x hello", ":2", message("hello", 3), message("hello", 2)),
            b("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            b("PUBLISH x all", behind(":3", message("all", 3)), message("all", 3), message("all", 2)),
            b(
                eval_("return {redis.call('PUBLISH', 'x', '1'), redis.call('PUBLISH', 'y', '2')}"),
                behind("*2~:3~:1", message("1", 3)),
                message("1", 3),
                f"{message('1', 2)}~{message('2', 2, channel='y')}",
            ),
            a("UNSUBSCRIBE x", told("unsubscribe", "x", 0, 3)),
            b("PUBLISH x hello", behind(":2", message("hello", 3)), "", message("hello", 2)),
        ),
    ),
    Vector(
        "own messages of a script",
        (
            a("HELLO 3", HELLO3),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            a("PUBLISH x me", behind(ONE, message("me", 3))),
            a(
                eval_("redis.call('PUBLISH', 'x', '1') return redis.call('PUBLISH', 'x', '2')"),
                behind(ONE, f"{message('1', 3)}~{message('2', 3)}"),
            ),
            a(
                eval_("redis.call('PUBLISH', 'x', '1') return redis.error_reply('FOO bar')"),
                behind("-FOO bar", message("1", 3)),
            ),
            a(eval_("redis.call('PUBLISH', 'x', '1') return {1, false}"), behind("*2~:1~_", message("1", 3))),
        ),
    ),
    Vector(
        "scripts may publish and not subscribe",
        (
            b("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            a(eval_("return redis.call('PUBLISH', KEYS[1], ARGV[1])", "m", keys=("x",)), ONE, message("m", 2)),
            a(eval_("return redis.pcall('PUBLISH', 'x', 5)"), ONE, message("5", 2)),
            a(eval_("return redis.pcall('PUBLISH', 'none', 'm')"), ZERO),
            *(
                faulty(
                    f"return redis.call({words})",
                    "ERR This Redis command is not allowed from script",
                    valkey="ERR This Valkey command is not allowed from script",
                    old="@user_script: 1: This Redis command is not allowed from scripts",
                )
                for words in ("'SUBSCRIBE', 'x'", "'UNSUBSCRIBE'", "'RESET'", "'CLIENT', 'ID'")
            ),
            a(
                eval_("local r = redis.pcall('PUBLISH', 'x') return {type(r), r.err:sub(1, 4)}"),
                {
                    "*": "*2~$5~table~$4~ERR ",
                    REDIS_6: "*2~$5~table~$4~@use",
                },
            ),
            a(
                eval_("return redis.pcall('CLIENT', 'NONSENSE')"),
                {
                    "*": "-ERR Unknown Redis command called from script",
                    VALKEY_9: "-ERR unknown subcommand 'NONSENSE'. Try CLIENT HELP.",
                    REDIS_6: "-@user_script: 1: This Redis command is not allowed from scripts",
                },
            ),
        ),
    ),
    Vector(
        "a script's writes and messages reach others one by one, in its order",
        (
            *TRACK,
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            a("CLIENT CACHING YES", OK),
            a("EXISTS k l", ZERO),
            b(
                eval_("redis.call('PUBLISH','x','1') redis.call('SET','k','v') redis.call('PUBLISH','x','2') return 8"),
                ":8",
                f"{message('1', 3)}~{push('k')}~{message('2', 3)}",
                k="v",
            ),
            b(
                eval_("redis.call('FLUSHALL') redis.call('PUBLISH','x','1') redis.call('FLUSHALL') return 8"),
                ":8",
                f"{FLUSHED}~{message('1', 3)}~{FLUSHED}",
                k=None,
            ),
        ),
    ),
    Vector(
        "a script's own messages come before its own invalidations",
        (
            *TRACK,
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            a("CLIENT CACHING YES", OK),
            a("EXISTS k l", ZERO),
            a(
                eval_(
                    "redis.call('SET','k','v') redis.call('PUBLISH','x','1') redis.call('SET','l','v') "
                    "redis.call('PUBLISH','x','2') return 8"
                ),
                behind(":8", f"{message('1', 3)}~{message('2', 3)}", f"{push('k')}~{push('l')}"),
                k="v",
                l="v",
            ),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-1"),
            a(
                eval_("redis.call('SET','k','w') redis.call('FLUSHALL') redis.call('PUBLISH','x','1') return 8"),
                behind(":8", message("1", 3), f"{push('k')}~{FLUSHED}"),
                k=None,
                l=None,
            ),
        ),
    ),
    Vector(
        "subscriptions end with the connection",
        (
            a("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            c("HELLO 3", HELLO3),
            c("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            b("PUBLISH x hello", ":2", message("hello", 2), message("hello", 3)),
            kills("CLIENT KILL ID {a}", ONE, "a"),
            b("PUBLISH x hello", ONE, "", message("hello", 3)),
            kills("QUIT", OK, "c", killer="c"),
            b("PUBLISH x hello", ZERO),
            b("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            kills("quit now", OK, "b", killer="b"),
        ),
    ),
    Vector(
        "RESET makes a connection as it was",
        (
            a("HELLO 3 SETNAME me", HELLO3),
            a("CLIENT TRACKING ON OPTIN", OK),
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-2"),
            a("SELECT 3", OK),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 3)),
            a("RESET x", arity("reset")),
            a("RESET", "+RESET"),
            b("PUBLISH x hello", ZERO),
            b("SET k v", OK, k="v"),
            a("GET k", "$1~v"),
            a("GET none", NIL2),
            a("CLIENT GETNAME", NIL2),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            a("RESET", "+RESET"),
            a("GET k", "$1~v"),
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON OPTIN", OK),
            a("CLIENT CACHING YES", OK),
            a("RESET", "+RESET"),
            a("HELLO 3", HELLO3),
            a("CLIENT TRACKING ON OPTIN", OK),
            a("PTTL k", ":-1"),
            b("SET k w", OK, k="w"),
        ),
    ),
    Vector(
        "subscribing needs AUTH",
        (
            a("SUBSCRIBE x", NO_AUTH),
            a("UNSUBSCRIBE", NO_AUTH),
            a("PUBLISH x y", NO_AUTH),
            a("RESET", {"*": "+RESET", REDIS_6: NO_AUTH}),
            a("CLIENT NONSENSE", {**no_sub("CLIENT", "NONSENSE"), VALKEY_9: NO_AUTH, REDIS_6: NO_AUTH}),
            a("AUTH secret", OK),
            a("SUBSCRIBE x", told("subscribe", "x", 1, 2)),
            a("RESET", "+RESET"),
            a("GET k", NO_AUTH),
            kills("QUIT", OK, "a", killer="a"),
        ),
        password="secret",
    ),
]

CONNECTION = [
    Vector(
        "HELLO chooses the protocol",
        (
            a("GET k", NIL2),
            a("HELLO", HELLO2),
            a("HELLO 3", HELLO3),
            a("GET k", NIL3),
            a("HELLO", HELLO3),
            a("HELLO 3 SETNAME me", HELLO3),
            a("CLIENT GETNAME", "$2~me"),
            a("HELLO 2 AUTH default anything", HELLO2),
            a("GET k", NIL2),
            a("HELLO 4", "-NOPROTO unsupported protocol version"),
            a("HELLO 1", "-NOPROTO unsupported protocol version"),
            a("HELLO x", "-ERR Protocol version is not an integer or out of range"),
            a("HELLO 3 AUTH", "-ERR Syntax error in HELLO option 'AUTH'"),
            a("HELLO 3 foo", "-ERR Syntax error in HELLO option 'foo'"),
            a("HELLO 3 AUTH nobody x", WRONG_PASS),
            a("GET k", NIL2),
        ),
    ),
    Vector(
        "what HELLO tells",
        (
            a(
                "HELLO 3",
                Shape(
                    r"%7~\$6~server~\$\d~(redis|valkey)~\$7~version~\$\d~[\d.]+~\$5~proto~:3~\$2~id~:\d+~\$4~mode~\$10~standalone~\$4~role~\$6~master~\$7~modules~\*[01]~.*"
                ),
            ),
        ),
    ),
    Vector(
        "AUTH without a password",
        (
            a(
                "AUTH x",
                "-ERR AUTH <password> called without any password configured for the default user. "
                "Are you sure your configuration is correct?",
            ),
            a("AUTH default x", OK),
            a("AUTH nobody x", WRONG_PASS),
            a("AUTH", arity("auth")),
            a("AUTH default x y", SYNTAX),
        ),
    ),
    Vector(
        "AUTH with a password",
        (
            a("GET k", NO_AUTH),
            a("PING", NO_AUTH),
            a("CLIENT ID", NO_AUTH),
            a("NONSENSE", {**unknown("NONSENSE"), VALKEY_9: NO_AUTH}),
            a("GET", {"*": arity("get"), VALKEY_9: NO_AUTH}),
            a("HELLO 3", {"*": no_auth_hello("<proto> "), REDIS_7: no_auth_hello(""), REDIS_6: no_auth_hello("")}),
            a("AUTH wrong", WRONG_PASS),
            a("AUTH nobody secret", WRONG_PASS),
            a("HELLO 3 AUTH default wrong", WRONG_PASS),
            a("GET k", NO_AUTH),
            a("AUTH secret", OK),
            a("GET k", NIL2),
            a("AUTH wrong", WRONG_PASS),
            a("GET k", NIL2),
            b("HELLO 3 AUTH default secret", HELLO3),
            b("GET k", NIL3),
        ),
        password="secret",
    ),
    Vector(
        "small talk",
        (
            a("PING", "+PONG"),
            a("ping hello", "$5~hello"),
            a("PING a b", arity("ping")),
            a("TIME", Shape(r"\*2~\$\d+~\d+~\$\d~\d+~")),
            a("TIME x", arity("time")),
            a("SELECT 1", OK),
            a("SET k v", OK),
            a("SELECT 0", OK),
            a("GET k", NIL2),
            a("DBSIZE", ZERO),
            a("SELECT 16", "-ERR DB index is out of range"),
            a("SELECT -1", "-ERR DB index is out of range"),
            a("SELECT x", {"*": NOT_INTEGER, REDIS_6: NOT_INTEGER}),
            a("FLUSHDB FOO", SYNTAX),
            a("FLUSHALL SYNC x", SYNTAX),
            a("FLUSHALL", OK),
        ),
    ),
    Vector(
        "INFO",
        (
            a("INFO server", Shape(r"\$\d+~# Server~.*run_id:[0-9a-f]{40}~.*uptime_in_seconds:\d+~.*")),
            a("INFO replication", Shape(r"\$\d+~# Replication~role:master~connected_slaves:0~.*")),
            a("INFO PERSISTENCE", Shape(r"\$\d+~# Persistence~loading:0~.*aof_enabled:0~.*")),
            a("INFO memory", Shape(r"\$\d+~# Memory~.*maxmemory:0~.*maxmemory_policy:noeviction~.*")),
            a("INFO", Shape(r"\$\d+~# Server~.*~~# Replication~.*")),
            a("INFO nonsense", "$0~"),
            a("HELLO 3", HELLO3),
            a("INFO server", Shape(r"=\d+~txt:# Server~.*")),
        ),
    ),
    Vector(
        "the version that INFO tells",
        (
            a(
                "INFO server",
                {
                    VALKEY_9: Shape(
                        r".*redis_version:7\.2\.4~.*server_name:valkey~valkey_version:9\.\d+\.\d+~.*server_mode:standalone~.*"
                    ),
                    REDIS_84: Shape(r".*redis_version:8\.4\.\d+~.*redis_mode:standalone~.*"),
                    REDIS_8: Shape(r".*redis_version:8\.\d+\.\d+~.*redis_mode:standalone~.*"),
                    REDIS_7: Shape(r".*redis_version:7\.\d+\.\d+~.*redis_mode:standalone~.*"),
                    REDIS_6: Shape(r".*redis_version:6\.\d+\.\d+~.*redis_mode:standalone~.*"),
                },
            ),
        ),
    ),
    Vector(
        "CONFIG GET",
        (
            a("CONFIG GET appendonly", "*2~$10~appendonly~$2~no"),
            a("CONFIG GET appendfsync", "*2~$11~appendfsync~$8~everysec"),
            a(
                "CONFIG GET MAXMEMORY-POLICY",
                {"*": "*2~$16~MAXMEMORY-POLICY~$10~noeviction", REDIS_6: "*2~$16~maxmemory-policy~$10~noeviction"},
            ),
            a("CONFIG GET nonsense", "*0"),
            a("HELLO 3", HELLO3),
            a("CONFIG GET maxmemory", "%1~$9~maxmemory~$1~0"),
        ),
    ),
    Vector(
        "SCAN",
        (
            a("SCAN 0", "*2~$1~0~*0"),
            a("SET a* 1", OK, **{"a*": "1"}),
            a("ZADD z 1 m", ONE, z="<zset>"),
            *(
                a(
                    ("SCAN", "0", "MATCH", pattern, "COUNT", 100),
                    f"*2~$1~0~*{len(found)}" + "".join(f"~$2~{k}" for k in found),
                )
                for pattern, found in {
                    "a*": ["a*"],
                    "a\\*": ["a*"],
                    "a\\": [],
                    "a?": ["a*"],
                    "a": [],
                    "[a-c]*": ["a*"],
                    "[c-a]*": ["a*"],
                    "[b*]": [],
                    "a[*]": ["a*"],
                    "a[\\*]": ["a*"],
                    "[": [],
                    "": [],
                }.items()
            ),
            a("SCAN 0 TYPE zset", "*2~$1~0~*1~$1~z"),
            a("SCAN 0 TYPE zset MATCH a", "*2~$1~0~*0"),
            a("SCAN 0 match z count 10", "*2~$1~0~*1~$1~z"),
            a("SCAN x", "-ERR invalid cursor"),
            a("SCAN 0 COUNT 0", "-ERR syntax error"),
            a("SCAN 0 COUNT x", "-ERR value is not an integer or out of range"),
            a("SCAN 0 MATCH", "-ERR syntax error"),
            a("SCAN 0 NONSENSE 1", "-ERR syntax error"),
            a("SCAN", "-ERR wrong number of arguments for 'scan' command"),
        ),
    ),
    Vector(
        "scripts of a full server, which may add once they have written",
        (
            a("SET k t PX 9000", OK, k="t"),
            a("CONFIG SET maxmemory 1", OK),
            a(eval_("return redis.pcall('ZADD', 'z', 1, 'm')"), Shape(r"-.*OOM .*")),
            a(eval_("redis.call('ZREM', 'z', '') return redis.call('ZADD', 'z', 1, 'm')"), ONE, z="<zset>"),
            a(force("k", "0123456789012345678901@a", 5000), ONE, **{"k": None, "k:redlock:forced": "<zset>"}),
            a("CONFIG SET maxmemory 0", OK),
        ),
    ),
    Vector(
        "released by force",
        (
            a(("SET", "k", "0123456789012345678901@b", "PX", 9000), OK, k="0123456789012345678901@b"),
            a(force("k", "0123456789012345678901@a", 5000), ONE, **{"k": None, "k:redlock:forced": "<zset>"}),
            a("PTTL k:redlock:forced", UpTo(9000)),
            a("ZRANGE k:redlock:forced 0 -1", "*2~$24~0123456789012345678901@a~$24~0123456789012345678901@b"),
            a(heal("k", "0123456789012345678901@a"), ZERO),
            a(heal("k", "0123456789012345678901@b"), ZERO),
            a(heal("k", "0123456789012345678901@c"), ONE, k="0123456789012345678901@c"),
            a("PTTL k", UpTo(7000)),
            a(heal("k", "0123456789012345678901@c"), ONE),
            a(heal("k", "0123456789012345678901@d"), ZERO),
            a(force("nobody's", "", 0), ZERO),
            a("EXISTS nobody's:redlock:forced", ZERO),
        ),
    ),
    Vector(
        "a full server",
        (
            a(("SCRIPT", "LOAD", EXTEND.source), f"$40~{EXTEND.sha.decode()}"),
            a("SET k t PX 9000", OK, k="t"),
            a("SET d t PX 9000", OK, d="t"),
            a("CONFIG SET maxmemory 1", OK),
            a("SET k", "-ERR wrong number of arguments for 'set' command"),
            *(a(command, FULL) for command in ("SET x y", "SET k t NX PX 9000", "SET k t NONSENSE", "SET k t XX")),
            *(a(command, FULL) for command in ("INCR n", "INCRBY n 2", "HSET h f v", "ZADD z 1 m")),
            a("SET k t IFEQ t PX 9000", FULL),
            a("GET k", "$1~t"),
            a("PEXPIRE k 20000", ONE),
            a("PTTL k", UpTo(20000)),
            a(extend("k", "t", 30000), ONE),
            a("PTTL k", UpTo(30000)),
            a(extend("k", "another", 5), ZERO),
            a(extend("none", "t", 5000), ZERO),
            a("SCRIPT FLUSH", OK),
            a(extend("k", "t", 40000), NO_SCRIPT),
            a(eval_(EXTEND.source.decode(), "t", 40000, keys=("k",)), ONE),
            a("PTTL k", UpTo(40000)),
            a(("SCRIPT", "LOAD", RELEASE.source), f"$40~{RELEASE.sha.decode()}"),
            a(release("k", "another"), ZERO),
            a(release("k", "t"), ONE, k=None),
            a("DEL d", ONE, d=None),
            a("CONFIG SET maxmemory 0", OK),
            a("SET x y", OK, x="y"),
        ),
    ),
    *(
        Vector(
            f"{words[0]} on a full server",
            (
                a("SET k t PX 9000", OK, k="t"),
                a("CONFIG SET maxmemory 1", OK),
                a(words, ONE, k=None),
                a("CONFIG SET maxmemory 0", OK),
            ),
            versions,
        )
        for words, versions in ((("DELIFEQ", "k", "t"), (VALKEY_9,)), (("DELEX", "k", "IFEQ", "t"), REDIS_84_ONLY))
    ),
    Vector(
        "names",
        (
            a("CLIENT GETNAME", NIL2),
            a("CLIENT SETNAME me", OK),
            a("CLIENT GETNAME", "$2~me"),
            a(("CLIENT", "SETNAME", "a b"), "-ERR Client names cannot contain spaces, newlines or special characters."),
            a(("CLIENT", "SETNAME", ""), OK),
            a("CLIENT GETNAME", NIL2),
            a(
                "CLIENT SETINFO LIB-NAME x",
                {"*": OK, REDIS_7: no_sub("CLIENT", "SETINFO")["*"], REDIS_6: no_sub("CLIENT", "SETINFO")[REDIS_6]},
            ),
        ),
    ),
    Vector(
        "CLIENT SETINFO",
        (
            a("CLIENT SETINFO lib-ver 1", OK),
            a("CLIENT SETINFO LIB-NAME", arity("client|setinfo")),
            a("CLIENT SETINFO FOO x", "-ERR Unrecognized option 'FOO'"),
            a(
                ("CLIENT", "SETINFO", "LIB-NAME", "a b"),
                "-ERR LIB-NAME cannot contain spaces, newlines or special characters.",
            ),
            a(
                ("CLIENT", "SETINFO", "lib-ver", "a b"),
                "-ERR lib-ver cannot contain spaces, newlines or special characters.",
            ),
        ),
        (VALKEY_9, REDIS_84, REDIS_8),
    ),
    Vector(
        "CLIENT KILL ID ends another's connection",
        (
            *TRACK,
            a("CLIENT CACHING YES", OK),
            a("PTTL k", ":-2"),
            kills("CLIENT KILL ID {a}", ONE, "a"),
            b("SET k v", OK, k="v"),
            b("CLIENT KILL ID {a}", ZERO),
            b("CLIENT KILL ID {b}", ZERO),
            b("CLIENT KILL ID {b} SKIPME yes", ZERO),
            b("PING", "+PONG"),
            kills("CLIENT KILL ID {b} SKIPME no", ONE, "b"),
        ),
    ),
    Vector(
        "faulty words to CLIENT KILL",
        (
            a("CLIENT KILL foo", "-ERR No such client"),
            a("CLIENT KILL ID", "-ERR No such client"),
            a("CLIENT KILL ID 1 SKIPME", SYNTAX),
            a("CLIENT KILL ID 999999", ZERO),
            a(
                "CLIENT KILL ID x",
                {"*": "-ERR client-id should be greater than 0", VALKEY_9: SYNTAX, REDIS_6: NOT_INTEGER},
            ),
            a("CLIENT KILL ID -5", {"*": "-ERR client-id should be greater than 0", REDIS_6: ZERO}),
            a("CLIENT KILL", {**sub_arity("CLIENT", "KILL"), REDIS_6: SYNTAX}),
        ),
    ),
    Vector("CLIENT KILL ID 0", (a("CLIENT KILL ID 0", "-ERR client-id should be greater than 0"),), NAMES_HOLDER),
    Vector("no subcommand is a word", (a("CLIENT|ID", unknown("CLIENT|ID")),), (VALKEY_9, REDIS_7, REDIS_6)),
    Vector(
        "unknown commands",
        (
            a("FOO", unknown("FOO")),
            a("foo bar baz", unknown("foo", "bar", "baz")),
            a(f"{'x' * 200} y", {**unknown("x" * 128, "y"), REDIS_6: unknown("x" * 200, "y")[REDIS_6]}),
            a(f"FOO {'x' * 200} y", {"*": unknown("FOO", "x" * 128)["*"], REDIS_6: unknown("FOO", "x" * 128)[REDIS_6]}),
            a(("F\nOO", "b\r\nar"), unknown("F OO", "b  ar")),
            a("CLIENT", arity("client")),
            a("CLIENT FOO", no_sub("CLIENT", "FOO")),
            a(
                "client foo bar",
                {"*": "-ERR unknown subcommand 'foo'. Try CLIENT HELP.", REDIS_6: no_sub("CLIENT", "foo")[REDIS_6]},
            ),
            a("SCRIPT", arity("script")),
            a("SCRIPT FOO", no_sub("SCRIPT", "FOO")),
            a("SCRIPT LOAD", sub_arity("SCRIPT", "LOAD")),
            a("CONFIG FOO", no_sub("CONFIG", "FOO")),
            a("GET", arity("get")),
            a("get a b", arity("get")),
            a("DEL", arity("del")),
            a("EXISTS", arity("exists")),
        ),
    ),
]

SCRIPTS = [
    Vector(
        "what scripts return",
        tuple(
            a(eval_(script), reply)
            for script, reply in (
                ("return 1", ONE),
                ("return 3.99", ":3"),
                ("return -3.99", ":-3"),
                ("return -0.5", ZERO),
                ("return 2^62", ":4611686018427387904"),
                ("return '9223372036854775807' + 0", ":-9223372036854775808"),
                ("return true", ONE),
                ("return false", NIL2),
                ("return nil", NIL2),
                ("return", NIL2),
                ("local x = 5", NIL2),
                ("return 'x'", "$1~x"),
                ("return {}", "*0"),
                ("return {a = 1}", "*0"),
                ("return {1, 2, 'a', nil, 4}", "*3~:1~:2~$1~a"),
                ("return {1, {2, {3}}, false, true, 2.5}", "*5~:1~*2~:2~*1~:3~$-1~:1~:2"),
                ("return {ok = 'fine'}", "+fine"),
                ("return {err = 'FOO bar'}", "-FOO bar"),
                ("return {err = 'foo'}", "-foo"),
                ("return {err = '-FOO bar'}", "--FOO bar"),
                ("return redis.status_reply('fine')", "+fine"),
                ("return {redis.status_reply('fine'), {err = 'X y'}}", "*2~+fine~-X y"),
                ("return redis.error_reply('FOO bar')", "-FOO bar"),
                ("return redis.error_reply('FOO a\\r\\nb')", "-FOO a  b"),
                ("return redis.error_reply('foo')", {"*": "-ERR foo", REDIS_6: "-foo"}),
                ("return redis.error_reply('')", {"*": "-ERR ", REDIS_6: "-"}),
                ("return redis.error_reply('-foo bar')", {"*": "-foo bar", REDIS_6: "--foo bar"}),
                ("return redis.error_reply('-foo')", {"*": "-ERR foo", REDIS_6: "--foo"}),
                (
                    "return redis.error_reply(1)",
                    {
                        "*": "-ERR wrong number or type of arguments",
                        REDIS_6: "-@user_script: 1: wrong number or type of arguments",
                    },
                ),
                (
                    "return redis.status_reply()",
                    {
                        "*": "-ERR wrong number or type of arguments",
                        REDIS_6: "-@user_script: 1: wrong number or type of arguments",
                    },
                ),
                ("return redis.sha1hex('')", "$40~da39a3ee5e6b4b0d3255bfef95601890afd80709"),
                ("return redis.sha1hex(1)", f"$40~{sha('1')}"),
                ("return {double = 1.5}", "$3~1.5"),
                ("return {map = {a = 1}}", "*2~$1~a~:1"),
                ("return {KEYS[1], ARGV[1]}", "*0"),
                ("return tostring(1e15)", "$5~1e+15"),
                ("return string.format('%.0f', 2^53)", "$16~9007199254740992"),
                ("return redis.replicate_commands()", ONE),
                ("return redis.log(redis.LOG_DEBUG, 'x')", NIL2),
                ("return {type(redis.call), type(KEYS), #ARGV}", "*3~$8~function~$5~table~:0"),
                ("return tonumber('0x10') + select('#', unpack({1, 2}))", ":18"),
                ("return ('x'):rep(3) .. table.concat({'a', 'b'}, ',') .. math.floor(1.5)", "$7~xxxa,b1"),
            )
        ),
    ),
    Vector(
        "what scripts return in RESP3",
        (
            a("HELLO 3", HELLO3),
            a(eval_("return nil"), NIL3),
            a(eval_("return false"), NIL3),
            a(eval_("return true"), ONE),
            a(eval_("return {1, false, nil}"), "*2~:1~_"),
            a(eval_("return {double = 1.5}"), ",1.5"),
            a(eval_("return {map = {a = 1}}"), "%1~$1~a~:1"),
            a("HSET h f v", ONE, h=HASH),
            a(eval_("return redis.call('HGETALL', 'h')"), "*2~$1~f~$1~v"),
            a("ZADD z 1.5 m", ONE, z=ZSET),
            a(eval_("return redis.call('ZSCORE', 'z', 'm')"), "$3~1.5"),
            a(eval_("return redis.call('ZRANGE', 'z', 0, -1, 'WITHSCORES')"), "*2~$1~m~$3~1.5"),
        ),
    ),
    Vector(
        "what scripts see",
        (
            a(
                eval_("return {KEYS[1], KEYS[2], ARGV[1], #KEYS, #ARGV}", "v", keys=("k", "l")),
                "*5~$1~k~$1~l~$1~v~:2~:1",
            ),
            raw(("EVAL", "return ARGV[1] .. KEYS[1]", 1, b"\x00\xff", b"\r\n"), b"$4\r\n\r\n\x00\xff\r\n", {}),
            a(eval_("return type(redis.call('GET', 'k')) .. tostring(redis.call('GET', 'k'))"), "$12~booleanfalse"),
            a(eval_("local r = redis.call('SET', 'k', 'v') return type(r) .. r.ok"), "$7~tableOK", k="v"),
            a(eval_("return redis.call('SET', 'k', 'w')"), OK, k="w"),
            a(eval_("return {redis.call('SET', 'k', 'v'), redis.call('GET', 'k')}"), "*2~+OK~$1~v", k="v"),
            a(eval_("return redis.call('TYPE', 'k')"), "+string"),
            a(eval_("return redis.call('TYPE', 'k').ok"), "$6~string"),
            a(eval_("return redis.call('INCR', 'n') + 1"), ":2", n="1"),
            a(eval_("return redis.call('get', 'none')"), NIL2),
            a(eval_("return #redis.call('TIME')"), ":2"),
            a(eval_("return redis.call('SELECT', 1)"), OK),
            a("GET k", "$1~v"),
            a(eval_("redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])", "v", 60000, keys=("t",)), NIL2, t="v"),
            a("PTTL t", UpTo(60000)),
        ),
    ),
    Vector(
        "numbers that scripts pass",
        tuple(
            a(eval_(f"redis.call('HSET', 'k', 'f', {number}) return redis.call('HGET', 'k', 'f')"), _bulk(text), k=HASH)
            for number, text in (
                ("3", "3"),
                ("1.5", "1.5"),
                ("-7", "-7"),
                ("1e15", "1000000000000000"),
                ("2^53", "9007199254740992"),
                ("1e20", "1e+20"),
                ("1e17", {"*": "100000000000000000", REDIS_7: "1e+17", REDIS_6: "1e+17"}),
                ("0.1", {"*": "0.1", REDIS_7: "0.10000000000000001", REDIS_6: "0.10000000000000001"}),
            )
        ),
    ),
    Vector(
        "what scripts of waiters do",
        (
            a(eval_("return string.format('%.0f', 1700000000123456)"), "$16~1700000000123456"),
            a(eval_("local t = redis.call('TIME') return #string.format('%.0f', t[1] * 1000000 + t[2])"), ":16"),
            a(eval_("return tostring(1700000000123456)"), "$19~1.7000000001235e+15"),
            a(eval_("return 1700000000123456"), ":1700000000123456"),
            a(eval_("return {string.sub('hello', 2, -2), ('hello'):sub(-3), (''):sub(1)}"), "*3~$3~ell~$3~llo~$0~"),
            a(
                eval_(
                    "local z = KEYS[1] return {redis.call('ZADD',z,'NX',5,'q'), redis.call('ZADD',z,'NX',6,'q'), "
                    "redis.call('ZADD',z,'XX',7,'q'), redis.call('ZADD',z,'XX',7,'none'), redis.call('ZSCORE',z,'q'), "
                    "redis.call('ZADD',z,1700000000123456,'m'), redis.call('ZSCORE',z,'m')}",
                    keys=("z",),
                ),
                "*7~:1~:0~:0~:0~$1~7~:1~$16~1700000000123456",
                z=ZSET,
            ),
            a(
                eval_(
                    "return {redis.call('ZRANGE','z',0,0), redis.call('ZRANK','z','m'), redis.call('ZRANK','z','x'), "
                    "redis.call('ZCARD','z'), redis.call('ZRANK','none','x'), redis.call('ZRANGE','none',0,0), "
                    "redis.call('ZSCORE','z','x'), redis.call('ZCARD','none'), redis.call('ZRANGE','z',0,0)[1]}"
                ),
                "*9~*1~$1~q~:1~$-1~:2~$-1~*0~$-1~:0~$1~q",
            ),
            *(
                a(eval_(f"return redis.call('ZRANGEBYSCORE','z','-inf',{highest},'LIMIT',0,100)"), found)
                for highest, found in (
                    ("1700000000123456", "*2~$1~q~$1~m"),
                    ("string.format('%.0f', 1700000000123456)", "*2~$1~q~$1~m"),
                    ("1700000000123455", "*1~$1~q"),
                    ("'(1700000000123456'", "*1~$1~q"),
                )
            ),
            a(
                eval_(
                    "local r = redis.call('ZRANGEBYSCORE','z','-inf',9) return {redis.call('ZREM','z',unpack(r)), "
                    "redis.call('ZREM','z','none','x'), redis.call('ZCARD','z')}"
                ),
                "*3~:1~:0~:1",
            ),
            faulty(
                "return redis.call('ZREM','z',unpack({}))",
                "ERR Wrong number of args calling Redis command from script",
                valkey="ERR Wrong number of args calling command from script",
                old="@user_script: 1: Wrong number of args calling Redis command From Lua script",
            ),
            a(
                eval_(
                    "return {redis.call('EXISTS','z'), redis.call('PTTL','z'), redis.call('PTTL','none'), "
                    "redis.call('PEXPIRE','z',60000), redis.call('PEXPIRE','none',5), redis.call('TYPE','z'), "
                    "redis.call('TYPE','z')['ok'], redis.call('TYPE','none')}"
                ),
                "*8~:1~:-1~:-2~:1~:0~+zset~$4~zset~+none",
            ),
            a("PTTL z", UpTo(60000)),
            a(
                eval_(
                    "return {redis.call('DEL','z','none'), redis.call('SET','k','v','PX',60000), "
                    "redis.call('GET','k'), redis.call('PTTL','k') > 0, redis.call('GET','none')}"
                ),
                "*5~:1~+OK~$1~v~:1~$-1",
                z=None,
                k="v",
            ),
            a(
                eval_("local r = redis.pcall('ZSCORE','k','m') return {type(r), r.err, r.ok == nil}"),
                f"*3~$5~table~$65~{WRONGTYPE[1:]}~:1",
            ),
            a(eval_("return {redis.call('PEXPIRE','k','-5'), redis.call('EXISTS','k')}"), "*2~:1~:0", k=None),
        ),
    ),
    Vector(
        "scripts that fail in a command",
        (
            a("ZADD z 1 m", ONE, z=ZSET),
            faulty("return redis.call('GET', 'z')", WRONGTYPE[1:]),
            faulty("\n\nlocal x = 1\nreturn redis.call('GET', 'z')", WRONGTYPE[1:], line=4),
            faulty("redis.call('SET', 'k', 'v', 'PX', 0)", TTL_REFUSED["*"][1:], old=TTL_REFUSED[REDIS_6][1:]),
            faulty("local function f()\n redis.call('INCR', 'z')\nend\nf()", WRONGTYPE[1:], line=2),
            a(eval_("return redis.pcall('GET', 'z')"), WRONGTYPE),
            a(eval_("return redis.pcall('GET', 'z').err"), f"$65~{WRONGTYPE[1:]}"),
            a(eval_("return {redis.pcall('GET', 'z')}"), f"*1~{WRONGTYPE}"),
            a(eval_("redis.call('SET', 'k', 'v') return redis.call('GET', 'z')"), Shape("-.*"), k="v"),
            a(
                eval_("local fine, fault = pcall(redis.call, 'GET', 'z') return {fine, type(fault)}"),
                "*2~$-1~$6~string",
            ),
        ),
    ),
    Vector(
        "scripts that call badly",
        (
            faulty(
                "return redis.call('FOO')",
                "ERR Unknown Redis command called from script",
                valkey="ERR Unknown command called from script",
                old="@user_script: 1: Unknown Redis command called from Lua script",
            ),
            faulty(
                "return redis.call('GET')",
                "ERR Wrong number of args calling Redis command from script",
                valkey="ERR Wrong number of args calling command from script",
                old="@user_script: 1: Wrong number of args calling Redis command From Lua script",
            ),
            faulty(
                "return redis.call()",
                "ERR Please specify at least one argument for this redis lib call",
                valkey="ERR Please specify at least one argument for this call",
                old="@user_script: 1: Please specify at least one argument for redis.call()",
            ),
            *(
                faulty(
                    f"return redis.call('SET', 'k', {value})",
                    "ERR Lua redis lib command arguments must be strings or integers",
                    valkey="ERR Command arguments must be strings or integers",
                    old="@user_script: 1: Lua redis() command arguments must be strings or integers",
                )
                for value in ("true", "{}", "nil", "redis.call")
            ),
            *(
                faulty(
                    f"return redis.call({words})",
                    "ERR This Redis command is not allowed from script",
                    valkey="ERR This Valkey command is not allowed from script",
                    old="@user_script: 1: This Redis command is not allowed from scripts",
                )
                for words in (
                    "'EVAL', 'return 1', 0",
                    "'CLIENT', 'ID'",
                    "'SCRIPT', 'FLUSH'",
                    "'HELLO', '3'",
                    "'AUTH', 'x'",
                    "'CONFIG', 'GET', 'x'",
                )
            ),
            a(
                eval_("return redis.pcall('FOO')"),
                {
                    VALKEY_9: "-ERR Unknown command called from script",
                    "*": "-ERR Unknown Redis command called from script",
                    REDIS_6: "-@user_script: 1: Unknown Redis command called from Lua script",
                },
            ),
            faulty("return redis.sha1hex()", "ERR wrong number of arguments", old="wrong number of arguments"),
        ),
    ),
    Vector(
        "scripts that fail by themselves",
        (
            *(
                faulty(script, f"ERR user_script:{line}: {text}", line=line, old=f"user_script:{line}: {text}")
                for script, text, line in (
                    ("error('boom')", "boom", 1),
                    ("\nlocal function f() error('inner') end\nf()", "inner", 2),
                    ("return 1 + nil", "attempt to perform arithmetic on a nil value", 1),
                    ("return 'x' .. {}", "attempt to concatenate a table value", 1),
                    ("return foo", "Script attempted to access nonexistent global variable 'foo'", 1),
                    ("\nfoo = 1", "Attempt to modify a readonly table", 2),
                    ("string.foo = 1", "Attempt to modify a readonly table", 1),
                    ("redis.foo = 1", "Attempt to modify a readonly table", 1),
                )
            ),
            a(
                eval_(thrown := "error({err = 'BOOM x'})"),
                {
                    VALKEY_9: "-BOOM x script: on @user_script:1.",
                    "*": f"-BOOM x script: {sha(thrown)}, on @user_script:1.",
                    REDIS_6: Shape(
                        r"-ERR Error running script .*attempt to concatenate local 'err' \(a table value\)~"
                    ),
                },
            ),
            a(
                eval_("this is no lua"),
                "-ERR Error compiling script (new function): user_script:1: '=' expected near 'is'",
            ),
            a("SCRIPT LOAD no(", Shape("-ERR Error compiling script \\(new function\\): user_script:1: .*")),
        ),
    ),
    Vector(
        "scripts keep no state",
        (
            a(eval_("local t = {} t.x = 1 KEYS[5] = 'y' return t.x"), ONE),
            a(eval_("return {KEYS[5]}"), "*0"),
            a(eval_("local x = 0 x = x + 1 return x"), ONE),
            a(eval_("local x = 0 x = x + 1 return x"), ONE),
        ),
    ),
    Vector(
        "the script cache",
        (
            a(("EVALSHA", "0" * 40, 0), NO_SCRIPT),
            a("EVALSHA zz 0", NO_SCRIPT),
            a(("SCRIPT", "LOAD", "return 1"), f"$40~{sha('return 1')}"),
            a(("SCRIPT", "EXISTS", sha("return 1"), "0" * 40), "*2~:1~:0"),
            a(("EVALSHA", sha("return 1"), 0), ONE),
            a(("EVALSHA", sha("return 1").upper(), 0), ONE),
            a("SCRIPT FLUSH", OK),
            a(("SCRIPT", "EXISTS", sha("return 1")), "*1~:0"),
            a("FLUSHALL", OK),
            a(eval_("return 1"), ONE),
            a(("EVALSHA", sha("return 1"), 0), ONE),
            a("SCRIPT FLUSH ASYNC", OK),
            a("SCRIPT FLUSH FOO", "-ERR SCRIPT FLUSH only support SYNC|ASYNC option"),
            a(("SCRIPT", "EXISTS", sha("return 1")), "*1~:0"),
            a("SCRIPT EXISTS", {"*": arity("script|exists"), REDIS_6: "*0"}),
            a(("EVAL", "return 1", 2, "k"), "-ERR Number of keys can't be greater than number of args"),
            a(("EVAL", "return 1", -1), "-ERR Number of keys can't be negative"),
            a(("EVAL", "return 1", "x"), NOT_INTEGER),
            a(("EVALSHA", "0" * 40, 1), "-ERR Number of keys can't be greater than number of args"),
            a(("EVAL", "return 1"), arity("eval")),
            a(("EVALSHA", "x"), arity("evalsha")),
        ),
    ),
]

CONTAINERS = [
    Vector(
        "sorted sets",
        (
            a("ZADD z 1 a 2 b 3 c", ":3", z=ZSET),
            a("ZADD z 5 a", ZERO),
            a("ZRANGE z 0 -1", "*3~$1~b~$1~c~$1~a"),
            a("ZRANGE z 0 -1 WITHSCORES", "*6~$1~b~$1~2~$1~c~$1~3~$1~a~$1~5"),
            a("ZRANGE z -2 -1", "*2~$1~c~$1~a"),
            a("ZRANGE z 5 9", "*0"),
            a("ZRANGE z 2 1", "*0"),
            a("ZRANGE z -9 0", "*1~$1~b"),
            a("ZRANGEBYSCORE z 2 3", "*2~$1~b~$1~c"),
            a("ZRANGEBYSCORE z (2 (5 WITHSCORES", "*2~$1~c~$1~3"),
            a("ZRANGEBYSCORE z -inf +inf LIMIT 1 1", "*1~$1~c"),
            a("ZRANGEBYSCORE z -inf inf LIMIT 1 -1", "*2~$1~c~$1~a"),
            a("ZRANGEBYSCORE z 9 1", "*0"),
            a("ZCOUNT z 2 (5", ":2"),
            a("ZSCORE z a", "$1~5"),
            a("ZSCORE z none", NIL2),
            a("ZRANK z a", ":2"),
            a("ZRANK z none", NIL2),
            a("ZCARD z", ":3"),
            a("ZADD z 2 aa 2 B", ":2"),
            a("ZRANGE z 0 2", "*3~$1~B~$2~aa~$1~b"),
            a("ZREMRANGEBYSCORE z -inf (3", ":3"),
            a("ZREM z c none", ONE),
            a("ZREM z a", ONE, z=None),
            a("ZCARD z", ZERO),
            a("ZREM z a", ZERO),
            a("ZREMRANGEBYSCORE z 0 1", ZERO),
            a("ZSCORE z a", NIL2),
            a("ZRANK z a", NIL2),
            a("ZCOUNT z 0 1", ZERO),
            a("ZRANGE z 0 1", "*0"),
            a("ZRANGEBYSCORE z 0 1", "*0"),
        ),
    ),
    Vector(
        "options of ZADD",
        (
            a("ZADD z XX 1 a", ZERO),
            a("ZADD z NX CH 1 a", ONE, z=ZSET),
            a("ZADD z NX 5 a 1 b", ONE),
            a("ZADD z XX CH 6 a 1 c", ONE),
            a("ZADD z GT CH 5 a 9 b", ONE),
            a("ZADD z LT CH 5 a 10 b", ONE),
            a("ZADD z gt ch 7 a 8 b 1 n", ":2"),
            a("ZRANGE z 0 -1 WITHSCORES", "*6~$1~n~$1~1~$1~a~$1~7~$1~b~$1~9"),
            a("ZADD z NX XX 1 a", "-ERR XX and NX options at the same time are not compatible"),
            a("ZADD z GT LT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible"),
            a("ZADD z NX GT 1 a", "-ERR GT, LT, and/or NX options at the same time are not compatible"),
            a("ZADD z 1 a 2", SYNTAX),
            a("ZADD z NX CH", SYNTAX),
            a("ZADD z 1", arity("zadd")),
            *(a(f"ZADD z {score} a", "-ERR value is not a valid float") for score in ("x", "nan", "1_0", "")),
            a(("ZADD", "z", " 1", "a"), "-ERR value is not a valid float"),
            a("ZRANGEBYSCORE z x 1", "-ERR min or max is not a float"),
            a("ZREMRANGEBYSCORE none 1 (x", "-ERR min or max is not a float"),
            a("ZRANGE z x 1", NOT_INTEGER),
            a("ZRANGEBYSCORE z 0 1 FOO", SYNTAX),
            a("ZRANGEBYSCORE z 0 1 LIMIT 1", SYNTAX),
        ),
    ),
    Vector(
        "scores",
        tuple(
            step
            for score, text in (
                ("1.5", "1.5"),
                ("-0.5", "-0.5"),
                ("+inf", "inf"),
                ("-inf", "-inf"),
                ("1795347353581", "1795347353581"),
                ("1795347353000", "1795347353000"),
                ("1.7e15", "1700000000000000"),
                ("1700000000123456", "1700000000123456"),
                ("1700000000123456.5", "1700000000123456.5"),
                ("9007199254740993", "9007199254740992"),
                ("9007199254740991", "9007199254740991"),
                ("9e15", "9000000000000000"),
                ("1e16", "10000000000000000"),
                ("1e17", {"*": "100000000000000000", REDIS_7: "1e+17", REDIS_6: "1e+17"}),
                ("0.1", {"*": "0.1", REDIS_7: "0.10000000000000001", REDIS_6: "0.10000000000000001"}),
                ("1e300", {"*": "1e+300", REDIS_7: "1.0000000000000001e+300", REDIS_6: "1.0000000000000001e+300"}),
                ("0.00001", {"*": "0.00001", REDIS_7: "1.0000000000000001e-05", REDIS_6: "1.0000000000000001e-05"}),
                ("1.25e-9", {"*": "1.25e-9", REDIS_7: "1.25e-09", REDIS_6: "1.25e-09"}),
            )
            for step in (
                a(f"ZADD z {score} m", Shape(":[01]~"), z=ZSET),
                a("ZSCORE z m", _bulk(text)),
                a(eval_("return redis.call('ZSCORE', 'z', 'm')"), _bulk(text)),
                b("HELLO 3", HELLO3),
                b("ZSCORE z m", _double(text)),
                a("ZRANGE z 0 0 WITHSCORES", _scored(text, 2)),
                b("ZRANGEBYSCORE z -inf +inf WITHSCORES LIMIT 0 1", _scored(text, 3)),
            )
        ),
    ),
    Vector(
        "sorted sets in RESP3",
        (
            a("HELLO 3", HELLO3),
            a("ZADD z 1 a 2.5 b", ":2", z=ZSET),
            a("ZRANGE z 0 -1 WITHSCORES", "*2~*2~$1~a~,1~*2~$1~b~,2.5"),
            a("ZRANGEBYSCORE z 2 3 WITHSCORES", "*1~*2~$1~b~,2.5"),
            a("ZRANGE z 0 0", "*1~$1~a"),
            a("ZSCORE z none", NIL3),
            a("ZRANK z none", NIL3),
        ),
    ),
    Vector(
        "hashes",
        (
            a("HSET h f 1 g 2", ":2", h=HASH),
            a("HSET h f 3 i 4", ONE),
            a("HGET h f", "$1~3"),
            a("HGET h none", NIL2),
            a("HGET none f", NIL2),
            a("HGETALL h", "*6~$1~f~$1~3~$1~g~$1~2~$1~i~$1~4"),
            a("HGETALL none", "*0"),
            a("HLEN h", ":3"),
            a("HDEL h f none", ONE),
            a("HSET h f", arity("hset")),
            a("HSET h f 1 g", arity("hset")),
            a("HELLO 3", HELLO3),
            a("HGETALL h", "%2~$1~g~$1~2~$1~i~$1~4"),
            a("HGETALL none", "%0"),
            a("HDEL h g i", ":2", h=None),
            a("HDEL h g", ZERO),
            a("HLEN h", ZERO),
        ),
    ),
    Vector(
        "counters",
        (
            a("INCR n", ONE, n="1"),
            a("INCRBY n 5", ":6", n="6"),
            a("INCRBY n -10", ":-4", n="-4"),
            a("PEXPIRE n 60000", ONE),
            a("INCR n", ":-3", n="-3"),
            a("PTTL n", UpTo(60000)),
            a("SET n 9223372036854775807", OK, n="9223372036854775807"),
            a("INCR n", "-ERR increment or decrement would overflow"),
            a("SET n 01", OK, n="01"),
            a("INCR n", NOT_INTEGER),
            a("SET n abc", OK, n="abc"),
            a("INCR n", NOT_INTEGER),
            a("INCRBY n x", NOT_INTEGER),
        ),
    ),
    Vector(
        "every command on another type",
        (
            a("SET s v", OK, s="v"),
            a("ZADD z 1 m", ONE, z=ZSET),
            a("HSET h f v", ONE, h=HASH),
            a("TYPE s", "+string"),
            a("TYPE z", "+zset"),
            a("TYPE h", "+hash"),
            a("TYPE none", "+none"),
            a("EXISTS s z z none", ":3"),
            *(a(command.format(key), WRONGTYPE) for key in "zh" for command in ("GET {}", "INCR {}", "SET {} v GET")),
            *(
                a(command.format(key), WRONGTYPE)
                for key in "sh"
                for command in (
                    "ZADD {} 1 a",
                    "ZREM {} a",
                    "ZSCORE {} a",
                    "ZCARD {}",
                    "ZRANK {} a",
                    "ZRANGE {} 0 1",
                    "ZRANGEBYSCORE {} 0 1",
                    "ZCOUNT {} 0 1",
                    "ZREMRANGEBYSCORE {} 0 1",
                )
            ),
            *(
                a(command.format(key), WRONGTYPE)
                for key in "sz"
                for command in ("HSET {} f v", "HGET {} f", "HGETALL {}", "HDEL {} f", "HLEN {}")
            ),
            a("DEL s z h none", ":3", s=None, z=None, h=None),
            a("DBSIZE", ZERO),
        ),
    ),
]

VECTORS: Final = (*ACQUIRE, *RELEASE_AND_EXTEND, *EXPIRY, *TRACKING, *PUBSUB, *CONNECTION, *SCRIPTS, *CONTAINERS)
