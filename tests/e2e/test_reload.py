"""SIGHUP reads certificates and keys again, without an interruption; it never ends the process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
from aiohttp import ClientSession

from tests.support.http import fetch, new_ref, over_tls, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ROOT, ProxyProcess, environment
from tests.support.waiting import eventually

_RELOADED = "reloaded certificate and keys"
_NOT_RELOADED = "the reload failed, and nothing was changed"


async def reload(proxy: ProxyProcess, event: str) -> dict[str, Any]:
    """Send SIGHUP and return the next log line with this event."""
    before = len(proxy.events_of(event))
    proxy.signal(signal.SIGHUP)
    lines = await eventually(lambda: proxy.events_of(event)[before:])
    return dict(lines[0])


async def status_with(client: ClientSession, proxy: ProxyProcess, key: str) -> int:
    """Return the status of a job that is sent with this key."""
    return (await post_job(client, proxy.queue_job, headers={"Authorization": f"Bearer {key}"})).status


async def certificate_trouble(client: ClientSession, proxy: ProxyProcess) -> str:
    """Return what operators see as the trouble with the certificate."""
    (certificate,) = (await fetch(client, "GET", f"{proxy.admin}/house")).document["certificates"]
    return str(certificate["trouble"])


async def ends_at(client: ClientSession, proxy: ProxyProcess) -> tuple[float, float]:
    """Return when the certificate expires: in the file, as operators see it, and of the one in use, by the metrics."""
    (certificate,) = (await fetch(client, "GET", f"{proxy.admin}/house")).document["certificates"]
    metrics = (await fetch(client, "GET", f"{proxy.admin}/metrics")).body.decode()
    name = 'async_job_proxy_certificate_expiration_timestamp_seconds{setting="TLS_CERTFILE"}'
    (value,) = (line.removeprefix(name) for line in metrics.splitlines() if line.startswith(name))
    return certificate["ends_at"], float(value)


async def test_keys_can_be_replaced(client: ClientSession, job_server: JobServer, tmp_path: Path) -> None:
    """A removed key is refused, a new one accepted, a remaining one never refused."""
    keys = tmp_path / "keys"
    keys.write_text("old\n", encoding="utf-8")
    settings = {"API_KEYS_FILE": str(keys), "JOB_SERVER_URL": job_server.url}
    with ProxyProcess.started(API_KEYS="always", **settings) as proxy:
        assert [await status_with(client, proxy, key) for key in ("always", "old", "new")] == [200, 200, 401]
        keys.write_text("new\n", encoding="utf-8")
        line = await reload(proxy, _RELOADED)
        assert (line["api_keys"], line["needs_restart"]) == (2, [])
        assert [await status_with(client, proxy, key) for key in ("always", "old", "new")] == [200, 401, 200]
        assert proxy.stop() == 0


async def test_a_reload_during_the_start_follows_it(client: ClientSession, tmp_path: Path) -> None:
    """The keys may have been read already; and the signal must not end the process, as it does by default."""
    keys = tmp_path / "keys"
    keys.write_text("old\n", encoding="utf-8")
    with ProxyProcess(API_KEYS_FILE=str(keys)) as proxy:
        await eventually(proxy.descendants, every_s=0.001)  # now everything else is loaded
        keys.write_text("new\n", encoding="utf-8")
        proxy.signal(signal.SIGHUP)
        await asyncio.to_thread(proxy.wait_until_listening)
        await eventually(lambda: proxy.events_of(_RELOADED))
        assert [await status_with(client, proxy, key) for key in ("old", "new")] == [401, 200]
        assert proxy.stop() == 0


async def test_a_file_that_does_not_fit_changes_nothing(
    client: ClientSession, job_server: JobServer, tmp_path: Path
) -> None:
    """In particular, it does not open the proxy to everybody; the log says why, without a key."""
    keys = tmp_path / "keys"
    keys.write_text("good\n", encoding="utf-8")
    with ProxyProcess.started(API_KEYS_FILE=str(keys), JOB_SERVER_URL=job_server.url) as proxy:
        for text in ("", "two words\n"):
            keys.write_text(text, encoding="utf-8")
            line = await reload(proxy, _NOT_RELOADED)
            assert line["reason"].startswith("API_KEYS_FILE: ")
            assert [await status_with(client, proxy, key) for key in ("good", "two words", "")] == [200, 401, 401]
        assert proxy.stop() == 0


async def test_a_certificate_can_be_replaced(client: ClientSession, job_server: JobServer, tmp_path: Path) -> None:
    """New connections get the new one; a pair that does not match, or is truncated, changes nothing."""
    one, other = certificate_in(tmp_path / "one"), certificate_in(tmp_path / "other", days=2)
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    put(one, cert, key)
    settings = {"TLS_CERTFILE": str(cert), "TLS_KEYFILE": str(key), "JOB_SERVER_URL": job_server.url}
    with ProxyProcess.started(**settings) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        assert await presented(port) == pem(one[0])
        put((other[0], one[1]), cert, key)
        line = await reload(proxy, _NOT_RELOADED)
        assert line["reason"].startswith("TLS_CERTFILE, TLS_KEYFILE: ")
        assert await presented(port) == pem(one[0])
        key.unlink()
        os.mkfifo(key)
        line = await reload(proxy, _NOT_RELOADED)
        assert line["reason"] == f"TLS_KEYFILE: got '{key}', takes a file that can be read"
        key.unlink()
        put(other, cert, key)
        assert await certificate_trouble(client, proxy) == "an earlier one is used until SIGHUP"
        later, used = await ends_at(client, proxy)
        assert later > used
        assert (await reload(proxy, _RELOADED))["tls"] is True
        assert await certificate_trouble(client, proxy) == ""
        assert await ends_at(client, proxy) == (later, later)
        assert await presented(port) == pem(other[0])
        trust = ssl.create_default_context(cafile=str(other[0]))
        async with over_tls(trust) as session:
            assert (await fetch(session, "GET", f"{proxy.url}/healthz")).status == 200
        assert proxy.stop() == 0


async def test_jobs_in_flight_notice_nothing(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """Many signals in a row, and the answer comes as usual."""
    ref = new_ref()
    job = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, duration=0.5))
    await eventually(lambda: job_server.submissions(ref))
    for _ in range(20):
        proxy.signal(signal.SIGHUP)
    assert (await job).status == 200
    await reload(proxy, _RELOADED)


async def test_closing_the_terminal_ends_nothing(client: ClientSession, tmp_path: Path) -> None:
    """The session's terminal hangs up, and the proxy started from it keeps serving."""
    ours, theirs = pty.openpty()
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as output:
        process = subprocess.Popen(
            ["setsid", "--ctty", "--wait", sys.executable, str(ROOT / "run.py")],
            env=environment(),
            stdin=theirs,
            stdout=theirs,
            stderr=output,
        )
    os.close(theirs)
    try:
        line = await eventually(lambda: [it for it in log.read_text().splitlines() if '"listening"' in it], 20)
        listening = json.loads(line[0])
        url, pid = listening["public"], listening["pid"]
        os.close(ours)
        await eventually(lambda: _RELOADED in log.read_text())
        assert (await post_job(client, f"{url}/queueJob")).status == 200
        os.kill(pid, signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 20) == 0
    finally:
        for child in psutil.Process(process.pid).children() if process.poll() is None else []:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        process.kill()
        process.wait()


def certificate_in(folder: Path, days: int = 1) -> tuple[Path, Path]:
    """Return a new certificate for 127.0.0.1 and its key."""
    folder.mkdir()
    cert, key = folder / "cert.pem", folder / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=127.0.0.1"
    extension = ["-addext", "subjectAltName=IP:127.0.0.1", "-days", str(days)]
    subprocess.run(
        [*command.split(), *extension, "-keyout", key, "-out", cert], check=True, capture_output=True, timeout=20
    )
    return cert, key


def put(pair: tuple[Path, Path], cert: Path, key: Path) -> None:
    """Put a certificate and a key where the proxy has its own."""
    shutil.copy(pair[0], cert)
    shutil.copy(pair[1], key)


def pem(cert: Path) -> str:
    """Return a certificate's text in a normalised form."""
    return ssl.DER_cert_to_PEM_cert(ssl.PEM_cert_to_DER_cert(cert.read_text(encoding="ascii")))


async def presented(port: int) -> str:
    """Return the certificate that a new connection gets."""
    return await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port), timeout=5)
