"""An evaluation as numbers for files and as tables for people."""

import math
from typing import Any

from ray_lidarseg.metrics.confusion import Confusion
from ray_lidarseg.metrics.scoring import Scores

LEVELS = ("point", "cell")


def numbers_of(scores: Scores, absent_rule: str, has_range: bool = True) -> dict[str, Any]:
    """Everything one model's counts say: both levels, by range, and calibration."""
    result = {level: numbers(getattr(scores, level), absent_rule) for level in LEVELS}
    if has_range:
        result["by_range"] = [
            {"range": name, "points": int(part.counts.sum()), **numbers(part, absent_rule)}
            for name, part in scores.by_range.parts()
        ]
    curve = [dict(zip(("points", "confidence", "accuracy"), part, strict=True)) for part in scores.calibration.curve()]
    return {**result, "calibration": {"ece_ratio": or_none(scores.calibration.error()), "bins": curve}}


def numbers(confusion: Confusion, absent_rule: str) -> dict[str, Any]:
    """Means after both rules for absent classes, IoU and points of each class, and the counts."""
    means = {f"miou_{rule}_ratio": or_none(confusion.miou(rule)) for rule in ("skip", "zero")}
    return {
        "miou_ratio": means[f"miou_{absent_rule}_ratio"],
        **means,
        "accuracy_ratio": or_none(confusion.accuracy()),
        "iou_ratio": [or_none(value) for value in confusion.iou().tolist()],
        "class_points": confusion.counts.sum(dim=1).tolist(),
        "confusion": confusion.as_list(),
    }


def describe(result: dict[str, Any]) -> str:
    """An evaluation as a table for people: per-class IoU of every model at both levels, then the means.

    Below it, of the model to deploy, mIoU by distance with the points counted, and the calibration error.
    """
    columns = [(model, level) for model in result["models"] for level in LEVELS]
    parts = [result["models"][model][level] for model, level in columns]
    points = parts[0]["class_points"]
    rows = [["IoU, %", "points", *(f"{model}/{level}" for model, level in columns)]]
    for index, name in enumerate(result["class_names"]):
        rows.append([name, f"{points[index]:,}", *(percent(part["iou_ratio"][index]) for part in parts)])
    for rule, meaning in (("skip", "absent left out"), ("zero", "absent as 0")):
        mark = " *" if rule == result["absent_rule"] else ""
        means = [percent(part[f"miou_{rule}_ratio"]) for part in parts]
        rows.append([f"mIoU, {meaning}{mark}", f"{sum(points):,}", *means])
    options = f", with {result['inference_name']}" if result.get("inference_name") else ""
    title = (
        f"{result['frames']} frames of {result['split']} after {result['step']} steps{options} "
        f"(* rule of {result['dataset']})"
    )
    return "\n".join([title, *_aligned(rows), *_details(result), *_language(result)])


def describe_robustness(result: dict[str, Any]) -> str:
    """A robustness evaluation as a table for people: mIoU at each severity, RR and CE of each corruption, the means."""
    header = ["mIoU, %", "light", "moderate", "heavy", "mean", "RR", "CE"]
    rows = [header, ["clean", "", "", "", percent(result["clean"]["point"]["miou_ratio"]), "", ""]]
    for name, part in result["corruptions"].items():
        values = [part[severity]["miou_ratio"] for severity in header[1:4]]
        mean = part["mean_miou_ratio"]
        rows.append([name, *map(percent, values), *map(percent, (mean, part["rr_ratio"], part["ce_ratio"]))])
    rows.append(["mRR, mCE", "", "", "", "", percent(result["mrr_ratio"]), percent(result["mce_ratio"])])
    baseline = result["baseline"]
    options = f", with {result['inference_name']}" if result["inference_name"] else ""
    relative = f"errors relative to {baseline['name']}" if baseline else "no baseline: no errors (--baseline)"
    title = f"{result['frames']} frames of {result['split']} after {result['step']} steps, {result['model']}{options}; "
    return "\n".join([title + relative, *_aligned(rows), *(f"note: {note}" for note in result["notes"])])


def percent(value: float | None) -> str:
    """``56.1``, or ``-`` where there is no number."""
    return "-" if value is None else f"{100 * value:.1f}"


def or_none(value: float) -> float | None:
    """The number, None instead of NaN: JSON has none."""
    return None if math.isnan(value) else value


def _details(result: dict[str, Any]) -> list[str]:
    model = result["models"][result["deployed"]]
    lines = []
    if "by_range" in model:
        parts = [f"{part['range']} {percent(part['miou_ratio'])} ({part['points']:,})" for part in model["by_range"]]
        lines.append(f"{result['deployed']}, point mIoU by distance (points): {', '.join(parts)}")
    lines.append(f"{result['deployed']}, expected calibration error: {percent(model['calibration']['ece_ratio'])} %")
    return lines


def _language(result: dict[str, Any]) -> list[str]:
    """Of a distilled network, what words say, and its structure."""
    if "zero_shot" not in result:
        return []
    means = ", ".join(f"{name} {percent(part['miou_ratio'])}" for name, part in result["zero_shot"].items())
    lines = [f"zero-shot mIoU, %: {means} (images: of {result['zero_shot']['images']['points']:,} paired points)"]
    if found := result["structure"]:
        lines.append(
            f"uniformity {found['uniformity']:.3f} (images {found['source_uniformity']:.3f}), tolerance "
            f"{found['tolerance']:.3f} (images {found['source_tolerance']:.3f}), modality gap "
            f"{found['modality_gap']:.3f}, alignment gap {found['alignment_gap']:.3f} "
            f"(of {sum(found['counts']):,} features)"
        )
    return lines


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
