"""Time passes here only when everything waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.jumping_loop import JumpingLoop


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test of this folder on a loop of its own that jumps."""
    return {"jumping": JumpingLoop}
