"""A run from beginning to end."""

from __future__ import annotations

import threading

from .actor import RESOURCES
from .checker import judge
from .event_log import merged
from .nemesis import Nemesis
from .report import Report
from .schedule import make_plan
from .stage import Stage

__all__ = ["run"]


def run(seconds: float, seed: int, end: threading.Event | None = None) -> Report:
    """Chaos for about so many seconds; some more go by for starting, ending and the greatest ttl.

    end: set from outside to end early; what the report says then is no verdict
    """
    end = end or threading.Event()
    plan = make_plan(seed, seconds)
    with Stage(plan) as stage:
        Nemesis(stage, plan, RESOURCES, end).run()
        left = {} if end.is_set() else stage.keys_left()
        events = merged(stage.histories)
        troubles = [
            f"worker {name} ended with {code}" for worker in stage.workers for name, code in worker.exits if code
        ]
        troubles += [f"{name} said: {text}" for name, text in stage.said().items()]
    return Report(seed, seconds, events, judge(events, RESOURCES), left, troubles)
