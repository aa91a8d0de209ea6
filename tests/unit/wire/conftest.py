"""As in tests/unit/engine: virtual time."""

from __future__ import annotations

from ..engine.conftest import pytest_asyncio_loop_factories

__all__ = ["pytest_asyncio_loop_factories"]
