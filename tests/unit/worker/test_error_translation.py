"""Foreign errors end at the worker's boundary: every one of aiohttp's becomes one of ours."""

from __future__ import annotations

import inspect
import ssl
from typing import Any, Final
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey
from yarl import URL

from shared.errors import BadReplyError, JobServerError, RejectedError, UnavailableError
from worker.foreign_errors import translate

_KEY: Final = ConnectionKey("jobs.example", 80, False, True, None, None, None)
_OS_ERROR: Final = ConnectionRefusedError(111, "Connection refused by 10.1.2.3")

#: How to make each of them as aiohttp does: exception -> instance.
_INSTANCES: Final[dict[type[BaseException], BaseException]] = {
    aiohttp.ClientConnectorError: aiohttp.ClientConnectorError(_KEY, _OS_ERROR),
    aiohttp.ClientConnectorDNSError: aiohttp.ClientConnectorDNSError(_KEY, OSError(-2, "Name or service not known")),
    aiohttp.ClientProxyConnectionError: aiohttp.ClientProxyConnectionError(_KEY, _OS_ERROR),
    aiohttp.ClientConnectorCertificateError: aiohttp.ClientConnectorCertificateError(
        _KEY, ssl.SSLCertVerificationError("certificate of jobs.example")
    ),
    aiohttp.ClientSSLError: aiohttp.ClientSSLError(_KEY, ssl.SSLError(1, "handshake")),
    aiohttp.ClientConnectorSSLError: aiohttp.ClientConnectorSSLError(_KEY, ssl.SSLError(1, "handshake")),
    aiohttp.ClientOSError: aiohttp.ClientOSError(104, "Connection reset by 10.1.2.3"),
    aiohttp.ServerFingerprintMismatch: aiohttp.ServerFingerprintMismatch(b"a", b"b", "jobs.example", 80),
    aiohttp.InvalidURL: aiohttp.InvalidURL("http://secret@jobs.example"),
    aiohttp.InvalidUrlClientError: aiohttp.InvalidUrlClientError("x"),
    aiohttp.InvalidUrlRedirectClientError: aiohttp.InvalidUrlRedirectClientError("x"),
    aiohttp.NonHttpUrlClientError: aiohttp.NonHttpUrlClientError("x"),
    aiohttp.NonHttpUrlRedirectClientError: aiohttp.NonHttpUrlRedirectClientError("x"),
}


def _public_errors() -> list[type[BaseException]]:
    """Every exception that aiohttp's client makes public."""
    found = {value for value in vars(aiohttp).values() if inspect.isclass(value) and issubclass(value, Exception)}
    return sorted((e for e in found if issubclass(e, aiohttp.ClientError)), key=lambda e: e.__name__)


def _instance(kind: type[BaseException]) -> BaseException:
    if kind in _INSTANCES:
        return _INSTANCES[kind]
    if issubclass(kind, aiohttp.ClientResponseError):
        info: Any = Mock(real_url=URL("http://jobs.example/start"))
        return kind(info, (), status=200, message="secret words of the peer")
    return kind("secret words of the peer")


@pytest.mark.parametrize("kind", _public_errors(), ids=lambda kind: kind.__name__)
def test_every_error_of_aiohttps_client_becomes_one_of_ours(kind: type[BaseException]) -> None:
    """Whatever aiohttp raises, the front end hears a code of the contract, and no words of the peer's."""
    ours = translate(_instance(kind))
    assert isinstance(ours, UnavailableError | BadReplyError)
    for word in ("secret", "10.1.2.3", "jobs.example"):
        assert word not in ours.detail


_REFUSED: Final = {
    aiohttp.ClientConnectorError,
    aiohttp.ClientConnectorDNSError,
    aiohttp.ClientProxyConnectionError,
    aiohttp.ClientConnectorCertificateError,
    aiohttp.ClientConnectorSSLError,
    aiohttp.ClientSSLError,
}


@pytest.mark.parametrize("kind", _public_errors(), ids=lambda kind: kind.__name__)
def test_only_an_error_before_the_connection_stood_says_that_nothing_was_submitted(kind: type[BaseException]) -> None:
    """`refused` is what allows another attempt and `submitted: no`; it must never be guessed."""
    before = kind in _REFUSED or issubclass(kind, aiohttp.InvalidURL)
    assert translate(_instance(kind)).refused is before


def test_what_is_retried_is_a_refused_connection_or_a_name_not_resolved() -> None:
    """And nothing else of what aiohttp raises."""
    retried = {kind for kind in _public_errors() if translate(_instance(kind)).retryable}
    assert retried == {
        aiohttp.ClientConnectorError,
        aiohttp.ClientConnectorDNSError,
        aiohttp.ClientProxyConnectionError,
    }


@pytest.mark.parametrize(
    "broken",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, "Connection reset by peer"),
        ConnectionResetError(104, "Connection reset by peer"),
        BrokenPipeError(32, "Broken pipe"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_a_connection_that_broke_is_a_lost_reply(broken: BaseException) -> None:
    """The job may run: the callback is still waited for, and nothing is sent again."""
    ours = translate(broken)
    assert isinstance(ours, UnavailableError)
    assert (ours.lost_reply, ours.refused, ours.retryable) == (True, False, False)


@pytest.mark.parametrize("strange", [OSError(5, "I/O"), OSError(), ValueError("x")], ids=repr)
def test_errors_below_aiohttp_are_translated_too(strange: BaseException) -> None:
    """Aiohttp lets some through."""
    assert isinstance(translate(strange), JobServerError)


def test_an_error_that_is_not_about_the_job_server_is_not_hidden() -> None:
    """A bug of ours stays a bug."""
    with pytest.raises(TypeError):
        translate(KeyError("x"))


def test_every_error_of_ours_about_the_job_server_has_its_code() -> None:
    """The three kinds map to three codes."""
    assert {str(kind.code) for kind in (UnavailableError, RejectedError, BadReplyError)} == {
        "job-server-unavailable",
        "job-rejected",
        "bad-job-server-reply",
    }
