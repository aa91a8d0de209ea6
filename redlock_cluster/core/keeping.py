"""How long a lease is held: the rule by which what a call names and what the options say become one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from redlock_cluster.core.timing import Seconds, seconds

__all__ = ["Keeping", "KeepingPolicy"]


@dataclass(frozen=True, slots=True)
class Keeping:
    """How long a lease is held.

    ttl: seconds, still to be checked
    extends: whether it extends itself
    max_hold: seconds after which it ends all the same, None for never
    """

    ttl: Seconds
    extends: bool
    max_hold: float | None


@dataclass(frozen=True)
class KeepingPolicy:
    """What the options say of it.

    ttl: seconds, of a lock whose call names none
    max_hold: of one that extends itself, unless the call names another; None for never
    """

    ttl: float
    max_hold: float | None

    @cached_property
    def _usual(self) -> Keeping:
        """Of a call that names nothing."""
        return Keeping(self.ttl, True, self.max_hold)

    def of(self, ttl: Seconds | None, auto_extend: bool | None, max_hold: Seconds | None) -> Keeping:
        """How long a lease is held for which a call names these.

        ttl: None: the options' one, extended unless `auto_extend` says no
        auto_extend: None: only without a ttl
        max_hold: None: the options' one

        Raises TypeError or ValueError for what can't be, and for a `max_hold` of a lease that does not extend itself.
        """
        if ttl is None and auto_extend is None and max_hold is None:
            return self._usual
        if auto_extend is not None and not isinstance(auto_extend, bool):
            raise TypeError(f"auto_extend is a bool, not {type(auto_extend).__name__}")
        extends = ttl is None if auto_extend is None else auto_extend
        held = self.max_hold if extends else None
        if max_hold is not None:
            if not extends:
                raise ValueError("max_hold ends leases that extend themselves; the ttl ends the others")
            held = seconds(max_hold, "max_hold")
            if held <= 0:
                raise ValueError(f"max_hold must be positive, not {held:g} s")
        return Keeping(self.ttl if ttl is None else ttl, extends, held)
