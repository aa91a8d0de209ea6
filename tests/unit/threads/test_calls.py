"""Calls whose callers have gone: what still begins, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any, cast

import pytest

from redlock_cluster import NotHeld
from redlock_cluster.engine.deployments import Cluster
from redlock_cluster.threads.calls import Acquiring, Call, Releasing, Working
from redlock_cluster.threads.parking import LockSpace


class Starting:
    """A cluster that starts as long as somebody wants, and the engine that it has then."""

    def __init__(self) -> None:
        self.started, self.begun = asyncio.Event(), 0

    def ready(self, name: str) -> None:
        return None

    async def engine(self, name: str) -> Starting:
        await self.started.wait()
        return self

    def begin_acquire(self, *_: object) -> None:
        self.begun += 1
        raise AssertionError

    def begin_release(self, *_: object) -> NotHeld:
        self.begun += 1
        return NotHeld("nothing is held here")


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_call_given_up_as_the_start_ends_begins_only_if_it_must(kept: bool, turns: int) -> None:
    starting = Starting()
    cluster, told = cast(Cluster, starting), lambda *_: None
    call: Call[Any] = (
        Releasing(cluster, "", "r", "token") if kept else Acquiring(cluster, "", "r", 10, None, told, told)
    )
    call.space, call.give = LockSpace(), told
    call.begin()
    await asyncio.sleep(0)
    starting.started.set()
    for _ in range(turns):
        await asyncio.sleep(0)
        if call.ended:
            break
    else:
        call.abandoned = True
        call.cancel(asyncio.get_running_loop())
        for _ in range(5):
            await asyncio.sleep(0)
        assert starting.begun == (1 if kept else 0)
    assert call.ended


async def test_call_given_up_does_not_try_again() -> None:
    tries = 0

    async def again() -> None:
        nonlocal tries
        tries += 1

    call = Working(again)
    call.space, call.give = LockSpace(), lambda _: None
    call._begun = call.abandoned = True
    call._start()
    await asyncio.sleep(0)
    assert (call.ended, tries) == (True, 0)
    assert isinstance(call.error, asyncio.CancelledError)


async def test_what_comes_although_it_was_given_up_is_taken_back_once() -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(5)
        return "done"

    undone: list[str] = []
    call = Working(stubborn, undone.append)
    call.space = LockSpace()
    call.begin()
    call.abandoned = True
    call.cancel(asyncio.get_running_loop())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (call.ended, undone) == (True, ["done"])
    call.cancel(asyncio.get_running_loop())
    assert undone == ["done"]
