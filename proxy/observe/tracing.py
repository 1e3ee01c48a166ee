"""Traces, if a collector is configured: one span for each job, and one within it for each phase.

OpenTelemetry is an optional extra (requirements-otel.txt). It is loaded only if OTEL_EXPORTER_OTLP_ENDPOINT, or the
variable for traces alone, is set; its own variables (OTEL_SERVICE_NAME, OTEL_TRACES_SAMPLER, …) do what its
documentation says.

A job's span begins with the job, so that the job server gets this span as its parent. The phases' spans are created
when the job has ended, from times that are recorded anyway.

Without a collector, a client's trace context is passed on to the job server unchanged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from proxy import log
from proxy.jobs.trail import phase_starts
from shared.lifecycle import State
from shared.outcome import Failed, Outcome

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

    from proxy.jobs.job import Job

__all__ = ["Tracing", "from_environment"]

_WANTED_BY: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SERVICE: Final = "async-job-proxy"
_FLUSH_S: Final = 2.0
#: Spans with a name other than their phase's: what the log calls the job's own time is time that the proxy waits.
_NAMES: Final = {"job": "wait"}


def from_environment() -> Tracing | None:
    """Return the tracing, if the environment asks for it and OpenTelemetry is installed."""
    if not any(os.environ.get(name) for name in _WANTED_BY):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415 - optional
        from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - as above
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - as above
    except ImportError:
        log.event("warning", "no traces are sent: run `pip install -r requirements-otel.txt`", wanted_by=_WANTED_BY[1])
        return None
    resource = Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME") or _SERVICE})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


class Tracing:
    """Creates the spans of jobs."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider` creates and sends the spans."""
        from opentelemetry import trace  # noqa: PLC0415 - optional
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415

        self._trace = trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("proxy")

    def job_began(self, job: Job) -> None:
        """Start the job's span, as a child of the client's; the job server gets this one as its parent."""
        client = {"traceparent": job.traceparent, "tracestate": job.tracestate}
        parent = self._propagator.extract({name: value for name, value in client.items() if value})
        span = self._tracer.start_span(
            "job",
            context=parent,
            kind=self._trace.SpanKind.SERVER,
            start_time=_wall_ns(job.reached[State.ACCEPTED]),
            attributes={"job.id": job.id},
        )
        sent_on: dict[str, str] = {}
        self._propagator.inject(sent_on, self._trace.set_span_in_context(span))
        job.traceparent = sent_on.get("traceparent", job.traceparent)
        job.span = span

    def job_finished(self, job: Job, outcome: Outcome, _durations: dict[str, float]) -> None:
        """End the job's span, with a child for each phase."""
        span: Any = job.span
        if span is None:
            return
        job.span = None
        end = job.reached[State.FINISHED]
        within = self._trace.set_span_in_context(span)
        for (name, start), (_, until) in pairwise([*phase_starts(job), ("", end)]):
            phase = self._tracer.start_span(_NAMES.get(name, name), context=within, start_time=_wall_ns(start))
            phase.end(_wall_ns(until))
        span.set_attributes(_attributes(job, outcome))
        if isinstance(outcome, Failed):
            span.set_status(self._trace.StatusCode.ERROR, str(outcome.code))
        span.end(_wall_ns(end))

    async def close(self) -> None:
        """Send the remaining spans, for at most two seconds."""
        with contextlib.suppress(TimeoutError, RuntimeError):  # RuntimeError: no thread can be started
            await asyncio.wait_for(asyncio.to_thread(self._provider.shutdown), _FLUSH_S)


def _attributes(job: Job, outcome: Outcome) -> dict[str, str | int]:
    found: dict[str, str | int] = {"worker.pid": job.worker_pid}
    if isinstance(outcome, Failed):
        code = str(outcome.code)
        return found | {"job.outcome": code, "job.submitted": str(outcome.submitted), "error.type": code}
    return found | {"job.outcome": "succeeded", "job.submitted": "yes"}


def _wall_ns(monotonic_s: float) -> int:
    """Return an instant of the monotonic clock as Unix time in nanoseconds."""
    return time.time_ns() - time.monotonic_ns() + int(monotonic_s * 1_000_000_000)
