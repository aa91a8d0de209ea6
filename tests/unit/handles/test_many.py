"""Groups of leases: what is asked of the supervisor, and which of its answers are raised."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.lease_record import LeaseRecord, LeaseState, LossReason
from redlock_cluster.core.tally import Outcome
from redlock_cluster.core.token import Token
from redlock_cluster.errors import LeaseLost, NotHeld, QuorumUnavailable, RedlockError
from redlock_cluster.handles.lease import AsyncLease
from redlock_cluster.handles.many import AsyncLeaseGroup
from redlock_cluster.handles.upkeep import BodyGuard, Upkeep
from redlock_cluster.results import Lost, Ok, lost, released

from .played import PlayedEngine

LOST, OVER, UNKNOWN = LeaseLost("lost", "a"), NotHeld("over", "b"), QuorumUnavailable("unknown", "c")


class Keeper:
    """Answers what it is told to, and notes what it was asked for."""

    def __init__(self, *answers: RedlockError | None) -> None:
        self.answers, self.asked = answers, list[tuple[list[str], Any]]()

    async def extend_many(self, leases: Iterable[AsyncLease], ttl: Any = None) -> list[Ok[AsyncLease] | Lost]:
        asked = [*leases]
        self.asked.append(([lease.resource for lease in asked], ttl))
        answers: list[Ok[AsyncLease] | Lost] = [
            Ok(lease) if answer is None else lost(answer) for lease, answer in zip(asked, self.answers, strict=True)
        ]
        return answers

    async def unlock_many(self, leases: Iterable[AsyncLease]) -> list[Ok[None] | Lost]:
        self.asked.append(([lease.resource for lease in leases], None))
        return [released(answer) for answer in self.answers]


def group_of(keeper: Any, names: str = "abc") -> tuple[AsyncLeaseGroup, Any]:
    engine: Any = PlayedEngine()
    now = engine.clock()
    records = [LeaseRecord(n, n.encode(), Token(b"t"), EXCLUSIVE, 30_000, now + 29, now, 0b111, None) for n in names]
    return AsyncLeaseGroup(keeper, engine, [AsyncLease(keeper, engine, record) for record in records]), engine


def lose(group: AsyncLeaseGroup, index: int) -> None:
    """A quorum has lost it, and whoever listens to it is told: of three listeners the so-manieth."""
    engine: Any = group._engine
    no_votes: Any = SimpleNamespace(granted=0)
    group.leases[index]._record.looked(no_votes, Outcome.GONE, engine.clock())
    for listener in engine.listeners[index::3]:
        listener.lost(LossReason.GONE)


@pytest.mark.parametrize(
    ("answers", "raised"),
    [
        ((None, None, None), None),
        ((UNKNOWN, None, LOST), LOST),
        ((UNKNOWN, OVER, LOST), LOST),
        ((UNKNOWN, OVER, None), OVER),
        ((None, UNKNOWN, None), UNKNOWN),
    ],
)
@pytest.mark.parametrize("call", ["extend", "release"])
async def test_the_worst_answer_is_raised_and_the_others_are_its_notes(
    call: str, answers: tuple[RedlockError | None, ...], raised: RedlockError | None
) -> None:
    keeper = Keeper(*answers)
    group, _ = group_of(keeper)
    if raised is None:
        await getattr(group, call)()
    else:
        with pytest.raises(type(raised)) as caught:
            await getattr(group, call)()
        assert caught.value is raised
        others = [f"besides: {answer}" for answer in answers if answer not in (None, raised)]
        assert getattr(raised, "__notes__", []) == others
        if others:
            del raised.__notes__
    assert keeper.asked == [(["a", "b", "c"], None)]


async def test_what_was_given_back_is_not_released_again_unless_all_is() -> None:
    keeper = Keeper(None, None)
    group, engine = group_of(keeper)
    for number, left in enumerate([["b", "c"], ["c"], ["a", "b", "c"]]):
        record = group.leases[number]._record
        record.begin_release(engine.clock())
        record.released(Outcome.DONE, None)
        assert group.state is (LeaseState.RELEASED if number == 2 else LeaseState.HELD)
        await group.release()
        assert keeper.asked.pop() == (left, None)


async def test_loss_of_several_is_told_once_and_cancels_once() -> None:
    told, cancelled = list[Any](), list[bool]()
    loop = asyncio.get_running_loop()
    upkeep: Upkeep[AsyncLeaseGroup] = Upkeep(None, None, None, lambda *args: told.append(args), loop.call_soon)
    group, engine = group_of(Keeper())
    upkeep.begin(engine)
    upkeep.granted(group)
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(LeaseLost, match=r"the lease on '[abc]' is lost"), BodyGuard(group, task):
        for after, index in ((1, 1), (2, 2), (3, 0)):
            loop.call_later(after, lose, group, index)
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(True)
            await asyncio.sleep(5)
            raise
    assert cancelled == [True]
    assert told == [(group, LossReason.GONE)]
    assert task.cancelling() == 0
    assert len(engine.listeners) == 6
