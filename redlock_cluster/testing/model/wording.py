"""What servers answer to a script's wrong calls: each error in the words of Valkey, Redis 7 and Redis 6."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from redlock_cluster.testing.model.versions import ModelVersion

__all__ = ["ARITY", "FORBIDDEN", "NOT_A_WORD", "NO_WORDS", "UNKNOWN", "Wording"]


@dataclass(frozen=True, slots=True)
class Wording:
    """One error in three wordings; before Redis 7 without a code."""

    valkey: bytes
    redis: bytes
    before_7: bytes

    def of(self, version: ModelVersion) -> bytes:
        """The version's words, with the code where it has one."""
        if not version.since_7:
            return self.before_7
        return b"ERR " + (self.valkey if version.valkey else self.redis)


UNKNOWN: Final = Wording(
    b"Unknown command called from script",
    b"Unknown Redis command called from script",
    b"Unknown Redis command called from Lua script",
)
ARITY: Final = Wording(
    b"Wrong number of args calling command from script",
    b"Wrong number of args calling Redis command from script",
    b"Wrong number of args calling Redis command From Lua script",
)
FORBIDDEN: Final = Wording(
    b"This Valkey command is not allowed from script",
    b"This Redis command is not allowed from script",
    b"This Redis command is not allowed from scripts",
)
NO_WORDS: Final = Wording(
    b"Please specify at least one argument for this call",
    b"Please specify at least one argument for this redis lib call",
    b"Please specify at least one argument for redis.call()",
)
NOT_A_WORD: Final = Wording(
    b"Command arguments must be strings or integers",
    b"Lua redis lib command arguments must be strings or integers",
    b"Lua redis() command arguments must be strings or integers",
)
