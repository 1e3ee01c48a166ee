"""`python -m worker FD`: the fork server; started by the front end, of no use by hand."""

from __future__ import annotations

import sys

from worker.fork_server import main

if __name__ == "__main__":
    main(int(sys.argv[1]))
