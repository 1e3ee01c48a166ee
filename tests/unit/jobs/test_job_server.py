"""A job server, from the front end's point of view."""

from __future__ import annotations

import dataclasses

import pytest

from proxy.jobs.job_server import ServedJobServer
from shared.job_server import loader
from shared.worker_config import JobServer
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


def test_a_job_can_be_asked_about_if_its_status_names_the_result() -> None:
    """Nothing else is needed for the two calls than what the status call itself needs."""
    served = a_job_server("soniox")
    assert served.profile.status is not None
    assert served.profile.result is not None
    status = dataclasses.replace(served.profile.status, outputs={"file": "body.file"})
    result = dataclasses.replace(served.profile.result, url="/files/{file}")
    profile = dataclasses.replace(served.profile, status=status, result=result)
    server = ServedJobServer(dataclasses.replace(served, profile=profile))
    assert [server.can_ask(a_record(outputs=outputs)) for outputs in ({}, {"id": "1"})] == [False, True]


@pytest.mark.parametrize(
    ("extra", "needs_path"),
    [
        ('url = "/jobs"', False),
        ('url = "/{path}"', True),
        ('query = { a = "{path}" }', True),
        ('headers = { A = "{path}" }', True),
        ('body = { a = [{ b = "{path}" }] }', True),
        ('form = { a = "{path}" }', True),
        ('[server]\nheaders = { A = "{path}" }', True),
        ('[status]\nurl = "/{path}/{job_id}"', True),
    ],
)
def test_a_job_needs_a_path_if_any_of_its_calls_does(extra: str, needs_path: bool) -> None:
    """Otherwise a job without a path would fail with an error of the proxy's, and one with a path be refused."""
    text = f"""name = "x"
[callback]
path = "/callback/x"
correlate = "body.id"
state = "body.state"
succeeded = ["done"]
[submit]
{extra}
"""
    assert ServedJobServer(JobServer(url="http://a/", profile=loader.parse(text))).needs_path is needs_path
