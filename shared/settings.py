"""The settings: each variable's name, default and meaning, read once at start and checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Final, NamedTuple

from shared import env_file as dot_env
from shared import setting_kinds as kinds
from shared.errors import SettingsError
from shared.keys_file import read_keys
from shared.setting_kinds import AdminKey, Kind
from shared.settings_together import TOGETHER, admin_keys_differ, quoted
from shared.shown_urls import without_secrets
from shared.spelling import nearest

__all__ = ["Given", "Settings", "Variable", "given", "load", "misspelt", "variables"]

#: The settings that have a file with further keys, and the description of a line of that file.
_KEYS: Final = (
    ("api_keys", kinds.KEYS, "one key of printable ASCII without spaces"),
    ("admin_keys", kinds.ADMIN_KEYS, "NAME:look:KEY or NAME:act:KEY, the key of 16 or more characters without spaces"),
)


class Variable(NamedTuple):
    """The description of a variable, from which the documentation is generated."""

    #: The default, as in `.env`.
    default: str
    #: The values that it accepts, in words.
    takes: str
    #: What it does; `backticks` mark code.
    meaning: str
    #: The heading under which it is documented.
    section: str


def _variable(default: str, kind: Kind, meaning: str, *, secret: bool = False, section: str = "") -> Any:  # noqa: ANN401 - a dataclass field
    """Return a field; `section` starts a section of the documentation, which continues until the next one."""
    return field(metadata={"default": default, "kind": kind, "meaning": meaning, "secret": secret, "section": section})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a user can set. A field's name in capitals is its variable; `make docs` writes `.env` from here."""

    host: str = _variable(
        "127.0.0.1",
        kinds.HOST,
        "The address to listen on for clients and, unless `CALLBACK_PORT` is set, for the job server's callbacks.",
        section="Listening",
    )
    port: int | None = _variable(
        "3000",
        kinds.OPTIONAL_PORT,
        "The port for clients. 0: any free one. Empty: jobs come from the queue only (`SQS_QUEUE_URL`), and callbacks "
        "need `CALLBACK_PORT`.",
    )
    admin_host: str = _variable(
        "127.0.0.1",
        kinds.HOST,
        "The address to listen on for operators: dashboard, metrics, workers. Without `ADMIN_KEYS` or "
        "`ADMIN_USER_HEADER` nobody else should be able to reach it.",
    )
    admin_port: int | None = _variable(
        "3001",
        kinds.OPTIONAL_PORT,
        "The port for operators, never the same as `PORT`. Empty: no admin routes.",
    )
    admin_names: tuple[str, ...] = _variable(
        "",
        kinds.NAMES,
        "Host names that the admin address accepts in `Host`, besides IP addresses, `localhost` and `ADMIN_HOST`: a "
        "container's name, or that of a gateway in front. Any other name is answered 403, as a stranger could make it "
        "point here (DNS rebinding).",
    )
    callback_host: str = _variable(
        "",
        kinds.OPTIONAL_HOST,
        "The address to listen on for callbacks when `CALLBACK_PORT` is set. Empty: `HOST`.",
    )
    callback_port: int | None = _variable(
        "",
        kinds.OPTIONAL_PORT,
        "If set, callbacks are served on this port and no longer on `PORT`, so that the clients' routes need not be "
        "public.",
    )
    tls_certfile: str = _variable(
        "",
        kinds.PATH,
        "The certificate chain (PEM). With `TLS_KEYFILE`, `PORT` and `CALLBACK_PORT` speak TLS; `ADMIN_PORT` never "
        "does.",
    )
    tls_keyfile: str = _variable("", kinds.PATH, "The private key (PEM). Set both files or neither.")
    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = _variable(
        "",
        kinds.NETWORKS,
        "Addresses of gateways whose `X-Forwarded-For`, `-Proto`, `-Host` and `-Prefix` are trusted: links in answers "
        "then begin with the prefix. From any other peer these headers are ignored.",
    )
    api_keys: tuple[str, ...] = _variable(
        "",
        kinds.KEYS,
        "If set, clients must send `Authorization: Bearer KEY` with one of these keys. Separate several keys with "
        "commas, for example to replace one without an interruption.",
        secret=True,
    )
    api_keys_file: str = _variable(
        "",
        kinds.PATH,
        "A file with further keys, one a line, as secret stores provide it. Unlike the environment it can change: "
        "SIGHUP reloads it.",
    )
    drain_delay: float = _variable(
        "0",
        kinds.number(0, 3_600, whole=False),
        "Seconds from SIGTERM until new jobs are refused. In that time `/readyz` answers 503 and jobs are still "
        "accepted, so that a load balancer can stop sending them. Ctrl-C does not wait.",
    )
    keep_alive_timeout: float = _variable(
        "100",
        kinds.number(1, 86_400, whole=False),
        "Seconds for which an idle connection is kept open for the next request. Set it longer than the idle timeout "
        "of whatever is in front; the usual gateways have 60 s, Go's client has 90 s.",
    )
    fast_http: bool = _variable(
        "true",
        kinds.BOOLEAN,
        "`true`: plain HTTP/1.1 requests are served by the proxy's own code, all others by Hypercorn. `false`: all are "
        "served by Hypercorn, which takes more CPU.",
    )
    label_members: tuple[str, ...] = _variable(
        "account",
        kinds.MEMBERS,
        "Members of a job's JSON object by which people recognise it, separated by commas: they are recorded, logged "
        "and shown. Long values are cut; values that look like secrets are not shown. Empty: none.",
    )
    record_bodies: int = _variable(
        "0",
        kinds.number(0, 65_536, whole=True),
        "How many bytes of each job's request body are recorded and shown to operators, and as many of its result. "
        "Only JSON; members that look like secrets are masked. 0: none.",
    )
    record_bodies_masked: tuple[str, ...] = _variable(
        "",
        kinds.MEMBERS,
        "Members whose values `RECORD_BODIES` masks as well, wherever they are in a body, separated by commas.",
    )
    admin_keys: tuple[AdminKey, ...] = _variable(
        "",
        kinds.ADMIN_KEYS,
        "Keys for the admin address, sent as `Authorization: Bearer KEY` or typed at its log-in page: `look` may read "
        "everything, `act` may also stop jobs, pause and drain. Several entries may have the same name, so that a key "
        "can be replaced without an interruption. Without `ADMIN_KEYS` and `ADMIN_USER_HEADER`, whoever can reach the "
        "address may do everything.",
        secret=True,
        section="Operators",
    )
    admin_keys_file: str = _variable(
        "",
        kinds.PATH,
        "A file with further admin keys, `NAME:ROLE:KEY`, one a line. SIGHUP reloads it, and ends the sessions of "
        "keys that were removed.",
    )
    admin_user_header: str = _variable(
        "",
        kinds.HEADER,
        "The header in which a gateway that authenticates operators passes their names, such as `X-Forwarded-User`. "
        "It is trusted only from `ADMIN_TRUSTED_PEERS`, and the gateway must remove it from requests of its clients.",
    )
    admin_trusted_peers: tuple[IPv4Network | IPv6Network, ...] = _variable(
        "",
        kinds.NETWORKS,
        "The addresses of the gateways that send `ADMIN_USER_HEADER`. On the admin address their `X-Forwarded-For`, "
        "`-Proto`, `-Host` and `-Prefix` are trusted as well, as if they were in `TRUSTED_PROXIES`.",
    )
    admin_acting_users: tuple[str, ...] = _variable(
        "",
        kinds.USERS,
        "Which of the operators that `ADMIN_USER_HEADER` names have the role `act`; `*`: all of them. The others have "
        "`look`.",
    )
    job_server_url: str = _variable(
        "",
        kinds.URL,
        "The URL that jobs are submitted to, for example `http://jobs.example.com/start`. Empty: the address in the "
        "profile; if it has none, as `spreedly`, an embedded job server is started and used.",
        section="Job server",
    )
    profile: str = _variable(
        "spreedly",
        kinds.PROFILE,
        "The protocol that the job server speaks: the name of a file in `profiles/`, without `.toml`, or a path to "
        "your own file (see docs/profiles.md). Several, separated by commas: `POST /queueJob/NAME` chooses one.",
    )
    job_server_cafile: str = _variable(
        "",
        kinds.PATH,
        "A file with CA certificates (PEM) that are trusted for the job server, in addition to the system's: for a "
        "job server with a certificate of your own CA, or a self-signed one.",
    )
    callback_url: str = _variable(
        "",
        kinds.CALLBACK_URL,
        "The base URL at which the job server reaches the callback route; a slash and the job's token are appended. "
        "Empty: the listener's own address, `http://127.0.0.1:3000/callback` with the defaults. Set it if the job "
        "server runs on another machine or the proxy is behind a gateway.",
    )
    job_timeout: float = _variable(
        "30",
        kinds.number(0.1, 86_400, whole=False),
        "Seconds that a job may take, from its acceptance to its answer. After that its worker is killed.",
    )
    submit_retries: int = _variable(
        "3",
        kinds.number(0, 100, whole=True),
        "Retries of a submission that certainly started no job: connection refused, name not resolved, 429, 503 with "
        "`Retry-After`. The delay doubles each time, with jitter; `Retry-After` is honoured; there is no retry after "
        "the deadline. Nothing else is ever sent twice.",
    )
    lost_reply_wait: float = _variable(
        "5",
        kinds.number(0, 86_400, whole=False),
        "Seconds to keep waiting for the callback when the connection broke before the end of the reply to the "
        "submission. A callback proves that the job ran, and is the answer.",
    )
    max_jobs: int = _variable(
        "256",
        kinds.number(1, 100_000, whole=True),
        "The most jobs in flight at a time. More are refused with 503. Jobs that an earlier process or another "
        "instance left open do not count: they have no worker.",
        section="Workers and limits",
    )
    worker_spares: int = _variable(
        "8", kinds.number(0, 1_000, whole=True), "Idle workers kept ready for the next jobs."
    )
    worker_max_jobs: int = _variable(
        "1",
        kinds.number(0, 1_000_000, whole=True),
        "Jobs that a worker process runs, one after the other, before it is replaced. 1: a fresh process for each "
        "job; 0: no limit. A worker whose job failed is never used again.",
    )
    immortal_objects: str = _variable(
        "auto",
        kinds.one_of("auto", "off"),
        "`auto`: with Python 3.12 and 3.13, objects that are loaded before the first fork are made immortal "
        "(PEP 683), which halves a worker's memory. `off`: never.",
    )
    max_body_bytes: int = _variable(
        "1048576",
        kinds.number(1_024, 1_073_741_824, whole=True),
        "The largest request, callback and job server reply, in bytes.",
    )
    granular_errors: bool = _variable(
        "false",
        kinds.BOOLEAN,
        "`true`: a failed job is answered with the granular status of its code, such as 502 or 504, instead of 500.",
        section="Answers",
    )
    journal: str = _variable(
        "jobs.sqlite3",
        kinds.JOURNAL,
        "Where jobs are stored, so that they survive a restart: a SQLite file, or a PostgreSQL database that several "
        "instances of the proxy share, such as `postgresql://user@host1,host2:5432/database` (any libpq connection "
        "URI, with its parameters; see docs/operations.md). Empty: jobs are kept in memory only.",
    )
    instance_name: str = _variable(
        "",
        kinds.NAME,
        "The name of this instance, if several share a database. Empty: the machine's host name.",
    )
    result_ttl: float = _variable(
        "3600",
        kinds.number(1, 31_536_000, whole=False),
        "Seconds for which a finished job is remembered: its status, its result and its idempotency key.",
    )
    journal_max_bytes: int = _variable(
        "1073741824",
        kinds.number(8_388_608, 1_099_511_627_776, whole=True),
        "How large the journal may grow, in bytes: beyond that, or beyond half of the space on its disk (a quarter of "
        "a small one), the oldest finished jobs are forgotten before `RESULT_TTL`.",
    )
    sqs_queue_url: str = _variable(
        "",
        kinds.QUEUE_URL,
        "The URL of an Amazon SQS queue. If set, its messages are run as jobs, in addition to those that come over "
        "HTTP (docs/queue.md). Credentials, region and endpoint are configured as for the AWS SDK: "
        "`AWS_ACCESS_KEY_ID`, `AWS_DEFAULT_REGION`, `AWS_ENDPOINT_URL` in the environment, a role, `~/.aws`.",
        section="Queue",
    )
    sqs_reply_queue_url: str = _variable(
        "",
        kinds.QUEUE_URL,
        "The queue that replies are sent to, unless a message names another one. Empty: no replies.",
    )
    sqs_reply_to: tuple[str, ...] = _variable(
        "",
        kinds.QUEUE_URLS,
        "Queues that a message may name in its attribute `ReplyTo`, separated by commas. A message that names any "
        "other goes to the dead-letter queue.",
    )
    log_format: str = _variable(
        "auto",
        kinds.one_of("auto", "console", "json"),
        "How log lines look on stderr: `console`, `json` (one object a line), or `auto`: `console` on a terminal, "
        "`json` otherwise.",
        section="Log",
    )
    log_level: str = _variable(
        "info", kinds.one_of("debug", "info", "warning", "error"),
        "The lowest level that is logged.",
    )  # fmt: skip


def variables() -> dict[str, Variable]:
    """Return every variable by its name, in the order in which they are documented."""
    found: dict[str, Variable] = {}
    section = ""
    for f in fields(Settings):
        section = f.metadata["section"] or section
        found[f.name.upper()] = Variable(
            default=f.metadata["default"],
            takes=f.metadata["kind"].takes,
            meaning=f.metadata["meaning"],
            section=section,
        )
    return found


def load(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> Settings:
    """Return the settings from `environ` (default: the process's), or else from `env_file`.

    Raises:
        SettingsError: something is invalid; the message has a line for each problem.
    """
    given = os.environ if environ is None else environ
    file, troubles = dot_env.read(env_file, variables()) if env_file is not None else ({}, [])
    values: dict[str, Any] = {}
    for f in fields(Settings):
        name = f.name.upper()
        text = given.get(name, file.get(name, f.metadata["default"]))
        try:
            values[f.name] = f.metadata["kind"].parse(text)
        except ValueError as exc:
            troubles.append(_unfit(name, text.strip(), f.metadata, str(exc)))
    for names, check in TOGETHER:
        if all(name in values for name in names):
            troubles += check(*(values[name] for name in names))
    for name, kind, line_takes in _KEYS:
        if values.get(f"{name}_file") and name in values:
            try:
                values[name] += read_keys(f"{name}_file".upper(), Path(values[f"{name}_file"]), kind, line_takes)
            except SettingsError as exc:
                troubles.append(str(exc))
    troubles += admin_keys_differ(values.get("admin_keys", ()))
    if troubles:
        raise SettingsError("\n".join(troubles))
    return Settings(**values)


class Given(NamedTuple):
    """A setting as it was given, for display."""

    name: str
    #: Without passwords; for a secret, only whether it is set.
    value: str
    #: `environment`, `.env` or `default`.
    source: str
    secret: bool


def given(environ: Mapping[str, str] | None = None, env_file: Path | None = None) -> list[Given]:
    """Return every setting as `load` finds it, and its source, in the order in which they are documented."""
    found = os.environ if environ is None else environ
    file = dot_env.read(env_file, variables())[0] if env_file is not None else {}
    every = []
    for f in fields(Settings):
        name, default, secret = f.name.upper(), f.metadata["default"], f.metadata["secret"]
        text = found.get(name, file.get(name, default)).strip()
        # The shipped `.env` has every setting with its default: that does not count as set by the user.
        at = "environment" if name in found else ".env" if file.get(name, default).strip() != default else "default"
        every.append(Given(name, "(set)" * bool(text) if secret else without_secrets(text), at, secret))
    return every


def misspelt(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of `environ` (default: the process's) that look like a misspelt setting, with its name."""
    given = os.environ if environ is None else environ
    known = variables()
    found = {name: nearest(name, known) for name in given if name not in known}
    return {name: meant for name, meant in found.items() if meant}


def _unfit(name: str, text: str, metadata: Mapping[str, Any], reason: str) -> str:
    shown = "a value (not shown)" if metadata["secret"] else quoted(without_secrets(text))
    return f"{name}: got {shown}, takes {metadata['kind'].takes}" + (f"; {reason}" if reason else "")
