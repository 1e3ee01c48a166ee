"""The routes without sockets and processes; the clock jumps when everything waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.support.jumping_loop import jumping_loops
from tests.support.whole_app import WholeApp


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on a jumping loop, except the tests that measure the machine's time."""
    if "operators" in item.path.parts:
        return {"usual": asyncio.new_event_loop}
    return jumping_loops(config, item)


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with plain settings."""
    app = WholeApp(monkeypatch)
    yield app
    await app.close()
