"""Numbers for people: one table per protocol, repetitions with other seeds in one row as mean ± standard deviation."""

import statistics
from collections.abc import Sequence
from typing import Any

from ray_lidarseg.datasets.class_map import class_map_of_classes, warnings_of
from ray_lidarseg.report.run_summary import RunView

_LEVELS = ("point", "cell")


def by_protocol(views: Sequence[RunView]) -> list[tuple[tuple[Any, ...], list[RunView]]]:
    """Runs whose numbers may be compared, in order of first appearance; unreadable runs are left out."""
    groups: dict[tuple[Any, ...], list[RunView]] = {}
    for view in views:
        if view.recipe is not None:
            groups.setdefault(view.protocol, []).append(view)
    return list(groups.items())


def protocol_title(protocol: tuple[Any, ...]) -> str:
    """``nuscenes · split uniform · 1 % labelled``."""
    dataset, name, ratio = protocol
    return f"{dataset} · split {name} · {100 * ratio:g} % labelled"


def result_rows(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """One row per recipe: method, network, seeds, and at each level the mIoU in percent, as text.

    ``deployed`` is the model that ``predict`` takes, ``other`` the one trained beside it: a mean teacher's student, the
    second network of CPS. The standard deviation is that of the sample (n - 1), shown from two seeds on.
    """
    families: dict[str, list[RunView]] = {}
    for view in views:
        families.setdefault(view.family, []).append(view)
    return [_row(members) for members in families.values()]


def class_map_rows(views: Sequence[RunView]) -> tuple[list[dict[str, Any]], list[str]]:
    """One row a class, and one of what is ignored; points of the first run that is scored, and classes never seen."""
    taxonomy = views[0].taxonomy
    scored = next((view.details()["point"]["confusion"] for view in views if view.details()), None)
    truth = None if scored is None else [sum(row) for row in scored]
    said = None if scored is None else [sum(column) for column in zip(*scored, strict=True)]
    mapped = class_map_of_classes(taxonomy, dict(enumerate(truth or ())))
    rows = [
        {
            "raw_ids": ", ".join(map(str, row.raw_ids)),
            "class_id": row.class_id if row.class_id < taxonomy.num_classes else "–",
            "name": row.name,
            "truth": truth[row.class_id] if truth and row.class_id < taxonomy.num_classes else None,
            "said": said[row.class_id] if said and row.class_id < taxonomy.num_classes else None,
        }
        for row in mapped
    ]
    return rows, [f"in the frames scored, {warning}" for warning in warnings_of(mapped, taxonomy)]


def robustness_rows(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """One row per recipe and frames scored: clean mIoU, mRR, mCE and its baseline, and mIoU under each corruption.

    In percent, as text. Runs without a robustness evaluation have no row, and errors relative to different baselines no
    common mean.
    """
    groups: dict[tuple[str, str, str], list[RunView]] = {}
    for view in views:
        if view.robustness:
            baseline = (view.robustness["baseline"] or {}).get("name", "")
            groups.setdefault((view.family, view.robustness["frames_digest"], baseline), []).append(view)
    return [_robustness_row(members, baseline) for (_, _, baseline), members in groups.items()]


def _robustness_row(members: list[RunView], baseline: str) -> dict[str, Any]:
    found = [member.robustness for member in members]
    recipe = members[0].recipe
    assert recipe is not None
    return {
        "runs": ", ".join(member.name for member in members),
        "method": f"{recipe.method.name} · {recipe.model.name}",
        "seeds": len(members),
        "frames": found[0]["frames"],
        "baseline": baseline or "–",
        "clean": mean_and_deviation([one["clean"]["point"]["miou_ratio"] for one in found]),
        "mrr": mean_and_deviation([one["mrr_ratio"] for one in found]),
        "mce": mean_and_deviation([one["mce_ratio"] for one in found]),
        "means": {
            name.replace("_", " "): mean_and_deviation([one["corruptions"][name]["mean_miou_ratio"] for one in found])
            for name in found[0]["corruptions"]
        },
    }


def option_rows(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """One row per run and set of inference options: point mIoU without and with it, in percent, as text."""
    return [
        {
            "run": view.name,
            "options": scored.get("inference_name", ""),
            "plain": mean_and_deviation([view.details().get("point", {}).get("miou_ratio")]),
            "miou": mean_and_deviation([scored["models"][view.deployed]["point"]["miou_ratio"]]),
        }
        for view in views
        for scored in view.options
    ]


def facts(view: RunView) -> dict[str, str]:
    """The origin of a run's numbers, as label and text."""
    split, versions = view.manifest.get("split", {}), view.manifest.get("versions", {})
    steps = [line["step"] for line in view.metrics if "step" in line]
    total = view.recipe.train.steps if view.recipe else 0
    labelled, unlabelled = split.get("num_labelled"), split.get("num_unlabelled")
    known = {
        "method": f"{view.recipe.method.name} · {view.recipe.model.name}" if view.recipe else "",
        "steps": f"{max(steps, default=0):,} of {total:,}" if total else "",
        "seed": f"{view.recipe.seed} · split {view.recipe.split.seed}" if view.recipe else "",
        "split": f"{split['protocol']} · {100 * split['ratio']:g} %" if split else "",
        "frames": f"{labelled:,} labelled · {unlabelled:,} unlabelled" if labelled is not None else "",
        "digest": split.get("digest", ""),
        "recipe": view.recipe.fingerprint if view.recipe else "",
        "commit": versions.get("git_commit", "")[:12],
        "versions": " · ".join(f"{name} {versions[name]}" for name in ("torch", "ray", "python") if name in versions),
        "hardware": _hardware(view.manifest.get("hardware", {})),
        "speed": _speed(view),
        "ECE": _percent(view.details().get("calibration", {}).get("ece_ratio")),
    }
    return {name: text or "unknown" for name, text in known.items()}


def _row(members: list[RunView]) -> dict[str, Any]:
    finals = [member.models() for member in members]
    recipe = members[0].recipe
    assert recipe is not None
    names = sorted(finals[0], key=lambda name: name != recipe.method.deployed)
    roles = dict(zip(("deployed", "other"), [*names, "", ""], strict=False))
    numbers = {
        f"{role}_{level}": mean_and_deviation([final.get(model, {}).get(level) for final in finals])
        for role, model in roles.items()
        for level in _LEVELS
    }
    return {
        "runs": ", ".join(member.name for member in members),
        "method": recipe.method.name,
        "model": recipe.model.name,
        "steps": f"{recipe.train.steps:,}",
        "seeds": len(members),
        "models": ", ".join(names) or "–",
        "source": _source(members),
        **numbers,
    }


def mean_and_deviation(ratios: Sequence[float | None]) -> str:
    """``56.1`` or ``56.1 ± 0.8``, percent; an en dash where there is no number."""
    known = [100 * ratio for ratio in ratios if ratio is not None]
    if not known:
        return "–"
    mean = f"{statistics.fmean(known):.1f}"
    return f"{mean} ± {statistics.stdev(known):.1f}" if len(known) > 1 else mean


def _source(members: list[RunView]) -> str:
    evaluated = sum(bool(member.evaluation) for member in members)
    if evaluated == len(members):
        return "evaluate"
    return "last validation" if evaluated == 0 else "mixed"


def _hardware(hardware: dict[str, Any]) -> str:
    gpus = hardware.get("gpus") or []
    parts = [", ".join(gpus)] if gpus else []
    if hardware.get("cpu"):
        parts.append(f"{hardware['cpu']} ({hardware.get('cores')} cores)")
    if hardware.get("memory_gib"):
        parts.append(f"{hardware['memory_gib']:g} GiB")
    return " · ".join(parts)


def _percent(ratio: float | None) -> str:
    return "" if ratio is None else f"{100 * ratio:.1f} %"


def _speed(view: RunView) -> str:
    rates = [line["scans_per_s"] for line in view.lines("train") if line.get("scans_per_s")]
    memory = [line["memory_gib"] for line in view.lines("train") if line.get("memory_gib")]
    if not rates:
        return ""
    return f"{statistics.median(rates):.1f} scans/s" + (f" · {max(memory):.2f} GiB" if memory else "")
