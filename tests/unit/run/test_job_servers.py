"""The job servers that the settings name."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxy.run.job_servers import job_servers_of
from shared import settings
from shared.errors import SettingsError

PROFILE = """name = "mine"
[server]
url = "http://job-server/?key=1"
[submit]
url = "/jobs"
body = { hook = "{callback_url}" }
[callback]
state = "body.state"
succeeded = ["done"]
"""

FIXED = """name = "{name}"
[server]
url = "http://{name}/"
[submit]
[callback]
path = "/callback/{path}"
correlate = "body.id"
state = "body.state"
succeeded = ["done"]
"""


def test_an_address_has_no_query_where_paths_are_appended_to_it(tmp_path: Path) -> None:
    """They would end up in the query; a complete address may have a query."""
    file = tmp_path / "mine.toml"
    file.write_text(PROFILE, encoding="utf-8")
    urls = {"JOB_SERVER_URL": "http://a/start?key=1"}
    assert [one.url for one in job_servers_of(settings.load(urls))] == ["http://a/start?key=1"]
    for wrong, place in (
        ({"PROFILE": str(file)}, r"PROFILE: \[server\] url"),
        ({"PROFILE": str(file)} | urls, "JOB_SERVER_URL"),
        ({"PROFILE": f"spreedly,{file}"} | urls, r"PROFILE: \[server\] url"),
    ):
        with pytest.raises(SettingsError, match=f"^{place}: takes no query, as the profile mine appends paths to it$"):
            job_servers_of(settings.load(wrong))


def test_two_profiles_cannot_have_the_same_callback_url(tmp_path: Path) -> None:
    """Callbacks of one of them would be read, and verified, as those of the other."""
    for name, path in (("one", "a"), ("two", "b"), ("three", "a")):
        (tmp_path / f"{name}.toml").write_text(FIXED.format(name=name, path=path), encoding="utf-8")
    files = [str(tmp_path / f"{name}.toml") for name in ("one", "two", "three")]
    assert len(job_servers_of(settings.load({"PROFILE": ",".join(files[:2])}))) == 2
    with pytest.raises(SettingsError, match=r"^PROFILE: one and three cannot be served .* /callback/a$"):
        job_servers_of(settings.load({"PROFILE": ",".join(files)}))
