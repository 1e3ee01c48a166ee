"""`python -m tests.chaos.support.job_server`: the job server, closing idle connections to a callback route at once.

Otherwise they would count as descriptors of the front end for two seconds after the last job.
"""

from __future__ import annotations

import sys

from jobserver import __main__ as command
from jobserver import callbacks

if __name__ == "__main__":
    vars(callbacks)["_KEEPALIVE_S"] = 0.1
    sys.exit(command.main())
