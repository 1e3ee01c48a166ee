"""The routes without sockets and processes; time passes only when everything waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest

from tests.support.jumping_loop import jumping_loops
from tests.support.whole_app import WholeApp


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run each test on a loop of its own that jumps; but for those of what measures the machine's time."""
    if "operators" in item.path.parts:
        return {"usual": asyncio.new_event_loop}
    return jumping_loops(config, item)


@pytest.fixture
async def app(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WholeApp]:
    """A front end with plain settings."""
    app = WholeApp(monkeypatch)
    yield app
    await app.close()
