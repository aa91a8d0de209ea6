"""The code of docs/fencing.md runs as it is written there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from redlock_cluster.testing import EmbeddedServer

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "fencing.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)

ABOUT_LOCKS = [block for block in BLOCKS if "lease.fence" in block]
"""They need a lock, and one of the functions of the others."""
STORES = [block for block in BLOCKS if block not in ABOUT_LOCKS]


@pytest.fixture
def redis_url() -> Iterator[str]:
    with EmbeddedServer() as server:
        yield f"redis://{server.name}"


def variables(code: str, request: pytest.FixtureRequest) -> dict[str, str]:
    """By which the servers are found that the code needs."""
    found: dict[str, str] = {}
    if "REDIS_URL" in code:
        found["REDIS_URL"] = request.getfixturevalue("redis_url")
    if "psycopg" in code:
        found |= request.getfixturevalue("postgres_variables")
    return found


def ran(code: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_the_page_has_the_blocks_that_are_tested_here() -> None:
    assert (len(ABOUT_LOCKS), len(STORES)) == (1, 7)


@pytest.mark.parametrize("code", STORES, ids=range(len(STORES)))
def test_a_store_is_used_as_it_says_and_refuses_a_smaller_fence(
    code: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """As it stands there, and then with a later fence and an earlier one as its last writes."""
    found = variables(code, request)
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
    done = ran(code, tmp_path / "first", found)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in {"", "b'the text' 34\n"}
    write = re.compile(r"^( *)(.*\bfence=)34\)$", re.MULTILINE)
    assert len(write.findall(code)) == 1
    done = ran(write.sub(r"\1\g<2>36)\n\1\g<2>35)", code), tmp_path / "second", found)
    assert done.returncode == 1
    # Python 3.13 warns of a connection behind that, which the page closes in its last line.
    refusal = r"^\S+\.StaleFence: .* was not written: fence 35 is over, .* with fence 36$"
    assert re.search(refusal, done.stderr, re.MULTILINE), done.stderr


@pytest.mark.parametrize("code", ABOUT_LOCKS, ids=range(len(ABOUT_LOCKS)))
def test_code_with_a_lock_is_python(code: str) -> None:
    compile(code, "docs/fencing.md", "exec")


def test_every_link_leads_somewhere() -> None:
    titles = re.findall(r"^#+ (.*)", TEXT, re.MULTILINE)
    anchors = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in titles}
    for target in re.findall(r"\]\(([^):]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / "docs" / file).exists(), target
        assert file or anchor in anchors, target
