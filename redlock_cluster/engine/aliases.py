"""Which engines of this process know one token, and the records that they have for it.

A lease is noted here when its token leaves it: read as a string, or handed to another engine. From then on every engine
that is given the token, and asks the same servers, has a record that hears of what the others do; `core.lease_record`
says how. It ends with the last lease object that users have. A lease whose token nobody asks for costs nothing.
"""

from __future__ import annotations

import os
from threading import RLock
from typing import ClassVar
from weakref import WeakValueDictionary, ref

from redlock_cluster.core.lease_record import Aliases, LeaseRecord
from redlock_cluster.core.resource import Resource
from redlock_cluster.core.token import Token
from redlock_cluster.engine.group import Group, Locks

__all__ = ["alias_of", "forget", "share", "tell_of_extension"]


class _Aliases:
    """The records of one token and the group of each, the oldest first. Lease objects keep it alive."""

    __slots__ = ("__weakref__", "groups", "records")

    def __init__(self) -> None:
        self.groups: list[Group] = []
        self.records: list[LeaseRecord] = []

    def record_of(self, group: Group) -> LeaseRecord | None:
        """The record of a group of one engine."""
        return next((r for g, r in zip(self.groups, self.records, strict=True) if g is group), None)

    def add(self, group: Group, record: LeaseRecord) -> None:
        """Another engine knows the token."""
        self.groups.append(group)
        self.records.append(record)  # readers in other threads see it from here on
        record.join(ref(self))


_Name = tuple[Token, bytes, Locks]
"""A token, the key, and where that is one lock: what is none on these servers may be one on others."""


class _Process:
    """What this process knows. A signal handler may come in between, and read a token: so the lock is an RLock."""

    lock = RLock()
    known: ClassVar[WeakValueDictionary[_Name, _Aliases]] = WeakValueDictionary()


def share(group: Group, record: LeaseRecord) -> Aliases:
    """Note a record whose token others know; in any thread.

    group: the engine's that it belongs to

    Returns what whoever has the lease is to keep: it is noted as long as that lives.
    """
    with _Process.lock:
        noted = record.aliases
        if noted is None:
            name = record.token, record.key, group.locks
            known = None if record.detached else _Process.known.get(name)  # else they are whoever's that adopted it
            noted = aliases = known or _Aliases()
            if not record.detached:
                _Process.known[name] = aliases
            aliases.add(group, record)
        return noted


def alias_of(group: Group, resource: Resource, key: bytes, token: Token) -> LeaseRecord | None:
    """The record that an engine has for a token, made if others of this process have one; None if nobody has.

    group: the engine's that votes on the key
    resource: as the caller named it
    """
    with _Process.lock:
        aliases = _Process.known.get((token, key, group.locks))
        if aliases is None:
            return None
        record = aliases.record_of(group)
        if record is None:
            record = aliases.records[0].alias(resource, (1 << group.size) - 1)
            aliases.add(group, record)
        return record


def tell_of_extension(group: Group, record: LeaseRecord) -> None:
    """A lease is being extended, or was: other engines that see to it may have to do so earlier than they thought.

    group: of the engine that extended it
    """
    aliases = record.aliases
    if isinstance(aliases, _Aliases):
        for other in [*aliases.groups]:
            if other is not group:
                other.extended_elsewhere(record.token)


def forget(group: Group, record: LeaseRecord) -> None:
    """A lease was detached: whoever adopts it here begins anew, and hears nothing of those that knew it; in any thread.

    These still hear of each other, so that it is detached for all of them.
    """
    with _Process.lock:
        _Process.known.pop((record.token, record.key, group.locks), None)


def _after_fork() -> None:
    """What this process knows of the leases of its parent is not true any longer."""
    _Process.lock = RLock()  # another thread of the parent may have held it
    _Process.known = WeakValueDictionary()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
