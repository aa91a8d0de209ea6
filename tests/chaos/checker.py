"""Judges merged histories.

exclusion    no two leases on one resource are valid at once. A lease counts from the moment its acquisition returned
             until its `valid_until`, or the moment its release was asked for. Beside these times, which are of one
             clock for all processes, there is a proof without clocks: who was valid after meeting another's mark in
             the critical section, and the other was still valid after it had taken the mark away.
truth        nothing is acquired, extended or released while a majority of servers is out of reach, and an attempt made
             then is refused as an outage; a lease is not said to be lost while it is valid, nor released after it.
             (No quorum can forget within a validity: servers that come back empty stay away for the greatest ttl.)
progress     every resource is acquired in every calm, and by somebody in every place of a worker; in the end every
             supervisor is connected to every server again and no release is pending.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from .actor import TIMING
from .event_log import Event, slot_of
from .schedule import SERVERS

__all__ = ["Lease", "Violation", "judge", "leases_of", "outages"]

_ALWAYS: Final = float("inf")


@dataclass(frozen=True, slots=True)
class Violation:
    """What was wrong, when (engine time), and on which resource ("" for none)."""

    text: str
    t: float
    resource: str = ""


@dataclass
class Lease:
    """A lease as its owner believed in it.

    since: when its acquisition had returned
    until, most: the least and the most that its `valid_until` can be; one that was over when its owner looked keeps the
        least that was known before
    ended: when its release was asked for, or its owner was told that it is lost
    """

    name: str
    resource: str
    token: str
    since: float
    until: float
    most: float
    ended: float = _ALWAYS
    by: str = ""

    @property
    def end(self) -> float:
        """Until when nobody else may hold the resource."""
        return min(self.until, self.ended)

    def __str__(self) -> str:
        return f"{self.name} (…{self.token})"


def judge(events: Sequence[Event], resources: Iterable[str]) -> list[Violation]:
    """Everything that is wrong in a history, by time."""
    leases, untrue = leases_of(events)
    found = [*untrue, *_overlaps(leases.values()), *_meetings(events, leases)]
    found += [*_wonders(events, leases), *_standstills(events, resources), *_unrecovered(events)]
    return sorted(found, key=lambda violation: violation.t)


def leases_of(events: Iterable[Event]) -> tuple[dict[str, Lease], list[Violation]]:
    """All leases by name, and where the history of a single lease contradicts itself."""
    leases: dict[str, Lease] = {}
    untrue: list[Violation] = []
    for event in events:
        if event.do == "acquired":
            about = event.about
            leases[event["lease"]] = Lease(
                event["lease"], about["resource"], about["token"], event.t, about["until"], about["most"]
            )
        elif event.do in _STEPS:
            lease = leases[event["lease"]]
            if wrong := _STEPS[event.do](lease, event):
                untrue.append(Violation(f"{lease} {wrong}", event.t, lease.resource))
    return leases, untrue


def _extending(lease: Lease, event: Event) -> str:
    """Servers may take the new ttl unheard, so a shorter one counts from now on."""
    lease.until = min(lease.until, event.t + TIMING.terms(event["ttl"]).validity)
    return ""


def _extended(lease: Lease, event: Event) -> str:
    if event["why"] == "not_held":
        return _told_lost(lease, event)
    wrong = ""
    if not event["why"] and event["asked"] >= lease.most:
        wrong = "was extended although its validity had run out"
    if event["until"]:
        lease.until = event["until"]
    lease.most = event["most"]
    return wrong


def _releasing(lease: Lease, event: Event) -> str:
    lease.ended, lease.by = min(lease.ended, event.t), event["by"]
    return ""


def _released(lease: Lease, event: Event) -> str:
    if event["why"] == "not_held":
        return _told_lost(lease, event)
    if event["why"] == "" and lease.by == "lease" and event["asked"] >= lease.most:
        return "was told to be released although its validity had run out"
    return "was released once and told to be released before" if event["why"] == "again" else ""


def _told_lost(lease: Lease, event: Event) -> str:
    still = lease.until - event.t
    lease.ended = min(lease.ended, event.t)
    return f"was told to be lost {still:.3f} s before its validity ran out" if still > 0 else ""


def _looked(lease: Lease, event: Event) -> str:
    return "was said to be held by nobody while it was valid" if event["valid"] and not event["locked"] else ""


_STEPS: Final = {
    "extending": _extending,
    "extended": _extended,
    "releasing": _releasing,
    "released": _released,
    "looked": _looked,
}


def _overlaps(leases: Iterable[Lease]) -> list[Violation]:
    found = []
    latest: dict[str, Lease] = {}
    for lease in sorted(leases, key=lambda lease: lease.since):
        before = latest.get(lease.resource)
        if before is not None and lease.since < min(before.end, lease.end):
            overlap = min(before.end, lease.end) - lease.since
            text = f"{before} and {lease} were both valid for {overlap * 1000:.1f} ms"
            found.append(Violation(text, lease.since, lease.resource))
        if before is None or lease.end > before.end:
            latest[lease.resource] = lease
    return found


def _meetings(events: Sequence[Event], leases: Mapping[str, Lease]) -> list[Violation]:
    stayed_valid = {event["lease"] for event in events if event.do == "left" and event["valid"]}
    return [
        Violation(
            f"{leases[event['lease']]} and {leases[event['other']]} met in the critical section, both valid",
            event.t,
            leases[event["lease"]].resource,
        )
        for event in events
        if event.do == "met" and event["valid"] and event["other"] in stayed_valid
    ]


def outages(events: Iterable[Event]) -> list[tuple[float, float]]:
    """When a majority of servers was surely out of reach, from and to."""
    away: set[int] = set()
    found: list[tuple[float, float]] = []
    since: float | None = None
    for event in events:
        if event.do == "unreachable":
            away.add(event["server"])
        elif event.do == "reachable":
            away.discard(event["server"])
        if len(away) > SERVERS // 2 and since is None:
            since = event.t
        elif len(away) <= SERVERS // 2 and since is not None:
            found.append((since, event.t))
            since = None
    return found


def _wonders(events: Sequence[Event], leases: Mapping[str, Lease]) -> list[Violation]:
    """What was begun and ended while a majority was out of reach, and yet was a success or contention."""
    found, spans = [], outages(events)
    for event in events:
        asked = event.about.get("asked")
        if asked is None or not any(begin <= asked and event.t <= end for begin, end in spans):
            continue
        resource = event.about.get("resource") or leases[event["lease"]].resource
        if event.do == "acquired" or (event.do in ("extended", "released") and event["why"] == ""):
            text = f"{event['lease']} was {event.do} while a majority of servers was out of reach"
            found.append(Violation(text, event.t, resource))
        elif event.do == "refused" and event["why"] in ("held", "split"):
            text = f"{event.who} was told {event['why']} while a majority of servers was out of reach"
            found.append(Violation(text, event.t, resource))
    return found


def _standstills(events: Sequence[Event], resources: Iterable[str]) -> list[Violation]:
    acquired = [event for event in events if event.do == "acquired"]
    places = {slot_of(event.who) for event in events if event.do == "started"}
    found = []
    for calm in (event for event in events if event.do == "calm"):
        within = [event for event in acquired if calm["begun"] < event.t <= calm.t]
        span = f"in a calm of {calm.t - calm['begun']:.1f} s"
        missing = set(resources) - {event["resource"] for event in within}
        found += [Violation(f"nobody acquired {name} {span}", calm.t, name) for name in sorted(missing)]
        idle = places - {slot_of(event.who) for event in within}
        found += [Violation(f"worker {slot} acquired nothing {span}", calm.t) for slot in sorted(idle)]
    return found


def _unrecovered(events: Iterable[Event]) -> list[Violation]:
    return [
        Violation(f"at the end of worker {event.who} {wrong}", event.t)
        for event in events
        if event.do == "recovered"
        for wrong in event["wrong"]
    ]
