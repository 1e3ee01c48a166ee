"""C1 to C5 and C7: callbacks that are early, late, repeated, forged or too large, and one for a stopped worker."""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
from collections import Counter

import pytest

from tests.chaos.support.harness import TIMEOUT_S, Chaos
from tests.chaos.support.processes import JobServerProcess, StartProxy
from tests.chaos.support.raw import request
from tests.support.http import new_ref
from tests.support.waiting import eventually

_MIB = 1024 * 1024


async def test_c1_callback_before_the_reply_to_the_submission(chaos: Chaos) -> None:
    """The job server calls and gets its answer before it replies: the job still succeeds."""
    replies = await asyncio.gather(*(chaos.job(fault="early", duration=0) for _ in range(5)))
    assert [reply.status for reply in replies] == [200] * 5


@pytest.mark.hasty
async def test_c2_callback_after_the_deadline(chaos: Chaos) -> None:
    """It is accepted (2xx) and reported as late; no other job is affected."""
    late = await chaos.job(fault="never")
    assert late.summary == (500, "deadline-exceeded", "yes")
    others = [asyncio.ensure_future(chaos.job(duration=0.5)) for _ in range(3)]
    for status in ("late", "duplicate"):
        called = await chaos.call_back(await chaos.callback_url(late.ref), b'{"state": "completed", "of": "late"}')
        assert (called.status, called.document) == (200, {"status": status})
    await eventually(lambda: chaos.late() == [late.job_id])
    for reply in await asyncio.gather(*others):
        assert reply.summary == (200, None, "yes"), reply.answer
        assert "of" not in reply.document


async def test_c2_late_callback_cannot_reach_the_next_job_of_a_reused_worker(
    start_proxy: StartProxy, job_server: JobServerProcess
) -> None:
    """A worker serves job after job; repeated callbacks for earlier jobs change nothing for the current one."""
    with start_proxy(WORKER_MAX_JOBS="0", WORKER_SPARES="1") as proxy:
        async with Chaos(proxy, job_server, canaries=False, surplus_s=10) as chaos:
            earlier = [await chaos.job(chaos="note@p1", duration=0) for _ in range(15)]
            present = asyncio.ensure_future(chaos.job(chaos="note@p1", fault="never", ref="present"))
            url = await chaos.callback_url("present")
            for url_of_earlier in await chaos.callback_urls([reply.ref for reply in earlier]):
                for body in (b'{"state": "completed", "of": "earlier"}', b'{"state": "failed"}'):
                    again = await chaos.call_back(url_of_earlier, body)
                    assert again.document == {"status": "duplicate"}
            await chaos.call_back(url, b'{"state": "completed", "of": "present"}')
            assert (await present).document["of"] == "present"
            pids = [proxy.act(reply.ref)["pid"] for reply in earlier]
            assert proxy.act("present")["pid"] in pids, "no worker was reused"


async def test_c3_hundred_callbacks_at_once(chaos: Chaos) -> None:
    """One has an effect; every other one gets a 2xx and is reported as a duplicate."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="c3"))
    url = await chaos.callback_url("c3")
    bodies = [json.dumps({"state": "completed", "n": n}).encode() for n in range(100)]
    answers = await asyncio.gather(*(chaos.call_back(url, body) for body in bodies))
    assert {answer.status for answer in answers} == {200}
    assert Counter(answer.document["status"] for answer in answers) == {"accepted": 1, "duplicate": 99}
    accepted = next(n for n, answer in enumerate(answers) if answer.document["status"] == "accepted")
    assert (await job).answer.body == bodies[accepted]


async def test_c4_forged_guessed_or_foreign_tokens(chaos: Chaos) -> None:
    """All get the same 404, byte for byte, and the job keeps waiting."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="c4"))
    url = await chaos.callback_url("c4")
    base, _, token = url.rpartition("/")
    job_id = await eventually(lambda: _waiting_job(chaos))
    forged = [
        secrets.token_urlsafe(32),
        token[:-1],
        token + "A",
        token.swapcase(),
        job_id,
        (await chaos.submission("c4"))["id"],
        "%00",
        "x" * 5_000,
        token + "%0a",
    ]
    answers = [await chaos.call_back(f"{base}/{guess}", b'{"state": "failed"}') for guess in forged]
    assert len({(answer.status, answer.body) for answer in answers}) == 1
    assert answers[0].status == 404
    headers = [{k: v for k, v in answer.headers.items() if k != "Date"} for answer in answers]
    assert all(header == headers[0] for header in headers)
    assert not job.done()
    await chaos.call_back(url)
    assert (await job).status == 200


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_c5_callback_over_the_cap(chaos: Chaos, *, chunked: bool) -> None:
    """413: at once if the declared length says so, else with the first excess byte. The job keeps waiting."""
    ref = new_ref()
    job = asyncio.ensure_future(chaos.job(fault="never", ref=ref))
    url = await chaos.callback_url(ref)
    before = chaos.proxy.memory_bytes()
    raw = await chaos.raw()
    path = url.removeprefix(chaos.proxy.url)
    if chunked:
        await raw.send(request(path, chunked=True))
        await raw.send((b"10000\r\n" + b"x" * 65_536 + b"\r\n") * 16 + b"1\r\nx\r\n")
    else:
        await raw.send(request(path, length=64 * _MIB))
    answer = await raw.until_closed(TIMEOUT_S)
    raw.close()
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert chaos.proxy.memory_bytes() - before < 16 * _MIB
    assert not job.done()
    await chaos.call_back(url)
    assert (await job).status == 200


async def test_c5_callback_that_is_not_json(chaos: Chaos) -> None:
    """400 each, and the job keeps waiting."""
    job = asyncio.ensure_future(chaos.job(fault="never", ref="c5"))
    url = await chaos.callback_url("c5")
    bodies = [
        b'{"n": NaN}',
        b'{"n": Infinity}',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"n": ' + b"1" * 5_000 + b"}",
        '{"state": "completed"}'.encode("utf-16"),
        b'{"s": "\\ud800"}',
        b'{"s": "\xff"}',
        b"",
        b"{",
        b'{"state": "completed"} {}',
    ]
    for body in bodies:
        answer = await chaos.call_back(url, body)
        assert (answer.status, answer.document["code"]) == (400, "invalid-request"), body[:40]
    assert not job.done()
    await chaos.call_back(url)
    assert (await job).status == 200


async def test_c7_large_callback_for_a_stopped_worker(start_proxy: StartProxy, job_server: JobServerProcess) -> None:
    """The callback is answered within a second, the job ends at its deadline, and the front end exits cleanly."""
    patience_s = 4 * TIMEOUT_S  # three callbacks of 1 MiB have to arrive before the deadline
    with start_proxy(hasty=True, JOB_TIMEOUT=f"{patience_s:g}") as proxy:
        async with Chaos(proxy, job_server, timeout_s=patience_s) as chaos:
            jobs = [
                asyncio.ensure_future(chaos.job(chaos="sigstop@p3", fault="never", ref=f"c7-{n}")) for n in range(3)
            ]
            for n in range(3):
                url = await chaos.callback_url(f"c7-{n}")
                await chaos.act(f"c7-{n}")
                watch = proxy.stopwatch()
                called = await chaos.call_back(url, b'{"padding": "' + b"x" * (_MIB - 100) + b'"}')
                assert called.document == {"status": "accepted"}
                assert watch.own_s < 1
            for reply in await asyncio.gather(*jobs):
                assert reply.summary == (500, "deadline-exceeded", "yes")
        watch = proxy.stopwatch()
        proxy.signal(signal.SIGTERM)
        await eventually(lambda: proxy.returncode is not None, TIMEOUT_S + 5, watch)
        assert await asyncio.to_thread(proxy.wait) == 0


async def _waiting_job(chaos: Chaos) -> str | None:
    """Return the id of the job that has been with a worker for longest."""
    workers = [worker for worker in await chaos.workers() if worker["state"] == "waiting"]
    return max(workers, key=lambda worker: worker["age_s"])["job_id"] if workers else None


async def test_c7_hundred_large_callbacks_hold_up_nobody(start_proxy: StartProxy, job_server: JobServerProcess) -> None:
    """A hundred of 1 MiB each, full of small members: at most 1 % of the event loop's lag measurements exceed 20 ms."""
    items = [{"id": n, "name": f"item {n}", "price": n * 1.5} for n in range(19_000)]
    body = json.dumps({"state": "completed", "items": items}).encode()
    assert 0.9 * _MIB < len(body) < _MIB
    with start_proxy(MAX_JOBS="150", JOB_TIMEOUT="30") as proxy:
        async with Chaos(proxy, job_server, timeout_s=30, canaries=False) as chaos:
            refs = [new_ref() for _ in range(100)]
            jobs = [asyncio.ensure_future(chaos.job(fault="never", ref=ref)) for ref in refs]
            urls = await chaos.callback_urls(refs)
            proxy.reset_lag()
            answers = await asyncio.gather(*(chaos.call_back(url, body) for url in urls))
            replies = await asyncio.gather(*jobs)
            looks, late = proxy.late_looks()
    assert {answer.document["status"] for answer in answers} == {"accepted"}
    assert all(reply.answer.body == body for reply in replies)
    assert late <= max(1, looks / 100), f"{late} of {looks} looks"  # on a fast machine there are fewer than a hundred
