"""Checks made once, when the proxy serves: whether callbacks can arrive, and whether the job servers can be reached.

A problem may go away later, or exist only as seen from here, so the proxy only warns. `--check` reports the same
problems before a start.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from proxy import log
from proxy.run.callback_probe import Leads, where_it_leads
from proxy.run.job_server_probe import is_loopback, reach
from shared.job_server.addresses import origin
from shared.shown_urls import shown

__all__ = ["callback_caveats", "callback_doubt", "look_around"]

_TIMEOUT_S: Final = 5.0
#: Some job servers call no other ports.
_USUAL_PORTS: Final = frozenset({80, 443, 8080, 8443})
_EVERY_ADDRESS: Final = ("//0.0.0.0", "//[::]")


def callback_doubt(url: str, job_server_urls: Sequence[str]) -> str:
    """Return why no job server can call back to `url`, judging by its text; empty if there is no reason."""
    if any(host in url for host in _EVERY_ADDRESS):
        return "is not an address that can be called"
    if is_loopback(url) and not all(is_loopback(one) for one in job_server_urls):
        return "can only be reached from this machine"
    return ""


def callback_caveats(url: str, job_server_urls: Sequence[str]) -> str:
    """Return why many job servers would refuse to call `url`, judging by its text; empty if there is no reason.

    Job servers on this machine are exempt: their operator decides what they may call.
    """
    scheme, host, port = origin(url)
    found = [
        *(["it is plain http"] if scheme == "http" else []),
        *(["it is a private address"] if _is_private(host) else []),
        *([f"its port is {port}"] if port not in _USUAL_PORTS else []),
    ]
    return ", and ".join(found) if any(not is_loopback(one) for one in job_server_urls) else ""


def _is_private(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:  # a name: its address depends on who resolves it
        return host.endswith((".local", ".internal", ".localhost")) or "." not in host


async def look_around(callbacks: str, job_server_urls: Sequence[str], cafile: str) -> None:
    """Log a warning for each problem; `callbacks` is the base URL of the callback route."""
    try:
        await _look_around(callbacks, job_server_urls, cafile)
    except RuntimeError:  # at the limit of processes, which counts threads, too
        log.event(
            "warning",
            "it could not be checked whether callbacks can arrive and job servers can be reached",
            reason="no more threads can be started",
        )


async def _look_around(callbacks: str, job_server_urls: Sequence[str], cafile: str) -> None:
    doubt = callback_doubt(callbacks, job_server_urls)
    if doubt:
        log.event(
            "warning",
            "no job server can call back; set CALLBACK_URL, or jobs fail as deadline-exceeded",
            callback_url=shown(callbacks),
            reason=doubt,
        )
    else:
        await _follow(callbacks)
    for url in job_server_urls:
        reason = await reach(url, _TIMEOUT_S, cafile)
        if reason:
            log.event(
                "warning",
                "the job server cannot be reached; until it can, jobs fail as job-server-unavailable",
                job_server=shown(url),
                reason=reason,
            )


async def _follow(callbacks: str) -> None:
    leads, reason = await where_it_leads(callbacks, _TIMEOUT_S)
    # With NOWHERE, a job server on another machine may still reach it.
    if leads in {Leads.TO_ANOTHER_PATH, Leads.ELSEWHERE} or (leads is Leads.NOWHERE and is_loopback(callbacks)):
        log.event(
            "warning",
            "CALLBACK_URL does not lead to the callback route; jobs then fail as deadline-exceeded",
            callback_url=shown(callbacks),
            reason=reason,
        )
