"""The log-in, at the root and below a gateway's prefix over TLS."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from cluster import nginx
from tests.support.axe import COLOURS, violations
from tests.support.browser import eventually_shown, run
from tests.support.gateways import running_admin
from tests.support.operators import MARKS, Later, log_in, press, scheme_of, text, width_of
from tests.support.proxy_process import ProxyProcess

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS

_ACT: Final = "act-0123456789abcdef"
_WRONG: Final = "wrong-0123456789abcdef"
_FOCUSED: Final = "const it = document.activeElement; return [it.tagName, getComputedStyle(it).outlineStyle]"
#: What the page has requested, including its own address.
_ASKED: Final = "return [location, ...performance.getEntriesByType('resource').map(({name}) => name)].map(String)"


@pytest.fixture(scope="module")
def guarded() -> Iterator[ProxyProcess]:
    """A proxy whose operators have keys, and which trusts a gateway on this machine."""
    settings = {"ADMIN_KEYS": f"anna:act:{_ACT}", "TRUSTED_PROXIES": "127.0.0.1", "ADMIN_NAMES": "ops.example.com"}
    with ProxyProcess.started(WORKER_SPARES="1", **settings) as proxy:
        yield proxy


@pytest.fixture
def form(window: None, driver: Chrome, guarded: ProxyProcess) -> Iterator[Chrome]:
    """The form, before anybody has logged in."""
    driver.delete_all_cookies()
    driver.get(f"{guarded.admin}/login")
    yield driver
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that keys are refused stands there, as it should


def _refused(driver: Chrome) -> bool:
    return bool(run(driver, "return document.querySelector('[role=alert]')?.textContent") == "This key is not known.")


def test_the_form_can_be_read_by_everybody(form: Chrome) -> None:
    """axe-core finds nothing, light or dark, wide or narrow, before and after a refusal; everything fits."""
    for refused in (False, True):
        if refused:
            form.find_element(By.NAME, "key").send_keys(_WRONG, Keys.ENTER)
            eventually_shown(lambda: _refused(form))
        for scheme, rules in (("light", ()), ("dark", COLOURS)):
            scheme_of(form, scheme)
            for width in (1280, 320):
                width_of(form, width)
                assert violations(form, rules) == [], (refused, scheme, width)
                assert run(form, "return document.documentElement.scrollWidth") <= width


def test_the_form_works_by_keyboard(form: Chrome) -> None:
    """The field has the focus, also after a refusal, which is announced; the button comes next, and works."""

    def press_keys(*keys: str) -> None:
        ActionChains(form).send_keys(*keys).perform()

    def has_the_focus_and_shows_it(element: str) -> bool:
        name, outline = run(form, _FOCUSED)
        return bool(name == element and outline != "none")

    eventually_shown(lambda: has_the_focus_and_shows_it("INPUT"))
    press_keys(_WRONG, Keys.ENTER)
    eventually_shown(lambda: _refused(form) and has_the_focus_and_shows_it("INPUT"))
    press_keys(_ACT, Keys.TAB)
    eventually_shown(lambda: has_the_focus_and_shows_it("BUTTON"))
    press_keys(Keys.SPACE)
    eventually_shown(lambda: "anna (may act)" in text(form, "head"))


@pytest.mark.skipif(not nginx.is_installed(), reason="there is no nginx here")
def test_below_a_prefix_and_over_tls_all_of_it_works(driver: Chrome, guarded: ProxyProcess, tmp_path: Path) -> None:
    """Log in, find, view and cancel a job, pause and resume the intake; nothing leaves the prefix."""
    with socket.socket() as reservation:
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port = reservation.getsockname()[1]
        with running_admin(port, guarded.admin, tmp_path) as gateway:
            below = f"{gateway.url}/proxy/"
            asked: set[str] = set()
            client = Later(guarded, fault="never")
            driver.delete_all_cookies()
            driver.get(f"{below}jobs.html?state=open")
            log_in(driver, _ACT)
            eventually_shown(lambda: driver.current_url == f"{below}jobs.html?state=open")
            (cookie,) = driver.get_cookies()
            assert (cookie["path"], cookie["secure"], cookie["httpOnly"]) == ("/proxy/", True, True)
            assert cookie["sameSite"] == "Strict"
            link = eventually_shown(lambda: driver.find_elements(By.CSS_SELECTOR, "#rows a[href*='job.html']"))[0]
            asked.update(run(driver, _ASKED))
            link.send_keys(Keys.ENTER)
            eventually_shown(lambda: "waiting" in text(driver, "outcome"))
            assert driver.current_url.startswith(f"{below}job.html?id=")
            stop = eventually_shown(
                lambda: driver.find_elements(By.CSS_SELECTOR, "#buttons button[aria-label^='Stop job']")
            )[0]
            eventually_shown(stop.is_displayed)
            run(driver, "arguments[0].id = 'stop'", stop)
            press(driver, "stop", "Stop the job")
            eventually_shown(lambda: "cancelled" in text(driver, "outcome"))
            assert client.answer()[1]["code"] == "cancelled"
            asked.update(run(driver, _ASKED))
            for page in ("", "patterns.html"):
                driver.get(below + page)
                eventually_shown(lambda: text(driver, "status") == "live")
                asked.update(run(driver, _ASKED))
            driver.get(f"{below}house.html")
            eventually_shown(lambda: "new jobs are accepted" in text(driver, "intake"))
            press(driver, "pause", "Pause")
            eventually_shown(lambda: "Paused" in text(driver, "intake"))
            press(driver, "resume", "Resume")
            eventually_shown(lambda: "new jobs are accepted" in text(driver, "intake"))
            asked.update(run(driver, _ASKED))
            next(it for it in driver.find_elements(By.TAG_NAME, "button") if it.text == "Log out").send_keys(Keys.ENTER)
            eventually_shown(lambda: driver.current_url == f"{below}login")
            assert driver.get_cookies() == []
            driver.get("about:blank")
            assert {url for url in asked if not url.startswith(below)} == set()
            reached = set(re.findall(r'"[A-Z]+ (/\S*) HTTP', (tmp_path / "access.log").read_text(encoding="utf-8")))
        assert {"/proxy/", "/proxy/house", "/proxy/intake/pause", "/proxy/logout"} <= reached
        assert {path for path in reached if not path.startswith("/proxy/")} == set()
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that nobody was logged in stands there, as it should
