"""What a stage has done so far: counts, reasons of failure, and the file that keeps the reasons."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ray_lidarseg import storage
from ray_lidarseg.errors import DataError, StorageError, reason
from ray_lidarseg.recipe.text_files import read_json, read_text, require

FAILURES_NAME = "failures.jsonl"
NOT_WRITTEN = "cannot write its shard: "
"""What the reason of a frame begins with that is not the frame's fault: the storage's."""
NUM_RETRIES = 2  # of a task whose process died; Ray Data's own default is to try for ever
_NAMED_FAILURES = 5


@dataclass(frozen=True)
class Result:
    """What came of one frame.

    Attributes:
        frame_id: The frame.
        error: Why it failed; empty where it did not.
        num_nonfinite: Points with a NaN or an infinity.
        num_bytes: Its share of the shard written.
        seconds: Its share of the worker's time.
        model_seconds: Of these, inside the teacher.
    """

    frame_id: str
    error: str = ""
    num_nonfinite: int = 0
    num_bytes: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0


@dataclass
class Spent:
    """What frames cost, all workers together.

    Attributes:
        frames: How many.
        seconds: Of workers.
        model_seconds: Of these, inside the teacher.
        slowest_seconds: Of the slowest frame: the first of a worker, which warms up.
        num_bytes: Written.
    """

    frames: int = 0
    seconds: float = 0.0
    model_seconds: float = 0.0
    slowest_seconds: float = 0.0
    num_bytes: int = 0

    def add(self, result: Result) -> None:
        """Counts one frame.

        Raises:
            StorageError: Its shard could not be written: no share of the frames may fail by that.
        """
        self.frames += 1
        self.seconds += result.seconds
        self.model_seconds += result.model_seconds
        self.slowest_seconds = max(self.slowest_seconds, result.seconds)
        self.num_bytes += result.num_bytes

    @property
    def seconds_per_frame(self) -> float:
        """Of one warm worker: the slowest frame is left out where there are others."""
        if self.frames < 2:
            return self.seconds
        return (self.seconds - self.slowest_seconds) / (self.frames - 1)

    @property
    def bytes_per_frame(self) -> float:
        """On disk."""
        return self.num_bytes / max(1, self.frames)

    @property
    def model_ratio(self) -> float:
        """Share of the workers' time inside the teacher."""
        return self.model_seconds / self.seconds if self.seconds else 0.0


@dataclass
class Progress:
    """Counts while a stage runs.

    Attributes:
        folder: URI of the stage's files.
        total: Frames that the stage is about, finished ones among them.
        limit: Share of ``total`` that may fail.
        waiting: Frames no result came for yet.
        earlier: Reasons of earlier runs, by frame; kept until the frame is tried again.
        describe: Further columns of a frame's line in ``failures.jsonl``.
    """

    folder: str
    total: int
    limit: float
    waiting: set[str]
    earlier: dict[str, str] = field(default_factory=dict)
    describe: Callable[[str], Mapping[str, str]] = lambda frame_id: {}
    done: int = 0
    nonfinite_points: int = 0
    spent: Spent = field(default_factory=Spent)
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, result: Result) -> None:
        """Counts one frame."""
        self.waiting.discard(result.frame_id)
        self.earlier.pop(result.frame_id, None)
        self.spent.add(result)
        if result.error:
            self.failures[result.frame_id] = result.error
            if result.error.startswith(NOT_WRITTEN):
                raise StorageError(result.error.removeprefix(NOT_WRITTEN))
        else:
            self.done += 1
            self.nonfinite_points += result.num_nonfinite

    def add_finished(self, frame_ids: Iterable[str]) -> None:
        """Counts frames as done whose shard is there although their results got lost with a process."""
        for frame_id in self.waiting & set(frame_ids):
            self.add(Result(frame_id))

    def give_up_waiting(self) -> None:
        """Frames that are still waiting took their process with them each time."""
        for frame_id in sorted(self.waiting):
            self.add(Result(frame_id, f"its worker process died {NUM_RETRIES + 1} times (out of memory?)"))
        self.stop_if_too_many_failed()

    @property
    def too_many_failed(self) -> bool:
        """Whether more than the share that may fail did, in this call."""
        return len(self.failures) > self.limit * self.total + 1e-9

    def stop_if_too_many_failed(self) -> None:
        """Ends the job where going on makes no sense.

        Raises:
            DataError: See above; the first reasons are named.
        """
        if not self.too_many_failed:
            return
        failed, total = len(self.failures), self.total
        enough = math.ceil(100 * failed / total) / 100
        first = [f"  {frame_id}: {why}" for frame_id, why in list(self.failures.items())[:_NAMED_FAILURES]]
        raise DataError(
            "\n".join(
                [
                    f"{failed} of {total} frames cannot be prepared, more than the share {self.limit:g} that may fail. "
                    "The first:",
                    *first,
                    f"All so far: {storage.join(self.folder, FAILURES_NAME)}. Finished shards stay; repair the files "
                    "and give the same command again, or go on without these frames with --max-failed-ratio "
                    f"{enough:g} or more.",
                ]
            )
        )

    def write_failures(self) -> None:
        """Writes ``failures.jsonl``: the reasons of this call, and earlier ones of frames not tried again yet."""
        reasons = {**self.earlier, **self.failures}
        lines = (
            json.dumps({"frame_id": name, **self.describe(name), "reason": why}) + "\n" for name, why in reasons.items()
        )
        storage.write_bytes(storage.join(self.folder, FAILURES_NAME), "".join(lines).encode())


def not_made(error: Exception) -> str:
    """The reason of frames that worked, but whose shard could not be made of them, or not be written."""
    begins = NOT_WRITTEN if isinstance(error, StorageError) else "cannot make its shard: "
    return f"{begins}{reason(error)}"


def read_failures(folder: str, finished: Iterable[str] = ()) -> dict[str, str]:
    """Reasons by frame of a stage's folder, in the order they came; frames that are finished since are left out."""
    uri = storage.join(folder, FAILURES_NAME)
    if not storage.exists(uri):
        return {}
    where = f"{uri}, the list of failures (delete it)"
    lines = [line for line in read_text(storage.read_bytes(uri), where, StorageError).splitlines() if line.strip()]
    entries = [read_json(line, where, StorageError) for line in lines]
    for entry in entries:
        require(entry, {"frame_id": str, "reason": str}, where, StorageError)
    reasons = {entry["frame_id"]: entry["reason"] for entry in entries}
    return {name: why for name, why in reasons.items() if name not in set(finished)}
