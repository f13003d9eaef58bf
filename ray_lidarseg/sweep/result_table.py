"""What a sweep found: one row a trial as Parquet and CSV, and the best recipe as YAML that `train` takes."""

import io
import json
from collections.abc import Sequence
from statistics import fmean
from typing import Any

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from ray_lidarseg import storage
from ray_lidarseg.sweep.study import METRICS, Study
from ray_lidarseg.sweep.trials import FOLDER, Trial

PARQUET, CSV, BEST = "trials.parquet", "trials.csv", "best.yaml"


def write_results(out: str, study: Study, trials: Sequence[Trial], price_per_hour: float = 0.0) -> None:
    """Writes the table and, where a trial has a value, the best recipe.

    Args:
        out: The sweep's folder.
        study: Names of the dimensions, metric and mode.
        trials: In the order of the rows.
        price_per_hour: Of one training worker's share of a node, in any currency.
    """
    table = results(study, trials, price_per_hour, out)
    sink = io.BytesIO()
    pq.write_table(table, sink)
    storage.write_bytes(storage.join(out, PARQUET), sink.getvalue())
    sink = io.BytesIO()
    pa_csv.write_csv(table, sink)
    storage.write_bytes(storage.join(out, CSV), sink.getvalue())
    if best := best_trial(study, trials):
        storage.write_bytes(storage.join(out, BEST), best.recipe.to_yaml().encode())


def results(study: Study, trials: Sequence[Trial], price_per_hour: float, out: str) -> pa.Table:
    """One row a trial; ``space.NAME`` holds what dimension NAME was, as the recipe has it."""
    rows = [_row(study, trial, price_per_hour, out) for trial in trials]
    columns = {name: [row[name] for row in rows] for name in rows[0]} if rows else {}
    return pa.table({name: _column(name, values) for name, values in columns.items()})


def best_trial(study: Study, trials: Sequence[Trial]) -> Trial | None:
    """The first seed of the combination whose finished trials are best on average; None where none has a value.

    Stopped trials count only where none finished: their values are of fewer steps.
    """
    valued = [trial for trial in trials if trial.value(study.metric) is not None and trial.state != "failed"]
    finished = [trial for trial in valued if trial.state == "finished"]
    groups: dict[str, list[Trial]] = {}
    for trial in finished or valued:
        groups.setdefault(json.dumps(trial.params, sort_keys=True), []).append(trial)
    if not groups:
        return None
    # a combination of which some seeds were stopped is no better for the others' luck
    most = max(len(members) for members in groups.values())
    whole = [members for members in groups.values() if len(members) == most]
    sign = 1 if study.mode == "max" else -1
    return max(whole, key=lambda members: sign * fmean(member.value(study.metric) or 0.0 for member in members))[0]


def gpu_hours(trial: Trial) -> float:
    """Time times GPUs."""
    return trial.seconds / 3600 * trial.num_gpus


def _row(study: Study, trial: Trial, price_per_hour: float, out: str) -> dict[str, Any]:
    content = trial.recipe.model_dump(mode="json")
    return {
        "trial": trial.name,
        "state": trial.state,
        **{f"space.{name}": _setting(content, name, trial.params[name]) for name in study.space},
        "seed": trial.seed,
        "step": trial.step,
        "steps": trial.recipe.train.steps,
        **{name: trial.value(name) for name in METRICS},
        "seconds": round(trial.seconds, 3),
        "num_workers": trial.num_workers,
        "gpu_hours": gpu_hours(trial),
        "cost": trial.seconds / 3600 * trial.num_workers * price_per_hour,
        "reason": trial.reason,
        "run": storage.join(out, FOLDER, trial.name),
    }


def _setting(content: dict[str, Any], name: str, label: Any) -> Any:
    """The recipe's value of a key, so that 10% is 0.1; the label of a dimension that sets several, and of a method."""
    value: Any = content
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    if value is None or isinstance(value, dict):
        value = label
    return value if isinstance(value, str | int | float) or value is None else json.dumps(value)


_TYPES = {
    **dict.fromkeys(("trial", "state", "reason", "run"), pa.string()),
    **dict.fromkeys((*METRICS, "seconds", "gpu_hours", "cost"), pa.float64()),
    **dict.fromkeys(("seed", "step", "steps", "num_workers"), pa.int64()),
}


def _column(name: str, values: list[Any]) -> pa.Array:
    if name in _TYPES:
        return pa.array(values, _TYPES[name])
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return pa.array([float(value) for value in values], pa.float64())
    return pa.array([str(value) for value in values], pa.string())
