"""A job server, from the front end's point of view."""

from __future__ import annotations

from proxy.jobs.job_server import ServedJobServer
from tests.support.instances import a_job_server
from tests.support.records import a_record


def test_people_see_a_job_where_the_profile_says() -> None:
    """Once the job server's names are known; a value stays within its place in the URL, whatever it is."""
    server = ServedJobServer(a_job_server("replicate"))
    assert server.page_of(a_record(outputs={})) == ""
    assert server.page_of(a_record(outputs={"id": "a1"})) == "https://replicate.com/p/a1"
    assert server.page_of(a_record(outputs={"id": "../x?<b>"})) == "https://replicate.com/p/..%2Fx%3F%3Cb%3E"
    assert server.page_of(a_record(outputs={"id": ".."})) == ""
    assert ServedJobServer(a_job_server("spreedly")).page_of(a_record(outputs={"id": "a1"})) == ""
