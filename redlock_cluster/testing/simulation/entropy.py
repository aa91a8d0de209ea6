"""Randomness that a seed repeats."""

from __future__ import annotations

import random

__all__ = ["SeededEntropy", "stream"]


def stream(seed: int | str, name: str) -> random.Random:
    """A source of random numbers of its own for each use of a seed; the same on every machine."""
    return random.Random(f"{seed}/{name}")


class SeededEntropy:
    """What the engine draws, repeated by the seed. random: where it comes from"""

    def __init__(self, source: random.Random) -> None:
        self._random = source

    def token(self) -> bytes:
        """128 bits, as 32 hexadecimal digits."""
        return b"%032x" % self._random.getrandbits(128)

    def fraction(self) -> float:
        """A number in [0, 1)."""
        return self._random.random()
