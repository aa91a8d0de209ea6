"""Chaos on real servers: workers lock a few contended resources while a nemesis damages servers, network and workers.

`python -m tests.chaos --seconds 60` runs it. `plan` makes the schedule from a seed, `nemesis` carries it out, `worker`
is what the processes do, and `checker` judges their merged histories.
"""
