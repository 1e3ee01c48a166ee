"""What `--check` says, from this process: a tenth of what the command takes, for tests of single lines."""

from __future__ import annotations

import pytest

from proxy.run import check
from shared.settings import load
from tests.support.proxy_process import environment

__all__ = ["checked"]


async def checked(**settings: str) -> tuple[int, list[str]]:
    """Return the exit code and the lines. No worker is tried. Without JOB_SERVER_URL, a job server is started."""

    async def untried(*_: object) -> None:
        pass

    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(check.Check, "_worker", untried)
        return await check.Check(load(environment(**settings)), lines.append).run(), lines
