"""What servers say of a lock, and what that comes to."""

from __future__ import annotations

from typing import Any

import pytest

from redlock_cluster.core.mode import ABSENT, AGAINST, FOR
from redlock_cluster.core.replies import ErrorReply
from redlock_cluster.core.snapshot import Holding, LockOnServer, WaitingClient, conclusion, said

TOKEN = b"abcdefgh0123456789ABCD@host:7"
OTHER = b"ABCDEFGH0123456789abcd@host:8"
TIME = [b"1000", b"500000"]
DENIED = ErrorReply("NOPERM User x has no permissions to run the 'zrange' command")
WRONG = ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")


def answer(
    value: object = TOKEN,
    ttl: object = 2500,
    queue: object = (),
    expiry: object = (),
    time: object = TIME,
    members: object = WRONG,
    readers: object = (),
) -> Any:
    listed = [list(each) if isinstance(each, tuple) else each for each in (members, queue, readers, expiry)]
    return said("a:1", [value, ttl, *listed, time])


def test_holder_is_shown_without_the_token() -> None:
    found = answer()
    assert found.shown == LockOnServer("a:1", "", "exclusive", "host:7", "abcdefgh", 2.5, ())
    assert (found.answer.vote, found.answer.holder, found.ttl_ms) == (AGAINST, TOKEN, 2500)
    assert "0123456789" not in repr(found.shown)


def test_nobody() -> None:
    found = answer(None, -2)
    assert found.shown == LockOnServer("a:1", waiting=())
    assert found.answer.vote is FOR


@pytest.mark.parametrize(("value", "kind"), [(b"x" * 40, "exclusive"), (b"", "exclusive"), (WRONG, "other")])
def test_others_have_no_label(value: object, kind: str) -> None:
    found = answer(value, -1)
    assert (found.shown.kind, found.shown.owner, found.shown.client, found.shown.ttl) == (kind, "", "", None)
    assert found.answer.vote is AGAINST
    assert found.ttl_ms == -1


QUEUE = (b"tAAAAAAAA", 998_500_000.0), (b"pBBBBBBBB", 999_500_000.0), (b"tCCCCCCCC", 1000_400_000.0)
EXPIRY = (b"pBBBBBBBB", 1000_500_000.0), (b"tAAAAAAAA", 1000_500_001.0), (b"tCCCCCCCC", 1006_000_000.0)


def flat(pairs: Any) -> tuple[bytes, ...]:
    return tuple(part for member, score in pairs for part in (member, b"%d" % score))


@pytest.mark.parametrize("resp", [2, 3])
def test_those_who_wait_are_shown_in_order_without_the_dead(resp: int) -> None:
    queue, expiry = (flat(QUEUE), flat(EXPIRY)) if resp == 2 else ([list(p) for p in QUEUE], [list(p) for p in EXPIRY])
    (first, second) = answer(queue=queue, expiry=expiry).shown.waiting
    assert (first, second) == (WaitingClient("AAAAAAAA", True, 2.0), WaitingClient("CCCCCCCC", True, 0.1))
    alive = answer(queue=queue, expiry=()).shown.waiting
    assert [(each.client, each.told) for each in alive] == [("AAAAAAAA", True), ("BBBBBBBB", False), ("CCCCCCCC", True)]


@pytest.mark.parametrize(
    "rubbish",
    [{"queue": DENIED}, {"expiry": DENIED}, {"time": DENIED}, {"time": [b"x", b"y"]}, {"queue": 5}, {"queue": None}],
)
def test_who_may_not_look_at_the_queue_still_sees_the_holder(rubbish: dict[str, object]) -> None:
    found = answer(**rubbish).shown
    assert (found.kind, found.waiting, found.error) == ("exclusive", None, "")


@pytest.mark.parametrize("queue", [[5], [[b"x"]], [[b"x", b"y"]], [b"x"], [[]], [b"a", b"nan"], [None, None]])
def test_members_that_are_none_are_left_out(queue: list[object]) -> None:
    assert answer(queue=queue).shown.waiting == ()


@pytest.mark.parametrize("wrong", [{"value": DENIED}, {"value": 5}, {"ttl": DENIED}, {"ttl": b"5"}])
def test_server_that_does_not_say_is_absent_and_says_why(wrong: dict[str, object]) -> None:
    found = answer(**wrong)
    assert found.answer.vote is ABSENT
    assert found.shown.error
    assert (found.shown.kind, found.shown.ttl, found.shown.waiting) == (None, None, None)
    assert TOKEN.decode() not in found.shown.error


def test_unreachable_server_says_why() -> None:
    found = said("a:1", "no answer in time")
    assert found.shown == LockOnServer("a:1", "no answer in time")
    assert found.answer.vote is ABSENT


AWAY = said("a:1", "refused")


@pytest.mark.parametrize(
    ("servers", "holding", "token"),
    [
        ([answer()] * 3 + [answer(None)] * 2, Holding.HELD, TOKEN),
        ([answer()] * 2 + [answer(OTHER)] + [answer(None)] * 2, Holding.SPLIT, None),
        ([answer()] * 2 + [answer(OTHER)] * 2 + [AWAY], Holding.UNKNOWN, None),
        ([answer()] * 1 + [answer(OTHER)] * 2 + [answer(None)] + [AWAY], Holding.UNKNOWN, None),
        ([answer()] * 2 + [answer(None)] * 3, Holding.FREE, None),
        ([answer(None)] * 5, Holding.FREE, None),
        ([answer()] * 3 + [AWAY] * 2, Holding.HELD, TOKEN),
        ([answer(None)] * 3 + [AWAY] * 2, Holding.FREE, None),
        ([answer()] * 2 + [AWAY] * 3, Holding.UNKNOWN, None),
        ([answer(None)] * 2 + [AWAY] * 3, Holding.UNKNOWN, None),
        ([AWAY] * 5, Holding.UNKNOWN, None),
        ([answer(WRONG)] * 3 + [answer(None)] * 2, Holding.HELD, None),
        ([answer(OTHER)] + [answer()] * 4, Holding.HELD, TOKEN),
    ],
)
def test_conclusion(servers: list[Any], holding: Holding, token: bytes | None) -> None:
    for order in (servers, servers[::-1]):
        assert conclusion(order) == (holding, token)
