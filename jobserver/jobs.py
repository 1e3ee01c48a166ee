"""Runs jobs, each in a task of its own: a job does not depend on its connection."""

import asyncio

from jobserver.callbacks import CallbackSender
from jobserver.faults import Calls
from jobserver.ledger import Ledger, SubmissionEntry
from jobserver.options import Options
from jobserver.protocol import Documents, Submission, timestamp


class Jobs:
    """The jobs that are running. Create it where an event loop runs."""

    def __init__(self, options: Options, ledger: Ledger, documents: Documents) -> None:
        """Start without jobs, and open the pool of callback connections."""
        self._options = options
        self._ledger = ledger
        self._documents = documents
        self._sender = CallbackSender(options, ledger)
        self._running: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End all running jobs, and close the callback connections."""
        for job in self._running:
            job.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._sender.close()

    def start(self, submission: Submission, entry: SubmissionEntry) -> asyncio.Task[None] | None:
        """Start an asynchronous job; return the task that ends after its last callback, if it has any."""
        self._ledger.started(entry)
        if submission.fault.calls is Calls.NEVER:
            return None
        job = asyncio.create_task(self._run(submission, entry.id or "", timestamp()))
        self._running.add(job)
        job.add_done_callback(self._running.discard)
        return job

    async def result(self, submission: Submission, entry: SubmissionEntry) -> bytes:
        """Run a synchronous job: return its result when it is done."""
        self._ledger.started(entry)
        if submission.fault.calls is Calls.NEVER:
            await asyncio.get_running_loop().create_future()
        return await self._work(submission, entry.id or "", timestamp())

    async def _run(self, submission: Submission, job_id: str, started_at: str) -> None:
        result = await self._work(submission, job_id, started_at)
        await self._sender.send(job_id, submission, result)

    async def _work(self, submission: Submission, job_id: str, started_at: str) -> bytes:
        duration_s = self._options.duration_s if submission.duration_s is None else submission.duration_s
        if submission.fault.calls is Calls.LATE:
            duration_s = submission.delay_s
        if duration_s:
            await asyncio.sleep(duration_s)
        return self._documents.completed(
            job_id,
            state=submission.fault.state,
            started_at=started_at,
            size_bytes=submission.size_bytes if submission.fault.pads_result else 0,
        )
