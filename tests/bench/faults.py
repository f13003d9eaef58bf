"""What a fault costs each verb: faults x verbs, each cell one real command on a cluster of four nodes, struck at work.

`python -m tests.bench.faults [--verbs …] [--faults …] [--json FILE] [--quick]`

A cell runs the verb's command, strikes once its first results are there, waits for its end, and gives the same command
again (at most twice) where it ended with an error or was killed. Afterwards what it left is compared with what an
undisturbed command left: for `train` every logged number, for `predict` and `world` every byte, for `prepare` every
row, for `evaluate` every count; with a damaged checkpoint these two must say so and take the one before. Seconds lost
are those of all commands beyond those of the undisturbed one.

Linux; a full disk is a small tmpfs, which root may mount. Rows of the JSON file are not measured again. Fails (rc 1)
where a cell ends with another result, or with none. `--quick`: killed worker and driver of `train` on few steps.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from ray_lidarseg import storage
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.ray.nodes import Nodes, nodes_of
from tests.ray.processes import descendants
from tests.storage.s3_server import Faults, s3_server, variables

VERBS = ("world", "prepare", "train", "evaluate", "predict")
FAULTS = ("worker", "node", "driver", "head", "storage outage", "full disk", "torn file", "damaged checkpoint")
_NOTHING_THERE = {
    **{(verb, "damaged checkpoint"): "reads none" for verb in ("world", "prepare")},
    ("world", "storage outage"): "local only",
}
_OUTAGE_S, _LIMIT_S, _ATTEMPTS = 6.0, 400.0, 3
_TIMES = ("scans_per_s", "data_wait_ratio", "memory_gib")
_SETTINGS = (
    *("split.ratio=0.5", "workers.use_gpu=no", "model.width_px=64", "train.labelled_per_step=2"),
    *("train.unlabelled_per_step=2", "train.evaluate_every=20", "train.checkpoint_every=10", "train.log_every=1"),
)


@dataclass(frozen=True)
class Verb:
    """A command and what it leaves.

    Attributes:
        words: Of the command, given where it writes.
        began: Whether the results there have begun.
        left: Everything it leaves there that a clock does not decide.
        begin_with: A folder it works in beside what is there already; empty for none.
        process: A word in the titles of the processes that work for it.
    """

    words: Callable[[str], list[str]]
    began: Callable[[str], bool]
    left: Callable[[str], dict[str, Any]]
    begin_with: str = ""
    process: str = "ray::"


def main() -> int:
    args = _arguments()
    ledger, verbs = Ledger(args.json), ("train",) if args.quick else tuple(args.verbs)
    faults = ("worker", "driver") if args.quick else tuple(args.faults)
    with ExitStack() as stack:
        bench = stack.enter_context(_bench(steps=30 if args.quick else 60))
        for verb in verbs:
            for fault in faults:
                key = {"verb": verb, "fault": fault}
                if ledger.find(key) is None:
                    row = ledger.measure(key, lambda v=verb, f=fault: bench.cell(v, f))
                    print(f"{fault} x {verb}: {row['outcome']}, {row['lost_s']} s lost", flush=True)
    rows = [row for row in ledger.rows if row["verb"] in verbs and row["fault"] in faults]
    cells = {(row["verb"], row["fault"]): f"{row['outcome']} +{row['lost_s']}" for row in rows}
    print_table(["fault", *verbs], [[fault, *(cells.get((verb, fault), "-") for verb in verbs)] for fault in faults])
    wrong = [row for row in rows if not row["is_fine"]]
    print(f"{len(rows) - len(wrong)} of {len(rows)} faults ended with the undisturbed result, or had nothing to strike")
    return 1 if wrong else 0


class Bench:
    """The cluster, the bucket, and the data that all cells begin with."""

    def __init__(self, folder: Path, nodes: Nodes, faults: Faults, steps: int):
        self.folder, self.nodes, self.faults = folder, nodes, faults
        self._whole: dict[str, tuple[dict[str, Any], float]] = {}
        world, index, prepared, run = (str(folder / name) for name in ("world", "index.parquet", "prepared", "run"))
        settings = [f"data.prepared={prepared}", f"train.steps={steps}", *_SETTINGS]
        sets = [word for setting in settings for word in ("--set", setting)]
        self.verbs = {
            "world": Verb(
                lambda out: ["world", "--preset", "tiny", "--out", out],
                lambda out: len(list(Path(out).rglob("*.bin"))) > 1,
                lambda out: _bytes(out, "maps"),
            ),
            "prepare": Verb(
                lambda out: ["prepare", index, "--out", out, "--masks", "slic", "--actors", "2:2"],
                lambda out: any("/shard-" in name for name in _names(f"{out}/layers") or _names(out)),
                _shards,
                process="Worker",
            ),
            "train": Verb(
                lambda out: ["train", "demo", *sets, "--run", out],
                lambda out: '"step": 12,' in _text(f"{out}/metrics.jsonl"),
                _metrics,
                process="RayTrainWorker",
            ),
            "evaluate": Verb(
                lambda out: ["evaluate", out, "--split", "train"],
                lambda out: bool(descendants(nodes.pid, "Map")) or any("evaluation" in name for name in _names(out)),
                lambda out: {name: value for name, value in _bytes(out).items() if "evaluation" in name},
                begin_with=run,
            ),
            "predict": Verb(
                lambda out: ["predict", out, "--prepared", prepared, "--split", "train", "--out", f"{out}/labels"],
                lambda out: any(name.endswith(".label") for name in _names(out)),
                lambda out: {name: value for name, value in _bytes(out).items() if name.endswith(".label")},
                begin_with=run,
            ),
        }
        for words in (
            self.verbs["world"].words(world),
            ["index", "nuscenes", world, "--out", index],
            self.verbs["prepare"].words(prepared),
            self.verbs["train"].words(run),
        ):
            self._ended(self._begun(words), words)

    def cell(self, verb: str, fault: str) -> Row:
        """Strikes one verb with one fault."""
        if (nothing := _NOTHING_THERE.get((verb, fault))) is not None:
            return {"outcome": nothing, "lost_s": 0, "commands": 0, "is_fine": True}
        if self.nodes.left < 3:
            self.nodes.restart()
        wanted, took_s = self._undisturbed(verb, on_s3=fault == "storage outage")
        with self._place(verb, fault) as out:
            began, words = time.monotonic(), self.verbs[verb].words(out)
            process = self._begun(words)
            while not self.verbs[verb].began(out) and process.poll() is None:
                time.sleep(0.02)
            struck = process.poll() is None and self._strike(fault, verb, out, process)
            said, commands = self._waited(process), 1
            while process.returncode and commands < _ATTEMPTS:
                self._heal(fault, out)
                process, commands = self._begun(words), commands + 1
                said += self._waited(process)
            lost_s = round(time.monotonic() - began - took_s, 1)
            is_same = process.returncode == 0 and self.verbs[verb].left(out) == wanted
            if fault == "damaged checkpoint" and verb != "train":
                is_same = process.returncode == 0 and "the one before is taken" in said
        outcome = ("same" if is_same else "OTHER") if process.returncode == 0 else "ENDS"
        outcome = outcome if struck else "TOO LATE"
        how = "by itself" if commands == 1 else f"{commands} commands"
        words_said = "" if is_same else said[-2000:]
        return {
            "outcome": f"{outcome}, {how}",
            "lost_s": lost_s,
            "commands": commands,
            "undisturbed_s": round(took_s, 1),
            "is_fine": is_same and struck,
            "said": words_said,
        }

    def _undisturbed(self, verb: str, on_s3: bool) -> tuple[dict[str, Any], float]:
        name = f"{verb}-s3" if on_s3 else verb
        if name not in self._whole:
            out = f"s3://faults/whole/{verb}" if on_s3 else str(self.folder / "whole" / verb)
            self._fill(verb, out)
            began, words = time.monotonic(), self.verbs[verb].words(out)
            self._ended(self._begun(words), words)
            self._whole[name] = self.verbs[verb].left(out), time.monotonic() - began
        return self._whole[name]

    @contextmanager
    def _place(self, verb: str, fault: str) -> Iterator[str]:
        """Where the verb writes; a small disk that is full but for a few blocks, a bucket, or a folder."""
        name = f"{verb}-{fault.replace(' ', '-')}"
        out = f"s3://faults/cells/{name}" if fault == "storage outage" else str(self.folder / "cells" / name)
        disk = Path(out) if fault == "full disk" else None
        if disk:
            disk.mkdir(parents=True)
            subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(disk)], check=True)
        try:
            out = f"{out}/out" if disk else out
            self._fill(verb, out)
            yield out
        finally:
            if disk:
                subprocess.run(["umount", "-l", str(disk)], check=True)
            elif fault != "storage outage":
                shutil.rmtree(out, ignore_errors=True)

    def _fill(self, verb: str, out: str) -> None:
        source = self.verbs[verb].begin_with
        for path in (p for p in Path(source).rglob("*") if source and p.is_file()):
            storage.write_bytes(storage.join(out, *path.relative_to(source).parts), path.read_bytes())

    def _begun(self, words: Sequence[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "ray_lidarseg.cli", *words]
        with open(self.folder / "said.txt", "w") as said:  # a pipe that nobody reads would stop it
            return subprocess.Popen(
                command, env=self.nodes.environment, stdout=said, stderr=subprocess.STDOUT, text=True
            )

    def _waited(self, process: subprocess.Popen[str]) -> str:
        try:
            process.wait(timeout=_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        return (self.folder / "said.txt").read_text()

    def _ended(self, process: subprocess.Popen[str], words: Sequence[str]) -> None:
        said = self._waited(process)
        if process.returncode:
            raise RuntimeError(f"undisturbed `{' '.join(words)}` ended with status {process.returncode}:\n{said}")

    def _strike(self, fault: str, verb: str, out: str, process: subprocess.Popen[str]) -> bool:
        """Does the harm; whether there was something to harm."""
        if fault == "worker":
            busy = [pid for pid in descendants(self.nodes.pid, self.verbs[verb].process) if not _is_idle(pid)]
            for pid in random.Random(0).sample(busy, min(1, len(busy))):
                os.kill(pid, signal.SIGKILL)
            return bool(busy)
        if fault == "node":
            return self.nodes.kill(self.verbs[verb].process) > 0
        if fault == "head":
            self.nodes.restart()
        elif fault == "storage outage":
            self.faults.is_down = True
            time.sleep(_OUTAGE_S)
            self.faults.is_down = False
        elif fault == "full disk":
            _fill_disk(Path(out).parent)
        else:
            process.kill()
            process.wait()
        if fault == "torn file":
            newest = max(_results(out), key=lambda path: path.stat().st_mtime_ns)
            newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
        elif fault == "damaged checkpoint":
            state = max(Path(out).glob("checkpoints/step_*/state.pt"))
            content = bytearray(state.read_bytes())
            content[len(content) // 2] ^= 1
            state.write_bytes(content)
        return True

    def _heal(self, fault: str, out: str) -> None:
        if fault == "full disk":
            (Path(out).parent / "ballast").unlink(missing_ok=True)
        elif fault == "node" and self.nodes.left < 2:
            self.nodes.restart()


@contextmanager
def _bench(steps: int) -> Iterator[Bench]:
    faults = Faults()
    with tempfile.TemporaryDirectory() as folder, s3_server(faults) as endpoint:
        os.environ.update(variables(endpoint))  # before the nodes begin, for a cluster has credentials of its own
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/faults", method="PUT")).close()
        with nodes_of(3) as nodes:
            yield Bench(Path(folder), nodes, faults, steps)


def _names(out: str) -> list[str]:
    if storage.is_local(out):
        return [str(path) for path in Path(out).rglob("*") if path.is_file()]
    found = storage.list_files(out)
    return [*found, *(name for folder in storage.list_folders(out) for name in _names(folder))]


def _text(uri: str) -> str:
    return storage.read_bytes(uri).decode(errors="replace") if storage.exists(uri) else ""


def _bytes(out: str, *without: str) -> dict[str, Any]:
    """Digests of files by their names in a folder."""
    names = (name for name in sorted(_names(out)) if not any(word in name for word in ("in-use", *without)))
    return {name.removeprefix(out): hashlib.sha256(storage.read_bytes(name)).hexdigest() for name in names}


def _shards(out: str) -> dict[str, Any]:
    """Rows by frame, of the decoded frames and of every layer: which frames share a shard may differ."""
    rows: dict[str, Any] = {}
    for name in (name for name in _names(out) if "/shard-" in name and ".unfinished" not in name):
        filesystem, path = storage.resolve(name)
        for row in pq.read_table(path, filesystem=filesystem).to_pylist():
            rows[f"{name.rpartition('/')[0].removeprefix(out)}/{row['frame_id']}"] = repr(row)
    return rows


def _metrics(out: str) -> dict[str, Any]:
    lines = [json.loads(line) for line in _text(f"{out}/metrics.jsonl").splitlines()]
    return {"lines": [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]}


def _results(out: str) -> list[Path]:
    return [Path(name) for name in _names(out) if not Path(name).name.startswith((".", "in-use"))]


def _fill_disk(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def _is_idle(pid: int) -> bool:
    """Whether a process is none that works for a verb: one of Ray's own, or one that waits."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return any(word in title for word in (b"IDLE", b"ray::_", b"Controller"))


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--verbs", nargs="*", default=list(VERBS), choices=VERBS)
    flags.add_argument("--faults", nargs="*", default=list(FAULTS), choices=FAULTS)
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
