"""A real Chromium, headless, driven by Selenium."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from tests.support.waiting import IN_VAIN_S, eventually_blocking

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["BROWSER", "DRIVER", "browser", "errors_in_console", "eventually_shown", "run"]

BROWSER: Final = shutil.which("chromium")
DRIVER: Final = shutil.which("chromedriver")
_FLAGS: Final = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--window-size=1280,900",
)  # fmt: skip

#: How long a script may take on a busy machine; axe-core computes for seconds on an idle one.
_SCRIPT_S: Final = 120.0
#: How often to look at a page: driver, browser and page take 4 ms of CPU to answer.
_LOOK_S: Final = 0.1


@contextmanager
def browser(profile: Path) -> Iterator[Chrome]:
    """Run a browser with an empty profile within the block."""
    from selenium.webdriver import Chrome, ChromeOptions, ChromeService  # noqa: PLC0415 - only one process needs it

    options = ChromeOptions()
    options.binary_location = BROWSER or ""
    for flag in (*_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.accept_insecure_certs = True  # those of the tests
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=ChromeService(DRIVER))
    driver.set_script_timeout(_SCRIPT_S)
    try:
        yield driver
    finally:
        driver.quit()


def run(driver: Chrome, script: str, *arguments: object) -> Any:  # noqa: ANN401 - whatever the script returns
    """Run a script in the page and return what it returns."""
    return driver.execute_script(script, *arguments)


def eventually_shown(condition: Callable[[], Any], timeout_s: float = IN_VAIN_S) -> Any:  # noqa: ANN401 - as many types as conditions
    """Return what `condition` returns once that is true, as `eventually_blocking` does; for conditions of a page."""
    return eventually_blocking(condition, timeout_s, every_s=_LOOK_S)


def errors_in_console(driver: Chrome) -> list[str]:
    """Return the page's errors, including blocked content; a job that is not found is no error."""
    messages = [entry["message"] for entry in _log(driver) if entry["level"] == "SEVERE"]
    return [message for message in messages if "/jobs/" not in message or "status of 404" not in message]


def _log(driver: Chrome) -> list[dict[str, str]]:
    entries: list[dict[str, str]] = driver.get_log("browser")  # type: ignore[no-untyped-call]
    return entries
