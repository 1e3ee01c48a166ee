"""The command line."""

import argparse
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from yarl import URL

_SQS = "sqs://"
#: A valid name of a queue in SQS.
_QUEUE = re.compile(r"[A-Za-z0-9_-]{1,80}|[A-Za-z0-9_-]{1,75}[.]fifo")
EPILOG = """\
exit status: 0 passed, 1 failed, 2 wrong usage, 130 interrupted

A job succeeds if its answer is 200 with {"state": "completed"}. The run passes if every job succeeds, all ids
differ, and it takes less than --limit seconds.

Without --idempotent, --retries only retries jobs that certainly did not run: the connection failed, or the
answer says "retry_safe": true. With --idempotent, each job has a key of its own, so that the proxy runs it once
however often it is sent; then broken connections are retried, too.

With sqs://NAME, the jobs go through the queue NAME of Amazon SQS and their replies are taken from --reply-queue.
Credentials, region and endpoint are the AWS SDK's: AWS_ACCESS_KEY_ID, AWS_DEFAULT_REGION, AWS_ENDPOINT_URL. Each
message has its own key; --concurrency, --api-key, --idempotent and --retries are ignored there.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """One run of the client."""

    #: Where each job is posted, character for character as given.
    url: URL
    #: The queue to send to instead, and the one with the replies; empty: none.
    queue: str = ""
    reply_queue: str = ""
    jobs: int = 50
    account: str = "example"
    #: The run has to take less than this to pass.
    limit_s: float = 5.0
    #: How long one request may take, from connecting to the last byte.
    timeout_s: float = 60.0
    #: Jobs in flight at the same time; None: all of them.
    concurrency: int | None = None
    #: Further members of the body.
    fields: dict[str, object] = field(default_factory=dict)
    api_key: str | None = None
    #: Send an `Idempotency-Key` with each job.
    idempotent: bool = False
    #: Retries of a job that is safe to retry.
    retries: int = 0
    #: Print the report as JSON.
    json: bool = False

    @property
    def body(self) -> bytes:
        """The body of every job, as JSON."""
        return json.dumps({"account": self.account, "wait": True, **self.fields}).encode()


def parse(argv: Sequence[str] | None = None) -> Options:
    """Parse the command line; exit with status 2 and a line that says why if it is invalid."""
    parser = _parser()
    given = parser.parse_args(argv)
    queue = given.url.removeprefix(_SQS) if isinstance(given.url, str) else ""
    if bool(queue) is not bool(given.reply_queue):
        parser.error("sqs://NAME and --reply-queue NAME go together")
    return Options(
        url=URL() if queue else given.url,
        queue=queue,
        reply_queue=given.reply_queue,
        jobs=given.jobs,
        account=given.account,
        limit_s=given.limit,
        timeout_s=given.timeout,
        concurrency=given.concurrency,
        fields=dict(given.field),
        api_key=given.api_key,
        idempotent=given.idempotent,
        retries=given.retries,
        json=given.json,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jobclient",
        description="Send many jobs at once and wait for all of them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("url", metavar="URL", type=_url, help="where to post, for example http://127.0.0.1:3000/queueJob")
    add("--reply-queue", metavar="NAME", default="", help="with sqs://NAME: the queue that the replies are sent to")
    add("--jobs", metavar="N", type=_count, default=50, help="number of jobs (50)")
    add("--account", metavar="NAME", default="example", help="the account the jobs are for (example)")
    add(
        "--limit",
        metavar="SECONDS",
        type=_seconds,
        default=5.0,
        help="the run must take less than this to pass (5)",
    )
    add(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=60.0,
        help="the timeout of one request (60)",
    )
    add("--concurrency", metavar="N", type=_count, help="jobs in flight at the same time (all)")
    add(
        "--field",
        metavar="KEY=JSON",
        type=_field,
        action="append",
        default=[],
        help="""add a member to each job; can be repeated, for example --field fault='"late"'""",
    )
    add("--api-key", metavar="KEY", type=_header_value, help="sent as Authorization: Bearer KEY")
    add("--idempotent", action="store_true", help="send a fresh Idempotency-Key with each job")
    add(
        "--retries",
        metavar="N",
        type=_whole,
        default=0,
        help="retries of a job that is safe to retry (0)",
    )
    add("--json", action="store_true", help="print the report as JSON")
    return parser


def _url(text: str) -> URL | str:
    """Return the address; that of a queue unchanged, because names are case-sensitive."""
    if text.startswith(_SQS):
        if not _QUEUE.fullmatch(text.removeprefix(_SQS)):
            raise argparse.ArgumentTypeError(f"{text!r} is not sqs:// and the name of a queue")
        return text
    try:
        # Only to validate it: this form is normalised and differs from what the user typed.
        checked = URL(text)
        host = checked.host or ""
        host.encode("idna")  # as for its look-up
    except UnicodeError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} has a name that no host can have") from exc
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not an address: {exc}") from exc
    if checked.scheme not in {"http", "https"} or not host:
        raise argparse.ArgumentTypeError(f"{text!r} is not an http:// or https:// address")
    if not text.isascii() or any(character.isspace() for character in text):
        return checked
    return URL(text, encoded=True)


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return number


def _count(text: str) -> int:
    number = _whole(text)
    if number == 0:
        raise argparse.ArgumentTypeError("has to be at least 1")
    return number


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _header_value(text: str) -> str:
    if not (text.isascii() and text.isprintable()):
        raise argparse.ArgumentTypeError("takes printable ASCII characters only")
    return text


def _field(text: str) -> tuple[str, object]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form KEY=JSON")
    try:
        return key, json.loads(value)
    except (ValueError, RecursionError) as exc:
        raise argparse.ArgumentTypeError(
            f"""the value of {key} is not JSON: {value} (a string needs its quotes: {key}='"{value}"')"""
        ) from exc
