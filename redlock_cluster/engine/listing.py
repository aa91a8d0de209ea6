"""Which locks there are: every server of every group is gone through by `SCAN`, a part at a time.

What one server has is looked for on all servers of its group, by `PTTL`. So a lock is shown once, with what the others
say of it at that moment. A lock that is held is on a quorum; so once a quorum has been gone through, none was missed
that was held all the time. Those that come or go meanwhile may be shown or not.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from redlock_cluster.core.mode import no_vote
from redlock_cluster.core.permit import permit_of, resource_key
from redlock_cluster.core.queue import SIDE_KEYS
from redlock_cluster.core.resource import resource_text
from redlock_cluster.core.snapshot import ListedLock
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.engine.asking import ask
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.group import Group
from redlock_cluster.errors import QuorumUnavailable
from redlock_cluster.wire.keeper import Keeper

__all__ = ["Listing"]

_SPECIAL: Final = re.compile(rb"([\\*?\[])")
_FEWEST: Final = 10  # keys that a server looks at in one step; names of 64 KiB still fit into one reply
_MOST: Final = 100  # ... of which it takes some 50 microseconds, and this loop 5 ms when all of them are locks
_LITTLE: Final = 32 << 10  # bytes of names in a reply, below which the next step may be twice as large
_MUCH: Final = 128 << 10  # ... and above which it is to be half as large


class Listing:
    """One walk through all locks. Gives them page by page.

    pattern: of resources, as `SCAN … MATCH` takes it; str or bytes. Raises TypeError for anything else
    """

    def __init__(self, pattern: object) -> None:
        if not isinstance(pattern, (str, bytes)):
            raise TypeError(f"a pattern is a str or bytes, not {type(pattern).__name__}")
        self._pattern = pattern if isinstance(pattern, bytes) else pattern.encode("utf-8", "surrogateescape")
        self._places: Iterator[tuple[str, int]] | None = None  # the group and the index of each server
        self._place: tuple[str, int] | None = None
        self._cursor, self._count = b"0", _FEWEST
        self._shown: set[bytes] = set()  # of this group
        self._failed: dict[int, str] = {}  # of this group: by index, why a server could not be gone through

    async def page(self, engine: Engine) -> list[ListedLock] | None:
        """The next ones, of which there may be none; None at the end.

        engine: another one of the same options after a fork

        Raises QuorumUnavailable when too few servers of a group can be gone through, ClosedError.
        """
        engine.check_place()
        groups = engine.groups
        if self._places is None:
            self._places = iter([(name, i) for name, group in groups.items() for i in range(group.size)])
            self._place = next(self._places)
        if self._place is None:
            return None
        name, index = self._place
        group, prefix = groups[name], engine.key(b"")
        words = ("SCAN", self._cursor, "MATCH", _SPECIAL.sub(rb"\\\1", prefix) + self._pattern, "COUNT", self._count)
        page: list[ListedLock] | str
        (reply,) = await ask(group, _any_keepers(group)[index : index + 1], (words,))
        match reply:
            case [[bytes(cursor), list(found)]]:
                keys = [key for key in found if isinstance(key, bytes)]
                self._adapt(sum(map(len, keys)))
                new = {key for key in keys if len(key) > len(prefix) and not key.endswith(SIDE_KEYS)} - self._shown
                page = await _locks(group, sorted(new), len(prefix))
                if not isinstance(page, str):
                    self._shown |= new
                    self._cursor = cursor
            case _:
                page = _why(reply)
        if isinstance(page, str):
            self._failed[index] = page
            page, self._cursor = [], b"0"
        if self._cursor == b"0":
            self._end_server(group)
        return page

    def _adapt(self, size: int) -> None:
        """The next reply is to have a bearable length."""
        if size < _LITTLE:
            self._count = min(_MOST, 2 * self._count)
        elif size > _MUCH:
            self._count = max(_FEWEST, self._count // 2)

    def _end_server(self, group: Group) -> None:
        """Go on with the next server. Raises QuorumUnavailable after a group of which too few could be gone through."""
        assert self._places is not None
        self._place = next(self._places, None)
        if self._place is not None and self._place[0] == group.name:
            return
        failed, self._failed = self._failed, {}
        self._shown.clear()
        if group.size - len(failed) < group.quorum:
            self._place = None
            votes = tuple(
                ServerVote(name, Vote.ABSENT if i in failed else Vote.FOR, failed.get(i, ""))
                for i, name in enumerate(group.names)
            )
            text = "the list of locks is not whole: too few servers say what they hold"
            raise QuorumUnavailable(text, "", group.name, votes)


async def _locks(group: Group, keys: list[bytes], prefix: int) -> list[ListedLock] | str:
    """Those of these keys that are there; or why that is not known of all: a lock that is held might be missed.

    prefix: how long it is
    """
    if not keys:
        return []
    replies = await ask(group, _any_keepers(group), [("PTTL", key) for key in keys])
    answered = [each for each in replies if not isinstance(each, str)]
    found = []
    for place, key in enumerate(keys):
        ttls = [ttl for each in answered if isinstance(ttl := each[place], int) and ttl >= -1]
        if ttls:
            ends = [ttl / 1000 for ttl in ttls if ttl >= 0]
            permit = permit_of(key)
            name, number = (key, None) if permit is None else (resource_key(permit[0]), permit[1])
            last = min(ends, default=None)
            found.append(ListedLock(resource_text(name[prefix:]), group.name, len(ttls), last, number))
    if len(found) < len(keys) and len(answered) < group.quorum:
        return "too few servers say which of its locks are held"
    return found


def _any_keepers(group: Group) -> list[Keeper]:
    """One connection to each server, whichever there is: any of them may read."""
    return [
        next((keeper for keeper in pool.keepers if keeper.connection is not None), pool.keepers[0])
        for pool in group.pools
    ]


def _why(reply: list[object] | str) -> str:
    return reply if isinstance(reply, str) else no_vote(reply[0]).why
