"""The HTTP side of the job server.

An asynchronous job starts after its reply has been written, so that the callback of a job without
duration does not overtake the reply. Jobs that ask for it (`early`, or `run` with a fault), and those
whose reply is faulty, start before.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

from aiohttp import web

from jobserver.accounts import AccountQueue
from jobserver.faults import Calls, Reply
from jobserver.jobs import Jobs
from jobserver.ledger import Ledger, SubmissionEntry
from jobserver.options import Options
from jobserver.protocol import BadSubmissionError, Documents, Submission, encode, parse_submission
from jobserver.refusals import Refusals
from jobserver.replies import document, faulty_reply, no_reply, problem, refusal

#: The ledger of an application made by create_app.
LEDGER: Final = web.AppKey("ledger", Ledger)

_BODY_LIMIT_BYTES: Final = 16 * 1024 * 1024


def create_app(options: Options | None = None) -> web.Application:
    """Return the job server as an application, with its ledger under `LEDGER`.

    Serve it with `handler_cancellation=True` (aiohttp's TestServer does): it notices clients that leave
    the queue of their account, or a connection that hangs on purpose.
    """
    options = options or Options()
    app = web.Application(client_max_size=_BODY_LIMIT_BYTES)
    ledger = app[LEDGER] = Ledger(limit=options.ledger_entries)
    server = JobServer(options, ledger)
    app.cleanup_ctx.append(server.lifespan)
    app.on_shutdown.append(server.drop_connections)
    app.router.add_post("/start", server.start)
    app.router.add_route("*", "/elsewhere", server.elsewhere)
    app.router.add_get("/ledger/summary", show_summary)
    if options.shows_ledger:
        app.router.add_get("/ledger", show_ledger)
        app.router.add_delete("/ledger", clear_ledger)
    return app


class JobServer:
    """Takes submissions and answers them."""

    def __init__(self, options: Options, ledger: Ledger) -> None:
        """Make a server that is not serving yet."""
        self._options = options
        self._ledger = ledger
        self._documents = Documents(options.seed)
        self._accounts = AccountQueue()
        self._refusals = Refusals()
        self._handlers: set[asyncio.Task[Any]] = set()
        self._closing = False
        self._jobs: Jobs

    async def lifespan(self, app: web.Application) -> AsyncIterator[None]:
        """Run jobs while the application serves; then end them all."""
        del app
        self._jobs = Jobs(self._options, self._ledger, self._documents)
        yield
        await self._jobs.close()

    async def drop_connections(self, app: web.Application) -> None:
        """Abort running requests, so that the shutdown need not wait for a requested fault."""
        del app
        self._closing = True
        for handler in self._handlers:
            handler.cancel()

    async def elsewhere(self, request: web.Request) -> web.Response:
        """Count a client that followed a redirect, and answer as if that were fine."""
        del request
        self._ledger.elsewhere += 1
        return document(self._documents.running(self._documents.new_id()))

    async def start(self, request: web.Request) -> web.StreamResponse:
        """Serve one submission."""
        if self._closing:
            return no_reply()
        handler = asyncio.current_task()
        assert handler is not None  # noqa: S101 - a handler is always run by a task
        self._handlers.add(handler)
        try:
            return await self._receive(request)
        except ConnectionError:
            # The client has disconnected.
            return no_reply()
        finally:
            self._handlers.discard(handler)

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        raw = b""
        try:
            raw = await request.read()
            submission = parse_submission(raw)
        except BadSubmissionError as exc:
            return self._turn_away(request, raw, 400, str(exc))
        except web.HTTPRequestEntityTooLarge as exc:
            return self._turn_away(request, raw, exc.status, str(exc.text))
        if self._options.account_queue:
            try:
                await self._accounts.enter(submission.account, request.task)
            except asyncio.CancelledError:
                self._ledger.counts["left_queue"] += 1
                raise
        entry = self._note(request, raw, submission)
        response = await self._serve(request, submission, entry)
        if isinstance(response, web.Response):
            entry.status = response.status
        return response

    def _turn_away(self, request: web.Request, raw: bytes, status: int, message: str) -> web.Response:
        entry = self._ledger.submission(raw, request.headers)
        entry.status = status
        self._ledger.refused(entry, message)
        return problem(status, message)

    def _note(self, request: web.Request, raw: bytes, submission: Submission) -> SubmissionEntry:
        entry = self._ledger.submission(raw, request.headers)
        entry.account = submission.account
        entry.ref = submission.ref
        entry.callback = submission.callback
        entry.fault = submission.fault_name
        self._ledger.faults[submission.fault_name] += 1
        return entry

    async def _serve(self, request: web.Request, submission: Submission, entry: SubmissionEntry) -> web.StreamResponse:
        if self._refusals.refuses(submission):
            self._ledger.refused(entry)
            return refusal(submission)
        entry.id = self._documents.new_id()
        if not submission.fault.replies_well:
            return await self._serve_badly(request, submission, entry)
        if submission.wait:
            return document(await self._jobs.result(submission, entry))
        return await self._accept(request, submission, entry)

    async def _accept(self, request: web.Request, submission: Submission, entry: SubmissionEntry) -> web.StreamResponse:
        """Answer as the protocol says; faults come later, in the callback."""
        response = document(self._documents.running(entry.id or ""))
        if not submission.runs:
            return response
        if submission.fault.calls is Calls.BEFORE_REPLY:
            job = self._jobs.start(submission, entry)
            if job is not None:
                # A job does not end when its client disconnects.
                await asyncio.shield(job)
            return response
        try:
            await response.prepare(request)
            await response.write_eof()
        finally:
            # The job is accepted, even if the client has disconnected.
            self._jobs.start(submission, entry)
        return response

    async def _serve_badly(
        self, request: web.Request, submission: Submission, entry: SubmissionEntry
    ) -> web.StreamResponse:
        """Answer as the fault asks. A job that runs nevertheless starts before the reply, which may never end."""
        if submission.fault.rejects and not submission.runs:
            self._ledger.refused(entry)
        if submission.wait:
            body = await self._jobs.result(submission, entry) if submission.runs else b"{}"
            return await faulty_reply(request, submission, body)
        body = self._documents.running(entry.id or "")
        if submission.fault.reply is Reply.SLOW and submission.run is None:
            response = await faulty_reply(request, submission, body)
            self._jobs.start(submission, entry)
            return response
        if submission.runs:
            self._jobs.start(submission, entry)
        return await faulty_reply(request, submission, body)


async def show_ledger(request: web.Request) -> web.Response:
    """Show everything, or with `?last=N` the last N of each list."""
    last = request.query.get("last")
    if last is not None and not last.isdecimal():
        return problem(400, "`last` must be a whole number")
    return document(encode(request.app[LEDGER].as_json(None if last is None else int(last))))


async def show_summary(request: web.Request) -> web.Response:
    """Show the counts."""
    return document(encode(request.app[LEDGER].summary()))


async def clear_ledger(request: web.Request) -> web.Response:
    """Forget everything."""
    request.app[LEDGER].clear()
    return web.Response(status=204)
