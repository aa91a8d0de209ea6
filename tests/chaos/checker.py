"""Judges merged histories.

exclusion    no two leases on one resource are valid at once. A lease counts from the moment its acquisition returned
             until its `valid_until`, or the moment its release was asked for. Beside these times, which are of one
             clock for all processes, there is a proof without clocks: who was valid after meeting another's mark in
             the critical section, and the other was still valid after it had taken the mark away.
truth        nothing is acquired, extended or released while a majority of servers is out of reach, and an attempt made
             then is refused as an outage; a lease is not said to be lost while it is valid, nor released after it.
             But a minority of servers forgets at any time what it granted, and is back at once: a lease that had no
             more servers than it needs is lost then, and nobody else has it before its validity is over.
progress     every resource is acquired in every calm, or seen to be held, and somebody in every place of a worker
             acquires one; in the end every supervisor is connected to every server again, no release is pending, it
             stands in no line and extends nothing.
keeping      a lease that extends itself ends a validity after a majority was out of reach or its process was paused, if
             that lasts so long, and with `max_hold`. Whoever asked to hear of its loss is told once, at its end (pauses
             and a busy machine aside), and not of one that is valid, or was released, given away or forgotten. Nobody
             else has a lease between its hand-over and its adoption. When nothing was damaged for long enough, it does
             not expire (but for a few, on a busy machine), and is on every server.
waiting      who waits when a calm begins has the lock, or has ended its wait, before the calm ends; in a calm no lock
             is free for long while somebody waits; a wait in seconds ends in time; in the end nobody waits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from .contender import TIMING
from .event_log import Event, slot_of
from .schedule import HANDOVER, HEALED, SERVERS, Kind, Phase
from .waits import Wait, waits_of

__all__ = [
    "Lease",
    "Pauses",
    "Violation",
    "idle_times",
    "judge",
    "lateness",
    "leases_of",
    "outages",
    "samples_when_well",
]

_ALWAYS: Final = float("inf")
_FORGET: Final = (Kind.KILL.value, Kind.RESTART.value, Kind.FLUSH.value)
"""Faults after which a server may be back without its keys."""
_OVERTIME: Final = 0.5
"""Seconds that a last attempt may take beyond the wait."""
_BUSY: Final = 2.0
"""Seconds by which a busy machine may delay a call."""
_TOLD: Final = 1.0
"""Seconds after the end of its validity by which the loss of a lease is told, on a busy machine."""
_KNOWN: Final = 2.0
"""Seconds that a lease must have been held before it has to be on every server."""
_BACK: Final = 0.5
"""Seconds within which a quorum of servers answers again, once nothing is damaged any more."""
_BUSY_LOSSES: Final = 3
"""Leases that a busy machine may let expire in a run."""
_JUST: Final = 0.1
"""A lease that was forgotten so shortly before its end may be told lost all the same, seconds."""


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
    validity: seconds that it is valid after each extension; extends: whether it extends itself
    max_hold: seconds for which it is held at most, None for ever
    hears: whether its loss is to be told; told: when it was, and since when it was over then, engine times
    over: when its owner first saw that it is over
    given: what was known to have become of it before its end: released, given away, or forgotten; and since when
    robbed: when a server may have forgotten it first
    """

    name: str
    resource: str
    token: str
    since: float
    until: float
    most: float
    ended: float = _ALWAYS
    by: str = ""
    validity: float = 0.0
    extends: bool = False
    max_hold: float | None = None
    hears: bool = False
    told: list[tuple[float, float]] = field(default_factory=list)
    over: float = _ALWAYS
    given: tuple[str, float] | None = None
    robbed: float = _ALWAYS

    @property
    def end(self) -> float:
        """Until when nobody else may hold the resource."""
        return min(self.until, self.ended)

    def __str__(self) -> str:
        return f"{self.name} (…{self.token})"


def judge(events: Sequence[Event], resources: Iterable[str]) -> list[Violation]:
    """Everything that is wrong in a history, by time."""
    leases, untrue = leases_of(events)
    found = [*untrue, *_overlaps([*leases.values(), *_on_the_way(events, leases)]), *_meetings(events, leases)]
    found += [*_losses(events, leases.values()), *_needless(events, leases), *_lacking(events, leases)]
    found += [*_wonders(events, leases), *_standstills(events, resources), *_unrecovered(events)]
    waits = waits_of(events)
    found += [*_unserved(events, waits), *_idle(events, waits, leases), *_late(events, waits)]
    return sorted(found, key=lambda violation: violation.t)


def leases_of(events: Sequence[Event]) -> tuple[dict[str, Lease], list[Violation]]:
    """All leases by name, and where the history of a single lease contradicts itself."""
    leases: dict[str, Lease] = {}
    untrue: list[Violation] = []
    forgot = [event.t for event in events if event.do == "fault" and event["kind"] in _FORGET]
    for event in events:
        if event.do == "acquired":
            about = event.about
            leases[event["lease"]] = Lease(
                event["lease"],
                about["resource"],
                about["token"],
                event.t,
                about["until"],
                about["most"],
                robbed=min([t for t in forgot if t >= about.get("asked", event.t)], default=_ALWAYS),
                **{name: about[name] for name in _KEPT if name in about},
            )
        elif event.do in _STEPS:
            lease = leases[event["lease"]]
            if wrong := _STEPS[event.do](lease, event):
                untrue.append(Violation(f"{lease} {wrong}", event.t, lease.resource))
    for event in events:
        if event.do == "lost" and event["lease"] in leases:  # else its owner was killed before it knew that it had it
            leases[event["lease"]].told.append((event.t, event.t - event["ago"]))
            lease = leases[event["lease"]]
            if event["reason"] == "gone" and event.t < lease.robbed:
                untrue.append(
                    Violation(f"{lease} was told to be gone, which no quorum can be", event.t, lease.resource)
                )
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
    if event["why"] in ("", "unavailable"):
        lease.given = ("released", event["asked"])
    if event["why"] == "" and lease.by == "lease" and event["asked"] >= lease.most:
        return "was told to be released although its validity had run out"
    return "was released once and told to be released before" if event["why"] == "again" else ""


def _told_lost(lease: Lease, event: Event) -> str:
    still = lease.until - event.t
    lease.ended = min(lease.ended, event.t)
    return (
        f"was told to be lost {still:.3f} s before its validity ran out" if still > 0 and event.t < lease.robbed else ""
    )


def _looked(lease: Lease, event: Event) -> str:
    return "was said to be held by nobody while it was valid" if event["valid"] and not event["locked"] else ""


def _sampled(lease: Lease, event: Event) -> str:
    lease.most = event["most"]
    if not event["until"]:
        lease.over = min(lease.over, event.t)
        return ""
    lease.until = event["until"]
    return ""


def _dropped(lease: Lease, event: Event) -> str:
    lease.ended = min(lease.ended, event.t)
    if event["until"] > event.t + _JUST:
        lease.given = ("forgotten", event.t)
    return ""


def _detaching(lease: Lease, event: Event) -> str:
    lease.ended = min(lease.ended, event.t)
    return ""


def _detached(lease: Lease, event: Event) -> str:
    if event["why"] == "not_held":
        return _told_lost(lease, event)
    if not event["why"]:
        lease.given = ("given away", event.t)
    return ""


def _adopted(lease: Lease, event: Event) -> str:
    """By another owner; `lease` is what its first owner knew of it."""
    return _told_lost(lease, event) if event["why"] == "not_held" else ""


def _untold(_lease: Lease, _event: Event) -> str:
    return "was lost, and nobody was told"


_STEPS: Final = {
    "extending": _extending,
    "extended": _extended,
    "releasing": _releasing,
    "released": _released,
    "looked": _looked,
    "sampled": _sampled,
    "dropped": _dropped,
    "detaching": _detaching,
    "detached": _detached,
    "adopted": _adopted,
    "cancelled": _told_lost,
    "untold": _untold,
}
_KEPT: Final = ("validity", "extends", "max_hold", "hears")
"""What is known of leases that look after themselves."""


class Pauses:
    """When processes were held still.

    events: a history
    """

    def __init__(self, events: Iterable[Event]) -> None:
        self._pauses = [event for event in events if event.do == "fault" and event["kind"] == Kind.HALT.value]

    def of(self, who: str) -> list[tuple[float, float]]:
        """Those of somebody's process, from and to."""
        return [(at.t, at.t + at["lasts"]) for at in self._pauses if str(at["target"]) == slot_of(who)]

    def between(self, who: str, since: float, until: float) -> float:
        """Seconds between two times that somebody's process was paused."""
        return sum(max(0.0, min(end, until) - max(begin, since)) for begin, end in self.of(who))


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


def _on_the_way(events: Iterable[Event], leases: Mapping[str, Lease]) -> list[Lease]:
    """Leases from when they were given away until somebody asked for them and got them: nobody else has one."""
    given = {event["lease"]: event.t for event in events if event.do == "detached" and not event["why"]}
    return [
        Lease(f"{before} on its way to {event['lease']}", event["resource"], leases[before].token, t, asked, asked)
        for event in events
        if event.do == "acquired" and (before := event.about.get("after"))
        for t, asked in [(given[before], event["asked"])]
    ]


def _ends_by(lease: Lease, away: Iterable[tuple[float, float]], pauses: Pauses) -> float:
    """When a lease that extends itself must be over, whatever it believes.

    away: when no extension can succeed; nor can one begin while its process is paused
    """
    ends = [
        begin + lease.validity
        for begin, end in (*away, *pauses.of(lease.name))
        if begin > lease.since and begin + lease.validity < end
    ]
    return min(ends, default=_ALWAYS) if lease.max_hold is None else min([*ends, lease.since + lease.max_hold])


def _losses(events: Sequence[Event], leases: Iterable[Lease]) -> list[Violation]:
    """Leases that live on when they must be over; losses told twice, too early, too late, never, or for nothing."""
    away, pauses, found = outages(events), Pauses(events), []
    for lease in leases:
        end, told = _ends_by(lease, away, pauses) if lease.extends else _ALWAYS, [t for t, _ in lease.told]
        if lease.until > end:
            text = f"{lease} was valid {lease.until - end:.3f} s longer than it can have been"
            found.append(Violation(text, end, lease.resource))
        wrong = []
        if len(told) > 1:
            wrong.append("twice")
        if told and lease.until > told[0] and told[0] < lease.robbed:
            wrong.append(f"{lease.until - told[0]:.3f} s before its validity ran out")
        if told and lease.given is not None and told[0] > lease.given[1]:
            wrong.append(f"although it was {lease.given[0]}")
        found += [Violation(f"{lease} was told to be lost {text}", told[-1], lease.resource) for text in wrong]
    for lease, late, t in lateness(events, leases):
        if late > _TOLD:
            when = f"told to be lost {late:.1f} s after its end"
            found.append(Violation(f"{lease} was {when if lease.told else 'not ' + when}", t, lease.resource))
    return found


def lateness(events: Sequence[Event], leases: Iterable[Lease]) -> list[tuple[Lease, float, float]]:
    """Of each lease that was surely over, and whose loss was to be told: how long after its end that was done, or else
    was not done until its owner or its process ended; and when. Pauses of the process don't count.
    """
    away, pauses, found = outages(events), Pauses(events), []
    kills = [event for event in events if event.do == "fault" and event["kind"] == Kind.SLAY.value]
    last = events[-1].t if events else 0.0
    for lease in leases:
        if not lease.hears:
            continue
        killed = [kill.t for kill in kills if str(kill["target"]) == slot_of(lease.name) and kill.t > lease.since]
        told, over = lease.told[0] if lease.told else (min([lease.ended, last, *killed]), _ALWAYS)
        end = min(over, lease.over, _ends_by(lease, away, pauses) if lease.extends else lease.most)
        if end < told:
            found.append((lease, told - end - pauses.between(lease.name, end, told), told))
    return found


def _needless(events: Iterable[Event], leases: Mapping[str, Lease]) -> list[Violation]:
    """Leases that extend themselves and expired, although a quorum could answer for longer than they are valid."""
    since, found = _ALWAYS, []
    for event in events:
        if event.do == "phase":
            since = event.t + _BACK if event["name"] == Phase.CALM.value else _ALWAYS
        elif event.do == "lost" and event["reason"] == "expired":
            lease = leases.get(event["lease"])
            if lease is not None and lease.extends and event.t - event["ago"] > since + lease.validity:
                found.append((lease, event.t))
    if len(found) <= _BUSY_LOSSES:
        return []
    last, t = found[-1]
    text = f"{len(found)} leases that extend themselves expired although nothing was damaged, {last} the last of them"
    return [Violation(text, t, last.resource)]


def samples_when_well(events: Iterable[Event], leases: Mapping[str, Lease]) -> list[Event]:
    """Looks at valid leases that were held for a while, when nothing was damaged for long."""
    well, found = _ALWAYS, []
    for event in events:
        if event.do == "phase":
            well = event.t + HEALED if event["name"] == Phase.CALM.value else _ALWAYS
        elif event.do == "sampled" and event["until"] and event.t > max(well, leases[event["lease"]].since + _KNOWN):
            found.append(event)
    return found


def _lacking(events: Iterable[Event], leases: Mapping[str, Lease]) -> list[Violation]:
    return [
        Violation(
            f"{leases[event['lease']]} was on {event['on']} servers, and nothing was damaged for {HEALED:g} s",
            event.t,
            event["resource"],
        )
        for event in samples_when_well(events, leases)
        if event["on"] < SERVERS
    ]


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
    held = [event for event in events if event.do == "sampled" and event["until"]]
    places = {slot_of(event.who) for event in events if event.do == "started"}
    found = []
    for calm in (event for event in events if event.do == "calm"):
        within = [event for event in acquired if calm["begun"] < event.t <= calm.t]
        span = f"in a calm of {calm.t - calm['begun']:.1f} s"
        seen = {event["resource"] for event in held if calm["begun"] < event.t <= calm.t}
        missing = set(resources) - {event["resource"] for event in within} - seen
        found += [Violation(f"nobody acquired {name} {span}", calm.t, name) for name in sorted(missing)]
        idle = places - {slot_of(event.who) for event in within}
        found += [Violation(f"worker {slot} acquired nothing {span}", calm.t) for slot in sorted(idle)]
    return found


def _calms(events: Iterable[Event]) -> list[tuple[float, float]]:
    return [(event["begun"], event.t) for event in events if event.do == "calm"]


def _unserved(events: Sequence[Event], waits: Iterable[Wait]) -> list[Violation]:
    """Who waited all through a calm, or waits when everybody has ended."""
    found = []
    calms, end = _calms(events), events[-1].t if events else 0.0
    for wait in waits:
        for begun, t in calms:
            if wait.since <= begun and wait.end > t:
                text = f"{wait.who} waited for {wait.resource} all through a calm of {t - begun:.1f} s"
                found.append(Violation(text, t, wait.resource))
        if wait.end == _ALWAYS:
            text = f"{wait.who} waited for {wait.resource} for {end - wait.since:.1f} s when everybody had ended"
            found.append(Violation(text, end, wait.resource))
    return found


def idle_times(
    events: Iterable[Event], waits: Iterable[Wait], leases: Iterable[Lease]
) -> dict[str, tuple[float, float]]:
    """By resource: for how long at most, in a calm, somebody waited for it and nobody held it; and until when."""
    steps = defaultdict[str, list[tuple[float, int, int]]](list)
    for lease in leases:
        steps[lease.resource] += [(lease.since, 1, 0), (max(lease.since, lease.end), -1, 0)]
    for wait in waits:
        steps[wait.resource] += [(wait.since, 0, 1), (wait.end, 0, -1)]
    calms, longest = _calms(events), dict[str, tuple[float, float]]()
    for resource, of_one in steps.items():
        held = waiting = 0
        idle_since: float | None = None
        for t, more_held, more_waiting in sorted(of_one):
            held, waiting = held + more_held, waiting + more_waiting
            idle = waiting > 0 and held == 0
            if idle and idle_since is None:
                idle_since = t
            elif not idle and idle_since is not None:
                within = [(min(t, end) - max(idle_since, begun), min(t, end)) for begun, end in calms]
                longest[resource] = max(longest.get(resource, (0.0, 0.0)), *within, (0.0, 0.0))
                idle_since = None
    return longest


def _idle(events: Sequence[Event], waits: Iterable[Wait], leases: Mapping[str, Lease]) -> list[Violation]:
    return [
        Violation(f"nobody held {resource} for {idle:.1f} s in a calm, and somebody waited for it", t, resource)
        for resource, (idle, t) in idle_times(events, waits, leases.values()).items()
        if idle > HANDOVER
    ]


def _late(events: Sequence[Event], waits: Iterable[Wait]) -> list[Violation]:
    """Waits that lasted longer than they may; a process that is paused can't end them."""
    pauses, found = Pauses(events), []
    for wait in waits:
        if wait.patience is None or wait.end == _ALWAYS:
            continue
        late = wait.end - wait.since - wait.patience - pauses.between(wait.who, wait.since, wait.end)
        if late > _OVERTIME + _BUSY:
            text = f"{wait.who} waited for {wait.resource} {late:.1f} s longer than its {wait.patience:g} s"
            found.append(Violation(text, wait.end, wait.resource))
    return found


def _unrecovered(events: Iterable[Event]) -> list[Violation]:
    return [
        Violation(f"at the end of worker {event.who} {wrong}", event.t)
        for event in events
        if event.do == "recovered"
        for wrong in event["wrong"]
    ]
