"""A sweep that is killed half-way and continued: no trial lost or run twice; and what a trial costs beside its steps.

`python -m tests.bench.sweep [--trials N] [--json FILE] [--quick]`

A study of eight learning rates with ASHA on two CPUs, eight small scans, runs as a user runs it, is killed with SIGKILL
once half of its trials are over, and is started again with the same command. Checked: every rate is in the table once;
what was over before the kill has not one byte more in its run folder's metrics; every other trial holds each of its
steps once. Then the fixed cost: trials of one step and one evaluation, whose time is nothing but cost, with one worker
(in Tune's own processes, the next trial in the same one) and with two (Ray Train inside); --quick leaves the two out.
rc 1 where a trial is lost or trained twice.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.parquet as pq
import yaml
from pyarrow import fs

from ray_lidarseg.datasets.catalog import write_catalog
from ray_lidarseg.datasets.shards import write_shard
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.ray.conftest import NUM_TRAIN, NUM_VAL, keyframe

_RECIPE: dict[str, Any] = {
    "split": {"ratio": 0.5},
    "model": {"name": "fidnet", "height_px": 16, "width_px": 64, "width_factor": 0.1, "blocks": [1, 1, 1, 1]},
    "method": {"name": "lasermix", "confidence": 0.1, "consistency_weight": 1.0},
    "workers": {"num_workers": 1, "use_gpu": "no"},
}
_OVER = ("finished", "stopped")


def main() -> int:
    args = _arguments()
    ledger = Ledger(args.json)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shards(folder / "prepared")
        resumed = ledger.measure(
            {"case": "killed and continued", "trials": args.trials}, lambda: killed(folder, args.trials)
        )
        costs = [
            ledger.measure({"case": "one step", "workers": workers}, lambda w=workers: fixed_cost(folder, w))
            for workers in ((1,) if args.quick else (1, 2))
        ]
    print_table(
        ("workers a trial", "first s", "later s"),
        [(cost["workers"], f"{cost['first_s']:.1f}", f"{cost['later_s']:.1f}") for cost in costs],
    )
    print(
        f"{resumed['trials']} trials, killed when {resumed['over_at_kill']} were over ({resumed['running_at_kill']} "
        f"running): {resumed['lost']} lost, {resumed['repeated']} run twice, {resumed['stopped']} stopped by ASHA; "
        f"a trial costs {costs[0]['later_s']:.1f} s beside its steps"
    )
    return int(bool(resumed["lost"] or resumed["repeated"]))


def shards(folder: Path) -> None:
    """Eight training and three validation scans of 900 points, as `prepare` writes them."""
    folder.mkdir()
    local = fs.LocalFileSystem()
    frames = [keyframe(index, "train") for index in range(NUM_TRAIN)]
    write_shard(local, str(folder), [*frames, *(keyframe(100 + index, "val") for index in range(NUM_VAL))])
    write_catalog(local, str(folder))


def killed(folder: Path, num_trials: int) -> Row:
    """A sweep killed half-way and continued, and what the run folders say of it."""
    rates = [round(0.06 / 1.9**place, 6) for place in range(num_trials)]  # from good to bad: ASHA has what to stop
    asha = {"name": "asha", "grace_ratio": 0.25, "reduction": 2}
    command = _command(folder, "resumed", rates, {"steps": 24, "evaluate_every": 6}, scheduler=asha)
    out = folder / "resumed"
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=_environment())
    while len(_over(out)) < num_trials // 2 and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    first_s, before = time.monotonic() - began, _records(out)
    over = _over(out)
    texts = {name: _metrics(out, name) for name in over}
    began = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    table = pq.read_table(out / "trials.parquet").to_pylist()
    found = Counter(row["space.optim.lr"] for row in table if row["state"] in _OVER)
    again = [name for name, text in texts.items() if _metrics(out, name) != text]
    again += [row["trial"] for row in table if row["trial"] not in over and _has_a_step_twice(out, row["trial"])]
    return {
        "over_at_kill": len(over),
        "running_at_kill": sum(record["state"] == "running" for record in before.values()),
        "lost": num_trials - len(found),
        "repeated": len(again) + sum(count - 1 for count in found.values()),
        "stopped": sum(row["state"] == "stopped" for row in table),
        "first_s": round(first_s, 1),
        "second_s": round(time.monotonic() - began, 1),
    }


def fixed_cost(folder: Path, workers: int) -> Row:
    """Seconds of the first trial and of those after it, of one step each, one at a time."""
    rates = [0.001 * (1 + place) for place in range(6 if workers == 1 else 3)]
    settings = {"workers": {"num_workers": workers, "use_gpu": "no", "cpus_per_worker": 2.0 / workers}}
    command = _command(folder, f"fixed-{workers}", rates, {"steps": 1, "evaluate_every": 1}, recipe=settings)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=_environment())
    rows = pq.read_table(folder / f"fixed-{workers}" / "trials.parquet").to_pylist()
    seconds = [row["seconds"] for row in rows]
    return {"first_s": round(seconds[0], 2), "later_s": round(median(seconds[1:]), 2)}


def _command(
    folder: Path, name: str, rates: list[float], train: dict[str, int], recipe: Row | None = None, **study: Any
) -> list[str]:
    train = {"labelled_per_step": 2, "unlabelled_per_step": 2, "log_every": 1, "checkpoint_every": 6, **train}
    content = {**_RECIPE, "train": train, "data": {"prepared": str(folder / "prepared")}, **(recipe or {})}
    study = {"question": "Which rate?", "space": {"optim.lr": rates}, **study}
    for part, said in (("recipe", content), ("study", study)):
        (folder / f"{name}-{part}.yaml").write_text(yaml.safe_dump(said))
    verb = [sys.executable, "-m", "ray_lidarseg.cli", "sweep", str(folder / f"{name}-study.yaml")]
    return [*verb, "--recipe", str(folder / f"{name}-recipe.yaml"), "--out", str(folder / name)]


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}


def _records(out: Path) -> dict[str, Row]:
    return {file.parent.name: json.loads(file.read_text()) for file in out.glob("trials/*/trial.json")}


def _over(out: Path) -> set[str]:
    return {name for name, record in _records(out).items() if record["state"] in _OVER}


def _metrics(out: Path, trial: str) -> str:
    return (out / "trials" / trial / "metrics.jsonl").read_text()


def _has_a_step_twice(out: Path, trial: str) -> bool:
    lines = [json.loads(line) for line in _metrics(out, trial).splitlines()]
    steps = [line["step"] for line in lines if line["kind"] == "train"]
    return steps != list(range(1, len(steps) + 1))


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__ or "")
    flags.add_argument("--trials", type=int, default=8, help="trials of the sweep that is killed")
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
