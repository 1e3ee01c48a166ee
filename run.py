"""`python run.py`: the proxy. Hands over to `python -m proxy` in this very process, nothing else."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parent)
    os.execv(sys.executable, [sys.executable, "-m", "proxy", *sys.argv[1:]])  # noqa: S606 - our own module
