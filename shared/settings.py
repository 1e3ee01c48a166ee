"""The settings: each variable's name, default and meaning, read once at start and checked before anything runs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from decouple import RepositoryEnv

from shared.errors import SettingsError

__all__ = ["Settings", "load", "variables"]

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
_KEYS: Final = _Kind(parse=_keys, takes="keys of printable ASCII without spaces, separated by commas")


def _variable(default: str, kind: _Kind, *, secret: bool = False) -> Any:  # noqa: ANN401 - a dataclass field
    return field(metadata={"default": default, "kind": kind, "secret": secret})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything a user can set. A field's name in capitals is its variable."""

    #: Where clients, and unless `callback_port` is set the job server's callbacks, arrive.
    host: str = _variable("127.0.0.1", _HOST)
    port: int = _variable("3000", _PORT)
    #: Where operators look: workers, metrics, dashboard. None: nowhere.
    admin_host: str = _variable("127.0.0.1", _HOST)
    admin_port: int | None = _variable("3001", _OPTIONAL_PORT)
    #: Where jobs are submitted. Empty: the embedded job server.
    job_server_url: str = _variable("", _URL)
    #: Public base address of the callback route, without a trailing slash. Empty: made from the listener's address.
    callback_url: str = _variable("", _CALLBACK_URL)
    #: Seconds from acceptance to the last moment of an answer.
    job_timeout: float = _variable("30", _number(0.1, 86_400, whole=False))
    #: Jobs in flight; beyond it, 503.
    max_jobs: int = _variable("256", _number(1, 100_000, whole=True))
    #: Workers kept ready.
    worker_spares: int = _variable("8", _number(0, 1_000, whole=True))
    #: Jobs a worker serves before it is replaced; 0: no limit.
    worker_max_jobs: int = _variable("1", _number(0, 1_000_000, whole=True))
    #: Cap in bytes on a request, on a callback and on the job server's reply.
    max_body_bytes: int = _variable("1048576", _number(1_024, 1_073_741_824, whole=True))
    #: Further attempts at a submission that certainly did not start a job.
    submit_retries: int = _variable("3", _number(0, 100, whole=True))
    #: Seconds to wait for the callback after the connection broke before the reply.
    lost_reply_wait: float = _variable("5", _number(0, 86_400, whole=False))
    #: Whether failed jobs answer 502 and 504 instead of 500.
    granular_errors: bool = _variable("false", _BOOLEAN)
    #: The file in which jobs are remembered. Empty: in memory only.
    journal: str = _variable("jobs.sqlite3", _PATH)
    #: Seconds for which a finished job's outcome can be fetched again.
    result_ttl: float = _variable("3600", _number(1, 31_536_000, whole=False))
    #: Where the callback route listens; None: on `port`.
    callback_host: str = _variable("", _OPTIONAL_HOST)
    callback_port: int | None = _variable("", _OPTIONAL_PORT)
    #: Keys that clients may present. Empty: no key is asked for.
    api_keys: tuple[str, ...] = _variable("", _KEYS, secret=True)
    #: Certificate chain and private key, PEM. Empty: plain HTTP.
    tls_certfile: str = _variable("", _PATH)
    tls_keyfile: str = _variable("", _PATH)
    #: How log lines look, and from which level on they are written.
    log_format: str = _variable("auto", _one_of("auto", "console", "json"))
    log_level: str = _variable("info", _one_of("debug", "info", "warning", "error"))


def variables() -> dict[str, tuple[str, str]]:
    """Return each variable's name with its default and with what it takes, in the order of the contract."""
    return {f.name.upper(): (f.metadata["default"], f.metadata["kind"].takes) for f in fields(Settings)}


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
