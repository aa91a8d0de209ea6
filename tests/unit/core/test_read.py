"""The read lock's commands as they go over the wire, and the replies that it expects."""

from __future__ import annotations

import hiredis
import pytest

from redlock_cluster.core.dialect import SCRIPTED, Dialect
from redlock_cluster.core.kinds import BY_NAME, mode_of
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.queue import NOBODY, Member, forced_key, side_keys
from redlock_cluster.core.read import READER
from redlock_cluster.core.replies import FORESEEN, UNFORESEEN, ErrorReply
from redlock_cluster.core.token import Token
from redlock_cluster.core.votes import Vote
from redlock_cluster.lua import EXTEND, FIND, HEAL, READ, RELEASE

KEY, TOKEN, CLIENT = b"redlock:\xff\r\n", Token(b"0" * 22 + b"@host:1"), b"01234567"
NATIVE = Dialect(True, True, "DELIFEQ", wakes=True)
DIALECTS = [NATIVE, SCRIPTED, Dialect(True, True, "DELEX", resp3=False), Dialect(True, True, None, queues=False)]
WRONG_TYPE = ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")
KEYS = [b"4", *side_keys(KEY)]


def words(command: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(command)
    parsed = reader.gets()
    assert isinstance(parsed, list)
    return parsed


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_every_command_is_a_script_whatever_the_server_understands(dialect: Dialect) -> None:
    for packed, expected in (
        (READER.acquire(dialect, KEY, TOKEN, 5, 0, False)[0], [READ.sha, *KEYS, TOKEN, b"5", b"", b"", b"0", b"0"]),
        (READER.extend(dialect, KEY, TOKEN, 5, False)[0], [EXTEND.sha, b"1", KEY, TOKEN, b"5"]),
        (READER.release(dialect, KEY, TOKEN, True, False)[0], [RELEASE.sha, *KEYS, TOKEN, b"", b"r"]),
        (READER.release(dialect, KEY, TOKEN, False, False)[0], [RELEASE.sha, *KEYS, TOKEN, b"", b"r"]),
        (READER.find(dialect, KEY, TOKEN, False)[0], [FIND.sha, b"1", KEY, TOKEN]),
        (READER.heal(dialect, KEY, TOKEN, 5, 0, False)[0], [HEAL.sha, b"2", KEY, forced_key(KEY), TOKEN, b"5", b"1"]),
    ):
        assert words(packed) == [b"EVALSHA", *expected]


def test_script_in_full_has_the_same_keys_and_arguments() -> None:
    sent = words(READER.acquire(NATIVE, KEY, TOKEN, 5, 0, True)[0])
    assert sent == [b"EVAL", READ.source, *words(READER.acquire(NATIVE, KEY, TOKEN, 5, 0, False)[0])[2:]]


@pytest.mark.parametrize(
    ("dialect", "name"),
    [(NATIVE, b"r" + CLIENT), (SCRIPTED, b"q" + CLIENT), (Dialect(True, True, None, queues=False), b"")],
    ids=["told", "polls", "in no queue"],
)
def test_take_says_who_we_are_among_the_readers_that_wait(dialect: Dialect, name: bytes) -> None:
    sent = words(READER.take(dialect, KEY, TOKEN, 5, 0, Member(CLIENT, 123, True, 6000), False)[0])
    assert sent == [b"EVALSHA", READ.sha, *KEYS, TOKEN, b"5", name, b"123", b"1", b"6000"]
    if name:
        assert words(READER.leave(dialect, KEY, CLIENT, False)) == [b"EVALSHA", RELEASE.sha, *KEYS, b"", name, b"1"]


def test_take_in_the_place_of_a_line_keeps_its_order_and_one_without_a_place_has_none() -> None:
    place = words(READER.take(NATIVE, KEY, TOKEN, 5, 0, Member(b"", 123, True, 0), False)[0])
    assert place[-4:] == [b"", b"123", b"1", b"0"]
    assert READER.take(NATIVE, KEY, TOKEN, 5, 0, NOBODY, False) == READER.acquire(NATIVE, KEY, TOKEN, 5, 0, False)


@pytest.mark.parametrize("dialect", DIALECTS, ids=repr)
def test_foreseen_replies_are_votes_for_it(dialect: Dialect) -> None:
    for expected, answer in (
        (READER.acquire(dialect, KEY, TOKEN, 5, 0, False)[1], lambda reply: READER.acquired(dialect, reply)),
        (READER.extend(dialect, KEY, TOKEN, 5, False)[1], READER.extended),
        (READER.release(dialect, KEY, TOKEN, False, False)[1], READER.released),
        (READER.find(dialect, KEY, TOKEN, False)[1], lambda reply: READER.found(reply, TOKEN)),
        (READER.heal(dialect, KEY, TOKEN, 5, 0, False)[1], READER.healed),
        (READER.inspect(dialect, KEY, False)[1], READER.inspected),
    ):
        assert answer(FORESEEN[expected]).vote is Vote.FOR
    assert READER.take(dialect, KEY, TOKEN, 5, 0, Member(CLIENT, 1, True, 1), False)[1] == UNFORESEEN


def test_refusals_name_the_writer_that_holds_it_and_say_where_readers_do() -> None:
    writer = READER.acquired(NATIVE, [b"its token", 5, 0, b"17", b"18"])
    assert (writer.vote, writer.holder) == (Vote.AGAINST, b"its token")
    readers = READER.taken(NATIVE, [b"", -1, 1, b"17", b"18"])
    assert (readers.vote, readers.holder) == (Vote.AGAINST, None)
    assert readers.position is not None
    assert (readers.position.shared, readers.position.rank, readers.position.free) == (True, 1, False)
    free = READER.taken(NATIVE, [b"", -2, 1, b"17", b"18"])
    assert free.position is not None
    assert (free.position.shared, free.position.free) == (False, True)
    assert READER.acquired(NATIVE, 2).others


@pytest.mark.parametrize(
    ("reply", "vote", "free"),
    [(1, Vote.FOR, False), (2, Vote.AGAINST, True), (0, Vote.AGAINST, False), (None, Vote.ABSENT, False)],
)
def test_token_that_is_not_there_could_be_added_unless_somebody_excludes_it(
    reply: object, vote: Vote, free: bool
) -> None:
    answer = READER.found(reply, TOKEN)
    assert (answer.vote, answer.free) == (vote, free)


def test_only_who_holds_it_alone_excludes_a_reader() -> None:
    assert READER.inspected(None).vote is Vote.FOR
    assert READER.inspected(WRONG_TYPE).vote is Vote.FOR
    assert READER.inspected(b"a token").vote is Vote.AGAINST
    assert READER.inspected(ErrorReply("ERR broken")).vote is Vote.ABSENT


@pytest.mark.parametrize("reply", [3, True, b"OK!", [b"", -1, 1, b"x", b"1"], ["", 1], ErrorReply("ERR ACL failure")])
def test_anything_else_is_no_vote(reply: object) -> None:
    assert READER.acquired(NATIVE, reply).vote is Vote.ABSENT
    assert READER.extended(reply).vote is Vote.ABSENT
    assert READER.released(reply).vote is Vote.ABSENT
    assert READER.healed(reply).vote is Vote.ABSENT


def test_kinds_have_names_and_modes() -> None:
    reader: LockMode = READER
    assert BY_NAME["read"] is reader is mode_of("read")
    assert (reader.shared, mode_of("write").shared) == (True, False)
    with pytest.raises(ValueError, match="a mode is 'write' or 'read', not 'shared'"):
        mode_of("shared")  # type: ignore[arg-type]
