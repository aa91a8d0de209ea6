"""Processes that share one resource by kinds of locks: readers beside writers, holders of permits; or one at a time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any, Protocol

from contention import RESOURCE, Notes, contended
from harness import Figures, Groups, Request

__all__ = ["kinds"]

READS = 0.9
"""Of all operations of readers and writers."""


class Locks(Protocol):
    """One connected client."""

    def wait_for(self, kind: str, resource: str, permits: int) -> object:
        """What the library returns for a lock, or for one of the permits, without a limit of time."""

    def unlock(self, resource: str, held: Any) -> bool:
        """Whether the library says that it was released."""

    def close(self) -> None:
        """Closes the connections."""


def kinds(connect: Callable[[Groups], Locks], request: Request, ready: Callable[[], None]) -> Figures:
    """Has `processes` children work on one resource for `seconds`, each time with a lock that they keep for `hold`.

    kind: "read-write": nine of ten are reads; "permit": each has one of `permits`; "write": one at a time
    """
    # A reader may be beside all others, who writes beside nobody.
    capacity = {"read-write": request["processes"], "permit": request["permits"], "write": 1}[request["kind"]]

    def work(notes: Notes, number: int, line_up: Callable[[], None]) -> Figures:
        locks = connect(request["groups"])
        try:
            _work(locks, request, notes, random.Random(number), line_up)
        finally:
            locks.close()
        return {}

    return contended(request, ready, work, capacity)


def _work(locks: Locks, request: Request, notes: Notes, chance: random.Random, line_up: Callable[[], None]) -> None:
    mixed, permits = request["kind"] == "read-write", request["permits"]
    own = f"{RESOURCE}:{chance.random()}"
    for kind in ("read", "write") if mixed else (request["kind"],):
        locks.unlock(own, locks.wait_for(kind, own, permits))  # servers and client have done it once
    line_up()
    deadline = time.monotonic() + request["seconds"]
    while (begin := time.monotonic()) < deadline:
        reads = chance.random() < READS
        kind = ("read" if reads else "write") if mixed else request["kind"]
        share = request["processes"] if kind == "write" and mixed else 1
        notes.note("wait", begin, share)
        held = locks.wait_for(kind, RESOURCE, permits)
        enter = time.monotonic()
        time.sleep(request["hold"])
        notes.note("held", enter, time.monotonic(), share)
        if not locks.unlock(RESOURCE, held):
            notes.note("lost")
