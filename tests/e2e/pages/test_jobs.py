"""The list of jobs, with very many jobs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from selenium.webdriver import Keys
from selenium.webdriver.common.by import By

from tests.support.browser import errors_in_console, eventually_shown, run
from tests.support.operators import JOBS, MARKS, Later, Operated, text

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

pytestmark = MARKS


@pytest.fixture
def page(driver: Chrome, operated: Operated) -> Iterator[Chrome]:
    """The list, with its first page and its counts; whatever a test does with it, it reports no error."""
    driver.get(f"{operated.admin}/jobs.html")
    eventually_shown(lambda: rows(driver) == 50)
    eventually_shown(lambda: run(driver, "return document.querySelectorAll('#facets input').length") > 3)
    yield driver
    assert errors_in_console(driver) == []


def rows(driver: Chrome) -> int:
    """Return how many jobs are shown."""
    return int(run(driver, "return document.querySelectorAll('#rows tr').length"))


def column(driver: Chrome, number: int) -> set[str]:
    """Return the values in a column, counted from 1."""
    cells = f"return [...document.querySelectorAll('#rows td:nth-child({number})')].map((cell) => cell.textContent)"
    return set(run(driver, cells))


def query(driver: Chrome) -> str:
    """Return the address's query string."""
    return str(run(driver, "return location.search"))


def choose(driver: Chrome, facet: str) -> None:
    """Choose a value with the keyboard, and wait for the list."""
    box = driver.find_element(By.CSS_SELECTOR, f'[data-facet="{facet}"]')
    box.send_keys(Keys.SPACE)
    eventually_shown(lambda: run(driver, "return document.getElementById('list').ariaBusy") == "false")


def test_it_counts_what_there_is(page: Chrome) -> None:
    """Each code and label with its count; the total is the number of jobs, or says how far it was counted."""
    total = text(page, "total")
    counted = int(re.sub(r"\D", "", total))
    assert counted >= JOBS or "or more" in total
    codes = text(page, "facets")
    assert all(code in codes for code in ("worker-died", "deadline-exceeded", "job-rejected", "acme", "omega", "zeta"))


def test_a_filter_stands_in_the_address_and_back_takes_it_away(page: Chrome, operated: Operated) -> None:
    """Chosen with the keyboard; the focus stays where it was; the address shows the same to others."""
    choose(page, "code=worker-died")
    eventually_shown(lambda: column(page, 3) == {"✕ worker-died"})
    assert query(page) == "?code=worker-died"
    assert run(page, "return document.activeElement.dataset.facet") == "code=worker-died"
    choose(page, "code=job-rejected")
    eventually_shown(lambda: column(page, 3) == {"✕ worker-died", "✕ job-rejected"})
    assert query(page) == "?code=worker-died,job-rejected"
    page.back()
    eventually_shown(lambda: column(page, 3) == {"✕ worker-died"})
    page.back()
    eventually_shown(lambda: "✓ succeeded" in column(page, 3))
    page.get(f"{operated.admin}/jobs.html?label.account=zeta&submitted=unknown")
    eventually_shown(lambda: column(page, 4) == {"unknown"})
    assert column(page, 6) == {"account=zeta"}
    chip = page.find_element(By.CSS_SELECTOR, "[aria-label='Remove the filter Submitted: unknown']")
    chip.send_keys(Keys.ENTER)
    eventually_shown(lambda: len(column(page, 4)) > 1 or column(page, 4) == {"yes"})
    assert query(page) == "?label.account=zeta"


def test_pages_follow_one_another_and_back_goes_back(page: Chrome) -> None:
    """No job twice; the address of a later page can be bookmarked."""
    first = column(page, 2)
    page.find_element(By.LINK_TEXT, "Next page").send_keys(Keys.ENTER)
    eventually_shown(lambda: not column(page, 2) & first)
    second = column(page, 2)
    assert len(second) == 50
    assert "after=" in query(page)
    page.refresh()
    eventually_shown(lambda: column(page, 2) == second)
    page.back()
    eventually_shown(lambda: column(page, 2) == first)


def test_back_to_a_later_page_brings_its_counts_back(page: Chrome) -> None:
    """Those of other filters were shown in between."""
    total = text(page, "total")
    page.find_element(By.LINK_TEXT, "Next page").send_keys(Keys.ENTER)
    eventually_shown(lambda: "after=" in query(page) and rows(page) == 50)
    choose(page, "code=worker-died")
    eventually_shown(lambda: text(page, "total") != total)
    filtered = text(page, "total")
    page.back()
    eventually_shown(lambda: "after=" in query(page))
    eventually_shown(lambda: text(page, "total") != filtered)


def test_it_is_sorted_by_time_and_by_length(page: Chrome) -> None:
    """By its column heads, which tell a screen reader the order."""
    page.find_element(By.ID, "by-length").send_keys(Keys.ENTER)
    eventually_shown(lambda: query(page) == "?sort=slowest")
    longest = "return document.querySelector('#rows td:nth-child(5)').textContent"
    eventually_shown(lambda: run(page, longest).startswith("20."), 60)
    sorts = "return [...document.querySelectorAll('#table th[aria-sort]')].map((head) => head.ariaSort)"
    assert run(page, sorts) == ["none", "descending"]
    newest = column(page, 2)
    page.find_element(By.ID, "by-time").send_keys(Keys.ENTER)
    eventually_shown(lambda: query(page) == "?sort=oldest" or query(page) == "")
    eventually_shown(lambda: column(page, 2) != newest)


def test_a_text_and_a_time_are_typed(page: Chrome) -> None:
    """The text is searched in labels and messages; the time becomes part of the address."""
    field = page.find_element(By.NAME, "q")
    field.send_keys("acm", Keys.ENTER)
    eventually_shown(lambda: column(page, 6) == {"account=acme"}, 60)
    assert query(page) == "?q=acm"
    run(
        page,
        "const it = document.querySelector('[name=period]'); it.value = '1h'; it.dispatchEvent(new Event('change'))",
    )
    eventually_shown(lambda: query(page) == "?q=acm&since=1h")


def test_an_age_in_the_address_outlives_another_filter(page: Chrome, operated: Operated) -> None:
    """Also one that the form does not offer."""
    page.get(f"{operated.admin}/jobs.html?since=90m")
    eventually_shown(lambda: rows(page) > 0)
    chosen = "const it = document.querySelector('[name=period]'); return it.selectedOptions[0].textContent"
    assert run(page, chosen) == "last 90m"
    page.find_element(By.NAME, "q").send_keys("acm", Keys.ENTER)
    eventually_shown(lambda: query(page) == "?since=90m&q=acm")


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        ("since=90m&until=15m", ["", ""]),
        ("since=2026-01-05T12:00:00&until=2026-01-05T13:00:00.250Z", ["2026-01-05T07:00", "2026-01-05T08:00"]),
    ],
)
def test_times_in_the_address_outlive_another_filter(
    page: Chrome, operated: Operated, times: str, shown: list[str]
) -> None:
    """Also those that the fields cannot show, or not exactly. As for the proxy, a time without a zone is UTC."""
    page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": "America/New_York"})
    try:
        page.get(f"{operated.admin}/jobs.html?{times}")
        eventually_shown(lambda: text(page, "chips"))
        fields = "return [...document.querySelectorAll('.range input')].map((it) => it.value)"
        assert run(page, fields) == shown
        page.find_element(By.NAME, "q").send_keys("acm", Keys.ENTER)
        eventually_shown(lambda: query(page) == f"?{times}&q=acm")
        since, until = times.partition("&")[0], page.find_element(By.NAME, "until")
        run(page, "arguments[0].value = '2080-01-05T08:30'", until)
        until.submit()
        eventually_shown(lambda: query(page) == f"?{since}&until=2080-01-05T13:30:00Z&q=acm")
    finally:
        page.execute_cdp_cmd("Emulation.setTimezoneOverride", {"timezoneId": ""})


def test_the_focus_stays_at_a_job_while_the_list_is_kept_current(page: Chrome) -> None:
    """Its link is another element, but leads to the same job."""
    run(
        page,
        "window.first = document.querySelector('#rows tr'); document.querySelector('#rows tr:nth-child(3) a').focus()",
    )
    href = run(page, "return document.activeElement.href")
    page.find_element(By.ID, "follow").click()
    run(page, "document.querySelector('#rows tr:nth-child(3) a').focus()")
    eventually_shown(lambda: run(page, "return !window.first.isConnected"))
    assert run(page, "return document.activeElement.href") == href


@pytest.mark.parametrize("name", ["jobs.html", "patterns.html"])
def test_what_cannot_be_read_is_said(driver: Chrome, operated: Operated, name: str) -> None:
    """An invalid filter is named, and nothing is shown as its jobs."""
    driver.get(f"{operated.admin}/{name}")
    rows_there = "return [...document.querySelectorAll('#rows tr, #failures tr')].some((row) => row.checkVisibility())"
    eventually_shown(lambda: run(driver, rows_there), 60)
    run(
        driver,
        "history.pushState(null, '', '?since=yesterday'); dispatchEvent(new PopStateEvent('popstate'))",
    )
    eventually_shown(lambda: "Since: " in text(driver, "trouble"))
    assert not run(driver, rows_there)
    driver.get_log("browser")  # type: ignore[no-untyped-call] # the 400 stands there, as it should
    driver.back()
    eventually_shown(lambda: run(driver, rows_there), 60)


def test_an_open_job_leads_to_its_page_and_is_stopped_there(page: Chrome, operated: Operated) -> None:
    """From the list by its link; cancelled by its button; its page then says who did it."""
    job = Later(operated.process, duration=15, account="from-the-list")
    page.get(f"{operated.admin}/jobs.html?label.account=from-the-list&state=open")
    link = "#rows a"

    def there() -> bool:
        page.refresh()
        return bool(eventually_shown(lambda: text(page, "total"))) and rows(page) == 1

    eventually_shown(there)
    page.find_element(By.CSS_SELECTOR, link).send_keys(Keys.ENTER)
    stop = "#buttons button[aria-label^='Stop job']"
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, stop))[0].send_keys(Keys.ENTER)
    eventually_shown(lambda: page.find_elements(By.CSS_SELECTOR, "dialog[open] .danger"))[0].send_keys(Keys.ENTER)
    status, document = job.answer()
    assert (status, document["code"]) == (500, "cancelled")
    eventually_shown(lambda: "cancelled" in text(page, "outcome"))
    assert "operator" in text(page, "words")
    assert not page.find_elements(By.CSS_SELECTOR, stop)
