"""What the demo's processes share: counters in memory that no lock protects.

Every slot but `inside` and `counter` has one writer. Those two check the locks. A process in a critical section writes
its mark into `inside`; it finds another mark there, on entering or on leaving, exactly if two sections overlapped.
`counter` is read, and written back one higher some time later, so overlaps also lose updates.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from multiprocessing.context import SpawnContext
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ctypes import Array, c_longlong

__all__ = ["Figures", "quantile"]

_SHORTEST: Final = 1e-5
_GROWTH: Final = 1.05
_BUCKETS: Final = 330


class Figures:
    """The shared memory of one demo; a process gets it as an argument when it starts.

    sections: finished critical sections, by worker and resource
    waits: time until the lock was acquired, by worker, in buckets that grow by 5 %
    refused, unavailable: answers other than a lock
    lapsed: leases that had ended before their release
    overlaps: sections that met another one
    ready: workers that have connected
    """

    def __init__(self, context: SpawnContext, workers: int, resources: int) -> None:
        def slots(count: int) -> Array[c_longlong]:
            array: Array[c_longlong] = context.RawArray("q", count)
            return array

        self.workers, self.resources = workers, resources
        self.stop, self.ready = slots(1), slots(workers)
        self.sections, self.waits = slots(workers * resources), slots(workers * _BUCKETS)
        self.refused, self.unavailable = slots(workers), slots(workers)
        self.lapsed, self.overlaps = slots(workers), slots(workers)
        self.inside, self.counter = slots(resources), slots(resources)

    def work(self, worker: int, resource: int, seconds: float) -> None:
        """One critical section, which lasts about `seconds`."""
        mark = worker + 1
        met = self.inside[resource] != 0
        self.inside[resource] = mark
        seen = self.counter[resource]
        time.sleep(seconds)
        self.counter[resource] = seen + 1
        met = met or self.inside[resource] != mark
        self.inside[resource] = 0
        self.overlaps[worker] += met
        self.sections[worker * self.resources + resource] += 1

    def waited(self, worker: int, seconds: float) -> None:
        """Count how long a lock was waited for."""
        bucket = int(math.log(max(seconds, _SHORTEST) / _SHORTEST) / math.log(_GROWTH))
        self.waits[worker * _BUCKETS + min(bucket, _BUCKETS - 1)] += 1

    def sections_of(self, resource: int) -> int:
        """How many critical sections of a resource were finished, by all workers."""
        return sum(self.sections[resource :: self.resources])

    def wait(self, share: float) -> float:
        """The wait in seconds that `share` (0 to 1) of the acquisitions did not exceed; 0 while there are none."""
        return quantile([sum(self.waits[bucket::_BUCKETS]) for bucket in range(_BUCKETS)], share)

    @property
    def met(self) -> int:
        """Sections that saw another one inside."""
        return sum(self.overlaps)

    @property
    def lost_updates(self) -> int:
        """Increments that another section overwrote. Right only when all workers have ended."""
        return sum(map(self.sections_of, range(self.resources))) - sum(self.counter)


def quantile(buckets: Sequence[int], share: float) -> float:
    """The upper edge in seconds of the bucket in which `share` of all counts is reached."""
    wanted, passed = share * sum(buckets), 0
    for index, count in enumerate(buckets):
        passed += count
        if passed >= wanted and passed:
            return float(_SHORTEST * _GROWTH ** (index + 1))
    return 0.0
