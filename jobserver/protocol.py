"""The protocol: what a submission may contain, and the two documents that answer it."""

import json
import math
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, NoReturn

from yarl import URL

from jobserver.faults import FAULTS, NO_FAULT, Fault

#: No job may ask for more than this, so that a typo does not exhaust the machine.
_LARGEST_NUMBER: Final = 1 << 30


class BadSubmissionError(ValueError):
    """The submission does not follow the protocol; the message is for the client."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One request to run a job, checked."""

    account: str
    #: True: the reply is the result. False: the result goes to the callback.
    wait: bool
    callback: str | None
    #: The client's own name for the job, never interpreted.
    ref: str | None
    fault_name: str
    fault: Fault
    #: None: the server's own duration.
    duration_s: float | None
    delay_s: float
    times: int
    size_bytes: int
    status: int
    retry_after: str
    #: Whether the job runs; overrides the fault. None: as the fault says.
    run: bool | None

    @property
    def runs(self) -> bool:
        """Whether this job runs."""
        return self.fault.runs if self.run is None else self.run

    @property
    def job_key(self) -> str:
        """What stays the same if a client submits the same job again."""
        return self.ref or self.callback or self.account


def parse_submission(raw: bytes) -> Submission:
    """Read a request body; raise BadSubmissionError if it is not a submission."""
    fields = parse_object(raw)
    account = fields.get("account")
    if not isinstance(account, str) or not account:
        raise BadSubmissionError("`account` must be a string that is not empty")
    wait = fields.get("wait", True)
    if not isinstance(wait, bool):
        raise BadSubmissionError("`wait` must be true or false")
    fault_name = fields.get("fault", "none")
    fault = FAULTS.get(fault_name) if isinstance(fault_name, str) else None
    if fault is None:
        raise BadSubmissionError(f"`fault` must be one of: {', '.join(FAULTS)}")
    ref = fields.get("ref")
    # Without a fault, these names may have a meaning of the client's own, and are ignored.
    asked = fields if fault is not NO_FAULT else {}
    return Submission(
        account=account,
        wait=wait,
        callback=None if wait else _callback(fields.get("callback")),
        ref=None if ref is None else str(ref),
        fault_name=fault_name,
        fault=fault,
        duration_s=_seconds(fields, "duration", None),
        delay_s=_seconds(asked, "delay", fault.delay_s) or 0.0,
        times=_count(asked, "times", fault.times),
        size_bytes=_count(asked, "bytes", fault.size_bytes),
        status=_status(asked, fault),
        retry_after=str(asked.get("retry_after", 0)),
        run=_flag(asked, "run"),
    )


def parse_object(raw: bytes) -> dict[str, Any]:
    """Read a JSON object, strictly; raise BadSubmissionError for anything else."""
    if not raw:
        raise BadSubmissionError("the body is missing; it must be a JSON object")
    try:
        fields = json.loads(raw.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError as exc:
        raise BadSubmissionError("the body is nested too deeply") from exc
    except ValueError as exc:
        raise BadSubmissionError(f"the body is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise BadSubmissionError("the body must be a JSON object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    message = f"{name} is not a JSON value"
    raise ValueError(message)


def _callback(value: object) -> str:
    message = "`callback` must be an http or https address when `wait` is false"
    if not isinstance(value, str):
        raise BadSubmissionError(message)
    try:
        url = URL(value, encoded=True)
        # The host and the port are parsed, and found wrong, when they are asked for.
        usable = url.scheme in {"http", "https"} and url.host and url.port
    except ValueError as exc:
        raise BadSubmissionError(message) from exc
    if not usable:
        raise BadSubmissionError(message)
    return value


def _seconds(fields: dict[str, Any], name: str, default: float | None) -> float | None:
    value = fields.get(name, default)
    if value is default:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise BadSubmissionError(f"`{name}` must be a number of seconds, 0 or more")
    # A larger number would overflow the event loop's timer.
    return float(min(value, _LARGEST_NUMBER))


def _count(fields: dict[str, Any], name: str, default: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LARGEST_NUMBER:
        raise BadSubmissionError(f"`{name}` must be a whole number from 0 to {_LARGEST_NUMBER}")
    return value


def _status(fields: dict[str, Any], fault: Fault) -> int:
    if not fault.statuses:
        return fault.status
    value = fields.get("status", fault.status)
    if isinstance(value, bool) or not isinstance(value, int) or value not in fault.statuses:
        known = fault.statuses
        takes = f"{known[0]} to {known[-1]}" if isinstance(known, range) else ", ".join(map(str, known))
        raise BadSubmissionError(f"`status` must be one of: {takes}")
    return value


def _flag(fields: dict[str, Any], name: str) -> bool | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, bool):
        raise BadSubmissionError(f"`{name}` must be true or false")
    return value


class Documents:
    """Creates ids and the documents that contain them."""

    def __init__(self, seed: int | None = None) -> None:
        """Start a sequence of ids; the same seed gives the same sequence."""
        # These ids protect nothing, so repeatable is better than unguessable.
        self._random = random.Random(seed)  # noqa: S311

    def new_id(self) -> str:
        """Return 16 hexadecimal digits."""
        return f"{self._random.getrandbits(64):016x}"

    @staticmethod
    def running(job_id: str) -> bytes:
        """Return the reply to an asynchronous submission."""
        return encode({"state": "running", "id": job_id})

    def completed(self, job_id: str, *, state: str, started_at: str, size_bytes: int = 0) -> bytes:
        """Return the result, padded to `size_bytes` if it would be shorter."""
        document = {
            "id": job_id,
            "state": state,
            "startedAt": started_at,
            "proof": f"{self._random.getrandbits(160):040X}",
        }
        body = encode(document)
        if len(body) >= size_bytes:
            return body
        frame = len(encode(document | {"padding": ""}))
        return encode(document | {"padding": "x" * max(0, size_bytes - frame)})


def encode(document: object) -> bytes:
    """Return the document as JSON text."""
    return json.dumps(document).encode("ascii")


def timestamp() -> str:
    """Return the current time in the protocol's format: ISO 8601, milliseconds, Z."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
