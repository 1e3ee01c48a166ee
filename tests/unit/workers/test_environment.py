"""The environment of the front end's child processes."""

from __future__ import annotations

import pytest

from proxy.workers.environment import child_environment
from shared.settings import variables

_SECRETS = ["OTEL_EXPORTER_OTLP_HEADERS", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN"]
#: The variables for the service manager; a worker with these would speak in the proxy's name.
_MANAGER = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"]


@pytest.mark.parametrize("name", [*variables(), *_SECRETS, *_MANAGER])
def test_no_setting_and_no_secret_is_handed_on(name: str) -> None:
    """A worker gets what it needs in another way, and needs no keys."""
    assert child_environment({name: "x"}) == {}


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LANG", "LC_ALL", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "LD_LIBRARY_PATH", "PYTHONPATH"],
)
def test_what_an_interpreter_and_its_libraries_need_is(name: str) -> None:
    """Including trusted certificates, for TLS to the job server."""
    assert child_environment({name: "x"}) == {name: "x"}
