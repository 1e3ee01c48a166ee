"""The live page, in a real browser, with a real proxy."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Final

import psutil
import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from tests.support.browser import errors_in_console, eventually_shown, run
from tests.support.operators import MARKS, Later, Operated, post, text
from tests.support.proxy_process import ROOT, ProxyProcess
from tests.support.stopwatch import Stopwatch

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS
_MARKUP: Final = "<img src=x onerror=\"document.title='owned'\"><b>bold</b>"
_STATIC: Final = ROOT / "proxy" / "api" / "operators" / "static"


@pytest.fixture
def proxy(operated: Operated) -> ProxyProcess:
    """Return the proxy's process."""
    return operated.process


@pytest.fixture
def page(driver: Chrome, proxy: ProxyProcess) -> Iterator[Chrome]:
    """The dashboard, live; whatever a test does with it, it reports no error."""
    driver.get(f"{proxy.admin}/")
    eventually_shown(lambda: text(driver, "status") == "live")
    yield driver
    assert errors_in_console(driver) == []


def _find(driver: Chrome, name: str) -> str:
    """Look a job up with the field at the top; return the text of its page once there is any."""
    field = driver.find_element(By.ID, "search-text")
    field.clear()
    field.send_keys(name, Keys.ENTER)
    eventually_shown(lambda: name in text(driver, "main"))
    return text(driver, "main")


def test_it_shows_jobs_and_workers_as_they_come_and_go(page: Chrome, proxy: ProxyProcess) -> None:
    """A job in flight appears with its state and its worker, and both disappear when it ends; the totals change."""
    job = Later(proxy, duration=3)
    eventually_shown(lambda: "waiting" in text(page, "oldest"))
    assert "waiting 1" in text(page, "job-legend")
    job_id = run(page, "return document.querySelector('#oldest .id').textContent")
    eventually_shown(lambda: "spreedly" in text(page, "oldest"))
    eventually_shown(lambda: job_id in text(page, "worker-rows"))
    assert int(text(page, "worker-count")) >= 4
    eventually_shown(lambda: "MB" in text(page, "worker-rows"))
    assert job.answer()[0] == 200
    eventually_shown(lambda: "waiting 0" in text(page, "job-legend"))
    assert run(page, "return document.getElementById('oldest').childElementCount") == 0


def test_it_goes_on_after_back(page: Chrome, proxy: ProxyProcess) -> None:
    """A browser may show the page as it was left, without loading it again."""
    eventually_shown(lambda: "in total" in text(page, "limit"))
    left_at = text(page, "limit")
    page.find_element(By.LINK_TEXT, "Jobs").send_keys(Keys.ENTER)
    eventually_shown(lambda: "Jobs" in page.title)
    page.back()
    eventually_shown(lambda: "Now" in page.title)
    assert post(proxy, duration=0)[0] == 200
    eventually_shown(lambda: text(page, "limit") != left_at)


def test_a_failure_shows_its_code_and_its_whole_life(page: Chrome, proxy: ProxyProcess) -> None:
    """The newest failure comes first; opened by keyboard, it shows phases and events."""
    status, document = post(proxy, fault="refuse")
    assert status == 500
    job_id = document["job_id"]
    entry = eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, f'details[data-job="{job_id}"]'))[0]
    assert "job-rejected" in entry.text
    assert "submitted: no" in entry.text
    entry.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    eventually_shown(lambda: "refused by the job server" in entry.text)
    assert "queue" in entry.text
    assert entry.find_elements(By.CSS_SELECTOR, ".line .bar > span")


def test_a_failure_that_is_read_stays_while_others_come(driver: Chrome) -> None:
    """However many: it stays open, and keeps the focus."""
    with _fake_feed(1) as address:
        driver.get(address)
        eventually_shown(lambda: text(driver, "worker-count") == "1")
        shown = driver.execute_async_script(
            "const done = arguments[0];"
            "const failure = (job_id) => ({job_id, submitted: 'no', finished_at: 0, outcome: 'a', total_ms: 1,"
            "  worker_pid: 0, profile: '', remote_id: '', progress: null, detail: '', phases: []});"
            "import('/static/failures.js').then(({Failures}) => {"
            "  const failures = new Failures();"
            "  failures.show(['b', 'a'].map(failure));"
            "  const entry = document.getElementById('failure-list').lastChild;"
            "  entry.open = true;"
            "  entry.firstChild.focus();"
            "  const now = () => [...document.getElementById('failure-list').children].map(({dataset}) => dataset.job);"
            "  failures.show(['c', 'b', 'a'].map(failure));"
            "  const steps = [[now(), document.activeElement === entry.firstChild]];"
            "  failures.show(['e', 'd', 'c'].map(failure));"
            "  steps.push([now(), document.activeElement === entry.firstChild]);"
            "  entry.open = false;"
            "  failures.show(['f', 'e', 'd'].map(failure));"
            "  steps.push([now(), document.activeElement === entry.firstChild]);"
            "  done(steps);"
            "});"
        )
        driver.get("about:blank")  # otherwise the page would go on polling a server that is gone
    assert shown == [[["c", "b", "a"], True], [["e", "d", "c", "a"], True], [["f", "e", "d"], False]]


def test_a_failure_that_was_submitted_after_all_is_shown_so(driver: Chrome) -> None:
    """When a callback proves it, on a page that is open already. The other failures stay open."""
    with _fake_feed(1) as address:
        driver.get(address)
        eventually_shown(lambda: text(driver, "worker-count") == "1")
        shown = driver.execute_async_script(
            "const done = arguments[0];"
            "const failure = (job_id, submitted) => ({job_id, submitted, finished_at: 0, outcome: 'a', total_ms: 1,"
            "  worker_pid: 0, profile: '', remote_id: '', progress: null, detail: '', phases: []});"
            "import('/static/failures.js').then(({Failures}) => {"
            "  const failures = new Failures();"
            "  failures.show([failure('a', 'no'), failure('b', 'no')]);"
            "  const list = [...document.getElementById('failure-list').children];"
            "  list[1].open = true;"
            "  failures.show([failure('a', 'yes'), failure('b', 'no')]);"
            "  const now = [...document.getElementById('failure-list').children];"
            "  done(now.map((entry) => [entry.dataset.job, entry.textContent, entry.open]));"
            "});"
        )
        driver.get("about:blank")  # otherwise the page would go on polling a server that is gone
    assert [(job, "submitted: yes" in said, is_open) for job, said, is_open in shown] == [
        ("a", True, False), ("b", False, True)
    ]  # fmt: skip


def test_a_job_is_found_by_its_id(page: Chrome, proxy: ProxyProcess) -> None:
    """A successful job is found, with every phase of its life; for an unknown id, the page says so."""
    _, answer = post(proxy, duration=0)
    shown = _find(page, answer["job_id"])
    assert "succeeded" in shown
    assert all(phase in shown for phase in ("queue", "start", "submission", "job", "delivery"))
    assert "spreedly" in shown
    assert "No job is found" in _find(page, "0123456789abcdef")


def test_what_others_say_never_becomes_markup(page: Chrome, proxy: ProxyProcess) -> None:
    """Markup in a job or in a search stays text, and none of it runs; the browser itself would refuse it."""
    post(proxy, fault="failed", note=_MARKUP, ref=_MARKUP)
    _find(page, _MARKUP)
    assert run(page, "return document.querySelectorAll('main img, main b').length") == 0
    assert "owned" not in page.title
    with pytest.raises(Exception, match="TrustedHTML"):
        run(page, "document.body.innerHTML = '<b>bold</b>'")
    page.get_log("browser")  # type: ignore[no-untyped-call] # that attempt is no error of the page's


def test_a_job_is_stopped_by_keyboard_alone(page: Chrome, proxy: ProxyProcess) -> None:
    """Find a job, press Stop, confirm: its client gets `cancelled`. The first answer stops nothing."""
    job = Later(proxy, duration=15)
    stop = "#oldest button[aria-label^='Stop job']"
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, stop))[0].send_keys(Keys.ENTER)
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, "dialog[open]"))
    ActionChains(page).send_keys(Keys.ENTER).perform()  # the focus is first on "Keep it running"
    eventually_shown(lambda: not page.find_elements(By.CSS_SELECTOR, "dialog"))
    assert run(page, "return document.getElementById('oldest').childElementCount") == 1
    page.find_element(By.CSS_SELECTOR, stop).send_keys(Keys.ENTER)
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, "dialog[open]"))
    ActionChains(page).send_keys(Keys.TAB, Keys.ENTER).perform()
    status, document = job.answer()
    assert (status, document["code"], document["submitted"]) == (500, "cancelled", "yes")


def test_it_follows_the_readers_colour_scheme(page: Chrome) -> None:
    """Dark is dark and light is light."""

    def brightness(scheme: str) -> int:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        colour = run(page, "return getComputedStyle(document.body).backgroundColor")
        return sum(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))

    assert brightness("light") > 600
    assert brightness("dark") < 120
    brightness("light")


def test_it_is_readable_on_a_phone(page: Chrome, proxy: ProxyProcess) -> None:
    """Nothing sticks out of a narrow screen, and the button that stops a job is within it."""
    job = Later(proxy, duration=2)
    metrics = {"width": 380, "height": 800, "deviceScaleFactor": 2, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    try:
        eventually_shown(lambda: run(page, "return innerWidth") == 380)
        assert run(page, "return document.documentElement.scrollWidth") <= 380
        assert run(page, "return document.querySelector('.columns > section').clientWidth") > 300
        button = "#oldest button[aria-label^='Stop job']"
        eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, button))
        assert run(page, f'return document.querySelector("{button}").getBoundingClientRect().right') <= 380
    finally:
        page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert job.answer()[0] == 200


def test_times_have_a_date_and_a_zone(page: Chrome, proxy: ProxyProcess) -> None:
    """Someone who reads about a failure the next morning, or elsewhere, knows when it was."""
    _, document = post(proxy, fault="reject")
    job = f'details[data-job="{document["job_id"]}"]'
    entry = eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, f"{job} time"))[0]
    assert str(time.localtime().tm_year) in entry.text
    zone = run(page, "return Intl.DateTimeFormat(undefined, {timeZoneName: 'short'}).format().split(' ').pop()")
    assert entry.text.endswith(zone)


def test_two_thousand_workers_do_not_freeze_it(driver: Chrome) -> None:
    """With 2,000 workers and as many jobs there are only some dozen rows, and the page keeps drawing."""
    with _fake_feed(2_000) as address:
        driver.get(address)
        eventually_shown(lambda: text(driver, "worker-count") == "2000")
        assert run(driver, "return document.querySelectorAll('#worker-rows tr').length") < 60
        run(driver, "document.getElementById('worker-scroll').scrollTop = 1e9")
        eventually_shown(lambda: "1999" in text(driver, "worker-rows"))
        browser_pid = driver.service.process.pid
        watch = Stopwatch(
            browser_pid, *(process.pid for process in psutil.Process(browser_pid).children(recursive=True))
        )
        longest_ms = driver.execute_async_script(
            "const done = arguments[0]; let last = performance.now(), longest = 0, frames = 0;"
            "function frame(now) { longest = Math.max(longest, now - last); last = now;"
            "  if (++frames < 120) requestAnimationFrame(frame); else done(longest); }"
            "requestAnimationFrame(frame);"
        )
        driver.get("about:blank")  # otherwise the page would go on polling a server that is gone
        assert longest_ms - 1_000 * max(0.0, watch.starved_s) < 1_000


class _fake_feed:  # noqa: N801 - used as a context manager, like a function
    """Serves the dashboard's own files, and snapshots of a proxy with many workers."""

    def __init__(self, workers: int) -> None:
        rows = [(100_000 + i, 3, float(2_000 - i), i, 2_500 + i, f"{i:032x}") for i in range(workers)]
        states = ("spare", "assigned", "submitting", "waiting", "asking", "stopping")
        points = [(i % 90, i % 7, 500, 600) for i in range(300)]
        snapshot = {
            "now": 0, "second": 1, "seconds": 300, "newest": points[-5:], "past": points, "limit": 4_000, "accepted": 9,
            "status": {"started_at": 1},
            "in_flight": {"accepted": 0, "assigned": 0, "submitting": 0, "waiting": workers}, "lag_ms": [1, 2],
            "worker_states": states, "workers": rows,
            "workers_by_state": {"waiting": workers}, "oldest": [
                {"job_id": row[5], "state": "waiting", "age_s": 1, "profile": "a", "progress": None}
                for row in rows[:20]
            ],
            "failures": [],
        }  # fmt: skip
        self._event = b"data: " + json.dumps(snapshot).encode() + b"\n\n"
        self._closed = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self._event, self._closed))
        self._server.daemon_threads = True

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}/"

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        self._server.shutdown()
        self._server.server_close()


def _handler(event: bytes, closed: threading.Event) -> type[BaseHTTPRequestHandler]:
    types = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = _STATIC / (Path(self.path).name or "index.html")
            self.send_response(200)
            self.send_header("Content-Type", types.get(path.suffix, "text/event-stream"))
            self.end_headers()
            if self.path != "/events":
                self.wfile.write(b'{"role": "look"}' if self.path == "/session" else path.read_bytes())
                return
            try:
                while not closed.wait(0.25):
                    self.wfile.write(event)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    return Handler
