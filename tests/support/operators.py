"""The proxy for tests of the operators' pages, and helpers to drive them in a browser."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from proxy.run.embedded_job_server import EmbeddedJobServer
from tests.support.browser import BROWSER, DRIVER, eventually_shown, run
from tests.support.large_journal import write_journal
from tests.support.places import shared_memory
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import IN_VAIN_S

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["JOBS", "MARKS", "PAGES", "Later", "Operated", "log_in", "post", "press", "scheme_of", "text", "width_of"]

#: For each file of tests: all in one process of pytest-xdist, so that they share a browser and a proxy.
MARKS: Final = [
    pytest.mark.skipif(not (BROWSER and DRIVER), reason="needs Debian's packages chromium and chromium-driver"),
    pytest.mark.timeout(300),
    pytest.mark.xdist_group("browser"),
]
#: How many jobs the journal has: fewer in the whole suite than with `make pages`.
JOBS: Final = int(os.environ.get("PAGES_JOBS", "20000"))
#: Each page of operators, by its address below the admin address.
PAGES: Final = ("", "jobs.html", "job.html", "patterns.html", "house.html")
#: A journal of a million jobs is scanned before anything is served.
_START_S: Final = 240.0


class Operated:
    """A proxy with a large journal, whose addresses stay the same when it is restarted."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(dir=shared_memory())
        journal = Path(self._folder.name) / "jobs.sqlite3"
        write_journal(journal, JOBS)
        self._job_server = EmbeddedJobServer()  # like the proxy's own, but started once
        self._settings = {
            "JOB_SERVER_URL": self._job_server.url,
            "JOURNAL": str(journal), "RESULT_TTL": "604800", "WORKER_SPARES": "4", "JOB_TIMEOUT": "20",
            "PORT": str(_free_port()), "ADMIN_PORT": str(_free_port()),
        }  # fmt: skip
        #: The current process.
        self.process = self._started()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
        asyncio.run(self._job_server.stop())
        self._folder.cleanup()

    @property
    def admin(self) -> str:
        """The base address of the pages."""
        return self.process.admin

    def end(self) -> None:
        """End the process at once."""
        self.process.__exit__(None, None, None)

    def start(self, **settings: str) -> None:
        """Start it again, with other settings."""
        self.process = self._started(**settings)

    def _started(self, **settings: str) -> ProxyProcess:
        process = ProxyProcess(**(self._settings | settings))
        try:
            process.wait_until_listening(_START_S)
        except BaseException:
            process.kill()
            raise
        return process


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def text(driver: Chrome, name: str) -> str:
    """Return the text of the element with this id; empty if there is none."""
    return str(run(driver, "return document.getElementById(arguments[0])?.textContent ?? ''", name))


def width_of(driver: Chrome, width: int, height: int = 900) -> None:
    """Give the page a window of this width and height in CSS pixels."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    eventually_shown(lambda: run(driver, "return innerWidth") == width)


def scheme_of(driver: Chrome, scheme: str) -> None:
    """Switch the page to `light` or `dark`."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def press(driver: Chrome, name: str, answer: str) -> None:
    """Press a button by the keyboard, then the button with this text in the confirmation."""
    driver.find_element(By.ID, name).send_keys(Keys.ENTER)
    buttons = eventually_shown(lambda: driver.find_elements(By.CSS_SELECTOR, "dialog[open] button"))
    next(button for button in buttons if button.text == answer).send_keys(Keys.ENTER)
    eventually_shown(lambda: not driver.find_elements(By.CSS_SELECTOR, "dialog"))


def log_in(driver: Chrome, key: str) -> None:
    """Type a key into the form, and wait until it is accepted."""
    field = (By.CSS_SELECTOR, "body.log-in [name=key]")
    eventually_shown(lambda: driver.find_elements(*field), 60)[0].send_keys(key, Keys.ENTER)
    eventually_shown(lambda: not driver.find_elements(*field))


def post(proxy: ProxyProcess, **job: object) -> tuple[int, dict[str, Any]]:
    """Post a job and return the answer's status and body, with the job's id."""
    body = json.dumps({"account": f"pages-{time.monotonic_ns()}", **job}).encode()
    request = urllib.request.Request(proxy.queue_job, body, {"Content-Type": "application/json"})  # noqa: S310 - http
    try:
        with urllib.request.urlopen(request, timeout=IN_VAIN_S) as answer:  # noqa: S310 - http
            return answer.status, {"job_id": answer.headers["Job-Id"], **json.load(answer)}
    except urllib.error.HTTPError as exc:
        with exc:
            return exc.code, json.load(exc)


class Later:
    """A job that is posted from a thread; `answer` returns its answer."""

    def __init__(self, proxy: ProxyProcess, **job: object) -> None:
        self._answers: list[tuple[int, dict[str, Any]]] = []
        self._thread = threading.Thread(target=lambda: self._answers.append(post(proxy, **job)), daemon=True)
        self._thread.start()

    def answer(self) -> tuple[int, dict[str, Any]]:
        """Wait for the answer."""
        self._thread.join(40)
        return self._answers[0]
