"""Two ways to label the same scans: the verb with a fixed number of actors, and a plain loop.

`python -m tests.bench.predicting verb|loop ACTORS RUN INDEX OUT`

The loop calls the package's own functions to decode, label and write, as many scans at once as the verb's groups hold;
beside several actors there are as many loops, processes that share out the groups.
"""

import functools
import multiprocessing
import sys
from pathlib import Path

import pyarrow.parquet as pq
import torch

from ray_lidarseg import storage
from ray_lidarseg.datasets.decode import decode
from ray_lidarseg.datasets.entries import dataset_of
from ray_lidarseg.datasets.sensor import resolve_sensor
from ray_lidarseg.datasets.submission import confidence_bytes, confidence_path, label_bytes, label_path
from ray_lidarseg.models.inference import label_frames
from ray_lidarseg.predict import predict
from ray_lidarseg.runtime import pool
from ray_lidarseg.sample import Keyframe
from ray_lidarseg.training.run_folder import load_method

SPLIT = "val"


def by_loops(run: str, index: str, out: str, count: int) -> None:
    """Every scan of the index, by so many processes that share out the groups.

    Raises:
        RuntimeError: One of them failed.
    """
    spawn = multiprocessing.get_context("spawn")
    loops = [spawn.Process(target=by_loop, args=(run, index, out, part, count)) for part in range(count)]
    for loop in loops:
        loop.start()
    for loop in loops:
        loop.join()
    if any(loop.exitcode for loop in loops):
        raise RuntimeError(f"loops ended with {[loop.exitcode for loop in loops]}")


def by_loop(run: str, index: str, out: str, part: int = 0, parts: int = 1) -> None:
    """One group after the other in this process: every scan of the index, or one of ``parts`` shares of its groups."""
    torch.set_num_threads(1)
    method, recipe, _ = load_method(run)
    sensor, group, taxonomy = resolve_sensor(recipe.data), recipe.train.evaluate_batch, dataset_of(recipe.data).taxonomy
    rows = pq.read_table(index, columns=["frame_id", "points_uri", "dataset"]).to_pylist()
    for first in range(part * group, len(rows), parts * group):
        chosen = rows[first : first + group]
        frames = [decode(Keyframe(row["frame_id"], row["dataset"], "", "", 0, row["points_uri"])) for row in chosen]
        for frame, scan in zip(frames, label_frames(method.deployed_model, frames, sensor), strict=True):
            file = storage.join(out, label_path(frame.frame_id, "lidarseg", SPLIT))
            storage.write_bytes(confidence_path(file), confidence_bytes(scan.confidence))
            storage.write_bytes(file, label_bytes(scan.labels, taxonomy, "lidarseg"))


def by_verb(run: str, index: str, out: str, actors: int) -> None:
    """The same by `predict`, which takes all the CPUs there are unless it is told otherwise, as here."""
    pool.stream = functools.partial(pool.stream, actors=pool.Actors(actors, actors))
    predict(run, out, index=index, split=SPLIT, file_format="lidarseg")


def main() -> None:
    way, actors, *places = sys.argv[1:]
    run, index, out = (str(Path(place).resolve()) for place in places)
    if way == "verb":
        by_verb(run, index, out, int(actors))
    elif int(actors) > 1:
        by_loops(run, index, out, int(actors))
    else:
        by_loop(run, index, out)


if __name__ == "__main__":
    main()
