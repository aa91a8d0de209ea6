"""What several files of these tests need."""

from __future__ import annotations

import pytest

from redlock_cluster.engine import deployments


@pytest.fixture
def everybody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    """The start waits for every server, as busy as the machine may be; else for a quorum and a moment."""
    monkeypatch.setattr(deployments, "START_GRACE", 60.0)
