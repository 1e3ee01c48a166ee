"""The calls to a job server about a job that it has: its status, its result, and its cancellation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from shared.job_server.addresses import address
from shared.job_server.placeholders import OURS, UnfilledError, fill, json_text, names_in
from shared.job_server.profile import Cancel, Result, Server, Status

__all__ = ["Call", "Request", "bytes_without_secrets", "headers_of", "masked", "merged", "without_secrets"]

#: Shorter ones could be a part of any word.
_LEAST_SECRET: Final = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request to the job server, complete."""

    method: str
    url: str
    #: May contain secrets.
    headers: dict[str, str] = field(repr=False)
    body: bytes = b""


class Call:
    """Composes the requests of one section of a profile."""

    def __init__(self, server_url: str, server: Server, section: Status | Result | Cancel) -> None:
        self._server_url = server_url
        self._section = section
        self._headers = merged(server.headers, section.headers)
        self._body = section.body
        #: The names that the job server itself has to have provided: without one of them the call cannot be made.
        self.needs = frozenset(
            name
            for part in (section.url, self._headers, self._body)
            for name in names_in(part)
            if name.partition("/")[0] not in OURS and not name.startswith("env:")
        )

    def request(self, values: Mapping[str, str]) -> Request:
        """Return the request for a job.

        Raises:
            UnfilledError: a name has no value, or the address that the job server gave is not on the job server.
        """
        headers = headers_of(self._headers, values)
        body = b""
        if self._body:
            body = json_text(self._body, values).encode()
            headers = merged({"Content-Type": "application/json"}, headers)
        url = address(self._server_url, self._section.url, values)
        return Request(method=self._section.method, url=url, headers=headers, body=body)


def merged(*tables: Mapping[str, str]) -> dict[str, str]:
    """Return the headers in `tables`; of the same name, in whatever case, the last one counts."""
    return dict({name.lower(): (name, value) for table in tables for name, value in table.items()}.values())


def headers_of(templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    """Return headers with their placeholders filled in.

    Raises:
        UnfilledError: a name has no value, or its value is not valid in a header.
    """
    filled = {name: fill(value, values) for name, value in templates.items()}
    for name, value in filled.items():
        if not value.isprintable():
            raise UnfilledError(f"what is filled into the header {name} cannot stand there")
    return filled


def masked(values: Mapping[str, str]) -> dict[str, str]:
    """Return `values` with dots instead of secrets, to be shown to people."""
    return {name: "•••" if name.startswith("env:") else value for name, value in values.items()}


def without_secrets(words: str, secrets: Iterable[str]) -> str:
    """Return a job server's words without the secrets that were sent to it, if it repeats them."""
    for secret in secrets:
        if len(secret) >= _LEAST_SECRET:
            words = words.replace(secret, "***")
    return words


def bytes_without_secrets(body: bytes, secrets: Iterable[str]) -> bytes:
    """Return a job server's message without the secrets that were sent to it, if it repeats them."""
    return without_secrets(body.decode("utf-8", "surrogateescape"), secrets).encode("utf-8", "surrogateescape")
