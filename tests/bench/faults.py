"""What a fault costs each verb: faults x verbs, each cell one real command on a cluster of four nodes, struck at work.

`python -m tests.bench.faults [--verbs …] [--faults …] [--folder FOLDER] [--json FILE] [--quick]`

A cell runs the verb's command, strikes once its first results are there, waits for its end, and gives the same command
again (at most twice) where it ended with an error or was killed. Afterwards what it left is compared with what an
undisturbed command left: for `train` every logged number, for `sweep` those of every trial, none of them lost or
trained twice, for `predict` and `world` every byte, for `prepare` every row, for `evaluate` every count; with a damaged
checkpoint `evaluate` and `predict` must say so and take the one before, or refuse to add its predictions to those of
the damaged one. Seconds lost are those of all commands beyond those of the undisturbed one.

Linux; a full disk is a small tmpfs, which root may mount. Rows of the JSON file are not measured again. Fails (rc 1)
where a cell ends with another result, or with none. `--quick`: killed worker and driver of `train` on few steps.
"""

import argparse
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
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ray_lidarseg import storage
from ray_lidarseg.training.run_folder import RunFolder
from tests.bench.fault_verbs import VERBS, difference, names, text, verbs_in
from tests.bench.ledger import Ledger, Row, parser, print_table
from tests.ray.nodes import Nodes, nodes_of
from tests.ray.processes import descendants
from tests.storage.s3_server import Faults, s3_server, variables

FAULTS = ("worker", "node", "driver", "head", "storage outage", "full disk", "torn file", "damaged checkpoint")
_NOTHING_THERE = {
    **{(verb, "damaged checkpoint"): "reads none" for verb in ("world", "prepare")},
    ("world", "storage outage"): "local only",
}
_OTHER_IS_TAKEN, _OTHER_THERE = "the one before is taken", "holds other predictions"
_REFUSED = "refused"
"""To add the predictions of one model to those of another: the folder stays as it is, and the error names it."""
_OUTAGE_S, _LIMIT_S, _ATTEMPTS = 6.0, 240.0, 3
_LOOK_S = 0.1  # looking oftener takes from the command what it is measured with


def main() -> int:
    args = _arguments()
    ledger, verbs = Ledger(args.json), ("train",) if args.quick else tuple(args.verbs)
    faults = ("worker", "driver") if args.quick else tuple(args.faults)
    with ExitStack() as stack:
        bench = stack.enter_context(_bench(args.folder, steps=30 if args.quick else 60))
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
        self.verbs = verbs_in(folder, nodes.pid, steps)
        self._whole: dict[str, tuple[dict[str, Any], float]] = {}
        self._seconds = folder / "undisturbed.json"
        world, index = str(folder / "world"), str(folder / "index.parquet")
        self._run_undisturbed("world", world)
        if not Path(index).exists():
            self._ended(["index", "nuscenes", world, "--out", index])
        self._run_undisturbed("prepare", str(folder / "prepared"))
        self._run_undisturbed("train", str(folder / "run"))

    def cell(self, verb: str, fault: str) -> Row:
        """Strikes one verb with one fault."""
        if (nothing := _NOTHING_THERE.get((verb, fault))) is not None:
            return {"outcome": nothing, "lost_s": 0, "commands": 0, "is_fine": True}
        self.nodes.fill()
        wanted, took_s = self._undisturbed(verb, on_s3=fault == "storage outage")
        with self._place(verb, fault) as out:
            began = time.monotonic()
            try:
                outcome, commands, said = self._struck(verb, fault, out, wanted)
            except subprocess.TimeoutExpired:
                outcome, commands, said = "HANGS", 0, self._said()
                self.nodes.restart()
            lost_s = round(time.monotonic() - began - took_s, 1)
        is_fine, how = outcome in ("same", _REFUSED), "by itself" if commands == 1 else f"{commands} commands"
        return {
            "outcome": f"{outcome}, {how}" if commands else outcome,
            "lost_s": lost_s,
            "commands": commands,
            "undisturbed_s": round(took_s, 1),
            "is_fine": is_fine,
            "said": "" if is_fine else said[-2000:],
        }

    def _struck(self, verb: str, fault: str, out: str, wanted: dict[str, Any]) -> tuple[str, int, str]:
        """The outcome, how many commands it took, and what they said.

        Raises:
            subprocess.TimeoutExpired: A command does not end.
        """
        told = self.verbs[verb]
        process = self._begun(told.words(out))
        while not told.began(out) and process.poll() is None:
            time.sleep(_LOOK_S)
        done, was_struck = told.done(out), False
        for _ in _looks(process):  # between two stages nobody works
            if process.poll() is not None or (was_struck := self._strike(fault, verb, out, process)):
                break
        said, commands = self._waited(process), 1
        while process.returncode and commands < _ATTEMPTS:
            self._heal(fault, out)
            process, commands = self._begun(told.words(out)), commands + 1
            said += self._waited(process)
        if not was_struck:
            return "TOO LATE", commands, said
        if fault == "damaged checkpoint" and told.begin_with and _OTHER_IS_TAKEN in said:
            return "same" if not process.returncode else _REFUSED if _OTHER_THERE in said else "ENDS", commands, said
        if process.returncode:
            return "ENDS", commands, said
        other = difference(wanted, told.left(out)) or difference(done, _of(told.done(out), done))
        return "OTHER" if other else "same", commands, said + other

    def _undisturbed(self, verb: str, on_s3: bool) -> tuple[dict[str, Any], float]:
        name = f"{verb}-s3" if on_s3 else verb
        if name not in self._whole:
            out = f"s3://faults/whole/{verb}" if on_s3 else self._whole_folder(verb)
            if not storage.exists(out):
                self._fill(verb, out)
            self._run_undisturbed(verb, out, name)
        return self._whole[name]

    def _whole_folder(self, verb: str) -> str:
        return str(self.folder / "whole" / verb)

    def _run_undisturbed(self, verb: str, out: str, name: str = "") -> None:
        """Runs a verb, or takes what it left in the folder when the bench was run before."""
        seconds, name = json.loads(text(str(self._seconds)) or "{}"), name or verb
        if name not in seconds or not storage.is_local(out):
            began = time.monotonic()
            self._ended(self.verbs[verb].words(out))
            seconds[name] = time.monotonic() - began
            self._seconds.write_text(json.dumps(seconds))
        self._whole[name] = self.verbs[verb].left(out), seconds[name]

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
        finally:
            process.kill()
            process.wait()
        return self._said()

    def _said(self) -> str:
        return (self.folder / "said.txt").read_text()

    def _ended(self, words: Sequence[str]) -> None:
        process = self._begun(words)
        said = self._waited(process)
        if process.returncode:
            raise RuntimeError(f"undisturbed `{' '.join(words)}` ended with status {process.returncode}:\n{said}")

    def _strike(self, fault: str, verb: str, out: str, process: subprocess.Popen[str]) -> bool:
        """Does the harm; whether there was something to harm."""
        if fault == "worker":
            busy = self._busy(verb)
            with suppress(ProcessLookupError):  # it has ended since it was seen: there is another one later
                for pid in random.Random(0).sample(busy, min(1, len(busy))):
                    os.kill(pid, signal.SIGKILL)
                return bool(busy)
            return False
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
            for _ in _looks(process):  # what they write yet would take the harm away again
                if fault == "driver" or not self._busy(verb):
                    break
        if fault == "torn file":
            torn = self._newest(verb, out)
            torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
        return fault != "damaged checkpoint" or _flip_a_bit(out, is_over=bool(self.verbs[verb].begin_with))

    def _busy(self, verb: str) -> list[int]:
        return [pid for pid in descendants(self.nodes.pid, self.verbs[verb].process) if not _is_idle(pid)]

    def _newest(self, verb: str, out: str) -> Path:
        """The newest file that the verb wrote; `evaluate` writes but one, at its end: then that of an earlier one."""
        source = self.verbs[verb].begin_with
        given = {name.removeprefix(source) for name in (names(source) if source else ())}
        mine = [path for path in _results(out) if str(path).removeprefix(out) not in given]
        if mine:
            return max(mine, key=lambda path: path.stat().st_mtime_ns)
        whole = self._whole_folder(verb)
        earlier = next(name for name in names(whole) if "evaluation" in name)
        storage.write_bytes(out + earlier.removeprefix(whole), Path(earlier).read_bytes())
        return Path(out + earlier.removeprefix(whole))

    def _heal(self, fault: str, out: str) -> None:
        if fault == "full disk":
            (Path(out).parent / "ballast").unlink(missing_ok=True)
        elif fault == "node" and self.nodes.left < 2:
            self.nodes.fill()


@contextmanager
def _bench(folder: Path | None, steps: int) -> Iterator[Bench]:
    faults = Faults()
    with ExitStack() as stack, s3_server(faults) as endpoint:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        shutil.rmtree(place / "cells", ignore_errors=True)
        os.environ.update(variables(endpoint))  # before the nodes begin, for a cluster has credentials of its own
        urllib.request.urlopen(urllib.request.Request(f"{endpoint}/faults", method="PUT")).close()
        with nodes_of(3) as nodes:
            yield Bench(place, nodes, faults, steps)


def _looks(process: subprocess.Popen[str]) -> Iterator[None]:
    """Now and then, until it takes too long.

    Raises:
        subprocess.TimeoutExpired: It does.
    """
    deadline_s = time.monotonic() + _LIMIT_S
    while time.monotonic() < deadline_s:
        yield
        time.sleep(_LOOK_S)
    raise subprocess.TimeoutExpired(process.args, _LIMIT_S)


def _of(found: dict[str, str], those: Iterable[str]) -> dict[str, str | None]:
    return {name: found.get(name) for name in those}


def _results(out: str) -> list[Path]:
    return [Path(name) for name in names(out) if not Path(name).name.startswith((".", "in-use"))]


def _flip_a_bit(out: str, is_over: bool) -> bool:
    """In the newest checkpoint below a folder, of a run that is over or of one that is not; whether there is one."""
    states = Path(out).glob("**/checkpoints/step_*/state.pt")
    mine = [path for path in states if RunFolder(str(path.parents[2])).is_finished() == is_over]
    if not mine:
        return False
    state = max(mine, key=lambda path: (path.parent.name, path.stat().st_mtime_ns))
    content = bytearray(state.read_bytes())
    content[len(content) // 2] ^= 1
    state.write_bytes(content)
    return True


def _fill_disk(disk: Path) -> None:
    with open(disk / "ballast", "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def _is_idle(pid: int) -> bool:
    """Whether a process is gone or waits for work, or only controls what others do."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True
    return any(word in title for word in (b"IDLE", b"Controller"))


def _arguments() -> argparse.Namespace:
    flags = parser(__doc__.splitlines()[0])
    flags.add_argument("--verbs", nargs="*", default=list(VERBS), choices=VERBS)
    flags.add_argument("--faults", nargs="*", default=list(FAULTS), choices=FAULTS)
    flags.add_argument("--folder", type=Path, help="for what all cells begin with, kept; what is there is used again")
    return flags.parse_args()


if __name__ == "__main__":
    sys.exit(main())
