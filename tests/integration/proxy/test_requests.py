"""Invalid requests, and their answers."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Final

import pytest
from aiohttp import ClientSession

from tests.support.bad_json import BAD_VALUES, NO_OBJECTS
from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.raw_http import exchange, head
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

_JSON: Final = {"Content-Type": "application/json"}
_BAD_BODIES: Final = {kind: data for kind, (data, _) in BAD_VALUES.items()} | NO_OBJECTS
_SMALL_BYTES: Final = 2048
_KEYS: Final = ("first-key", "second-key")


async def post(client: ClientSession, url: str, body: bytes, **headers: str) -> Answer:
    """Post a body as JSON, or as the headers say."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await fetch(client, "POST", url, data=body, headers=_JSON | named)


@pytest.mark.parametrize("body", _BAD_BODIES.values(), ids=_BAD_BODIES.keys())
async def test_a_body_that_is_no_json_object_is_refused(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, body: bytes
) -> None:
    """Each kind of invalid body is a 400 that says why; nothing is submitted, and the next job runs."""
    for path in ("/queueJob", "/start"):
        document = problem(await post(client, proxy.url + path, body), "invalid-request", 400, "no")
        assert document["job_id"] is None
    assert not job_server.ledger.submissions


@pytest.mark.parametrize(
    "body",
    [
        b'{"account": "a", "callback": "http://127.0.0.1:9/"}',
        b'{"account": "a", "callback": null}',
        b'{"account": "a", "c\\u0061llback": ""}',
        b'{"account": "a", "account": "b"}',
    ],
    ids=["callback", "null as callback", "callback in disguise", "a name twice"],
)
async def test_a_job_may_not_choose_where_the_job_server_calls(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, body: bytes
) -> None:
    """`callback` belongs to the proxy, however it is written; which of two equal names counts depends on the reader."""
    problem(await post(client, proxy.queue_job, body), "invalid-request", 400, "no")
    assert not job_server.ledger.submissions


@pytest.mark.parametrize(
    "media_type",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "application/jsonx",
        "text/json",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
        "",
    ],
)
async def test_a_body_that_is_not_declared_as_json_is_refused(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, media_type: str
) -> None:
    """A browser can send other types across sites without asking, so they are refused."""
    answer = await fetch(
        client, "POST", proxy.queue_job, data=b'{"account": "a"}', headers={"Content-Type": media_type}
    )
    problem(answer, "unsupported-media-type", 415, "no")
    assert not job_server.ledger.submissions


@pytest.mark.parametrize(
    "media_type",
    [
        "application/json",
        "Application/JSON",
        "application/json;charset=utf-8",
        'application/json; charset="UTF-8"',
        "application/json; version=1",
        "application/json; charset=us-ascii",
        "application/json; version=1; charset=utf-8",
    ],
)
async def test_json_may_be_declared_in_any_of_its_ways(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, media_type: str
) -> None:
    """In upper and lower case, with and without the charset."""
    body = json.dumps({"account": new_ref()}).encode()
    assert (await post(client, proxy.queue_job, body, Content_Type=media_type)).status == 200


@pytest.mark.xdist_group("keys")  # one proxy for all of them
@pytest.mark.parametrize("route", ["/queueJob", "/start"])
@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Bearer wrong", "Bearer first-key2", "Basic first-key", "first-key", "bearer é"],
)
async def test_a_request_without_a_key_that_is_known_is_refused(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer, authorization: str | None, route: str
) -> None:
    """With API_KEYS set, a request without a valid key is refused; nothing is submitted."""
    proxy = proxies.get(API_KEYS=",".join(_KEYS))
    headers = {} if authorization is None else {"Authorization": authorization}
    answer = await post(client, proxy.url + route, b'{"account": "a"}', **headers)
    problem(answer, "unauthorized", 401, "no")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    assert not job_server.ledger.submissions


@pytest.mark.xdist_group("keys")
@pytest.mark.parametrize("key", _KEYS)
@pytest.mark.parametrize("scheme", ["Bearer", "bearer"])
async def test_each_key_lets_its_client_in(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer, key: str, scheme: str
) -> None:
    """Several keys at once, so that keys can be rotated without a gap. The job server's callback needs none."""
    proxy = proxies.get(API_KEYS=",".join(_KEYS))
    answer = await post_job(client, proxy.queue_job, headers={"Authorization": f"{scheme} {key}"})
    assert answer.status == 200
    assert not any(key in line for line in proxy.stderr)


@pytest.mark.xdist_group("small bodies")
async def test_a_body_may_be_as_large_as_the_limit_and_no_larger(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """MAX_BODY_BYTES is exact, with a length and in chunks, and a larger body reaches nobody."""
    proxy = proxies.get(MAX_BODY_BYTES=str(_SMALL_BYTES))
    for extra_bytes, chunked in ((0, False), (0, True), (1, False), (1, True)):
        frame = json.dumps({"account": new_ref(), "padding": ""}).encode()
        body = frame[:-2] + b"x" * (_SMALL_BYTES + extra_bytes - len(frame)) + frame[-2:]
        assert len(body) == _SMALL_BYTES + extra_bytes
        before = len(job_server.ledger.submissions)
        if chunked:
            data = head("POST", proxy.queue_job, **_JSON, Transfer_Encoding="chunked", Connection="close")
            data += b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
            status, _ = await exchange(proxy.queue_job, data)
        else:
            answer = await post(client, proxy.queue_job, body)
            status = answer.status
            if extra_bytes:
                problem(answer, "payload-too-large", 413, "no")
        assert status == (413 if extra_bytes else 200)
        assert len(job_server.ledger.submissions) - before == (0 if extra_bytes else 1)


async def test_a_body_that_is_announced_as_too_large_is_refused_before_it_comes(proxy: ProxyProcess) -> None:
    """The declared length is enough."""
    data = head("POST", proxy.queue_job, **_JSON, Content_Length=str(10**12))
    status, answer = await exchange(proxy.queue_job, data + b"{")
    assert status == 413
    assert b'"code": "payload-too-large"' in answer


async def test_chunks_without_end_are_cut_off(proxy: ProxyProcess) -> None:
    """More than the limit is never buffered: the answer comes while the client is still sending."""
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    data = head("POST", proxy.queue_job, **_JSON, Transfer_Encoding="chunked")
    status, answer = await exchange(proxy.queue_job, data + chunk * 40)
    assert status == 413 or answer == b""  # reset: it got its answer and kept sending


async def test_a_body_that_stalls_is_not_waited_for(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """408 within 10 s for a client's request, with a length or in chunks, and for a callback; the job goes on."""
    ref = new_ref()
    posted = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    callback = job_server.callback_url(ref)
    watch = proxy.stopwatch()
    answers = await asyncio.gather(
        exchange(proxy.queue_job, head("POST", proxy.queue_job, **_JSON, Content_Length="100") + b'{"account"'),
        exchange(proxy.queue_job, head("POST", proxy.queue_job, **_JSON, Transfer_Encoding="chunked") + b"1\r\n{\r\n"),
        exchange(callback, head("POST", callback, **_JSON, Content_Length="100") + b'{"state"'),
    )
    assert watch.own_s < 10
    for (status, answer), submitted in zip(answers, ("no", "no", "unknown"), strict=True):
        assert status == 408
        assert b'"code": "request-timeout"' in answer
        assert f'"submitted": "{submitted}"'.encode() in answer
    assert (await fetch(client, "POST", callback, json={"n": 1})).document == {"status": "accepted"}
    assert (await posted).document == {"n": 1}
    assert len(job_server.ledger.submissions) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"GET\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"POST /queueJob HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST /queueJob HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{",
        b"POST /queueJob HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"\x00" * 100,
    ],
    ids=repr,
)
async def test_what_is_not_even_http_harms_nobody(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, data: bytes
) -> None:
    """The connection is closed with a 4xx or without an answer, never with an empty 500; the next job runs."""
    status, _ = await exchange(proxy.queue_job, data)
    assert status == 0 or 400 <= status < 500
    assert (await post_job(client, proxy.queue_job)).status == 200


@pytest.mark.parametrize(
    ("method", "path", "code", "status"),
    [
        ("GET", "/", "not-found", 404),
        ("GET", "/nothing", "not-found", 404),
        ("POST", "/queuejob", "not-found", 404),
        ("GET", "/jobs/0123456789abcdef0123456789abcdef", "not-found", 404),
        ("GET", "/problems/no-such-code", "not-found", 404),
        ("GET", "/queueJob", "method-not-allowed", 405),
        ("PUT", "/queueJob", "method-not-allowed", 405),
        ("DELETE", "/start", "method-not-allowed", 405),
        ("POST", "/healthz", "method-not-allowed", 405),
    ],
)
async def test_a_route_that_is_not_there_is_a_problem_like_any_other(
    client: ClientSession, proxy: ProxyProcess, method: str, path: str, code: str, status: int
) -> None:
    """404 and 405 are problem documents too; 405 names the allowed methods."""
    answer = await fetch(client, method, proxy.url + path)
    problem(answer, code, status, "unknown")
    assert ("Allow" in answer.headers) is (status == 405)


async def test_a_body_may_be_gzip_and_nothing_else(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """RFC 9110, 8.4: a declared gzip body is accepted up to the same size, any other coding is refused by name."""
    ref = new_ref()
    job = f'{{"account": "{ref}", "ref": "{ref}"}}'.encode()
    json = {"Content-Type": "application/json"}

    taken = await fetch(
        client, "POST", proxy.queue_job, data=gzip.compress(job), headers=json | {"Content-Encoding": "gzip"}
    )
    listed = await fetch(
        client,
        "POST",
        proxy.queue_job,
        data=gzip.compress(job),
        headers=json | {"Content-Encoding": ", identity, GZIP"},
    )
    bomb = gzip.compress(b'{"account": "' + b"x" * 2_000_000 + b'"}')
    large = await fetch(client, "POST", proxy.queue_job, data=bomb, headers=json | {"Content-Encoding": "gzip"})
    other = await fetch(client, "POST", proxy.queue_job, data=job, headers=json | {"Content-Encoding": "br"})

    assert (taken.status, listed.status, len(job_server.submissions(ref))) == (200, 200, 2)
    problem(large, "payload-too-large", 413, "no")
    assert "Content-Encoding" in problem(other, "unsupported-media-type", 415, "no")["detail"]
