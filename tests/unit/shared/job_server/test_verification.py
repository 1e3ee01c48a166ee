"""Verification: without the secret, no callback is accepted, whatever else is right."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.job_server.callbacks import Received
from shared.job_server.profile import Verify
from shared.job_server.verification import Verifier

NOW = 1_674_087_231.0
VALUES = {"env:KEY": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "callback_token": "token", "env:PLAIN": "plain"}


def accepts(
    verify: Verify, body: bytes, headers: dict[str, str], *, now: float = NOW, raw: bytes | None = None, url: str = ""
) -> bool:
    """Verify a callback with these headers."""
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
    received = Received(body=body, headers=pairs)
    return Verifier(verify).is_genuine(received, body if raw is None else raw, VALUES | {"url": url}, now)


Hash = Literal["sha1", "sha256", "sha512"]
Encoding = Literal["hex", "base64"]
HASHES: list[Hash] = ["sha1", "sha256", "sha512"]
ENCODINGS: list[Encoding] = ["hex", "base64"]

HEADER = Verify(scheme="header", header="X-Token", value="Bearer {callback_token}")


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"x-token": "Bearer token"}, True),
        ({"x-token": "Bearer Token"}, False),
        ({"x-token": ""}, False),
        ({"x-other": "Bearer token"}, False),
        ({"x-token": "Bearer tokén"}, False),
        ({}, False),
    ],
)
def test_a_header_must_hold_what_the_job_server_was_told(headers: dict[str, str], expected: bool) -> None:
    """Exactly."""
    assert accepts(HEADER, b"", headers) is expected


@pytest.mark.parametrize("coding", ["utf-8", "latin-1"])
def test_a_header_may_be_in_either_encoding(coding: str) -> None:
    """HTTP has no encoding for other characters than ASCII, and libraries do not agree."""
    verify = Verify(scheme="header", header="X-Token", value="{env:PLAIN}")
    for secret, sent, expected in (
        ("p\u00e4ss", "p\u00e4ss", True),
        ("p\u00e4ss", "p\u00f6ss", False),
        ("p?ss", "p\u00e4ss", False),
    ):
        received = Received(body=b"", headers=[(b"x-token", sent.encode(coding))])
        assert Verifier(verify).is_genuine(received, b"", {"env:PLAIN": secret}, NOW) is expected


def test_what_is_not_known_cannot_be_proven() -> None:
    """A value that cannot be filled in matches nothing, not even an empty header."""
    assert not accepts(Verify(scheme="header", header="x", value="{env:GONE}"), b"", {"x": "{env:GONE}"})
    assert not accepts(Verify(scheme="header", header="x", value=""), b"", {"x": ""})


STANDARD = Verify(scheme="standard-webhooks", secret="{env:KEY}")
#: The example of the specification's reference implementation.
BODY = b'{"test": 2432232314}'
EXAMPLE = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}


def test_standard_webhooks_accepts_the_example_of_its_specification() -> None:
    """Even among other signatures, as while a secret is being replaced."""
    assert accepts(STANDARD, BODY, EXAMPLE, now=1614265330)
    several = {"webhook-signature": f"v1,AAAA v2,x {EXAMPLE['webhook-signature']}"}
    assert accepts(STANDARD, BODY, EXAMPLE | several, now=1614265330)


def test_standard_webhooks_may_have_the_names_of_their_inventor() -> None:
    """Svix sends the same, with its own names of the headers, unless its customer has it otherwise."""
    own = {name.replace("webhook-", "svix-"): value for name, value in EXAMPLE.items()}
    assert accepts(STANDARD, BODY, own, now=1614265330)
    assert not accepts(STANDARD, BODY, own | {"svix-id": "msg_other"}, now=1614265330)
    assert not accepts(STANDARD, BODY, own | {"webhook-id": "msg_other"}, now=1614265330)


@pytest.mark.parametrize(("age_s", "expected"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_standard_webhooks_refuses_what_is_old_or_to_come(age_s: int, expected: bool) -> None:
    """More than five minutes either way, so that an old callback cannot be replayed."""
    assert accepts(STANDARD, BODY, EXAMPLE, now=1614265330 + age_s) is expected


@pytest.mark.parametrize(
    "change",
    [
        {"webhook-id": "msg_other"},
        {"webhook-timestamp": "1614265331"},
        {"webhook-timestamp": "1" * 5_000},
        {"webhook-timestamp": "-1"},
        {"webhook-timestamp": "\u0661"},
        {"webhook-timestamp": ""},
        {"webhook-signature": "v1,"},
        {"webhook-signature": "g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": "v1a,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="},
        {"webhook-signature": ""},
    ],
)
def test_standard_webhooks_refuses_whatever_is_not_signed(change: dict[str, str]) -> None:
    """The id and the time are signed, too."""
    pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in (EXAMPLE | change).items()]
    received = Received(body=BODY, headers=pairs)
    assert not Verifier(STANDARD).is_genuine(received, BODY, VALUES, 1614265330)


def test_a_standard_secret_need_not_be_base64() -> None:
    """Some senders use the secret unchanged."""
    signed = base64.b64encode(hmac.digest(b"it's plain", b"a.1614265330.{}", "sha256")).decode()
    headers = {"webhook-id": "a", "webhook-timestamp": "1614265330", "webhook-signature": f"v1,{signed}"}
    assert accepts(Verify(scheme="standard-webhooks", secret="it's plain"), b"{}", headers, now=1614265330)


@pytest.mark.parametrize("secret", ["whsec_", "whsec_\n", "==", " "])
def test_a_standard_secret_is_not_empty(secret: str) -> None:
    """Anybody could sign with it."""
    signed = base64.b64encode(hmac.digest(b"", b"a.1614265330.{}", "sha256")).decode()
    headers = {"webhook-id": "a", "webhook-timestamp": "1614265330", "webhook-signature": f"v1,{signed}"}
    assert not accepts(Verify(scheme="standard-webhooks", secret=secret), b"{}", headers, now=1614265330)


def test_a_standard_secret_may_end_in_a_new_line() -> None:
    """As what is read from a file often does."""
    verify = Verify(scheme="standard-webhooks", secret=f"{VALUES['env:KEY']}\n")
    assert accepts(verify, BODY, EXAMPLE, now=1614265330)


@pytest.mark.parametrize("hash_name", HASHES)
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("prefix", ["", "sha256="])
def test_an_hmac_is_that_of_the_body(hash_name: Hash, encoding: Encoding, prefix: str) -> None:
    """In each form that senders use."""
    verify = Verify(
        scheme="hmac",
        header="X-Sign",
        secret="{env:PLAIN}",
        hash=hash_name,
        encoding=encoding,
        prefix=prefix,
    )
    digest = hmac.new(b"plain", b"body", getattr(hashlib, hash_name)).digest()
    text = prefix + (digest.hex() if encoding == "hex" else base64.b64encode(digest).decode())
    assert accepts(verify, b"body", {"x-sign": text})
    assert accepts(verify, b"body", {"x-sign": f"{prefix}00, {text}"})
    assert not accepts(verify, b"Body", {"x-sign": text})
    assert not accepts(verify, b"body", {"x-sign": text[:-3]})
    assert not accepts(verify, b"body", {})


@pytest.mark.parametrize("prefix", ["", "sha256=", "v1,"])
def test_a_signature_has_many_notations(prefix: str) -> None:
    """Upper case, no padding, the alphabet for URLs, a prefix with a comma: none of them was ever accepted."""
    digest = hmac.new(b"plain", b"13", "sha256").digest()
    encoded = base64.b64encode(digest).decode()
    assert set("+/=") <= set(encoded)
    url_safe = base64.urlsafe_b64encode(digest).decode()
    notations: list[tuple[Encoding, str]] = [
        ("hex", digest.hex().upper()),
        ("base64", encoded),
        ("base64", encoded.rstrip("=")),
        ("base64", url_safe),
        ("base64", url_safe.rstrip("=")),
    ]
    for encoding, text in notations:
        verify = Verify(scheme="hmac", header="x", secret="{env:PLAIN}", prefix=prefix, encoding=encoding)
        assert accepts(verify, b"13", {"x": prefix + text})
        assert not accepts(verify, b"14", {"x": prefix + text})
        assert not accepts(verify, b"13", {"x": f"other={text}"})
        assert not accepts(verify, b"13", {"x": prefix + text.swapcase()}) or encoding == "hex"


def test_a_signature_may_be_of_the_body_as_it_came_or_inflated() -> None:
    """Senders differ in what they sign."""
    verify = Verify(scheme="hmac", header="x", secret="{env:PLAIN}")
    raw = gzip.compress(b"body")
    for signed in (raw, b"body"):
        assert accepts(verify, b"body", {"x": hmac.new(b"plain", signed, "sha256").hexdigest()}, raw=raw)
    assert not accepts(verify, b"body", {"x": hmac.new(b"plain", b"other", "sha256").hexdigest()}, raw=raw)


#: As Mux and Stripe, pyannoteAI and Slack, Retell, and Square sign.
IN_THE_HEADER = Verify(
    scheme="hmac", header="X", secret="{env:PLAIN}", prefix="v1=", timestamp="t=", signed="{timestamp}.{body}"
)
IN_ANOTHER = Verify(
    scheme="hmac", header="X", secret="{env:PLAIN}", prefix="v0=", timestamp="X-At", signed="v0:{timestamp}:{body}"
)
AFTER_THE_BODY = Verify(
    scheme="hmac", header="X", secret="{env:PLAIN}", prefix="d=", timestamp="v=", signed="{body}{timestamp}"
)
OF_THE_URL = Verify(scheme="hmac", header="X", secret="{env:PLAIN}", encoding="base64", signed="{url}{body}")


def signature(content: bytes) -> str:
    """Return the signature of `content`."""
    return hmac.digest(b"plain", content, "sha256").hex()


@pytest.mark.parametrize(("age_s", "expected"), [(0, True), (300, True), (301, False), (-300, True), (-301, False)])
def test_a_signature_may_be_of_a_timestamp_too(age_s: int, expected: bool) -> None:
    """Which is not far from now, so that an old callback cannot be replayed."""
    at, ms = int(NOW), int(NOW) * 1_000
    for verify, headers in (
        (IN_THE_HEADER, {"x": f"t={at},v0=00, v1={signature(b'%d.body' % at)}"}),
        (IN_THE_HEADER, {"x": f"t={at};v1={signature(b'%d.body' % at)}"}),
        (IN_ANOTHER, {"x": f"v0={signature(b'v0:%d:body' % at)}", "x-at": str(at)}),
        (AFTER_THE_BODY, {"x": f"v={ms},d={signature(b'body%d' % ms)}"}),
    ):
        assert accepts(verify, b"body", headers, now=NOW + age_s) is expected
        assert not accepts(verify, b"Body", headers, now=NOW + age_s)
        later = {name: text.replace(str(at), str(at + 1)) for name, text in headers.items()}
        assert not accepts(verify, b"body", later, now=NOW + age_s)


@pytest.mark.parametrize("at", ["", "-1", "\u0661", "1" * 14, "2026-11-27", str(int(NOW))])
def test_a_timestamp_is_a_number_where_it_belongs(at: str) -> None:
    """Even if it is signed as it is."""
    content = f"{at}.body".encode()
    there = accepts(IN_THE_HEADER, b"body", {"x": f"t={at},v1={signature(content)}".encode().decode("latin-1")})
    assert there is (at == str(int(NOW)))
    assert not accepts(IN_THE_HEADER, b"body", {"x": f"v1={signature(content)}", "t": at.encode().decode("latin-1")})


def test_a_signature_may_be_of_the_url_too() -> None:
    """As it was called."""
    url = "https://proxy.example/callback/square?a=1"
    text = base64.b64encode(hmac.digest(b"plain", f"{url}body".encode(), "sha256")).decode()
    assert accepts(OF_THE_URL, b"body", {"x": text}, url=url)
    assert not accepts(OF_THE_URL, b"body", {"x": text}, url=f"{url}0")
    assert not accepts(OF_THE_URL, b"0body", {"x": text}, url=url)


@pytest.mark.parametrize(
    "verify",
    [HEADER, STANDARD, Verify(scheme="hmac", header="x", secret="s"), IN_THE_HEADER, IN_ANOTHER, OF_THE_URL],
)
@given(st.dictionaries(st.sampled_from(["x", "x-token", *EXAMPLE]), st.text(st.characters(max_codepoint=255))))
def test_nothing_that_is_made_up_is_accepted_or_raises(verify: Verify, headers: dict[str, str]) -> None:
    """Whatever its headers contain."""
    assert not accepts(verify, b"{}", headers)


@pytest.mark.parametrize(
    ("verify", "headers", "lack"),
    [
        (HEADER, {}, "it has no header X-Token"),
        (HEADER, {"x-token": "Bearer another"}, ""),
        (
            Verify(scheme="hmac", header="X-Sig", secret="s", prefix="v1="),
            {"x-sig": "a"},
            "X-Sig does not begin with v1=",
        ),
        (Verify(scheme="hmac", header="X-Sig", secret="s", prefix="v1="), {"x-sig": "v1=a"}, ""),
        (STANDARD, {"webhook-id": "a"}, "it has no header webhook-timestamp"),
        (STANDARD, {"webhook-timestamp": "2026-11-27"}, "its timestamp is no Unix time in seconds or milliseconds"),
        (IN_THE_HEADER, {"x": "v1=a"}, "its timestamp is no Unix time in seconds or milliseconds"),
        (IN_THE_HEADER, {"x": "t=1"}, "its header X does not begin with v1="),
        (IN_THE_HEADER, {"x": "t=1674087631, v1=a"}, "its timestamp is 400 s ahead of this machine's clock"),
        (IN_THE_HEADER, {"x": "t=1674087231,v1=a"}, ""),
        (IN_ANOTHER, {"x": "v0=a"}, "it has no header X-At"),
        (STANDARD, {"webhook-timestamp": str(int(NOW) - 301)}, "its timestamp is 301 s behind this machine's clock"),
        (
            STANDARD,
            {"webhook-timestamp": str(int(NOW) + 9_999)},
            "its timestamp is 9999 s ahead of this machine's clock",
        ),
        (STANDARD, {"webhook-timestamp": str(int(NOW) - 300)}, ""),
    ],
)
def test_what_is_wrong_whatever_the_secret_is_can_be_told(verify: Verify, headers: dict[str, str], lack: str) -> None:
    """An operator would take a clock that is wrong, or another header, for a wrong secret."""
    if len(headers) == 1 and "webhook-timestamp" in headers:
        headers = {"webhook-id": "a", "webhook-signature": "v1,a", **headers}
    received = Received(body=b"", headers=[(name.encode(), value.encode()) for name, value in headers.items()])
    assert Verifier(verify).lack(received, NOW).endswith(lack)
    assert bool(lack) is bool(Verifier(verify).lack(received, NOW))
