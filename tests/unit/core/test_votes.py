"""What a vote says of itself."""

from __future__ import annotations

import pytest

from redlock_cluster import ServerVote, Vote
from redlock_cluster.core.tally import AcquisitionTally, Standing


@pytest.mark.parametrize(
    ("vote", "text"),
    [
        (ServerVote("a:1", Vote.FOR), "a:1 for"),
        (ServerVote("a:1", Vote.AGAINST, "held by b"), "a:1 against (held by b)"),
        (ServerVote("a:1", Vote.ABSENT, "OOM"), "a:1 absent (OOM)"),
        (ServerVote("a:1", None), "a:1 no answer yet"),
        (ServerVote("a:1", None, "not asked: none was"), "a:1 not asked: none was"),
    ],
)
def test_vote_says_what_the_server_said_or_why_it_said_nothing(vote: ServerVote, text: str) -> None:
    assert str(vote) == text


def test_round_without_usable_quorum_tells_absent_servers_from_those_not_asked() -> None:
    tally = AcquisitionTally(3)
    tally.ask_nobody(0b011, {0: "refused", 1: "no route"})
    assert tally.standing is Standing.UNAVAILABLE
    assert [(vote.vote, vote.detail) for vote in tally.votes(("a", "b", "c"))] == [
        (Vote.ABSENT, "refused"),
        (Vote.ABSENT, "no route"),
        (None, "not asked: too few servers of its group are usable"),
    ]
