"""`python run.py`: the proxy. Hands over to proxy/__main__.py, nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - users of an older version should see this line instead of a traceback
        sys.stderr.write("error: Python 3.11 or newer is needed; this is %s\n" % sys.version.split()[0])  # noqa: UP031
        sys.exit(2)
    os.chdir(Path(__file__).resolve().parent)
    sys.path.insert(0, str(Path.cwd()))  # needed only with -P, which leaves it out

    from proxy.__main__ import main

    sys.exit(main())
