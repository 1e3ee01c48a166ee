"""A profile: everything that is known about one job server's protocol, as data.

A profile is written in TOML (profiles/; docs/profiles.md describes the language), checked and loaded in the front end
(loader.py), and reaches the workers in this form (shared/worker_config.py). The rules in the other files are made from
its parts; nothing in the project depends on a profile's name.
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

    #: The default of JOB_SERVER_URL.
    url: str = ""
    #: Sent with every call.
    headers: dict[str, str] = field(default_factory=dict)
    #: Whether a reused worker keeps its connection between jobs.
    keep_alive: bool = True
    #: The job server's page of a job: a URL for the operators' pages.
    page: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How to read a message that may say how a job ended. The values are expressions, except the lists."""

    #: Finds the state, which is compared with the states that end a job. Any other state is not an end.
    state: str = ""
    succeeded: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    #: Finds what the client gets; empty: the whole body.
    result: str = ""
    #: Finds the reason of a failure.
    error: str = ""


#: The keys that `[status]` takes from `[callback]` by default.
READING = ("state", "succeeded", "failed", "result", "error")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submit(Reading):
    """How a job is submitted, and how the reply is read."""

    method: str = "POST"
    #: Appended to the job server's address, unless it begins with a URL. Empty: nothing is appended.
    url: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    query: dict[str, str] = field(default_factory=dict)
    #: The parameters of the client's own query that are passed on.
    client_query: tuple[str, ...] = ()
    #: Merged into the client's JSON object (RFC 7396).
    body: dict[str, Any] = field(default_factory=dict)
    #: Added to the fields of the client's form.
    form: dict[str, str] = field(default_factory=dict)
    #: Members, as dotted paths, that a client may send and that the profile's own value replaces.
    overwrites: tuple[str, ...] = ()
    #: A client whose object has these members with these values does not wait, as with `Prefer: respond-async`.
    respond_async: dict[str, Any] = field(default_factory=dict)
    #: The statuses that accept the job. Empty: every 2xx.
    accepted: tuple[int, ...] = ()
    #: The statuses that say that nothing was started, and to retry. None: 429, and 503 with Retry-After.
    busy: tuple[int, ...] | None = None
    #: An expression; if it is true, an accepting status is still a refusal.
    rejected: str = ""
    #: The states of a running job. If given, a reply with any other state is invalid.
    running: tuple[str, ...] = ()
    #: Names of parts of the reply, each with an expression; placeholders of later calls.
    outputs: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback(Reading):
    """How a callback is read."""

    #: Whether a callback that is not JSON is refused.
    json_only: bool = False
    #: Whether a GET with a query is a callback as well.
    get: bool = False
    #: What callbacks are answered; empty: a word of our own, as JSON.
    answer: str = ""
    #: Finds what a job server that tests its fixed URL wants to get back.
    challenge: str = ""
    #: Whether a final callback only says that the job may be over, to be asked for with [status] and [result].
    notification_only: bool = False
    #: As in [submit]; the reply's outputs take precedence.
    outputs: dict[str, str] = field(default_factory=dict)
    #: A URL that is fixed in the job server's configuration, and what identifies the job in a callback.
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
    #: `hmac`: the hash, its notation in the header, and the prefix before it.
    hash: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"] = "hex"
    prefix: str = ""
    #: `hmac`: what is signed; it may have `{timestamp}` and `{url}` as well.
    signed: str = "{body}"
    #: `hmac`: the header that holds the timestamp; with a `=` at its end, the beginning of an element of `header`.
    timestamp: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status(Reading):
    """The call that asks for a job's status."""

    method: str = "GET"
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
    #: As in [submit]; for [result] only, as the answer that has them is not kept.
    outputs: dict[str, str] = field(default_factory=dict)
    #: Seconds without a callback before the first call, and between calls after that.
    after: float = 30.0
    every: float = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The call that fetches a result."""

    method: str = "GET"
    url: str
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)
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
    """A recorded or documented message, and the expected reading."""

    #: `job`: what a client sends. All others come from the job server.
    kind: Literal["job", "reply", "callback", "challenge", "status", "result"]
    #: reply: running, succeeded, failed, refused, busy, error or bad; callback, status: succeeded, failed, progress or
    #: notification; result: ready, not-yet or failed; challenge: what is sent back; job: the client's whole submission
    #: as the job server gets it.
    expect: str = ""
    note: str = ""
    status: int = 200
    method: str = "POST"
    route: str = ""
    query: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    #: The body, as text.
    body: str = ""
    #: job: what follows the route in the client's path.
    path: str = ""
    #: The client's result, the reason, and the outputs; compared only if given.
    result: str | None = None
    error: str | None = None
    outputs: dict[str, str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One job server's protocol."""

    name: str
    #: One line for people.
    description: str = ""
    #: The URL of the API's documentation.
    documentation: str = ""
    #: The real server, with its version, with which it was tried; empty: only its samples were tried.
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
        """Return the profile as JSON-compatible data, without its samples, which no worker needs."""
        return asdict(replace(self, sample=()))

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Profile:
        """Return the profile from the data that `as_json` returned."""
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
    """Return `section` with the tuples that JSON turned into lists."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in section.items()}
