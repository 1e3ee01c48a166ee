"""Time passes here only when everything waits for it."""

from __future__ import annotations

from tests.support.jumping_loop import jumping_loops

pytest_asyncio_loop_factories = jumping_loops
