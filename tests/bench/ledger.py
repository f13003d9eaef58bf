"""What every benchmark shares: where it ran, rows in a JSON file that are not measured twice, and a printed table."""

import argparse
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def parser(about: str) -> argparse.ArgumentParser:
    """The flags every benchmark has."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    made.add_argument("--json", type=Path, default=None, help="file of rows; rows already in it are not measured again")
    made.add_argument("--quick", action="store_true", help="within a minute: fewer sizes and repetitions")
    return made


def provenance() -> Row:
    """Commit and hardware, for every row."""
    return {"commit": commit(), "hardware": hardware()}


def commit() -> str:
    """Short hash of HEAD, with ``+`` where the tree differs from it."""
    run = lambda *args: subprocess.run(["git", *args], capture_output=True, text=True).stdout.strip()  # noqa: E731
    changed = "+" if run("status", "--porcelain", "--untracked-files=no") else ""
    return (run("rev-parse", "--short", "HEAD") or "no git") + changed


def hardware() -> str:
    """CPU model, cores, memory and GPUs in words."""
    import torch

    model = platform.processor() or "CPU"
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return ", ".join([f"{model}, {os.cpu_count()} cores, {memory_gib:.0f} GiB", *(gpus or ["no GPU"])])


def measured_by(rows: Iterable[Row]) -> str:
    """All commits and all machines that rows come from: a table may grow over several of both."""
    every = list(rows)
    commits, machines = (sorted({row[name] for row in every}) for name in ("commit", "hardware"))
    return f"{', '.join(commits)}; {'; '.join(machines)}"


class Ledger:
    """Rows by key, written to a file after each one so that a stopped benchmark goes on where it was."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.rows: list[Row] = json.loads(file.read_text()) if file and file.exists() else []

    def find(self, key: Row) -> Row | None:
        """The row of this key as it stands in the file."""
        return next((row for row in self.rows if all(row.get(name) == value for name, value in key.items())), None)

    def measure(self, key: Row, work: Callable[[], Row]) -> Row:
        """The row of this key: as it stands in the file, or measured now."""
        if (known := self.find(key)) is not None:
            return known
        row = {**key, **work(), **provenance()}
        self.rows.append(row)
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            self.file.write_text(json.dumps(self.rows, indent=1) + "\n")
        return row


def closing(problems: Sequence[str], figures: str) -> int:
    """Prints what does not hold, then the figures and the verdict as the last line; the exit status."""
    for problem in problems:
        print(problem)
    print(f"{figures}: {'FAILED' if problems else 'ok'}")
    return int(bool(problems))


def print_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Columns as wide as their content, numbers to the right."""
    lines = [[str(cell) for cell in line] for line in (header, *rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    for line in lines:
        print(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
        )
