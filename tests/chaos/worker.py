"""A worker process: some actors of one face over one supervisor, until told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import Any, Final

from redlock_cluster import AsyncSupervisor, ServerState, Status, Supervisor
from redlock_cluster.engine.deployments import Deployments

from .actor import Actor
from .event_log import History, clock
from .faces import AsyncFace, SyncFace
from .sections import Sections

__all__ = ["HISTORIES", "SECTIONS", "SLOTS", "STOP", "TICKETS", "main"]

SLOTS: Final = (("sync", 6), ("asyncio", 6), ("uvloop", 6), ("sync", 4))
"""For each place of a worker its face (asyncio's own loop, or uvloop where it exists) and its number of actors."""

STOP: Final = "stop"
"""How the file begins that tells a worker to end; a dash and its place follow."""
_MENDS_WITHIN: Final = 5.0
_POLL: Final = 0.05
HISTORIES: Final = "histories"
SECTIONS: Final = "sections"
TICKETS: Final = "tickets"


class _Mending:
    """Whether a supervisor has recovered: every connection serves, no release is pending and, as nobody waits or holds
    anything any more, it stands in no line and extends nothing.

    True when there is nothing to wait for any more; `wrong` then says what has not recovered in time.
    """

    def __init__(self) -> None:
        self._deadline = clock() + _MENDS_WITHIN
        self.wrong: list[str] = []

    def over(self, status: Status, deployments: Deployments) -> bool:
        group = status.clusters[0].groups[0]
        lines = [key.decode() for engine in deployments.engines.values() for key in [*engine.waiting.lines]]
        self.wrong = [
            f"server {index} is {server.state.value}, releases pending: {server.pending_releases} ({server.last_error})"
            for index, server in enumerate(group.servers)
            if server.state is not ServerState.UP or server.pending_releases
        ]
        if group.waiting or lines:
            self.wrong.append(f"{group.waiting} calls wait, lines of {', '.join(lines) or 'nothing'}")
        if group.extending:
            self.wrong.append(f"{group.extending} leases extend themselves that nobody has")
        return not self.wrong or clock() > self._deadline


class _Job:
    """What one process was told.

    folder: of the run; options: of the supervisor; slot, incarnation: the place, and the how-manieth process there
    """

    def __init__(self, folder: str, options: Mapping[str, object], seed: int, slot: int, incarnation: int) -> None:
        self._folder, self.options = Path(folder), options
        self._stop = self._folder / f"{STOP}-{slot}"
        self.name = f"{slot}.{incarnation}"
        self.face, self.count = SLOTS[slot]
        self._seed = seed
        self.history = History(self._folder / HISTORIES / f"{self.name}.jsonl")

    def goes_on(self) -> bool:
        return not self._stop.exists()

    def actor(self, face: SyncFace | AsyncFace, number: int) -> Actor:
        who = f"{self.name}/{number}"
        sections, chance = Sections(self._folder / SECTIONS), Random(f"{self._seed} {who}")
        return Actor(who, face, self.history, sections, chance, self._folder / TICKETS, self.goes_on)


def main(told: str) -> None:
    """Works as told in JSON: the arguments of `_Job`."""
    logging.basicConfig(level=logging.ERROR)  # that no quorum answers is what chaos is for
    warnings.filterwarnings("ignore", "a lease on .* that extends itself was dropped", ResourceWarning)  # on purpose
    arguments: dict[str, Any] = json.loads(told)
    job = _Job(**arguments)
    job.history.write(job.name, "started")
    if job.face == "sync":
        _work_in_threads(job)
    else:
        with asyncio.Runner(loop_factory=_loop_factory(job.face)) as runner:
            runner.run(_work_in_tasks(job))


def _loop_factory(face: str) -> Any:
    if face == "uvloop":
        try:
            import uvloop
        except ImportError:
            return None
        return uvloop.new_event_loop
    return None


def _work_in_threads(job: _Job) -> None:
    problems: list[BaseException] = []

    def work(actor: Actor, face: SyncFace) -> None:
        try:
            while job.goes_on() and not problems:
                face.drive(actor.turn())
        except BaseException as error:
            problems.append(error)

    with Supervisor(job.options) as redlock:
        face = SyncFace(redlock)
        threads = [threading.Thread(target=work, args=(job.actor(face, n), face)) for n in range(job.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if problems:
            raise problems[0]
        mending = _Mending()
        while not mending.over(redlock.status(), redlock._binding().deployments):
            time.sleep(_POLL)
        job.history.write(job.name, "recovered", wrong=mending.wrong)


async def _work_in_tasks(job: _Job) -> None:
    async def work(actor: Actor, face: AsyncFace) -> None:
        while job.goes_on():
            await face.drive(actor.turn())

    async with AsyncSupervisor(job.options) as redlock:
        face = AsyncFace(redlock)
        async with asyncio.TaskGroup() as group:
            for number in range(job.count):
                group.create_task(work(job.actor(face, number), face))
        mending = _Mending()
        while not mending.over(redlock.status(), redlock._deployments):
            await asyncio.sleep(_POLL)
        job.history.write(job.name, "recovered", wrong=mending.wrong)


if __name__ == "__main__":
    main(sys.argv[1])
