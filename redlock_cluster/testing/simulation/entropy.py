"""Randomness that a seed repeats."""

from __future__ import annotations

import random
from base64 import b64encode

__all__ = ["SeededEntropy", "stream"]


def stream(seed: int | str, name: str) -> random.Random:
    """Makes a source of random numbers for one use of a seed; it is the same on every machine.

    seed: of the simulation
    name: of the use
    """
    return random.Random(f"{seed}/{name}")


class SeededEntropy:
    """The engine's randomness, repeated by the seed.

    source: where it comes from
    """

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def texts(self, count: int) -> list[bytes]:
        """Texts of 132 bits each, as 22 characters of base64."""
        return [b64encode(self._random.randbytes(17))[:22] for _ in range(count)]

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()
