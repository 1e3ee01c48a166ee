"""`python -m jobclient URL`: send the jobs, print the summary, exit with 0 if the run passed."""

import asyncio
import resource
import sys
from collections.abc import Sequence

from jobclient import queue, sending
from jobclient.options import parse
from jobclient.progress import Progress
from jobclient.report import as_json, as_text

PASSED = 0
FAILED = 1
INTERRUPTED = 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run the client and return its exit status; wrong usage raises SystemExit(2)."""
    options = parse(argv)
    _allow_many_connections()
    progress = Progress(options.jobs, quiet=options.json)
    try:
        with progress:
            send = queue.run if options.queue else sending.run
            report = asyncio.run(send(options, on_finished=progress.advance))
    except queue.QueueUnusableError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print(f"Interrupted: {progress.finished} of {options.jobs} jobs were answered.", file=sys.stderr)
        return INTERRUPTED
    print(as_json(report) if options.json else f"\n{as_text(report)}")
    return PASSED if report.passed else FAILED


def _allow_many_connections() -> None:
    """Raise the soft limit of open files, often 1,024, to the hard one: each job is a connection."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
