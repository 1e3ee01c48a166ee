"""The clock jumps when everything waits."""

from __future__ import annotations

from tests.support.jumping_loop import jumping_loops

pytest_asyncio_loop_factories = jumping_loops
