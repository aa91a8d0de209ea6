"""Releases by force: an operator takes a lock from whoever holds it.

The tokens that were removed are remembered beside the lock (`queue.forced_key`) for as long as their lease may be
valid, so that its holder can't take the lock again with one of them, and learns why it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from hiredis import pack_command

from redlock_cluster.core.queue import forced_key, side_keys
from redlock_cluster.core.replies import is_number
from redlock_cluster.core.token import label_of
from redlock_cluster.lua import FORCE

__all__ = ["forced", "removal", "was_forced", "whether_forced"]

LONGEST_MS: Final = 3_600_000
"""Milliseconds that tokens are remembered at most. What a holder had in flight when they were removed has arrived by
then, whatever its ttl. Without a limit, a lock whose key never expires would leave its token there for ever."""


def removal(key: bytes, tokens: Iterable[bytes], ttl_ms: int) -> tuple[bytes | int, ...]:
    """The command that takes a lock from whoever holds it.

    tokens: those that any server of the group holds; other libraries' are left out, which take nothing again
    ttl_ms: the longest that one of them is held, milliseconds; -1 for ever
    """
    own = [token for token in tokens if label_of(token) is not None]
    keys = (*side_keys(key), forced_key(key))
    least = LONGEST_MS if ttl_ms < 0 else min(ttl_ms, LONGEST_MS)
    return b"EVAL", FORCE.source, len(keys), *keys, least, LONGEST_MS, *own


def forced(reply: object) -> bool | None:
    """Whether somebody held the lock that was removed; None if that failed."""
    return True if is_number(reply, 1) else False if is_number(reply, 0) else None


def whether_forced(key: bytes, token: bytes) -> bytes:
    """The packed question whether a token was removed from a lock by force."""
    return pack_command((b"ZSCORE", forced_key(key), token))


def was_forced(reply: object) -> bool:
    """Whether it was: RESP3 says until when as a number, RESP2 as a text."""
    return isinstance(reply, (float, bytes))
