"""A job that succeeds: over HTTP, through a real worker, to a real job server and back."""

from __future__ import annotations

import asyncio
import json

import pytest
from aiohttp import ClientSession

from tests.support.http import fetch, new_ref, post_job
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.waiting import eventually


async def test_a_job_is_answered_with_its_result(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The answer is 200 with the job server's own document, and the ledger has one submission."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref)
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.document["id"] == job_server.submission(ref).id
    assert answer.document["state"] == "completed"


async def test_the_job_servers_own_route_is_an_alias(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """`POST /start` is the same: a client of the job server only has to change the address."""
    answer = await post_job(client, f"{proxy.url}/start", wait=True)
    assert (answer.status, answer.document["state"]) == (200, "completed")


@pytest.mark.parametrize(
    "body",
    [
        b'{"state":"completed","sum":0.10,"big":1e400,"long":123456789012345678901234567890}',
        b' \t{"a" :\t1 ,\r\n "a": 2}\n\n ',
        '{"text": "é \u2028 \U0001f600 \\ud83d\\ude00 \\u0000"}'.encode(),
        b"[]",
        b'"just text"',
        b"null",
        b"-0.0",
        b'{"state": "completed", "error": "failed"}',
        b'{"state": ["failed"]}',
    ],
    ids=repr,
)
async def test_a_callbacks_body_reaches_the_client_byte_for_byte(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, body: bytes
) -> None:
    """Any JSON from the job server, with its whitespace and its numbers unchanged."""
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    callback = await fetch(client, "POST", job_server.callback_url(ref), data=body)
    assert (callback.status, callback.document) == (200, {"status": "accepted"})
    assert ((await answer).status, (await answer).body) == (200, body)
    assert (await answer).headers["Content-Length"] == str(len(body))


async def test_an_answer_names_the_job(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """`Job-Id` is 128 bits in hexadecimal, different for each job, and is the id in the log."""
    ids = {(await post_job(client, proxy.queue_job)).headers["Job-Id"] for _ in range(3)}
    assert len(ids) == 3
    assert {len(bytes.fromhex(job_id)) for job_id in ids} == {16}
    await eventually(lambda: ids <= {line.get("job_id") for line in proxy.events})


async def test_fields_reach_the_job_server_with_their_exact_values(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """No number is parsed and written again, and only `wait` and `callback` are added."""
    ref = new_ref()
    sent = (
        f'{{"account":"{ref}","ref":"{ref}","price":0.10,"huge":1e400,"precise":1.0000000000000000001,'
        '"big":123456789012345678901234567890,"minus":-0,"text":"\\u00e9 é \\" \\\\",'
        '"nested":{ "b" : [ 1.50 , null ] },"na\\"me é":true}'
    )
    headers = {"Content-Type": "application/json; charset=UTF-8"}
    answer = await fetch(client, "POST", proxy.queue_job, data=sent.encode(), headers=headers)
    assert answer.status == 200
    raw = job_server.submission(ref).raw.decode()
    for text in (
        '"price":0.10,',
        '"huge":1e400,',
        '"precise":1.0000000000000000001,',
        '"big":123456789012345678901234567890,',
        '"minus":-0,',
        '"text":"\\u00e9 é \\" \\\\",',
        '"nested":{ "b" : [ 1.50 , null ] }',
    ):
        assert text in raw
    assert set(json.loads(raw)) == set(json.loads(sent)) | {"wait", "callback"}
    assert json.loads(raw)['na"me é'] is True


@pytest.mark.parametrize("wait", [True, False, None, "text", {"deep": []}])
async def test_wait_is_sent_as_false_whatever_the_client_said(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, wait: object
) -> None:
    """The proxy uses the asynchronous form, and `wait` occurs once."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, wait=wait)
    if wait is False:
        # The client itself may ask not to wait; this test does not look at its answer.
        await eventually(lambda: job_server.submissions(ref))
    else:
        assert answer.status == 200
    assert job_server.submission(ref).raw.count(b'"wait"') == 1
    assert job_server.sent(ref)["wait"] is False


async def test_the_callback_address_is_unguessable_and_new_for_each_job(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """256 bits after the callback route's address; neither the log nor the answer contains them."""
    refs = [new_ref() for _ in range(3)]
    answers = [await post_job(client, proxy.queue_job, ref=ref) for ref in refs]
    tokens = set()
    for ref in refs:
        base, _, token = job_server.callback_url(ref).rpartition("/")
        assert base == f"{proxy.url}/callback"
        assert len(token) >= 43  # 32 bytes in base64
        tokens.add(token)
    assert len(tokens) == len(refs)
    for token in tokens:
        assert not any(token.encode() in answer.body for answer in answers)
        assert not any(token in line for line in proxy.stderr + proxy.stdout)


async def test_a_worker_is_a_modest_http_client(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """It asks for plain JSON and for the connection to be closed: the job server serves one at a time per account."""
    ref = new_ref()
    await post_job(client, proxy.queue_job, ref=ref)
    headers = {name.lower(): value for name, value in job_server.submission(ref).headers.items()}
    assert headers["connection"] == "close"
    assert headers["accept-encoding"] == "identity"
    assert headers["content-type"] == "application/json"


async def test_a_trace_context_reaches_the_job_server(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The trace id of a valid `traceparent` is passed on; an invalid one is dropped."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    refs = [new_ref(), new_ref()]
    for ref, value in zip(refs, [f"00-{trace_id}-00f067aa0ba902b7-01", "nonsense"], strict=True):
        await post_job(client, proxy.queue_job, ref=ref, headers={"traceparent": value})
    assert trace_id in job_server.submission(refs[0]).headers["traceparent"]
    assert "nonsense" not in job_server.submission(refs[1]).headers.get("traceparent", "")


async def test_a_large_result_comes_whole(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """900 KiB do not fit into a pipe."""
    answer = await post_job(client, proxy.queue_job, fault="big-result")
    assert answer.status == 200
    assert len(answer.body) == 900 * 1024


async def test_two_jobs_in_flight_never_see_each_others_callback(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Twenty jobs at once, called back in a different order: each gets its own result."""
    refs = [new_ref() for _ in range(20)]
    answers = [asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never")) for ref in refs]
    await eventually(lambda: all(job_server.submissions(ref) for ref in refs))
    for ref in refs[::-2] + refs[::2]:
        callback = await fetch(client, "POST", job_server.callback_url(ref), json={"for": ref})
        assert callback.document == {"status": "accepted"}
    for ref, answer in zip(refs, await asyncio.gather(*answers), strict=True):
        assert (answer.status, answer.document) == (200, {"for": ref})
    assert not job_server.ledger.submitted_twice()
