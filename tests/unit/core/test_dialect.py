"""Commands as they go over the wire, in every dialect."""

from __future__ import annotations

import hiredis
import pytest

from redlock_cluster.core.dialect import SCRIPTED, Dialect, ErrorReply, dialect_of, evaluate, probes
from redlock_cluster.core.votes import Token
from redlock_cluster.lua import EXTEND, RELEASE, SCRIPTS

KEY, TOKEN = b"redlock:\xff\r\n", Token(b"0" * 22 + b"@host:1")
TOO_SHORT = ErrorReply("ERR invalid expire time in 'set' command")
SYNTAX, UNKNOWN = ErrorReply("ERR syntax error"), ErrorReply("ERR unknown command 'DELEX', with args beginning with:")


def words(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    parsed = reader.gets()
    assert isinstance(parsed, list)
    return parsed


def test_acquiring_names_the_holder_where_the_server_can() -> None:
    modern, old = Dialect(True, False, None), Dialect(False, False, None)
    assert words(modern.acquire(KEY, TOKEN, 10_000)) == [b"SET", KEY, TOKEN, b"NX", b"GET", b"PX", b"10000"]
    assert words(old.acquire(KEY, TOKEN, 10_000)) == [b"SET", KEY, TOKEN, b"NX", b"PX", b"10000"]


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ("DELIFEQ", [b"DELIFEQ", KEY, TOKEN]),
        ("DELEX", [b"DELEX", KEY, b"IFEQ", TOKEN]),
        (None, [b"EVALSHA", RELEASE.sha, b"1", KEY, TOKEN]),
    ],
)
def test_releasing_compares_in_one_command(native: str | None, expected: list[bytes]) -> None:
    assert words(Dialect(True, True, native).release(KEY, TOKEN)) == expected  # type: ignore[arg-type]


def test_extending_compares_in_one_command() -> None:
    native = [b"SET", KEY, TOKEN, b"IFEQ", TOKEN, b"PX", b"5"]
    assert words(Dialect(True, True, None).extend(KEY, TOKEN, 5)) == native
    assert words(SCRIPTED.extend(KEY, TOKEN, 5)) == [b"EVALSHA", EXTEND.sha, b"1", KEY, TOKEN, b"5"]


def test_a_script_in_full_has_the_same_keys_and_arguments() -> None:
    assert words(evaluate(EXTEND, KEY, TOKEN, 5)) == [b"EVAL", EXTEND.source, b"1", KEY, TOKEN, b"5"]


@pytest.mark.parametrize(
    ("replies", "dialect"),
    [
        ((TOO_SHORT, TOO_SHORT, 0, UNKNOWN), Dialect(True, True, "DELIFEQ")),  # Valkey 9
        ((TOO_SHORT, TOO_SHORT, UNKNOWN, 0), Dialect(True, True, "DELEX")),  # Redis 8.4
        ((TOO_SHORT, SYNTAX, UNKNOWN, UNKNOWN), Dialect(True, False, None)),  # Redis 7.0 to 8.2
        ((SYNTAX, SYNTAX, UNKNOWN, UNKNOWN), Dialect(False, False, None)),  # Redis 6.2
        ((ErrorReply("NOPERM no"),) * 4, Dialect(False, False, None)),
        ((b"OK", None, b"1", []), Dialect(False, False, None)),
    ],
)
def test_the_dialect_follows_from_the_probes(replies: tuple[object, ...], dialect: Dialect) -> None:
    assert dialect_of(replies, resp3=True) == dialect
    assert dialect_of(replies, resp3=True) is dialect_of(replies, resp3=True)


def test_probes_can_not_write() -> None:
    for command in probes("k"):
        assert command[0] in ("DELIFEQ", "DELEX") or command[-2:] == ("PX", 0)


def test_scripts_say_what_they_take_and_answer() -> None:
    for script in SCRIPTS:
        header = script.source.decode().split("if redis.call")[0]
        assert all(word in header for word in ("KEYS[1]", "ARGV[1]", "Replies")), script.name


@pytest.mark.parametrize(
    "text",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR Key should be of string type if conditions are specified",
    ],
)
def test_each_way_to_say_that_a_key_is_no_string_is_known(text: str) -> None:
    assert ErrorReply(text).wrong_type
    assert not ErrorReply("ERR " + text).wrong_type
