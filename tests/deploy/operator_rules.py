"""Rules of the KubeRay operator 1.7 that its CRDs do not hold: it refuses what `kubectl apply` took."""

import re
from collections.abc import Iterator
from typing import Any

_DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_MAX_NAME = {"RayJob": 47, "RayCluster": 53}


def operator_faults(resource: dict[str, Any]) -> list[str]:
    """What the operator would refuse of a RayJob or a RayCluster."""
    kind, name, spec = resource["kind"], resource["metadata"]["name"], resource["spec"]
    faults = []
    if len(name) > _MAX_NAME[kind] or not _DNS_1035.fullmatch(name):
        faults.append(f"name {name}")
    if kind == "RayJob":
        faults += _of_job(spec)
    cluster = spec if kind == "RayCluster" else spec.get("rayClusterSpec")
    return faults + (list(_of_cluster(cluster)) if cluster else [])


def _of_job(spec: dict[str, Any]) -> Iterator[str]:
    mode, ends = spec.get("submissionMode", "K8sJobMode"), spec.get("shutdownAfterJobFinishes", False)
    retries, chosen = spec.get("backoffLimit", 0), spec.get("clusterSelector")
    if not chosen and not spec.get("rayClusterSpec"):
        yield "neither rayClusterSpec nor clusterSelector"
    if spec.get("suspend") and not ends:
        yield "suspend without shutdownAfterJobFinishes"
    if spec.get("ttlSecondsAfterFinished") and not ends:
        yield "ttlSecondsAfterFinished without shutdownAfterJobFinishes"
    if spec.get("deletionStrategy", {}).get("deletionRules") and (ends or spec.get("ttlSecondsAfterFinished")):
        yield "deletionRules with shutdownAfterJobFinishes or a ttl"
    if chosen and (spec.get("suspend") or retries or mode == "SidecarMode"):
        yield "clusterSelector with suspend, backoffLimit or SidecarMode"
    if retries and mode == "InteractiveMode":
        yield "backoffLimit with InteractiveMode"
    if mode == "SidecarMode" and (spec.get("submitterPodTemplate") or spec.get("submitterConfig")):
        yield "SidecarMode with a submitter"


def _of_cluster(spec: dict[str, Any]) -> Iterator[str]:
    groups, scales = spec.get("workerGroupSpecs", []), spec.get("enableInTreeAutoscaling", False)
    options = spec.get("autoscalerOptions", {})
    for group in groups:
        if not scales and ("minReplicas" not in group or "maxReplicas" not in group):
            yield f"group {group['groupName']} without minReplicas and maxReplicas"
        low, high = group.get("minReplicas", 0), group.get("maxReplicas", 2**31)
        if not low <= group.get("replicas", low) <= high:
            yield f"group {group['groupName']}: replicas outside of {low} to {high}"
    if len({group["groupName"] for group in groups}) < len(groups):
        yield "two groups of one name"
    for group in [spec["headGroupSpec"], *groups]:
        pod = group["template"]["spec"]
        if scales and options.get("version") == "v2" and pod.get("restartPolicy", "Never") != "Never":
            yield "autoscaler v2 with a restartPolicy"
        if "labels" in group.get("rayStartParams", {}):
            yield "labels among rayStartParams"
        if "resources" in group.get("rayStartParams", {}) and "resources" in group:
            yield "resources twice"
        variables = {item["name"] for container in pod["containers"] for item in container.get("env", [])}
        if options.get("version") and "RAY_enable_autoscaler_v2" in variables:
            yield "autoscaler version twice"
    auth = spec.get("authOptions", {})
    if auth.get("mode") == "token" and tuple(map(int, spec.get("rayVersion", "0.0").split(".")[:2])) < (2, 52):
        yield "token authentication before Ray 2.52"
    if spec.get("gcsFaultToleranceOptions", {}).get("backend") == "rocksdb":
        yield "the rocksdb backend is behind a gate that is off"
