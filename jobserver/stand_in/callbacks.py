"""Sends callbacks, with the proof that the profile requires."""

import base64
import hmac
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import ClientError, ClientSession, ClientTimeout, DummyCookieJar
from yarl import URL

from shared.job_server.placeholders import UnfilledError, fill, names_in
from shared.job_server.profile import Profile, Sample, Verify
from shared.job_server.secret_values import value_of

__all__ = ["CallbackSender", "Sent", "caveats", "proof"]

_TIMEOUT_S: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A callback that was sent, and the status of its answer; None: there was none."""

    job: int
    expect: str
    status: int | None


class CallbackSender:
    """Sends callbacks and remembers them."""

    def __init__(self, profile: Profile, fixed_url: str) -> None:
        """`fixed_url` is the callback URL if submissions have none. An event loop must be running."""
        self._profile = profile
        self._fixed_url = fixed_url
        self._session = ClientSession(
            cookie_jar=DummyCookieJar(),
            timeout=ClientTimeout(total=_TIMEOUT_S),
            headers={"User-Agent": "jobserver", "Accept-Encoding": "identity"},
        )
        self.sent: list[Sent] = []

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def send(self, job: int, sample: Sample, values: Mapping[str, str], *, forged: bool = False) -> None:
        """Send `sample`, with a proof unless it is forged."""
        url = values.get("callback_url", "") or self._fixed_url
        url += f"/{sample.route}" if sample.route else ""
        url += f"?{sample.query}" if sample.query else ""
        body = sample.body.encode()
        headers = {"Content-Type": "application/json"} | {name.title(): text for name, text in sample.headers.items()}
        if not forged:
            headers |= proof(self._profile, body, {**values, "url": url})
        status = None
        try:
            async with self._session.request(
                sample.method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                status = response.status
                await response.read()
        except (ClientError, OSError, TimeoutError, ValueError):
            pass  # recorded by the missing status
        self.sent.append(Sent(job=job, expect="forged" if forged else sample.expect, status=status))


def caveats(profile: Profile, fixed_url: str, environ: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Yield why callbacks for `profile` will not arrive, or not be believed, and which status calls have no answer."""
    if profile.callback.path and not fixed_url:
        yield f"no callbacks are sent: --callback-url has to say where {profile.callback.path} is"
    for end in ("succeeded", "failed"):
        if not any(one.kind == "callback" and one.expect in {end, "notification"} for one in profile.sample):
            yield f"no callbacks are sent for jobs that have {end}: the profile has no sample of one"
    for state in ("progress", "succeeded", "failed") if profile.status else ():
        expects = {state} if state == "progress" else {state, "notification"}
        if not any(one.kind == "status" and one.expect in expects for one in profile.sample):
            yield f"status calls that find {state} are answered 404: the profile has no such sample of one"
    if profile.verify is not None:
        for name, value in _secrets(profile.verify, environ).items():
            if not value:
                yield f"callbacks are sent without their proof: {name.removeprefix('env:')} is not set here"


def _secrets(verify: Verify, environ: Mapping[str, str]) -> dict[str, str]:
    """Return the values of the secrets that a proof needs; of one that is not set here, an empty one."""
    found = {}
    for name in names_in([verify.value, verify.secret]):
        if name.startswith("env:"):
            try:
                found[name] = value_of(name, environ)
            except (OSError, UnicodeDecodeError):
                found[name] = ""
    return found


def proof(profile: Profile, body: bytes, values: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that prove who sends a callback to the `url` among `values`.

    None if a secret is not set here.
    """
    verify = profile.verify
    if verify is None:
        return {}
    known = {**values, **{name: value for name, value in _secrets(verify, os.environ).items() if value}}
    try:
        if verify.scheme == "header":
            return {verify.header: fill(verify.value, known)}
        secret, timestamp = fill(verify.secret, known), str(int(time.time()))
    except UnfilledError:
        return {}
    if verify.scheme == "hmac":
        signed = (
            fill(part, {**known, "timestamp": timestamp}).encode() for part in verify.signed.partition("{body}")[::2]
        )
        digest = hmac.digest(secret.encode(), body.join(signed), verify.hash)
        text = verify.prefix + (digest.hex() if verify.encoding == "hex" else base64.b64encode(digest).decode())
        if verify.timestamp.endswith("="):
            return {verify.header: f"{verify.timestamp}{timestamp},{text}"}
        return {verify.header: text} | ({verify.timestamp: timestamp} if verify.timestamp else {})
    message_id = f"msg_{os.urandom(8).hex()}"
    try:
        key = base64.b64decode(secret.strip().removeprefix("whsec_"), validate=True)
    except ValueError:
        key = secret.strip().encode()
    standard = hmac.digest(key, f"{message_id}.{timestamp}.".encode() + body, "sha256")
    return {
        "Webhook-Id": message_id,
        "Webhook-Timestamp": timestamp,
        "Webhook-Signature": f"v1,{base64.b64encode(standard).decode()}",
    }
