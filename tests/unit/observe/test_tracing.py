"""Spans, as received by an exporter."""

from __future__ import annotations

import asyncio
import itertools
from types import SimpleNamespace
from typing import Any, cast

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from proxy import log
from proxy.jobs import log_lines
from proxy.jobs.job import Job
from proxy.observe import tracing
from proxy.observe.observers import Observers
from proxy.observe.tracing import Tracing
from shared.errors import Code
from shared.lifecycle import Event, Submitted
from shared.outcome import Failed, Outcome, Succeeded
from tests.support.jobs import a_job

_CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_LIFE = (Event.ASSIGN, Event.CONNECTED, Event.REPLY_READ, Event.CALLBACK)


def _traced(outcome: Outcome, *life: Event, traceparent: str = "") -> tuple[Job, dict[str, ReadableSpan]]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    observers = Observers(Tracing(provider))
    job = a_job(body=b'{"card": "not-to-be-seen"}', traceparent=traceparent)
    observers.job_began(job)
    for event in (*life, Event.FINISH):
        job.advance(event)
    observers.job_finished(job, outcome)
    return job, {span.name: span for span in exporter.get_finished_spans()}


async def test_a_job_is_a_span_with_one_for_each_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Five phases, one after the other, without gaps, within the job's own span."""
    monkeypatch.setattr("proxy.observe.tracing._wall_ns", lambda monotonic_s: int(monotonic_s * 1e9))
    _, spans = _traced(Succeeded(body=b"{}"), *_LIFE)
    assert set(spans) == {"job", "queue", "start", "submission", "wait", "delivery"}
    whole = spans.pop("job")
    assert whole.start_time is not None
    assert whole.end_time is not None
    assert all(span.parent == whole.context for span in spans.values())
    ordered = [cast("Any", spans[name]) for name in ("queue", "start", "submission", "wait", "delivery")]
    assert all(before.end_time == after.start_time for before, after in itertools.pairwise(ordered))
    assert (ordered[0].start_time, ordered[-1].end_time) == (whole.start_time, whole.end_time)


async def test_the_span_stands_between_the_client_and_the_job_server() -> None:
    """It is a child of the client's span, and the job server gets it as the parent, in the same trace."""
    job, spans = _traced(Succeeded(body=b"{}"), *_LIFE, traceparent=_CLIENT)
    span = spans["job"]
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert span.context is not None
    assert job.traceparent == f"00-0af7651916cd43dd8448eb211c80319c-{span.context.span_id:016x}-01"


async def test_a_failure_is_one_in_the_trace_as_well() -> None:
    """The status is an error with the code; `submitted` is an attribute; no body is in it."""
    failed = Failed(code=Code.DEADLINE_EXCEEDED, detail="too late", submitted=Submitted.UNKNOWN)
    job, spans = _traced(failed, Event.ASSIGN, Event.CONNECTED)
    span = spans["job"]
    assert span.status.status_code is StatusCode.ERROR
    assert span.attributes is not None
    assert span.attributes["job.outcome"] == "deadline-exceeded"
    assert span.attributes["job.submitted"] == "unknown"
    assert span.attributes["job.id"] == job.id
    assert "wait" not in spans
    text = str([one.to_json() for one in spans.values()])
    assert "not-to-be-seen" not in text
    assert job.token not in text


async def test_a_client_that_does_not_want_a_sample_is_heard() -> None:
    """A trace that its client does not sample has no span here, and is passed on unsampled."""
    job, spans = _traced(Succeeded(body=b"{}"), *_LIFE, traceparent=_CLIENT[:-1] + "0")
    assert spans == {}
    assert job.traceparent.endswith("-00")


async def test_a_bug_in_tracing_costs_no_job(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception in tracing is logged; the rest of the job is recorded anyway."""
    lines: list[str] = []
    monkeypatch.setattr(log_lines, "job_event", lambda _level, what, *_, **__: lines.append(what))
    broken = SimpleNamespace(job_began=lambda _job: 1 / 0, job_finished=lambda *_: 1 / 0)
    observers = Observers(cast("Tracing", broken))
    job = a_job(body=b"{}")
    observers.job_began(job)
    job.advance(Event.FINISH)
    observers.job_finished(job, Succeeded(body=b"{}"))
    assert lines == ["a new job could not be reported", "job succeeded", "a finished job could not be reported"]
    assert observers.history.by_id(job.id) is not None


async def test_the_end_needs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """At a process limit none can be started, and the shutdown goes on."""

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asyncio, "to_thread", refuse)
    await Tracing(TracerProvider()).close()


def test_nothing_is_traced_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an endpoint there is no tracing; with one, but without OpenTelemetry, a line says what to install."""
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", raising=False)
    assert tracing.from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    lines: list[str] = []
    monkeypatch.setattr(log, "event", lambda _level, what, **_: lines.append(what))
    assert tracing.from_environment() is None
    assert "requirements-otel.txt" in lines[0]
