"""What is sent to the job server how often, and which of its answers counts."""

from __future__ import annotations

from itertools import pairwise

import pytest
from aiohttp import ClientSession

from tests.support.http import new_ref, post_job, problem
from tests.support.job_server import JobServer
from tests.support.proxy_process import ProxyProcess
from tests.support.shared_proxies import SharedProxies


@pytest.mark.parametrize("fault", ["refuse-first", "rate-limit"])
@pytest.mark.parametrize("times", [1, 3])
async def test_a_submission_that_was_turned_away_is_sent_again(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str, times: int
) -> None:
    """503 with Retry-After and 429 certainly started nothing: the job runs in the end, exactly once."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault, times=times)
    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert len(job_server.submissions(ref)) == times + 1
    assert len(job_server.started(ref)) == 1
    assert len({entry.callback for entry in job_server.submissions(ref)}) == 1


async def test_retry_after_is_honoured(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """The job server says when to retry, in seconds."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="refuse-first", retry_after=1)
    assert answer.status == 200
    first, second = job_server.submissions(ref)
    assert second.at_s - first.at_s >= 1


async def test_a_retry_after_beyond_the_deadline_is_not_waited_for(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job is answered at once: a retry could only come too late."""
    ref = new_ref()
    watch = proxy.stopwatch()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="refuse-first", retry_after=3600)
    assert watch.own_s < 10, "it took until the deadline"
    problem(answer, "job-rejected", 500, "no")
    assert len(job_server.submissions(ref)) == 1


async def test_attempts_end_after_submit_retries(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """Three retries by default, with varying pauses; then the job server's refusal is the answer."""
    ref = new_ref()
    problem(await post_job(client, proxy.queue_job, ref=ref, fault="refuse"), "job-rejected", 500, "no")
    times_s = [entry.at_s for entry in job_server.submissions(ref)]
    assert len(times_s) == 4
    assert len({round(later - earlier, 3) for earlier, later in pairwise(times_s)}) > 1


async def test_without_retries_the_first_answer_counts(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """SUBMIT_RETRIES=0."""
    ref = new_ref()
    proxy = proxies.get(SUBMIT_RETRIES="0")
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="refuse-first")
    problem(answer, "job-rejected", 500, "no")
    assert len(job_server.submissions(ref)) == 1


@pytest.mark.parametrize("fault", ["reject", "server-error", "unavailable", "redirect", "garbage", "wrong-state"])
async def test_nothing_else_is_ever_sent_twice(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """A submission with an unknown outcome, or one that a retry would not help, is sent once."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault)
    assert answer.status == 500
    assert len(job_server.submissions(ref)) == 1


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("drop", "job-server-unavailable"),
        ("reset", "job-server-unavailable"),
        ("short-body", "bad-job-server-reply"),
    ],
)
async def test_a_lost_reply_is_never_answered_by_another_submission(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer, fault: str, code: str
) -> None:
    """The connection broke after the submission was sent: the job may run, so it is `unknown` and sent once."""
    ref = new_ref()
    proxy = proxies.get(LOST_REPLY_WAIT="0.2")
    answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault)
    problem(answer, code, 500, "unknown")
    assert len(job_server.submissions(ref)) == 1


@pytest.mark.parametrize("duration_s", [0, 0.3])
@pytest.mark.parametrize("fault", ["drop-but-run", "short-body"])
async def test_a_callback_after_a_lost_reply_is_the_answer(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str, duration_s: float
) -> None:
    """It proves that the job ran."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault=fault, run=True, duration=duration_s)
    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert len(job_server.submissions(ref)) == 1


async def test_a_callback_that_beats_the_reply_counts(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job server sends it and gets its answer before it replies to the submission."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="early")
    assert (answer.status, answer.document["state"]) == (200, "completed")
    assert [callback.status for callback in job_server.callbacks(ref)] == [200]


async def test_a_callback_counts_where_the_reply_never_comes(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """The job server keeps the connection open forever, but the job runs."""
    answer = await post_job(client, proxy.queue_job, fault="hang", run=True)
    assert (answer.status, answer.document["state"]) == (200, "completed")


@pytest.mark.parametrize("fault", ["garbage", "server-error"])
async def test_a_reply_that_makes_no_sense_loses_against_an_earlier_callback(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer, fault: str
) -> None:
    """A job that runs despite its bad reply succeeds, or fails without a claim that it was not submitted."""
    answer = await post_job(client, proxy.queue_job, fault=fault, run=True)
    assert answer.status == 200 or answer.document["submitted"] in {"unknown", "yes"}


async def test_a_redirect_is_never_followed(client: ClientSession, proxy: ProxyProcess, job_server: JobServer) -> None:
    """The other address would learn the callback's token."""
    for status in (301, 302, 307, 308):
        answer = await post_job(client, proxy.queue_job, fault="redirect", status=status)
        problem(answer, "job-rejected", 500, "unknown")
    assert job_server.ledger.elsewhere == 0


async def test_a_forged_callback_changes_nothing(
    client: ClientSession, proxy: ProxyProcess, job_server: JobServer
) -> None:
    """A wrong token gets a 404, and the right callback that follows is the answer."""
    ref = new_ref()
    answer = await post_job(client, proxy.queue_job, ref=ref, fault="forged")
    assert answer.status == 200
    assert [callback.status for callback in job_server.callbacks(ref, kind="forged")] == [404]
    assert [callback.status for callback in job_server.callbacks(ref)] == [200]


async def test_a_proxy_named_in_the_environment_is_not_used(
    client: ClientSession, proxies: SharedProxies, job_server: JobServer
) -> None:
    """The submission holds a secret; it goes where JOB_SERVER_URL says and nowhere else."""
    elsewhere = "http://127.0.0.1:9"
    proxy = proxies.get(http_proxy=elsewhere, HTTP_PROXY=elsewhere, ALL_PROXY=elsewhere)
    assert (await post_job(client, proxy.queue_job)).status == 200
