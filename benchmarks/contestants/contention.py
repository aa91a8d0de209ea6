"""Many processes and one lock: who gets it, how long they wait, and whether two ever have it at once.

Each process notes when it began to wait and when it had the lock, by the machine's monotonic clock, in a file of its
own. The notes outlive a process, so processes that still wait at the end are seen too.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from children import CONNECT, Children
from faces import Face, run
from harness import Figures, Library, Request, quantile

__all__ = ["RESOURCE", "Notes", "contend", "contended"]

RESOURCE = "bench:contended"
GRACE = 0.2
"""Seconds after the end in which processes may finish a section before they are killed."""


class Notes:
    """One process's notes: `wait begin share`, `held enter leave share`, `lost` if it was lost before its release.

    The share says how much of the lock is wanted or held, 1 where nothing is said.
    """

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, *words: object) -> None:
        """Writes a line at once."""
        os.write(self._file, (" ".join(map(str, words)) + "\n").encode())


def contend(library: Library, request: Request, ready: Callable[[], None]) -> Figures:
    """Has `processes` children contend for one lock for `seconds`.

    Each keeps it for `hold` seconds at a time and then stays away for `think` seconds.
    """

    def work(notes: Notes, number: int, line_up: Callable[[], None]) -> Figures:
        return run(library, request, lambda face: _contender(face, request, notes, line_up))

    return contended(request, ready, work)


def contended(
    request: Request,
    ready: Callable[[], None],
    work: Callable[[Notes, int, Callable[[], None]], Figures],
    capacity: int = 1,
) -> Figures:
    """Has `processes` children do some work for `seconds`. Returns the figures from their notes.

    work: what each does: gets its notes, its number, and a function that waits for the start
    capacity: the sum of shares that may be held at once
    """
    seconds, count = request["seconds"], request["processes"]
    with tempfile.TemporaryDirectory(prefix="redlock-bench-") as directory:
        paths = [Path(directory, str(number)) for number in range(count)]

        def noted(number: int, line_up: Callable[[], None]) -> Figures:
            return work(Notes(paths[number]), number, line_up)

        with Children(count, noted, seconds + CONNECT) as children:
            children.line_up()
            ready()
            began = time.monotonic()
            children.start()
            children.answers(seconds + GRACE)
        return summary([path.read_text() if path.exists() else "" for path in paths], began, seconds, capacity)


async def _contender(face: Face, request: Request, notes: Notes, line_up: Callable[[], None]) -> Figures:
    locks = await face.connect()
    own = f"{RESOURCE}:{os.getpid()}"
    await locks.unlock(own, await locks.wait(own))
    line_up()
    deadline = time.monotonic() + request["seconds"]
    while (begin := time.monotonic()) < deadline:
        notes.note("wait", begin)
        held = await locks.wait(RESOURCE)
        enter = time.monotonic()
        await face.sleep(request["hold"])
        notes.note("held", enter, time.monotonic())
        try:
            lost = not await locks.unlock(RESOURCE, held)
        except Exception:  # noqa: BLE001 - each library has its own way to say that a lock was lost
            lost = True
        if lost:
            notes.note("lost")
        if request["think"]:
            await face.sleep(request["think"])
    return {}


class Section(NamedTuple):
    """One time that a process had the lock, or a share of it. Times are seconds of the monotonic clock.

    wait: how long it waited
    """

    enter: float
    leave: float
    owner: int
    wait: float
    share: int = 1


class Wait(NamedTuple):
    """One that has not ended."""

    begin: float
    share: int


def summary(notes: Sequence[str], began: float, seconds: float, capacity: int = 1) -> Figures:
    """The figures from the notes of all processes.

    A handover is an acquisition by another process than the one before. The longest wait may be one that had not ended:
    otherwise a process that starves would not be seen.

    notes: each process's
    began: when they were allowed to begin, by the monotonic clock
    seconds: how long they were measured
    capacity: the sum of shares that may be held at once

    Raises RuntimeError when a process took no part.
    """
    end = began + seconds
    sections: list[Section] = []
    unfinished: list[float] = []
    unfinished_alone: list[float] = []
    lost = 0
    for owner, text in enumerate(notes):
        found, open_wait, times_lost = _sections(owner, text)
        sections += found
        lost += times_lost
        if open_wait is not None:
            unfinished.append(max(end - open_wait.begin, 0.0))
            unfinished_alone += unfinished[-1:] if open_wait.share == capacity else []
        elif not found:
            raise RuntimeError(f"process {owner} took no part")
    sections.sort()
    in_time = [section for section in sections if section.enter < end]
    shares = [0] * len(notes)
    for section in in_time:
        shares[section.owner] += 1
    waits = sorted(section.wait for section in in_time)
    alone = sorted([section.wait for section in in_time if section.share == capacity] + unfinished_alone)
    handed = sorted(later.wait for earlier, later in pairwise(in_time) if later.owner != earlier.owner)
    held = sorted(section.leave - section.enter for section in in_time)
    got = len(in_time)
    return {
        "cycles": got,
        "rate": got / seconds,
        "handovers": len(handed) / seconds,
        "handover_p50_ms": quantile(handed, 0.5) * 1e3,
        "handover_p99_ms": quantile(handed, 0.99) * 1e3,
        "wait_p99_ms": quantile(sorted(waits + unfinished), 0.99) * 1e3,
        "alone_p99_ms": quantile(alone, 0.99) * 1e3,
        "wait_max_ms": max([*waits, *unfinished], default=0.0) * 1e3,
        "hold_p50_ms": quantile(held, 0.5) * 1e3,
        "shares": shares,
        "jain": got**2 / (len(shares) * sum(share**2 for share in shares)) if got else 0.0,
        "overlaps": overlaps(sections, capacity),
        "failures": lost,
        "first_failure": "a lock was lost while it was held" if lost else "",
    }


def _sections(owner: int, text: str) -> tuple[list[Section], Wait | None, int]:
    """From one process's notes: its sections, the wait that has not ended, how many locks were lost."""
    sections: list[Section] = []
    wait: Wait | None = None
    lost = 0
    for word, *values in map(str.split, text.splitlines()):
        if word == "wait":
            wait = Wait(float(values[0]), int(values[1]) if values[1:] else 1)
        elif word == "held":
            enter, leave = map(float, values[:2])
            share = int(values[2]) if values[2:] else 1
            sections.append(Section(enter, leave, owner, enter - (enter if wait is None else wait.begin), share))
            wait = None
        else:
            lost += 1
    return sections, wait, lost


def overlaps(sections: Sequence[Section], capacity: int = 1) -> int:
    """How many of the sections, ordered by their begin, had more than the capacity held with them."""
    count = taken = 0
    inside: list[tuple[float, int]] = []
    for section in sections:
        while inside and inside[0][0] <= section.enter:
            taken -= heappop(inside)[1]
        taken += section.share
        count += taken > capacity
        heappush(inside, (section.leave, section.share))
    return count
