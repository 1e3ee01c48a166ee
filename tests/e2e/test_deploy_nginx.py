"""deploy/nginx.conf before a real proxy, by a real nginx, over TLS: only addresses, ports and paths are replaced."""

from __future__ import annotations

import asyncio
import io
import os
import re
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import ClientSession, ClientTimeout, TCPConnector
from yarl import URL

from shared.settings import load
from tests.support.http import fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.waiting import IN_VAIN_S, eventually, eventually_blocking

SITE = ROOT / "deploy" / "nginx.conf"

#: What a distribution's nginx.conf has around a site.
_AROUND = """\
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
class Nginx:
    """A running nginx."""

    url: str
    folder: Path
    certificate: Path

    @property
    def log(self) -> str:
        """Everything it has written so far."""
        return "".join(path.read_text(encoding="utf-8") for path in sorted(self.folder.glob("*.log")))


def replaced(site: str, *changes: tuple[str, str]) -> str:
    """The site with each change made; each must have something to change."""
    for old, new in changes:
        assert old in site, old
        site = site.replace(old, new)
    return site


@pytest.fixture
def nginx_port() -> Iterator[int]:
    """A port that nobody else is given: bound all the time, and listened on by nginx."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        yield reservation.getsockname()[1]


@pytest.fixture
def behind(job_server: JobServer, nginx_port: int) -> Iterator[ProxyProcess]:
    """A proxy that tells the job server to call back through nginx."""
    settings = {"JOB_SERVER_URL": job_server.url, "CALLBACK_URL": f"https://127.0.0.1:{nginx_port}/callback"}
    with ProxyProcess.started(**settings, WORKER_SPARES="2") as proxy:
        yield proxy


@pytest.fixture
def read_timeout() -> str:
    """What nginx is to wait for the proxy; as in the file, unless a test has another."""
    return "40s"


@pytest.fixture
def nginx(behind: ProxyProcess, nginx_port: int, read_timeout: str, tmp_path: Path) -> Iterator[Nginx]:
    """An nginx with the site, started and listening."""
    certificate, key = certificate_in(tmp_path)
    site = replaced(
        SITE.read_text(encoding="utf-8"),
        ("listen 443 ssl;", f"listen 127.0.0.1:{nginx_port} ssl;"),
        ("127.0.0.1:3000;", behind.url.removeprefix("http://") + ";"),
        ("/etc/ssl/certs/async-job-proxy.pem", str(certificate)),
        ("/etc/ssl/private/async-job-proxy.key", str(key)),
        ("/var/log/nginx/", f"{tmp_path}/"),
        ("proxy_read_timeout    40s;", f"proxy_read_timeout {read_timeout};"),
    )
    (tmp_path / "site.conf").write_text(site, encoding="utf-8")
    user = "user root;" if os.geteuid() == 0 else ""
    main = tmp_path / "main.conf"
    main.write_text(_AROUND.format(folder=tmp_path, user=user), encoding="utf-8")
    process = subprocess.Popen(["nginx", "-e", str(tmp_path / "main.log"), "-p", str(tmp_path), "-c", str(main)])
    try:
        eventually_blocking(lambda: process.poll() is not None or accepts(nginx_port))
        running = Nginx(url=f"https://127.0.0.1:{nginx_port}", folder=tmp_path, certificate=certificate)
        assert process.poll() is None, running.log
        yield running
    finally:
        process.terminate()
        process.wait(IN_VAIN_S)


def certificate_in(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    certificate, key = folder / "cert.pem", folder / "key.pem"
    subject = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    command = ["openssl", "req", "-x509", *curve, *subject, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


def accepts(port: int) -> bool:
    """Whether somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture
async def outside(nginx: Nginx) -> AsyncIterator[ClientSession]:
    """A client that trusts nginx's certificate."""
    context = ssl.create_default_context(cafile=str(nginx.certificate))
    connector = TCPConnector(ssl=context, force_close=True)
    async with ClientSession(connector=connector, timeout=ClientTimeout(total=45)) as session:
        yield session


async def called_back(outside: ClientSession, job_server: JobServer, ref: str) -> str:
    """Call back for a job in flight as the job server would; return the address that was called."""
    url = await eventually(lambda: job_server.submissions(ref) and job_server.callback_url(ref))
    answer = await fetch(outside, "POST", url, json={"state": "completed", "ref": ref})
    assert (answer.status, answer.document) == (200, {"status": "accepted"})
    return str(url)


async def test_a_job_and_its_callback_pass(nginx: Nginx, outside: ClientSession, job_server: JobServer) -> None:
    """The job comes in over TLS, its callback too, at the address the proxy gave; the answer is the callback's body."""
    ref = new_ref()
    job = post_job(outside, f"{nginx.url}/queueJob", ref=ref, fault="never")
    answer, url = await asyncio.gather(job, called_back(outside, job_server, ref))
    assert url.startswith(f"{nginx.url}/callback/")
    assert (answer.status, answer.document) == (200, {"state": "completed", "ref": ref})
    assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["Job-Id"])


async def test_the_log_names_the_job_and_no_token(nginx: Nginx, outside: ClientSession, job_server: JobServer) -> None:
    """Who can read a token may answer for the job server."""
    ref = new_ref()
    job = post_job(outside, f"{nginx.url}/queueJob", ref=ref, fault="never")
    answer, url = await asyncio.gather(job, called_back(outside, job_server, ref))
    await eventually(lambda: f"job={answer.headers['Job-Id']}" in nginx.log and "/callback/... 200" in nginx.log)
    assert url.rpartition("/")[2] not in nginx.log


async def test_large_bodies_pass_without_touching_the_disk(
    nginx: Nginx, outside: ClientSession, job_server: JobServer
) -> None:
    """A job and a result of almost MAX_BODY_BYTES fit nginx's buffers; a larger job gets the proxy's own 413."""
    ref = new_ref()
    text = "x" * 1_000_000
    job = post_job(outside, f"{nginx.url}/start", ref=ref, fault="never", padding=text)
    url_of = eventually(lambda: job_server.submissions(ref) and job_server.callback_url(ref))

    async def call_back() -> None:
        answer = await fetch(outside, "POST", await url_of, json={"state": "completed", "text": text})
        assert answer.status == 200

    answer, _ = await asyncio.gather(job, call_back())
    assert answer.status == 200
    assert answer.document["text"] == text
    assert "buffered to a temporary file" not in nginx.log
    too_large = io.BytesIO(b"x" * 1_100_000)
    headers = {"Content-Type": "application/json"}
    answer = await fetch(outside, "POST", f"{nginx.url}/queueJob", data=too_large, headers=headers)
    problem(answer, "payload-too-large", 413)


async def test_the_admin_routes_are_not_reachable(nginx: Nginx, outside: ClientSession, behind: ProxyProcess) -> None:
    """What the admin address serves, nginx does not."""
    assert (await fetch(outside, "GET", f"{behind.admin}/workers")).status == 200
    for path in ("/workers", "/metrics", "/", "/events", "/../workers", "/callback/../workers", "//workers", "/readyz"):
        async with outside.get(URL(nginx.url + path, encoded=True)) as response:
            assert response.status in {400, 404}, path
            assert b"spare" not in await response.read()


async def test_what_explains_the_answers_is_reachable(nginx: Nginx, outside: ClientSession) -> None:
    """A client that reads `type` can follow it."""
    answer = await fetch(outside, "GET", f"{nginx.url}/problems/deadline-exceeded")
    assert (answer.status, answer.document["code"]) == (200, "deadline-exceeded")
    assert (await fetch(outside, "GET", f"{nginx.url}/healthz")).status == 200


async def test_a_token_that_is_none_is_refused_by_the_proxy(nginx: Nginx, outside: ClientSession) -> None:
    """The callback route is reachable from outside, and the token is what guards it."""
    problem(await fetch(outside, "POST", f"{nginx.url}/callback/{'A' * 43}", json={}), "not-found", 404)


@pytest.mark.parametrize("read_timeout", ["1s"])
async def test_a_job_that_outlasts_nginx_goes_on(nginx: Nginx, outside: ClientSession, job_server: JobServer) -> None:
    """The answer is 504 and says that nobody knows; the job runs to its end, and its callback is accepted."""
    ref = new_ref()
    answer = await post_job(outside, f"{nginx.url}/queueJob", ref=ref, fault="never")
    assert answer.status == 504
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.document["submitted"], answer.document["retry_safe"]) == ("unknown", False)
    await called_back(outside, job_server, ref)
    assert len(job_server.submissions(ref)) == 1


async def test_a_proxy_that_is_gone_is_an_answer_too(
    nginx: Nginx, outside: ClientSession, behind: ProxyProcess
) -> None:
    """While the proxy is replaced, clients get JSON and the advice not to send the job again blindly."""
    behind.kill()
    answer = await post_job(outside, f"{nginx.url}/queueJob")
    assert answer.status == 504
    assert (answer.document["submitted"], answer.document["retry_safe"]) == ("unknown", False)


def test_nginx_waits_longer_than_the_proxy() -> None:
    """The time limit in the file is above JOB_TIMEOUT's default and the second that the answer may take."""
    (read_timeout_s,) = re.findall(r"^    proxy_read_timeout +(\d+)s;", SITE.read_text(encoding="utf-8"), re.MULTILINE)
    assert int(read_timeout_s) > load({}).job_timeout + 1


async def test_what_nginx_refuses_by_itself_is_a_problem_document(outside: ClientSession, nginx: Nginx) -> None:
    """A body or headers too large for it, and a route that is not there: none of it has reached the proxy."""
    body = b'{"account": "' + b"x" * 3_000_000 + b'"}'
    json = {"Content-Type": "application/json"}
    headers = json | {f"X-Large-{n}": "x" * 7_000 for n in range(6)}

    large = await fetch(outside, "POST", f"{nginx.url}/queueJob", data=io.BytesIO(body), headers=json)
    many = await fetch(outside, "POST", f"{nginx.url}/queueJob", data=b"{}", headers=headers)

    problem(large, "payload-too-large", 413, "no")
    problem(many, "headers-too-large", 431, "no")
    problem(await fetch(outside, "GET", f"{nginx.url}/nothing"), "not-found", 404, "no")
