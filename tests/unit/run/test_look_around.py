"""Checks of the callback URL and of the job servers, once the proxy serves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest
import uvloop

from proxy.run.callback_probe import Leads
from proxy.run.look_around import callback_caveats, look_around

_ELSEWHERE = ["https://api.example.com/v1"]


@pytest.mark.parametrize(
    ("url", "caveats"),
    [
        ("https://proxy.example.com/callback", ""),
        ("https://proxy.example.com:8443/callback", ""),
        ("http://proxy.example.com/callback", "it is plain http"),
        ("https://proxy.example.com:3000/callback", "its port is 3000"),
        ("https://10.0.0.5/callback", "it is a private address"),
        ("https://[fd00::5]/callback", "it is a private address"),
        ("https://93.184.215.14/callback", ""),
        ("https://proxy/callback", "it is a private address"),
        ("http://192.168.1.7:3000/callback", "it is plain http, and it is a private address, and its port is 3000"),
    ],
)
def test_an_address_that_many_job_servers_refuse_to_call_is_told(url: str, caveats: str) -> None:
    """For each known reason; not for job servers on this machine, which may call any address."""
    assert callback_caveats(url, _ELSEWHERE) == caveats
    assert callback_caveats(url, ["http://127.0.0.1:5000/", *_ELSEWHERE]) == caveats
    assert callback_caveats(url, ["http://127.0.0.1:5000/"]) == ""
    assert callback_caveats(url, []) == ""


@pytest.mark.parametrize(
    ("url", "job_server", "leads", "warning"),
    [
        ("https://proxy.example.com/callback", _ELSEWHERE[0], Leads.TO_THE_ROUTE, ""),
        ("https://proxy.example.com/callback", _ELSEWHERE[0], Leads.TO_ANOTHER_PATH, "CALLBACK_URL does not lead"),
        ("https://proxy.example.com/callback", _ELSEWHERE[0], Leads.ELSEWHERE, "CALLBACK_URL does not lead"),
        ("https://proxy.example.com/callback", _ELSEWHERE[0], Leads.NOWHERE, ""),
        ("http://127.0.0.1:3000/callback", "http://127.0.0.1:5000/", Leads.NOWHERE, "CALLBACK_URL does not lead"),
        ("http://127.0.0.1:3000/callback", "http://127.0.0.1:5000/", Leads.TO_THE_ROUTE, ""),
        ("http://127.0.0.1:3000/callback", _ELSEWHERE[0], Leads.TO_THE_ROUTE, "no job server can call back"),
        ("http://0.0.0.0:3000/callback", "http://127.0.0.1:5000/", Leads.TO_THE_ROUTE, "no job server can call back"),
        ("http://[::]:3000/callback", "http://127.0.0.1:5000/", Leads.TO_THE_ROUTE, "no job server can call back"),
    ],
)
async def test_what_keeps_callbacks_away_is_logged(
    monkeypatch: pytest.MonkeyPatch, url: str, job_server: str, leads: Leads, warning: str
) -> None:
    """If it is certain: an address that leads nowhere from here may be reached by a job server on another machine."""
    warned = await _warnings(monkeypatch, url, job_server, leads=leads)
    assert [words.startswith(warning) for words in warned] == [True] * bool(warning)


async def test_a_job_server_that_cannot_be_reached_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one that is configured."""
    (warned,) = await _warnings(monkeypatch, "https://proxy.example.com/callback", _ELSEWHERE[0], reason="refused")
    assert warned.startswith("the job server cannot be reached")


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("leads", [None, Leads.TO_THE_ROUTE], ids=["callback", "job server"])
def test_a_check_for_which_there_is_no_thread_is_logged(
    monkeypatch: pytest.MonkeyPatch, leads: Leads | None, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """The limit of processes counts threads, too; at it, uvloop's own look-up of a name would abort the process."""

    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def where_it_leads(*_: object) -> tuple[Leads | None, str]:
        return leads, ""

    if leads is not None:
        monkeypatch.setattr("proxy.run.look_around.where_it_leads", where_it_leads)
    warned: list[str] = []
    monkeypatch.setattr("proxy.log.event", lambda _level, words, **_fields: warned.append(words))
    with asyncio.Runner(loop_factory=new_loop) as runner, monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        runner.run(look_around("https://proxy.example.com/callback", ["https://jobs.invalid/"], ""))
    assert warned == ["it could not be checked whether callbacks can arrive and job servers can be reached"]


async def _warnings(
    monkeypatch: pytest.MonkeyPatch, url: str, job_server: str, *, leads: Leads = Leads.TO_THE_ROUTE, reason: str = ""
) -> list[str]:
    """Return the warnings if the callback URL leads there, and the job server cannot be reached for this `reason`."""
    warned: list[str] = []

    async def where_it_leads(*_: object) -> tuple[Leads, str]:
        return leads, "so it seems"

    async def reach(*_: object) -> str:
        return reason

    monkeypatch.setattr("proxy.run.look_around.where_it_leads", where_it_leads)
    monkeypatch.setattr("proxy.run.look_around.reach", reach)
    monkeypatch.setattr("proxy.log.event", lambda _level, words, **_fields: warned.append(words))
    await look_around(url, [job_server], "")
    return warned
