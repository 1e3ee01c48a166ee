"""A profile: all that is known of one job server's protocol, as data.

A profile is written in TOML (profiles/; docs/profiles.md describes the language), checked and loaded in the front end
(loader.py), and reaches the workers in this form (shared/worker_config.py). The rules beside this file are made from
its parts; nothing in the project asks for a profile's name.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

__all__ = [
    "READING",
    "Callback",
    "Cancel",
    "Profile",
    "Reading",
    "Result",
    "Sample",
    "Server",
    "Status",
    "Submit",
    "Verify",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where the job server is."""

    #: What JOB_SERVER_URL is where it is not set.
    url: str = ""
    #: Sent with every call.
    headers: dict[str, str] = field(default_factory=dict)
    #: Whether a worker that is used again keeps its connection between jobs.
    keep_alive: bool = True
    #: The job server's page of a job: a URL for the operators' pages.
    page: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a message is read that may say how a job ended. The values are expressions, but for the lists."""

    #: What names the state, and the states that end a job. Any other is not an end.
    state: str = ""
    succeeded: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    #: What the client gets; empty: the whole body.
    result: str = ""
    #: The reason of a failure.
    error: str = ""


#: The keys that `[status]` takes from `[callback]` where it does not have them.
READING = ("state", "succeeded", "failed", "result", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Reading):
    """How a job is submitted, and how the reply to that is read."""

    method: str = "POST"
    #: Appended to the job server's address, unless it begins with a URL. Empty: that is the whole address.
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    #: Merged into the client's JSON object (RFC 7396).
    body: dict[str, Any] = field(default_factory=dict)
    #: Added to the fields of the client's form.
    form: dict[str, str] = field(default_factory=dict)
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
    #: The states of a job that runs. Given: a reply with any other state is no sound reply.
    running: tuple[str, ...] = ()
    #: Names for parts of the reply, each an expression; placeholders of later calls.
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback(Reading):
    """How a callback is read."""

    #: Whether a callback that is not JSON is refused.
    json_only: bool = False
    #: Whether a final callback only says that there is something to ask for, by [status] and [result].
    notification_only: bool = False
    #: As in [submit]; what the reply gives wins.
    outputs: dict[str, str] = field(default_factory=dict)
    #: A URL that is fixed in the job server's configuration, and what in a callback says which job it is for.
    path: str = ""
    correlate: str = ""
    #: The name whose value `correlate` finds.
    correlate_with: str = "callback_token"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """How a callback proves who sent it."""

    scheme: Literal["header", "hmac", "standard-webhooks"]
    #: `header`, `hmac`: the header that holds the proof.
    header: str = ""
    #: `header`: what it must hold.
    value: str = ""
    #: `hmac`, `standard-webhooks`: the key.
    secret: str = ""
    #: `hmac`: the hash, how the header writes it, and what stands before it.
    hash: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Reading):
    """The call that asks how a job is doing."""

    method: str = "GET"
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    #: Seconds without a callback until it is asked for the first time, and from then on between two calls.
    after: float = 30.0
    every: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The call that fetches a result."""

    method: str = "GET"
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    #: An expression for what the client gets; empty: the whole body.
    result: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """The call that cancels a job."""

    method: str = "POST"
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A recorded or documented message, and what it must be read as."""

    #: `job`: what a client sends. All others come from the job server.
    kind: Literal["job", "reply", "callback", "status", "result"]
    #: reply: running, succeeded, failed, refused, busy, error or bad; callback, status: succeeded, failed, progress or
    #: notification; result: ready, not-yet or failed; job: the client's whole submission as the job server gets it.
    expect: str = ""
    note: str = ""
    status: int = 200
    method: str = "POST"
    route: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    #: The body, as text.
    body: str = ""
    #: job: what the client's path has beyond the route.
    path: str = ""
    #: What the client gets, the reason, and the outputs; looked at where they are given.
    result: str | None = None
    error: str | None = None
    outputs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One job server's protocol."""

    name: str
    #: One line for a person.
    description: str = ""
    #: The URL of the API's documentation.
    documentation: str = ""
    #: The real server and its version with which it was tried; empty: only its samples were.
    tried_with: str = ""
    server: Server = field(default_factory=Server)
    submit: Submit
    callback: Callback
    verify: Verify | None = None
    status: Status | None = None
    result: Result | None = None
    cancel: Cancel | None = None
    sample: tuple[Sample, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the profile as JSON can hold it, without its samples, which no worker needs."""
        return asdict(replace(self, sample=()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """Return the profile that `as_json` gave."""
        sections = {name: kind(**_tuples(data[name])) for name, kind in _SECTIONS.items() if data[name] is not None}
        return cls(**_tuples(data) | sections)


_SECTIONS: dict[str, Any] = {
    "server": Server,
    "submit": Submit,
    "callback": Callback,
    "verify": Verify,
    "status": Status,
    "result": Result,
    "cancel": Cancel,
}


def _tuples(section: dict[str, Any]) -> dict[str, Any]:
    """Return `section` with the tuples that JSON made lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
