"""deploy/compose.yml and deploy/kubernetes.yaml conform to the schemas, and fit the settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from cluster import nginx
from proxy.run.process import HARD_STOP_S
from shared.settings import load, variables

_DEPLOY: Final = Path(__file__).resolve().parents[3] / "deploy"
_COMPOSE: Final = _DEPLOY / "compose.yml"
_MANIFESTS: Final = list(yaml.safe_load_all((_DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")))
#: The oldest maintained version of Kubernetes, and the newest one that the validator knows.
_VERSIONS: Final = ("1.33", "1.37")
#: The form of the database's address.
_JOURNAL: Final = re.compile(r"postgresql://[a-z]+:[^@/]+@[a-z.]+:5432/jobs")


def _of(kind: str, name: str = "async-job-proxy") -> dict[str, Any]:
    (found,) = [it for it in _MANIFESTS if (it["kind"], it["metadata"]["name"]) == (kind, name)]
    return dict(found)


def _pod() -> dict[str, Any]:
    return dict(_of("Deployment")["spec"]["template"]["spec"])


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    return dict(container)


def _service(name: str) -> dict[str, Any]:
    return dict(yaml.safe_load(_COMPOSE.read_text(encoding="utf-8"))["services"][name])


# --- Kubernetes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", _VERSIONS)
@pytest.mark.parametrize("manifest", _MANIFESTS, ids=lambda it: f"{it['kind']} {it['metadata']['name']}")
def test_each_manifest_is_what_kubernetes_takes(manifest: dict[str, Any], version: str) -> None:
    """By its schema, without unknown fields."""
    import kubernetes_validate  # noqa: PLC0415 - a tenth of a second, and only one process needs it

    kubernetes_validate.validate(manifest, version, strict=True)


def test_the_validator_notices_what_is_wrong() -> None:
    """An unknown field, and a word instead of a number."""
    import kubernetes_validate  # noqa: PLC0415 - as above

    for change in ({"replica": 3}, {"replicas": "three"}):
        manifest = _of("Deployment")
        manifest["spec"] = manifest["spec"] | change
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(manifest, _VERSIONS[1], strict=True)


def test_every_variable_of_the_pods_is_a_setting_and_fits(tmp_path: Path) -> None:
    """With the Secret's values filled in."""
    keys = tmp_path / "api-keys"
    keys.write_text(_of("Secret")["stringData"]["api-keys"], encoding="utf-8")
    given = {entry["name"]: entry.get("value", "") for entry in _container()["env"]}
    assert given.keys() < variables().keys()
    load(given | {"API_KEYS_FILE": str(keys)})


def test_the_journal_comes_from_the_secret() -> None:
    """Reading the Deployment does not reveal the password."""
    (journal,) = [entry for entry in _container()["env"] if entry["name"] == "JOURNAL"]
    key = journal["valueFrom"]["secretKeyRef"]
    assert key["name"] == "async-job-proxy"
    assert _JOURNAL.fullmatch(_of("Secret")["stringData"][key["key"]])


def test_kubernetes_waits_until_the_jobs_in_flight_are_finished() -> None:
    """The grace period covers the delay, a whole job, and the shutdown itself."""
    env = {entry["name"]: entry.get("value", "") for entry in _container()["env"]}
    least_s = float(env["DRAIN_DELAY"]) + float(env["JOB_TIMEOUT"]) + HARD_STOP_S + 2
    assert _pod()["terminationGracePeriodSeconds"] >= least_s


def test_a_pod_that_drains_is_noticed_before_it_refuses_jobs() -> None:
    """The probe fails within DRAIN_DELAY, which leaves seconds for the endpoints to be updated."""
    env = {entry["name"]: entry.get("value", "") for entry in _container()["env"]}
    probe = _container()["readinessProbe"]
    noticed_s = probe["periodSeconds"] * probe["failureThreshold"]
    assert noticed_s + 5 <= float(env["DRAIN_DELAY"])
    assert probe["httpGet"]["path"] == "/readyz"
    assert {_container()[name]["httpGet"]["path"] for name in ("livenessProbe", "startupProbe")} == {"/healthz"}


def test_everything_selects_the_same_pods() -> None:
    """So that a label is not changed in one place only."""
    labels = _of("Deployment")["spec"]["template"]["metadata"]["labels"]
    selectors = [
        _of("Deployment")["spec"]["selector"]["matchLabels"],
        _of("PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        _of("NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        _of("Service")["spec"]["selector"],
        _of("Service", "async-job-proxy-open")["spec"]["selector"],
    ]
    assert all(selector == labels for selector in selectors)
    ports = {port["name"] for port in _container()["ports"]}
    named = re.findall(r"(?:targetPort|port): ([a-z]+)\b", (_DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8"))
    assert set(named) == ports


def test_callbacks_reach_pods_that_are_not_ready_and_new_jobs_do_not() -> None:
    """Clients wait for the jobs of draining pods."""
    assert _of("Service", "async-job-proxy-open")["spec"]["publishNotReadyAddresses"] is True
    assert "publishNotReadyAddresses" not in _of("Service")["spec"]


def test_the_pods_run_as_the_user_of_the_image_and_may_do_little() -> None:
    """Not as root, with only /tmp writable, without privileges."""
    (uid,) = re.findall(r"--uid (\d+) ", (_DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    assert _pod()["securityContext"]["runAsUser"] == int(uid)
    own = _container()["securityContext"]
    assert (own["allowPrivilegeEscalation"], own["readOnlyRootFilesystem"]) == (False, True)
    assert own["capabilities"] == {"drop": ["ALL"]}


# --- Compose ---------------------------------------------------------------------------------------------------------


def test_the_compose_file_is_what_its_specification_says() -> None:
    """Unknown keys are refused."""
    from compose_spec import PyCompose  # noqa: PLC0415 - as above

    text = _COMPOSE.read_text(encoding="utf-8")
    # The parser takes the file after interpolation, like Compose.
    filled = re.sub(r"\$\{POSTGRES_PASSWORD:\?[^}]*\}", "secret", text)
    assert PyCompose.from_yaml(filled).service_names() == ["database", "proxy", "entry", "job-server"]
    with pytest.raises(Exception, match="grace_period"):
        PyCompose.from_yaml(filled.replace("stop_grace_period", "grace_period"))


def test_the_settings_of_the_services_fit() -> None:
    """Each variable is a setting, but libpq's own."""
    given = {name: str(value) for name, value in _service("proxy")["environment"].items()}
    assert given.pop("PGPASSWORD")
    assert given.keys() < variables().keys()
    load(given)


def test_no_password_is_in_the_compose_file() -> None:
    """It has to be given, is the same on both sides, and may have any characters, as it is not in a URL."""
    asked_for = "${POSTGRES_PASSWORD:?choose a password}"
    database = _service("database")["environment"]
    assert database["POSTGRES_PASSWORD"] == asked_for
    proxy = _service("proxy")["environment"]
    assert proxy["PGPASSWORD"] == asked_for
    assert proxy["JOURNAL"] == f"postgresql://{database['POSTGRES_USER']}@database:5432/{database['POSTGRES_DB']}"


def test_compose_waits_until_the_jobs_in_flight_are_finished() -> None:
    """More than a whole job plus the shutdown itself."""
    seconds = int(_service("proxy")["stop_grace_period"].removesuffix("s"))
    assert seconds > load({}).job_timeout + HARD_STOP_S + 2


@pytest.mark.skipif(not nginx.is_installed(), reason="nginx is not installed (Debian package: nginx)")
def test_the_entry_of_the_compose_file_is_a_site_that_nginx_takes(tmp_path: Path) -> None:
    """deploy/nginx.conf with the changes of the entry's command."""
    script = _service("entry")["entrypoint"][2].partition(" && exec")[0]
    site = tmp_path / "site.conf"
    script = script.replace("/site.conf", str(nginx.FILE)).replace("/etc/nginx/conf.d/default.conf", str(site))
    subprocess.run(["sh", "-c", script], check=True)
    text = site.read_text(encoding="utf-8")
    assert "server proxy:3000 max_fails=0;" in text
    assert "listen 3000;" in text
    assert "ssl" not in re.sub("#.*", "", text)
    site.write_text(re.sub("proxy:3000|/dev/std(out|err)", _stand_in(tmp_path), text), encoding="utf-8")
    main = tmp_path / "main.conf"
    main.write_text(f"pid {tmp_path}/pid; events {{}} http {{ include {site}; }}", encoding="utf-8")
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin") or "nginx"
    done = subprocess.run(
        [program, "-t", "-e", str(tmp_path / "log"), "-p", str(tmp_path), "-c", str(main)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, json.dumps(done.stderr)


def _stand_in(folder: Path) -> Any:  # noqa: ANN401 - what re.sub takes
    return lambda found: "127.0.0.1:3000" if found[0] == "proxy:3000" else f"{folder}/log"
