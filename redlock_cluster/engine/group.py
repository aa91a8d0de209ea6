"""One group of servers that vote together: starts rounds and says how they ended."""

from __future__ import annotations

import asyncio
from binascii import crc32

from redlock_cluster.core.lease_record import LeaseRecord, LeaseState
from redlock_cluster.core.resource import Resource, resource_text
from redlock_cluster.core.tally import Outcome, quorum_of
from redlock_cluster.core.timing import Timing
from redlock_cluster.core.votes import ServerVote, Token, Verdict
from redlock_cluster.engine.acquire import Attempt, Inspection
from redlock_cluster.engine.release import Extension, Release, give_back
from redlock_cluster.errors import (
    Contended,
    LeaseLost,
    LockNotAcquired,
    NotHeld,
    QuorumUnavailable,
    RedlockError,
)
from redlock_cluster.options import DeploymentOptions, GroupOptions
from redlock_cluster.wire.deadlines import Deadlines
from redlock_cluster.wire.flusher import Outbox
from redlock_cluster.wire.pipeline import Lane
from redlock_cluster.wire.pool import GroupStatus, Server, ServerState
from redlock_cluster.wire.ports import Ports

__all__ = ["Group"]


class Group:
    """An odd number of servers; a quorum of them grants a lock.

    lanes: one for each place in the pools; all commands for one key use one lane
    extensions: the rounds under way, by the lease's token: rounds on one lease never overlap
    """

    def __init__(
        self,
        group: GroupOptions,
        options: DeploymentOptions,
        ports: Ports,
        outbox: Outbox,
        deadlines: Deadlines,
        owner: bytes,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.name, self.weight = group.name, group.weight
        self.clock, self.outbox, self.deadlines = ports.clock, outbox, deadlines
        self.timing = Timing(options.drift_factor, options.server_timeout)
        self.size = len(group.servers)
        self.servers = tuple(Server(s, i, options, ports, outbox) for i, s in enumerate(group.servers))
        self.names = tuple(server.name for server in self.servers)
        self.lanes = tuple(
            Lane(links, self.clock, outbox, deadlines) for links in zip(*(s.links for s in self.servers), strict=True)
        )
        self.extensions: dict[Token, Extension] = {}
        self._entropy, self._label = ports.entropy, b"@" + owner

    def lane(self, key: bytes) -> Lane:
        """The connections that carry a key's commands; crc32, so that every process on one machine behaves alike."""
        lanes = self.lanes
        return lanes[crc32(key) % len(lanes)] if len(lanes) > 1 else lanes[0]

    def new_token(self) -> Token:
        """A token for one attempt."""
        return Token(self._entropy.token() + self._label)

    # --- acquire ---------------------------------------------------------------------------------------------------

    def outcome(self, attempt: Attempt) -> LeaseRecord | LockNotAcquired:
        """What a decided attempt came to; a lease that ran out meanwhile is given back."""
        lease = attempt.lease
        if lease is not None:
            if self.clock() < lease.valid_until:
                attempt.lease = None  # the caller's from now on: abandoning the attempt does not give it back
                return lease
            attempt.abandon()
            attempt.too_late()
        return self._refusal(attempt)

    def _refusal(self, attempt: Attempt) -> LockNotAcquired:
        tally = attempt.tally
        verdict = tally.verdict
        resource = resource_text(attempt.resource)
        if verdict is Verdict.UNAVAILABLE:
            late = tally.granted.bit_count() >= tally.quorum
            text = "the quorum came too late" if late else "too many servers of its group did not vote"
            return QuorumUnavailable(f"{resource!r} is not locked: {text}", *self._context(attempt, attempt.resource))
        text = "somebody holds it" if verdict is Verdict.HELD else "contenders split the vote"
        return Contended(f"{resource!r} is not locked: {text}", *self._context(attempt, attempt.resource))

    def _context(
        self, of: Attempt | Release | Extension | Inspection, resource: Resource
    ) -> tuple[str, str, tuple[ServerVote, ...], float]:
        return resource_text(resource), self.name, of.votes(self.names), self.clock() - of.started

    # --- release ---------------------------------------------------------------------------------------------------

    def begin_release(self, record: LeaseRecord) -> Release | RedlockError:
        """Sends the release of a lease, or says why there is nothing to release."""
        now = self.clock()
        if not record.begin_release(now):
            name = resource_text(record.resource)
            if record.state(now) is LeaseState.LOST:
                give_back(self, record)
                return LeaseLost(f"the lease on {name!r} had ended before its release", name, self.name)
            return NotHeld(f"{name!r} was released before", name, self.name)
        return Release(self, record.key, record.token, self.timing.patience(record.ttl_ms), record).begin()

    def begin_release_token(self, key: bytes, token: Token) -> Release:
        """Sends the release of a token string, without a lease at hand."""
        return Release(self, key, token, self.timing.server_timeout, None).begin()

    def released(self, release: Release, resource: Resource) -> RedlockError | None:
        """What a decided release came to: None when a quorum did it, else why that can't be said."""
        outcome = release.outcome
        if outcome is Outcome.DONE:
            return None
        context = self._context(release, resource)
        if outcome is Outcome.GONE:
            return LeaseLost(f"{context[0]!r} was no longer held when it was released", *context)
        return QuorumUnavailable(f"whether {context[0]!r} was released is unknown", *context)

    # --- extend ----------------------------------------------------------------------------------------------------

    def extended(self, extension: Extension, record: LeaseRecord) -> RedlockError | None:
        """What an extension came to: None when a quorum did it in time, else why not."""
        if record.remaining(self.clock()) and extension.outcome is Outcome.DONE:
            return None
        context = self._context(extension, record.resource)
        if record.state(self.clock()) is LeaseState.LOST:
            give_back(self, record)
            return LeaseLost(f"the lease on {context[0]!r} is lost", *context)
        if record.release_asked:
            return NotHeld(f"{context[0]!r} was released", *context)
        return QuorumUnavailable(f"whether the lease on {context[0]!r} was extended is unknown", *context)

    def extended_token(self, extension: Extension, resource: Resource) -> LeaseRecord | RedlockError:
        """What an extension by a token string came to: a lease of its own when a quorum still knew the token."""
        outcome, context = extension.outcome, self._context(extension, resource)
        if outcome is Outcome.GONE or (outcome is Outcome.DONE and self.clock() >= extension.valid_until):
            return LeaseLost(f"{context[0]!r} is not held by this token", *context)
        if outcome is not Outcome.DONE:
            return QuorumUnavailable(f"whether {context[0]!r} was extended is unknown", *context)
        ttl_ms, everyone = extension.terms.ttl_ms, (1 << self.size) - 1
        record = LeaseRecord(resource, extension.key, extension.token, ttl_ms, extension.valid_until, everyone)
        record.extension = extension
        return record

    # --- look ------------------------------------------------------------------------------------------------------

    def is_locked(self, inspection: Inspection, resource: Resource) -> bool | QuorumUnavailable:
        """Whether a quorum of servers named one holder of the key."""
        votes = inspection.tally
        if votes.verdict is Verdict.UNAVAILABLE or (votes.verdict is Verdict.SPLIT and votes.may_be_held()):
            text = f"whether {resource_text(resource)!r} is locked is unknown"
            return QuorumUnavailable(text, *self._context(inspection, resource))
        return votes.verdict is Verdict.HELD

    def status(self) -> GroupStatus:
        """What is known of the group now."""
        servers = tuple(server.status() for server in self.servers)
        able = sum(s.state in (ServerState.UP, ServerState.PARTIAL) for s in servers)
        return GroupStatus(self.name, self.weight, servers, able >= quorum_of(self.size))
