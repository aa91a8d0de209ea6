"""What every test shares: an environment without options of the machine it runs on."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDLOCK_OPTIONS", raising=False)
