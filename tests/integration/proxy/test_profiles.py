"""A job server with its own protocol: a profile is all that the proxy needs to know about it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession, web
from pytest_aiohttp import AiohttpServer

from tests.support.http import Answer, fetch
from tests.support.proxy_process import ProxyProcess

_PROFILE: Final = """
name = "another"

[submit]
url = "/predictions"
body = { hook = { url = "{callback_url}", events = ["completed"] } }
accepted = [202]
busy = [409]
query = { version = "2" }
client_query = ["model", "word"]
rejected = "body.error"

[callback]
state = "body.status"
succeeded = ["done"]
failed = ["broken", "40"]
"""

#: Its replies are final, and its results twice as long as they have to be.
_FINAL: Final = """
name = "final"

[submit]
body = { hook = "{callback_url}" }
state = "body.state"
succeeded = ["done"]
result = "[body.data, body.data]"

[callback]
state = "body.state"
succeeded = ["done"]
"""


class Predictions:
    """A job server that takes `{"input": {"status": ..., "reply": [status, body]}}` and calls back with that status."""

    def __init__(self) -> None:
        self.submissions: list[dict[str, Any]] = []
        self.queries: list[str] = []
        self._calls: set[asyncio.Task[None]] = set()

    async def submit(self, request: web.Request) -> web.Response:
        """Answer as the job asks; after a 202 without an error, call back."""
        job = await request.json()
        self.submissions.append(job)
        self.queries.append(request.rel_url.raw_query_string)
        replies = job["input"].get("replies", [[202, {}]])
        same = [one for one in self.submissions if one["input"] == job["input"]]
        status, reply = replies[min(len(same), len(replies)) - 1]
        if status == 202 and not reply:
            call = asyncio.create_task(self._call(job["hook"]["url"], {"status": job["input"]["status"]}))
            self._calls.add(call)
        return web.json_response(reply, status=status)

    async def _call(self, url: str, body: dict[str, Any]) -> None:
        async with ClientSession() as session, session.put(url, json=body) as response:
            assert response.status == 200


@pytest.fixture
async def predictions(aiohttp_server: AiohttpServer) -> tuple[Predictions, str]:
    """The job server, and its address."""
    predictions = Predictions()
    app = web.Application()
    app.router.add_post("/v1/predictions", predictions.submit)
    server = await aiohttp_server(app)
    return predictions, str(server.make_url("/v1"))


@pytest.fixture
def another(predictions: tuple[Predictions, str], tmp_path: Path) -> Iterator[ProxyProcess]:
    """A proxy with the profile of that job server."""
    file = tmp_path / "another.toml"
    file.write_text(_PROFILE, encoding="utf-8")
    with ProxyProcess.started(PROFILE=str(file), JOB_SERVER_URL=predictions[1], WORKER_SPARES="2") as proxy:
        yield proxy


async def test_a_job_server_with_another_protocol(
    client: ClientSession, another: ProxyProcess, predictions: tuple[Predictions, str]
) -> None:
    """Its paths, members, statuses and states are those of the profile; it does not know `wait` and `callback`."""
    server, _ = predictions

    async def post(**job: object) -> Answer:
        return await fetch(client, "POST", another.queue_job, json=job)

    done = await post(input={"status": "done"}, hook={"mine": 1.0}, callback="x", wait=False)
    assert (done.status, done.document) == (200, {"status": "done"})
    assert server.submissions[0] == {
        "input": {"status": "done"},
        "hook": {"mine": 1.0, "url": server.submissions[0]["hook"]["url"], "events": ["completed"]},
        "callback": "x",
        "wait": False,
    }

    broken = await post(input={"status": 40})
    assert (broken.status, broken.document["code"], broken.document["result"]) == (500, "job-failed", {"status": 40})

    busy = await post(input={"status": "done", "replies": [[409, {}], [202, {}]]})
    assert (busy.status, len(server.submissions)) == (200, 4)

    refused = await post(input={"replies": [[202, {"error": "no"}]]})
    assert (refused.document["code"], refused.document["submitted"]) == ("job-rejected", "no")

    unknown = await post(input={"replies": [[200, {}]]})
    assert (unknown.document["code"], unknown.document["submitted"]) == ("bad-job-server-reply", "unknown")

    taken = await post(hook={"url": "mine"})
    assert (taken.status, taken.document["code"]) == (400, "invalid-request")
    assert "`hook.url`" in taken.document["detail"]


async def test_a_clients_query_is_passed_on_as_far_as_the_profile_says(
    client: ClientSession, another: ProxyProcess, predictions: tuple[Predictions, str]
) -> None:
    """After the profile's own; one with anything else is refused, and with the same key it is another job."""
    server, _ = predictions

    async def post(query: str) -> Answer:
        url = f"{another.queue_job}?{query}"
        headers = {"Idempotency-Key": "key"}
        return await fetch(client, "POST", url, json={"input": {"status": "done"}}, headers=headers)

    answers = [await post(query) for query in ("version=3", "word=a%20b&word=c&model", "word=a+b&word=c&model=", "")]
    assert [answer.status for answer in answers] == [400, 200, 200, 422]
    assert answers[0].document["detail"] == "the query has `version`; the job server takes model, word"
    assert server.queries == ["version=2&word=a%20b&word=c&model="]


def test_a_profile_that_is_wrong_ends_the_start(tmp_path: Path) -> None:
    """One line that says what is wrong, and where."""
    file = tmp_path / "wrong.toml"
    file.write_text(_PROFILE.replace("accepted", "acepted"), encoding="utf-8")
    with ProxyProcess(PROFILE=str(file)) as proxy:
        assert proxy.wait() == 2
    assert proxy.stderr == [f"error: PROFILE: {file}: there is no key `acepted` in [submit]; did you mean `accepted`?"]


async def test_a_result_that_an_expression_makes_too_large_is_named(
    client: ClientSession, aiohttp_server: AiohttpServer, tmp_path: Path
) -> None:
    """The job is over, and the job server had it; its worker did nothing wrong."""

    async def submit(request: web.Request) -> web.Response:
        return web.json_response({"state": "done", "data": "x" * (await request.json())["size"]})

    app = web.Application()
    app.router.add_post("/", submit)
    url = str((await aiohttp_server(app)).make_url("/"))
    file = tmp_path / "final.toml"
    file.write_text(_FINAL, encoding="utf-8")
    with ProxyProcess.started(PROFILE=str(file), JOB_SERVER_URL=url, MAX_BODY_BYTES="100000") as proxy:
        fits = await fetch(client, "POST", proxy.queue_job, json={"size": 49_990})
        exceeds = await fetch(client, "POST", proxy.queue_job, json={"size": 99_900})
    assert (fits.status, len(fits.body)) == (200, 99_988)
    problem = exceeds.document
    assert (exceeds.status, problem["code"], problem["submitted"]) == (500, "bad-job-server-reply", "yes")
    assert problem["detail"] == "the result in the job server's reply is larger than 100000 bytes"
