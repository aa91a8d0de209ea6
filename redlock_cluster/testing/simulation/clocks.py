"""The clocks of simulated machines: each with its own rate and offset, and with the habits of real ones."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MachineClock"]


class MachineClock:
    """The clocks of one machine, driven by the simulation's time.

    Called, it is the clock that the engine wants: it never goes back and runs while the machine is suspended
    (`CLOCK_BOOTTIME`). `monotonic` stands still meanwhile, `wall` can be set: two clocks that no lock may trust, here
    so that a simulation can tell code that does.

    now: the simulation's time; rate: this machine's seconds for each of its seconds; offset: seconds at its time 0
    """

    def __init__(self, now: Callable[[], float], rate: float = 1.0, offset: float = 0.0) -> None:
        self._now = now
        self.rate, self.offset = rate, offset
        self._stepped = self._slept = 0.0
        self._suspended_at: float | None = None

    def __call__(self) -> float:
        """Seconds since some start, suspended or not."""
        return self.offset + self.rate * self._now()

    def monotonic(self) -> float:
        """Seconds that the machine was awake."""
        until = self() if self._suspended_at is None else self._suspended_at
        return until - self._slept

    def wall(self) -> float:
        """Seconds of the clock that shows the date."""
        return self() + self._stepped

    def step(self, seconds: float) -> None:
        """Sets the wall clock forward, or back if negative."""
        self._stepped += seconds

    def suspend(self) -> None:
        """The machine sleeps from now on."""
        if self._suspended_at is None:
            self._suspended_at = self()

    def wake(self) -> None:
        """The machine is awake again."""
        if self._suspended_at is not None:
            self._slept += self() - self._suspended_at
            self._suspended_at = None

    def simulated(self, reading: float) -> float:
        """The simulation's time at which this machine's clock shows a reading."""
        return (reading - self.offset) / self.rate
