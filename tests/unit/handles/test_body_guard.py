"""The body of an `async with` whose lease is lost: cancelled as by `asyncio.timeout`, whatever else happens."""

from __future__ import annotations

import asyncio
import gc
import logging
from weakref import ref

import pytest

from redlock_cluster.errors import LeaseLost

from .played import Played


def cancelling() -> int:
    """How many cancellations the running task still has to answer for."""
    task = asyncio.current_task()
    assert task is not None
    return task.cancelling()


async def lose_soon(played: Played, index: int = -1, after: float = 1.0) -> None:
    asyncio.get_running_loop().call_later(after, played.lose, index)


async def test_body_is_cancelled_and_the_with_raises_lease_lost() -> None:
    played, ended = Played(), False
    with pytest.raises(LeaseLost) as caught:
        async with played.mutex():
            await lose_soon(played)
            await asyncio.sleep(10)
            ended = True
    assert not ended
    assert type(caught.value.__cause__) is asyncio.CancelledError
    assert cancelling() == 0
    await asyncio.sleep(0)  # nothing is left that would hit what comes next


async def test_body_that_ends_in_time_is_left_alone() -> None:
    played = Played()
    async with played.mutex():
        await asyncio.sleep(1)
    played.lose()
    await asyncio.sleep(1)
    assert cancelling() == 0


async def test_loss_while_it_is_released_cancels_nothing() -> None:
    played = Played()
    async with played.mutex():
        asyncio.get_running_loop().call_soon(played.lose)  # runs while `__aexit__` waits for the release
    await asyncio.sleep(1)
    assert cancelling() == 0


async def test_loss_told_within_the_body_itself_cancels_its_next_wait() -> None:
    """As when the body asks for an extension that finds the lease lost."""
    played, steps = Played(), []
    with pytest.raises(LeaseLost):
        async with played.mutex():
            played.lose()
            steps.append("still runs")
            await asyncio.sleep(0)
            await asyncio.sleep(10)
            steps.append("too far")
    assert steps == ["still runs"]
    assert cancelling() == 0


async def test_loss_told_in_the_last_turn_of_a_body_cancels_nothing_behind_it() -> None:
    played = Played()
    with pytest.raises(LeaseLost) as caught:
        async with played.mutex():
            played.lose()
    assert caught.value.__cause__ is None
    await asyncio.sleep(1)
    assert cancelling() == 0


async def test_body_may_clean_up_and_go_on() -> None:
    played, cleaned = Played(), []
    with pytest.raises(LeaseLost):
        async with played.mutex():
            await lose_soon(played)
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                await asyncio.sleep(1)
                cleaned.append(True)
    assert cleaned == [True]
    assert cancelling() == 0


async def test_what_the_body_raises_instead_passes_and_the_loss_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    played = Played()
    with pytest.raises(ValueError, match="mine"):
        async with played.mutex():
            await lose_soon(played)
            try:
                await asyncio.sleep(10)
            finally:
                raise ValueError("mine")
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert cancelling() == 0


@pytest.mark.parametrize("first", ["outside", "loss"])
async def test_cancellation_from_outside_wins(first: str) -> None:
    played = Played()

    async def work() -> None:
        async with played.mutex():
            await asyncio.sleep(10)

    task = asyncio.ensure_future(work())
    await asyncio.sleep(1)
    if first == "outside":
        task.cancel()
    played.lose()
    await asyncio.sleep(0)  # the guard has cancelled, the body has not run yet
    if first == "loss":
        task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.parametrize("lost", [(0,), (1,), (0, 1), (1, 0)], ids=str)
async def test_of_nested_bodies_the_one_that_is_lost_ends(lost: tuple[int, ...]) -> None:
    played, inner, outer = Played(), None, None
    try:
        async with played.mutex():
            try:
                async with played.mutex("inner"):
                    for index in lost:
                        asyncio.get_running_loop().call_later(1, played.lose, index)
                    await asyncio.sleep(10)
            except BaseException as error:
                inner = error
                raise
    except LeaseLost as error:
        outer = error
    if lost == (1,):
        assert inner is outer is not None
    else:
        assert type(inner) is asyncio.CancelledError, "it is for the outer one to say"
        assert outer is not None
        assert outer.__cause__ is inner
    assert cancelling() == 0


async def test_timeout_outside_and_loss_inside() -> None:
    played = Played()
    with pytest.raises(LeaseLost):
        async with asyncio.timeout(5), played.mutex():
            await lose_soon(played)
            await asyncio.sleep(10)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1), played.mutex():
            await lose_soon(played, after=5)
            await asyncio.sleep(10)
    assert cancelling() == 0


async def test_loss_outside_and_timeout_inside() -> None:
    played = Played()
    with pytest.raises(LeaseLost):
        async with played.mutex():
            await lose_soon(played)
            async with asyncio.timeout(5):
                await asyncio.sleep(10)
    with pytest.raises(TimeoutError):
        async with played.mutex(), asyncio.timeout(1):
            await lose_soon(played, after=5)
            await asyncio.sleep(10)
    assert cancelling() == 0


@pytest.mark.parametrize("outer", ["timeout", "mutex"])
async def test_loss_and_timeout_at_the_same_moment_leave_nothing_behind(outer: str) -> None:
    """Either may be what is raised."""
    played = Played()
    with pytest.raises((TimeoutError, LeaseLost)):
        if outer == "timeout":
            async with asyncio.timeout(1), played.mutex():
                await lose_soon(played)
                await asyncio.sleep(10)
        else:
            async with played.mutex(), asyncio.timeout(1):
                await lose_soon(played)
                await asyncio.sleep(10)
    await asyncio.sleep(1)
    assert cancelling() == 0


async def test_group_of_tasks_in_the_body_is_cancelled() -> None:
    played, cancelled = Played(), []

    async def child() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            cancelled.append(True)
            raise

    with pytest.raises(LeaseLost):
        async with played.mutex(), asyncio.TaskGroup() as group:
            await lose_soon(played)
            group.create_task(child())
            group.create_task(child())
    assert cancelled == [True, True]
    assert cancelling() == 0


async def test_loss_in_a_task_of_a_group_is_that_tasks_error() -> None:
    played = Played()

    async def child() -> None:
        async with played.mutex():
            await lose_soon(played)
            await asyncio.sleep(10)

    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(child())
            await asyncio.sleep(10)
    assert [type(error) for error in caught.value.exceptions] == [LeaseLost]


async def test_handle_may_be_used_again_after_a_loss() -> None:
    played, mutex = Played(), None
    mutex = played.mutex()
    for _ in range(2):
        with pytest.raises(LeaseLost):
            async with mutex:
                await lose_soon(played)
                await asyncio.sleep(10)
    async with mutex as lease:
        assert lease.valid
    assert cancelling() == 0


async def test_body_is_not_cancelled_if_that_is_not_wanted() -> None:
    played, ended = Played(), False
    with pytest.raises(LeaseLost):
        async with played.mutex(cancel_on_loss=False):
            await lose_soon(played)
            await asyncio.sleep(10)
            ended = True
    assert ended


async def test_engine_keeps_neither_task_nor_lease_alive() -> None:
    played, mutex = Played(), None
    mutex = played.mutex()
    async with mutex as lease:
        gone = ref(lease)
        engine = played.engines[0]
    played.leases.clear()
    mutex = lease = None
    assert engine.listeners
    gc.collect()
    assert gone() is None
