"""The ring: the same as libketama's and uhashring's, stable, and fair by weight."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from uhashring import HashRing

from redlock_cluster.core.queue import SIDE_KEYS
from redlock_cluster.core.ring import Ring

# Hypothesis tries the constants of the code that it runs, among them how side keys end.
RESOURCES = st.text(st.characters(codec="utf-8"), min_size=1).filter(lambda text: not text.encode().endswith(SIDE_KEYS))
NAMES = st.dictionaries(st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), st.integers(1, 5), min_size=1)


@given(NAMES, RESOURCES)
def test_text_routes_as_uhashring_does(weights: dict[str, int], resource: str) -> None:
    reference = HashRing({name: {"weight": weight} for name, weight in weights.items()}, hash_fn="ketama")
    assert Ring(weights).group_for(resource) == reference.get_node(resource)


@given(st.binary(min_size=1).filter(lambda data: not data.endswith(SIDE_KEYS)))
def test_bytes_route_by_the_md5_of_themselves(resource: bytes) -> None:
    weights = {"alpha": 1, "beta": 1, "gamma": 1}
    points = sorted(
        (int.from_bytes(hashlib.md5(f"{name}-{i}".encode()).digest()[4 * r : 4 * r + 4], "little"), name)
        for name in weights
        for i in range(40)
        for r in range(4)
    )
    place = int.from_bytes(hashlib.md5(resource).digest()[:4], "little")
    expected = next((name for position, name in points if position > place), points[0][1])
    assert Ring(weights).group_for(resource) == expected


def test_known_resources_keep_their_group_from_release_to_release() -> None:
    ring = Ring({"alpha": 1, "beta": 1, "gamma": 1})
    routed = {r: ring.group_for(r) for r in ("invoice:1", "invoice:2", "invoice:3", "Grüße", b"\xff\x00")}
    assert routed == {
        "invoice:1": "beta",
        "invoice:2": "gamma",
        "invoice:3": "gamma",
        "Grüße": "gamma",
        b"\xff\x00": "gamma",
    }


@given(NAMES, RESOURCES)
def test_a_string_and_its_utf8_route_alike_in_any_order_of_groups(weights: dict[str, int], resource: str) -> None:
    backwards = Ring(dict(reversed(weights.items())))
    assert Ring(weights).group_for(resource) == backwards.group_for(resource.encode())


def test_shares_follow_the_weights() -> None:
    ring = Ring({"small": 1, "large": 3})
    routed = [ring.group_for(f"resource:{i}") for i in range(8000)]
    assert routed.count("large") / len(routed) == pytest.approx(0.75, abs=0.05)


def test_a_removed_group_moves_only_its_own_resources() -> None:
    before, after = Ring({"a": 1, "b": 1, "c": 1}), Ring({"a": 1, "b": 1})
    resources = [f"resource:{i}" for i in range(2000)]
    moved = [r for r in resources if before.group_for(r) != after.group_for(r)]
    assert moved
    assert {before.group_for(r) for r in moved} == {"c"}
