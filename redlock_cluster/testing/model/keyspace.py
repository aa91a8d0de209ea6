"""One database: keys, values and when they expire. Nothing here knows commands or connections."""

from __future__ import annotations

import heapq
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator
from typing import TypeAlias

__all__ = ["Hash", "Keyspace", "SortedSet", "Value", "type_name"]


class Hash(dict[bytes, bytes]):
    """Fields and their values, in the order in which they were added."""


class SortedSet:
    """Members in the order of their scores, equal scores in the order of their bytes."""

    def __init__(self) -> None:
        self.scores: dict[bytes, float] = {}
        self.ordered: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        return len(self.scores)

    def set(self, member: bytes, score: float) -> None:
        """Adds a member or moves it."""
        self.discard(member)
        self.scores[member] = score
        insort(self.ordered, (score, member))

    def discard(self, member: bytes) -> bool:
        """Removes a member; says whether it was there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.ordered[self.rank(score, member)]
        return True

    def rank(self, score: float, member: bytes) -> int:
        """How many members are before that one with that score."""
        return bisect_left(self.ordered, (score, member))

    def between(self, low: float, without_low: bool, high: float, without_high: bool) -> slice:
        """The part of `ordered` whose scores are in that range."""
        start = (bisect_right if without_low else bisect_left)(self.ordered, low, key=_score)
        stop = (bisect_left if without_high else bisect_right)(self.ordered, high, key=_score)
        return slice(start, max(start, stop))


def _score(item: tuple[float, bytes]) -> float:
    return item[0]


Value: TypeAlias = bytes | SortedSet | Hash


def type_name(value: Value | None) -> bytes:
    """What TYPE says of a value."""
    if value is None:
        return b"none"
    if isinstance(value, bytes):
        return b"string"
    return b"zset" if isinstance(value, SortedSet) else b"hash"


class Keyspace:
    """The keys of one database.

    now_ms: the server's time; a key still exists in the millisecond in which its time ends, and not in the next one
    touched: called with every key that was changed, deleted or has expired
    """

    def __init__(self, now_ms: Callable[[], int], touched: Callable[[bytes], None]) -> None:
        self._now_ms = now_ms
        self.touched = touched
        self._values: dict[bytes, Value] = {}
        self._ends: dict[bytes, int] = {}
        self._queue: list[tuple[int, bytes]] = []

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: bytes) -> Value | None:
        """The value; None for a key that does not exist or has expired; an expired one is deleted."""
        end = self._ends.get(key)
        if end is not None and end < self._now_ms():
            self.delete(key)
        return self._values.get(key)

    def end(self, key: bytes) -> int | None:
        """When a key that was just read expires, milliseconds; None for one that stays."""
        return self._ends.get(key)

    def put(self, key: bytes, value: Value, end: int | None = None) -> None:
        """Sets a key.

        end: when it expires, milliseconds; None for never
        """
        self._values[key] = value
        self._ends.pop(key, None)
        if end is not None:
            self._schedule(key, end)
        self.touched(key)

    def changed(self, key: bytes) -> None:
        """Notes that the value of an existing key was changed in place; an empty one is deleted."""
        if len(self._values[key]):
            self.touched(key)
        else:
            self.delete(key)

    def expire(self, key: bytes, end: int | None) -> None:
        """Sets when an existing key expires."""
        self._ends.pop(key, None)
        if end is not None:
            self._schedule(key, end)
        self.touched(key)

    def delete(self, key: bytes) -> bool:
        """Deletes a key; says whether it was there."""
        if self._values.pop(key, None) is None:
            return False
        self._ends.pop(key, None)
        self.touched(key)
        return True

    def clear(self) -> None:
        """Forgets all keys and notifies nobody."""
        self._values.clear()
        self._ends.clear()
        self._queue.clear()

    def expire_due(self) -> None:
        """Deletes every key whose time is over, in the order of their times."""
        while self._next() is not None and self._queue[0][0] < self._now_ms():
            self.delete(self._queue[0][1])

    def next_end(self) -> int | None:
        """The earliest time at which a key expires, milliseconds."""
        return self._next()

    def items(self) -> Iterator[tuple[bytes, Value]]:
        """The keys whose time is not over."""
        now = self._now_ms()
        return ((key, value) for key, value in self._values.items() if self._ends.get(key, now) >= now)

    def _schedule(self, key: bytes, end: int) -> None:
        self._ends[key] = end
        heapq.heappush(self._queue, (end, key))
        if len(self._queue) > 2 * len(self._ends) + 64:
            self._queue = [(end, key) for key, end in self._ends.items()]
            heapq.heapify(self._queue)

    def _next(self) -> int | None:
        """The queue's first end, after outdated ones were removed."""
        while self._queue and self._ends.get(self._queue[0][1]) != self._queue[0][0]:
            heapq.heappop(self._queue)
        return self._queue[0][0] if self._queue else None
