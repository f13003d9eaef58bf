"""Where numbers of a run go: ``metrics.jsonl``, TensorBoard, MLflow where asked, one line a step on the terminal."""

import json
import math
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from ray_lidarseg import storage
from ray_lidarseg.training.mlflow_run import MLflowRun
from ray_lidarseg.training.run_folder import RunFolder, parse_lines

UPLOAD_EVERY_S = 10.0
"""At most so often is a bucket's ``metrics.jsonl`` rewritten between checkpoints (an object cannot be appended to)."""
_TENSORBOARD = "tensorboard"


class Tracker:
    """Writes a run's metrics; a resumed run passes the lines up to its checkpoint, and what came later is dropped.

    Args:
        run: The run folder.
        text: Lines of ``metrics.jsonl`` so far.
        step: Steps done so far.
        total_steps: Length of the schedule, for the time left.
        mlflow: Where the lines go, too.
    """

    def __init__(self, run: RunFolder, text: str, step: int, total_steps: int, mlflow: MLflowRun | None = None):
        self._run, self.text, self._total_steps = run, text, total_steps
        self._first_step, self._started_s, self._uploaded_s = step, time.monotonic(), 0.0
        self._is_local, self._mlflow = storage.is_local(run.uri), mlflow
        self._scratch = None if self._is_local else tempfile.TemporaryDirectory()
        folder = storage.resolve(run.path(_TENSORBOARD))[1] if self._scratch is None else self._scratch.name
        self._board = SummaryWriter(folder, purge_step=step + 1 if step else None)
        run.write("metrics.jsonl", text.encode())
        self._file = open(storage.resolve(run.path("metrics.jsonl"))[1], "ab") if self._is_local else None  # noqa: SIM115

    def record(self, line: dict[str, Any]) -> None:
        """Takes one line: to the file, to TensorBoard, to the terminal."""
        text = json.dumps({key: _plain(value) for key, value in line.items()}) + "\n"
        self.text += text
        if self._file is not None:
            with storage.explained("write", self._run.path("metrics.jsonl")):
                self._file.write(text.encode())
                self._file.flush()
        elif time.monotonic() - self._uploaded_s > UPLOAD_EVERY_S:
            self._upload_metrics()
        _to_board(self._board, line)
        if self._mlflow is not None:
            self._mlflow.record(line)
        print(self._sentence(line), flush=True)

    def flush(self) -> None:
        """Brings the folder up to date; called at every checkpoint."""
        self._board.flush()
        if self._file is not None:
            os.fsync(self._file.fileno())
            return
        assert self._scratch is not None  # the board of a run in object storage is written beside it first
        self._upload_metrics()
        for file in Path(self._scratch.name).iterdir():
            self._run.write(f"{_TENSORBOARD}/{file.name}", file.read_bytes())

    def close(self) -> None:
        """The end of this process's part of the run."""
        self.flush()
        self._board.close()
        if self._mlflow is not None:
            self._mlflow.close()
        if self._file is not None:
            self._file.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _upload_metrics(self) -> None:
        self._run.write("metrics.jsonl", self.text.encode())
        self._uploaded_s = time.monotonic()

    def _sentence(self, line: dict[str, Any]) -> str:
        if line["kind"] == "evaluate":
            return evaluation_sentence(line)
        if line["kind"] == "diagnose":
            return diagnosis_sentence(line)
        if line["kind"] == "warn":
            return f"WARNING: {line['warning']}"
        elapsed_s = time.monotonic() - self._started_s
        left_s = elapsed_s / max(line["step"] - self._first_step, 1) * (self._total_steps - line["step"])
        return step_sentence(line, self._total_steps, left_s)


def lines_until(text: str, step: int) -> str:
    """The lines of a metrics file up to and with a step."""
    return "".join(json.dumps(line) + "\n" for line in parse_lines(text.splitlines()) if line["step"] <= step)


def step_sentence(line: dict[str, Any], total_steps: int, left_s: float) -> str:
    """A train line for people: losses by name, stats, speed, data wait, memory, time left.

    Stats whose names end in ``_count`` or ``_bin_ratio`` are many: they are recorded, and left out here.
    """
    terms = " ".join(
        f"{key.removeprefix('loss_')} {_short(value)}"
        for key, value in line.items()
        if key.startswith("loss_") and key != "loss_total"
    )
    known = {"kind", "step", "lr", "scans_per_s", "data_wait_ratio", "memory_gib", "skipped_steps"}
    unspoken = ("_count", "_bin_ratio")
    stats = [
        _stat(key, value)
        for key, value in line.items()
        if key not in known and not key.startswith("loss_") and not key.endswith(unspoken)
    ]
    skipped = [f"skipped {line['skipped_steps']}"] if line["skipped_steps"] else []
    parts = [
        f"step {line['step']}/{total_steps}",
        f"loss {_short(line['loss_total'])} ({terms})",
        *stats,
        f"lr {_short(line['lr'])}",
        f"{line['scans_per_s']:.1f} scans/s",
        f"data wait {line['data_wait_ratio']:.0%}",
        f"{line['memory_gib']:.2f} GiB",
        *skipped,
        f"{duration(left_s)} left",
    ]
    return " · ".join(parts)


def evaluation_sentence(line: dict[str, Any]) -> str:
    """An evaluate line for people."""
    point, cell = (line[f"{level}_miou_ratio"] for level in ("point", "cell"))
    return f"step {line['step']} · {line['model']}: mIoU {_percent(point)} by point, {_percent(cell)} by cell"


def diagnosis_sentence(line: dict[str, Any]) -> str:
    """A diagnose line for people."""
    models = {
        key.removesuffix("_unlabelled_miou_ratio"): value for key, value in line.items() if key.endswith("_miou_ratio")
    }
    parts = [
        f"step {line['step']} · unlabelled scans: " + ", ".join(f"{n} mIoU {_percent(v)}" for n, v in models.items())
    ]
    if "kept_ratio" in line:
        kept, right = line["kept_total_ratio"], line["precision_total_ratio"]
        unseen = sum(
            1 for ratio, truth in zip(line["kept_ratio"], line["truth_ratio"], strict=True) if truth and not ratio
        )
        of_classes = f", none of {unseen} classes" if unseen else ""
        parts.append(f"pseudo-labels on {_percent(kept)} of the points, {_percent(right)} right{of_classes}")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 12 min, 3 h 05 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _stat(key: str, value: float) -> str:
    if key.endswith("_ratio"):
        return f"{key.removesuffix('_ratio').replace('_', ' ')} {_percent(value)}"
    return f"{key.replace('_', ' ')} {_short(value)}"


def _percent(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:.1%}"


def _short(value: float) -> str:
    return f"{value:.4g}"


def _to_board(board: SummaryWriter, line: dict[str, Any]) -> None:
    prefix = line.get("model", line["kind"])
    for key, value in line.items():
        if key != "step" and isinstance(value, int | float):
            board.add_scalar(f"{prefix}/{key}", value, line["step"])


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
