"""The server versions that a model server can be: what they understand and how they say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

__all__ = ["REDIS_6_2", "REDIS_7_0", "REDIS_8_2", "REDIS_8_4", "VALKEY_9", "VERSIONS", "ModelVersion"]


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """One version of one server; the constants below, except REDIS_8_4, were compared with the replies of real servers.

    family: redis or valkey
    number: such as (9, 1, 2)
    """

    family: Literal["redis", "valkey"]
    number: tuple[int, ...]

    @property
    def text(self) -> str:
        """The number with dots."""
        return ".".join(map(str, self.number))

    @property
    def valkey(self) -> bool:
        """Whether this is Valkey, which words some errors in its own way."""
        return self.family == "valkey"

    @property
    def sets_if_equal(self) -> bool:
        """Whether there is `SET … IFEQ`."""
        return self.number >= ((8, 1) if self.valkey else (8, 4))

    @property
    def names_holder(self) -> bool:
        """Whether `SET … NX GET` is allowed."""
        return self.number >= (7,)

    @property
    def deletes_if_equal(self) -> Literal["DELIFEQ", "DELEX"] | None:
        """The command that deletes a key if it holds a value."""
        if self.number < ((9,) if self.valkey else (8, 4)):
            return None
        return "DELIFEQ" if self.valkey else "DELEX"

    @property
    def since_7(self) -> bool:
        """Redis 7: subcommands are commands of their own; errors in scripts keep their codes; new wordings."""
        return self.number >= (7,)

    @property
    def since_7_2(self) -> bool:
        """Redis 7.2: numbers are written with the fewest digits; CLIENT SETINFO; scripts track what they read."""
        return self.number >= (7, 2)

    @property
    def sets_no_past(self) -> bool:
        """Valkey 9: a SET whose time is over deletes the key at once; elsewhere the key is made and then expires."""
        return self.valkey and self.number >= (9,)

    @property
    def flushes_first(self) -> bool:
        """Redis 8: the null push of an own flush comes before its reply."""
        return not self.valkey and self.number >= (8,)


VALKEY_9: Final = ModelVersion("valkey", (9, 1, 2))
REDIS_8_4: Final = ModelVersion("redis", (8, 4, 0))
"""No build of it was available: its differences from 8.2 follow its documentation and sources."""
REDIS_8_2: Final = ModelVersion("redis", (8, 2, 3))
REDIS_7_0: Final = ModelVersion("redis", (7, 0, 15))
REDIS_6_2: Final = ModelVersion("redis", (6, 2, 14))
VERSIONS: Final = (VALKEY_9, REDIS_8_4, REDIS_8_2, REDIS_7_0, REDIS_6_2)
