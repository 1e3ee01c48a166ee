"""The loader: what is wrong in a profile is named, with its place."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import SettingsError
from shared.job_server import loader
from shared.job_server.profile import Profile
from shared.worker_config import WorkerConfig

SOUND = """
name = "sound"
[submit]
url = "/jobs"
[callback]
state = "body.state"
succeeded = ["done"]
"""

HEAD = 'name = "x"'
CALLBACK = '[callback]\nstate = "a"\nsucceeded = []'

WRONG = {
    "nam = 1": "there is no key `nam` at the top; did you mean `name`?",
    "zzz = 1": "there is no key `zzz` at the top; known are name, description, documentation, ",
    "[calback]": "there is no key `calback` at the top; did you mean `callback`?",
    "[submit]\nacepted = [200]": "there is no key `acepted` in [submit]; did you mean `accepted`?",
    f"{HEAD}\n[submit]": "the top: missing key callback",
    f'{HEAD}\n[submit]\n[callback]\nstate = "a"': "callback: missing key succeeded",
    f"name = 1\n[submit]\n{CALLBACK}": "name: Expected str, got int",
    f'{HEAD}\n[submit]\naccepted = ["2xx"]\n{CALLBACK}': "submit.accepted[0]: Expected int, got str",
    f'{HEAD}\n[submit]\nstate = "a b"\n{CALLBACK}': "submit.state: 'a b' is no expression: ",
    f'{HEAD}\n[submit]\nrejected = "!"\n{CALLBACK}': "submit.rejected: '!' is no expression: ",
    f'{HEAD}\n[submit]\nbody = {{ a = ["{{calback_url}}"] }}\n{CALLBACK}': (
        "submit.body: there is no placeholder {calback_url}; known are {callback_token}, {callback_url}, {job_id}"
    ),
    "name = ": "Invalid value (at end of document)",
    f"{HEAD}\n[submit]\n[[callback]]": "callback: Expected object, got array",
}


@pytest.mark.parametrize(("text", "reason"), list(WRONG.items()))
def test_what_is_wrong_is_named_with_its_place(text: str, reason: str) -> None:
    """A key that is unknown or missing, a wrong type, an expression or a placeholder that is none."""
    with pytest.raises(ValueError, match=r".") as caught:
        loader.parse(text)
    assert str(caught.value).startswith(reason)


def test_a_name_means_a_file_of_the_folder_and_anything_else_a_path(tmp_path: Path) -> None:
    """What has a slash or ends in .toml is a path."""
    file = tmp_path / "mine.toml"
    file.write_text(SOUND, encoding="utf-8")
    assert loader.load(str(file)).name == "sound"
    assert loader.path_of("cog") == loader.FOLDER / "cog.toml"
    assert loader.path_of("mine.toml") == Path("mine.toml")


def test_a_profile_that_is_not_there_is_one_line_that_names_those_that_are() -> None:
    """As for any setting."""
    with pytest.raises(SettingsError, match=r"^PROFILE: got 'nothing', takes a profile's name \(.*spreedly.*\) or "):
        loader.load("nothing")


def test_a_profile_that_is_wrong_is_one_line_that_names_its_file(tmp_path: Path) -> None:
    """As for any setting."""
    file = tmp_path / "mine.toml"
    file.write_text("nme = 1", encoding="utf-8")
    with pytest.raises(SettingsError, match=rf"^PROFILE: {file}: there is no key `nme`"):
        loader.load(str(file))


def test_a_profile_reaches_a_worker_as_it_is() -> None:
    """Nothing is lost on the way, and no list stays a list that was a tuple."""
    profile = loader.load("spreedly")
    config = WorkerConfig(
        job_server_url="http://a/", profile=profile, max_body_bytes=1, submit_retries=1, lost_reply_wait_s=1, max_jobs=1
    )
    assert WorkerConfig.decode(config.encode()) == config
    assert Profile.from_json(profile.as_json()) == profile
