"""What a run came to, in numbers and, where something was wrong, in lines of history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

from .checker import Violation, idle_times, lateness, leases_of, samples_when_well
from .event_log import Event, slot_of
from .schedule import SERVERS, Kind
from .waits import Wait, overtaken, waits_of

__all__ = ["Report", "excerpt"]

_BEFORE: Final = 2.5
_AFTER: Final = 0.1
_LINES: Final = 24
_SHOWN: Final = 3


@dataclass(frozen=True)
class Report:
    """One run: its merged history and what is wrong with it.

    keys_left: server -> keys that outlived all workers for longer than any may; troubles: how workers ended badly
    """

    seed: int
    seconds: float
    events: Sequence[Event]
    violations: Sequence[Violation]
    keys_left: Mapping[int, Sequence[str]] = field(default_factory=dict)
    troubles: Sequence[str] = ()

    @property
    def passed(self) -> bool:
        """Whether nothing was wrong."""
        return not (self.violations or self.keys_left or self.troubles)

    @property
    def acquisitions(self) -> int:
        """How many leases there were."""
        return sum(event.do == "acquired" for event in self.events)

    @property
    def faults(self) -> Counter[str]:
        """How many faults of each kind were done, full outages among them."""
        kinds = Counter[str](event["kind"] for event in self.events if event.do == "fault")
        kinds["full outage"] = sum(event.do == "phase" and event["name"] == "outage" for event in self.events)
        return kinds

    @property
    def refusals(self) -> Counter[str]:
        """How many attempts were refused, by why."""
        return Counter[str](event["why"] for event in self.events if event.do == "refused")

    def unavailable_in_calm(self) -> int:
        """How many attempts, begun and ended in calms, were refused for an outage."""
        spans = self._calms()
        return sum(
            event.do == "refused"
            and event["why"] == "unavailable"
            and any(begin < event["asked"] and event.t < end for begin, end in spans)
            for event in self.events
        )

    def longest_standstill(self) -> float:
        """The longest time without any acquisition within a calm, seconds."""
        times = [event.t for event in self.events if event.do == "acquired"]
        gaps = [0.0]
        for begin, end in self._calms():
            marks = [begin, *(t for t in times if begin < t < end), end]
            gaps += [after - before for before, after in pairwise(marks)]
        return max(gaps)

    def _calms(self) -> list[tuple[float, float]]:
        return [(event["begun"], event.t) for event in self.events if event.do == "calm"]

    def _waiting(self) -> list[str]:
        """How long calls waited, and how fairly they were served."""
        waits = waits_of(self.events)
        served = [wait for wait in waits if wait.acquired]
        within = [w for w in served if any(begin < w.since and w.end < end for begin, end in self._calms())]
        passed = overtaken(waits) or [0]
        leases, _ = leases_of(self.events)
        idle = max([idle for idle, _ in idle_times(self.events, waits, leases.values()).values()], default=0.0)
        return [
            f"waits          {len(served):,} of {len(waits):,} were served, within {_longest(served)}; "
            f"of those within calms within {_longest(within)}",
            f"overtaken      {max(passed)} times at most by who came later, {sum(passed) / len(passed):.2f} on average",
            f"handover       {idle:.2f} s, the longest time within calms that nobody had a lock and somebody waited",
        ]

    def _keeping(self) -> list[str]:
        """What became of leases that look after themselves."""
        leases, _ = leases_of(self.events)
        kept = [lease for lease in leases.values() if lease.extends]
        longest = max([lease.end - lease.since for lease in kept], default=0.0)
        late = max([late for _, late, _ in lateness(self.events, leases.values())], default=0.0)
        losses = Counter[str](event["reason"] for event in self.events if event.do == "lost")
        given = {event["lease"]: event.t for event in self.events if event.do == "detached" and not event["why"]}
        adopted = Counter[str](event["why"] or "ok" for event in self.events if event.do == "adopted")
        looks = samples_when_well(self.events, leases)
        on_all = sum(event["on"] == SERVERS for event in looks)
        return [
            f"kept           {len(kept):,} leases extended themselves, for {longest:.2f} s at most",
            f"losses         {_counts(losses)}; told within {late:.3f} s",
            f"given away     {len(given):,}, {self._outlived(given)} by processes that were killed meanwhile; "
            f"adoptions: {_counts(adopted)}",
            f"healed         on all servers in {on_all} of {len(looks)} looks when nothing was damaged for long",
        ]

    def _outlived(self, given: Mapping[str, float]) -> int:
        """How many leases were adopted whose giver was killed meanwhile; given: when, by the lease."""
        kills = [event for event in self.events if event.do == "fault" and event["kind"] == Kind.SLAY.value]
        return sum(
            any(str(kill["target"]) == slot_of(before) and given[before] < kill.t < event.t for kill in kills)
            for event in self.events
            if event.do == "acquired" and (before := event.about.get("after"))
        )

    def figures(self) -> list[str]:
        """What happened, in numbers."""
        ended = Counter[str](event["why"] or "ok" for event in self.events if event.do == "released")
        kept = Counter[str](event["why"] or "ok" for event in self.events if event.do == "extended")
        overlaps = sum("both valid" in violation.text for violation in self.violations)
        left = sum(map(len, self.keys_left.values()))
        return [
            f"acquisitions   {self.acquisitions:,}",
            f"faults         {_counts(self.faults)}",
            f"refusals       {_counts(self.refusals)}; unavailable within calms: {self.unavailable_in_calm()}",
            f"releases       {_counts(ended)}",
            f"extensions     {_counts(kept)}",
            f"overlaps       {overlaps}",
            f"standstill     {self.longest_standstill():.2f} s, the longest time without an acquisition within calms",
            *self._waiting(),
            *self._keeping(),
            f"keys left      {left}",
        ]

    def verdict(self) -> list[str]:
        """That nothing was wrong, or what was, with the history around it."""
        if self.passed:
            return [f"passed         seed {self.seed}"]
        lines = [f"FAILED         {len(self.violations)} violations; the first ones:" if self.violations else "FAILED"]
        for violation in self.violations[:_SHOWN]:
            after = violation.t - self.events[0].t
            lines += ["", f"{violation.text}, {after:.1f} s after the beginning", *excerpt(self.events, violation)]
        lines += [f"server {server} still has {', '.join(keys)}" for server, keys in self.keys_left.items()]
        lines += [*self.troubles, "", f"the same faults again: {self.command}"]
        return lines

    @property
    def command(self) -> str:
        """Replays the schedule of faults."""
        return f"python -m tests.chaos --seconds {self.seconds:g} --seed {self.seed}"


def _longest(waits: Sequence[Wait]) -> str:
    return f"{max([wait.end - wait.since for wait in waits], default=0.0):.2f} s"


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counter.items())) or "none"


def excerpt(events: Sequence[Event], violation: Violation) -> list[str]:
    """The history around a violation: what was done to its resource, and by the nemesis."""
    names = {e["lease"] for e in events if e.do == "acquired" and e["resource"] == violation.resource}
    near = [
        event
        for event in events
        if -_BEFORE <= event.t - violation.t <= _AFTER
        and (
            event.about.get("lease") in names
            or (event.about.get("resource") == violation.resource)
            or event.who == "nemesis"
        )
    ]
    begun = events[0].t
    return [
        f"  {event.t - begun:9.3f} s  {event.who:9} {event.do:11} {_about(event, begun)}" for event in near[-_LINES:]
    ]


def _about(event: Event, begun: float) -> str:
    shown = []
    for name, value in event.about.items():
        if name in ("until", "asked", "begun"):
            shown.append(f"{name} {value - begun:.3f}" if value else f"{name} over")
        elif name == "why":
            shown.append(str(value) or "ok")
        elif name not in ("most", "resource"):
            shown.append(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}")
    return "  ".join(shown)
