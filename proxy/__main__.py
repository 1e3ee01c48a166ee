"""`python -m proxy`: settings, log, embedded job server if none is configured, serve, drain."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Final

from shared.errors import SettingsError
from shared.settings import load

_ENV_FILE: Final = Path(__file__).resolve().parent.parent / ".env"
_BAD_SETTINGS: Final = 2


def main() -> int:
    """Run the proxy until it is told to stop; return the exit code."""
    try:
        settings = load(env_file=_ENV_FILE)
        from proxy.front_end import FrontEnd  # noqa: PLC0415 - a bad setting is told before anything heavy is loaded

        asyncio.run(FrontEnd(settings).run())
    except SettingsError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return _BAD_SETTINGS
    return 0


if __name__ == "__main__":
    sys.exit(main())
