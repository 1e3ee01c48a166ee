"""The banner on a terminal when the proxy has started: addresses, mode, and a command to paste."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared.database_url import is_database
from shared.database_url import shown as database_url
from shared.shown_urls import shown
from shared.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.settings import Settings

__all__ = ["banner"]

#: The profile whose jobs look like `_JOB`.
_PROFILE: Final = "spreedly"
_JOB: Final = '{"account": "example"}'


def banner(
    settings: Settings, urls: Mapping[str, str], embedded_url: str, others: Mapping[str, str] | None = None
) -> str:
    """Return the text.

    `urls`: listeners' addresses by name; `embedded_url`: the embedded job server's, or nothing; `others`: the job
    servers besides the first, by their profiles' names, as they may be shown.
    """
    public = urls.get("public", "")
    listens = f"listens on {public} (described at {public}/docs)" if public else "takes jobs from a queue only"
    lines = [f"The async job proxy {VERSION} {listens}"]
    if settings.sqs_queue_url:
        lines.append(f"Queue: {settings.sqs_queue_url}")
    if "callback" in urls:
        lines.append(f"Callbacks: {urls['callback']}")
    if "admin" in urls:
        lines.append(f"Dashboard: {urls['admin']}/")
    if embedded_url:
        lines.append(f"Embedded job server: {embedded_url} (set JOB_SERVER_URL to use your own)")
    else:
        lines.append(f"Job server: {shown(settings.job_server_url)}")
    lines += [f"Job server of {name}: {url}" for name, url in (others or {}).items()]
    if public:
        lines.append(f"Keys: {_keys(settings)}")
    lines.append(f"Mode: {_workers(settings)}; {_memory(settings)}")
    if public:
        lines.append(_to_try(settings, public))
    return "\n".join(lines)


def _to_try(settings: Settings, public: str) -> str:
    """Return a command to paste, if it is known what a job of the first profile looks like."""
    if settings.profile.split(",")[0].strip() != _PROFILE:
        return "Try it: docs/profiles.md says how, and --check shows what a job becomes"
    key = ' -H "Authorization: Bearer $API_KEY"' if settings.api_keys else ""
    return f"Try it:\n\n  curl -d '{_JOB}' -H 'Content-Type: application/json'{key} {public}/queueJob\n"


def _keys(settings: Settings) -> str:
    if settings.api_keys:
        return f"clients must send one of {len(settings.api_keys)} keys"
    return "none needed: anybody who can reach this address can run jobs (set API_KEYS)"


def _workers(settings: Settings) -> str:
    match settings.worker_max_jobs:
        case 0:
            how = "worker processes are reused after each success"
        case 1:
            how = "a fresh worker process for each job"
        case times:
            how = f"worker processes serve {times} jobs each"
    return f"{how}, {settings.worker_spares} kept ready, at most {settings.max_jobs} jobs in flight"


def _memory(settings: Settings) -> str:
    if not settings.journal:
        return "jobs are forgotten when the process ends"
    where = database_url(settings.journal) if is_database(settings.journal) else settings.journal
    return f"jobs are remembered in {where}"
