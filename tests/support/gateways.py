"""The gateways of deploy/, as real programs before a proxy: only addresses, ports, paths and times are replaced."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.support.proxy_process import ROOT
from tests.support.waiting import eventually_blocking

__all__ = ["FILES", "Gateway", "Times", "accepts", "running"]

FILES: Final = {"nginx": ROOT / "deploy" / "nginx.conf", "haproxy": ROOT / "deploy" / "haproxy.cfg"}

#: What a distribution's nginx.conf has around a site.
_AROUND: Final = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/main.log;
{user}
events {{ worker_connections 256; }}
http {{
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """How long a gateway waits, as its file writes it."""

    #: For the proxy's answer.
    answer: str = "40s"
    #: For the next request on a connection to the proxy.
    idle: str = "60s"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway."""

    name: str
    url: str
    folder: Path
    certificate: Path

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def running(
    name: str, port: int, proxy_url: str, folder: Path, times: Times | None = None, *, tls: bool = True
) -> Iterator[Gateway]:
    """Start a gateway that listens on `port` and passes on to `proxy_url`; end it with the block.

    Without `tls`, what its file says of that is left out: there are clients that trust no certificate of a test's.
    """
    certificate, key = _certificate_in(folder)
    place = _Place(port=port, upstream=proxy_url.removeprefix("http://"), folder=folder, times=times or Times())
    make = _nginx if name == "nginx" else _haproxy
    command = make(place, (certificate, key) if tls else None)
    with (folder / "output.log").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        eventually_blocking(lambda: process.poll() is not None or accepts(port))
        scheme = "https" if tls else "http"
        gateway = Gateway(name=name, url=f"{scheme}://127.0.0.1:{port}", folder=folder, certificate=certificate)
        assert process.poll() is None, gateway.log
        yield gateway
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a gateway stands."""

    port: int
    upstream: str
    folder: Path
    times: Times


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _nginx(place: _Place, pair: tuple[Path, Path] | None) -> list[str]:
    folder = place.folder
    site = _replaced(
        FILES["nginx"].read_text(encoding="utf-8"),
        ("127.0.0.1:3000;", place.upstream + ";"),
        ("/var/log/nginx/", f"{folder}/"),
        ("proxy_read_timeout    40s;", f"proxy_read_timeout {place.times.answer};"),
        ("keepalive_timeout  60s;", f"keepalive_timeout {place.times.idle};"),
    )
    if pair is None:
        site = _replaced(site, ("listen 443 ssl http2;", f"listen 127.0.0.1:{place.port};"))
        site = re.sub(r"^    ssl_\w+ .*\n", "", site, flags=re.MULTILINE)
    else:
        site = _replaced(
            site,
            ("listen 443 ssl", f"listen 127.0.0.1:{place.port} ssl"),
            ("/etc/ssl/certs/async-job-proxy.pem", str(pair[0])),
            ("/etc/ssl/private/async-job-proxy.key", str(pair[1])),
        )
    (folder / "site.conf").write_text(site, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    main = folder / "main.conf"
    main.write_text(_AROUND.format(folder=folder, user=user), encoding="utf-8")
    return ["nginx", "-e", str(folder / "main.log"), "-p", str(folder), "-c", str(main)]


def _haproxy(place: _Place, pair: tuple[Path, Path] | None) -> list[str]:
    text = _replaced(
        FILES["haproxy"].read_text(encoding="utf-8"),
        ("server proxy 127.0.0.1:3000", f"server proxy {place.upstream}"),
        ("    user haproxy\n    group haproxy\n", ""),
        ("timeout server          40s", f"timeout server {place.times.answer}"),
        ("pool-purge-delay 5s", f"pool-purge-delay {min(place.times.idle, '5s')}"),
    )
    if pair is None:
        text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{place.port}", text)
    else:
        both = place.folder / "both.pem"
        both.write_text("".join(path.read_text(encoding="ascii") for path in pair), encoding="ascii")
        text = _replaced(
            text, ("bind :443 ", f"bind 127.0.0.1:{place.port} "), ("/etc/haproxy/async-job-proxy.pem", str(both))
        )
    main = place.folder / "haproxy.cfg"
    main.write_text(text, encoding="utf-8")
    return ["haproxy", "-db", "-f", str(main)]


def _replaced(text: str, *changes: tuple[str, str]) -> str:
    """Return the text with each change made; each must have something to change."""
    for old, new in changes:
        assert old in text, old
        text = text.replace(old, new)
    return text


def _certificate_in(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
