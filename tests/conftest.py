"""What every test shares: an environment without options of the machine it runs on, and output without secrets."""

from __future__ import annotations

import signal

import pytest
from hypothesis import settings
from secrecy import SECRETS, install

settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")


PASSWORDS = ("tr0ub4dor-and-3", "wrong-one-9", "correct-horse-battery-staple", "Hunter2Swordfish")
"""Those that tests use where they don't get as far as a supervisor's options, which are remembered by themselves."""


def pytest_configure(config: pytest.Config) -> None:
    install(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell's background jobs ignore it, and so would the processes that tests start, and interrupt.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for password in PASSWORDS:
        SECRETS.password(password, "a password of the suite")


@pytest.fixture(autouse=True)
def no_options_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REDLOCK_OPTIONS", raising=False)
