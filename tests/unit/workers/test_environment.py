"""What a process below the front end has in its environment."""

from __future__ import annotations

import pytest

from proxy.workers.environment import child_environment
from shared.settings import variables

_SECRETS = ["OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"]
#: What the front end talks to its service manager by; a worker that did would speak for it.
_MANAGER = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]


@pytest.mark.parametrize("name", [*variables(), *_SECRETS, *_MANAGER])
def test_no_setting_and_no_secret_is_handed_on(name: str) -> None:
    """A worker is told what it needs in another way, and needs no key of anybody's."""
    assert child_environment({name: "x"}) == {}


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "PYTHONPATH"],
)
def test_what_an_interpreter_and_its_libraries_need_is(name: str) -> None:
    """Also whom to trust, for TLS to the job server."""
    assert child_environment({name: "x"}) == {name: "x"}
