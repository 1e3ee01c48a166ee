"""The banner for a person when the proxy has started."""

from __future__ import annotations

import shlex

import pytest

from proxy.run.banner import banner
from shared.settings import load
from shared.version import VERSION

URLS = {"public": "http://127.0.0.1:3000", "admin": "http://127.0.0.1:3001"}


def test_it_names_the_addresses_the_mode_and_a_line_to_paste() -> None:
    """With nothing configured: an embedded job server, a fresh process for each job, a journal."""
    text = banner(load({}), URLS, "http://127.0.0.1:4000/start")
    assert "http://127.0.0.1:3000 (" in text
    assert "Dashboard: http://127.0.0.1:3001/\n" in text
    assert "Embedded job server: http://127.0.0.1:4000/start " in text
    assert "a fresh worker process for each job, 8 kept ready, at most 256 jobs in flight" in text
    assert "remembered in jobs.sqlite3" in text
    (line,) = [line for line in text.splitlines() if "curl " in line]
    assert shlex.split(line)[-1] == "http://127.0.0.1:3000/queueJob"


def test_what_is_switched_off_is_not_named() -> None:
    """No admin address, no journal, and another job server, without the password in its address."""
    settings = load({"JOB_SERVER_URL": "http://user:hidden@jobs.example/start", "JOURNAL": ""})
    text = banner(settings, {"public": URLS["public"]}, "")
    assert "Dashboard" not in text
    assert "Job server: http://jobs.example/start\n" in text
    assert "hidden" not in text
    assert "jobs are forgotten when the process ends" in text


def test_each_of_several_job_servers_is_named() -> None:
    """The first one without its profile's name: it takes the jobs that name none."""
    settings = load({"JOB_SERVER_URL": "http://jobs.example/start", "PROFILE": "spreedly,fal"})
    lines = banner(settings, URLS, "", {"fal": "https://queue.fal.run"}).splitlines()
    first = lines.index("Job server: http://jobs.example/start")
    assert lines[first + 1] == "Job server of fal: https://queue.fal.run"


def test_the_password_of_a_database_is_not_shown() -> None:
    """Nor its parameters, which may be secret."""
    settings = load({"JOURNAL": "postgresql://u:hidden@one,two:5433/jobs?sslpassword=hidden"})
    text = banner(settings, URLS, "")
    assert "remembered in postgresql://u@one,two:5433/jobs\n" in text
    assert "hidden" not in text


@pytest.mark.parametrize(("value", "words"), [("0", "reused after each success"), ("7", "serve 7 jobs each")])
def test_it_says_how_workers_are_used(value: str, words: str) -> None:
    """As set by WORKER_MAX_JOBS."""
    assert words in banner(load({"WORKER_MAX_JOBS": value}), URLS, "")


def test_where_keys_are_asked_for_the_line_has_a_place_for_one() -> None:
    """And never a key itself."""
    text = banner(load({"API_KEYS": "hidden-key"}), URLS, "")
    assert '-H "Authorization: Bearer $API_KEY"' in text
    assert "hidden-key" not in text


@pytest.mark.parametrize(
    ("keys", "words"),
    [("", "Keys: none needed: anybody who can reach"), ("one,two", "Keys: clients must send one of 2 keys")],
)
def test_it_says_whether_keys_are_asked_for(keys: str, words: str) -> None:
    """A proxy that is open by mistake is noticed at once."""
    assert words in banner(load({"API_KEYS": keys}), URLS, "")


def test_there_is_a_line_to_paste_only_where_it_works() -> None:
    """Another profile's jobs look different; the first one gets what comes to /queueJob."""
    assert "curl " not in banner(load({"PROFILE": "gotenberg,spreedly"}), URLS, "")
    assert "Try it: docs/profiles.md" in banner(load({"PROFILE": "gotenberg,spreedly"}), URLS, "")
    assert "curl " in banner(load({"PROFILE": "spreedly,gotenberg"}), URLS, "")


def test_it_names_the_version() -> None:
    """It is the first thing that support asks for."""
    assert f"The async job proxy {VERSION} listens on" in banner(load({}), URLS, "")


def test_callbacks_with_a_listener_of_their_own_are_named() -> None:
    """The operator has to configure the job server with it."""
    assert "Callbacks: http://127.0.0.1:3003" in banner(load({}), {**URLS, "callback": "http://127.0.0.1:3003"}, "")
