"""One process of the demo: lock, critical section, unlock, again and again."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Mapping, Sequence
from typing import Final

from redlock_cluster import Err, Ok, Supervisor
from redlock_cluster.cli.demo import TTL
from redlock_cluster.cli.demo.figures import Figures

__all__ = ["work"]

_WAIT: Final = 2.0
_LONGEST_SECTION: Final = 0.002


def work(
    figures: Figures, number: int, options: Mapping[str, object] | None, resources: Sequence[str], parent: int
) -> None:
    """Work until `figures.stop` is set or the parent process has ended.

    figures: where this worker counts
    number: which worker this is, from 0
    options: of the supervisor; None works without locks, to test that overlaps are noticed
    resources: names of what is locked
    parent: process id of the process that started this one
    """
    # The board shows what becomes of servers.
    logging.getLogger("redlock_cluster").addHandler(logging.NullHandler())
    chance = random.Random(number)

    def wanted() -> bool:
        return not figures.stop[0] and os.getppid() == parent

    def section(resource: int) -> None:
        figures.work(number, resource, chance.uniform(0, _LONGEST_SECTION))

    if options is None:
        figures.ready[number] = 1
        while wanted():
            section(chance.randrange(len(resources)))
        return
    with Supervisor(options) as supervisor:
        figures.ready[number] = 1
        while wanted():
            resource = chance.randrange(len(resources))
            begun = time.monotonic()
            match supervisor.lock(resources[resource], TTL, wait=_WAIT):
                case Ok(lease):
                    figures.waited(number, time.monotonic() - begun)
                    section(resource)
                    if supervisor.unlock(resources[resource], lease) == Err("not_held"):
                        figures.lapsed[number] += 1
                case Err("unavailable"):
                    figures.unavailable[number] += 1
                case Err():
                    figures.refused[number] += 1
