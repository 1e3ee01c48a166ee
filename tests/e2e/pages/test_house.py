"""The house page: the state of the proxy, the operators' actions, and who may do them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.support.browser import errors_in_console, eventually_shown
from tests.support.large_journal import HOSTILE_ID
from tests.support.operators import MARKS, Operated, log_in, post, press, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS

_LOOK: Final = "look-0123456789abcdef"
_ACT: Final = "act-0123456789abcdef"


#: The proxy's database cannot be read.
_NO_DATABASE: Final = """
const ask = window.fetch;
window.fetch = async (address, how) => {
  const answer = await ask(address, how);
  if (address !== "house") return answer;
  const house = await answer.json();
  house.journal = {kind: "postgresql", place: "", size_bytes: null, oldest_at: null, trouble: "it does not answer"};
  house.instances = [];
  return new Response(JSON.stringify(house));
};
"""


@pytest.fixture
def page(driver: Chrome, operated: Operated) -> Iterator[Chrome]:
    """The house page; whatever a test does with it, it reports no error."""
    driver.get(f"{operated.admin}/house.html")
    eventually_shown(lambda: "new jobs are accepted" in text(driver, "intake"))
    yield driver
    assert errors_in_console(driver) == []


def test_it_says_what_runs_and_how_it_is_set_up(page: Chrome, operated: Operated) -> None:
    """The process, the journal, the settings without their defaults and, on demand, all settings."""
    eventually_shown(lambda: str(operated.process.pid) in text(page, "version"))
    assert "jobs.sqlite3" in text(page, "journal")
    assert "RESULT_TTL" in text(page, "settings")
    shown = text(page, "settings")
    page.find_element(By.ID, "all-settings").send_keys(Keys.SPACE)
    eventually_shown(lambda: len(text(page, "settings")) >= len(shown) and "MAX_JOBS" in text(page, "settings"))


def test_what_is_not_known_without_the_database_is_not_called_none(driver: Chrome, operated: Operated) -> None:
    """There may be other instances, and older jobs."""
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _NO_DATABASE})
    try:
        driver.get(f"{operated.admin}/house.html")
        eventually_shown(lambda: "it does not answer" in text(driver, "journal"))
    finally:
        driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)
    assert "none" not in text(driver, "journal")
    assert text(driver, "instances") == "Not known: the database cannot be read."


def test_the_intake_is_paused_and_resumed_after_a_question(page: Chrome, operated: Operated) -> None:
    """By keyboard; the question's first answer changes nothing; jobs are refused meanwhile; the audit list has both."""
    press(page, "pause", "Go on accepting")
    assert post(operated.process, duration=0)[0] == 200
    press(page, "pause", "Pause")
    eventually_shown(lambda: "Paused" in text(page, "intake"))
    assert post(operated.process)[0] == 503
    eventually_shown(lambda: text(page, "status") == "paused")
    press(page, "resume", "Resume")
    eventually_shown(lambda: "new jobs are accepted" in text(page, "intake"))
    assert post(operated.process, duration=0)[0] == 200
    eventually_shown(lambda: "resume" in text(page, "audit") and "pause" in text(page, "audit"))
    page.find_element(By.ID, "pause").send_keys(Keys.ENTER)
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, "dialog[open] input"))[0].send_keys("an upgrade")
    page.find_element(By.CSS_SELECTOR, "dialog[open] .danger").send_keys(Keys.ENTER)
    eventually_shown(lambda: "an upgrade" in text(page, "intake"))
    press(page, "resume", "Resume")
    eventually_shown(lambda: "new jobs are accepted" in text(page, "intake"))


def test_whoever_may_only_look_sees_no_button_and_who_may_act_drains(driver: Chrome, operated: Operated) -> None:
    """An open page goes to the log-in when keys become required; after the log-in, it shows what the role may do."""
    driver.get(f"{operated.admin}/job.html?id={HOSTILE_ID}")
    eventually_shown(lambda: text(driver, "status") == "live")
    operated.end()
    eventually_shown(lambda: text(driver, "status") == "disconnected")
    operated.start(ADMIN_KEYS=f"ben:look:{_LOOK},anna:act:{_ACT}")
    try:
        log_in(driver, _LOOK)
        driver.get(f"{operated.admin}/house.html")
        eventually_shown(lambda: "ben (may look)" in text(driver, "head"))
        eventually_shown(lambda: "new jobs are accepted" in text(driver, "intake"))
        assert not driver.find_element(By.ID, "pause").is_displayed()
        next(it for it in driver.find_elements(By.TAG_NAME, "button") if it.text == "Log out").click()
        log_in(driver, _ACT)
        driver.get(f"{operated.admin}/house.html")
        eventually_shown(lambda: driver.find_element(By.ID, "pause").is_displayed())
        eventually_shown(lambda: "new jobs are accepted" in text(driver, "intake"))
        press(driver, "drain", "Drain and end")
        assert operated.process.wait() == 0
    finally:
        operated.end()
        operated.start()
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that nobody answered stands there, as it should


def test_after_an_outage_the_audit_list_is_back(driver: Chrome, operated: Operated) -> None:
    """Even if nothing was done meanwhile."""
    driver.get(f"{operated.admin}/house.html")
    eventually_shown(lambda: driver.find_element(By.ID, "pause").is_displayed())
    press(driver, "pause", "Pause")
    eventually_shown(lambda: "pause" in text(driver, "audit"))
    operated.end()
    eventually_shown(lambda: text(driver, "audit") == "The proxy does not answer.")
    operated.start()
    eventually_shown(lambda: "pause" in text(driver, "audit"), 60)
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that nobody answered stands there, as it should


def test_after_a_restart_without_a_journal_the_audit_list_goes_on(driver: Chrome, operated: Operated) -> None:
    """Its numbers begin again, and the page that is open shows what is done from then on."""

    def press_when_enabled(name: str, answer: str) -> None:
        eventually_shown(driver.find_element(By.ID, name).is_enabled)
        press(driver, name, answer)

    operated.end()
    operated.start(JOURNAL="")
    try:
        driver.get(f"{operated.admin}/house.html")
        eventually_shown(lambda: driver.find_element(By.ID, "pause").is_displayed())
        for _ in range(2):
            press_when_enabled("pause", "Pause")
            press_when_enabled("resume", "Resume")
        eventually_shown(lambda: text(driver, "audit").count("resume") == 2)
        operated.end()
        operated.start(JOURNAL="")
        eventually_shown(lambda: text(driver, "status") == "live", 60)
        press_when_enabled("pause", "Pause")
        eventually_shown(lambda: "resume" not in text(driver, "audit") and "pause" in text(driver, "audit"))
    finally:
        operated.end()
        operated.start()
    driver.get_log("browser")  # type: ignore[no-untyped-call] # that nobody answered stands there, as it should
