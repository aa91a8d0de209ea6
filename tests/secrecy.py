"""What no output may contain: whole tokens and passwords. The output of every test is searched for them.

Tokens are known by their form and, without their label, by having been made here; passwords by having been given to a
supervisor in its options, or by `SECRETS.password`. (Not called `secrets`: the standard library has a module of that
name.)
"""

from __future__ import annotations

import logging
import re
import warnings
from collections import OrderedDict
from collections.abc import Generator
from typing import Final

import pytest
from pydantic import SecretStr

from redlock_cluster.wire.ports import SystemEntropy

_WHOLE: Final = re.compile(r"[0-9A-Za-z+/]{22}@")
_DIGITS: Final = re.compile(r"(?=([0-9A-Za-z+/]{22}))")
_SHORTEST: Final = 8
"""Characters; a shorter password would be found in texts that have nothing to do with it."""


class Secrets:
    """The secrets that were used, and where a text repeats one."""

    def __init__(self, most: int = 10_000) -> None:
        self._most = most
        self._digits: OrderedDict[str, None] = OrderedDict()
        self._passwords: dict[str, str] = {}

    def token(self, digits: str) -> None:
        """Remembers the random digits of a token; the oldest are forgotten."""
        self._digits[digits] = None
        if len(self._digits) > self._most:
            self._digits.popitem(last=False)  # in one step: several threads draw tokens

    def password(self, value: str, label: str) -> None:
        """Remembers a password; label: what a leak of it is called."""
        if len(value) >= _SHORTEST:
            self._passwords.setdefault(value, label)

    def hidden(self, text: str) -> str:
        """The text with a label in place of each secret."""
        for value, label in self._passwords.items():
            text = text.replace(value, f"<{label}>")
        text = _WHOLE.sub("<a token>@", text)
        for digits in {found[1] for found in _DIGITS.finditer(text)} & self._digits.keys():
            text = text.replace(digits, "<a token>")
        return text

    def leaks(self, text: str) -> list[str]:
        """Each line that repeats a secret: its number, and the line with labels in place of the secrets."""
        if self.hidden(text) == text:
            return []
        lines = text.splitlines()
        found = [(number, line, self.hidden(line)) for number, line in enumerate(lines, 1)]
        return [f"line {number}: {shown}" for number, line, shown in found if shown != line] or ["across lines"]


SECRETS: Final = Secrets()


class Secrecy:
    """A plugin: a test whose output repeats a secret fails, whatever else came of it."""

    def __init__(self, secrets: Secrets = SECRETS) -> None:
        self._secrets = secrets
        self._warned: list[str] = []

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self) -> None:
        logging.getLogger("redlock_cluster").setLevel(logging.DEBUG)  # for each test: one before may have silenced it

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        leaks = []
        for place, (name, text) in enumerate(report.sections):
            if name.endswith(report.when) and (found := self._secrets.leaks(text)):
                leaks += [f"{name}, {leak}" for leak in found]
                report.sections[place] = name, self._secrets.hidden(text)
        leaks += [f"report, {leak}" for leak in self._secrets.leaks(report.longreprtext)]
        if leaks:
            told = "\n".join(["A secret was told:", *leaks])
            if report.failed:
                report.sections.append(("Secrets", told))
            else:
                report.outcome, report.longrepr = "failed", told
        return report

    def pytest_warning_recorded(self, warning_message: warnings.WarningMessage, nodeid: str) -> None:
        self._warned += [f"{nodeid}, {leak}" for leak in self._secrets.leaks(str(warning_message.message))]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self._warned and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for leak in self._warned:
            terminalreporter.write_line(f"A secret was told in a warning: {leak}", red=True)


def install(config: pytest.Config) -> None:
    """Records every token and password that is used, and searches what tests show for them."""
    made, given = SystemEntropy.texts, SecretStr.__init__

    def texts(self: SystemEntropy, count: int) -> list[bytes]:
        drawn = made(self, count)
        for digits in drawn:
            SECRETS.token(digits.decode())
        return drawn

    def init(self: SecretStr, secret_value: str) -> None:
        given(self, secret_value)
        SECRETS.password(secret_value, "a password from options")

    SystemEntropy.texts, SecretStr.__init__ = texts, init  # type: ignore[method-assign]
    config.pluginmanager.register(Secrecy())
