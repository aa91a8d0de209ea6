"""What one server says to one request of the protocol."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from redlock_cluster.core.text import cut

__all__ = ["ServerVote", "Vote"]


class Vote(enum.Enum):
    """One server's answer.

    FOR: it granted, extended or deleted. AGAINST: somebody else holds (acquire) or the token is not there
    (extend, release). ABSENT: an error, a time-out, no connection.
    """

    FOR = "for"
    AGAINST = "against"
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class ServerVote:
    """How one server voted, and why as far as it said.

    server: its name (`host:port` or `unix:path`)
    vote: None while a decided round had not heard it, or when the server was not asked
    detail: the error's text, who holds the key, or why it was not asked; never a whole token
    """

    server: str
    vote: Vote | None
    detail: str = ""

    def __str__(self) -> str:
        name = cut(self.server)
        if self.vote is None:
            return f"{name} {self.detail or 'no answer yet'}"
        return f"{name} {self.vote.value} ({self.detail})" if self.detail else f"{name} {self.vote.value}"
