"""What one server says to one request of the protocol."""

from __future__ import annotations

import enum
from dataclasses import dataclass

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
    vote: None while a decided round had not heard it
    detail: the error's text, or who holds the key; never a whole token
    """

    server: str
    vote: Vote | None
    detail: str = ""

    def __str__(self) -> str:
        said = "no answer yet" if self.vote is None else self.vote.value
        return f"{self.server} {said} ({self.detail})" if self.detail else f"{self.server} {said}"
