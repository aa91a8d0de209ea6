"""Tickets: a lease as text, and what is no ticket."""

from __future__ import annotations

import re
from typing import Any, cast
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock_cluster.core.exclusive import EXCLUSIVE
from redlock_cluster.core.ticket import Ticket
from redlock_cluster.core.token import Token

TOKEN = Token(b"0123456789abcdefghijkl@host:7")
TICKET = Ticket(b"invoice:42", TOKEN, EXCLUSIVE, 30_000, True)


def sealed(body: str) -> str:
    """Text with the checksum that a ticket would have."""
    return f"{body}.{crc32(body.encode()):08x}"


@given(st.binary(min_size=1), st.binary(min_size=1), st.integers(1, 10**9), st.booleans())
def test_a_ticket_is_read_as_it_was_written(resource: bytes, token: bytes, ttl_ms: int, extends: bool) -> None:
    ticket = Ticket(resource + b"!", Token(token), EXCLUSIVE, ttl_ms, extends)
    text = ticket.written()
    assert re.fullmatch(r"[A-Za-z0-9_.-]+", text)
    assert Ticket.read(text) == ticket


def test_the_form_of_a_ticket_stays() -> None:
    """Processes of several versions of the library read each other's."""
    assert TICKET.written() == (
        "redlock-lease-1.exclusive.30000.extends.MDEyMzQ1Njc4OWFiY2RlZmdoaWprbEBob3N0Ojc.aW52b2ljZTo0Mg.b0f637f9"
    )


def test_every_cut_and_every_change_of_a_letter_is_noticed() -> None:
    text = TICKET.written()
    wrong = [text[:end] for end in range(len(text))]
    wrong += [text[:at] + ("x" if text[at] != "x" else "y") + text[at + 1 :] for at in range(len(text))]
    for damaged in [*wrong, text + "0", " " + text, text + "\n", text.upper(), text * 2]:
        with pytest.raises(ValueError, match="ticket"):
            Ticket.read(damaged)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "redlock-lease-1",
        "redlock-lease-1.exclusive.30000.extends.MDEy",
        "redlock-lease-1.exclusive.30000.extends.MDEy.YQ.YQ",
        "redlock-lease-1.exclusive.0.extends.MDEy.YQ",
        "redlock-lease-1.exclusive.-5.extends.MDEy.YQ",
        "redlock-lease-1.exclusive.99999999999999999999.extends.MDEy.YQ",
        "redlock-lease-1.exclusive.many.extends.MDEy.YQ",
        "redlock-lease-1.exclusive.30000.perhaps.MDEy.YQ",
        "redlock-lease-1.exclusive.30000.ends..YQ",
        "redlock-lease-1.exclusive.30000.ends.MDEy.",
        "redlock-lease-1.exclusive.30000.ends.M.YQ",
        "redlock-lease-1.exclusive.30000.ends.MDEy.YTpyZWRsb2NrOnF1ZXVl",
    ],
)
def test_what_holds_no_lease_is_no_ticket(body: str) -> None:
    with pytest.raises(ValueError, match="no ticket") as caught:
        Ticket.read(sealed(body))
    assert "MDEy" not in str(caught.value)


def test_what_this_version_can_not_know_is_said() -> None:
    with pytest.raises(ValueError, match="another version"):
        Ticket.read(sealed("redlock-lease-3.whatever"))
    with pytest.raises(ValueError, match="kind of lock"):
        Ticket.read(sealed("redlock-lease-1.permit.30000.ends.MDEy.YQ"))


@pytest.mark.parametrize("value", [None, 5, b"redlock-lease-1", TICKET])
def test_what_is_no_text_is_a_type_error(value: object) -> None:
    with pytest.raises(TypeError, match="a ticket is a str"):
        Ticket.read(cast(Any, value))


def test_a_ticket_that_is_printed_shows_no_token() -> None:
    assert "0123456789" not in repr(TICKET)
