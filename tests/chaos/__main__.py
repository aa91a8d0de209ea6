"""`python -m tests.chaos --seconds 60 [--seed N]`.

Exit code 0 when nothing was wrong, 1 otherwise, 130 when ended early.
"""

from __future__ import annotations

import argparse
import random
import sys

from redlock_cluster.cli.signals import asked_to_end

from .run import run


def main() -> int:
    """Runs chaos and prints the report."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="chaos on real servers")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults are made (default 60)")
    parser.add_argument("--seed", type=int, help="of the schedule of faults (default: random)")
    given = parser.parse_args()
    seed = random.randrange(1_000_000) if given.seed is None else given.seed
    print(f"seed           {seed}, about {given.seconds:g} s of chaos", flush=True)
    with asked_to_end() as end:
        report = run(given.seconds, seed, end)
    print("\n".join(report.figures()))
    if end.is_set():
        print("ended early, so this is no verdict")
        return 130
    print("\n".join(report.verdict()))
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
