"""What a server remembers of itself for a group: by it clients know a server that has forgotten its locks.

A server that lost its keys must not grant a lock before every lock that it may have granted is over. So it keeps,
beside the locks, which run of the server process it was told of; after a restart that is another one, and after a loss
of its memory it is not there. And it keeps the *horizon*, the greatest ttl in use: so long it may have granted some.

The horizon counts by powers of two of milliseconds. Each that is in use is written with a time until which it counts,
and is written anew while it is used; so one long ttl does not count for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redlock_cluster.core.queue import META
from redlock_cluster.core.replies import ErrorReply, texts_in

__all__ = ["ServerMemory", "horizon_of", "meta_key", "read_meta", "words_to_keep"]

_LAYOUT: Final = "1"
_HORIZON: Final = "h"
_SHORTEST: Final = 10  # 1,024 ms
_MOST_DIGITS: Final = 18


def meta_key(prefix: bytes) -> bytes:
    """Where a server keeps it; prefix: before every resource."""
    return prefix + META


def horizon_of(ttl_ms: int) -> int:
    """The horizon that a ttl counts for: the next power of two, at least a second. Milliseconds."""
    return 1 << max(_SHORTEST, (ttl_ms - 1).bit_length())


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """What one server remembers.

    run_id: the run of the server process that was told of
    server_id: drawn when that was
    group: the name of the group that it belongs to
    size: how many servers that has
    durable: whether that run wrote every lock to disk before it answered
    horizons: of each horizon until when it counts; both milliseconds, the latter by the server's clock
    layout: of what is written there; this is the first one
    """

    run_id: str
    server_id: str
    group: str
    size: int
    durable: bool
    horizons: tuple[tuple[int, int], ...]
    layout: str = _LAYOUT

    def words(self, before: ServerMemory | None, until_ms: int) -> tuple[str | int, ...]:
        """Arguments of `meta.lua` that have a server remember this.

        before: what it remembers now
        until_ms: the server's time after which that may not be so any more, milliseconds
        """
        instead_of, horizons = before.run_id if before else "", [horizon for horizon, _ in self.horizons]
        about = self.server_id, self.group, self.size, int(self.durable)
        return self.run_id, instead_of, *about, until_ms, *horizons

    def words_to_take_back(self) -> tuple[str | int, ...]:
        """Arguments of `meta.lua` that have a server forget that, if it remembers just this."""
        return "", self.run_id, self.server_id, "", 0, 0, 0

    @property
    def longest_ms(self) -> int:
        """The greatest horizon, whether it still counts or not; 0 if there is none."""
        return max([horizon for horizon, _ in self.horizons], default=0)

    def live(self, now_ms: int) -> tuple[int, ...]:
        """The horizons that count, milliseconds; now_ms: by the server's clock."""
        return tuple(sorted(each for each, until in self.horizons if until > now_ms))

    def horizon_ms(self, now_ms: int) -> int:
        """The greatest of them, 0 if there is none."""
        return max(self.live(now_ms), default=0)

    @property
    def readable(self) -> bool:
        """Whether this version of the library understands it."""
        return self.layout == _LAYOUT and self.run_id.isascii()

    def foreign_to(self, group: str, size: int) -> bool:
        """Whether it is about another group."""
        return (self.group, self.size) != (group, size)


def read_meta(reply: object) -> ServerMemory | ErrorReply | None:
    """What `HGETALL` replied: None if there is nothing, or nothing that says which run it is about."""
    if isinstance(reply, ErrorReply):
        return reply
    texts = texts_in(reply)
    if not texts.get("run"):
        return None
    numbers = {name: int(value) for name, value in texts.items() if _is_number(value)}
    horizons = [
        (int(name[1:]), until) for name, until in numbers.items() if name[:1] == _HORIZON and _is_number(name[1:])
    ]
    return ServerMemory(
        run_id=texts["run"],
        server_id=texts.get("id", ""),
        group=texts.get("group", ""),
        size=numbers.get("size", 0),
        durable=texts.get("durable") == "1",
        horizons=tuple(sorted(horizons)),
        layout=texts.get("layout", ""),
    )


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS


def words_to_keep(horizon_ms: int) -> tuple[str | int, ...]:
    """Arguments of `meta.lua` that have a server keep a horizon."""
    return "", "", "", "", 0, 0, 0, horizon_ms
