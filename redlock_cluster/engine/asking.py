"""Questions off the hot path: several commands to each server, whose replies are read one by one."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from redlock_cluster.engine.group import Group
from redlock_cluster.wire.keeper import Keeper
from redlock_cluster.wire.ports import ConnectionFailed

__all__ = ["Words", "ask"]

Words = tuple[str | bytes | int, ...]


async def ask(group: Group, keepers: Sequence[Keeper], commands: Sequence[Words]) -> list[list[object] | str]:
    """Ask servers of a group, all in this turn of the loop, and wait for a server timeout at most.

    keepers: of the servers' connections
    commands: what each is asked, in this order

    Returns for each server its replies, or why there are none. One that gives none in time is silent, as in a round.
    """
    patience, started = group.timing.server_timeout, group.clock()
    asked: list[list[asyncio.Future[object]] | str] = []
    for keeper in keepers:
        connection = keeper.connection
        if connection is None or connection.silent or connection.full:
            asked.append(keeper.absence())
        else:
            asked.append([connection.request(*words) for words in commands])
    await asyncio.sleep(0)  # also where nobody can be asked: whoever asks again and again lets others go on
    awaited = {future for futures in asked if not isinstance(futures, str) for future in futures}
    if awaited:
        _, pending = await asyncio.wait(awaited, timeout=patience)
        if pending:  # a timer that is late says that this process stood still: replies may lie unread
            await asyncio.wait(pending, timeout=max(0.001, group.clock() - started - patience))
    return [_heard(keeper, futures, patience) for keeper, futures in zip(keepers, asked, strict=True)]


def _heard(keeper: Keeper, futures: list[asyncio.Future[object]] | str, patience: float) -> list[object] | str:
    if isinstance(futures, str):
        return futures
    if not all(future.done() for future in futures):
        keeper.overdue(patience)
        return "no answer in time"
    try:
        return [future.result() for future in futures]
    except ConnectionFailed as error:
        return str(error)
