"""What holds on each page for operators: by keyboard, for screen readers, in narrow windows, with hostile texts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from tests.support.axe import COLOURS, violations
from tests.support.browser import errors_in_console, eventually_shown, run
from tests.support.large_journal import HOSTILE, HOSTILE_ID
from tests.support.operators import MARKS, PAGES, Operated, scheme_of, text, width_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS

#: What shows that a page has loaded its data.
_READY: Final = {
    "": "return document.querySelectorAll('#worker-rows tr').length > 2",
    "jobs.html": "return document.querySelectorAll('#rows tr').length > 9",
    "job.html": "return document.querySelectorAll('#facts dd').length > 3",
    "patterns.html": "return document.querySelectorAll('#latency td, #slowest td').length > 9",
    "house.html": "return document.querySelectorAll('#settings td').length > 2 && audit.textContent",
}
#: Everything on a page that the Tab key has to reach, except closed or hidden elements.
_REACHABLE: Final = """
return [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
    .filter((element) => !element.disabled && element.checkVisibility({visibilityProperty: true}))
    .length
"""
#: Elements outside the window that are not in a part that scrolls by itself.
_BEYOND: Final = """
return [...document.querySelectorAll('h1, h2, button, input, select')]
    .filter((it) => !it.closest('.scroll') && it.checkVisibility() && it.getBoundingClientRect().right > innerWidth)
    .map((it) => it.outerHTML)
"""
#: Notes what gets the focus, and how it shows it.
_NOTE_FOCUS: Final = """
window.focused = [];
addEventListener('focusin', ({target}) => {
    target.dataset.reached = 'yes';
    focused.push([target.textContent, getComputedStyle(target).outlineStyle, target.outerHTML.slice(0, 200)]);
});
"""
_LEFT: Final = _REACHABLE.replace(".length", ".filter((it) => !it.dataset.reached).map((it) => it.outerHTML)")


@pytest.fixture(autouse=True)
def console(window: None, driver: Chrome) -> None:
    """Clear the console before each test."""
    errors_in_console(driver)


def opened(driver: Chrome, operated: Operated, page: str) -> None:
    """Open a page, and wait for its content."""
    query = f"?id={HOSTILE_ID}" if page == "job.html" else ""
    driver.get(f"{operated.admin}/{page}{query}")
    eventually_shown(lambda: run(driver, _READY[page]), 60)
    eventually_shown(lambda: "live" in text(driver, "status"))


@pytest.mark.parametrize("page", PAGES)
def test_it_can_be_read_by_everybody(driver: Chrome, operated: Operated, page: str) -> None:
    """axe-core finds nothing, light or dark, wide or narrow, with everything unfolded."""
    opened(driver, operated, page)
    for scheme, rules in (("light", ()), ("dark", COLOURS)):
        scheme_of(driver, scheme)
        for width in (1280, 320):
            width_of(driver, width)
            run(driver, "for (const each of document.querySelectorAll('details')) each.open = true")
            assert violations(driver, rules) == [], (scheme, width)
    assert errors_in_console(driver) == []


@pytest.mark.parametrize("page", PAGES)
def test_nothing_sticks_out(driver: Chrome, operated: Operated, page: str) -> None:
    """From 320 to 1,920 pixels; a window of 1,280 has 640 and 320 at 200 and 400 percent."""
    opened(driver, operated, page)
    for width in (1920, 1280, 1024, 640, 375, 320):
        width_of(driver, width)
        assert run(driver, "return document.documentElement.scrollWidth") <= width
        assert run(driver, _BEYOND) == [], width


@pytest.mark.parametrize("page", PAGES)
def test_the_tab_key_reaches_everything(driver: Chrome, operated: Operated, page: str) -> None:
    """In as many steps as there are elements; each shows its focus; the first is a link that skips the page's head."""
    opened(driver, operated, page)
    width_of(driver, 1280, 2000)
    run(driver, "document.activeElement.blur(); getSelection().removeAllRanges()")
    run(driver, _NOTE_FOCUS)
    ActionChains(driver).send_keys(Keys.TAB * (run(driver, _REACHABLE) + 20)).perform()
    focused = run(driver, "return focused")
    driver.find_element(By.TAG_NAME, "h1").click()  # the last keys have left the page, and no later one would get them
    assert focused[0][0] == "Skip to the content"
    assert [it for _, style, it in focused if style == "none"] == []
    assert run(driver, _LEFT) == []
    assert len({it for *_, it in focused}) > 5


@pytest.mark.parametrize("page", PAGES)
def test_hostile_words_stay_words(driver: Chrome, operated: Operated, page: str) -> None:
    """Markup, characters that reverse text, 10 kB, in each field of a job: shown as text; nothing runs or breaks."""
    opened(driver, operated, page)
    if page == "jobs.html":
        driver.get(f"{operated.admin}/jobs.html?code=job-failed&sort=newest")
        eventually_shown(lambda: HOSTILE in text(driver, "rows"))
    if page == "job.html":
        assert HOSTILE in text(driver, "main")
        assert "x" * 200 in text(driver, "facts")
    assert "owned" not in driver.title
    assert run(driver, "return document.querySelectorAll('main img, main script').length") == 0
    width_of(driver, 320)
    assert run(driver, "return document.documentElement.scrollWidth") <= 320
    assert errors_in_console(driver) == []


def test_a_proxy_that_refuses_jobs_is_not_called_live(driver: Chrome, operated: Operated) -> None:
    """The head says why, as `GET /readyz` does."""
    opened(driver, operated, "jobs.html")
    show = (
        "const done = arguments[0]; import('./static/layout.js').then(({ showStatus }) => { showStatus({ started_at: 1,"
        " on_hold: '', refuses: 'the disk is full' }); done(document.getElementById('status').textContent); })"
    )
    assert driver.execute_async_script(show) == "refuses jobs: the disk is full"


@pytest.mark.parametrize(("via", "buttons"), [("session", 1), ("header", 0)])
def test_only_who_has_logged_in_here_can_log_out_here(
    driver: Chrome, operated: Operated, via: str, buttons: int
) -> None:
    """Not the users of a gateway: the next request would have their name again."""
    session = json.dumps({"name": "eve", "role": "act", "via": via, "guarded": True})
    stub = (
        "const ask = window.fetch; window.fetch = (address, how) => address !== 'session' ? ask(address, how)"
        f" : Promise.resolve(new Response({json.dumps(session)}));"
    )
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": stub})
    try:
        opened(driver, operated, "jobs.html")
        eventually_shown(lambda: "eve (may act)" in text(driver, "head"))
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert len(driver.find_elements(By.CSS_SELECTOR, "form.who button")) == buttons
