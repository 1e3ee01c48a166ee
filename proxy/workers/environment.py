"""The environment of the processes below the front end: what an interpreter and its libraries need, and nothing else.

The front end's has API keys and whatever else its operator put there. A worker needs none of it: what it has to know of
the settings is handed to it (shared/worker_config.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["child_environment"]

#: Of the shell and the C library: where programs and files are, languages, time zones, how names are resolved.
_NAMES: Final = frozenset(
    {"HOME", "HOSTALIASES", "LANG", "LANGUAGE", "LOCALDOMAIN", "PATH", "RES_OPTIONS", "TMPDIR", "TZ", "TZDIR"}
    # Whom to trust (OpenSSL).
    | {"OPENSSL_CONF", "SSL_CERT_DIR", "SSL_CERT_FILE"}
)
#: Of languages, Python, the dynamic linker, the allocator, and what measures coverage.
PREFIXES: tuple[str, ...] = ("LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES", "COVERAGE_")


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the part of `environ` that a child may have."""
    given = {name: value for name, value in environ.items() if name in _NAMES or name.startswith(PREFIXES)}
    given.pop("PYTHONSAFEPATH", None)  # a child is `python -m` in the folder that this would keep Python from
    return given
