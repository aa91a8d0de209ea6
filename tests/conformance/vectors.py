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
from redlock_cluster.lua import EXTEND, RELEASE

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

    changes, binary: what it changes, by key; pushed: what the other client gets of it; closes: whose connection ends
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
    """A key's time passes; nobody touches it. pushed: as in Step."""

    key: str
    pushed: Mapping[str, str]


@dataclass(frozen=True)
class Vector:
    name: str
    steps: tuple[Step | Expiry, ...]
    versions: tuple[str, ...] = ALL
    password: str | None = None


def words_of(command: str | tuple[Word, ...]) -> tuple[Word, ...]:
    return tuple(command.split(" ")) if isinstance(command, str) else command


def a(command: str | tuple[Word, ...], reply: Replies, _to_b: str = "", **changes: Value) -> Step:
    """The first client sends a command."""
    return Step("a", words_of(command), reply, changes, {"b": _to_b})


def b(command: str | tuple[Word, ...], reply: Replies, _to_a: str = "", **changes: Value) -> Step:
    """The second client sends a command."""
    return Step("b", words_of(command), reply, changes, {"a": _to_a})


def kills(command: str, reply: Replies, victim: str) -> Step:
    """The second client ends a connection."""
    return Step("b", words_of(command), reply, {}, {}, {}, victim)


def raw(command: tuple[Word, ...], reply: Replies, binary: Mapping[bytes, bytes | None]) -> Step:
    """The first client sends bytes."""
    return Step("a", command, reply, {}, {}, binary)


def expires(key: str, _to_a: str = "", _to_b: str = "") -> Expiry:
    return Expiry(key, {"a": _to_a, "b": _to_b})


def eval_(script: str, *arguments: Word, keys: tuple[Word, ...] = ()) -> tuple[Word, ...]:
    return ("EVAL", script, len(keys), *keys, *arguments)


def release(key: str, token: str) -> tuple[Word, ...]:
    return ("EVALSHA", RELEASE.sha, 1, key, token)


def extend(key: str, token: str, ttl_ms: int) -> tuple[Word, ...]:
    return ("EVALSHA", EXTEND.sha, 1, key, token, ttl_ms)


def push(key: str) -> str:
    return f">2~$10~invalidate~*1~${len(key)}~{key}"


def sha(script: str) -> str:
    return hashlib.sha1(script.encode()).hexdigest()


OK, NIL2, NIL3, ONE, ZERO = "+OK", "$-1", "_", ":1", ":0"
ZSET, HASH = "<zset>", "<hash>"
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
            raw(release_words := ("EVAL", RELEASE.source, 1, b"\x00\xff\r\n", b"\r\n\x00$4"), ZERO, {}),
            raw((*release_words[:4], b"\r\n\x00$3"), ONE, {b"\x00\xff\r\n": None}),
        ),
    ),
    Vector(
        "large values",
        (
            raw(("SET", "k", b"\x00x" * 500_000, "PX", 60000), OK, {b"k": b"\x00x" * 500_000}),
            raw(("GET", "k"), b"$1000000\r\n" + b"\x00x" * 500_000 + b"\r\n", {}),
            raw(("EVAL", RELEASE.source, 1, "k", b"\x00x" * 500_000), ONE, {b"k": None}),
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
            a("ZADD k 1 v", ONE, k=ZSET),
            a(release("k", "v"), ZERO),
            a("SCRIPT FLUSH", OK),
            a(release("k", "v"), NO_SCRIPT),
            a(("EVAL", RELEASE.source, 1, "k", "v"), ZERO),
            a(release("k", "v"), ZERO),
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
                    (("EVAL", RELEASE.source, 1, "k", "v"), ZERO),
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
                    (("EVAL", RELEASE.source, 1, "k", "w"), ONE, None),
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
            b(("EVAL", RELEASE.source, 1, "k", "w"), ZERO),
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

VECTORS: Final = (*ACQUIRE, *RELEASE_AND_EXTEND, *EXPIRY, *TRACKING, *CONNECTION, *SCRIPTS, *CONTAINERS)
