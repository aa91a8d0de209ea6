"""A pool is looked at from any thread, while the loop's changes what there is to see."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from itertools import count
from types import FrameType
from typing import Any

import pytest

from redlock_cluster.options.file import load_options
from redlock_cluster.wire import keeper, pool
from redlock_cluster.wire.connection import Connection, Flusher
from redlock_cluster.wire.handshake import Handshake
from redlock_cluster.wire.pool import Pool
from redlock_cluster.wire.ports import Ports


async def prepared(*_: object) -> None:
    pass


def interrupted(read: Callable[[], object], at: int, change: Callable[[], object]) -> tuple[bool, object]:
    """Reads, and has something changed before the so-manieth instruction. Returns whether there were so many."""
    seen = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal seen
        if frame.f_code.co_filename not in (pool.__file__, keeper.__file__):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            seen += 1
            if seen == at:
                change()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        result = read()
    finally:
        sys.settrace(before)
    return seen >= at, result


@pytest.mark.parametrize("name", ["state", "able", "last_error"])
async def test_what_comes_or_goes_while_it_is_looked_at_raises_nothing(name: str) -> None:
    options = load_options({"servers": [{}], "pool_size": 2}).deployments["default"]
    flusher, handshake = (
        Flusher(asyncio.get_running_loop()),
        Handshake("probe", (), b"redlock:us", b"queue", b"meta", False),
    )
    looked_at = Pool(
        options.groups[0].servers[0], 0, options, Ports(), flusher, handshake, prepared, lambda keeper, push: None
    )
    first = looked_at.keepers[0]
    wires = [Connection(flusher, 0, lambda _: None, lambda _, push: None), None]
    for at in count(1):
        for before, after in (wires, wires[::-1]):
            first.connection = before
            first.refusals = {"acquire": "OOM", "extend": "OOM"} if before else {}

            def change(after: Connection | None = after) -> None:
                first.connection = after
                first.refusals.clear() if after is None else first.refusals.update(acquire="OOM", release="OOM")

            more, _ = interrupted(lambda: getattr(looked_at, name), at, change)
        if not more:
            break
    assert at > 10
