"""Publish and subscribe: by exact channel; of patterns and shards the model server has nothing."""

from __future__ import annotations

from redlock_cluster.testing.model.core import Command, Core, Session
from redlock_cluster.testing.model.registry import command
from redlock_cluster.testing.model.replies import CommandError, Push, Replies, Reply

__all__ = ["check_context"]


def check_context(core: Core, session: Session, found: Command) -> None:
    """Raises CommandError for what a RESP2 connection may not send while it has subscriptions."""
    if session.resp == 3 or not session.channels or found.subscribed:
        return
    name, kinds = found.name, b"(P|S)"
    if not core.version.since_7:
        name, kinds = found.name.partition(b"|")[0], b"(P)"
    raise CommandError(
        b"ERR Can't execute '%b': only %bSUBSCRIBE / %bUNSUBSCRIBE / PING / QUIT / RESET are allowed in this context"
        % (name, kinds, kinds)
    )


@command("SUBSCRIBE", -2, scriptable=False, subscribed=True)
def _subscribe(core: Core, session: Session, words: list[bytes]) -> Reply:
    confirmations = Replies()
    for channel in words[1:]:
        core.subscribe(session, channel)
        confirmations.append(Push([b"subscribe", channel, len(session.channels)]))
    return confirmations


@command("UNSUBSCRIBE", -1, scriptable=False, subscribed=True)
def _unsubscribe(core: Core, session: Session, words: list[bytes]) -> Reply:
    confirmations = Replies()
    for channel in words[1:] or list(session.channels):
        core.unsubscribe(session, channel)
        confirmations.append(Push([b"unsubscribe", channel, len(session.channels)]))
    return confirmations or Push([b"unsubscribe", None, 0])


@command("PUBLISH", 3)
def _publish(core: Core, session: Session, words: list[bytes]) -> Reply:
    return core.publish(words[1], words[2])
