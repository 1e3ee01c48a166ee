"""Whatever a job server sends: no profile's rules raise, and what they find is safe to use."""

from __future__ import annotations

import random
import time

import pytest

from shared.errors import StrictJSONError
from shared.job_server import loader
from shared.job_server.callbacks import Callbacks, Received
from shared.job_server.polls import Results, Statuses
from shared.job_server.profile import Profile
from shared.job_server.submissions import Replies
from shared.job_server.verification import Verifier
from tests.support import mutations
from tests.support.profiles import shipped_profiles

VALUES = {"callback_token": "TOKEN", "job_id": "0" * 32, "env:ANY": "whsec_c2VjcmV0"}


@pytest.mark.parametrize("profile", shipped_profiles(), ids=lambda profile: profile.name)
def test_no_message_raises(profile: Profile) -> None:
    """As a reply, a callback, a status and a result; outputs are short texts."""
    chance = random.Random(profile.name)
    replies, callbacks = Replies(profile.submit), Callbacks(profile.callback)
    statuses = None if profile.status is None else Statuses(profile.status)
    results = None if profile.result is None else Results(profile.result)
    verifier = None if profile.verify is None else Verifier(profile.verify)
    secrets = VALUES | dict.fromkeys(loader.secret_names(profile), "whsec_c2VjcmV0")
    for _ in range(150):
        sample = chance.choice(profile.sample)
        raw, status = mutations.body(sample.body, chance), mutations.status(sample.status, chance)
        headers = {**sample.headers, "content-type": mutations.header(chance)}
        reply = replies.read_status(status, retry_after=False) or replies.read(status, headers, raw)
        assert all(0 < len(text) <= 8_000 for text in reply.outputs.values())
        received = Received(
            route=sample.route,
            query=chance.choice(["", "a=1&a=2", "%", sample.query]),
            headers=[(name.encode(), text.encode()) for name, text in headers.items()],
            body=raw,
        )
        callbacks_read(callbacks, received)
        if statuses is not None:
            statuses.read(status, headers, raw)
        if results is not None:
            results.read(status, headers, raw)
        if verifier is not None:
            assert not verifier.is_genuine(received, raw, secrets, time.time())


def callbacks_read(callbacks: Callbacks, received: Received) -> None:
    """Read a callback; the only error is that it is not JSON."""
    try:
        assert isinstance(callbacks.correlation(received), str)
        verdict = callbacks.read(received)
    except StrictJSONError:
        return
    assert verdict.result is None or isinstance(verdict.result, bytes)
