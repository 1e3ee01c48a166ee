"""A profile: all that is known of one job server's protocol, as data.

A profile is written in TOML (profiles/), checked and loaded in the front end (loader.py), and reaches the workers in
this form (shared/worker_config.py). The rules beside this file are made from its parts; nothing in the project asks
for a profile's name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["Callback", "Profile", "Server", "Submit"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the job server is."""

    #: What JOB_SERVER_URL is where it is not set.
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit:
    """How a job is submitted, and how the reply to that is read."""

    #: Appended to the job server's address. Empty: that is the whole address.
    url: str = ""
    #: Merged into the client's JSON object (RFC 7396).
    body: dict[str, Any] = field(default_factory=dict)
    #: Members, as dotted paths, that a client may send and that the profile's own value replaces.
    overwrites: tuple[str, ...] = ()
    #: A client whose object has these members with these values is not kept waiting, as with `Prefer: respond-async`.
    respond_async: dict[str, Any] = field(default_factory=dict)
    #: The statuses that say that the job was taken. Empty: every 2xx.
    accepted: tuple[int, ...] = ()
    #: The statuses that say: nothing was started, come again. None: 429, and 503 with Retry-After.
    busy: tuple[int, ...] | None = None
    #: An expression; where it is true, an accepting status is a refusal all the same.
    rejected: str = ""
    #: An expression for the state that a reply names, and the states of a job that runs. No states: any reply will do.
    state: str = ""
    running: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """How a callback is read."""

    #: Whether a callback that is not JSON is refused.
    json_only: bool = False
    #: An expression for the state that it names, and the states that end a job. Any other state is progress.
    state: str
    succeeded: tuple[str, ...]
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One job server's protocol."""

    name: str
    #: One line for a person.
    description: str = ""
    #: The URL of the API's documentation.
    documentation: str = ""
    server: Server = field(default_factory=Server)
    submit: Submit
    callback: Callback

    def as_json(self) -> dict[str, Any]:
        """Return the profile as JSON can hold it."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """Return the profile that `as_json` gave."""
        sections = {
            "server": Server(**_tuples(data["server"])),
            "submit": Submit(**_tuples(data["submit"])),
            "callback": Callback(**_tuples(data["callback"])),
        }
        return cls(**{**data, **sections})


def _tuples(section: dict[str, Any]) -> dict[str, Any]:
    """Return `section` with the tuples that JSON made lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
