"""For stores that a lock protects: they refuse the writes of a holder that is over.

A holder may stand still for longer than its lease lasts, and write afterwards. So it sends the fence of its lease
along, a number that grows with each acquisition of a resource. A store keeps the greatest fence that it has seen. It
refuses a smaller one with `StaleFence`, and takes the same one again, since one lease writes many times.

A fence orders writes, it is not mutual exclusion: it neither keeps an earlier holder from writing until the later one's
first write, nor says which lock a number comes from.

Nothing here needs the lock library: a fence is an int with 1 <= fence < 2**53.
"""

from redlock_cluster.errors import StaleFence
from redlock_cluster.fencing.fence import MAX_FENCE
from redlock_cluster.fencing.file import FencedFile
from redlock_cluster.fencing.memory import MemoryFences
from redlock_cluster.fencing.redis_key import AsyncFencedKey, FencedKey
from redlock_cluster.fencing.sql import SqlFences

__all__ = ["MAX_FENCE", "AsyncFencedKey", "FencedFile", "FencedKey", "MemoryFences", "SqlFences", "StaleFence"]
