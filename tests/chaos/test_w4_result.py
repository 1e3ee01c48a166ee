"""W4: results that are large, too large, truncated, or not messages at all."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.chaos.support.harness import Chaos

_MIB = 1024 * 1024


async def test_w4_result_of_one_mib_is_delivered(chaos: Chaos) -> None:
    """A callback of exactly the limit is delivered unchanged."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="w4-mib"))
    head, tail = b'{"state": "completed", "padding": "', b'"}'
    body = head + b"x" * (_MIB - len(head) - len(tail)) + tail
    called = await chaos.call_back(await chaos.callback_url("w4-mib"), body)
    assert called.document == {"status": "accepted"}
    reply = await job
    assert reply.status == 200
    assert reply.answer.body == body


@pytest.mark.parametrize("act", ["oversize", "truncated", "pickle", "nonsense"])
async def test_w4_what_is_no_result_ends_the_worker(chaos: Chaos, act: str) -> None:
    """A frame over the limit, half a frame, a pickle, a line of nonsense: `worker-died`, and nothing is executed."""
    reply = await chaos.job(chaos=f"{act}@p4")
    assert reply.summary == (500, "worker-died", "yes")
    assert json.loads(reply.answer.body)["retry_safe"] is False
    assert not (chaos.proxy.folder / "unpickled").exists()
