"""The callback route: what the job server can send, what a stranger can send, and what each changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import ClientSession

from tests.support.bad_json import BAD_VALUES
from tests.support.http import Answer, fetch, new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies
from tests.support.waiting import eventually

_ACCEPTED: Final = {"status": "accepted"}
_DUPLICATE: Final = {"status": "duplicate"}
_LATE: Final = {"status": "late"}


@dataclass(frozen=True, slots=True)
class Waiting:
    """A job that the job server has and has not called back for."""

    answer: asyncio.Task[Answer]
    callback: str

    @property
    def token(self) -> str:
        """The secret part of the callback's address."""
        return self.callback.rpartition("/")[2]


class _SmallStacks(ProxyProcess):
    """A proxy that was started with `ulimit -s`; threads have the same with musl."""

    PROGRAM = ("/bin/sh", "-c", 'ulimit -Ss 1024; exec "$@"', "sh", *ProxyProcess.PROGRAM)


Start = Callable[..., Awaitable[Waiting]]


@pytest.fixture
async def start(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> AsyncIterator[Start]:
    """Starts a job that waits for its callback, at the plain proxy or another one."""
    jobs: list[Waiting] = []

    async def go(at: ProxyProcess = proxy, **fields: Any) -> Waiting:
        ref = new_ref()
        answer = asyncio.create_task(post_job(client, at.queue_job, ref=ref, fault="never", **fields))
        await eventually(lambda: job_server.submissions(ref))
        jobs.append(Waiting(answer, job_server.callback_url(ref)))
        return jobs[-1]

    yield go
    for job in jobs:
        if not job.answer.done():
            await fetch(client, "POST", job.callback, json={})
        await job.answer


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_callback_is_accepted_and_the_next_ones_are_duplicates(
    client: ClientSession, start: Start, method: str
) -> None:
    """Both methods; only the first callback counts, before and after the job has its answer."""
    job = await start()
    first = await fetch(client, method, job.callback, json={"n": 1})
    assert (first.status, first.document) == (200, _ACCEPTED)
    assert first.headers["Content-Type"] == "application/json"
    second = await fetch(client, method, job.callback, json={"n": 2})
    assert (second.status, second.document) == (200, _DUPLICATE)
    assert (await job.answer).document == {"n": 1}
    third = await fetch(client, method, job.callback, json={"n": 3})
    assert (third.status, third.document) == (200, _DUPLICATE)


async def test_of_many_callbacks_at_once_one_counts(client: ClientSession, start: Start) -> None:
    """One is accepted, the rest are duplicates, and the accepted one's body is the answer."""
    job = await start()
    answers = await asyncio.gather(*(fetch(client, "POST", job.callback, json={"n": n}) for n in range(30)))
    accepted = [n for n, answer in enumerate(answers) if answer.document == _ACCEPTED]
    assert len(accepted) == 1
    assert sum(answer.document == _DUPLICATE for answer in answers) == 29
    assert {answer.status for answer in answers} == {200}
    assert (await job.answer).document == {"n": accepted[0]}


@pytest.mark.xdist_group("three seconds")
async def test_a_callback_after_the_deadline_is_late(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer, start: Start
) -> None:
    """It gets a 2xx and changes no answer; a second one is a duplicate, and no other job is affected."""
    proxy = proxies.get(JOB_TIMEOUT="3")
    job = await start(proxy)
    problem(await job.answer, "deadline-exceeded", 500, "yes")
    other = await start(proxy)
    late = await fetch(client, "POST", job.callback, json={"n": 1})
    assert (late.status, late.document) == (200, _LATE)
    again = await fetch(client, "POST", job.callback, json={"n": 2})
    assert again.status == 200
    assert again.document in (_LATE, _DUPLICATE)
    await fetch(client, "POST", other.callback, json={"n": 3})
    assert (await other.answer).document == {"n": 3}


async def test_every_other_token_gets_the_same_404_to_the_byte(
    client: ClientSession, proxy: ProxyProcess, start: Start
) -> None:
    """Whatever the token and the body, the answer reveals nothing; the job is not touched."""
    job = await start()
    done = await start()
    await fetch(client, "POST", done.callback, json={})
    job_id = (await done.answer).headers["Job-Id"]
    flipped = job.token[:-2] + ("A" if job.token[-2] != "A" else "B") + job.token[-1]
    tokens = [
        "x",
        "A" * 43,
        flipped,
        job.token.swapcase(),
        job.token + "A",
        job.token[:-1],
        job_id,
        "%00",
        "é",
        "a" * 5000,
    ]
    seen = set()
    for token in tokens:
        for body in (b"{}", b"not JSON", b"x" * 5000):
            answer = await fetch(client, "POST", f"{proxy.url}/callback/{token}", data=body)
            problem(answer, "not-found", 404)
            headers = {name: value for name, value in answer.headers.items() if name.lower() != "date"}
            seen.add((answer.status, answer.body, tuple(sorted(headers.items()))))
    assert len(seen) == 1
    assert not any(token.encode() in answer_body for _, answer_body, _ in seen for token in (job.token, flipped))
    assert (await fetch(client, "POST", job.callback, json={"n": 1})).document == _ACCEPTED
    assert (await job.answer).document == {"n": 1}


@pytest.mark.parametrize("body", [data for data, _ in BAD_VALUES.values()], ids=BAD_VALUES.keys())
async def test_a_callback_that_is_not_json_is_refused_and_the_job_goes_on_waiting(
    client: ClientSession, start: Start, body: bytes
) -> None:
    """400; the job's answer is the valid callback that follows."""
    job = await start()
    problem(await fetch(client, "POST", job.callback, data=body), "invalid-request", 400)
    assert not job.answer.done()
    assert (await fetch(client, "POST", job.callback, data=b' {"n": 1}\n')).document == _ACCEPTED
    assert (await job.answer).body == b' {"n": 1}\n'


@pytest.mark.xdist_group("small bodies")
async def test_a_callback_over_the_limit_is_refused_and_the_job_goes_on_waiting(
    client: ClientSession, proxies: SharedProxies, start: Start
) -> None:
    """413, with a length and in chunks; a callback exactly as large as the limit is accepted."""
    job = await start(proxies.get(MAX_BODY_BYTES="2048"))
    largest = b'"' + b"x" * 2046 + b'"'

    async def chunks(body: bytes) -> AsyncIterator[bytes]:
        yield body[:100]
        yield body[100:]

    problem(await fetch(client, "POST", job.callback, data=largest + b" "), "payload-too-large", 413)
    problem(await fetch(client, "POST", job.callback, data=chunks(largest + b" ")), "payload-too-large", 413)
    assert not job.answer.done()
    assert (await fetch(client, "POST", job.callback, data=chunks(largest))).document == _ACCEPTED
    assert (await job.answer).body == largest


@pytest.mark.parametrize("fault", ["garbage-callback", "huge-callback", "forged", "duplicate", "many", "early"])
async def test_the_job_servers_own_mischief_ends_in_the_right_answer(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """Garbage, a body over the limit, a wrong token, and more than one callback: the result is the answer."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault)
    assert (answer.status, answer.document["id"]) == (200, job_server.submission(ref).id)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_whoever_only_looks_is_told_nothing_of_the_token(
    client: ClientSession, start: Start, method: str
) -> None:
    """Some job servers probe a URL before they use it; that does not end the job."""
    job = await start()
    right = await fetch(client, method, job.callback)
    wrong = await fetch(client, method, job.callback[:-4] + "AAAA")
    assert (right.status, right.body) == (wrong.status, wrong.body)
    assert right.status == 200
    assert not job.answer.done()


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "OPTIONS"])
async def test_another_method_is_no_callback(client: ClientSession, start: Start, method: str) -> None:
    """Even with the right token; the answer does not reveal that it was right."""
    job = await start()
    right = await fetch(client, method, job.callback)
    wrong = await fetch(client, method, job.callback[:-4] + "AAAA")
    problem(right, "method-not-allowed", 405)
    assert (right.status, right.body) == (wrong.status, wrong.body)
    assert not job.answer.done()


async def test_a_callback_needs_no_media_type(client: ClientSession, start: Start) -> None:
    """The job server signs nothing and may declare any type; what counts is that the body is JSON."""
    job = await start()
    headers = {"Content-Type": "text/plain; charset=latin-1"}
    assert (await fetch(client, "POST", job.callback, data=b"[]", headers=headers)).document == _ACCEPTED
    assert (await job.answer).body == b"[]"


@pytest.mark.xdist_group("three seconds")
async def test_a_job_knows_which_callbacks_were_refused_and_why(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """Its status and the log say so at once, and so does its failure if nothing better came."""
    proxy = proxies.get(JOB_TIMEOUT="3")
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    url = job_server.callback_url(ref)
    form = {"Content-Type": "application/x-www-form-urlencoded"}

    for body in (b"state=completed", b"\xef\xbb\xbf{}"):
        refused = await fetch(client, "POST", url, data=body, headers=form)
        problem(refused, "invalid-request", 400)

    failed = problem(await answer, "deadline-exceeded", 500, "yes")
    status = (await fetch(client, "GET", f"{proxy.url}/jobs/{failed['job_id']}")).document
    reason = "the callback is not JSON: it begins with a byte order mark"
    assert failed["detail"] == f"no callback came in time; callbacks refused: 2, the last one because {reason}"
    assert status["refused_callbacks"] == {"count": 2, "last": reason}
    lines = [line for line in proxy.events_of("a callback was refused") if line["job_id"] == failed["job_id"]]
    assert [line["refused"] for line in lines] == [1, 2]


@pytest.mark.xdist_group("three seconds")
async def test_a_job_knows_which_callbacks_were_taken_as_progress(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """None had a state that ends a job, though one may have been meant to."""
    proxy = proxies.get(JOB_TIMEOUT="3")
    ref = new_ref()
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="never"))
    await eventually(lambda: job_server.submissions(ref))
    for state in ("running", "COMPLETED"):
        assert (await fetch(client, "POST", job_server.callback_url(ref), json={"state": state})).status == 200

    failed = problem(await answer, "deadline-exceeded", 500, "yes")
    assert failed["detail"] == (
        "no callback came in time; the job server's reports taken as progress: 2, the last one with the state "
        "'COMPLETED'"
    )


async def test_a_job_that_was_refused_and_is_reported_on_is_not_submitted_again(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job server has it, whatever it answered; its result is the answer."""
    ref = new_ref()
    pause_s = 3
    answer = asyncio.create_task(post_job(client, proxy.queue_job, ref=ref, fault="refuse-first", retry_after=pause_s))
    await eventually(lambda: job_server.submissions(ref))
    url = job_server.callback_url(ref)
    assert (await fetch(client, "POST", url, json={"state": "running"})).status == 200

    await asyncio.sleep(pause_s + 1)  # time for another submission, which must not come
    assert (await fetch(client, "POST", url, json={"state": "completed"})).document == _ACCEPTED

    assert (await answer).document == {"state": "completed"}
    assert len(job_server.submissions(ref)) == 1


async def test_people_can_tell_which_job_it_is(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """By its account and by the job server's own id: in the status, in the log, and for operators."""
    ref = new_ref()

    answer = await post_job(client, proxy.queue_job, ref=ref)

    job_id, remote_id = answer.headers["Job-Id"], job_server.submission(ref).id
    status = (await fetch(client, "GET", f"{proxy.url}/jobs/{job_id}")).document
    seen = (await fetch(client, "GET", f"{proxy.admin}/jobs/{job_id}")).document
    assert (status["labels"], status["remote"]) == ({"account": ref}, {"id": remote_id})
    assert (seen["labels"], seen["remote_id"]) == ({"account": ref}, remote_id)
    assert (seen["profile"], seen["progress"]) == ("spreedly", None)
    assert (await fetch(client, "GET", f"{proxy.admin}/jobs/{remote_id}")).document == seen
    await eventually(lambda: [line for line in proxy.events_of("job succeeded") if line["job_id"] == job_id])
    (line,) = (line for line in proxy.events_of("job succeeded") if line["job_id"] == job_id)
    assert (line["labels"], line["remote_id"]) == ({"account": ref}, remote_id)


async def test_json_that_is_nested_deeply_ends_no_process_with_a_small_stack(
    client: ClientSession, job_server: JobServer, start: Start, tmp_path: Path
) -> None:
    """Neither the front end, which reads a callback of this profile in a thread, nor the embedded job server."""
    deep = b'{"state": "completed", "account": "a", "deep": %b1%b}' % (b'{"a":' * 9_000, b"}" * 9_000)
    file = tmp_path / "any.toml"
    file.write_text(
        """
        name = "deep"
        [submit]
        body = { wait = false, callback = "{callback_url}" }
        [callback]
        state = "not_null(body.state, body.status)"
        result = "body"
        succeeded = ["completed"]
        failed = ["failed"]
        """,
        encoding="utf-8",
    )
    with _SmallStacks.started(PROFILE=str(file), JOB_SERVER_URL=job_server.url) as proxy:
        job = await start(proxy)
        assert (await fetch(client, "POST", job.callback, data=deep)).status == 200
        await fetch(client, "POST", job.callback, json={"state": "completed"})
        assert (await job.answer).status == 200
    with _SmallStacks.started() as proxy:
        answer = await fetch(client, "POST", proxy.queue_job, data=deep, headers={"Content-Type": "application/json"})
        assert answer.status in {200, 400}  # not every version of Python reads it
        assert (await post_job(client, proxy.queue_job)).status == 200
