"""What the page shows of a sweep: the folder `ray-lidarseg sweep` wrote, its table and its study."""

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ray_lidarseg import storage
from ray_lidarseg.errors import RunError
from ray_lidarseg.recipe.text_files import read_yaml, require
from ray_lidarseg.report import curves, sweep_charts
from ray_lidarseg.report.section import Picture, encoded_picture
from ray_lidarseg.report.tables import mean_and_deviation

TABLE, STUDY = "trials.parquet", "study.yaml"
_SHOWN = 40  # rows of the page's table; trials.csv has all
_SPACE = "space."
_STUDY = {"study": {"question": str, "metric": str, "mode": str, "*": object}, "*": object}
_COLUMNS = {"state": pa.string(), "seed": pa.int64(), "step": pa.int64(), "seconds": pa.float64(), "cost": pa.float64()}


@dataclass
class SweepPanel:
    """One sweep on the page.

    Attributes:
        title: Its folder's name.
        question: Of the study.
        facts: Label and text.
        header: Of the table.
        rows: Combinations, the best first, repetitions with other seeds in one row.
        charts: Figures.
        notes: What is missing, or worth knowing.
    """

    title: str
    question: str = ""
    facts: list[tuple[str, str]] = field(default_factory=list)
    header: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    charts: list[Picture] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def is_sweep(uri: str) -> bool:
    """Whether a folder is a sweep's that got to its table, and not a run's."""
    return storage.exists(storage.join(uri, TABLE))


def sweep_panel(uri: str) -> SweepPanel:
    """The panel of one sweep; what is missing or damaged is a note on it."""
    panel = SweepPanel(storage.name_of(uri))
    try:
        study = _study(uri)
        table = _table(uri, study["metric"])
    except RunError as error:
        panel.notes.append(str(error))
        return panel
    metric, panel.question = study["metric"], study["question"]
    dimensions = [name.removeprefix(_SPACE) for name in table.column_names if name.startswith(_SPACE)]
    rows = [{key.removeprefix(_SPACE): value for key, value in row.items()} for row in table.to_pylist()]
    finished = [row for row in rows if row["state"] == "finished" and row[metric] is not None]
    panel.facts = _facts(rows)
    panel.header = [*dimensions, "trials", "finished", f"{metric}, %", "steps"]
    panel.rows = _combinations(rows, dimensions, metric, study["mode"])
    if len(panel.rows) > _SHOWN:
        panel.notes.append(f"the table shows the best {_SHOWN} of {len(panel.rows)} combinations: trials.csv has all")
        panel.rows = panel.rows[:_SHOWN]
    panel.charts = _charts(finished, dimensions, metric)
    if len(finished) < len(rows):
        panel.notes.append(f"charts are of the {len(finished)} of {len(rows)} trials that got to their last step")
    panel.notes += [f"failed: {row['trial']}: {row['reason']}" for row in rows if row["state"] == "failed"]
    return panel


def _study(uri: str) -> dict[str, Any]:
    file = storage.join(uri, STUDY)
    if not storage.exists(file):
        raise RunError(f"no {STUDY} in {uri}: expected a folder that `ray-lidarseg sweep` wrote")
    content = read_yaml(storage.read_bytes(file), file, RunError)
    require(content, _STUDY, file, RunError)
    return content["study"]


def _table(uri: str, metric: str) -> pa.Table:
    file = storage.join(uri, TABLE)
    try:
        table = pq.read_table(io.BytesIO(storage.read_bytes(file)))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise RunError(f"{file} is no Parquet table ({error}): the same sweep command writes it again") from error
    wanted = {**_COLUMNS, metric: pa.float64(), "trial": pa.string(), "reason": pa.string()}
    for name, kind in wanted.items():
        if name not in table.column_names or table.schema.field(name).type != kind:
            raise RunError(f"{file} has no column {name} of {kind}: the same sweep command writes it again")
    plain = (pa.string(), pa.float64())
    if odd := [one.name for one in table.schema if one.name.startswith(_SPACE) and one.type not in plain]:
        raise RunError(f"{file}: column {odd[0]} is neither text nor numbers: the same sweep command writes it again")
    return table


def _facts(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    states = [str(row["state"]) for row in rows]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    hours = math.fsum(row["seconds"] or 0.0 for row in rows) / 3600
    cost = math.fsum(row["cost"] or 0.0 for row in rows)
    facts = [("trials", counted), ("time", f"{hours:.2f} h of training")]
    return [*facts, ("cost", f"{cost:.2f}")] if cost else facts


def _combinations(
    rows: Sequence[Mapping[str, Any]], dimensions: Sequence[str], metric: str, mode: str
) -> list[list[str]]:
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps([row[name] for name in dimensions]), []).append(row)
    sign = -1 if mode == "max" else 1

    def rank(members: list[Mapping[str, Any]]) -> tuple[float, float]:
        values = [row[metric] for row in members if row[metric] is not None]
        unfinished = sum(row["state"] != "finished" for row in members)
        return (unfinished, sign * math.fsum(values) / len(values)) if values else (math.inf, 0.0)

    return [_cells(members, dimensions, metric) for members in sorted(groups.values(), key=rank)]


def _cells(members: list[Mapping[str, Any]], dimensions: Sequence[str], metric: str) -> list[str]:
    settings = [members[0][name] for name in dimensions]
    finished = [row for row in members if row["state"] == "finished"]
    return [
        *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in settings),
        str(len(members)),
        str(len(finished)),
        mean_and_deviation([row[metric] for row in finished or members]),
        f"{max(row['step'] or 0 for row in members):,}",
    ]


def _charts(rows: list[dict[str, Any]], dimensions: list[str], metric: str) -> list[Picture]:
    figures = (
        (sweep_charts.label_efficiency(rows, dimensions, metric), "Label efficiency"),
        (sweep_charts.parallel_coordinates(rows, dimensions, metric), "Parallel coordinates"),
        (sweep_charts.importance_bars(rows, [*dimensions, "seed"], metric), "Parameter importance"),
    )
    return [encoded_picture(curves.png(figure), caption) for figure, caption in figures if figure is not None]
