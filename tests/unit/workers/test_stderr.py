"""What workers write to stderr becomes log lines, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

import pytest

from proxy import log
from proxy.workers.stderr import log_output
from tests.support.descriptors import descriptors
from tests.support.waiting import eventually

_TOKEN = "Zq0yJv0m4n3sS1c2k9Qh7bqVvF1WJm8eRk5u2y6T0dA"


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The log's lines."""
    found: list[dict[str, Any]] = []
    monkeypatch.setattr(log, "event", lambda level, what, **more: found.append({"level": level, "what": what, **more}))
    return found


async def test_a_traceback_becomes_one_line_without_a_token(lines: list[dict[str, Any]]) -> None:
    """Its last line names the error; a token in it is not logged."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    log_output(read_fd)
    os.write(write_fd, f"Traceback\n  File x\nError: http://h/callback/{_TOKEN} \x1b[2J\n\n".encode())
    os.close(write_fd)
    (line,) = await eventually(lambda: lines)
    assert line["text"] == "Error: http://h/callback/… \x1b[2J"  # the log itself escapes what is not printable
    assert (line["level"], line["lines"], line["source"]) == ("error", 3, "worker")


async def test_a_flood_is_held_up(lines: list[dict[str, Any]]) -> None:
    """A worker that writes without end waits, and the log has a few lines a second of it; nothing is left unread."""
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    log_output(read_fd)
    begun, written = asyncio.get_running_loop().time(), 0
    while asyncio.get_running_loop().time() < begun + 10:
        with contextlib.suppress(BlockingIOError):
            written += os.write(write_fd, b"x" * 4_095 + b"\n")
        await asyncio.sleep(0.01)
    os.close(write_fd)
    await eventually(lambda: sum(line["lines"] for line in lines) == written // 4_096)
    assert len(lines) < 500


async def test_the_pipe_ends_with_its_last_writer(lines: list[dict[str, Any]]) -> None:
    """No descriptor is left when all processes have ended."""
    before = descriptors()
    read_fd, write_fd = os.pipe2(os.O_NONBLOCK)
    log_output(read_fd)
    os.close(write_fd)
    await eventually(lambda: descriptors() <= before)
    assert lines == []
