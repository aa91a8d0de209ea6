"""How long a release takes to reach a process that waits: from just before `unlock` to the lock in the other process.

One process holds some locks, a thread or a task of another waits for each of them. They have waited for `asleep`
seconds when the first is released; the others follow one by one. Between two releases the holder locks a free resource,
equally idle, so that what a round takes stands beside it. Both processes read one clock (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import time
from collections.abc import Callable

from children import CONNECT, Board, Children
from faces import Face, run
from harness import Figures, Library, Request, quantile

__all__ = ["wakeup"]

PAUSE = 0.01
"""Seconds before each round and each release."""

STEP = 0.001
"""Seconds between two looks at what the other process has written, in times that are not measured."""

PATIENCE = 30.0
"""Seconds for everybody to begin waiting, and for a lock to arrive after its release."""

BATCH, FIRST = 0, 1
"""Places on the board: the batch that is held; then, for each lock, in which batch it is waited for and, in a second
series, when it was acquired."""


def wakeup(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """Measures `batches` times the release of `at_once` locks, each waited for since `asleep` seconds."""
    at_once, batches = request["at_once"], request["batches"]
    board = Board(FIRST + 2 * at_once)
    seconds = batches * (request["asleep"] + at_once * (2 * PAUSE + 0.01) + 1) + PATIENCE

    def work(number: int, line_up: Callable[[], None]) -> Figures:
        job = _waiter if number else _holder
        return run(library, request, lambda face: job(face, request, board, line_up))

    with Children(2, work, seconds + CONNECT) as children:
        children.line_up()
        ready()
        children.start()
        holder, waiter = children.all_answers(seconds)
    return summary(holder["wakeups"], holder["rounds"], batches * at_once, holder["lost"] + waiter["lost"])


def _name(batch: int, number: int) -> str:
    return f"bench:wakeup:{batch}:{number}"


async def _holder(face: Face, request: Request, board: Board, line_up: Callable[[], None]) -> Figures:
    at_once = request["at_once"]
    acquired = FIRST + at_once
    locks = await face.connect()
    line_up()
    rounds: list[float] = []
    wakeups: list[float] = []
    lost = 0
    for batch in range(1, request["batches"] + 1):
        held = [await locks.wait(_name(batch, number)) for number in range(at_once)]
        for number in range(at_once):
            board[acquired + number] = 0.0
        board[BATCH] = batch
        expected = [float(batch)] * at_once
        await board.until(lambda board: board.part(FIRST, acquired) == expected, face.sleep, STEP, PATIENCE)  # noqa: B023
        await face.sleep(request["asleep"])
        released: list[float] = []
        for number, lock in enumerate(held):
            await face.sleep(PAUSE)
            free = f"bench:free:{batch}:{number}"
            began = time.monotonic()
            other = await locks.lock(free)
            rounds.append(time.monotonic() - began)
            lost += other is None or not await locks.unlock(free, other)
            await face.sleep(PAUSE)
            released.append(time.monotonic())
            lost += not await locks.unlock(_name(batch, number), lock)
        await board.until(lambda board: all(board.part(acquired, acquired + at_once)), face.sleep, STEP, PATIENCE)
        arrived = board.part(acquired, acquired + at_once)
        wakeups += [end - begin for begin, end in zip(released, arrived, strict=True)]
    return {"rounds": rounds, "wakeups": wakeups, "lost": lost}


async def _waiter(face: Face, request: Request, board: Board, line_up: Callable[[], None]) -> Figures:
    at_once = request["at_once"]
    locks = await face.connect()
    lost: list[str] = []

    async def one(batch: int, number: int) -> None:
        name = _name(batch, number)
        board[FIRST + number] = batch
        lock = await locks.wait(name)
        board[FIRST + at_once + number] = time.monotonic()
        if not await locks.unlock(name, lock):
            lost.append(name)

    line_up()
    for batch in range(1, request["batches"] + 1):
        await board.until(lambda board: board[BATCH] == batch, face.sleep, STEP, PATIENCE)  # noqa: B023
        await face.together([one(batch, number) for number in range(at_once)])
    return {"lost": len(lost)}


def summary(wakeups: list[float], rounds: list[float], count: int, lost: int) -> Figures:
    """The figures.

    wakeups, rounds: seconds of each
    count: how many of both there must be
    lost: locks that were lost while they were held, or refused although they were free

    Raises RuntimeError when some are missing, or when a lock was acquired before its release began.
    """
    if not len(wakeups) == len(rounds) == count:
        raise RuntimeError(f"{len(wakeups)} wake-ups and {len(rounds)} rounds were measured, not {count}")
    wakeups, rounds = sorted(wakeups), sorted(rounds)
    if wakeups[0] < 0:
        raise RuntimeError("a lock was acquired while the other process held it")
    figures = {
        "wakeup_p50_ms": quantile(wakeups, 0.5) * 1e3,
        "wakeup_p99_ms": quantile(wakeups, 0.99) * 1e3,
        "wait_max_ms": wakeups[-1] * 1e3,
        "round_p50_ms": quantile(rounds, 0.5) * 1e3,
        "round_p99_ms": quantile(rounds, 0.99) * 1e3,
    }
    return {
        **figures,
        "in_rounds": figures["wakeup_p50_ms"] / figures["round_p50_ms"],
        "in_rounds_p99": figures["wakeup_p99_ms"] / figures["round_p99_ms"],
        "cycles": count,
        "failures": lost,
        "first_failure": "a lock was lost while it was held, or refused while it was free" if lost else "",
    }
