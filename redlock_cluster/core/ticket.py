"""Tickets: what one process writes down of a lease so that another one can adopt it.

    redlock-lease-1 . kind of lock . ttl in ms . "extends" or "ends" . token . resource . checksum
    redlock-lease-2 . kind of lock . ttl in ms . "extends" or "ends" . token . resource . fence . checksum

Token and resource are base64 for URLs without padding, the checksum is the CRC-32 of all before it, in hexadecimal. So
a ticket has only letters, digits, `-`, `_` and `.`, and one that was cut or changed on its way is noticed. Whoever has
it has the token, and can extend and release.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

from redlock_cluster.core.kinds import BY_NAME
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.resource import resource_bytes
from redlock_cluster.core.timing import MAX_TTL_MS
from redlock_cluster.core.token import Token

__all__ = ["Ticket"]

_VERSION: Final = "redlock-lease-1"
_FENCED: Final = "redlock-lease-2"
_PARTS: Final = {_VERSION: 6, _FENCED: 7}
_FAMILY: Final = "redlock-lease-"
_LIFE: Final = {"extends": True, "ends": False}
_DAMAGED: Final = "this is no ticket of a lease, or it was cut or changed on its way"


@dataclass(frozen=True, slots=True)
class Ticket:
    """A lease that somebody gave away.

    resource: what is locked
    token: the owner's value on the servers
    mode: which kind of lock it is
    ttl_ms: milliseconds that servers keep it from an extension on
    extends: whether it extended itself
    fence: its number, None if it has none
    """

    resource: bytes
    token: Token = field(repr=False)
    mode: LockMode
    ttl_ms: int
    extends: bool
    fence: int | None = None

    def written(self) -> str:
        """The ticket as a text of ASCII without blanks."""
        life = next(word for word, extends in _LIFE.items() if extends is self.extends)
        version, fence = (_VERSION, ()) if self.fence is None else (_FENCED, (str(self.fence),))
        words = (version, self.mode.name, str(self.ttl_ms), life, _packed(self.token), _packed(self.resource))
        body = ".".join((*words, *fence))
        return f"{body}.{_checksum(body)}"

    @classmethod
    def read(cls, text: str) -> Ticket:
        """Read a ticket.

        Raises TypeError for anything but a str, ValueError for one that is no ticket, or of a kind of lock that is
        unknown here; neither says what it holds.
        """
        if not isinstance(text, str):
            raise TypeError(f"a ticket is a str, not {type(text).__name__}")
        body, _, checksum = text.rpartition(".")
        parts = body.split(".")
        if parts[0].startswith(_FAMILY) and parts[0] not in _PARTS:
            raise ValueError("this ticket was written by another version of the library, which this one can't read")
        if checksum != _checksum(body) or len(parts) != _PARTS.get(parts[0]):
            raise ValueError(_DAMAGED)
        _, kind, ttl_ms, life, token, resource, *fences = parts
        mode = BY_NAME.get(kind)
        if mode is None:
            raise ValueError("this ticket is for a kind of lock that this version of the library does not know")
        try:
            name, owner, fence = resource_bytes(_unpacked(resource)), Token(_unpacked(token)), [*map(int, fences)]
            ticket = cls(name, owner, mode, int(ttl_ms), _LIFE[life], fence[0] if fence else None)
        except (ValueError, KeyError):
            raise ValueError(_DAMAGED) from None
        if not (ticket.token and 1 <= ticket.ttl_ms <= MAX_TTL_MS):
            raise ValueError(_DAMAGED)
        return ticket


def _packed(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _unpacked(text: str) -> bytes:
    """Raises ValueError for what is no base64."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _checksum(body: str) -> str:
    return f"{crc32(body.encode(errors='surrogatepass')):08x}"
