"""Calls whose callers have gone: what still begins, and what does not."""

from __future__ import annotations

import asyncio
import contextlib
from threading import Lock
from typing import Any, cast

import pytest

from redlock_cluster import NotHeld
from redlock_cluster.core.decision import Settled
from redlock_cluster.engine.deployments import Deployments
from redlock_cluster.threads.calls import Call, CoroutineCall, OperationCall


class Starting:
    """Deployments that start as long as somebody wants, and the engine that they have then."""

    def __init__(self) -> None:
        self.started, self.begun = asyncio.Event(), 0
        self.engines: dict[str, Starting] = {}

    async def engine(self, name: str) -> Starting:
        await self.started.wait()
        return self

    def start(self, engine: object) -> Settled[NotHeld]:
        assert engine is self
        self.begun += 1
        return Settled(NotHeld("nothing is held here"))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 2, 3])
async def test_call_given_up_as_the_start_ends_begins_only_if_it_must(kept: bool, turns: int) -> None:
    starting = Starting()
    call: Call[Any] = OperationCall(cast(Deployments, starting), "", starting.start, lambda *_: None, kept=kept)
    call.sleeper, call.wake = Lock(), lambda _: None
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

    call = CoroutineCall(again)
    call.sleeper, call.wake = Lock(), lambda _: None
    call._begun = call.abandoned = True
    call._start()
    await asyncio.sleep(0)
    assert (call.ended, tries) == (True, 0)
    assert isinstance(call.error, asyncio.CancelledError)


async def test_what_comes_although_it_was_given_up_is_taken_back_once() -> None:
    async def stubborn() -> str:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return "done"

    undone: list[str] = []
    call = CoroutineCall(stubborn, undone.append)
    call.sleeper = Lock()
    call.begin()
    call.abandoned = True
    call.cancel(asyncio.get_running_loop())
    for _ in range(5):
        await asyncio.sleep(0)
    assert (call.ended, undone) == (True, ["done"])
    call.cancel(asyncio.get_running_loop())
    assert undone == ["done"]
