"""Leases that look after themselves: they are held for several ttls, lost, forgotten, and handed over to others.

What such a lease believes is read from time to time, and `on_lost` writes down what it is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, Final

from redlock_cluster import RETRY, Contended, Err, LeaseLost, Ok, QuorumUnavailable, WaitCancelled

from .contender import CROWDED, LONGEST_WORK, TIMING, Contender, Held, validity_of, why_of
from .event_log import History, clock
from .faces import Face, Script
from .schedule import SERVERS
from .sections import Sections
from .tickets import Given, Tickets

__all__ = ["KEPT", "Keeping"]

KEPT: Final = ("kept-1", "kept-2", "kept-3", "kept-4")

_TTLS: Final = (0.4, 0.7, 1.0)
_WAITS: Final = (0, 0.3, 1.0, RETRY)
_SHORT: Final = (0.5, 2.0)
_LONG: Final = (3.0, 4.5)
"""Seconds that kept ones are held: up to five ttls, or for so long that every server has them, once all are well."""
_MAX_HOLD: Final = (0.3, 2.0)
_LOOKS: Final = (0.05, 0.4)
"""Seconds between two looks at a lease."""
_VOTES_COME: Final = 0.05
"""Seconds that the votes of the other servers may take after those of a quorum."""
_AGO: Final = re.compile(r"it expired (\S+) s ago")
_POLL: Final = 0.02
_POLLS: Final = 150
_ON_THE_WAY: Final = 0.5
"""Parts of its ttl that a lease is on its way to another owner at most, when nobody is damaged."""
_ADOPTS: Final = 8
_ADOPTS_EVERY: Final = 0.1


class Keeping(Contender):
    """An actor's ways to have a lease that looks after itself.

    tickets: the folder for leases that are handed over
    goes_on: whether its worker was not told to end
    """

    def __init__(
        self,
        who: str,
        face: Face,
        history: History,
        sections: Sections,
        chance: Random,
        tickets: Path,
        goes_on: Callable[[], bool],
    ) -> None:
        super().__init__(who, face, history, sections, chance)
        self._tickets, self._goes_on = Tickets(tickets), goes_on

    def _ways_to_keep(self) -> list[tuple[Callable[[], Script], float]]:
        """Each with its weight among all ways."""
        return [(self._keep, 2), (self._keep_by_mutex, 1.5), (self._keep_by_transaction, 0.7), (self._adopt, 8)]

    # --- ways to have one ------------------------------------------------------------------------------------------

    def _keep(self) -> Script:
        resource, ttl, wait = self._choice_to_keep()
        extends = self.chance.random() < 0.85
        name, told, terms = self._next(), list[str](), self._terms(extends)
        asked = self._asks(resource, wait)
        outcome = yield partial(
            self._redlock.lock, resource, ttl, wait=wait, on_lost=self._hearing(name, told), **terms
        )
        if not isinstance(outcome, Ok):
            self._refused(resource, asked, outcome)
            return
        held = self._kept(resource, asked, outcome.value, name, terms)
        del outcome  # whoever forgets the lease must not have it here
        yield from self._hold(held)
        yield from self._end(held, told, extends)

    def _adopt(self) -> Script:
        """Goes on with a lease that somebody gave away, if there is one."""
        given = self._tickets.take()
        if given is None:
            return
        name, told, terms = self._next(), list[str](), self._terms()
        for _ in range(_ADOPTS):
            asked = self._write("adopting", lease=given.lease)
            outcome = yield partial(self._redlock.adopt, given.ticket, on_lost=self._hearing(name, told), **terms)
            why = why_of(outcome)
            self._write("adopted", lease=given.lease, asked=asked, why=why)
            if why not in ("unavailable", "stuck"):
                break
            yield partial(self.face.sleep, _ADOPTS_EVERY)
        if not isinstance(outcome, Ok):
            return
        held = self._kept(given.resource, asked, outcome.value, name, terms, after=given.lease)
        del outcome
        yield from self._hold(held)
        yield from self._end(held, told, True)

    def _keep_by_mutex(self) -> Script:
        resource, ttl, wait = self._choice_to_keep()
        name, told, terms = self._next(), list[str](), self._terms()
        asked, inside = self._asks(resource, wait), list[Held]()
        releasing = 0.0

        def body(lease: Any) -> Script:
            nonlocal releasing
            inside.append(self._kept(resource, asked, lease, name, terms))
            yield from self._hold(inside[0])
            if inside[0].valid() and self.chance.random() < 0.4:
                yield from self._give_away(inside[0])
            else:
                releasing = self._write("releasing", lease=name, by="lease")

        call = partial(
            self.face.mutex, resource, ttl, wait, self._cancel_id(), body, on_lost=self._hearing(name, told), **terms
        )
        try:
            yield call
        except (Contended, QuorumUnavailable, WaitCancelled) as error:
            self._refused(resource, asked, Err("", error=error))
            return
        except LeaseLost:
            if releasing:
                self._write("released", lease=name, asked=releasing, why="not_held")
            elif inside:
                self._write("cancelled", lease=name)
        else:
            if releasing:
                known = inside[0].lease.state.value == "released"
                self._write("released", lease=name, asked=releasing, why="" if known else "unavailable")
        if not releasing and inside and inside[0].lease.lost:
            yield from self._hear_of_loss(inside[0], told)

    def _keep_by_transaction(self) -> Script:
        """Its lease is found among those of this process."""
        resource, ttl, wait = self._choice_to_keep()
        asked, inside = self._asks(resource, wait), list[Held]()

        def body() -> Script:
            held = [lease for lease in self._redlock.leases() if lease.resource == resource]
            if held:
                inside.append(self._kept(resource, asked, held[0], self._next(), {"auto_extend": True}, hears=False))
                del held
                yield from self._hold(inside[0])
                self._write("releasing", lease=inside[0].name, by="transaction")

        call = partial(self.face.transaction, resource, ttl, wait, self._cancel_id(), body, auto_extend=True)
        outcome: Any = None
        try:
            outcome = yield call
        except LeaseLost:
            if inside:
                self._write("cancelled", lease=inside[0].name)
        if isinstance(outcome, Err):
            self._refused(resource, asked, outcome)
        elif not inside:
            self._write("refused", resource=resource, asked=asked, why="over")

    # --- inside ----------------------------------------------------------------------------------------------------

    def _hold(self, held: Held) -> Script:
        """Stays inside for a while, or until the lease is over: asleep all the time, or looking at it."""
        if not held.valid():
            return
        self._enter(held)
        seconds, looks = self._seconds(held)
        end = clock() + seconds
        try:
            while held.valid() and (left := end - clock()) > 0 and self._goes_on():
                yield partial(self.face.sleep, min(left, self.chance.uniform(*_LOOKS)) if looks else left)
                yield from self._sample(held)
        finally:  # in asyncio a loss cancels bodies
            self._leave(held)

    def _seconds(self, held: Held) -> tuple[float, bool]:
        """How long to hold it, and whether to look at it meanwhile."""
        if held.resource in CROWDED:
            return self.chance.uniform(0.0, LONGEST_WORK), False
        if self.chance.random() < 0.35:
            return self.chance.uniform(*_LONG), True
        return self.chance.uniform(*_SHORT), self.chance.random() < 0.6

    def _sample(self, held: Held) -> Script:
        """What the lease believes, and on how many servers it is."""
        on = len(held.lease.held_on)
        if on < SERVERS:
            yield partial(self.face.sleep, _VOTES_COME)
            on = max(on, len(held.lease.held_on))
        until, most = validity_of(held.lease)
        self._write("sampled", lease=held.name, resource=held.resource, until=until, most=most, on=on)

    # --- the end ---------------------------------------------------------------------------------------------------

    def _end(self, held: Held, told: list[str], extends: bool) -> Script:
        """The lease is given back, given away or forgotten."""
        if not held.valid():
            yield from self._hear_of_loss(held, told)
        what = self.chance.random()
        if what < 0.15:
            if extends:
                until, _ = validity_of(held.lease)
                self._write("dropped", lease=held.name, until=until)
            held.forget()
        elif what < 0.55:
            yield from self._give_away(held)
        else:
            yield from self._release(held, by_token=what < 0.7)

    def _hear_of_loss(self, held: Held, told: list[str]) -> Script:
        """Waits until the loss of the lease, which is over, was told."""
        polls = 0
        while not told and polls < _POLLS:  # counted, because a process that is paused can't be told
            yield partial(self.face.sleep, _POLL)
            polls += 1
        if not told:
            self._write("untold", lease=held.name)

    def _give_away(self, held: Held) -> Script:
        self._write("detaching", lease=held.name)
        why = ""
        try:
            ticket = yield held.lease.detach
        except LeaseLost:
            why = "not_held"
        except QuorumUnavailable:
            why = "stuck"
        self._write("detached", lease=held.name, why=why)
        if not why:
            due = clock() + held.ttl * self.chance.uniform(0.0, _ON_THE_WAY)
            self._tickets.put(Given(held.name, held.resource, ticket, due))

    # --- what is written down --------------------------------------------------------------------------------------

    def _hearing(self, name: str, told: list[str]) -> Callable[[Any, Any], None]:
        """An `on_lost`, which has the lease only while it runs."""

        def on_lost(lease: Any, reason: Any) -> None:
            t, text = clock(), ""
            try:
                lease.raise_if_lost()
            except LeaseLost as error:
                text = str(error)
            ago = _AGO.search(text)
            self._write("lost", t, lease=name, reason=reason.value, ago=float(ago[1]) if ago else 0.0)
            told.append(reason.value)

        return on_lost

    def _kept(
        self,
        resource: str,
        asked: float,
        lease: Any,
        name: str,
        terms: dict[str, Any],
        hears: bool = True,
        after: str = "",
    ) -> Held:
        """As `_acquired`, with what is to be expected of the lease.

        hears: whether its loss is told; after: the lease that it goes on with
        """
        show_token = self.chance.random() < 0.5  # one whose token nobody has read is known to its engine alone
        return self._acquired(
            resource,
            asked,
            lease,
            name,
            show_token,
            validity=TIMING.terms(lease.ttl).validity,
            extends=terms["auto_extend"],
            max_hold=terms.get("max_hold"),
            hears=hears,
            after=after,
        )

    def _choice_to_keep(self) -> tuple[str, float, Any]:
        if self.chance.random() < 0.2:
            return self.chance.choice(CROWDED), self.chance.choice(_TTLS), self.chance.choice((None, 2.0, RETRY))
        return self.chance.choice(KEPT), self.chance.choice(_TTLS), self.chance.choice(_WAITS)

    def _terms(self, extends: bool = True) -> dict[str, Any]:
        """How a lease is to be kept, as arguments of `lock`."""
        bounded = extends and self.chance.random() < 0.2
        return {"auto_extend": extends, "max_hold": self.chance.uniform(*_MAX_HOLD) if bounded else None}
