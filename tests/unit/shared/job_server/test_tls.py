"""Why TLS to the job server failed, in helpful words."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import pytest

from shared.job_server.tls import tls_trouble, trusting

_TLS: Final = Path(__file__).resolve().parents[3] / "support" / "tls"

_HINT: Final = "; JOB_SERVER_CAFILE can name a file with its CA"


def unverified(code: int, message: str) -> ssl.SSLCertVerificationError:
    """As OpenSSL reports it."""
    error = ssl.SSLCertVerificationError(1, "[SSL: CERTIFICATE_VERIFY_FAILED] words of the peer")
    error.verify_code, error.verify_message = code, message
    return error


def failed(reason: str) -> ssl.SSLError:
    """As OpenSSL reports it."""
    error = ssl.SSLError(1, "words of the peer")
    error.reason = reason
    return error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            unverified(18, "self-signed certificate"),
            f"its certificate was not accepted: self-signed certificate{_HINT}",
        ),
        (
            unverified(20, "unable to get local issuer certificate"),
            f"its certificate was not accepted: unable to get local issuer certificate{_HINT}",
        ),
        (unverified(10, "certificate has expired"), "its certificate was not accepted: certificate has expired"),
        (
            unverified(62, "Hostname mismatch, certificate is not valid for 'jobs.example'."),
            "its certificate was not accepted: Hostname mismatch, certificate is not valid for 'jobs.example'",
        ),
        (failed("WRONG_VERSION_NUMBER"), "it does not speak TLS; is it http:// rather than https://?"),
        (failed("TLSV13_ALERT_CERTIFICATE_REQUIRED"), "it asks for a client certificate, and the proxy has none"),
        (failed("TLSV1_ALERT_INTERNAL_ERROR"), "the TLS handshake failed: tlsv1 alert internal error"),
        (ConnectionResetError(), "it closed the connection during the TLS handshake"),
        (ssl.SSLError(1, "words of the peer"), "the TLS handshake failed"),
    ],
    ids=[
        "self-signed",
        "own CA",
        "expired",
        "wrong host",
        "no TLS",
        "client certificate",
        "another reason",
        "closed",
        "no reason",
    ],
)
def test_the_reason_is_named_and_the_remedy_where_there_is_one(error: OSError, words: str) -> None:
    """And nothing from the peer."""
    assert tls_trouble(error) == words


def test_a_file_with_certificates_is_trusted_besides_the_systems() -> None:
    """Even a self-signed one, which is its own authority."""
    plain = len(trusting("").get_ca_certs())
    assert len(trusting(str(_TLS / "cert.pem")).get_ca_certs()) == plain + 1


@pytest.mark.parametrize("name", ["key.pem", "missing.pem"])
def test_a_file_without_certificates_cannot_be_trusted(name: str) -> None:
    """The start reports it."""
    with pytest.raises(OSError, match=r"."):
        trusting(str(_TLS / name))
