"""The environment of child processes: what an interpreter and its libraries need, and nothing else.

The front end's own has API keys and other secrets. A worker needs none of them: it is sent the settings that it needs
(shared/worker_config.py).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

__all__ = ["child_environment"]

#: Variables of the shell and the C library: where programs and files are, languages, time zones, name resolution.
_NAMES: Final = frozenset(
    {"HOME", "HOSTALIASES", "LANG", "LANGUAGE", "LOCALDOMAIN", "PATH", "RES_OPTIONS", "TMPDIR", "TZ", "TZDIR"}
    # Trusted certificates (OpenSSL).
    | {"OPENSSL_CONF", "SSL_CERT_DIR", "SSL_CERT_FILE"}
)
#: Prefixes of variables of languages, Python, the dynamic linker, the allocator, and coverage measurement.
PREFIXES: tuple[str, ...] = ("LC_", "PYTHON", "LD_", "MALLOC_", "GLIBC_TUNABLES", "COVERAGE_")


def child_environment(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the part of `environ` that a child may have."""
    given = {name: value for name, value in environ.items() if name in _NAMES or name.startswith(PREFIXES)}
    given.pop("PYTHONSAFEPATH", None)  # a child is `python -m` in the project's folder, which this would exclude
    return given
