"""A pool of actors that each load a model once, fed with small groups of rows by Ray Data.

Only rows travel: which frame to read, and what came out. Points go from file to model inside an actor.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from ray_lidarseg.runtime.cluster import num_gpus, worker_environment

_RETRIES = 2  # of a group whose process died; a scan that kills it every time must not loop for ever


def stream(rows: Sequence[Mapping[str, Any]], worker: type, arguments: Mapping[str, Any], group: int) -> Iterator[dict]:
    """Result rows of a pool of ``worker`` actors over ``rows``, in any order, as they come; Ray must be connected.

    A group whose process keeps dying gives no result: the caller sees which rows are missing.

    Args:
        rows: Flat rows, all with the same columns.
        worker: ``worker(**arguments)`` loads the model; called with an Arrow table of ``group`` rows it returns an
            Arrow table of results and never raises.
        arguments: See above; small and picklable.
        group: Rows in one call.
    """
    if not rows:
        return
    num_groups = -(-len(rows) // group)
    with quiet_data():
        for batch in _mapped(rows, worker, arguments, num_groups).iter_batches(batch_size=None, batch_format="pyarrow"):
            yield from batch.to_pylist()


def _mapped(rows: Sequence[Mapping[str, Any]], worker: type, arguments: Mapping[str, Any], num_groups: int) -> Any:
    import ray

    return ray.data.from_items(list(rows), override_num_blocks=num_groups).map_batches(
        worker,
        fn_constructor_kwargs=dict(arguments),
        batch_size=None,
        batch_format="pyarrow",
        # One group at a time in an actor: a group that kills it must not use up the retries of others that wait there.
        compute=ray.data.ActorPoolStrategy(
            min_size=1, max_size=min(num_groups, _most_actors()), max_tasks_in_flight_per_actor=1
        ),
        num_cpus=1,
        num_gpus=1 if num_gpus() else 0,
        runtime_env={"env_vars": worker_environment()},
        max_task_retries=_RETRIES,
    )


def own_device() -> torch.device:
    """The device of the actor that asks; on a CPU it keeps to one thread, for its core is all that Ray gave it."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    torch.set_num_threads(1)
    return torch.device("cpu")


def _most_actors() -> int:
    import ray

    return max(1, int(num_gpus() or ray.cluster_resources().get("CPU", 1)))


@contextmanager
def quiet_data() -> Iterator[None]:
    """The caller's progress bar instead of Ray's; a block whose process keeps dying is left out, not fatal."""
    import ray

    context = ray.data.DataContext.get_current()
    logger = logging.getLogger("ray.data")
    before = context.enable_progress_bars, context.max_errored_blocks, logger.level
    context.enable_progress_bars, context.max_errored_blocks = False, -1
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*ray_remote_args")  # Ray 2.60 has no other door for retries
            yield
    finally:
        context.enable_progress_bars, context.max_errored_blocks = before[:2]
        logger.setLevel(before[2])
