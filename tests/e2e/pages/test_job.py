"""The page of one job."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

import pytest
from selenium.webdriver.common.by import By

from tests.support.browser import eventually_shown, run
from tests.support.large_journal import HOSTILE_ID
from tests.support.operators import MARKS, Later, Operated, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS

#: The first answer about a job is this one.
_FIRST_503: Final = """
const ask = window.fetch;
let first = true;
window.fetch = (address, how) => {
  if (!first || !String(address).startsWith("jobs/")) return ask(address, how);
  first = false;
  window.wasRefused = true;
  return Promise.resolve(new Response('{"detail": "not now"}', { status: 503 }));
};
"""


@pytest.fixture
def refused_once(driver: Chrome) -> Iterator[None]:
    """The next page's first question about a job is answered 503."""
    script = driver.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": _FIRST_503})
    yield
    driver.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", script)


def is_found(operated: Operated, name: str) -> bool:
    """Return whether a job is found by this name."""
    try:
        with urllib.request.urlopen(f"{operated.admin}/jobs/{name}") as answer:  # noqa: S310 - http
            return bool(answer.status == 200)
    except urllib.error.HTTPError as exc:
        exc.close()
        return False


def test_labels_hide_no_fact(driver: Chrome, operated: Operated) -> None:
    """A client may call a label like something that the proxy says, and choose its value."""
    driver.get(f"{operated.admin}/job.html?id={HOSTILE_ID}")
    eventually_shown(lambda: text(driver, "facts"))
    values = "//*[@id='facts']//dt[.='submitted']/following-sibling::dd"
    shown = [value.text for value in driver.find_elements(By.XPATH, values)]
    assert len(shown) == 2
    assert shown[0] in {"no", "unknown", "yes"}
    assert shown[1] == "a label"


def test_a_job_that_was_searched_stays_the_one_that_is_shown(driver: Chrome, operated: Operated) -> None:
    """Its label may be that of a newer job, too; otherwise, "Stop" would be about another job from then on."""
    first = Later(operated.process, duration=5, account="searched")
    eventually_shown(lambda: is_found(operated, "searched"))
    driver.get(f"{operated.admin}/job.html?id=%20searched%20")
    eventually_shown(lambda: text(driver, "facts"))
    second = Later(operated.process, duration=10, account="searched")
    job_id = first.answer()[1]["job_id"]
    eventually_shown(lambda: "succeeded" in text(driver, "outcome"))
    assert text(driver, "id") == job_id
    assert driver.current_url.endswith(f"/job.html?id={job_id}")
    assert second.answer()[1]["job_id"] != job_id


@pytest.mark.usefixtures("refused_once")
def test_a_job_that_cannot_be_read_now_is_asked_for_again(driver: Chrome, operated: Operated) -> None:
    """The store may be unavailable for a moment, for example."""
    driver.get(f"{operated.admin}/job.html?id={HOSTILE_ID}")
    eventually_shown(lambda: text(driver, "facts"))
    assert run(driver, "return window.wasRefused") is True
    assert not driver.find_element(By.ID, "trouble").is_displayed()


@pytest.mark.parametrize("name", ["patterns", ".."])
def test_a_name_that_is_an_address_of_something_else_leads_to_the_search(
    driver: Chrome, operated: Operated, name: str
) -> None:
    """Whatever is there is not taken for a job."""
    driver.get(f"{operated.admin}/job.html?id={name}")
    eventually_shown(lambda: "No job is found" in text(driver, "trouble"))
    assert text(driver, "id") == name
    href = driver.find_element(By.LINK_TEXT, "Search all jobs").get_attribute("href")
    assert str(href).endswith(f"/jobs.html?q={name}")
