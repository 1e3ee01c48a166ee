"""The job servers that the settings name, and the configuration that workers get for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from shared import setting_kinds as kinds
from shared.errors import SettingsError
from shared.job_server import loader
from shared.worker_config import JobServer, WorkerConfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.job_server.profile import Profile
    from shared.settings import Settings

__all__ = ["address_of", "job_servers_of", "worker_config"]

#: How long a submission may continue after the front end was killed: much less than a restart takes.
_LINGER_S: Final = 1.0


def job_servers_of(settings: Settings) -> tuple[JobServer, ...]:
    """Return the job servers that PROFILE names. JOB_SERVER_URL is the first one's; empty: the embedded one.

    Raises:
        SettingsError: a profile cannot be loaded, a secret is not set, two profiles cannot be served together, one of
            the others has no address, or an address has a query where a path is to be appended.
    """
    servers: list[JobServer] = []
    for name in settings.profile.split(","):
        profile = loader.load(name.strip())
        url = address_of(profile, [one.profile for one in servers], settings)
        secrets, files = loader.secrets_of(profile), loader.secret_files(profile)
        servers.append(JobServer(url=url, profile=profile, secrets=secrets, secret_files=files))
    return tuple(servers)


def address_of(profile: Profile, before: Sequence[Profile], settings: Settings) -> str:
    """Return the address of a profile's job server; PROFILE names the profiles `before` it.

    Raises:
        SettingsError: it cannot be served together with these, or has no usable address.
    """
    for one in before:
        if one.name == profile.name:
            raise SettingsError(f"PROFILE: {profile.name} is named twice")
        if profile.callback.path and one.callback.path == profile.callback.path:
            both = f"{one.name} and {profile.name}"
            raise SettingsError(f"PROFILE: {both} cannot be served together: both get callbacks at {one.callback.path}")
    url = "" if before else settings.job_server_url
    place = "JOB_SERVER_URL" if url else "PROFILE: [server] url"
    url = url or _normal(profile)
    if before and not url:
        raise SettingsError(f"PROFILE: {profile.name} has no [server] url, and only the first one takes JOB_SERVER_URL")
    if "?" in url and profile.submit.url:
        raise SettingsError(f"{place}: takes no query, as the profile {profile.name} appends paths to it")
    return url


def _normal(profile: Profile) -> str:
    """Return the profile's own address, parsed like JOB_SERVER_URL. Raises SettingsError if it is invalid."""
    try:
        return str(kinds.URL.parse(profile.server.url))
    except ValueError:
        raise SettingsError(
            f"PROFILE: {profile.name}: [server] url is {profile.server.url!r}, takes {kinds.URL.takes}"
        ) from None


def worker_config(settings: Settings, job_servers: tuple[JobServer, ...]) -> WorkerConfig:
    """Return what the workers need to know of the settings."""
    speaks_tls = any(one.url.startswith("https:") for one in job_servers)
    return WorkerConfig(
        job_servers=job_servers,
        job_server_cafile=settings.job_server_cafile if speaks_tls else "",
        max_body_bytes=settings.max_body_bytes,
        submit_retries=settings.submit_retries,
        lost_reply_wait_s=settings.lost_reply_wait,
        max_jobs=settings.worker_max_jobs,
        linger_s=_LINGER_S if settings.journal else 0.0,
        immortal_objects=settings.immortal_objects == "auto",
    )
