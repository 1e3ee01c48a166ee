"""deploy/nginx.conf, adapted to this machine: other instances, other ports, its own folder."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FILE", "Times", "command", "command_for", "is_installed", "replaced"]

FILE: Final = Path(__file__).resolve().parent.parent / "deploy" / "nginx.conf"

#: The main configuration around a site, like a distribution's nginx.conf.
_AROUND: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/main.log;
{user}
events {{ worker_connections {connections}; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""
_CONNECTIONS: Final = 512
_SERVER: Final = "server 127.0.0.1:3000 max_fails=0;"


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long a gateway waits, as written in its file."""

    #: For the proxy's answer.
    answer: str = "40s"
    #: For the next request on a connection to the proxy.
    idle: str = "60s"


def is_installed() -> bool:
    """Whether nginx is installed. Debian installs it in a folder that is only on root's PATH."""
    return _program() is not None


def command(
    folder: Path,
    port: int,
    upstreams: Sequence[str],
    *,
    times: Times | None = None,
    pair: tuple[Path, Path] | None = None,
) -> list[str]:
    """Write the configuration into `folder`; return the command that runs nginx with it, until SIGTERM.

    It listens on `port` of 127.0.0.1, and forwards to `upstreams`, each of the form `host:port`. With `pair`, a
    certificate and its key, it speaks TLS. All its files are in `folder`.
    """
    times = times or Times()
    site = replaced(
        FILE.read_text(encoding="utf-8"),
        (_SERVER, "\n    ".join(_SERVER.replace("127.0.0.1:3000", upstream) for upstream in upstreams)),
        ("/var/log/nginx/", f"{folder}/"),
        ("proxy_read_timeout    40s;", f"proxy_read_timeout {times.answer};"),
        ("keepalive_timeout  60s;", f"keepalive_timeout {times.idle};"),
    )
    if pair is None:
        site = replaced(site, ("listen 443 ssl http2;", f"listen 127.0.0.1:{port};"))
        site = re.sub(r"^    ssl_\w+ .*\n", "", site, flags=re.MULTILINE)
    else:
        site = replaced(
            site,
            ("listen 443 ssl", f"listen 127.0.0.1:{port} ssl"),
            ("/etc/ssl/certs/async-job-proxy.pem", str(pair[0])),
            ("/etc/ssl/private/async-job-proxy.key", str(pair[1])),
        )
    return command_for(folder, site, connections=_CONNECTIONS * len(upstreams))


def command_for(folder: Path, site: str, *, connections: int = _CONNECTIONS) -> list[str]:
    """Write this site's configuration into `folder`; return the command that runs nginx with it, until SIGTERM."""
    (folder / "site.conf").write_text(site, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    main = folder / "main.conf"
    main.write_text(_AROUND.format(folder=folder, user=user, connections=connections), encoding="utf-8")
    return [_program() or "nginx", "-e", str(folder / "main.log"), "-p", str(folder), "-c", str(main)]


def replaced(text: str, *changes: tuple[str, str]) -> str:
    """Return the text with each change made. Raises ValueError if the text does not contain what is to be changed."""
    for old, new in changes:
        if old not in text:
            raise ValueError(f"there is no {old!r} any more")
        text = text.replace(old, new)
    return text


def _program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
