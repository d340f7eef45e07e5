"""The Kubernetes example says what KubeRay and this version of maskens understand, as far as that shows here."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml
from run_command import maskens

import cli

EXAMPLE = Path(cli.__file__).parent / "docs" / "examples" / "kuberay.yaml"
# of KubeRay's ray-operator/apis/ray/v1, rayjob_types.go and raycluster_types.go
JOB = {"entrypoint", "backoffLimit", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "rayClusterSpec"}
CLUSTER = {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
HEAD = {"rayStartParams", "template"}
GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}


@pytest.fixture
def documents() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(EXAMPLE.read_text())}


def test_its_fields_are_those_of_a_ray_job(documents: dict[str, Any]) -> None:
    job = documents["RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    assert job["apiVersion"] == "ray.io/v1"
    assert set(job["spec"]) <= JOB and set(cluster) <= CLUSTER and set(cluster["headGroupSpec"]) <= HEAD
    for group in cluster["workerGroupSpecs"]:
        assert set(group) <= GROUP
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes strings only"
        pod = group["template"]["spec"]
        claims = {v["name"]: v.get("persistentVolumeClaim", {}).get("claimName") for v in pod["volumes"]}
        mounted = [mount["name"] for mount in pod["containers"][0]["volumeMounts"]]
        assert set(mounted) == set(claims)
        assert documents["PersistentVolumeClaim"]["metadata"]["name"] in claims.values()


def test_its_command_is_one_that_maskens_takes(documents: dict[str, Any], tmp_path: Path) -> None:
    words = shlex.split(documents["RayJob"]["spec"]["entrypoint"])
    assert words[:4] == ["env", "OMP_NUM_THREADS=1", "maskens", "train"]
    words[words.index("--run") + 1] = str(tmp_path / "nowhere")
    done = maskens("train", *words[4:])
    assert done.code == 2 and f"{tmp_path / 'nowhere'}" in done.err, "refused for the run alone, not for an option"
