"""The clocks of simulated machines: each with its own rate and offset; they behave as real ones do."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["MachineClock"]


class MachineClock:
    """The clocks of one machine, driven by the simulation's time.

    Called, it is the clock for the engine: it never goes back and runs while the machine is suspended
    (`CLOCK_BOOTTIME`). `monotonic` stands still during that, and `wall` can be set. No lock may trust these two; a
    simulation finds code that does.

    now: returns the simulation's time, seconds
    rate: this machine's seconds for each of the simulation's
    offset: what this machine shows at the simulation's time 0, seconds
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
