"""The exclusive lock's commands as they go over the wire, in every dialect, and the replies that it expects."""

from __future__ import annotations

import hiredis
import pytest

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.queue import side_keys
from redlock_cluster.core.replies import FORESEEN
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import Vote
from redlock_cluster.lua import EXTEND, RELEASE

KEY, TOKEN = b"redlock:\xff\r\n", Token(b"0" * 22 + b"@host:1")
DIALECTS = [
    Dialect(get, ifeq, deletes, resp3)
    for get in (True, False)
    for ifeq in (True, False)
    for deletes in ("DELIFEQ", "DELEX", None)
    for resp3 in (True, False)
]


def words(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    parsed = reader.gets()
    assert isinstance(parsed, list)
    return parsed


def test_acquiring_names_the_holder_where_the_server_can() -> None:
    modern, old = Dialect(True, False, None), Dialect(False, False, None)
    assert words(EXCLUSIVE.acquire(modern, KEY, TOKEN, 10_000, 0, False)[0]) == [
        b"SET",
        KEY,
        TOKEN,
        b"NX",
        b"GET",
        b"PX",
        b"10000",
    ]
    assert words(EXCLUSIVE.acquire(old, KEY, TOKEN, 10_000, 0, False)[0]) == [
        b"SET",
        KEY,
        TOKEN,
        b"NX",
        b"PX",
        b"10000",
    ]


@pytest.mark.parametrize(
    ("native", "expected"),
    [
        ("DELIFEQ", [b"DELIFEQ", KEY, TOKEN]),
        ("DELEX", [b"DELEX", KEY, b"IFEQ", TOKEN]),
        (None, [b"EVALSHA", RELEASE.sha, b"4", *side_keys(KEY), TOKEN, b"", b"0"]),
    ],
)
def test_releasing_compares_in_one_command(native: str | None, expected: list[bytes]) -> None:
    dialect = Dialect(True, True, native)  # type: ignore[arg-type]
    assert words(EXCLUSIVE.release(dialect, KEY, TOKEN, False, False)[0]) == expected


def test_extending_compares_in_one_command() -> None:
    native = [b"SET", KEY, TOKEN, b"IFEQ", TOKEN, b"PX", b"5"]
    assert words(EXCLUSIVE.extend(Dialect(True, True, None), KEY, TOKEN, 5, False)[0]) == native
    assert words(EXCLUSIVE.extend(SCRIPTED, KEY, TOKEN, 5, False)[0]) == [
        b"EVALSHA",
        EXTEND.sha,
        b"1",
        KEY,
        TOKEN,
        b"5",
    ]


def test_a_script_in_full_has_the_same_keys_and_arguments() -> None:
    assert words(EXCLUSIVE.extend(SCRIPTED, KEY, TOKEN, 5, True)[0]) == [b"EVAL", EXTEND.source, b"1", KEY, TOKEN, b"5"]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_the_foreseen_reply_is_the_one_that_counts_for(dialect: Dialect) -> None:
    asked = {
        EXCLUSIVE.acquire(dialect, KEY, TOKEN, 5, 0, False)[1]: lambda reply: EXCLUSIVE.acquired(dialect, reply),
        EXCLUSIVE.extend(dialect, KEY, TOKEN, 5, False)[1]: EXCLUSIVE.extended,
        EXCLUSIVE.release(dialect, KEY, TOKEN, False, False)[1]: EXCLUSIVE.released,
        EXCLUSIVE.inspect(dialect, KEY, False)[1]: EXCLUSIVE.inspected,
    }
    for foreseen, read in asked.items():
        for text, reply in FORESEEN.items():
            if text == foreseen:
                assert read(reply).vote is Vote.FOR


@pytest.mark.parametrize(
    "reply",
    [
        [],
        [b"", -2, 1, b"5"],
        [b"", -2, 1, b"5", b"5", b"5"],
        [None, -2, 1, b"5", b"5"],
        [b"", b"-2", 1, b"5", b"5"],
        [b"", -2, None, b"5", b"5"],
        [b"", -2, 1, b"-5", b"5"],
        [b"", -2, 1, b"5", b"1e3"],
        [b"", -2, 1, b"5", b"9" * 400],
        [b"", -2, 1, b"9" * 5000, b"5"],
        [b"", -2, 1, 5, 5],
        3,
        True,
        b"OK",
        None,
    ],
    ids=lambda reply: repr(reply)[:40],
)
def test_a_reply_that_no_server_gives_to_a_take_is_none(reply: object) -> None:
    answer = EXCLUSIVE.taken(Dialect(True, True, "DELIFEQ"), reply)
    assert answer.vote is Vote.ABSENT
    assert not answer.possible
