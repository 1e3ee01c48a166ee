"""Fixtures for HTTP/1.1 on a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.listening import Server, serving


@pytest.fixture(params=[True, False], ids=["fast", "hypercorn"])
def fast(request: pytest.FixtureRequest) -> bool:
    """Whether plain requests are served without Hypercorn: every test that asks runs both ways."""
    return bool(request.param)


@pytest.fixture
async def server(fast: bool) -> AsyncIterator[Server]:
    """A listener whose application echoes."""
    async with serving(fast=fast) as running:
        yield running
