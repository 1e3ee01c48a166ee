"""The settings: each variable's name, default and meaning, read once at start and checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from decouple import RepositoryEnv

from shared.errors import SettingsError

__all__ = ["Settings", "Variable", "load", "variables"]

_MAX_PORT: Final = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kind:
    """What a variable takes: a parser that raises ValueError, and the words for a person."""

    parse: Callable[[str], Any]
    takes: str


def _number(low: float, high: float, *, whole: bool) -> _Kind:
    def parse(text: str) -> float:
        value = int(text) if whole else float(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    noun = "a whole number" if whole else "a number"
    return _Kind(parse=parse, takes=f"{noun} from {low:.10g} to {high:.10g}")


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value <= _MAX_PORT:
        raise ValueError(text)
    return value


def _optional_port(text: str) -> int | None:
    return _port(text) if text else None


def _boolean(text: str) -> bool:
    known = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    try:
        return known[text.lower()]
    except KeyError:
        raise ValueError(text) from None


def _url(text: str) -> str:
    if not text:
        return text
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.fragment or any(c.isspace() for c in text):
        raise ValueError(text)
    _ = parts.port  # raises ValueError when it is no port
    return text


def _callback_url(text: str) -> str:
    if urlsplit(_url(text)).query:
        raise ValueError(text)
    return text.rstrip("/")


def _host(text: str) -> str:
    if not text or any(c.isspace() or c == "/" for c in text):
        raise ValueError(text)
    return text


def _keys(text: str) -> tuple[str, ...]:
    keys = tuple(key.strip() for key in text.split(",")) if text else ()
    if any(not key or not key.isascii() or not key.isprintable() or " " in key for key in keys):
        raise ValueError(text)
    return keys


def _profile(text: str) -> str:
    if not text:
        raise ValueError(text)
    return text


def _one_of(*words: str) -> _Kind:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(text)
        return text

    return _Kind(parse=parse, takes=f"one of {', '.join(words)}")


_HOST: Final = _Kind(parse=_host, takes="a host name or an IP address")
_OPTIONAL_HOST: Final = _Kind(
    parse=lambda text: _host(text) if text else "", takes="a host name, an IP address, or nothing"
)
_PORT: Final = _Kind(parse=_port, takes="a port from 0 to 65535 (0: any free one)")
_OPTIONAL_PORT: Final = _Kind(parse=_optional_port, takes="a port from 0 to 65535 (0: any free one), or nothing")
_BOOLEAN: Final = _Kind(parse=_boolean, takes="true or false")
_URL: Final = _Kind(parse=_url, takes="an http:// or https:// address, or nothing")
_CALLBACK_URL: Final = _Kind(parse=_callback_url, takes="an http:// or https:// address without a query, or nothing")
_PATH: Final = _Kind(parse=str, takes="a file's path, or nothing")
_PROFILE: Final = _Kind(parse=_profile, takes="the name of a file in profiles/, or a path to a .toml file")
_KEYS: Final = _Kind(parse=_keys, takes="keys of printable ASCII without spaces, separated by commas")


class Variable(NamedTuple):
    """What there is to say about a variable; the documentation is generated from it."""

    #: As it stands in `.env`.
    default: str
    #: The values that it takes, in words.
    takes: str
    #: What it does; `backticks` mark code.
    meaning: str
    #: The heading under which it is documented.
    section: str


def _variable(default: str, kind: _Kind, meaning: str, *, secret: bool = False, section: str = "") -> Any:  # noqa: ANN401 - a dataclass field
    """Return a field; `section` opens a section of the documentation, which goes on until the next one."""
    return field(metadata={"default": default, "kind": kind, "meaning": meaning, "secret": secret, "section": section})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a user can set. A field's name in capitals is its variable; `make docs` writes `.env` from here."""

    host: str = _variable(
        "127.0.0.1",
        _HOST,
        "The address to listen on for clients and, unless `CALLBACK_PORT` is set, for the job server's callbacks.",
        section="Listening",
    )
    port: int = _variable("3000", _PORT, "The port for clients. 0: any free one.")
    admin_host: str = _variable(
        "127.0.0.1",
        _HOST,
        "The address to listen on for operators: dashboard, metrics, workers. Nobody else should be able to reach it.",
    )
    admin_port: int | None = _variable(
        "3001",
        _OPTIONAL_PORT,
        "The port for operators, never the same as `PORT`. Empty: no admin routes.",
    )
    callback_host: str = _variable(
        "",
        _OPTIONAL_HOST,
        "The address to listen on for callbacks when `CALLBACK_PORT` is set. Empty: `HOST`.",
    )
    callback_port: int | None = _variable(
        "",
        _OPTIONAL_PORT,
        "If set, callbacks are served on this port and no longer on `PORT`, so that the clients' routes need not be "
        "public.",
    )
    tls_certfile: str = _variable(
        "",
        _PATH,
        "The certificate chain (PEM). With `TLS_KEYFILE`, `PORT` and `CALLBACK_PORT` speak TLS; `ADMIN_PORT` never "
        "does.",
    )
    tls_keyfile: str = _variable("", _PATH, "The private key (PEM). Set both files or neither.")
    api_keys: tuple[str, ...] = _variable(
        "",
        _KEYS,
        "If set, clients must send `Authorization: Bearer KEY` with one of these keys. Separate keys with commas: "
        "several at a time let you replace one without an interruption.",
        secret=True,
    )
    job_server_url: str = _variable(
        "",
        _URL,
        "The URL that jobs are submitted to, for example `http://jobs.example.com/start`. Empty: an embedded job "
        "server is started and used.",
        section="Job server",
    )
    profile: str = _variable(
        "spreedly",
        _PROFILE,
        "The protocol that the job server speaks: the name of a file in `profiles/`, without `.toml`, or a path to a "
        "file of your own.",
    )
    callback_url: str = _variable(
        "",
        _CALLBACK_URL,
        "The base URL at which the job server reaches the callback route; a slash and the job's token are appended. "
        "Empty: the listener's own address, `http://127.0.0.1:3000/callback` with the defaults. Set it as soon as "
        "the job server runs on another machine or the proxy is behind a gateway.",
    )
    job_timeout: float = _variable(
        "30",
        _number(0.1, 86_400, whole=False),
        "Seconds that a job may take, from its acceptance to its answer. Then its worker is killed.",
    )
    submit_retries: int = _variable(
        "3",
        _number(0, 100, whole=True),
        "Retries of a submission that certainly started no job: connection refused, name not resolved, 429, 503 with "
        "`Retry-After`. The delay doubles each time, with jitter; `Retry-After` is honoured; there is no retry after "
        "the deadline. Nothing else is ever sent twice.",
    )
    lost_reply_wait: float = _variable(
        "5",
        _number(0, 86_400, whole=False),
        "Seconds to keep waiting for the callback when the connection broke between a submission and its reply. A "
        "callback proves that the job ran, and is the answer.",
    )
    max_jobs: int = _variable(
        "256",
        _number(1, 100_000, whole=True),
        "The most jobs in flight at a time. More are refused with 503.",
        section="Workers and limits",
    )
    worker_spares: int = _variable("8", _number(0, 1_000, whole=True), "Idle workers kept ready for the next jobs.")
    worker_max_jobs: int = _variable(
        "1",
        _number(0, 1_000_000, whole=True),
        "Jobs that a worker process runs, one after the other, before it is replaced. 1: a fresh process for each "
        "job; 0: no limit. A worker whose job failed is never used again.",
    )
    max_body_bytes: int = _variable(
        "1048576",
        _number(1_024, 1_073_741_824, whole=True),
        "The largest request, callback and job server reply, in bytes.",
    )
    granular_errors: bool = _variable(
        "false",
        _BOOLEAN,
        "`true`: a failed job is answered with the granular status of its code, such as 502 or 504, instead of 500.",
        section="Answers",
    )
    journal: str = _variable(
        "jobs.sqlite3",
        _PATH,
        "The SQLite file that remembers jobs, so that they survive a restart. Empty: jobs are remembered in memory "
        "only.",
    )
    result_ttl: float = _variable(
        "3600",
        _number(1, 31_536_000, whole=False),
        "Seconds for which a finished job is remembered: its status, its result and its idempotency key.",
    )
    log_format: str = _variable(
        "auto",
        _one_of("auto", "console", "json"),
        "How log lines look on stderr: `console`, `json` (one object a line), or `auto`: `console` on a terminal, "
        "`json` otherwise.",
        section="Log",
    )
    log_level: str = _variable(
        "info", _one_of("debug", "info", "warning", "error"),
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
    """Return the settings from `environ` (default: the process's) and, below it, from `env_file`.

    Raises:
        SettingsError: a value does not fit; the message is one line that names variable, value and what it takes.
    """
    given = os.environ if environ is None else environ
    # The file's own lines: decouple's `Config` would put the process's environment first, whatever `environ` says.
    file: Mapping[str, str] = RepositoryEnv(str(env_file)).data if env_file is not None and env_file.is_file() else {}
    values: dict[str, Any] = {}
    for f in fields(Settings):
        name = f.name.upper()
        text = given.get(name, file.get(name, f.metadata["default"]))
        values[f.name] = _parse(name, text.strip(), f.metadata["kind"], secret=f.metadata["secret"])
    settings = Settings(**values)
    _check_together(settings)
    return settings


def _parse(name: str, text: str, kind: _Kind, *, secret: bool) -> Any:  # noqa: ANN401 - as many types as settings
    try:
        return kind.parse(text)
    except ValueError:
        shown = "a value (not shown)" if secret else repr(text)
        raise SettingsError(f"{name}: got {shown}, takes {kind.takes}") from None


def _check_together(settings: Settings) -> None:
    """Check what no variable can be wrong about alone."""
    if bool(settings.tls_certfile) is not bool(settings.tls_keyfile):
        raise SettingsError("TLS_CERTFILE, TLS_KEYFILE: got one of them, takes both or neither")
    for name in ("tls_certfile", "tls_keyfile"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise SettingsError(f"{name.upper()}: got {path!r}, takes a file that can be read")
    if settings.admin_port and settings.admin_port == settings.port:
        raise SettingsError(f"ADMIN_PORT: got '{settings.admin_port}', takes a port other than PORT")
    if settings.callback_host and settings.callback_port is None:
        raise SettingsError(f"CALLBACK_HOST: got {settings.callback_host!r}, takes effect only with CALLBACK_PORT")
    if settings.callback_port and settings.callback_port in {settings.port, settings.admin_port}:
        raise SettingsError(
            f"CALLBACK_PORT: got '{settings.callback_port}', takes a port other than PORT and ADMIN_PORT"
        )
