"""Many processes and one lock: who gets it, how long they wait, and whether two ever have it at once.

Each process notes when it began to wait and when it had the lock, by the machine's monotonic clock, in a file of its
own. The notes outlive a process, so processes that still wait at the end are seen too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

from harness import AioLocks, Figures, Library, Request, SyncLocks, quantile

__all__ = ["contend"]

RESOURCE = "bench:contended"
GRACE = 0.2
"""Seconds after the end in which processes may finish a section before they are killed."""


class Notes:
    """One process's notes: `wait begin`, `held enter leave`, `lost` when the lock was lost before its release."""

    def __init__(self, path: Path, hold: float) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.hold = hold

    def note(self, *words: object) -> None:
        """Writes a line at once."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def contend(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """Has `processes` children contend for one lock for `seconds`; each keeps it for `hold` seconds at a time."""
    with tempfile.TemporaryDirectory(prefix="redlock-bench-") as directory, contextlib.ExitStack() as undo:
        paths = [Path(directory, str(number)) for number in range(request["processes"])]
        connected, children_connected = os.pipe()
        children_start, start = os.pipe()
        children: list[int] = []
        undo.callback(_end, children)
        for path in paths:
            child = os.fork()
            if child == 0:
                os.close(connected)
                os.close(start)
                _child(library, request, Notes(path, request["hold"]), (children_connected, children_start))
            children.append(child)
        os.close(children_connected)
        os.close(children_start)
        answers = sum(len(os.read(connected, 1)) for _ in paths)
        if answers != len(paths):
            raise RuntimeError("a process could not connect")
        ready()
        began = time.monotonic()
        os.close(start)
        time.sleep(request["seconds"] + GRACE)
        undo.close()
        os.close(connected)
        return summary([path.read_text() for path in paths if path.exists()], began, request["seconds"])


def _end(children: Sequence[int]) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _child(library: Library, request: Request, notes: Notes, pipes: tuple[int, int]) -> None:
    """Never returns."""
    status = 1
    signal.alarm(int(request["seconds"]) + 30)  # nobody else ends it if its parent was killed
    try:
        if library.sync is not None:
            _sync_child(library.sync(request["groups"]), request["seconds"], notes, pipes)
        else:
            asyncio.run(_aio_child(library, request, notes, pipes))
        status = 0
    finally:
        os._exit(status)


def _sync_child(locks: SyncLocks, seconds: float, notes: Notes, pipes: tuple[int, int]) -> None:
    own = f"{RESOURCE}:{os.getpid()}"
    locks.unlock(own, locks.wait(own))
    _line_up(pipes)
    deadline = time.monotonic() + seconds
    while (begin := time.monotonic()) < deadline:
        notes.note("wait", begin)
        held = locks.wait(RESOURCE)
        enter = time.monotonic()
        time.sleep(notes.hold)
        notes.note("held", enter, time.monotonic())
        try:
            lost = not locks.unlock(RESOURCE, held)
        except Exception:  # noqa: BLE001 - each library has its own way to say that a lock was lost
            lost = True
        if lost:
            notes.note("lost")


async def _aio_child(library: Library, request: Request, notes: Notes, pipes: tuple[int, int]) -> None:
    assert library.aio is not None
    locks: AioLocks = await library.aio(request["groups"])
    own = f"{RESOURCE}:{os.getpid()}"
    await locks.unlock(own, await locks.wait(own))
    _line_up(pipes)
    deadline = time.monotonic() + request["seconds"]
    while (begin := time.monotonic()) < deadline:
        notes.note("wait", begin)
        held = await locks.wait(RESOURCE)
        enter = time.monotonic()
        await asyncio.sleep(notes.hold)
        notes.note("held", enter, time.monotonic())
        try:
            lost = not await locks.unlock(RESOURCE, held)
        except Exception:  # noqa: BLE001 - each library has its own way to say that a lock was lost
            lost = True
        if lost:
            notes.note("lost")


def _line_up(pipes: tuple[int, int]) -> None:
    """Reports that this process is connected, and waits until all may begin together."""
    connected, start = pipes
    os.write(connected, b".")
    os.close(connected)
    os.read(start, 1)


def summary(notes: Sequence[str], began: float, seconds: float) -> Figures:
    """The figures from the notes of all processes.

    A wait that had not ended counts as long as it had lasted; otherwise a process that starves would not be seen.

    notes: each process's
    began: when they were allowed to begin, by the monotonic clock
    seconds: how long they were measured
    """
    end = began + seconds
    sections: list[tuple[float, float]] = []
    owners: list[tuple[float, int]] = []
    waits: list[float] = []
    shares: list[int] = []
    lost = 0
    for owner, text in enumerate(notes):
        begin: float | None = None
        share = 0
        for word, *values in map(str.split, text.splitlines()):
            if word == "wait":
                begin = float(values[0])
            elif word == "held":
                enter, leave = map(float, values)
                sections.append((enter, leave))
                owners.append((enter, owner))
                waits.append(enter - (enter if begin is None else begin))
                share, begin = share + (enter < end), None
            else:
                lost += 1
        if begin is not None:
            waits.append(max(end - begin, 0.0))
        shares.append(share)
    sections.sort()
    owners.sort()
    waits.sort()
    handovers = sum(one[1] != other[1] for one, other in pairwise(owners))
    got = sum(shares)
    return {
        "cycles": got,
        "rate": got / seconds,
        "handovers": handovers / seconds,
        "wait_p50_ms": quantile(waits, 0.5) * 1e3,
        "wait_p99_ms": quantile(waits, 0.99) * 1e3,
        "wait_max_ms": (waits[-1] if waits else 0.0) * 1e3,
        "shares": shares,
        "jain": got**2 / (len(shares) * sum(share**2 for share in shares)) if got else 0.0,
        "overlaps": overlaps(sections),
        "failures": lost,
        "first_failure": "a lock was lost while it was held" if lost else "",
    }


def overlaps(sections: Sequence[tuple[float, float]]) -> int:
    """How many of the sections, ordered by their begin, began before an earlier one had ended."""
    count, latest = 0, float("-inf")
    for enter, leave in sections:
        count += enter < latest
        latest = max(latest, leave)
    return count
