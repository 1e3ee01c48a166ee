"""Fixtures for HTTP/1.1 on a socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from tests.support.listening import Server, serving


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run these tests on the front end's event loop, which is stricter than asyncio's own."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture(params=[True, False], ids=["fast", "hypercorn"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether plain requests are served without Hypercorn: every test that asks runs both ways."""
    return bool(request.param)


@pytest.fixture
async def server(fast: bool) -> AsyncIterator[Server]:
    """A listener whose application echoes."""
    async with serving(fast=fast) as running:
        yield running
