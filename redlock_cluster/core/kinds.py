"""The kinds of locks that a resource can have."""

from __future__ import annotations

from typing import Final, Literal

from redlock_cluster.core.exclusive import EXCLUSIVE, FENCED
from redlock_cluster.core.mode import LockMode
from redlock_cluster.core.permit import PERMITS
from redlock_cluster.core.read import FENCED_READER, READER

__all__ = ["BY_NAME", "Mode", "mode_of"]

Mode = Literal["write", "read"]
"""What callers ask for: to hold the lock alone, or as one of many readers."""

_KINDS: Final[tuple[LockMode, ...]] = (EXCLUSIVE, READER, *PERMITS)

BY_NAME: Final = {mode.name: mode for mode in _KINDS}
"""By what tickets call them."""


def mode_of(mode: Mode, fenced: bool | None = None, otherwise: bool = False) -> LockMode:
    """The kind of lock that a caller asks for. Raises ValueError or TypeError for anything else.

    fenced: whether its acquisitions are numbered; None: as `otherwise` says
    """
    if fenced is None:
        fenced = otherwise
    elif not isinstance(fenced, bool):
        raise TypeError(f"fenced is a bool, not {type(fenced).__name__}")
    if mode == "write":
        return FENCED if fenced else EXCLUSIVE
    if mode == "read":
        return FENCED_READER if fenced else READER
    raise ValueError(f"a mode is 'write' or 'read', not {mode!r}")
