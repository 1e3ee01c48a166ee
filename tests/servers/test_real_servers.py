"""Shipped profiles with real job servers, each with a program that does what a job says."""

from __future__ import annotations

import asyncio
import itertools
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.servers.support import SERVERS, OneProxy
from tests.support.http import Answer, fetch
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually

pytestmark = [pytest.mark.xdist_group("servers"), pytest.mark.timeout(120)]
NAMES = list(SERVERS)
_numbers = itertools.count(1)


def job(name: str, text: str = "hi", *, seconds: float = 0, fail: bool = False) -> dict[str, Any]:
    """Return a job for a server's program."""
    if name == "a2a":
        words = " ".join([text, *(["slow"] if seconds else []), *(["fail"] if fail else [])])
        return {"message": {"messageId": str(next(_numbers)), "role": "ROLE_USER", "parts": [{"text": words}]}}
    if name == "ckan":  # a job that ends before it is recorded stays pending there forever
        seconds = max(seconds, 0.3)
    data = {"text": text, "seconds": seconds, "fail": fail}
    match name:
        case "ckan":
            return {"job_type": "background", "data": data}
        case "pygeoapi":
            return {"inputs": data}
        case "langgraph":
            return {"assistant_id": "agent", "input": data}
        case "buildbot":
            return {"params": {"text": text, "seconds": str(seconds), "fail": "yes" if fail else "no"}}
        case _:
            return {"input": data}


def text_of(name: str, document: Any) -> str:  # noqa: ANN401 - as many as servers
    """Return what a server's program says in a result."""
    match name:
        case "cog":
            return str(document["output"])
        case "a2a":
            return str(document[0]["parts"][0]["text"])
        case "buildbot":
            return str(document)
        case _:
            return f"done: {document['done']}"


def has_names(journal: str, job_id: str) -> bool:
    """Return whether the job server's id of the job is recorded."""
    with closing(sqlite3.connect(journal)) as db:
        (remote,) = db.execute("SELECT remote FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return bool(remote) and bool(json.loads(remote)[0].keys() - {"path"})


async def post(
    session: ClientSession,
    proxy: ProxyProcess,
    name: str,
    document: dict[str, Any],
    path: str = "worker",
    **headers: str,
) -> Answer:
    """Post a job to a server; `path`: the process, if it has several."""
    url = f"{proxy.queue_job}/{SERVERS[name].profile}" + (f"/{path}" if name == "pygeoapi" else "")
    return await fetch(session, "POST", url, json=document, headers=headers)


@pytest.mark.parametrize("name", NAMES)
async def test_results_and_failures(client: ClientSession, one_proxy: OneProxy, name: str) -> None:
    """Several jobs in turn get their own results; a failure has the server's reason.

    With reused workers, which may keep their connection; the other tests here have fresh ones.
    """
    proxy = one_proxy.serving(name, WORKER_MAX_JOBS="0")
    for text in ("one", "two", "three"):
        answer = await post(client, proxy, name, job(name, text))
        assert answer.status == 200, answer.body
        assert text_of(name, answer.document) == f"done: {text}"
    failed = (await post(client, proxy, name, job(name, fail=True))).document
    assert (failed["code"], failed["submitted"]) == ("job-failed", "yes")
    assert "told to fail" in failed["detail"] or name in {"a2a", "buildbot"}


@pytest.mark.parametrize("name", ["cog", "a2a", "pygeoapi", "langgraph", "buildbot"])
async def test_a_cancel_reaches_the_server(
    client: ClientSession, one_proxy: OneProxy, tmp_path: Path, name: str
) -> None:
    """The job ends there: Cog accepts the next one at once."""
    proxy = one_proxy.serving(name, SUBMIT_RETRIES="0")
    begun = tmp_path / "begun"
    accepted = await post(client, proxy, name, job(name, str(begun), seconds=25), Prefer="respond-async")
    job_id = accepted.headers["Job-Id"]
    url = f"{proxy.url}/jobs/{job_id}"

    async def has_begun() -> bool:
        document = (await fetch(client, "GET", url)).document
        # A builder of Buildbot that is cancelled while it begins may never build again; the progress says that it has.
        return document["state"] == "waiting" and (name != "buildbot" or document["progress"] is not None)

    def was_told() -> bool:
        return job_id in {line["job_id"] for line in proxy.events_of("the job server was told to cancel a job")}

    await eventually(has_begun)
    if name == "cog":  # before the model runs, it answers 200 to a cancel and ignores it
        await eventually(begun.exists)
    assert (await fetch(client, "DELETE", url)).document["code"] == "cancelled"
    await eventually(was_told)
    watch = proxy.stopwatch()
    assert (await post(client, proxy, name, job(name, "next"))).status == 200
    assert watch.own_s < 20


async def test_cog_is_waited_for_while_it_is_busy(client: ClientSession, one_proxy: OneProxy) -> None:
    """It has one slot, and answers 409 without a Retry-After."""
    proxy = one_proxy.serving("cog", SUBMIT_RETRIES="0")
    answers = await asyncio.gather(*(post(client, proxy, "cog", job("cog", str(n), seconds=0.3)) for n in range(3)))
    assert [answer.status for answer in answers] == [200] * 3
    assert sorted(answer.document["output"] for answer in answers) == ["done: 0", "done: 1", "done: 2"]


async def test_a_job_that_is_finished_in_the_reply(client: ClientSession, one_proxy: OneProxy) -> None:
    """CKAN Service Provider has such job types; their callback, which comes as well, changes nothing."""
    proxy = one_proxy.serving("ckan", SUBMIT_RETRIES="0")
    at_once = {"job_type": "at_once", "data": {"text": "hi"}}
    answer = await post(client, proxy, "ckan", at_once)
    assert (answer.status, answer.document) == (200, {"done": "hi"})
    unknown = (await post(client, proxy, "ckan", {"job_type": "none", "data": {}})).document
    assert (unknown["code"], unknown["submitted"]) == ("job-rejected", "no")


async def test_pygeoapis_own_example_and_a_process_that_cannot_run_in_the_background(
    client: ClientSession, one_proxy: OneProxy
) -> None:
    """A job that ran at once was submitted, even if pygeoapi answers 400 for its failure; a refused job was not."""
    proxy = one_proxy.serving("pygeoapi", SUBMIT_RETRIES="0")
    hello = await post(client, proxy, "pygeoapi", {"inputs": {"name": "Alice"}}, "hello-world")
    assert (hello.status, hello.document) == (200, {"id": "echo", "value": "Hello Alice!"})
    at_once = await post(client, proxy, "pygeoapi", job("pygeoapi", "hi"), "at-once")
    assert (at_once.status, at_once.document) == (200, {"done": "hi"})
    failed = (await post(client, proxy, "pygeoapi", job("pygeoapi", fail=True), "at-once")).document
    assert (failed["code"], failed["submitted"]) == ("job-failed", "yes")
    unknown = (await post(client, proxy, "pygeoapi", job("pygeoapi"), "none")).document
    assert (unknown["code"], unknown["submitted"]) == ("job-rejected", "no")


@pytest.mark.parametrize(
    ("name", "document", "why"),
    [
        ("langgraph", {"assistant_id": "none", "input": {}}, "Invalid assistant"),
        ("buildbot", {"params": {"builderid": "none"}}, ""),
    ],
)
async def test_a_refusal_says_why(
    client: ClientSession, one_proxy: OneProxy, name: str, document: dict[str, Any], why: str
) -> None:
    """In the server's words, and with `submitted: no` unless the server itself does not know."""
    refused = (await post(client, one_proxy.serving(name, SUBMIT_RETRIES="0"), name, document)).document
    assert refused["code"] == "job-rejected"
    assert why in refused["detail"]
    assert refused["submitted"] == ("no" if why else "unknown")


@pytest.mark.parametrize("name", [name for name in NAMES if name != "cog"])
async def test_a_lost_callback_is_found_by_asking(client: ClientSession, one_proxy: OneProxy, name: str) -> None:
    """The server calls an address that ignores the callback."""
    proxy = one_proxy.serving(name, deaf=True)
    answer = await post(client, proxy, name, job(name))
    assert answer.status == 200, answer.body
    assert text_of(name, answer.document) == "done: hi"
    failed = (await post(client, proxy, name, job(name, fail=True))).document
    assert (failed["code"], failed["submitted"]) == ("job-failed", "yes")


async def test_a_front_end_that_was_killed_finds_the_jobs_again(client: ClientSession, one_proxy: OneProxy) -> None:
    """Their callbacks came while no front end ran; the next front end asks."""
    names = [name for name in NAMES if name in one_proxy.servers and name not in {"cog", "runpod"}]
    if not names:
        pytest.skip("none is installed: make servers")
    first = one_proxy.serving(names[0], deaf=True)
    jobs = {}
    for name in names:
        document = job(name, "survivor") if name == "a2a" else job(name, "survivor", seconds=1)
        accepted = await post(client, first, name, document, Prefer="respond-async")
        jobs[name] = accepted.headers["Job-Id"]
    # The job servers' ids are recorded in the background.
    await eventually(lambda: all(has_names(one_proxy.journal, job_id) for job_id in jobs.values()))
    first.kill()
    await asyncio.sleep(2)  # until the jobs have ended; the servers cannot be asked without ending the test
    second = one_proxy.serving(names[0], deaf=True)
    for name, job_id in jobs.items():
        answer = await fetch(client, "GET", f"{second.url}/jobs/{job_id}/result", headers={"Prefer": "wait=25"})
        assert answer.status == 200, (name, answer.body)
        assert text_of(name, answer.document) == "done: survivor"
