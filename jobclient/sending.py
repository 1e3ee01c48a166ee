"""Sends the jobs. The only part that knows aiohttp; its errors are translated here."""

import asyncio
import time
import uuid
from collections.abc import Callable

import aiohttp
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    wait_exponential_jitter,
)

from jobclient.answers import Answer, Failed, Reached, classify, may_send_again
from jobclient.options import Options
from jobclient.report import Finished, Report, summarize

_BACKOFF = wait_exponential_jitter(multiplier=0.2, max=5, jitter=0.2)


async def run(options: Options, *, on_finished: Callable[[], None] = lambda: None) -> Report:
    """Send all jobs, wait for all of them, and report. Calls `on_finished` after each job."""
    slots = asyncio.Semaphore(options.concurrency or options.jobs)
    # One connection per job, as if many callers sent one job each. Besides, a reused connection might be closed by
    # the server just when a job is sent, and the job's fate would be unknown.
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    timeout = aiohttp.ClientTimeout(total=options.timeout_s)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:

        async def one_job() -> Finished:
            async with slots:
                finished = await _send_job(session, options)
            on_finished()
            return finished

        started = time.monotonic()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one_job()) for _ in range(options.jobs)]
        total_s = time.monotonic() - started
    return summarize([task.result() for task in tasks], total_s=total_s, limit_s=options.limit_s)


async def _send_job(session: aiohttp.ClientSession, options: Options) -> Finished:
    headers = {"Content-Type": "application/json"}
    if options.api_key is not None:
        headers["Authorization"] = f"Bearer {options.api_key}"
    if options.idempotent:
        # A structured-field string (RFC 8941), including the quotes. All attempts at a job send the same key.
        headers["Idempotency-Key"] = f'"{uuid.uuid4()}"'
    body = options.body

    def may_retry(answer: Answer) -> bool:
        return isinstance(answer, Failed) and may_send_again(answer, idempotent=options.idempotent)

    sent = 0

    async def attempt() -> Answer:
        nonlocal sent
        sent += 1
        return await _post(session, options, body, headers)

    started = time.monotonic()
    answer: Answer = await AsyncRetrying(
        stop=stop_after_attempt(options.retries + 1),
        wait=lambda state: max(_BACKOFF(state), min(_asked_to_wait_s(state), options.timeout_s)),
        retry=retry_if_result(may_retry),
        retry_error_callback=_last_answer,
    )(attempt)
    return Finished(answer=answer, duration_s=time.monotonic() - started, resent=sent - 1)


def _asked_to_wait_s(state: RetryCallState) -> float:
    answer = _last_answer(state)
    return answer.retry_after_s if isinstance(answer, Failed) else 0.0


def _last_answer(state: RetryCallState) -> Answer:
    if state.outcome is None:
        raise AssertionError("tenacity asks only after an attempt")
    answer: Answer = state.outcome.result()
    return answer


async def _post(session: aiohttp.ClientSession, options: Options, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        async with session.post(options.url, data=body, headers=headers, allow_redirects=False) as response:
            return classify(
                status=response.status,
                body=await response.read(),
                retry_after=response.headers.get("Retry-After"),
            )
    except aiohttp.ClientConnectorError as exc:
        return _failed("connection-failed", exc, Reached.NOTHING_SENT)
    except TimeoutError:
        return Failed(
            code="client-timeout",
            detail=f"no complete answer within {options.timeout_s:g} s",
            reached=Reached.MAYBE_SENT,
        )
    except (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, OSError) as exc:
        return _failed("connection-broken", exc, Reached.MAYBE_SENT)
    except aiohttp.ClientError as exc:
        # It answered, but not with HTTP.
        return _failed("bad-answer", exc, Reached.ANSWERED)


def _failed(code: str, exc: Exception, reached: Reached) -> Failed:
    return Failed(code=code, detail=str(exc) or type(exc).__name__, reached=reached)
