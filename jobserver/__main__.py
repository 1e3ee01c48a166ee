"""`python -m jobserver`."""

import gc
import os
import signal
import sys
from types import FrameType


def main() -> int:
    """Run the job server; return the exit code if it could not start."""
    gc.disable()  # until everything is loaded and stays: `serve` enables it
    # First, so that Ctrl-C is quiet even while the rest is being loaded.
    signal.signal(signal.SIGINT, leave_at_once)
    signal.signal(signal.SIGTERM, leave_at_once)

    from jobserver.cli import parse_arguments  # noqa: PLC0415 - see above; --help needs no more

    arguments = parse_arguments()

    # aiohttp reads the system's certificates on import, which takes some 90 ms of CPU. They are not needed:
    # callbacks go to whatever address the client named, without verification.
    os.environ["SSL_CERT_FILE"] = os.environ["SSL_CERT_DIR"] = os.devnull

    import asyncio  # noqa: PLC0415 - see above

    from jobserver.serve import CannotServeError, serve  # noqa: PLC0415 - see above

    try:
        asyncio.run(serve(arguments))
    except CannotServeError as exc:
        sys.stderr.write(f"jobserver: {exc}\n")
    return 2


def leave_at_once(signum: int, frame: FrameType | None) -> None:
    """Exit silently with success: being stopped is not a failure."""
    del signum, frame
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
