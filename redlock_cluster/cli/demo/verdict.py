"""What the demo found, in words and as a yes or no."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from redlock_cluster.cli.demo.figures import Figures
from redlock_cluster.cli.demo.outage import Outage

__all__ = ["Verdict", "judged"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was found.

    figures: lines of numbers
    findings: (whether it is true, claim) of each claim
    """

    figures: tuple[str, ...]
    findings: tuple[tuple[bool, str], ...]

    @property
    def passed(self) -> bool:
        """Whether every claim is true."""
        return all(good for good, _ in self.findings)


def judged(
    figures: Figures,
    groups: Mapping[str, Sequence[int]],
    outage: Outage,
    elapsed: float,
    exit_codes: Sequence[int | None],
) -> Verdict:
    """Return the verdict on a run whose workers have ended.

    figures: what the workers counted
    groups: group -> indices of its resources
    outage: what was killed
    elapsed: seconds that the workers ran
    exit_codes: of the workers
    """
    sections = {name: sum(map(figures.sections_of, indices)) for name, indices in groups.items()}
    total = sum(sections.values())
    shares = "  ".join(f"{name}: {count / max(total, 1):.1%}" for name, count in sections.items())
    overlaps, lost = figures.met, figures.lost_updates
    worked = dict(zip(groups, outage.worked or [0] * len(groups), strict=True))
    meanwhile = "  ".join(f"{name}: {count:,}" for name, count in worked.items())
    return Verdict(
        figures=(
            f"acquisitions     {total:,} in {elapsed:.1f} s, {total / max(elapsed, 1e-9):,.0f} a second",
            f"wait             p50 {figures.wait(0.5) * 1e3:.1f} ms, p99 {figures.wait(0.99) * 1e3:.1f} ms",
            f"share by group   {shares}",
            f"in the outage    {meanwhile}",
            f"no lock          {sum(figures.refused):,} times held too long by others, "
            f"{sum(figures.unavailable):,} times no quorum answered",
            f"leases run out   {sum(figures.lapsed):,}",
            f"overlaps         {overlaps:,} seen inside, {lost:,} updates lost",
        ),
        findings=(
            (total > 0 and overlaps == 0 and lost == 0, "no two processes were ever in one critical section"),
            (all(worked.values()), "every group granted locks while one of its servers was down"),
            (all(code == 0 for code in exit_codes), "every worker process ended well"),
        ),
    )
