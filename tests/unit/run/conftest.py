"""The clock jumps when everything waits, where nothing waits for sockets, threads or processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.support.jumping_loop import jumping_loops


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests of the queue entrance on a jumping loop."""
    return jumping_loops(config, item) if item.path.stem == "test_queue_entrance" else {"usual": asyncio.new_event_loop}
