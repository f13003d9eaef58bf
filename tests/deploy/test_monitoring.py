"""The dashboard asks for what the package exports, and for all of it."""

import json
import re
from pathlib import Path

import yaml

from ray_lidarseg.runtime.gauges import EMA_GAP_GAUGE, IMAGES_COUNTER, MIOU_GAUGE, TRAIN_GAUGES

MONITORING = Path(__file__).parents[2] / "deploy" / "options" / "monitoring"
EXPORTED = {f"ray_{name}" for name, _ in (*TRAIN_GAUGES.values(), MIOU_GAUGE, EMA_GAP_GAUGE)}


def test_every_metric_has_its_panel_and_every_panel_its_metric() -> None:
    panels = json.loads((MONITORING / "grafana-dashboard.json").read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel["targets"]]
    names = {name for query in asked for name in re.findall(r"ray_lidarseg_\w+", query)}
    assert names == EXPORTED | {f"ray_{IMAGES_COUNTER[0]}_total"}  # Prometheus' ending of counters
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}) == len(panels)


def test_the_pods_are_scraped_at_the_port_they_name() -> None:
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())
    cluster = yaml.safe_load((MONITORING.parents[1] / "base" / "raycluster.yaml").read_text())["spec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        ports = {port["name"]: port["containerPort"] for port in group["template"]["spec"]["containers"][0]["ports"]}
        assert ports[monitor["spec"]["podMetricsEndpoints"][0]["port"]] == 8080
