"""The configuration of workers; the same for every job, sent once to the fork server when it starts."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from shared.job_server.profile import Profile

__all__ = ["JobServer", "WorkerConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class JobServer:
    """A job server: its address, and its protocol."""

    url: str
    profile: Profile
    #: The values of the profile's placeholders `{env:NAME}`, by `env:NAME`.
    secrets: dict[str, str] = field(default_factory=dict, repr=False)
    #: The files from which some of these values are, by `env:NAME`.
    secret_files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """The part of the settings that reaches the workers."""

    #: Where jobs are submitted; the first one is the default.
    job_servers: tuple[JobServer, ...]
    #: A file with authorities that are trusted for the job server, besides the system's. Empty: none.
    job_server_cafile: str = ""
    #: The maximum size of the job server's reply, in bytes.
    max_body_bytes: int
    #: How often a submission that certainly started no job is retried.
    submit_retries: int
    #: Seconds to wait for the callback after the connection broke before the reply.
    lost_reply_wait_s: float
    #: How many jobs a worker runs before it exits; 0: no limit.
    max_jobs: int
    #: Seconds that a worker may continue a submission when the front end is gone. Useful if a restarted front end will
    #: still know the job: an aborted submission is `unknown`, a completed one gets its callback.
    linger_s: float = 0.0
    #: Whether the objects that the fork server has loaded are made immortal, if that is possible.
    immortal_objects: bool = True

    def encode(self) -> bytes:
        """Return the configuration as bytes."""
        members: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        members["job_servers"] = [
            {
                "url": one.url,
                "profile": one.profile.as_json(),
                "secrets": one.secrets,
                "secret_files": one.secret_files,
            }
            for one in self.job_servers
        ]
        return json.dumps(members).encode()

    @classmethod
    def decode(cls, data: bytes) -> WorkerConfig:
        """Return the configuration that `encode` wrote."""
        members = json.loads(data)
        job_servers = tuple(
            JobServer(**one | {"profile": Profile.from_json(one["profile"])}) for one in members["job_servers"]
        )
        return cls(**members | {"job_servers": job_servers})
