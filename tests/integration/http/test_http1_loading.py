"""Hypercorn is loaded when it is needed, and holds up nobody meanwhile."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import pytest

from proxy.http import server as http_server
from tests.support.listening import post, serving, statuses
from tests.support.waiting import IN_VAIN_S, eventually

_CHUNKED: Final = b"POST /chunks HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
_LOADED: Final = """
import sys, proxy.run.process, proxy.run.wiring, proxy.http.server
print(*sorted(sys.modules.keys() & {"h11", "h2", "wsproto", "hypercorn.asyncio", "hypercorn.protocol"}))
"""


@dataclass
class Loading:
    """The steps of loading."""

    has_begun: threading.Event = field(default_factory=threading.Event)
    may_end: threading.Event = field(default_factory=threading.Event)


def test_a_start_does_not_load_what_only_other_requests_need() -> None:
    """They would be a tenth of its CPU."""
    assert subprocess.check_output([sys.executable, "-c", _LOADED], text=True).split() == []


@pytest.fixture
def loading(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loading]:
    """Loading that takes until the test says so."""
    steps, load = Loading(), http_server._load_hypercorn  # noqa: SLF001

    def slowly() -> object:
        steps.has_begun.set()
        assert steps.may_end.wait(IN_VAIN_S)
        return load()

    monkeypatch.setattr(http_server, "_load_hypercorn", slowly)
    yield steps
    steps.may_end.set()


async def test_plain_requests_are_answered_while_hypercorn_is_loaded(loading: Loading) -> None:
    """The requests that need it wait, and then get their answers."""
    async with serving(fast=True) as running:
        others = [asyncio.ensure_future(running.ask(_CHUNKED)) for _ in range(3)]
        await eventually(loading.has_begun.is_set)
        assert statuses(await running.ask(post("/plain"))) == [200]
        assert running.echo.seen == ["/plain"]
        loading.may_end.set()
        assert [statuses(answer) for answer in await asyncio.gather(*others)] == [[200]] * 3
        assert running.echo.fast == 1


async def test_a_listener_that_stops_while_hypercorn_is_loaded_answers_first(loading: Loading) -> None:
    """The request has arrived."""
    async with serving(fast=True) as running:
        asking = asyncio.ensure_future(running.ask(_CHUNKED))
        await eventually(loading.has_begun.is_set)
        running.listener.stop()
        await eventually(lambda: running.has_stopped)
        loading.may_end.set()
        assert statuses(await asking) == [200]
