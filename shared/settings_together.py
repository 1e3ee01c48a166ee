"""Checks beyond single values: settings that must fit together, and files that must exist.

Each check yields one line for each problem, like those for single values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import partial
from ipaddress import IPv4Network, IPv6Network
from typing import Final
from urllib.parse import urlsplit

from shared.setting_kinds import AdminKey

__all__ = ["TOGETHER", "admin_keys_differ", "quoted"]

#: SQS hides a message for at most 12 hours, and we hide it for 15 s longer than its job may take.
_LONGEST_SQS_JOB_S: Final = 43_180
#: How much of a refused value is shown.
_SHOWN: Final = 200


def quoted(text: str) -> str:
    """Return a value for one line of a terminal; truncated, because it may be a whole file by mistake."""
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


def _tls(certfile: str, keyfile: str) -> Iterator[str]:
    if bool(certfile) is not bool(keyfile):
        yield "TLS_CERTFILE, TLS_KEYFILE: got one of them, takes both or neither"
        return
    yield from _unreadable("TLS_CERTFILE", certfile)
    yield from _unreadable("TLS_KEYFILE", keyfile)


def _unreadable(name: str, path: str) -> Iterator[str]:
    """Yield an error unless it is a readable file. A pipe or a device may never end, and its reader would hang."""
    if path and not (os.path.isfile(path) and os.access(path, os.R_OK)):  # noqa: PTH113 - Path's raises for some names
        begins = "" if os.path.isabs(path) else f"; a relative path begins at {os.getcwd()}"  # noqa: PTH109, PTH117
        yield f"{name}: got {quoted(path)}, takes a file that can be read{begins}"


def _queues(queue: str, reply_queue: str, reply_to: tuple[str, ...], journal: str, job_timeout: float) -> Iterator[str]:
    if not queue:
        if reply_queue or reply_to:
            yield "SQS_REPLY_QUEUE_URL, SQS_REPLY_TO: got a queue, takes effect only with SQS_QUEUE_URL"
        return
    hosts = {urlsplit(url).netloc for url in (queue, reply_queue, *reply_to) if url}
    if len(hosts) > 1:
        yield f"SQS_QUEUE_URL, SQS_REPLY_QUEUE_URL, SQS_REPLY_TO: got {', '.join(sorted(hosts))}, takes one host"
    for name, urls in (("SQS_REPLY_QUEUE_URL", (reply_queue,)), ("SQS_REPLY_TO", reply_to)):
        if queue.rstrip("/") in (url.rstrip("/") for url in urls):
            yield f"{name}: got the queue of SQS_QUEUE_URL, takes another one: each reply would be a new job"
    if not journal:
        yield "JOURNAL: got nothing, takes one with SQS_QUEUE_URL: messages outlive the process, and so must their jobs"
    if job_timeout > _LONGEST_SQS_JOB_S:
        yield (
            f"JOB_TIMEOUT: got '{job_timeout:.10g}', takes at most {_LONGEST_SQS_JOB_S} with SQS_QUEUE_URL, which can "
            "hide a message for 12 hours"
        )


def _no_port(port: int | None, callback_port: int | None, queue: str) -> Iterator[str]:
    if port is None and not queue:
        yield "PORT: got nothing, takes a port unless jobs come from a queue (SQS_QUEUE_URL)"
    if port is None and callback_port is None:
        yield "CALLBACK_PORT: got nothing, takes a port where PORT is empty"


def admin_keys_differ(keys: tuple[AdminKey, ...]) -> Iterator[str]:
    """Yield an error unless each key has one operator, and each operator one role."""
    roles: dict[str, str] = {}
    if len({key.key for key in keys}) < len(keys):
        yield "ADMIN_KEYS, ADMIN_KEYS_FILE: got one key twice, takes each once"
    for key in keys:
        if roles.setdefault(key.name, key.role) != key.role:
            yield f"ADMIN_KEYS, ADMIN_KEYS_FILE: got two roles for {key.name!r}, takes one for each name"


def _admin_users(header: str, peers: tuple[IPv4Network | IPv6Network, ...], acting: tuple[str, ...]) -> Iterator[str]:
    if bool(header) is not bool(peers):
        yield "ADMIN_USER_HEADER, ADMIN_TRUSTED_PEERS: got one of them, takes both or neither"
    if acting and not header:
        yield "ADMIN_ACTING_USERS: got names, takes effect only with ADMIN_USER_HEADER"


def _admin_port(port: int | None, admin_port: int | None) -> Iterator[str]:
    if admin_port and admin_port == port:
        yield f"ADMIN_PORT: got '{admin_port}', takes a port other than PORT"


def _callback_host(callback_host: str, callback_port: int | None) -> Iterator[str]:
    if callback_host and callback_port is None:
        yield f"CALLBACK_HOST: got {quoted(callback_host)}, takes effect only with CALLBACK_PORT"


def _callback_port(port: int | None, admin_port: int | None, callback_port: int | None) -> Iterator[str]:
    if callback_port and callback_port in {port, admin_port}:
        yield f"CALLBACK_PORT: got '{callback_port}', takes a port other than PORT and ADMIN_PORT"


#: The names of settings, and the checks of their values together.
TOGETHER: Final[tuple[tuple[tuple[str, ...], Callable[..., Iterator[str]]], ...]] = (
    (("tls_certfile", "tls_keyfile"), _tls),
    (("job_server_cafile",), partial(_unreadable, "JOB_SERVER_CAFILE")),
    (("sqs_queue_url", "sqs_reply_queue_url", "sqs_reply_to", "journal", "job_timeout"), _queues),
    (("port", "callback_port", "sqs_queue_url"), _no_port),
    (("admin_user_header", "admin_trusted_peers", "admin_acting_users"), _admin_users),
    (("port", "admin_port"), _admin_port),
    (("callback_host", "callback_port"), _callback_host),
    (("port", "admin_port", "callback_port"), _callback_port),
)
