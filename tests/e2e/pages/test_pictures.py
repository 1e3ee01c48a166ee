"""The pictures in docs/, taken if PAGES_PICTURES is set (`make pages`)."""

from __future__ import annotations

import functools
import os
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.browser import eventually_shown, run
from tests.support.operators import MARKS, Later, Operated, text, width_of
from tests.support.proxy_process import ROOT, ProxyProcess

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = [
    *MARKS,
    pytest.mark.skipif("PAGES_PICTURES" not in os.environ, reason="PAGES_PICTURES is not set"),
    pytest.mark.timeout(600),
]
#: File, page, what shows that the page is ready, height in CSS pixels.
_PICTURES: Final = (
    ("dashboard-jobs", "jobs.html?outcome=failed", "return document.querySelectorAll('#facets input').length", 900),
    ("dashboard-job", "jobs.html", "return document.querySelectorAll('#time-line li').length", 700),
    ("dashboard-patterns", "patterns.html", "return document.querySelectorAll('#latency td').length", 1500),
    ("dashboard-house", "house.html", "return document.querySelectorAll('#settings td').length", 1100),
)
_FAILED_LINK: Final = "return document.querySelector('#failure-list details')?.dataset.job"


def test_pictures_of_them_are_taken(driver: Chrome, operated: Operated) -> None:
    """Varied jobs for as many seconds as PAGES_PICTURES says, then a picture of each page."""
    proxy = operated.process
    driver.get(f"{operated.admin}/")
    eventually_shown(lambda: text(driver, "status") == "live")
    load = _vary_load(proxy, float(os.environ["PAGES_PICTURES"]))
    held = [Later(proxy, duration=3.5) for _ in range(6)]
    eventually_shown(lambda: int(re.findall(r"waiting (\d+)", text(driver, "job-legend"))[0]) >= len(held))
    job_id = eventually_shown(lambda: run(driver, _FAILED_LINK))
    run(driver, "document.querySelector('#failure-list details').open = true")
    _take(driver, "dashboard", 1760)
    for name, page, shown, height in _PICTURES:
        driver.get(f"{operated.admin}/{page}" if name != "dashboard-job" else f"{operated.admin}/job.html?id={job_id}")
        eventually_shown(functools.partial(run, driver, shown), 60)
        eventually_shown(lambda: text(driver, "status") == "live")
        _take(driver, name, height)
    driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    for job in [*held, *load]:
        job.answer()


def _take(driver: Chrome, name: str, height: int) -> None:
    width_of(driver, 1280, height)
    eventually_shown(lambda: run(driver, "return innerHeight") == height)
    driver.save_screenshot(str(ROOT / "docs" / f"{name}.png"))


def _vary_load(proxy: ProxyProcess, for_s: float) -> list[Later]:
    start = time.monotonic()
    faults: list[dict[str, Any]] = [{"fault": "refuse"}, {"fault": "failed"}, {"fault": "never"}, {"fault": "garbage"}]

    def wave(now: float) -> int:
        return 6 + round(5 * abs(((now - start) / 20) % 2 - 1))

    jobs: list[Later] = []
    tick = threading.Event()
    while time.monotonic() - start < for_s:
        for _ in range(wave(time.monotonic()) // 3 + 1):
            number = len(jobs) + 1
            job = faults[number // 41 % 4] if number % 41 == 0 else {"duration": 0.2 + (number * 37 % 100) / 200}
            jobs.append(Later(proxy, account=("acme", "omega", "zeta")[number % 3], **job))
        tick.wait(0.25)
    return jobs
