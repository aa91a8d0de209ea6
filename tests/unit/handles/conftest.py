"""The handles' tests run in virtual time, too."""

from __future__ import annotations

from ..engine.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
