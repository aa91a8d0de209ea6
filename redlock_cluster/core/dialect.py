"""What one server understands, found out by commands that change nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final, Literal

from redlock_cluster.core.replies import NULL, NULL_RESP2, ErrorReply

__all__ = ["SCRIPTED", "Dialect", "dialect_of", "probes", "without_queue"]

CompareAndDelete = Literal["DELIFEQ", "DELEX"]


@dataclass(frozen=True, slots=True)
class Dialect:
    """The features of one server. Equal dialects are one object, so that servers can be grouped by it.

    set_nx_get: `SET … NX GET` works (Redis >= 7.0), so a refusal names the holder
    set_ifeq: `SET … IFEQ` works (Valkey >= 8.1, Redis >= 8.4)
    compare_and_delete: `DELIFEQ key value` (Valkey >= 9.0), `DELEX key IFEQ value` (Redis >= 8.4), or None
    resp3: the protocol's version is 3
    queues: we stand in the queue of those who wait, and may run its scripts
    wakes: it tells us when a key is free: it pushes, and lets us subscribe
    null: how it says that there is nothing, as it comes over the wire
    """

    set_nx_get: bool
    set_ifeq: bool
    compare_and_delete: CompareAndDelete | None
    resp3: bool = True
    queues: bool = True
    wakes: bool = False
    null: bytes = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "null", NULL if self.resp3 else NULL_RESP2)


SCRIPTED: Final = Dialect(set_nx_get=False, set_ifeq=False, compare_and_delete=None)
"""Scripts alone. For a token of which nothing else is known, as scripts test the key's type, and for lack of memory."""


def probes(key: str) -> tuple[tuple[str | int, ...], ...]:
    """Commands from whose replies `dialect_of` knows what a server understands; they never write.

    A ttl of 0 is refused only after the options were understood, so `SET` is probed without setting anything.

    key: one that nobody uses
    """
    return (
        ("SET", key, "", "NX", "GET", "PX", 0),
        ("SET", key, "", "IFEQ", "", "PX", 0),
        ("DELIFEQ", key, ""),
        ("DELEX", key, "IFEQ", ""),
    )


def dialect_of(probed: Sequence[object], resp3: bool, queues: bool = True, wakes: bool = False) -> Dialect:
    """The dialect of a server, by its replies to `probes`.

    probed: one reply for each probe, in order
    resp3, queues, wakes: as in `Dialect`
    """
    set_nx_get, set_ifeq, delifeq, delex = probed
    deletes: CompareAndDelete | None = None
    if type(delifeq) is int:
        deletes = "DELIFEQ"
    elif type(delex) is int:
        deletes = "DELEX"
    return _dialect(_refuses_ttl(set_nx_get), _refuses_ttl(set_ifeq), deletes, resp3, queues, wakes)


def without_queue(dialect: Dialect) -> Dialect:
    """The same, where we may not run the scripts of the queue."""
    return _dialect(
        dialect.set_nx_get, dialect.set_ifeq, dialect.compare_and_delete, dialect.resp3, False, dialect.wakes
    )


def _refuses_ttl(reply: object) -> bool:
    return isinstance(reply, ErrorReply) and "invalid expire" in reply.text


@cache
def _dialect(
    set_nx_get: bool,
    set_ifeq: bool,
    compare_and_delete: CompareAndDelete | None,
    resp3: bool,
    queues: bool,
    wakes: bool,
) -> Dialect:
    return Dialect(set_nx_get, set_ifeq, compare_and_delete, resp3, queues, wakes)
