"""What the servers say of one lock: who holds it, until when, who waits.

1. Send the questions of `core.snapshot`, which only read, to every server of the group that can be asked.
2. Wait until all have answered, for a server timeout at most.

No server is asked to run a script, so whoever may read the keys can look.
"""

from __future__ import annotations

from redlock_cluster.core.permit import lock_mode, permit_of
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.snapshot import LockSnapshot, Said, conclusion, doubted, questions, said
from redlock_cluster.core.token import label_of
from redlock_cluster.engine.asking import ask
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.group import Group
from redlock_cluster.engine.round import pipeline_of

__all__ = ["all_said", "snapshot"]


async def snapshot(engine: Engine, resource: Resource, permit: int | None) -> LockSnapshot:
    """Who holds a resource, and who waits for it. Raises ValueError or TypeError for what can't be one, ClosedError.

    permit: which one of the semaphore of that name, from 0 on; None: the lock
    """
    group, key = engine.route(resource)
    key = lock_mode(permit).place(key)
    doubts = [keeper.doubt for keeper in pipeline_of(group, key).keepers]
    heard = [doubted(each, doubt) for each, doubt in zip(await all_said(group, key), doubts, strict=True)]
    holding, token = conclusion(heard)
    owner = label_of(token or b"") or ""
    return LockSnapshot(resource_text(resource), group.name, holding, owner, tuple(each.shown for each in heard))


async def all_said(group: Group, key: bytes) -> list[Said]:
    """What each server of a group says of a lock, in voting order."""
    replies = await ask(group, pipeline_of(group, key).keepers, questions(key))
    permit = permit_of(key) is not None
    return [said(name, each, permit) for name, each in zip(group.names, replies, strict=True)]
