"""The gateways of deploy/, as real programs in front of a proxy; only addresses, ports, paths and times are changed."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cluster import nginx
from cluster.nginx import Times
from tests.support.proxy_process import ROOT
from tests.support.waiting import eventually_blocking

__all__ = ["FILES", "Gateway", "Times", "accepts", "running", "running_admin"]

FILES: Final = {"nginx": nginx.FILE, "haproxy": ROOT / "deploy" / "haproxy.cfg"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Gateway:
    """A running gateway."""

    name: str
    url: str
    folder: Path
    certificate: Path
    key: Path
    #: The pid of the process that takes signals.
    pid: int

    def renew(self) -> None:
        """Replace its certificate, and reload it without an interruption."""
        _certificate_in(self.folder)
        both = self.folder / "both.pem"
        if both.exists():
            both.write_text(self.certificate.read_text("ascii") + self.key.read_text("ascii"), encoding="ascii")
        os.kill(self.pid, signal.SIGUSR2 if self.name == "haproxy" else signal.SIGHUP)

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.log")))


@contextlib.contextmanager
def running(
    name: str,
    port: int,
    proxies: str | Sequence[str],
    folder: Path,
    times: Times | None = None,
    *,
    tls: bool = True,
) -> Iterator[Gateway]:
    """Run a gateway within the block that listens on `port` and forwards to `proxies`, one URL or several.

    Without `tls`, that part of its file is left out: some clients cannot trust a certificate of a test.
    """
    certificate, key = _certificate_in(folder)
    urls = [proxies] if isinstance(proxies, str) else proxies
    upstreams = [url.removeprefix("http://") for url in urls]
    place = _Place(port=port, upstreams=upstreams, folder=folder, times=times or Times())
    make = _nginx if name == "nginx" else _haproxy
    command = make(place, (certificate, key) if tls else None)
    with _run(command, name, port, folder, certificate, "https" if tls else "http") as gateway:
        yield gateway


@contextlib.contextmanager
def running_admin(port: int, proxy: str, folder: Path, users: Path | None = None) -> Iterator[Gateway]:
    """Start deploy/nginx-admin.conf, which listens on `port` and forwards to the admin address of `proxy`.

    With `users`, a file for auth_basic, nginx authenticates operators.
    """
    certificate, key = _certificate_in(folder)
    site = nginx.replaced(
        (ROOT / "deploy" / "nginx-admin.conf").read_text(encoding="utf-8"),
        ("listen 443 ssl http2;", f"listen 127.0.0.1:{port} ssl;"),
        ("http://127.0.0.1:3001/", f"{proxy}/"),
        ("/etc/ssl/certs/async-job-proxy.pem", str(certificate)),
        ("/etc/ssl/private/async-job-proxy.key", str(key)),
    )
    if users is not None:
        site = nginx.replaced(
            site,
            ('X-Forwarded-User "";', "X-Forwarded-User $remote_user;"),
            ("# auth_basic ", "auth_basic "),
            ("# auth_basic_user_file /etc/nginx/operators;", f"auth_basic_user_file {users};"),
            ("# proxy_set_header     Authorization", "proxy_set_header     Authorization"),
        )
    site = f"access_log {folder}/access.log;\n{site}"
    with _run(nginx.command_for(folder, site), "nginx", port, folder, certificate, "https") as gateway:
        yield gateway


@contextlib.contextmanager
def _run(command: list[str], name: str, port: int, folder: Path, certificate: Path, scheme: str) -> Iterator[Gateway]:
    with (folder / "output.log").open("w", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        eventually_blocking(lambda: process.poll() is not None or accepts(port))
        gateway = Gateway(
            name=name,
            url=f"{scheme}://127.0.0.1:{port}",
            folder=folder,
            certificate=certificate,
            key=certificate.with_name("key.pem"),
            pid=process.pid,
        )
        assert process.poll() is None, gateway.log
        yield gateway
    finally:
        process.terminate()
        process.wait(10)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """The address and the files of a gateway."""

    port: int
    upstreams: list[str]
    folder: Path
    times: Times


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _nginx(place: _Place, pair: tuple[Path, Path] | None) -> list[str]:
    return nginx.command(place.folder, place.port, place.upstreams, times=place.times, pair=pair)


def _haproxy(place: _Place, pair: tuple[Path, Path] | None) -> list[str]:
    text = re.sub(
        r"^    server proxy 127\.0\.0\.1:3000(.*)$",
        lambda line: "\n".join(f"    server proxy{n} {at}{line[1]}" for n, at in enumerate(place.upstreams)),
        FILES["haproxy"].read_text(encoding="utf-8"),
        flags=re.MULTILINE,
    )
    text = nginx.replaced(
        text,
        ("    user haproxy\n    group haproxy\n", ""),
        ("abns@async-job-proxy", f"abns@async-job-proxy-{place.port}"),
        ("timeout server          40s", f"timeout server {place.times.answer}"),
        ("pool-purge-delay 5s", f"pool-purge-delay {min(place.times.idle, '5s')}"),
    )
    if pair is None:
        text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{place.port}", text)
    else:
        both = place.folder / "both.pem"
        both.write_text("".join(path.read_text(encoding="ascii") for path in pair), encoding="ascii")
        text = nginx.replaced(
            text, ("bind :443 ", f"bind 127.0.0.1:{place.port} "), ("/etc/haproxy/async-job-proxy.pem", str(both))
        )
    main = place.folder / "haproxy.cfg"
    main.write_text(text, encoding="utf-8")
    return ["haproxy", "-W", "-db", "-f", str(main)]


def _certificate_in(folder: Path) -> tuple[Path, Path]:
    """Return a certificate for 127.0.0.1 and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key
