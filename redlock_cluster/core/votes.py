"""What servers say in a round, and what a round's votes mean."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import NewType

__all__ = ["ServerVote", "Token", "Verdict", "Vote", "owner_label"]

Token = NewType("Token", bytes)
"""A random owner value, unique per attempt: 22 characters of base64, `@`, a readable label. Never logged whole."""

_RANDOM_DIGITS = 22
_MOST_TOLD = 256


class Vote(enum.Enum):
    """One server's answer in a round.

    FOR: it granted, extended or deleted. AGAINST: somebody else holds (acquire) or the token is not there
    (extend, release). ABSENT: an error, a time-out, no connection.
    """

    FOR = "for"
    AGAINST = "against"
    ABSENT = "absent"


class Verdict(enum.Enum):
    """What the votes of an acquisition mean.

    WON: a quorum granted. HELD: a quorum names one holder. SPLIT: contenders share the servers and none has a
    quorum. UNAVAILABLE: too many servers did not vote, or their quorum came after the validity had run out.
    """

    WON = "won"
    HELD = "held"
    SPLIT = "split"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class ServerVote:
    """How one server voted, and why as far as it told.

    server: its name (`host:port` or `unix:path`)
    vote: None while a decided round had not heard it
    detail: the error's text, or who holds the key; never a whole token
    """

    server: str
    vote: Vote | None
    detail: str = ""

    def __str__(self) -> str:
        said = "no answer yet" if self.vote is None else self.vote.value
        return f"{self.server} {said} ({self.detail})" if self.detail else f"{self.server} {said}"


def owner_label(token: bytes | None) -> str:
    """The readable end of a token, safe to show; other libraries' tokens, having none, stay hidden."""
    if token is None:
        return "held"
    random, at, label = token.partition(b"@")
    if not at or len(random) != _RANDOM_DIGITS:
        return "held by an unlabelled token"
    text = label[:_MOST_TOLD].decode("utf-8", "replace")
    return f"held by {''.join(c if c.isprintable() else '?' for c in text)}"
