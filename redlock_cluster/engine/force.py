"""How a lock is taken from whoever holds it, for operators.

1. Ask every server who holds the lock. If too few say, nothing is removed.
2. Have every server delete the key, whatever holds it, and remember the tokens: those that it held itself, and those
   that the others named. A holder may be about to take a lost vote again on a server that holds nothing: were its token
   not remembered there, it could have a quorum although its lock was deleted on another one.
3. A quorum that did it: released. Servers that could not be asked may go on holding it: who holds it has no quorum.

Who waits is told as by a release.
"""

from __future__ import annotations

import logging

from redlock_cluster.core.force import forced, removal
from redlock_cluster.core.mode import ABSENT, no_vote
from redlock_cluster.core.permit import lock_mode
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.snapshot import ForcedRelease, Holding, Said, conclusion
from redlock_cluster.core.text import cut, quoted
from redlock_cluster.core.token import label_of
from redlock_cluster.core.votes import ServerVote, Vote
from redlock_cluster.engine.asking import ask
from redlock_cluster.engine.engine import Engine
from redlock_cluster.engine.round import pipeline_of
from redlock_cluster.engine.snapshot import all_said
from redlock_cluster.errors import QuorumUnavailable

__all__ = ["force_release"]

_log = logging.getLogger(__name__)


async def force_release(engine: Engine, resource: Resource, permit: int | None) -> ForcedRelease | QuorumUnavailable:
    """Take a lock from whoever holds it. Raises ValueError or TypeError for what can't be a resource, ClosedError.

    permit: which one of the semaphore of that name, from 0 on; None: the lock
    """
    mode, (group, key) = lock_mode(permit), engine.route(resource)
    key = mode.place(key)
    name, started = resource_text(resource), engine.clock()
    heard = await all_said(group, key)
    if sum(each.answer.vote is not ABSENT for each in heard) < group.quorum:
        votes = tuple(_not_said(each) for each in heard)
        text = f"{quoted(name)} was not released: too few servers say who holds it"
        return QuorumUnavailable(text, name, group.name, votes, engine.clock() - started)
    held_by = dict.fromkeys(token for each in heard for token in each.tokens)
    lasts = [each.ttl_ms for each in heard]
    words = removal(key, held_by, -1 if -1 in lasts else max(lasts))
    replies = await ask(group, pipeline_of(group, key).keepers, (words,))
    group.note_released(key, mode)
    votes = tuple(_vote(server, each) for server, each in zip(group.names, replies, strict=True))
    if sum(vote.vote is Vote.FOR for vote in votes) < group.quorum:
        text = f"too few servers have released {quoted(name)}: it may still be held"
        return QuorumUnavailable(text, name, group.name, votes, engine.clock() - started)
    holding, token = conclusion(heard)
    owner = _owner(heard, token)
    held = any(not isinstance(each, str) and forced(each[0]) for each in replies)
    if held:
        by = _by_whom(owner, holding)
        _log.warning("%s was released by force (group %s): %s", quoted(name), cut(group.name), by)
    return ForcedRelease(name, group.name, held, owner, votes)


def _owner(heard: list[Said], token: bytes | None) -> str:
    """Who held the lock: the label in a token, or those of all readers."""
    readers = sorted({reader.owner for each in heard for reader in each.shown.readers})
    return ", ".join(readers) or label_of(token or b"") or ""


def _by_whom(owner: str, holding: Holding) -> str:
    """Who held the lock, for the log."""
    if owner:
        return f"it was held by {owner}"
    return "somebody without a label held it" if holding is Holding.HELD else "nobody held a quorum of it"


def _not_said(each: Said) -> ServerVote:
    """The vote of a server, of which nothing was asked but who holds the lock."""
    return ServerVote(
        each.shown.server, Vote.ABSENT if each.answer.vote is ABSENT else None, each.answer.why or "not asked"
    )


def _vote(server: str, replies: list[object] | str) -> ServerVote:
    if isinstance(replies, str):
        return ServerVote(server, Vote.ABSENT, replies)
    (reply,) = replies
    if forced(reply) is not None:
        return ServerVote(server, Vote.FOR)
    return ServerVote(server, Vote.ABSENT, no_vote(reply).why)
