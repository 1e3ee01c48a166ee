"""The handling of one delivery of a message.

::

    read             a message that cannot be a job goes to the dead-letter queue, with the reason
      begin or join  the job's key is made from the message; if it cannot be begun now, the message is given back
        outcome      recorded
          reply      with `submitted: no` it is given back instead, with a pause that doubles, until the queue's redrive
            delete

A message that is not deleted is delivered again after its visibility timeout, to this instance or another. So any
failure on the way, even a crash of this process, only causes another delivery, which joins the job or gets its outcome
again.
"""

from __future__ import annotations

import asyncio
import base64
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from proxy import log
from proxy.http.fair_turns import turns
from proxy.jobs.entrance import Entrance, JobReader, JobRequest, Sent
from proxy.jobs.job import Job
from proxy.sqs.counts import Counts, Fate
from proxy.sqs.message import beginning_of_job
from proxy.sqs.settlement import LONGEST_PAUSE_S, Settlement
from shared.errors import AdmissionError, Code, QueueError, RequestError, StoreUnavailableError
from shared.lifecycle import Submitted
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from proxy.sqs.message import Message
    from proxy.sqs.queues import Queue, Queues
    from proxy.sqs.service import QueueService
    from proxy.store.protocol import JobStore
    from proxy.store.record import Record

__all__ = ["MessageJobs"]

#: If a message is older than RESULT_TTL minus this, its job may have been forgotten.
_FORGOTTEN_MARGIN_S: Final = 60.0
#: How long a message waits for room that an HTTP client took.
_ROOM_S: Final = 5.0
_LOOK_S: Final = 0.1
#: How many messages are remembered whose jobs other messages had started: the newest.
_MAX_JOINED: Final = 10_000


class MessageJobs:
    """Handles deliveries of messages."""

    def __init__(
        self,
        service: QueueService,
        entrance: Entrance,
        reader: JobReader,
        store: JobStore,
        *,
        queue_url: str,
        result_ttl_s: float,
        granular_errors: bool,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`clock` returns Unix seconds, to be compared with the service's times."""
        self._service = service
        self._entrance = entrance
        self._reader = reader
        self._store = store
        self._queue_url = queue_url
        self._result_ttl_s = result_ttl_s
        self._granular_errors = granular_errors
        self._clock = clock
        #: Nothing is received before `use` sets them.
        self._queues: Queues
        self._settlement: Settlement
        #: The keys of jobs that other messages have started, by the id of the message.
        self._joined: dict[str, bytes] = {}
        self.counts = Counts()

    def use(self, queues: Queues) -> None:
        """Work with these queues from now on."""
        self._queues = queues
        self._settlement = Settlement(self._service, queues, self.counts, granular_errors=self._granular_errors)

    async def find(self, message_id: str) -> Job | Record | None:
        """Return the job of the message with this id, in flight or remembered, if there is one.

        A job that another message had begun is found only if this message was recently delivered to this instance.

        Raises StoreUnavailableError.
        """
        begun = await self._entrance.find_beginning(beginning_of_job(self._queue_url, message_id))
        if begun is not None:
            return begun
        key = self._joined.get(message_id)
        return await self._entrance.find(key) if key is not None else None

    async def deal_with(self, message: Message, until: float, on_begun: Callable[[], None]) -> None:
        """Handle one delivery; `until` is when the message will be delivered again, in monotonic seconds.

        `on_begun` is called when its job is in flight, or when it is certain that it will not be.
        """
        async with self._told(message):
            await turns.take_for(len(message.body))
            rest = await self._begun(message, until)
            on_begun()
            await rest

    async def return_at_once(self, message: Message, until: float) -> None:
        """Give back a message that came too late for a job to be started here."""
        async with self._told(message):
            await self._settlement.give_back(message, 0, until, reason=str(Code.SHUTTING_DOWN))

    @asynccontextmanager
    async def _told(self, message: Message) -> AsyncIterator[None]:
        try:
            yield
        except QueueError as exc:
            self.counts.by_fate[Fate.OVERDUE] += 1
            log.event(
                "warning",
                "a message was not finished and is delivered again",
                message=message.id,
                reason=str(exc),
            )
        except Exception as exc:  # noqa: BLE001 - a bug of ours: the message is delivered again by itself
            self.counts.by_fate[Fate.OVERDUE] += 1
            log.event(
                "error", "unhandled exception while handling a message", message=message.id, **log.exception_fields(exc)
            )

    async def _begun(self, message: Message, until: float) -> Awaitable[None]:
        """Begin or join the message's job, if that is possible; return what is left to do."""
        try:
            request, reply_to = self._read(message)
            found = await self._begin(message, request, until)
        except RequestError as exc:
            # Another message may have begun a job with the same key; or an earlier delivery, before the settings
            # changed.
            may_have_begun = message.has_name or message.receives > 1
            submitted = Submitted.UNKNOWN if may_have_begun and not exc.fate_known else Submitted.NO
            return self._settlement.refuse(message, exc.code, exc.detail, submitted, until)
        except AdmissionError as exc:
            at_once = exc.code in {Code.SHUTTING_DOWN, Code.INTAKE_PAUSED}  # another instance may take it
            return self._settlement.give_back(message, 0 if at_once else _pause_s(message), until, reason=str(exc.code))
        except StoreUnavailableError:
            return self._settlement.give_back(message, _pause_s(message), until, reason=str(Code.JOURNAL_UNAVAILABLE))
        if found is None:
            words = "an earlier delivery may have run, and its job is no longer remembered"
            return self._settlement.refuse(message, Code.INTERRUPTED, words, Submitted.UNKNOWN, until)
        message.body = ""  # the job has it
        return self._finish(message, found, reply_to, until)

    async def _finish(self, message: Message, found: Job | Record, reply_to: Queue | None, until: float) -> None:
        """Wait for the job's outcome, and act on it. Raises QueueError."""
        outcome = await self._outcome(found, until)
        if isinstance(outcome, Failed) and outcome.submitted is Submitted.NO and not _is_cancelled(outcome):
            await self._settlement.give_back(message, _pause_s(message), until, reason=str(outcome.code))
        else:
            await self._settlement.answer(message, found.id, outcome, reply_to, until)

    # --- its job -----------------------------------------------------------------------------------------------------

    def _read(self, message: Message) -> tuple[JobRequest, Queue | None]:
        """Return the message's job request, and where its reply goes. Raises RequestError if it cannot be a job."""
        queues = self._queues
        reply_to = queues.replies
        wanted = message.text("ReplyTo")
        if wanted:
            reply_to = queues.allowed.get(wanted)
            if reply_to is None:
                raise RequestError(Code.FORBIDDEN, "the attribute `ReplyTo` is not a queue that SQS_REPLY_TO names")
        path = message.text("Path")
        request, _ = self._reader.read(
            Sent(
                server=self._reader.addressed(message.text("Profile") or None, path),
                path=path,
                query=message.text("Query"),
                body=_body(message),
                content_type=message.text("Content-Type") or "application/json",
                content_encoding=message.text("Content-Encoding"),
                key=message.key(self._queue_url, by_group=queues.jobs.deduplicates_by_group),
                traceparent=message.text("traceparent"),
                tracestate=message.text("tracestate"),
            )
        )
        labelled = replace(
            request,
            labels={**request.labels, "message": message.id},
            beginning=beginning_of_job(self._queue_url, message.id),
        )
        return labelled, reply_to

    async def _begin(self, message: Message, request: JobRequest, until: float) -> Job | Record | None:
        """Begin or join the job; return None if it may have run and been forgotten.

        Raises:
            AdmissionError, StoreUnavailableError: it cannot be begun now.
            RequestError: its key was used with another body.
        """
        if await self._may_be_forgotten(message, request):
            return None
        if message.receives > 1:
            earlier = await self._entrance.find_beginning(request.beginning)
            if earlier is not None and not isinstance(earlier, Job) and _is_cancelled(earlier.outcome):
                self.counts.by_fate[Fate.JOINED] += 1  # its key would begin another one, but this may be replied to
                return earlier
        give_up = min(time.monotonic() + _ROOM_S, until)
        found, joined = await self._when_there_is_room(request, give_up)
        self.counts.by_fate[Fate.JOINED if joined else Fate.BEGUN] += 1
        if request.key is not None and not found.id.startswith(request.beginning):
            self._joined[message.id] = request.key
            if len(self._joined) > _MAX_JOINED:
                del self._joined[next(iter(self._joined))]
        return found

    async def _when_there_is_room(self, request: JobRequest, give_up: float) -> tuple[Job | Record, bool]:
        """Begin or join the job; wait if HTTP clients have taken the room that was meant for this message."""
        while True:
            try:
                return await self._entrance.submit_or_join(request)
            except AdmissionError as exc:
                if exc.code is not Code.OVERLOADED or time.monotonic() > give_up:
                    raise
            await asyncio.sleep(_LOOK_S)

    async def _may_be_forgotten(self, message: Message, request: JobRequest) -> bool:
        if message.receives <= 1 or request.key is None:
            return False
        is_old = self._clock() - message.sent_at > self._result_ttl_s - _FORGOTTEN_MARGIN_S
        if not is_old and not self._store.may_have_lost(message.sent_at):
            return False
        found = await self._entrance.find(request.key)
        if found is None:
            return True
        if not is_old or isinstance(found, Job) or found.finished_at is None or found.submitted is Submitted.NO:
            return False
        return self._clock() > found.finished_at + self._result_ttl_s - _ROOM_S  # it may expire while it is read

    async def _outcome(self, found: Job | Record, until: float) -> Outcome:
        """Return the outcome once it is recorded. Raises QueueError if that is not in time."""
        try:
            async with asyncio.timeout_at(_loop_time(until)):
                if isinstance(found, Job):
                    outcome: Outcome | None = await asyncio.shield(found.outcome)
                    if not await found.recorder.outcome_stored():
                        outcome = (await self._store.ended(found.id)).outcome
                else:
                    outcome = found.outcome or (await self._store.ended(found.id)).outcome
        except TimeoutError:
            raise QueueError("its job has no recorded outcome yet") from None
        if outcome is None:
            raise QueueError("its job has no recorded outcome")
        return outcome


def _is_cancelled(outcome: Outcome | None) -> bool:
    return isinstance(outcome, Failed) and outcome.code is Code.CANCELLED


def _pause_s(message: Message) -> int:
    """Return the pause before a message is delivered again: it doubles with each delivery."""
    return int(min(LONGEST_PAUSE_S, 2.0 ** min(message.receives, 10)))


def _body(message: Message) -> bytes:
    encoding = message.text("Content-Transfer-Encoding").lower()
    if not encoding:
        return message.body.encode("utf-8", "surrogatepass")
    if encoding != "base64":
        raise RequestError(Code.UNSUPPORTED_MEDIA_TYPE, "the attribute `Content-Transfer-Encoding` is not base64")
    try:
        return base64.b64decode(message.body, validate=True)
    except ValueError as exc:  # binascii.Error, or a character that is not ASCII
        raise RequestError(
            Code.INVALID_REQUEST, "the body is not Base64, although `Content-Transfer-Encoding` says so"
        ) from exc


def _loop_time(monotonic: float) -> float:
    return asyncio.get_running_loop().time() + max(0.0, monotonic - time.monotonic())
