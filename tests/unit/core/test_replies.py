"""What servers reply."""

from __future__ import annotations

import pytest

from redlock_cluster.core.replies import ErrorReply


@pytest.mark.parametrize(
    "text",
    [
        "WRONGTYPE Operation against a key holding the wrong kind of value",
        "ERR Key should be of string type if conditions are specified",
    ],
)
def test_each_way_to_say_that_a_key_is_no_string_is_known(text: str) -> None:
    assert ErrorReply(text).wrong_type
    assert not ErrorReply("ERR " + text).wrong_type
