"""What a server understands, told from its replies."""

from __future__ import annotations

import pytest

from redlock_cluster.core.dialect import Dialect, dialect_of, probes
from redlock_cluster.core.replies import ErrorReply

TOO_SHORT = ErrorReply("ERR invalid expire time in 'set' command")
SYNTAX, UNKNOWN = ErrorReply("ERR syntax error"), ErrorReply("ERR unknown command 'DELEX', with args beginning with:")


@pytest.mark.parametrize(
    ("replies", "dialect"),
    [
        ((TOO_SHORT, TOO_SHORT, 0, UNKNOWN), Dialect(True, True, "DELIFEQ")),  # Valkey 9
        ((TOO_SHORT, TOO_SHORT, UNKNOWN, 0), Dialect(True, True, "DELEX")),  # Redis 8.4
        ((TOO_SHORT, SYNTAX, UNKNOWN, UNKNOWN), Dialect(True, False, None)),  # Redis 7.0 to 8.2
        ((SYNTAX, SYNTAX, UNKNOWN, UNKNOWN), Dialect(False, False, None)),  # Redis 6.2
        ((ErrorReply("NOPERM no"),) * 4, Dialect(False, False, None)),
        ((b"OK", None, b"1", []), Dialect(False, False, None)),
    ],
)
def test_the_dialect_follows_from_the_probes(replies: tuple[object, ...], dialect: Dialect) -> None:
    assert dialect_of(replies, resp3=True) == dialect
    assert dialect_of(replies, resp3=True) is dialect_of(replies, resp3=True)


def test_probes_can_not_write() -> None:
    for command in probes("k"):
        assert command[0] in ("DELIFEQ", "DELEX") or command[-2:] == ("PX", 0)
