"""The Kubernetes example: valid by its schema, and its figures match the server's settings."""

from __future__ import annotations

import math
import pathlib
import re
from typing import Any

import kubernetes_validate
import pytest
import yaml
from ansible_collections.baton.web.plugins.module_utils.app import workers

PROJECT = pathlib.Path(__file__).parents[3]
MANIFESTS = sorted((PROJECT / "app/kubernetes").glob("*.yml"))
# the oldest version with preStop's sleep enabled by default, and the newest known version
VERSIONS = ["1.30", kubernetes_validate.latest_version()]
OBJECTS: list[dict[str, Any]] = [found for path in MANIFESTS for found in yaml.safe_load_all(path.read_text())]


def one(kind: str) -> dict[str, Any]:
    """The only object of this kind."""
    [found] = [entry for entry in OBJECTS if entry["kind"] == kind]
    return found


def pod(kind: str = "Deployment") -> dict[str, Any]:
    specification: dict[str, Any] = one(kind)["spec"]["template"]["spec"]
    return specification


def web() -> dict[str, Any]:
    [container] = pod()["containers"]
    assert isinstance(container, dict)
    return container


def server() -> dict[str, Any]:
    """The settings in the image's gunicorn.conf.py that are plain assignments."""
    text = (PROJECT / "app/container/gunicorn.conf.py").read_text()
    return {name: float(value) for name, value in re.findall(r"^(\w+) = ([\d.]+)$", text, re.MULTILINE)}


def default(name: str) -> float:
    """A default of gunicorn_handover, from its README."""
    found = re.search(rf"^\| `{name}` \| ([\d.]+) \|", (PROJECT / "handover/README.md").read_text(), re.MULTILINE)
    assert found
    return float(found[1])


def mebibytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(Mi|Gi)", quantity).groups()  # type: ignore[union-attr]
    return int(number) * (1024 if unit == "Gi" else 1)


def window(probe: dict[str, Any]) -> int:
    """Seconds until a probe gives up."""
    return int(probe["periodSeconds"] * probe["failureThreshold"])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("manifest", OBJECTS, ids=lambda found: found["kind"])
def test_manifest_is_valid(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_termination_grace_period_covers_the_drain() -> None:
    drain = server()["graceful_timeout"] + default("handover_exit_timeout")
    assert pod()["terminationGracePeriodSeconds"] > web()["lifecycle"]["preStop"]["sleep"]["seconds"] + drain


def test_terminating_pod_accepts_until_endpoints_are_updated() -> None:
    assert web()["lifecycle"]["preStop"]["sleep"]["seconds"] >= window(web()["readinessProbe"])


def test_resource_limits_suffice_for_the_workers() -> None:
    limits, requests = web()["resources"]["limits"], web()["resources"]["requests"]
    sizes = {"workers": 0, "workload": "io", "worker_memory_mb": 200, "memory_percent": 75}
    count = workers.count(int(limits["cpu"]), mebibytes(limits["memory"]), **sizes)  # type: ignore[arg-type]
    assert count == 2 * int(limits["cpu"]) + 1
    assert mebibytes(requests["memory"]) >= count * 200


def test_startup_probe_covers_the_slowest_boot() -> None:
    cores = int(web()["resources"]["limits"]["cpu"])
    rounds = math.ceil((2 * cores + 1) / (cores + 1))
    # the pod answers as soon as the first worker is ready
    slowest = server()["handover_boot_timeout"] + server()["handover_warmup_timeout"]
    assert window(web()["startupProbe"]) >= rounds * slowest


def test_probes_request_their_endpoints() -> None:
    paths = {name: web()[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/healthz", "liveness": "/healthz", "readiness": "/readyz"}
    source = (PROJECT / "app/links/settings.py").read_text()
    assert web()["readinessProbe"]["timeoutSeconds"] > int(re.search(r"ready_timeout: Seconds = (\d+)", source)[1])  # type: ignore[index]


def test_selectors_and_ports_refer_to_each_other() -> None:
    labels = one("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert one("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert one("Service")["spec"]["selector"] == labels
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    # the migration's pod doesn't belong to the service
    assert one("Job")["spec"]["template"]["metadata"]["labels"] != labels
    [port] = web()["ports"]
    assert one("Service")["spec"]["ports"][0]["targetPort"] == port["name"]
    assert port["containerPort"] == 8000
    assert "or 8000" in (PROJECT / "app/container/gunicorn.conf.py").read_text()
    assert pod("Job")["containers"][0]["image"] == web()["image"]


@pytest.mark.parametrize("kind", ["Deployment", "Job"])
def test_pod_has_no_unneeded_permissions(kind: str) -> None:
    assert pod(kind)["securityContext"]["runAsNonRoot"] is True
    assert pod(kind)["automountServiceAccountToken"] is False
    assert pod(kind)["containers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
