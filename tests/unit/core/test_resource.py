"""Resources: one normal form whatever type they come in."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from redlock_cluster.core.queue import SIDE_KEYS
from redlock_cluster.core.resource import MAX_RESOURCE_BYTES, resource_bytes, resource_text


@pytest.mark.parametrize("text", ["x", "Grüße", "名前", "a b\n\0", "🔒"])
def test_text_and_its_utf8_are_the_same_resource(text: str) -> None:
    assert resource_bytes(text) == resource_bytes(text.encode()) == text.encode()


ANY_BYTES = st.binary(min_size=1, max_size=64).filter(lambda data: not data.endswith(SIDE_KEYS)) | st.builds(
    lambda part, length: (part * length)[:length],
    st.binary(min_size=1, max_size=4),
    st.sampled_from([255, 4096, MAX_RESOURCE_BYTES - 1, MAX_RESOURCE_BYTES]),
)


@given(ANY_BYTES)
def test_any_bytes_survive_the_way_through_text(data: bytes) -> None:
    assert resource_bytes(resource_text(data)) == data


@given(st.text(st.characters(), min_size=1, max_size=64))
def test_any_text_has_a_normal_form_that_is_stable(text: str) -> None:
    assume(not text.endswith(tuple(end.decode() for end in SIDE_KEYS)))
    data = resource_bytes(text)
    assert resource_bytes(resource_text(data)) == data
    assert resource_text(text) == text


def test_a_lone_surrogate_routes_and_locks() -> None:
    assert resource_bytes("\ud800") == b"\xed\xa0\x80"
    assert resource_bytes("a\udc80") == b"a\x80"


@given(ANY_BYTES, ANY_BYTES)
def test_different_bytes_are_different_resources(one: bytes, other: bytes) -> None:
    assert (resource_bytes(one) == resource_bytes(other)) is (one == other)
    assert (resource_text(one) == resource_text(other)) is (one == other)


@pytest.mark.parametrize("data", [b"*3\r\n$3\r\nDEL\r\n", b"\0", b"\r\n", b"{a}{b}", b"\xed\xa0\x80", b"\xff" * 9])
def test_bytes_that_mean_something_elsewhere_mean_nothing_here(data: bytes) -> None:
    assert resource_bytes(data) == resource_bytes(resource_text(data)) == data


@pytest.mark.parametrize("empty", ["", b""])
def test_an_empty_resource_is_refused(empty: str | bytes) -> None:
    with pytest.raises(ValueError, match="empty"):
        resource_bytes(empty)


@pytest.mark.parametrize("wrong", [None, 5, 1.5, ["x"], bytearray(b"x")])
def test_other_types_are_refused(wrong: object) -> None:
    with pytest.raises(TypeError, match=type(wrong).__name__):
        resource_bytes(wrong)  # type: ignore[arg-type]


def test_64_kib_is_the_most() -> None:
    assert len(resource_bytes("x" * MAX_RESOURCE_BYTES)) == MAX_RESOURCE_BYTES == 64 * 1024
    with pytest.raises(ValueError, match="65536"):
        resource_bytes("x" * (MAX_RESOURCE_BYTES + 1))
    for text in ("é" * (MAX_RESOURCE_BYTES // 2 + 1), "\udc80" * (MAX_RESOURCE_BYTES + 1)):
        with pytest.raises(ValueError, match="65536") as caught:
            resource_bytes(text)
        assert len(str(caught.value)) < 100


@pytest.mark.parametrize("end", SIDE_KEYS)
def test_names_of_side_keys_are_refused(end: bytes) -> None:
    for resource in (b"x" + end, end):
        with pytest.raises(ValueError, match=end.decode()):
            resource_bytes(resource)
    assert resource_bytes(end + b"x") == end + b"x"
