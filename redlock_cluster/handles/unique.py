"""What there is once: a copy would release, or believe in, what is another's."""

from __future__ import annotations

from typing import ClassVar, SupportsIndex

__all__ = ["Unique"]


class Unique:
    """Is neither copied nor pickled: `copy`, `deepcopy` and `pickle` raise TypeError.

    instead: what to do, as the rest of a sentence
    """

    __slots__ = ()

    instead: ClassVar[str]

    def __reduce_ex__(self, protocol: SupportsIndex) -> str | tuple[object, ...]:
        """What all three ask. Raises TypeError."""
        raise TypeError(f"{type(self).__name__} can't be copied or pickled; {self.instead}")
