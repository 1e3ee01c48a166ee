"""The replies to messages, and the dead letters.

A result is sent byte for byte. SQS only takes text, so a result that is not text is sent as Base64, and the attribute
`Content-Transfer-Encoding` says so. If a result is too large for a message, or empty, the attribute `Location` says
where it is.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from proxy.http import problems
from proxy.sqs.message import MEANINGFUL, Attribute, Outgoing, text_attributes
from shared.errors import Code
from shared.lifecycle import Submitted
from shared.outcome import Outcome, Succeeded

if TYPE_CHECKING:
    from proxy.sqs.message import Message

__all__ = ["dead_letter", "refusal", "reply"]

_JSON: Final = "application/json"
#: The control characters that SQS accepts, and the rest of ASCII.
_PLAIN: Final = bytes([9, 10, 13, *range(32, 128)])
_MAX_ATTRIBUTES: Final = 10
_MAX_DETAIL: Final = 500


def reply(message: Message, job_id: str, outcome: Outcome, *, max_bytes: int, granular: bool) -> Outgoing:
    """Return the reply to a message whose job has ended; `max_bytes` is the limit of the reply queue."""
    texts = {"Job-Id": job_id, "Message-Id": message.id}
    if isinstance(outcome, Succeeded):
        body = outcome.body
        texts |= {
            "Outcome": "succeeded",
            "Submitted": str(Submitted.YES),
            "Content-Type": outcome.content_type or _JSON,
        }
    else:
        body = problems.of_failure(outcome, job_id, granular=granular).body
        texts |= _failed(outcome.code, outcome.submitted)
    return _that_fits(message, job_id, body, texts, max_bytes)


def refusal(message: Message, code: Code, detail: str, submitted: Submitted) -> Outgoing:
    """Return the reply to a message that cannot be a job."""
    problem = problems.make(code, detail, submitted=submitted)
    texts = {"Message-Id": message.id, **_failed(code, submitted)}
    return _outgoing(message, message.id, problem.body.decode(), text_attributes(texts))


def dead_letter(message: Message, code: Code, detail: str, submitted: Submitted, *, max_bytes: int) -> Outgoing:
    """Return the message for the dead-letter queue: with the reason, and with its attributes if there is room.

    Those that say what the message means go first: the letter may be moved back. If not even they have room beside the
    reason, the message goes as it came.
    """
    reason = text_attributes({"Code": str(code), "Submitted": str(submitted), "Message-Id": message.id})
    full = {**reason, **text_attributes({"Detail": _printable(detail)})}
    others = {name: it for name, it in message.attributes.items() if name not in full}
    needed = {**{name: it for name, it in others.items() if name in MEANINGFUL}, **reason}
    for attributes in ({**needed, **full, **others}, {**needed, **full}, needed):
        most = dict(list(attributes.items())[:_MAX_ATTRIBUTES])
        candidate = _outgoing(message, message.id, message.body, most)
        if candidate.size_bytes <= max_bytes:
            return candidate
    return _outgoing(message, message.id, message.body, dict(message.attributes))


def _failed(code: Code, submitted: Submitted) -> dict[str, str]:
    return {
        "Outcome": "failed",
        "Code": str(code),
        "Submitted": str(submitted),
        "Content-Type": problems.CONTENT_TYPE.decode(),
    }


def _that_fits(message: Message, job_id: str, body: bytes, texts: dict[str, str], max_bytes: int) -> Outgoing:
    text = _as_text(body)
    if text is None:
        texts["Content-Transfer-Encoding"] = "base64"
        text = base64.b64encode(body).decode()
    whole = _outgoing(message, job_id, text, text_attributes(texts))
    if text and whole.size_bytes <= max_bytes:
        return whole
    location = f"/jobs/{job_id}/result"
    texts.pop("Content-Transfer-Encoding", None)
    pointer = json.dumps({"job_id": job_id, "result": location, "size": len(body)})
    return _outgoing(message, job_id, pointer, text_attributes({**texts, "Content-Type": _JSON, "Location": location}))


def _as_text(body: bytes) -> str | None:
    """Return the body as text that SQS accepts, or None."""
    rest = body.translate(None, _PLAIN)
    if not rest:
        return body.decode("ascii")
    if min(rest) < 128:  # noqa: PLR2004 - a control character
        return None
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return None
    return None if "\ufffe" in text or "\uffff" in text else text


def _outgoing(message: Message, group: str, body: str, attributes: dict[str, Attribute]) -> Outgoing:
    # Two messages may have the same job, and each gets a reply. So replies are deduplicated by message, not by job.
    return Outgoing(body=body, attributes=attributes, group=group, deduplication_id=message.id)


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:_MAX_DETAIL]
