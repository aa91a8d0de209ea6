"""Permits' keys: which keys are one's, and of which semaphore."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from redlock_cluster.core.permit import PERMITS, permit_key, permit_of, resource_key, semaphore_key
from redlock_cluster.core.queue import semaphore_in, side_keys
from redlock_cluster.core.resource import resource_bytes

AT = b"redlock:r:redlock:semaphore"


@given(st.binary(max_size=40), st.sampled_from(range(64)))
def test_permit_is_known_by_its_key(key: bytes, number: int) -> None:
    at = semaphore_key(key)
    permit = permit_key(at, number)
    assert permit_of(permit) == (at, number)
    assert PERMITS[number].place(key) == permit
    assert PERMITS[number].waits_at(permit) == semaphore_in(permit) == at
    assert (resource_key(at), resource_key(key)) == (key, key)
    assert side_keys(permit) == (permit, *side_keys(at)[1:])


@given(st.binary(max_size=40).filter(lambda key: b":redlock:semaphore:" not in key))
def test_any_other_key_is_none(key: bytes) -> None:
    assert permit_of(key) is None
    assert semaphore_in(key) is key


@pytest.mark.parametrize(
    "key", [b"", b"r", b":held", b"d:held", AT, AT + b"12345678", AT + b":xx:held", AT + b":07:hel"]
)
def test_keys_that_look_like_it_are_none(key: bytes) -> None:
    assert permit_of(key) is None


@pytest.mark.parametrize("end", [":redlock:semaphore:07:held", ":redlock:semaphore", ":redlock:size"])
def test_resources_are_not_named_so(end: str) -> None:
    with pytest.raises(ValueError, match="a resource must not"):
        resource_bytes("r" + end)
